package schedule

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A shift is a pass of the loop: it goes on while something runs.
type shift struct {
	*Schedule
	ctx     context.Context
	ended   chan *work
	under   map[*work]bool
	renewed time.Time
}

// A work is an attempt under way on this replica.
type work struct {
	Occasion
	claim  string
	runner Runner
	ctx    context.Context
	cancel context.CancelCauseFunc
	lapse  *time.Timer // loses it, unless the lease is renewed
	lost   atomic.Bool // the run may be another replica's
}

// lose ends an attempt whose lease others may take.
func (w *work) lose() {
	w.lost.Store(true)
	w.cancel(errLost)
}

// work is a pass. It ends when nothing runs here and nothing is due.
func (s *Schedule) work(ctx context.Context) (more bool, err error) {
	t := &shift{Schedule: s, ctx: ctx, ended: make(chan *work, s.slots), under: map[*work]bool{}}
	for {
		next, err := t.look()
		if err != nil && ctx.Err() == nil && len(t.under) > 0 {
			s.log.Error("cannot look for jobs that are due", "err", err, "again", renewAfter)
			next = timestamp.Now().Add(renewAfter)
		}
		if len(t.under) == 0 {
			if err == nil {
				s.alarm.set(wait(next, timestamp.Now()), func() { s.db.Waits().Wake(topicWork, store.Everybody) })
			}
			return false, err
		}
		timer := time.NewTimer(min(wait(next, timestamp.Now()), time.Until(t.renewed.Add(renewAfter))))
		select {
		case w := <-t.ended:
			delete(t.under, w)
		case <-s.signal:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			for len(t.under) > 0 {
				delete(t.under, <-t.ended)
			}
			return false, ctx.Err()
		}
		if time.Since(t.renewed) >= renewAfter {
			t.renew()
		}
	}
}

// atATime is how many jobs are looked at before those are looked for again that
// have become due.
const atATime = 100

// look looks at the jobs that are due, begins what is to be begun, and returns when
// there is something to be done.
func (t *shift) look() (next timestamp.Time, err error) {
	if len(t.under) >= t.slots {
		return timestamp.Max, nil // when there is room
	}
	var names []string
	now := timestamp.Now()
	if err := t.db.ViewOnce(t.ctx, func(tx *store.Tx) error {
		names, next = nil, timestamp.Max
		rows, err := tx.Query(`SELECT name, look FROM schedule_job WHERE kind IN (SELECT value FROM json_each($1)) ORDER BY look, name LIMIT $2`, t.kinds(), atATime)
		if err != nil {
			return err
		}
		for rows.Next() {
			var name string
			var look timestamp.Time
			if err := rows.Scan(&name, &look); err != nil {
				return err
			}
			if look > now {
				next = look
				return rows.Close()
			}
			names = append(names, name)
		}
		return rows.Err()
	}); err != nil || len(names) == 0 {
		return next, err
	}
	for _, name := range names {
		if len(t.under) >= t.slots {
			return timestamp.Max, nil
		}
		if err := t.tend(name); err != nil {
			return 0, fmt.Errorf("job %s: %w", name, err)
		}
	}
	if len(names) == atATime {
		return now, nil
	}
	return now.Add(time.Second), nil // what others have locked
}

// tend looks at a job, and begins its run if it is time.
func (t *shift) tend(name string) error {
	var w *work
	began := time.Now()
	err := t.db.Do(t.ctx, func(tx *store.Tx) error {
		w = nil
		b, err := open(tx, name, skipLocked)
		switch {
		case errors.Is(err, store.ErrNotFound):
			return nil
		case errors.Is(err, errNoDates): // the others go on
			tx.AfterCommit(func() { t.log.Error("a job is not run", "err", err, "again", time.Hour) })
			_, err := tx.Exec(`UPDATE schedule_job SET look = $2 WHERE name = $1`, name, timestamp.Now().Add(time.Hour))
			return err
		case err != nil:
			return err
		}
		began = time.Now()
		now := timestamp.Of(began)
		if b.job.look > now {
			return nil // somebody else was quicker
		}
		b.advance(now)
		if r, runner := b.ready(), t.runner(b.Kind); r != nil && r.Starts <= now && runner != nil {
			r.begin(t.replica, now)
			w = &work{
				Occasion: Occasion{Job: b.Job, Due: r.Due, Attempt: r.Attempt, Caller: r.Caller},
				claim:    r.claim, runner: runner,
			}
			t.metrics.beginning(tx, b.job, *r)
		}
		return b.close(t.Schedule, tx)
	})
	if err != nil || w == nil {
		return err
	}
	if len(t.under) == 0 {
		t.renewed = time.Now()
	}
	t.under[w] = true
	w.ctx, w.cancel = context.WithCancelCause(t.ctx)
	w.lapse = time.AfterFunc(time.Until(began.Add(leaseTime-early)), w.lose)
	go func() {
		defer func() { t.ended <- w }()
		t.execute(w)
	}()
	return nil
}

// early is how long before its lease ends a run is told to.
const early = 2 * time.Second

// renew renews the leases of what is under way. What was lost has its context
// ended.
func (t *shift) renew() {
	t.renewed = time.Now()
	var claims, held []string
	for w := range t.under {
		claims = append(claims, w.claim)
	}
	ctx, cancel := context.WithTimeout(t.ctx, renewAfter)
	defer cancel()
	err := t.db.Do(ctx, func(tx *store.Tx) (err error) {
		if held, err = tx.Column(`SELECT claim FROM schedule_run WHERE ended = 0 AND state = 'running' AND claim IN (SELECT value FROM json_each($1)) ORDER BY job, due /*for update*/`, claims); err != nil {
			return err
		}
		_, err = tx.Exec(`UPDATE schedule_run SET expires = $2 WHERE ended = 0 AND state = 'running' AND claim IN (SELECT value FROM json_each($1))`, held, timestamp.Of(t.renewed).Add(leaseTime))
		return err
	})
	if err != nil {
		t.log.Warn("cannot renew the leases of runs", "err", err)
	}
	if err != nil {
		return
	}
	for w := range t.under {
		if slices.Contains(held, w.claim) {
			w.lapse.Reset(time.Until(t.renewed.Add(leaseTime - early)))
		} else {
			w.lose()
		}
	}
}

// patience is for how long a runner may go on after its context has ended.
const patience = 30 * time.Second

var errHanging = errors.New("it went on long after it was told to stop; it may do so still")

// execute runs an attempt, and writes down what came of it.
func (s *Schedule) execute(w *work) {
	defer w.cancel(nil)
	defer w.lapse.Stop()
	log := s.log.With("job", w.Job.Name, "due", w.Due.String(), "attempt", w.Attempt)
	began := time.Now()
	outcome, err := w.guarded(log)
	took := time.Since(began)
	stopped := err != nil && w.ctx.Err() != nil
	switch {
	case stopped && w.lost.Load():
		log.Warn("a run was lost", "err", err)
		return
	case stopped:
		log.Info("a run was interrupted", "took", took)
	case err != nil:
		if p, ok := errors.AsType[*panicked](err); ok {
			log = log.With("stack", string(p.stack))
		}
		log.Error("a run failed", "err", err, "took", took)
	default:
		log.Info("a run is done", "outcome", outcome, "took", took)
	}
	for {
		e := s.conclude(w, outcome, err, stopped)
		switch {
		case e == nil:
			return
		case errors.Is(e, errLost):
			log.Warn("what came of a run is not kept: it is another's by now, or its job is gone")
			return
		case errors.Is(e, store.ErrClosed), w.lost.Load():
			log.Error("cannot write down what came of a run; it will be run again", "err", e)
			return
		}
		log.Warn("cannot write down what came of a run", "err", e, "again", time.Second)
		time.Sleep(time.Second)
	}
}

// conclude writes down what came of an attempt. One that was stopped for no fault
// of its own is begun again, by somebody else.
func (s *Schedule) conclude(w *work, outcome string, failure error, stopped bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), renewAfter)
	defer cancel()
	return s.db.Do(ctx, func(tx *store.Tx) error {
		b, err := open(tx, w.Job.Name, forUpdate)
		if errors.Is(err, store.ErrNotFound) {
			return errLost
		} else if err != nil {
			return err
		}
		r, err := b.attempt(w.Due, w.claim)
		if err != nil {
			if ended, e := isEnded(tx, w); e != nil || ended {
				return e
			}
			return err
		}
		now := timestamp.Now()
		if stopped {
			r.State, r.Starts, r.expires, r.Error = Due, now, 0, "the replica that ran it was stopped"
		} else {
			b.finish(r, outcome, failure, now)
		}
		b.advance(now)
		return b.close(s, tx)
	})
}

// isEnded tells whether the attempt has been written down already, by a commit whose
// answer was lost.
func isEnded(tx *store.Tx, w *work) (bool, error) {
	list, err := queryRuns(tx, `WHERE job = $1 AND due = $2 AND claim = $3 AND state <> 'running'`, w.Job.Name, w.Due, w.claim)
	return len(list) > 0, err
}

// A panicked is what a panic came to.
type panicked struct {
	error
	stack []byte
}

// guarded runs the runner within the job's limit. It returns soon after that, whether the
// runner does or not.
func (w *work) guarded(log *slog.Logger) (outcome string, err error) {
	ctx, cancel := context.WithTimeoutCause(w.ctx, w.Job.Limit, fmt.Errorf("it took longer than its limit of %v", w.Job.Limit))
	defer cancel()
	done := make(chan struct{})
	var said string
	var failure error
	go func() {
		defer close(done)
		defer func() {
			if r := recover(); r != nil {
				failure = &panicked{fmt.Errorf("panic: %v", r), debug.Stack()}
				if ctx.Err() != nil { // nobody may wait for it any more
					log.Warn("a run panicked after it was told to stop", "panic", r, "stack", string(debug.Stack()))
				}
			}
		}()
		said, failure = w.runner.Run(ctx, w.Occasion)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		select {
		case <-done:
		case <-time.After(patience):
			return "", fmt.Errorf("%w: %w", context.Cause(ctx), errHanging)
		}
	}
	if failure != nil && ctx.Err() != nil && !errors.Is(failure, context.Cause(ctx)) {
		failure = fmt.Errorf("%w: %w", context.Cause(ctx), failure)
	}
	return said, failure
}
