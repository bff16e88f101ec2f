package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

type queuePath struct {
	TaskQueueID string `path:"taskQueueId"`
}

type runPath struct {
	TaskID string `path:"taskId"`
	RunID  int    `path:"runId"`
}

type claimWorkRequest struct {
	Worker
	Tasks   int      `json:"tasks"`
	Holding []string `json:"holding"` // nil: the worker does not tell
}

type claimWorkResponse struct {
	Tasks []claim `json:"tasks"`
}

// A claim is a run in the hands of a worker.
type claim struct {
	Status      task.Status      `json:"status"`
	RunID       int              `json:"runId"`
	WorkerGroup string           `json:"workerGroup"`
	WorkerID    string           `json:"workerId"`
	TakenUntil  timestamp.Time   `json:"takenUntil"`
	Task        json.RawMessage  `json:"task,omitempty"`
	Credentials cred.Credentials `json:"credentials"`
	scopes      []string         // what the task may do
}

func newClaim(r *record, run *task.Run) claim {
	return claim{
		Status: r.Status, RunID: run.RunID, WorkerGroup: run.WorkerGroup, WorkerID: run.WorkerID,
		TakenUntil: run.TakenUntil, Task: r.shown(), scopes: r.scopes(),
	}
}

var claimWork = api.Declare(api.Spec{
	Name: "claimWork", Route: "POST /claim-work/<taskQueueId...>",
	Scopes: scope.AllOf{scope.Scope("queue:claim-work:<taskQueueId>"), scope.Scope("queue:worker-id:<workerGroup>/<workerId>")},
	Input:  "v1/claim-work-request.json#", Output: "v1/claim-work-response.json#",
	Stability: api.Stable, Category: "Worker", Title: "Claim work",
	Doc: `Hands up to ` + "`tasks`" + ` pending runs to a worker, the most urgent and then the oldest first.

Where there is nothing to do, the call waits up to 20 seconds for work and then returns an empty list; call again.
Each run comes with temporary credentials, with which the worker must reclaim it before ` + "`takenUntil`" + ` for as
long as it works on it, and report how it ended. Where several workers wait, one that had work more recently gets it first.

A worker that is quarantined gets nothing, as if there were nothing. One that is to end gets nothing either, but at
once.

A worker that tells what it is ` + "`holding`" + ` gets what it has without knowing, because an answer was lost. Such
a worker makes one call at a time.`,
}, func(ctx context.Context, q *Queue, c api.Call[queuePath, claimWorkRequest]) (r claimWorkResponse, err error) {
	if r.Tasks, err = q.beforeWaiting(ctx, &c); err == nil && len(r.Tasks) == 0 {
		r.Tasks, err = q.awaitWork(ctx, c.Path.TaskQueueID, c.Body.Worker, c.Body.Tasks)
	}
	q.keepUndelivered(&c, r.Tasks)
	return r, err
})

// beforeWaiting and keepUndelivered are what a call to claimWork does before and
// after it waits. They stand apart to keep the stack small of those that wait,
// which are many.
func (q *Queue) beforeWaiting(ctx context.Context, c *api.Call[queuePath, claimWorkRequest]) ([]claim, error) {
	if err := c.Authorize(scope.Vars{"workerGroup": c.Body.Group, "workerId": c.Body.ID}); err != nil || c.Body.Holding == nil {
		return nil, err
	}
	return q.handAgain(ctx, c.Path.TaskQueueID, c.Body)
}

func (q *Queue) keepUndelivered(c *api.Call[queuePath, claimWorkRequest], claims []claim) {
	if len(claims) > 0 {
		c.Undelivered(func() { q.unclaim(claims) })
	}
}

// drainPause is how long a call waits whose worker is drained already. It keeps
// a worker that will not end from asking in a circle.
const drainPause = 2 * time.Second

// awaitWork claims up to n runs, waiting for the first one as long as a poll
// lasts.
func (q *Queue) awaitWork(ctx context.Context, queueID string, w Worker, n int) ([]claim, error) {
	p := &poll{queue: q, ctx: ctx, key: workerKey{queueID, w.String()}, n: n, first: true, end: time.NewTimer(pollTimeout)}
	defer p.end.Stop()
	for !p.over {
		p.look()
		if !p.over && !p.misplaced {
			select {
			case <-p.wait.C:
				p.woken = true
			case <-p.own.C:
			case <-p.end.C:
				p.over = true
			case <-ctx.Done():
				p.over = true
			}
		}
		p.wait.Close()
		p.own.Close()
	}
	return p.claims, p.err
}

// A poll is a worker's wait for work. That it is no set of variables of awaitWork
// keeps the stacks small of those that wait.
type poll struct {
	queue *Queue
	ctx   context.Context
	key   workerKey
	n     int
	end   *time.Timer

	wait, own *store.Waiter // for work, and for what concerns the worker itself
	first     bool          // it has not looked yet
	woken     bool          // it looks because there is work
	misplaced bool          // it waited at the wrong place in line, and looks again
	over      bool
	claims    []claim
	err       error
}

// look claims what there is, having taken a place in line before.
func (p *poll) look() {
	q := p.queue
	rank := q.crew.seen(p.key)
	p.wait = q.db.Waits().WaitRanked(topicPending(p.key.queueID), rank)
	p.own = q.db.Waits().Wait(p.key.topic())
	var s standing
	p.claims, s, p.err = q.claim(p.ctx, p.key, p.n)
	switch {
	case p.err != nil:
		// What this call was woken for, or held locks on while others looked, is
		// theirs.
		q.db.Waits().Wake(topicPending(p.key.queueID), p.n)
	case s.refused():
		p.wait.Close() // its place is others', as is what it was woken for
		if p.woken {
			q.db.Waits().Wake(topicPending(p.key.queueID), 1)
		}
	}
	p.over = p.err != nil || len(p.claims) > 0 || s.draining > 0 && !p.first
	if s.draining > 0 && p.first {
		p.end.Reset(drainPause)
	}
	p.first, p.woken = false, false
	p.misplaced = !p.over && !s.refused() && q.crew.learn(p.key, s) != rank
}

// handAgain returns runs that a worker has without knowing: the answer to its
// claim was lost, with the process that was to send it or on the way.
func (q *Queue) handAgain(ctx context.Context, queueID string, in claimWorkRequest) (claims []claim, err error) {
	held := in.Worker.String()
	var lost []string
	err = q.db.View(ctx, func(tx *store.Tx) error {
		lost = nil
		list, err := query(tx, `SELECT `+columns+` FROM task
			 WHERE task_queue_id = $1 AND worker = $2 AND state = 'running' ORDER BY task_id`, queueID, held)
		for _, r := range list {
			if !slices.Contains(in.Holding, fmt.Sprintf("%s/%d", r.TaskID, r.Latest().RunID)) && len(lost) < in.Tasks {
				lost = append(lost, r.TaskID)
			}
		}
		return err
	})
	if err != nil || len(lost) == 0 {
		return nil, err
	}
	err = q.change(ctx, func(c *changes) error {
		claims = nil
		records, err := lockAll(c.tx, lost, true)
		if err != nil {
			return err
		}
		for _, id := range lost {
			r := records[id]
			if r == nil || r.State != task.Running || r.worker != held {
				continue // the one that sent it has given it back meanwhile
			}
			run := r.Latest()
			// Another time than before, by which unclaim tells the two answers apart.
			run.TakenUntil = max(now().Add(claimTimeout), run.TakenUntil+1)
			r.takenUntil = run.TakenUntil
			c.update(r)
			claims = append(claims, newClaim(r, run))
		}
		return nil
	})
	if err = q.equip(ctx, claims, err); err != nil {
		return nil, err
	}
	if len(claims) > 0 {
		q.crew.seen(workerKey{queueID, held})
		q.log.Info("runs handed out again: their worker never got the answer", "worker", held, "tasks", lost)
	}
	return claims, nil
}

// claim takes up to n pending runs for a worker. If there are none, or it may
// not have any, it says how the worker stands. Claims that come at the same time
// share a transaction.
func (q *Queue) claim(ctx context.Context, k workerKey, n int) ([]claim, standing, error) {
	got, err := q.claims.Do(ctx, claimer{k, n})
	if err = q.equip(ctx, got.claims, err); err != nil {
		return nil, got.standing, err
	}
	if len(got.claims) > 0 {
		q.crew.claimed(k, got.claims)
	}
	for i := range got.claims {
		run := got.claims[i].Status.Latest()
		q.waited.Observe(max(run.Started.Sub(run.Scheduled), 0).Seconds())
	}
	return got.claims, got.standing, nil
}

// A claimer is a worker that wants up to n runs.
type claimer struct {
	workerKey
	n int
}

// A catch is what a claimer gets.
type catch struct {
	claims   []claim
	standing standing // if there are no claims
	taken    []pendingRun
}

type claimItem = store.Item[claimer, catch]

func (q *Queue) takeClaims(tx *store.Tx, items []*claimItem) error {
	return q.changeIn(tx, func(c *changes) error {
		if err := takeAll(tx, items); err != nil {
			return err
		}
		again, err := q.standings(tx, items)
		if err == nil {
			err = takeAll(tx, again)
		}
		if err != nil {
			return err
		}
		var taken []pendingRun
		for _, it := range items {
			it.Out.claims = []claim{}
			taken = append(taken, it.Out.taken...)
		}
		if len(taken) == 0 {
			return nil
		}
		records, err := q.lockTaken(tx, taken)
		if err != nil {
			return err
		}
		for _, it := range items {
			for _, p := range it.Out.taken {
				if r := records[p.taskID]; r != nil {
					it.Out.claims = append(it.Out.claims, newClaim(r, c.claim(r, workerNamed(it.In.worker))))
				}
			}
		}
		return nil
	})
}

// lockTaken locks the tasks of runs that were taken, and returns them by their
// ids. One that is not there any more has no run to give; it should never be, and
// must not keep its queue's workers from the others.
func (q *Queue) lockTaken(tx *store.Tx, taken []pendingRun) (map[string]*record, error) {
	ids := make([]string, len(taken))
	for i, p := range taken {
		ids[i] = p.taskID
	}
	found, err := lockAll(tx, ids, true)
	for _, id := range ids {
		if err == nil && found[id] == nil {
			q.log.Error("a run was pending of a task that does not exist; it is dropped", "taskId", id)
		}
	}
	return found, err
}

// standings reads how the workers stand that got nothing. Nobody takes anything
// without a row: those whose row has been made only now, here or by whoever
// writes the crew down, are returned to try again.
func (q *Queue) standings(tx *store.Tx, items []*claimItem) (again []*claimItem, err error) {
	var idle []*claimItem
	for _, it := range items {
		if len(it.Out.taken) == 0 {
			idle = append(idle, it)
		}
	}
	made, err := readStandings(tx, idle)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(made, inOrderOfLocks)
	for _, it := range made {
		if err := addWorkers(tx, it.In.queueID, []string{it.In.worker}); err != nil {
			return nil, err
		}
	}
	if _, err := readStandings(tx, made); err != nil {
		return nil, err
	}
	for _, it := range idle {
		if slices.Contains(made, it) || !q.crew.known(it.In.workerKey) {
			again = append(again, it)
		}
	}
	return again, nil
}

// readStandings reads the rows of workers and returns those that have none.
func readStandings(tx *store.Tx, items []*claimItem) (missing []*claimItem, err error) {
	found := make([]bool, len(items))
	rows := make([][]any, len(items))
	for i, it := range items {
		rows[i] = []any{it.In.queueID, it.In.worker}
	}
	err = tx.QueryEach(standingQuery, rows, func(i int, row store.Scanner) error {
		found[i] = true
		return items[i].Out.standing.scan(row)
	})
	for i, it := range items {
		if !found[i] {
			missing = append(missing, it)
		}
	}
	return missing, err
}

// equip gives claims their credentials, unless taking them failed with err. It
// gives the runs back if nobody will work on them.
func (q *Queue) equip(ctx context.Context, claims []claim, err error) error {
	if err != nil && !errors.Is(err, store.ErrUnknownOutcome) {
		return err
	}
	for i := range claims {
		if err == nil {
			claims[i].Credentials, err = q.credentials(ctx, &claims[i])
		}
	}
	if err != nil {
		q.unclaim(claims)
	}
	return err
}

type pendingRun struct {
	taskID string
	runID  int
	rank   int
	since  timestamp.Time
	seq    int64
}

// credentials are what a worker needs for one run, and what the task may do.
func (q *Queue) credentials(ctx context.Context, c *claim) (cred.Credentials, error) {
	taskID := c.Status.TaskID
	run := fmt.Sprintf("%s/%d", taskID, c.RunID)
	clientID := fmt.Sprintf("task-client/%s/on/%s/%s/until/%d", run, c.WorkerGroup, c.WorkerID, c.TakenUntil.Time().Unix())
	scopes := append([]string{"queue:reclaim-task:" + run, "queue:resolve-task:" + run, "queue:create-artifact:" + run}, c.scopes...)
	return q.mint.Mint(ctx, clientID, scopes, c.TakenUntil.Time())
}

// unclaim gives runs back that the worker never learned of: the reply could not
// be delivered. The run is as it was before the claim.
func (q *Queue) unclaim(claims []claim) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, c := range claims {
		given := false
		err := q.change(ctx, func(ch *changes) error {
			given = false
			r, err := lock(ch.tx, c.Status.TaskID)
			if err != nil {
				return err
			}
			run := r.Latest()
			if run.RunID != c.RunID || run.State != task.Running || run.TakenUntil != c.TakenUntil {
				return nil // canceled meanwhile, or delivered after all and reclaimed
			}
			given = true
			*run = task.Run{RunID: run.RunID, State: task.Pending, ReasonCreated: run.ReasonCreated, Scheduled: run.Scheduled}
			r.State = task.Pending
			r.free()
			ch.update(r)
			ch.enqueue(r)
			return nil
		})
		if err != nil {
			q.log.Error("a claim that its worker never got is not given back and will expire", "taskId", c.Status.TaskID, "runId", c.RunID, "err", err)
		} else if given {
			q.log.Info("claim given back: the worker was gone before the reply", "taskId", c.Status.TaskID, "runId", c.RunID, "worker", c.WorkerGroup+"/"+c.WorkerID)
		}
	}
}

var claimTask = api.Declare(api.Spec{
	Name: "claimTask", Route: "POST /task/<taskId>/runs/<runId>/claim",
	Scopes: scope.AllOf{scope.Scope("queue:claim-task:<provisionerId>/<workerType>"), scope.Scope("queue:worker-id:<workerGroup>/<workerId>")},
	Input:  "v1/task-claim-request.json#", Output: "v1/task-claim-response.json#",
	Stability: api.Deprecated, Category: "Worker", Title: "Claim a given run",
	Doc: "Claims one pending run that the worker knows the ids of. Workers use claimWork instead.",
}, func(ctx context.Context, q *Queue, c api.Call[runPath, Worker]) (out claim, err error) {
	r, err := q.read(ctx, c.Path.TaskID)
	if err != nil {
		return out, err
	}
	if err := c.Authorize(scope.Vars{
		"provisionerId": r.ProvisionerID, "workerType": r.WorkerType, "workerGroup": c.Body.Group, "workerId": c.Body.ID,
	}); err != nil {
		return out, err
	}
	key := workerKey{r.TaskQueueID, c.Body.String()}
	err = q.change(ctx, func(ch *changes) error {
		if err := mayClaim(ch.tx, key); err != nil {
			return err
		}
		n, err := ch.tx.Exec(`DELETE FROM pending WHERE task_id = $1 AND run_id = $2`, c.Path.TaskID, c.Path.RunID)
		if err != nil {
			return err
		}
		if r, err = lock(ch.tx, c.Path.TaskID); err != nil {
			return err
		}
		run, err := r.run(c.Path.RunID)
		switch {
		case err != nil:
			return err
		case n == 0:
			return api.Errorf(api.RequestConflict, "Run %d of task %s is %s; only a pending run can be claimed.", run.RunID, r.TaskID, run.State)
		}
		out = newClaim(r, ch.claim(r, c.Body))
		return nil
	})
	taken := []claim{out}
	if err = q.equip(ctx, taken, err); err != nil {
		return out, err
	}
	q.crew.claimed(key, taken)
	c.Undelivered(func() { q.unclaim(taken) })
	return taken[0], nil
})

// scopes are those of the task's definition.
func (r *record) scopes() []string {
	var d struct {
		Scopes []string `json:"scopes"`
	}
	if err := json.Unmarshal(r.definition, &d); err != nil {
		return nil // we wrote it; a task without its scopes is the safe reading
	}
	return d.Scopes
}

var reclaimTask = api.Declare(api.Spec{
	Name: "reclaimTask", Route: "POST /task/<taskId>/runs/<runId>/reclaim",
	Scopes: scope.Scope("queue:reclaim-task:<taskId>/<runId>"), Output: "v1/task-reclaim-response.json#",
	Stability: api.Stable, Category: "Worker", Title: "Keep a run",
	Doc: `Extends the claim on a run by another 20 minutes and returns new credentials for it.

A conflict (409) means that the worker has lost the run: it was canceled, its deadline passed or the claim had
expired. The worker then stops working on it and reports nothing.`,
}, func(ctx context.Context, q *Queue, c api.Call[runPath, api.None]) (out claim, err error) {
	var holder workerKey
	err = q.change(ctx, func(ch *changes) error {
		r, err := lock(ch.tx, c.Path.TaskID)
		if err != nil {
			return err
		}
		run, err := r.run(c.Path.RunID)
		switch {
		case err != nil:
			return err
		case run.State != task.Running:
			return api.Errorf(api.RequestConflict, "Run %d of task %s cannot be reclaimed: it is %s (%s).", run.RunID, r.TaskID, run.State, run.ReasonResolved)
		case r.Deadline <= now():
			return api.Errorf(api.RequestConflict, "Run %d of task %s cannot be reclaimed: the task's deadline was %s.", run.RunID, r.TaskID, r.Deadline)
		}
		run.TakenUntil = now().Add(claimTimeout)
		r.takenUntil = run.TakenUntil
		out = newClaim(r, run)
		out.Task = nil // the worker has it
		holder = workerKey{r.TaskQueueID, r.worker}
		ch.update(r)
		return nil
	})
	if err != nil {
		return out, err
	}
	q.crew.seen(holder)
	out.Credentials, err = q.credentials(ctx, &out)
	return out, err
})

// expireClaims is one pass of the loop queue.claims.
func (q *Queue) expireClaims(ctx context.Context) (more bool, err error) {
	due, err := q.due(ctx, `SELECT task_id FROM task WHERE state = 'running' AND taken_until <= $1 ORDER BY taken_until LIMIT $2`, now())
	if err != nil {
		return false, err
	}
	return len(due) == batch, q.each(ctx, due, func(c *changes, id string) error {
		r, err := lock(c.tx, id)
		if err != nil || r.State != task.Running || r.takenUntil > now() {
			return ignoreMissing(err)
		}
		c.lose(r, task.ClaimExpired, task.Retry)
		return nil
	})
}

// each does something about every task of a list, each in a transaction of its
// own. One that fails does not keep the others from their turn.
func (q *Queue) each(ctx context.Context, ids []string, do func(*changes, string) error) (failed error) {
	for _, id := range ids {
		if err := q.change(ctx, func(c *changes) error { return do(c, id) }); err != nil {
			failed = errors.Join(failed, fmt.Errorf("task %s: %w", id, err))
		}
	}
	return failed
}

// batch bounds what one pass of a loop takes on.
const batch = 200

// due lists up to a batch of task ids that a loop has to look at.
func (q *Queue) due(ctx context.Context, statement string, t timestamp.Time) (list []string, err error) {
	err = q.db.ViewOnce(ctx, func(tx *store.Tx) error {
		list = nil
		rows, err := tx.Query(statement, t, batch)
		if err != nil {
			return err
		}
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			list = append(list, id)
		}
		return rows.Err()
	})
	return list, err
}

// WorkerGone takes back every run that a worker holds, because the worker is
// known to be dead; the tasks get another run at once.
func (q *Queue) WorkerGone(ctx context.Context, taskQueueID, workerGroup, workerID string) error {
	held := Worker{workerGroup, workerID}.String()
	return q.change(ctx, func(c *changes) error {
		list, err := query(c.tx, `SELECT `+columns+` FROM task
			 WHERE task_queue_id = $1 AND worker = $2 AND state = 'running' ORDER BY task_id /*for update*/`, taskQueueID, held)
		for _, r := range list {
			c.lose(r, task.WorkerShutdown, task.Retry)
		}
		return err
	})
}
