package sizing

import (
	"container/heap"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// A job is a task of an invented trace.
type job struct{ at, runs time.Duration }

// An outcome is how a policy did.
type outcome struct {
	wait     time.Duration // mean
	longest  time.Duration
	overhead float64 // paid/work - 1
}

// world runs one pool of workers of capacity 1 through a trace: it looks at the
// pool a second after anything has happened. Workers take log-normal boot times
// and are paid from the request. The part dead of them never registers.
func world(p Policy, price float64, jobs []job, boot time.Duration, dead float64) outcome {
	rng := rand.New(rand.NewPCG(1, 1))
	in, st := Inputs{Settings: Settings{Max: 1 << 20, WaitPrice: price}}, &Statistics{}
	var queue []int           // pending jobs
	var idle, boots []*worker // idle: most recently used last
	var busy []*worker
	var due agenda
	var sum, longest, paid, work time.Duration
	now, look := time.Duration(0), time.Duration(math.MaxInt64)
	wake := look
	when := func(d time.Duration) timestamp.Time { return noon.Add(d) }
	begin := func(w *worker, i int) {
		sum, longest = sum+now-jobs[i].at, max(longest, now-jobs[i].at)
		work += jobs[i].runs
		w.since, w.runs = now, jobs[i].runs
		busy = append(busy, w)
		heap.Push(&due, event{now + w.runs, w})
	}
	leave := func(w *worker) { paid += max(now-w.requested, time.Minute) }
	arrived := int64(0)
	for next := 0; next < len(jobs) || len(queue)+len(due)+len(idle) > 0; {
		at := min(look, wake)
		if next < len(jobs) {
			at = min(at, jobs[next].at)
		}
		if len(due) > 0 {
			at = min(at, due[0].at)
		}
		now = at
		if now >= min(look, wake) {
			look, wake = math.MaxInt64, math.MaxInt64
			st.Arrived(when(now), arrived, 0)
			arrived = 0
			in.Now, in.Pending, in.Working, in.OldestPending = when(now), int64(len(queue)), int64(len(busy)), 0
			if len(queue) > 0 {
				in.OldestPending = when(jobs[queue[0]].at)
			}
			in.Idle, in.Booting, in.Running = in.Idle[:0], in.Booting[:0], in.Running[:0]
			for _, w := range slices.Backward(idle) {
				in.Idle = append(in.Idle, Idle{Since: when(w.since)})
			}
			for _, w := range boots {
				in.Booting = append(in.Booting, Booting{Since: when(w.requested)})
			}
			for _, w := range busy {
				in.Running = append(in.Running, Running{Since: when(w.since)})
			}
			d := p.Decide(in, st)
			for range d.Start {
				w := &worker{requested: now, boots: true}
				boots = append(boots, w)
				if w.dead = rng.Float64() < dead; w.dead {
					heap.Push(&due, event{now + st.RegistrationTimeout(""), w})
				} else {
					heap.Push(&due, event{now + time.Duration(float64(boot)*math.Exp(.25*rng.NormFloat64())), w})
				}
			}
			for _, i := range d.Drain {
				w := idle[len(idle)-1-i]
				w.gone = true
				leave(w)
			}
			idle = slices.DeleteFunc(idle, func(w *worker) bool { return w.gone })
			if !d.Wake.IsZero() {
				wake = max(d.Wake.Sub(noon), now+1)
			}
			continue
		}
		for len(due) > 0 && due[0].at <= now {
			w := heap.Pop(&due).(event).w
			if w.boots {
				w.boots = false
				boots = slices.DeleteFunc(boots, func(x *worker) bool { return x == w })
				if w.dead {
					st.Failed(when(now), "")
					leave(w)
					continue
				}
				st.Booted(when(now), "", now-w.requested)
			} else {
				st.Finished(when(now), "", w.runs)
				busy = slices.DeleteFunc(busy, func(x *worker) bool { return x == w })
			}
			w.since = now
			if len(queue) > 0 {
				begin(w, queue[0])
				queue = queue[1:]
			} else {
				idle = append(idle, w)
			}
		}
		for ; next < len(jobs) && jobs[next].at <= now; next++ {
			arrived++
			if n := len(idle); n > 0 {
				begin(idle[n-1], next)
				idle = idle[:n-1]
			} else {
				queue = append(queue, next)
			}
		}
		look = min(look, now+time.Second)
	}
	return outcome{sum / time.Duration(len(jobs)), longest, float64(paid)/float64(work) - 1}
}

type worker struct {
	requested, since, runs time.Duration
	boots, dead, gone      bool
}

type event struct {
	at time.Duration
	w  *worker
}

type agenda []event

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at < a[j].at }
func (a agenda) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)        { *a = append(*a, x.(event)) }
func (a *agenda) Pop() any {
	x := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return x
}

// traces are kinds of work that pools have.
func traces() map[string][]job {
	rng := rand.New(rand.NewPCG(7, 7))
	all := map[string][]job{}
	add := func(name string, at, mean float64) {
		runs := mean * math.Exp(.5*rng.NormFloat64())
		all[name] = append(all[name], job{time.Duration(at * 1e9), time.Duration(runs * 1e9)})
	}
	const day = 86400.
	for at := 0.; at < day; at += 60 * rng.ExpFloat64() {
		add("steady", at, 600)
	}
	for at := 0.; at < 2*day; at += 40 * rng.ExpFloat64() {
		if rng.Float64() < .5-.5*math.Cos(2*math.Pi*at/day) {
			add("by day", at, 900)
		}
	}
	for at := 0.; at < day; at += 600 * rng.ExpFloat64() {
		for range int(30 * rng.ExpFloat64()) {
			add("in bursts", at+2*rng.Float64(), 900)
		}
	}
	for at := 0.; at < day; at += 7200 {
		for range 200 {
			add("in steps", at, 600)
		}
	}
	for at := 0.; at < day; at += 1200 * rng.ExpFloat64() {
		add("now and then", at, 120)
	}
	for _, jobs := range all {
		slices.SortFunc(jobs, func(a, b job) int { return int(a.at - b.at) })
	}
	return all
}

// On none of these kinds of work is there a policy that is better than forecast
// at the same time in waiting and in cost, and all tasks run before long.
func TestForecastIsBestInOneWayOrTheOther(t *testing.T) {
	const boot = 75 * time.Second
	for name, jobs := range traces() {
		var others []outcome
		for _, p := range []Policy{Reactive{}, Ratio{}, WorkerManager{}} {
			others = append(others, world(p, DefaultWaitPrice, jobs, boot, 0))
		}
		for _, price := range []float64{.2, 1, 5, 20} {
			got := world(Forecast{}, price, jobs, boot, 0)
			t.Logf("%s at %g: mean wait %s, longest %s, overhead %.1f %%", name, price, got.wait, got.longest, 100*got.overhead)
			for i, o := range others {
				if o.wait < got.wait && o.overhead < got.overhead {
					t.Errorf("%s at %g: mean wait %s at %.1f %%, and policy %d has %s at %.1f %%", name, price, got.wait, 100*got.overhead, i, o.wait, 100*o.overhead)
				}
			}
			if got.longest > 30*time.Minute {
				t.Errorf("%s at %g: a task waits for %s", name, price, got.longest)
			}
		}
	}
}

// A twentieth of workers that never register makes little difference.
func TestDeadBootsMakeLittleDifference(t *testing.T) {
	jobs := traces()["in bursts"]
	good := world(Forecast{}, DefaultWaitPrice, jobs, 75*time.Second, 0)
	bad := world(Forecast{}, DefaultWaitPrice, jobs, 75*time.Second, .05)
	if float64(bad.wait) > 1.25*float64(good.wait) {
		t.Errorf("the mean wait goes from %s to %s", good.wait, bad.wait)
	}
}

// The wait price is a knob: the higher it is, the less tasks wait, and the more is paid.
func TestTheWaitPriceBuysTime(t *testing.T) {
	jobs := traces()["in bursts"]
	last := outcome{wait: math.MaxInt64, overhead: -1}
	for _, price := range []float64{.2, 1, 5, 20, 80} {
		got := world(Forecast{}, price, jobs, 75*time.Second, 0)
		if got.wait > last.wait || got.overhead < last.overhead {
			t.Errorf("at %g tasks wait for %s at %.1f %%, after %s at %.1f %%", price, got.wait, 100*got.overhead, last.wait, 100*last.overhead)
		}
		last = got
	}
}

// Workers that boot fast or slowly are learnt: no price needs to be changed.
func TestOtherBootTimes(t *testing.T) {
	jobs := traces()["in bursts"]
	for _, boot := range []time.Duration{10 * time.Second, 30 * time.Second, 4 * time.Minute, 15 * time.Minute} {
		got, other := world(Forecast{}, DefaultWaitPrice, jobs, boot, 0), world(Reactive{}, DefaultWaitPrice, jobs, boot, 0)
		if got.wait > other.wait && got.overhead > other.overhead {
			t.Errorf("boots of %s: %s at %.1f %%, and reactive has %s at %.1f %%", boot, got.wait, 100*got.overhead, other.wait, 100*other.overhead)
		}
		if got.longest > 4*boot+time.Minute {
			t.Errorf("boots of %s: a task waits for %s", boot, got.longest)
		}
	}
}
