package hooks

import (
	"fmt"

	"github.com/taskfleet/taskfleet/schedule/cron"
	"github.com/taskfleet/taskfleet/timestamp"
)

// nextDate is when a schedule, in UTC, is due after t, or 0 where it has no
// entries. H is a number of the hook's own: the seed is its path.
func nextDate(schedule []string, seed string, t timestamp.Time) (timestamp.Time, error) {
	var first timestamp.Time
	for _, text := range schedule {
		x, err := cron.Parse(text, "UTC", seed)
		if err != nil {
			return 0, fmt.Errorf("schedule entry %.100q: %w", text, err)
		}
		n := x.Next(t.Time())
		if n.IsZero() {
			return 0, fmt.Errorf("schedule entry %.100q: there is no such date in the next %d years", text, cron.Horizon)
		}
		if at := timestamp.Of(n); first == 0 || at < first {
			first = at
		}
	}
	return first, nil
}
