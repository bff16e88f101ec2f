package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/task"
)

// A replica is one process's part: on SQLite there is one, which plays all.
type replica struct {
	db    *store.DB
	queue *Queue
	bus   *event.Bus
}

// startReplicas starts n processes on the database, with their loops.
func startReplicas(t testing.TB, url string, n int) []replica {
	t.Helper()
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	var list []replica
	for i := range n {
		if i > 0 && strings.HasPrefix(url, "sqlite:") {
			list = append(list, list[0])
			continue
		}
		db := storetest.Open(t, url)
		bus, err := event.New(t.Context(), db, log)
		if err != nil {
			t.Fatal(err)
		}
		q, err := New(t.Context(), Config{DB: db, Events: bus, Mint: fakeMint{}, Log: log})
		if err != nil {
			t.Fatal(err)
		}
		work := slices.DeleteFunc(slices.Concat(q.Loops(), bus.Loops()), func(l loop.Loop) bool { return l.Name == "queue.uploads" || l.Name == "queue.artifacts" })
		ctx, stop := context.WithCancel(context.Background())
		var done sync.WaitGroup
		done.Go(func() {
			loop.NewRunner(log, db.Lease(fmt.Sprint("replica", i)), prometheus.NewRegistry()).Run(ctx, work...)
		})
		done.Go(func() { db.Listen(ctx) })
		t.Cleanup(func() { stop(); done.Wait() })
		list = append(list, replica{db, q, bus})
	}
	return list
}

// Everything is done to the tasks of a few groups at once, on two replicas. When
// all is quiet, nothing is forgotten, nothing contradicts itself, and the log
// tells of every task what happened to it, in order.
func TestTwoReplicasDoEverythingAtOnce(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		replicas := startReplicas(t, url, 2)
		// As much as any machine can finish in a while.
		const life, most = 8 * time.Second, 2000
		w := newWorld(t, replicas)
		var wg sync.WaitGroup
		end := time.Now().Add(life)
		for range 8 {
			wg.Go(func() {
				for time.Now().Before(end) && !t.Failed() && w.count() < most {
					w.create()
				}
			})
		}
		for range 3 {
			wg.Go(func() {
				for time.Now().Before(end) && !t.Failed() && w.count() < most {
					w.steer()
				}
			})
		}
		var over atomic.Bool
		var workers sync.WaitGroup
		for i := range 10 {
			workers.Go(func() {
				for n := 0; !over.Load() && !t.Failed(); n++ {
					w.work(fmt.Sprintf("w%d-%d", i, n/20), &over)
				}
			})
		}
		wg.Wait()
		w.settle()
		over.Store(true)
		workers.Wait()
		w.check()
		t.Logf("%d tasks; slowest call %v", len(w.ids), time.Duration(w.slowest.Load()))
	})
}

type world struct {
	t        *testing.T
	replicas []replica
	slowest  atomic.Int64

	mu      sync.Mutex
	ids     []string
	groups  []string
	drained map[string]bool
}

func newWorld(t *testing.T, replicas []replica) *world {
	w := &world{t: t, replicas: replicas, drained: map[string]bool{}}
	for range 6 {
		w.groups = append(w.groups, slugid.New())
	}
	return w
}

// count is how many tasks there are.
func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.ids)
}

func (w *world) replica() replica { return w.replicas[rand.IntN(len(w.replicas))] }

func (w *world) some() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.ids) == 0 {
		return slugid.New()
	}
	recent := min(len(w.ids), 60)
	return w.ids[len(w.ids)-1-rand.IntN(recent)]
}

func (w *world) group() (string, int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	i := rand.IntN(len(w.groups))
	return w.groups[i], i
}

// fail reports errors that no caller has caused.
func (w *world) fail(what string, err error) {
	w.t.Helper()
	if _, ok := errors.AsType[*api.Error](err); err != nil && !ok {
		w.t.Errorf("%s: %v", what, err)
	}
}

func (w *world) timed(f func()) {
	start := time.Now()
	f()
	d := int64(time.Since(start))
	for {
		old := w.slowest.Load()
		if d <= old || w.slowest.CompareAndSwap(old, d) {
			return
		}
	}
}

func (w *world) create() {
	d := definition()
	id := slugid.New()
	d.TaskGroupID, _ = w.group()
	d.Priority = task.Priorities[rand.IntN(len(task.Priorities))]
	d.Retries = rand.IntN(3)
	d.Expires = d.Expires.Add(time.Duration(rand.IntN(100)) * time.Hour)
	if rand.IntN(3) > 0 {
		for range rand.IntN(4) {
			if dep := w.some(); !slices.Contains(d.Dependencies, dep) {
				d.Dependencies = append(d.Dependencies, dep)
			}
		}
	}
	if rand.IntN(3) == 0 {
		d.Requires = task.AllResolved
	}
	if rand.IntN(50) == 0 {
		d.SchedulerID = "other"
	}
	again := 1 + rand.IntN(8)/7
	var wg sync.WaitGroup
	var ok atomic.Int32
	for range again {
		wg.Go(func() {
			w.timed(func() {
				_, err := w.replica().queue.create(w.t.Context(), id, d)
				w.fail("create", err)
				if err == nil {
					ok.Add(1)
				}
			})
		})
	}
	wg.Wait()
	if ok.Load() > 0 {
		w.mu.Lock()
		w.ids = append(w.ids, id)
		w.mu.Unlock()
	}
}

func (w *world) steer() {
	q := w.replica().queue
	ctx := w.t.Context()
	id := w.some()
	change := func(f func(*changes, *record) error) error {
		return q.change(ctx, func(c *changes) error {
			r, err := lock(c.tx, id)
			if err != nil {
				return err
			}
			return f(c, r)
		})
	}
	w.timed(func() {
		switch rand.IntN(12) {
		case 0, 1:
			w.fail("cancel", q.change(ctx, func(c *changes) error { _, _, err := c.end(id, task.Canceled); return err }))
		case 2, 3:
			w.fail("rerun", change(func(c *changes, r *record) error {
				if r.State == task.Pending || r.State == task.Running || len(r.Runs) >= maxRuns {
					return nil
				}
				r.RetriesLeft = r.retries
				c.restart(r, task.Rerun)
				return nil
			}))
		case 4:
			w.fail("schedule", change(func(c *changes, r *record) error {
				if r.State == task.Unscheduled {
					c.restart(r, task.Scheduled)
				}
				return nil
			}))
		case 5, 6:
			w.fail("priority", q.db.Do(ctx, func(tx *store.Tx) error {
				_, err := q.reprioritize(tx, id, task.Priorities[rand.IntN(len(task.Priorities))])
				return err
			}))
		case 7, 8:
			group, _ := w.group()
			p := task.Priorities[rand.IntN(len(task.Priorities))]
			g, err := q.group(ctx, group)
			if err != nil {
				return
			}
			w.fail("begin priority", q.db.Do(ctx, func(tx *store.Tx) error { return q.beginPriority(tx, g, p) }))
			for done := false; !done && err == nil; {
				_, done, err = q.changeSome(ctx, group, p, priorityLease)
				w.fail("group priority", err)
			}
		case 9:
			if rand.IntN(10) > 0 {
				return
			}
			w.mu.Lock()
			i := rand.IntN(len(w.groups))
			group := w.groups[i]
			w.groups[i] = slugid.New()
			w.mu.Unlock()
			w.fail("seal", q.db.Do(ctx, func(tx *store.Tx) error {
				_, err := q.seal(tx, group)
				return ignoreMissing(err)
			}))
			w.fail("cancel group", q.change(ctx, func(c *changes) error {
				list, err := unresolved(c.tx, group, "")
				for _, id := range list {
					if _, _, err := c.end(id, task.Canceled); ignoreMissing(err) != nil {
						return err
					}
				}
				return err
			}))
		case 10:
			w.fail("worker gone", q.WorkerGone(ctx, "prov/wt", "grp", fmt.Sprintf("w%d-%d", rand.IntN(10), rand.IntN(30))))
		case 11:
			x := Worker{"grp", fmt.Sprintf("w%d-%d", rand.IntN(10), rand.IntN(30))}
			var drained bool
			err := q.db.Do(ctx, func(tx *store.Tx) (err error) { drained, err = q.Drain(tx, "prov/wt", x.Group, x.ID); return err })
			w.fail("drain", err)
			if err == nil && drained {
				w.mu.Lock()
				w.drained[x.ID] = true
				w.mu.Unlock()
			}
		}
	})
}

func (w *world) work(name string, over *atomic.Bool) {
	x := Worker{"grp", name}
	ctx, cancel := context.WithTimeout(w.t.Context(), 500*time.Millisecond)
	defer cancel()
	w.mu.Lock()
	drained := w.drained[name]
	w.mu.Unlock()
	q := w.replica().queue
	claims, err := q.awaitWork(ctx, "prov/wt", x, 1+rand.IntN(4))
	if err != nil && ctx.Err() == nil {
		w.fail("claim", err)
	}
	if drained && len(claims) > 0 {
		w.t.Errorf("%s claimed %d runs after it was drained", name, len(claims))
	}
	for _, c := range claims {
		w.timed(func() { w.carryOut(c) })
	}
}

func (w *world) carryOut(c claim) {
	q := w.replica().queue
	p := runPath{c.Status.TaskID, c.RunID}
	var err error
	switch n := rand.IntN(20); {
	case n == 0:
		q.unclaim([]claim{c})
	case n == 1: // it dies
		err = q.WorkerGone(w.t.Context(), "prov/wt", c.WorkerGroup, c.WorkerID)
	case n == 2:
		_, err = q.report(w.t.Context(), p, task.Exception, task.WorkerShutdown)
	case n == 3:
		_, err = q.report(w.t.Context(), p, task.Failed, task.DidFail)
	case n == 4:
		var wg sync.WaitGroup
		for _, r := range w.replicas {
			wg.Go(func() {
				_, err := r.queue.report(w.t.Context(), p, task.Completed, task.DidComplete)
				w.fail("report twice", err)
			})
		}
		wg.Wait()
	default:
		_, err = q.report(w.t.Context(), p, task.Completed, task.DidComplete)
	}
	w.fail("report", err)
}

// settle waits until there is nothing to do.
func (w *world) settle() {
	start := time.Now()
	defer func() { w.t.Logf("quiet after %v", time.Since(start)) }()
	for end := start.Add(5 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var busy int
		if err := w.replicas[0].db.View(w.t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT (SELECT count(*) FROM task WHERE state IN ('pending', 'running')) + (SELECT count(*) FROM resolution) +
				(SELECT count(*) FROM pending) + (SELECT count(*) FROM priority_change)`).Scan(&busy)
		}); err != nil {
			w.t.Fatal(err)
		}
		if busy == 0 || w.t.Failed() {
			return
		}
		if time.Now().After(end) {
			w.dump(`SELECT 'task ' || state || ' ' || task_id || ' ' || worker FROM task WHERE state IN ('pending', 'running') LIMIT 10`)
			w.dump(`SELECT 'pending ' || task_id FROM pending LIMIT 10`)
			w.dump(`SELECT 'resolution ' || task_id || ' failures ' || failures FROM resolution LIMIT 10`)
			w.dump(`SELECT 'priority ' || task_group_id FROM priority_change LIMIT 10`)
			w.t.Errorf("%d things are left to do after five minutes", busy)
			return
		}
	}
}

func (w *world) dump(statement string) {
	w.replicas[0].db.View(context.Background(), func(tx *store.Tx) error {
		list, err := tx.Column(statement)
		for _, line := range list {
			w.t.Log(line)
		}
		return err
	})
}

func (w *world) none(what, statement string) {
	w.t.Helper()
	w.replicas[0].db.View(context.Background(), func(tx *store.Tx) error {
		list, err := tx.Column(statement + " LIMIT 10")
		if err != nil {
			w.t.Errorf("%s: %v", what, err)
		}
		for _, line := range list {
			w.t.Errorf("%s: %s", what, line)
		}
		return nil
	})
}

func (w *world) check() {
	w.none("pending without a row", `SELECT task_id FROM task WHERE state = 'pending' AND task_id NOT IN (SELECT task_id FROM pending)`)
	w.none("a pending row of a task that is not", `SELECT task_id FROM pending WHERE task_id NOT IN (SELECT task_id FROM task WHERE state = 'pending')`)
	w.none("unscheduled with no open edge", `SELECT task_id FROM task WHERE state = 'unscheduled' AND task_id NOT IN (SELECT task_id FROM dependency WHERE satisfied = 0)`)
	w.none("an open edge that should be satisfied", `SELECT d.task_id || ' on ' || d.required || ' ' || r.state FROM dependency AS d JOIN task AS r ON r.task_id = d.required
		WHERE d.satisfied = 0 AND (r.state = 'completed' OR d.on_any = 1 AND r.state IN ('failed', 'exception'))`)
	w.none("an edge that waits wrongly", `SELECT d.task_id || ' ' || d.waits FROM dependency AS d JOIN task AS t ON t.task_id = d.task_id
		WHERE d.waits <> CASE WHEN t.state <> 'unscheduled' OR d.satisfied = 1 THEN 0
		  WHEN (SELECT count(*) FROM dependency AS o WHERE o.task_id = d.task_id AND o.satisfied = 0) = 1 THEN 1 ELSE 2 END`)
	w.none("a worker of a task that does not run", `SELECT task_id FROM task WHERE (worker <> '' OR taken_until <> 0 OR started <> 0) AND state <> 'running'`)
	w.none("a task without a group that has its scheduler", `SELECT task_id FROM task WHERE NOT EXISTS (
		SELECT 1 FROM task_group AS g WHERE g.task_group_id = task.task_group_id AND g.scheduler_id = task.scheduler_id AND g.expires >= task.expires)`)

	list := w.log()
	type told struct {
		status  task.Status
		defined bool
	}
	tasks := map[string]*told{}
	sealed, resolvedAt, lastEnd := map[string]int64{}, map[string]int64{}, map[string]int64{}
	for _, m := range list {
		_, kind, _ := strings.Cut(m.Exchange, "/v1/")
		var p struct {
			Status      task.Status `json:"status"`
			TaskGroupID string      `json:"taskGroupId"`
			RunID       *int        `json:"runId"`
		}
		if err := json.Unmarshal(m.Payload, &p); err != nil {
			w.t.Fatal(err)
		}
		switch kind {
		case "task-group-sealed":
			sealed[p.TaskGroupID] = m.Position
			continue
		case "task-group-resolved":
			resolvedAt[p.TaskGroupID] = m.Position
			continue
		case "task-group-priority-changed":
			continue
		}
		s := p.Status
		x := tasks[s.TaskID]
		if kind == "task-defined" {
			if x != nil {
				w.t.Errorf("task %s is defined twice or too late", s.TaskID)
			}
			if sealed[s.TaskGroupID] > 0 {
				w.t.Errorf("task %s is defined in group %s that was sealed at %d, at %d", s.TaskID, s.TaskGroupID, sealed[s.TaskGroupID], m.Position)
			}
			tasks[s.TaskID] = &told{status: s, defined: true}
			continue
		}
		if x == nil {
			w.t.Errorf("%s of task %s comes before task-defined", kind, s.TaskID)
			continue
		}
		if err := follows(x.status, s, kind); err != nil {
			w.t.Errorf("task %s at %d: %s: %v\n%+v\n%+v", s.TaskID, m.Position, kind, err, x.status, s)
		}
		if s.State.Resolved() {
			lastEnd[s.TaskGroupID] = m.Position
		}
		x.status = s
	}
	var all []*record
	if err := w.replicas[0].db.View(w.t.Context(), func(tx *store.Tx) (err error) {
		all, err = query(tx, `SELECT `+columns+` FROM task`)
		return err
	}); err != nil {
		w.t.Fatal(err)
	}
	open := map[string]bool{}
	for _, r := range all {
		x := tasks[r.TaskID]
		if x == nil {
			w.t.Errorf("nothing is told of task %s", r.TaskID)
			continue
		}
		if !r.State.Resolved() {
			open[r.TaskGroupID] = true
		}
		have, _ := json.Marshal(r.Runs)
		said, _ := json.Marshal(x.status.Runs)
		if r.State != x.status.State || string(have) != string(said) {
			w.t.Errorf("of task %s it is told last %v %s, and it is %v %s", r.TaskID, x.status.State, said, r.State, have)
		}
	}
	if len(all) != len(tasks) {
		w.t.Errorf("%d tasks, %d are told of", len(all), len(tasks))
	}
	for _, id := range w.ids {
		if tasks[id] == nil {
			w.t.Errorf("task %s was created and is not there", id)
		}
	}
	n := 0
	for g, at := range lastEnd {
		if open[g] { // it may have ended meanwhile: a task that was added or run again opens it
			continue
		}
		n++
		if resolvedAt[g] < at {
			w.t.Errorf("group %s ended at %d; it was told last at %d", g, at, resolvedAt[g])
		}
	}
	w.t.Logf("%d messages, %d groups ended, %d open", len(list), n, len(open))
}

// log reads all that was published, once it has been placed.
func (w *world) log() (list []event.Message) {
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var published, head int64
		if err := w.replicas[0].db.View(w.t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT (SELECT coalesce(sum(count), 0) FROM event_batch), (SELECT position FROM event_head)`).Scan(&published, &head)
		}); err != nil {
			w.t.Fatal(err)
		}
		if published == head {
			list, err := w.replicas[1].bus.Read(w.t.Context(), 0, int(head)+1)
			if err != nil || len(list) != int(head) {
				w.t.Errorf("%d of %d messages, %v", len(list), head, err)
			}
			for i, m := range list {
				if m.Position != int64(i)+1 {
					w.t.Fatalf("message %d has position %d", i, m.Position)
				}
			}
			return list
		}
	}
	w.t.Error("messages are not placed")
	return nil
}

// follows tells whether a task can have come from one status to another in one
// step.
func follows(a, b task.Status, kind string) error {
	if kind == "task-priority-changed" {
		if a.State != b.State || len(a.Runs) != len(b.Runs) {
			return errors.New("a state has not been told of")
		}
		return nil
	}
	if len(b.Runs) < len(a.Runs) || len(b.Runs) > len(a.Runs)+1 {
		return fmt.Errorf("%d runs after %d", len(b.Runs), len(a.Runs))
	}
	for i, run := range a.Runs {
		then := b.Runs[i]
		order := map[task.State]int{task.Pending: 0, task.Running: 1, task.Completed: 2, task.Failed: 2, task.Exception: 2}
		if order[then.State] < order[run.State] && !(run.State == task.Running && then.State == task.Pending) {
			return fmt.Errorf("run %d went from %s to %s", i, run.State, then.State)
		}
		if order[run.State] == 2 && (then.State != run.State || then.Resolved != run.Resolved || then.ReasonResolved != run.ReasonResolved) {
			return fmt.Errorf("run %d was resolved again", i)
		}
		if i < len(b.Runs)-1 && order[then.State] != 2 {
			return fmt.Errorf("run %d is open and there is another", i)
		}
	}
	want := map[string][]task.State{
		"task-pending": {task.Pending}, "task-running": {task.Running}, "task-completed": {task.Completed}, "task-failed": {task.Failed},
		"task-exception": {task.Exception},
	}[kind]
	if !slices.Contains(want, b.State) {
		return fmt.Errorf("its state is %s", b.State)
	}
	if kind == "task-running" && a.State != task.Pending {
		return fmt.Errorf("it runs after it was %s", a.State)
	}
	if (kind == "task-completed" || kind == "task-failed") && a.State != task.Running {
		return fmt.Errorf("%s after it was %s", kind, a.State)
	}
	return nil
}
