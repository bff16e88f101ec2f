package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A registration is what the platform gives a worker that has proved who it is.
type registration struct {
	Credentials  cred.Credentials `json:"credentials"`
	Expires      timestamp.Time   `json:"expires"` // the credentials
	Secret       string           `json:"secret"`  // for the next registration
	WorkerConfig json.RawMessage  `json:"workerConfig"`
}

// enrol gets the worker its credentials and settings: from a registration that
// was kept, if there is one, and else from the platform.
func (w *Worker) enrol(ctx context.Context) error {
	resumed, err := w.recall()
	if err == nil && !resumed {
		err = w.register(ctx)
	} else if err == nil {
		// At once, and not when it is due: should the worker before this one have
		// got a new secret that it could not keep any more, the old one is good for
		// a while only. It also tells whether the worker is still wanted.
		if err = w.renew(ctx); err != nil {
			err = fmt.Errorf("worker: going on with the registration that the worker before this one has kept: %w", err)
		}
	}
	if err == nil {
		err = w.configure()
	}
	if err != nil && w.core.Credentials().ClientID != "" {
		w.leave(ctx, err)
	}
	return err
}

// register turns the proof of identity into credentials.
func (w *Worker) register(ctx context.Context) error {
	c := w.config
	out, err := w.introduce(ctx)
	if err != nil {
		return fmt.Errorf("worker: registering as %s/%s of the pool %s: %w", c.WorkerGroup, c.WorkerID, c.WorkerPoolID, err)
	}
	w.take(registration{cred.Credentials(out.Credentials), out.Expires, out.Secret, out.WorkerConfig})
	w.log.Info("registered", "pool", c.WorkerPoolID, "credentialsExpire", out.Expires)
	return nil
}

// introduce shows the proofs, one after the other, until one is taken. A worker
// that is refused asks again for as long as the platform may take to know it.
func (w *Worker) introduce(ctx context.Context) (*workermanager.RegisterWorkerResponse, error) {
	c := w.config
	proofs := append([]json.RawMessage{c.WorkerIdentityProof}, c.otherProofs...)
	for begin := time.Now(); ; {
		var refusals []error
		for _, proof := range proofs {
			out, err := w.manager.RegisterWorker(ctx, &workermanager.RegisterWorkerRequest{
				WorkerPoolID: c.WorkerPoolID, ProviderID: c.ProviderID, WorkerGroup: c.WorkerGroup, WorkerID: c.WorkerID,
				WorkerIdentityProof: proof,
			})
			if err == nil || !client.IsRefusal(err) {
				return out, err
			}
			refusals = append(refusals, err)
		}
		if time.Since(begin) >= c.recognition {
			return nil, errors.Join(refusals...)
		}
		w.log.Warn("the platform does not take this worker's registration, and will be asked again", "err", refusals[len(refusals)-1])
		select {
		case <-time.After(3 * time.Second):
		case <-ctx.Done():
			return nil, errors.Join(append(refusals, context.Cause(ctx))...)
		}
	}
}

// take puts a registration to use, and keeps it first where there may be another
// worker to go on with it.
func (w *Worker) take(r registration) {
	w.mu.Lock()
	w.registered = r
	w.mu.Unlock()
	w.core.SetCredentials(r.Credentials)
	if !w.config.keep {
		return
	}
	if err := w.retain(r); err != nil {
		w.log.Error("the registration cannot be kept; if the worker has to be started again, it will not be able to go on", "err", err)
	}
}

// configure reads the settings that came with the registration.
func (w *Worker) configure() error {
	var unknown []string
	var err error
	w.settings, unknown, err = parseSettings(w.registered.WorkerConfig)
	if err != nil {
		return &configurationError{err}
	}
	if len(unknown) > 0 {
		w.log.Warn("workerConfig of the pool has properties that mean nothing to this worker", "properties", unknown)
	}
	w.log.Info("ready", "capacity", w.settings.Capacity)
	return nil
}

// reregister renews the credentials when two thirds of their life are over. A
// worker that is refused finishes its tasks, for which it has credentials of
// their own, and ends.
func (w *Worker) reregister() {
	for {
		life := time.Until(w.registered.Expires.Time())
		due := newLease(time.Now(), time.Time{}, time.Now().Add(life))
		if !sleepUntilDue(w.hard, due) {
			return
		}
		err := w.renew(w.hard)
		switch {
		case err == nil:
			continue
		case w.hard.Err() != nil:
			return
		case client.IsRefusal(err):
			w.end(fmt.Errorf("registering again: %w", err))
			return
		default:
			w.fail(errors.Join(errors.New("registering again failed for too long"), err))
			return
		}
	}
}

// renew gets new credentials for the secret.
func (w *Worker) renew(ctx context.Context) error {
	c := w.config
	out, err := w.manager.ReregisterWorker(ctx, &workermanager.ReregisterWorkerRequest{
		WorkerPoolID: c.WorkerPoolID, WorkerGroup: c.WorkerGroup, WorkerID: c.WorkerID, Secret: w.registered.Secret,
	})
	if err != nil {
		return err
	}
	w.take(registration{cred.Credentials(out.Credentials), out.Expires, out.Secret, w.registered.WorkerConfig})
	w.log.Info("registered again", "credentialsExpire", out.Expires)
	return nil
}

// doze is how often a lease is looked at, in case the machine was asleep.
const doze = 20 * time.Second

// sleepUntilDue returns when the lease has to be renewed, or false when ctx ends.
func sleepUntilDue(ctx context.Context, l lease) bool {
	for {
		wait := l.wait(time.Now())
		if wait == 0 {
			return ctx.Err() == nil
		}
		select {
		case <-time.After(min(wait, doze)):
		case <-ctx.Done():
			return false
		}
	}
}
