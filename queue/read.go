package queue

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
)

// read returns a task as it is now.
func (q *Queue) read(ctx context.Context, taskID string) (r *record, err error) {
	err = q.db.ViewOnce(ctx, func(tx *store.Tx) error {
		r, err = load(tx, taskID)
		return err
	})
	return r, err
}

var getTask = api.Declare(api.Spec{
	Name: "task", Route: "GET /task/<taskId>", Scopes: scope.Scope("queue:get-task:<taskId>"), Output: "v1/task.json#",
	Stability: api.Stable, Category: "Tasks", Title: "Get a task's definition",
	Doc: "Returns the task as it was created, with all defaults filled in.",
}, func(ctx context.Context, q *Queue, c api.Call[taskPath, api.None]) (json.RawMessage, error) {
	r, err := q.read(ctx, c.Path.TaskID)
	if err != nil {
		return nil, err
	}
	return r.shown(), nil
})

var status = api.Declare(api.Spec{
	Name: "status", Route: "GET /task/<taskId>/status", Scopes: scope.Scope("queue:status:<taskId>"), Output: "v1/task-status-response.json#",
	Stability: api.Stable, Category: "Tasks", Title: "Get a task's status",
	Doc: "Returns how far a task has come, with all of its runs.",
}, func(ctx context.Context, q *Queue, c api.Call[taskPath, api.None]) (out statusResponse, err error) {
	out.Status, err = q.statuses.Do(ctx, c.Path.TaskID)
	return out, err
})

func readStatuses(tx *store.Tx, items []*store.Item[string, task.Status]) error {
	rows := make([][]any, len(items))
	for i, it := range items {
		rows[i] = []any{it.In}
		it.Err = noTask(it.In)
	}
	return tx.QueryEach(`SELECT `+lean+` FROM task WHERE task_id = $1`, rows, func(i int, row store.Scanner) error {
		r, err := scanLean(row)
		if err == nil {
			items[i].Out, items[i].Err = r.Status, nil
		}
		return err
	})
}

type tasksRequest struct {
	TaskIDs []string `json:"taskIds"`
}

type tasksResponse struct {
	Tasks             []taskEntry `json:"tasks"`
	ContinuationToken string      `json:"continuationToken,omitempty"`
}

type taskEntry struct {
	TaskID string          `json:"taskId"`
	Task   json.RawMessage `json:"task"`
}

var tasks = api.Declare(api.Spec{
	Name: "tasks", Route: "POST /tasks", Query: []string{"continuationToken", "limit"},
	Scopes: scope.AllOf{scope.ForEach{For: "taskId", In: "taskIds", Each: "queue:get-task:<taskId>"}},
	Input:  "v1/tasks-request.json#", Output: "v1/tasks-response.json#",
	Stability: api.Experimental, Category: "Tasks", Title: "Get several tasks' definitions",
	Doc: "Returns the definitions of those of the given tasks that exist, in the order of their ids.",
}, func(ctx context.Context, q *Queue, c api.Call[api.None, tasksRequest]) (out tasksResponse, err error) {
	list, token, err := q.several(ctx, c)
	if err != nil {
		return out, err
	}
	out = tasksResponse{[]taskEntry{}, token}
	for _, r := range list {
		out.Tasks = append(out.Tasks, taskEntry{r.TaskID, r.shown()})
	}
	return out, nil
})

type statusesResponse struct {
	Statuses          []statusEntry `json:"statuses"`
	ContinuationToken string        `json:"continuationToken,omitempty"`
}

type statusEntry struct {
	TaskID string      `json:"taskId"`
	Status task.Status `json:"status"`
}

var statuses = api.Declare(api.Spec{
	Name: "statuses", Route: "POST /tasks/status", Query: []string{"continuationToken", "limit"},
	Scopes: scope.AllOf{scope.ForEach{For: "taskId", In: "taskIds", Each: "queue:status:<taskId>"}},
	Input:  "v1/tasks-request.json#", Output: "v1/tasks-statuses-response.json#",
	Stability: api.Experimental, Category: "Tasks", Title: "Get several tasks' statuses",
	Doc: "Returns the statuses of those of the given tasks that exist, in the order of their ids.",
}, func(ctx context.Context, q *Queue, c api.Call[api.None, tasksRequest]) (out statusesResponse, err error) {
	list, token, err := q.several(ctx, c)
	if err != nil {
		return out, err
	}
	out = statusesResponse{[]statusEntry{}, token}
	for _, r := range list {
		out.Statuses = append(out.Statuses, statusEntry{r.TaskID, r.Status})
	}
	return out, nil
})

// several reads a page of the tasks that a request names.
func (q *Queue) several(ctx context.Context, c api.Call[api.None, tasksRequest]) (list []*record, token string, err error) {
	if err := c.Authorize(scope.Vars{"taskIds": c.Body.TaskIDs}); err != nil {
		return nil, "", err
	}
	page, err := c.Page(1)
	if err != nil {
		return nil, "", err
	}
	wanted := slices.Clone(c.Body.TaskIDs)
	slices.Sort(wanted)
	wanted = slices.Compact(wanted)
	err = q.db.View(ctx, func(tx *store.Tx) error {
		list, token, err = queryPage(tx, page, `SELECT `+columns+` FROM task
			 WHERE task_id IN (SELECT value FROM json_each($1)) AND task_id > $2 ORDER BY task_id LIMIT $3`, wanted, after(page))
		return err
	})
	return list, token, err
}

type dependentsOf struct {
	TaskID string `json:"taskId"`
}

var listDependentTasks = api.Declare(api.Spec{
	Name: "listDependentTasks", Route: "GET /task/<taskId>/dependents", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("queue:list-dependent-tasks:<taskId>"), Output: "v1/list-dependent-tasks-response.json#",
	Stability: api.Stable, Category: "Tasks", Title: "List a task's dependents",
	Doc: "Lists the tasks that name this one as a dependency, in the order of their ids.",
}, func(ctx context.Context, q *Queue, c api.Call[taskPath, api.None]) (out listing[dependentsOf], err error) {
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	out.of.TaskID = c.Path.TaskID
	err = q.db.View(ctx, func(tx *store.Tx) error {
		if _, err := load(tx, c.Path.TaskID); err != nil {
			return err
		}
		out.tasks, out.token, err = queryPage(tx, page, `
			SELECT `+columns+` FROM task WHERE task_id IN (
			    SELECT task_id FROM dependency WHERE required = $1 AND task_id > $2 ORDER BY task_id LIMIT $3)
			 ORDER BY task_id`, c.Path.TaskID, after(page))
		return err
	})
	return out, err
})

type countsResponse struct {
	ProvisionerID string `json:"provisionerId"`
	WorkerType    string `json:"workerType"`
	TaskQueueID   string `json:"taskQueueId"`
	PendingTasks  int64  `json:"pendingTasks"`
	ClaimedTasks  *int64 `json:"claimedTasks,omitempty"`
}

var pendingTasks = api.Declare(api.Spec{
	Name: "pendingTasks", Route: "GET /pending/<taskQueueId...>", Scopes: scope.Scope("queue:pending-count:<taskQueueId>"), Output: "v1/pending-tasks-response.json#",
	Stability: api.Deprecated, Category: "Worker Metadata", Title: "Count pending tasks",
	Doc: "Counts the tasks of a queue that wait for a worker.",
}, func(ctx context.Context, q *Queue, c api.Call[queuePath, api.None]) (out countsResponse, err error) {
	out, err = q.counts(ctx, c.Path.TaskQueueID)
	out.ClaimedTasks = nil
	return out, err
})

var taskQueueCounts = api.Declare(api.Spec{
	Name: "taskQueueCounts", Route: "GET /task-queues/<taskQueueId...>/counts",
	Scopes:    scope.AllOf{scope.Scope("queue:pending-count:<taskQueueId>"), scope.Scope("queue:claimed-count:<taskQueueId>")},
	Output:    "v1/task-queue-counts-response.json#",
	Stability: api.Stable, Category: "Worker Metadata", Title: "Count pending and claimed tasks",
	Doc: "Counts the tasks of a queue that wait for a worker and those that workers have claimed.",
}, func(ctx context.Context, q *Queue, c api.Call[queuePath, api.None]) (countsResponse, error) {
	return q.counts(ctx, c.Path.TaskQueueID)
})

func (q *Queue) counts(ctx context.Context, queueID string) (out countsResponse, err error) {
	pending, claimed, err := q.Pending(ctx, queueID)
	out = countsResponse{TaskQueueID: queueID, PendingTasks: pending, ClaimedTasks: &claimed}
	out.ProvisionerID, out.WorkerType = task.SplitQueueID(queueID)
	return out, err
}

// Pending counts a task queue's pending and running tasks: what a provisioner
// sizes a pool by.
func (q *Queue) Pending(ctx context.Context, taskQueueID string) (pending, claimed int64, err error) {
	err = q.db.View(ctx, func(tx *store.Tx) error {
		if err := tx.QueryRow(`SELECT count(*) FROM pending WHERE task_queue_id = $1`, taskQueueID).Scan(&pending); err != nil {
			return err
		}
		return tx.QueryRow(`SELECT count(*) FROM task WHERE task_queue_id = $1 AND state = 'running'`, taskQueueID).Scan(&claimed)
	})
	return pending, claimed, err
}
