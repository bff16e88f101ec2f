// Package loop runs background work: what the platform does without being
// asked. All of it is one kind of thing.
//
// A Loop is a bounded pass and a schedule. A Runner runs each loop on one
// replica of the platform at a time, which a Lease sees to, unless the loop is
// for every replica by itself, as keeping a cache fresh is; a pass at a time,
// again at once while the pass says that there is more to do; when the
// schedule says so or when the loop is woken; and after a failure later and
// later, up to a minute, until it succeeds. A panic is a failure.
//
// # What a pass can rely on
//
// Passes of one loop do not overlap, neither here nor, as long as clocks agree
// and passes heed their context, among replicas: the lease is renewed while a
// pass runs, and a pass whose lease is lost has its context ended. One that
// goes on regardless, long after its limit, is given up: its lease is left to
// others. So there may be two in the worst case, and a replica may stop between
// doing its work and remembering so: a pass does no harm when it is run twice.
//
// A pass may come earlier and more often than the schedule says: at the start,
// when another replica takes over, when woken. It does not come less often
// while there is a replica that succeeds.
//
// When the context of Run ends, so do those of the passes; Run returns after
// they have, and gives the leases back, so that another replica takes over
// without waiting for them to expire.
package loop

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// A Loop is one kind of background work.
type Loop struct {
	// Name tells the loop from all others, on all replicas, say
	// "queue/expire-claims". Doc says in a sentence what it does.
	Name, Doc string

	// When says when passes are due: Every or Cron.
	When Schedule

	// Wake, if there is one, makes a pass due at once. What it receives while
	// a pass runs, while the loop backs off, or while another replica has it,
	// should stay buffered: one element is enough.
	Wake <-chan struct{}

	// Pass does a bounded amount of work and tells whether there is more that
	// could be done now.
	Pass func(ctx context.Context) (more bool, err error)

	// Limit bounds the time of a pass, whose context ends then. Zero means
	// five minutes.
	Limit time.Duration

	// Pace is how far apart passes are that follow wakes, once there have been many:
	// while things come one by one each is taken care of when it comes, and while
	// they come in crowds a pass takes care of a crowd. So a loop costs little at any
	// rate, and at a high one takes that long. Zero is no pace.
	Pace time.Duration

	// EveryReplica has each replica run the loop for itself, without a lease.
	EveryReplica bool

	// MaxBackoff is the longest wait after passes that failed; a minute where it
	// is zero.
	MaxBackoff time.Duration
}

// A Lease keeps a loop to one replica at a time: a store.Lease, or Alone.
type Lease interface {
	// Hold takes or renews the lease called name for ttl from now, and returns
	// false if another replica has it.
	Hold(ctx context.Context, name string, ttl time.Duration) (bool, error)

	// Release gives it up.
	Release(ctx context.Context, name string) error
}

// Alone is the lease of a platform that has no replicas.
var Alone Lease = alone{}

type alone struct{}

func (alone) Hold(context.Context, string, time.Duration) (bool, error) { return true, nil }
func (alone) Release(context.Context, string) error                     { return nil }

const (
	leaseTTL     = 30 * time.Second
	leaseRenewal = leaseTTL / 3
	standby      = 5 * time.Second // between attempts to take the lease from another
	firstBackoff = time.Second
	maxBackoff   = time.Minute
	defaultLimit = 5 * time.Minute
)

var (
	errLeaseLost = errors.New("the lease was lost to another replica, or could not be renewed in time")
	errHanging   = errors.New("the pass goes on long after its context ended")
)

// A runningLoop is a loop under way on this replica.
type runningLoop struct {
	Loop
	log     *slog.Logger
	lease   Lease
	status  *status
	metrics *metrics
	pace    pace
}

// run takes turns with the other replicas until ctx ends.
func (l *runningLoop) run(ctx context.Context) {
	defer l.status.set(Stopped)
	for failures := 0; ctx.Err() == nil; {
		asked := time.Now()
		held, err := l.take(ctx, leaseTTL)
		switch {
		case err != nil && ctx.Err() != nil:
			return
		case err != nil:
			failures++
			wait := backoff(failures, maxBackoff)
			l.log.Error("cannot take the lease of the loop", "error", err, "retry", wait)
			l.status.failed(fmt.Errorf("take the lease: %w", err), time.Now().Add(wait))
			sleep(ctx, wait)
		case !held:
			failures = 0
			l.status.set(HeldElsewhere)
			sleep(ctx, standby)
		default:
			failures = 0
			l.hold(ctx, asked.Add(leaseTTL))
		}
	}
}

// take takes or renews the lease, if the answer comes within the patience.
func (l *runningLoop) take(ctx context.Context, patience time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return l.lease.Hold(ctx, l.Name, leaseTTL)
}

// hold runs passes for as long as this replica has the lease.
func (l *runningLoop) hold(ctx context.Context, expires time.Time) {
	l.metrics.held.Set(1)
	defer l.metrics.held.Set(0)
	held, lose := context.WithCancelCause(ctx)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		if err := l.renew(held, expires); err != nil {
			l.log.Error("stopping the loop on this replica", "error", err)
			lose(err)
		}
	}()
	l.passes(held)
	lose(nil)
	<-renewed
	l.release(ctx)
}

// renew keeps the lease until held ends, or returns why it is lost: early
// enough for the pass to end before the lease does.
func (l *runningLoop) renew(held context.Context, expires time.Time) error {
	for sleep(held, leaseRenewal) {
		if l.hanging() {
			return errHanging
		}
		asked := time.Now()
		ok, err := l.take(held, leaseRenewal)
		switch {
		case held.Err() != nil:
			return nil
		case err == nil && ok:
			expires = asked.Add(leaseTTL)
		case err == nil:
			return errLeaseLost
		case time.Until(expires) <= leaseRenewal:
			return fmt.Errorf("%w: %w", errLeaseLost, err)
		default:
			l.log.Warn("cannot renew the lease of the loop", "error", err, "expires", expires)
		}
	}
	return nil
}

func (l *runningLoop) hanging() bool {
	s := l.status.snapshot()
	return s.State == Running && time.Since(s.LastStart) > l.limit()+leaseTTL
}

func (l *runningLoop) limit() time.Duration {
	if l.Limit > 0 {
		return l.Limit
	}
	return defaultLimit
}

// release gives the lease up, also when ctx has ended. If it was lost, this
// does nothing.
func (l *runningLoop) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := l.lease.Release(ctx, l.Name); err != nil {
		l.log.Warn("cannot release the lease of the loop; other replicas wait until it expires", "error", err, "in", leaseTTL)
	}
}

// passes runs pass after pass, as they become due, until ctx ends.
func (l *runningLoop) passes(ctx context.Context) {
	failures := 0
	due := l.When.first(time.Now())
	for {
		l.status.due(due)
		if !l.wait(ctx, due) {
			return
		}
		more, err := l.pass(ctx)
		for more && err == nil && ctx.Err() == nil {
			more, err = l.pass(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			failures = 0
			due = l.When.Next(time.Now())
			continue
		}
		failures++
		wait := backoff(failures, cmp.Or(l.MaxBackoff, maxBackoff))
		l.status.failed(err, time.Now().Add(wait))
		if !sleep(ctx, wait) { // no wake cuts this short: whoever wakes does not know that it fails
			return
		}
		due = time.Now()
	}
}

// wait waits until due, for ever if that is the zero time, or until woken.
func (l *runningLoop) wait(ctx context.Context, due time.Time) bool {
	var timer <-chan time.Time
	if !due.IsZero() {
		left := time.Until(due)
		if left <= 0 {
			l.takeWake()
			return ctx.Err() == nil
		}
		timer = time.After(left)
	}
	for {
		select {
		case <-timer:
			l.takeWake()
			return ctx.Err() == nil
		case _, open := <-l.Wake:
			if open {
				if rest := l.pace.rest(l.Pace, time.Now()); rest > 0 {
					sleep(ctx, rest)
					l.takeWake()
				}
				return ctx.Err() == nil
			}
			l.Wake = nil // nobody will wake the loop any more
		case <-ctx.Done():
			return false
		}
	}
}

// A pace tells how long to rest before a pass.
type pace struct {
	credit time.Duration // how much time passes may still take out
	last   time.Time
}

// paceCredit is how many passes come at once before the pace holds.
const paceCredit = 200

func (p *pace) rest(interval time.Duration, now time.Time) time.Duration {
	full := paceCredit * interval
	if p.last.IsZero() {
		p.credit = full
	} else {
		p.credit = min(full, p.credit+now.Sub(p.last))
	}
	p.last = now
	p.credit -= interval
	return max(-p.credit, 0)
}

// takeWake takes a wake that waits: the pass will see what it was about.
func (l *runningLoop) takeWake() {
	select {
	case _, open := <-l.Wake:
		if !open {
			l.Wake = nil
		}
	default:
	}
}

// pass runs one pass and accounts for it.
func (l *runningLoop) pass(ctx context.Context) (more bool, err error) {
	start := time.Now()
	l.status.started(start)
	limited, cancel := context.WithTimeoutCause(ctx, l.limit(), fmt.Errorf("the pass took longer than %v", l.limit()))
	defer cancel()
	more, err = l.guard(limited)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(limited), err)
	}
	took := time.Since(start)
	if ctx.Err() != nil && err != nil {
		l.status.brokenOff(took) // by us: no failure of its own
		return false, err
	}
	l.status.finished(took, err)
	l.metrics.pass(took, err)
	if p, ok := errors.AsType[*panicked](err); ok {
		l.log.Error("pass of a loop panicked", "error", err, "took", took, "stack", string(p.stack))
	} else if err != nil {
		l.log.Error("pass of a loop failed", "error", err, "took", took)
	} else {
		l.log.Debug("pass of a loop", "took", took, "more", more)
	}
	return more, err
}

// A panicked is what a panic came to.
type panicked struct {
	error
	stack []byte
}

// guard makes a panic an error.
func (l *runningLoop) guard(ctx context.Context) (more bool, err error) {
	defer func() {
		if r := recover(); r != nil {
			more, err = false, &panicked{fmt.Errorf("panic: %v", r), debug.Stack()}
		}
	}()
	return l.Pass(ctx)
}

// backoff grows twofold, with a jitter that keeps those apart that failed
// together.
func backoff(failures int, longest time.Duration) time.Duration {
	d := min(firstBackoff<<min(failures-1, 30), longest)
	return d/2 + rand.N(d/2)
}

// sleep returns false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	select {
	case <-time.After(d):
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
