package event

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
			b.Subscribe("reader", []Binding{{exchange, "a.#"}}, func(_ context.Context, list []Message) error {
				if failing > 0 {
					failing--
					return errors.New("not now")
				}
				for _, m := range list {
					got = append(got, m.RoutingKey)
				}
				return nil
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
		note := func(to *[]string) func(context.Context, []Message) error {
			return func(_ context.Context, list []Message) error {
				for _, m := range list {
					*to = append(*to, m.Exchange+" "+m.RoutingKey)
				}
				return nil
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
			b.Subscribe("reader", nil, func(_ context.Context, list []Message) error {
				for _, m := range list {
					got = append(got, m.RoutingKey)
				}
				return nil
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
		b.Subscribe("reader", []Binding{{exchange, "a"}}, func(context.Context, []Message) error { return nil })
		runLoops(t, b)
		synctest.Wait()
		for range 3 {
			publish(t, db, b, "b")
		}
		time.Sleep(2 * fallback)
		var at int64
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT position FROM event_cursor WHERE name = 'reader'`).Scan(&at)
		}); err != nil || at != 3 {
			t.Errorf("it is at %d, %v", at, err)
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
			b.Subscribe(fmt.Sprint(i), nil, func(_ context.Context, list []Message) error {
				count += len(list)
				return nil
			})
			mustPass(t, b.subscribers[i].deliver)
		}
		var list []Outgoing
		for range 1500 {
			list = append(list, Outgoing{exchange, "a", nil, 1})
		}
		if err := db.Do(t.Context(), func(tx *store.Tx) error { return b.PublishAll(tx, list) }); err != nil {
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
