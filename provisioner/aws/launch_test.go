package aws_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

var forms = map[string]string{"RunInstances": plain, "CreateFleet": wide}

func each(t *testing.T, f func(t *testing.T, action, config string)) {
	for _, action := range slices.Sorted(maps.Keys(forms)) {
		t.Run(action, func(t *testing.T) { f(t, action, forms[action]) })
	}
}

// once fails the next call of an action.
func (w *world) once(action string, after bool, err error) {
	done := false
	w.cloud.Fail(func(c awsfake.Call) error {
		if c.Action != action || c.After != after || done {
			return nil
		}
		done = true
		return err
	})
}

func TestALostAnswerIsAskedForAgainAndGivesTheSameWorkers(t *testing.T) {
	each(t, func(t *testing.T, action, config string) {
		for what, err := range map[string]error{"lost": awsfake.ErrAnswerLost, "500": &awsfake.Error{Code: "InternalError", Message: "An internal error has occurred"}, "503": &awsfake.Error{Code: "Unavailable"}} {
			for _, restart := range []bool{false, true} {
				t.Run(fmt.Sprint(what, restart), func(t *testing.T) {
					w := newWorld(t, awsfake.Config{Limits: awsfake.Limits{Documented: true}}, nil)
					w.define(config)
					w.look()
					i := w.plan(w.need(5)).Intents[0]
					w.once(action, true, err)
					a := w.launch(i)
					if !a.Again || len(a.Started) != 0 || len(a.Faults) != 0 || a.Retry <= w.now() {
						t.Fatalf("%+v", a)
					}
					if restart {
						w.restart(nil)
						w.look()
					}
					w.clock = a.Retry.Time()
					a = w.launch(i)
					if a.Again || len(a.Started) != 5 {
						t.Fatalf("again: %+v", a)
					}
					if n := w.cloud.Alive(); n != 5 {
						t.Errorf("%d instances", n)
					}
					for s := range w.look().All() {
						if s.IntentID != i.ID || w.rows[s.Ref] == nil {
							t.Errorf("%+v", s)
						}
					}
					if n := w.cloud.Stats().Errors["IdempotentParameterMismatch"]; n > 0 {
						t.Errorf("%d mismatches", n)
					}
				})
			}
		}
	})
}

// A call that is turned away after one whose answer was lost says nothing about
// that one.
func TestARefusalAfterALostAnswerIsNoAnswer(t *testing.T) {
	each(t, func(t *testing.T, action, config string) {
		w := newWorld(t, awsfake.Config{}, nil)
		w.define(config)
		w.look()
		i := w.plan(w.need(2)).Intents[0]
		w.once(action, true, awsfake.ErrAnswerLost)
		a := w.launch(i)
		w.once(action, false, &awsfake.Error{Code: "RequestLimitExceeded"})
		w.clock = a.Retry.Time()
		if a = w.launch(i); !a.Again {
			t.Fatalf("given up: %+v", a)
		}
		w.clock = a.Retry.Time().Add(time.Minute)
		if a = w.launch(i); a.Again || len(a.Started) != 2 {
			t.Fatalf("%+v", a)
		}
	})
}

func TestRefusalsAreClassed(t *testing.T) {
	each(t, func(t *testing.T, action, config string) {
		for code, want := range map[string]fleet.Class{
			"UnauthorizedOperation": fleet.Denied, "AuthFailure": fleet.Denied, "RequestLimitExceeded": fleet.Throttled,
			"InvalidAMIID.NotFound": fleet.Wrong, "InvalidParameterValue": fleet.Wrong, "InvalidSubnetID.NotFound": fleet.Wrong,
			"InsufficientInstanceCapacity": fleet.SoldOut, "VcpuLimitExceeded": fleet.Quota, "MaxSpotInstanceCountExceeded": fleet.Quota,
			"ThisIsNew": fleet.Broken, "IdempotentParameterMismatch": fleet.Broken,
		} {
			w := newWorld(t, awsfake.Config{}, nil)
			w.define(config)
			w.look()
			i := w.plan(w.need(1)).Intents[0]
			w.once(action, false, &awsfake.Error{Code: code, Message: "Said the cloud", Status: 400})
			a := w.launch(i)
			if a.Again || len(a.Faults) != 1 || a.Faults[0].Class != want || !strings.Contains(a.Faults[0].Description, code+": Said the cloud. ") {
				t.Errorf("%s: %+v", code, a)
			}
		}
		w := newWorld(t, awsfake.Config{}, nil)
		w.define(config)
		w.once(action, false, errors.New(`operation error EC2: RunInstances, get identity: get credentials: failed to refresh cached credentials, operation error STS: AssumeRole`))
		if a := w.launch(w.plan(w.need(1)).Intents[0]); a.Again || a.Faults[0].Class != fleet.Denied {
			t.Errorf("credentials: %+v", a)
		}
	})
}

// What is wrong with a pool is said with EC2's words and what to do.
func TestWhatIsWrongIsSaid(t *testing.T) {
	each(t, func(t *testing.T, action, config string) {
		w := newWorld(t, awsfake.Config{}, nil)
		w.define(strings.ReplaceAll(config, "$x86_64", "ami-00000000000000000"))
		w.look()
		_, faults := w.start(2)
		if len(faults) != 1 || faults[0].Class != fleet.Wrong || !strings.Contains(faults[0].Description, "ami-00000000000000000") || !strings.Contains(faults[0].Description, "images are of one region each") {
			t.Errorf("a missing image: %+v", faults)
		}
		w.define(config)
		w.cloud.Deny(account, awsfake.Denial{Action: "ec2:" + action})
		_, faults = w.start(2)
		if len(faults) != 1 || faults[0].Class != fleet.Denied || strings.Contains(faults[0].Description, "Encoded") {
			t.Errorf("a denied role: %+v", faults)
		}
		w.cloud.Permit(account)
		w.restart(func(c *provider.Config) {
			clients := c.Clients
			c.Clients = func(a provider.Account, r string) provider.Clients { x := clients(a, r); x.Quotas = nil; return x }
		})
		w.define(config)
		w.look()
		w.cloud.SetQuotas(awsfake.Quotas{OnDemand: 9, Spot: 9})
		started, faults := w.start(2)
		if len(started) != 2 || len(faults) != 0 {
			t.Fatalf("%+v %+v", started, faults)
		}
		_, faults = w.start(2)
		if len(faults) != 1 || faults[0].Class != fleet.Quota {
			t.Errorf("an exhausted quota: %+v", faults)
		}
		n := w.calls(action)
		if action == "RunInstances" { // there is on demand for the other
			if plan := w.plan(w.need(2)); len(plan.Intents) != 0 || plan.Retry == 0 || len(plan.Complaints) != 1 {
				t.Errorf("after that: %+v", plan)
			}
			if w.calls(action) != n {
				t.Error("the quota was asked again at once")
			}
		}
	})
}

func TestAQuotaThatIsKnownIsNotRunInto(t *testing.T) {
	w := newWorld(t, awsfake.Config{Quotas: awsfake.Quotas{OnDemand: 41}}, nil)
	w.define(plain)
	w.look() // learns of no market yet
	started, _ := w.start(4)
	w.pass(time.Minute)
	w.look()
	more, _ := w.start(6)
	if len(started)+len(more) != 10 {
		t.Errorf("%d + %d started", len(started), len(more))
	}
	plan := w.plan(w.need(50))
	if len(plan.Intents) != 0 || len(plan.Complaints) != 1 || plan.Complaints[0].Kind != fleet.KindQuota || plan.Retry == 0 {
		t.Errorf("%+v", plan)
	}
	if n := w.cloud.Stats().Failed["ec2:RunInstances"]; n > 0 {
		t.Errorf("%d calls failed", n)
	}
	refs := w.refs()
	w.stop(fleet.Now, false, refs...)
	w.pass(time.Minute)
	w.look()
	w.stop(fleet.Now, false, refs...)
	if started, _ = w.start(50); len(started) != 10 {
		t.Errorf("after all have ended %d started", len(started))
	}
}

// The request of an intent is all that there is to know of it.
func TestTheRequestSaysWhoseItIs(t *testing.T) {
	each(t, func(t *testing.T, action, config string) {
		w := newWorld(t, awsfake.Config{}, nil)
		w.define(config)
		w.look()
		i := w.plan(w.need(2)).Intents[0]
		if len(i.ID) > 64 || i.Workers != 2 || i.Capacity != 2 || i.LaunchConfigID != w.pool.LaunchConfigs[0].ID {
			t.Errorf("%+v", i)
		}
		w.launch(i)
		for r := range w.rows {
			x, _ := w.cloud.Instance(r.WorkerID)
			want := map[string]string{
				"taskfleet-cluster": "test", "taskfleet-pool": "aws/build", "taskfleet-intent": i.ID, "taskfleet-spec": i.LaunchConfigID,
				"CreatedBy": "taskcluster-wm-aws", "ManagedBy": "taskcluster", "Owner": "who@example.com", "Name": "aws/build", "WorkerPoolId": "aws/build",
			}
			out, err := w.cloud.EC2(account, home).DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{r.WorkerID}})
			if err != nil {
				t.Fatal(err)
			}
			y := out.Reservations[0].Instances[0]
			for _, tag := range y.Tags {
				if v, is := want[*tag.Key]; is && v == *tag.Value {
					delete(want, *tag.Key)
				}
			}
			if len(want) > 0 {
				t.Errorf("not among the tags: %v", want)
			}
			if y.MetadataOptions.HttpTokens != "required" || *y.MetadataOptions.HttpPutResponseHopLimit != 1 {
				t.Errorf("metadata: %+v", y.MetadataOptions)
			}
			if got := string(x.UserData); got != `{"providerId":"aws","rootUrl":"https://taskfleet.example.com","workerGroup":"us-east-1","workerPoolId":"aws/build"}` {
				t.Errorf("user data: %s", got)
			}
			vols, _ := w.cloud.EC2(account, home).DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{})
			for _, v := range vols.Volumes {
				if len(v.Tags) < 9 {
					t.Errorf("tags of a volume: %d", len(v.Tags))
				}
			}
			nics, _ := w.cloud.EC2(account, home).DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{})
			for _, v := range nics.NetworkInterfaces {
				if len(v.TagSet) < 2 {
					t.Errorf("tags of an interface: %d", len(v.TagSet))
				}
			}
		}
	})
}

// A launch template that could not be made for a reason that may be gone in a
// moment is made a moment later, and nobody is told.
func TestATemplateThatIsNotMadeAtOnce(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(wide)
	w.look()
	w.once("CreateLaunchTemplate", false, &awsfake.Error{Code: "Unavailable", Message: "The service is unavailable"})
	plan := w.plan(w.need(1))
	if len(plan.Intents) > 0 || len(plan.Complaints) > 0 || plan.Retry != w.now().Add(time.Second) {
		t.Errorf("without a template: %+v", plan)
	}
	w.pass(time.Second)
	if plan := w.plan(w.need(1)); len(plan.Intents) != 1 || len(plan.Complaints) > 0 {
		t.Errorf("a moment later: %+v", plan)
	}
	w = newWorld(t, awsfake.Config{Faults: awsfake.Faults{Unavailable: 1}}, nil)
	w.define(wide)
	for range 4 {
		plan = w.plan(w.need(1))
		w.pass(time.Second)
	}
	if len(plan.Complaints) != 1 || !strings.Contains(plan.Complaints[0].Description, "Unavailable") {
		t.Errorf("where it lasts: %+v", plan)
	}
}
