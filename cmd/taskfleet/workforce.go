//go:build !agent

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/provisioner"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/provisioner/sizing"
	"github.com/taskfleet/taskfleet/queue"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A workforce is the queue as the provisioner wants it. Pools and task queues
// have the same names.
type workforce struct {
	queue *queue.Queue

	mu       sync.Mutex
	upcoming map[string][]fleet.Upcoming
	of       map[string]bool // pools that it was asked for
	asked    timestamp.Time  // for upcoming, at the queue
}

var _ provisioner.Queue = (*workforce)(nil)

// foresight is how long the answer to what comes next is good: it takes the
// queue more time than what there is now.
const foresight = 2 * time.Second

// Demand is what the queues of pools have to do.
func (w *workforce) Demand(ctx context.Context, now timestamp.Time, pools []string) (map[string]fleet.Demand, error) {
	all, err := w.queue.Demand(ctx, pools)
	if err != nil {
		return nil, err
	}
	upcoming, err := w.lookAhead(ctx, now, pools)
	if err != nil {
		return nil, err
	}
	out := make(map[string]fleet.Demand, len(pools))
	for _, id := range pools {
		d := all[id]
		x := fleet.Demand{Pending: d.Pending, Oldest: d.Oldest, Claimed: int64(len(d.Running)), Known: upcoming[id]}
		seen := make(map[fleet.Ref]fleet.Seen, len(d.Workers))
		for _, s := range d.Workers {
			seen[refOf(id, s.Worker)] = fleet.Seen{Active: s.Active, Released: s.Released, Quarantined: s.Quarantined}
		}
		for _, r := range d.Running {
			x.Running = append(x.Running, sizing.Running{Kind: r.Kind, Since: r.Started})
			ref := refOf(id, r.Worker)
			s := seen[ref]
			s.Claims++
			seen[ref] = s
		}
		x.Of = func(r fleet.Ref) fleet.Seen { return seen[r] }
		out[id] = x
	}
	return out, nil
}

func refOf(pool string, w queue.Worker) fleet.Ref {
	return fleet.Ref{WorkerPoolID: pool, WorkerGroup: w.Group, WorkerID: w.ID}
}

func (w *workforce) lookAhead(ctx context.Context, now timestamp.Time, pools []string) (map[string][]fleet.Upcoming, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	known := !slices.ContainsFunc(pools, func(id string) bool { return !w.of[id] })
	if known && now >= w.asked && now.Sub(w.asked) < foresight {
		return w.upcoming, nil
	}
	list, err := w.queue.Upcoming(ctx, pools)
	if err != nil {
		return nil, err
	}
	w.upcoming, w.of, w.asked = map[string][]fleet.Upcoming{}, make(map[string]bool, len(pools)), now
	for _, id := range pools {
		w.of[id] = true
	}
	for _, u := range list {
		x := fleet.Upcoming{Count: u.Count}
		for _, d := range u.Dependencies {
			x.After = append(x.After, fleet.Ahead{PoolID: d.TaskQueueID, Kind: d.Kind, Since: d.Started})
		}
		w.upcoming[u.TaskQueueID] = append(w.upcoming[u.TaskQueueID], x)
	}
	return w.upcoming, nil
}

// WorkerGone hands the claims of a worker that has ended back.
func (w *workforce) WorkerGone(ctx context.Context, workerPoolID, workerGroup, workerID string) error {
	return w.queue.WorkerGone(ctx, workerPoolID, workerGroup, workerID)
}

// Drain has the queue give workers nothing more that have nothing.
func (w *workforce) Drain(tx *store.Tx, list []fleet.Ref) ([]fleet.Ref, error) {
	return ofEach(tx, list, w.queue.DrainAny)
}

// Retire has the queue give workers nothing more.
func (w *workforce) Retire(tx *store.Tx, list []fleet.Ref) ([]fleet.Ref, error) {
	return ofEach(tx, list, w.queue.Retire)
}

// ofEach calls f for the workers of each pool.
func ofEach(tx *store.Tx, list []fleet.Ref, f func(*store.Tx, string, []queue.Worker) ([]queue.Worker, error)) (done []fleet.Ref, err error) {
	by := map[string][]queue.Worker{}
	for _, r := range list {
		by[r.WorkerPoolID] = append(by[r.WorkerPoolID], workerOf(r))
	}
	for _, pool := range slices.Sorted(maps.Keys(by)) { // an order for the locks
		some, err := f(tx, pool, by[pool])
		if err != nil {
			return nil, err
		}
		for _, x := range some {
			done = append(done, refOf(pool, x))
		}
	}
	return done, nil
}

func workerOf(r fleet.Ref) queue.Worker { return queue.Worker{Group: r.WorkerGroup, ID: r.WorkerID} }

// Admit has the queue give a worker tasks again.
func (w *workforce) Admit(tx *store.Tx, r fleet.Ref) error {
	return w.queue.Admit(tx, r.WorkerPoolID, workerOf(r))
}

// Record is what the queue remembers of a worker.
func (w *workforce) Record(ctx context.Context, r fleet.Ref) (*provisioner.Record, error) {
	x, err := w.queue.WorkerRecord(ctx, r.WorkerPoolID, r.WorkerGroup, r.WorkerID)
	if e, ok := errors.AsType[*api.Error](err); ok && e.Code == api.ResourceNotFound {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return recordOf(x), nil
}

// Records are those of workers of a pool.
func (w *workforce) Records(ctx context.Context, poolID string, quarantined *bool, after *fleet.Ref, limit int) (list []*provisioner.Record, err error) {
	var from *queue.Worker
	if after != nil {
		x := workerOf(*after)
		from = &x
	}
	records, err := w.queue.WorkerRecords(ctx, poolID, quarantined, from, limit)
	for _, x := range records {
		list = append(list, recordOf(x))
	}
	return list, err
}

func recordOf(x *queue.WorkerRecord) *provisioner.Record {
	r := &provisioner.Record{
		Ref: refOf(x.TaskQueueID, x.Worker), FirstClaim: x.FirstClaim, Active: x.Active, Expires: x.Expires, QuarantineUntil: x.QuarantineUntil,
	}
	for _, q := range x.Quarantines {
		r.Quarantines = append(r.Quarantines, provisioner.Quarantine(q))
	}
	for _, t := range x.RecentTasks {
		r.Recent = append(r.Recent, provisioner.RecentTask(t))
	}
	return r
}

// A learner tells the provisioner what happens to tasks, by the events. Each
// replica reads them, as the provisioner can move to it at any time; until then
// its own does not listen.
type learner struct {
	bus      *event.Bus
	prov     *provisioner.Provisioner
	position int64
	more     <-chan struct{}
	defined  map[string]timestamp.Time // tasks that were defined a moment ago, and when
}

func newLearner(ctx context.Context, bus *event.Bus, prov *provisioner.Provisioner) (*learner, error) {
	position, more, err := bus.Head(ctx)
	if err != nil {
		return nil, fmt.Errorf("finding out where the log of events ends: %w", err)
	}
	return &learner{bus, prov, position, more, map[string]timestamp.Time{}}, nil
}

func (l *learner) loop() loop.Loop {
	return loop.Loop{
		Name: "provisioner.learn", Doc: "Learns from events how many tasks come to pools and how long they run.",
		When: loop.Every(time.Minute), Wake: l.more, Pass: l.pass, EveryReplica: true,
	}
}

// atOnce is how much later than a task was defined it may become pending and still
// have waited for nothing: the two are one transaction.
const atOnce = time.Second

var (
	topicDefined = event.Topic("queue", "v1", queue.TaskDefined)
	topicPending = event.Topic("queue", "v1", queue.TaskPending)
	topicsEnded  = []string{event.Topic("queue", "v1", queue.TaskCompleted), event.Topic("queue", "v1", queue.TaskFailed)}
)

func (l *learner) pass(ctx context.Context) (more bool, err error) {
	const batch = 1000
	list, more, err := l.bus.Next(ctx, l.position, batch)
	if err != nil {
		return false, err
	}
	for _, m := range list {
		l.position = m.Position
		switch m.Exchange {
		case topicDefined, topicPending:
			// All there is to know stands in the key.
			if k, ok := readKey(m); ok && m.Exchange == topicDefined {
				l.noteDefined(k.taskID, m.Created)
			} else if ok {
				l.prov.Arrived(k.queueID, m.Created, 1, l.known(k, m.Created))
			}
		case topicsEnded[0], topicsEnded[1]:
			if x, ok := readRun(m); ok && x.ran() >= 0 {
				l.prov.Finished(x.queueID, x.run.Resolved, queue.Kind(x.tags), x.ran())
			}
		}
	}
	return more, nil
}

// noteDefined remembers for a moment that a task was defined.
func (l *learner) noteDefined(taskID string, at timestamp.Time) {
	if len(l.defined) > 10_000 {
		maps.DeleteFunc(l.defined, func(_ string, t timestamp.Time) bool { return at.Sub(t) > atOnce })
	}
	l.defined[taskID] = at
}

// known counts the tasks that the graph had announced: 1 where a task became
// pending because others were done.
func (l *learner) known(k runKey, at timestamp.Time) int64 {
	defined, lately := l.defined[k.taskID]
	delete(l.defined, k.taskID)
	if k.runID != "0" || lately && at.Sub(defined) <= atOnce {
		return 0
	}
	return 1
}

// A runKey is what the routing key of a message about a task says.
type runKey struct{ taskID, runID, queueID string }

func readKey(m event.Message) (k runKey, ok bool) {
	words := strings.SplitN(m.RoutingKey, ".", 8)
	if len(words) < 8 {
		return k, false
	}
	return runKey{words[1], words[2], words[5] + "/" + words[6]}, true
}

// A runMessage is what a message about a task says of the run that it is about.
type runMessage struct {
	queueID string
	tags    map[string]string
	run     task.Run
}

func readRun(m event.Message) (r runMessage, ok bool) {
	var x struct {
		Status task.Status `json:"status"`
		Task   struct {
			Tags map[string]string `json:"tags"`
		} `json:"task"`
		RunID int `json:"runId"`
	}
	if err := json.Unmarshal(m.Payload, &x); err != nil || x.RunID < 0 || x.RunID >= len(x.Status.Runs) {
		return r, false
	}
	return runMessage{x.Status.TaskQueueID, x.Task.Tags, x.Status.Runs[x.RunID]}, true
}

// ran is how long the run took; less than 0 if it never ran.
func (r runMessage) ran() time.Duration {
	if r.run.Started.IsZero() {
		return -1
	}
	return r.run.Resolved.Sub(r.run.Started)
}

// subscribeTally has the provisioner count the runs that end, for what pools
// cost. Only one replica does.
func subscribeTally(bus *event.Bus, prov *provisioner.Provisioner) {
	var bindings []event.Binding
	for _, topic := range topicsEnded {
		bindings = append(bindings, event.Binding{Exchange: topic, RoutingKeyPattern: "#"})
	}
	bus.Subscribe("provisioner.tally", bindings, func(ctx context.Context, list []event.Message) (acted bool, err error) {
		var runs []provisioner.Run
		for _, m := range list {
			if x, ok := readRun(m); ok && x.ran() >= 0 {
				runs = append(runs, provisioner.Run{Position: m.Position, PoolID: x.queueID, Ended: x.run.Resolved, Length: x.ran()})
			}
		}
		return false, prov.Tally(ctx, runs) // which notes the positions
	})
}
