package provisioner

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/store"
)

// tend does what a pass has to do about one worker, and reports whether there
// still is one.
func (p *Provisioner) tend(ctx context.Context, v *view, o *pool, w *worker) (stays bool, err error) {
	switch {
	case p.providers[w.providerID] == nil && now() >= w.expires:
		return p.close(ctx, o, w, ending{reason: "nobody has looked after it until its credentials expired"})
	case p.providers[w.providerID] == nil:
		return true, fmt.Errorf("its provider %s is not configured on this server; configure it so that the worker can be looked after, or wait until the worker's credentials expire at %s", w.providerID, w.expires)
	case v.blind[w.providerID] != nil:
		return true, nil // reported with the pool, or by the log
	}
	s, seen := v.sightings[w.providerID][w.Ref]
	if !seen || s.State != Alive {
		return p.lost(ctx, o, w, s, seen)
	}
	switch w.state {
	case requested:
		return p.tendRequested(ctx, o, w)
	case running:
		return p.tendRunning(ctx, o, w)
	default:
		return p.tendStopping(ctx, o, w)
	}
}

// tendRequested gives up a worker that takes too long to register, and one that
// nobody wants any more.
func (p *Provisioner) tendRequested(ctx context.Context, o *pool, w *worker) (stays bool, err error) {
	config, err := ParseConfig(o.config)
	switch patience := config.registrationTimeout(); {
	case !o.made(w):
		return p.end(ctx, o, w, "it is not wanted any more", nil)
	case err != nil:
		return true, err
	case now().Sub(w.created) >= patience:
		reason := fmt.Sprintf("it did not register within %v", patience)
		return p.end(ctx, o, w, reason, &complaint{
			kind: kindRegistration, title: "A worker did not register",
			description: fmt.Sprintf("The worker was started %v ago and has not registered; it was ended. Look at its log, and whether it can reach the server.", patience),
		})
	}
	return true, nil
}

// tendRunning notices that a worker has proven itself, or that its time is up.
func (p *Provisioner) tendRunning(ctx context.Context, o *pool, w *worker) (stays bool, err error) {
	if now() >= w.expires {
		return p.end(ctx, o, w, "it did not register again before its credentials expired", &complaint{
			kind: kindExpired, title: "A worker's credentials expired",
			description: fmt.Sprintf("The worker had to register again before %v and did not; it was ended.", w.expires),
		})
	}
	if !w.proven && now().Sub(w.registered) >= proofTime {
		err := p.db.Do(ctx, func(tx *store.Tx) error { return prove(tx, o, w) })
		if err != nil {
			return true, err
		}
		p.step("prove")
		w.proven, o.failures = true, 0
	}
	return true, nil
}

// prove records that a worker works, and with it that starts do not fail any
// more.
func prove(tx *store.Tx, o *pool, w *worker) error {
	if _, err := tx.Exec(`UPDATE worker SET proven = TRUE WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3`,
		w.WorkerPoolID, w.WorkerGroup, w.WorkerID); err != nil {
		return err
	}
	if !o.made(w) {
		return nil // says nothing about those that start now
	}
	_, err := tx.Exec(`UPDATE worker_pool SET failures = 0, start_after = 0 WHERE worker_pool_id = $1 AND launch_config_id = $2 AND failures > 0`, o.id, w.launchConfigID)
	return err
}

// tendStopping asks a worker to end, once, and ends it if it does not. One that
// said that it leaves is not disturbed.
func (p *Provisioner) tendStopping(ctx context.Context, o *pool, w *worker) (stays bool, err error) {
	switch {
	case w.asked == 0 && w.reason != saidGoodbye:
		if err := p.stop(ctx, w.providerID, w.Ref, Gracefully); err != nil {
			return true, err
		}
		p.step("ask to end")
		err := p.db.Do(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(`UPDATE worker SET asked = $4 WHERE worker_pool_id = $1 AND worker_group = $2 AND worker_id = $3`,
				w.WorkerPoolID, w.WorkerGroup, w.WorkerID, now())
			return err
		})
		if err == nil {
			p.step("note that it was asked")
		}
		return true, err
	case now().Sub(max(w.asked, w.lastModified)) >= stopGrace:
		return p.close(ctx, o, w, ending{})
	}
	return true, nil
}

// lost closes a worker that its provider does not have, or has dead, and judges
// by the way it ended whether its kind works.
func (p *Provisioner) lost(ctx context.Context, o *pool, w *worker, s Sighting, seen bool) (stays bool, err error) {
	how, _, _ := strings.Cut(s.Detail, "\n") // the rest is in the error
	e := ending{reason: shorten(how, 200)}
	switch {
	case w.state == stopping:
		e.reason = w.reason
	case !seen && w.started == 0:
		e.reason = "it was never started: the server stopped before"
	case !seen:
		e.reason = "its provider does not know it"
	}
	exited, failed := seen && s.State == Exited, seen && s.State == Failed
	left := w.state == running && exited || w.state == stopping && w.reason == saidGoodbye
	lived := now().Sub(w.registered)
	if w.state == stopping {
		lived = w.lastModified.Sub(w.registered)
	}
	switch {
	case !o.made(w):
		// says nothing about those that start now
	case w.state == requested && (exited || failed):
		e.failedStart = true
		e.complaint = &complaint{kind: kindRegistration, title: "A worker ended before it registered", description: "The worker ended before it registered: " + s.Detail}
	case left && lived < timeForNothing && (exited || failed):
		e.failedStart = true
		e.complaint = &complaint{kind: kindDied, title: "A worker left at once", description: fmt.Sprintf("The worker left within %v of registering, without being asked to. Look at its configuration and its log. %s", timeForNothing, s.Detail)}
	case left:
		e.proven = true
	case w.state == running && failed:
		e.failedStart = !w.proven && lived < proofTime
		e.complaint = &complaint{kind: kindDied, title: "A worker ended in failure", description: "The worker ended unasked: " + s.Detail}
	}
	return p.close(ctx, o, w, e)
}

// end takes a worker's row out of the state it is in, and then ends the worker.
// Where the row has changed meanwhile (it registered after all) nothing happens.
func (p *Provisioner) end(ctx context.Context, o *pool, w *worker, reason string, c *complaint) (stays bool, err error) {
	var moved bool
	err = p.db.Do(ctx, func(tx *store.Tx) error {
		var err error
		if moved, err = w.move(tx, stopping, reason); err != nil || !moved {
			return err
		}
		if err := p.publishWorker(tx, workerRemoved, w, reason); err != nil || c == nil {
			return err
		}
		return p.blame(tx, o, w, *c, w.state == requested)
	})
	if err != nil || !moved {
		return true, err
	}
	p.step("decide to end")
	w.state, w.reason = stopping, reason
	return p.close(ctx, o, w, ending{reason: reason})
}

// An ending is how a worker's life ends in the books.
type ending struct {
	reason      string     // "": the one that the row has
	complaint   *complaint // if something was wrong
	failedStart bool       // the pool waits before it starts another
	proven      bool       // the worker did what workers are for
}

// close makes sure that nothing of a worker is left, hands its claims back and
// closes its row, in this order: a task must not run again while it still runs.
func (p *Provisioner) close(ctx context.Context, o *pool, w *worker, e ending) (stays bool, err error) {
	if p.providers[w.providerID] != nil {
		if err := p.stop(ctx, w.providerID, w.Ref, Now); err != nil {
			return true, err
		}
		p.step("end")
	}
	if err := p.queue.WorkerGone(ctx, w.WorkerPoolID, w.WorkerGroup, w.WorkerID); err != nil {
		return true, fmt.Errorf("handing its claims back to the queue: %w", err)
	}
	p.step("hand claims back")
	err = p.db.Do(ctx, func(tx *store.Tx) error { return p.closeRow(tx, o, w, e) })
	if err != nil {
		return true, err
	}
	p.step("close")
	p.log.Info("a worker is gone", "worker", w.Ref.String(), "reason", cmp.Or(e.reason, w.reason))
	return false, nil
}

func (p *Provisioner) closeRow(tx *store.Tx, o *pool, w *worker, e ending) error {
	e.reason = cmp.Or(e.reason, w.reason)
	now, err := lockWorker(tx, w.Ref)
	if err != nil || now.state == stopped {
		return err
	}
	if now.state == stopping && w.state != stopping {
		// It was removed while we looked: that it ended is no failure.
		e.reason, e.complaint, e.failedStart = now.reason, nil, false
	}
	if _, err := now.move(tx, stopped, e.reason); err != nil {
		return err
	}
	if err := p.publishWorker(tx, workerStopped, now, ""); err != nil {
		return err
	}
	if e.proven && !now.proven {
		if err := prove(tx, o, now); err != nil {
			return err
		}
	}
	if e.complaint != nil {
		return p.blame(tx, o, now, *e.complaint, e.failedStart)
	}
	return nil
}

// blame records what was wrong with a worker, and makes the pool wait if that
// speaks against starting more of its kind.
func (p *Provisioner) blame(tx *store.Tx, o *pool, w *worker, c complaint, failed bool) error {
	if failed {
		wait, err := o.failedStart(tx)
		if err != nil {
			return err
		}
		c.description += "\n\n" + wait
		tx.AfterCommit(func() {
			p.metrics.failures.WithLabelValues(o.id).Inc()
			time.AfterFunc(o.startAfter.Sub(now()), p.wake)
		})
	}
	_, err := p.record(tx, o, w, c)
	return err
}
