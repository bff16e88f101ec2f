package provisioner

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A workerDefinition is what is said of a worker that nobody starts.
type workerDefinition struct {
	Expires      timestamp.Time  `json:"expires"`
	Capacity     *int64          `json:"capacity"` // nil: 1, or unchanged
	ProviderInfo json.RawMessage `json:"providerInfo"`
}

var createWorker = api.Declare(api.Spec{
	Name: "createWorker", Route: "PUT /workers/<workerPoolId...>/<workerGroup>/<workerId>",
	Scopes: scope.Scope("worker-manager:create-worker:<workerPoolId>/<workerGroup>/<workerId>"),
	Input:  "v1/create-worker-request.json#", Output: "v1/worker-full.json#",
	Stability: api.Stable, Category: "Workers", Title: "Make a worker known", Private: true,
	Doc: `Makes a worker known that is there already, to a pool whose provider starts none, such as ` + "`static`" + `. It is running from
then on, and may register, again and again, until it expires.

The call can be repeated with the same definition; with another one it is refused, use updateWorker. The name of a
worker that has stopped can be used again.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[workerPath, workerDefinition]) (out workerDescription, err error) {
	if err := c.Body.check(); err != nil {
		return out, err
	}
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		o, err := lockPool(tx, c.Path.WorkerPoolID)
		if err != nil {
			return err
		}
		w, err := p.makeKnown(o, c.Path.ref(), c.Body)
		if err != nil {
			return err
		}
		before, err := lockWorker(tx, w.Ref)
		switch {
		case err == nil && before.State != fleet.Stopped:
			out = describeWorker(&before.Worker)
			return before.conflict(w)
		case err == nil:
			_, err = tx.Exec(`DELETE FROM worker WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3`, w.WorkerPoolID, w.WorkerGroup, w.WorkerID)
		case isNotFound(err):
			err = nil
		}
		if err != nil {
			return err
		}
		if err := p.queue.Admit(tx, w.Ref); err != nil {
			return fmt.Errorf("having the queue give a worker tasks: %w", err)
		}
		if err := insertWorker(tx, w); err != nil {
			return err
		}
		out = describeWorker(w)
		tx.Wake(TopicDemand, 1)
		return p.publishWorker(tx, workerRunning, w, "")
	})
	return out, err
})

// check says what is wrong with a definition, whichever provider it is for.
func (d *workerDefinition) check() error {
	switch {
	case d.Expires <= now():
		return api.Errorf(api.InputError, "expires is %s, which is over; a worker has to be known for a while.", d.Expires)
	case d.Capacity != nil && *d.Capacity < 1:
		return api.Errorf(api.InputError, "capacity is %d; a worker runs at least one task.", *d.Capacity)
	case d.Capacity != nil && *d.Capacity > fleet.MostPerWorker:
		return api.Errorf(api.InputError, "capacity is %d; a worker runs at most %d tasks at once.", *d.Capacity, fleet.MostPerWorker)
	}
	return nil
}

// accepting is the provider of a pool whose workers somebody makes known.
func (p *Provisioner) accepting(o *fleet.Pool) (fleet.Manual, error) {
	manual, ok := p.providers[o.ProviderID].(fleet.Manual)
	if o.Going() {
		return nil, api.Errorf(api.InputError, "The worker pool %s is being deleted. Create it again first.", o.ID)
	}
	if !ok || len(o.LaunchConfigs) == 0 {
		return nil, api.Errorf(api.InputError, "The provider %s of the worker pool %s makes its workers itself; nobody else can. Workers that are there already belong into a pool of the static provider.", o.ProviderID, o.ID)
	}
	return manual, nil
}

// makeKnown makes the row of a worker from what is said of it.
func (p *Provisioner) makeKnown(o *fleet.Pool, r fleet.Ref, d workerDefinition) (*fleet.Worker, error) {
	manual, err := p.accepting(o)
	if err != nil {
		return nil, err
	}
	facts, err := manual.Accept(r, d.ProviderInfo)
	if err != nil {
		return nil, api.Errorf(api.InputError, "The definition of the worker does not fit the provider %s: %v.", o.ProviderID, err)
	}
	w := &fleet.Worker{
		Ref: r, ProviderID: o.ProviderID, LaunchConfigID: o.LaunchConfigs[0].ID, State: fleet.Running, Capacity: 1, Facts: facts,
		Created: now(), LastModified: now(), LastChecked: now(), Expires: d.Expires,
	}
	if d.Capacity != nil {
		w.Capacity = *d.Capacity
	}
	return w, nil
}

// conflict says what keeps a worker from being taken for another one.
func (w *worker) conflict(other *fleet.Worker) error {
	field := ""
	switch {
	case w.ProviderID != other.ProviderID:
		return api.Errorf(api.RequestConflict, "There is a worker %s that the provider %s has made. Choose another name, or remove it first.", w.Ref, w.ProviderID)
	case w.State == fleet.Stopping:
		return api.Errorf(api.RequestConflict, "The worker %s of this name is stopping: %s. Call again when it has stopped.", w.Ref, w.Reason)
	case !sameJSON(w.Facts, other.Facts):
		field = "providerInfo"
	case w.Capacity != other.Capacity:
		field = "capacity"
	case w.Expires != other.Expires:
		field = "expires"
	default:
		return nil
	}
	return api.Errorf(api.RequestConflict, "The worker %s exists with another %s. Change it with updateWorker.", w.Ref, field)
}

var updateWorker = api.Declare(api.Spec{
	Name: "updateWorker", Route: "POST /workers/<workerPoolId...>/<workerGroup>/<workerId>",
	Scopes: scope.Scope("worker-manager:update-worker:<workerPoolId>/<workerGroup>/<workerId>"),
	Input:  "v1/create-worker-request.json#", Output: "v1/worker-full.json#",
	Stability: api.Stable, Category: "Workers", Title: "Change what is known of a worker", Private: true,
	Doc: `Changes when a worker expires that createWorker made known, its capacity, and with ` + "`providerInfo`" + ` the secret that it
registers with. What is left out stays as it is. Credentials that the worker has are good for as long as they were.`,
}, func(ctx context.Context, p *Provisioner, c api.Call[workerPath, workerDefinition]) (out workerDescription, err error) {
	if err := c.Body.check(); err != nil {
		return out, err
	}
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		o, err := lockPool(tx, c.Path.WorkerPoolID)
		if err != nil {
			return err
		}
		manual, err := p.accepting(o)
		if err != nil {
			return err
		}
		w, err := lockWorker(tx, c.Path.ref())
		switch {
		case err != nil:
			return err
		case w.ProviderID != o.ProviderID || w.State != fleet.Running:
			return api.Errorf(api.RequestConflict, "The worker %s is %s and was made known to the provider %s; only those that run, of the pool's provider, can be changed.", w.Ref, w.State, w.ProviderID)
		}
		if len(c.Body.ProviderInfo) > 0 {
			if w.Facts, err = manual.Accept(w.Ref, c.Body.ProviderInfo); err != nil {
				return api.Errorf(api.InputError, "The definition of the worker does not fit the provider %s: %v.", o.ProviderID, err)
			}
		}
		if c.Body.Capacity != nil {
			w.Capacity = *c.Body.Capacity
		}
		w.Expires = c.Body.Expires
		out = describeWorker(&w.Worker)
		_, err = tx.Exec(`UPDATE worker SET facts = $4, capacity = $5, expires = $6 WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3`,
			w.WorkerPoolID, w.WorkerGroup, w.WorkerID, string(w.Facts), w.Capacity, w.Expires)
		return err
	})
	return out, err
})
