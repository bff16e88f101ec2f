package schedule

import (
	"context"
	"fmt"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const tidyKind = "schedule.tidy"

var tidyJob = Job{
	Name: "schedule.tidy", Kind: tidyKind, Doc: "Forgets runs that ended more than 90 days ago, and all but the latest 10,000 of a job.",
	Expression: "H H(1-5) * * *", CatchUp: Latest, Retries: 3,
}

// mostRuns is how many of a job are kept.
const mostRuns = 10_000

// tidy is the runner that keeps the history bounded.
func (s *Schedule) tidy(ctx context.Context, _ Occasion) (string, error) {
	var forgotten int64
	var jobs []string
	if err := s.db.View(ctx, func(tx *store.Tx) (err error) {
		jobs, err = tx.Column(`SELECT DISTINCT job FROM schedule_run ORDER BY job`)
		return err
	}); err != nil {
		return "", err
	}
	before := timestamp.Now().Add(-memory)
	for _, name := range jobs {
		var n int64
		if err := s.db.Do(ctx, func(tx *store.Tx) (err error) {
			n, err = tx.Exec(`
				DELETE FROM schedule_run
				 WHERE job = $1 AND ended > 0
				   AND (ended < $2 OR due <= (SELECT due FROM schedule_run WHERE job = $1 AND ended > 0 ORDER BY due DESC LIMIT 1 OFFSET $3))`, name, before, mostRuns)
			return err
		}); err != nil {
			return "", err
		}
		forgotten += n
	}
	return fmt.Sprintf("forgot %d runs", forgotten), nil
}
