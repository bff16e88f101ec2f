package schedule

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestAJobRunsAtItsDates(t *testing.T) {
	each(t, func(w *world) {
		r := w.start("a")
		w.put(r, Job{Name: "x", Expression: "*/10 * * * *", Doc: "Does x.", Data: []byte(`{"a":1}`)})
		w.until("12:30:30")
		w.want(r, "x", "12:10 done, 12:20 done, 12:30 done")
		if o := w.begun()[0]; string(o.Job.Data) != `{"a":1}` || o.Attempt != 1 || o.Caller != "" || o.Job.Limit != defaultLimit {
			t.Errorf("the occasion was %+v", o)
		}
		list, err := r.runs(w.Context(), "x", timestamp.Max, Done, 1)
		w.check(err)
		if x := list[0]; x.Outcome != "it went well" || x.Replica != "a" || x.Started.Sub(x.Due) > time.Second || x.Ended < x.Started {
			t.Errorf("the run is %+v", x)
		}
	})
}

func TestNobodyRunsADateOfTheOtherReplicas(t *testing.T) {
	each(t, func(w *world) {
		replicas := []*replica{w.start("a"), w.start("b"), w.start("c")}
		for i := range 20 {
			w.put(replicas[i%3], Job{Name: fmt.Sprint("job-", i), Expression: "*/5 * * * *", Jitter: time.Minute})
		}
		w.until("13:00:00")
		time.Sleep(2 * time.Minute)
		if n := len(w.begun()); n != 20*12 {
			t.Errorf("%d runs were begun, want %d", n, 20*12)
		}
	})
}

// A replica is gone; another one has its run again within half a minute.
func TestALostRunIsRunAgain(t *testing.T) {
	each(t, func(w *world) {
		hang := make(chan struct{})
		w.does(func(ctx context.Context, o Occasion) (string, error) {
			if o.Attempt == 1 {
				<-hang // as if the process were gone
				return "too late", nil
			}
			return "again", nil
		})
		a := w.start("a")
		w.put(a, Job{Name: "x", Expression: "10 12 * * *"})
		w.until("12:10:02")
		w.want(a, "x", "12:10 running")
		b := w.start("b")
		a.kill()
		w.until("12:10:32")
		w.want(b, "x", "12:10 done")
		list, err := b.runs(w.Context(), "x", timestamp.Max, "", 1)
		w.check(err)
		if x := list[0]; x.Attempt != 2 || x.Interrupted != 1 || x.Replica != "b" || x.Outcome != "again" {
			t.Errorf("the run is %+v", x)
		}
		close(hang)
		a.cut()
	})
}

// A replica that was taken for dead comes back: what it says does not count.
func TestWhoComesBackFromTheDeadChangesNothing(t *testing.T) {
	each(t, func(w *world) {
		a := w.open("a")
		w.put(a, Job{Name: "x", Expression: "10 12 * * *"})
		b := w.start("b")
		w.does(func(ctx context.Context, o Occasion) (string, error) { return "", sleep(ctx, 10*time.Minute) })
		w.until("12:10:01")
		w.want(b, "x", "12:10 running")
		late := &work{Occasion: w.begun()[0], claim: "that of another attempt", ctx: w.Context()}
		if err := a.conclude(late, "done", nil, false); !errors.Is(err, errLost) {
			t.Errorf("it may write: %v", err)
		}
		w.until("12:15:00")
		w.want(b, "x", "12:10 running")
	})
}

// A replica that cannot renew its lease stops what it runs before others begin it.
func TestARunEndsBeforeItsLease(t *testing.T) {
	each(t, func(w *world) {
		var ended []string
		w.does(func(ctx context.Context, o Occasion) (string, error) {
			err := sleep(ctx, 5*time.Minute)
			w.mu.Lock()
			defer w.mu.Unlock()
			ended = append(ended, time.Now().Format("15:04:05"))
			return "", err
		})
		a := w.start("a")
		w.put(a, Job{Name: "x", Expression: "10 12 * * *"})
		w.until("12:10:07")
		a.kill()
		w.start("b")
		w.until("12:11:00")
		a.cut()
		n := len(w.begun())
		w.mu.Lock()
		defer w.mu.Unlock()
		if n != 2 || len(ended) != 1 || ended[0] > "12:10:21" {
			t.Errorf("begun %d times; the first ended %v", n, ended)
		}
	})
}

func TestAReplicaThatStopsGivesItsRunsBack(t *testing.T) {
	each(t, func(w *world) {
		w.does(func(ctx context.Context, o Occasion) (string, error) { return "", sleep(ctx, time.Minute) })
		a := w.start("a")
		w.put(a, Job{Name: "x", Expression: "10 12 * * *"})
		w.until("12:10:30")
		b := w.start("b")
		a.stop()
		w.until("12:11:45") // begun again within 10 seconds, and that takes a minute
		w.want(b, "x", "12:10 done")
	})
}

func TestRunsOfAJobDoNotOverlap(t *testing.T) {
	for name, c := range map[string]struct {
		catchUp CatchUp
		want    string
	}{
		"none":   {None, "12:05 done, 12:10 missed, 12:15 missed, 12:20 done, 12:25 missed, 12:30 missed, 12:35 running, 12:40 missed, 12:45 missed"},
		"latest": {Latest, "12:05 done, 12:10 missed, 12:15 done, 12:20 missed, 12:25 missed, 12:30 done, 12:35 missed, 12:40 missed, 12:45 running"},
		"all":    {All(10), "12:05 done, 12:10 done, 12:15 done, 12:20 running, 12:25 due, 12:30 due, 12:35 due, 12:40 due, 12:45 due"},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(w *world) {
				running := 0
				w.does(func(ctx context.Context, o Occasion) (string, error) {
					w.mu.Lock()
					running++
					if running > 1 {
						t.Error("two runs at a time")
					}
					w.mu.Unlock()
					err := sleep(ctx, 14*time.Minute)
					w.mu.Lock()
					running--
					w.mu.Unlock()
					return "", err
				})
				r := w.start("a")
				w.start("b")
				w.put(r, Job{Name: "x", Expression: "*/5 * * * *", CatchUp: c.catchUp, Limit: time.Hour})
				w.until("12:48:00")
				w.want(r, "x", c.want)
			})
		})
	}
}

func TestDowntime(t *testing.T) {
	for name, c := range map[string]struct {
		catchUp CatchUp
		want    string
	}{
		"none":     {None, "12:10 done, 12:20 missed, 12:30 missed, 12:40 missed, 12:50 missed, 13:00 done"},
		"latest":   {Latest, "12:10 done, 12:20 missed, 12:30 missed, 12:40 missed, 12:50 done, 13:00 done"},
		"up to 2":  {All(2), "12:10 done, 12:20 missed, 12:30 missed, 12:40 done, 12:50 done, 13:00 done"},
		"up to 99": {All(99), "12:10 done, 12:20 done, 12:30 done, 12:40 done, 12:50 done, 13:00 done"},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(w *world) {
				a := w.start("a")
				w.put(a, Job{Name: "x", Expression: "*/10 * * * *", CatchUp: c.catchUp})
				w.until("12:15:00")
				a.stop()
				w.until("12:55:00")
				b := w.start("b")
				w.until("13:01:00")
				w.want(b, "x", c.want)
			})
			each(t, func(w *world) { // the same by a pause
				a := w.start("a")
				w.put(a, Job{Name: "x", Expression: "*/10 * * * *", CatchUp: c.catchUp})
				w.until("12:15:00")
				w.check(a.Pause(w.Context(), "x", "somebody"))
				w.until("12:55:00")
				w.want(a, "x", "12:10 done")
				if v, err := a.find(w.Context(), "x"); err != nil || v.State != "paused" || v.PausedBy != "somebody" || v.Next.Time().Format("15:04") != "13:00" {
					t.Errorf("paused: %+v, %v", v, err)
				}
				w.check(a.Resume(w.Context(), "x", "somebody"))
				w.until("13:01:00")
				w.want(a, "x", c.want)
			})
		})
	}
}

// After a month there are not thousands of rows.
func TestALongDowntimeIsToldInFewRows(t *testing.T) {
	each(t, func(w *world) {
		a := w.start("a")
		w.put(a, Job{Name: "x", Expression: "* * * * *", CatchUp: Latest})
		a.stop()
		time.Sleep(30 * 24 * time.Hour)
		b := w.start("b")
		time.Sleep(30 * time.Second)
		list, err := b.runs(w.Context(), "x", timestamp.Max, "", 1000)
		w.check(err)
		first := list[len(list)-1]
		if len(list) > 110 || list[0].State != Done || first.State != Missed || !strings.Contains(first.Outcome, "dates before this one were missed, too") {
			t.Errorf("%d rows, the first is %+v, the last is %+v", len(list), first, list[0])
		}
	})
}

func TestRunNow(t *testing.T) {
	each(t, func(w *world) {
		w.does(func(ctx context.Context, o Occasion) (string, error) { return "", sleep(ctx, time.Minute) })
		r := w.start("a")
		w.put(r, Job{Name: "x", Expression: "*/10 * * * *"})
		w.check(r.Pause(w.Context(), "x", "somebody"))
		w.until("12:15:00")
		w.check(r.RunNow(w.Context(), "x", "me"))
		time.Sleep(2 * time.Second)
		w.check(r.RunNow(w.Context(), "x", "you")) // after the first
		w.check(r.RunNow(w.Context(), "x", "me"))  // is the one that waits
		w.until("12:15:30")
		w.want(r, "x", "12:15 running for me, 12:15 due for you")
		w.until("12:19:30")
		w.want(r, "x", "12:15 done for me, 12:15 done for you")
		if err := r.RunNow(w.Context(), "y", "me"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("a job that is not there: %v", err)
		}
	})
}

func TestFailures(t *testing.T) {
	each(t, func(w *world) {
		w.does(func(ctx context.Context, o Occasion) (string, error) {
			switch o.Job.Name {
			case "panics":
				panic("ouch")
			case "heeds":
				<-ctx.Done()
				return "", ctx.Err()
			case "recovers":
				if o.Attempt > 2 {
					return "at last", nil
				}
			case "odd":
				return "", errors.New("a \x00 and \xff" + strings.Repeat("!", 5000))
			}
			return "", errors.New("the wind has blown it over")
		})
		r := w.start("a")
		for _, j := range []Job{
			{Name: "fails"}, {Name: "panics"}, {Name: "odd"},
			{Name: "heeds", Limit: time.Minute},
			{Name: "recovers", Retries: 2, BackOff: 10 * time.Second},
			{Name: "often", Retries: 20, BackOff: time.Minute}, // until 12:20
		} {
			j.Expression = "10,20 12 * * *"
			w.put(r, j)
		}
		w.until("12:19:00")
		is := func(job string) *run {
			list, err := r.runs(w.Context(), job, timestamp.Max, "", 10)
			w.check(err)
			if len(list) != 1 {
				t.Fatalf("%s has %d runs", job, len(list))
			}
			return list[0]
		}
		for job, want := range map[string]struct {
			state   State
			attempt int
			text    string
		}{
			"fails": {Failed, 1, "the wind"}, "panics": {Failed, 1, "panic: ouch"}, "odd": {Failed, 1, "\uFFFD and"},
			"heeds": {Failed, 1, "longer than its limit of 1m0s"}, "recovers": {Done, 3, ""}, "often": {Failed, 4, "the wind"},
		} {
			if x := is(job); x.State != want.state || x.Attempt != want.attempt || !strings.Contains(x.Error, want.text) {
				t.Errorf("%s: %s after %d attempts: %.200s", job, x.State, x.Attempt, x.Error)
			}
		}
		if v, err := r.find(w.Context(), "fails"); err != nil || v.State != "failed" || v.Last == nil {
			t.Errorf("the job that fails: %+v, %v", v, err)
		}
	})
}

// A runner that does not end keeps nobody from going on.
func TestARunnerThatHangsIsGivenUp(t *testing.T) {
	each(t, func(w *world) {
		release := make(chan struct{})
		w.does(func(ctx context.Context, o Occasion) (string, error) { <-release; return "", nil })
		r := w.start("a")
		w.put(r, Job{Name: "x", Expression: "10 12 * * *", Limit: time.Minute})
		w.until("12:12:00")
		w.want(r, "x", "12:10 failed")
		close(release)
	})
}

func TestJobsComeAndChangeAndGo(t *testing.T) {
	each(t, func(w *world) {
		a, b := w.start("a"), w.start("b")
		ctx := w.Context()
		w.put(a, Job{Name: "x", Expression: "*/10 * * * *"})
		w.until("12:15:00")
		w.check(a.Pause(ctx, "x", "somebody"))
		w.put(b, Job{Name: "x", Expression: "*/10 * * * *", Doc: "Something else."}) // stays paused
		w.until("12:25:00")
		w.want(a, "x", "12:10 done")
		w.put(b, Job{Name: "x", Expression: "30 * * * *"}) // dates count from now on
		w.check(a.Resume(ctx, "x", "somebody"))
		w.until("12:35:00")
		w.want(a, "x", "12:10 done, 12:30 done")

		// In a transaction that fails there is none.
		failed := errors.New("no")
		if err := a.db.Do(ctx, func(tx *store.Tx) error {
			return errors.Join(a.PutIn(tx, Job{Name: "y", Kind: "test", Expression: "* * * * *"}), failed)
		}); !errors.Is(err, failed) {
			t.Error(err)
		}
		if _, err := a.Job(ctx, "y"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("the job is there: %v", err)
		}

		// One that goes takes its run along.
		stopped := false
		w.does(func(ctx context.Context, o Occasion) (string, error) {
			<-ctx.Done()
			stopped = true
			return "", ctx.Err()
		})
		w.check(a.RunNow(ctx, "x", "me"))
		time.Sleep(time.Minute)
		w.check(b.Remove(ctx, "x"))
		w.check(b.Remove(ctx, "x"))
		time.Sleep(time.Minute)
		if _, err := a.Job(ctx, "x"); !errors.Is(err, store.ErrNotFound) || !stopped {
			t.Errorf("after it was removed: %v, and its run has ended: %v", err, stopped)
		}
	})
}

func TestAJobThatIsWrong(t *testing.T) {
	each(t, func(w *world) {
		r := w.open("a")
		for want, j := range map[string]Job{
			"the name":       {Name: "a b"},
			"the kind":       {Kind: "/"},
			"the minute is":  {Expression: "60 * * * *"},
			"30 February":    {Expression: "0 0 30 2 *"},
			"IANA name":      {Zone: "Mars/Olympus"},
			"the jitter":     {Jitter: -1},
			"catches up":     {CatchUp: -1},
			"the limit":      {Limit: 25 * time.Hour},
			"retries":        {Retries: 21},
			"before a retry": {BackOff: time.Millisecond},
			"not JSON":       {Data: []byte("{")},
			"the data have":  {Data: []byte(`"` + strings.Repeat("x", largestData) + `"`)},
			"the doc has":    {Doc: strings.Repeat("x", 1001)},
			"2 fields; give": {Expression: "* *"},
		} {
			j.Name, j.Kind, j.Expression = cmp.Or(j.Name, "x"), cmp.Or(j.Kind, "test"), cmp.Or(j.Expression, "* * * * *")
			if err := r.Put(w.Context(), j); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("want %q: %v", want, err)
			}
		}
	})
}

// A replica that does not know the kind of a job leaves it to others.
func TestAReplicaLeavesWhatItDoesNotKnow(t *testing.T) {
	each(t, func(w *world) {
		a, b := w.start("a"), w.start("b")
		b.Handle("new", RunnerFunc(func(context.Context, Occasion) (string, error) { return "", nil }))
		w.check(a.Put(w.Context(), Job{Name: "x", Kind: "new", Expression: "*/10 * * * *"}))
		w.until("12:11:00")
		list, err := a.runs(w.Context(), "x", timestamp.Max, "", 10)
		w.check(err)
		if len(list) != 1 || list[0].State != Done || list[0].Replica != "b" {
			t.Errorf("runs: %+v", list)
		}
		if v, err := a.find(w.Context(), "x"); err != nil || v.State != "no runner" {
			t.Errorf("on the replica that does not know it: %+v, %v", v, err)
		}
	})
}

func TestJitterSpreadsAndIsAgreedOn(t *testing.T) {
	seen := map[timestamp.Time]bool{}
	for i := range 100 {
		j := Job{Name: fmt.Sprint("job-", i), Jitter: 10 * time.Minute}
		at := j.starts(timestamp.Of(noon))
		if late := at.Sub(timestamp.Of(noon)); late < 0 || late >= 10*time.Minute || at != j.starts(timestamp.Of(noon)) {
			t.Errorf("%s starts %v later", j.Name, late)
		}
		seen[at/60_000] = true
	}
	if len(seen) != 10 {
		t.Errorf("a hundred jobs start in %d of ten minutes", len(seen))
	}
	j := Job{Name: "x", Jitter: time.Hour}
	if j.starts(timestamp.Of(noon)).Sub(timestamp.Of(noon)) == j.starts(timestamp.Of(noon.Add(time.Hour))).Sub(timestamp.Of(noon.Add(time.Hour))) {
		t.Error("the jitter is the same for all dates")
	}
}

func TestHistoryIsBounded(t *testing.T) {
	each(t, func(w *world) {
		r := w.start("a")
		w.put(r, Job{Name: "x", Expression: "0 0 * * *"})
		now := timestamp.Now()
		w.check(r.db.Do(w.Context(), func(tx *store.Tx) error {
			var rows [][]any
			for i := range mostRuns + 100 {
				rows = append(rows, []any{"x", now.Add(-time.Duration(i+1) * time.Minute), now})
			}
			_, err := tx.ExecRows(`INSERT INTO schedule_run (job, due, ended, caller, state, starts, attempt, failures, interrupted, claim, replica, expires, started, outcome, error)
				VALUES /*row*/($1, $2, $3, '', 'done', 0, 1, 0, 0, '', '', 0, 0, '', '')/*row*/`, rows)
			return err
		}))
		count := func() (n int) {
			w.check(r.db.ViewOnce(w.Context(), func(tx *store.Tx) error {
				return tx.QueryRow(`SELECT count(*) FROM schedule_run WHERE job = 'x'`).Scan(&n)
			}))
			return n
		}
		w.check(r.RunNow(w.Context(), "schedule.tidy", "me"))
		time.Sleep(time.Minute)
		if n := count(); n != mostRuns {
			t.Errorf("%d runs are left", n)
		}
		r.stop()
		time.Sleep(91 * 24 * time.Hour)
		r = w.start("b")
		w.check(r.RunNow(w.Context(), "schedule.tidy", "me"))
		time.Sleep(time.Minute)
		if n := count(); n > 100 { // those that were missed
			t.Errorf("%d runs are left after 91 days", n)
		}
	})
}

func TestMetrics(t *testing.T) {
	each(t, func(w *world) {
		w.does(func(ctx context.Context, o Occasion) (string, error) {
			if o.Due.Time().Minute() == 20 {
				return "", errors.New("no")
			}
			return "", nil
		})
		r := w.start("a")
		w.put(r, Job{Name: "x", Expression: "*/10 * * * *"})
		w.until("12:31:00")
		families, err := r.registry.Gather()
		w.check(err)
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				name := f.GetName()
				for _, l := range m.Label {
					name += " " + l.GetValue()
				}
				got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
		for name, want := range map[string]float64{
			"taskfleet_schedule_runs_total test done": 2, "taskfleet_schedule_runs_total test failed": 1,
			"taskfleet_schedule_run_seconds test": 3, "taskfleet_schedule_delay_seconds test": 3,
			"taskfleet_schedule_last_success_timestamp_seconds test": float64(noon.Add(30 * time.Minute).Unix()),
		} {
			if got[name] < want || got[name] > want+1 {
				t.Errorf("%s = %v, want %v", name, got[name], want)
			}
		}
	})
}

// A job that a replica cannot make sense of any more keeps no other from running.
func TestAJobWithoutDatesIsLeftOut(t *testing.T) {
	each(t, func(w *world) {
		r := w.start("a")
		w.put(r, Job{Name: "x", Expression: "*/10 * * * *"})
		w.put(r, Job{Name: "y", Expression: "*/10 * * * *"})
		w.check(r.db.Do(w.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`UPDATE schedule_job SET zone = 'Europe/Atlantis' WHERE name = 'x'`)
			return err
		}))
		w.until("12:21:00")
		w.want(r, "x", "")
		w.want(r, "y", "12:10 done, 12:20 done")
	})
}

// More jobs than there is room for are run one after another.
func TestThereAreSoManySlots(t *testing.T) {
	each(t, func(w *world) {
		running, most := 0, 0
		w.does(func(ctx context.Context, o Occasion) (string, error) {
			w.mu.Lock()
			running++
			most = max(most, running)
			w.mu.Unlock()
			err := sleep(ctx, 10*time.Second)
			w.mu.Lock()
			running--
			w.mu.Unlock()
			return "", err
		})
		r := w.start("a")
		for i := range 40 {
			w.put(r, Job{Name: fmt.Sprint("job-", i), Expression: "10 12 * * *"})
		}
		w.until("12:11:00")
		if most != 16 || len(w.begun()) != 40 {
			t.Errorf("%d runs, %d at a time", len(w.begun()), most)
		}
	})
}
