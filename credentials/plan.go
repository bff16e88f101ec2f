package credentials

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/schedule"
	"github.com/taskfleet/taskfleet/schedule/cron"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Plan is when a credential is rotated by itself: at times by a cron expression,
// and whenever the version in use gets older than MaxAge. An empty one is never.
//
// A credential that has one has a job of package schedule, credentials/NAME, whose run
// begins the rotation and ends when the new version is in use. This file is all that the
// package knows of schedules.
type Plan struct {
	Cron   string // an expression as package schedule/cron reads it; H is a number of the job's own
	Zone   string // of its times: the IANA name; UTC where it is empty
	MaxAge time.Duration
	Jitter time.Duration // how long after a date it begins at most
}

// leastAge keeps a slip of the pen from minting all day.
const leastAge = 10 * time.Minute

const mostJitter = 12 * time.Hour

// Check tells what is wrong with a plan.
func (p Plan) Check() error {
	var wrong []error
	if p.MaxAge != 0 && p.MaxAge < leastAge {
		wrong = append(wrong, fmt.Errorf("maxAge is %s; it must be %s or more", p.MaxAge, leastAge))
	}
	if p.Jitter < 0 || p.Jitter > mostJitter {
		wrong = append(wrong, fmt.Errorf("jitter is %s; it must be up to %s", p.Jitter, mostJitter))
	}
	s, err := p.schedule("")
	if err == nil && s != nil {
		err = apartEnough(s)
	}
	return errors.Join(append(wrong, err)...)
}

// apartEnough looks at the dates of some time, for * 4 * * * where 0 4 * * * was meant.
func apartEnough(s *cron.Expression) error {
	at := s.Next(time.Date(2026, time.January, 1, 0, 0, 0, 0, time.UTC))
	for range 100 {
		then := s.Next(at)
		if gap := then.Sub(at); !then.IsZero() && gap < leastAge {
			return fmt.Errorf("cron has dates %s apart, such as %s; they must be %s apart or more", gap, at.Format(time.RFC3339), leastAge)
		}
		at = then
	}
	return nil
}

func (p Plan) schedule(seed string) (*cron.Expression, error) {
	if p.Cron == "" {
		if p.Zone != "" {
			return nil, errors.New("zone is of no use without cron")
		}
		return nil, nil
	}
	return cron.Parse(p.Cron, p.Zone, seed)
}

// next is when a version of a credential is replaced that came into use at a time;
// zero if not by itself.
func (p Plan) next(name string, since timestamp.Time) timestamp.Time {
	var at timestamp.Time
	if s, err := p.schedule(jobName(name)); err == nil && s != nil {
		at = timestamp.Of(s.Next(since.Time()))
	}
	if p.MaxAge > 0 {
		if aged := since.Add(p.MaxAge); at.IsZero() || aged < at {
			at = aged
		}
	}
	return at
}

// soonest is the sooner of two times, either of which can be none.
func soonest(a, b timestamp.Time) timestamp.Time {
	if a.IsZero() || !b.IsZero() && b < a {
		return b
	}
	return a
}

// String is the plan in words.
func (p Plan) String() string {
	text := ""
	if p.Cron != "" {
		text = p.Cron
		if p.Zone != "" {
			text += " " + p.Zone
		}
	}
	if p.MaxAge > 0 {
		if text != "" {
			text += ", "
		}
		text += "every " + inDays(p.MaxAge)
	}
	if text != "" && p.Jitter > 0 {
		text += ", up to " + p.Jitter.String() + " later"
	}
	return text
}

const (
	jobKind  = "credentials"
	jobLimit = time.Hour // after which a run says that it is not done
)

func jobName(credential string) string { return jobKind + "/" + credential }

// ageJobName is the job by which a version does not get older than it may: the only one,
// or one beside that of the expression.
func (d *defined) ageJobName() string {
	if d.Plan.Cron == "" {
		return jobName(d.Name)
	}
	return jobName(d.Name) + "/age"
}

// scheduled has this process run the jobs, and removes those of credentials that are not
// defined any more.
func (c *Credentials) scheduled(ctx context.Context) error {
	if c.config.Schedule == nil {
		return nil
	}
	c.config.Schedule.Handle(jobKind, schedule.RunnerFunc(c.runJob))
	return c.db.Do(ctx, func(tx *store.Tx) error {
		names, err := tx.Column(`SELECT name FROM credential WHERE plan <> '' ORDER BY name`)
		if err != nil {
			return err
		}
		for _, name := range names {
			if c.defined[name] != nil {
				continue
			}
			if _, err := tx.Exec(`UPDATE credential SET plan = '' WHERE name = $1`, name); err != nil { // should it come back, it is planned anew
				return err
			}
			for _, job := range []string{jobName(name), jobName(name) + "/age"} {
				if err := c.config.Schedule.RemoveIn(tx, job); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (d *defined) job(name string) schedule.Job {
	return schedule.Job{
		Name: name, Kind: jobKind, Doc: "Rotates the credential " + d.Name + ".", Jitter: d.Plan.Jitter, CatchUp: schedule.Latest, Limit: jobLimit,
	}
}

// putJobs has the jobs of a credential be as its plan says. Its version is in use since
// a time; zero if there is none.
func (c *Credentials) putJobs(tx *store.Tx, d *defined, since timestamp.Time) error {
	if c.config.Schedule == nil {
		return nil
	}
	if d.Plan.Cron != "" {
		j := d.job(jobName(d.Name))
		j.Expression, j.Zone = d.Plan.Cron, d.Plan.Zone
		if err := c.config.Schedule.PutIn(tx, j); err != nil {
			return err
		}
	} else if d.Plan.MaxAge == 0 {
		if err := c.config.Schedule.RemoveIn(tx, jobName(d.Name)); err != nil {
			return err
		}
	}
	if d.Plan.Cron == "" || d.Plan.MaxAge == 0 {
		if err := c.config.Schedule.RemoveIn(tx, jobName(d.Name)+"/age"); err != nil {
			return err
		}
	}
	return c.putAge(tx, d, since)
}

// putAge puts the job that is due when a version gets too old that is in use since a
// time. Its expression is that one date; a year later there is another one.
func (c *Credentials) putAge(tx *store.Tx, d *defined, since timestamp.Time) error {
	if c.config.Schedule == nil || d.Plan.MaxAge == 0 || since.IsZero() {
		return nil
	}
	at := max(since.Add(d.Plan.MaxAge), timestamp.Now().Add(time.Second)).Add(time.Second - time.Millisecond).Time().UTC()
	j := d.job(d.ageJobName())
	j.Expression = fmt.Sprintf("%d %d %d %d %d *", at.Second(), at.Minute(), at.Hour(), at.Day(), at.Month())
	return c.config.Schedule.PutIn(tx, j)
}

// runJob is a run of a credential's job: its outcome is the rotation's, as far as
// consumers are concerned. What becomes of the old version takes its time, and is the
// credential's state.
func (c *Credentials) runJob(ctx context.Context, o schedule.Occasion) (outcome string, err error) {
	name, aged := strings.CutSuffix(strings.TrimPrefix(o.Job.Name, jobKind+"/"), "/age")
	d, err := c.find(name)
	if err != nil {
		return "", err
	}
	aged = aged || d.Plan.Cron == ""
	s := start{reason: reasonSchedule, occasion: o.Due}
	if o.Caller != "" {
		s.reason, s.by = reasonRequest, o.Caller
	}
	var id, already string
	early := timestamp.Time(0)
	err = c.db.Do(ctx, func(tx *store.Tx) error {
		id, already, early = "", "", 0
		var r row
		err := r.scan(tx.QueryRow(`SELECT `+rowColumns+` FROM credential WHERE name = $1 /*for update*/`, name))
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		// The run before, whose replica was lost, may have begun it.
		list, err := rotations(tx, `credential = $1 AND (occasion = $2 OR state = 'running') ORDER BY started`, name, o.Due)
		if err != nil {
			return err
		}
		for _, x := range list {
			if id = x.id; x.occasion == o.Due {
				return nil
			}
			already = "a rotation was under way: "
		}
		if id != "" {
			return nil
		}
		if due := r.since.Add(d.Plan.MaxAge); aged && o.Caller == "" && due > timestamp.Now().Add(time.Minute) {
			early = due
			return nil
		}
		id, err = c.beginIn(tx, d, s)
		return err
	})
	switch {
	case err != nil:
		return "", err
	case early != 0:
		return "it is not due before " + early.String(), nil
	case id == "":
		return "a new version is to be supplied: taskfleet credentials supply " + name, nil
	}
	outcome, err = c.followed(ctx, name, id)
	return already + outcome, err
}

// lookAgain is how often a run looks how its rotation is, beside being told.
const lookAgain = 10 * time.Second

// followed returns when a rotation was published, or has failed.
func (c *Credentials) followed(ctx context.Context, name, id string) (string, error) {
	for {
		told := c.db.Waits().Wait(topicPublished + name)
		var list []*rotation
		err := c.db.View(ctx, func(tx *store.Tx) (err error) { list, err = rotations(tx, `id = $1`, id); return err })
		if err == nil && len(list) > 0 && list[0].step.unpublished() && list[0].state == rotationRunning {
			select {
			case <-told.C:
			case <-time.After(lookAgain):
			case <-ctx.Done():
				err = fmt.Errorf("the rotation is at %s: %w", list[0].step, context.Cause(ctx))
			}
			if err == nil {
				told.Close()
				continue
			}
		}
		told.Close()
		switch {
		case err != nil:
			return "", err
		case len(list) == 0:
			return "", errors.New("the rotation is not there any more")
		case list[0].state == rotationFailed:
			return "", errors.New(list[0].note)
		}
		return "the version " + list[0].version + " is in use", nil
	}
}

// inDays is a time as the configuration has it: in days if it is whole ones.
func inDays(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}
