package sentry

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/credentials/sentry/sentryapi"
	"github.com/taskfleet/taskfleet/credentials/sentry/sentryfake"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func told(changes []Change) string {
	var list []string
	for _, c := range changes {
		list = append(list, c.Action+" "+c.What+" "+c.Name)
	}
	return strings.Join(list, ", ")
}

func TestAProjectIsBroughtToWhatItShouldBe(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{PageSize: 1})
		for i := range 3 {
			w.fake.AddProject("others", fmt.Sprintf("old-%d", i))
		}
		s := w.start()
		spec := Spec{Project: "queue", Team: "core", Platform: "go", RateLimit: sentryapi.RateLimit{Count: 500, Window: 3600}, AlertEvery: time.Hour}
		const want = "create team core, create project queue, create alert taskfleet: issues of queue, disable key Default"
		plan, err := s.Plan(t.Context(), spec)
		if err != nil || told(plan) != want || len(w.fake.Projects()) != 3 || len(w.fake.Teams()) != 1 {
			t.Errorf("the plan is %s: %v", told(plan), err)
		}
		if text, err := json.Marshal(plan); err != nil || !strings.Contains(string(text), `"platform":"go"`) {
			t.Errorf("it reads %s", text)
		}
		done, err := s.Apply(t.Context(), spec)
		if err != nil || told(done) != want {
			t.Errorf("what was done is %s: %v", told(done), err)
		}
		w.shows("queue", "Default (disabled)")
		if again, err := s.Apply(t.Context(), spec); err != nil || len(again) != 0 {
			t.Errorf("a second time: %s, %v", told(again), err)
		}
		w.dsn(s, "queue")
		if k := w.fake.Keys("queue")[1]; k.Count != 500 {
			t.Errorf("a key has the limit %d", k.Count)
		}

		spec.RateLimit.Count, spec.Platform, spec.Team = 50, "python", "builds"
		const other = "create team builds, update access queue, update platform queue, update limit "
		if plan, err = s.Plan(t.Context(), spec); err != nil || !strings.HasPrefix(told(plan), other) {
			t.Errorf("the plan is %s: %v", told(plan), err)
		}
		if done, err = s.Apply(t.Context(), spec); err != nil || told(done) != told(plan) {
			t.Errorf("what was done is %s: %v", told(done), err)
		}
		if platform, teams := w.fake.Project("queue"); platform != "python" || fmt.Sprint(teams) != "[core builds]" || w.fake.Keys("queue")[1].Count != 50 {
			t.Errorf("the project is of %s, for %s", teams, platform)
		}
		if plan, err = s.Plan(t.Context(), spec); err != nil || len(plan) != 0 {
			t.Errorf("a second time: %s, %v", told(plan), err)
		}

		// Of a project that people have made, nothing is taken away.
		if done, err = s.Apply(t.Context(), Spec{Project: "old-1", AlertEvery: time.Hour}); err != nil || told(done) != "update access old-1, create alert taskfleet: issues of old-1" {
			t.Errorf("what was done is %s: %v", told(done), err)
		}
		w.shows("old-1", "Default")
		for _, bad := range []Spec{{Project: "Queue"}, {Project: "queue", Team: "7"}, {Project: "queue", AlertEvery: time.Minute}, {Project: "queue", RateLimit: sentryapi.RateLimit{Window: 1}}} {
			if _, err := s.Plan(t.Context(), bad); err == nil {
				t.Errorf("%+v is good", bad)
			}
		}
	})
}

// What a Spec leaves to the configuration follows that when it changes.
func TestWhatIsLeftOpenStaysOpen(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{})
		limited := func(n int) *Sentry {
			return w.start(func(s *Settings) { s.RateLimit.Count, s.RateLimit.Window = n, 60 })
		}
		if _, err := limited(500).Apply(t.Context(), Spec{Project: "queue"}); err != nil {
			t.Fatal(err)
		}
		w.dsn(limited(50), "queue")
		if k := w.fake.Keys("queue")[1]; k.Count != 50 {
			t.Errorf("a key has the limit %d", k.Count)
		}
	})
}

// Sentry passes over limits that the plan does not have. Then they are not told to be set,
// each time again.
func TestAPlanWithoutLimits(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{NoLimits: true})
		s := w.start(func(s *Settings) { s.RateLimit.Count, s.RateLimit.Window = 500, 60 })
		w.dsn(s, "queue")
		if !strings.Contains(w.said.String(), "without the limit") {
			t.Error("nothing was said of the limit that is missing")
		}
		if changes, err := s.Apply(t.Context(), Spec{Project: "queue"}); err == nil || !strings.Contains(err.Error(), "leave the rate limit out") || len(changes) != 0 {
			t.Errorf("what was done is %s: %v", told(changes), err)
		}
	})
}

func TestReplicasThatRaceCreateOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{})
		var going sync.WaitGroup
		var mu sync.Mutex
		done := map[string]int{}
		for range 4 {
			s := w.start()
			going.Go(func() {
				changes, err := s.Apply(t.Context(), Spec{Project: "queue", AlertEvery: time.Hour})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				done[told(changes)]++
			})
			going.Go(func() {
				if _, err := s.DSN(t.Context(), "queue"); err != nil {
					t.Error(err)
				}
			})
		}
		going.Wait()
		if len(w.fake.Projects()) != 1 || len(w.fake.Alerts("queue")) > 2 || w.calls("POST", "/teams/") != 2 {
			t.Errorf("they made %q, %d alerts, by %d calls", w.fake.Projects(), len(w.fake.Alerts("queue")), w.calls("POST", "/teams/"))
		}
		w.shows("queue", "Default (disabled)", "taskfleet key")
	})
}

// Whatever goes wrong at any call, the next attempt completes it, and nothing is there
// twice.
func TestAFailureAnywhereIsMadeGood(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{})
		s := w.start()
		for _, f := range []sentryfake.Fault{{Status: 400}, {Status: 500, After: true}, {Cut: true}} {
			for at := 1; ; at++ {
				spec := Spec{Project: fmt.Sprintf("p%d-%d-%t", at, f.Status, f.Cut), Team: fmt.Sprintf("t%d-%d-%t", at, f.Status, f.Cut), AlertEvery: time.Hour, Platform: "go"}
				n := 0
				var lift func()
				faulty := w.start()
				faulty.client = reach(t, w, faulty, func(after bool) {
					if n++; n == 2*at-1 {
						lift = w.fake.Fail(f)
					}
				})
				_, err := faulty.Apply(t.Context(), spec)
				if lift == nil {
					break
				}
				lift()
				if err == nil {
					t.Errorf("%+v at call %d is not told", f, at)
				} else if strings.Contains(err.Error(), w.fake.Token()) {
					t.Errorf("the error has the token: %v", err)
				}
				if _, err := s.Apply(t.Context(), spec); err != nil {
					t.Errorf("after %+v at call %d: %v", f, at, err)
				}
				w.shows(spec.Project, "Default (disabled)")
				if got := w.fake.Alerts(spec.Project); len(got) != 1 {
					t.Errorf("after %+v at call %d the alerts are %q", f, at, got)
				}
				if plan, err := s.Plan(t.Context(), spec); err != nil || len(plan) > 0 {
					t.Errorf("after %+v at call %d there is to do: %s, %v", f, at, told(plan), err)
				}
			}
		}
	})
}
