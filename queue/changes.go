package queue

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
)

// changes are what a transaction does to tasks. Transitions are made in memory,
// on records that are locked, and written down at the end, each kind of row for
// all tasks at once: what a transaction costs is above all how often it waits
// for the database.
type changes struct {
	queue    *Queue
	tx       *store.Tx
	records  []*record // to be updated
	left     []*record // that were unscheduled: their edges wait no more
	pending  []*record // with a new pending run
	resolved []*record
	messages []event.Outgoing
	err      error // of encoding a message
}

// change runs f in a transaction and writes down what it changes.
func (q *Queue) change(ctx context.Context, f func(*changes) error) error {
	return q.db.Do(ctx, func(tx *store.Tx) error { return q.changeIn(tx, f) })
}

// changeIn is change as part of a transaction.
func (q *Queue) changeIn(tx *store.Tx, f func(*changes) error) error {
	c := &changes{queue: q, tx: tx}
	if err := f(c); err != nil {
		return err
	}
	return c.write()
}

// announce publishes what a task has come to, as it is now; run is the run that
// the message is about, if any.
func (c *changes) announce(x api.Exchange, r *record, run *task.Run) {
	payload, err := json.Marshal(newMessage(r, run)) // at once, as more may follow
	if err != nil {
		c.err = err
		return
	}
	c.messages = append(c.messages, outgoing(x, r, run, json.RawMessage(payload)))
}

func (c *changes) update(r *record) {
	if !slices.Contains(c.records, r) {
		c.records = append(c.records, r)
	}
}

// claim gives a task's pending run to a worker.
func (c *changes) claim(r *record, w Worker) *task.Run {
	run := r.claim(w.Group, w.ID)
	c.update(r)
	c.announce(taskRunning, r, run)
	return run
}

// settle resolves a task for good.
func (c *changes) settle(r *record, state task.State, why task.Reason) {
	c.queue.crew.released(c.tx, r)
	c.leave(r)
	run := r.resolve(state, why)
	c.update(r)
	c.resolved = append(c.resolved, r)
	x := taskException
	switch state {
	case task.Completed:
		x = TaskCompleted
	case task.Failed:
		x = TaskFailed
	}
	c.announce(x, r, run)
}

// lose ends a run that was lost, not finished, and makes another if the task
// has retries left.
func (c *changes) lose(r *record, why, again task.Reason) {
	if r.RetriesLeft == 0 || len(r.Runs) >= maxRuns {
		c.settle(r, task.Exception, why)
		return
	}
	c.queue.crew.released(c.tx, r)
	r.resolve(task.Exception, why)
	r.RetriesLeft--
	c.restart(r, again)
}

// restart gives a task a new pending run.
func (c *changes) restart(r *record, why task.Reason) {
	c.leave(r)
	r.addRun(why)
	c.update(r)
	c.enqueue(r)
}

// enqueue makes the latest, pending run available to workers.
func (c *changes) enqueue(r *record) {
	c.pending = append(c.pending, r)
	c.announce(TaskPending, r, r.Latest())
}

// leave closes the edges of a task that is about to leave the state unscheduled.
func (c *changes) leave(r *record) {
	if r.State == task.Unscheduled {
		c.left = append(c.left, r)
	}
}

// write puts everything down.
func (c *changes) write() error {
	if c.err != nil {
		return c.err
	}
	for _, step := range []func() error{c.writeEdges, c.writeRecords, c.writePending, c.writeResolved} {
		if err := step(); err != nil {
			return err
		}
	}
	return c.queue.events.PublishAll(c.tx, c.messages)
}

func (c *changes) writeEdges() error {
	rows := make([][]any, 0, len(c.left))
	for _, r := range c.left {
		rows = append(rows, []any{r.TaskID})
	}
	return c.tx.LaterEach(`UPDATE dependency SET waits = 0 WHERE task_id = $1 AND waits > 0`, rows, nil)
}

func (c *changes) writeRecords() error {
	rows := make([][]any, 0, len(c.records))
	for _, r := range c.records {
		runs, err := json.Marshal(r.Runs)
		if err != nil {
			return err
		}
		rows = append(rows, []any{r.TaskID, r.State, r.RetriesLeft, r.takenUntil, r.worker, r.started, runs})
	}
	return c.tx.LaterEach(`
		UPDATE task SET state = $2, retries_left = $3, taken_until = $4, worker = $5, started = $6, runs = $7
		 WHERE task_id = $1`, rows, nil)
}

func (c *changes) writePending() error {
	rows := make([][]any, 0, len(c.pending))
	queues := map[string]int{}
	for _, r := range c.pending {
		run := r.Latest()
		rows = append(rows, []any{r.TaskID, run.RunID, r.TaskQueueID, r.Priority.Rank(), run.Scheduled})
		queues[r.TaskQueueID]++
	}
	for id, n := range queues {
		c.tx.Wake(topicPending(id), n)
		if c.queue.demanded != nil {
			c.queue.demanded(c.tx, id)
		}
	}
	return c.tx.LaterRows(`
		INSERT INTO pending (task_id, run_id, task_queue_id, priority, since) VALUES /*row*/($1, $2, $3, $4, $5)/*row*/`, rows, nil)
}

func (c *changes) writeResolved() error {
	rows := make([][]any, 0, len(c.resolved))
	for _, r := range c.resolved {
		completed := 0
		if r.State == task.Completed {
			completed = 1
		}
		rows = append(rows, []any{r.TaskID, r.TaskGroupID, completed})
	}
	c.tx.Wake(topicResolved, min(len(rows), 1))
	return c.tx.LaterRows(`INSERT INTO resolution (task_id, task_group_id, completed) VALUES /*row*/($1, $2, $3)/*row*/`, rows, nil)
}
