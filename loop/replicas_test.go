package loop_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/loop"
)

// table is what leases are in, in place of a database.
type table struct {
	mu     sync.Mutex
	holder map[string]string
	until  map[string]time.Time
	down   bool
}

func newTable() *table { return &table{holder: map[string]string{}, until: map[string]time.Time{}} }

func (tb *table) setDown(down bool) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.down = down
}

// leaseOf is the lease as one replica sees it.
type leaseOf struct {
	*table
	replica string
}

func (l leaseOf) Hold(_ context.Context, name string, ttl time.Duration) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return false, errors.New("the database is down")
	}
	now := time.Now()
	if l.holder[name] != l.replica && l.until[name].After(now) {
		return false, nil
	}
	l.holder[name], l.until[name] = l.replica, now.Add(ttl)
	return true, nil
}

func (l leaseOf) Release(_ context.Context, name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return errors.New("the database is down")
	}
	if l.holder[name] == l.replica {
		delete(l.holder, name)
		delete(l.until, name)
	}
	return nil
}

func TestOneReplicaRunsALoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable()
		ra, rb := newRunner(leaseOf{tb, "a"}), newRunner(leaseOf{tb, "b"})
		a, b := newTimes(), newTimes()
		stopA := start(t, ra, loop.Loop{Name: "x", When: loop.Every(h), Pass: a.pass})
		synctest.Wait()
		wake := make(chan struct{}, 1)
		start(t, rb, loop.Loop{Name: "x", When: loop.Every(h), Wake: wake, Pass: b.pass})
		wake <- struct{}{} // every replica hears it, one acts
		time.Sleep(3*h + time.Minute)
		a.want(t, 0, h, 2*h, 3*h)
		b.want(t)
		if s := rb.Status()[0]; s.State != loop.HeldElsewhere {
			t.Errorf("the other replica's status: %+v", s)
		}

		stopA()
		stopped := time.Now()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		s := rb.Status()[0]
		if s.State != loop.Idle || s.LastStart.Sub(stopped) > 5*time.Second {
			t.Errorf("did not take over within seconds after a clean stop: %+v", s)
		}
	})
}

func TestEveryReplicaRunsItsOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable()
		for _, name := range []string{"a", "b"} {
			ran := newTimes()
			start(t, newRunner(leaseOf{tb, name}), loop.Loop{Name: "x", When: loop.Every(h), EveryReplica: true, Pass: ran.pass})
			defer ran.want(t, 0, h)
		}
		time.Sleep(h + time.Minute)
		if len(tb.holder) != 0 {
			t.Error("a lease was taken")
		}
	})
}

func TestTakesOverFromADeadReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable()
		leaseOf{tb, "dead"}.Hold(t.Context(), "x", 30*time.Second)
		leaseOf{tb, "dead"}.Hold(t.Context(), "nightly", 30*time.Second)
		time.Sleep(24*h - time.Second - 15*time.Second)
		leaseOf{tb, "dead"}.Hold(t.Context(), "nightly", 30*time.Second) // and dies, at 23:59:44
		ran, nightly := newTimes(), newTimes()
		start(t, newRunner(leaseOf{tb, "b"}),
			loop.Loop{Name: "x", When: loop.Every(h), Pass: ran.pass},
			loop.Loop{Name: "nightly", When: loop.MustCron("0 0 * * *"), Pass: nightly.pass})
		time.Sleep(time.Minute)
		ran.want(t, 0)
		nightly.want(t, 30*time.Second) // what was due at midnight, when nobody had it
	})
}

func TestLeaseIsKeptThroughALongPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable()
		a, b := newTimes(), newTimes()
		start(t, newRunner(leaseOf{tb, "a"}), loop.Loop{Name: "x", When: loop.Every(h), Pass: func(ctx context.Context) (bool, error) {
			a.add()
			time.Sleep(4 * time.Minute)
			return false, ctx.Err()
		}})
		synctest.Wait()
		start(t, newRunner(leaseOf{tb, "b"}), loop.Loop{Name: "x", When: loop.Every(h), Pass: b.pass})
		time.Sleep(30 * time.Minute)
		a.want(t, 0)
		b.want(t)
	})
}

// A pass ends before another replica can start one, also when the replica
// cannot reach the database to renew its lease.
func TestPassEndsBeforeItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable()
		ra := newRunner(leaseOf{tb, "a"})
		ended := make(chan time.Time, 1)
		start(t, ra, loop.Loop{Name: "x", When: loop.Every(h), Pass: func(ctx context.Context) (bool, error) {
			<-ctx.Done()
			select {
			case ended <- time.Now():
			default:
			}
			return false, ctx.Err()
		}})
		time.Sleep(time.Minute + time.Second)
		tb.setDown(true)
		at := <-ended
		if tb.mu.Lock(); !at.Before(tb.until["x"]) {
			t.Errorf("the pass ended at %v, its lease at %v", at, tb.until["x"])
		}
		tb.mu.Unlock()
		synctest.Wait()
		if s := ra.Status()[0]; s.State != loop.BackingOff || s.Failures != 0 {
			t.Errorf("without the database: %+v", s)
		}
		tb.setDown(false)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if s := ra.Status()[0]; s.State != loop.Running {
			t.Errorf("once the database is back: %+v", s)
		}
	})
}

func TestHangingPassLosesItsLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tb := newTable()
		proceed := make(chan struct{})
		start(t, newRunner(leaseOf{tb, "a"}), loop.Loop{Name: "x", When: loop.Every(h), Limit: time.Minute, Pass: func(context.Context) (bool, error) {
			<-proceed // heeds no context
			return false, nil
		}})
		defer close(proceed)
		synctest.Wait()
		b := newTimes()
		start(t, newRunner(leaseOf{tb, "b"}), loop.Loop{Name: "x", When: loop.Every(h), Pass: b.pass})
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if b.count() != 1 {
			t.Errorf("the other replica ran %d passes, want it to have taken over", b.count())
		}
	})
}
