package store_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestWhatFollowsACommit(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		var happened []string
		w := db.Waits().Wait("topic")
		defer w.Close()
		woken := func() bool {
			select {
			case <-w.C:
				return true
			default:
				return false
			}
		}
		f := func(fail error) func(*store.Tx) error {
			return func(tx *store.Tx) error {
				tx.AfterCommit(func() { happened = append(happened, "first") })
				tx.AfterCommit(func() {
					happened = append(happened, "second")
					do(t, db, `INSERT INTO item (name) VALUES ('another transaction')`)
				})
				tx.Wake("topic", 1)
				if woken() {
					t.Error("woken before the commit")
				}
				return fail
			}
		}
		db.Do(t.Context(), f(errors.New("no")))
		equal(t, "after a rollback", fmt.Sprint(happened, woken()), "[] false")
		if err := db.Do(t.Context(), f(nil)); err != nil {
			t.Fatal(err)
		}
		equal(t, "after a commit", fmt.Sprint(happened, woken()), "[first second] true")
	})
}

func TestWakeCounts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		var waiters []*store.Waiter
		for range 5 {
			waiters = append(waiters, db.Waits().Wait("topic"))
		}
		woken := func() (n int) {
			for _, w := range waiters {
				select {
				case <-w.C:
					n++
				default:
				}
			}
			return n
		}
		wake := func(topic string, counts ...int) error {
			return db.Do(t.Context(), func(tx *store.Tx) error {
				for _, n := range counts {
					tx.Wake(topic, n)
				}
				return nil
			})
		}
		for _, step := range []struct {
			counts []int
			want   int
		}{{[]int{0, -1}, 0}, {[]int{1, 0, 1}, 2}, {[]int{2, math.MaxInt}, 3}} {
			if err := wake("topic", step.counts...); err != nil {
				t.Error(err)
			}
			equal(t, fmt.Sprint("woken by ", step.counts), woken(), step.want)
		}
		for _, topic := range []string{strings.Repeat("x", 8000), "a\x00b"} {
			if err := wake(topic, 1); err == nil {
				t.Errorf("a topic of %d bytes was accepted", len(topic))
			}
		}
	})
}

// A consumer that registers, looks and then waits is woken by every commit
// that it did not see, whichever way they interleave.
func TestNoWakeIsLost(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		const items, consumers = 120, 6
		ctx, stop := context.WithCancel(t.Context())
		var mu sync.Mutex
		taken := map[string]int{}
		take := func() (name string, err error) {
			err = db.Do(ctx, func(tx *store.Tx) error {
				return tx.QueryRow(`
					UPDATE item SET done = TRUE
					 WHERE name = (SELECT name FROM item WHERE NOT done ORDER BY name LIMIT 1 /*skip locked*/)
					RETURNING name`).Scan(&name)
			})
			return name, err
		}
		var wg sync.WaitGroup
		for range consumers {
			wg.Go(func() {
				for {
					w := db.Waits().Wait("items")
					name, err := take()
					switch {
					case err == nil:
						w.Close()
						mu.Lock()
						taken[name]++
						mu.Unlock()
						continue
					case ctx.Err() != nil:
						w.Close()
						return
					case err != store.ErrNotFound:
						t.Error(err)
					}
					select {
					case <-w.C:
					case <-ctx.Done():
						w.Close()
						return
					}
				}
			})
		}
		for p := range 4 {
			wg.Go(func() {
				for i := range items / 4 {
					if err := db.Do(ctx, func(tx *store.Tx) error {
						tx.Wake("items", 1)
						return exec(`INSERT INTO item (name) VALUES ($1)`, fmt.Sprint(p, "-", i))(tx)
					}); err != nil {
						t.Error(err)
					}
				}
			})
		}
		time.Sleep(time.Second) // passes when everybody waits: nobody would be woken any more
		synctest.Wait()
		mu.Lock()
		equal(t, "items taken", len(taken), items)
		for name, n := range taken {
			if n != 1 {
				t.Errorf("%s was taken %d times", name, n)
			}
		}
		mu.Unlock()
		stop()
		wg.Wait()
	})
}
