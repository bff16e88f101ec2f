package worker

import "time"

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
