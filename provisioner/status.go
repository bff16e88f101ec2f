package provisioner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A view is some pools at one moment, with all that is known of them.
type view struct {
	at      timestamp.Time
	pools   []*fleet.Pool
	workers map[string][]*fleet.Worker // not stopped
	intents map[string][]*fleet.Intent
	last    map[string]fleet.Decided // the latest decision
	errors  map[string]int64         // of the last hour
	health  map[string]health        // by provider
	demand  map[string]fleet.Demand
}

// readView reads what the database has about pools.
func readView(tx *store.Tx, pools []*fleet.Pool, at timestamp.Time) (v view, err error) {
	v = view{
		at: at, pools: pools, workers: map[string][]*fleet.Worker{}, intents: map[string][]*fleet.Intent{},
		last: map[string]fleet.Decided{}, errors: map[string]int64{},
	}
	ids := make([]string, 0, len(pools))
	for _, o := range pools {
		ids = append(ids, o.ID)
	}
	const of = `worker_pool_id IN (SELECT value FROM json_each($1)) `
	workers, err := queryWorkers(tx, `WHERE state <> 'stopped' AND `+of+`ORDER BY worker_group, worker_id`, ids)
	if err != nil {
		return v, err
	}
	for _, w := range workers {
		v.workers[w.WorkerPoolID] = append(v.workers[w.WorkerPoolID], w)
	}
	intents, err := queryIntents(tx, `WHERE `+of+`ORDER BY created, intent_id`, ids)
	if err != nil {
		return v, err
	}
	for _, i := range intents {
		v.intents[i.PoolID] = append(v.intents[i.PoolID], i)
	}
	rows, err := tx.Query(`
		SELECT worker_pool_id, record FROM decision
		 WHERE `+of+`AND at = (SELECT max(at) FROM decision AS other WHERE other.worker_pool_id = decision.worker_pool_id)`, ids)
	if err != nil {
		return v, err
	}
	for rows.Next() {
		var id string
		var text []byte
		var d fleet.Decided
		if err := rows.Scan(&id, &text); err != nil {
			return v, err
		}
		if err := json.Unmarshal(text, &d); err != nil {
			return v, fmt.Errorf("provisioner: a decision about %s: %w", id, err)
		}
		v.last[id] = d
	}
	if err := rows.Err(); err != nil {
		return v, err
	}
	rows, err = tx.Query(`SELECT worker_pool_id, count(*) FROM worker_pool_error WHERE `+of+`AND reported > $2 GROUP BY worker_pool_id`, ids, at.Add(-time.Hour))
	if err != nil {
		return v, err
	}
	for rows.Next() {
		var id string
		var n int64
		if err := rows.Scan(&id, &n); err != nil {
			return v, err
		}
		v.errors[id] = n
	}
	if err := rows.Err(); err != nil {
		return v, err
	}
	v.health, err = readHealth(tx)
	return v, err
}

// addDemand asks the queue what the pools of a view have to do.
func (p *Provisioner) addDemand(ctx context.Context, v *view, at timestamp.Time) (err error) {
	ids := make([]string, 0, len(v.pools))
	for _, o := range v.pools {
		ids = append(ids, o.ID)
	}
	v.demand, err = p.queue.Demand(ctx, at, ids)
	return err
}

func (v *view) seen(w *fleet.Worker) fleet.Seen {
	if of := v.demand[w.WorkerPoolID].Of; of != nil {
		return of(w.Ref)
	}
	return fleet.Seen{}
}

// A poolStatus is the figures of a pool. Workers count by capacity.
type poolStatus struct {
	WorkerPoolID  string         `json:"workerPoolId"`
	ProviderID    string         `json:"providerId"`
	Pending       int64          `json:"pending"`
	OldestPending timestamp.Time `json:"oldestPending,omitempty"`
	Claimed       int64          `json:"claimed"`
	Requested     int64          `json:"requested"`
	Running       int64          `json:"running"`
	Idle          int64          `json:"idle"`
	Quarantined   int64          `json:"quarantined"`
	Draining      int64          `json:"draining"`
	Desired       int64          `json:"desired"`
	Min           int64          `json:"min"`
	Max           *int64         `json:"max,omitempty"`
	Workers       int64          `json:"workers"`
	Errors        int64          `json:"errors"`
	CostPerHour   float64        `json:"costPerHour"`
}

func (v *view) status(o *fleet.Pool) poolStatus {
	d := v.demand[o.ID]
	s := poolStatus{
		WorkerPoolID: o.ID, ProviderID: o.ProviderID, Pending: d.Pending, OldestPending: d.Oldest, Claimed: d.Claimed,
		Workers: int64(len(v.workers[o.ID])), Errors: v.errors[o.ID],
	}
	price := int64(0)
	for _, w := range v.workers[o.ID] {
		price += w.Price
		seen := v.seen(w)
		switch {
		case w.State == fleet.Requested:
			s.Requested += w.Capacity
			continue
		case w.State == fleet.Stopping || w.Drained || w.Leave != "":
			s.Draining += w.Capacity
			continue
		}
		s.Running += w.Capacity
		switch {
		case seen.Claims > 0:
		case seen.Quarantined:
			s.Quarantined += w.Capacity
		default:
			s.Idle += w.Capacity
		}
	}
	for _, i := range v.intents[o.ID] {
		s.Requested += i.Capacity
	}
	s.Desired = s.Requested + s.Running
	if last, ok := v.last[o.ID]; ok && !o.Going() {
		s.Desired += max(last.Decision.Start-last.Started, 0) // what was held back
	}
	s.CostPerHour = dollars(price)
	if settings, err := o.Settings(); err == nil && !o.Going() {
		s.Min, s.Max = settings.Min(v.at), settings.MaxCapacity
	}
	return s
}

type fleetView struct {
	At                timestamp.Time `json:"at"`
	Pools             []poolStatus   `json:"pools"`
	ContinuationToken string         `json:"continuationToken,omitempty"`
}

var fleetStatus = api.Declare(api.Spec{
	Name: "fleetStatus", Route: "GET /status", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("provisioner:fleet-status"), Output: "v1/fleet-status.json#",
	Stability: api.Experimental, Category: "Fleet", Title: "Status of the fleet",
	Doc: `Shows all worker pools with their figures: what they have to do, what they have for it, what is wrong and what they
cost.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[api.None, api.None]) (out fleetView, err error) {
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	after := page.Text(0)
	out = fleetView{At: now(), Pools: []poolStatus{}}
	var v view
	if err := p.db.View(ctx, func(tx *store.Tx) error {
		list, err := queryPools(tx, `WHERE worker_pool_id > $1 ORDER BY worker_pool_id LIMIT $2`, after, page.Limit+1)
		if err != nil {
			return err
		}
		out.ContinuationToken = ""
		if len(list) > page.Limit {
			list = list[:page.Limit]
			out.ContinuationToken = page.Token(list[len(list)-1].ID)
		}
		v, err = readView(tx, list, out.At)
		return err
	}); err != nil {
		return out, err
	}
	if err := p.addDemand(ctx, &v, out.At); err != nil {
		return out, err
	}
	for _, o := range v.pools {
		out.Pools = append(out.Pools, v.status(o))
	}
	return out, nil
})

type providersView struct {
	At        timestamp.Time `json:"at"`
	Providers []providerView `json:"providers"`
	LastPass  timestamp.Time `json:"lastPass,omitempty"`
}

type providerView struct {
	ProviderID   string         `json:"providerId"`
	ProviderType string         `json:"providerType"`
	OK           bool           `json:"ok"`
	LookedAt     timestamp.Time `json:"lookedAt,omitempty"`
	Error        string         `json:"error,omitempty"`
	FailingSince timestamp.Time `json:"failingSince,omitempty"`
	Workers      int64          `json:"workers"`
}

var providerStatus = api.Declare(api.Spec{
	Name: "providerStatus", Route: "GET /providers", Scopes: scope.Scope("provisioner:fleet-status"), Output: "v1/provider-status.json#",
	Stability: api.Experimental, Category: "Fleet", Title: "Health of the providers",
	Doc: `Shows whether the providers can tell which workers there are, as the server found that looks after workers. A
` + "`lastPass`" + ` that is minutes old means that none does.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[api.None, api.None]) (out providersView, err error) {
	out = providersView{At: now(), Providers: []providerView{}}
	var all map[string]health
	if err := p.db.View(ctx, func(tx *store.Tx) (err error) { all, err = readHealth(tx); return err }); err != nil {
		return out, err
	}
	for _, id := range p.providerIDs() {
		h := all[id]
		out.LastPass = max(out.LastPass, h.Looked)
		out.Providers = append(out.Providers, providerView{
			ProviderID: id, ProviderType: p.providers[id].Type(), OK: !h.Looked.IsZero() && h.Error == "", LookedAt: h.Looked,
			Error: h.Error, FailingSince: h.FailingSince, Workers: h.Workers,
		})
	}
	return out, nil
})

type poolState struct {
	Workers           []workerView `json:"workers"`
	ContinuationToken string       `json:"continuationToken,omitempty"`
}

type intentView struct {
	IntentID       string         `json:"intentId"`
	ProviderID     string         `json:"providerId"`
	LaunchConfigID string         `json:"launchConfigId,omitempty"`
	Workers        int64          `json:"workers"`
	Capacity       int64          `json:"capacity"`
	Created        timestamp.Time `json:"created"`
	Attempts       int64          `json:"attempts"`
	NextAttempt    timestamp.Time `json:"nextAttempt,omitempty"`
}

func describeIntents(list []*fleet.Intent) []intentView {
	out := []intentView{}
	for _, i := range list {
		out = append(out, intentView{i.ID, i.ProviderID, i.LaunchConfigID, i.Workers, i.Capacity, i.Created, i.Attempts, i.NextAttempt})
	}
	return out
}

// A workerView is all that is known of a worker.
type workerView struct {
	WorkerPoolID   string         `json:"workerPoolId"`
	WorkerGroup    string         `json:"workerGroup"`
	WorkerID       string         `json:"workerId"`
	ProviderID     string         `json:"providerId"`
	LaunchConfigID string         `json:"launchConfigId"`
	IntentID       string         `json:"intentId,omitempty"`
	State          string         `json:"state"`
	Activity       string         `json:"activity"`
	Capacity       int64          `json:"capacity"`
	Claims         int64          `json:"claims"`
	Market         string         `json:"market,omitempty"`
	Price          float64        `json:"price,omitempty"`
	Cost           float64        `json:"cost"`
	Created        timestamp.Time `json:"created"`
	Registered     timestamp.Time `json:"registered,omitempty"`
	LastModified   timestamp.Time `json:"lastModified"`
	LastActive     timestamp.Time `json:"lastActive,omitempty"`
	IdleSince      timestamp.Time `json:"idleSince,omitempty"`
	Expires        timestamp.Time `json:"expires"`
	Ends           timestamp.Time `json:"ends,omitempty"`
	Proven         bool           `json:"proven"`
	Reason         string         `json:"reason,omitempty"`
	Current        bool           `json:"current"`
}

// describe shows a worker; o is nil where its pool is gone.
func (v *view) describe(o *fleet.Pool, w *fleet.Worker) workerView {
	seen := v.seen(w)
	out := workerView{
		WorkerPoolID: w.WorkerPoolID, WorkerGroup: w.WorkerGroup, WorkerID: w.WorkerID, ProviderID: w.ProviderID,
		LaunchConfigID: w.LaunchConfigID, IntentID: w.IntentID, State: w.State, Capacity: w.Capacity, Claims: seen.Claims,
		Market: w.Market, Price: dollars(w.Price), Cost: bill(w, w.Created, v.at, v.at).cost(w), Created: w.Created,
		Registered: w.Registered, LastModified: w.LastModified, LastActive: seen.Active, Expires: w.Expires, Ends: w.Ends,
		Proven: w.Proven, Reason: w.Reason, Current: o != nil && o.Made(w),
	}
	if out.Reason == "" {
		out.Reason = w.Leave
	}
	switch {
	case w.State == fleet.Stopped:
		out.Activity = "ended"
	case w.State == fleet.Stopping:
		out.Activity = "ending"
	case w.State == fleet.Requested:
		out.Activity = "booting"
	case w.Drained || w.Leave != "":
		out.Activity = "draining"
	case seen.Claims > 0:
		out.Activity = "working"
	case seen.Quarantined:
		out.Activity = "quarantined"
	default:
		out.Activity = "idle"
	}
	if w.State == fleet.Running && seen.Claims == 0 {
		out.IdleSince = max(w.Registered, seen.Released)
	}
	return out
}

var workerPoolState = api.Declare(api.Spec{
	Name: "workerPoolState", Route: "GET /worker-pool/<workerPoolId...>/state", Query: []string{"continuationToken", "limit", "state"},
	Scopes: readPool, Output: "v1/worker-pool-state.json#",
	Stability: api.Experimental, Category: "Worker Pools", Title: "State of a worker pool",
	Doc: `Lists the workers of a pool with all that is known of them: where they were bought, what they cost, what they do. Stopped
ones are listed only if ` + "`state`" + ` asks for them.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, api.None]) (out poolState, err error) {
	page, err := c.Page(2)
	if err != nil {
		return out, err
	}
	after := []string{"", ""}
	if page.After != nil {
		after = page.After
	}
	v := view{at: now()}
	var o *fleet.Pool
	var list []*fleet.Worker
	if err := p.db.View(ctx, func(tx *store.Tx) (err error) {
		out = poolState{Workers: []workerView{}}
		if o, err = findPool(tx, c.Path.WorkerPoolID); err != nil {
			return err
		}
		list, err = queryWorkers(tx, `
			WHERE worker_pool_id = $1 AND (worker_group, worker_id) > ($2, $3) AND (state = $4 OR $4 = '' AND state <> 'stopped')
			ORDER BY worker_group, worker_id LIMIT $5`, o.ID, after[0], after[1], c.Query("state"), page.Limit+1)
		return err
	}); err != nil {
		return out, err
	}
	if len(list) > page.Limit {
		list = list[:page.Limit]
		last := list[len(list)-1]
		out.ContinuationToken = page.Token(last.WorkerGroup, last.WorkerID)
	}
	v.pools = []*fleet.Pool{o}
	if err := p.addDemand(ctx, &v, v.at); err != nil {
		return out, err
	}
	for _, w := range list {
		out.Workers = append(out.Workers, v.describe(o, w))
	}
	return out, nil
})

var workerState = api.Declare(api.Spec{
	Name: "workerState", Route: "GET /workers/<workerPoolId...>/<workerGroup>/<workerId>", Scopes: readPool, Output: "v1/worker-state.json#",
	Stability: api.Experimental, Category: "Workers", Title: "State of a worker",
	Doc: `Shows all that is known of a worker. Stopped ones are known for a week.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[workerPath, api.None]) (workerView, error) {
	v := view{at: now(), pools: []*fleet.Pool{{ID: c.Path.WorkerPoolID}}}
	var w *worker
	var o *fleet.Pool
	if err := p.db.View(ctx, func(tx *store.Tx) (err error) {
		if w, err = findWorker(tx, c.Path.ref()); err != nil {
			return err
		}
		if o, err = findPool(tx, c.Path.WorkerPoolID); isNotFound(err) {
			o, err = nil, nil
		}
		return err
	}); err != nil {
		return workerView{}, err
	}
	if err := p.addDemand(ctx, &v, v.at); err != nil {
		return workerView{}, err
	}
	return v.describe(o, &w.Worker), nil
})

// health is how a provider was when it was looked at last, by whichever server
// looks after workers.
type health struct {
	Looked       timestamp.Time
	Workers      int64
	Error        string // "": none
	FailingSince timestamp.Time
}

func readHealth(tx *store.Tx) (map[string]health, error) {
	rows, err := tx.Query(`SELECT provider_id, looked, workers, error, failing_since FROM provider_health`)
	if err != nil {
		return nil, err
	}
	out := map[string]health{}
	for rows.Next() {
		var id string
		var h health
		if err := rows.Scan(&id, &h.Looked, &h.Workers, &h.Error, &h.FailingSince); err != nil {
			return nil, err
		}
		out[id] = h
	}
	return out, rows.Err()
}

// looked notes what a look at a provider found.
func (p *Provisioner) looked(id string, workers int, err error) {
	h := health{Looked: now(), Workers: int64(workers)}
	if err != nil {
		h.Error, h.FailingSince = shorten(err.Error(), 1000), h.Looked
		if before, failing := p.found[id]; failing && before.Error != "" {
			h.FailingSince = before.FailingSince
		}
	}
	p.found[id] = h
}

// noteHealth writes down how providers are: at once where that has changed,
// and otherwise every few seconds.
func (p *Provisioner) noteHealth(ctx context.Context) error {
	var errs []error
	for id, h := range p.found {
		if was := p.noted[id]; was.Error == h.Error && was.Workers == h.Workers && h.Looked >= was.Looked && h.Looked.Sub(was.Looked) < healthEvery {
			continue
		}
		if err := p.db.Do(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(`
				INSERT INTO provider_health (provider_id, looked, workers, error, failing_since) VALUES ($1, $2, $3, $4, $5)
				ON CONFLICT (provider_id) DO UPDATE SET looked = $2, workers = $3, error = $4, failing_since = $5`,
				id, h.Looked, h.Workers, h.Error, h.FailingSince)
			return err
		}); err != nil {
			errs = append(errs, err)
			continue
		}
		p.noted[id] = h
	}
	return errors.Join(errs...)
}

const healthEvery = 30 * time.Second
