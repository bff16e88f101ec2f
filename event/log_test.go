package event

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

func mustPass(t testing.TB, pass func(context.Context) (bool, error)) {
	t.Helper()
	for {
		more, err := pass(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return
		}
	}
}

func read(t testing.TB, b *Bus, after int64) (keys []string) {
	t.Helper()
	list, err := b.Read(t.Context(), after, 100_000)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range list {
		if m.Position != after+int64(i)+1 {
			t.Fatalf("message %d after %d has position %d", i, after, m.Position)
		}
		keys = append(keys, m.RoutingKey)
	}
	return keys
}

func TestAMessageExistsExactlyIfItsTransactionCommits(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		runLoops(t, b)
		failure := errors.New("no")
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			if err := b.Publish(tx, exchange, "lost", nil, 1); err != nil {
				return err
			}
			return failure
		}); !errors.Is(err, failure) {
			t.Fatal(err)
		}
		publish(t, db, b, "kept")
		synctest.Wait()
		if keys := read(t, b, 0); strings.Join(keys, " ") != "kept" {
			t.Errorf("log = %v", keys)
		}
	})
}

func TestManyMessagesAreWrittenAtOnceAndReadFromAnyPosition(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		var list []Outgoing
		want := []string{"first"}
		for i := range 2500 { // more than a batch holds
			o := Outgoing{Exchange: exchange, RoutingKey: fmt.Sprintf("many.%d", i), Payload: map[string]any{"n": i, "text": "line\nbreak <ü>"}}
			if i%3 == 0 {
				o.CC = []string{"route.a", "route.b\nc"}
			}
			list, want = append(list, o), append(want, o.RoutingKey)
		}
		list = append(list, Outgoing{Exchange: exchange, RoutingKey: "large", Payload: strings.Repeat("x", 3<<20)}, Outgoing{Exchange: exchange, RoutingKey: "last", Payload: nil})
		want = append(want, "large", "last")
		publish(t, db, b, "first")
		if err := db.Do(t.Context(), func(tx *store.Tx) error { return b.PublishAll(tx, list) }); err != nil {
			t.Fatal(err)
		}
		if err := db.Do(t.Context(), func(tx *store.Tx) error { return b.PublishAll(tx, nil) }); err != nil {
			t.Fatal(err)
		}
		mustPass(t, b.place)
		for _, after := range []int64{0, 1, 2, 500, 1000, 1001, 2501, 2502, 2503} {
			if keys := read(t, b, after); fmt.Sprint(keys) != fmt.Sprint(want[after:]) {
				t.Errorf("after %d: %d messages", after, len(keys))
			}
			// As one that is far behind reads.
			var got []string
			for at := after; ; {
				entries, more, err := b.read(t.Context(), at, 700)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries {
					got, at = append(got, e.RoutingKey), e.Position
				}
				if !more {
					break
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(want[after:]) {
				t.Errorf("after %d, from the database: %d messages", after, len(got))
			}
		}
		m, err := b.Read(t.Context(), 1, 1)
		if err != nil || len(m) != 1 || string(m[0].Payload) != `{"n":0,"text":"line\nbreak \u003cü\u003e"}` || fmt.Sprintf("%q", m[0].CC) != `["route.a" "route.b\nc"]` || m[0].Created.IsZero() {
			t.Errorf("%+v, %v", m, err)
		}
		if m, err := b.Read(t.Context(), 2, 1); err != nil || m[0].CC == nil || len(m[0].CC) != 0 {
			t.Errorf("CC = %#v, %v: it is to be a JSON list", m[0].CC, err)
		}
	})
}

func TestWhatCannotBeSentIsNotPublished(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		for _, o := range []Outgoing{
			{Exchange: "", RoutingKey: "a"},
			{Exchange: "a\nb", RoutingKey: "a"},
			{Exchange: exchange, RoutingKey: "a\nb"},
			{Exchange: exchange, RoutingKey: strings.Repeat("x", 256)},
			{Exchange: exchange, RoutingKey: "a", Payload: func() {}},
			{Exchange: exchange, RoutingKey: "a", Payload: json.RawMessage("{")},
		} {
			if err := db.Do(t.Context(), func(tx *store.Tx) error { return b.PublishAll(tx, []Outgoing{o}) }); err == nil {
				t.Errorf("%+v was published", o)
			}
		}
	})
}

// insert writes a batch with an id, as if its transaction had got it earlier
// than it commits.
func insert(t testing.TB, db *store.DB, id int64, key string) {
	t.Helper()
	text := exchange + "\n" + key + "\n[]\n1\n"
	if err := db.Do(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO event_batch (id, count, size, created, messages) VALUES ($1, 1, $2, $3, $4)`, id, len(text), timestamp.Now(), text)
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func TestATransactionThatCommitsLateIsNotPassedOver(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		insert(t, db, 2, "two")
		insert(t, db, 5, "five")
		mustPass(t, b.place)
		insert(t, db, 4, "four")
		mustPass(t, b.place)
		time.Sleep(4 * time.Minute)
		insert(t, db, 6, "six") // which may have come of what three did
		insert(t, db, 3, "three")
		mustPass(t, b.place)
		insert(t, db, 1, "one")
		mustPass(t, b.place)
		if keys := read(t, b, 0); strings.Join(keys, " ") != "two five four three six one" {
			t.Errorf("log = %v", keys)
		}
		var missing missingList
		if err := db.View(t.Context(), func(tx *store.Tx) error { return tx.QueryRow(`SELECT missing FROM event_head`).Scan(&missing) }); err != nil || len(missing) != 0 {
			t.Errorf("missing = %v, %v", missing, err)
		}
	})
}

func TestATransactionThatCommitsVeryLateIsFound(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		insert(t, db, 100, "hundred")
		mustPass(t, b.place)
		time.Sleep(6 * time.Minute)
		insert(t, db, 101, "hundredone")
		mustPass(t, b.place) // gives up what is missing
		insert(t, db, 50, "late")
		insert(t, db, 51, "later")
		mustPass(t, b.place)
		if keys := read(t, b, 0); strings.Join(keys, " ") != "hundred hundredone" {
			t.Errorf("log = %v", keys)
		}
		mustPass(t, b.recover)
		mustPass(t, b.recover)
		if keys := read(t, b, 0); strings.Join(keys, " ") != "hundred hundredone late later" {
			t.Errorf("log = %v", keys)
		}
	})
}

func TestWhatIsMissingIsBounded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		insert(t, db, 1, "one")
		insert(t, db, 1_000_000_000, "far")
		mustPass(t, b.place)
		insert(t, db, 999_999_999, "near")
		mustPass(t, b.place)
		if keys := read(t, b, 0); strings.Join(keys, " ") != "one far near" {
			t.Errorf("log = %v", keys)
		}
		var missing missingList
		if err := db.View(t.Context(), func(tx *store.Tx) error { return tx.QueryRow(`SELECT missing FROM event_head`).Scan(&missing) }); err != nil || len(missing) > maxMissingCount {
			t.Errorf("%d are missing, %v", len(missing), err)
		}
	})
}

// Transactions of several tasks, some undone, overlap each other and placing.
func TestMessagesOfATaskStandInTheOrderOfItsTransactions(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		runLoops(t, b)
		const tasks, each = 8, 150
		var all sync.WaitGroup
		for task := range tasks {
			all.Go(func() {
				for i := range each {
					err := db.Do(t.Context(), func(tx *store.Tx) error {
						if err := b.PublishAll(tx, []Outgoing{{exchange, fmt.Sprintf("%d.%d", task, 2*i), nil, i}, {exchange, fmt.Sprintf("%d.%d", task, 2*i+1), nil, i}}); err != nil {
							return err
						}
						if (i+task)%7 == 0 {
							return errUndo
						}
						return nil
					})
					if errors.Is(err, errUndo) {
						err = db.Do(t.Context(), func(tx *store.Tx) error {
							return b.PublishAll(tx, []Outgoing{{exchange, fmt.Sprintf("%d.%d", task, 2*i), nil, i}, {exchange, fmt.Sprintf("%d.%d", task, 2*i+1), nil, i}})
						})
					}
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		mustPass(t, b.place)
		next := map[string]string{}
		keys := read(t, b, 0)
		if len(keys) != 2*tasks*each {
			t.Errorf("%d messages", len(keys))
		}
		for _, key := range keys {
			task, n, _ := strings.Cut(key, ".")
			if want := next[task]; want != "" && n != want {
				t.Fatalf("%s came where %s was due", key, want)
			}
			var k int
			fmt.Sscan(n, &k)
			next[task] = fmt.Sprint(k + 1)
		}
	})
}

var errUndo = errors.New("undone")

func TestMessagesAreForgottenADayAfterTheyWereDelivered(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b := newBus(t, db)
		b.Subscribe("slow", nil, func(context.Context, []Message) (bool, error) { return true, nil })
		mustPass(t, b.subscribers[0].deliver)
		publish(t, db, b, "old")
		publish(t, db, b, "older")
		mustPass(t, b.place)
		if err := db.Do(t.Context(), func(tx *store.Tx) error { // a subscriber that an older version had
			_, err := tx.Exec(`INSERT INTO event_cursor (name, position) VALUES ('gone', 0)`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Hour)
		publish(t, db, b, "new")
		mustPass(t, b.place)
		mustPass(t, b.expire)
		spans := func(wantOldest, wantHead int64) {
			t.Helper()
			if oldest, head, err := b.span(t.Context()); oldest != wantOldest || head != wantHead || err != nil {
				t.Errorf("span = %d, %d, %v", oldest, head, err)
			}
		}
		spans(1, 3) // the subscriber has not read them
		mustPass(t, b.subscribers[0].deliver)
		mustPass(t, b.expire)
		spans(3, 3)
		if keys := read(t, newBus(t, db), 2); strings.Join(keys, " ") != "new" {
			t.Errorf("log = %v", keys)
		}
		time.Sleep(25 * time.Hour)
		mustPass(t, b.expire)
		spans(3, 3) // the last one is kept, so that ids go on from there
		publish(t, db, b, "next")
		mustPass(t, b.place)
		mustPass(t, b.expire)
		spans(4, 4)
	})
}

//go:embed migrations/0001_event.sql
var first embed.FS

func TestALogOfOneRowPerMessageIsTakenOver(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		old, err := fs.ReadFile(first, "migrations/0001_event.sql")
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Migrate(t.Context(), "event", fstest.MapFS{"0001_event.sql": {Data: old}}); err != nil {
			t.Fatal(err)
		}
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			for _, statement := range []string{
				// 1 and 2 are forgotten; 5 had committed after 6 and 7.
				`INSERT INTO event (id, position, exchange, routing_key, cc, payload, created) VALUES
					(3, 3, 'x', 'three', '["route.a"]', '{"n":3}', 1003), (6, 4, 'x', 'six', '[]', '{"n":"ü"}', 1004), (7, 5, 'x', 'seven', '[]', '7', 1005), (5, 6, 'x', 'five', '[]', '5', 1006),
					(8, NULL, 'x', 'eight', '[]', '8', 1007), (9, NULL, 'x', 'nine', '[]', '9', 1008)`,
				`UPDATE event_cursor SET position = 6 WHERE name = 'head'`,
				`INSERT INTO event_cursor (name, position) VALUES ('reader', 4)`,
			} {
				if _, err := tx.Exec(statement); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		b := newBus(t, db)
		var got []string
		b.Subscribe("reader", nil, func(_ context.Context, list []Message) (bool, error) {
			for _, m := range list {
				got = append(got, fmt.Sprintf("%d %s %v %s %d", m.Position, m.RoutingKey, m.CC, m.Payload, int64(m.Created)))
			}
			return true, nil
		})
		mustPass(t, b.place)
		publishTo(t, db, b, "x", "ten")
		mustPass(t, b.place)
		mustPass(t, b.subscribers[0].deliver)
		for i := range got[:4] {
			if want := []string{"5 seven [] 7 1005", "6 five [] 5 1006", "7 eight [] 8 1007", "8 nine [] 9 1008"}[i]; got[i] != want {
				t.Errorf("%s, want %s", got[i], want)
			}
		}
		if len(got) != 5 {
			t.Errorf("%v", got)
		}
		list, err := b.Read(t.Context(), 2, 2)
		if err != nil || len(list) != 2 || fmt.Sprintf("%v %s %s", list[0].CC, list[0].Payload, list[1].Payload) != `[route.a] {"n":3} {"n":"ü"}` {
			t.Errorf("%+v, %v", list, err)
		}
		if oldest, head, err := b.span(t.Context()); oldest != 3 || head != 9 || err != nil {
			t.Errorf("span = %d, %d, %v", oldest, head, err)
		}
	})
}

func TestAnEmptyLogIsTakenOver(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		b, err := New(t.Context(), db, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		if oldest, head, err := b.span(t.Context()); oldest != 1 || head != 0 || err != nil {
			t.Errorf("span = %d, %d, %v", oldest, head, err)
		}
	})
}
