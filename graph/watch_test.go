package graph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
)

// A deployment is a queue as far as graphs know it: tasks, their group, and a
// log of messages that is streamed from any position.
type deployment struct {
	t         *testing.T
	refuse    func(queue.CreateTaskRequest) int // status to refuse a task with; 0: take it
	noStream  bool
	cutStream int // this many streams break after each message

	mu     sync.Mutex
	order  []string // names, as created
	tasks  map[string]*queue.TaskDefinitionAndStatus
	log    []queue.TaskStatus
	grown  chan struct{} // closed when the log grows
	looks  int
	resume []string // the Last-Event-ID of each stream
	busy   int      // createTask calls under way
	most   int
}

func deploy(t *testing.T) (*deployment, *client.Client) {
	d := &deployment{t: t, tasks: map[string]*queue.TaskDefinitionAndStatus{}, grown: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /api/queue/v1/task/{id}", d.create)
	mux.HandleFunc("GET /api/queue/v1/task-group/{id}/list", d.list)
	mux.HandleFunc("GET /api/events/v1/connect/{$}", d.connect)
	s := httptest.NewServer(mux)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	core, err := client.New(client.Options{
		RootURL: s.URL, Log: slog.New(slog.DiscardHandler), Retry: client.Retry{Wait: time.Millisecond, MaxWait: time.Millisecond}, Transport: &http.Transport{},
	})
	if err != nil {
		t.Fatal(err)
	}
	return d, core
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

func (d *deployment) create(w http.ResponseWriter, r *http.Request) {
	var in queue.CreateTaskRequest
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		d.t.Error(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refuse != nil {
		if status := d.refuse(in); status != 0 {
			reply(w, status, map[string]string{"code": "InputError", "message": "not this one"})
			return
		}
	}
	for _, need := range in.Dependencies {
		if d.tasks[need] == nil {
			d.t.Errorf("%s was created before one that it needs", in.Metadata.Name)
		}
	}
	id := r.PathValue("id")
	if d.tasks[id] == nil {
		d.order = append(d.order, in.Metadata.Name)
	}
	d.tasks[id] = &queue.TaskDefinitionAndStatus{
		Task: queue.Task{Metadata: in.Metadata, Requires: "all-completed", Dependencies: in.Dependencies}, Status: queue.TaskStatus{TaskID: id, State: "unscheduled"},
	}
	reply(w, 200, queue.TaskStatusResponse{Status: d.tasks[id].Status})
}

func (d *deployment) list(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.looks++
	if len(d.tasks) == 0 {
		reply(w, 404, map[string]string{"code": "ResourceNotFound", "message": "no such group"})
		return
	}
	out := queue.ListTaskGroupResponse{TaskGroupID: r.PathValue("id")}
	for _, t := range d.tasks {
		out.Tasks = append(out.Tasks, *t)
	}
	reply(w, 200, out)
}

func (d *deployment) connect(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	if d.noStream {
		d.mu.Unlock()
		reply(w, 403, map[string]string{"code": "InsufficientScopes", "message": "no"})
		return
	}
	last := r.Header.Get("Last-Event-ID")
	d.resume = append(d.resume, last)
	cut := d.cutStream > 0
	d.cutStream--
	at := len(d.log)
	if last != "" {
		fmt.Sscan(last, &at)
	}
	d.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(name string, id int, data any) {
		text, _ := json.Marshal(data)
		fmt.Fprintf(w, "event: %s\nid: %d\ndata: %s\n\n", name, id, text)
		w.(http.Flusher).Flush()
	}
	send("ready", at, struct{}{})
	for {
		d.mu.Lock()
		news, grown := d.log[at:], d.grown
		d.mu.Unlock()
		for _, s := range news {
			at++
			send("message", at, map[string]any{"exchange": "x", "payload": map[string]any{"status": s}})
			if cut {
				return
			}
		}
		select {
		case <-grown:
		case <-r.Context().Done():
			return
		}
	}
}

// step gives a task its next state.
func (d *deployment) step(id string, runs ...string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := status(id, runs...)
	if d.tasks[id] == nil {
		d.tasks[id] = &queue.TaskDefinitionAndStatus{Task: queue.Task{Metadata: queue.TaskMetadata{Name: id}}}
	}
	d.tasks[id].Status = s
	d.log = append(d.log, s)
	close(d.grown)
	d.grown = make(chan struct{})
}

const chain = head + `
tasks:
  c: {dependencies: ["b-*"], command: [[x]]}
  b-${n}: {each: {n: 1..20}, dependencies: [a], command: [[x]]}
  a: {command: [[x]]}
`

func TestSubmitCreatesDependenciesFirst(t *testing.T) {
	d, core := deploy(t)
	g := parse(t, chain)
	var told []int
	if err := Submit(t.Context(), core, g, func(created, total int) { told = append(told, created) }); err != nil {
		t.Fatal(err)
	}
	if len(d.order) != 22 || d.order[0] != "a" || d.order[21] != "c" {
		t.Errorf("created %v", d.order)
	}
	if !slices.IsSorted(told) || len(told) != 22 || told[21] != 22 {
		t.Errorf("told %v", told)
	}
	if err := Submit(t.Context(), core, g, nil); err != nil || len(d.order) != 22 {
		t.Errorf("submitted again, there are %d tasks, %v", len(d.order), err)
	}
}

func TestSubmitRepeatsWhatMayPass(t *testing.T) {
	d, core := deploy(t)
	failures := 0
	d.refuse = func(in queue.CreateTaskRequest) int {
		if failures++; failures%3 != 0 {
			return 503
		}
		return 0
	}
	if err := Submit(t.Context(), core, parse(t, chain), nil); err != nil || len(d.order) != 22 {
		t.Errorf("%d tasks, %v", len(d.order), err)
	}
}

func TestSubmitStopsAtARefusalAndTellsHowFarItCame(t *testing.T) {
	d, core := deploy(t)
	d.refuse = func(in queue.CreateTaskRequest) int {
		if in.Metadata.Name == "b-7" {
			return 400
		}
		return 0
	}
	err := Submit(t.Context(), core, parse(t, chain), nil)
	var partly *PartlySubmitted
	if !errors.As(err, &partly) || partly.Created != len(d.order) || partly.Total != 22 || slices.Contains(d.order, "c") {
		t.Fatalf("got %v; created are %v", err, d.order)
	}
	if !strings.Contains(err.Error(), "create task b-7 (id-") || !strings.Contains(err.Error(), "not this one") {
		t.Errorf("the error is %v", err)
	}
	d.refuse = func(queue.CreateTaskRequest) int { return 403 }
	if err := Submit(t.Context(), core, parse(t, chain), nil); err == nil || !strings.Contains(err.Error(), "none of the graph's 22 tasks") {
		t.Errorf("got %v", err)
	}
}

func TestSubmitEndsWithItsContext(t *testing.T) {
	d, core := deploy(t)
	ctx, cancel := context.WithCancel(t.Context())
	d.refuse = func(queue.CreateTaskRequest) int { cancel(); return 0 }
	if err := Submit(ctx, core, parse(t, chain), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// watch follows the deployment's group and returns the steps, as name:state.
func watch(t *testing.T, core *client.Client, onStep func(Change)) (*Progress, []string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var steps []string
	p, err := Watch(ctx, core, "g", func(_ *Progress, c Change) {
		steps = append(steps, c.Task.Name+":"+c.Task.Status.State)
		onStep(c)
	})
	return p, steps, err
}

func TestWatchFollowsToTheEnd(t *testing.T) {
	for name, set := range map[string]func(*deployment){
		"by the stream":                  func(*deployment) {},
		"by a stream that breaks":        func(d *deployment) { d.cutStream = 3 },
		"by asking, where there is none": func(d *deployment) { d.noStream = true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, core := deploy(t)
			set(d)
			d.step("a", "pending")
			// Each step that the watcher tells of brings the next one about.
			script := []func(){
				func() { d.step("a", "running") },
				func() { d.step("late", "pending") }, // joins while the other runs
				func() { d.step("a", "exception", "pending") },
				func() { d.step("late", "completed") },
				func() { d.step("a", "exception", "completed") },
			}
			p, steps, err := watch(t, core, func(Change) {
				if len(script) > 0 {
					script[0]()
					script = script[1:]
				}
			})
			if err != nil || !p.Completed() || p.Counts().Total() != 2 {
				t.Fatalf("ended with %+v, %v", p.Counts(), err)
			}
			if !slices.Contains(steps, "a:completed") || !slices.Contains(steps, "late:completed") {
				t.Errorf("the steps are %v", steps)
			}
			if d.noStream {
				return
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			for i, last := range d.resume {
				if (last == "") != (i == 0) {
					t.Errorf("the streams were resumed at %q", d.resume)
				}
			}
		})
	}
}

func TestWatchEndsWhenTheRestIsBlocked(t *testing.T) {
	d, core := deploy(t)
	if err := Submit(t.Context(), core, parse(t, chain), nil); err != nil {
		t.Fatal(err)
	}
	for id, x := range d.tasks {
		if x.Task.Metadata.Name == "a" {
			d.step(id, "failed")
		}
	}
	p, _, err := watch(t, core, func(Change) {})
	if err != nil || p.Completed() || len(p.Blocked()) != 21 || p.Counts() != (Counts{Unscheduled: 21, Failed: 1}) {
		t.Errorf("ended with %+v, %v, %v", p.Counts(), p.Blocked(), err)
	}
}

func TestWatchSaysThatThereIsNoSuchGroup(t *testing.T) {
	_, core := deploy(t)
	if _, _, err := watch(t, core, func(Change) {}); err == nil || !strings.Contains(err.Error(), "there is no task group g") {
		t.Errorf("got %v", err)
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	d, core := deploy(t)
	d.step("a", "pending")
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	_, err := Watch(ctx, core, "g", func(*Progress, Change) { cancel(enough) })
	if !errors.Is(err, enough) {
		t.Errorf("got %v", err)
	}
}

func TestEventsAreReadAsTheyAreWritten(t *testing.T) {
	var got []string
	err := readEvents(strings.NewReader(": a comment\n\nevent: ready\nid: 7\ndata: {}\n\nevent:message\r\ndata: one\r\ndata: two\r\n\r\nid: 8\nunknown: x\n\ndata: last\n\nevent: cut"),
		func(name, id string, data []byte) error {
			got = append(got, fmt.Sprintf("%s/%s/%s", name, id, data))
			return nil
		})
	if want := []string{"ready/7/{}", "message//one\ntwo", "//last"}; !slices.Equal(got, want) || err == nil {
		t.Errorf("got %q, %v, want %q and an error for the end", got, err, want)
	}
	enough := errors.New("enough")
	if err := readEvents(strings.NewReader("data: x\n\n"), func(string, string, []byte) error { return enough }); err != enough {
		t.Errorf("got %v", err)
	}
	if err := readEvents(io.LimitReader(endless{}, 2*maxEvent), func(string, string, []byte) error { return nil }); err == nil {
		t.Error("an endless line was read")
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}
