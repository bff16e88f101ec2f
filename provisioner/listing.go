package provisioner

import (
	"context"
	"slices"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Record is what the queue remembers of a worker.
type Record struct {
	fleet.Ref
	FirstClaim      timestamp.Time // when it first asked for work
	Active          timestamp.Time // when it last did, or renewed a claim
	Expires         timestamp.Time // when it is forgotten
	QuarantineUntil timestamp.Time // 0: it never was in quarantine
	Quarantines     []Quarantine   // oldest first
	Recent          []RecentTask   // oldest first
}

// A Quarantine is one change of a worker's quarantine.
type Quarantine struct {
	UpdatedAt timestamp.Time `json:"updatedAt"`
	ClientID  string         `json:"clientId"`
	Until     timestamp.Time `json:"quarantineUntil"`
	Info      string         `json:"quarantineInfo"`
}

// A RecentTask is a run that a worker claimed.
type RecentTask struct {
	TaskID string `json:"taskId"`
	RunID  int    `json:"runId"`
}

// A standing is what the provisioner adds to what the queue has of a worker.
type standing struct {
	WorkerPoolID   string `json:"workerPoolId"`
	State          string `json:"state"`
	ProviderID     string `json:"providerId"`
	Capacity       int64  `json:"capacity"`
	LaunchConfigID string `json:"launchConfigId,omitempty"`
}

// standalone is that of workers that come to the queue by themselves.
const standalone = "standalone"

func standingOf(poolID string, w *fleet.Worker) standing {
	if w == nil {
		return standing{WorkerPoolID: poolID, State: standalone, ProviderID: "none"}
	}
	return standing{poolID, w.State, w.ProviderID, w.Capacity, w.LaunchConfigID}
}

type queuePath struct {
	ProvisionerID string `path:"provisionerId"`
	WorkerType    string `path:"workerType"`
}

type queueWorkerPath struct {
	ProvisionerID string `path:"provisionerId"`
	WorkerType    string `path:"workerType"`
	WorkerGroup   string `path:"workerGroup"`
	WorkerID      string `path:"workerId"`
}

type queueWorker struct {
	ProvisionerID   string         `json:"provisionerId"`
	WorkerType      string         `json:"workerType"`
	WorkerGroup     string         `json:"workerGroup"`
	WorkerID        string         `json:"workerId"`
	FirstClaim      timestamp.Time `json:"firstClaim"`
	Active          timestamp.Time `json:"lastDateActive"`
	Expires         timestamp.Time `json:"expires"`
	QuarantineUntil timestamp.Time `json:"quarantineUntil,omitzero"`
	Quarantines     []Quarantine   `json:"quarantineDetails"`
	Recent          []RecentTask   `json:"recentTasks"`
	standing
}

var getWorker = api.Declare(api.Spec{
	Name: "getWorker", Route: "GET /provisioners/<provisionerId>/worker-types/<workerType>/workers/<workerGroup>/<workerId>",
	Scopes: scope.Scope("worker-manager:get-worker:<provisionerId>/<workerType>/<workerGroup>/<workerId>"), Output: "v1/worker-response.json#",
	Stability: api.Experimental, Category: "Workers", Title: "Get a worker, with what the queue knows",
	Doc: `Returns what queue and worker-manager together know of a worker: what it claimed last, whether it is in quarantine, its
state. A worker that nobody has started for a pool, and that claims tasks all the same, is ` + "`standalone`" + `. One that has not
asked for work yet, or not for a day, is known to ` + "`worker`" + ` only.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[queueWorkerPath, api.None]) (out queueWorker, err error) {
	r := fleet.Ref{WorkerPoolID: c.Path.ProvisionerID + "/" + c.Path.WorkerType, WorkerGroup: c.Path.WorkerGroup, WorkerID: c.Path.WorkerID}
	record, err := p.queue.Record(ctx, r)
	if err != nil {
		return out, err
	}
	if record == nil {
		return out, api.Errorf(api.ResourceNotFound, "The queue knows of no worker %s. It has not asked for work within the last day, or never.", r)
	}
	var w *fleet.Worker
	if err := p.db.View(ctx, func(tx *store.Tx) error {
		found, err := findWorker(tx, r)
		if isNotFound(err) {
			return nil
		}
		w = &found.Worker
		return err
	}); err != nil {
		return out, err
	}
	return queueWorker{
		ProvisionerID: c.Path.ProvisionerID, WorkerType: c.Path.WorkerType, WorkerGroup: r.WorkerGroup, WorkerID: r.WorkerID,
		FirstClaim: record.FirstClaim, Active: record.Active, Expires: record.Expires, QuarantineUntil: record.QuarantineUntil,
		Quarantines: orNone(record.Quarantines), Recent: orNone(record.Recent), standing: standingOf(r.WorkerPoolID, w),
	}, nil
})

func orNone[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

type queueWorkerList struct {
	Workers           []queueWorkerEntry `json:"workers"`
	ContinuationToken string             `json:"continuationToken,omitempty"`
}

type queueWorkerEntry struct {
	WorkerGroup     string         `json:"workerGroup"`
	WorkerID        string         `json:"workerId"`
	FirstClaim      timestamp.Time `json:"firstClaim"`
	Active          timestamp.Time `json:"lastDateActive"`
	LatestTask      *RecentTask    `json:"latestTask,omitempty"`
	QuarantineUntil timestamp.Time `json:"quarantineUntil,omitzero"`
	standing
}

var listWorkers = api.Declare(api.Spec{
	Name: "listWorkers", Route: "GET /provisioners/<provisionerId>/worker-types/<workerType>/workers",
	Query:  []string{"continuationToken", "limit", "launchConfigId", "quarantined", "workerState"},
	Scopes: scope.Scope("worker-manager:list-workers:<provisionerId>/<workerType>"), Output: "v1/list-workers-response.json#",
	Stability: api.Experimental, Category: "Workers", Title: "List workers, with what the queue knows",
	Doc: `Lists the workers that have asked a task queue for work within the last day, with what queue and worker-manager know of
them. They can be filtered by being in quarantine or not, by state, and by what they were made from.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[queuePath, api.None]) (out queueWorkerList, err error) {
	page, err := c.Page(2)
	if err != nil {
		return out, err
	}
	poolID := c.Path.ProvisionerID + "/" + c.Path.WorkerType
	var after *fleet.Ref
	if page.After != nil {
		after = &fleet.Ref{WorkerPoolID: poolID, WorkerGroup: page.After[0], WorkerID: page.After[1]}
	}
	var quarantined *bool
	if s := c.Query("quarantined"); s != "" {
		yes := s == "true"
		quarantined = &yes
	}
	state, launchConfigID := c.Query("workerState"), c.Query("launchConfigId")
	out.Workers = []queueWorkerEntry{}
	for {
		list, err := p.queue.Records(ctx, poolID, quarantined, after, page.Limit+1)
		if err != nil {
			return out, err
		}
		rows, err := p.rowsOf(ctx, poolID, list)
		if err != nil {
			return out, err
		}
		for _, r := range list {
			s := standingOf(poolID, rows[r.Ref])
			if state != "" && state != s.State || launchConfigID != "" && launchConfigID != s.LaunchConfigID {
				continue
			}
			if n := len(out.Workers); n == page.Limit {
				last := out.Workers[n-1]
				out.ContinuationToken = page.Token(last.WorkerGroup, last.WorkerID)
				return out, nil
			}
			e := queueWorkerEntry{
				WorkerGroup: r.WorkerGroup, WorkerID: r.WorkerID, FirstClaim: r.FirstClaim, Active: r.Active,
				QuarantineUntil: r.QuarantineUntil, standing: s,
			}
			if n := len(r.Recent); n > 0 {
				e.LatestTask = &r.Recent[n-1]
			}
			out.Workers = append(out.Workers, e)
		}
		if len(list) <= page.Limit {
			return out, nil
		}
		after = &list[len(list)-1].Ref
	}
})

// rowsOf finds the rows of the workers that records are of; some have none.
func (p *Provisioner) rowsOf(ctx context.Context, poolID string, list []*Record) (rows map[fleet.Ref]*fleet.Worker, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	ids := make([]string, 0, len(list))
	for _, r := range list {
		ids = append(ids, r.WorkerID)
	}
	slices.Sort(ids)
	err = p.db.View(ctx, func(tx *store.Tx) error {
		found, err := queryWorkers(tx, `WHERE worker_pool_id = $1 AND worker_id IN (SELECT value FROM json_each($2))`, poolID, slices.Compact(ids))
		rows = make(map[fleet.Ref]*fleet.Worker, len(found))
		for _, w := range found {
			rows[w.Ref] = w
		}
		return err
	})
	return rows, err
}
