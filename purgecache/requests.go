package purgecache

import (
	"context"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

type poolPath struct {
	WorkerPoolID string `path:"workerPoolId"`
}

type purgeCacheRequest struct {
	CacheName string `json:"cacheName"`
}

const (
	lifetime = 24 * time.Hour // of a request

	maxName = 255    // bytes of a cache's name
	maxOpen = 10_000 // requests of a pool, which all of its workers get
)

var purgeCache = api.Declare(api.Spec{
	Name: "purgeCache", Route: "POST /purge-cache/<workerPoolId...>", Scopes: scope.Scope("purge-cache:<workerPoolId>:<cacheName>"),
	Input: "v1/purge-cache-request.json#", Stability: api.Stable, Category: "Purge Cache Service", Title: "Purge a cache",
	Doc: `Has all workers of a pool throw away the caches of a name that they have at this moment, each before the next task it
starts. Repeating the call moves that moment to now. The request is kept for a day.`,
}, func(ctx context.Context, p *PurgeCache, c api.Call[poolPath, purgeCacheRequest]) (none api.NoContent, err error) {
	pool, name := c.Path.WorkerPoolID, c.Body.CacheName
	if err := c.Authorize(scope.Vars{"cacheName": name}); err != nil {
		return none, err
	}
	open := p.current.Load().pools[pool]
	_, known := search(open, name)
	switch {
	case name == "":
		return none, api.Errorf(api.InputError, "cacheName is empty; name the cache to purge.")
	case len(name) > maxName:
		return none, api.Errorf(api.InputError, "cacheName has %d bytes; %d are allowed.", len(name), maxName)
	case len(open) >= maxOpen && !known:
		return none, api.Errorf(api.InputError, "cacheName is one too many: worker pool %s has %d open requests, for as many caches. Wait until some expire, a day after they were made.", pool, len(open))
	}
	if err := p.purge(ctx, pool, name); err != nil {
		return none, err
	}
	return none, nil
})

// purge records a request. When it returns, this process tells it to workers.
func (p *PurgeCache) purge(ctx context.Context, pool, name string) error {
	err := p.db.Do(ctx, func(tx *store.Tx) error {
		version, err := raise(tx)
		if err != nil {
			return err
		}
		// The clocks of two replicas may differ; no request takes another back.
		now := timestamp.Now()
		_, err = tx.Exec(`
			INSERT INTO purge_request (worker_pool_id, cache_name, made_before, expires, version) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (worker_pool_id, cache_name) DO UPDATE SET version = excluded.version,
			  made_before = CASE WHEN excluded.made_before > purge_request.made_before THEN excluded.made_before ELSE purge_request.made_before END,
			  expires = CASE WHEN excluded.expires > purge_request.expires THEN excluded.expires ELSE purge_request.expires END`,
			pool, name, now, now.Add(lifetime), version)
		return err
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := p.refresh(ctx); err != nil {
		return fmt.Errorf("purge-cache: the request is recorded, but could not be read back: %w", err)
	}
	return nil
}

type requestList struct {
	Requests          []request `json:"requests"`
	ContinuationToken string    `json:"continuationToken,omitempty"`
}

var purgeRequests = api.Declare(api.Spec{
	Name: "purgeRequests", Route: "GET /purge-cache/<workerPoolId...>", Query: []string{"since"},
	// Two colons, as the platform has it that we are compatible with.
	Scopes: scope.Scope("purge-cache:purge-requests::<workerPoolId>"), Output: "v1/purge-cache-request-list.json#",
	Stability: api.Stable, Category: "Purge Cache Service", Title: "List the requests for a worker pool",
	Doc: `Tells a worker which caches to throw away: those of the names in the answer that were made before the time that stands
with the name. ` + "`since`" + ` leaves out what was asked for before that time; let it be somewhat before the worker's last
question, as clocks differ. The answer is never more than a few seconds old, and never without a request that
this server has taken.`,
}, func(ctx context.Context, p *PurgeCache, c api.Call[poolPath, api.None]) (out requestList, err error) {
	var since timestamp.Time
	if text := c.Query("since"); text != "" {
		if err := since.UnmarshalText([]byte(text)); err != nil {
			return out, api.Errorf(api.InvalidRequestArguments, "The query parameter since is wrong: %v", err)
		}
	}
	s, err := p.recent(ctx)
	if err != nil {
		p.log.Error("cannot tell workers which caches to purge", "err", err)
		return out, api.Errorf(api.ServiceUnavailable, "The database cannot be asked which caches are to be purged. Ask again; until there is an answer no cache is safe to use.")
	}
	return requestList{Requests: s.open(c.Path.WorkerPoolID, since, timestamp.Now())}, nil
})

// open are the requests for a pool that were made since a time.
func (s *snapshot) open(pool string, since, now timestamp.Time) []request {
	list := []request{}
	for _, r := range s.pools[pool] {
		if r.Before >= since && r.expires > now {
			list = append(list, r)
		}
	}
	return list
}

var allPurgeRequests = api.Declare(api.Spec{
	Name: "allPurgeRequests", Route: "GET /purge-cache/list", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("purge-cache:all-purge-requests"), Output: "v1/all-purge-cache-request-list.json#",
	Stability: api.Stable, Category: "Purge Cache Service", Title: "List all requests",
	Doc: "Lists the open requests for all worker pools, in the order of pools and caches. It is for people who look around; workers ask for those of their pool.",
}, func(ctx context.Context, p *PurgeCache, c api.Call[api.None, api.None]) (out requestList, err error) {
	page, err := c.Page(2)
	if err != nil {
		return out, err
	}
	pool, name := page.Text(0), page.Text(1)
	err = p.db.View(ctx, func(tx *store.Tx) error {
		out = requestList{}
		out.Requests, err = queryRequests(tx, `
			WHERE (worker_pool_id, cache_name) > ($1, $2) AND expires > $3 ORDER BY worker_pool_id, cache_name LIMIT $4`,
			pool, name, timestamp.Now(), page.Limit+1)
		if len(out.Requests) > page.Limit {
			out.Requests = out.Requests[:page.Limit]
			last := out.Requests[page.Limit-1]
			out.ContinuationToken = page.Token(last.pool(), last.CacheName)
		}
		return err
	})
	return out, err
})
