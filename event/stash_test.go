package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// counted notes how many messages a bus reads from the database.
func counted(b *Bus) *atomic.Int64 {
	var n atomic.Int64
	b.tail.read = func(ctx context.Context, at int64, limit int) ([]*entry, bool, error) {
		list, more, err := b.read(ctx, at, limit)
		n.Add(int64(len(list)))
		return list, more, err
	}
	return &n
}

// line is all that readers see of a message.
func line(m Message) string {
	text, err := json.Marshal(m)
	return fmt.Sprint(m.Position, " ", int64(m.Created), " ", m.CC == nil, " ", string(text), err)
}

// check compares the tail with the database.
func check(t testing.TB, b *Bus) {
	t.Helper()
	_, head, err := b.span(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b.tail.mu.Lock()
	list, at, warm := slices.Clone(b.tail.list), b.tail.head, b.tail.warm
	size := 0
	for _, e := range list {
		size += len(e.Payload)
	}
	if size != b.tail.size || len(list) > tailCount || at > head {
		t.Fatalf("the tail counts %d messages with %d bytes up to %d; it has %d bytes, the log ends at %d", len(list), b.tail.size, at, size, head)
	}
	b.tail.mu.Unlock()
	if !warm {
		return
	}
	for begin := at - int64(len(list)); len(list) > 0; {
		stored, _, err := b.read(t.Context(), begin, len(list))
		if err != nil || len(stored) == 0 {
			t.Fatalf("after %d: %d messages, %v", begin, len(stored), err)
		}
		for i, e := range stored {
			if line(list[i].Message) != line(e.Message) {
				t.Fatalf("the tail has\n%.300s\nand the database\n%.300s", line(list[i].Message), line(e.Message))
			}
		}
		list, begin = list[len(stored):], begin+int64(len(stored))
	}
}

// Two processes publish and place by turns, are killed, and undo what they have
// begun.
func TestTheTailIsWhatTheDatabaseSays(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		random := rand.New(rand.NewPCG(1, 2))
		replicas := []*Bus{newBus(t, db), newBus(t, db)}
		var reads []*atomic.Int64
		for _, b := range replicas {
			reads = append(reads, counted(b))
		}
		made := 0
		messages := func() (list []Outgoing) {
			n := 1 + random.IntN(4)
			switch random.IntN(20) {
			case 0:
				n = maxBatchCount + random.IntN(3)
			case 1:
				list = append(list, Outgoing{exchange, "large", nil, strings.Repeat("x", maxBatchSize)})
			}
			for range n {
				made++
				o := Outgoing{Exchange: exchange, RoutingKey: fmt.Sprint("key.", made), Payload: map[string]any{"n": made, "text": "line\nbreak <ü> \xff"}}
				if made%3 == 0 {
					o.CC = []string{"route.a", "route.b\nc"}
				}
				list = append(list, o)
			}
			return list
		}
		placed := 0
		for range 200 {
			i := random.IntN(len(replicas))
			b := replicas[i]
			switch random.IntN(10) {
			case 0:
				replicas[i] = newBus(t, db)
				reads[i] = counted(replicas[i])
			case 1, 2:
				err := db.Do(t.Context(), func(tx *store.Tx) error {
					return errors.Join(b.PublishAll(tx, messages()), errUndo)
				})
				if !errors.Is(err, errUndo) {
					t.Fatal(err)
				}
			case 3, 4, 5, 6:
				if err := db.Do(t.Context(), func(tx *store.Tx) error { return b.PublishAll(tx, messages()) }); err != nil {
					t.Fatal(err)
				}
			case 7, 8:
				before := reads[i].Load()
				mustPass(t, b.place)
				check(t, b)
				if reads[i].Load() != before {
					t.Fatal("placing reads what was published")
				}
				placed++
			case 9: // somebody reads
				_, head, err := b.span(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				at := max(0, head-int64(random.IntN(10)))
				for more := true; more; {
					var list []*entry
					if list, more, err = b.tail.heard(t.Context(), at, 1000); err != nil {
						t.Fatal(err)
					}
					for _, e := range list {
						if at++; e.Position != at {
							t.Fatalf("%d came where %d was due", e.Position, at)
						}
					}
				}
				if at != head {
					t.Fatalf("at %d of %d there are no more", at, head)
				}
				check(t, b)
			}
			time.Sleep(time.Millisecond)
		}
		for _, b := range replicas {
			mustPass(t, b.place)
			keys := read(t, b, 0)
			if fresh := read(t, newBus(t, db), 0); !slices.Equal(keys, fresh) {
				t.Errorf("%d messages where there are %d", len(keys), len(fresh))
			}
			check(t, b)
		}
	})
}

func TestAProcessDoesNotReadWhatItHasPublished(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		reads := counted(b)
		var got []string
		b.Subscribe("reader", nil, func(_ context.Context, list []Message) (bool, error) {
			for _, m := range list {
				got = append(got, m.RoutingKey)
			}
			return false, nil
		})
		mustPass(t, b.place)
		mustPass(t, b.subscribers[0].deliver)
		var want []string
		for i := range 30 {
			var list []Outgoing
			for k := range 1 + 50*i {
				list = append(list, Outgoing{exchange, fmt.Sprint(i, ".", k), nil, k})
				want = append(want, list[k].RoutingKey)
			}
			if err := db.Do(t.Context(), func(tx *store.Tx) error { return b.PublishAll(tx, list) }); err != nil {
				t.Fatal(err)
			}
			mustPass(t, b.place)
			mustPass(t, b.subscribers[0].deliver)
		}
		if !slices.Equal(got, want) || reads.Load() != 0 {
			t.Errorf("%d of %d messages were delivered, %d were read", len(got), len(want), reads.Load())
		}
		if len(b.stash.batches) != 0 || b.stash.size != 0 {
			t.Errorf("%d batches with %d bytes are kept after they were placed", len(b.stash.batches), b.stash.size)
		}
		// What another one publishes is read, and all goes on from there.
		publish(t, db, newBus(t, db), "other")
		publish(t, db, b, "own")
		mustPass(t, b.place)
		mustPass(t, b.subscribers[0].deliver)
		if n := reads.Load(); n != 2 {
			t.Errorf("%d messages were read of two, of which another process published one", n)
		}
		publish(t, db, b, "own.2")
		mustPass(t, b.place)
		mustPass(t, b.subscribers[0].deliver)
		if n := reads.Load(); n != 2 || !slices.Equal(got[len(want):], []string{"other", "own", "own.2"}) {
			t.Errorf("%d messages were read; at the end %v came", n, got[len(want):])
		}
	})
}

// Two replicas place at the same time, which they do only where a lease was lost,
// while both publish and somebody follows on each.
func TestReadersGetAllInOrderWhoeverPlaces(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		const publishers, each = 4, 60
		var follow [2][]Message
		var mu sync.Mutex
		var buses []*Bus
		for i := range follow {
			b := newBus(t, db)
			b.Subscribe(fmt.Sprint("reader", i), nil, func(_ context.Context, list []Message) (bool, error) {
				mu.Lock()
				defer mu.Unlock()
				follow[i] = append(follow[i], list...)
				return false, nil
			})
			mustPass(t, b.subscribers[0].deliver)
			runLoops(t, b)
			buses = append(buses, b)
		}
		var all sync.WaitGroup
		for p := range publishers {
			all.Go(func() {
				for i := range each {
					err := db.Do(t.Context(), func(tx *store.Tx) error {
						if err := buses[p%2].PublishAll(tx, []Outgoing{{exchange, fmt.Sprint(p, ".", i), []string{"route.x"}, i}, {exchange, "second", nil, i}}); err != nil || i%5 > 0 {
							return err
						}
						return errUndo
					})
					if err != nil && !errors.Is(err, errUndo) {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		const total = 2 * publishers * each * 4 / 5
		for done := false; !done; {
			publish(t, db, buses[0], "end") // in case news were taken for those of others
			time.Sleep(10 * time.Millisecond)
			mu.Lock()
			done = len(follow[0]) > total && len(follow[1]) > total
			mu.Unlock()
		}
		mu.Lock()
		defer mu.Unlock()
		stored, err := newBus(t, db).Read(t.Context(), 0, len(follow[0])+len(follow[1]))
		if err != nil {
			t.Fatal(err)
		}
		for i := range follow {
			for k, m := range follow[i] {
				if line(m) != line(stored[k]) {
					t.Fatalf("reader %d got %s where there is %s", i, line(m), line(stored[k]))
				}
			}
		}
	})
}

func TestAStashIsBounded(t *testing.T) {
	s := stash{batches: map[int64]published{}}
	large := published{text: strings.Repeat("x", 1<<20), count: 1}
	s.put(1, large)
	if len(s.batches) != 0 {
		t.Error("it keeps what another process places")
	}
	s.hold()
	for id := range int64(100) {
		s.put(id, large)
		if s.size > stashSize || s.size != len(s.batches)<<20 {
			t.Fatalf("it has %d bytes of %d batches", s.size, len(s.batches))
		}
	}
	s.put(101, published{count: 1})
	s.forget(100, missingList{{id: 98}})
	if len(s.batches) != 2 || s.size != 1<<20 {
		t.Errorf("it has %d batches with %d bytes; one is missing in the log, and one comes after it", len(s.batches), s.size)
	}
}
