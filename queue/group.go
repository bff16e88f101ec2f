package queue

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A group is the tasks made for one purpose. It has no size limit, so nothing
// here reads all of its tasks at once.
type group struct {
	TaskGroupID string         `json:"taskGroupId"`
	SchedulerID string         `json:"schedulerId"`
	Expires     timestamp.Time `json:"expires"`
	Sealed      timestamp.Time `json:"sealed,omitzero"`
}

const groupQuery = `SELECT task_group_id, scheduler_id, expires, sealed FROM task_group WHERE task_group_id = $1`

func scanGroup(row scanner) (*group, error) {
	var g group
	err := row.Scan(&g.TaskGroupID, &g.SchedulerID, &g.Expires, &g.Sealed)
	return &g, err
}

func loadGroup(tx *store.Tx, id string) (*group, error) {
	g, err := scanGroup(tx.QueryRow(groupQuery, id))
	if isNotFound(err) {
		return nil, api.Errorf(api.ResourceNotFound, "There is no task group %s. It has no task yet, or it has expired.", id)
	}
	return g, err
}

type groupPath struct {
	TaskGroupID string `path:"taskGroupId"`
}

// A listing is a page of tasks, with their definitions as they are stored, and
// what it is of.
type listing[Of any] struct {
	of    Of
	tasks []*record
	token string // of the next page
}

// AppendJSON copies definitions as they are.
func (l listing[Of]) AppendJSON(b []byte) ([]byte, error) {
	of, err := json.Marshal(l.of)
	if err != nil {
		return nil, err
	}
	size := len(of) + 100
	for _, r := range l.tasks {
		size += len(r.definition) + 500 + 200*len(r.Runs)
	}
	b = append(slices.Grow(b, size), of[:len(of)-1]...) // without its }
	b = append(b, `,"tasks":[`...)
	for i, r := range l.tasks {
		status, err := json.Marshal(r.Status)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, `{"task":`...), r.shown()...)
		b = append(append(append(b, `,"status":`...), status...), '}')
	}
	b = append(b, ']')
	if l.token != "" {
		b = strconv.AppendQuote(append(b, `,"continuationToken":`...), l.token) // of letters and digits
	}
	return append(b, '}'), nil
}

var listTaskGroup = api.Declare(api.Spec{
	Name: "listTaskGroup", Route: "GET /task-group/<taskGroupId>/list", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("queue:list-task-group:<taskGroupId>"), Output: "v1/list-task-group-response.json#",
	Stability: api.Stable, Category: "Task Groups", Title: "List a task group",
	Doc: "Lists the tasks of a group with their status, in the order of their ids. Tasks added while a caller pages through appear where their id belongs; none is listed twice.",
}, func(ctx context.Context, q *Queue, c api.Call[groupPath, api.None]) (out listing[*group], err error) {
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	err = q.db.View(ctx, func(tx *store.Tx) error {
		if out.of, err = loadGroup(tx, c.Path.TaskGroupID); err != nil {
			return err
		}
		out.tasks, out.token, err = queryPage(tx, page, `
			SELECT `+columns+` FROM task WHERE task_group_id = $1 AND task_id > $2 ORDER BY task_id LIMIT $3`, c.Path.TaskGroupID, after(page))
		return err
	})
	return out, err
})

// after is where a page of a listing by task id begins.
func after(p api.Page) string {
	if p.After == nil {
		return ""
	}
	return p.After[0]
}

var getTaskGroup = api.Declare(api.Spec{
	Name: "getTaskGroup", Route: "GET /task-group/<taskGroupId>",
	Scopes: scope.Scope("queue:list-task-group:<taskGroupId>"), Output: "v1/task-group-response.json#",
	Stability: api.Stable, Category: "Task Groups", Title: "Get a task group",
	Doc: "Returns what is known of the group itself: its scheduler, its expiry, whether it is sealed.",
}, func(ctx context.Context, q *Queue, c api.Call[groupPath, api.None]) (*group, error) {
	return q.group(ctx, c.Path.TaskGroupID)
})

func (q *Queue) group(ctx context.Context, id string) (g *group, err error) {
	err = q.db.View(ctx, func(tx *store.Tx) error {
		g, err = loadGroup(tx, id)
		return err
	})
	return g, err
}

var sealTaskGroup = api.Declare(api.Spec{
	Name: "sealTaskGroup", Route: "POST /task-group/<taskGroupId>/seal",
	Scopes: scope.Scope("queue:seal-task-group:<schedulerId>/<taskGroupId>"), Output: "v1/task-group-response.json#",
	Stability: api.Experimental, Category: "Task Groups", Title: "Seal a task group",
	Doc: "Closes the group to new tasks, for good. Sealing it again changes nothing. Once the call has returned no task is added any more.",
}, func(ctx context.Context, q *Queue, c api.Call[groupPath, api.None]) (*group, error) {
	g, err := q.group(ctx, c.Path.TaskGroupID)
	if err != nil {
		return nil, err
	}
	if err := c.Authorize(scope.Vars{"schedulerId": g.SchedulerID}); err != nil {
		return nil, err
	}
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		g, err = q.seal(tx, c.Path.TaskGroupID)
		return err
	})
	return g, err
})

// seal locks the group against those who create tasks in it, which the UPDATE
// alone would not.
func (q *Queue) seal(tx *store.Tx, id string) (*group, error) {
	if _, err := tx.Column(`SELECT task_group_id FROM task_group WHERE task_group_id = $1 /*for update*/`, id); err != nil {
		return nil, err
	}
	n, err := tx.Exec(`UPDATE task_group SET sealed = $2 WHERE task_group_id = $1 AND sealed = 0`, id, now())
	if err != nil {
		return nil, err
	}
	g, err := loadGroup(tx, id)
	if err != nil || n == 0 {
		return g, err
	}
	return g, q.publishGroup(tx, taskGroupSealed, g)
}

type cancelTaskGroupResponse struct {
	TaskGroupID    string   `json:"taskGroupId"`
	TaskGroupSize  int      `json:"taskGroupSize"`
	CancelledCount int      `json:"cancelledCount"`
	TaskIDs        []string `json:"taskIds"`
}

var cancelTaskGroup = api.Declare(api.Spec{
	Name: "cancelTaskGroup", Route: "POST /task-group/<taskGroupId>/cancel",
	Scopes: scope.Scope("queue:cancel-task-group:<schedulerId>/<taskGroupId>"), Output: "v1/cancel-task-group-response.json#",
	Stability: api.Experimental, Category: "Task Groups", Title: "Cancel a task group",
	Doc: `Cancels every task of a sealed group that is not resolved, as cancelTask does. A group that is open to new tasks is
refused (409): seal it first. If the call breaks off, what it canceled stays canceled; call it again for the rest.`,
}, func(ctx context.Context, q *Queue, c api.Call[groupPath, api.None]) (out cancelTaskGroupResponse, err error) {
	g, err := q.group(ctx, c.Path.TaskGroupID)
	if err != nil {
		return out, err
	}
	if err := c.Authorize(scope.Vars{"schedulerId": g.SchedulerID}); err != nil {
		return out, err
	}
	if g.Sealed.IsZero() {
		return out, api.Errorf(api.RequestConflict, "Task group %s is not sealed, so new tasks could be added while its tasks are canceled. Call sealTaskGroup first.", g.TaskGroupID)
	}
	out = cancelTaskGroupResponse{TaskGroupID: g.TaskGroupID, TaskIDs: []string{}}
	for position := ""; ; {
		var list, canceled []string
		err := q.change(ctx, func(ch *changes) error {
			list, err = unresolved(ch.tx, g.TaskGroupID, position)
			if err != nil {
				return err
			}
			canceled = nil
			for _, id := range list {
				_, ended, err := ch.end(id, task.Canceled)
				if err = ignoreMissing(err); err != nil {
					return err
				}
				if ended {
					canceled = append(canceled, id)
				}
			}
			return nil
		})
		if err != nil {
			return out, err
		}
		out.TaskIDs = append(out.TaskIDs, canceled...)
		if len(list) < batch {
			break
		}
		position = list[batch-1]
	}
	out.CancelledCount = len(out.TaskIDs)
	err = q.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT count(*) FROM task WHERE task_group_id = $1`, g.TaskGroupID).Scan(&out.TaskGroupSize)
	})
	return out, err
})

func unresolved(tx *store.Tx, groupID, after string) (list []string, err error) {
	rows, err := tx.Query(`
		SELECT task_id FROM task
		 WHERE task_group_id = $1 AND state IN ('unscheduled', 'pending', 'running') AND task_id > $2
		 ORDER BY task_id LIMIT $3`, groupID, after, batch)
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

// checkGroups announces the end of those groups of which no task is left
// unresolved. It runs in the one loop that follows resolutions, after they are
// committed, so of tasks that end at once the last to be followed up sees the
// others; it alone announces, since no further resolution is left.
func (c *changes) checkGroups(ids []string) error {
	var ended []string
	if err := c.tx.QueryEach(`
		SELECT EXISTS (SELECT 1 FROM task WHERE task_group_id = $1 AND state IN ('unscheduled', 'pending', 'running'))
		    OR EXISTS (SELECT 1 FROM resolution WHERE task_group_id = $1)`, keys(ids), func(i int, row store.Scanner) error {
		var open bool
		err := row.Scan(&open)
		if !open {
			ended = append(ended, ids[i])
		}
		return err
	}); err != nil {
		return err
	}
	for _, id := range ended {
		g, err := loadGroup(c.tx, id)
		if err == nil {
			err = c.queue.publishGroup(c.tx, taskGroupResolved, g)
		}
		if err = ignoreMissing(err); err != nil {
			return err
		}
	}
	return nil
}
