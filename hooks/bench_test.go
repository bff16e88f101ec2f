package hooks

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func benchHooks(b *testing.B, n int, due bool) *world {
	b.Helper()
	w := newWorld(b, storetest.Open(b, storetest.URL(b, "sqlite")))
	if err := w.db.Do(b.Context(), func(tx *store.Tx) error {
		next := time.Now().Add(time.Hour)
		if due {
			next = time.Now()
		}
		for i := range n {
			if _, err := tx.Exec(`
				INSERT INTO hook (hook_group_id, hook_id, metadata, task, bindings, schedule, trigger_schema, trigger_token, size, next, created, mailed)
				VALUES ('g', $1, '{}', $2, $3, '["0 0 3 * * *"]', '{"type":"object"}', '', 1, $4, 0, 0)`,
				fmt.Sprint(i), string(mustEncode(template())), fmt.Sprintf(`[{"exchange":"e","routingKeyPattern":"primary.*.p%d.#"}]`, i), next.UnixMilli()); err != nil {
				return err
			}
		}
		_, err := tx.Exec(`UPDATE hook_state SET value = value + 1 WHERE name = 'bindings'`)
		return err
	}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { w.scheduleAlarm.set(0, nil); w.fireAlarm.set(0, nil) })
	return w
}

// A pass over 10,000 hooks none of which is due.
func BenchmarkIdlePass(b *testing.B) {
	w := benchHooks(b, 10_000, false)
	for b.Loop() {
		if _, err := w.followSchedules(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// 10,000 hooks that are due at the same moment, until all tasks are created.
func BenchmarkMidnight(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		w := benchHooks(b, 10_000, true)
		b.StartTimer()
		for _, pass := range []func() (bool, error){
			func() (bool, error) { return w.followSchedules(b.Context()) },
			func() (bool, error) { return w.createTasks(b.Context()) },
		} {
			for more := true; more; {
				var err error
				if more, err = pass(); err != nil {
					b.Fatal(err)
				}
			}
		}
		if n := len(w.queue.order); n != 10_000 {
			b.Fatalf("%d tasks", n)
		}
	}
}

// A batch of 500 messages that fit none of 10,000 hooks, on an exchange that
// all of them are bound to.
func BenchmarkMessagesPassedOver(b *testing.B) {
	w := benchHooks(b, 10_000, false)
	messages := make([]event.Message, 500)
	for i := range messages {
		messages[i] = event.Message{Position: int64(i + 1), Exchange: "e", RoutingKey: fmt.Sprintf("primary.VMxKlcVxTDyPoOYBxIhZ5A.q%d.0.w.w.p.t.s._", i), CC: []string{"route.a.b.c"}, Payload: json.RawMessage(`{}`)}
	}
	for b.Loop() {
		if _, err := w.follow(b.Context(), messages); err != nil {
			b.Fatal(err)
		}
	}
}
