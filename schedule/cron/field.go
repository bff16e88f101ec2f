package cron

import (
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

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

// nicknames are short for expressions.
var nicknames = map[string]string{
	"@yearly": "0 0 0 1 1 *", "@annually": "0 0 0 1 1 *", "@monthly": "0 0 0 1 * *", "@weekly": "0 0 0 * * 0",
	"@daily": "0 0 0 * * *", "@hourly": "0 0 * * * *", "@minutely": "0 * * * * *", "@secondly": "* * * * * *",
	"@weekdays": "0 0 0 * * 1-5", "@weekends": "0 0 0 * * 0,6",
}

// hours are how an expression names them.
type hours int

const (
	namedHours   hours = iota
	steppedHours       // */6
	everyHour          // *
)

// parse reads the text of an expression; seed decides what H is.
func (x *Expression) parse(seed string) error {
	text := x.text
	if len(text) > Longest {
		return fmt.Errorf("it has %d characters, and %d are the most", len(text), Longest)
	}
	if s, ok := nicknames[text]; ok {
		text = s
	}
	parts := strings.Fields(text)
	if len(parts) == 5 {
		parts = append([]string{"0"}, parts...)
	}
	if len(parts) != 6 {
		return fmt.Errorf("it has %d fields; give second, minute, hour, day of the month, month and day of the week", len(parts))
	}
	var err error
	weekday := parts[5]
	if day, nth, ok := strings.Cut(weekday, "#"); ok {
		if x.nth, err = strconv.Atoi(nth); err != nil || x.nth < 1 || x.nth > 5 || strings.ContainsAny(day, ",-/L") {
			return fmt.Errorf("the day of the week is %q; what has # is one day, # and a number from 1 to 5", weekday)
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
			last = &x.monthday.last
		case 5:
			last = &x.weekday.last
		}
		if bits[i], err = f.parse(text, seed, last); err != nil {
			return fmt.Errorf("the %s is %q: %w", f.name, parts[i], err)
		}
	}
	x.monthday.any, x.monthday.some = isAny(parts[3]), bits[3]
	x.weekday.any, x.weekday.some = isAny(parts[5]), bits[5]|bits[5]>>7&1
	x.times = cron.SpecSchedule{Second: bits[0], Minute: bits[1], Hour: bits[2], Dom: ^uint64(0), Month: bits[4], Dow: ^uint64(0), Location: time.UTC}
	switch {
	case bits[2] == 1<<24-1:
		x.hours = everyHour
	case !strings.Contains(parts[2], ",") && (strings.HasPrefix(parts[2], "*/") || strings.HasPrefix(parts[2], "?/") || strings.HasPrefix(parts[2], "H/")):
		x.hours = steppedHours
	}
	return nil
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
