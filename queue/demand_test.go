package queue

import (
	"fmt"
	"testing"

	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A large deployment: 10,000 workers in ten queues, each with a running task,
// 100,000 tasks that wait for one of these, as many that are pending.
const (
	largeQueues  = 10
	largeWorkers = 10_000
	largeGraph   = 100_000
)

func (s *stage) large() (queueIDs []string) {
	t := timestamp.Now()
	insert := func(n int, statement string, args func(i int) []any) {
		for from := 0; from < n; from += 5000 {
			if err := s.db.Do(s.t.Context(), func(tx *store.Tx) error {
				for i := from; i < min(n, from+5000); i++ {
					if _, err := tx.Exec(statement, args(i)...); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	queue := func(i int) string { return fmt.Sprintf("prov/q%d", i%largeQueues) }
	for i := range largeQueues {
		queueIDs = append(queueIDs, queue(i))
	}
	definition := fmt.Sprintf(`{"payload":%q}`, make([]byte, 300))
	task := `INSERT INTO task (` + columns + `) VALUES ($1, $2, '-', 'none', $1, 0, $3, 5, 5, $4, $4, $4, $5, $6, $7, '[]', '[]', '{}', $8)`
	var running []string
	insert(largeWorkers, task, func(i int) []any {
		running = append(running, slugid.New())
		return []any{running[i], queue(i), "running", t + 86_400_000, fmt.Sprintf("grp/w%d", i), t, fmt.Sprint("kind", i%50), definition}
	})
	insert(largeWorkers, `INSERT INTO queue_worker (task_queue_id, worker, first_claim, last_active, expires, recent) VALUES ($1, $2, $3, $3, $3, $4)`, func(i int) []any {
		return []any{queue(i), fmt.Sprintf("grp/w%d", i), t, fmt.Sprintf("%520s", "")}
	})
	var waiting []string
	insert(largeGraph, task, func(i int) []any {
		waiting = append(waiting, slugid.New())
		return []any{waiting[i], queue(i), "unscheduled", t + 86_400_000, "", 0, "", definition}
	})
	insert(largeGraph, `INSERT INTO dependency (task_id, required, on_any, satisfied, task_queue_id, waits) VALUES ($1, $2, 0, 0, $3, 1)`, func(i int) []any {
		return []any{waiting[i], running[0], queue(i)}
	})
	// Some that wait for two, and some whose turn is far off.
	insert(largeWorkers, task, func(i int) []any {
		waiting = append(waiting, slugid.New())
		return []any{waiting[largeGraph+i], queue(i), "unscheduled", t + 86_400_000, "", 0, "", definition}
	})
	insert(2*largeWorkers, `INSERT INTO dependency (task_id, required, on_any, satisfied, task_queue_id, waits) VALUES ($1, $2, 0, 0, $3, 2)`, func(i int) []any {
		return []any{waiting[largeGraph+i/2], running[(i+i%2*7)%largeWorkers], queue(i / 2)}
	})
	insert(largeGraph, `INSERT INTO dependency (task_id, required, on_any, satisfied, task_queue_id, waits) VALUES ($1, $2, 0, 0, $3, 1)`, func(i int) []any {
		return []any{slugid.New(), waiting[i], queue(i)}
	})
	insert(largeGraph, `INSERT INTO pending (task_id, run_id, task_queue_id, priority, since) VALUES ($1, 0, $2, $3, $4)`, func(i int) []any {
		return []any{slugid.New(), queue(i), i % 7, t + timestamp.Time(i)}
	})
	return queueIDs
}

func BenchmarkDemand(b *testing.B) {
	benchmark(b, func(b *testing.B, s *stage) {
		ids := s.large()
		for b.Loop() {
			all, err := s.queue.Demand(b.Context(), ids)
			if err != nil || len(all) != largeQueues || len(all[ids[0]].Running) != largeWorkers/largeQueues || len(all[ids[0]].Workers) != largeWorkers/largeQueues {
				b.Fatal(len(all), err)
			}
		}
	})
}

func BenchmarkUpcoming(b *testing.B) {
	benchmark(b, func(b *testing.B, s *stage) {
		ids := s.large()
		for b.Loop() {
			list, err := s.queue.Upcoming(b.Context(), ids)
			if err != nil {
				b.Fatal(err)
			}
			alone, several := int64(0), int64(0)
			for _, u := range list {
				if len(u.Dependencies) == 1 {
					alone += u.Count
				} else {
					several += u.Count
				}
			}
			if alone != largeGraph || several < 500 {
				b.Fatal(len(list), alone, several)
			}
		}
	})
}

// 200 of 10,000 at once; none of them has a claim.
func BenchmarkDrainAny(b *testing.B) {
	benchmark(b, func(b *testing.B, s *stage) {
		s.large()
		var list []Worker
		for i := range 200 {
			list = append(list, Worker{"grp", fmt.Sprint("w", i)})
		}
		for b.Loop() {
			if err := s.db.Do(b.Context(), func(tx *store.Tx) error {
				drained, err := s.queue.DrainAny(tx, "prov/other", list)
				if len(drained) != 200 {
					b.Fatal(len(drained), err)
				}
				return err
			}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
