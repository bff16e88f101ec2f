// Package purgecache tells workers which caches they must not use any more.
//
// Somebody who finds a cache broken asks for it to be purged: the request says
// which cache of which worker pool, and until when caches of that name were
// made that must go. Workers ask before every task. Requests are few and asked
// for all the time, so every process keeps them all in memory: a snapshot,
// immutable, behind one atomic pointer. A worker's question touches no
// database.
//
// A request is in the snapshot of the process that took it before the call
// returns, so that whoever purged a cache and starts a task next is safe. Other
// replicas read what is new when they are woken, or at most a second later, when
// they see that the version has risen. A process that could not look for longer
// than that, whatever the reason, looks before it answers, and says so if it
// cannot: an old answer would have a worker use what was purged.
//
// Requests expire after a day, so a worker that has asked nothing for that long
// cannot rely on the caches it has.
package purgecache

import (
	"context"
	"embed"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed schemas/*.yml
var schemaFiles embed.FS

// Config is what a PurgeCache needs.
type Config struct {
	DB  *store.DB
	Log *slog.Logger
}

// A PurgeCache is the requests to purge caches of a deployment.
type PurgeCache struct {
	db       *store.DB
	log      *slog.Logger
	current  atomic.Pointer[snapshot]
	changing chan struct{} // holds one element while the snapshot is replaced
}

// New opens the requests, creating the tables where they do not exist.
func New(ctx context.Context, c Config) (*PurgeCache, error) {
	if err := c.DB.Migrate(ctx, "purge-cache", migrations); err != nil {
		return nil, fmt.Errorf("purge-cache: migrate: %w", err)
	}
	p := &PurgeCache{db: c.DB, log: c.Log, changing: make(chan struct{}, 1)}
	p.current.Store(&snapshot{})
	if err := p.refresh(ctx); err != nil {
		return nil, fmt.Errorf("purge-cache: read the requests: %w", err)
	}
	return p, nil
}

// Loops are the work that goes on beside the calls.
func (p *PurgeCache) Loops() []loop.Loop {
	return []loop.Loop{
		{
			Name: "purge-cache.refresh", Doc: "Follows the requests that other replicas have taken.",
			When: loop.Every(interval), EveryReplica: true, Wake: p.db.Waits().Signal(topicChanged),
			Pass: func(ctx context.Context) (bool, error) { return false, p.refresh(ctx) },
		},
		{
			Name: "purge-cache.expiry", Doc: "Deletes requests past their expiry.",
			When: loop.Every(10 * time.Minute), Pass: p.expire,
		},
	}
}

const batch = 1000

// expire is one pass of the loop purge-cache.expiry. It raises the version, so
// that every process drops what has expired from its memory, too.
func (p *PurgeCache) expire(ctx context.Context) (more bool, err error) {
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		now := timestamp.Now()
		var due bool
		if err := tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM purge_request WHERE expires <= $1)`, now).Scan(&due); err != nil || !due {
			return err
		}
		if _, err := raise(tx); err != nil {
			return err
		}
		n, err := tx.Exec(`
			DELETE FROM purge_request WHERE (worker_pool_id, cache_name) IN (
			  SELECT worker_pool_id, cache_name FROM purge_request WHERE expires <= $1 ORDER BY expires LIMIT $2)`, now, batch)
		more = n == batch
		return err
	})
	return more, err
}
