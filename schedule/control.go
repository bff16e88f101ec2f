package schedule

import (
	"context"
	"errors"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Pause has no run of a job begin that its schedule asks for, until Resume. One that
// is under way goes on. It is store.ErrNotFound where there is no such job.
func (s *Schedule) Pause(ctx context.Context, name, by string) error {
	err := s.alter(ctx, name, func(_ *store.Tx, b *book, now timestamp.Time) error {
		if b.paused == 0 {
			b.paused, b.pausedBy = now, by
		}
		return nil
	})
	if err == nil {
		s.log.Info("a job was paused", "job", name, "by", by)
	}
	return err
}

// Resume takes Pause back. Dates that came meanwhile are made up for as the job
// says.
func (s *Schedule) Resume(ctx context.Context, name, by string) error {
	err := s.alter(ctx, name, func(_ *store.Tx, b *book, _ timestamp.Time) error {
		b.paused, b.pausedBy = 0, ""
		return nil
	})
	if err == nil {
		s.log.Info("a job was resumed", "job", name, "by", by)
	}
	return err
}

// RunNow has a job run as soon as no run of it is under way, also while it is
// paused. Where a run that somebody asked for has not begun yet, it is that one.
func (s *Schedule) RunNow(ctx context.Context, name, by string) error {
	_, err := s.runNow(ctx, name, by)
	return err
}

func (s *Schedule) runNow(ctx context.Context, name, by string) (asked run, err error) {
	err = s.alter(ctx, name, func(tx *store.Tx, b *book, now timestamp.Time) error {
		for _, r := range b.runs {
			if r.State == Due && r.Caller != "" {
				asked = *r
				return nil
			}
		}
		// Dates are whole seconds, so this is none.
		due := now
		for due%1000 == 0 {
			due++
		}
		for { // and is no other run that was asked for in this millisecond
			n, err := queryRuns(tx, `WHERE job = $1 AND due = $2`, name, due)
			if err != nil {
				return err
			}
			if len(n) == 0 {
				break
			}
			if due++; due%1000 == 0 {
				due++
			}
		}
		r := &run{Job: name, Due: due, Caller: by, State: Due, Starts: now, fresh: true}
		b.runs = append(b.runs, r)
		asked = *r
		return nil
	})
	return asked, err
}

// alter changes a job.
func (s *Schedule) alter(ctx context.Context, name string, f func(*store.Tx, *book, timestamp.Time) error) error {
	return s.db.Do(ctx, func(tx *store.Tx) error {
		b, err := open(tx, name, forUpdate)
		if err != nil {
			return err
		}
		now := timestamp.Now()
		if err := f(tx, b, now); err != nil {
			return err
		}
		b.advance(now)
		return b.close(s, tx)
	})
}

// Job returns a job; store.ErrNotFound where there is none.
func (s *Schedule) Job(ctx context.Context, name string) (Job, error) {
	var j *job
	err := s.db.ViewOnce(ctx, func(tx *store.Tx) (err error) {
		j, err = loadJob(tx, name, noLock)
		return err
	})
	if err != nil {
		return Job{}, err
	}
	return j.Job, nil
}

// A status is a job as callers see it.
type status struct {
	Name       string         `json:"name"`
	Kind       string         `json:"kind"`
	Doc        string         `json:"doc"`
	Expression string         `json:"expression"`
	Zone       string         `json:"zone"`
	Jitter     int64          `json:"jitter"`
	CatchUp    CatchUp        `json:"catchUp"`
	Limit      int64          `json:"limit"`
	Retries    int            `json:"retries"`
	State      string         `json:"state"`
	Paused     timestamp.Time `json:"paused,omitempty"`
	PausedBy   string         `json:"pausedBy,omitempty"`
	Next       timestamp.Time `json:"next,omitempty"`
	Open       *run           `json:"open,omitempty"`
	Last       *run           `json:"last,omitempty"`
}

// status is how a job is. Its runs are those that have not ended.
func (s *Schedule) status(j *job, runs []*run, last *run, now timestamp.Time) status {
	v := status{
		Name: j.Name, Kind: j.Kind, Doc: j.Doc, Expression: j.Expression, Zone: j.Zone, Jitter: int64(j.Jitter / time.Second), CatchUp: j.CatchUp,
		Limit: int64(j.Limit / time.Second), Retries: j.Retries, State: "idle", Paused: j.paused, PausedBy: j.pausedBy, Last: last,
	}
	if v.Zone == "" {
		v.Zone = "UTC"
	}
	if x, err := j.dates(); err == nil && j.next != 0 {
		if v.Next = j.next; v.Next <= now && j.paused != 0 { // it is not taken up
			v.Next = after(x, now)
		}
	}
	b := &book{job: j, runs: runs}
	if v.Open = b.running(); v.Open == nil && len(runs) > 0 {
		v.Open = runs[0]
		if r := b.ready(); r != nil {
			v.Open = r
		}
	}
	switch {
	case v.Open != nil && v.Open.State == Running:
		v.State = "running"
	case j.paused != 0:
		v.State = "paused"
	case s.runner(j.Kind) == nil:
		v.State = "no runner"
	case v.Open != nil && v.Open.Failures > 0:
		v.State = "retrying"
	case v.Open != nil:
		v.State = "due"
	case last != nil && last.State != Done:
		v.State = string(last.State)
	}
	return v
}

// statuses returns the jobs after a name, by name, up to a number.
func (s *Schedule) statuses(ctx context.Context, afterName string, limit int) (list []status, err error) {
	now := timestamp.Now()
	err = s.db.View(ctx, func(tx *store.Tx) error {
		list = []status{}
		rows, err := tx.Query(`SELECT `+jobColumns+` FROM schedule_job WHERE name > $1 ORDER BY name LIMIT $2`, afterName, limit)
		if err != nil {
			return err
		}
		var jobs []*job
		var names []string
		for rows.Next() {
			j, err := scanJob(rows)
			if err != nil {
				return err
			}
			jobs, names = append(jobs, j), append(names, j.Name)
		}
		if err := rows.Err(); err != nil {
			return err
		}
		open, last, err := latest(tx, names)
		if err != nil {
			return err
		}
		for _, j := range jobs {
			list = append(list, s.status(j, open[j.Name], last[j.Name], now))
		}
		return nil
	})
	return list, err
}

// latest are the runs of jobs that have not ended, and the last one of each that
// has.
func latest(tx *store.Tx, names []string) (open map[string][]*run, last map[string]*run, err error) {
	list, err := queryRuns(tx, `WHERE job IN (SELECT value FROM json_each($1)) AND ended = 0 ORDER BY job, starts, due`, names)
	if err != nil {
		return nil, nil, err
	}
	open, last = map[string][]*run{}, map[string]*run{}
	for _, r := range list {
		open[r.Job] = append(open[r.Job], r)
	}
	list, err = queryRuns(tx, `AS r WHERE r.job IN (SELECT value FROM json_each($1))
		AND r.due = (SELECT max(l.due) FROM schedule_run AS l WHERE l.job = r.job AND l.ended > 0)`, names)
	for _, r := range list {
		last[r.Job] = r
	}
	return open, last, err
}

// find returns how a job is.
func (s *Schedule) find(ctx context.Context, name string) (v status, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		j, err := loadJob(tx, name, noLock)
		if err != nil {
			return err
		}
		open, last, err := latest(tx, []string{name})
		v = s.status(j, open[name], last[name], timestamp.Now())
		return err
	})
	return v, err
}

// runs returns the runs of a job before a date, the latest first, up to a number.
func (s *Schedule) runs(ctx context.Context, name string, before timestamp.Time, state State, limit int) (list []*run, err error) {
	err = s.db.View(ctx, func(tx *store.Tx) error {
		if _, err := loadJob(tx, name, noLock); err != nil {
			return err
		}
		list, err = queryRuns(tx, `WHERE job = $1 AND due < $2 AND ($3 = '' OR state = $3) ORDER BY due DESC LIMIT $4`, name, before, state, limit)
		return err
	})
	if list == nil {
		list = []*run{}
	}
	return list, err
}

// shown asks the others.
func (s *Schedule) shown(ctx context.Context) ([]Shown, error) {
	list := []Shown{}
	for _, f := range s.others {
		more, err := f(ctx)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return list, nil
}

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }
