package provisioner

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/store"
)

// A view is what one pass sees: first what the providers see, then the rows.
// In this order a worker that is seen had its row written before, so one
// without a row has no business to be there.
type view struct {
	sightings map[string]map[Ref]Sighting // by provider
	blind     map[string]error            // providers that could not tell
	pools     []*pool
	workers   map[string][]*worker // not stopped, by pool, oldest first
}

// reconcile is one pass over all pools.
func (p *Provisioner) reconcile(ctx context.Context) (more bool, err error) {
	if err := p.takePause(ctx); err != nil {
		return false, err
	}
	v, err := p.look(ctx)
	if err != nil {
		return false, err
	}
	p.endStrangers(ctx, v)
	if err := p.noteChecks(ctx, v); err != nil {
		return false, err
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	places := make(chan struct{}, poolsAtOnce)
	for _, o := range v.pools {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			again, err := p.guarded(ctx, v, o)
			if err != nil && ctx.Err() == nil {
				p.complain(ctx, o, err)
			}
			mu.Lock()
			defer mu.Unlock()
			more = more || again && err == nil
		})
	}
	all.Wait()
	p.metrics.forget(v.pools)
	return more, ctx.Err()
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

func (p *Provisioner) look(ctx context.Context) (*view, error) {
	v := &view{sightings: map[string]map[Ref]Sighting{}, blind: map[string]error{}}
	for id, provider := range p.providers {
		if err := p.sight(ctx, v, id, provider); err != nil {
			v.blind[id] = err
			p.log.Error("a provider cannot tell which workers it has", "provider", id, "error", err)
		}
	}
	return v, p.db.View(ctx, func(tx *store.Tx) (err error) {
		if v.pools, err = queryPools(tx, `ORDER BY worker_pool_id`); err != nil {
			return err
		}
		v.workers = map[string][]*worker{}
		list, err := queryWorkers(tx, `WHERE state <> 'stopped' ORDER BY created, worker_group, worker_id`)
		for _, w := range list {
			v.workers[w.WorkerPoolID] = append(v.workers[w.WorkerPoolID], w)
		}
		return err
	})
}

func (p *Provisioner) sight(ctx context.Context, v *view, id string, provider Provider) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	list, err := provider.Workers(ctx)
	if err != nil {
		return err
	}
	seen := make(map[Ref]Sighting, len(list))
	for _, s := range list {
		seen[s.Ref] = s
	}
	v.sightings[id] = seen
	return nil
}

// endStrangers ends the workers that have no open row: left over from a
// database that is not this one, or stopped and not cleared away.
func (p *Provisioner) endStrangers(ctx context.Context, v *view) {
	known := map[string]map[Ref]bool{}
	for _, o := range v.pools {
		for _, w := range v.workers[o.id] {
			if known[w.providerID] == nil {
				known[w.providerID] = map[Ref]bool{}
			}
			known[w.providerID][w.Ref] = true
		}
	}
	for id, seen := range v.sightings {
		for ref, s := range seen {
			if known[id][ref] || ctx.Err() != nil {
				continue
			}
			if s.State == Alive {
				p.log.Warn("ending a worker that the database does not know", "worker", ref.String(), "provider", id)
			}
			if err := p.stop(ctx, id, ref, Now); err != nil {
				p.log.Error("a worker that the database does not know could not be ended; it is tried again", "worker", ref.String(), "provider", id, "error", err)
			}
		}
	}
}

// noteChecks keeps the time at which workers were last looked after, to the
// minute.
func (p *Provisioner) noteChecks(ctx context.Context, v *view) error {
	due := now().Add(-time.Minute)
	for id := range v.sightings {
		stale := false
		for _, list := range v.workers {
			for _, w := range list {
				stale = stale || w.providerID == id && w.lastChecked <= due
			}
		}
		if !stale {
			continue
		}
		if err := p.db.Do(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(`UPDATE worker SET last_checked = $1 WHERE provider_id = $2 AND state <> 'stopped' AND last_checked <= $3`, now(), id, due)
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// guarded reconciles one pool. What goes wrong, even a panic or a provider that
// hangs, is this pool's trouble only.
func (p *Provisioner) guarded(ctx context.Context, v *view, o *pool) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, poolLimit)
	defer cancel()
	defer func() {
		if r := recover(); r != nil {
			p.log.Error("reconciling a worker pool panicked", "pool", o.id, "panic", r, "stack", string(debug.Stack()))
			more, err = false, fmt.Errorf("panic: %v", r)
		}
	}()
	return p.reconcilePool(ctx, v, o)
}

// reconcilePool brings one pool closer to what it should be: what has ended is
// closed, what is to go is made to, and what is missing is started.
func (p *Provisioner) reconcilePool(ctx context.Context, v *view, o *pool) (more bool, err error) {
	var trouble error // of a single worker; it does not keep the others waiting
	var live []*worker
	for _, w := range v.workers[o.id] {
		stays, err := p.tend(ctx, v, o, w)
		if err != nil {
			trouble = fmt.Errorf("worker %s/%s: %w", w.WorkerGroup, w.WorkerID, err)
		}
		if stays {
			live = append(live, w)
		}
	}
	if o.going() {
		p.metrics.show(o, live, Inputs{}, Decision{})
		if len(live) == 0 && trouble == nil {
			return false, p.remove(ctx, o)
		}
		return false, trouble
	}
	if p.providers[o.providerID] == nil {
		return false, fmt.Errorf("the pool's provider %s is not configured on this server; configure it, or give the pool one of %v", o.providerID, p.providerIDs())
	}
	if err := v.blind[o.providerID]; err != nil {
		return false, fmt.Errorf("the provider %s cannot tell which workers there are: %w", o.providerID, err)
	}
	config, err := ParseConfig(o.config)
	if err != nil {
		return false, err
	}
	in, err := p.measure(ctx, o, config, live)
	if err != nil {
		return false, err
	}
	d := Size(in)
	p.metrics.show(o, live, in, d)
	n := allowed(o, live, d.Start)
	if n == 0 {
		return false, trouble
	}
	p.log.Info("starting workers", "pool", o.id, "workers", n, "wanted", d.Start, "reason", d.Reason)
	started, err := p.start(ctx, o, config, n)
	if err != nil {
		return false, err
	}
	p.metrics.show(o, append(live, started...), in, d)
	return int64(len(started)) == n && n < d.Start && o.failures == 0, trouble
}

// measure makes Size's inputs of the pool's workers, each counted once. Those
// that were made from something else than the pool's workers are now take room
// and do not help.
func (p *Provisioner) measure(ctx context.Context, o *pool, config PoolConfig, live []*worker) (Inputs, error) {
	in := Inputs{
		Min: config.MinCapacity, Max: *config.MaxCapacity,
		ScalingRatio: config.ScalingRatio, CapacityPerWorker: config.CapacityPerInstance,
	}
	var err error
	if in.Pending, in.Claimed, err = p.queue.Pending(ctx, o.id); err != nil {
		return in, fmt.Errorf("asking the queue for what is pending: %w", err)
	}
	for _, w := range live {
		switch {
		case w.state == stopping || !o.made(w):
			in.Stopping += w.capacity
		case w.state == requested:
			in.Requested += w.capacity
		default:
			in.Running += w.capacity
		}
	}
	return in, nil
}

// allowed is how many of n wanted workers may start now. A pool whose starts
// fail waits, and then tries with one worker at a time.
func allowed(o *pool, live []*worker, n int64) int64 {
	switch {
	case o.failures == 0:
		return min(n, startBatch)
	case now() < o.startAfter:
		return 0
	}
	for _, w := range live {
		if o.made(w) && !w.proven && w.state != stopping {
			return 0 // this one is the try
		}
	}
	return min(n, 1)
}

// remove deletes a pool that is going and has no workers left.
func (p *Provisioner) remove(ctx context.Context, o *pool) error {
	err := p.db.Do(ctx, func(tx *store.Tx) error {
		if _, err := lockPool(tx, o.id); isNotFound(err) { // so that no worker is added
			return nil
		} else if err != nil {
			return err
		}
		_, err := tx.Exec(`
			DELETE FROM worker_pool
			 WHERE worker_pool_id = $1 AND provider_id = $2
			   AND NOT EXISTS (SELECT 1 FROM worker WHERE worker_pool_id = $1 AND state <> 'stopped')`, o.id, nullProvider)
		return err
	})
	if err != nil {
		return err
	}
	p.step("remove pool")
	p.mu.Lock()
	delete(p.said, o.id)
	p.mu.Unlock()
	p.log.Info("a worker pool is gone", "pool", o.id)
	return nil
}

// stop calls a provider's Stop with a limit.
func (p *Provisioner) stop(ctx context.Context, providerID string, r Ref, how Manner) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return p.providers[providerID].Stop(ctx, r, how)
}
