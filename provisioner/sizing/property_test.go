package sizing

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// experienced makes statistics of a pool that has lived for a few hours.
func experienced(rng *rand.Rand) *Statistics {
	st := &Statistics{}
	for range rng.IntN(200) {
		st.Booted(noon, "a", time.Duration(30+rng.IntN(100))*time.Second)
		st.Finished(noon, []string{"", "build", "test"}[rng.IntN(3)], time.Duration(rng.IntN(2000))*time.Second)
	}
	for range rng.IntN(20) {
		st.Failed(noon, "b")
	}
	for at := noon.Add(-6 * time.Hour); at < noon; at = at.Add(time.Duration(1+rng.IntN(60)) * time.Second) {
		n := max(rng.Int64N(60)-40, 0)
		st.Arrived(at, n, 0)
		st.Observe(Inputs{Now: at, Pending: n, Running: []Running{{Count: 1 + rng.Int64N(30)}}})
	}
	return st
}

func anyInputs(rng *rand.Rand) Inputs {
	per := 1 + rng.Int64N(4)
	in := Inputs{
		Now: noon.Add(time.Duration(rng.IntN(60)) * time.Second),
		Settings: Settings{
			Max: rng.Int64N(300), ScalingRatio: rng.Float64(), CapacityPerWorker: per,
			WaitPrice: []float64{0, .1, 1, 5, 30, 1000}[rng.IntN(6)],
		},
		Stopping: rng.Int64N(20),
	}
	in.Min = rng.Int64N(in.Max + 1)
	if rng.IntN(2) == 0 {
		in.Pending = rng.Int64N(200)
		in.OldestPending = in.Now.Add(-time.Duration(rng.IntN(300)) * time.Second)
	}
	for range rng.IntN(60) {
		in.Idle = append(in.Idle, Idle{Since: in.Now.Add(-time.Duration(rng.IntN(1500)) * time.Second), Capacity: rng.Int64N(5)})
	}
	for range rng.IntN(20) {
		in.Booting = append(in.Booting, Booting{Class: []string{"a", "b", ""}[rng.IntN(3)], Since: in.Now.Add(-time.Duration(rng.IntN(300)) * time.Second), Capacity: rng.Int64N(9)})
	}
	for range rng.IntN(100) {
		in.Running = append(in.Running, Running{Kind: []string{"", "build", "new"}[rng.IntN(3)], Since: in.Now.Add(-time.Duration(rng.IntN(4000)-10) * time.Second), Count: rng.Int64N(3)})
		in.Working += 1 + rng.Int64N(3)
	}
	in.Spare = rng.Int64N(in.Working + 1)
	for range rng.IntN(5) {
		in.Known = append(in.Known, Known{Count: rng.Int64N(50), At: in.Now.Add(time.Duration(rng.IntN(400)-100) * time.Second), Error: time.Duration(rng.IntN(60)) * time.Second})
	}
	return in
}

func live(in Inputs) (n int64) { return supplyOf(in).live }

// Whatever a pool looks like, a decision stays within its limits.
func TestDecisionsStayWithinTheLimits(t *testing.T) {
	for seed := range uint64(1000) {
		rng := rand.New(rand.NewPCG(seed, 1))
		st, in := &Statistics{}, anyInputs(rng)
		if seed%50 == 0 {
			st = experienced(rng)
		}
		for _, p := range Policies() {
			d := p.Decide(in, st)
			before, gone, seen := live(in), int64(0), map[int]bool{}
			for _, i := range d.Drain {
				if i < 0 || i >= len(in.Idle) || seen[i] {
					t.Fatalf("%s, seed %d: drain %v of %d idle workers", p.Name(), seed, d.Drain, len(in.Idle))
				}
				seen[i] = true
				gone += max(in.Idle[i].Capacity, 1)
			}
			per := max(in.CapacityPerWorker, 1)
			switch {
			case d.Start < 0 || d.Start%per != 0:
				t.Fatalf("%s, seed %d: start %d in workers of %d", p.Name(), seed, d.Start, per)
			case d.Start > 0 && before+in.Stopping+d.Start > in.Max:
				t.Fatalf("%s, seed %d: %d and %d stopping and %d more exceed %d", p.Name(), seed, before, in.Stopping, d.Start, in.Max)
			case before-gone < in.Min && gone > 0:
				t.Fatalf("%s, seed %d: %d less %d is below the minimum of %d", p.Name(), seed, before, gone, in.Min)
			case p != WorkerManager{} && before+d.Start-gone < in.Min && before+in.Stopping+d.Start+per <= in.Max:
				t.Fatalf("%s, seed %d: %d and %d more are below the minimum of %d", p.Name(), seed, before-gone, d.Start, in.Min)
			case before-gone > in.Max && d.Excess != before-gone-in.Max:
				t.Fatalf("%s, seed %d: %d of %d, but an excess of %d", p.Name(), seed, before-gone, in.Max, d.Excess)
			case !d.Wake.IsZero() && d.Wake <= in.Now:
				t.Fatalf("%s, seed %d: wakes at %s, and it is %s", p.Name(), seed, d.Wake, in.Now)
			case d.Reason == "" || len(d.Terms) == 0:
				t.Fatalf("%s, seed %d: no reason", p.Name(), seed)
			}
		}
	}
}

// More tasks never mean fewer workers.
func TestMoreTasksStartMoreWorkers(t *testing.T) {
	for seed := range uint64(25) {
		rng := rand.New(rand.NewPCG(seed, 2))
		in := anyInputs(rng)
		in.OldestPending = in.Now
		learnt, _ := json.Marshal(experienced(rng))
		for _, p := range Policies() {
			last := int64(0)
			for in.Pending = 0; in.Pending < 150; in.Pending += 1 + in.Pending/3 {
				var st Statistics // what was seen is the same for all
				if err := json.Unmarshal(learnt, &st); err != nil {
					t.Fatal(err)
				}
				d := p.Decide(in, &st)
				if d.Start < last {
					t.Fatalf("%s, seed %d: %d tasks start %d, fewer than %d", p.Name(), seed, in.Pending, d.Start, last)
				}
				last = d.Start
			}
		}
	}
}

// A task that waits gets a worker within twice the registration timeout, whatever the
// statistics and the price say, as long as there is room.
func TestNothingStarves(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 3))
		st, in := experienced(rng), anyInputs(rng)
		in.Max, in.Stopping = 10_000, 0
		in.Pending = 1 + rng.Int64N(5)
		in.OldestPending = in.Now
		in.Booting = nil // what boots never registers, and is given up
		limit := in.Now.Add(2 * st.RegistrationTimeout(""))
		for _, p := range Policies() {
			in := in
			for {
				d := p.Decide(in, st)
				if d.Start > 0 {
					break
				}
				if in.Now > limit && p.Name() != "ratio" && p.Name() != "worker-manager" {
					t.Fatalf("%s, seed %d: nothing is started for %d tasks: %s", p.Name(), seed, in.Pending, d.Reason)
				} else if in.Now > limit {
					break // those two believe that what is idle works
				}
				in.Now = in.Now.Add(5 * time.Second)
			}
		}
	}
}

// What was learnt survives a restart: the state goes through JSON, and the
// next decision is the same.
func TestStatisticsSurviveARestart(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 4))
		st := experienced(rng)
		text, err := json.Marshal(st)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > 64<<10 {
			t.Errorf("the statistics take %d bytes", len(text))
		}
		var again Statistics
		if err := json.Unmarshal(text, &again); err != nil {
			t.Fatal(err)
		}
		for _, class := range []string{"", "a", "b", "new"} {
			a, b := st.Boot(class, .9), again.Boot(class, .9)
			if (a - b).Abs() > a/100 {
				t.Errorf("class %q boots in %s, after the restart in %s", class, a, b)
			}
		}
		in := anyInputs(rng)
		in.Max, in.Min = 1000, 0
		a, b := (Forecast{}).Decide(in, st), (Forecast{}).Decide(in, &again)
		if diff := a.Start - b.Start; max(diff, -diff) > 1+a.Start/10 {
			t.Errorf("seed %d: start %d, after the restart %d\n%v\n%v", seed, a.Start, b.Start, a.Terms, b.Terms)
		}
	}
}

// A clock that jumps does no harm: nothing is drained or started for it that
// would not be otherwise, and learning goes on.
func TestClocksJump(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 5))
	st := experienced(rng)
	for _, jump := range []time.Duration{-24 * time.Hour, 365 * 24 * time.Hour, -3650 * 24 * time.Hour} {
		in := Inputs{Now: noon.Add(jump), Settings: Settings{Max: 100, WaitPrice: 5}, Pending: 3, OldestPending: noon, Idle: []Idle{{Since: noon}}, Running: []Running{{Since: noon}}, Working: 1}
		if d := (Forecast{}).Decide(in, st); d.Start > 60 {
			t.Errorf("after a jump of %s it starts %d: %s", jump, d.Start, d.Reason)
		}
		before := st.Rises.n
		for i := range 100 {
			in.Now = noon.Add(jump + time.Duration(i)*step)
			(Forecast{}).Decide(in, st)
		}
		if st.Rises.n <= before && st.Rises.n < 90 {
			t.Errorf("after a jump of %s nothing is learnt", jump)
		}
	}
}

func BenchmarkDecide(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, p := range Policies() {
		b.Run(p.Name(), func(b *testing.B) {
			st := experienced(rng)
			in := Inputs{Now: noon, Settings: Settings{Max: 5000, WaitPrice: 5}, Pending: 50, OldestPending: noon, Working: 1000}
			for i := range 1000 {
				in.Running = append(in.Running, Running{Since: noon.Add(-time.Duration(i) * time.Second)})
			}
			for i := range 100 {
				in.Booting = append(in.Booting, Booting{Since: noon.Add(-time.Duration(i/10) * 10 * time.Second)})
			}
			b.ReportAllocs()
			for b.Loop() {
				in.Now += timestamp.Time(time.Second.Milliseconds())
				p.Decide(in, st)
			}
		})
	}
}
