package index

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"net/url"
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
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const root = "https://tasks.test"

// A world is an index behind its HTTP methods, and the rest of a deployment as
// far as the index sees it.
type world struct {
	testing.TB
	*Index
	config Config
	events *event.Bus
	server *api.Server
	log    *syncBuffer

	as        []string // scopes of the caller; nil is all
	anonymous []string // scopes of anybody

	mu     sync.Mutex
	tasks  map[string]string // definitions
	broken error             // of Definition
}

func newWorld(t testing.TB, db *store.DB) *world {
	t.Helper()
	w := &world{TB: t, tasks: map[string]string{}, log: &syncBuffer{}}
	log := slog.New(slog.NewTextHandler(w.log, nil))
	var err error
	if w.events, err = event.New(t.Context(), db, log); err != nil {
		t.Fatal(err)
	}
	w.config = Config{DB: db, Events: w.events, Tasks: w, Artifacts: signer{}, Auth: w, RootURL: root, Log: log}
	w.Index = w.start()
	w.server = api.NewServer(api.Options{RootURL: root, Auth: w, Log: log, Metrics: prometheus.NewRegistry(), CheckOutput: !benchmarking(t)})
	if err := api.Mount(w.server, API, w.Index); err != nil {
		t.Fatal(err)
	}
	return w
}

// start opens another Index on the same database.
func (w *world) start() *Index {
	w.Helper()
	x, err := New(w.Context(), w.config)
	if err != nil {
		w.Fatal(err)
	}
	return x
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// Authenticate makes the world's caller of every request with an Authorization
// header, and anybody of the others.
func (w *world) Authenticate(_ context.Context, c api.Credential) (api.Identity, error) {
	switch {
	case c.Authorization == "":
		return api.Identity{Scopes: scope.NewSet(w.anonymous...)}, nil
	case w.as == nil:
		return api.Identity{ClientID: "tester", Scopes: scope.NewSet("*")}, nil
	}
	return api.Identity{ClientID: "tester", Scopes: scope.NewSet(append(w.as, w.anonymous...)...)}, nil
}

// Definition is that of a task as the queue has it.
func (w *world) Definition(_ context.Context, taskID string) (json.RawMessage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.broken != nil {
		return nil, w.broken
	}
	d, ok := w.tasks[taskID]
	if !ok {
		return nil, api.Errorf(api.ResourceNotFound, "There is no task %s.", taskID)
	}
	return json.RawMessage(d), nil
}

// fail has Definition fail, or no longer.
func (w *world) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.broken = err
}

// signer signs URLs so that one can read what they are good for.
type signer struct{}

func (signer) SignedURL(_ context.Context, path string, scopes []string) (string, error) {
	return root + path + "?bewit=" + url.QueryEscape(strings.Join(scopes, " ")), nil
}

var errBroken = errors.New("the queue does not answer")

func benchmarking(t testing.TB) bool {
	_, yes := t.(*testing.B)
	return yes
}

type reply struct {
	status int
	body   map[string]any
	text   string
	header map[string][]string
}

// call makes a request; a reply of 500 or more fails the test.
func (w *world) call(method, path string, body any) reply {
	w.Helper()
	var in bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&in).Encode(body); err != nil {
			w.Fatal(err)
		}
	}
	r := httptest.NewRequestWithContext(w.Context(), method, root+"/api/index/v1"+path, &in)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "as the world has it")
	rec := httptest.NewRecorder()
	w.server.ServeHTTP(rec, r)
	p := reply{status: rec.Code, text: rec.Body.String(), header: rec.Header()}
	if err := json.Unmarshal(rec.Body.Bytes(), &p.body); err != nil {
		d := json.NewDecoder(strings.NewReader(p.text))
		d.UseNumber() // an error repeats the payload, with numbers that no float64 holds
		if err := d.Decode(&p.body); err != nil {
			w.Fatalf("%s %s: %v in %s", method, path, err, p.text)
		}
	}
	if rec.Code >= 500 {
		w.Fatalf("%s %s: %s\n%s", method, path, p.text, w.log)
	}
	return p
}

func (w *world) want(status int, method, path string, body any) reply {
	w.Helper()
	p := w.call(method, path, body)
	if p.status != status {
		w.Fatalf("%s %s: %d, want %d: %s", method, path, p.status, status, p.text)
	}
	return p
}

func task(id string, rank float64, expires time.Time) map[string]any {
	return map[string]any{"taskId": id, "rank": rank, "data": map[string]any{}, "expires": timestamp.Of(expires)}
}

// insert puts a task at a path for an hour and returns its id.
func (w *world) insert(path string, rank float64) string {
	w.Helper()
	id := slugid.New()
	w.want(200, "PUT", "/task/"+path, task(id, rank, time.Now().Add(time.Hour)))
	return id
}

// at is the task at a path, "" if there is none.
func (w *world) at(path string) string {
	w.Helper()
	p := w.call("GET", "/task/"+path, nil)
	if p.status == 404 {
		return ""
	}
	if p.status != 200 {
		w.Fatalf("find %s: %s", path, p.text)
	}
	if p.body["namespace"] != path {
		w.Errorf("at %s there is %s", path, p.text)
	}
	return p.body["taskId"].(string)
}

// paths are those of a listing's entries, tasks or namespaces.
func (p reply) paths() string {
	var list []string
	for _, kind := range []string{"tasks", "namespaces"} {
		entries, _ := p.body[kind].([]any)
		for _, e := range entries {
			list = append(list, e.(map[string]any)["namespace"].(string))
		}
	}
	return strings.Join(list, " ")
}

func (p reply) token() string {
	s, _ := p.body["continuationToken"].(string)
	return s
}

// complete has a task complete, with these routes, and returns its id. extra is
// what its definition has under that name.
func (w *world) complete(extra string, routes ...string) string {
	w.Helper()
	id := slugid.New()
	w.mu.Lock()
	w.tasks[id] = fmt.Sprintf(`{"created": %q, "expires": %q, "extra": %s}`, timestamp.Now(), timestamp.Of(time.Now().Add(48*time.Hour)), extra)
	w.mu.Unlock()
	w.announce(id, routes...)
	return id
}

func (w *world) announce(id string, routes ...string) {
	w.Helper()
	var cc []string
	for _, r := range routes {
		cc = append(cc, "route."+r)
	}
	if err := w.config.DB.Do(w.Context(), func(tx *store.Tx) error {
		return w.events.Publish(tx, topicCompleted, "primary."+id+".0.g.w.p.wt._._._", cc, map[string]any{"status": map[string]any{"taskId": id}})
	}); err != nil {
		w.Fatal(err)
	}
}

// expireNow runs the loop index.expiry.
func (w *world) expireNow() {
	w.Helper()
	for more := true; more; {
		var err error
		if more, err = w.Loops()[0].Pass(w.Context()); err != nil {
			w.Fatal(err)
		}
	}
}

// subscribed has messages delivered from now on until the test ends.
func (w *world) subscribed() {
	w.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- loop.NewRunner(w.config.Log, loop.Alone, prometheus.NewRegistry()).Run(ctx, w.events.Loops()...)
	}()
	w.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
	synctest.Wait()
}

// delivered waits until what was published is delivered.
func (w *world) delivered() {
	time.Sleep(time.Second)
	synctest.Wait()
}

// count is how many rows a table has.
func (w *world) count(table string) (n int) {
	w.Helper()
	if err := w.config.DB.View(w.Context(), func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT count(*) FROM ` + table).Scan(&n)
	}); err != nil {
		w.Fatal(err)
	}
	return n
}
