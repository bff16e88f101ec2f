package aws_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

func (w *world) templates() (names []string) {
	w.t.Helper()
	out, err := w.cloud.EC2(account, home).DescribeLaunchTemplates(w.t.Context(), &ec2.DescribeLaunchTemplatesInput{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, x := range out.LaunchTemplates {
		names = append(names, *x.LaunchTemplateName)
	}
	return names
}

// run has the provider look for some time.
func (w *world) run(d, step time.Duration) {
	for end := w.clock.Add(d); w.clock.Before(end); w.pass(step) {
		w.look()
	}
}

func TestLaunchTemplatesAreKeptInStep(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(wide)
	w.start(1)
	w.start(1)
	first := w.templates()
	if len(first) != 1 || !strings.HasPrefix(first[0], "taskfleet.test.aws/build.") || len(first[0]) > 128 {
		t.Fatalf("templates are %v", first)
	}
	old := w.plan(w.need(1)).Intents[0]
	w.define(strings.Replace(wide, `"KeyName": "default"`, `"EbsOptimized": true`, 1))
	w.start(1)
	if n := len(w.templates()); n != 2 {
		t.Fatalf("after a new definition there are %d", n)
	}
	// An intent of the definition before finds its own.
	if a := w.launch(old); len(a.Started) != 1 {
		t.Errorf("%+v", a)
	}
	// The old one goes when it has not been used for a day, also by a process
	// that has not seen it used.
	w.restart(nil)
	w.define(strings.Replace(wide, `"KeyName": "default"`, `"EbsOptimized": true`, 1))
	for range 30 {
		w.run(time.Hour, time.Minute)
		w.start(1)
	}
	left := w.templates()
	if len(left) != 1 || left[0] == first[0] {
		t.Errorf("after a day there are %v", left)
	}
	// One that somebody deletes is made again.
	w.cloud.EC2(account, home).DeleteLaunchTemplate(t.Context(), &ec2.DeleteLaunchTemplateInput{LaunchTemplateName: &left[0]})
	started, faults := w.start(1)
	if len(started) != 0 || len(faults) != 0 {
		t.Errorf("%v %v", started, faults)
	}
	if started, faults = w.start(1); len(started) != 1 {
		t.Errorf("the next time: %v %v", started, faults)
	}
}

// After a restart all pools want theirs made again.
func TestTemplatesAreMadeWithinTheLimits(t *testing.T) {
	w := newWorld(t, awsfake.Config{Limits: awsfake.Limits{Documented: true}}, nil)
	w.look()
	var pools []*fleet.Pool
	for n := range 200 {
		pools = append(pools, w.makePool(fmt.Sprintf("aws/build-%d", n), wide))
	}
	for len(pools) > 0 {
		w.pool = pools[0]
		plan := w.plan(w.need(1))
		if len(plan.Intents) == 0 && (len(plan.Complaints) > 0 || plan.Retry <= w.now()) {
			t.Fatalf("%+v", plan)
		}
		pools = pools[1:]
		if len(plan.Intents) == 0 {
			pools = append(pools, w.pool)
		}
		w.pass(20 * time.Millisecond)
	}
	if n := w.cloud.Stats().Throttled; len(n) > 0 {
		t.Errorf("throttled: %v", n)
	}
	if n := len(w.templates()); n != 200 {
		t.Errorf("%d templates", n)
	}
}

func TestATemplateThatCannotBeMadeIsComplainedOf(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(wide)
	w.cloud.Deny(account, awsfake.Denial{Action: "ec2:CreateLaunchTemplate"})
	plan := w.plan(w.need(1))
	if len(plan.Intents) != 0 || len(plan.Complaints) != 1 || plan.Complaints[0].Kind != fleet.KindAuth || plan.Retry == 0 {
		t.Fatalf("%+v", plan)
	}
	n := w.calls("CreateLaunchTemplate")
	if plan = w.plan(w.need(1)); len(plan.Intents) != 0 || w.calls("CreateLaunchTemplate") != n {
		t.Errorf("at once: %+v", plan)
	}
	w.cloud.Permit(account)
	w.clock = plan.Retry.Time()
	if plan = w.plan(w.need(1)); len(plan.Intents) != 1 {
		t.Errorf("later: %+v", plan)
	}
}

func TestWhatInstancesLeaveBehindIsDeleted(t *testing.T) {
	w := newWorld(t, awsfake.Config{Leaks: awsfake.Leaks{Volumes: 1, Interfaces: 1}}, nil)
	w.define(wide)
	w.start(6)
	kept := w.refs()[5]
	count := func() (volumes, interfaces int) {
		v, err := w.cloud.EC2(account, home).DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{})
		if err != nil {
			t.Fatal(err)
		}
		n, err := w.cloud.EC2(account, home).DescribeNetworkInterfaces(t.Context(), &ec2.DescribeNetworkInterfacesInput{})
		if err != nil {
			t.Fatal(err)
		}
		return len(v.Volumes), len(n.NetworkInterfaces)
	}
	w.stop(fleet.Now, false, w.refs()[:5]...)
	w.run(11*time.Minute, 10*time.Second)
	if v, n := count(); v != 6 || n != 6 {
		t.Fatalf("%d volumes and %d interfaces", v, n)
	}
	w.run(time.Hour, 10*time.Second)
	if v, n := count(); v != 1 || n != 1 {
		t.Errorf("%d volumes and %d interfaces are left", v, n)
	}
	if s := w.of(kept); s.State != fleet.Alive {
		t.Errorf("%v", s.State)
	}
}
