package graph

import (
	"testing"
	"time"
)

func TestDurations(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"2 hours": 2 * time.Hour, "1 hour 30 minutes": 90 * time.Minute, "1h30m": 90 * time.Minute, "90s": 90 * time.Second,
		"1 day": day, "2 weeks": 14 * day, "1 year": year, " 5  min ": 5 * time.Minute, "0 seconds": 0, "100 years": longest,
	} {
		if got, err := ParseDuration(s); got != want || err != nil {
			t.Errorf("%q is %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "soon", "5", "-1 hour", "1.5 hours", "1 hour and a half", "h", "101 years", "99999999999 s", "100 years 1 second", "3 Hours", "1 hour;"} {
		if got, err := ParseDuration(s); err == nil {
			t.Errorf("%q is %v; want an error", s, got)
		}
	}
}
