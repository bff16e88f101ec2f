package queue

import (
	"cmp"
	"context"
	"encoding/json"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A queueRecord is what is remembered of a task queue: that workers ask it for
// work. It is written with the records of those workers (crew), a task queue at
// most once a minute, and forgotten a day after the last of them was active.
type queueRecord struct {
	TaskQueueID string         `json:"taskQueueId"`
	Stability   api.Stability  `json:"stability"`
	Description string         `json:"description"`
	Active      timestamp.Time `json:"lastDateActive"`
	Expires     timestamp.Time `json:"expires"`
}

// A workerType is a queueRecord by its older name.
type workerType struct {
	ProvisionerID string `json:"provisionerId"`
	WorkerType    string `json:"workerType"`
	queueRecord
}

// A provisioner is the task queues whose names begin alike, taken together.
type provisioner struct {
	ProvisionerID string         `json:"provisionerId"`
	Stability     api.Stability  `json:"stability"`
	Description   string         `json:"description"`
	Active        timestamp.Time `json:"lastDateActive"`
	Expires       timestamp.Time `json:"expires"`
}

// A queueNote is what is to be written about a task queue.
type queueNote struct {
	Provisioner string `json:"provisioner"`
	Type        string `json:"type"`
	Active      int64  `json:"active"`
	Expires     int64  `json:"expires"`
}

// writeQueues remembers task queues, which stand in the order of their names. A
// time that was promised before is not shortened.
func writeQueues(tx *store.Tx, list []queueNote) error {
	if len(list) == 0 {
		return nil
	}
	values := make([]string, 0, len(list))
	for _, n := range list {
		b, err := json.Marshal(n)
		if err != nil {
			return err
		}
		values = append(values, string(b))
	}
	_, err := tx.Exec(`
		INSERT INTO task_queue (provisioner_id, worker_type, last_active, expires)
		SELECT value /*json*/ ->> 'provisioner', value /*json*/ ->> 'type',
		       CAST(value /*json*/ ->> 'active' AS BIGINT), CAST(value /*json*/ ->> 'expires' AS BIGINT)
		  FROM json_each($1) WHERE true
		ON CONFLICT (provisioner_id, worker_type) DO UPDATE SET
		  last_active = CASE WHEN excluded.last_active > task_queue.last_active THEN excluded.last_active ELSE task_queue.last_active END,
		  expires = CASE WHEN excluded.expires > task_queue.expires THEN excluded.expires ELSE task_queue.expires END`, values)
	return err
}

// queueRecords lists task queues that are remembered, in the order of their
// names: those of one provisioner, or of all where it is "".
func (q *Queue) queueRecords(ctx context.Context, provisionerID string, page api.Page) (list []workerType, token string, err error) {
	if err := q.writeCrewDown(ctx); err != nil {
		return nil, "", err
	}
	err = q.db.View(ctx, func(tx *store.Tx) error {
		list, token = []workerType{}, ""
		rows, err := tx.Query(`
			SELECT provisioner_id, worker_type, last_active, expires FROM task_queue
			 WHERE ($1 = '' OR provisioner_id = $1) AND (provisioner_id, worker_type) > ($2, $3) AND expires > $4
			 ORDER BY provisioner_id, worker_type LIMIT $5`, provisionerID, cmp.Or(page.Text(0), provisionerID), page.Text(1), now(), page.Limit+1)
		if err != nil {
			return err
		}
		for rows.Next() {
			w, err := scanQueue(rows)
			if err != nil {
				return err
			}
			list = append(list, w)
		}
		if len(list) > page.Limit {
			list = list[:page.Limit]
			last := list[page.Limit-1]
			token = page.Token(last.ProvisionerID, last.WorkerType)
		}
		return rows.Err()
	})
	return list, token, err
}

func scanQueue(row scanner) (w workerType, err error) {
	err = row.Scan(&w.ProvisionerID, &w.WorkerType, &w.Active, &w.Expires)
	w.TaskQueueID, w.Stability = w.ProvisionerID+"/"+w.WorkerType, api.Experimental
	return w, err
}

func (q *Queue) queueRecord(ctx context.Context, provisionerID, name string) (w workerType, err error) {
	if err := q.writeCrewDown(ctx); err != nil {
		return w, err
	}
	err = q.db.View(ctx, func(tx *store.Tx) error {
		w, err = scanQueue(tx.QueryRow(`
			SELECT provisioner_id, worker_type, last_active, expires FROM task_queue
			 WHERE provisioner_id = $1 AND worker_type = $2 AND expires > $3`, provisionerID, name, now()))
		return err
	})
	if isNotFound(err) {
		return w, api.Errorf(api.ResourceNotFound, "No worker has asked task queue %s/%s for work within the last day.", provisionerID, name)
	}
	return w, err
}

type listTaskQueuesResponse struct {
	TaskQueues        []queueRecord `json:"taskQueues"`
	ContinuationToken string        `json:"continuationToken,omitempty"`
}

var listTaskQueues = api.Declare(api.Spec{
	Name: "listTaskQueues", Route: "GET /task-queues", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("queue:list-task-queues"), Output: "v1/list-taskqueues-response.json#",
	Stability: api.Stable, Category: "Worker Metadata", Title: "List task queues",
	Doc: "Lists the task queues that workers have asked for work within the last day, by name. A task queue that tasks wait in, but no worker asks, is not among them.",
}, func(ctx context.Context, q *Queue, c api.Call[api.None, api.None]) (out listTaskQueuesResponse, err error) {
	page, err := c.Page(2)
	if err != nil {
		return out, err
	}
	list, token, err := q.queueRecords(ctx, "", page)
	out = listTaskQueuesResponse{make([]queueRecord, 0, len(list)), token}
	for _, w := range list {
		out.TaskQueues = append(out.TaskQueues, w.queueRecord)
	}
	return out, err
})

var getTaskQueue = api.Declare(api.Spec{
	Name: "getTaskQueue", Route: "GET /task-queues/<taskQueueId...>",
	Scopes: scope.Scope("queue:get-task-queue:<taskQueueId>"), Output: "v1/taskqueue-response.json#",
	Stability: api.Stable, Category: "Worker Metadata", Title: "Get a task queue",
	Doc: "Returns what the queue remembers of a task queue: when a worker of it was last active.",
}, func(ctx context.Context, q *Queue, c api.Call[queuePath, api.None]) (queueRecord, error) {
	provisionerID, name := task.SplitQueueID(c.Path.TaskQueueID)
	w, err := q.queueRecord(ctx, provisionerID, name)
	return w.queueRecord, err
})

type provisionerPath struct {
	ProvisionerID string `path:"provisionerId"`
}

type listWorkerTypesResponse struct {
	WorkerTypes       []workerType `json:"workerTypes"`
	ContinuationToken string       `json:"continuationToken,omitempty"`
}

var listWorkerTypes = api.Declare(api.Spec{
	Name: "listWorkerTypes", Route: "GET /provisioners/<provisionerId>/worker-types", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("queue:list-worker-types:<provisionerId>"), Output: "v1/list-workertypes-response.json#",
	Stability: api.Deprecated, Category: "Worker Metadata", Title: "List a provisioner's worker types",
	Doc: "Lists the task queues of a provisioner, by their older name, as listTaskQueues lists all of them.",
}, func(ctx context.Context, q *Queue, c api.Call[provisionerPath, api.None]) (out listWorkerTypesResponse, err error) {
	page, err := c.Page(2)
	if err != nil {
		return out, err
	}
	out.WorkerTypes, out.ContinuationToken, err = q.queueRecords(ctx, c.Path.ProvisionerID, page)
	return out, err
})

var getWorkerType = api.Declare(api.Spec{
	Name: "getWorkerType", Route: "GET /provisioners/<provisionerId>/worker-types/<workerType>",
	Scopes: scope.Scope("queue:get-worker-type:<provisionerId>/<workerType>"), Output: "v1/workertype-response.json#",
	Stability: api.Deprecated, Category: "Worker Metadata", Title: "Get a worker type",
	Doc: "Returns what the queue remembers of a task queue, by its older name. Use getTaskQueue instead.",
}, func(ctx context.Context, q *Queue, c api.Call[workerTypePath, api.None]) (workerType, error) {
	return q.queueRecord(ctx, c.Path.ProvisionerID, c.Path.WorkerType)
})

type listProvisionersResponse struct {
	Provisioners      []provisioner `json:"provisioners"`
	ContinuationToken string        `json:"continuationToken,omitempty"`
}

const provisionerQuery = `SELECT provisioner_id, max(last_active), max(expires) FROM task_queue WHERE expires > $1 `

func scanProvisioner(row scanner) (p provisioner, err error) {
	p.Stability = api.Experimental
	err = row.Scan(&p.ProvisionerID, &p.Active, &p.Expires)
	return p, err
}

var listProvisioners = api.Declare(api.Spec{
	Name: "listProvisioners", Route: "GET /provisioners", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("queue:list-provisioners"), Output: "v1/list-provisioners-response.json#",
	Stability: api.Deprecated, Category: "Worker Metadata", Title: "List provisioners",
	Doc: "Lists the first parts of the names of the task queues that listTaskQueues lists. There need not be anything that provisions workers.",
}, func(ctx context.Context, q *Queue, c api.Call[api.None, api.None]) (out listProvisionersResponse, err error) {
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	if err := q.writeCrewDown(ctx); err != nil {
		return out, err
	}
	err = q.db.View(ctx, func(tx *store.Tx) error {
		out = listProvisionersResponse{Provisioners: []provisioner{}}
		rows, err := tx.Query(provisionerQuery+` AND provisioner_id > $2 GROUP BY provisioner_id ORDER BY provisioner_id LIMIT $3`,
			now(), page.Text(0), page.Limit+1)
		if err != nil {
			return err
		}
		for rows.Next() {
			p, err := scanProvisioner(rows)
			if err != nil {
				return err
			}
			out.Provisioners = append(out.Provisioners, p)
		}
		if len(out.Provisioners) > page.Limit {
			out.Provisioners = out.Provisioners[:page.Limit]
			out.ContinuationToken = page.Token(out.Provisioners[page.Limit-1].ProvisionerID)
		}
		return rows.Err()
	})
	return out, err
})

var getProvisioner = api.Declare(api.Spec{
	Name: "getProvisioner", Route: "GET /provisioners/<provisionerId>",
	Scopes: scope.Scope("queue:get-provisioner:<provisionerId>"), Output: "v1/provisioner-response.json#",
	Stability: api.Deprecated, Category: "Worker Metadata", Title: "Get a provisioner",
	Doc: "Returns when a worker of a provisioner's task queues was last active.",
}, func(ctx context.Context, q *Queue, c api.Call[provisionerPath, api.None]) (p provisioner, err error) {
	if err := q.writeCrewDown(ctx); err != nil {
		return p, err
	}
	err = q.db.View(ctx, func(tx *store.Tx) error {
		p, err = scanProvisioner(tx.QueryRow(provisionerQuery+` AND provisioner_id = $2 GROUP BY provisioner_id`, now(), c.Path.ProvisionerID))
		return err
	})
	if isNotFound(err) {
		return p, api.Errorf(api.ResourceNotFound, "No worker of provisioner %s has asked for work within the last day.", c.Path.ProvisionerID)
	}
	return p, err
})

// expireQueues is one pass of the loop queue.task-queue-expiry.
func (q *Queue) expireQueues(ctx context.Context) (more bool, err error) {
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`
			DELETE FROM task_queue WHERE (provisioner_id, worker_type) IN (
			  SELECT provisioner_id, worker_type FROM task_queue WHERE expires <= $1 ORDER BY expires LIMIT $2)
			   AND expires <= $1`, now(), 10*batch)
		more = n == 10*batch
		return err
	})
	return more, err
}
