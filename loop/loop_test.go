package loop_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/loop"
)

func newRunner(lease loop.Lease) *loop.Runner {
	return loop.NewRunner(slog.New(slog.DiscardHandler), lease, prometheus.NewRegistry())
}

// start runs loops until the test ends or stop is called.
func start(t *testing.T, r *loop.Runner, loops ...loop.Loop) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx, loops...); close(done) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// times records when passes ran, as time since the test's beginning.
type times struct {
	start time.Time
	mu    sync.Mutex
	all   []time.Duration
}

func newTimes() *times { return &times{start: time.Now()} }

func (ts *times) pass(context.Context) (bool, error) {
	ts.add()
	return false, nil
}

func (ts *times) add() {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.all = append(ts.all, time.Since(ts.start))
}

func (ts *times) want(t *testing.T, want ...time.Duration) {
	t.Helper()
	synctest.Wait()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if fmt.Sprint(ts.all) != fmt.Sprint(want) {
		t.Errorf("passes at %v, want %v", ts.all, want)
	}
}

func (ts *times) count() int {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return len(ts.all)
}

const h = time.Hour

func TestRunsAtOnceAndAtItsInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ran := newTimes()
		start(t, newRunner(loop.Alone), loop.Loop{Name: "x", When: loop.Every(h), Pass: ran.pass})
		time.Sleep(3*h + time.Minute)
		ran.want(t, 0, h, 2*h, 3*h)
	})
}

func TestCronRunsAtTimesOfTheDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at midnight UTC
		time.Sleep(h)
		ran := newTimes()
		r := newRunner(loop.Alone)
		start(t, r, loop.Loop{Name: "x", When: loop.MustCron("30 3,15 * * *"), Pass: ran.pass})
		synctest.Wait()
		if s := r.Status()[0]; s.Schedule != "cron 30 3,15 * * * UTC" || s.NextDue.Format(time.TimeOnly) != "03:30:00" {
			t.Errorf("status: %+v", s)
		}
		time.Sleep(24 * h)
		ran.want(t, 2*h+30*time.Minute, 14*h+30*time.Minute)
	})
}

func TestScheduleMistakes(t *testing.T) {
	for _, spec := range []string{"", "* * * *", "61 * * * *", "@sometimes", "TZ=Europe/Berlin 0 3 * * *"} {
		if _, err := loop.ParseCron(spec); err == nil || !strings.Contains(err.Error(), "cron") {
			t.Errorf("ParseCron(%q): %v", spec, err)
		}
	}
	pass := newTimes().pass
	for name, loops := range map[string][]loop.Loop{
		"no name":     {{When: loop.Every(h), Pass: pass}},
		"no pass":     {{Name: "a", When: loop.Every(h)}},
		"no schedule": {{Name: "a", Pass: pass}},
		"no interval": {{Name: "a", When: loop.Every(0), Pass: pass}},
		"no cron":     {{Name: "a", When: loop.Cron{}, Pass: pass}},
		"twice":       {{Name: "a", When: loop.Every(h), Pass: pass}, {Name: "a", When: loop.Every(h), Pass: pass}},
	} {
		if err := newRunner(loop.Alone).Run(t.Context(), loops...); err == nil {
			t.Errorf("%s: Run accepted it", name)
		}
	}
}

func TestDrainsWhileThereIsMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ran := newTimes()
		queue := 3
		start(t, newRunner(loop.Alone), loop.Loop{Name: "x", When: loop.Every(h), Pass: func(ctx context.Context) (bool, error) {
			queue--
			return queue > 0, ctx.Err()
		}}, loop.Loop{Name: "y", When: loop.Every(h), Pass: ran.pass})
		synctest.Wait()
		if queue != 0 {
			t.Errorf("%d left", queue)
		}
		ran.want(t, 0)
	})
}

func TestWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ran := newTimes()
		wake := make(chan struct{}, 1)
		proceed := make(chan struct{})
		start(t, newRunner(loop.Alone), loop.Loop{Name: "x", When: loop.Every(h), Wake: wake, Pass: func(ctx context.Context) (bool, error) {
			ran.add()
			<-proceed
			return false, nil
		}})
		synctest.Wait()
		wake <- struct{}{} // while the first pass runs, which may have looked already
		proceed <- struct{}{}
		ran.want(t, 0, 0)
		proceed <- struct{}{}
		time.Sleep(time.Minute)
		wake <- struct{}{}
		ran.want(t, 0, 0, time.Minute)
		close(wake)
		close(proceed)
		time.Sleep(h)
		ran.want(t, 0, 0, time.Minute, time.Minute+h)
	})
}

func TestWakesKeepThePaceOnceThereWereMany(t *testing.T) {
	const interval = 20 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		wake := make(chan struct{}, 1)
		passed := make(chan struct{})
		start(t, newRunner(loop.Alone), loop.Loop{Name: "test", When: loop.Every(time.Hour), Wake: wake, Pace: interval, Pass: func(context.Context) (bool, error) {
			passed <- struct{}{}
			return false, nil
		}})
		<-passed // the one at the start
		passes := func(n int) time.Duration {
			began := time.Now()
			for range n {
				wake <- struct{}{}
				<-passed
			}
			return time.Since(began)
		}
		if d := passes(200); d > 0 {
			t.Errorf("200 passes took %s", d)
		}
		if d := passes(100); d != 100*interval {
			t.Errorf("100 more took %s", d)
		}
		time.Sleep(10 * interval)
		if d := passes(10); d > 0 {
			t.Errorf("10 passes took %s after a pause for as many", d)
		}
	})
}

// What goes wrong is one line of the log, as each is an event elsewhere.
func TestAPanicIsLoggedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		r := loop.NewRunner(slog.New(slog.NewTextHandler(&log, nil)), loop.Alone, prometheus.NewRegistry())
		stop := start(t, r, loop.Loop{Name: "x", When: loop.Every(time.Hour), Pass: func(context.Context) (bool, error) { panic("boom") }})
		synctest.Wait()
		stop()
		if s := log.String(); strings.Count(s, "level=ERROR") != 1 || !strings.Contains(s, "boom") || !strings.Contains(s, "goroutine") {
			t.Errorf("the log has\n%s", s)
		}
	})
}

func TestBacksOffUntilItSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ran := newTimes()
		var broken atomic.Bool
		broken.Store(true)
		r := newRunner(loop.Alone)
		start(t, r, loop.Loop{Name: "x", When: loop.Every(time.Second), Pass: func(context.Context) (bool, error) {
			ran.add()
			switch {
			case broken.Load() && ran.count()%2 == 0:
				panic("boom")
			case broken.Load():
				return true, errors.New("no luck")
			}
			return false, nil
		}})
		synctest.Wait()
		if s := r.Status()[0]; s.State != loop.BackingOff || s.LastError != "no luck" || s.Failures != 1 || !s.NextDue.After(time.Now()) {
			t.Errorf("after a failure: %+v", s)
		}
		time.Sleep(12 * time.Minute)
		synctest.Wait()
		n := ran.count()
		if n < 14 || n > 32 {
			t.Errorf("%d passes in 12 minutes of failing, want about one each 30 to 60 seconds", n)
		}
		if s := r.Status()[0]; s.Failures != int64(n) || s.Passes != int64(n) {
			t.Errorf("after %d failures: %+v", n, s)
		}
		broken.Store(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := r.Status()[0]; s.State != loop.Idle || s.LastError != "" || s.Failures != int64(n) {
			t.Errorf("once it succeeded: %+v", s)
		}
		if got := ran.count() - n; got < 60 {
			t.Errorf("%d passes after it succeeded, want one a second again", got)
		}
	})
}

// Whoever wakes a loop does not know that it fails: many wakes are no reason
// to fail faster.
func TestWakeDoesNotCutABackoffShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ran := newTimes()
		wake := make(chan struct{}, 1)
		start(t, newRunner(loop.Alone), loop.Loop{Name: "x", When: loop.Every(h), Wake: wake, Pass: func(context.Context) (bool, error) {
			ran.add()
			if ran.count() == 1 {
				return false, errors.New("no luck")
			}
			return false, nil
		}})
		synctest.Wait()
		wake <- struct{}{}
		ran.want(t, 0)
		time.Sleep(time.Second)
		synctest.Wait()
		if n := ran.count(); n != 2 {
			t.Errorf("%d passes, want one after the back-off, which the wake needs no other than", n)
		}
	})
}

func TestLimitEndsAPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(loop.Alone)
		start(t, r, loop.Loop{Name: "x", When: loop.Every(h), Limit: time.Minute, Pass: func(ctx context.Context) (bool, error) {
			<-ctx.Done()
			return false, ctx.Err()
		}})
		time.Sleep(time.Minute)
		synctest.Wait()
		if s := r.Status()[0]; s.State != loop.BackingOff || !strings.Contains(s.LastError, "longer than 1m0s") || s.LastDuration != time.Minute {
			t.Errorf("status: %+v", s)
		}
	})
}

func TestRunReturnsAfterItsPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(loop.Alone)
		returned := false
		stop := start(t, r, loop.Loop{Name: "x", When: loop.Every(h), Pass: func(ctx context.Context) (bool, error) {
			<-ctx.Done()
			time.Sleep(time.Second) // cleans up
			returned = true
			return true, ctx.Err()
		}})
		synctest.Wait()
		stop()
		if !returned {
			t.Error("Run returned before the pass")
		}
		if s := r.Status()[0]; s.State != loop.Stopped || s.Failures != 0 || s.LastError != "" {
			t.Errorf("a pass that was told to stop counts as a failure: %+v", s)
		}
	})
}

func TestStatus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRunner(loop.Alone)
		start(t, r,
			loop.Loop{Name: "b", Doc: "Does b.", When: loop.Every(h), Pass: func(context.Context) (bool, error) { time.Sleep(time.Minute); return false, nil }},
			loop.Loop{Name: "a", When: loop.Every(2 * h), Pass: func(context.Context) (bool, error) { return false, nil }})
		began := time.Now()
		synctest.Wait()
		s := r.Status()
		if len(s) != 2 || s[0].Name != "a" || s[0].State != loop.Idle || !s[0].NextDue.Equal(began.Add(2*h)) || s[0].Passes != 1 {
			t.Errorf("a: %+v", s[0])
		}
		if s[1].Doc != "Does b." || s[1].Schedule != "every 1h0m0s" || s[1].State != loop.Running || !s[1].LastStart.Equal(began) || !s[1].NextDue.IsZero() {
			t.Errorf("b while it runs: %+v", s[1])
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if b := r.Status()[1]; b.State != loop.Idle || b.LastDuration != time.Minute || !b.NextDue.Equal(began.Add(time.Minute+h)) {
			t.Errorf("b after it ran: %+v", b)
		}
	})
}

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		n := 0
		start(t, loop.NewRunner(slog.New(slog.DiscardHandler), loop.Alone, registry), loop.Loop{Name: "x", When: loop.Every(h), Pass: func(context.Context) (bool, error) {
			if n++; n == 2 {
				return false, errors.New("no")
			}
			return false, nil
		}})
		time.Sleep(h + time.Minute)
		synctest.Wait()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				name := f.GetName()
				for _, l := range m.GetLabel() {
					name += " " + l.GetValue()
				}
				got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		for name, want := range map[string]float64{
			"taskfleet_loop_passes_total x ok":    2,
			"taskfleet_loop_passes_total x error": 1,
			"taskfleet_loop_pass_seconds x":       3,
			"taskfleet_loop_held x":               1,
		} {
			if got[name] != want {
				t.Errorf("%s = %v, want %v (all: %v)", name, got[name], want, got)
			}
		}
	})
}
