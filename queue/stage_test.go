package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
)

// A stage is a queue behind its HTTP methods, with its loops running.
type stage struct {
	t       testing.TB
	db      *store.DB
	queue   *Queue
	bus     *event.Bus
	objects *shelf
	server  *api.Server
	ids     map[string]string // story name -> slug
	names   map[string]string
	tasks   map[string]map[string]any // bodies, for repeating a creation
	polls   map[string]chan string    // answers to "poll", by worker
	seen    int64                     // events told already
	as      string                    // scopes of the caller; "" is all
	waits   atomic.Int64              // until when the story waits, in Unix milliseconds
}

// calm is the schedule of a loop in a story that may wait for days. Until shortly before the end of such a wait there is
// a pass every ten minutes where there would be one every few seconds: what has happened when the wait ends is the same,
// and there would be a hundred thousand passes in which nothing happens.
type calm struct {
	loop.Schedule
	waits *atomic.Int64
}

const lull = 4 * time.Minute

func (c calm) Next(t time.Time) time.Time {
	next, calm := c.Schedule.Next(t), t.Add(lull)
	if calm.After(next) && calm.Add(lull).UnixMilli() < c.waits.Load() {
		return calm
	}
	return next
}

func newStage(t testing.TB, db *store.DB, artifacts *blob.Bucket) *stage {
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	bus, err := event.New(t.Context(), db, log)
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, db: db, bus: bus, ids: map[string]string{}, names: map[string]string{}, tasks: map[string]map[string]any{}, polls: map[string]chan string{}}
	s.objects = &shelf{uploads: map[string]string{}, whole: map[string]bool{}}
	s.queue, err = New(t.Context(), Config{DB: db, Events: bus, Artifacts: artifacts, Mint: fakeMint{}, Objects: s.objects, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	s.server = api.NewServer(api.Options{
		RootURL: "http://tasks.test", Auth: s, Log: log, Metrics: prometheus.NewRegistry(), CheckOutput: true,
	})
	if err := api.Mount(s.server, API, s.queue); err != nil {
		t.Fatal(err)
	}
	// Without a bucket there is none to look after, and tests that have one make the passes that look after it by hand: the
	// first one of a loop may come at any time.
	work := slices.DeleteFunc(slices.Concat(s.queue.Loops(), bus.Loops()), func(l loop.Loop) bool {
		return l.Name == "queue.uploads" || l.Name == "queue.artifacts" && artifacts != nil
	})
	for i := range work {
		work[i].When = calm{work[i].When, &s.waits}
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		loop.NewRunner(log, loop.Alone, prometheus.NewRegistry()).Run(ctx, work...)
	}()
	t.Cleanup(func() { stop(); <-done })
	t.Cleanup(func() { s.messages() })
	return s
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(b)))
	return len(b), nil
}

// Authenticate makes the stage's caller of every request.
func (s *stage) Authenticate(context.Context, api.Credential) (api.Identity, error) {
	if s.as == "" {
		return api.Identity{ClientID: "tester", Scopes: scope.NewSet("*")}, nil
	}
	return api.Identity{ClientID: "tester", Scopes: scope.NewSet(strings.Fields(s.as)...)}, nil
}

// fakeMint issues credentials that say what they are for.
type fakeMint struct{}

func (fakeMint) Mint(_ context.Context, clientID string, scopes []string, _ time.Time) (cred.Credentials, error) {
	certificate, err := json.Marshal(scopes)
	return cred.Credentials{ClientID: clientID, AccessToken: "token", Certificate: string(certificate)}, err
}

// call makes a request and returns status and parsed body.
func (s *stage) call(method, path string, body any) (int, map[string]any) {
	s.t.Helper()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			s.t.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	r := httptest.NewRequestWithContext(s.t.Context(), method, "http://tasks.test/api/queue/v1"+path, in)
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	s.server.ServeHTTP(w, r)
	var out map[string]any
	if w.Body.Len() == 0 {
		return w.Code, out
	}
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		d := json.NewDecoder(bytes.NewReader(w.Body.Bytes()))
		d.UseNumber() // an error repeats the payload, with numbers that no float64 holds
		if err := d.Decode(&out); err != nil {
			s.t.Fatalf("%s %s: %v in %s", method, path, err, w.Body)
		}
	}
	if w.Code >= 500 {
		s.t.Fatalf("%s %s: %v", method, path, out["message"])
	}
	return w.Code, out
}
