package cron

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The zones in which clocks do what is unusual, beside those that most people have.
var zonesOfTests = []string{
	"UTC", "Europe/Berlin", "America/New_York",
	"Australia/Lord_Howe", // by half an hour
	"Africa/Casablanca",   // back for Ramadan
	"America/Havana",      // at midnight, so that a day begins with a gap
	"Pacific/Apia",        // without the 30th of December 2011
}

// What people expect on the days when clocks change.
func TestDaysWhenClocksChange(t *testing.T) {
	for _, c := range []struct{ zone, day, text, want string }{
		{"Europe/Berlin", "2026-03-29", "30 2 * * *", "03:00+02"},
		{"Europe/Berlin", "2026-03-29", "0,30 2 * * *", "03:00+02"},
		{"Europe/Berlin", "2026-03-29", "0 2,3 * * *", "03:00+02"},
		{"Europe/Berlin", "2026-03-29", "0 3 * * *", "03:00+02"},
		{"Europe/Berlin", "2026-03-29", "30 1-3 * * *", "01:30+01 03:00+02 03:30+02"},
		{"Europe/Berlin", "2026-03-29", "30 */2 * * *", "00:30+01 03:00+02 04:30+02 06:30+02 08:30+02 10:30+02 12:30+02 14:30+02 16:30+02 18:30+02 20:30+02 22:30+02"},
		{"Europe/Berlin", "2026-10-25", "30 2 * * *", "02:30+02"},
		{"Europe/Berlin", "2026-10-25", "*/20 2 * * *", "02:00+02 02:20+02 02:40+02"},
		{"Europe/Berlin", "2026-10-25", "0 1-3 * * *", "01:00+02 02:00+02 03:00+01"},
		{"Europe/Berlin", "2026-10-25", "0 */12 * * *", "00:00+02 12:00+01"},
		{"Europe/Berlin", "2026-10-25", "0 */2 * * *", "00:00+02 02:00+02 02:00+01 04:00+01 06:00+01 08:00+01 10:00+01 12:00+01 14:00+01 16:00+01 18:00+01 20:00+01 22:00+01"},
		{"America/New_York", "2026-03-08", "15 2 * * *", "03:00-04"},
		{"America/New_York", "2026-11-01", "15 1 * * *", "01:15-04"},
		{"Australia/Lord_Howe", "2026-10-04", "15 2 * * *", "02:30+11"},
		{"Australia/Lord_Howe", "2026-10-04", "45 2 * * *", "02:45+11"},
		{"Australia/Lord_Howe", "2026-04-05", "45 1 * * *", "01:45+11"},
		{"Africa/Casablanca", "2026-02-15", "30 2 * * *", "02:30+01"},
		{"Africa/Casablanca", "2026-03-22", "30 2 * * *", "03:00+01"},
		{"America/Havana", "2026-03-08", "@daily", "01:00-04"},
		{"Pacific/Apia", "2011-12-31", "0 12 * * *", "00:00+14 12:00+14"},
		{"UTC", "2026-03-29", "30 2 * * *", "02:30Z"},
	} {
		x, err := Parse(c.text, c.zone, "")
		if err != nil {
			t.Fatal(err)
		}
		zone, _ := Zone(c.zone)
		day, err := time.ParseInLocation(time.DateOnly, c.day, zone)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for at := x.Next(day.Add(-time.Second)); at.Format(time.DateOnly) == c.day; at = x.Next(at) {
			got = append(got, at.Format("15:04Z07"))
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s in %s on %s: %s, want %s", c.text, c.zone, c.day, s, c.want)
		}
	}
}

// An hourly job runs once every hour that there is.
func TestEveryHourIsEveryHour(t *testing.T) {
	for day, want := range map[string]int{"2026-03-29": 23, "2026-10-25": 25, "2026-07-15": 24} {
		x, err := Parse("30 * * * *", "Europe/Berlin", "")
		if err != nil {
			t.Fatal(err)
		}
		zone, _ := Zone("Europe/Berlin")
		start, _ := time.ParseInLocation(time.DateOnly, day, zone)
		n := 0
		for at := x.Next(start.Add(-time.Second)); at.Before(start.AddDate(0, 0, 1)); at = x.Next(at) {
			n++
		}
		if n != want {
			t.Errorf("%s: %d runs, want %d", day, n, want)
		}
	}
}

// Whoever sleeps from date to date for twenty years wakes at the dates that are
// found by looking at the clock on the wall every quarter of an hour.
func TestTwentyYears(t *testing.T) {
	for _, zone := range zonesOfTests {
		for text, names := range map[string]func(c time.Time) bool{
			"30 2 * * *":     func(c time.Time) bool { return c.Hour() == 2 && c.Minute() == 30 },
			"*/15 1-3 * * *": func(c time.Time) bool { return c.Hour() >= 1 && c.Hour() <= 3 && c.Minute()%15 == 0 },
			"0 0 * * *":      func(c time.Time) bool { return c.Hour() == 0 && c.Minute() == 0 },
			"45 * * * *":     func(c time.Time) bool { return c.Minute() == 45 },
			"15 */3 * * *":   func(c time.Time) bool { return c.Hour()%3 == 0 && c.Minute() == 15 },
			"15 2 * * SUN":   func(c time.Time) bool { return c.Weekday() == time.Sunday && c.Hour() == 2 && c.Minute() == 15 },
			"45 23 L * *":    func(c time.Time) bool { return c.AddDate(0, 0, 1).Day() == 1 && c.Hour() == 23 && c.Minute() == 45 },
			"0 1,2 1 3,4,10 *": func(c time.Time) bool {
				return c.Day() == 1 && (c.Month() == 3 || c.Month() == 4 || c.Month() == 10) && (c.Hour() == 1 || c.Hour() == 2) && c.Minute() == 0
			},
		} {
			t.Run(strings.ReplaceAll(zone, "/", " ")+" "+strings.ReplaceAll(text, "/", "÷"), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					x, err := Parse(text, zone, "")
					if err != nil {
						t.Fatal(err)
					}
					start := time.Date(2010, 1, 1, 0, 0, 0, 0, time.UTC)
					end := start.AddDate(20, 0, 0)
					time.Sleep(time.Until(start))
					var slept []time.Time
					for {
						next := x.Next(time.Now())
						if next.After(end) {
							break
						}
						time.Sleep(time.Until(next))
						slept = append(slept, next.UTC())
					}
					if looked := byLooking(x.zone, start, end, x.hours, names); !slices.EqualFunc(slept, looked, time.Time.Equal) {
						t.Error(difference(slept, looked))
					}
				})
			})
		}
	}
}

// byLooking are the dates after start until end by the rules as they are told,
// found by one who looks at a clock every quarter of an hour.
func byLooking(zone *time.Location, start, end time.Time, h hours, names func(time.Time) bool) (dates []time.Time) {
	var offset time.Duration
	var change time.Time
	var latest, before time.Time // that the clock has shown
	for at := start.AddDate(0, 0, -2); !at.After(end); at = at.Add(15 * time.Minute) {
		if change.IsZero() || !at.Before(change) {
			_, o := at.In(zone).Zone()
			offset = time.Duration(o) * time.Second
			if _, change = at.In(zone).ZoneBounds(); change.IsZero() {
				change = end.AddDate(1, 0, 0)
			}
		}
		shows := at.UTC().Add(offset)
		due := names(shows) && (h != namedHours || shows.After(latest))
		if h != everyHour && !before.IsZero() {
			for missed := before.Add(15 * time.Minute); missed.Before(shows); missed = missed.Add(15 * time.Minute) {
				due = due || names(missed)
			}
		}
		if due && at.After(start) {
			dates = append(dates, at.UTC())
		}
		if before = shows; shows.After(latest) {
			latest = shows
		}
	}
	return dates
}

func difference(got, want []time.Time) string {
	for i := range min(len(got), len(want)) {
		if !got[i].Equal(want[i]) {
			return fmt.Sprintf("date %d is %v, want %v", i, got[i], want[i])
		}
	}
	return fmt.Sprintf("there are %d dates, want %d", len(got), len(want))
}

// The years beyond the tables of zones are like those before, leap years included.
func TestBeyondTheTablesOfZones(t *testing.T) {
	t.Parallel()
	for _, zone := range append(slices.Clone(zonesOfTests), "Australia/Sydney") {
		x, err := Parse("30 12 * * *", zone, "")
		if err != nil {
			t.Fatal(err)
		}
		at := time.Date(2036, 12, 25, 0, 0, 0, 0, time.UTC)
		for days := 0; at.Year() < 2050; days++ {
			next := x.Next(at)
			if step := next.Sub(at); days > 0 && (step < 23*time.Hour || step > 25*time.Hour) || next.Format("15:04") != "12:30" {
				t.Fatalf("%s: %v follows %v", zone, next, at)
			}
			at = next
		}
		for expression, want := range map[string]string{"0 4 1 * *": "2041-01-01", "0 0 * 2 1#5": "2044-02-29", "0 4 31 12 *": "2040-12-31"} {
			x, err := Parse(expression, zone, "")
			if err != nil {
				t.Fatal(err)
			}
			if got := x.Next(time.Date(2040, 12, 5, 0, 0, 0, 0, time.UTC)).Format(time.DateOnly); got != want {
				t.Errorf("%s in %s: %s, want %s", expression, zone, got, want)
			}
		}
	}
}
