package store_test

import (
	"context"
	"errors"
	"testing"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// listen listens until the test ends, and returns when it hears.
func listen(t *testing.T, db *store.DB) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	up := db.Waits().Wait("not woken by anybody in particular")
	go func() { done <- db.Listen(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	<-up.C // everybody is woken once it hears
}

func isWoken(w *store.Waiter) func() bool {
	return func() bool {
		select {
		case <-w.C:
			return true
		default:
			return false
		}
	}
}

func TestOtherReplicasAreWoken(t *testing.T) {
	onPostgres(t, func(t *testing.T, url string) {
		a, b := storetest.Open(t, url), storetest.Open(t, url)
		listen(t, a)
		listen(t, b)
		first, second, other := b.Waits().Wait("topic one"), b.Waits().Wait("topic one"), b.Waits().Wait("other")
		own := a.Waits().Wait("topic one")
		ownSecond := a.Waits().Wait("topic one")
		a.Do(t.Context(), func(tx *store.Tx) error { tx.Wake("other", 1); return errors.New("no") })
		if err := a.Do(t.Context(), func(tx *store.Tx) error { tx.Wake("topic one", 1); return nil }); err != nil {
			t.Fatal(err)
		}
		if !isWoken(own)() {
			t.Error("the replica that committed did not wake its own waiter at once")
		}
		eventually(t, "the other replica's first waiter is woken", isWoken(first))

		// What comes after tells that nothing else was to come.
		last := b.Waits().Wait("last")
		ownLast := a.Waits().Wait("last")
		if err := b.Do(t.Context(), func(tx *store.Tx) error { tx.Wake("last", 1); return nil }); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the first replica hears the second", isWoken(ownLast))
		if !isWoken(last)() || isWoken(second)() || isWoken(other)() || isWoken(ownSecond)() {
			t.Error("more were woken than the transaction said, or it woke although it did not commit")
		}
	})
}

func TestListenComesBack(t *testing.T) {
	onPostgres(t, func(t *testing.T, url string) {
		a := storetest.Open(t, url)
		b := storetest.Open(t, with(t, url, "application_name", "listener"))
		listen(t, b)
		missed := b.Waits().Wait("what was said meanwhile")
		signal := b.Waits().Signal("a loop's")
		do(t, a, `
			SELECT pg_terminate_backend(pid, 120000) FROM pg_stat_activity
			 WHERE application_name = 'listener' AND query = 'LISTEN "taskfleet_' || current_schema() || '"'`)
		eventually(t, "everybody is woken once it hears again", isWoken(missed))
		eventually(t, "signals, too", func() bool { return len(signal) == 1 })
		again := b.Waits().Wait("topic")
		if err := a.Do(t.Context(), func(tx *store.Tx) error { tx.Wake("topic", 1); return nil }); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a wake after that", isWoken(again))
	})
}

// What could not be said when it happened is said later.
func TestNotificationsOutliveTheirConnection(t *testing.T) {
	onPostgres(t, func(t *testing.T, url string) {
		a := storetest.Open(t, with(t, url, "application_name", "speaker"))
		b := storetest.Open(t, url)
		listen(t, b)
		for range 3 {
			w := b.Waits().Wait("topic")
			if err := a.Do(t.Context(), func(tx *store.Tx) error { tx.Wake("topic", 1); return nil }); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the wake", isWoken(w))
			do(t, b, `SELECT pg_terminate_backend(pid, 120000) FROM pg_stat_activity WHERE application_name = 'speaker'`)
		}
	})
}

func TestWakesOutliveAnOutage(t *testing.T) {
	onPostgres(t, func(t *testing.T, direct string) {
		p := newProxy(t, direct)
		a, b := storetest.Open(t, p.url), storetest.Open(t, direct)
		listen(t, b)
		one, two := b.Waits().Wait("one"), b.Waits().Wait("two")
		p.refuse.Store(2) // the transactions have their connection, the notifier does not yet
		for _, topic := range []string{"one", "two"} {
			if err := a.Do(t.Context(), func(tx *store.Tx) error { tx.Wake(topic, 1); return nil }); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "the first wake", isWoken(one))
		eventually(t, "the second wake", isWoken(two))
	})
}
