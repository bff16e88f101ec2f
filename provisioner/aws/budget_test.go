package aws_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
)

func TestAThousandWorkersStartAtOnceWithinTheLimits(t *testing.T) {
	each(t, func(t *testing.T, action, config string) {
		w := newWorld(t, awsfake.Config{Limits: awsfake.Limits{Documented: true}}, nil)
		w.define(config)
		w.look()
		for s := range 5 {
			w.start(int64(1000 - len(w.rows)))
			if s < 4 {
				w.pass(time.Second)
			}
		}
		if len(w.rows) < 900 {
			t.Errorf("%d after five seconds", len(w.rows))
		}
		for range 60 {
			w.start(int64(1000 - len(w.rows)))
			w.pass(time.Second)
		}
		if len(w.rows) != 1000 {
			t.Errorf("%d after a minute", len(w.rows))
		}
		for action, n := range w.cloud.Stats().Throttled {
			t.Errorf("%s was throttled %d times", action, n)
		}
	})
}

// Two regions start twice as many.
func TestTwoThousandWorkersStartInTwoRegions(t *testing.T) {
	w := newWorld(t, awsfake.Config{Limits: awsfake.Limits{Documented: true}}, nil)
	w.define(`{"maxCapacity": 2000, "launchConfigs": [
		{"region": "us-east-1", "launchConfig": {"ImageId": "$x86_64", "InstanceType": "c7i.xlarge"}},
		{"region": "us-west-2", "launchConfig": {"ImageId": "` + w.cloud.Surroundings(account, "us-west-2").Images["x86_64"] + `", "InstanceType": "c7i.xlarge"}}]}`)
	w.look()
	for range 3 {
		w.start(int64(2000 - len(w.rows)))
		w.pass(time.Second)
	}
	if len(w.rows) < 1800 || len(w.cloud.Stats().Throttled) > 0 {
		t.Errorf("%d workers, throttled %v", len(w.rows), w.cloud.Stats().Throttled)
	}
}

// pools are n pools of a configuration.
func (w *world) pools(n int, config string) (all []*fleet.Pool) {
	w.t.Helper()
	for i := range n {
		all = append(all, w.makePool(fmt.Sprintf("aws/pool-%d", i), config))
	}
	return all
}

// Two hundred pools want workers all the time, one of them very many. Each gets
// its turn.
func TestPoolsTakeTurns(t *testing.T) {
	each(t, func(t *testing.T, action, config string) {
		w := newWorld(t, awsfake.Config{Limits: awsfake.Limits{Documented: true}}, nil)
		all := w.pools(40, config)
		w.look()
		got := map[string]int{}
		seconds := 120
		for range seconds {
			w.look()
			for i, o := range all {
				w.pool = o
				want := int64(1)
				if i == 0 {
					want = 5000
				}
				started, faults := w.start(want)
				if len(faults) > 0 {
					t.Fatalf("%+v", faults)
				}
				got[o.ID] += len(started)
			}
			w.pass(time.Second)
		}
		least, most := 1<<30, 0
		for _, o := range all[1:] {
			least, most = min(least, got[o.ID]), max(most, got[o.ID])
		}
		// There are 1.4 calls a second.
		if least < seconds*14/10/40-1 || most > least+2 {
			t.Errorf("the small pools got from %d to %d, the large one %d", least, most, got[all[0].ID])
		}
		for action, n := range w.cloud.Stats().Throttled {
			t.Errorf("%s was throttled %d times", action, n)
		}
	})
}

// Restarts do not make the limits forgotten.
func TestLimitsAreKeptOverARestart(t *testing.T) {
	w := newWorld(t, awsfake.Config{Limits: awsfake.Limits{Documented: true}}, nil)
	w.define(wide)
	w.look()
	for range 20 {
		w.start(int64(2000 - len(w.rows)))
		w.restart(nil)
		w.pass(5 * time.Second)
		w.look()
	}
	if n := w.cloud.Stats().Throttled["ec2:RunInstances"]; n > 0 {
		t.Errorf("throttled %d times", n)
	}
}

// Where AWS is stricter than it says, it is asked less and less, and the rate
// comes back when that is over.
func TestThrottlingBacksOff(t *testing.T) {
	w := newWorld(t, awsfake.Config{Limits: awsfake.Limits{Requests: map[string]awsfake.Bucket{"RunInstances": {Capacity: 1, Refill: 0.1}}}}, nil)
	w.define(plain)
	w.look()
	run := func(seconds int) (calls, throttled int) {
		before := w.cloud.Stats()
		for range seconds {
			w.start(1)
			w.pass(time.Second)
		}
		after := w.cloud.Stats()
		return after.Calls["ec2:RunInstances"] - before.Calls["ec2:RunInstances"], after.Throttled["ec2:RunInstances"] - before.Throttled["ec2:RunInstances"]
	}
	run(60)
	calls, throttled := run(600)
	if calls > 240 || throttled > 180 || calls-throttled < 30 {
		t.Errorf("%d calls, %d throttled", calls, throttled)
	}
	t.Log(calls, throttled)
}

func BenchmarkPlan(b *testing.B) {
	for name, config := range forms {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, awsfake.Config{}, nil)
			w.define(config)
			n := w.need(5)
			ctx := b.Context()
			for i := 0; b.Loop(); i++ {
				w.pass(time.Second)
				if i%1000 == 0 {
					w.look() // so that what was planned and never launched is forgotten
				}
				plan, err := w.p.Plan(ctx, w.now(), n)
				if err != nil || len(plan.Intents) != 1 {
					b.Fatal(err, plan)
				}
			}
		})
	}
}

// A pass of 200 pools over 2,000 workers: Look, each worker once by Of and once
// by All, a plan for each pool.
func BenchmarkPass(b *testing.B) {
	w := newWorld(b, awsfake.Config{}, nil)
	all := w.pools(200, wide)
	ctx := b.Context()
	var refs []fleet.Ref
	for _, o := range all {
		w.pool = o
		w.pass(10 * time.Second)
		plan, err := w.p.Plan(ctx, w.now(), w.need(10))
		if err != nil {
			b.Fatal(err)
		}
		for _, i := range plan.Intents {
			for _, s := range w.p.Launch(ctx, w.now(), i).Started {
				refs = append(refs, s.Ref)
			}
		}
	}
	if len(refs) != 2000 {
		b.Fatal(len(refs))
	}
	b.ResetTimer()
	for b.Loop() {
		w.pass(time.Second)
		s, err := w.p.Look(ctx, w.now())
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range refs {
			if x, seen := s.Of(r); !seen || x.State != fleet.Alive {
				b.Fatal(x.State)
			}
		}
		n := 0
		for range s.All() {
			n++
		}
		if n != 2000 {
			b.Fatal(n)
		}
	}
}

// One round of a worker's life as a simulation has it: a plan, its launch and
// the end, against the fake.
func BenchmarkRound(b *testing.B) {
	for name, config := range forms {
		b.Run(name, func(b *testing.B) {
			w := newWorld(b, awsfake.Config{Boot: awsfake.Boot{Shutdown: time.Second}}, nil)
			w.define(config)
			ctx := b.Context()
			n := w.need(5)
			for b.Loop() {
				w.pass(2 * time.Second)
				plan, err := w.p.Plan(ctx, w.now(), n)
				if err != nil {
					b.Fatal(err)
				}
				var list []fleet.Target
				for _, s := range w.p.Launch(ctx, w.now(), plan.Intents[0]).Started {
					list = append(list, fleet.Target{Ref: s.Ref, Idle: true})
				}
				for len(list) > 0 {
					gone, err := w.p.Stop(ctx, w.now(), list, fleet.Now)
					if err != nil {
						b.Fatal(err)
					}
					if len(gone) > 0 {
						break
					}
					w.pass(30 * time.Second)
					if _, err := w.p.Look(ctx, w.now()); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
