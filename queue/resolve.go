package queue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
)

var reportCompleted = api.Declare(api.Spec{
	Name: "reportCompleted", Route: "POST /task/<taskId>/runs/<runId>/completed",
	Scopes: scope.Scope("queue:resolve-task:<taskId>/<runId>"), Output: "v1/task-status-response.json#",
	Stability: api.Stable, Category: "Worker", Title: "Report success",
	Doc: "Resolves a run as completed. Repeating the report is harmless; another report for the same run is a conflict (409).",
}, func(ctx context.Context, q *Queue, c api.Call[runPath, api.None]) (statusResponse, error) {
	return q.report(ctx, c.Path, task.Completed, task.DidComplete)
})

var reportFailed = api.Declare(api.Spec{
	Name: "reportFailed", Route: "POST /task/<taskId>/runs/<runId>/failed",
	Scopes: scope.Scope("queue:resolve-task:<taskId>/<runId>"), Output: "v1/task-status-response.json#",
	Stability: api.Stable, Category: "Worker", Title: "Report failure",
	Doc: "Resolves a run as failed: the task's own work did not succeed, for a reason that belongs to the task. It is not run again by itself.",
}, func(ctx context.Context, q *Queue, c api.Call[runPath, api.None]) (statusResponse, error) {
	return q.report(ctx, c.Path, task.Failed, task.DidFail)
})

type exceptionRequest struct {
	Reason task.Reason `json:"reason"`
}

var reportException = api.Declare(api.Spec{
	Name: "reportException", Route: "POST /task/<taskId>/runs/<runId>/exception",
	Scopes: scope.Scope("queue:resolve-task:<taskId>/<runId>"), Input: "v1/task-exception-request.json#", Output: "v1/task-status-response.json#",
	Stability: api.Stable, Category: "Worker", Title: "Report an exception",
	Doc: `Resolves a run that the worker could not carry out. With the reasons worker-shutdown and intermittent-task the task
gets another run while it has retries left.`,
}, func(ctx context.Context, q *Queue, c api.Call[runPath, exceptionRequest]) (statusResponse, error) {
	return q.report(ctx, c.Path, task.Exception, c.Body.Reason)
})

// report resolves a running run as its worker says.
func (q *Queue) report(ctx context.Context, p runPath, state task.State, why task.Reason) (out statusResponse, err error) {
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		r, err := lock(tx, p.TaskID)
		if err != nil {
			return err
		}
		run, err := r.run(p.RunID)
		switch {
		case err != nil:
			return err
		case run.State == state && run.ReasonResolved == why:
			out.Status = r.Status
			return nil // said before
		case run.State != task.Running:
			return api.Errorf(api.RequestConflict, "Run %d of task %s cannot be resolved as %s (%s): it is %s (%s).", run.RunID, r.TaskID, state, why, run.State, run.ReasonResolved)
		}
		switch why {
		case task.WorkerShutdown:
			err = q.lose(tx, r, why, task.Retry)
		case task.IntermittentTask:
			err = q.lose(tx, r, why, task.TaskRetry)
		default:
			err = q.settle(tx, r, state, why)
		}
		out.Status = r.Status
		return err
	})
	return out, err
}

// settle resolves a task for good.
func (q *Queue) settle(tx *store.Tx, r *record, state task.State, why task.Reason) error {
	q.crew.released(tx, r)
	if err := stopWaiting(tx, r); err != nil {
		return err
	}
	run := r.resolve(state, why)
	if err := r.save(tx); err != nil {
		return err
	}
	completed := 0
	if state == task.Completed {
		completed = 1
	}
	if _, err := tx.Exec(`INSERT INTO resolution (task_id, task_group_id, completed) VALUES ($1, $2, $3)`, r.TaskID, r.TaskGroupID, completed); err != nil {
		return err
	}
	tx.Wake(topicResolved, 1)
	x := taskException
	switch state {
	case task.Completed:
		x = TaskCompleted
	case task.Failed:
		x = TaskFailed
	}
	return q.publish(tx, x, r, run)
}

// lose ends a run that was lost, not finished, and makes another if the task
// has retries left.
func (q *Queue) lose(tx *store.Tx, r *record, why, again task.Reason) error {
	if r.RetriesLeft == 0 || len(r.Runs) >= maxRuns {
		return q.settle(tx, r, task.Exception, why)
	}
	q.crew.released(tx, r)
	r.resolve(task.Exception, why)
	r.RetriesLeft--
	return q.restart(tx, r, again)
}

// restart gives a task a new pending run.
func (q *Queue) restart(tx *store.Tx, r *record, why task.Reason) error {
	if err := stopWaiting(tx, r); err != nil {
		return err
	}
	run := r.addRun(why)
	if err := r.save(tx); err != nil {
		return err
	}
	if err := q.enqueue(tx, r); err != nil {
		return err
	}
	return q.publish(tx, TaskPending, r, run)
}

// oneOfThree is the demand of the methods by which a scheduler or a person
// steers a task.
func oneOfThree(verb string) scope.Expression {
	return scope.AnyOf{
		scope.Scope("queue:" + verb + "-task:<schedulerId>/<taskGroupId>/<taskId>"),
		scope.Scope("queue:" + verb + "-task-in-project:<projectId>"),
		scope.AllOf{scope.Scope("queue:" + verb + "-task"), scope.Scope("assume:scheduler-id:<schedulerId>/<taskGroupId>")},
	}
}

// maySteer checks that demand against the task.
func (q *Queue) maySteer(ctx context.Context, c api.Call[taskPath, api.None]) error {
	r, err := q.read(ctx, c.Path.TaskID)
	if err != nil {
		return err
	}
	return c.Authorize(scope.Vars{"schedulerId": r.SchedulerID, "taskGroupId": r.TaskGroupID, "projectId": r.ProjectID})
}

// steer changes a task on behalf of a person or a scheduler.
func (q *Queue) steer(ctx context.Context, c api.Call[taskPath, api.None], change func(*store.Tx, *record) error) (out statusResponse, err error) {
	if err := q.maySteer(ctx, c); err != nil {
		return out, err
	}
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		r, err := lock(tx, c.Path.TaskID)
		if err != nil {
			return err
		}
		if err := change(tx, r); err != nil {
			return err
		}
		out.Status = r.Status
		return nil
	})
	return out, err
}

func pastDeadline(r *record, verb string) error {
	if r.Deadline <= now() {
		return api.Errorf(api.RequestConflict, "Task %s cannot be %s: its deadline was %s. Create a new task.", r.TaskID, verb, r.Deadline)
	}
	return nil
}

var scheduleTask = api.Declare(api.Spec{
	Name: "scheduleTask", Route: "POST /task/<taskId>/schedule", Scopes: oneOfThree("schedule"), Output: "v1/task-status-response.json#",
	Stability: api.Stable, Category: "Tasks", Title: "Schedule a task now",
	Doc: "Makes an unscheduled task pending without waiting for its dependencies. A task that has been scheduled, or resolved, stays as it is.",
}, func(ctx context.Context, q *Queue, c api.Call[taskPath, api.None]) (statusResponse, error) {
	return q.steer(ctx, c, func(tx *store.Tx, r *record) error {
		if r.State != task.Unscheduled {
			return nil
		}
		if err := pastDeadline(r, "scheduled"); err != nil {
			return err
		}
		return q.restart(tx, r, task.Scheduled)
	})
})

var rerunTask = api.Declare(api.Spec{
	Name: "rerunTask", Route: "POST /task/<taskId>/rerun", Scopes: oneOfThree("rerun"), Output: "v1/task-status-response.json#",
	Stability: api.Stable, Category: "Tasks", Title: "Run a task again",
	Doc: `Gives a resolved task another run, with all of its retries. An unscheduled task is scheduled whatever its
dependencies; a pending or running one stays as it is. What already ran because of the earlier result is not run
again.`,
}, func(ctx context.Context, q *Queue, c api.Call[taskPath, api.None]) (statusResponse, error) {
	return q.steer(ctx, c, func(tx *store.Tx, r *record) error {
		if r.State == task.Pending || r.State == task.Running {
			return nil
		}
		if err := pastDeadline(r, "run again"); err != nil {
			return err
		}
		if len(r.Runs) >= maxRuns {
			return api.Errorf(api.RequestConflict, "Task %s has had %d runs and can have no more. Create a new task.", r.TaskID, len(r.Runs))
		}
		r.RetriesLeft = r.retries
		why := task.Rerun
		if r.State == task.Unscheduled {
			why = task.Scheduled
		}
		return q.restart(tx, r, why)
	})
})

var cancelTask = api.Declare(api.Spec{
	Name: "cancelTask", Route: "POST /task/<taskId>/cancel", Scopes: oneOfThree("cancel"), Output: "v1/task-status-response.json#",
	Stability: api.Stable, Category: "Tasks", Title: "Cancel a task",
	Doc: `Resolves a task that is not resolved yet as exception, with the reason canceled. Its worker learns of it when it
reclaims the run. A resolved task stays as it is.`,
}, func(ctx context.Context, q *Queue, c api.Call[taskPath, api.None]) (out statusResponse, err error) {
	if err := q.maySteer(ctx, c); err != nil {
		return out, err
	}
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		out.Status, _, err = q.end(tx, c.Path.TaskID, task.Canceled)
		return err
	})
	return out, err
})

// end resolves a task from outside if it is not resolved yet.
func (q *Queue) end(tx *store.Tx, taskID string, why task.Reason) (s task.Status, ended bool, err error) {
	if err := dequeue(tx, taskID); err != nil {
		return s, false, err
	}
	r, err := lock(tx, taskID)
	if err != nil {
		return s, false, err
	}
	if r.State == task.Pending {
		// Perhaps only since we waited for the lock. That this is against the
		// order of locks matters in that case alone; the database then undoes
		// one of two, and it is run again.
		if err := dequeue(tx, taskID); err != nil {
			return s, false, err
		}
	}
	if !r.State.Resolved() {
		ended = true
		err = q.settle(tx, r, task.Exception, why)
	}
	return r.Status, ended, err
}

// expireDeadlines is one pass of the loop queue.deadlines.
func (q *Queue) expireDeadlines(ctx context.Context) (more bool, err error) {
	due, err := q.due(ctx, `
		SELECT task_id FROM task WHERE state IN ('unscheduled', 'pending', 'running') AND deadline <= $1
		 ORDER BY deadline LIMIT $2`, now())
	if err != nil {
		return false, err
	}
	return len(due) == batch, q.each(ctx, due, func(tx *store.Tx, id string) error {
		_, _, err := q.end(tx, id, task.DeadlineExceeded)
		return ignoreMissing(err)
	})
}

// ignoreMissing is for loops: what has expired meanwhile needs nothing more.
func ignoreMissing(err error) error {
	if e, ok := errors.AsType[*api.Error](err); ok && e.Code == api.ResourceNotFound {
		return nil
	}
	return err
}

func sortPending(list []pendingRun) {
	slices.SortFunc(list, func(a, b pendingRun) int {
		return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(a.since, b.since), cmp.Compare(a.seq, b.seq))
	})
}

// followResolutions is one pass of the loop queue.dependencies. It takes the
// oldest resolutions, satisfies the edges that lead to them, and when none are
// left looks whether the group has ended. A transaction follows up several
// resolutions, but not many more than a batch of edges.
func (q *Queue) followResolutions(ctx context.Context) (more bool, err error) {
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		list, err := oldestResolutions(tx)
		if err != nil {
			return err
		}
		more = len(list) > 0
		for edges := 0; len(list) > 0 && edges < batch; list = list[1:] {
			n, err := q.follow(tx, list[0])
			if err != nil {
				return fmt.Errorf("following up task %s: %w", list[0].taskID, err)
			}
			edges += n
		}
		return nil
	})
	return more, err
}

// A resolution is a resolved task that has to be followed up.
type resolution struct {
	id                        int64
	taskID, groupID, position string
	completed                 int64
}

func oldestResolutions(tx *store.Tx) (list []resolution, err error) {
	rows, err := tx.Query(`SELECT id, task_id, task_group_id, completed, position FROM resolution ORDER BY id LIMIT 50 /*for update*/`)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var r resolution
		if err := rows.Scan(&r.id, &r.taskID, &r.groupID, &r.completed, &r.position); err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

// follow satisfies up to a batch of edges and returns how many.
func (q *Queue) follow(tx *store.Tx, r resolution) (edges int, err error) {
	dependents, err := openDependents(tx, r.taskID, r.completed, r.position)
	if err != nil {
		return 0, err
	}
	for _, d := range dependents {
		if err := q.satisfy(tx, d, r.taskID); err != nil {
			return 0, err
		}
	}
	if len(dependents) == batch {
		_, err = tx.Exec(`UPDATE resolution SET position = $2 WHERE id = $1`, r.id, dependents[batch-1])
		return batch, err
	}
	if _, err := tx.Exec(`DELETE FROM resolution WHERE id = $1`, r.id); err != nil {
		return 0, err
	}
	return len(dependents), q.checkGroup(tx, r.groupID)
}

// openDependents lists a batch of the tasks that this resolution brings nearer
// to running.
func openDependents(tx *store.Tx, taskID string, completed int64, after string) (list []string, err error) {
	rows, err := tx.Query(`
		SELECT task_id FROM dependency
		 WHERE required = $1 AND task_id > $2 AND satisfied = 0 AND (on_any = 1 OR $3 = 1)
		 ORDER BY task_id LIMIT $4`, taskID, after, completed, batch)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		list = append(list, id)
	}
	return list, rows.Err()
}

// satisfy marks one edge and schedules the dependent if it was the last open
// one.
func (q *Queue) satisfy(tx *store.Tx, dependent, required string) error {
	r, err := lock(tx, dependent)
	if err != nil {
		return ignoreMissing(err)
	}
	if _, err := tx.Exec(`UPDATE dependency SET satisfied = 1, waits = 0 WHERE task_id = $1 AND required = $2`, dependent, required); err != nil {
		return err
	}
	if r.State != task.Unscheduled {
		return nil // canceled, or scheduled by hand
	}
	open, err := column(tx, `SELECT required FROM dependency WHERE task_id = $1 AND satisfied = 0 LIMIT 2`, dependent)
	switch {
	case err != nil:
		return err
	case len(open) == 0:
		return q.restart(tx, r, task.Scheduled)
	case len(open) == 1:
		_, err = tx.Exec(`UPDATE dependency SET waits = 1 WHERE task_id = $1 AND required = $2`, dependent, open[0])
	}
	return err
}
