package awsfake_test

import (
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
)

func runOf(w *world, n int) *ec2.RunInstancesInput {
	return &ec2.RunInstancesInput{ImageId: aws.String(w.here.Images["x86_64"]), InstanceType: "m5.large", MinCount: aws.Int32(int32(n)), MaxCount: aws.Int32(int32(n))}
}

func states(out *ec2.DescribeInstancesOutput) (all []string) {
	for _, r := range out.Reservations {
		for _, i := range r.Instances {
			all = append(all, string(i.State.Name))
		}
	}
	return all
}

func TestAnInstanceGoesFromPendingOverRunningToTerminatedAndIsForgottenAfterAnHour(t *testing.T) {
	w := newWorld(t, awsfake.Config{Boot: awsfake.Boot{Median: 100 * time.Second, Shutdown: 30 * time.Second}})
	out := must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), runOf(w, 1)))
	id := *out.Instances[0].InstanceId
	seen := func() string {
		got := states(must[*ec2.DescribeInstancesOutput](t)(w.ec2.DescribeInstances(t.Context(), nil)))
		if len(got) == 0 {
			return ""
		}
		return got[0]
	}
	if out.Instances[0].State.Name != "pending" || seen() != "pending" {
		t.Errorf("after the launch: %s", seen())
	}
	if next := w.Next(); !next.Equal(w.now.Add(30 * time.Second)) {
		t.Errorf("next is at %v", next)
	}
	w.pass(30 * time.Second)
	if seen() != "running" {
		t.Errorf("after 30 s: %s", seen())
	}
	w.pass(100 * time.Second)
	must[*ec2.TerminateInstancesOutput](t)(w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}}))
	if seen() != "shutting-down" {
		t.Errorf("after terminating: %s", seen())
	}
	w.pass(30 * time.Second)
	if seen() != "terminated" {
		t.Errorf("after 30 s more: %s", seen())
	}
	w.pass(time.Hour)
	if seen() != "" {
		t.Errorf("after an hour: %s", seen())
	}
	var kinds []awsfake.Kind
	for _, h := range w.told {
		kinds = append(kinds, h.Kind)
	}
	if want := []awsfake.Kind{awsfake.Launched, awsfake.Running, awsfake.Booted, awsfake.Stopping, awsfake.Terminated}; !slices.Equal(kinds, want) {
		t.Errorf("told %v, want %v", kinds, want)
	}
	if i := w.Instances()[0]; i.Billed(w.now) != 130*time.Second {
		t.Errorf("billed %v", i.Billed(w.now))
	}
}

func TestPagesCountInstancesAndATokenGoesOnWhereItsPageEnded(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	for range 4 {
		must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), runOf(w, 3)))
	}
	var sizes []int
	var token *string
	seen := map[string]bool{}
	for {
		out := must[*ec2.DescribeInstancesOutput](t)(w.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{MaxResults: aws.Int32(5), NextToken: token}))
		n := 0
		for _, r := range out.Reservations {
			for _, i := range r.Instances {
				seen[*i.InstanceId] = true
				n++
			}
		}
		sizes = append(sizes, n)
		if token = out.NextToken; token == nil {
			break
		}
	}
	if !slices.Equal(sizes, []int{5, 5, 2}) || len(seen) != 12 {
		t.Errorf("pages of %v with %d instances", sizes, len(seen))
	}
}

func TestFiltersSelectByTagStateTypeAndClientToken(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	a := runOf(w, 2)
	a.TagSpecifications = []types.TagSpecification{{ResourceType: "instance", Tags: []types.Tag{{Key: aws.String("pool"), Value: aws.String("build/linux")}}}}
	a.ClientToken = aws.String("intent-1")
	must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), a))
	b := runOf(w, 1)
	b.InstanceType = "c6i.xlarge"
	must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), b))
	w.pass(0)
	for _, c := range []struct {
		name   string
		values []string
		want   int
	}{
		{"tag:pool", []string{"build/linux"}, 2},
		{"tag:pool", []string{"build/*"}, 2},
		{"tag:pool", []string{"test"}, 0},
		{"tag-key", []string{"pool"}, 2},
		{"client-token", []string{"intent-1"}, 2},
		{"instance-type", []string{"c6i.*"}, 1},
		{"instance-state-name", []string{"pending", "running"}, 3},
		{"instance-state-name", []string{"terminated"}, 0},
	} {
		out := must[*ec2.DescribeInstancesOutput](t)(w.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: []types.Filter{{Name: &c.name, Values: c.values}}}))
		if got := len(states(out)); got != c.want {
			t.Errorf("%s=%v: %d instances, want %d", c.name, c.values, got, c.want)
		}
	}
	_, err := w.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{Filters: []types.Filter{{Name: aws.String("colour"), Values: []string{"red"}}}})
	if code(err) != "InvalidParameterValue" {
		t.Errorf("unknown filter: %v", err)
	}
}

func TestTerminatingAnUnknownInstanceFailsTheWholeCall(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	out := must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), runOf(w, 1)))
	_, err := w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{*out.Instances[0].InstanceId, "i-0123456789abcdef0"}})
	if code(err) != "InvalidInstanceID.NotFound" {
		t.Fatalf("got %v", err)
	}
	if w.Alive() != 1 {
		t.Error("the known instance was terminated")
	}
}

func TestAFreshInstanceIsInvisibleForAWhile(t *testing.T) {
	w := newWorld(t, awsfake.Config{Consistency: awsfake.Consistency{Delay: 20 * time.Second}})
	id := *must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), runOf(w, 1))).Instances[0].InstanceId
	if got := states(must[*ec2.DescribeInstancesOutput](t)(w.ec2.DescribeInstances(t.Context(), nil))); len(got) != 0 {
		t.Errorf("listed at once: %v", got)
	}
	if _, err := w.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{id}}); code(err) != "InvalidInstanceID.NotFound" {
		t.Errorf("terminated at once: %v", err)
	}
	w.pass(20 * time.Second)
	if got := states(must[*ec2.DescribeInstancesOutput](t)(w.ec2.DescribeInstances(t.Context(), nil))); len(got) != 1 {
		t.Errorf("after the delay: %v", got)
	}
}

func TestTheSameClientTokenGivesTheSameInstancesAndOtherParametersAnError(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	run := runOf(w, 2)
	run.ClientToken = aws.String("once")
	first := must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), run))
	second := must[*ec2.RunInstancesOutput](t)(w.ec2.RunInstances(t.Context(), run))
	if *first.Instances[1].InstanceId != *second.Instances[1].InstanceId || w.Stats().Launched != 2 {
		t.Error("the second call launched again")
	}
	run.InstanceType = "c5.large"
	if _, err := w.ec2.RunInstances(t.Context(), run); code(err) != "IdempotentParameterMismatch" {
		t.Errorf("got %v", err)
	}

	fleet := fleetOf(w.template("linux"), 3, in("m5.large", "us-east-1a"))
	fleet.ClientToken = aws.String("fleet-once")
	one := must[*ec2.CreateFleetOutput](t)(w.ec2.CreateFleet(t.Context(), fleet))
	two := must[*ec2.CreateFleetOutput](t)(w.ec2.CreateFleet(t.Context(), fleet))
	if !slices.Equal(idsOf(one), idsOf(two)) || w.Stats().Launched != 5 {
		t.Error("the second fleet launched again")
	}
	fleet.TargetCapacitySpecification.TotalTargetCapacity = aws.Int32(4)
	if _, err := w.ec2.CreateFleet(t.Context(), fleet); code(err) != "IdempotentParameterMismatch" {
		t.Errorf("got %v", err)
	}
}

func TestADryRunChecksAndDoesNothing(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	run := runOf(w, 1)
	run.DryRun = aws.Bool(true)
	if _, err := w.ec2.RunInstances(t.Context(), run); code(err) != "DryRunOperation" {
		t.Errorf("got %v", err)
	}
	run.ImageId = aws.String("ami-0123456789abcdef0")
	if _, err := w.ec2.RunInstances(t.Context(), run); code(err) != "InvalidAMIID.NotFound" {
		t.Errorf("got %v", err)
	}
	if w.Stats().Launched != 0 {
		t.Error("a dry run launched")
	}
}

func TestWhatALaunchMustNotNameIsRefusedWithItsCode(t *testing.T) {
	w := newWorld(t, awsfake.Config{})
	w.Deny(account, awsfake.Denial{Action: "iam:PassRole"})
	for want, change := range map[string]func(*ec2.RunInstancesInput){
		"InvalidAMIID.NotFound":     func(in *ec2.RunInstancesInput) { in.ImageId = aws.String("ami-00000000000000000") },
		"InvalidAMIID.Malformed":    func(in *ec2.RunInstancesInput) { in.ImageId = aws.String("linux") },
		"InvalidGroup.NotFound":     func(in *ec2.RunInstancesInput) { in.SecurityGroupIds = []string{"sg-1"} },
		"InvalidSubnetID.NotFound":  func(in *ec2.RunInstancesInput) { in.SubnetId = aws.String("subnet-1") },
		"InvalidKeyPair.NotFound":   func(in *ec2.RunInstancesInput) { in.KeyName = aws.String("mine") },
		"InvalidUserData.Malformed": func(in *ec2.RunInstancesInput) { in.UserData = aws.String("#!") },
		"UnauthorizedOperation": func(in *ec2.RunInstancesInput) {
			in.IamInstanceProfile = &types.IamInstanceProfileSpecification{Name: aws.String("worker")}
		},
		"InvalidParameterValue": func(in *ec2.RunInstancesInput) { in.InstanceType = "m7g.large" }, // arm64 on an x86_64 image
		"InvalidParameterCombination": func(in *ec2.RunInstancesInput) {
			in.SecurityGroupIds = []string{w.here.SecurityGroup}
			in.NetworkInterfaces = []types.InstanceNetworkInterfaceSpecification{{DeviceIndex: aws.Int32(0)}}
		},
		"Unsupported": func(in *ec2.RunInstancesInput) {
			in.Placement = &types.Placement{AvailabilityZone: aws.String("us-east-1e")}
		},
		"InvalidLaunchTemplateId.NotFound": func(in *ec2.RunInstancesInput) {
			in.LaunchTemplate = &types.LaunchTemplateSpecification{LaunchTemplateId: aws.String("lt-1")}
		},
		"SpotMaxPriceTooLow": func(in *ec2.RunInstancesInput) {
			in.InstanceMarketOptions = &types.InstanceMarketOptionsRequest{MarketType: "spot", SpotOptions: &types.SpotMarketOptions{MaxPrice: aws.String("0.001")}}
		},
	} {
		run := runOf(w, 1)
		change(run)
		if _, err := w.ec2.RunInstances(t.Context(), run); code(err) != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if w.Stats().Launched != 0 {
		t.Error("something was launched")
	}
}

func BenchmarkDescribeInstances(b *testing.B) {
	w := newWorld(b, awsfake.Config{})
	template := w.template("linux", func(d *types.RequestLaunchTemplateData) {
		d.TagSpecifications = []types.LaunchTemplateTagSpecificationRequest{{ResourceType: "instance", Tags: []types.Tag{{Key: aws.String("cluster"), Value: aws.String("bench")}}}}
	})
	must[*ec2.CreateFleetOutput](b)(w.ec2.CreateFleet(b.Context(), fleetOf(template, 1000, in("m5.large", "us-east-1a"))))
	w.pass(0)
	ask := &ec2.DescribeInstancesInput{MaxResults: aws.Int32(1000), Filters: []types.Filter{
		{Name: aws.String("tag:cluster"), Values: []string{"bench"}}, {Name: aws.String("instance-state-name"), Values: []string{"pending", "running"}}}}
	for b.Loop() {
		if n := len(must[*ec2.DescribeInstancesOutput](b)(w.ec2.DescribeInstances(b.Context(), ask)).Reservations); n != 1000 {
			b.Fatal(n)
		}
	}
}
