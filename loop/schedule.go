package loop

import (
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/schedule/cron"
)

// A Schedule says when passes are due: an Every or a Cron.
type Schedule interface {
	// Next is when the pass after one that ended at t is due; the zero time
	// means never.
	Next(t time.Time) time.Time

	// String is the schedule in words, for people.
	String() string

	// first is when the first pass is due on a replica that starts running the
	// loop at t.
	first(t time.Time) time.Time

	// valid tells a schedule from a zero value.
	valid() bool
}

// Every is the schedule of passes that follow each other at an interval; the
// first one comes at once.
type Every time.Duration

func (e Every) Next(t time.Time) time.Time  { return t.Add(time.Duration(e)) }
func (e Every) String() string              { return "every " + time.Duration(e).String() }
func (e Every) first(t time.Time) time.Time { return t }
func (e Every) valid() bool                 { return e > 0 }

// Cron is the schedule of passes at times of the day, in UTC.
type Cron struct {
	spec  string
	dates *cron.Expression
}

// ParseCron understands the expressions of package cron: five fields (minute, hour,
// day of the month, month, day of the week), or six from the second on, and
// @hourly, @daily, @weekly and the like. H is a number that follows from the
// expression.
func ParseCron(spec string) (Cron, error) {
	x, err := cron.Parse(spec, "UTC", spec)
	if err != nil {
		return Cron{}, fmt.Errorf("loop: the schedule %q is no cron expression: %w", spec, err)
	}
	return Cron{spec, x}, nil
}

// MustCron is ParseCron for a schedule written in the program.
func MustCron(spec string) Cron {
	c, err := ParseCron(spec)
	if err != nil {
		panic(err)
	}
	return c
}

func (c Cron) Next(t time.Time) time.Time { return c.dates.Next(t) }
func (c Cron) String() string             { return "cron " + c.spec + " UTC" }
func (c Cron) valid() bool                { return c.dates != nil }

// first looks back as far as it may have taken to take over from another
// replica: that one may not have run what was due meanwhile.
func (c Cron) first(t time.Time) time.Time { return c.Next(t.Add(-leaseTTL - standby)) }
