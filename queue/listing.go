package queue

import (
	"cmp"
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

type pendingEntry struct {
	TaskID   string          `json:"taskId"`
	RunID    int             `json:"runId"`
	Task     json.RawMessage `json:"task"`
	Inserted timestamp.Time  `json:"inserted"`
	seq      int64
}

type listPendingTasksResponse struct {
	Tasks             []pendingEntry `json:"tasks"`
	ContinuationToken string         `json:"continuationToken,omitempty"`
}

var listPendingTasks = api.Declare(api.Spec{
	Name: "listPendingTasks", Route: "GET /task-queues/<taskQueueId...>/pending", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("queue:pending-list:<taskQueueId>"), Output: "v1/list-pending-tasks-response.json#",
	Stability: api.Experimental, Category: "Worker Metadata", Title: "List pending tasks",
	Doc: "Lists the tasks of a queue that wait for a worker, those that have waited longest first, whatever their priority. Tasks that become pending while a caller pages through come last. A page ends early where its tasks are large.",
}, func(ctx context.Context, q *Queue, c api.Call[queuePath, api.None]) (out listPendingTasksResponse, err error) {
	page, err := c.Page(2)
	if err != nil {
		return out, err
	}
	since, err := number(page, 0)
	if err != nil {
		return out, err
	}
	seq, err := number(page, 1)
	if err != nil {
		return out, err
	}
	err = q.db.View(ctx, func(tx *store.Tx) error {
		out = listPendingTasksResponse{Tasks: []pendingEntry{}}
		list, err := waiting(tx, c.Path.TaskQueueID, since, seq, page.Limit+1)
		if err != nil {
			return err
		}
		more := len(list) > page.Limit
		list = list[:min(len(list), page.Limit)]
		size := 0
		for some := range slices.Chunk(list, 100) { // as the whole page may be more than a page takes
			if err := addDefinitions(tx, some); err != nil {
				return err
			}
			for _, e := range some {
				if size > maxPage {
					more = true
					break
				}
				out.Tasks = append(out.Tasks, e)
				size += len(e.Task)
			}
		}
		if n := len(out.Tasks); more && n > 0 {
			last := out.Tasks[n-1]
			out.ContinuationToken = page.Token(strconv.FormatInt(int64(last.Inserted), 10), strconv.FormatInt(last.seq, 10))
		}
		return nil
	})
	return out, err
})

// number is a key of a listing's token, or what comes before all of them.
func number(p api.Page, i int) (int64, error) {
	if p.After == nil {
		return -1, nil
	}
	return p.Int(i)
}

// waiting lists pending runs by time, which is an index for each priority: the
// first of all are among the first of each.
func waiting(tx *store.Tx, queueID string, since, seq int64, n int) (list []pendingEntry, err error) {
	for rank := range task.Priorities {
		rows, err := tx.Query(`
			SELECT task_id, run_id, since, seq FROM pending
			 WHERE task_queue_id = $1 AND priority = $2 AND (since, seq) > ($3, $4) ORDER BY since, seq LIMIT $5`,
			queueID, rank, since, seq, n)
		if err != nil {
			return nil, err
		}
		for rows.Next() {
			var e pendingEntry
			if err := rows.Scan(&e.TaskID, &e.RunID, &e.Inserted, &e.seq); err != nil {
				return nil, err
			}
			list = append(list, e)
		}
		if err := rows.Err(); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b pendingEntry) int {
		return cmp.Or(cmp.Compare(a.Inserted, b.Inserted), cmp.Compare(a.seq, b.seq))
	})
	return list[:min(len(list), n)], nil
}

func addDefinitions(tx *store.Tx, list []pendingEntry) error {
	ids := make([]string, 0, len(list))
	for _, e := range list {
		ids = append(ids, e.TaskID)
	}
	rows, err := tx.Query(`SELECT task_id, priority, definition FROM task WHERE task_id IN (SELECT value FROM json_each($1))`, ids)
	if err != nil {
		return err
	}
	found := map[string]json.RawMessage{}
	for rows.Next() {
		var id string
		var rank int
		var definition json.RawMessage
		if err := rows.Scan(&id, &rank, &definition); err != nil {
			return err
		}
		found[id] = withPriority(definition, task.PriorityOf(rank))
	}
	for i := range list {
		list[i].Task = found[list[i].TaskID]
	}
	return rows.Err()
}

type claimedEntry struct {
	TaskID  string          `json:"taskId"`
	RunID   int             `json:"runId"`
	Task    json.RawMessage `json:"task"`
	Claimed timestamp.Time  `json:"claimed"`
	Worker
}

type listClaimedTasksResponse struct {
	Tasks             []claimedEntry `json:"tasks"`
	ContinuationToken string         `json:"continuationToken,omitempty"`
}

var listClaimedTasks = api.Declare(api.Spec{
	Name: "listClaimedTasks", Route: "GET /task-queues/<taskQueueId...>/claimed", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("queue:claimed-list:<taskQueueId>"), Output: "v1/list-claimed-tasks-response.json#",
	Stability: api.Experimental, Category: "Worker Metadata", Title: "List claimed tasks",
	Doc: "Lists the tasks of a queue that workers have, those that were claimed first at the top. Tasks that are claimed while a caller pages through come last. A page ends early where its tasks are large.",
}, func(ctx context.Context, q *Queue, c api.Call[queuePath, api.None]) (out listClaimedTasksResponse, err error) {
	page, err := c.Page(2)
	if err != nil {
		return out, err
	}
	claimed, err := number(page, 0)
	if err != nil {
		return out, err
	}
	err = q.db.View(ctx, func(tx *store.Tx) error {
		out = listClaimedTasksResponse{Tasks: []claimedEntry{}}
		rows, err := tx.Query(`
			SELECT `+columns+` FROM task WHERE task_id IN (
			    SELECT task_id FROM task WHERE task_queue_id = $1 AND state = 'running' AND (started, task_id) > ($2, $3)
			     ORDER BY started, task_id LIMIT $4)
			 ORDER BY started, task_id`, c.Path.TaskQueueID, claimed, page.Text(1), page.Limit+1)
		if err != nil {
			return err
		}
		size := 0
		for rows.Next() {
			if n := len(out.Tasks); n == page.Limit || size > maxPage {
				last := out.Tasks[n-1]
				out.ContinuationToken = page.Token(strconv.FormatInt(int64(last.Claimed), 10), last.TaskID)
				return rows.Close()
			}
			r, err := scanRecord(rows)
			if err != nil {
				return err
			}
			out.Tasks = append(out.Tasks, claimedEntry{r.TaskID, r.Latest().RunID, r.shown(), r.started, workerNamed(r.worker)})
			size += len(r.definition)
		}
		return rows.Err()
	})
	return out, err
})
