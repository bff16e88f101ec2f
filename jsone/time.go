package jsone

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The units of a span, from the largest to the smallest, in seconds. A month
// has 30 days here and a year 365.
var units = []struct {
	names   string
	seconds float64
}{
	{"years year yr y", 365 * 86400},
	{"months month mo", 30 * 86400},
	{"weeks week wk w", 7 * 86400},
	{"days day d", 86400},
	{"hours hour hr h", 3600},
	{"minutes minute min m", 60},
	{"seconds second sec s", 1},
}

// fromNow is the time that is span after (or, with a minus, before) from.
func fromNow(span string, from any) (string, error) {
	text, ok := from.(string)
	if !ok {
		return "", fmt.Errorf("it would be relative to %s, which is no time", describe(from))
	}
	start, err := parseTime(text)
	if err != nil {
		return "", err
	}
	seconds, err := parseSpan(span)
	if err != nil {
		return "", err
	}
	outside := errors.New("it is not between the years 0 and 9999")
	if math.Abs(seconds) > 10_000*366*86400 {
		return "", outside
	}
	then := time.UnixMilli(start.UnixMilli() + int64(seconds)*1000).UTC()
	if year := then.Year(); year < 0 || year > 9999 {
		return "", outside
	}
	return formatTime(then), nil
}

// formatTime is t as JSON-e and JavaScript write it.
func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// parseTime reads RFC 3339, with or without its end; UTC where it does not say.
func parseTime(s string) (time.Time, error) {
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04Z07:00", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("'%s' is no time like 2017-01-19T16:27:20.974Z", clip(s))
}

// parseSpan reads "1 day 2 hours", "-1d2h" or nothing at all, in seconds.
func parseSpan(text string) (seconds float64, err error) {
	rest := strings.TrimLeftFunc(text, isSpace)
	sign := 1.0
	if rest != "" && (rest[0] == '-' || rest[0] == '+') {
		if rest[0] == '-' {
			sign = -1
		}
		rest = rest[1:]
	}
	next := 0 // the largest unit that may still come
	for {
		if rest = strings.TrimLeftFunc(rest, isSpace); rest == "" {
			return sign * seconds, nil
		}
		n := span(rest, isDigit)
		count, _ := strconv.ParseFloat(rest[:n], 64) // too many digits make it infinite
		rest = strings.TrimLeftFunc(rest[n:], isSpace)
		length := span(rest, isLetter)
		unit := unitNamed(strings.ToLower(rest[:length]), next)
		if n == 0 || unit < 0 {
			return 0, fmt.Errorf("'%s' is no time span like 1 day 2 hours, with units from the largest to the smallest", clip(text))
		}
		seconds += count * units[unit].seconds
		next = unit + 1
		rest = rest[length:]
	}
}

// unitNamed is the unit of that name, if it is one of units[from:], or -1.
func unitNamed(name string, from int) int {
	for i := from; i < len(units); i++ {
		if slices.Contains(strings.Fields(units[i].names), name) {
			return i
		}
	}
	return -1
}
