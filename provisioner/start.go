package provisioner

import (
	"context"
	"errors"
	"fmt"

	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
)

// start starts n workers and returns those that did. The rows of all are
// written first. After a failure the rest is called off: what stopped one would
// stop the others.
//
// A crash in between leaves rows without workers and workers whose row does
// not say that they were started; the next pass closes the former and has
// nothing to do about the latter.
func (p *Provisioner) start(ctx context.Context, o *pool, config PoolConfig, n int64) (started []*worker, err error) {
	var list []*worker
	var orders []Order
	for range n {
		w, order := newWorker(o, config)
		list, orders = append(list, w), append(orders, order)
	}
	var changed bool
	if err := p.db.Do(ctx, func(tx *store.Tx) error {
		current, err := lockPool(tx, o.id)
		if err != nil && !isNotFound(err) {
			return err
		}
		if changed = err != nil || current.changed(o); changed {
			return nil
		}
		for _, w := range list {
			if err := w.insert(tx); err != nil {
				return err
			}
			if err := p.publishWorker(tx, workerRequested, w, ""); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if changed {
		return nil, nil // and there will be another pass for it
	}
	p.step("intend")

	var failure error
	for i, order := range orders {
		if failure = p.startOne(ctx, o.providerID, order); failure != nil {
			break
		}
		started = list[:i+1]
		p.step("start")
	}
	p.metrics.starts.WithLabelValues(o.id).Add(float64(len(started)))

	fenced, err := p.noteStarts(ctx, started)
	if err != nil {
		return nil, err
	}
	p.step("note starts")
	for _, w := range fenced {
		// Somebody closed the row meanwhile, so nobody looks after the worker.
		if err := p.stop(ctx, o.providerID, w.Ref, Now); err != nil {
			return nil, err
		}
	}
	return started, p.callOff(ctx, o, list[len(started):], failure)
}

func newWorker(o *pool, config PoolConfig) (*worker, Order) {
	token := slugid.Token()
	w := &worker{
		Ref:        Ref{WorkerPoolID: o.id, WorkerGroup: o.providerID, WorkerID: "w-" + slugid.New()},
		providerID: o.providerID, launchConfigID: o.launchConfigID,
		state: requested, capacity: config.CapacityPerInstance, created: now(), expires: now().Add(recordLife),
		proof: proof{token: hash(token)},
	}
	return w, Order{Ref: w.Ref, ProviderID: o.providerID, Token: token, Config: o.config}
}

func (p *Provisioner) startOne(ctx context.Context, providerID string, order Order) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return p.providers[providerID].Start(ctx, order)
}

// noteStarts records that workers were started, and returns those whose row is
// not open any more.
func (p *Provisioner) noteStarts(ctx context.Context, list []*worker) (fenced []*worker, err error) {
	if len(list) == 0 {
		return nil, nil
	}
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		fenced = nil
		for _, w := range list {
			n, err := tx.Exec(`UPDATE worker SET started = $4
				WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3 AND state <> 'stopped'`,
				w.WorkerPoolID, w.WorkerGroup, w.WorkerID, now())
			if err != nil {
				return err
			}
			if n == 0 {
				fenced = append(fenced, w)
			}
		}
		return nil
	})
	return fenced, err
}

// callOff closes the rows of workers that were not started: the first because
// of failure, the others because of the first.
func (p *Provisioner) callOff(ctx context.Context, o *pool, list []*worker, failure error) error {
	var errs []error
	for i, w := range list {
		e := ending{reason: "the start of another worker failed, so it was not tried"}
		switch {
		case errors.Is(failure, ErrClosing):
			e = ending{reason: failure.Error()}
		case i == 0:
			e = ending{reason: "it could not be started", failedStart: true, complaint: &complaint{
				kind: kindStart, title: "A worker could not be started",
				description: fmt.Sprintf("The provider %s could not start a worker: %v.", o.providerID, failure),
			}}
		}
		_, err := p.close(ctx, o, w, e)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
