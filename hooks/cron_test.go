package hooks

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

func TestPatterns(t *testing.T) {
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
		"0 0 0 31 2 *":      "never",

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
		p, err := parsePattern(text, "seed")
		var got []string
		if err != nil {
			got = append(got, "error")
		} else {
			for at := time.Date(2026, 7, 15, 12, 30, 30, 0, time.UTC); len(got) < 2; {
				if at = p.next(at); at.IsZero() {
					got = append(got, "never")
					break
				}
				got = append(got, at.Format("2006-01-02T15:04:05"))
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("%q: %s, want %s (%v)", text, s, want, err)
		}
	}
}

// H spreads hooks, and is the same for a hook at all times.
func TestHashedFieldsAreAHooksOwn(t *testing.T) {
	seen := map[time.Time]bool{}
	start := timestamp.Of(time.Date(2026, 7, 15, 0, 0, 0, 0, time.UTC)).Time()
	for _, seed := range strings.Split("a b c d e f g h i j", " ") {
		var firsts []time.Time
		for range 2 {
			p, err := parsePattern("H H(10-20) H(3-5) * * *", seed)
			if err != nil {
				t.Fatal(err)
			}
			firsts = append(firsts, p.next(start))
		}
		if n := firsts[0]; n != firsts[1] || n.Minute() < 10 || n.Minute() > 20 || n.Hour() < 3 || n.Hour() > 5 {
			t.Errorf("%s: %v", seed, firsts)
		}
		seen[firsts[0]] = true
		p, err := parsePattern("H/15 * * * *", seed)
		if err != nil {
			t.Fatal(err)
		}
		a := p.next(start)
		b := p.next(a)
		if b.Sub(a) != 15*time.Minute || a.Sub(start) >= 15*time.Minute {
			t.Errorf("%s: every quarter of an hour: %v, %v", seed, a, b)
		}
		if p, err = parsePattern("0 0 0 * * H", seed); err != nil || p.next(start).IsZero() {
			t.Errorf("%s: a day of the week: %v", seed, err)
		}
	}
	if len(seen) < 8 {
		t.Errorf("ten hooks share %d moments", len(seen))
	}
}

func TestASchedulesNextDateIsTheFirstOfItsPatterns(t *testing.T) {
	now := timestamp.Of(time.Date(2026, 7, 15, 12, 0, 0, 0, time.UTC))
	for want, schedule := range map[string][]string{
		"2026-07-15T18:00:00.000Z": {"0 3 * * *", "0 18 * * *", "0 0 * * *"},
		"2026-07-15T12:00:01.000Z": {"0 3 * * *", "* * * * * *"},
	} {
		got, err := nextDate(schedule, "", now)
		if err != nil || got.String() != want {
			t.Errorf("%v: %v, %v", schedule, got, err)
		}
	}
	if got, err := nextDate(nil, "", now); got != 0 || err != nil {
		t.Errorf("no schedule: %v, %v", got, err)
	}
	for _, bad := range [][]string{{"0 3 * * *", "x"}, {"0 3 * * *", "0 0 0 31 2 *"}} {
		if _, err := nextDate(bad, "", now); err == nil || !slices.ContainsFunc([]string{"31 2", `"x"`}, func(s string) bool { return strings.Contains(err.Error(), s) }) {
			t.Errorf("%v: the error does not name the entry: %v", bad, err)
		}
	}
}
