package sentry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/credentials/sentry/sentryfake"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestAProjectIsCreatedWhenItIsAskedFor(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{PageSize: 1})
		s := w.start(func(s *Settings) {
			s.Platform, s.RateLimit.Count, s.RateLimit.Window, s.AlertEvery = "go", 1000, 60, 30*time.Minute
		})
		d := w.dsn(s, "queue")
		if platform, teams := w.fake.Project("queue"); platform != "go" || fmt.Sprint(teams) != "[builds]" {
			t.Errorf("the project is of %s, for %s", teams, platform)
		}
		if got := w.fake.Alerts("queue"); fmt.Sprint(got) != "[taskfleet: issues of queue]" {
			t.Errorf("its alerts are %q", got)
		}
		w.shows("queue", "Default (disabled)", "taskfleet key")
		if k := w.fake.Keys("queue")[1]; k.DSN != d.Public || k.Count != 1000 || k.Window != 60 {
			t.Errorf("the key is %s, with the limit %d in %d seconds", k.Name, k.Count, k.Window)
		}
		if !w.takes(s, d.Public) || !strings.Contains(d.Secret, "@") || len(d.Secret) <= len(d.Public) {
			t.Error("the address does not work")
		}
		if left := time.Until(d.Expires); left < 47*time.Hour || left > 48*time.Hour {
			t.Errorf("it is valid for %s", left)
		}
		time.Sleep(24*time.Hour + time.Minute)
		w.pass(s, "sentry.expiry")
		w.shows("queue", "taskfleet key") // the other one has had its day
		before := len(w.fake.Calls())
		s = w.start()
		if _, err := s.DSN(t.Context(), "A.b"); !isCode(err, api.InvalidRequestArguments) {
			t.Errorf("a bad name: %v", err)
		}
		if len(w.fake.Calls()) != before {
			t.Error("Sentry was asked for a bad name")
		}
	})
}

func isCode(err error, code api.Code) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Code == code
}

// A month with a caller every day: what he has got yesterday works, and nothing is left.
func TestKeysAreReplacedWhileOldOnesWork(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{PageSize: 2, Skew: -3 * time.Hour})
		w.fake.AddProject("others", "queue")
		s := w.start()
		var yesterday DSN
		seen := map[string]bool{}
		for range 20 {
			d := w.dsn(s, "queue")
			seen[d.Public] = true
			if left := time.Until(d.Expires); left < 24*time.Hour || left > 48*time.Hour {
				t.Errorf("it is valid for %s", left)
			}
			for _, x := range []DSN{yesterday, d} {
				if x.Public != "" && !w.takes(s, x.Public) {
					t.Error("an address does not work within a day")
				}
			}
			yesterday = d
			for range 4 {
				time.Sleep(6 * time.Hour)
				w.pass(s, "sentry.expiry")
			}
		}
		if len(seen) < 18 {
			t.Errorf("in 20 days there were %d keys", len(seen))
		}
		if n := len(w.fake.Keys("queue")); n > 5 {
			t.Errorf("there are %d keys", n)
		}
		for range 20 {
			time.Sleep(6 * time.Hour)
			w.pass(s, "sentry.expiry")
		}
		w.shows("queue", "Default") // which people have made, and may use
		if w.takes(s, yesterday.Public) {
			t.Error("what was given out days ago works")
		}
	})
}

func TestAThousandCallersGetOneKey(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{PageSize: 2})
		replicas := []*Sentry{w.start(), w.start(), w.start()}
		var going sync.WaitGroup
		var mu sync.Mutex
		got := map[string]int{}
		for i := range 1000 {
			going.Go(func() {
				d, err := replicas[i%len(replicas)].DSN(t.Context(), "queue")
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					got[err.Error()]++
				}
				got[d.Public]++
			})
		}
		going.Wait()
		if len(got) != 1 {
			t.Errorf("they got %v", got)
		}
		w.shows("queue", "Default (disabled)", "taskfleet key")
		if n := w.calls("POST", "/projects/"); n != 2 { // the project and the key
			t.Errorf("%d things were created", n)
		}
	})
}

// A process that ends at any call, and answers that are lost, leave one key.
func TestACrashLeavesNoOrphan(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{})
		for at := 1; ; at++ {
			project := fmt.Sprintf("queue-%d", at)
			ctx, crash := context.WithCancel(t.Context())
			s := w.start()
			n := 0
			s.client = reach(t, w, s, func(after bool) {
				if after {
					n++
				}
				if n == at && after {
					crash()
				}
			})
			_, err := s.DSN(ctx, project)
			crash()
			if err == nil {
				break
			}
			s = w.start()
			d := w.dsn(s, project)
			w.shows(project, "Default (disabled)", "taskfleet key")
			if !w.takes(s, d.Public) {
				t.Errorf("after a crash at call %d the address does not work", at)
			}
		}
		for range 2 {
			time.Sleep(24 * time.Hour)
			w.pass(w.start(), "sentry.expiry")
		}
		for _, project := range w.fake.Projects() {
			w.shows(project, "taskfleet key")
		}

		for i, f := range []sentryfake.Fault{
			{Method: "POST", Path: "/projects/", Status: 502, After: true, Times: 1},
			{Method: "POST", Path: "/keys/", Status: 502, After: true, Times: 1},
			{Method: "POST", Path: "/keys/", Cut: true, After: true, Times: 2},
			{Method: "PUT", Path: "/keys/", Status: 500, After: true, Times: 2},
			{Method: "GET", Status: 503, Times: 3},
			{Status: 429, RetryAfter: "3", Times: 3},
			{Method: "GET", Path: "/keys/", Body: "<html>", Status: 504, Times: 2},
		} {
			project, s := fmt.Sprintf("fault-%d", i), w.start()
			lift := w.fake.Fail(f)
			d, err := s.DSN(t.Context(), project)
			if lift(); err != nil {
				t.Errorf("with the fault %+v: %v", f, err)
				continue
			}
			w.shows(project, "Default (disabled)", "taskfleet key")
			if !w.takes(s, d.Public) {
				t.Errorf("with the fault %+v the address does not work", f)
			}
		}
	})
}

// A list that fails creates nothing; what there is is given out as long as it works.
func TestSentryIsAway(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{})
		s := w.start()
		for _, status := range []int{500, 403, 401, 503} {
			lift := w.fake.Fail(sentryfake.Fault{Method: "GET", Status: status, Body: `{"detail":"no ` + w.fake.Token() + `"}`})
			begun := len(w.fake.Calls())
			var going sync.WaitGroup
			for range 50 {
				going.Go(func() {
					if _, err := s.DSN(t.Context(), "queue"); !isCode(err, api.ServiceUnavailable) || strings.Contains(err.Error(), w.fake.Token()) {
						t.Errorf("%d: %v", status, err)
					}
				})
			}
			going.Wait()
			if n := len(w.fake.Calls()) - begun; n > 4 {
				t.Errorf("%d: 50 callers made %d calls", status, n)
			}
			lift()
			time.Sleep(failedFor)
		}
		if n := w.calls("POST", ""); n != 0 || len(w.fake.Projects()) != 0 {
			t.Errorf("%d things were created", n)
		}
		d := w.dsn(s, "queue")
		lift := w.fake.Fail(sentryfake.Fault{Status: 500})
		time.Sleep(40 * time.Hour)
		if got := w.dsn(s, "queue"); got != d {
			t.Error("while Sentry is away another address is given out")
		}
		time.Sleep(7*time.Hour + 30*time.Minute)
		if _, err := s.DSN(t.Context(), "queue"); err == nil {
			t.Error("an address is given out that ends soon")
		}
		lift()
		time.Sleep(failedFor)
		if got := w.dsn(w.start(), "queue"); got == d || !w.takes(s, got.Public) {
			t.Error("there is no new address")
		}
		w.pass(s, "sentry.reseal")
		if !strings.Contains(w.said.String(), "no new Sentry key could be made") {
			t.Error("nothing was said of it")
		}
	})
}

// A server that does not answer at all costs nobody the address that is there.
func TestSentryHangs(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{})
		s := w.start()
		d := w.dsn(s, "queue")
		time.Sleep(24 * time.Hour)
		lift := w.fake.Fail(sentryfake.Fault{Status: 504, Delay: time.Hour})
		for range 2 { // as long as clients wait
			ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
			if got, err := s.DSN(ctx, "queue"); err != nil || got != d {
				t.Errorf("while Sentry hangs: %v", err)
			}
			stop()
		}
		lift()
		time.Sleep(failedFor)
		if w.dsn(s, "queue") == d {
			t.Error("there is no new address")
		}
	})
}

// Where many keys are due at once, some are made in each round, and nobody waits for long.
func TestManyKeysAreDueAtOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{})
		s := w.start()
		const projects = 40
		for i := range projects {
			w.fake.AddProject("builds", fmt.Sprintf("project-%02d", i))
			w.dsn(s, fmt.Sprintf("project-%02d", i))
		}
		time.Sleep(24 * time.Hour)
		for range 4 {
			var going sync.WaitGroup
			for _, name := range w.fake.Projects() {
				going.Go(func() {
					begun := time.Now()
					if _, err := s.DSN(t.Context(), name); err != nil || time.Since(begun) > 20*time.Second {
						t.Errorf("after %s: %v", time.Since(begun), err)
					}
				})
			}
			going.Wait()
			time.Sleep(failedFor)
		}
		for _, name := range w.fake.Projects() {
			w.shows(name, "Default", "taskfleet key", "taskfleet key")
		}
	})
}

// Of what fails here callers are told nothing.
func TestFailuresOfTheDatabaseAreForTheLog(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{})
		s := w.start()
		if err := db.Do(t.Context(), func(tx *store.Tx) error { _, err := tx.Exec(`DROP TABLE sentry_pace`); return err }); err != nil {
			t.Fatal(err)
		}
		if _, err := s.DSN(t.Context(), "queue"); !isCode(err, api.ServiceUnavailable) || strings.Contains(err.Error(), "sentry_pace") {
			t.Errorf("the caller is told: %v", err)
		}
		if !strings.Contains(w.said.String(), "sentry_pace") {
			t.Error("the log is not")
		}
	})
}

// Keys that are labelled and that no database knows go at their end; those of others
// stay.
func TestTheSweepFindsWhatNobodyKnows(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{PageSize: 7})
		for i := range 45 {
			w.fake.AddProject("others", fmt.Sprintf("project-%02d", i))
		}
		soon := time.Now().Add(20 * time.Hour)
		w.fake.AddKey("project-00", "taskfleet managed (expires-at:"+soon.UTC().Format(time.RFC3339)+")") // of old
		w.fake.AddKey("project-44", lentLabel("taskfleet", "Zk1Vd3vFQ5C4q0eF0bzVYw", soon.Add(time.Hour)))
		w.fake.AddKey("project-44", versionLabel("taskfleet", "Zk1Vd3vFQ5C4q0eF0bzVYw", soon))
		w.fake.AddKey("project-44", lentLabel("other", "Zk1Vd3vFQ5C4q0eF0bzVYw", soon))
		s := w.start()
		for i := range 5 { // which the token may not see
			w.fake.Fail(sentryfake.Fault{Path: fmt.Sprintf("/project-0%d/keys/", i+1), Status: 403, Times: 1})
		}
		if err := w.try(s, "sentry.sweep"); err == nil || !strings.Contains(err.Error(), "project-05") {
			t.Errorf("what it may not see is not told: %v", err)
		}
		w.pass(s, "sentry.sweep") // the rest
		if n := w.calls("GET", "/keys/"); n != 45 {
			t.Errorf("the keys of %d projects were looked at", n)
		}
		before := len(w.fake.Calls())
		w.pass(s, "sentry.sweep")
		if len(w.fake.Calls()) != before {
			t.Error("it was not a day, and it was swept again")
		}
		time.Sleep(21*time.Hour + 16*time.Minute)
		w.pass(s, "sentry.expiry")
		w.shows("project-00", "Default", "taskfleet key (disabled)")
		w.shows("project-44", "Default", "taskfleet key (disabled)", "taskfleet key", "other key")
		time.Sleep(24*time.Hour + time.Minute)
		w.pass(s, "sentry.expiry")
		w.shows("project-00", "Default")
		w.shows("project-44", "Default", "taskfleet key", "other key")

		d := w.dsn(s, "project-07") // somebody deletes it
		w.fake.Forget("project-07", "taskfleet")
		w.pass(s, "sentry.sweep")
		if got := w.dsn(s, "project-07"); got == d || !w.takes(s, got.Public) {
			t.Error("a key that is not there is given out")
		}
	})
}

// Two replicas each of which took the other for dead have made a key for the same id.
func TestAKeyThatWasMadeTwiceGoes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{})
		w.fake.AddProject("others", "queue")
		s := w.start()
		w.dsn(s, "queue")
		w.fake.AddKey("queue", w.fake.Keys("queue")[1].Name)
		w.pass(s, "sentry.sweep")
		time.Sleep(validity + slack)
		w.pass(s, "sentry.expiry")
		w.shows("queue", "Default", "taskfleet key (disabled)", "taskfleet key (disabled)")
	})
}

// Another database, or one that was lost, makes no more keys than are needed, and keys
// of addresses at rest change.
func TestWhatIsThereIsUsed(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{})
		s := w.start()
		d := w.dsn(s, "queue")
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`DELETE FROM sentry_key`)
			if err == nil {
				_, err = tx.Exec(`DELETE FROM sentry_project`)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if got := w.dsn(s, "queue"); got.Public != d.Public || !got.Expires.Equal(d.Expires) {
			t.Error("another key was made")
		}
		var stored []string
		look := func() {
			if err := db.View(t.Context(), func(tx *store.Tx) (err error) {
				stored, err = tx.Column(`SELECT dsn || ' ' || key_id FROM sentry_project`)
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		look()
		if len(stored) != 1 || strings.Contains(stored[0], "sentry.test") {
			t.Errorf("at rest there is %q", stored)
		}
		old, err := w.keys.Open(strings.Fields(stored[0])[0], place("queue"))
		if err != nil || !strings.Contains(string(old), d.Public) {
			t.Errorf("it cannot be opened: %v", err)
		}
		fresh := seal.NewKey()
		before := stored[0]
		if w.keys, err = seal.NewKeys(fresh); err != nil { // without the old one
			t.Fatal(err)
		}
		s = w.start()
		w.pass(s, "sentry.reseal")
		if look(); stored[0] == before || stored[0] != " " {
			t.Errorf("what cannot be opened is %q", stored[0])
		}
		if got := w.dsn(s, "queue"); got.Public != d.Public {
			t.Error("another key was made")
		}
	})
}

// The key of a process that ended before it could write it down goes, also if nobody
// asks again; and errors of Sentry put that off, no more.
func TestAKeyThatNobodyGotGoes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{})
		w.fake.AddProject("builds", "queue")
		ctx, crash := context.WithCancel(t.Context())
		s := w.start()
		s.client = reach(t, w, s, func(after bool) {
			if after && w.calls("POST", "/keys/") > 0 {
				crash()
			}
		})
		if _, err := s.DSN(ctx, "queue"); !errors.Is(err, context.Canceled) {
			t.Fatalf("the crash was %v", err)
		}
		s = w.start()
		w.pass(s, "sentry.expiry")
		w.shows("queue", "Default", "taskfleet key")
		time.Sleep(validity + slack)
		lift := w.fake.Fail(sentryfake.Fault{Status: 500})
		if err := w.try(s, "sentry.expiry"); err == nil {
			t.Error("nothing is said of what fails")
		}
		lift()
		w.shows("queue", "Default", "taskfleet key")
		w.pass(s, "sentry.expiry")
		w.shows("queue", "Default", "taskfleet key (disabled)")
		time.Sleep(23 * time.Hour)
		w.pass(s, "sentry.expiry")
		w.shows("queue", "Default", "taskfleet key (disabled)")
		time.Sleep(time.Hour)
		w.fake.Fail(sentryfake.Fault{Method: "DELETE", Status: 502, After: true, Times: 1})
		w.pass(s, "sentry.expiry")
		w.shows("queue", "Default")
		before := len(w.fake.Calls())
		time.Sleep(24 * time.Hour)
		w.pass(s, "sentry.expiry")
		if n := len(w.fake.Calls()) - before; n > 0 {
			t.Errorf("%d calls are made for what is gone", n)
		}
	})
}

// A caller that goes away while it makes the key leaves that to those who wait.
func TestACallerThatGoesAwayTakesNobodyAlong(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{})
		s := w.start()
		ctx, leave := context.WithCancel(t.Context())
		var going sync.WaitGroup
		going.Go(func() {
			if _, err := s.DSN(ctx, "queue"); !errors.Is(err, context.Canceled) {
				t.Errorf("who has left got %v", err)
			}
		})
		time.Sleep(time.Millisecond)
		for range 10 {
			going.Go(func() {
				if d, err := s.DSN(t.Context(), "queue"); err != nil || !w.takes(s, d.Public) {
					t.Errorf("who has stayed got %v", err)
				}
			})
		}
		time.Sleep(1200 * time.Millisecond)
		leave()
		going.Wait()
		w.shows("queue", "Default (disabled)", "taskfleet key")
	})
}
