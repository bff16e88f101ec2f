package queue

import (
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

// The hot path through the HTTP methods, without network and authentication.
// SQLite runs without waiting for the disk here: what is measured is work.
func benchmark(b *testing.B, f func(b *testing.B, s *stage)) {
	for _, kind := range []string{"sqlite", "postgres"} {
		b.Run(kind, func(b *testing.B) {
			db, err := store.Open(b.Context(), storetest.URL(b, kind))
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(func() { db.Close() })
			s := newStage(b, db, nil)
			f(b, s)
		})
	}
}

func (s *stage) body() map[string]any {
	return map[string]any{
		"taskQueueId": "prov/wt", "created": timestamp.Now(), "deadline": timestamp.Now() + 3_600_000,
		"payload":  map[string]any{"command": [][]string{{"true"}}, "maxRunTime": 60},
		"metadata": map[string]string{"name": "n", "description": "d", "owner": "o@example.com", "source": "https://example.com/"},
	}
}

func (s *stage) must(method, path string, body any) map[string]any {
	code, out := s.call(method, path, body)
	if code != 200 {
		s.t.Fatalf("%s %s: %d %v", method, path, code, out)
	}
	return out
}

func BenchmarkCreateTask(b *testing.B) {
	benchmark(b, func(b *testing.B, s *stage) {
		for b.Loop() {
			s.must("PUT", "/task/"+slugid.New(), s.body())
		}
	})
}

func BenchmarkStatus(b *testing.B) {
	benchmark(b, func(b *testing.B, s *stage) {
		id := slugid.New()
		s.must("PUT", "/task/"+id, s.body())
		for b.Loop() {
			s.must("GET", "/task/"+id+"/status", nil)
		}
	})
}

// cpu has the benchmark report what the process used of processors, which says
// more than the time on a machine that has other things to do.
func cpu(b *testing.B) (stop func()) {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64((used()-before).Microseconds())/float64(b.N), "cpu-µs/op") }
}

func BenchmarkClaim(b *testing.B) {
	benchmark(b, func(b *testing.B, s *stage) {
		s.queue.seed(b, b.N)
		var names []string
		for i := range 100 {
			names = append(names, fmt.Sprint("grp/w", i))
		}
		if err := s.db.Do(b.Context(), func(tx *store.Tx) error { return addWorkers(tx, "prov/wt", names) }); err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		defer cpu(b)()
		for i := range b.N {
			if c, err := s.queue.awaitWork(b.Context(), "prov/wt", Worker{"grp", fmt.Sprint("w", i%100)}, 1); err != nil || len(c) != 1 {
				b.Fatal(c, err)
			}
		}
	})
}

// A claim where nothing is pending, up to where it would wait.
func BenchmarkClaimInVain(b *testing.B) {
	benchmark(b, func(b *testing.B, s *stage) {
		k := workerKey{"prov/wt", "grp/w"}
		if _, _, err := s.queue.claim(b.Context(), k, 1); err != nil {
			b.Fatal(err)
		}
		b.ResetTimer()
		defer cpu(b)()
		for range b.N {
			if c, _, err := s.queue.claim(b.Context(), k, 1); err != nil || len(c) != 0 {
				b.Fatal(c, err)
			}
		}
	})
}

func BenchmarkLifecycle(b *testing.B) {
	benchmark(b, func(b *testing.B, s *stage) {
		worker := map[string]any{"workerGroup": "g", "workerId": "w", "tasks": 1}
		defer cpu(b)()
		for b.Loop() {
			id := slugid.New()
			s.must("PUT", "/task/"+id, s.body())
			s.must("POST", "/claim-work/prov/wt", worker)
			s.must("POST", fmt.Sprintf("/task/%s/runs/0/completed", id), nil)
		}
	})
}

// A group of a hundred thousand pending tasks gets another priority.
func BenchmarkGroupPriority(b *testing.B) {
	benchmark(b, func(b *testing.B, s *stage) {
		const tasks = 100_000
		groupID := s.seedGroup(tasks)
		g, err := s.queue.group(b.Context(), groupID)
		if err != nil {
			b.Fatal(err)
		}
		changed := 0
		for b.Loop() {
			p := task.Priorities[changed/tasks%len(task.Priorities)]
			if err := s.db.Do(b.Context(), func(tx *store.Tx) error { return s.queue.beginPriority(tx, g, p) }); err != nil {
				b.Fatal(err)
			}
			for done := false; !done; {
				var ids []string
				if ids, done, err = s.queue.changeSome(b.Context(), groupID, p, priorityLease); err != nil {
					b.Fatal(err)
				}
				changed += len(ids)
			}
		}
		b.ReportMetric(float64(changed)/b.Elapsed().Seconds(), "tasks/s")
	})
}

// The first page of a queue in which a hundred thousand tasks wait.
func BenchmarkListPendingTasks(b *testing.B) {
	benchmark(b, func(b *testing.B, s *stage) {
		s.seedGroup(100_000)
		for b.Loop() {
			if err := s.db.View(b.Context(), func(tx *store.Tx) error {
				list, err := waiting(tx, "prov/wt", -1, -1, 101)
				if err == nil {
					err = addDefinitions(tx, list)
				}
				return err
			}); err != nil {
				b.Fatal(err)
			}
		}
	})
}
