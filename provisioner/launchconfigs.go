package provisioner

import (
	"context"
	"encoding/json"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

type launchConfigList struct {
	LaunchConfigs     []launchConfigDescription `json:"workerPoolLaunchConfigs"`
	ContinuationToken string                    `json:"continuationToken,omitempty"`
}

type launchConfigDescription struct {
	LaunchConfigID string          `json:"launchConfigId"`
	WorkerPoolID   string          `json:"workerPoolId"`
	IsArchived     bool            `json:"isArchived"`
	Configuration  json.RawMessage `json:"configuration"`
	Created        timestamp.Time  `json:"created"`
	LastModified   timestamp.Time  `json:"lastModified"`
}

var listWorkerPoolLaunchConfigs = api.Declare(api.Spec{
	Name: "listWorkerPoolLaunchConfigs", Route: "GET /worker-pool/<workerPoolId...>/launch-configs", Query: []string{"continuationToken", "limit", "includeArchived"},
	Scopes: scope.Scope("worker-manager:get-worker-pool:<workerPoolId>"), Output: "v1/worker-pool-launch-config-list.json#",
	Stability: api.Experimental, Category: "Worker Pools", Title: "List a pool's launch configurations",
	Doc: `Returns what the workers of a pool are made from, in the order of their ids; with ` + "`includeArchived`" + ` also what they were
made from before. Archived ones stay as long as the pool does, for the workers and errors that name them.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, api.None]) (out launchConfigList, err error) {
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	after := page.Text(0)
	err = p.db.View(ctx, func(tx *store.Tx) error {
		out = launchConfigList{LaunchConfigs: []launchConfigDescription{}}
		if _, err := findPool(tx, c.Path.WorkerPoolID); err != nil {
			return err
		}
		rows, err := tx.Query(`
			SELECT launch_config_id, worker_pool_id, archived, config, created, last_modified FROM launch_config
			 WHERE worker_pool_id = $1 AND launch_config_id > $2 AND ($3 OR NOT archived)
			 ORDER BY launch_config_id LIMIT $4`, c.Path.WorkerPoolID, after, c.Query("includeArchived") == "true", page.Limit+1)
		if err != nil {
			return err
		}
		for rows.Next() {
			var d launchConfigDescription
			if err := rows.Scan(&d.LaunchConfigID, &d.WorkerPoolID, &d.IsArchived, &d.Configuration, &d.Created, &d.LastModified); err != nil {
				return err
			}
			out.LaunchConfigs = append(out.LaunchConfigs, d)
		}
		return rows.Err()
	})
	if list := out.LaunchConfigs; len(list) > page.Limit {
		out.LaunchConfigs = list[:page.Limit]
		out.ContinuationToken = page.Token(list[page.Limit-1].LaunchConfigID)
	}
	return out, err
},
)
