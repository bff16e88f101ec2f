package audit

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// An Exception accepts findings until a day is over. It is in the configuration, so that
// it holds for audits of the schedule, whose alarms it keeps worth reading, and whoever
// asks for an audit cannot accept what he likes.
type Exception struct {
	Name    string `yaml:"name" json:"name"`
	Finding string `yaml:"finding" json:"finding"` // the id of one, in which * is anything
	Reason  string `yaml:"reason" json:"reason"`
	Until   string `yaml:"until" json:"until"` // the last day, in UTC
}

// CheckExceptions says what is wrong with exceptions.
func CheckExceptions(list []Exception) error {
	names := map[string]bool{}
	for i, x := range list {
		which := cmp.Or(x.Name, fmt.Sprintf("number %d", i+1))
		_, err := time.Parse(time.DateOnly, x.Until)
		switch {
		case x.Name == "":
			return fmt.Errorf("%s has no name", which)
		case names[x.Name]:
			return fmt.Errorf("there are two called %s", which)
		case x.Finding == "":
			return fmt.Errorf("%s has no finding; it is the id of one, or several by *", which)
		case strings.TrimSpace(x.Reason) == "":
			return fmt.Errorf("%s has no reason", which)
		case err != nil:
			return fmt.Errorf("%s has until %q; it must be a date such as 2027-06-30", which, x.Until)
		}
		names[x.Name] = true
	}
	return nil
}

// good tells whether the last day is not over.
func (x *Exception) good(now timestamp.Time) bool {
	day, err := time.Parse(time.DateOnly, x.Until)
	return err == nil && now.Time().Before(day.AddDate(0, 0, 1))
}

// matches tells that a pattern, in which * is anything, is all of a text.
func matches(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	rest, ok := strings.CutPrefix(text, parts[0])
	if !ok {
		return false
	}
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(rest, part)
		if i < 0 {
			return false
		}
		rest = rest[i+len(part):]
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}

// accept notes at findings which exception accepts them, and says of exceptions that
// they are over, or about nothing.
func accept(found []Finding, list []Exception, looked []Rule, now timestamp.Time) (notes []string) {
	for i := range list {
		x := &list[i]
		good, used := x.good(now), false
		for k := range found {
			if f := &found[k]; f.Exception == nil && matches(x.Finding, f.ID) {
				used = true
				if good {
					f.Exception = x
				}
			}
		}
		// Of a rule that was not looked for nothing could be found.
		rule, _, _ := strings.Cut(x.Finding, " ")
		switch {
		case used && !good:
			notes = append(notes, fmt.Sprintf("The exception %s was good until %s: what it was about counts again.", x.Name, x.Until))
		case !used && slices.ContainsFunc(looked, func(r Rule) bool { return matches(rule, r.ID) }):
			notes = append(notes, fmt.Sprintf("The exception %s is about nothing that was found; remove it if that is done with.", x.Name))
		}
	}
	return notes
}
