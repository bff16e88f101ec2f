package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
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
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
)

// A world is a deployment of hooks, with a queue that only creates tasks.
type world struct {
	testing.TB
	*Hooks
	db     *store.DB
	bus    *event.Bus
	queue  *queue
	mail   *mailbox
	key    seal.Key
	server http.Handler
}

func newWorld(t testing.TB, db *store.DB) *world {
	t.Helper()
	w := &world{TB: t, db: db, queue: &queue{tasks: map[string]*task{}}, mail: &mailbox{}, key: seal.NewKey()}
	w.start(w.key)
	return w
}

// start starts the service anew, on the same database.
func (w *world) start(keys ...seal.Key) {
	w.Helper()
	w.Hooks, w.bus = w.replica(keys...)
	s := api.NewServer(api.Options{RootURL: "https://tc.example.com", Auth: byHeader{}, Log: w.log, Metrics: prometheus.NewRegistry(), CheckOutput: true})
	if err := api.Mount(s, API, w.Hooks); err != nil {
		w.Fatal(err)
	}
	w.server = s
}

func (w *world) replica(keys ...seal.Key) (*Hooks, *event.Bus) {
	w.Helper()
	log := slog.New(slog.DiscardHandler)
	bus, err := event.New(w.Context(), w.db, log)
	if err != nil {
		w.Fatal(err)
	}
	sealKeys, err := seal.NewKeys(keys...)
	if err != nil {
		w.Fatal(err)
	}
	h, err := New(w.Context(), Config{DB: w.db, Events: bus, Keys: sealKeys, Tasks: w.queue, States: w.queue, Mail: w.mail, Log: log})
	if err != nil {
		w.Fatal(err)
	}
	return h, bus
}

// run runs the loops of the present start of the service until stop is called
// or the test ends.
func (w *world) run() (stop func()) { return w.runAs(loop.Alone, w.Hooks, w.Loops()) }

// runAll is run with the loops that deliver messages.
func (w *world) runAll() (stop func()) {
	return w.runAs(loop.Alone, w.Hooks, slices.Concat(w.Loops(), w.bus.Loops()))
}

func (w *world) runAs(lease loop.Lease, h *Hooks, loops []loop.Loop) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- loop.NewRunner(h.log, lease, prometheus.NewRegistry()).Run(ctx, loops...)
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.Error(err)
		}
		h.scheduleAlarm.set(0, nil)
		h.fireAlarm.set(0, nil)
	})
	w.Cleanup(stop)
	synctest.Wait()
	return stop
}

// byHeader believes who says who they are: "client scope scope …".
type byHeader struct{}

func (byHeader) Authenticate(_ context.Context, c api.Credential) (api.Identity, error) {
	words := strings.Fields(c.Authorization)
	if len(words) == 0 {
		return api.Identity{}, nil
	}
	return api.Identity{ClientID: words[0], Scopes: scope.NewSet(words[1:]...)}, nil
}

const root = "root *"

// call makes a call by somebody and returns status and reply.
func (w *world) call(who, verb, path string, body any) (int, map[string]any) {
	w.Helper()
	var b bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&b).Encode(body); err != nil {
			w.Fatal(err)
		}
	}
	r := httptest.NewRequest(verb, "https://tc.example.com/api/hooks/v1"+path, &b)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if who != "" {
		r.Header.Set("Authorization", who)
	}
	rec := httptest.NewRecorder()
	w.server.ServeHTTP(rec, r)
	var out map[string]any
	err := json.Unmarshal(rec.Body.Bytes(), &out)
	if err != nil { // it may repeat a number that we have no room for
		d := json.NewDecoder(rec.Body)
		d.UseNumber()
		err = d.Decode(&out)
	}
	if err != nil {
		w.Fatalf("%s %s: %d %s", verb, path, rec.Code, rec.Body)
	}
	return rec.Code, out
}

// want makes a call by root that has to end with a status, and a message that
// says something, if it fails.
func (w *world) want(status int, say, verb, path string, body any) map[string]any {
	w.Helper()
	code, out := w.call(root, verb, path, body)
	if message, _ := out["message"].(string); code != status || !strings.Contains(message, say) {
		w.Fatalf("%s %s: %d, want %d %q: %v", verb, path, code, status, say, out)
	}
	return out
}

func at(p, rest string) string {
	group, id, _ := strings.Cut(p, "/")
	return "/hooks/" + group + "/" + url.PathEscape(id) + rest
}

type m = map[string]any

var anything = m{"type": "object"}

// template is a task that tells its context.
func template() m {
	return m{
		"provisionerId": "p", "workerType": "w", "payload": m{},
		"metadata": m{"name": "n", "description": "by ${firedBy}", "owner": "o@example.com", "source": "https://example.com"},
		"extra":    m{"taskId": "${taskId}", "now": "${now}"},
	}
}

// hook creates a hook; what is given replaces the defaults.
func (w *world) hook(p string, parts m) {
	w.Helper()
	w.want(200, "", "PUT", at(p, ""), hookBody(parts))
}

func hookBody(parts m) m {
	body := m{
		"metadata": m{"name": "A hook", "description": "of a test", "owner": "owner@example.com"},
		"task":     template(),
	}
	for k, v := range parts {
		body[k] = v
	}
	return body
}

// fires are the hook's fires, the latest first: "success schedule", "error triggerHook: text".
func (w *world) fires(p string) (list []string) {
	w.Helper()
	code, out := w.call(root, "GET", at(p, "/last-fires"), nil)
	if code == 404 {
		return nil
	}
	for _, f := range out["lastFires"].([]any) {
		f := f.(m)
		s := fmt.Sprint(f["result"], " ", f["firedBy"])
		if f["error"] != "" {
			s += fmt.Sprint(": ", f["error"])
		}
		list = append(list, s)
	}
	return list
}

// publish sends a message and has it placed.
func (w *world) publish(exchange, key string, payload any, cc ...string) {
	w.Helper()
	if err := w.db.Do(w.Context(), func(tx *store.Tx) error { return w.bus.Publish(tx, exchange, key, cc, payload) }); err != nil {
		w.Fatal(err)
	}
}

// queue creates tasks as the real one does: once by id and definition.
type queue struct {
	mu    sync.Mutex
	tasks map[string]*task
	order []*task
	calls int

	// before and after a task is created somebody may interfere.
	before, after func(ctx context.Context, p, taskID string) error
}

type task struct {
	id, hook   string
	definition map[string]any
	at         time.Time
}

func (q *queue) CreateTask(ctx context.Context, group, id, taskID string, definition json.RawMessage) (json.RawMessage, error) {
	p := group + "/" + id
	q.mu.Lock()
	q.calls++
	before, after := q.before, q.after
	q.mu.Unlock()
	if before != nil {
		if err := before(ctx, p, taskID); err != nil {
			return nil, err
		}
	}
	var d map[string]any
	if err := json.Unmarshal(definition, &d); err != nil {
		return nil, err
	}
	if deadline, err := time.Parse(time.RFC3339, fmt.Sprint(d["deadline"])); err != nil || deadline.Before(time.Now()) {
		return nil, api.Errorf(api.InputError, "deadline is %v, which is past", d["deadline"])
	}
	q.mu.Lock()
	if old := q.tasks[taskID]; old == nil {
		t := &task{taskID, p, d, time.Now()}
		q.tasks[taskID], q.order = t, append(q.order, t)
	} else if !reflect.DeepEqual(old.definition, d) {
		q.mu.Unlock()
		return nil, api.Errorf(api.RequestConflict, "Task %s exists already with another definition", taskID)
	}
	q.mu.Unlock()
	if after != nil {
		if err := after(ctx, p, taskID); err != nil {
			return nil, err
		}
	}
	return json.RawMessage(`{}`), nil
}

func (q *queue) TaskStates(_ context.Context, ids []string) (map[string]string, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	states := map[string]string{}
	for _, id := range ids {
		if q.tasks[id] != nil {
			states[id] = "pending"
		}
	}
	return states, nil
}

func (q *queue) interfere(before, after func(ctx context.Context, p, taskID string) error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.before, q.after = before, after
}

// called is how often somebody wanted a task.
func (q *queue) called() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.calls
}

// of are the tasks of a hook, in the order of their creation.
func (q *queue) of(p string) (list []*task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, t := range q.order {
		if t.hook == p {
			list = append(list, t)
		}
	}
	return list
}

type mailbox struct {
	mu   sync.Mutex
	sent []string
}

func (b *mailbox) Email(_ context.Context, address, subject, markdown string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent = append(b.sent, address+": "+subject+"\n"+markdown)
	return nil
}

func (b *mailbox) all() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.sent)
}
