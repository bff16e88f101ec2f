package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
)

const (
	rootURL = "https://tasks.example.com"
	room    = "!gXkLwqUGpZcWuSbyNE:example.org"
	channel = "C0123456789"
	ann     = "ann@example.com"
)

// A carrier takes messages in place of a mail server, a homeserver or Slack:
// all of them, unless mood has an objection.
type carrier[M any] struct {
	mu    sync.Mutex
	taken []M
	tries int
	mood  func(M) error
}

func (c *carrier[M]) Send(_ context.Context, m M) error {
	c.mu.Lock()
	c.tries++
	mood := c.mood
	c.mu.Unlock()
	if mood != nil { // which may sleep
		if err := mood(m); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = append(c.taken, m)
	return nil
}

func (c *carrier[M]) set(mood func(M) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mood = mood
}

func (c *carrier[M]) all() []M {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.taken)
}

func (c *carrier[M]) tried() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tries
}

// A world is a deployment of notify alone, with its loops running.
type world struct {
	testing.TB
	*Notify
	bus    *event.Bus
	server *api.Server
	config Config
	mails  *carrier[Mail]
	rooms  *carrier[RoomMessage]
	slacks *carrier[ChannelMessage]
	log    *logged
	scopes []string // of callers

	mu          sync.Mutex
	definitions map[string]json.RawMessage
	broken      error // of Definition
	asked       int   // for definitions
}

// logged is a log that tests read.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

func newWorld(t testing.TB, db *store.DB, change ...func(*Config)) *world {
	t.Helper()
	w := &world{
		TB: t, mails: &carrier[Mail]{}, rooms: &carrier[RoomMessage]{}, slacks: &carrier[ChannelMessage]{}, log: &logged{},
		scopes: []string{"*"}, definitions: map[string]json.RawMessage{},
	}
	log := slog.New(slog.NewTextHandler(w.log, nil))
	var err error
	if w.bus, err = event.New(t.Context(), db, log); err != nil {
		t.Fatal(err)
	}
	w.config = Config{
		DB: db, Events: w.bus, Tasks: w, RootURL: rootURL, Log: log, Metrics: prometheus.NewRegistry(),
		Email: w.mails, Matrix: w.rooms, Slack: w.slacks,
	}
	for _, f := range change {
		f(&w.config)
	}
	if w.Notify, err = New(t.Context(), w.config); err != nil {
		t.Fatal(err)
	}
	w.server = api.NewServer(api.Options{RootURL: rootURL, Auth: w, Log: log, Metrics: prometheus.NewRegistry(), CheckOutput: true})
	if err := api.Mount(w.server, API, w.Notify); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- loop.NewRunner(log, loop.Alone, prometheus.NewRegistry()).Run(ctx, slices.Concat(w.Notify.Loops(), w.bus.Loops())...)
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w.settle() // the subscription hears what comes after its first pass
	return w
}

func (w *world) Authenticate(context.Context, api.Credential) (api.Identity, error) {
	return api.Identity{ClientID: "tester", Scopes: scope.NewSet(w.scopes...)}, nil
}

// Definition is what the queue would say.
func (w *world) Definition(_ context.Context, taskID string) (json.RawMessage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked++
	if w.broken != nil {
		return nil, w.broken
	}
	d := w.definitions[taskID]
	if d == nil {
		return nil, api.Errorf(api.ResourceNotFound, "There is no task %s.", taskID)
	}
	return d, nil
}

func (w *world) breakTasks(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = err
}

type reply struct {
	status int
	text   string
	body   map[string]any
}

func (w *world) call(method, path string, body any) reply {
	w.Helper()
	r := httptest.NewRequest(method, rootURL+"/api/notify/v1"+path, nil)
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			w.Fatal(err)
		}
		r = httptest.NewRequest(method, rootURL+"/api/notify/v1"+path, bytes.NewReader(b))
		r.Header.Set("Content-Type", "application/json")
	}
	rec := httptest.NewRecorder()
	w.server.ServeHTTP(rec, r)
	p := reply{status: rec.Code, text: rec.Body.String()}
	json.Unmarshal(rec.Body.Bytes(), &p.body) // the text is shown where this fails
	return p
}

// want makes a call and checks its status, and that the reply has a text.
func (w *world) want(status int, method, path string, body any, text string) reply {
	w.Helper()
	p := w.call(method, path, body)
	if p.status != status || !strings.Contains(p.text, text) {
		w.Fatalf("%s %s: %d, want %d and %q: %s", method, path, p.status, status, text, p.text)
	}
	return p
}

func (w *world) wantCount(k kind, outcome string, want float64) {
	w.Helper()
	families, err := w.config.Metrics.(*prometheus.Registry).Gather()
	if err != nil {
		w.Fatal(err)
	}
	got := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if l := m.GetLabel(); l[0].GetValue() == outcome && l[1].GetValue() == string(k) { // by name: outcome, type
				got += m.GetCounter().GetValue()
			}
		}
	}
	if got != want {
		w.Errorf("%s %s: counted %v times, want %v", k, outcome, got, want)
	}
}

// waitingIn is how many messages are in the outbox.
func (w *world) waitingIn() (n int) {
	w.Helper()
	if err := w.db.View(w.Context(), func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT count(*) FROM notify_message`).Scan(&n)
	}); err != nil {
		w.Fatal(err)
	}
	return n
}

// published are the messages of the exchange.
func (w *world) published() (list []event.Message) {
	w.Helper()
	w.settle()
	all, err := w.bus.Read(w.Context(), 0, 1000)
	if err != nil {
		w.Fatal(err)
	}
	for _, m := range all {
		if m.Exchange == "exchange/taskcluster-notify/v1/notification" {
			list = append(list, m)
		}
	}
	return list
}

const taskID, groupID = "fN1SbArXTPSVFNUvaOlinQ", "dSlITZ4yQgmvxxAi4A8fHQ"

// A happening is an event of the queue about the one task.
type happening struct {
	transition string
	reason     string
	runs       int // 0: one
	routes     []string
	extra      string // of the definition, JSON
	name       string // of the task
}

// happens tells of an event and waits until everybody has heard of it.
func (w *world) happens(h happening) {
	w.Helper()
	if h.extra == "" {
		h.extra = "{}"
	}
	if h.name == "" {
		h.name = "build"
	}
	definition := fmt.Sprintf(`{"taskGroupId": %q, "metadata": {"name": %q, "description": "Builds *everything*", "owner": "bob@example.com", "source": "https://example.com/src"}, "extra": %s}`, groupID, h.name, h.extra)
	w.mu.Lock()
	w.definitions[taskID] = json.RawMessage(definition)
	w.mu.Unlock()
	state, runs := h.transition, []map[string]any{}
	if state == "defined" {
		state = "unscheduled"
	} else {
		for i := range max(h.runs, 1) {
			run := map[string]any{"runId": i, "state": state, "reasonCreated": "scheduled", "scheduled": "2026-01-01T00:00:00.000Z"}
			if h.reason != "" {
				run["reasonResolved"] = h.reason
			}
			runs = append(runs, run)
		}
	}
	var cc []string
	for _, r := range h.routes {
		cc = append(cc, "route."+r)
	}
	if err := w.db.Do(w.Context(), func(tx *store.Tx) error {
		return w.bus.Publish(tx, "exchange/taskcluster-queue/v1/task-"+h.transition, "primary."+taskID, cc, map[string]any{
			"version": 1, "status": map[string]any{"taskId": taskID, "taskGroupId": groupID, "state": state, "runs": runs},
		})
	}); err != nil {
		w.Fatal(err)
	}
	w.settle()
}

// settle waits until whatever was set off is done: the bus takes its time.
func (w *world) settle() {
	time.Sleep(time.Second)
	synctest.Wait()
}
