package provisioner

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"reflect"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A poolDefinition is what the owner of a pool says about it.
type poolDefinition struct {
	ProviderID   string          `json:"providerId"`
	Description  string          `json:"description"`
	Owner        string          `json:"owner"`
	EmailOnError bool            `json:"emailOnError"`
	Config       json.RawMessage `json:"config"`
}

// A poolDescription is a pool as it is shown.
type poolDescription struct {
	WorkerPoolID string `json:"workerPoolId"`
	poolDefinition
	Created      timestamp.Time `json:"created"`
	LastModified timestamp.Time `json:"lastModified"`
	stats
}

func describePool(o *fleet.Pool, s stats) poolDescription {
	return poolDescription{
		WorkerPoolID:   o.ID,
		poolDefinition: poolDefinition{o.ProviderID, o.Description, o.Owner, o.EmailOnError, o.Config},
		Created:        o.Created, LastModified: o.LastModified, stats: s,
	}
}

func describe(tx *store.Tx, o *fleet.Pool) (poolDescription, error) {
	figures, err := count(tx, o.ID)
	return describePool(o, figures[o.ID]), err
}

// difference names the first field in which a pool differs from a definition.
func difference(o *fleet.Pool, d poolDefinition) string {
	switch {
	case o.ProviderID != d.ProviderID:
		return "providerId"
	case o.Description != d.Description:
		return "description"
	case o.Owner != d.Owner:
		return "owner"
	case o.EmailOnError != d.EmailOnError:
		return "emailOnError"
	case !sameJSON(o.Config, d.Config):
		return "config"
	}
	return ""
}

func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

func define(o *fleet.Pool, d poolDefinition) {
	o.ProviderID, o.Description, o.Owner, o.EmailOnError, o.Config = d.ProviderID, d.Description, d.Owner, d.EmailOnError, d.Config
}

var manage = scope.AllOf{scope.Scope("worker-manager:manage-worker-pool:<workerPoolId>"), scope.Scope("worker-manager:provider:<providerId>")}

var createWorkerPool = api.Declare(api.Spec{
	Name: "createWorkerPool", Route: "PUT /worker-pool/<workerPoolId...>", Scopes: manage,
	Input: "v1/create-worker-pool-request.json#", Output: "v1/worker-pool-full.json#",
	Stability: api.Stable, Category: "Worker Pools", Title: "Create a worker pool",
	Doc: `Creates a pool, which from then on gets workers as its queue needs them.

The call can be repeated with the same definition; with another one it is refused, use updateWorkerPool. The id of a
pool that is being deleted can be used at once. The provider looks whether what the definition names is there and may
be used; what is wrong is said in the reply and kept as an error of the pool.

What the workers are given by config.scopes and config.secrets, the caller has to have.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, poolDefinition]) (out poolDescription, err error) {
	if err := c.Authorize(scope.Vars{"providerId": c.Body.ProviderID}); err != nil {
		return out, err
	}
	if same, err := p.repeated(ctx, c.Path.WorkerPoolID, c.Body); same != nil || err != nil {
		return *cmp.Or(same, &out), err
	}
	read, err := p.accept(ctx, c.Caller(), c.Path.WorkerPoolID, c.Body)
	if err != nil {
		return out, err
	}
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		o, err := lockPool(tx, c.Path.WorkerPoolID)
		if err == nil && !o.Going() {
			if field := difference(o, c.Body); field != "" {
				return api.Errorf(api.RequestConflict, "The worker pool %s exists with another %s. Change it with updateWorkerPool.", o.ID, field)
			}
			out, err = describe(tx, o)
			return err
		}
		switch {
		case isNotFound(err):
			o = &fleet.Pool{ID: c.Path.WorkerPoolID, Created: now(), LastModified: now()}
			define(o, c.Body)
			err = insertPool(tx, o)
		case err == nil:
			define(o, c.Body)
			err = redefinePool(tx, o)
		}
		if err == nil {
			err = p.saveReading(tx, o, read)
		}
		if err != nil {
			return err
		}
		if out, err = describe(tx, o); err != nil {
			return err
		}
		tx.Wake(TopicDemand, 1)
		if err := p.remember(tx, o, c.Caller().ClientID, "created"); err != nil {
			return err
		}
		return p.publishPool(tx, poolCreated, o, "")
	})
	if errors.Is(err, store.ErrConflict) {
		return out, api.Errorf(api.RequestConflict, "The worker pool %s is being created by another call at this moment; try again.", c.Path.WorkerPoolID)
	}
	return out, err
})

// repeated is the pool, if there is one of just this definition.
func (p *Provisioner) repeated(ctx context.Context, id string, d poolDefinition) (same *poolDescription, err error) {
	err = p.db.View(ctx, func(tx *store.Tx) error {
		o, err := findPool(tx, id)
		if isNotFound(err) || err == nil && (o.Going() || difference(o, d) != "") {
			return nil
		} else if err != nil {
			return err
		}
		out, err := describe(tx, o)
		same = &out
		return err
	})
	return same, err
}

type poolUpdate struct {
	poolDefinition
	WorkerPoolID string `json:"workerPoolId"`
}

var updateWorkerPool = api.Declare(api.Spec{
	Name: "updateWorkerPool", Route: "POST /worker-pool/<workerPoolId...>", Scopes: manage,
	Input: "v1/update-worker-pool-request.json#", Output: "v1/worker-pool-full.json#",
	Stability: api.Experimental, Category: "Worker Pools", Title: "Update a worker pool",
	Doc: `Replaces the definition of a pool as a whole. What workerPool returns can be sent back with changes.

Limits and ratio take effect at once. Where the provider or anything else in the configuration changes, workers made
from the old one end when they have no task, and new ones take their place. A launch configuration that was given an
id keeps its content for ever, but for what is under workerManager: another content needs another id.

What the workers are given by config.scopes and config.secrets, the caller has to have.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, poolUpdate]) (out poolDescription, err error) {
	if err := c.Authorize(scope.Vars{"providerId": c.Body.ProviderID}); err != nil {
		return out, err
	}
	if id := c.Body.WorkerPoolID; id != "" && id != c.Path.WorkerPoolID {
		return out, api.Errorf(api.InputError, "The body's workerPoolId is %s, the URL's is %s. A pool cannot be renamed: leave workerPoolId out of the body, or create another pool.", id, c.Path.WorkerPoolID)
	}
	if c.Body.ProviderID == fleet.NullProvider {
		// Workers that there still are renew their credentials by this definition.
		// One that cannot be read grants nothing.
		if settings, err := (&fleet.Pool{Config: c.Body.Config}).Settings(); err == nil {
			if err := mayGrant(c.Caller(), settings); err != nil {
				return out, err
			}
		}
		return p.giveUpPool(ctx, c.Path.WorkerPoolID, &c.Body.poolDefinition, c.Caller().ClientID, "updated")
	}
	read, err := p.accept(ctx, c.Caller(), c.Path.WorkerPoolID, c.Body.poolDefinition)
	if err != nil {
		return out, err
	}
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		o, err := lockPool(tx, c.Path.WorkerPoolID)
		if err != nil {
			return err
		}
		previous := o.ProviderID
		define(o, c.Body.poolDefinition)
		if err := redefinePool(tx, o); err != nil {
			return err
		}
		if err := p.saveReading(tx, o, read); err != nil {
			return err
		}
		if out, err = describe(tx, o); err != nil {
			return err
		}
		tx.Wake(TopicDemand, 1)
		if err := p.remember(tx, o, c.Caller().ClientID, "updated"); err != nil {
			return err
		}
		return p.publishPool(tx, poolUpdated, o, previous)
	})
	return out, err
})

var deleteWorkerPool = api.Declare(api.Spec{
	Name: "deleteWorkerPool", Route: "DELETE /worker-pool/<workerPoolId...>", Scopes: scope.Scope("worker-manager:manage-worker-pool:<workerPoolId>"),
	Output:    "v1/worker-pool-full.json#",
	Stability: api.Stable, Category: "Worker Pools", Title: "Delete a worker pool",
	Doc: `Lets a pool come to an end: nothing is started any more, workers end when they have no task, and the pool disappears
with the last of them. Until then its provider is ` + "`null-provider`" + `.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, api.None]) (poolDescription, error) {
	return p.giveUpPool(ctx, c.Path.WorkerPoolID, nil, c.Caller().ClientID, "deleted")
})

// remember records a change to a pool in the history.
func (p *Provisioner) remember(tx *store.Tx, o *fleet.Pool, by, action string) error {
	if p.audit == nil {
		return nil
	}
	return p.audit.Audit(tx, "worker-pool", o.ID, by, action)
}

// giveUpPool makes a pool one that is going, with d in place of its definition
// if there is one.
func (p *Provisioner) giveUpPool(ctx context.Context, id string, d *poolDefinition, by, action string) (out poolDescription, err error) {
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		o, err := lockPool(tx, id)
		if err != nil {
			return err
		}
		previous := o.ProviderID
		if d != nil {
			define(o, *d)
		}
		o.ProviderID = fleet.NullProvider
		if err := redefinePool(tx, o); err != nil {
			return err
		}
		if err := p.saveLaunchConfigs(tx, o, nil); err != nil {
			return err
		}
		if out, err = describe(tx, o); err != nil || previous == fleet.NullProvider {
			return err
		}
		tx.Wake(TopicDemand, 1)
		if err := p.remember(tx, o, by, action); err != nil {
			return err
		}
		return p.publishPool(tx, poolUpdated, o, previous)
	})
	return out, err
}

var workerPool = api.Declare(api.Spec{
	Name: "workerPool", Route: "GET /worker-pool/<workerPoolId...>", Scopes: scope.Scope("worker-manager:get-worker-pool:<workerPoolId>"),
	Output:    "v1/worker-pool-full.json#",
	Stability: api.Stable, Category: "Worker Pools", Title: "Get a worker pool",
	Doc: "Returns the definition of a pool and how many workers it has.",
}, func(ctx context.Context, p *Provisioner, c api.Call[poolPath, api.None]) (out poolDescription, err error) {
	err = p.db.View(ctx, func(tx *store.Tx) error {
		o, err := findPool(tx, c.Path.WorkerPoolID)
		if err != nil {
			return err
		}
		out, err = describe(tx, o)
		return err
	})
	return out, err
})

type poolList struct {
	WorkerPools       []poolDescription `json:"workerPools"`
	ContinuationToken string            `json:"continuationToken,omitempty"`
}

var listWorkerPools = api.Declare(api.Spec{
	Name: "listWorkerPools", Route: "GET /worker-pools", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("worker-manager:list-worker-pools"), Output: "v1/worker-pool-list.json#",
	Stability: api.Stable, Category: "Worker Pools", Title: "List worker pools",
	Doc: "Returns all pools in the order of their ids.",
}, func(ctx context.Context, p *Provisioner, c api.Call[api.None, api.None]) (out poolList, err error) {
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	after := page.Text(0)
	err = p.db.View(ctx, func(tx *store.Tx) error {
		out = poolList{WorkerPools: []poolDescription{}}
		list, err := queryPools(tx, `WHERE worker_pool_id > $1 ORDER BY worker_pool_id LIMIT $2`, after, page.Limit+1)
		if err != nil {
			return err
		}
		if len(list) > page.Limit {
			list = list[:page.Limit]
			out.ContinuationToken = page.Token(list[len(list)-1].ID)
		}
		ids := []string{}
		for _, o := range list {
			ids = append(ids, o.ID)
		}
		figures, err := count(tx, ids...)
		for _, o := range list {
			out.WorkerPools = append(out.WorkerPools, describePool(o, figures[o.ID]))
		}
		return err
	})
	return out, err
})

type providerList struct {
	Providers         []providerDescription `json:"providers"`
	ContinuationToken string                `json:"continuationToken,omitempty"`
}

type providerDescription struct {
	ProviderID   string `json:"providerId"`
	ProviderType string `json:"providerType"`
}

var listProviders = api.Declare(api.Spec{
	Name: "listProviders", Route: "GET /providers", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("worker-manager:list-providers"), Output: "v1/provider-list.json#",
	Stability: api.Stable, Category: "Providers", Title: "List providers",
	Doc: "Returns the providers that pools can name, and null-provider, which stands for none.",
}, func(ctx context.Context, p *Provisioner, c api.Call[api.None, api.None]) (out providerList, err error) {
	page, err := c.Page(1)
	if err != nil {
		return out, err
	}
	out.Providers = []providerDescription{}
	all := map[string]string{fleet.NullProvider: "null"}
	for id, provider := range p.providers {
		all[id] = provider.Type()
	}
	for _, id := range sortedKeys(all) {
		if page.After != nil && id <= page.After[0] {
			continue
		}
		if n := len(out.Providers); n == page.Limit {
			out.ContinuationToken = page.Token(out.Providers[n-1].ProviderID)
			break
		}
		out.Providers = append(out.Providers, providerDescription{id, all[id]})
	}
	return out, nil
})
