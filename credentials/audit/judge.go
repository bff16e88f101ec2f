package audit

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Finding is something that somebody should look at. It has no secret.
type Finding struct {
	ID      string `json:"id"` // the same in every audit: the rule, and what it is about
	Rule    string `json:"rule"`
	Level   string `json:"level"`
	Subject string `json:"subject"` // "client team/ci"
	Message string `json:"message"` // a sentence

	Scopes []string `json:"scopes,omitempty"` // that are not used
	Places []Place  `json:"places,omitempty"` // in logs, the latest first
	More   int      `json:"more,omitempty"`   // places beyond these

	Exception *Exception `json:"exception,omitempty"` // it is accepted, and does not count
}

// A Place is a line of a log.
type Place struct {
	TaskID string `json:"taskId"`
	RunID  int    `json:"runId"`
	Name   string `json:"name"` // of the artifact
	Line   int    `json:"line"`
	Count  int    `json:"count"` // in this log
	Form   string `json:"form,omitempty"`
}

const (
	mostScopes = 100 // of a finding
	mostPlaces = 20  // likewise
)

func finding(rule, subject, format string, args ...any) Finding {
	return Finding{
		ID: rule + " " + subject, Rule: rule, Level: ruleOf(rule).Level, Subject: subject, Message: fmt.Sprintf(format, args...),
	}
}

func days(d time.Duration) string {
	n := int(d / (24 * time.Hour))
	if n == 1 {
		return "a day"
	}
	return fmt.Sprintf("%d days", n)
}

func daysOf(n int64) time.Duration { return time.Duration(n) * 24 * time.Hour }

// judgeCredentials says what is wrong with the age and use of those that are rotated.
func (o Options) judgeCredentials(list []credentials.Audited, now timestamp.Time) (found []Finding) {
	for _, c := range list {
		subject := "credential " + c.Name
		age := now.Sub(c.Since)
		if o.has(Age) {
			switch {
			case c.State == credentials.Undefined:
				found = append(found, finding(ruleUndefined, subject, "It was minted %s ago, and is not in the configuration any more.", days(age)))
			case c.Since.IsZero():
			case !c.Next.IsZero() && now.Sub(c.Next) > late || c.MaxAge > 0 && age > c.MaxAge+late:
				text := fmt.Sprintf("Its version is in use for %s", days(age))
				if c.MaxAge > 0 {
					text += fmt.Sprintf(", and may be for %s", days(c.MaxAge))
				}
				if !c.Next.IsZero() && c.Next < now {
					text += fmt.Sprintf("; it was due at %s", c.Next)
				}
				found = append(found, finding(ruleOverdue, subject, "%s. It is %s.", text, c.State))
			case !c.Planned && age > daysOf(o.TokenDays):
				found = append(found, finding(ruleUnplanned, subject, "Its version is in use for %s, and nothing rotates it.", days(age)))
			}
		}
		if o.has(Unused) && c.UseTold && !c.Since.IsZero() {
			if idle := now.Sub(max(c.Used, c.Since)); idle > daysOf(o.UnusedDays) {
				text := "was never seen in use"
				if !c.Used.IsZero() {
					text = "was last seen in use " + days(now.Sub(c.Used)) + " ago"
				}
				found = append(found, finding(ruleIdleCred, subject, "Its version, of %s ago, %s.", days(age), text))
			}
		}
	}
	return found
}

// late is for how long a rotation may be due before that is worth saying.
const late = 15 * time.Minute

// farAway is an expiry that nobody will see.
const farAway = 10 * 365 * 24 * time.Hour

// judgeClients says what is wrong with clients. Those that cannot do anything are
// left out.
func (o Options) judgeClients(list []Client, recorded, now timestamp.Time) (found []Finding, notes []string) {
	unused := daysOf(o.UnusedDays)
	recent := 0
	for _, c := range list {
		if c.Disabled || c.Expires <= now {
			continue
		}
		subject := "client " + c.ClientID
		if o.has(Age) {
			found = append(found, o.judgeAge(c, subject, now)...)
		}
		if o.has(Unused) && !c.Static {
			if idle := now.Sub(max(c.LastUsed, c.Created)); idle > unused {
				found = append(found, finding(ruleIdle, subject, "It was last used %s ago.", days(idle)))
				continue // that it does not use its scopes either is no news
			}
		}
		if !o.has(Scopes) {
			continue
		}
		if slices.ContainsFunc(c.Scopes, func(s ScopeUse) bool { return s.Scope == "*" }) {
			if !own(c.ClientID) {
				found = append(found, finding(ruleEverything, subject, "It has the scope *."))
			}
			continue
		}
		// A client that was changed may have got a scope by that.
		since := max(recorded, c.Created, c.Modified)
		if c.Static {
			since = recorded // its Created is when the server was started
		}
		if now.Sub(since) < unused {
			recent++
			continue
		}
		if !c.Uncountable {
			found = append(found, o.judgeScopes(c, subject, now)...)
		}
	}
	if o.has(Scopes) {
		note := fmt.Sprintf("Which scopes are used is recorded since %s.", recorded)
		if now.Sub(recorded) < unused {
			note += fmt.Sprintf(" Scopes that were not used for %s are found from %s on.", days(unused), recorded.Add(unused))
		} else if recent > 0 {
			note += fmt.Sprintf(" The scopes of %d clients that were made or changed within %s are not judged yet.", recent, days(unused))
		}
		notes = append(notes, note+" Not known is what other services allow that ask for authenticateHawk.")
	}
	return found, notes
}

// own tells that a client is how a service of the platform acts. The operator's is
// called likewise, and is none.
func own(clientID string) bool {
	return strings.HasPrefix(clientID, "static/taskcluster/") && clientID != "static/taskcluster/root"
}

func (o Options) judgeAge(c Client, subject string, now timestamp.Time) (found []Finding) {
	if c.Static {
		where := "the configuration of the server"
		if strings.HasPrefix(c.ClientID, "static/taskcluster/") {
			where = "the server's file of secrets"
		}
		return []Finding{finding(ruleStatic, subject, "Its access token is in %s.", where)}
	}
	for i, t := range c.Tokens {
		if age := now.Sub(t.Created); age > daysOf(o.TokenDays) {
			f := finding(ruleTokenAge, subject, "Its access token %s was made %s ago, and may get %s old.", t.ID, days(age), days(daysOf(o.TokenDays)))
			if i > 0 {
				f.ID += " older"
			}
			found = append(found, f)
		}
	}
	if c.Expires > now.Add(farAway) {
		found = append(found, finding(ruleNever, subject, "It expires at %s.", c.Expires))
	}
	return found
}

func (o Options) judgeScopes(c Client, subject string, now timestamp.Time) []Finding {
	var idle []string
	for _, s := range c.Scopes {
		if now.Sub(s.LastUsed) > daysOf(o.UnusedDays) {
			idle = append(idle, s.Scope)
		}
	}
	if len(idle) == 0 {
		return nil
	}
	slices.Sort(idle)
	f := finding(ruleScopes, subject, "It did not use %d of its %d scopes within %s: %s.", len(idle), len(c.Scopes), days(daysOf(o.UnusedDays)), shortened(idle))
	f.Scopes = idle[:min(len(idle), mostScopes)]
	return []Finding{f}
}

// shortened lists the first few.
func shortened(list []string) string {
	const most = 5
	text := strings.Join(list[:min(len(list), most)], ", ")
	if len(list) > most {
		text += fmt.Sprintf(" and %d more", len(list)-most)
	}
	return text
}

// sorted has those findings first that count, in the order of the rules, and then of what
// they are about.
func sorted(found []Finding) {
	slices.SortStableFunc(found, func(x, y Finding) int {
		if count := x.Exception == nil; count != (y.Exception == nil) {
			if count {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(ruleIndex(x.Rule), ruleIndex(y.Rule)), cmp.Compare(x.Subject, y.Subject), cmp.Compare(x.ID, y.ID))
	})
}
