package sizing

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func near(got, want time.Duration, part float64) bool {
	return math.Abs(float64(got-want)) <= part*float64(want)
}

func TestBootTimesAreLearntByMarket(t *testing.T) {
	var st Statistics
	if got := st.Boot("", .5); !near(got, 75*time.Second, .05) {
		t.Errorf("someone who knows nothing expects a worker in %s", got)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		st.Booted(noon, "slow", time.Duration(240*math.Exp(.25*rng.NormFloat64())*float64(time.Second)))
		st.Booted(noon, "fast", time.Duration(30*math.Exp(.25*rng.NormFloat64())*float64(time.Second)))
	}
	for class, want := range map[string]time.Duration{"slow": 240 * time.Second, "fast": 30 * time.Second} {
		if got := st.Boot(class, .5); !near(got, want, .08) {
			t.Errorf("half of %s workers register within %s, not %s", class, got, want)
		}
		p95 := time.Duration(float64(want) * math.Exp(.25*1.645))
		if got := st.RegistrationTimeout(class); !near(got, max(3*p95, time.Minute), .12) {
			t.Errorf("%s workers are given up after %s, not three times %s", class, got, p95)
		}
	}
	if got := st.boot(); got < 100 || got > 170 {
		t.Errorf("workers of the pool take %.0f s on the average", got)
	}
}

func TestAWorkerIsGivenAtLeastAMinute(t *testing.T) {
	var st Statistics
	for range 200 {
		st.Booted(noon, "", 5*time.Second)
	}
	if got := st.RegistrationTimeout(""); got != time.Minute {
		t.Errorf("it is given %s", got)
	}
}

func TestDeadBootsAreLearnt(t *testing.T) {
	var st Statistics
	for i := range 400 {
		st.Booted(noon, "good", time.Minute)
		if i%8 == 0 {
			st.Failed(noon, "bad")
		}
	}
	if got := st.dead(""); got < .07 || got > .15 {
		t.Errorf("%.2f of the pool's workers never register, not a ninth", got)
	}
	if good, bad := st.dead("good"), st.dead("bad"); good > .01 || bad != mostDead {
		t.Errorf("%.2f of the good ones and %.2f of the bad ones never register", good, bad)
	}
}

// An outage in which nothing registers starts no flood of workers, and is
// forgotten soon after.
func TestAnOutageIsForgotten(t *testing.T) {
	var st Statistics
	in := Inputs{Now: noon, Settings: Settings{Max: 10_000, WaitPrice: 5}, Pending: 100, OldestPending: noon}
	before := (Forecast{}).Decide(in, &st).Start
	for range 5000 {
		st.Failed(noon, "")
	}
	if during := (Forecast{}).Decide(in, &st).Start; during > 2*before {
		t.Errorf("during the outage it starts %d for 100 tasks, before it %d", during, before)
	}
	for range 500 {
		st.Booted(noon, "", 75*time.Second)
	}
	if got := st.dead(""); got > .02 {
		t.Errorf("500 boots later %.2f are still expected to fail", got)
	}
}

func TestWhatATaskHasLeft(t *testing.T) {
	var st Statistics
	if left, _ := st.Remaining("build", 10*time.Minute); !near(left, 10*time.Minute, .01) {
		t.Errorf("a task of which nothing is known has %s left, not as much as it has run", left)
	}
	for i := range 200 {
		st.Finished(noon, "build", time.Duration(1180+i%40)*time.Second)
		st.Finished(noon, "test", time.Duration(60+i%20)*time.Second)
	}
	left, spread := st.Remaining("build", 15*time.Minute)
	if !near(left, 5*time.Minute, .2) || spread > 90*time.Second {
		t.Errorf("a build that takes 20 minutes and has run for 15 has %s left, give or take %s", left, spread)
	}
	if left, _ := st.Remaining("build", time.Hour); left < 30*time.Minute {
		t.Errorf("a build that runs for longer than any did has %s left", left)
	}
	if left, _ := st.Remaining("lint", 0); left < 5*time.Minute || left > 15*time.Minute {
		t.Errorf("a task of a new kind has %s left, unlike the pool's", left)
	}
}

func TestEndsAreForeseenByKind(t *testing.T) {
	var st Statistics
	for range 200 {
		st.Finished(noon, "long", time.Hour)
		st.Finished(noon, "short", 30*time.Second)
	}
	st.Observe(Inputs{Now: noon})
	since := noon.Add(-10 * time.Second)
	if n := st.ends([]Running{{Kind: "long", Since: since, Count: 100}}, noon); n > 5 {
		t.Errorf("%.1f of 100 tasks of an hour end within a boot time", n)
	}
	if n := st.ends([]Running{{Kind: "short", Since: since, Count: 100}}, noon); n < 90 {
		t.Errorf("%.1f of 100 tasks of half a minute end within a boot time", n)
	}
}

func TestBucketsJoin(t *testing.T) {
	for i := range buckets {
		if low := bucketOf(int64(edges[i]*1000) + 1); low != i {
			t.Errorf("%g s is in bucket %d, not %d", edges[i], low, i)
		}
	}
	for i := range rungs {
		if got := rung(int64(foot(i))); got != i {
			t.Errorf("a rise of %g is on rung %d, not %d", foot(i), got, i)
		}
	}
}

// A pool in which fifty tasks come every four minutes has to learn that.
func TestRisesAreLearnt(t *testing.T) {
	var st Statistics
	at := noon
	for range 500 {
		st.Arrived(at, 50, 0)
		for i := range 16 {
			demand := int64(50)
			if i >= 8 {
				demand = 0
			}
			st.Observe(Inputs{Now: at, Running: []Running{{Count: max(demand, 1)}}})
			at = at.Add(step)
		}
	}
	st.Rises.tidy()
	for _, c := range []struct {
		span int
		n    int64
		low  float64
		high float64
	}{
		{0, 40, .02, .2}, // within a quarter of a minute: one time in sixteen
		{4, 40, .9, 1},   // within four minutes: always, from where demand is low
		{4, 64, 0, .05},  // and never more than that
		{6, 100, 0, .05},
	} {
		low := st.Rises.chance(situations, c.span, c.n, 0)
		if c.span == 4 && c.n == 40 { // half of the time demand is high already
			low *= 2
		}
		if low < c.low || low > c.high {
			t.Errorf("demand rises by %d within %d steps with a probability of %.2f", c.n, 1<<c.span, low)
		}
	}
}
