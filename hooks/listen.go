package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	mostWaiting    = 1000            // fires of a hook that are still to be done
	allotment      = 2 * time.Second // for the messages of one hook, of those that come together
	largestPayload = 1 << 20
	portion        = 2000 // pairs of a hook and a message
)

// boundHooks are the hooks with bindings, as they were at a version.
type boundHooks struct {
	known   bool
	version int64
	index   bindingIndex
	size    int
}

// follow gets all messages there are, in order, and writes down what they
// fire, together with how far it has come: a message that is delivered once
// more fires nothing.
func (h *Hooks) follow(ctx context.Context, messages []event.Message) error {
	position, err := h.learnBindings(ctx)
	if err != nil || h.bound.size == 0 {
		return err
	}
	spent := map[int64]time.Duration{}
	for len(messages) > 0 {
		// In portions: what all hooks make of all messages may not fit into memory.
		fired := map[int64][]event.Message{}
		n, pairs := 0, 0
		for ; n < len(messages) && pairs < portion; n++ {
			if messages[n].Position <= position {
				continue
			}
			for _, hook := range h.bound.index.match(messages[n]) {
				fired[hook] = append(fired[hook], messages[n])
				pairs++
			}
		}
		if pairs > 0 {
			last := messages[n-1].Position
			if err := h.fireAll(ctx, fired, spent, position, last); err != nil {
				return err
			}
			position = last
		}
		messages = messages[n:]
	}
	return nil
}

// fireAll writes down what hooks make of messages, and that the log was
// followed from one position to another.
func (h *Hooks) fireAll(ctx context.Context, fired map[int64][]event.Message, spent map[int64]time.Duration, from, to int64) error {
	var list []*hook
	if err := h.db.View(ctx, func(tx *store.Tx) error {
		list = nil
		for part := range slices.Chunk(slices.Sorted(maps.Keys(fired)), batch) {
			hooks, err := queryHooks(tx, `WHERE id IN (SELECT CAST(value AS BIGINT) FROM json_each($1))`, numbers(part))
			if err != nil {
				return err
			}
			list = append(list, hooks...)
		}
		return nil
	}); err != nil {
		return err
	}
	var fires []*fire
	for _, k := range list {
		began := time.Now()
		fires = append(fires, h.fireFor(k, fired[k.key], allotment-spent[k.key])...)
		spent[k.key] += time.Since(began)
	}
	return h.db.Do(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`UPDATE hook_state SET value = $2 WHERE name = 'position' AND value = $1`, from, to)
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("another replica follows the messages, too")
		}
		return insertBounded(tx, fires)
	})
}

// learnBindings brings the index up to date and returns the position up to
// which messages have become fires. Who created a hook before a message was
// published finds the hook fired: the message was there to be read only after
// the hook was.
func (h *Hooks) learnBindings(ctx context.Context) (position int64, err error) {
	var version int64
	var fresh *boundHooks
	err = h.db.View(ctx, func(tx *store.Tx) error {
		fresh = nil
		if err := tx.QueryRow(`
			SELECT (SELECT value FROM hook_state WHERE name = 'bindings'), (SELECT value FROM hook_state WHERE name = 'position')`,
		).Scan(&version, &position); err != nil {
			return err
		}
		if h.bound.known && h.bound.version == version {
			return nil
		}
		fresh = &boundHooks{known: true, version: version}
		rows, err := tx.Query(`SELECT id, bindings FROM hook WHERE bindings <> '[]'`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id int64
			var text json.RawMessage
			var bindings []event.Binding
			if err := rows.Scan(&id, &text); err != nil {
				return err
			}
			if err := json.Unmarshal(text, &bindings); err != nil {
				return fmt.Errorf("bindings of hook %d: %w", id, err)
			}
			fresh.index.add(id, bindings)
			fresh.size++
		}
		return rows.Err()
	})
	if err == nil && fresh != nil {
		h.bound = *fresh
	}
	return position, err
}

// fireFor renders a hook for messages. One whose templates and schemas take too
// long does without the rest of them, so that others do not wait for it.
func (h *Hooks) fireFor(k *hook, messages []event.Message, left time.Duration) (fires []*fire) {
	failed := func(format string, args ...any) *fire {
		return &fire{hook: k.key, path: k.path(), taskID: slugid.New(), firedBy: byMessage, fired: timestamp.Now(), err: fmt.Errorf(format, args...)}
	}
	schema, err := h.schemas.of(k.TriggerSchema)
	if err != nil {
		return append(fires, failed("triggerSchema: %w", err))
	}
	began := time.Now()
	for n, m := range messages {
		if m.Created < k.created {
			continue
		}
		if len(fires) >= mostWaiting || time.Since(began) > left {
			return append(fires, failed("%d messages were passed over: there were too many at a time, or the hook's template and triggerSchema take too long", len(messages)-n))
		}
		if len(m.Payload) > largestPayload {
			fires = append(fires, failed("a message on %s was passed over, since its payload has %d bytes, and %d are the most", m.Exchange, len(m.Payload), largestPayload))
			continue
		}
		var payload any
		if err := json.Unmarshal(m.Payload, &payload); err != nil {
			fires = append(fires, failed("the payload of a message on %s is not JSON: %w", m.Exchange, err))
			continue
		}
		if err := schema.check(payload); err == errCostly {
			fires = append(fires, failed("a message on %s was passed over: %w", m.Exchange, err))
			continue
		} else if err != nil {
			h.log.Debug("a message does not fit a hook's triggerSchema", "hook", k.path().String(), "exchange", m.Exchange, "routingKey", m.RoutingKey, "err", err)
			continue
		}
		now := timestamp.Now()
		if f := newFire(k, byMessage, "", now, now.Add(persistence), map[string]any{"payload": payload}); f != nil {
			fires = append(fires, f)
		}
	}
	return fires
}

// insertBounded writes fires down, leaving out what a hook has too many of.
func insertBounded(tx *store.Tx, fires []*fire) error {
	waiting := map[int64]int{}
	rows, err := tx.Query(`SELECT hook, count(*) FROM hook_fire WHERE due IS NOT NULL GROUP BY hook`)
	if err != nil {
		return err
	}
	for rows.Next() {
		var hook int64
		var n int
		if err := rows.Scan(&hook, &n); err != nil {
			return err
		}
		waiting[hook] = n
	}
	if err := rows.Err(); err != nil {
		return err
	}
	over := map[int64]int{}
	now := timestamp.Now()
	for _, f := range fires {
		if f.err == nil {
			if waiting[f.hook] >= mostWaiting {
				over[f.hook]++
				continue
			}
			waiting[f.hook]++
		}
		if err := f.insert(tx, now); err != nil {
			return err
		}
	}
	for hook, n := range over {
		f := &fire{hook: hook, taskID: slugid.New(), firedBy: byMessage, fired: now}
		f.err = fmt.Errorf("%d messages were passed over, since %d fires of the hook are still to be done", n, mostWaiting)
		if err := f.insertFailed(tx); err != nil {
			return err
		}
	}
	return nil
}

func numbers(list []int64) string {
	text, err := json.Marshal(list)
	if err != nil {
		panic(err) // numbers always marshal
	}
	return string(text)
}
