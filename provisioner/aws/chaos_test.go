package aws_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

// Calls fail before and after their work, answers and events are lost, the
// process is killed at any time, and in the end each instance has its worker and
// each worker its instance, and all can be ended.
func TestWhateverGoesWrongNothingIsLost(t *testing.T) {
	each(t, func(t *testing.T, action, config string) {
		for seed := range uint64(3) {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				r := rand.New(rand.NewPCG(seed, 1))
				faults := awsfake.Faults{Unavailable: 0.05, FailedAfter: 0.05, LostAnswers: 0.05}
				w := newWorld(t, awsfake.Config{
					Boot: awsfake.Boot{Median: 40 * time.Second, Sigma: 0.3, Shutdown: 15 * time.Second}, Consistency: awsfake.Consistency{Delay: 15 * time.Second},
					Faults: faults, Events: awsfake.Events{Queue: "events", Delay: 5 * time.Second, Lost: 0.2, Duplicated: 0.2}, Limits: awsfake.Limits{Documented: true},
					Markets: func(awsfake.Market) awsfake.Conditions {
						return awsfake.Conditions{Hazard: 1, Open: 10 * time.Minute, Closed: 2 * time.Minute}
					},
				}, withEvents)
				w.define(config)
				open := map[string]*fleet.Intent{}
				launch := func(i *fleet.Intent) {
					if a := w.launch(i); a.Again {
						open[i.ID] = i
					} else {
						delete(open, i.ID)
					}
				}
				step := func(want int) {
					w.pass(time.Second)
					ctx := t.Context()
					w.p.Poll(ctx, w.now())
					sight, err := w.p.Look(ctx, w.now())
					if err != nil {
						t.Fatal(err)
					}
					var end []fleet.Target
					for ref, row := range w.rows {
						s, seen := sight.Of(ref)
						if !seen || s.State != fleet.Alive && s.State != fleet.Unknown {
							end = append(end, fleet.Target{Ref: ref, Facts: row.Facts})
						}
					}
					for x := range sight.All() {
						if w.rows[x.Ref] == nil && open[x.IntentID] == nil {
							end = append(end, fleet.Target{Ref: x.Ref, Facts: x.Facts}) // a stranger
						}
					}
					for ref, row := range w.rows {
						if len(w.rows)-len(end) > want && len(end) < 20 {
							end = append(end, fleet.Target{Ref: ref, Facts: row.Facts, Idle: true})
						}
					}
					gone, _ := w.p.Stop(ctx, w.now(), end, fleet.Now)
					for _, ref := range gone {
						delete(w.rows, ref)
					}
					for _, i := range open {
						if w.now() >= i.NextAttempt {
							launch(i)
						}
					}
					if n := want - len(w.rows) - len(open)*5; n > 0 {
						for _, i := range w.plan(w.need(int64(min(n, 5)))).Intents {
							if r.Float64() < 0.02 {
								// Killed between the intent and the call, or the call and the answer.
								if r.Float64() < 0.5 {
									w.p.Launch(ctx, w.now(), i)
								}
								open[i.ID] = i
								w.restart(withEvents)
								break
							}
							launch(i)
						}
					}
					if r.Float64() < 0.005 {
						w.restart(withEvents)
					}
				}
				for range 60 {
					want := 10 + r.IntN(60)
					for range 60 {
						step(want)
					}
				}
				for range 10 * 60 {
					step(30)
				}
				alive := 0
				for _, x := range w.cloud.Instances() {
					if x.Stopping.IsZero() {
						alive++
						if w.rows[fleet.Ref{WorkerPoolID: "aws/build", WorkerGroup: home, WorkerID: x.ID}] == nil && open[x.Tag("taskfleet-intent")] == nil {
							t.Errorf("nobody knows %s, launched at %s", x.ID, x.Requested)
						}
					}
				}
				if alive < 20 || alive > 40 {
					t.Errorf("%d instances are alive", alive)
				}
				for range 10 * 60 {
					step(0)
				}
				if n := w.cloud.Alive(); n != 0 || len(w.rows) != 0 || len(open) != 0 {
					t.Errorf("in the end %d instances, %d workers, %d intents", n, len(w.rows), len(open))
				}
				s := w.cloud.Stats()
				if s.Errors["IdempotentParameterMismatch"] > 0 || len(s.Throttled) > 0 {
					t.Errorf("%v %v", s.Errors, s.Throttled)
				}
				t.Log(s.Launched, s.Interrupted, s.Errors, s.Calls)
			})
		}
	})
}

// A region that does not answer is no longer used, and keeps no other from
// being.
func TestARegionThatCannotBeSeenIsNotUsed(t *testing.T) {
	w := newWorld(t, awsfake.Config{}, nil)
	w.define(plain)
	w.look()
	w.start(2)
	w.cloud.Fail(func(c awsfake.Call) error {
		if c.Region == home && c.Action == "DescribeInstances" {
			return &awsfake.Error{Code: "UnauthorizedOperation", Message: "No."}
		}
		return nil
	})
	w.run(4*time.Minute, time.Second)
	if started, _ := w.start(1); len(started) != 1 {
		t.Error("it is not used at once any more")
	}
	w.run(3*time.Minute, time.Second)
	plan := w.plan(w.need(1))
	if len(plan.Intents) != 0 || len(plan.Complaints) != 1 || plan.Complaints[0].Kind != fleet.KindAuth {
		t.Errorf("%+v", plan)
	}
	if got := w.states(); got != "3 alive" {
		t.Errorf("what is there: %s", got)
	}
	other := w.makePool("aws/other", `{"maxCapacity": 3, "launchConfigs": [{"region": "us-west-2", "launchConfig": {"InstanceType": "c7i.large", "ImageId": "`+w.cloud.Surroundings(account, "us-west-2").Images["x86_64"]+`"}}]}`)
	w.pool = other
	if started, faults := w.start(2); len(started) != 2 {
		t.Errorf("elsewhere: %+v", faults)
	}
	w.cloud.Fail(nil)
	w.run(2*time.Minute, time.Second)
	w.define(plain)
	if started, faults := w.start(1); len(started) != 1 {
		t.Errorf("when it answers again: %+v", faults)
	}
}

// Run reads events and sweeps by itself, and tells of what it hears.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cloud := awsfake.New(awsfake.Config{Boot: awsfake.Boot{Median: 30 * time.Second, Shutdown: 10 * time.Second}, Events: awsfake.Events{Queue: "events", Delay: time.Second}})
		w := &world{t: t, clock: time.Now(), cloud: cloud, rows: map[fleet.Ref]*fleet.Worker{}}
		w.restart(func(c *provider.Config) {
			withEvents(c)
			c.Now = time.Now
		})
		told := make(chan struct{}, 1000)
		w.p.Notify(func() { told <- struct{}{} })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			w.p.Run(ctx)
			close(done)
		}()
		synctest.Wait()
		w.define(strings.Replace(plain, `"InstanceType"`, `"InstanceMarketOptions": {"MarketType": "spot"}, "InstanceType"`, 1))
		w.start(3)
		time.Sleep(time.Minute)
		for len(told) > 0 {
			<-told
		}
		before := w.calls("DescribeInstances")
		w.clock = time.Now()
		if got := w.states(); got != "3 alive" || w.calls("DescribeInstances") != before {
			t.Errorf("%s, and Look has looked itself", got)
		}
		ref := w.refs()[0]
		if err := cloud.Interrupt(ref.WorkerID); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		for w.of(ref).Ends == 0 {
			<-told
			w.clock = time.Now()
		}
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("it took %v to tell", d)
		}
		pass := func(d time.Duration) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(5 * time.Second) {
				w.clock = time.Now()
				w.look()
			}
		}
		pass(5 * time.Minute)
		w.clock = time.Now()
		if got := w.states(); got != "2 alive" && got != "1 lost, 2 alive" {
			t.Error(got)
		}

		// Where nobody looks, another replica does: it gets the events.
		time.Sleep(time.Minute)
		sweeps, receives := w.calls("DescribeInstances"), cloud.Stats().Calls["sqs:ReceiveMessage"]
		time.Sleep(5 * time.Minute)
		if n, m := w.calls("DescribeInstances")-sweeps, cloud.Stats().Calls["sqs:ReceiveMessage"]-receives; n+m > 0 {
			t.Errorf("with nobody looking it has swept %d times and asked for events %d times", n, m)
		}
		pass(30 * time.Second)
		if w.calls("DescribeInstances") == sweeps || cloud.Stats().Calls["sqs:ReceiveMessage"] == receives {
			t.Error("somebody looks again, and it does not")
		}
		cancel()
		<-done
	})
}
