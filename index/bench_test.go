package index

import (
	"fmt"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Through the HTTP methods, without network and authentication, among 100,000
// tasks. SQLite runs without waiting for the disk here.
func benchmark(b *testing.B, f func(b *testing.B, w *world)) {
	for _, kind := range []string{"sqlite", "postgres"} {
		b.Run(kind, func(b *testing.B) {
			w := newWorld(b, storetest.Open(b, storetest.URL(b, kind)))
			for i := 0; i < 100; i++ {
				var list []entry
				for j := range 1000 {
					list = append(list, entry{path(i, j), slugid.New(), 0, []byte(`{"k":"v"}`), timestamp.Of(time.Now().Add(time.Duration(j+1) * time.Hour))})
				}
				if err := w.config.DB.Do(b.Context(), func(tx *store.Tx) error { return insert(tx, list) }); err != nil {
					b.Fatal(err)
				}
			}
			// A database looks at its tables by itself, but not as soon as this.
			if err := w.config.DB.Do(b.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(`ANALYZE`)
				return err
			}); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			f(b, w)
		})
	}
}

func path(i, j int) string { return fmt.Sprintf("project.v2.branch-%d.%d.linux", i, j) }

func BenchmarkFindTask(b *testing.B) {
	benchmark(b, func(b *testing.B, w *world) {
		for i := 0; b.Loop(); i++ {
			w.want(200, "GET", "/task/"+path(i%100, i*7%1000), nil)
		}
	})
}

func BenchmarkFindTasksAtIndex(b *testing.B) {
	benchmark(b, func(b *testing.B, w *world) {
		var paths []string
		for i := range 500 {
			paths = append(paths, path(i%100, i*7%1000))
		}
		for b.Loop() {
			w.want(200, "POST", "/tasks/indexes", map[string]any{"indexes": paths})
		}
	})
}

func BenchmarkInsertTask(b *testing.B) {
	b.Run("new", func(b *testing.B) {
		benchmark(b, func(b *testing.B, w *world) {
			for i := 0; b.Loop(); i++ {
				w.want(200, "PUT", fmt.Sprintf("/task/project.v2.new.%d.linux", i), task(slugid.New(), 1, time.Now().Add(time.Hour)))
			}
		})
	})
	b.Run("again", func(b *testing.B) {
		benchmark(b, func(b *testing.B, w *world) {
			for i := 0; b.Loop(); i++ {
				w.want(200, "PUT", "/task/"+path(i%100, i*7%1000), task(slugid.New(), float64(i), time.Now().Add(time.Hour)))
			}
		})
	})
	b.Run("in parallel", func(b *testing.B) {
		benchmark(b, func(b *testing.B, w *world) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					w.want(200, "PUT", "/task/project.v2.parallel."+slugid.New(), task(slugid.New(), 1, time.Now().Add(time.Hour)))
				}
			})
		})
	})
}

// A call of the subscription with 500 tasks of four routes each; an op is one
// task.
func BenchmarkFollow(b *testing.B) {
	benchmark(b, func(b *testing.B, w *world) {
		var list []event.Message
		for i := range 500 {
			id := slugid.New()
			w.tasks[id] = `{"expires": "` + timestamp.Of(time.Now().Add(time.Hour)).String() + `", "extra": {"index": {"rank": 5}}}`
			m := event.Message{Payload: []byte(`{"status": {"taskId": "` + id + `"}}`)}
			for _, route := range []string{"latest.%d", "revision.abc.%d", "pushdate.2026.01.01.%d", "nightly.%d"} {
				m.CC = append(m.CC, "route.index.project.v2."+fmt.Sprintf(route, i))
			}
			list = append(list, m)
		}
		position := int64(0)
		for n := 0; n < b.N; n += len(list) {
			for i := range list {
				position++
				list[i].Position = position
			}
			if _, err := w.follow(b.Context(), list); err != nil {
				b.Fatal(err)
			}
		}
	})
}
