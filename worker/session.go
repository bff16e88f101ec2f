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

// registration is what there is to renew.
type registration struct {
	expires timestamp.Time
	secret  string
}

// register turns the proof of identity into credentials and learns the settings.
func (w *Worker) register(ctx context.Context) error {
	c := w.config
	out, err := w.manager.RegisterWorker(ctx, &workermanager.RegisterWorkerRequest{
		WorkerPoolID: c.WorkerPoolID, ProviderID: c.ProviderID, WorkerGroup: c.WorkerGroup, WorkerID: c.WorkerID,
		WorkerIdentityProof: c.WorkerIdentityProof,
	})
	if err != nil {
		return fmt.Errorf("worker: registering as %s/%s of the pool %s: %w", c.WorkerGroup, c.WorkerID, c.WorkerPoolID, err)
	}
	w.core.SetCredentials(cred.Credentials(out.Credentials))
	w.registered = registration{out.Expires, out.Secret}
	var unknown []string
	w.settings, unknown, err = parseSettings(out.WorkerConfig)
	if err != nil {
		w.tell(ctx, "configuration-error", "The worker cannot use the pool's workerConfig", err)
		return fmt.Errorf("worker: %w", err)
	}
	if len(unknown) > 0 {
		w.log.Warn("workerConfig of the pool has properties that mean nothing to this worker", "properties", unknown)
	}
	w.log.Info("registered", "pool", c.WorkerPoolID, "capacity", w.settings.Capacity, "credentialsExpire", out.Expires)
	return nil
}

// tell leaves a note with the worker pool, for whoever looks why it does not work.
func (w *Worker) tell(ctx context.Context, kind, title string, problem error) {
	ctx, stop := context.WithTimeout(ctx, 10*time.Second)
	defer stop()
	_, err := w.manager.ReportWorkerError(ctx, w.config.WorkerPoolID, &workermanager.ReportWorkerErrorRequest{
		WorkerGroup: w.config.WorkerGroup, WorkerID: w.config.WorkerID,
		Kind: kind, Title: title, Description: problem.Error(), Extra: json.RawMessage("{}"),
	})
	if err != nil {
		w.log.Warn("the error could not be reported to the worker pool", "err", err)
	}
}

// reregister renews the credentials when two thirds of their life are over. A
// worker that is refused finishes its tasks, for which it has credentials of
// their own, and ends.
func (w *Worker) reregister() {
	c := w.config
	for {
		life := time.Until(w.registered.expires.Time())
		renew := newLease(time.Now(), time.Time{}, time.Now().Add(life))
		if !sleepUntilDue(w.hard, renew) {
			return
		}
		out, err := w.manager.ReregisterWorker(w.hard, &workermanager.ReregisterWorkerRequest{
			WorkerPoolID: c.WorkerPoolID, WorkerGroup: c.WorkerGroup, WorkerID: c.WorkerID, Secret: w.registered.secret,
		})
		switch {
		case err == nil:
			w.core.SetCredentials(cred.Credentials(out.Credentials))
			w.registered = registration{out.Expires, out.Secret}
			w.log.Info("registered again", "credentialsExpire", out.Expires)
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
