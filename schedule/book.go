package schedule

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/schedule/cron"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A book is a job whose row is locked, with its runs that have not ended. All that
// happens to runs happens in it, in memory, and is written at its end.
type book struct {
	*job
	dates *cron.Expression
	runs  []*run // by when they start
}

// open locks a job and reads its runs; store.ErrNotFound if there is none, or if
// the lock is skipLocked and somebody else has it.
func open(tx *store.Tx, name, lock string) (*book, error) {
	j, err := loadJob(tx, name, lock)
	if err != nil {
		return nil, err
	}
	b := &book{job: j}
	if b.dates, err = j.Job.dates(); err != nil {
		return nil, fmt.Errorf("%w: the job %s has the expression %q in %q: %w", errNoDates, name, j.Expression, j.Zone, err)
	}
	// A lease is renewed without the lock of the job.
	b.runs, err = queryRuns(tx, `WHERE job = $1 AND ended = 0 ORDER BY due /*for update*/`, name)
	return b, err
}

// errNoDates is for a job whose dates could be worked out when it was put: its time
// zone may be one that this machine does not have.
var errNoDates = errors.New("schedule: the dates of a job cannot be worked out")

// mostInterruptions is how often a run can have lost its replica and is begun again.
// One that is lost more often may be what ends replicas.
const mostInterruptions = 20

// mostMissed is how many missed dates have a row, at a time.
const mostMissed = 100

// advance takes up what has come to pass: dates, leases that have run out, and runs
// that it is too late for.
func (b *book) advance(now timestamp.Time) {
	for _, r := range b.runs {
		if r.State == Running && r.expires <= now {
			b.interrupt(r, now, "the replica that ran it was lost")
		}
	}
	if b.paused == 0 {
		b.takeUp(now)
		b.miss(now)
	}
	slices.SortFunc(b.runs, func(x, y *run) int { return cmp.Or(cmp.Compare(x.Starts, y.Starts), cmp.Compare(x.Due, y.Due)) })
}

// interrupt has a run begin again.
func (b *book) interrupt(r *run, now timestamp.Time, why string) {
	r.Interrupted++
	r.Error = why
	if r.Interrupted > mostInterruptions {
		r.Error = fmt.Sprintf("%s, as it was %d times before: it is not tried again", why, mostInterruptions)
		r.end(Failed, now)
		return
	}
	r.State, r.Starts, r.expires = Due, now, 0
}

// takeUp makes a run of each date that has come, of the latest ones where many have.
func (b *book) takeUp(now timestamp.Time) {
	if b.next == 0 || b.next > now {
		return
	}
	if forgotten := now.Add(-memory); b.next < forgotten {
		b.next = after(b.dates, forgotten)
	}
	var come []timestamp.Time
	most, before := int(b.CatchUp)+mostMissed, 0
	for b.next != 0 && b.next <= now {
		if come = append(come, b.next); len(come) > 2*most {
			before += len(come) - most
			come = slices.Delete(come, 0, len(come)-most)
		}
		b.next = following(b.dates, b.next)
	}
	if n := len(come) - most; n > 0 {
		before += n
		come = come[n:]
	}
	for i, date := range come {
		r := &run{Job: b.Name, Due: date, State: Due, Starts: b.starts(date), fresh: true}
		if i == 0 && before > 0 {
			r.Outcome = fmt.Sprintf("%d dates before this one were missed, too", before)
		}
		b.runs = append(b.runs, r)
	}
}

// miss gives up those runs that could not begin in time, but for the latest that
// the job makes up for.
func (b *book) miss(now timestamp.Time) {
	var late []*run
	for _, r := range b.runs {
		if r.State == Due && r.Attempt == 0 && r.Caller == "" && now.Sub(r.Starts) > grace {
			late = append(late, r)
		}
	}
	slices.SortFunc(late, func(x, y *run) int { return cmp.Compare(x.Due, y.Due) })
	for _, r := range late[:max(0, len(late)-int(b.CatchUp))] {
		r.end(Missed, now)
	}
}

// running is the run that is under way, or nil.
func (b *book) running() *run {
	for _, r := range b.runs {
		if r.State == Running {
			return r
		}
	}
	return nil
}

// ready is the run that is to begin next, at its time; nil if there is none, or one
// is under way.
func (b *book) ready() *run {
	if b.running() != nil {
		return nil
	}
	for _, r := range b.runs {
		if r.State == Due && (b.paused == 0 || r.Caller != "") {
			return r
		}
	}
	return nil
}

// begin begins a run.
func (r *run) begin(replica string, now timestamp.Time) {
	r.State, r.claim, r.Replica = Running, slugid.New(), replica
	r.Attempt++
	r.Started, r.expires = now, now.Add(leaseTime)
	r.Error = ""
}

// finish ends an attempt as its runner has, and has the run begin again later where
// that is worth it.
func (b *book) finish(r *run, outcome string, err error, now timestamp.Time) {
	r.Outcome, r.Error = told(outcome), ""
	if err == nil {
		r.end(Done, now)
		return
	}
	r.Error = cmp.Or(told(err.Error()), "it failed without saying why")
	r.Failures++
	again := now.Add(min(b.BackOff<<min(r.Failures-1, 20), longestLimit))
	if r.Failures > b.Retries || r.Caller == "" && b.next != 0 && again >= b.next {
		r.end(Failed, now)
		return
	}
	r.State, r.Starts, r.expires = Due, again, 0
}

// close writes what has changed, publishes what has ended, and has replicas look at
// the job when there is something to be done.
func (b *book) close(s *Schedule, tx *store.Tx) error {
	b.look = timestamp.Max
	sooner := func(t timestamp.Time) { b.look = min(b.look, t) }
	if b.paused == 0 && b.next != 0 {
		sooner(b.next)
	}
	if r := b.running(); r != nil {
		sooner(r.expires)
	} else if r := b.ready(); r != nil {
		sooner(r.Starts)
	}
	var ended []event.Outgoing
	for _, r := range b.runs {
		if r.Ended != 0 {
			ended = append(ended, r.outgoing(b.job))
			s.metrics.ending(tx, b.job, *r)
		}
		if err := r.write(tx); err != nil {
			return err
		}
	}
	if err := s.events.PublishAll(tx, ended); err != nil {
		return err
	}
	if err := b.job.update(tx); err != nil {
		return err
	}
	tx.Wake(topicWork, store.Everybody)
	return nil
}

// errLost ends attempts whose run is another replica's by now, or nobody's.
var errLost = errors.New("the run was taken over by another replica, or its job was removed")

// attempt finds the attempt of a claim in a book. It is errLost if it is over.
func (b *book) attempt(due timestamp.Time, claim string) (*run, error) {
	for _, r := range b.runs {
		if r.Due == due && r.State == Running && r.claim == claim {
			return r, nil
		}
	}
	return nil, errLost
}

// wait is for how long a time is ahead, up to an hour.
func wait(t, now timestamp.Time) time.Duration { return min(max(t, now), now.Add(time.Hour)).Sub(now) }
