package event

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestASubscriberGetsEverythingInOrderAcrossFailuresAndRestarts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		publish(t, db, b, "before") // it does not know of the subscriber yet
		var got []string
		failing := 0
		subscribe := func(b *Bus) {
			b.Subscribe("reader", []Binding{{exchange, "a.#"}}, func(_ context.Context, list []Message) (acted bool, err error) {
				if failing > 0 {
					failing--
					return false, errors.New("not now")
				}
				for _, m := range list {
					got = append(got, m.RoutingKey)
				}
				return true, nil
			})
		}
		subscribe(b)
		stop := runLoops(t, b)
		synctest.Wait()
		for i := range 3 {
			publish(t, db, b, fmt.Sprintf("a.%d", i))
			publish(t, db, b, fmt.Sprintf("b.%d", i))
		}
		synctest.Wait()
		failing = 3
		publish(t, db, b, "a.3")
		time.Sleep(time.Minute)
		stop()
		publish(t, db, b, "a.4") // while nobody listens
		again := newBus(t, db)
		subscribe(again)
		runLoops(t, again)
		synctest.Wait()
		if s := strings.Join(got, " "); s != "a.0 a.1 a.2 a.3 a.4" {
			t.Errorf("got %s", s)
		}
	})
}

func TestASubscriberWithoutBindingsGetsEverything(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		var all, none []string
		note := func(to *[]string) Handler {
			return func(_ context.Context, list []Message) (acted bool, err error) {
				for _, m := range list {
					*to = append(*to, m.Exchange+" "+m.RoutingKey)
				}
				return true, nil
			}
		}
		b.Subscribe("all", nil, note(&all))
		b.Subscribe("none", []Binding{}, note(&none))
		runLoops(t, b)
		synctest.Wait()
		publishTo(t, db, b, "x", "1")
		publishTo(t, db, b, "y", "2")
		synctest.Wait()
		if fmt.Sprint(all) != "[x 1 y 2]" || none != nil {
			t.Errorf("%v, %v", all, none)
		}
	})
}

// Each replica that had a subscription remembers where it was; the database
// knows better.
func TestASubscriptionThatMovesBetweenReplicasGoesOnWhereItIs(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		var got []string
		replica := func() *Bus {
			b := newBus(t, db)
			b.Subscribe("reader", nil, func(_ context.Context, list []Message) (acted bool, err error) {
				for _, m := range list {
					got = append(got, m.RoutingKey)
				}
				return true, nil
			})
			return b
		}
		one, two := replica(), replica()
		turn := func(b *Bus, key string) {
			publish(t, db, b, key)
			mustPass(t, b.place)
			mustPass(t, b.subscribers[0].deliver)
		}
		mustPass(t, one.subscribers[0].deliver)
		turn(one, "a")
		turn(two, "b")
		turn(two, "c")
		time.Sleep(time.Minute) // as long as a lease takes to be lost and come back
		turn(one, "d")
		if s := strings.Join(got, " "); s != "a b c d" {
			t.Errorf("got %s", s)
		}
		// Without the pause it hands out again what the other one did, and then
		// notices.
		got = nil
		turn(two, "e")
		turn(one, "f")
		turn(one, "g")
		if s := strings.Join(got, " "); !strings.HasPrefix(s, "e") || !strings.HasSuffix(s, "f g") {
			t.Errorf("got %s", s)
		}
	})
}

func TestACursorMovesOverWhatNobodyWants(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		b.Subscribe("reader", []Binding{{exchange, "a"}}, func(context.Context, []Message) (bool, error) { return false, nil })
		runLoops(t, b)
		synctest.Wait()
		for range 3 {
			publish(t, db, b, "b")
		}
		time.Sleep(2 * saveInterval)
		var at int64
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT position FROM event_cursor WHERE name = 'reader'`).Scan(&at)
		}); err != nil || at != 3 {
			t.Errorf("it is at %d, %v", at, err)
		}
	})
}

// What a process did and has not written down comes again after it was killed,
// unless its handler has acted.
func TestWhatWasActedOnDoesNotComeAgain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		var mu sync.Mutex
		got := map[string][]string{}
		fails := false
		start := func() *Bus {
			b := newBus(t, db)
			for name, acts := range map[string]bool{"acts": true, "reads": false} {
				b.Subscribe(name, []Binding{{exchange, "a.#"}}, func(_ context.Context, list []Message) (bool, error) {
					if fails {
						return true, errors.New("not now")
					}
					mu.Lock()
					defer mu.Unlock()
					for _, m := range list {
						got[name] = append(got[name], m.RoutingKey)
					}
					return acts, nil
				})
			}
			return b
		}
		want := func(what, acts, reads string) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if a, r := strings.Join(got["acts"], " "), strings.Join(got["reads"], " "); a != acts || r != reads {
				t.Errorf("%s: %q and %q", what, a, r)
			}
			clear(got)
		}
		pass := func(b *Bus) {
			t.Helper()
			mustPass(t, b.place)
			for _, s := range b.subscribers {
				mustPass(t, s.deliver)
			}
		}
		b := start()
		pass(b)
		publish(t, db, b, "a.1")
		pass(b)
		publish(t, db, b, "a.2")
		publish(t, db, b, "b")
		pass(b)
		want("at first", "a.1 a.2", "a.1 a.2")
		b = start()
		pass(b)
		want("killed", "", "a.1 a.2")
		publish(t, db, b, "a.3")
		mustPass(t, b.place)
		fails = true
		for _, s := range b.subscribers {
			if _, err := s.deliver(t.Context()); err == nil {
				t.Error("no error")
			}
		}
		fails = false
		pass(b)
		want("after a failure", "a.3", "a.3")
		mustPass(t, b.saveAtPace)
		pass(start())
		want("killed when it was written down", "", "")

		stop := runLoops(t, b)
		publish(t, db, b, "a.4")
		synctest.Wait()
		want("running", "a.4", "a.4")
		stop()
		pass(start())
		want("stopped in good order", "", "")
	})
}

// A pass can take longer than a replica believes to have its subscription
// without asking.
func TestAHandlerThatTakesLongGetsAMessageOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		got := 0
		b.Subscribe("slow", nil, func(_ context.Context, list []Message) (bool, error) {
			time.Sleep(2 * cursorTrust)
			got += len(list)
			return false, nil
		})
		mustPass(t, b.subscribers[0].deliver)
		list := make([]Outgoing, 3*batch)
		for i := range list {
			list[i] = Outgoing{exchange, "a", nil, i}
		}
		if err := db.Do(t.Context(), func(tx *store.Tx) error { return b.PublishAll(tx, list) }); err != nil {
			t.Fatal(err)
		}
		mustPass(t, b.place)
		mustPass(t, b.subscribers[0].deliver)
		if got != len(list) {
			t.Errorf("%d messages were delivered of %d", got, len(list))
		}
	})
}

// Messages come without a pause, and with each of them a cursor would move.
func TestCursorsAreWrittenNowAndThen(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		const subscribers = 5
		for i := range subscribers {
			b.Subscribe(fmt.Sprint(i), nil, func(context.Context, []Message) (bool, error) { return false, nil })
		}
		runLoops(t, b)
		synctest.Wait()
		positions := func() map[int64]int {
			count := map[int64]int{}
			if err := db.View(t.Context(), func(tx *store.Tx) error {
				clear(count)
				rows, err := tx.Query(`SELECT position FROM event_cursor`)
				if err != nil {
					return err
				}
				for rows.Next() {
					var at int64
					if err := rows.Scan(&at); err != nil {
						return err
					}
					count[at]++
				}
				return rows.Err()
			}); err != nil {
				t.Fatal(err)
			}
			return count
		}
		const perSecond, seconds = 20, 5
		seen := map[int64]bool{}
		for i := range perSecond * seconds {
			publish(t, db, b, "a")
			time.Sleep(time.Second / perSecond)
			synctest.Wait()
			for at := range positions() {
				seen[at] = true
				if behind := int64(i) + 1 - at; behind > perSecond+2 {
					t.Fatalf("a cursor is %d messages behind, a second has %d", behind, perSecond)
				}
			}
		}
		if len(seen) > seconds+2 {
			t.Errorf("cursors were written %d times in %d seconds", len(seen)-1, seconds)
		}
		time.Sleep(saveInterval)
		synctest.Wait()
		if got := positions(); got[perSecond*seconds] != subscribers {
			t.Errorf("when no more come: %v", got)
		}
	})
}

func TestAMessageIsReadFromTheDatabaseOnceForAll(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		reads, count := 0, 0
		b.tail.read = func(ctx context.Context, at int64, limit int) ([]*entry, bool, error) {
			list, more, err := b.read(ctx, at, limit)
			reads += len(list)
			return list, more, err
		}
		const subscribers = 20
		for i := range subscribers {
			b.Subscribe(fmt.Sprint(i), nil, func(_ context.Context, list []Message) (acted bool, err error) {
				count += len(list)
				return false, nil
			})
			mustPass(t, b.subscribers[i].deliver)
		}
		var list []Outgoing
		for range 1500 {
			list = append(list, Outgoing{exchange, "a", nil, 1})
		}
		other := newBus(t, db)
		if err := db.Do(t.Context(), func(tx *store.Tx) error { return other.PublishAll(tx, list) }); err != nil {
			t.Fatal(err)
		}
		mustPass(t, b.place)
		for _, s := range b.subscribers {
			mustPass(t, s.deliver)
		}
		if count != subscribers*len(list) || reads != len(list) {
			t.Errorf("%d messages were read for %d deliveries", reads, count)
		}
	})
}

func TestTheTailForgetsWhatIsOldAndReadersFindItAllTheSame(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		const total = tailCount + 3*1000
		for i := 0; i < total; i += 1000 {
			var list []Outgoing
			for k := range 1000 {
				list = append(list, Outgoing{exchange, fmt.Sprint(i + k), nil, 1})
			}
			if err := db.Do(t.Context(), func(tx *store.Tx) error { return b.PublishAll(tx, list) }); err != nil {
				t.Fatal(err)
			}
			mustPass(t, b.place)
			if _, err := b.tail.fresh(t.Context(), int64(i), 1000); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(b.tail.list); n != tailCount {
			t.Errorf("it holds %d", n)
		}
		for _, after := range []int64{0, total - tailCount - 1, total - tailCount, total - 1, total} {
			if keys := read(t, b, after); len(keys) != int(total-after) || len(keys) > 0 && keys[0] != fmt.Sprint(after) {
				t.Errorf("after %d: %d messages", after, len(keys))
			}
		}
		// A process in which nobody read for long begins near the head.
		idle := newBus(t, db)
		idle.tail.warm = true
		if keys := read(t, idle, total-5); len(keys) != 5 {
			t.Errorf("%v", keys)
		}
	})
}
