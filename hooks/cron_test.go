package hooks

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

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
