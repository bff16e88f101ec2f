package queue

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A WorkerRecord is what the queue remembers of a worker. Its JSON is that of
// the method getWorker.
type WorkerRecord struct {
	ProvisionerID string `json:"provisionerId"`
	WorkerType    string `json:"workerType"`
	TaskQueueID   string `json:"taskQueueId"`
	Worker
	FirstClaim      timestamp.Time `json:"firstClaim"`               // when it first asked for work
	Active          timestamp.Time `json:"lastDateActive"`           // when it last did, or renewed a claim, to the minute
	Released        timestamp.Time `json:"-"`                        // when a claim of it ended last; 0: none has
	Draining        timestamp.Time `json:"-"`                        // since when it gets nothing any more; 0: it is not drained
	Expires         timestamp.Time `json:"expires"`                  // when it is forgotten
	QuarantineUntil timestamp.Time `json:"quarantineUntil,omitzero"` // 0: it never was in quarantine
	Quarantines     []Quarantine   `json:"quarantineDetails"`        // oldest first
	RecentTasks     []RecentTask   `json:"recentTasks"`              // oldest first
}

// A Quarantine is one change of a worker's quarantine.
type Quarantine struct {
	UpdatedAt timestamp.Time `json:"updatedAt"`
	ClientID  string         `json:"clientId"`
	Until     timestamp.Time `json:"quarantineUntil"`
	Info      string         `json:"quarantineInfo"`
}

// maxQuarantines bounds how many changes are kept, the latest.
const maxQuarantines = 100

const workerColumns = `task_queue_id, worker, first_claim, last_active, last_release, draining, expires, quarantine_until, quarantine, recent`

func scanWorker(row scanner) (*WorkerRecord, error) {
	var w WorkerRecord
	var name, recent string
	var quarantines json.RawMessage
	err := row.Scan(&w.TaskQueueID, &name, &w.FirstClaim, &w.Active, &w.Released, &w.Draining, &w.Expires, &w.QuarantineUntil, &quarantines, &recent)
	if err != nil {
		return nil, err
	}
	w.Worker = workerNamed(name)
	w.ProvisionerID, w.WorkerType = task.SplitQueueID(w.TaskQueueID)
	if err := json.Unmarshal(quarantines, &w.Quarantines); err != nil {
		return nil, fmt.Errorf("queue: quarantines of worker %s: %w", name, err)
	}
	w.RecentTasks, err = readRecent(recent)
	return &w, err
}

// loadWorker reads a worker's row; missing, it is a ResourceNotFound error.
func loadWorker(tx *store.Tx, k workerKey, lock string) (*WorkerRecord, error) {
	w, err := scanWorker(tx.QueryRow(`SELECT `+workerColumns+` FROM queue_worker WHERE task_queue_id = $1 AND worker = $2`+lock, k.queueID, k.worker))
	if isNotFound(err) {
		return nil, api.Errorf(api.ResourceNotFound, "Task queue %s knows of no worker %s. It has not asked for work within the last day, or never.", k.queueID, k.worker)
	}
	return w, err
}

// WorkerRecord returns what the queue remembers of a worker, or a
// ResourceNotFound error.
func (q *Queue) WorkerRecord(ctx context.Context, taskQueueID, workerGroup, workerID string) (w *WorkerRecord, err error) {
	if err := q.writeCrewDown(ctx); err != nil {
		return nil, err
	}
	err = q.db.View(ctx, func(tx *store.Tx) error {
		w, err = loadWorker(tx, workerKey{taskQueueID, Worker{workerGroup, workerID}.String()}, "")
		return err
	})
	return w, err
}

// WorkerRecords returns what the queue remembers of its workers, in the order of
// their names: up to limit of those after the given one (nil: from the first),
// and only those that are in quarantine now, or that are not, if quarantined
// says which.
func (q *Queue) WorkerRecords(ctx context.Context, taskQueueID string, quarantined *bool, after *Worker, limit int) (list []*WorkerRecord, err error) {
	if err := q.writeCrewDown(ctx); err != nil {
		return nil, err
	}
	from, which := "", -1
	if after != nil {
		from = after.String()
	}
	if quarantined != nil {
		which = 0
		if *quarantined {
			which = 1
		}
	}
	err = q.db.View(ctx, func(tx *store.Tx) error {
		list = nil
		rows, err := tx.Query(`
			SELECT `+workerColumns+` FROM queue_worker
			 WHERE task_queue_id = $1 AND worker /*bytewise*/ > $2
			   AND ($3 = -1 OR $3 = CASE WHEN quarantine_until > $4 THEN 1 ELSE 0 END)
			 ORDER BY worker /*bytewise*/ LIMIT $5`, taskQueueID, from, which, now(), limit)
		if err != nil {
			return err
		}
		for rows.Next() {
			w, err := scanWorker(rows)
			if err != nil {
				return err
			}
			list = append(list, w)
		}
		return rows.Err()
	})
	return list, err
}

type workerPath struct {
	ProvisionerID string `path:"provisionerId"`
	WorkerType    string `path:"workerType"`
	WorkerGroup   string `path:"workerGroup"`
	WorkerID      string `path:"workerId"`
}

func (p workerPath) queueID() string { return p.ProvisionerID + "/" + p.WorkerType }

var getWorker = api.Declare(api.Spec{
	Name: "getWorker", Route: "GET /provisioners/<provisionerId>/worker-types/<workerType>/workers/<workerGroup>/<workerId>",
	Scopes: scope.Scope("queue:get-worker:<provisionerId>/<workerType>/<workerGroup>/<workerId>"), Output: "v1/worker-response.json#",
	Stability: api.Deprecated, Category: "Worker Metadata", Title: "Get a worker",
	Doc: "Returns what the queue remembers of a worker: when it was active, what it claimed last, whether it is in quarantine. A worker that has not asked for work for a day is forgotten.",
}, func(ctx context.Context, q *Queue, c api.Call[workerPath, api.None]) (*WorkerRecord, error) {
	return q.WorkerRecord(ctx, c.Path.queueID(), c.Path.WorkerGroup, c.Path.WorkerID)
})

type workerTypePath struct {
	ProvisionerID string `path:"provisionerId"`
	WorkerType    string `path:"workerType"`
}

type listWorkersResponse struct {
	Workers           []workerEntry `json:"workers"`
	ContinuationToken string        `json:"continuationToken,omitempty"`
}

type workerEntry struct {
	Worker
	FirstClaim      timestamp.Time `json:"firstClaim"`
	Active          timestamp.Time `json:"lastDateActive"`
	LatestTask      *RecentTask    `json:"latestTask,omitempty"`
	QuarantineUntil timestamp.Time `json:"quarantineUntil,omitzero"`
}

var listWorkers = api.Declare(api.Spec{
	Name: "listWorkers", Route: "GET /provisioners/<provisionerId>/worker-types/<workerType>/workers",
	Query:  []string{"continuationToken", "limit", "quarantined"},
	Scopes: scope.Scope("queue:list-workers:<provisionerId>/<workerType>"), Output: "v1/list-workers-response.json#",
	Stability: api.Deprecated, Category: "Worker Metadata", Title: "List workers",
	Doc: "Lists the workers that have asked a task queue for work within the last day, by group and id. With `quarantined` it lists those that are in quarantine now (`true`), or those that are not (`false`).",
}, func(ctx context.Context, q *Queue, c api.Call[workerTypePath, api.None]) (out listWorkersResponse, err error) {
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	var from *Worker
	if page.After != nil {
		w := workerNamed(page.After[0])
		from = &w
	}
	var quarantined *bool
	if s := c.Query("quarantined"); s != "" {
		yes := s == "true"
		quarantined = &yes
	}
	list, err := q.WorkerRecords(ctx, c.Path.ProvisionerID+"/"+c.Path.WorkerType, quarantined, from, page.Limit+1)
	if err != nil {
		return out, err
	}
	if len(list) > page.Limit {
		list = list[:page.Limit]
		out.ContinuationToken = page.Token(list[page.Limit-1].Worker.String())
	}
	out.Workers = make([]workerEntry, 0, len(list))
	for _, w := range list {
		e := workerEntry{Worker: w.Worker, FirstClaim: w.FirstClaim, Active: w.Active, QuarantineUntil: w.QuarantineUntil}
		if n := len(w.RecentTasks); n > 0 {
			e.LatestTask = &w.RecentTasks[n-1]
		}
		out.Workers = append(out.Workers, e)
	}
	return out, nil
})

type quarantineRequest struct {
	Until timestamp.Time `json:"quarantineUntil"`
	Info  string         `json:"quarantineInfo"`
}

var quarantineWorker = api.Declare(api.Spec{
	Name: "quarantineWorker", Route: "PUT /provisioners/<provisionerId>/worker-types/<workerType>/workers/<workerGroup>/<workerId>",
	Scopes: scope.AllOf{scope.Scope("queue:quarantine-worker:<provisionerId>/<workerType>/<workerGroup>/<workerId>")},
	Input:  "v1/quarantine-worker-request.json#", Output: "v1/worker-response.json#",
	Stability: api.Experimental, Category: "Worker Metadata", Title: "Quarantine a worker",
	Doc: `Keeps a worker from getting work until a given time, without ending it, so that it can be looked at. What it is
working on it may finish. A time that is not in the future ends a quarantine. Each call is remembered with its reason
and its caller; the worker is remembered at least until the quarantine ends.`,
}, func(ctx context.Context, q *Queue, c api.Call[workerPath, quarantineRequest]) (w *WorkerRecord, err error) {
	k := workerKey{c.Path.queueID(), Worker{c.Path.WorkerGroup, c.Path.WorkerID}.String()}
	if err := q.writeCrewDown(ctx); err != nil {
		return nil, err
	}
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		if w, err = loadWorker(tx, k, " /*for update*/"); err != nil {
			return err
		}
		w.QuarantineUntil = c.Body.Until
		w.Expires = max(w.Expires, now().Add(workerLife)) // so that one whose quarantine ends is not gone at once
		w.Quarantines = append(w.Quarantines, Quarantine{now(), c.Caller().ClientID, c.Body.Until, c.Body.Info})
		w.Quarantines = w.Quarantines[max(0, len(w.Quarantines)-maxQuarantines):]
		details, err := json.Marshal(w.Quarantines)
		if err != nil {
			return err
		}
		tx.Wake(k.topic(), 1)
		_, err = tx.Exec(`UPDATE queue_worker SET quarantine_until = $3, quarantine = $4, expires = $5 WHERE task_queue_id = $1 AND worker = $2`,
			k.queueID, k.worker, w.QuarantineUntil, details, w.Expires)
		return err
	})
	return w, err
})

type declareWorkerRequest struct {
	Expires timestamp.Time `json:"expires"`
}

var declareWorker = api.Declare(api.Spec{
	Name: "declareWorker", Route: "PUT /provisioners/<provisionerId>/worker-types/<workerType>/<workerGroup>/<workerId>",
	Scopes: scope.AllOf{scope.ForEach{
		For: "property", In: "properties", Each: "queue:declare-worker:<provisionerId>/<workerType>/<workerGroup>/<workerId>#<property>",
	}},
	Input: "v1/update-worker-request.json#", Output: "v1/worker-response.json#",
	Stability: api.Experimental, Category: "Worker Metadata", Title: "Declare a worker",
	Doc: `Has a worker and its task queue remembered until a given time, at least, whether it asks for work or not. The caller
needs a scope for each property that it gives; there is one, ` + "`expires`" + `. Repeating the call is harmless.`,
}, func(ctx context.Context, q *Queue, c api.Call[workerPath, declareWorkerRequest]) (w *WorkerRecord, err error) {
	if err := c.Authorize(scope.Vars{"properties": []string{"expires"}}); err != nil {
		return nil, err
	}
	t := now()
	if c.Body.Expires <= t {
		return nil, api.Errorf(api.InputError, "expires is %s, which is past; it is %s now.", c.Body.Expires, t)
	}
	if err := q.writeCrewDown(ctx); err != nil {
		return nil, err
	}
	k := workerKey{c.Path.queueID(), Worker{c.Path.WorkerGroup, c.Path.WorkerID}.String()}
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		if err := writeQueues(tx, []queueNote{{c.Path.ProvisionerID, c.Path.WorkerType, int64(t), int64(c.Body.Expires)}}); err != nil {
			return err
		}
		if err := addWorkers(tx, k.queueID, []string{k.worker}); err != nil {
			return err
		}
		if _, err := tx.Exec(`
			UPDATE queue_worker SET last_active = CASE WHEN last_active < $3 THEN $3 ELSE last_active END,
			                        expires = CASE WHEN expires < $4 THEN $4 ELSE expires END
			 WHERE task_queue_id = $1 AND worker = $2`, k.queueID, k.worker, t, c.Body.Expires); err != nil {
			return err
		}
		w, err = loadWorker(tx, k, "")
		return err
	})
	return w, err
})
