package hooks

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/taskfleet/taskfleet/timestamp"
)

// A pattern is one cron pattern of a schedule, in UTC.
//
// The syntax is that of cron-parser, which people have written their hooks
// for: six fields from the second on, or five without it; names of months and
// days; 0 and 7 for Sunday; ? for *; steps, also of a single number (5/15);
// L for the last day of the month; 5L for its last Friday; 2#1 for its first
// Tuesday; H for a number that is the hook's own; @daily and the like. As in
// every cron, days are those of the month or those of the week where both are
// given.
//
// What is not said of days robfig/cron works out; it knows neither L nor #,
// and takes */2 for no restriction of days, which cron-parser does not.
type pattern struct {
	times    cron.SpecSchedule // every day of its months
	monthday days
	weekday  days
	nth      int // which of its kind in the month; 0: any
}

// days are those of one of the two fields that name days.
type days struct {
	any  bool   // the field is * or ?
	some uint64 // bits
	last uint64 // of the week: bits of those meant by 5L. Of the month: 1 for L
}

type field struct {
	name     string
	min, max int
	names    string // of min, min+1, …, three letters each
}

var fields = []field{
	{"second", 0, 59, ""}, {"minute", 0, 59, ""}, {"hour", 0, 23, ""}, {"day of the month", 1, 31, ""},
	{"month", 1, 12, "janfebmaraprmayjunjulaugsepoctnovdec"}, {"day of the week", 0, 7, "sunmontuewedthufrisat"},
}

var named = map[string]string{
	"@yearly": "0 0 0 1 1 *", "@annually": "0 0 0 1 1 *", "@monthly": "0 0 0 1 * *", "@weekly": "0 0 0 * * 0",
	"@daily": "0 0 0 * * *", "@hourly": "0 0 * * * *", "@minutely": "0 * * * * *", "@secondly": "* * * * * *",
	"@weekdays": "0 0 0 * * 1-5", "@weekends": "0 0 0 * * 0,6",
}

// horizon is how far a pattern is followed to find its next date. February has
// five Mondays once in 28 years, or once in 40 around the year 2100.
const horizon = 41

const longestPattern = 1024

// parsePattern reads a pattern; seed decides what H is.
func parsePattern(text, seed string) (*pattern, error) {
	if len(text) > longestPattern {
		return nil, fmt.Errorf("it has %d characters, and %d are the most", len(text), longestPattern)
	}
	if s, ok := named[text]; ok {
		text = s
	}
	parts := strings.Fields(text)
	if len(parts) == 5 {
		parts = append([]string{"0"}, parts...)
	}
	if len(parts) != 6 {
		return nil, fmt.Errorf("it has %d fields; give second, minute, hour, day of the month, month and day of the week", len(parts))
	}
	p := &pattern{}
	var err error
	weekday := parts[5]
	if day, nth, ok := strings.Cut(weekday, "#"); ok {
		if p.nth, err = strconv.Atoi(nth); err != nil || p.nth < 1 || p.nth > 5 || strings.ContainsAny(day, ",-/L") {
			return nil, fmt.Errorf("the day of the week is %q; what has # is one day, # and a number from 1 to 5", weekday)
		}
		weekday = day
	}
	var bits [6]uint64
	for i, f := range fields {
		text := parts[i]
		if i == 5 {
			text = weekday
		}
		var last *uint64
		switch i {
		case 3:
			last = &p.monthday.last
		case 5:
			last = &p.weekday.last
		}
		if bits[i], err = f.parse(text, seed, last); err != nil {
			return nil, fmt.Errorf("the %s is %q: %w", f.name, parts[i], err)
		}
	}
	p.monthday.any, p.monthday.some = isAny(parts[3]), bits[3]
	p.weekday.any, p.weekday.some = isAny(parts[5]), bits[5]|bits[5]>>7&1
	p.times = cron.SpecSchedule{Second: bits[0], Minute: bits[1], Hour: bits[2], Dom: ^uint64(0), Month: bits[4], Dow: ^uint64(0), Location: time.UTC}
	return p, nil
}

func isAny(s string) bool { return s == "*" || s == "?" }

// parse returns the numbers that a field stands for, as bits.
func (f field) parse(text, seed string, last *uint64) (bits uint64, err error) {
	for item := range strings.SplitSeq(text, ",") {
		if last != nil {
			if ok, err := f.parseLast(item, last); err != nil {
				return 0, err
			} else if ok {
				continue
			}
		}
		base, stepText, stepped := strings.Cut(item, "/")
		step := 1
		if stepped {
			if step, err = strconv.Atoi(stepText); err != nil || step < 1 {
				return 0, fmt.Errorf("%q is no step; it is a number from 1 on", stepText)
			}
		}
		var from, to int
		hashed := false
		lo, hi, ranged := strings.Cut(base, "-")
		switch {
		case isAny(base):
			from, to = f.min, f.max
		case base == "H":
			from, to, hashed = f.min, f.max, true
			if f.max == 7 {
				to = 6
			}
		case strings.HasPrefix(base, "H(") && strings.HasSuffix(base, ")"):
			lo, hi, _ = strings.Cut(base[2:len(base)-1], "-")
			hashed = true
			fallthrough
		case ranged:
			if from, err = f.number(lo); err == nil {
				to, err = f.number(hi)
			}
		default:
			from, err = f.number(base)
			to = from
			if stepped {
				to = f.max
			}
		}
		if err != nil {
			return 0, err
		}
		if from > to {
			return 0, fmt.Errorf("%q ends before it begins", base)
		}
		if hashed {
			if !stepped {
				step = to - from + 1
			}
			from += int(hash(seed, f.name) % uint64(min(step, to-from+1)))
		}
		for n := from; n <= to; n += min(step, 64) {
			bits |= 1 << n
		}
	}
	return bits, nil
}

// parseLast takes L of a day of the month, and 5L or friL of one of the week.
func (f field) parseLast(item string, last *uint64) (bool, error) {
	day, ok := strings.CutSuffix(item, "L")
	switch {
	case !ok:
		return false, nil
	case f.max == 31 && day == "":
		*last = 1
		return true, nil
	case f.max == 31:
		return false, fmt.Errorf("the last day of the month is L alone")
	}
	n, err := f.number(day)
	if err != nil {
		return false, fmt.Errorf("before L is the day of the week, from 0 to 7: %w", err)
	}
	*last |= 1 << (n % 7)
	return true, nil
}

func (f field) number(s string) (int, error) {
	if i := strings.Index(f.names, strings.ToLower(s)); len(s) == 3 && i >= 0 && i%3 == 0 {
		return f.min + i/3, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < f.min || n > f.max || s[0] == '+' || s[0] == '-' {
		return 0, fmt.Errorf("%q is no number from %d to %d", s, f.min, f.max)
	}
	return n, nil
}

func hash(parts ...string) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		h.Write([]byte(p))
		h.Write([]byte{0})
	}
	return h.Sum64()
}

// next is the first date after t, or the zero time.
func (p *pattern) next(t time.Time) time.Time {
	for end := t.Year() + horizon; ; {
		t = p.times.Next(t)
		if t.IsZero() || t.Year() > end {
			return time.Time{}
		}
		if p.fits(t) {
			return t
		}
		t = time.Date(t.Year(), t.Month(), t.Day()+1, 0, 0, -1, 0, time.UTC)
	}
}

// fits tells whether the pattern names the day of t.
func (p *pattern) fits(t time.Time) bool {
	if p.nth > 0 && (t.Day()+6)/7 != p.nth {
		return false
	}
	left := time.Date(t.Year(), t.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day() - t.Day()
	monthday := p.monthday.some>>t.Day()&1 == 1 || p.monthday.last == 1 && left == 0
	weekday := p.weekday.some>>t.Weekday()&1 == 1 || p.weekday.last>>t.Weekday()&1 == 1 && left < 7
	switch {
	case p.monthday.any:
		return p.weekday.any || weekday
	case p.weekday.any:
		return monthday
	}
	return monthday || weekday
}

// nextDate is when a schedule is due after t, or 0: never. Its patterns have
// been parsed before, by parseSchedule.
func nextDate(schedule []string, seed string, t timestamp.Time) (timestamp.Time, error) {
	var first timestamp.Time
	for _, text := range schedule {
		p, err := parsePattern(text, seed)
		if err != nil {
			return 0, fmt.Errorf("schedule entry %.100q: %w", text, err)
		}
		n := p.next(t.Time())
		if n.IsZero() {
			return 0, fmt.Errorf("schedule entry %.100q: there is no such date in the next %d years", text, horizon)
		}
		if at := timestamp.Of(n); first == 0 || at < first {
			first = at
		}
	}
	return first, nil
}
