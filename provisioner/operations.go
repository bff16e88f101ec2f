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
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Operations is what operators need beside the worker-manager's API, served
// under /api/provisioner/v1/: why there are as many workers as there are, what
// they cost, what a definition would turn into, and to have a worker end.
var Operations = api.Service[*Provisioner]{
	Name: "provisioner", Version: "v1", Title: "Provisioner",
	Doc: `Shows what the provisioner sees and decides, and lets operators interfere.

It is about the same worker pools and workers as the worker-manager, which defines them.`,
	Schemas: api.Folder(schemaFiles, "schemas/provisioner"),
	Params: map[string]string{
		"workerPoolId": poolPattern,
		"workerGroup":  namePattern,
		"workerId":     namePattern,
		"from":         timePattern,
		"to":           timePattern,
		"errorId":      slugid.Pattern,
		"state":        `^(requested|running|stopping|stopped)$`,
	},
	Methods: []api.Method[*Provisioner]{
		fleetStatus, providerStatus, explainWorkerPool, listDecisions, workerPoolState, workerState, listMarkets, workerPoolCost,
		validateWorkerPool, previewWorkerPool, retryWorkerPool, drainWorker, terminateWorker,
	},
}

const timePattern = `^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,16}(Z|[+-][0-9]{2}:[0-9]{2})$`

// Scopes of Operations. Reading shows no secret, but what a pool costs and what
// its requests look like, so it is not for everybody.
var (
	readPool     = scope.Scope("provisioner:read-worker-pool:<workerPoolId>")
	managePool   = scope.Scope("provisioner:manage-worker-pool:<workerPoolId>")
	manageWorker = scope.Scope("provisioner:manage-worker:<workerPoolId>/<workerGroup>/<workerId>")
	// Trying has the provider make calls with the deployment's credentials.
	tryPool = scope.AllOf{scope.Scope("provisioner:try-worker-pool:<workerPoolId>"), scope.Scope("worker-manager:provider:<providerId>")}
)

type validation struct {
	Valid           bool     `json:"valid"`
	Findings        []string `json:"findings"`
	Incomplete      string   `json:"incomplete,omitempty"`
	LaunchConfigIDs []string `json:"launchConfigIds"`
}

var validateWorkerPool = api.Declare(api.Spec{
	Name: "validateWorkerPool", Route: "POST /worker-pool/<workerPoolId...>/validate", Scopes: tryPool,
	Input: "v1/worker-pool-definition.json#", Output: "v1/validation.json#",
	Stability: api.Experimental, Category: "Definitions", Title: "Validate a definition",
	Doc: `Says what is wrong with the definition of a worker pool: its form, and whether what it names is there and may be used,
such as images, networks and roles. Nothing is stored, and the pool need not exist.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, poolDefinition]) (out validation, err error) {
	if err := c.Authorize(scope.Vars{"providerId": c.Body.ProviderID}); err != nil {
		return out, err
	}
	out = validation{Findings: []string{}, LaunchConfigIDs: []string{}}
	read, err := p.parse(c.Body)
	if err == nil {
		err = p.db.View(ctx, func(tx *store.Tx) error { return checkNames(tx, c.Path.WorkerPoolID, read.configs) })
	}
	if err == nil {
		err = mayGrant(c.Caller(), read.settings)
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		out.Findings = append(out.Findings, e.Message)
	} else if err != nil {
		return out, err
	}
	for _, lc := range read.configs {
		out.LaunchConfigIDs = append(out.LaunchConfigIDs, lc.ID)
	}
	if len(read.configs) > 0 {
		p.look(ctx, c.Body, &read)
	}
	out.Findings = append(out.Findings, read.findings...)
	out.Incomplete = read.incomplete
	out.Valid = len(out.Findings) == 0 && out.Incomplete == ""
	return out, nil
})

type preview struct {
	Specs []fleet.Spec `json:"specs"`
}

var previewWorkerPool = api.Declare(api.Spec{
	Name: "previewWorkerPool", Route: "POST /worker-pool/<workerPoolId...>/preview", Scopes: tryPool,
	Input: "v1/worker-pool-definition.json#", Output: "v1/preview.json#",
	Stability: api.Experimental, Category: "Definitions", Title: "Preview a definition",
	Doc: `Shows all that a definition can turn into: each combination of place and kind of machine, with the request that the
provider would send for it. A provider that buys nothing shows each launch configuration as it is. Nothing is stored.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, poolDefinition]) (out preview, err error) {
	if err := c.Authorize(scope.Vars{"providerId": c.Body.ProviderID}); err != nil {
		return out, err
	}
	read, err := p.parse(c.Body)
	if err != nil {
		return out, err
	}
	out.Specs = []fleet.Spec{}
	if previewer, ok := p.providers[c.Body.ProviderID].(fleet.Previewer); ok {
		ctx, cancel := context.WithTimeout(ctx, lookLimit)
		defer cancel()
		specs, err := previewer.Preview(ctx, c.Body.Config)
		if err != nil {
			return out, api.Errorf(api.InputError, "The provider %s cannot say what it would make of the definition: %v.", c.Body.ProviderID, err)
		}
		out.Specs = append(out.Specs, specs...)
		return out, nil
	}
	for _, lc := range read.configs {
		out.Specs = append(out.Specs, fleet.Spec{LaunchConfigID: lc.ID, Market: c.Body.ProviderID, Capacity: lc.Capacity, Request: lc.Config})
	}
	return out, nil
})

// lookLimit bounds how long a provider may take to look into something for a
// caller.
const lookLimit = 10 * time.Second

type marketList struct {
	Markets []marketDescription `json:"markets"`
}

type marketDescription struct {
	Market        string         `json:"market"`
	Capacity      int64          `json:"capacity"`
	Utility       float64        `json:"utility,omitempty"`
	Price         float64        `json:"price,omitempty"` // dollars an hour
	State         string         `json:"state"`
	Until         timestamp.Time `json:"until,omitempty"`
	Reason        string         `json:"reason,omitempty"`
	Launched      int64          `json:"launched"`
	Refused       int64          `json:"refused"`
	Interruptions float64        `json:"interruptions"`
}

var listMarkets = api.Declare(api.Spec{
	Name: "listMarkets", Route: "GET /worker-pool/<workerPoolId...>/markets", Scopes: readPool, Output: "v1/market-list.json#",
	Stability: api.Experimental, Category: "Worker Pools", Title: "List a pool's markets",
	Doc: `Lists where the workers of a pool can be bought, at what price, and which of these markets are closed for now, as the
process that answers knows it. For providers that buy nothing the list is empty.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, api.None]) (out marketList, err error) {
	var o *fleet.Pool
	if err := p.db.View(ctx, func(tx *store.Tx) (err error) { o, err = findPool(tx, c.Path.WorkerPoolID); return err }); err != nil {
		return out, err
	}
	out.Markets = []marketDescription{}
	list, err := p.markets(ctx, o)
	if _, wrong := p.parse(poolDefinition{ProviderID: o.ProviderID, Config: o.Config}); err != nil && wrong != nil {
		return out, api.Errorf(api.RequestConflict, "Where workers of the pool %s are bought cannot be said, as its definition is not understood any more. Apply one that is. %v", o.ID, wrong)
	}
	if err != nil {
		return out, api.Errorf(api.ServiceUnavailable, "The provider %s cannot say where it buys: %v. Call again in a minute.", o.ProviderID, err)
	}
	for _, m := range list {
		out.Markets = append(out.Markets, marketDescription{
			Market: m.Name, Capacity: m.Capacity, Utility: m.Utility, Price: dollars(m.Price), State: m.State, Until: m.Until,
			Reason: m.Reason, Launched: m.Launched, Refused: m.Refused, Interruptions: m.Interrupt,
		})
	}
	return out, nil
})

// markets are those of a pool; none where its provider buys nothing.
func (p *Provisioner) markets(ctx context.Context, o *fleet.Pool) ([]fleet.Market, error) {
	place, ok := p.providers[o.ProviderID].(fleet.Marketplace)
	if !ok {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	return place.Markets(ctx, now(), o.Config)
}

// dollars are what millionths of a dollar come to.
func dollars(millionths int64) float64 { return float64(millionths) / 1e6 }

var retryWorkerPool = api.Declare(api.Spec{
	Name: "retryWorkerPool", Route: "POST /worker-pool/<workerPoolId...>/retry", Scopes: managePool, Output: "v1/explanation.json#",
	Stability: api.Experimental, Category: "Worker Pools", Title: "Try again at once",
	Doc: `Has launch configurations that wait after failed starts try again now, and unanswered requests repeated now. It is
for when what made them fail has been put right somewhere else. The reply explains the pool as it was before.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, api.None]) (out explanation, err error) {
	if out, err = p.explain(ctx, c.Path.WorkerPoolID); err != nil {
		return out, err
	}
	return out, p.db.Do(ctx, func(tx *store.Tx) error {
		if _, err := lockPool(tx, c.Path.WorkerPoolID); err != nil {
			return err
		}
		for _, statement := range []string{
			`UPDATE launch_config SET start_after = 0 WHERE worker_pool_id = $1 AND start_after > 0`,
			`UPDATE intent SET next_attempt = 0 WHERE worker_pool_id = $1 AND next_attempt > 0`,
		} {
			if _, err := tx.Exec(statement, c.Path.WorkerPoolID); err != nil {
				return err
			}
		}
		tx.Wake(TopicDemand, 1)
		return nil
	})
})

// A decision is one as it is shown.
type decision struct {
	WorkerPoolID string         `json:"workerPoolId"`
	At           timestamp.Time `json:"at"`
	Policy       string         `json:"policy"`
	Reason       string         `json:"reason"`
	Start        int64          `json:"start"`
	Started      int64          `json:"started"`
	Drain        int64          `json:"drain"`
	Excess       int64          `json:"excess"`
	Wake         timestamp.Time `json:"wake,omitempty"`
	Terms        []term         `json:"terms"`
	Inputs       inputs         `json:"inputs"`
}

type term struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
}

type inputs struct {
	Pending           int64          `json:"pending"`
	OldestPending     timestamp.Time `json:"oldestPending,omitempty"`
	Claimed           int64          `json:"claimed"`
	Known             int64          `json:"known"`
	Working           int64          `json:"working"`
	Spare             int64          `json:"spare"`
	Idle              int64          `json:"idle"`
	Booting           int64          `json:"booting"`
	Stopping          int64          `json:"stopping"`
	Min               int64          `json:"min"`
	Max               int64          `json:"max"`
	ScalingRatio      float64        `json:"scalingRatio"`
	CapacityPerWorker int64          `json:"capacityPerWorker"`
	WaitPrice         float64        `json:"waitPrice"`
	IdleTimeout       float64        `json:"idleTimeout"` // seconds
}

func describeDecision(pool string, d fleet.Decided) decision {
	in, out := d.Inputs, decision{
		WorkerPoolID: pool, At: d.At, Policy: d.Policy, Reason: d.Decision.Reason, Start: d.Decision.Start, Started: d.Started,
		Drain: int64(len(d.Decision.Drain)), Excess: d.Decision.Excess, Wake: d.Decision.Wake, Terms: []term{},
	}
	for _, t := range d.Decision.Terms {
		out.Terms = append(out.Terms, term{t.Name, t.Value})
	}
	out.Inputs = inputs{
		in.Pending, in.OldestPending, in.Claimed, in.Known, in.Working, in.Spare, in.Idle, in.Booting, in.Stopping,
		in.Min, in.Max, in.ScalingRatio, in.CapacityPerWorker, in.WaitPrice, in.IdleTimeout.Seconds(),
	}
	return out
}

type decisionList struct {
	Decisions         []decision `json:"decisions"`
	ContinuationToken string     `json:"continuationToken,omitempty"`
}

var listDecisions = api.Declare(api.Spec{
	Name: "listDecisions", Route: "GET /worker-pool/<workerPoolId...>/decisions", Query: []string{"continuationToken", "limit"},
	Scopes: readPool, Output: "v1/decision-list.json#",
	Stability: api.Experimental, Category: "Worker Pools", Title: "List decisions",
	Doc: `Lists what was decided about a pool in the last day, the latest first, with what each decision was made of. Decisions
that change nothing are kept only now and then.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, api.None]) (out decisionList, err error) {
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	before := int64(1) << 62
	if page.After != nil {
		if before, err = page.Int(0); err != nil {
			return out, err
		}
	}
	err = p.db.View(ctx, func(tx *store.Tx) error {
		out = decisionList{Decisions: []decision{}}
		list, err := decisions(tx, c.Path.WorkerPoolID, before, page.Limit+1)
		if len(list) > page.Limit {
			list = list[:page.Limit]
			out.ContinuationToken = page.Token(fmt.Sprint(int64(list[page.Limit-1].At)))
		}
		for _, d := range list {
			out.Decisions = append(out.Decisions, describeDecision(c.Path.WorkerPoolID, d))
		}
		return err
	})
	return out, err
})

// decisions reads those of a pool that are older than a time, the latest first.
func decisions(tx *store.Tx, pool string, before int64, limit int) (list []fleet.Decided, err error) {
	rows, err := tx.Query(`SELECT record FROM decision WHERE worker_pool_id = $1 AND at < $2 ORDER BY at DESC LIMIT $3`, pool, before, limit)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var text []byte
		var d fleet.Decided
		if err := rows.Scan(&text); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(text, &d); err != nil {
			return nil, fmt.Errorf("provisioner: a decision about %s: %w", pool, err)
		}
		list = append(list, d)
	}
	return list, rows.Err()
}
