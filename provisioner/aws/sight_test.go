package aws_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

// withEvents gives the provider the cloud's queue of events.
func withEvents(c *provider.Config) {
	c.Accounts[0].Queues[home] = "https://sqs.us-east-1.amazonaws.com/" + account + "/events"
}

func (w *world) poll() {
	w.t.Helper()
	if err := w.p.Poll(w.t.Context(), w.now()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) of(r fleet.Ref) fleet.Sighting {
	w.t.Helper()
	s, seen := w.look().Of(r)
	if !seen {
		w.t.Fatalf("%s is not seen", r)
	}
	return s
}

func TestAfterARestartWorkersAreUnknownUntilTheFirstSweep(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(plain)
	w.look()
	w.start(3)
	w.restart(nil)
	w.cloud.Fail(func(c awsfake.Call) error {
		if c.Action == "DescribeInstances" {
			return &awsfake.Error{Code: "Unavailable"}
		}
		return nil
	})
	if got := w.states(); got != "3 unknown" {
		t.Fatalf("before a sweep: %s", got)
	}
	for x := range w.look().All() {
		t.Errorf("there is %+v", x)
	}
	w.cloud.Fail(nil)
	w.pass(time.Minute)
	if got := w.states(); got != "3 alive" {
		t.Errorf("after it: %s", got)
	}
	n := 0
	for x := range w.look().All() {
		n++
		if x.IntentID == "" || len(x.Facts) == 0 || x.WorkerPoolID != "aws/build" {
			t.Errorf("%+v", x)
		}
	}
	if n != 3 {
		t.Errorf("all are %d", n)
	}
}

func TestAfterARestartThoseThatHaveEndedMeanwhileAreLookedFor(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(plain)
	w.look()
	w.start(4)
	refs := w.refs()
	w.cloud.Shutdown(refs[0].WorkerID)
	if _, err := w.cloud.EC2(account, home).TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{refs[1].WorkerID}}); err != nil {
		t.Fatal(err)
	}
	never := fleet.Ref{WorkerPoolID: "aws/build", WorkerGroup: home, WorkerID: "i-0123456789abcdef0"}
	w.rows[never] = &fleet.Worker{Ref: never}
	w.restart(nil)
	var got []string
	for range 5 {
		got = append(got, w.states())
		w.pass(time.Minute)
	}
	if last := got[len(got)-1]; last != "1 exited, 1 failed, 1 lost, 2 alive" {
		t.Errorf("states are %q", got)
	}
	if s := w.of(refs[0]); s.Detail != "The instance shut itself down." {
		t.Errorf("%+v", s)
	}
	if s := w.of(refs[1]); s.Detail != "Somebody else terminated the instance." {
		t.Errorf("%+v", s)
	}
	if gone := w.stop(fleet.Now, false, refs[0], refs[1], never); len(gone) != 3 {
		t.Errorf("gone are %v", gone)
	}
}

func TestALostWorkerIsBelievedInOnlyAfterTwoSweepsAndALook(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(plain)
	w.look()
	r := fleet.Ref{WorkerPoolID: "aws/build", WorkerGroup: home, WorkerID: "i-0123456789abcdef0"}
	for i, want := range []fleet.Life{fleet.Unknown, fleet.Unknown, fleet.Lost} {
		before := w.calls("DescribeInstances")
		if s := w.of(r); i == 0 && s.State != want {
			t.Errorf("at first %v", s)
		}
		if s := w.of(r); s.State != want {
			t.Errorf("after %d sweeps: %+v, %d calls", i, s, w.calls("DescribeInstances")-before)
		}
		w.pass(time.Minute)
	}
	if _, seen := w.look().Of(fleet.Ref{WorkerPoolID: "aws/build", WorkerGroup: home, WorkerID: "worker-7"}); seen {
		t.Error("what cannot be an instance is one")
	}
	gone := w.fleetStop(r)
	if len(gone) != 1 {
		t.Errorf("gone are %v", gone)
	}
}

func (w *world) fleetStop(refs ...fleet.Ref) []fleet.Ref {
	w.t.Helper()
	for _, r := range refs {
		if w.rows[r] == nil {
			w.rows[r] = &fleet.Worker{Ref: r}
		}
	}
	return w.stop(fleet.Now, false, refs...)
}

func TestAnInstanceThatIsNotVisibleYetIsAlive(t *testing.T) {
	w := newWorld(t, awsfake.Config{Consistency: awsfake.Consistency{Delay: 20 * time.Second, TailShare: 0.2, TailDelay: 90 * time.Second}}, nil)
	w.define(plain)
	w.look()
	w.start(30)
	for range 120 {
		if got := w.states(); got != "30 alive" {
			t.Fatalf("%v: %s", w.clock, got)
		}
		w.pass(3 * time.Second)
	}
	// One is ended before it is visible: it is asked for until it is.
	w.start(1)
	var fresh fleet.Ref
	for r, x := range w.rows {
		if x.Created == w.now() {
			fresh = r
		}
	}
	for range 120 {
		if len(w.stop(fleet.Now, false, fresh)) == 1 {
			break
		}
		w.pass(3 * time.Second)
		w.look()
	}
	if n := w.cloud.Alive(); n != 30 {
		t.Errorf("%d are alive", n)
	}
}

func TestASweepFindsWhatTheBooksDoNotHave(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(plain)
	i := w.plan(w.need(2)).Intents[0]
	w.p.Launch(t.Context(), w.now(), i)
	w.restart(nil)
	// Of other clusters, and of nobody, are not ours.
	for _, tags := range [][]types.Tag{nil, {{Key: ptr("taskfleet-cluster"), Value: ptr("other")}}} {
		in := &ec2.RunInstancesInput{ImageId: ptr(w.cloud.Surroundings(account, home).Images["x86_64"]), InstanceType: "c7i.large", MinCount: ptr(int32(1)), MaxCount: ptr(int32(1))}
		if tags != nil {
			in.TagSpecifications = []types.TagSpecification{{ResourceType: "instance", Tags: tags}}
		}
		if _, err := w.cloud.EC2(account, home).RunInstances(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	var list []fleet.Target
	for x := range w.look().All() {
		if x.IntentID != i.ID || x.State != fleet.Alive {
			t.Errorf("%+v", x)
		}
		list = append(list, fleet.Target{Ref: x.Ref, Facts: x.Facts})
	}
	if len(list) != 2 {
		t.Fatalf("%d are found", len(list))
	}
	if _, err := w.p.Stop(t.Context(), w.now(), list, fleet.Now); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Minute)
	w.look()
	gone, err := w.p.Stop(t.Context(), w.now(), list, fleet.Now)
	if err != nil || len(gone) != 2 || w.cloud.Alive() != 2 {
		t.Errorf("gone are %v, %v; %d are alive", gone, err, w.cloud.Alive())
	}
}

func ptr[T any](v T) *T { return &v }

func TestEventsAreTheFastPath(t *testing.T) {
	w := newWorld(t, awsfake.Config{Boot: awsfake.Boot{Median: 30 * time.Second, Shutdown: 10 * time.Second}, Events: awsfake.Events{Queue: "events"}}, withEvents)
	w.define(strings.Replace(plain, `"InstanceType"`, `"InstanceMarketOptions": {"MarketType": "spot"}, "InstanceType"`, 1))
	w.look()
	w.start(4)
	news := 0
	w.p.Notify(func() { news++ })
	refs := w.refs()
	w.pass(40 * time.Second)
	w.poll()
	if news == 0 {
		t.Error("nobody is told")
	}
	w.cloud.Interrupt(refs[0].WorkerID)
	w.cloud.Recommend(refs[1].WorkerID)
	w.cloud.Shutdown(refs[2].WorkerID)
	w.poll()
	if s := w.of(refs[0]); s.Ends != w.now().Add(2*time.Minute) || s.State != fleet.Alive || !strings.Contains(s.Detail, "taken the spot instance back as of") {
		t.Errorf("warned: %+v", s)
	}
	if s := w.of(refs[1]); s.Ends != 0 || !strings.Contains(s.Detail, "recommends") {
		t.Errorf("recommended: %+v", s)
	}
	w.stop(fleet.Now, false, refs[3])
	w.pass(11 * time.Second)
	w.poll()
	w.pass(20 * time.Second) // until there is room to ask why
	if s := w.of(refs[2]); s.State != fleet.Exited {
		t.Errorf("shut down by itself: %+v", s)
	}
	if s := w.of(refs[3]); s.State != fleet.Lost || s.Detail != "The instance was ended on request." {
		t.Errorf("ended: %+v", s)
	}
	w.pass(2*time.Minute + 11*time.Second)
	w.poll()
	if s := w.of(refs[0]); s.State != fleet.Lost || s.Detail != "EC2 has taken the spot instance back." {
		t.Errorf("interrupted: %v %s", s.State, s.Detail)
	}
	// The market is worse for it.
	m, _ := w.p.Markets(t.Context(), w.now(), w.pool.Config)
	if m[0].Interrupt < 1.0/20 {
		t.Errorf("%+v", m)
	}
}

// With events lost, doubled and late, and without any, the same is seen in the
// end, and nothing that has ended comes back.
func TestEventsMayBeLostDoubledAndLate(t *testing.T) {
	for _, events := range []awsfake.Events{
		{Queue: "events", Delay: 5 * time.Second, Lost: 0.3, Duplicated: 0.3, Late: 0.2, LateDelay: 10 * time.Minute}, {Queue: "events", Lost: 1}, {Queue: "events"},
	} {
		t.Run(fmt.Sprint(events.Lost), func(t *testing.T) {
			w := newWorld(t, awsfake.Config{
				Boot: awsfake.Boot{Median: 30 * time.Second, Sigma: 0.3, Shutdown: 20 * time.Second}, Events: events, Consistency: awsfake.Consistency{Delay: 15 * time.Second},
				Markets: func(awsfake.Market) awsfake.Conditions { return awsfake.Conditions{Hazard: 4, Rebalance: time.Minute} },
			}, withEvents)
			w.define(wide)
			w.look()
			w.start(60)
			ended := map[fleet.Ref]bool{}
			for range 60 * 60 / 5 {
				w.pass(5 * time.Second)
				w.poll()
				s := w.look()
				for r := range w.rows {
					x, seen := s.Of(r)
					if !seen || x.State == fleet.Unknown {
						t.Fatalf("%+v", x)
					}
					if ended[r] && x.State == fleet.Alive {
						t.Fatalf("%s came back", r)
					}
					ended[r] = x.State != fleet.Alive
				}
			}
			w.pass(3 * time.Minute)
			s := w.look()
			w.pass(3 * time.Minute)
			w.look()
			n := 0
			for r := range w.rows {
				x, _ := s.Of(r)
				real, there := w.cloud.Instance(r.WorkerID)
				if alive := there && real.Stopping.IsZero(); alive != (x.State == fleet.Alive) {
					t.Errorf("%s is %+v and seen as %+v", r, real, x)
				}
				if x.State == fleet.Lost {
					n++
				}
			}
			if n < 40 {
				t.Errorf("%d were interrupted: %s", n, w.states())
			}
		})
	}
}

// Not more than three calls that list things are made a minute, with 2,000
// workers that come and go.
func TestFewCallsListThings(t *testing.T) {
	w := newWorld(t, awsfake.Config{Boot: awsfake.Boot{Median: 75 * time.Second, Sigma: 0.25, Shutdown: 30 * time.Second}, Limits: awsfake.Limits{Documented: true}}, nil)
	w.define(wide)
	type call struct{ at time.Time }
	var calls []call
	w.cloud.Fail(func(c awsfake.Call) error {
		if !c.After && strings.HasPrefix(c.Action, "Describe") && c.Region == home {
			calls = append(calls, call{w.clock})
		}
		return nil
	})
	most := 0
	for range 20 * 60 {
		w.look()
		if n := int64(2000 - len(w.rows)); n > 0 {
			w.start(n)
		}
		if refs := w.refs(); len(refs) > 1900 {
			if w.clock.Second()%20 == 0 {
				w.cloud.Shutdown(refs[0].WorkerID) // crashes
			}
			w.stop(fleet.Now, false, refs[:2]...)
		}
		sight := w.look()
		for r := range w.rows {
			if s, _ := sight.Of(r); s.State != fleet.Alive {
				w.stop(fleet.Now, false, r)
			}
		}
		w.pass(time.Second)
		for len(calls) > 0 && w.clock.Sub(calls[0].at) > time.Minute {
			calls = calls[1:]
		}
		most = max(most, len(calls))
	}
	if len(w.rows) < 1900 {
		t.Errorf("%d workers", len(w.rows))
	}
	if most > 3 {
		t.Errorf("%d calls in a minute", most)
	}
	for action, n := range w.cloud.Stats().Throttled {
		t.Errorf("%s was throttled %d times", action, n)
	}
	t.Log(most, len(w.rows), w.cloud.Stats().Calls)
}

// An instance that somebody stops is no longer a worker's, and is ended.
func TestAStoppedInstanceIsOver(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(plain)
	w.look()
	w.start(1)
	r := w.refs()[0]
	// The cloud does not stop instances, so the list says it.
	w.p.Hear(w.now(), r.WorkerID, "stopped")
	if s := w.of(r); s.State != fleet.Alive || s.Detail != "Somebody has stopped the instance." {
		t.Errorf("%v %s", s.State, s.Detail)
	}
	w.p.Hear(w.now(), r.WorkerID, "running")
	w.p.Hear(w.now(), r.WorkerID, "pending")
	w.p.Hear(w.now(), r.WorkerID, "confused")
	w.stop(fleet.Now, false, r)
	w.pass(time.Minute)
	w.look()
	if gone := w.stop(fleet.Now, false, r); len(gone) != 1 {
		t.Error("it is not gone")
	}
}
