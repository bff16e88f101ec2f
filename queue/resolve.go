package queue

import (
	"cmp"
	"context"
	"errors"
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

// A report is what a worker says of its run.
type report struct {
	runPath
	state task.State
	why   task.Reason
}

// report resolves a running run as its worker says. Reports that come at the
// same time share a transaction.
func (q *Queue) report(ctx context.Context, p runPath, state task.State, why task.Reason) (out statusResponse, err error) {
	out.Status, err = q.reports.Do(ctx, report{p, state, why})
	return out, err
}

func (q *Queue) takeReports(tx *store.Tx, items []*store.Item[report, task.Status]) error {
	return q.changeIn(tx, func(c *changes) error {
		var ids []string
		for _, it := range items {
			ids = append(ids, it.In.TaskID)
		}
		records, err := lockAll(tx, ids, false)
		if err != nil {
			return err
		}
		for _, it := range items {
			it.Out, it.Err = c.report(records[it.In.TaskID], it.In)
		}
		return nil
	})
}

func (c *changes) report(r *record, in report) (s task.Status, err error) {
	if r == nil {
		return s, noTask(in.TaskID)
	}
	run, err := r.run(in.RunID)
	switch {
	case err != nil:
		return s, err
	case run.State == in.state && run.ReasonResolved == in.why:
		return r.Status, nil // said before
	case run.State != task.Running:
		return s, api.Errorf(api.RequestConflict, "Run %d of task %s cannot be resolved as %s (%s): it is %s (%s).", run.RunID, r.TaskID, in.state, in.why, run.State, run.ReasonResolved)
	}
	switch in.why {
	case task.WorkerShutdown:
		c.lose(r, in.why, task.Retry)
	case task.IntermittentTask:
		c.lose(r, in.why, task.TaskRetry)
	default:
		c.settle(r, in.state, in.why)
	}
	return r.Status, nil
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

// maySteer checks that demand against the task. Which scopes it takes is told by
// the task, so who asks for one that does not exist gets 404, whatever their
// scopes, as from the platform we are compatible with. Ids are random: nobody
// finds out anything by trying.
func (q *Queue) maySteer(ctx context.Context, c api.Call[taskPath, api.None]) error {
	r, err := q.read(ctx, c.Path.TaskID)
	if err != nil {
		return err
	}
	return c.Authorize(scope.Vars{"schedulerId": r.SchedulerID, "taskGroupId": r.TaskGroupID, "projectId": r.ProjectID})
}

// steer changes a task on behalf of a person or a scheduler.
func (q *Queue) steer(ctx context.Context, c api.Call[taskPath, api.None], change func(*changes, *record) error) (out statusResponse, err error) {
	if err := q.maySteer(ctx, c); err != nil {
		return out, err
	}
	err = q.change(ctx, func(ch *changes) error {
		r, err := lock(ch.tx, c.Path.TaskID)
		if err != nil {
			return err
		}
		if err := change(ch, r); err != nil {
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
	return q.steer(ctx, c, func(ch *changes, r *record) error {
		if r.State != task.Unscheduled {
			return nil
		}
		if err := pastDeadline(r, "scheduled"); err != nil {
			return err
		}
		ch.restart(r, task.Scheduled)
		return nil
	})
})

var rerunTask = api.Declare(api.Spec{
	Name: "rerunTask", Route: "POST /task/<taskId>/rerun", Scopes: oneOfThree("rerun"), Output: "v1/task-status-response.json#",
	Stability: api.Stable, Category: "Tasks", Title: "Run a task again",
	Doc: `Gives a resolved task another run, with all of its retries. An unscheduled task is scheduled whatever its
dependencies; a pending or running one stays as it is. What already ran because of the earlier result is not run
again.`,
}, func(ctx context.Context, q *Queue, c api.Call[taskPath, api.None]) (statusResponse, error) {
	return q.steer(ctx, c, func(ch *changes, r *record) error {
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
		ch.restart(r, why)
		return nil
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
	err = q.change(ctx, func(ch *changes) error {
		out.Status, _, err = ch.end(c.Path.TaskID, task.Canceled)
		return err
	})
	return out, err
})

// end resolves a task from outside if it is not resolved yet.
func (c *changes) end(taskID string, why task.Reason) (s task.Status, ended bool, err error) {
	r, err := lockWithRun(c.tx, `DELETE FROM pending WHERE task_id = $1`, taskID)
	if err != nil {
		return s, false, err
	}
	if !r.State.Resolved() {
		ended = true
		c.settle(r, task.Exception, why)
	}
	return r.Status, ended, nil
}

// expireDeadlines is one pass of the loop queue.deadlines.
func (q *Queue) expireDeadlines(ctx context.Context) (more bool, err error) {
	due, err := q.due(ctx, `
		SELECT task_id FROM task WHERE state IN ('unscheduled', 'pending', 'running') AND deadline <= $1
		 ORDER BY deadline LIMIT $2`, now())
	if err != nil {
		return false, err
	}
	return len(due) == batch, q.each(ctx, due, func(c *changes, id string) error {
		_, _, err := c.end(id, task.DeadlineExceeded)
		return ignoreMissing(err)
	})
}

// ignoreMissing is for loops: what has expired meanwhile needs nothing more.
func ignoreMissing(err error) error {
	if isMissing(err) {
		return nil
	}
	return err
}

func isMissing(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Code == api.ResourceNotFound
}

func sortPending(list []pendingRun) {
	slices.SortFunc(list, func(a, b pendingRun) int {
		return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(a.since, b.since), cmp.Compare(a.seq, b.seq))
	})
}
