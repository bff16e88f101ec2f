package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/provisioner/sizing"
	"github.com/taskfleet/taskfleet/timestamp"
)

func TestAnIntentIsRepeatedUntilItIsClear(t *testing.T) {
	w := newWorld(t, "a/b")
	w.pending["a/b"] = 3
	clear := false
	w.answer = func(i *Intent) Answer {
		a := w.start(i)
		if !clear {
			return Answer{Again: true}
		}
		return a
	}
	w.pass(0)
	if len(w.intents) != 1 || len(w.machines) != 3 || w.count("") != 0 {
		t.Fatalf("%d intents, %d machines, %d rows", len(w.intents), len(w.machines), w.count(""))
	}
	w.pass(100 * time.Millisecond)
	if w.launched["i1"] != 1 {
		t.Errorf("it was repeated at once")
	}
	for range 30 {
		w.pass(time.Second)
	}
	if w.launched["i1"] < 4 || w.launched["i1"] > 7 {
		t.Errorf("in half a minute it was sent %d times", w.launched["i1"])
	}
	w.restart() // it is in the books, with when it is to be sent again
	clear = true
	w.pass(time.Minute)
	if len(w.launched) != 1 || len(w.intents) != 0 || len(w.machines) != 3 || w.count(Requested) != 3 {
		t.Errorf("in the end: %d were sent, %d are open, %d machines, %d rows", len(w.launched), len(w.intents), len(w.machines), w.count(Requested))
	}
	w.pass(time.Minute)
	if len(w.machines) != 3 || len(w.complaints) != 0 {
		t.Errorf("later there are %d machines and the complaints %v", len(w.machines), w.kinds())
	}
}

// A worker that is seen, and whose intent is open, wants to register: its row is
// not waited for as long as it may take until a provider is called again.
func TestAWorkerThatIsSeenIsAskedFor(t *testing.T) {
	for _, seen := range []bool{true, false} {
		w := newWorld(t, "a/b")
		w.pending["a/b"] = 1
		w.answer = func(i *Intent) Answer { return Answer{Again: true} }
		for range 70 { // until there is a minute between attempts
			w.pass(time.Second)
		}
		before := w.launched["i1"]
		w.answer = nil
		if seen {
			w.machines[Ref{"a/b", "g", "i1-0"}] = Sighting{Ref: Ref{"a/b", "g", "i1-0"}, IntentID: "i1"}
		}
		w.pass(cameRetry)
		if asked := w.launched["i1"] > before; asked != seen || seen != (w.count(Requested) == 1) {
			t.Errorf("seen: %t; asked for: %t; rows: %d", seen, asked, w.count(Requested))
		}
		if len(w.stopped) > 0 {
			t.Error("it was ended as a stranger")
		}
	}
}

// Two controllers take turns: what one has learnt the other goes by.
func TestWhatAnotherControllerLearntCounts(t *testing.T) {
	w := newWorld(t, "a/b")
	w.Arrived("a/b", w.now, 1, 0)
	w.Arrived("no/pool", w.now, 1, 0)
	if len(w.mind) > 0 {
		t.Error("it learns about pools that nobody has it look after")
	}
	w.pass(0)
	first, m := w.Controller, w.memory("a/b")
	w.pass(time.Second)
	if w.memory("a/b") != m {
		t.Error("it forgets what it has learnt itself")
	}
	w.restart()
	w.pass(time.Second)
	w.Finished("a/b", w.now, "", time.Hour)
	w.pass(2 * keepEvery)
	second := w.memory("a/b")
	w.Controller = first
	w.pass(time.Second)
	m = w.memory("a/b")
	if mean, _ := m.stats.Remaining("", 0); mean != func() time.Duration { d, _ := second.stats.Remaining("", 0); return d }() {
		t.Errorf("it goes on with what it knew: %v", mean)
	}
}

// Busy workers that are too many, or too old, get nothing more and go when they
// are done; nobody has to catch them idle.
func TestBusyWorkersThatAreToGoGetNothingMore(t *testing.T) {
	for why, config := range map[string]string{"may have 1": `{"maxCapacity": 1}`, "the age of 50m": `{"maxCapacity": 3, "lifecycle": {"maxAge": 3000}}`} {
		w := newWorld(t, "a/b")
		w.pending["a/b"] = 3
		for n := range 3 { // one every twenty minutes
			w.pools[0].Config = json.RawMessage(fmt.Sprintf(`{"maxCapacity": %d}`, n+1))
			w.pass(20 * time.Minute)
			w.register()
			for r := range w.workers {
				w.seen[r] = Seen{Claims: 1}
			}
		}
		w.pools[0].Config = json.RawMessage(config)
		w.pass(11 * time.Minute)
		w.pass(2 * time.Second)
		var leaving []*Worker
		for _, x := range w.workers {
			if x.Leave != "" {
				leaving = append(leaving, x)
			}
		}
		want := 2
		if strings.Contains(config, "maxAge") {
			want = 1
		}
		if len(leaving) != want || !strings.Contains(leaving[0].Leave, why) || w.count(Running) != 3 {
			t.Fatalf("%s: %d of %d are to go", why, len(leaving), w.count(Running))
		}
		for _, x := range leaving {
			if w.now.Sub(x.Created) < 30*time.Minute {
				t.Errorf("%s: one goes that is not the oldest", why)
			}
			w.seen[x.Ref] = Seen{Released: w.now}
		}
		w.pass(2 * time.Second)
		if w.count(Running) != 3-want || w.count(Stopping) != want || len(w.stopped) > 0 {
			t.Errorf("%s: when they are done there are %d running and %d stopping, %d ended by force", why, w.count(Running), w.count(Stopping), len(w.stopped))
		}
	}
}

// A pass that takes too long is broken off; each pool has its turn all the same.
func TestEveryPoolHasItsTurn(t *testing.T) {
	w := newWorld(t)
	for i := range 10 {
		w.pending[w.add(fmt.Sprintf("a/p%d", i), `{"maxCapacity": 1}`, &LaunchConfig{ID: "lc-1", Capacity: 1}).ID] = 1
	}
	w.PoolsAtOnce = 1
	for range 5 {
		ctx, cancel := context.WithCancel(t.Context())
		left := 2
		w.answer = func(i *Intent) Answer {
			if left--; left == 0 {
				cancel()
			}
			return w.start(i)
		}
		if _, err := w.Pass(ctx, w.now, nil); err == nil && len(w.machines) < 10 {
			t.Fatal("the pass was not broken off")
		}
		w.now = w.now.Add(2 * time.Second)
	}
	if len(w.machines) != 10 {
		t.Errorf("%d of 10 pools have had a turn", len(w.machines))
	}
}

// A clock that was put back does not keep anything waiting for longer than it
// would have waited anyway.
func TestAClockIsPutBack(t *testing.T) {
	w := newWorld(t, "a/b")
	w.pending["a/b"] = 1
	w.now = w.now.Add(24 * time.Hour)
	w.answer = func(i *Intent) Answer { return Answer{Again: true} }
	w.pass(0)
	w.now, w.answer = w.now.Add(-24*time.Hour), func(i *Intent) Answer { return Answer{Faults: []Fault{{Description: "broken"}}} }
	w.pass(0)
	if len(w.intents) > 0 {
		t.Fatal("the intent waits for a day")
	}
	w.now = w.now.Add(24 * time.Hour)
	w.pass(0)
	w.now, w.answer = w.now.Add(-24*time.Hour), nil
	w.pass(0)
	w.pass(2 * time.Second)
	if w.count(Requested) != 1 {
		t.Error("the launch configuration waits for a day")
	}
}

// What a repetition tells counts in the same pass.
func TestWhatARepetitionTellsIsNotStartedAgain(t *testing.T) {
	for _, broken := range []string{"Answer", ""} {
		w := newWorld(t, "a/b")
		w.pending["a/b"] = 10
		w.broken = broken // the first time
		w.answer = func(i *Intent) Answer {
			a := w.start(i)
			a.Again = broken == "" && w.launched[i.ID] == 1
			return a
		}
		w.pass(0)
		w.broken = ""
		w.pass(10 * time.Second)
		w.pass(10 * time.Second)
		if len(w.machines) != 10 || len(w.launched) != 1 || w.count(Requested) != 10 {
			t.Errorf("%q: there are %d machines of %d intents and %d rows; want 10 of 1 and 10", broken, len(w.machines), len(w.launched), w.count(Requested))
		}
	}
}

func TestAnIntentIsGivenUp(t *testing.T) {
	w := newWorld(t, "a/b")
	w.pending["a/b"] = 2
	w.answer = func(i *Intent) Answer {
		w.start(i)
		return Answer{Again: true}
	}
	w.pass(0)
	for w.intents["i1"] != nil {
		w.pass(5 * time.Second)
		if len(w.machines) > 2 {
			t.Fatalf("%d machines", len(w.machines))
		}
	}
	if !slices.Equal(w.kinds(), []string{KindStart}) || !strings.Contains(w.complaints[0].Description, "gave no clear answer") {
		t.Errorf("complaints: %+v", w.complaints)
	}
	if len(w.intents) > 0 {
		t.Error("others were asked for before what there may be was ended")
	}
	w.answer = nil
	w.pass(5 * time.Second)
	if len(w.stopped) != 2 || len(w.machines) != 2 || w.count(Requested) != 2 {
		t.Errorf("%d strangers were ended, %d machines and %d rows are there", len(w.stopped), len(w.machines), w.count(Requested))
	}
	w.pending["a/b"] = 3

	// That its provider is gone is no reason to keep one for ever.
	w.answer = func(*Intent) Answer { return Answer{Again: true} }
	w.pass(5 * time.Second)
	if len(w.intents) != 1 {
		t.Fatalf("%d intents", len(w.intents))
	}
	delete(w.Providers, "p")
	w.pass(14 * time.Minute)
	if len(w.intents) != 1 {
		t.Error("it was given up too soon")
	}
	w.pass(2 * time.Minute)
	if len(w.intents) != 0 {
		t.Error("it is kept")
	}
}

// A part of what was asked for is there, and it is not clear about the rest.
func TestAPartialAnswer(t *testing.T) {
	w := newWorld(t, "a/b")
	w.pending["a/b"] = 3
	w.answer = func(i *Intent) Answer {
		a := w.start(i)
		if w.launched[i.ID] == 1 {
			a.Started, a.Again = a.Started[:1], true
		}
		return a
	}
	w.pass(0)
	if w.count(Requested) != 1 || len(w.intents) != 1 {
		t.Fatalf("%d rows, %d intents", w.count(Requested), len(w.intents))
	}
	w.register()
	w.pass(5 * time.Second)
	if w.count(Running) != 1 || w.count(Requested) != 2 || len(w.intents) != 0 || len(w.machines) != 3 {
		t.Errorf("%d running, %d requested, %d intents, %d machines", w.count(Running), w.count(Requested), len(w.intents), len(w.machines))
	}
}

func TestFaultsByClass(t *testing.T) {
	for class, want := range map[Class]struct {
		kind  string
		trips bool
		said  int // in half an hour
	}{
		Broken: {KindStart, true, 14}, Wrong: {KindConfig, true, 3}, Denied: {KindAuth, true, 3},
		SoldOut: {KindCapacity, false, 3}, Quota: {KindQuota, false, 3}, Throttled: {KindThrottle, false, 3}, Closing: {"", false, 0},
	} {
		w := newWorld(t, "a/b")
		w.pending["a/b"] = 1
		n := 0
		w.answer = func(i *Intent) Answer {
			n++
			f := Fault{Class: class, Market: "m", Description: fmt.Sprintf("request %d was refused", n), Extra: map[string]any{"x": 1}}
			return Answer{Faults: []Fault{f, f}}
		}
		w.pass(0)
		if c := w.pools[0].LaunchConfigs[0]; (c.Failures > 0) != want.trips || (c.StartAfter > w.now) != want.trips {
			t.Errorf("%s: %d failures, the next start is %v from now", want.kind, c.Failures, c.StartAfter.Sub(w.now))
		}
		for range 30*12 - 1 {
			w.pass(5 * time.Second)
		}
		if kinds := w.kinds(); len(kinds) != want.said || len(kinds) > 0 && kinds[0] != want.kind {
			t.Errorf("%s was said %d times: %v", want.kind, want.said, kinds)
		}
		if want.said > 0 {
			c := w.complaints[0]
			if c.LaunchConfigID != "lc-1" || c.Extra["market"] != "m" || c.Extra["x"] != 1 || !strings.Contains(c.Description, "request 1 was refused") || c.Title == "" {
				t.Errorf("the complaint: %+v", c)
			}
			if want.trips != strings.Contains(c.Description, "The next start is at") {
				t.Errorf("%s: %s", want.kind, c.Description)
			}
		}

		// The owner has changed something: it is said at once if that was no help.
		before := len(w.complaints)
		w.pools[0].LastModified = w.now
		w.pools[0].LaunchConfigs[0] = &LaunchConfig{ID: "lc-1", Capacity: 1}
		w.pass(5 * time.Second)
		if said := len(w.complaints) - before; said != min(want.said, 1) {
			t.Errorf("%s was said %d times after a change", want.kind, said)
		}
	}
}

func TestTheBreaker(t *testing.T) {
	c := &LaunchConfig{ID: "lc-1"}
	at := timestamp.Time(1_000_000)
	for n, wait := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300} {
		say := c.Fail(at)
		if got := c.StartAfter.Sub(at); got != wait*time.Second || c.Failures != int64(n+1) {
			t.Errorf("after failure %d it waits %v, want %v", c.Failures, got, wait*time.Second)
		}
		if !strings.Contains(say, fmt.Sprintf("number %d in a row", n+1)) || !strings.Contains(say, c.StartAfter.String()) {
			t.Error(say)
		}
		c.Fail(at.Add(wait * time.Second / 2)) // of one that was started before
		if c.Failures != int64(n+1) || c.StartAfter.Sub(at) != wait*time.Second {
			t.Errorf("what failed while it waited counts: %+v", c)
		}
		at = c.StartAfter
	}
	c.Failures = 1 << 40
	if c.Fail(at); c.StartAfter.Sub(at) != maxDelay {
		t.Errorf("after very many failures it waits %v", c.StartAfter.Sub(at))
	}
}

func TestWhatWorkersMayBeMadeFrom(t *testing.T) {
	worker := func(lc, state string, proven bool) *Worker {
		return &Worker{ProviderID: "p", LaunchConfigID: lc, State: state, Capacity: 2, Proven: proven}
	}
	const any = 1 << 62
	for name, c := range map[string]struct {
		config   LaunchConfig
		live     []*Worker
		open     []*Intent
		want     int64 // 0: none
		existing int64
	}{
		"a new one":                         {config: LaunchConfig{}, want: any},
		"one that waits":                    {config: LaunchConfig{Failures: 1, StartAfter: 101}, want: 0},
		"one that has waited":               {config: LaunchConfig{Failures: 1, StartAfter: 100}, want: 1},
		"one that is being tried":           {config: LaunchConfig{Failures: 1}, live: []*Worker{worker("lc", Requested, false)}, want: 0, existing: 2},
		"one whose try runs":                {config: LaunchConfig{Failures: 1}, live: []*Worker{worker("lc", Running, false)}, want: 0, existing: 2},
		"one whose try goes":                {config: LaunchConfig{Failures: 1}, live: []*Worker{worker("lc", Stopping, false)}, want: 1, existing: 2},
		"one whose try is on its way":       {config: LaunchConfig{Failures: 1}, open: []*Intent{{LaunchConfigID: "lc", Workers: 1, Capacity: 2}}, want: 0, existing: 2},
		"one whose try may be on its way":   {config: LaunchConfig{Failures: 1}, open: []*Intent{{Workers: 1, Capacity: 2}}, want: 0},
		"one with workers that work":        {config: LaunchConfig{Failures: 1}, live: []*Worker{worker("lc", Running, true)}, want: 1, existing: 2},
		"one with a canary":                 {config: LaunchConfig{Canary: 3}, want: 3},
		"one with a canary that has begun":  {config: LaunchConfig{Canary: 3}, live: []*Worker{worker("lc", Requested, false), worker("lc", Running, false)}, want: 1, existing: 4},
		"one with a canary that is full":    {config: LaunchConfig{Canary: 1}, open: []*Intent{{LaunchConfigID: "lc", Workers: 2, Capacity: 4}}, want: 0, existing: 4},
		"one with a canary that has proven": {config: LaunchConfig{Canary: 3, Proven: true}, live: []*Worker{worker("lc", Running, true)}, want: any, existing: 2},
		"others count for themselves":       {config: LaunchConfig{Canary: 3}, live: []*Worker{worker("other", Running, false)}, want: 3},
	} {
		t.Run(name, func(t *testing.T) {
			c.config.ID = "lc"
			w := newWorld(t)
			p := &pass{Controller: w.Controller, now: 100}
			got := p.candidates(&Pool{ProviderID: "p", LaunchConfigs: []*LaunchConfig{&c.config}}, c.live, c.open)
			if len(got) == 0 {
				if c.want != 0 {
					t.Errorf("none may be made, want %d", c.want)
				}
				return
			}
			if got[0].Workers != c.want && !(c.want == any && got[0].Workers > any) || got[0].Existing != c.existing {
				t.Errorf("%d may be made and capacity %d exists; want %d and %d", got[0].Workers, got[0].Existing, c.want, c.existing)
			}
		})
	}
}

// Each worker counts once, and as what it is good for.
func TestMeasure(t *testing.T) {
	w := newWorld(t)
	o := w.add("a/b", `{"maxCapacity": 100, "minCapacity": 3, "scalingRatio": 0.5, "sizing": {"waitPrice": 2.5, "idleTimeout": 90}}`,
		&LaunchConfig{ID: "lc-4", Capacity: 4}, &LaunchConfig{ID: "lc-2", Capacity: 2})
	seen := map[Ref]Seen{}
	var live []*Worker
	add := func(id, state, lc string, capacity int64, s Seen, change func(*Worker)) {
		x := &Worker{Ref: Ref{"a/b", "g", id}, ProviderID: "p", LaunchConfigID: lc, State: state, Capacity: capacity, Market: "m", Created: 10}
		if state != Requested {
			x.Registered = 100
		}
		if change != nil {
			change(x)
		}
		seen[x.Ref] = s
		live = append(live, x)
	}
	add("boots", Requested, "lc-4", 4, Seen{}, nil)
	add("works", Running, "lc-4", 4, Seen{Claims: 3}, nil)
	add("idle-since-long", Running, "lc-2", 2, Seen{Released: 200}, nil)
	add("idle-since-ever", Running, "lc-2", 2, Seen{}, nil)
	add("idle-since-just-now", Running, "lc-4", 4, Seen{Released: 300}, nil)
	add("goes", Stopping, "lc-4", 8, Seen{Claims: 1}, nil)
	add("taken-away", Stopping, "lc-4", 16, Seen{Claims: 2}, func(x *Worker) { x.Ends = 500 })
	add("quarantined", Running, "lc-4", 32, Seen{Quarantined: true}, nil)
	add("archived", Running, "lc-0", 64, Seen{}, nil)
	add("of-another-provider", Requested, "lc-4", 128, Seen{}, func(x *Worker) { x.ProviderID = "q" })
	p := &pass{Controller: w.Controller, now: 1000, demand: map[string]Demand{
		"a/b": {Pending: 7, Oldest: 900, Running: []sizing.Running{{Count: 6}}, Of: func(r Ref) Seen { return seen[r] }},
	}}
	settings, err := o.Settings()
	if err != nil {
		t.Fatal(err)
	}
	in, idle := p.measure(o, settings, live, []*Intent{{Created: 20, Capacity: 256}})
	if in.Pending != 9 || in.OldestPending != 900 || in.Working != 4 || in.Spare != 1 || in.Stopping != 8+16+32+64+128 || in.Now != 1000 {
		t.Errorf("%+v", in)
	}
	if in.Min != 3 || in.Max != 100 || in.ScalingRatio != .5 || in.WaitPrice != 2.5 || in.IdleTimeout != 90*time.Second || in.CapacityPerWorker != 2 {
		t.Errorf("%+v", in.Settings)
	}
	if want := []sizing.Booting{{Class: "m", Since: 10, Capacity: 4}, {Since: 20, Capacity: 256}}; !slices.Equal(in.Booting, want) {
		t.Errorf("booting %+v, want %+v", in.Booting, want)
	}
	if want := []sizing.Idle{{Since: 300, Capacity: 4}, {Since: 200, Capacity: 2}, {Since: 100, Capacity: 2}}; !slices.Equal(in.Idle, want) {
		t.Errorf("idle %+v, want %+v", in.Idle, want)
	}
	for i, id := range []string{"idle-since-just-now", "idle-since-long", "idle-since-ever"} {
		if idle[i].WorkerID != id {
			t.Errorf("idle %d is %s, want %s", i, idle[i].WorkerID, id)
		}
	}
}

func TestAPassWithoutWork(t *testing.T) {
	w := newWorld(t, "a/b")
	w.pass(0)
	w.pass(time.Hour)
	if len(w.machines)+len(w.complaints) > 0 {
		t.Errorf("%d machines, %v", len(w.machines), w.kinds())
	}
}

// Decisions are made once a second at most.
func TestWhatHappensMeanwhileGathers(t *testing.T) {
	w := newWorld(t, "a/b")
	var woken []timestamp.Time
	w.WakeAt = func(_ string, at timestamp.Time) { woken = append(woken, at) }
	w.pending["a/b"] = 1
	w.pass(0)
	w.pending["a/b"] = 5
	w.pass(400 * time.Millisecond)
	if len(w.machines) != 1 || !slices.Contains(woken, w.now.Add(600*time.Millisecond)) {
		t.Errorf("%d machines, woken at %v", len(w.machines), woken)
	}
	w.pass(600 * time.Millisecond)
	if len(w.machines) != 5 {
		t.Errorf("%d machines", len(w.machines))
	}
	w.pending["a/b"] = 6
	w.now = w.now.Add(-time.Hour) // the clock was wrong, and is set
	w.pass(0)
	if len(w.machines) != 6 {
		t.Errorf("%d machines after the clock was set back", len(w.machines))
	}
}

// Claims go back when a worker has ended, not when that was asked for.
func TestAProviderThatTakesItsTimeToEndWorkers(t *testing.T) {
	w := newWorld(t, "a/b")
	w.pools[0].Config = json.RawMessage(`{"maxCapacity": 1, "lifecycle": {"registrationTimeout": 60}}`)
	w.pending["a/b"] = 1
	w.lingers = true
	w.pass(0)
	w.pass(time.Minute)
	r := w.one().Ref
	if w.count(Stopping) != 1 || len(w.stopped) != 1 || len(w.gone) != 0 || !slices.Equal(w.kinds(), []string{KindRegistration}) {
		t.Fatalf("%d stopping, %d stopped, %d handed back, %v", w.count(Stopping), len(w.stopped), len(w.gone), w.kinds())
	}
	for range 10 {
		w.pass(time.Second)
	}
	if w.count(Stopping) != 1 || len(w.gone) != 0 || len(w.machines) != 1 {
		t.Error("it is taken for gone, or others were started in its place")
	}
	w.machines[r] = Sighting{Ref: r, State: Lost, Detail: "it was ended"}
	w.lingers = false
	w.pass(time.Second)
	if w.workers[r].State != Stopped || !slices.Equal(w.gone, []Ref{r}) || len(w.complaints) != 1 {
		t.Errorf("%s, %v, %v", w.workers[r].State, w.gone, w.kinds())
	}
	if say := w.workers[r].Reason; say != "it did not register within 1m0s" {
		t.Errorf("its reason is: %s", say)
	}
}

func TestWithoutTheQueueNothingStarts(t *testing.T) {
	w := newWorld(t, "a/b")
	w.pending["a/b"] = 1
	w.pass(0)
	w.register()
	w.deaf = errors.New("the queue is down")
	w.pending["a/b"] = 5
	w.pass(20 * time.Second)
	if len(w.machines) != 1 || !w.one().Proven || !slices.Equal(w.kinds(), []string{KindPool}) {
		t.Errorf("%d machines, %v", len(w.machines), w.kinds())
	}
	r := w.one().Ref
	w.machines[r] = Sighting{Ref: r, State: Failed, Detail: "it crashed"}
	w.pass(20 * time.Second)
	if w.one().State != Running {
		t.Error("it was closed before its claims were handed back")
	}
	w.deaf = nil
	w.pass(20 * time.Second)
	if w.workers[r].State != Stopped {
		t.Errorf("it is %s", w.workers[r].State)
	}
}

func TestWhatABlindProviderHasIsLeftAlone(t *testing.T) {
	w := newWorld(t, "a/b")
	w.pending["a/b"] = 1
	w.pass(0)
	w.blind = errors.New("fog")
	w.pending["a/b"] = 5
	w.pass(time.Hour)
	if w.count(Requested) != 1 || len(w.machines) != 1 || len(w.stopped) != 0 || !slices.Equal(w.kinds(), []string{KindPool}) {
		t.Errorf("%d rows, %d machines, %v", w.count(Requested), len(w.machines), w.kinds())
	}
}

// Unknown is neither alive nor dead.
func TestAWorkerThatItsProviderCannotSeeYet(t *testing.T) {
	w := newWorld(t, "a/b")
	w.pending["a/b"] = 1
	w.pass(0)
	r := w.one().Ref
	w.machines[r] = Sighting{Ref: r, State: Unknown}
	w.pass(20 * time.Second)
	if w.count(Requested) != 1 || len(w.stopped) != 0 {
		t.Error("it is taken for dead")
	}
	w.pass(time.Hour)
	if w.workers[r].State != Stopped || len(w.stopped) == 0 {
		t.Errorf("it has not registered and is %s", w.workers[r].State)
	}
}

func TestOnePoolsPanicIsItsOwn(t *testing.T) {
	w := newWorld(t, "a/a", "a/b", "a/c")
	w.panics = "a/b"
	for _, o := range w.pools {
		w.pending[o.ID] = 1
	}
	w.pass(0)
	w.pass(5 * time.Second)
	if len(w.machines) != 2 || !slices.Equal(w.kinds(), []string{KindPool}) || !strings.Contains(w.complaints[0].Description, "as wished") {
		t.Errorf("%d machines, %v", len(w.machines), w.kinds())
	}
	// A provider that cannot end strangers keeps nobody from starting workers.
	w.panics = "stop"
	stranger := Ref{"x/y", "g", "stranger"}
	w.machines[stranger] = Sighting{Ref: stranger}
	w.pending["a/a"] = 2
	w.pass(5 * time.Second)
	if len(w.machines) != 4+1 {
		t.Errorf("%d machines", len(w.machines))
	}
}

// Passes over many pools at once, while the queue tells what happens.
func TestManyPoolsAtOnce(t *testing.T) {
	w := newWorld(t)
	for i := range 50 {
		o := w.add(fmt.Sprintf("a/p%d", i), `{"maxCapacity": 4}`, &LaunchConfig{ID: "lc-1", Capacity: 1})
		w.pending[o.ID] = 4
	}
	w.pass(0)
	var tells sync.WaitGroup
	for i := range 50 {
		tells.Go(func() {
			id := fmt.Sprintf("a/p%d", i)
			for n := range 50 {
				w.Arrived(id, w.now, 1, 0)
				w.Finished(id, w.now, "kind", time.Duration(n)*time.Second)
			}
		})
	}
	start := w.now
	for range 5 {
		if _, err := w.Pass(t.Context(), start, nil); err != nil {
			t.Fatal(err)
		}
		start = start.Add(20 * time.Second)
	}
	tells.Wait()
	if len(w.machines) != 200 || w.count(Requested) != 200 {
		t.Errorf("%d machines, %d rows", len(w.machines), w.count(Requested))
	}
	if len(w.learnt) != 50 {
		t.Errorf("of %d pools it is kept what was learnt", len(w.learnt))
	}
}

// boot has n workers register after d, one after the other, and go.
func (w *world) boot(n int, d time.Duration) {
	for range n {
		w.pending["a/b"] = 1
		w.pass(2 * time.Second)
		w.now = w.now.Add(d)
		w.register()
		w.pending["a/b"] = 0
		w.pass(0)
		for r := range w.machines {
			w.machines[r] = Sighting{Ref: r, State: Exited}
		}
		w.pass(15 * time.Second)
	}
}

func (w *world) patience() time.Duration {
	m := w.memory("a/b")
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stats.RegistrationTimeout("m")
}

func TestHowLongAWorkerMayTakeIsLearnt(t *testing.T) {
	w := newWorld(t, "a/b")
	w.boot(40, 2*time.Minute)
	learnt := w.patience()
	if learnt < 4*time.Minute || learnt > 15*time.Minute {
		t.Errorf("workers that take two minutes may take %v", learnt)
	}
	w.pending["a/b"] = 1
	w.pass(2 * time.Second)
	w.pass(learnt - time.Second)
	if w.count(Requested) != 1 {
		t.Errorf("it was given up before %v", learnt)
	}
	w.pending["a/b"] = 0
	w.pass(time.Second + time.Millisecond)
	if w.count(Requested) != 0 || !slices.Equal(w.kinds(), []string{KindRegistration}) {
		t.Errorf("after %v there are %d requested, %v", learnt, w.count(Requested), w.kinds())
	}

	// The server ends, and another one starts: it knows what was learnt.
	w.pass(2 * time.Minute)
	learnt = w.patience()
	w.restart()
	w.pass(0)
	if again := w.patience(); again != learnt {
		t.Errorf("after a restart workers may take %v, before it %v", again, learnt)
	}

	// Where the owner has said it, that holds.
	w.pools[0].Config = json.RawMessage(`{"maxCapacity": 10, "lifecycle": {"registrationTimeout": 30}}`)
	w.complaints = nil
	w.pending["a/b"] = 1
	w.pass(2 * time.Minute)
	w.pass(30 * time.Second)
	if !slices.Equal(w.kinds(), []string{KindRegistration}) {
		t.Errorf("after half a minute: %v", w.kinds())
	}
}

func TestDecisionsAreKept(t *testing.T) {
	w := newWorld(t, "a/b")
	w.pass(0)
	quiet := len(w.decisions)
	for range 100 {
		w.pass(5 * time.Second)
	}
	if more := len(w.decisions) - quiet; more > 10 {
		t.Errorf("while nothing happened %d decisions were kept", more)
	}
	w.pending["a/b"] = 3
	w.pass(5 * time.Second)
	d := w.decisions[len(w.decisions)-1]
	if d.At != w.now || d.Policy != "ratio" || d.Started != 3 || d.Decision.Start != 3 || d.Inputs.Pending != 3 || d.Inputs.Max != 10 || d.Inputs.Booting != 0 {
		t.Errorf("%+v", d)
	}
	before := len(w.decisions)
	w.pending["a/b"] = 6 // the same number again: another decision
	w.pass(2 * time.Second)
	if d := w.decisions[len(w.decisions)-1]; len(w.decisions) != before+1 || d.Started != 3 || d.Inputs.Booting != 3 {
		t.Errorf("%d decisions, the last %+v", len(w.decisions)-before, d)
	}
}

func TestALostKindOfProvider(t *testing.T) {
	w := newWorld(t, "a/b")
	w.pools[0].ProviderID = "q"
	w.pass(0)
	if !slices.Equal(w.kinds(), []string{KindPool}) || !strings.Contains(w.complaints[0].Description, "one of [p]") {
		t.Errorf("%+v", w.complaints)
	}
	// The same is said again after ten minutes, something else after one.
	w.pass(9 * time.Minute)
	if len(w.complaints) != 1 {
		t.Errorf("%v", w.kinds())
	}
	w.pools[0].ProviderID, w.pools[0].Config = "p", json.RawMessage(`{}`)
	w.pass(5 * time.Second)
	if len(w.complaints) != 2 || !strings.Contains(w.complaints[1].Description, "maxCapacity is missing") {
		t.Errorf("%+v", w.complaints)
	}
	w.pass(10 * time.Minute)
	if len(w.complaints) != 3 {
		t.Errorf("%v", w.kinds())
	}
}

// A worker that fails while others of its time work is bad luck; one that fails
// after all that worked speaks against what it was made from.
func TestBadLuckStopsNoConfiguration(t *testing.T) {
	const early, late, now = 1000, 2000, 500_000
	c := &LaunchConfig{}
	c.Succeed(early)
	if c.Lose(now, early); c.Failures != 0 {
		t.Error("a worker of the same time as one that works stops the configuration")
	}
	if c.Lose(now, late); c.Failures != 1 || !c.Waits(now) {
		t.Errorf("a later one does not: %+v", c)
	}
	c.Succeed(late)
	if c.Failures != 0 || c.Waits(now) {
		t.Errorf("it works, and still waits: %+v", c)
	}
	if c.Fail(now); c.Failures != 1 {
		t.Error("a refusal of the provider does not stop it")
	}
}

func TestAMachineThatGoesDownAfterRegistering(t *testing.T) {
	for lived, failures := range map[time.Duration]int64{3 * time.Second: 1, 5 * time.Minute: 0} {
		w := newWorld(t, "a/b")
		w.pending["a/b"] = 1
		w.pass(0)
		w.register()
		w.pass(2 * time.Second)
		w.pass(lived - 2*time.Second)
		x := w.one()
		m := w.machines[x.Ref]
		m.Ends = w.now
		w.machines[x.Ref] = m
		w.lingers = true
		w.pass(time.Second)
		m.State, m.Detail = Exited, "The instance shut itself down."
		w.machines[x.Ref] = m
		w.lingers = false
		w.pass(time.Second)
		if got := w.pools[0].LaunchConfigs[0].Failures; x.State != Stopped || got != failures {
			t.Errorf("after %v it is %s, with %d failures, want %d", lived, x.State, got, failures)
		}
	}
}

// Tasks may wait for one of a queue that has no pool here. It is not taken to end
// at any moment: nothing is known of it but how long it has run.
func TestWaitingForATaskThatNobodyKnows(t *testing.T) {
	w := newWorld(t, "a/b")
	p := &pass{Controller: w.Controller, now: w.now}
	k := p.foresee(Upcoming{Count: 100, After: []Ahead{{PoolID: "some/where", Since: w.now.Add(-time.Hour)}}})
	if left := k.At.Sub(w.now); left < 30*time.Minute || k.Error < 30*time.Minute || k.Count != 100 {
		t.Errorf("100 tasks that wait for one that has run for an hour are expected in %v, give or take %v", left, k.Error)
	}
}
