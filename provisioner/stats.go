package provisioner

import (
	"context"
	"slices"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
)

// stats are figures of a pool's workers.
type stats struct {
	CurrentCapacity   int64 `json:"currentCapacity"` // of all that are not stopped
	RequestedCount    int64 `json:"requestedCount"`
	RunningCount      int64 `json:"runningCount"`
	StoppingCount     int64 `json:"stoppingCount"`
	StoppedCount      int64 `json:"stoppedCount"`
	RequestedCapacity int64 `json:"requestedCapacity"`
	RunningCapacity   int64 `json:"runningCapacity"`
	StoppingCapacity  int64 `json:"stoppingCapacity"`
	StoppedCapacity   int64 `json:"stoppedCapacity"`
}

func (s *stats) add(state string, count, capacity int64) {
	switch state {
	case fleet.Requested:
		s.RequestedCount += count
		s.RequestedCapacity += capacity
	case fleet.Running:
		s.RunningCount += count
		s.RunningCapacity += capacity
	case fleet.Stopping:
		s.StoppingCount += count
		s.StoppingCapacity += capacity
	case fleet.Stopped:
		s.StoppedCount += count
		s.StoppedCapacity += capacity
		return
	}
	s.CurrentCapacity += capacity
}

// count returns the figures of pools.
func count(tx *store.Tx, ids ...string) (map[string]stats, error) {
	rows, err := tx.Query(`
		SELECT worker_pool_id, state, count(*), CAST(sum(capacity) AS BIGINT) FROM worker
		 WHERE worker_pool_id IN (SELECT value FROM json_each($1)) GROUP BY worker_pool_id, state`, ids)
	if err != nil {
		return nil, err
	}
	out := map[string]stats{}
	for rows.Next() {
		var id, state string
		var n, capacity int64
		if err := rows.Scan(&id, &state, &n, &capacity); err != nil {
			return nil, err
		}
		s := out[id]
		s.add(state, n, capacity)
		out[id] = s
	}
	return out, rows.Err()
}

type poolStats struct {
	LaunchConfigStats []launchConfigStats `json:"launchConfigStats"`
}

type launchConfigStats struct {
	WorkerPoolID   string `json:"workerPoolId"`
	LaunchConfigID string `json:"launchConfigId"`
	stats
}

var workerPoolStats = api.Declare(api.Spec{
	Name: "workerPoolStats", Route: "GET /worker-pool/<workerPoolId...>/stats", Scopes: scope.Scope("worker-manager:get-worker-pool:<workerPoolId>"),
	Output:    "v1/worker-pool-stats.json#",
	Stability: api.Experimental, Category: "Worker Pools", Title: "Count a pool's workers",
	Doc: "Returns how many workers a pool has in which state, for each configuration that they were made from.",
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, api.None]) (out poolStats, err error) {
	err = p.db.View(ctx, func(tx *store.Tx) error {
		o, err := findPool(tx, c.Path.WorkerPoolID)
		if err != nil {
			return err
		}
		out.LaunchConfigStats, err = countByLaunchConfig(tx, o)
		return err
	})
	return out, err
})

func countByLaunchConfig(tx *store.Tx, o *fleet.Pool) ([]launchConfigStats, error) {
	rows, err := tx.Query(`
		SELECT launch_config_id, state, count(*), CAST(sum(capacity) AS BIGINT) FROM worker
		 WHERE worker_pool_id = $1 GROUP BY launch_config_id, state ORDER BY launch_config_id`, o.ID)
	if err != nil {
		return nil, err
	}
	var list []launchConfigStats // the current ones first, even those without workers
	for _, c := range o.LaunchConfigs {
		list = append(list, launchConfigStats{WorkerPoolID: o.ID, LaunchConfigID: c.ID})
	}
	for rows.Next() {
		var id, state string
		var n, capacity int64
		if err := rows.Scan(&id, &state, &n, &capacity); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(list, func(s launchConfigStats) bool { return s.LaunchConfigID == id })
		if i < 0 {
			i = len(list)
			list = append(list, launchConfigStats{WorkerPoolID: o.ID, LaunchConfigID: id})
		}
		list[i].add(state, n, capacity)
	}
	return list, rows.Err()
}

type poolsStats struct {
	Pools             []statsOfPool `json:"workerPoolsStats"`
	ContinuationToken string        `json:"continuationToken,omitempty"`
}

type statsOfPool struct {
	WorkerPoolID string `json:"workerPoolId"`
	stats
}

var listWorkerPoolsStats = api.Declare(api.Spec{
	Name: "listWorkerPoolsStats", Route: "GET /worker-pools/stats", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("worker-manager:list-worker-pools"), Output: "v1/worker-pool-list-stats.json#",
	Stability: api.Experimental, Category: "Worker Pools", Title: "Count the workers of all pools",
	Doc: "Returns how many workers each pool has in which state, in the order of the pools' ids.",
}, func(ctx context.Context, p *Provisioner, c api.Call[api.None, api.None]) (out poolsStats, err error) {
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	after := page.Text(0)
	err = p.db.View(ctx, func(tx *store.Tx) error {
		out = poolsStats{Pools: []statsOfPool{}}
		rows, err := tx.Query(`SELECT worker_pool_id FROM worker_pool WHERE worker_pool_id > $1 ORDER BY worker_pool_id LIMIT $2`, after, page.Limit+1)
		if err != nil {
			return err
		}
		ids := []string{}
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			ids = append(ids, id)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		if len(ids) > page.Limit {
			ids = ids[:page.Limit]
			out.ContinuationToken = page.Token(ids[page.Limit-1])
		}
		figures, err := count(tx, ids...)
		for _, id := range ids {
			out.Pools = append(out.Pools, statsOfPool{id, figures[id]})
		}
		return err
	})
	return out, err
})
