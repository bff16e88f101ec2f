package aws_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

// odd is EC2 with answers that the imitation does not give by itself.
type odd struct {
	provider.EC2
	refuse    string // code for each override of a fleet; "": none
	protected string // instance that may not be terminated
}

func (o *odd) CreateFleet(ctx context.Context, in *ec2.CreateFleetInput, f ...func(*ec2.Options)) (*ec2.CreateFleetOutput, error) {
	if o.refuse == "" {
		return o.EC2.CreateFleet(ctx, in, f...)
	}
	out := &ec2.CreateFleetOutput{}
	for _, c := range in.LaunchTemplateConfigs {
		for _, x := range c.Overrides {
			out.Errors = append(out.Errors, types.CreateFleetError{
				ErrorCode: &o.refuse, ErrorMessage: new("No."), Lifecycle: types.InstanceLifecycleSpot,
				LaunchTemplateAndOverrides: &types.LaunchTemplateAndOverridesResponse{Overrides: &types.FleetLaunchTemplateOverrides{
					InstanceType: x.InstanceType, AvailabilityZone: x.AvailabilityZone, SubnetId: x.SubnetId,
				}},
			})
		}
	}
	return out, nil
}

func (o *odd) TerminateInstances(ctx context.Context, in *ec2.TerminateInstancesInput, f ...func(*ec2.Options)) (*ec2.TerminateInstancesOutput, error) {
	if o.protected != "" && slices.Contains(in.InstanceIds, o.protected) {
		return nil, &awsfake.Error{Code: "OperationNotPermitted", Message: fmt.Sprintf("The instance '%s' may not be terminated. Modify its 'disableApiTermination' instance attribute and try again.", o.protected)}
	}
	return o.EC2.TerminateInstances(ctx, in, f...)
}

func newOddWorld(t *testing.T) (*world, *odd) {
	w, o := newWorld(t, awsfake.Config{}, nil), &odd{}
	w.restart(func(c *provider.Config) {
		c.Clients = func(a provider.Account, region string) provider.Clients {
			if region != home {
				return provider.Clients{EC2: w.cloud.EC2(a.ID, region)}
			}
			o.EC2 = w.cloud.EC2(a.ID, region)
			return provider.Clients{EC2: o, Quotas: w.cloud.ServiceQuotas(a.ID, region)}
		}
	})
	return w, o
}

// What a market has against one pool's machines is no matter of others.
func TestAMarketRefusesOnePoolAndServesAnother(t *testing.T) {
	for _, code := range []string{"InsufficientFreeAddressesInSubnet", "SpotMaxPriceTooLow", "Unsupported"} {
		t.Run(code, func(t *testing.T) {
			w, o := newOddWorld(t)
			spot := strings.Replace(wide, `"launchConfig"`, `"canUseOndemand": false, "launchConfig"`, 1)
			good := w.makePool("aws/good", spot)
			w.define(spot)
			w.look()
			o.refuse = code
			if started, _ := w.start(5); len(started) != 0 {
				t.Fatalf("started %v", started)
			}
			o.refuse = ""
			plan := w.plan(w.need(5))
			if len(plan.Intents) != 0 || len(plan.Complaints) != 1 || !strings.Contains(plan.Complaints[0].Description, code) || plan.Retry <= w.now() {
				t.Errorf("it is asked for again: %+v", plan)
			}
			bad := w.pool
			w.pool = good
			if started, faults := w.start(5); len(started) != 5 {
				t.Errorf("another pool has %d, %+v", len(started), faults)
			}
			w.pool = bad
			w.clock = plan.Retry.Time()
			w.look()
			if started, faults := w.start(5); len(started) == 0 {
				t.Errorf("later it has none: %+v", faults)
			}
		})
	}
}

// Each class of instance types has a quota of its own.
func TestAQuotaOfOneClassIsNoneOfAnother(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	other := w.makePool("aws/other", plain)
	w.define(strings.Replace(plain, "c7i.xlarge", "g5.xlarge", 1))
	w.look()
	full := true
	w.cloud.Fail(func(c awsfake.Call) error {
		switch {
		case c.Action == "RunInstances" && full:
			return &awsfake.Error{Code: "VcpuLimitExceeded", Message: "You have requested more vCPU capacity than your current vCPU limit of 0 allows."}
		case c.Action == "DescribeInstanceTypeOfferings":
			return &awsfake.Error{Code: "Unavailable"} // the imitation has no machines of this class
		}
		return nil
	})
	if _, faults := w.start(2); len(faults) != 1 || faults[0].Class != fleet.Quota {
		t.Fatalf("%+v", faults)
	}
	full = false
	if plan := w.plan(w.need(2)); len(plan.Intents) != 0 || len(plan.Complaints) != 1 || !strings.Contains(plan.Complaints[0].Description, "vCPU limit") {
		t.Errorf("%+v", plan)
	}
	w.pool = other
	if started, faults := w.start(2); len(started) != 2 {
		t.Errorf("%d started, %+v", len(started), faults)
	}
}

// A refusal that is part of EC2's answer is the answer, also if the one before it
// was lost.
func TestARefusalInsideAnAnswerIsAnAnswer(t *testing.T) {
	w, o := newOddWorld(t)
	w.define(wide)
	w.look()
	o.refuse = "UnauthorizedOperation"
	i := w.plan(w.need(5)).Intents[0]
	i.Attempts = 1
	if a := w.launch(i); a.Again || len(a.Faults) != 1 || a.Faults[0].Class != fleet.Denied {
		t.Errorf("%+v", a)
	}
}

func TestAProtectedInstanceKeepsNoOtherFromBeingEnded(t *testing.T) {
	w, o := newOddWorld(t)
	w.define(plain)
	w.look()
	w.start(5)
	w.pass(2 * time.Minute)
	w.look()
	o.protected = w.refs()[2].WorkerID
	w.stop(fleet.Now, true, w.refs()...)
	if n := w.cloud.Alive(); n != 1 {
		t.Fatalf("%d are alive", n)
	}
	o.protected = ""
	w.pass(3 * time.Minute)
	w.look()
	w.stop(fleet.Now, true, w.refs()...)
	if n := w.cloud.Alive(); n != 0 {
		t.Errorf("%d are alive after the protection was taken off", n)
	}
}

func TestAClockThatIsSetBackHoldsNothingUp(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(plain)
	w.look()
	w.start(900)
	w.stop(fleet.Now, true, w.refs()[:800]...)
	sweeps := w.calls("DescribeInstances")
	later := w.now().Add(10 * time.Hour)
	if _, err := w.p.Look(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Second)
	w.look()
	if n := w.calls("DescribeInstances"); n < sweeps+4 { // of two regions
		t.Errorf("swept %d times", n-sweeps)
	}
	for range 10 { // what had been launched is launched again in time
		w.pass(time.Minute)
		w.look()
		w.start(50)
	}
	if n := len(w.rows); n < 900-800+400 {
		t.Errorf("%d rows", n)
	}
}

// Whoever may look at a preview may not have prices of what does not exist read
// for good.
func TestAPreviewLeavesNothingBehind(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	if specs, err := w.p.Preview(t.Context(), json.RawMessage(strings.Replace(wide, "c7i.xlarge", "aaa.large", 1))); err != nil || len(specs) == 0 {
		t.Fatalf("%v, %v", specs, err)
	}
	w.pass(time.Minute)
	w.look()
	if n := w.calls("DescribeSpotPriceHistory") + w.calls("DescribeInstanceTypeOfferings"); n != 0 {
		t.Errorf("%d calls", n)
	}
}
