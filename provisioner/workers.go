package provisioner

import (
	"context"
	"fmt"
	"slices"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A workerDescription is a worker as it is shown.
type workerDescription struct {
	WorkerPoolID   string         `json:"workerPoolId"`
	WorkerGroup    string         `json:"workerGroup"`
	WorkerID       string         `json:"workerId"`
	ProviderID     string         `json:"providerId"`
	Created        timestamp.Time `json:"created"`
	Expires        timestamp.Time `json:"expires"`
	State          string         `json:"state"`
	Capacity       int64          `json:"capacity"`
	LastModified   timestamp.Time `json:"lastModified"`
	LastChecked    timestamp.Time `json:"lastChecked"`
	LaunchConfigID string         `json:"launchConfigId"`
}

func describeWorker(w *fleet.Worker) workerDescription {
	return workerDescription{
		WorkerPoolID: w.WorkerPoolID, WorkerGroup: w.WorkerGroup, WorkerID: w.WorkerID, ProviderID: w.ProviderID,
		Created: w.Created, Expires: w.Expires, State: w.State, Capacity: w.Capacity,
		LastModified: w.LastModified, LastChecked: w.LastChecked, LaunchConfigID: w.LaunchConfigID,
	}
}

var showWorker = api.Declare(api.Spec{
	Name: "worker", Route: "GET /workers/<workerPoolId...>/<workerGroup>/<workerId>",
	Scopes: scope.Scope("worker-manager:get-worker:<workerPoolId>/<workerGroup>/<workerId>"), Output: "v1/worker-full.json#",
	Stability: api.Stable, Category: "Workers", Title: "Get a worker",
	Doc: "Returns one worker. Stopped ones are known for a week.",
}, func(ctx context.Context, p *Provisioner, c api.Call[workerPath, api.None]) (out workerDescription, err error) {
	err = p.db.View(ctx, func(tx *store.Tx) error {
		w, err := findWorker(tx, c.Path.ref())
		if err == nil {
			out = describeWorker(&w.Worker)
		}
		return err
	})
	return out, err
})

type workerList struct {
	Workers           []workerDescription `json:"workers"`
	ContinuationToken string              `json:"continuationToken,omitempty"`
}

var listWorkersForWorkerPool = api.Declare(api.Spec{
	Name: "listWorkersForWorkerPool", Route: "GET /workers/<workerPoolId...>", Query: []string{"continuationToken", "limit", "launchConfigId", "state"},
	Scopes: scope.Scope("worker-manager:list-workers:<workerPoolId>"), Output: "v1/worker-list.json#",
	Stability: api.Stable, Category: "Workers", Title: "List a pool's workers",
	Doc: "Returns the workers of a pool, or those of them that have a given state or were made from a given launch configuration.",
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, api.None]) (workerList, error) {
	page, err := c.Page(2)
	if err != nil {
		return workerList{}, err
	}
	return p.listWorkers(ctx, page, c.Path.WorkerPoolID, "", c.Query("state"), c.Query("launchConfigId"))
})

var listWorkersForWorkerGroup = api.Declare(api.Spec{
	Name: "listWorkersForWorkerGroup", Route: "GET /workers/<workerPoolId...>/<workerGroup>", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("worker-manager:list-workers:<workerPoolId>/<workerGroup>"), Output: "v1/worker-list.json#",
	Stability: api.Stable, Category: "Workers", Title: "List the workers of a group",
	Doc: "Returns the workers of a pool that are in one group.",
}, func(ctx context.Context, p *Provisioner, c api.Call[groupPath, api.None]) (workerList, error) {
	page, err := c.Page(2)
	if err != nil {
		return workerList{}, err
	}
	return p.listWorkers(ctx, page, c.Path.WorkerPoolID, c.Path.WorkerGroup, "", "")
})

// listWorkers returns a page of a pool's workers; an empty filter lets all pass.
func (p *Provisioner) listWorkers(ctx context.Context, page api.Page, poolID, group, state, launchConfigID string) (out workerList, err error) {
	after := []string{"", ""}
	if page.After != nil {
		after = page.After
	}
	err = p.db.View(ctx, func(tx *store.Tx) error {
		out = workerList{Workers: []workerDescription{}}
		list, err := queryWorkers(tx, `
			WHERE worker_pool_id = $1 AND (worker_group, worker_id) > ($2, $3)
			  AND ($4 = '' OR worker_group = $4) AND ($5 = '' OR state = $5) AND ($6 = '' OR launch_config_id = $6)
			ORDER BY worker_group, worker_id LIMIT $7`, poolID, after[0], after[1], group, state, launchConfigID, page.Limit+1)
		if err != nil {
			return err
		}
		if len(list) > page.Limit {
			list = list[:page.Limit]
			last := list[len(list)-1]
			out.ContinuationToken = page.Token(last.WorkerGroup, last.WorkerID)
		}
		for _, w := range list {
			out.Workers = append(out.Workers, describeWorker(w))
		}
		return nil
	})
	return out, err
}

var removeWorker = api.Declare(api.Spec{
	Name: "removeWorker", Route: "DELETE /workers/<workerPoolId...>/<workerGroup>/<workerId>",
	Scopes:    scope.Scope("worker-manager:remove-worker:<workerPoolId>/<workerGroup>/<workerId>"),
	Stability: api.Stable, Category: "Workers", Title: "Remove a worker",
	Doc: `Has a worker end: it gets no more tasks, is asked to hand back those that it has and, if it is still there two minutes
later, ended by force. Its tasks run again elsewhere. A worker that ends by itself calls this to say so.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[workerPath, api.None]) (api.None, error) {
	return api.None{}, p.db.Do(ctx, func(tx *store.Tx) error {
		w, err := lockWorker(tx, c.Path.ref())
		if err != nil || w.State == fleet.Stopping || w.State == fleet.Stopped {
			return err
		}
		reason := "it was removed by " + c.Caller().ClientID
		if c.Caller().ClientID == w.clientID() {
			reason = fleet.SaidGoodbye
		}
		if _, err := move(tx, &w.Worker, fleet.Stopping, reason, now()); err != nil {
			return err
		}
		if err := p.retire(tx, &w.Worker); err != nil {
			return err
		}
		tx.Wake(TopicDemand, 1)
		return p.publishWorker(tx, workerRemoved, &w.Worker, reason)
	})
})

type advice struct {
	Terminate bool   `json:"terminate"`
	Reason    string `json:"reason"`
}

var shouldWorkerTerminate = api.Declare(api.Spec{
	Name: "shouldWorkerTerminate", Route: "GET /workers/<workerPoolId...>/<workerGroup>/<workerId>/should-terminate",
	Scopes: scope.Scope("worker-manager:should-worker-terminate:<workerPoolId>/<workerGroup>/<workerId>"), Output: "v1/should-worker-terminate-response.json#",
	Stability: api.Experimental, Category: "Workers", Title: "Should a worker go?",
	Doc: `Tells a worker whether it is still wanted. It should ask when it has no task, before it claims one.

A worker is to go when it was removed, when its pool is being deleted, or gets its workers from another provider or
configuration, when it is older than its pool's workers may get, and when the pool has more workers than it may: then the
oldest are to go. That there is little to do is
no reason; a worker leaves by itself when it has been idle for as long as its configuration says.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[workerPath, api.None]) (out advice, err error) {
	var w *worker
	err = p.db.View(ctx, func(tx *store.Tx) error {
		if w, err = findWorker(tx, c.Path.ref()); err == nil {
			out, err = advise(tx, w)
		}
		return err
	})
	if err == nil && !out.Terminate && !w.Proven {
		err = p.notePoll(ctx, w)
	}
	return out, err
})

// notePoll counts how often a worker comes for work. One that comes again has
// been through all that a worker does, so it works.
func (p *Provisioner) notePoll(ctx context.Context, w *worker) error {
	return p.db.Do(ctx, func(tx *store.Tx) error {
		var polls int
		if err := tx.QueryRow(`
			UPDATE worker SET polls = polls + 1 WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3
			RETURNING polls`, w.WorkerPoolID, w.WorkerGroup, w.WorkerID).Scan(&polls); err != nil || polls < 2 {
			return err
		}
		o, err := findPool(tx, w.WorkerPoolID)
		if isNotFound(err) {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		tx.Wake(TopicDemand, 1) // others may be waiting for the proof
		return prove(tx, o, &w.Worker)
	})
}

func advise(tx *store.Tx, w *worker) (advice, error) {
	o, err := findPool(tx, w.WorkerPoolID)
	switch {
	case w.State == fleet.Stopping || w.State == fleet.Stopped:
		return advice{true, "the worker is " + w.State + ": " + w.Reason}, nil
	case w.Leave != "":
		return advice{true, w.Leave}, nil
	case isNotFound(err) || err == nil && o.Going():
		return advice{true, "the worker pool is being deleted"}, nil
	case err != nil:
		return advice{}, err
	case w.ProviderID != o.ProviderID:
		return advice{true, "the worker pool has another provider now"}, nil
	case !o.Made(&w.Worker):
		return advice{true, "the worker pool's configuration has changed"}, nil
	}
	settings, err := o.Settings()
	if err != nil {
		return advice{}, err
	}
	// One that is never idle when the loop looks comes by here.
	if age := fleet.Seconds(settings.Lifecycle.MaxAge); age > 0 && !w.Registered.IsZero() && now().Sub(w.Registered) >= age {
		return advice{true, fmt.Sprintf("it has reached the age of %v that workers of the pool may have", age)}, nil
	}
	if settings.MaxCapacity == nil {
		return advice{false, "none"}, nil // nobody starts them, so they are not too many
	}
	return adviseBySize(tx, o, w, settings)
}

// adviseBySize sends the oldest workers away where a pool has more than it may.
// A worker that was sent away is counted until it has gone, so asking again
// gives the same answer and no more workers are sent than are too many.
func adviseBySize(tx *store.Tx, o *fleet.Pool, w *worker, config fleet.Settings) (advice, error) {
	const those = `WHERE worker_pool_id = $1 AND state IN ('requested', 'running') AND provider_id = $2 AND leave = ''`
	var most int64 // every worker asks all the time, so the usual answer has to be cheap
	if err := tx.QueryRow(`SELECT CAST(COALESCE(SUM(capacity), 0) AS BIGINT) FROM worker `+those, o.ID, o.ProviderID).Scan(&most); err != nil {
		return advice{}, err
	}
	if most <= *config.MaxCapacity {
		return advice{false, "none"}, nil
	}
	list, err := queryWorkers(tx, those+` ORDER BY created, worker_group, worker_id`, o.ID, o.ProviderID)
	if err != nil {
		return advice{}, err
	}
	list = slices.DeleteFunc(list, func(x *fleet.Worker) bool { return !o.Made(x) })
	var live int64
	for _, x := range list {
		live += x.Capacity
	}
	excess := live - *config.MaxCapacity
	for _, x := range list {
		if excess < x.Capacity {
			break
		}
		if x.Ref == w.Ref {
			return advice{true, fmt.Sprintf("the worker pool has capacity %d and may have %d; the oldest workers go", live, *config.MaxCapacity)}, nil
		}
		excess -= x.Capacity
	}
	return advice{false, "none"}, nil
}
