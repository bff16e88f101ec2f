package credentials

import (
	"errors"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/schedule/cron"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Plan is when a credential is rotated by itself: at times by a cron expression,
// and whenever the version in use gets older than MaxAge. An empty one is never.
//
// This file is all that the package knows of schedules.
type Plan struct {
	Cron   string // an expression as package schedule/cron reads it; H is a number of the credential's own
	Zone   string // of its times: the IANA name; UTC where it is empty
	MaxAge time.Duration
}

// leastAge keeps a slip of the pen from minting all day.
const leastAge = 10 * time.Minute

// Check tells what is wrong with a plan.
func (p Plan) Check() error {
	if p.MaxAge != 0 && p.MaxAge < leastAge {
		return fmt.Errorf("maxAge is %s; it must be %s or more", p.MaxAge, leastAge)
	}
	_, err := p.schedule("")
	return err
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
	if s, err := p.schedule(name); err == nil && s != nil {
		at = timestamp.Of(s.Next(since.Time()))
	}
	if p.MaxAge > 0 {
		if aged := since.Add(p.MaxAge); at.IsZero() || aged < at {
			at = aged
		}
	}
	return at
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
		text += "every " + p.MaxAge.String()
	}
	return text
}
