package purgecache

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A snapshot is all requests as of one version. It is never changed.
type snapshot struct {
	version int64
	read    time.Time            // when the database was last seen to have this version
	pools   map[string][]request // by worker pool, in the order of cache names
}

// A request is that all caches of a name be purged that were made before a
// time.
type request struct {
	ProvisionerID string         `json:"provisionerId"`
	WorkerType    string         `json:"workerType"`
	CacheName     string         `json:"cacheName"`
	Before        timestamp.Time `json:"before"`

	expires timestamp.Time
}

func (r request) pool() string { return r.ProvisionerID + "/" + r.WorkerType }

const (
	// interval is how far a replica may be behind.
	interval = time.Second

	// patience is how old a snapshot may be before questions wait for a new
	// one: more than the loop needs, even on a busy machine.
	patience = 3 * interval

	topicChanged = "purge-cache.changed"
)

// raise gives a change its version, and wakes those who follow changes.
func raise(tx *store.Tx) (version int64, err error) {
	err = tx.QueryRow(`UPDATE purge_version SET version = version + 1 RETURNING version`).Scan(&version)
	tx.Wake(topicChanged, store.Everybody)
	return version, err
}

// recent is the current snapshot, if need be after a look at the database.
func (p *PurgeCache) recent(ctx context.Context) (*snapshot, error) {
	s := p.current.Load()
	if time.Since(s.read) <= patience {
		return s, nil
	}
	release, err := p.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	if s = p.current.Load(); time.Since(s.read) <= patience { // somebody else looked
		return s, nil
	}
	err = p.follow(ctx)
	return p.current.Load(), err
}

// refresh brings the snapshot up to what is committed when it is called.
func (p *PurgeCache) refresh(ctx context.Context) error {
	release, err := p.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	return p.follow(ctx)
}

// lock keeps snapshots from overtaking each other.
func (p *PurgeCache) lock(ctx context.Context) (release func(), err error) {
	select {
	case p.changing <- struct{}{}:
		return func() { <-p.changing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// follow reads what is newer than the snapshot. The caller holds the lock.
//
// Versions are committed in their order, so nothing can come later that is
// older than what was seen. Deletions need no following: what is deleted has
// expired, and that shows by itself.
func (p *PurgeCache) follow(ctx context.Context) error {
	return p.db.View(ctx, func(tx *store.Tx) error {
		now := time.Now()
		var version int64
		if err := tx.QueryRow(`SELECT version FROM purge_version`).Scan(&version); err != nil {
			return err
		}
		old := p.current.Load()
		if version == old.version {
			p.current.Store(&snapshot{version, now, old.pools})
			return nil
		}
		if version < old.version { // another database: one that was restored, say
			old = &snapshot{}
		}
		news, err := queryRequests(tx, `WHERE version > $1 AND expires > $2 ORDER BY worker_pool_id, cache_name`, old.version, timestamp.Of(now))
		if err != nil {
			return err
		}
		p.current.Store(&snapshot{version, now, merge(old.pools, news, timestamp.Of(now))})
		return nil
	})
}

// merge is the requests after some have changed or come, without those that
// have expired.
func merge(old map[string][]request, news []request, now timestamp.Time) map[string][]request {
	pools := make(map[string][]request, len(old))
	expired := func(r request) bool { return r.expires <= now }
	for pool, list := range old {
		if slices.ContainsFunc(list, expired) {
			list = slices.DeleteFunc(slices.Clone(list), expired)
		}
		if len(list) > 0 {
			pools[pool] = list
		}
	}
	own := map[string]bool{} // lists that no other snapshot has
	for _, r := range news {
		pool := r.pool()
		if !own[pool] {
			own[pool] = true
			pools[pool] = slices.Clone(pools[pool])
		}
		if i, found := search(pools[pool], r.CacheName); found {
			pools[pool][i] = r
		} else {
			pools[pool] = slices.Insert(pools[pool], i, r)
		}
	}
	return pools
}

// search finds the place of a cache's name in a pool's requests.
func search(list []request, name string) (i int, found bool) {
	return slices.BinarySearchFunc(list, name, func(r request, name string) int { return cmp.Compare(r.CacheName, name) })
}

// queryRequests returns what it finds in the order of pools and cache names,
// never nil.
func queryRequests(tx *store.Tx, where string, args ...any) (list []request, err error) {
	rows, err := tx.Query(`SELECT worker_pool_id, cache_name, made_before, expires FROM purge_request `+where, args...)
	if err != nil {
		return nil, err
	}
	list = []request{}
	for rows.Next() {
		var r request
		var pool string
		if err := rows.Scan(&pool, &r.CacheName, &r.Before, &r.expires); err != nil {
			return nil, err
		}
		r.ProvisionerID, r.WorkerType, _ = strings.Cut(pool, "/")
		list = append(list, r)
	}
	return list, rows.Err()
}
