package provisioner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/provisioner/sizing"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A stage is a provisioner behind its HTTP methods, a queue that counts, and a
// cloud whose machines run workers that call the methods.
type stage struct {
	t     testing.TB
	db    *store.DB
	bus   *event.Bus
	cloud *Cloud
	more  map[string]fleet.Provider
	lost  bool // the cloud is not configured
	log   *slog.Logger
	seen  int64  // events told already
	as    string // scopes of the story's caller; "" is all

	prov    *Provisioner
	api     http.Handler // of the worker-manager; nil until it is called
	ours    http.Handler // beside it, likewise
	metrics *prometheus.Registry
	stop    func() // stops the loops

	mu          sync.Mutex
	mood        string // of workers that start: "" is well-behaved
	spoilt      string // the image that makes a worker break
	idle        time.Duration
	length      time.Duration // of a task
	asks        time.Duration // between two questions of an idle worker
	pending     map[string]int64
	oldest      map[string]timestamp.Time
	claimed     map[fleet.Ref]int64
	released    map[fleet.Ref]timestamp.Time
	active      map[fleet.Ref]timestamp.Time
	draining    map[fleet.Ref]bool
	quarantined map[fleet.Ref]bool
	beforeDrain func([]fleet.Ref) // is called once
	finished    int
	returned    int // tasks handed back
	deaf        error
	minted      map[string][]string // scopes by client
	mail        Mailer
	tokens      map[fleet.Ref]string
	secrets     map[fleet.Ref]string
}

// newStage is a stage whose loops run.
func newStage(t testing.TB, db *store.DB) *stage {
	s := newStillStage(t, db)
	s.restart()
	return s
}

// newStillStage is a stage without a provisioner yet: open or restart it.
func newStillStage(t testing.TB, db *store.DB) *stage {
	s := &stage{
		t: t, db: db, log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
		idle: 30 * time.Second, length: time.Minute, asks: time.Second, stop: func() {},
		pending: map[string]int64{}, oldest: map[string]timestamp.Time{}, claimed: map[fleet.Ref]int64{}, released: map[fleet.Ref]timestamp.Time{},
		active: map[fleet.Ref]timestamp.Time{}, draining: map[fleet.Ref]bool{}, quarantined: map[fleet.Ref]bool{},
		minted: map[string][]string{}, tokens: map[fleet.Ref]string{}, secrets: map[fleet.Ref]string{},
	}
	s.cloud = NewCloud(t, 10*time.Second, s.work)
	bus, err := event.New(t.Context(), db, s.log)
	if err != nil {
		t.Fatal(err)
	}
	s.bus = bus
	t.Cleanup(func() { s.stop() })
	return s
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(string(bytes.TrimSpace(b)))
	return len(b), nil
}

// open makes a new provisioner on the same database and cloud, as a server
// that starts does.
func (s *stage) open() {
	s.t.Helper()
	s.metrics = prometheus.NewRegistry()
	providers := map[string]fleet.Provider{"cloud": s.cloud, "other": NewCloud(s.t, 3*time.Second, s.work)}
	maps.Copy(providers, s.more)
	if s.lost {
		delete(providers, "cloud")
	}
	p, err := New(s.t.Context(), Config{
		DB: s.db, Events: s.bus, Providers: providers,
		Queue: s, Mint: s, Mail: s.mail, Log: s.log, Metrics: s.metrics,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prov, s.api, s.ours = p, nil, nil
}

// serve returns the methods that a path is of. To make them callable takes
// longer than most stories do, so it is done when they are called.
func (s *stage) serve(path string) http.Handler {
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.HasPrefix(path, operations) {
		return mount(s, &s.ours, Operations)
	}
	return mount(s, &s.api, API)
}

func mount(s *stage, h *http.Handler, methods api.Service[*Provisioner]) http.Handler {
	if *h == nil {
		server := api.NewServer(api.Options{RootURL: "http://tasks.test", Auth: s, Log: s.log, Metrics: prometheus.NewRegistry(), CheckOutput: true})
		if err := api.Mount(server, methods, s.prov); err != nil {
			s.t.Error(err)
		}
		*h = server
	}
	return *h
}

// restart stops the loops and starts those of a new provisioner.
func (s *stage) restart() {
	s.stop()
	s.open()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	runner, work := loop.NewRunner(s.log, loop.Alone, prometheus.NewRegistry()), slices.Concat(s.prov.Loops(), s.bus.Loops())
	go func() {
		defer close(done)
		runner.Run(ctx, work...)
	}()
	s.stop = sync.OnceFunc(func() { cancel(); <-done })
}

// Authenticate makes the caller who it says it is in the Authorization header:
// a worker with the scopes that were minted for it, or the story's caller.
func (s *stage) Authenticate(_ context.Context, c api.Credential) (api.Identity, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case c.Authorization == "nobody":
		return api.Identity{}, nil
	case c.Authorization != "":
		return api.Identity{ClientID: c.Authorization, Scopes: scope.NewSet(s.minted[c.Authorization]...)}, nil
	case s.as != "":
		return api.Identity{ClientID: "tester", Scopes: scope.NewSet(strings.Fields(s.as)...)}, nil
	}
	return api.Identity{ClientID: "tester", Scopes: scope.NewSet("*")}, nil
}

// Mint is the Minter.
func (s *stage) Mint(_ context.Context, clientID string, scopes []string, _ time.Time) (cred.Credentials, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.minted[clientID] = scopes
	return cred.Credentials{ClientID: clientID, AccessToken: "token"}, nil
}

// Demand is the work of pools, as the queue tells it.
func (s *stage) Demand(_ context.Context, _ timestamp.Time, pools []string) (map[string]fleet.Demand, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out, of := map[string]fleet.Demand{}, s.crew()
	for _, id := range pools {
		d := fleet.Demand{Pending: s.pending[id], Of: of}
		if d.Pending > 0 {
			d.Oldest = s.oldest[id]
		}
		for r, n := range s.claimed {
			if r.WorkerPoolID == id {
				d.Claimed += n
				d.Running = append(d.Running, sizing.Running{Since: s.active[r], Count: n})
			}
		}
		out[id] = d
	}
	return out, s.deaf
}

// crew is what the queue knows of workers at this moment; s.mu is held.
func (s *stage) crew() func(fleet.Ref) fleet.Seen {
	claimed, released, active, quarantined := maps.Clone(s.claimed), maps.Clone(s.released), maps.Clone(s.active), maps.Clone(s.quarantined)
	return func(r fleet.Ref) fleet.Seen {
		return fleet.Seen{Claims: claimed[r], Released: released[r], Active: active[r], Quarantined: quarantined[r]}
	}
}

// WorkerGone has what the worker had run again.
func (s *stage) WorkerGone(_ context.Context, pool, group, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := fleet.Ref{WorkerPoolID: pool, WorkerGroup: group, WorkerID: id}
	s.enqueue(pool, s.claimed[r])
	s.returned += int(s.claimed[r])
	delete(s.claimed, r)
	return s.deaf
}

// Drain gives the workers that have no claim nothing more.
func (s *stage) Drain(_ *store.Tx, list []fleet.Ref) (drained []fleet.Ref, err error) {
	s.mu.Lock()
	f := s.beforeDrain
	s.beforeDrain = nil
	s.mu.Unlock()
	if f != nil {
		f(list)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range list {
		if s.claimed[r] == 0 {
			s.draining[r] = true
			drained = append(drained, r)
		}
	}
	return drained, s.deaf
}

// enqueue makes tasks pending, and tells as the queue does; s.mu is held.
func (s *stage) enqueue(pool string, n int64) {
	if n == 0 {
		return
	}
	if s.pending[pool] == 0 {
		s.oldest[pool] = now()
	}
	s.pending[pool] += n
	s.db.Waits().Wake(TopicDemand, 1)
}

// add makes tasks pending.
func (s *stage) add(pool string, n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enqueue(pool, n)
}

func (s *stage) claim(r fleet.Ref) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining[r] || s.quarantined[r] {
		return false
	}
	s.active[r] = now()
	if s.pending[r.WorkerPoolID] == 0 {
		return false
	}
	s.pending[r.WorkerPoolID]--
	s.claimed[r]++
	return true
}

// settle ends the claim of a worker; done is false where it is handed back.
func (s *stage) settle(r fleet.Ref, done bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.claimed[r]--; s.claimed[r] <= 0 {
		delete(s.claimed, r)
	}
	s.released[r] = now()
	if done {
		s.finished++
	} else {
		s.returned++
		s.enqueue(r.WorkerPoolID, 1)
	}
}

// work is a worker's life: register, ask, claim, work, idle, leave.
func (s *stage) work(ctx context.Context, term <-chan struct{}, o Order) (err error) {
	s.mu.Lock()
	mood, idleTime, length, asks := s.mood, s.idle, s.length, s.asks
	if s.spoilt != "" && s.spoilt == o.Image {
		mood = "broken"
	}
	s.tokens[o.Ref] = o.Token
	s.mu.Unlock()
	switch mood {
	case "broken":
		return errors.New("exit status 3")
	case "mute":
		<-ctx.Done()
		return ctx.Err()
	}
	code, out := s.call("nobody", "POST", "/worker/register", s.registration(o.Ref, o.ProviderID))
	if code != 200 {
		return fmt.Errorf("registering: %d %v", code, out["message"])
	}
	s.mu.Lock()
	s.secrets[o.Ref] = out["secret"].(string)
	s.mu.Unlock()
	switch mood {
	case "crashing":
		return errors.New("signal: segmentation fault")
	case "leaving":
		return nil
	case "deaf":
		term = nil
	case "silent":
		<-ctx.Done()
		return ctx.Err()
	}
	me := out["credentials"].(map[string]any)["clientId"].(string)
	defer func() {
		if err == nil {
			s.call(me, "DELETE", "/workers/"+o.Ref.String(), nil)
		}
	}()
	if mood == "impatient" {
		return nil
	}
	for idleSince := time.Now(); time.Since(idleSince) < idleTime; {
		if mood != "proud" { // one that is never asks whether it should go
			code, out := s.call(me, "GET", "/workers/"+o.Ref.String()+"/should-terminate", nil)
			if code != 200 {
				return fmt.Errorf("asking: %d %v", code, out["message"])
			}
			if out["terminate"] == true {
				return nil
			}
		}
		wait, busy := asks, s.claim(o.Ref)
		if busy {
			wait = length
		}
		select {
		case <-time.After(wait):
			if busy {
				s.settle(o.Ref, true)
				idleSince = time.Now()
			}
		case <-term:
			if busy {
				s.settle(o.Ref, false)
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (s *stage) registration(r fleet.Ref, provider string) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return map[string]any{
		"workerPoolId": r.WorkerPoolID, "providerId": provider, "workerGroup": r.WorkerGroup, "workerId": r.WorkerID,
		"workerIdentityProof": map[string]string{"token": s.tokens[r]},
	}
}

// call makes a request and returns status and parsed body.
func (s *stage) call(as, method, path string, body any) (int, map[string]any) {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			s.t.Error(err)
		}
		in = bytes.NewReader(b)
	}
	if !strings.HasPrefix(path, "/api/") {
		path = "/api/worker-manager/v1" + path
	}
	r := httptest.NewRequest(method, "http://tasks.test"+path, in)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", as)
	w := httptest.NewRecorder()
	s.serve(path).ServeHTTP(w, r)
	var out map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		s.t.Errorf("%s %s: %s", method, path, w.Body)
	}
	if w.Code >= 500 {
		s.t.Errorf("%s %s: %v", method, path, out["message"])
	}
	return w.Code, out
}

// rows lists the workers of a pool in a state ("" is every one that has not
// stopped), oldest first.
func (s *stage) rows(pool, state string) (list []*fleet.Worker) {
	s.t.Helper()
	if err := s.db.View(s.t.Context(), func(tx *store.Tx) (err error) {
		list, err = queryWorkers(tx, `WHERE worker_pool_id = $1 AND (state = $2 OR $2 = '' AND state <> 'stopped') ORDER BY created, worker_id`, pool, state)
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	return list
}
