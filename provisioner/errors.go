package provisioner

import (
	"context"
	"encoding/json"
	"strconv"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A workerPoolError is a complaint as it is kept and shown.
type workerPoolError struct {
	WorkerPoolID   string          `json:"workerPoolId"`
	ErrorID        string          `json:"errorId"`
	Reported       timestamp.Time  `json:"reported"`
	Kind           string          `json:"kind"`
	Title          string          `json:"title"`
	Description    string          `json:"description"`
	Extra          json.RawMessage `json:"extra"`
	LaunchConfigID string          `json:"launchConfigId,omitempty"`
}

type workerErrorReport struct {
	WorkerGroup string         `json:"workerGroup"`
	WorkerID    string         `json:"workerId"`
	Kind        string         `json:"kind"`
	Title       string         `json:"title"`
	Description string         `json:"description"`
	Extra       map[string]any `json:"extra"`
}

var reportWorkerError = api.Declare(api.Spec{
	Name: "reportWorkerError", Route: "POST /worker-pool-errors/<workerPoolId...>",
	Scopes: scope.AllOf{scope.Scope("assume:worker-pool:<workerPoolId>"), scope.Scope("assume:worker-id:<workerGroup>/<workerId>")},
	Input:  "v1/report-worker-error-request.json#", Output: "v1/worker-pool-error.json#",
	Stability: api.Stable, Category: "Worker Interface", Title: "Report a worker's trouble",
	Doc: `Lets a worker tell those who look after its pool that something is wrong with it, such as a full disk. The worker is
added to ` + "`extra`" + `.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, workerErrorReport]) (out workerPoolError, err error) {
	b := c.Body
	if err := c.Authorize(scope.Vars{"workerGroup": b.WorkerGroup, "workerId": b.WorkerID}); err != nil {
		return out, err
	}
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		o, err := findPool(tx, c.Path.WorkerPoolID)
		if err != nil {
			return err
		}
		w, err := findWorker(tx, Ref{o.id, b.WorkerGroup, b.WorkerID})
		if err != nil {
			return err
		}
		e, err := p.record(tx, o, w, complaint{kind: b.Kind, title: b.Title, description: b.Description, extra: b.Extra})
		if err == nil {
			out = *e
		}
		return err
	})
	return out, err
})

type errorList struct {
	WorkerPoolErrors  []workerPoolError `json:"workerPoolErrors"`
	ContinuationToken string            `json:"continuationToken,omitempty"`
}

var listWorkerPoolErrors = api.Declare(api.Spec{
	Name: "listWorkerPoolErrors", Route: "GET /worker-pool-errors/<workerPoolId...>", Query: []string{"continuationToken", "limit", "launchConfigId", "errorId"},
	Scopes: scope.Scope("worker-manager:list-worker-pool-errors:<workerPoolId>"), Output: "v1/worker-pool-error-list.json#",
	Stability: api.Stable, Category: "Worker Pools", Title: "List a pool's errors",
	Doc: "Returns what went wrong in a pool in the last week, the latest first.",
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, api.None]) (out errorList, err error) {
	page, err := c.Page(2)
	if err != nil {
		return out, err
	}
	before, after := int64(1)<<62, ""
	if page.After != nil {
		if before, err = page.Int(0); err != nil {
			return out, err
		}
		after = page.After[1]
	}
	err = p.db.View(ctx, func(tx *store.Tx) error {
		out = errorList{WorkerPoolErrors: []workerPoolError{}}
		rows, err := tx.Query(`
			SELECT worker_pool_id, error_id, reported, kind, title, description, extra, launch_config_id FROM worker_pool_error
			 WHERE worker_pool_id = $1 AND (reported < $2 OR reported = $2 AND error_id > $3)
			   AND ($4 = '' OR launch_config_id = $4) AND ($5 = '' OR error_id = $5)
			 ORDER BY reported DESC, error_id LIMIT $6`,
			c.Path.WorkerPoolID, before, after, c.Query("launchConfigId"), c.Query("errorId"), page.Limit+1)
		if err != nil {
			return err
		}
		for rows.Next() {
			var e workerPoolError
			if err := rows.Scan(&e.WorkerPoolID, &e.ErrorID, &e.Reported, &e.Kind, &e.Title, &e.Description, &e.Extra, &e.LaunchConfigID); err != nil {
				return err
			}
			out.WorkerPoolErrors = append(out.WorkerPoolErrors, e)
		}
		return rows.Err()
	})
	if list := out.WorkerPoolErrors; len(list) > page.Limit {
		last := list[page.Limit-1]
		out.WorkerPoolErrors = list[:page.Limit]
		out.ContinuationToken = page.Token(strconv.FormatInt(int64(last.Reported), 10), last.ErrorID)
	}
	return out, err
})
