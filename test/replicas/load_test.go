package replicas

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A load is tasks that are created and worked on by clients and workers of ours. It writes down what they were told, and
// what the log of messages tells about each task, and finds what does not fit together.
type load struct {
	t       *testing.T
	p       *platform
	total   int
	queueID string
	group   string

	// call makes a call until it has succeeded, or there is no more hope for it.
	call func(ctx context.Context, f func() error) error
	// clocks says that claims may expire.
	clocks bool
	// roots are the clients that calls are spread over.
	roots []*client.Client

	mu        sync.Mutex
	changed   *sync.Cond
	allowed   int // how many tasks may be created so far
	begun     int
	created   int // as acknowledged
	completed int // as acknowledged
	told      int // as the log told
	tasks     map[string]*history
	ids       []string // of those that are there for certain, in the order of their creation
	stopped   error
	wrong     int // complaints
	again     int // runs that were given back, or lost, and begun anew
	expired   int // claims that expired
	position  int64
	positions map[int64]bool // of all messages about our tasks
}

// A history is what we know of a task.
type history struct {
	created, completed bool           // as acknowledged to us
	given              map[int]string // by run, the worker that was given it
	artifacts          []*artifact

	state    string // as the log tells it
	run      int
	resolved int
}

const (
	clients   = 8
	workers   = 12
	claimSize = 4

	// lifetime is far above what a test takes, and above what a clock jumps.
	lifetime = 4 * time.Hour
)

func newLoad(t *testing.T, p *platform, total int) *load {
	l := &load{
		t: t, p: p, total: total, allowed: total, queueID: newName("pool") + "/load", group: slugid.New(),
		tasks: map[string]*history{}, positions: map[int64]bool{}, call: persist, roots: []*client.Client{p.client(never)},
	}
	l.changed = sync.NewCond(&l.mu)
	return l
}

// persist repeats a call until it succeeds or is refused.
func persist(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil || client.IsRefusal(err) || ctx.Err() != nil {
			return err
		}
		if !sleep(ctx, 50*time.Millisecond+rand.N(200*time.Millisecond)) {
			return err
		}
	}
}

// once repeats a call that failed for what may pass, once: when the connections that broke with it have been seen to be
// broken, also by a machine that is busy.
func once(ctx context.Context, f func() error) error {
	err := f()
	if err == nil || client.IsRefusal(err) || ctx.Err() != nil || !sleep(ctx, 500*time.Millisecond+rand.N(500*time.Millisecond)) {
		return err
	}
	if again := f(); again != nil {
		return fmt.Errorf("%w; and when it was tried again: %w", err, again)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// run has all of it done, while during goes on, and checks what came of it.
func (l *load) run(during func(ctx context.Context)) {
	l.t.Helper()
	longest := 2*patience + time.Duration(l.total)*100*time.Millisecond
	ctx, cancel := context.WithTimeout(l.t.Context(), longest)
	defer cancel()
	working, stopWorking := context.WithCancel(ctx)
	defer stopWorking()
	defer context.AfterFunc(ctx, func() { l.stop(fmt.Errorf("not done within %v", longest)) })()
	begun := time.Now()

	var running sync.WaitGroup
	for i := range clients {
		running.Go(func() { l.create(ctx, queue.New(l.roots[i%len(l.roots)])) })
	}
	for i := range workers {
		running.Go(func() { l.work(working, fmt.Sprint("worker-", i), l.roots[i%len(l.roots)]) })
	}
	running.Go(func() { l.follow(ctx) })
	if during != nil {
		running.Go(func() { during(ctx) })
	}
	err := l.wait(func() bool { return l.completed == l.total && l.told == l.total })
	took := time.Since(begun)
	if err != nil {
		cancel()
	}
	stopWorking()
	running.Wait()
	if err != nil {
		l.t.Fatalf("%v: of %d tasks %d were created, %d completed, %d told of as resolved; %s", err, l.total, l.created, l.completed, l.told, l.stuck())
	}
	l.t.Logf("%d tasks in %v, %.0f a second; %d runs were begun anew, %d of them since their claims had expired", l.total, took.Round(time.Millisecond), float64(l.total)/took.Seconds(), l.again, l.expired)
	l.check()
}

// wait waits for a condition, or until the load is stopped.
func (l *load) wait(holds func() bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.stopped == nil && !holds() {
		l.changed.Wait()
	}
	return l.stopped
}

func (l *load) stop(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.stopped == nil {
		l.stopped = why
	}
	l.changed.Broadcast()
}

// allow lets so many more tasks be created.
func (l *load) allow(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.allowed = min(l.allowed+n, l.total)
	l.changed.Broadcast()
}

// complain is for what must not be. It may be called with l.mu held or without.
func (l *load) complain(format string, args ...any) {
	l.t.Helper()
	if l.wrong++; l.wrong <= 20 { // more of the same helps nobody
		l.t.Errorf(format, args...)
	}
}

// create is one client. One task in ten depends on two that are there.
func (l *load) create(ctx context.Context, q *queue.Client) {
	for {
		id, dependencies := slugid.New(), []string(nil)
		if l.wait(func() bool { return l.begun < l.allowed || l.begun == l.total }) != nil {
			return
		}
		l.mu.Lock()
		if l.begun == l.total {
			l.mu.Unlock()
			return
		}
		if l.begun >= l.allowed {
			l.mu.Unlock()
			continue
		}
		l.begun++
		if n := len(l.ids); n > 0 && l.begun%10 == 0 {
			dependencies = slices.Compact([]string{l.ids[n-1], l.ids[rand.IntN(n)]})
		}
		l.tasks[id] = &history{given: map[int]string{}}
		l.mu.Unlock()

		definition := newTask(l.queueID, l.group, dependencies)
		if err := l.call(ctx, func() error { _, err := q.CreateTask(ctx, id, definition); return err }); err != nil {
			l.stop(fmt.Errorf("creating task %s: %w", id, err))
			return
		}
		l.mu.Lock()
		l.tasks[id].created = true
		l.created++
		l.ids = append(l.ids, id)
		l.changed.Broadcast()
		l.mu.Unlock()
	}
}

func newTask(queueID, group string, dependencies []string) *queue.CreateTaskRequest {
	now := timestamp.Now()
	return &queue.CreateTaskRequest{
		TaskQueueID: queueID, TaskGroupID: group, Created: now, Deadline: now.Add(lifetime), Expires: now.Add(2 * lifetime),
		Dependencies: dependencies, Payload: json.RawMessage(`{}`),
		Metadata: queue.TaskMetadata{Name: "load", Description: "One of many.", Owner: "test@example.com", Source: "https://example.com"},
	}
}

// work is one worker. It has nothing in hand when it asks for work, and says so; as ours does, so that it is given again
// what it has without knowing.
func (l *load) work(ctx context.Context, name string, root *client.Client) {
	q := queue.New(root)
	for ctx.Err() == nil {
		var reply *queue.ClaimWorkResponse
		err := l.call(ctx, func() (err error) {
			reply, err = q.ClaimWork(ctx, l.queueID, &queue.ClaimWorkRequest{WorkerGroup: "load", WorkerID: name, Tasks: claimSize, Holding: []string{}})
			return err
		})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.stop(fmt.Errorf("%s, claiming work: %w", name, err))
			return
		}
		l.given(name, reply.Tasks)
		for _, c := range reply.Tasks {
			err := l.do(ctx, root, &c)
			if client.IsConflict(err) && l.lost(ctx, q, &c) {
				continue // as a worker does: it is another's now
			}
			if err != nil {
				l.stop(fmt.Errorf("%s, with run %d of task %s: %w", name, c.RunID, c.Status.TaskID, err))
				return
			}
		}
	}
}

// lost tells whether a claim has expired, as it may if a clock ran ahead soon after another one had been behind.
func (l *load) lost(ctx context.Context, q *queue.Client, c *queue.ClaimWorkResponseTask) bool {
	var reply *queue.TaskStatusResponse
	if l.call(ctx, func() (err error) { reply, err = q.Status(ctx, c.Status.TaskID); return err }) != nil {
		return false
	}
	run := reply.Status.Runs[c.RunID]
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expired++
	return l.clocks && run.ReasonResolved == "claim-expired"
}

// given writes down who was given which runs. Each run is given once.
func (l *load) given(name string, list []queue.ClaimWorkResponseTask) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range list {
		h := l.tasks[c.Status.TaskID]
		if h == nil {
			l.complain("%s was given task %s, which nobody has created", name, c.Status.TaskID)
			continue
		}
		if other, taken := h.given[c.RunID]; taken {
			l.complain("run %d of task %s was given to %s, and to %s as well", c.RunID, c.Status.TaskID, other, name)
		}
		if h.completed {
			l.complain("task %s was given to %s after it was completed", c.Status.TaskID, name)
		}
		h.given[c.RunID] = name
	}
}

// do does a task: some have artifacts.
func (l *load) do(ctx context.Context, root *client.Client, c *queue.ClaimWorkResponseTask) error {
	core := root.WithCredentials(cred.Credentials(c.Credentials), nil)
	q := queue.New(core)
	id := c.Status.TaskID
	if kind := rand.IntN(3 * len(uploads)); kind < len(uploads) {
		if err := l.upload(ctx, core, id, c.RunID, kind); err != nil {
			return fmt.Errorf("its artifact: %w", err)
		}
	}
	if err := l.call(ctx, func() error { _, err := q.ReportCompleted(ctx, id, c.RunID); return err }); err != nil {
		return fmt.Errorf("reporting it: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.tasks[id]; !h.completed {
		h.completed = true
		l.completed++
		l.changed.Broadcast()
	}
	return nil
}

// event is called with each message of the log, in the order of the log. A task goes from defined over pending and
// running to completed. Where a worker was lost, or the answer to its claim, it comes back to pending.
func (l *load) event(position int64, exchange, id string, run int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if position <= l.position {
		l.complain("the log went back from position %d to %d", l.position, position)
	}
	l.position = position
	h := l.tasks[id]
	if h == nil {
		return // of another test
	}
	l.positions[position] = true
	if exchange == "artifact-created" { // also for a while after the run was lost
		if run > h.run || h.state != "task-running" && run == h.run {
			l.complain("task %s: an artifact of run %d was told of after %s of run %d (position %d)", id, run, h.state, h.run, position)
		}
		return
	}
	before := h.state
	fits := false
	switch h.state = exchange; exchange {
	case "task-defined":
		fits = before == ""
	case "task-pending":
		fits = before == "task-defined" && run == 0 || before == "task-running" && (run == h.run || run == h.run+1)
		if before == "task-running" {
			l.again++
		}
	case "task-running":
		fits = before == "task-pending" && run == h.run
	case "task-completed":
		fits = before == "task-running" && run == h.run
		if h.resolved++; h.resolved == 1 {
			l.told++
			l.changed.Broadcast()
		}
	}
	if !fits {
		l.complain("task %s: %s of run %d was told after %s of run %d (position %d)", id, exchange, run, before, h.run, position)
	}
	h.run = run
}

// stuck describes what has not come to its end.
func (l *load) stuck() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []string
	for id, h := range l.tasks {
		if (!h.completed || h.resolved == 0) && len(list) < 10 {
			s, err := queue.New(l.p.client(never)).Status(context.Background(), id)
			list = append(list, fmt.Sprintf("%s: created %t, completed %t, told %s of run %d; it is %+v, %v", id, h.created, h.completed, h.state, h.run, s, err))
		}
	}
	return fmt.Sprintf("%q", list)
}

// check compares what the platform says with what it said before.
func (l *load) check() {
	t, ctx := l.t, l.t.Context()
	t.Helper()
	q := queue.New(l.p.client(patient))
	ids := slices.Clone(l.ids)
	seen := map[string]bool{}
	for part := range slices.Chunk(ids, 500) {
		for s, err := range q.StatusesAll(ctx, &queue.TasksRequest{TaskIDs: part}, queue.StatusesOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			seen[s.TaskID] = true
			l.checkStatus(&s.Status)
		}
	}
	for _, id := range ids {
		if !seen[id] {
			l.complain("task %s was acknowledged, and is not there", id)
		}
	}
	members := 0
	for m, err := range q.ListTaskGroupAll(ctx, l.group, queue.ListTaskGroupOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if members++; !seen[m.Status.TaskID] {
			l.complain("task %s is in the group, and nobody was told that it is there", m.Status.TaskID)
		}
	}
	if members != l.total {
		l.complain("the group has %d tasks; %d were created", members, l.total)
	}
	uploaded := 0
	for id, h := range l.tasks {
		for _, a := range h.artifacts {
			uploaded++
			l.checkArtifact(ctx, q, id, a)
		}
	}
	if l.wrong > 20 {
		t.Errorf("and %d complaints more", l.wrong-20)
	}
	t.Logf("%d tasks are resolved once each, as the log tells, and %d artifacts have their bytes", members, uploaded)
}

func (l *load) checkStatus(s *queue.TaskStatus) {
	completed := 0
	for _, r := range s.Runs {
		if r.State == "completed" {
			completed++
		}
	}
	h := l.tasks[s.TaskID]
	if last := len(s.Runs) - 1; s.State != "completed" || completed != 1 || h.resolved != 1 || h.state != "task-completed" || h.run != last {
		l.complain("task %s is %s with %d completed of %d runs; the log told of %d ends, and of %s of run %d last", s.TaskID, s.State, completed, len(s.Runs), h.resolved, h.state, h.run)
	}
}

var errLost = errors.New("the log lost messages")
