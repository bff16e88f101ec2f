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
		TakenUntil: run.TakenUntil, Task: r.definition, scopes: r.scopes(),
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
	if err := c.Authorize(scope.Vars{"workerGroup": c.Body.Group, "workerId": c.Body.ID}); err != nil {
		return r, err
	}
	if c.Body.Holding != nil {
		r.Tasks, err = q.handAgain(ctx, c.Path.TaskQueueID, c.Body)
	}
	if err == nil && len(r.Tasks) == 0 {
		r.Tasks, err = q.awaitWork(ctx, c.Path.TaskQueueID, c.Body.Worker, c.Body.Tasks)
	}
	if len(r.Tasks) > 0 {
		c.Undelivered(func() { q.unclaim(r.Tasks) })
	}
	return r, err
})

// drainPause is how long a call waits whose worker is drained already. It keeps
// a worker that will not end from asking in a circle.
const drainPause = 2 * time.Second

// awaitWork claims up to n runs, waiting for the first one as long as a poll
// lasts.
func (q *Queue) awaitWork(ctx context.Context, queueID string, w Worker, n int) ([]claim, error) {
	key := workerKey{queueID, w.String()}
	end := time.NewTimer(pollTimeout)
	defer end.Stop()
	for first, woken := true, false; ; first = false {
		rank := q.crew.seen(key)
		wait := q.db.Waits().WaitRanked(topicPending(queueID), rank)
		own := q.db.Waits().Wait(key.topic())
		claims, s, err := q.claim(ctx, key, n)
		switch {
		case err != nil:
			// What this call was woken for, or held locks on while others
			// looked, is theirs.
			q.db.Waits().Wake(topicPending(queueID), n)
		case s.refused():
			wait.Close() // its place is others', as is what it was woken for
			if woken {
				q.db.Waits().Wake(topicPending(queueID), 1)
			}
		}
		over := err != nil || len(claims) > 0 || s.draining > 0 && !first
		if s.draining > 0 && first {
			end.Reset(drainPause)
		}
		woken = false
		switch {
		case over:
		case !s.refused() && q.crew.learn(key, s) != rank:
			// It waits at the wrong place in line: look again from the right one.
		default:
			select {
			case <-wait.C:
				woken = true
			case <-own.C:
			case <-end.C:
				over = true
			case <-ctx.Done():
				over = true
			}
		}
		wait.Close()
		own.Close()
		if over {
			return claims, err
		}
	}
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
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		claims = nil
		for _, id := range lost {
			r, err := lock(tx, id)
			if err != nil {
				return err
			}
			if r.State != task.Running || r.worker != held {
				continue // the one that sent it has given it back meanwhile
			}
			run := r.Latest()
			// Another time than before, by which unclaim tells the two answers apart.
			run.TakenUntil = max(now().Add(claimTimeout), run.TakenUntil+1)
			r.takenUntil = run.TakenUntil
			if err := r.save(tx); err != nil {
				return err
			}
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
// not have any, it says how the worker stands.
func (q *Queue) claim(ctx context.Context, k workerKey, n int) (claims []claim, s standing, err error) {
	w := workerNamed(k.worker)
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		claims, s = []claim{}, standing{}
		taken, err := take(tx, k, n)
		if err == nil && len(taken) == 0 {
			// Nobody takes anything without a row. It may have been made since: here
			// and now, or by whoever writes the crew down.
			var made bool
			if s, made, err = readStanding(tx, k, false); err == nil && (made || !q.crew.known(k)) {
				taken, err = take(tx, k, n)
			}
		}
		if err != nil {
			return err
		}
		for _, p := range taken {
			r, err := lock(tx, p.taskID)
			if err != nil {
				return fmt.Errorf("queue: task %s is pending but cannot be read: %w", p.taskID, err)
			}
			run := r.claim(w.Group, w.ID)
			if err := r.save(tx); err != nil {
				return err
			}
			if err := q.publish(tx, taskRunning, r, run); err != nil {
				return err
			}
			claims = append(claims, newClaim(r, run))
		}
		return nil
	})
	if err = q.equip(ctx, claims, err); err != nil {
		return nil, s, err
	}
	if len(claims) > 0 {
		q.crew.claimed(k, claims)
	}
	return claims, s, nil
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

// readPending reads deleted rows and puts them in the order of the queue, which
// RETURNING does not promise.
func readPending(rows *store.Rows) (list []pendingRun, err error) {
	for rows.Next() {
		var p pendingRun
		if err := rows.Scan(&p.taskID, &p.runID, &p.rank, &p.since, &p.seq); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	sortPending(list)
	return list, rows.Err()
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
		err := q.db.Do(ctx, func(tx *store.Tx) error {
			given = false
			r, err := lock(tx, c.Status.TaskID)
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
			if err := r.save(tx); err != nil {
				return err
			}
			if err := q.enqueue(tx, r); err != nil {
				return err
			}
			return q.publish(tx, TaskPending, r, run)
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
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		if err := mayClaim(tx, key); err != nil {
			return err
		}
		n, err := tx.Exec(`DELETE FROM pending WHERE task_id = $1 AND run_id = $2`, c.Path.TaskID, c.Path.RunID)
		if err != nil {
			return err
		}
		if r, err = lock(tx, c.Path.TaskID); err != nil {
			return err
		}
		run, err := r.run(c.Path.RunID)
		switch {
		case err != nil:
			return err
		case n == 0:
			return api.Errorf(api.RequestConflict, "Run %d of task %s is %s; only a pending run can be claimed.", run.RunID, r.TaskID, run.State)
		}
		run = r.claim(c.Body.Group, c.Body.ID)
		if err := r.save(tx); err != nil {
			return err
		}
		out = newClaim(r, run)
		return q.publish(tx, taskRunning, r, run)
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
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		r, err := lock(tx, c.Path.TaskID)
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
		return r.save(tx)
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
	return len(due) == batch, q.each(ctx, due, func(tx *store.Tx, id string) error {
		r, err := lock(tx, id)
		if err != nil || r.State != task.Running || r.takenUntil > now() {
			return ignoreMissing(err)
		}
		return q.lose(tx, r, task.ClaimExpired, task.Retry)
	})
}

// each does something about every task of a list, each in a transaction of its
// own. One that fails does not keep the others from their turn.
func (q *Queue) each(ctx context.Context, ids []string, do func(*store.Tx, string) error) (failed error) {
	for _, id := range ids {
		if err := q.db.Do(ctx, func(tx *store.Tx) error { return do(tx, id) }); err != nil {
			failed = errors.Join(failed, fmt.Errorf("task %s: %w", id, err))
		}
	}
	return failed
}

// batch bounds what one pass of a loop takes on.
const batch = 200

// due lists up to a batch of task ids that a loop has to look at.
func (q *Queue) due(ctx context.Context, statement string, t timestamp.Time) (list []string, err error) {
	err = q.db.View(ctx, func(tx *store.Tx) error {
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
	return q.db.Do(ctx, func(tx *store.Tx) error {
		list, err := query(tx, `SELECT `+columns+` FROM task
			 WHERE task_queue_id = $1 AND worker = $2 AND state = 'running' ORDER BY task_id /*for update*/`, taskQueueID, held)
		if err != nil {
			return err
		}
		for _, r := range list {
			if err := q.lose(tx, r, task.WorkerShutdown, task.Retry); err != nil {
				return err
			}
		}
		return nil
	})
}
