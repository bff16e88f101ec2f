package store_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestLease(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		for _, step := range []struct {
			wait   time.Duration
			holder string
			want   bool
			why    string
		}{
			{0, "a", true, "nobody has it"},
			{0, "b", false, "a has it"},
			{30 * time.Second, "a", true, "a renews"},
			{59 * time.Second, "b", false, "a renewed"},
			{time.Second, "b", true, "a's has expired"},
			{0, "a", false, "b has it"},
		} {
			time.Sleep(step.wait)
			held, err := db.Lease(step.holder).Hold(t.Context(), "loop", time.Minute)
			if err != nil || held != step.want {
				t.Errorf("%s holds: %v, %v; want %v, since %s", step.holder, held, err, step.want, step.why)
			}
		}
		if held, err := db.Lease("a").Hold(t.Context(), "other", time.Minute); err != nil || !held {
			t.Errorf("another name: %v, %v", held, err)
		}
	})
}

func TestLeaseIsReleasedByItsHolder(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		a, b := db.Lease("a"), db.Lease("b")
		a.Hold(t.Context(), "loop", time.Minute)
		if err := b.Release(t.Context(), "loop"); err != nil {
			t.Error(err)
		}
		if held, _ := b.Hold(t.Context(), "loop", time.Minute); held {
			t.Error("b released what a holds")
		}
		if err := a.Release(t.Context(), "loop"); err != nil {
			t.Error(err)
		}
		if held, _ := b.Hold(t.Context(), "loop", time.Minute); !held {
			t.Error("b has to wait although a released")
		}
	})
}

func TestLeaseHasOneHolder(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		migrate(t, storetest.Open(t, url))
		var holders atomic.Int32
		var wg sync.WaitGroup
		for i := range 4 {
			db := storetest.Open(t, url)
			for j := range 4 {
				wg.Go(func() {
					held, err := db.Lease(fmt.Sprint(i, "-", j)).Hold(t.Context(), "loop", time.Hour)
					if err != nil {
						t.Error(err)
					}
					if held {
						holders.Add(1)
					}
				})
			}
		}
		wg.Wait()
		equal(t, "holders", holders.Load(), 1)
	})
}

// Loops of two replicas on the real table: one runs, the other takes over.
func TestLeaseMovesLoops(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		var mu sync.Mutex
		var ran []string
		replica := func(name string) (stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() {
				log := slog.New(slog.DiscardHandler)
				done <- loop.NewRunner(log, db.Lease(name), prometheus.NewRegistry()).Run(ctx, loop.Loop{
					Name: "test", When: loop.Every(time.Minute), Pass: func(context.Context) (bool, error) {
						mu.Lock()
						defer mu.Unlock()
						ran = append(ran, name)
						return false, nil
					},
				})
			}()
			return func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
		}
		stopA := replica("a")
		time.Sleep(time.Second)
		stopB := replica("b")
		time.Sleep(2*time.Minute + 2*time.Second) // between two attempts of b
		stopA()
		time.Sleep(50 * time.Second)
		stopB()
		equal(t, "passes", ran, []string{"a", "a", "a", "b"})
	})
}
