package queue

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Whatever happens to a graph, Upcoming tells what a look at all of it would.
func TestUpcomingIsWhatWaitsForRunningTasksAlone(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		random := rand.New(rand.NewPCG(1, 2))
		var names []string
		seen := map[string]bool{}
		for step := range 400 {
			pick := func() string { return names[random.IntN(len(names))] }
			switch n := random.IntN(20); {
			case n < 8 || len(names) < 3:
				name := fmt.Sprint("t", step)
				f := []string{"create", name, "label=" + name}
				if len(names) > 3 {
					var deps []string
					for range random.IntN(4) {
						deps = append(deps, names[max(0, len(names)-1-random.IntN(15))])
					}
					slices.Sort(deps)
					if deps = slices.Compact(deps); len(deps) > 0 {
						f = append(f, "deps="+strings.Join(deps, ","))
					}
				}
				if random.IntN(3) == 0 {
					f = append(f, "requires=all-resolved")
				}
				if got := s.do(f); strings.HasPrefix(got, "4") {
					t.Fatal(f, got)
				}
				names = append(names, name)
			case n < 13:
				if _, err := s.queue.claimNow(t.Context(), "prov/wt", Worker{"grp", "w"}, 2); err != nil {
					t.Fatal(err)
				}
			case n < 17: // of a running task; of others it is refused
				run := fmt.Sprintf("%s/%d", pick(), random.IntN(2))
				s.do([]string{[]string{"completed", "completed", "failed"}[random.IntN(3)], run})
			case n < 18:
				s.do([]string{"cancel", pick()})
			case n < 19:
				s.do([]string{"schedule", pick()})
			default:
				s.do([]string{"rerun", pick()})
			}
			synctest.Wait()
			got, want := s.upcoming(), s.upcomingInFull()
			if got != want {
				t.Fatalf("after step %d:\n got %s\nwant %s", step, got, want)
			}
			seen[got] = true
		}
		if len(seen) < 20 {
			t.Errorf("only %d different answers were compared", len(seen))
		}
	})
}

func (s *stage) upcomingInFull() string {
	waitsFor := map[string][]string{}
	if err := s.db.View(s.t.Context(), func(tx *store.Tx) error {
		clear(waitsFor)
		rows, err := tx.Query(`
			SELECT d.task_id, r.state, r.kind FROM dependency AS d
			  JOIN task AS t ON t.task_id = d.task_id AND t.state = 'unscheduled' JOIN task AS r ON r.task_id = d.required
			 WHERE NOT (r.state = 'completed' OR r.state IN ('failed', 'exception') AND d.on_any = 1) AND d.satisfied = 0`)
		if err != nil {
			return err
		}
		for rows.Next() {
			var id, state, kind string
			if err := rows.Scan(&id, &state, &kind); err != nil {
				return err
			}
			if state != "running" {
				kind = ""
			}
			waitsFor[id] = append(waitsFor[id], kind)
		}
		return rows.Err()
	}); err != nil {
		s.t.Fatal(err)
	}
	groups := map[string]int{}
	for _, kinds := range waitsFor {
		if slices.Sort(kinds); kinds[0] != "" {
			groups[strings.Join(kinds, "+")]++
		}
	}
	var told []string
	for kinds, n := range groups {
		told = append(told, fmt.Sprintf("%d in wt after %s", n, kinds))
	}
	slices.Sort(told)
	return cmp.Or(strings.Join(told, ", "), "none")
}

// Tasks that are there when this is installed are known as those that come.
func TestTasksOfAnOlderVersionAreKnown(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		old := fstest.MapFS{}
		for _, name := range []string{"0001_queue.sql", "0002_resolution_group.sql"} {
			text, err := migrations.ReadFile("migrations/" + name)
			if err != nil {
				t.Fatal(err)
			}
			old[name] = &fstest.MapFile{Data: text}
		}
		if err := db.Migrate(t.Context(), "queue", old); err != nil {
			t.Fatal(err)
		}
		start := timestamp.Now()
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			for _, r := range []struct{ id, state, worker string }{{"A", "running", "grp/w"}, {"B", "running", "grp/w"}, {"one", "unscheduled", ""}, {"two", "unscheduled", ""}, {"gone", "exception", ""}} {
				taken := timestamp.Time(0)
				if r.worker != "" {
					taken = start.Add(claimTimeout)
				}
				if _, err := tx.Exec(`
					INSERT INTO task (task_id, task_queue_id, scheduler_id, project_id, task_group_id, priority, state, retries, retries_left,
					                  deadline, expires, taken_until, worker, runs, routes, tags, definition)
					VALUES ($1, 'prov/wt', '-', 'none', 'G', 0, $2, 5, 5, $3, $3, $4, $5, '[]', '[]', $6, '{}')`,
					r.id, r.state, start.Add(time.Hour), taken, r.worker, fmt.Sprintf(`{"label":"%s","x":"%s"}`, r.id, strings.Repeat("y", 300))); err != nil {
					return err
				}
			}
			for _, e := range []struct {
				id, required string
				satisfied    int
			}{{"one", "A", 0}, {"one", "X", 1}, {"two", "A", 0}, {"two", "B", 0}, {"gone", "A", 0}} {
				if _, err := tx.Exec(`INSERT INTO dependency (task_id, required, on_any, satisfied) VALUES ($1, $2, 0, $3)`, e.id, e.required, e.satisfied); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		s := newStage(t, db, nil)
		if got := s.upcoming(); got != "1 in wt after A, 1 in wt after A+B" {
			t.Error(got)
		}
		d, err := s.queue.Demand(t.Context(), []string{"prov/wt"})
		if err != nil || len(d["prov/wt"].Running) != 2 || d["prov/wt"].Running[0].Started != start {
			t.Error(d, err)
		}
	})
}

// Whoever wants to know of demand learns of it with the commit, and of none that
// was undone.
func TestDemandIsToldWithTheCommit(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		var told []string
		s.queue.demanded = func(tx *store.Tx, id string) { tx.AfterCommit(func() { told = append(told, id) }) }
		id := mustCreate(t, s.queue, definition())
		d := definition()
		d.Dependencies = []string{id}
		mustCreate(t, s.queue, d)
		if _, err := s.queue.create(t.Context(), id, d); err == nil {
			t.Error("an id was taken twice")
		}
		if len(told) != 1 || told[0] != "prov/wt" {
			t.Error(told)
		}
	})
}

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
