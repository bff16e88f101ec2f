package provisioner

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
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
	// What a worker may say, its tasks may say as well.
	if text, err := json.Marshal(b.Extra); err != nil {
		return out, err
	} else if len(text) > longestExtra {
		return out, api.Errorf(api.InputError, "extra has %d bytes of JSON; %d are kept. Report the end of a log only.", len(text), longestExtra)
	}
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		o, err := findPool(tx, c.Path.WorkerPoolID)
		if err != nil {
			return err
		}
		w, err := findWorker(tx, fleet.Ref{WorkerPoolID: o.ID, WorkerGroup: b.WorkerGroup, WorkerID: b.WorkerID})
		if err != nil {
			return err
		}
		e, err := p.record(tx, o, fleet.Complaint{Kind: b.Kind, Title: b.Title, Description: b.Description, Extra: b.Extra, Worker: &w.Worker})
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
	err = p.db.View(ctx, func(tx *store.Tx) (err error) {
		out = errorList{}
		out.WorkerPoolErrors, err = poolErrors(tx, errorQuery{
			pool: c.Path.WorkerPoolID, before: before, after: after,
			launchConfigID: c.Query("launchConfigId"), errorID: c.Query("errorId"), limit: page.Limit + 1,
		})
		return err
	})
	if list := out.WorkerPoolErrors; len(list) > page.Limit {
		last := list[page.Limit-1]
		out.WorkerPoolErrors = list[:page.Limit]
		out.ContinuationToken = page.Token(strconv.FormatInt(int64(last.Reported), 10), last.ErrorID)
	}
	return out, err
})

// An errorQuery is which errors of a pool are asked for.
type errorQuery struct {
	pool                    string
	before                  int64  // reported then or earlier
	after                   string // of those reported then: with a later id
	launchConfigID, errorID string // "": any
	limit                   int
}

// poolErrors lists errors, the latest first.
func poolErrors(tx *store.Tx, q errorQuery) ([]workerPoolError, error) {
	rows, err := tx.Query(`
		SELECT worker_pool_id, error_id, reported, kind, title, description, extra, launch_config_id FROM worker_pool_error
		 WHERE worker_pool_id = $1 AND (reported < $2 OR reported = $2 AND error_id > $3)
		   AND ($4 = '' OR launch_config_id = $4) AND ($5 = '' OR error_id = $5)
		 ORDER BY reported DESC, error_id LIMIT $6`,
		q.pool, q.before, q.after, q.launchConfigID, q.errorID, q.limit)
	if err != nil {
		return nil, err
	}
	list := []workerPoolError{}
	for rows.Next() {
		var e workerPoolError
		if err := rows.Scan(&e.WorkerPoolID, &e.ErrorID, &e.Reported, &e.Kind, &e.Title, &e.Description, &e.Extra, &e.LaunchConfigID); err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, rows.Err()
}

type errorStats struct {
	WorkerPoolID string      `json:"workerPoolId"`
	Totals       errorTotals `json:"totals"`
}

type errorTotals struct {
	Total        int64            `json:"total"`
	Daily        map[string]int64 `json:"daily"`
	Hourly       map[string]int64 `json:"hourly"`
	Title        map[string]int64 `json:"title"`
	Code         map[string]int64 `json:"code"`
	LaunchConfig map[string]int64 `json:"launchConfig"`
	WorkerPool   map[string]int64 `json:"workerPool"`
}

var workerPoolErrorStats = api.Declare(api.Spec{
	Name: "workerPoolErrorStats", Route: "GET /worker-pool-errors/stats", Query: []string{"workerPoolId"},
	Scopes: scope.Scope("worker-manager:list-worker-pool-errors:<workerPoolId>"), Output: "v1/worker-pool-error-stats.json#",
	Stability: api.Experimental, Category: "Worker Pools", Title: "Count errors",
	Doc: `Counts what went wrong in the last seven days, in a pool or, without ` + "`workerPoolId`" + `, in all of them: by day, by hour
of the last 24, and by title, code, launch configuration and pool. The code is the one that a provider's cloud gave, or
else the kind of error.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[api.None, api.None]) (out errorStats, err error) {
	id := c.Query("workerPoolId")
	if err := c.Authorize(scope.Vars{"workerPoolId": id}); err != nil {
		return out, err
	}
	err = p.db.View(ctx, func(tx *store.Tx) (err error) {
		out, err = countErrors(tx, id, now())
		return err
	})
	return out, err
})

// countErrors counts errors of a pool, or of all if id is "". Days and hours
// without any are there, too, with 0.
func countErrors(tx *store.Tx, id string, at timestamp.Time) (out errorStats, err error) {
	t := errorTotals{
		Daily: map[string]int64{}, Hourly: map[string]int64{}, Title: map[string]int64{}, Code: map[string]int64{},
		LaunchConfig: map[string]int64{}, WorkerPool: map[string]int64{},
	}
	day := func(x timestamp.Time) string { return x.Time().Format(time.DateOnly) }
	hour := func(x timestamp.Time) string { return timestamp.Of(x.Time().Truncate(time.Hour)).String() }
	for i := range 7 {
		t.Daily[day(at.Add(-time.Duration(i)*24*time.Hour))] = 0
	}
	for i := range 24 {
		t.Hourly[hour(at.Add(-time.Duration(i)*time.Hour))] = 0
	}
	rows, err := tx.Query(`
		SELECT worker_pool_id, reported, kind, title, extra, launch_config_id FROM worker_pool_error
		 WHERE ($1 = '' OR worker_pool_id = $1) AND reported > $2`, id, at.Add(-recordLife))
	if err != nil {
		return out, err
	}
	for rows.Next() {
		var e workerPoolError
		if err := rows.Scan(&e.WorkerPoolID, &e.Reported, &e.Kind, &e.Title, &e.Extra, &e.LaunchConfigID); err != nil {
			return out, err
		}
		t.Total++
		if _, recent := t.Daily[day(e.Reported)]; recent {
			t.Daily[day(e.Reported)]++
		}
		if _, recent := t.Hourly[hour(e.Reported)]; recent {
			t.Hourly[hour(e.Reported)]++
		}
		t.Title[e.Title]++
		t.Code[e.code()]++
		t.WorkerPool[e.WorkerPoolID]++
		if e.LaunchConfigID != "" {
			t.LaunchConfig[e.LaunchConfigID]++
		}
	}
	return errorStats{id, t}, rows.Err()
}

// code is what the provider's cloud calls the error, or else its kind.
func (e *workerPoolError) code() string {
	var extra struct {
		Code any `json:"code"`
	}
	if err := json.Unmarshal(e.Extra, &extra); err == nil {
		if s, ok := extra.Code.(string); ok && s != "" {
			return s
		}
	}
	return e.Kind
}
