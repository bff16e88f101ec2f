package worker

import (
	"context"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/cred"
)

// glancePatience is for the status of a run.
const glancePatience = 5 * time.Second

// keepClaim renews the claim until the run is over. In between it looks whether
// the run was resolved otherwise, as the next renewal, which will tell too, may
// be a quarter of an hour away.
func (r *run) keepClaim() {
	started := time.Time{}
	for _, run := range r.claim.Status.Runs {
		if run.RunID == r.runID {
			started = run.Started.Time()
		}
	}
	l := newLease(time.Now(), started, r.claim.TakenUntil.Time())
	look := true
	for {
		wait := l.wait(time.Now())
		select {
		case <-r.claimed.Done():
			return
		case <-time.After(min(wait, r.worker.config.glance)):
		}
		if wait > r.worker.config.glance {
			look = look && r.glance()
			continue
		}
		asked := time.Now()
		out, err := r.queue.ReclaimTask(r.claimed, r.taskID, r.runID)
		switch {
		case err == nil:
			r.core.SetCredentials(cred.Credentials(out.Credentials))
			l = l.renewed(asked, out.TakenUntil.Time())
			r.log.Debug("claim renewed", "takenUntil", out.TakenUntil)
		case r.claimed.Err() != nil:
			return
		case client.IsRefusal(err):
			r.lost(err)
			return
		default:
			r.worker.fail(fmt.Errorf("renewing the claim of task %s failed for too long: %w", r.taskID, err))
			return
		}
	}
}

func (r *run) lost(why error) {
	r.log.Info("the claim is lost", "why", why)
	r.lose(fmt.Errorf("%w: %w", errLost, why))
}

// glance looks at the run's status. It reports whether there is a point in
// doing that again: who may is for the platform to say.
func (r *run) glance() bool {
	ctx, stop := context.WithTimeout(r.claimed, glancePatience)
	defer stop()
	out, err := r.queue.Status(ctx, r.taskID)
	if err != nil {
		return !client.IsRefusal(err)
	}
	for _, run := range out.Status.Runs {
		if run.RunID == r.runID && run.State != "running" {
			r.lost(fmt.Errorf("the run was resolved as %s (%s)", run.State, run.ReasonResolved))
			return false
		}
	}
	return true
}

// A lease is a claim's remaining life. It is reckoned in durations: how long the
// queue gave, by the queue's clock, and how long that is ago, by the monotonic
// clock here. So neither a clock that is wrong nor one that is put right makes a
// renewal late. The wall clock has one say only: if it has advanced and the
// monotonic one has not, the machine was asleep, and the renewal is due.
type lease struct {
	until time.Time     // by the queue's clock
	given time.Duration // when the task was claimed
	left  time.Duration // at the time at
	at    time.Time
}

// newLease is that of a claim that the queue made at started and that was
// received now.
func newLease(now, started, until time.Time) lease {
	given := until.Sub(started)
	if started.IsZero() || given <= 0 {
		given = until.Sub(now) // by two clocks, for want of something better
	}
	given = max(given, time.Second)
	return lease{until: until, given: given, left: given, at: now}
}

// renewed is the lease after a renewal that was asked for at the time asked.
func (l lease) renewed(asked, until time.Time) lease {
	left := l.left - asked.Sub(l.at) + until.Sub(l.until)
	return lease{until: until, given: l.given, left: min(max(left, time.Second), l.given), at: asked}
}

// wait is how long to wait before the lease has to be renewed: until a third of
// it is left.
func (l lease) wait(now time.Time) time.Duration {
	due := l.left * 2 / 3
	elapsed := max(0, now.Sub(l.at), now.Round(0).Sub(l.at.Round(0)))
	return max(due-elapsed, 0)
}
