package provisioner

import (
	"context"
	"fmt"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/store"
)

// An ending is what came of the wish to have a worker end.
type ending struct {
	State   string `json:"state"`
	Claims  int64  `json:"claims"`
	Message string `json:"message"`
}

var drainWorker = api.Declare(api.Spec{
	Name: "drainWorker", Route: "POST /workers/<workerPoolId...>/<workerGroup>/<workerId>/drain", Scopes: manageWorker, Output: "v1/worker-ending.json#",
	Stability: api.Experimental, Category: "Workers", Title: "Drain a worker",
	Doc: `Has a worker end when it is done: it gets no more tasks from this moment on, finishes those that it has and ends. It
cannot be taken back.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[workerPath, api.None]) (out ending, err error) {
	reason := "it was drained by " + c.Caller().ClientID
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		w, err := lockWorker(tx, c.Path.ref())
		if err != nil || over(w, &out) {
			return err
		}
		idle, err := p.queue.Retire(tx, []fleet.Ref{w.Ref})
		if err != nil {
			return fmt.Errorf("having the queue give a worker nothing more: %w", err)
		}
		if _, err := tx.Exec(`
			UPDATE worker SET drained = $5, leave = CASE WHEN leave = '' THEN $4 ELSE leave END
			 WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3`,
			w.WorkerPoolID, w.WorkerGroup, w.WorkerID, reason, len(idle) > 0); err != nil {
			return err
		}
		tx.Wake(TopicDemand, 1)
		out = ending{State: w.State, Message: "It has tasks. It finishes them, gets no more, and then ends."}
		if len(idle) == 0 {
			return nil
		}
		out = ending{State: fleet.Stopping, Message: "It had no task, and ends now."}
		if _, err := move(tx, &w.Worker, fleet.Stopping, reason, now()); err != nil {
			return err
		}
		return p.publishWorker(tx, workerRemoved, &w.Worker, reason)
	})
	if err != nil || out.State == fleet.Stopped {
		return out, err
	}
	out.Claims, err = p.claimsOf(ctx, c.Path.ref())
	return out, err
})

var terminateWorker = api.Declare(api.Spec{
	Name: "terminateWorker", Route: "POST /workers/<workerPoolId...>/<workerGroup>/<workerId>/terminate", Scopes: manageWorker, Output: "v1/worker-ending.json#",
	Stability: api.Experimental, Category: "Workers", Title: "Terminate a worker",
	Doc: `Ends a worker at once, without asking it. Its tasks run again elsewhere, as soon as it is seen to have ended. To let it
hand them back in good order, use removeWorker of the worker-manager; to let it finish them, drainWorker.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[workerPath, api.None]) (out ending, err error) {
	claims, err := p.claimsOf(ctx, c.Path.ref())
	if err != nil {
		return out, err
	}
	reason := "it was terminated by " + c.Caller().ClientID
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		w, err := lockWorker(tx, c.Path.ref())
		if err != nil || w.State == fleet.Stopped && over(w, &out) {
			return err
		}
		out = ending{State: fleet.Stopping, Claims: claims, Message: "It is being ended."}
		if claims > 0 {
			out.Message = "It is being ended. Its tasks run again elsewhere once it has."
		}
		at := now()
		if _, err := p.queue.Retire(tx, []fleet.Ref{w.Ref}); err != nil {
			return fmt.Errorf("having the queue give a worker nothing more: %w", err)
		}
		if _, err := tx.Exec(`UPDATE worker SET ends = $4 WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3`,
			w.WorkerPoolID, w.WorkerGroup, w.WorkerID, at); err != nil {
			return err
		}
		tx.Wake(TopicDemand, 1)
		if w.State == fleet.Stopping {
			return nil
		}
		if _, err := move(tx, &w.Worker, fleet.Stopping, reason, at); err != nil {
			return err
		}
		return p.publishWorker(tx, workerRemoved, &w.Worker, reason)
	})
	return out, err
})

// over fills in what there is to say of a worker that ends or has ended anyway.
func over(w *worker, out *ending) bool {
	switch w.State {
	case fleet.Stopping:
		*out = ending{State: w.State, Message: "It is ending already: " + w.Reason + "."}
	case fleet.Stopped:
		*out = ending{State: w.State, Message: "It has ended: " + w.Reason + "."}
	default:
		return false
	}
	return true
}

// claimsOf is how many tasks a worker runs.
func (p *Provisioner) claimsOf(ctx context.Context, r fleet.Ref) (int64, error) {
	d, err := p.queue.Demand(ctx, now(), []string{r.WorkerPoolID})
	if err != nil || d[r.WorkerPoolID].Of == nil {
		return 0, err
	}
	return d[r.WorkerPoolID].Of(r).Claims, nil
}
