// Package cron works out dates from cron expressions, in time zones.
//
// The syntax is that of cron-parser, which people have written their hooks for:
// six fields from the second on, or five without it; names of months and days; 0
// and 7 for Sunday; ? for *; steps, also of a single number (5/15); L for the last
// day of the month; 5L for its last Friday; 2#1 for its first Tuesday; H for a
// number that belongs to whoever has the expression; @daily and the like. As in
// every cron, days are those of the month or those of the week where both are
// given.
//
// # When clocks change
//
// An expression names times on the clock of its zone. Where that is put forward
// some times do not exist, and where it is put back some come twice:
//
//   - A time that does not exist comes at the first moment after the gap, once
//     however many of an expression's times fall into it.
//   - Of a time that comes twice the first counts.
//   - Where the hour is * the expression follows the clock as it goes: what is left
//     out is left out, and what comes twice counts twice. So an hourly job runs
//     every hour that there is, 23 times on one day and 25 times on the other.
//   - Where the hour is a step of all hours, as in */6, what comes twice counts twice,
//     too, and what does not exist comes after the gap.
//
// Time zones are those of the system where it has them, and otherwise those that
// are in the program.
package cron

import (
	"fmt"
	"sync"
	"time"
	_ "time/tzdata" // time zones, on machines that have none

	"github.com/robfig/cron/v3"
)

// An Expression is a cron expression in a time zone.
//
// What is not said of days robfig/cron works out; it knows neither L nor #, takes
// */2 for no restriction of days, which cron-parser does not, and has other rules
// for clocks that change. So it is asked in UTC, which stands for what a clock on
// the wall shows, and only for what is on the days that are left.
type Expression struct {
	text  string
	zone  *time.Location
	hours hours

	times    cron.SpecSchedule // every day of its months
	monthday days
	weekday  days
	nth      int // which of its kind in the month; 0: any
}

// Horizon is for how many years an expression is followed to find its next date.
// February has five Mondays once in 28 years, or once in 40 around the year 2100.
const Horizon = 41

// Longest is how many bytes an expression may have.
const Longest = 1024

// Parse reads an expression for the clock of a zone, an IANA name such as
// Europe/Berlin; none is UTC. The seed decides what H is. An expression that names
// no date at all is an error.
func Parse(text, zone, seed string) (*Expression, error) {
	x := &Expression{text: text}
	if err := x.parse(seed); err != nil {
		return nil, err
	}
	var err error
	if x.zone, err = Zone(zone); err != nil {
		return nil, err
	}
	if x.clock(beginning).IsZero() {
		return nil, fmt.Errorf("there is no such date, as 30 February; change the day of the month or the month")
	}
	return x, nil
}

// beginning is from when on an expression has to have a date.
var beginning = time.Date(2000, 1, 1, 0, 0, -1, 0, time.UTC)

var zones sync.Map // *time.Location by name

// Zone is the time zone of a name; "" is UTC.
func Zone(name string) (*time.Location, error) {
	if name == "" || name == "UTC" {
		return time.UTC, nil
	}
	if z, ok := zones.Load(name); ok {
		return z.(*time.Location), nil
	}
	z, err := time.LoadLocation(name)
	if err != nil || name == "Local" {
		return nil, fmt.Errorf("%.100q is not a time zone; give an IANA name such as Europe/Berlin, or UTC", name)
	}
	zones.Store(name, z)
	return z, nil
}

// String is the expression as it was written, and its zone.
func (x *Expression) String() string { return x.text + " " + x.zone.String() }

// Next is the first date after t; the zero time if there is none within the
// Horizon.
func (x *Expression) Next(t time.Time) time.Time {
	t = t.In(x.zone)
	_, offset := t.Zone()
	after := onWall(t, offset)
	// Between two changes of the clock it shows what is a fixed offset from UTC.
	for end := t.Year() + Horizon; t.Year() <= end; {
		start, change := bounds(t)
		if x.hours == namedHours && !start.IsZero() {
			// What the clock has shown before it was put back counted then.
			_, before := start.Add(-1).Zone()
			if shown := onWall(start, before).Add(-1); shown.After(after) {
				after = shown
			}
		}
		shows := x.clock(after)
		if shows.IsZero() {
			return time.Time{}
		}
		at := shows.Add(-time.Duration(offset) * time.Second).In(x.zone)
		if change.IsZero() || at.Before(change) {
			return at
		}
		_, offset = change.Zone()
		if x.hours != everyHour && shows.Before(onWall(change, offset)) {
			return change // it is in the gap
		}
		t, after = change, onWall(change, offset).Add(-1)
	}
	return time.Time{}
}

// bounds are when the clock has changed last before t and when it changes next. Go
// may say so of a moment at which nothing changes; but beyond the table of a zone it
// takes all years to have 365 days, and so on the last day of a leap year has the
// next change come before t.
func bounds(t time.Time) (start, change time.Time) {
	start, change = t.ZoneBounds()
	for u := t; !change.IsZero() && !change.After(t); {
		u = u.Add(24 * time.Hour)
		_, change = u.ZoneBounds()
	}
	return start, change
}

// onWall is what a clock shows at t, as if it were in UTC.
func onWall(t time.Time, offset int) time.Time {
	return t.UTC().Add(time.Duration(offset) * time.Second)
}

// clock is what a clock shows first after it shows t, of what the expression
// names; both as if in UTC.
func (x *Expression) clock(t time.Time) time.Time {
	for end := t.Year() + Horizon; ; {
		t = x.times.Next(t)
		if t.IsZero() || t.Year() > end {
			return time.Time{}
		}
		if x.fits(t) {
			return t
		}
		t = time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, -1, 0, time.UTC)
	}
}

// fits tells whether the expression names the day of t.
func (x *Expression) fits(t time.Time) bool {
	if x.nth > 0 && (t.Day()+6)/7 != x.nth {
		return false
	}
	left := time.Date(t.Year(), t.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day() - t.Day()
	monthday := x.monthday.some>>t.Day()&1 == 1 || x.monthday.last == 1 && left == 0
	weekday := x.weekday.some>>t.Weekday()&1 == 1 || x.weekday.last>>t.Weekday()&1 == 1 && left < 7
	switch {
	case x.monthday.any:
		return x.weekday.any || weekday
	case x.weekday.any:
		return monthday
	}
	return monthday || weekday
}

// Local is t as a clock in the zone shows it.
func (x *Expression) Local(t time.Time) string {
	return t.In(x.zone).Format("Mon 2006-01-02 15:04:05 -07:00")
}
