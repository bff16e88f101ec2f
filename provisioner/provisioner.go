// Package provisioner keeps as many workers as there is work for: it is the
// worker-manager service.
//
// A worker pool says of what kind its workers are, which provider makes them
// and how many there may be. A loop (reconcile) compares what there is with
// what there should be and does the difference; the methods of the API change
// rows and wake it. Size decides how many workers start; the providers start
// and end them; workers decide themselves when they have idled enough, and ask
// shouldWorkerTerminate whether they are still wanted.
//
// What keeps that right when servers crash, providers fail and replies are
// lost:
//
//   - A worker's row is written before its start and closed after its end
//     (Provider). The row is the intention: after a crash the next pass finds
//     that the intended worker exists and goes on with it, or that it does not
//     and closes the row. A worker without an open row is ended.
//   - A worker counts in one state: requested, running or stopping. Those that
//     are not wanted any more, because their pool goes, or gets workers from
//     another provider or configuration, take room and are no help.
//   - A worker's claims are handed back (Queue.WorkerGone) after its last
//     process has ended and before its row is closed, so that no task runs
//     twice at a time and none waits for its claim to expire.
//   - A failed start makes its pool wait, longer each time, and then try with a
//     single worker until one has run for a while.
//   - What goes wrong in a pool is recorded as an error of that pool, and keeps
//     no other from being looked after.
//   - What a worker proves its identity with, and what it renews its
//     credentials with, is kept as a SHA-256 hash and is good once. As a reply
//     may be lost, the same call may be repeated for a while (register.go).
//
// The service writes to worker rows in two places, the methods and the loop.
// Each write names the state that it expects, so of two that race one finds
// nothing to change.
package provisioner

import (
	"context"
	"embed"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	interval    = 5 * time.Second        // between passes when nothing wakes the loop
	pause       = 200 * time.Millisecond // between passes however often it is woken
	callLimit   = 20 * time.Second       // of one call of a provider
	poolLimit   = 30 * time.Second       // of one pool in a pass
	startBatch  = 50                     // most workers that one pass starts in a pool
	poolsAtOnce = 8                      // pools that a pass works on at the same time

	stopGrace = 2 * time.Minute  // for a worker that was asked to end
	proofTime = 10 * time.Second // how long a worker has to run to prove that its kind does

	// A worker that ends by itself sooner than this has done nothing: its idle
	// time may be short, but not that short.
	timeForNothing = time.Second

	firstDelay = time.Second // after a failed start
	maxDelay   = 5 * time.Minute

	recordLife = 7 * 24 * time.Hour // of stopped workers and of errors
)

// TopicDemand is woken by the queue when a task becomes pending, and by
// everything else that the loop should look at.
const TopicDemand = "pool-demand"

// nullProvider is the provider of pools that are going away.
const nullProvider = "null-provider"

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed schemas/*.yml
var schemaFiles embed.FS

// A Queue says how much work there is, and takes back what a dead worker had.
type Queue interface {
	// Pending counts the tasks of a queue that wait and those that run.
	Pending(ctx context.Context, taskQueueID string) (pending, claimed int64, err error)

	// WorkerGone hands the claims of a worker that has ended back to the queue.
	// A worker without claims is no error.
	WorkerGone(ctx context.Context, workerPoolID, workerGroup, workerID string) error
}

// A Minter makes the temporary credentials that a worker gets.
type Minter interface {
	Mint(ctx context.Context, clientID string, scopes []string, expiry time.Time) (cred.Credentials, error)
}

// Config is what a Provisioner needs.
type Config struct {
	DB        *store.DB
	Events    *event.Bus
	Providers map[string]Provider // by the providerId that pools name
	Queue     Queue
	Mint      Minter
	Log       *slog.Logger
	Metrics   prometheus.Registerer
}

// A Provisioner looks after the workers of a deployment.
type Provisioner struct {
	db        *store.DB
	events    *event.Bus
	providers map[string]Provider
	queue     Queue
	mint      Minter
	log       *slog.Logger
	metrics   *metrics

	last time.Time // start of the last pass

	mu   sync.Mutex
	said map[string]complaint // by pool: the last thing that was wrong with it as a whole

	// step is called after each write and each call of a provider that a pass
	// makes. Tests break passes off in it.
	step func(what string)
}

// New returns the service, creating its tables where they do not exist.
func New(ctx context.Context, c Config) (*Provisioner, error) {
	if err := c.DB.Migrate(ctx, "provisioner", subFS(migrations, "migrations")); err != nil {
		return nil, fmt.Errorf("provisioner: migrate: %w", err)
	}
	for id := range c.Providers {
		if !identifier.MatchString(id) || id == nullProvider {
			return nil, fmt.Errorf("provisioner: %q cannot be the id of a provider; use at most 38 letters, digits, - and _, and not %s", id, nullProvider)
		}
	}
	p := &Provisioner{
		db: c.DB, events: c.Events, providers: c.Providers, queue: c.Queue, mint: c.Mint, log: c.Log,
		metrics: newMetrics(c.Metrics), said: map[string]complaint{}, step: func(string) {},
	}
	for _, provider := range c.Providers {
		provider.Notify(p.wake)
	}
	return p, nil
}

// wake has the loop look, in this process.
func (p *Provisioner) wake() { p.db.Waits().Wake(TopicDemand, 1) }

func subFS(f fs.FS, dir string) fs.FS {
	sub, err := fs.Sub(f, dir)
	if err != nil {
		panic(err) // only for a malformed constant
	}
	return sub
}

// Loops are the provisioner's background work.
func (p *Provisioner) Loops() []loop.Loop {
	return []loop.Loop{
		{
			Name: "provisioner.reconcile", Doc: "Starts the workers that are needed, ends those that are not, and notices those that have ended.",
			When: loop.Every(interval), Wake: p.db.Waits().Signal(TopicDemand), Pass: p.reconcile,
		},
		{
			Name: "provisioner.expiry", Doc: "Forgets workers that have stopped, and errors, after a week.",
			When: loop.Every(10 * time.Minute), Pass: p.expire,
		},
	}
}

func (p *Provisioner) providerIDs() []string { return sortedKeys(p.providers) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func (p *Provisioner) expire(ctx context.Context) (more bool, err error) {
	const batch = 1000
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		more = false
		for statement, before := range map[string]timestamp.Time{
			`DELETE FROM worker WHERE (worker_pool_id, worker_group, worker_id) IN (
			   SELECT worker_pool_id, worker_group, worker_id FROM worker
			    WHERE state = 'stopped' AND expires < $1 LIMIT $2)`: now(),
			`DELETE FROM worker_pool_error WHERE error_id IN (
			   SELECT error_id FROM worker_pool_error WHERE reported < $1 LIMIT $2)`: now().Add(-recordLife),
		} {
			n, err := tx.Exec(statement, before, batch)
			if err != nil {
				return err
			}
			more = more || n == batch
		}
		return nil
	})
	return more, err
}

func now() timestamp.Time { return timestamp.Now() }
