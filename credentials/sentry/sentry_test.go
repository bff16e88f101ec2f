package sentry

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/credentials/sentry/sentryfake"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// A world is a Sentry, and replicas that share a database.
type world struct {
	*testing.T
	db   *store.DB
	keys *seal.Keys
	fake *sentryfake.Server
	said *lines
}

// lines are what was logged.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newWorld(t *testing.T, db *store.DB, o sentryfake.Options) *world {
	t.Helper()
	keys, err := seal.NewKeys(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t, db, keys, sentryfake.New(o), &lines{}}
	t.Cleanup(func() {
		said := w.said.String()
		if strings.Contains(said, w.fake.Token()) {
			t.Error("the log has the token")
		}
		for _, p := range w.fake.Projects() {
			for _, k := range w.fake.Keys(p) {
				if strings.Contains(said, k.ID) {
					t.Errorf("the log has a key of the project %s", p)
				}
			}
		}
	})
	return w
}

// start starts a replica.
func (w *world) start(change ...func(*Settings)) *Sentry {
	w.Helper()
	c := Config{DB: w.db, Keys: w.keys, Log: slog.New(slog.NewTextHandler(w.said, nil)), Transport: w.fake,
		Settings: Settings{URL: w.fake.URL(), Organization: w.fake.Organization(), Token: w.fake.Token(), Team: "builds"}}
	for _, f := range change {
		f(&c.Settings)
	}
	s, err := New(w.Context(), c)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func (w *world) pass(s *Sentry, name string) {
	w.Helper()
	if err := w.try(s, name); err != nil {
		w.Fatal(err)
	}
}

func (w *world) try(s *Sentry, name string) error {
	w.Helper()
	for _, l := range s.Loops() {
		for more := l.Name == name; more; {
			var err error
			if more, err = l.Pass(w.Context()); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if !more {
				return nil
			}
		}
	}
	w.Fatalf("there is no loop %s", name)
	return nil
}

func (w *world) dsn(s *Sentry, project string) DSN {
	w.Helper()
	d, err := s.DSN(w.Context(), project)
	if err != nil {
		w.Fatal(err)
	}
	return d
}

// takes tells that Sentry takes events with an address.
func (w *world) takes(s *Sentry, dsn string) bool { return s.client.Try(w.Context(), dsn) == nil }

// shows checks the names of keys, without what is random, and whether they are active.
func (w *world) shows(project string, want ...string) {
	w.Helper()
	var got []string
	for _, k := range w.fake.Keys(project) {
		name := k.Name
		if l, ok := read(name); ok {
			name = l.prefix + " key"
		}
		if !k.Active {
			name += " (disabled)"
		}
		got = append(got, name)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		w.Errorf("the keys of %s are %q, not %q", project, got, want)
	}
}

// calls counts calls of a method on addresses that contain a text.
func (w *world) calls(method, part string) (n int) {
	for _, c := range w.fake.Calls() {
		if c.Method == method && strings.Contains(c.Path, part) {
			n++
		}
	}
	return n
}

func TestSettingsSayWhatIsWrong(t *testing.T) {
	good := Settings{Organization: "acme", Token: "x", Team: "builds"}
	if err := good.Check(); err != nil {
		t.Errorf("good settings: %v", err)
	}
	for says, change := range map[string]func(*Settings){
		"url":          func(s *Settings) { s.URL = "sentry.io" },
		"without a us": func(s *Settings) { s.URL = "https://u:hunter2@sentry.io" },
		"organization": func(s *Settings) { s.Organization = "" },
		"token":        func(s *Settings) { s.Token = "hunter2\n" },
		"initialTeam":  func(s *Settings) { s.Team = "12" },
		"keyPrefix":    func(s *Settings) { s.Prefix = "taskcluster" },
		"rate limit":   func(s *Settings) { s.RateLimit.Count = 5 },
		"alertEvery":   func(s *Settings) { s.AlertEvery = 7 * time.Minute },
	} {
		s := good
		change(&s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", says, err)
		}
	}
}

// All replicas together call twice a second.
func TestReplicasShareThePace(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, sentryfake.Options{})
		w.fake.AddProject("builds", "queue")
		var going sync.WaitGroup
		for range 3 {
			s := w.start()
			for range 4 {
				going.Go(func() {
					if _, err := s.client.Project(t.Context(), "queue"); err != nil {
						t.Error(err)
					}
				})
			}
		}
		going.Wait()
		calls := w.fake.Calls()
		for i := 2; i < len(calls); i++ {
			if d := calls[i].At.Sub(calls[i-2].At); d < time.Second {
				t.Errorf("calls %d to %d took %s", i-2, i, d)
			}
		}
		if len(calls) != 12 {
			t.Errorf("%d calls", len(calls))
		}

		s := w.start() // what one is told holds for all
		w.fake.Fail(sentryfake.Fault{Path: "/projects/", Status: 429, RetryAfter: "20", Times: 1})
		begun := time.Now()
		if _, err := s.client.Projects(t.Context()); err != nil || time.Since(begun) < 20*time.Second {
			t.Errorf("after 429 it took %s: %v", time.Since(begun), err)
		}
		w.fake.Fail(sentryfake.Fault{Path: "/projects/", Status: 429, RetryAfter: "600", Times: 1})
		if _, err := s.client.Projects(t.Context()); err == nil {
			t.Error("a call has waited for ten minutes")
		}
		before := len(w.fake.Calls())
		if _, err := w.start().client.Projects(t.Context()); err == nil || !strings.Contains(err.Error(), "next turn") || len(w.fake.Calls()) != before {
			t.Errorf("another replica: %v", err)
		}
		time.Sleep(10 * time.Minute)
		if _, err := s.client.Projects(t.Context()); err != nil {
			t.Error(err)
		}

		if err := db.Do(t.Context(), func(tx *store.Tx) error { // by a clock that is ahead
			_, err := tx.Exec(`UPDATE sentry_pace SET next = $1, held = $2`, time.Now().Add(time.Hour).UnixMilli(), time.Now().Add(24*time.Hour).UnixMilli())
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := s.client.Projects(t.Context()); err != nil {
			t.Error(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		stop()
		if _, err := s.client.Projects(ctx); err == nil {
			t.Error("a call that nobody waits for was made")
		}
	})
}

func TestLabels(t *testing.T) {
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	const id = "Zk1Vd3vFQ5C4q0eF0bzVYw"
	for name, want := range map[string]label{
		lentLabel("taskfleet", id, at):                       {"taskfleet", at, id[:piece]},
		versionLabel("taskfleet", id, at):                    {"taskfleet", at.Truncate(24 * time.Hour), id},
		"auth managed (expires-at:2026-01-31T12:00:00.000Z)": {"auth", at, ""},
		"Default": {},
		"taskfleet managed (expires-at:2026-13-31T12:00:00Z)":      {},
		"taskfleet managed (expires-at:2026-01-31) with something": {},
	} {
		l, ok := read(name)
		if ok != (want != label{}) || ok && (l.prefix != want.prefix || !l.expires.Equal(want.expires) || l.id != want.id) {
			t.Errorf("%s: %+v, %v", name, l, ok)
		}
		if len(name) > 64 {
			t.Errorf("%q has %d characters", name, len(name))
		}
	}
}
