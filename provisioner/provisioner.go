// Package provisioner keeps as many workers as there is work for: it is the
// worker-manager service (API), and beside it a service of our own that tells
// operators what happens and why, and lets them interfere (Operations).
//
// A worker pool says of what kind its workers are, which provider makes them
// and how many there may be. Package fleet compares what there is with what
// there should be and has providers do the difference; package sizing decides
// how many there should be. What is here is the service around them: the
// methods of the API, which change rows and wake the loop; the books that fleet
// keeps, in the database; and the registration of workers.
//
// What a worker proves its identity with is the provider's affair. It is good
// once, and so is the secret that a worker renews its credentials with. As a
// reply may be lost, the same call may be repeated for a while (register.go).
//
// The service writes to worker rows in two places, the methods and the books.
// Each write names the state that it expects, so of two that race one finds
// nothing to change.
package provisioner

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	interval    = 5 * time.Second        // between passes when nothing wakes the loop
	pause       = 200 * time.Millisecond // between passes however often it is woken
	poolsAtOnce = 8                      // pools that a pass works on at the same time

	recordLife   = 7 * 24 * time.Hour // of stopped workers and of errors
	decisionLife = 24 * time.Hour
)

// TopicDemand is woken by the queue when a task becomes pending, and by
// everything else that the loop should look at.
const TopicDemand = "pool-demand"

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed schemas/*.yml schemas/provisioner/*.yml
var schemaFiles embed.FS

// A Queue says how much work there is, takes back what a dead worker had, and
// gives a drained one nothing more.
type Queue interface {
	fleet.Queue

	// Drain has the queue give the workers nothing more, in the caller's
	// transaction, and returns those: the ones that have no claim. The others
	// are not touched.
	Drain(tx *store.Tx, list []fleet.Ref) ([]fleet.Ref, error)

	// Retire has the queue give the workers nothing more, those that have a claim
	// as well, in the caller's transaction. It returns the ones that have none.
	Retire(tx *store.Tx, list []fleet.Ref) ([]fleet.Ref, error)

	// Admit has the queue give a worker tasks again, after Drain or Retire of
	// another one of its name.
	Admit(tx *store.Tx, r fleet.Ref) error

	// Record is what the queue remembers of a worker; nil if nothing.
	Record(ctx context.Context, r fleet.Ref) (*Record, error)

	// Records are those of up to limit workers of a pool, in an order of the
	// queue's, after a given one (nil: from the first). With quarantined, only
	// those that are in quarantine, or that are not.
	Records(ctx context.Context, poolID string, quarantined *bool, after *fleet.Ref, limit int) ([]*Record, error)
}

// A Minter makes the temporary credentials that a worker gets.
type Minter interface {
	Mint(ctx context.Context, clientID string, scopes []string, expiry time.Time) (cred.Credentials, error)
}

// Config is what a Provisioner needs.
type Config struct {
	DB        *store.DB
	Events    *event.Bus
	Providers map[string]fleet.Provider // by the providerId that pools name
	Queue     Queue
	Mint      Minter
	Mail      Mailer  // nil: owners of pools are not told of errors
	Audit     Auditor // nil: there is no history of changes
	Log       *slog.Logger
	Metrics   prometheus.Registerer
}

// An Auditor keeps the history: who did what to an entity, written in the
// transaction that does it.
type Auditor interface {
	Audit(tx *store.Tx, entityType, entityID, clientID, action string) error
}

// A Provisioner looks after the workers of a deployment.
type Provisioner struct {
	db        *store.DB
	events    *event.Bus
	providers map[string]fleet.Provider
	mint      Minter
	mail      Mailer
	audit     Auditor
	mailed    map[string]timestamp.Time // when the owner of a pool was told of an error
	queue     Queue
	log       *slog.Logger
	fleet     *fleet.Controller
	metrics   *metrics

	last    time.Time      // start of the last pass
	checked timestamp.Time // when it was last noted that workers were looked after

	awaiting atomic.Int64 // registrations that wait for the row of their worker

	found, noted map[string]health // by provider: at the last look, and as written down

	alarm struct {
		sync.Mutex
		at    timestamp.Time
		timer *time.Timer
	}
}

// New returns the service, creating its tables where they do not exist.
func New(ctx context.Context, c Config) (*Provisioner, error) {
	if err := c.DB.Migrate(ctx, "provisioner", migrations); err != nil {
		return nil, fmt.Errorf("provisioner: migrate: %w", err)
	}
	for id := range c.Providers {
		if !identifier.MatchString(id) || id == fleet.NullProvider {
			return nil, fmt.Errorf("provisioner: %q cannot be the id of a provider; use at most 38 letters, digits, - and _, and not %s", id, fleet.NullProvider)
		}
	}
	p := &Provisioner{
		db: c.DB, events: c.Events, providers: c.Providers, queue: c.Queue, mint: c.Mint, mail: c.Mail, audit: c.Audit, mailed: map[string]timestamp.Time{}, log: c.Log,
		metrics: newMetrics(c.Metrics), found: map[string]health{}, noted: map[string]health{},
	}
	p.fleet = fleet.New(fleet.Config{
		Book: book{p}, Queue: c.Queue, Providers: c.Providers, Log: c.Log, PoolsAtOnce: poolsAtOnce,
		Show: p.metrics.show, Counted: p.metrics.count, Interrupted: p.metrics.interrupted, Left: p.metrics.forget, Looked: p.looked, WakeAt: p.wakeAt,
	})
	if err := p.readAgain(ctx); err != nil {
		return nil, err
	}
	if p.mail != nil {
		p.subscribeMail()
	}
	for _, provider := range c.Providers {
		if n, ok := provider.(fleet.Notifier); ok {
			n.Notify(p.wake)
		}
	}
	return p, nil
}

// readAgain brings the launch configurations of pools up to date with what this
// version of the providers makes of their definitions.
func (p *Provisioner) readAgain(ctx context.Context) error {
	return p.db.Do(ctx, func(tx *store.Tx) error {
		list, err := queryPools(tx, `ORDER BY worker_pool_id /*for update*/`)
		if err != nil {
			return err
		}
		for _, o := range list {
			provider := p.providers[o.ProviderID]
			if provider == nil {
				continue
			}
			configs, err := provider.Parse(o.Config)
			if err != nil {
				p.log.Error("a worker pool's configuration is not understood any more; it starts no workers", "pool", o.ID, "error", err)
				continue
			}
			if sameConfigs(o.LaunchConfigs, configs) {
				continue
			}
			if err := p.saveLaunchConfigs(tx, o, configs); err != nil {
				return err
			}
		}
		return nil
	})
}

func sameConfigs(a, b []*fleet.LaunchConfig) bool {
	return slices.EqualFunc(a, b, func(x, y *fleet.LaunchConfig) bool {
		return x.ID == y.ID && x.Capacity == y.Capacity && x.Canary == y.Canary && sameJSON(x.Config, y.Config)
	})
}

// wake has the loop look, in this process.
func (p *Provisioner) wake() { p.db.Waits().Wake(TopicDemand, 1) }

// wakeAt has the loop look at a time. It looks every few seconds anyway, and
// each pass says again what it waits for, so one alarm is enough: the earliest.
func (p *Provisioner) wakeAt(_ string, at timestamp.Time) {
	t := now()
	if at <= t || at.Sub(t) >= interval {
		return
	}
	p.alarm.Lock()
	defer p.alarm.Unlock()
	if p.alarm.at > t && p.alarm.at <= at {
		return
	}
	p.alarm.at = at
	if p.alarm.timer != nil {
		p.alarm.timer.Stop()
	}
	p.alarm.timer = time.AfterFunc(at.Sub(t), p.wake)
}

// reconcile is one pass over all pools.
func (p *Provisioner) reconcile(ctx context.Context) (more bool, err error) {
	if err := p.takePause(ctx); err != nil {
		return false, err
	}
	if more, err = p.fleet.Pass(ctx, now(), nil); err != nil {
		return false, err
	}
	return more, errors.Join(p.noteHealth(ctx), p.noteChecks(ctx))
}

// takePause keeps passes apart that follow each other because the loop was
// woken: while a thousand tasks are being created it need not look a thousand
// times. The first wake after a while is not held up.
func (p *Provisioner) takePause(ctx context.Context) error {
	if left := time.Until(p.last.Add(pause)); left > 0 {
		select {
		case <-time.After(left):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p.last = time.Now()
	return nil
}

// Arrived tells that tasks of a pool became pending, and how many of them had
// been announced by their graphs.
func (p *Provisioner) Arrived(pool string, at timestamp.Time, tasks, known int64) {
	p.fleet.Arrived(pool, at, tasks, known)
}

// Finished tells that a task of a pool has run for d.
func (p *Provisioner) Finished(pool string, at timestamp.Time, kind string, d time.Duration) {
	p.fleet.Finished(pool, at, kind, d)
}

// Loops are the provisioner's background work.
func (p *Provisioner) Loops() []loop.Loop {
	return []loop.Loop{
		{
			Name: "provisioner.reconcile", Doc: "Starts the workers that are needed, ends those that are not, and notices those that have ended.",
			When: loop.Every(interval), Wake: p.db.Waits().Signal(TopicDemand), Pass: p.reconcile,
		},
		{
			Name: "provisioner.expiry", Doc: "Forgets workers that have stopped, and errors, after a week, and decisions after a day, but for the latest.",
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
			`DELETE FROM decision WHERE (worker_pool_id, at) IN (
			   SELECT worker_pool_id, at FROM decision WHERE at < $1
			      AND EXISTS (SELECT 1 FROM decision AS later WHERE later.worker_pool_id = decision.worker_pool_id AND later.at > decision.at) LIMIT $2)`: now().Add(-decisionLife),
			`DELETE FROM tally WHERE (worker_pool_id, at) IN (
			   SELECT worker_pool_id, at FROM tally WHERE at < $1 LIMIT $2)`: now().Add(-recordLife),
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
