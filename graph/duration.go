package graph

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

const (
	day  = 24 * time.Hour
	year = 365 * day
)

var units = map[string]time.Duration{
	"s": time.Second, "sec": time.Second, "secs": time.Second, "second": time.Second, "seconds": time.Second,
	"m": time.Minute, "min": time.Minute, "mins": time.Minute, "minute": time.Minute, "minutes": time.Minute,
	"h": time.Hour, "hour": time.Hour, "hours": time.Hour,
	"d": day, "day": day, "days": day,
	"w": 7 * day, "week": 7 * day, "weeks": 7 * day,
	"y": year, "year": year, "years": year,
}

const longest = 100 * year

// ParseDuration reads "2 hours", "1 day 12 hours", "90s" and the like.
func ParseDuration(s string) (time.Duration, error) {
	var total time.Duration
	rest := strings.TrimSpace(s)
	if rest == "" {
		return 0, fmt.Errorf("a duration is missing; write one such as 2 hours")
	}
	for rest != "" {
		digits := len(rest) - len(strings.TrimLeft(rest, "0123456789"))
		n, err := strconv.ParseInt(rest[:digits], 10, 32)
		if err != nil {
			return 0, fmt.Errorf("%q is no duration; write one such as 2 hours, 10 minutes or 1h30m", s)
		}
		rest = strings.TrimLeft(rest[digits:], " ")
		letters := strings.IndexFunc(rest, func(r rune) bool { return r < 'a' || r > 'z' })
		if letters < 0 {
			letters = len(rest)
		}
		unit, known := units[rest[:letters]]
		switch {
		case letters == 0:
			return 0, fmt.Errorf("the duration %q has no unit; write %s seconds, %s minutes or whatever is meant", s, s, s)
		case !known:
			return 0, fmt.Errorf("%q in the duration %q is no unit; use seconds, minutes, hours, days, weeks or years", rest[:letters], s)
		case n > int64(longest/unit):
			return 0, fmt.Errorf("the duration %q is longer than a hundred years", s)
		}
		total += time.Duration(n) * unit
		if total > longest {
			return 0, fmt.Errorf("the duration %q is longer than a hundred years", s)
		}
		rest = strings.TrimLeft(rest[letters:], " ")
	}
	return total, nil
}
