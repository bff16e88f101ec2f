package cron

import (
	"strings"
	"testing"
	"time"
)

func TestExpressions(t *testing.T) {
	for text, want := range map[string]string{
		// From Wednesday, 15 July 2026, 12:30:30 on.
		"0 0 3 * * *":       "2026-07-16T03:00:00 2026-07-17T03:00:00",
		"0 3 * * *":         "2026-07-16T03:00:00 2026-07-17T03:00:00",
		" */15  * * * * ":   "2026-07-15T12:45:00 2026-07-15T13:00:00",
		"*/20 * * * * *":    "2026-07-15T12:30:40 2026-07-15T12:31:00",
		"30 30 12 * * *":    "2026-07-16T12:30:30 2026-07-17T12:30:30", // later than now
		"50/7 30 12 * * *":  "2026-07-15T12:30:50 2026-07-15T12:30:57",
		"1,2-3 0 0 ? * ?":   "2026-07-16T00:00:01 2026-07-16T00:00:02",
		"@hourly":           "2026-07-15T13:00:00 2026-07-15T14:00:00",
		"@weekly":           "2026-07-19T00:00:00 2026-07-26T00:00:00",
		"@weekdays":         "2026-07-16T00:00:00 2026-07-17T00:00:00",
		"@yearly":           "2027-01-01T00:00:00 2028-01-01T00:00:00",
		"0 0 0 * * 7":       "2026-07-19T00:00:00 2026-07-26T00:00:00",
		"0 0 0 * * sat-7":   "2026-07-18T00:00:00 2026-07-19T00:00:00",
		"0 0 0 * * 6-7":     "2026-07-18T00:00:00 2026-07-19T00:00:00",
		"0 0 0 * aug Mon":   "2026-08-03T00:00:00 2026-08-10T00:00:00",
		"0 0 0 1 * 1":       "2026-07-20T00:00:00 2026-07-27T00:00:00", // either
		"0 0 0 */10 * 1":    "2026-07-20T00:00:00 2026-07-21T00:00:00", // either
		"0 0 0 1 jan-mar *": "2027-01-01T00:00:00 2027-02-01T00:00:00",
		"0 0 0 29 2 *":      "2028-02-29T00:00:00 2032-02-29T00:00:00",
		"0 0 0 L * *":       "2026-07-31T00:00:00 2026-08-31T00:00:00",
		"0 0 0 20,L * *":    "2026-07-20T00:00:00 2026-07-31T00:00:00",
		"0 0 0 * * 5L":      "2026-07-31T00:00:00 2026-08-28T00:00:00",
		"0 0 0 * * friL":    "2026-07-31T00:00:00 2026-08-28T00:00:00",
		"0 0 0 * * 7L":      "2026-07-26T00:00:00 2026-08-30T00:00:00",
		"0 0 0 * * 2#1":     "2026-08-04T00:00:00 2026-09-01T00:00:00",
		"0 0 0 * * tue#5":   "2026-09-29T00:00:00 2026-12-29T00:00:00",
		"0 0 0 * 2 1#5":     "2044-02-29T00:00:00 2072-02-29T00:00:00",
		"0 0 0 31 2 1":      "2027-02-01T00:00:00 2027-02-08T00:00:00",
		"0 0 0 31 2 *":      "error",

		"": "error", "* * * *": "error", "* * * * * * *": "error", "@often": "error",
		"60 * * * * *": "error", "* 60 * * * *": "error", "* * 24 * * *": "error", "* * * 0 * *": "error", "* * * 32 * *": "error",
		"* * * * 0 *": "error", "* * * * 13 *": "error", "* * * * * 8": "error", "* * * * * mon,": "error", ", * * * * *": "error",
		"5-3 * * * * *": "error", "1-2-3 * * * * *": "error", "-1 * * * * *": "error", "+1 * * * * *": "error", "*/0 * * * * *": "error",
		"*/-1 * * * * *": "error", "*/x * * * * *": "error", "1/2/3 * * * * *": "error", "** * * * * *": "error", "jan * * * * *": "error",
		"* * * * monday *": "error", "* * * * anf *": "error", "* * * 5L * *": "error", "* * * L-3 * *": "error", "* * * * * L": "error",
		"* * * * * 1#6": "error", "* * * * * 1#0": "error", "* * * * * 1,2#3": "error", "* * * * * 1L#2": "error", "L * * * * *": "error",
		"H(5-3) * * * * *": "error", "H(1-99) * * * * *": "error", "H( * * * * *": "error", "H/0 * * * * *": "error",
		"*/99999999999999999999 * * * * *": "error", "99999999999999999999 * * * * *": "error", "١ * * * * *": "error",
		strings.Repeat("1,", 600) + "1 * * * * *": "error",
	} {
		x, err := Parse(text, "UTC", "seed")
		var got []string
		if err != nil {
			got = append(got, "error")
		} else {
			for at := time.Date(2026, 7, 15, 12, 30, 30, 0, time.UTC); len(got) < 2; {
				at = x.Next(at)
				got = append(got, at.Format("2006-01-02T15:04:05"))
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%q: %s, want %s (%v)", text, s, want, err)
		}
	}
}

// H spreads those who have the same expression, and is the same for one at all
// times.
func TestHashedFieldsBelongToTheirOwner(t *testing.T) {
	seen := map[time.Time]bool{}
	start := time.Date(2026, 7, 15, 0, 0, 0, 0, time.UTC)
	for _, seed := range strings.Split("a b c d e f g h i j", " ") {
		var firsts []time.Time
		for range 2 {
			x, err := Parse("H H(10-20) H(3-5) * * *", "", seed)
			if err != nil {
				t.Fatal(err)
			}
			firsts = append(firsts, x.Next(start))
		}
		if n := firsts[0]; n != firsts[1] || n.Minute() < 10 || n.Minute() > 20 || n.Hour() < 3 || n.Hour() > 5 {
			t.Errorf("%s: %v", seed, firsts)
		}
		seen[firsts[0]] = true
		x, err := Parse("H/15 * * * *", "", seed)
		if err != nil {
			t.Fatal(err)
		}
		a := x.Next(start)
		b := x.Next(a)
		if b.Sub(a) != 15*time.Minute || a.Sub(start) >= 15*time.Minute {
			t.Errorf("%s: every quarter of an hour: %v, %v", seed, a, b)
		}
		if x, err = Parse("0 0 0 * * H", "", seed); err != nil || x.Next(start).IsZero() {
			t.Errorf("%s: a day of the week: %v", seed, err)
		}
	}
	if len(seen) < 8 {
		t.Errorf("ten hooks share %d moments", len(seen))
	}
}

func TestErrorsSayWhatToWrite(t *testing.T) {
	for _, c := range []struct{ text, zone, want string }{
		{"0 3 * *", "", "4 fields; give second, minute"},
		{"0 25 * * *", "", `the hour is "25"`},
		{"0 25 * * *", "", "from 0 to 23"},
		{"0 3 * * monday", "", "the day of the week"},
		{"*/0 3 * * *", "", "from 1 on"},
		{"0 3 30 2 *", "", "30 February"},
		{"0 3 * * *", "Europe/Atlantis", "IANA name"},
		{"0 3 * * *", "Local", "IANA name"},
		{"0 3 * * *", "../etc/passwd", "IANA name"},
	} {
		if _, err := Parse(c.text, c.zone, ""); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q in %q: %v, want %q", c.text, c.zone, err, c.want)
		}
	}
}
