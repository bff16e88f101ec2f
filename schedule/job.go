package schedule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"regexp"
	"strconv"
	"time"

	"github.com/taskfleet/taskfleet/schedule/cron"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Job is something to be run at the dates of an expression.
type Job struct {
	Name string // "credentials.rotate/deploy"
	Kind string // whose runner runs it; see Handle
	Doc  string // a sentence that says what it does

	// Expression and Zone say when it is due, as package cron has it. Dates that are
	// less than a minute after one that counts do not count.
	Expression string
	Zone       string // an IANA name; "" is UTC

	// Jitter is how long after a date its run begins at most. How long it is for a date
	// follows from the job's name and the date.
	Jitter time.Duration

	// CatchUp is for how many dates the job makes up that could not be run in time.
	CatchUp CatchUp

	// Limit bounds the time of a run; ten minutes where it is zero.
	Limit time.Duration

	// Retries is how often a run is tried again that failed, the first time after
	// BackOff, a minute where it is zero, and then after twice the time before. When
	// the next date has come it is not tried any more.
	Retries int
	BackOff time.Duration

	// Data is JSON for the runner.
	Data json.RawMessage
}

// CatchUp is how many runs a job makes up for: those of the latest dates that came
// more than a minute before they could be run, since no replica was there, the job
// was paused, or its run before took so long. The others of them are missed.
type CatchUp int

// None makes up for no date and Latest for one.
const (
	None   CatchUp = 0
	Latest CatchUp = 1
)

// All makes up for the latest dates, up to a number.
func All(upTo int) CatchUp { return CatchUp(upTo) }

// Limits of a job.
const (
	longestLimit   = 24 * time.Hour
	defaultLimit   = 10 * time.Minute
	defaultBackOff = time.Minute
	mostCatchUp    = 1000
	mostRetries    = 20
	largestData    = 64 << 10

	shortest = time.Minute         // between two dates that count
	grace    = time.Minute         // after which a run cannot begin in time any more
	memory   = 90 * 24 * time.Hour // of what was run, or missed
)

// Both are in the routing keys of messages, for which there are 255 bytes.
var (
	jobName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,149}$`)
	jobKind = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,49}$`)
)

// check fills in what was left out, and says what is wrong.
func (j *Job) check() error {
	if len(j.Data) == 0 {
		j.Data = json.RawMessage("{}")
	}
	if j.Limit == 0 {
		j.Limit = defaultLimit
	}
	if j.BackOff == 0 {
		j.BackOff = defaultBackOff
	}
	_, err := j.dates()
	switch {
	case !jobName.MatchString(j.Name):
		return fmt.Errorf("the name is %.100q; it is up to 150 letters, digits, dots, slashes, hyphens and underscores, and begins with a letter or digit", j.Name)
	case !jobKind.MatchString(j.Kind):
		return fmt.Errorf("the kind is %.100q; it is up to 50 letters, digits, dots, hyphens and underscores", j.Kind)
	case len(j.Doc) > 1000:
		return fmt.Errorf("the doc has %d bytes, and 1000 are the most", len(j.Doc))
	case err != nil:
		return fmt.Errorf("the expression %.100q: %w", j.Expression, err)
	case j.Jitter < 0 || j.Jitter > 12*time.Hour:
		return fmt.Errorf("the jitter is %v; it is from 0 to 12h", j.Jitter)
	case j.CatchUp < 0 || j.CatchUp > mostCatchUp:
		return fmt.Errorf("it catches up with %d runs; give a number from 0 to %d", j.CatchUp, mostCatchUp)
	case j.Limit < time.Second || j.Limit > longestLimit:
		return fmt.Errorf("the limit is %v; it is from 1s to %v", j.Limit, longestLimit)
	case j.Retries < 0 || j.Retries > mostRetries:
		return fmt.Errorf("there are %d retries; give a number from 0 to %d", j.Retries, mostRetries)
	case j.BackOff < time.Second || j.BackOff > 24*time.Hour:
		return fmt.Errorf("the time before a retry is %v; it is from 1s to 24h", j.BackOff)
	case len(j.Data) > largestData:
		return fmt.Errorf("the data have %d bytes, and %d are the most", len(j.Data), largestData)
	case !json.Valid(j.Data):
		return errors.New("the data are not JSON")
	}
	return nil
}

// dates are the dates of a job. H is a number of its own.
func (j *Job) dates() (*cron.Expression, error) { return cron.Parse(j.Expression, j.Zone, j.Name) }

// after is the first date after t; 0 if there is none.
func after(x *cron.Expression, t timestamp.Time) timestamp.Time {
	if n := x.Next(t.Time()); !n.IsZero() {
		return timestamp.Of(n)
	}
	return 0
}

// following is the date that counts after one that does.
func following(x *cron.Expression, date timestamp.Time) timestamp.Time {
	return after(x, date.Add(shortest-time.Millisecond))
}

// starts is when the run of a date begins: replicas agree on it.
func (j *Job) starts(date timestamp.Time) timestamp.Time {
	if j.Jitter < time.Millisecond {
		return date
	}
	h := fnv.New64a()
	h.Write([]byte(j.Name + "\x00" + strconv.FormatInt(int64(date), 10)))
	return date + timestamp.Time(scramble(h.Sum64())%uint64(j.Jitter.Milliseconds()))
}

// scramble has all bits of a hash depend on all of what was hashed: the last digits
// of dates are mostly zeros.
func scramble(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	return h
}

// A job is a row.
type job struct {
	Job
	created  timestamp.Time
	paused   timestamp.Time
	pausedBy string
	next     timestamp.Time
	look     timestamp.Time
}

const jobColumns = `name, kind, doc, expression, zone, jitter, catch_up, run_limit, retries, back_off, data, created, paused, paused_by, next, look`

func scanJob(row store.Scanner) (*job, error) {
	j := &job{}
	var jitter, limit, backOff int64
	err := row.Scan(&j.Name, &j.Kind, &j.Doc, &j.Expression, &j.Zone, &jitter, &j.CatchUp, &limit, &j.Retries, &backOff, &j.Data,
		&j.created, &j.paused, &j.pausedBy, &j.next, &j.look)
	if err != nil {
		return nil, err
	}
	j.Jitter, j.Limit, j.BackOff = milliseconds(jitter), milliseconds(limit), milliseconds(backOff)
	return j, nil
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// loadJob returns a job, or store.ErrNotFound: also where the lock is skipLocked and
// somebody else has it.
func loadJob(tx *store.Tx, name, lock string) (*job, error) {
	return scanJob(tx.QueryRow(`SELECT `+jobColumns+` FROM schedule_job WHERE name = $1 `+lock, name))
}

const (
	noLock     = ``
	forUpdate  = `/*for update*/`
	skipLocked = `/*skip locked*/`
)

// Put is PutIn in a transaction of its own.
func (s *Schedule) Put(ctx context.Context, j Job) error {
	return s.db.Do(ctx, func(tx *store.Tx) error { return s.PutIn(tx, j) })
}

// PutIn has a job be there as it is given, in a transaction of the caller's. If it
// is there already it stays paused if it was; if its expression and zone are the
// same its next date stays, too, and otherwise dates count from now on. Who puts
// several jobs does so in the order of their names.
func (s *Schedule) PutIn(tx *store.Tx, j Job) error {
	if err := j.check(); err != nil {
		return fmt.Errorf("schedule: put the job %.100q: %w", j.Name, err)
	}
	x, err := j.dates()
	if err != nil {
		return err
	}
	now := timestamp.Now()
	was, err := loadJob(tx, j.Name, forUpdate)
	switch {
	case err == nil && was.same(&j):
		return nil
	case err == nil:
		if was.Expression != j.Expression || was.Zone != j.Zone {
			was.next = after(x, now)
		}
		was.Job = j
		was.look = min(was.look, now) // who looks works out the rest
		if err := was.update(tx); err != nil {
			return err
		}
	case errors.Is(err, store.ErrNotFound):
		next := after(x, now)
		n, err := tx.Exec(`INSERT INTO schedule_job (`+jobColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, '', $13, $13) ON CONFLICT DO NOTHING`,
			j.Name, j.Kind, j.Doc, j.Expression, j.Zone, j.Jitter.Milliseconds(), int(j.CatchUp), j.Limit.Milliseconds(), j.Retries, j.BackOff.Milliseconds(), j.Data, now, next)
		if err != nil {
			return err
		}
		if n == 0 { // somebody else was quicker
			return store.ErrAgain
		}
	default:
		return err
	}
	tx.Wake(topicWork, store.Everybody)
	return nil
}

func (j *Job) same(k *Job) bool {
	return j.Kind == k.Kind && j.Doc == k.Doc && j.Expression == k.Expression && j.Zone == k.Zone && j.Jitter == k.Jitter && j.CatchUp == k.CatchUp &&
		j.Limit == k.Limit && j.Retries == k.Retries && j.BackOff == k.BackOff && bytes.Equal(j.Data, k.Data)
}

func (j *job) update(tx *store.Tx) error {
	return tx.Later(`
		UPDATE schedule_job
		   SET kind = $2, doc = $3, expression = $4, zone = $5, jitter = $6, catch_up = $7, run_limit = $8, retries = $9, back_off = $10, data = $11,
		       paused = $12, paused_by = $13, next = $14, look = $15
		 WHERE name = $1`,
		[]any{
			j.Name, j.Kind, j.Doc, j.Expression, j.Zone, j.Jitter.Milliseconds(), int(j.CatchUp), j.Limit.Milliseconds(), j.Retries, j.BackOff.Milliseconds(), j.Data,
			j.paused, j.pausedBy, j.next, j.look,
		}, nil)
}

// Remove is RemoveIn in a transaction of its own.
func (s *Schedule) Remove(ctx context.Context, name string) error {
	return s.db.Do(ctx, func(tx *store.Tx) error { return s.RemoveIn(tx, name) })
}

// RemoveIn has a job not be there, in a transaction of the caller's. A run that is
// under way has its context ended within seconds; what was run stays in the
// history, should the job come back.
func (s *Schedule) RemoveIn(tx *store.Tx, name string) error {
	if _, err := loadJob(tx, name, forUpdate); errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	if _, err := tx.Exec(`DELETE FROM schedule_run WHERE job = $1 AND ended = 0`, name); err != nil {
		return err
	}
	_, err := tx.Exec(`DELETE FROM schedule_job WHERE name = $1`, name)
	return err
}
