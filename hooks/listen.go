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

	// What is written down together: what all hooks make of all messages may
	// neither fit into memory nor be done in time.
	portion     = 2000             // pairs
	portionSize = 32 << 20         // bytes of contexts and definitions
	portionTime = 30 * time.Second // for rendering them
)

// boundHooks are the hooks with bindings, as they were at a version.
type boundHooks struct {
	known   bool
	version int64
	index   bindingIndex
	size    int
}

// A position in the log: what all messages before one have fired is written
// down, and of what this one fires that of hooks up to one, or of all where that
// is 0.
type position struct{ message, hook int64 }

// passed tells whether what a message makes of a hook is written down.
func (p position) passed(m event.Message, hook int64) bool {
	return m.Position < p.message || m.Position == p.message && (p.hook == 0 || hook <= p.hook)
}

// A pair is a message and a hook that it fires.
type pair struct {
	message event.Message
	hook    int64
}

// follow gets all messages there are, in order, and writes down what they
// fire, together with how far it has come: a message that is delivered once
// more fires nothing. So it is as if it had never acted.
func (h *Hooks) follow(ctx context.Context, messages []event.Message) (acted bool, err error) {
	at, err := h.learnBindings(ctx)
	if err != nil || h.bound.size == 0 {
		return false, err
	}
	spent := map[int64]time.Duration{}
	var pairs []pair // in the order of messages, then of hooks
	for i, m := range messages {
		for _, hook := range h.bound.index.match(m) {
			if !at.passed(m, hook) {
				pairs = append(pairs, pair{m, hook})
			}
		}
		if len(pairs) < portion && i < len(messages)-1 {
			continue
		}
		for len(pairs) > 0 {
			if pairs, at, err = h.fireSome(ctx, pairs, spent, at); err != nil {
				return false, err
			}
		}
	}
	return false, nil
}

// fireSome writes down what the first of the pairs fire, and that the log was
// followed so far. It returns the rest, and to where that was. spent is how long
// each hook has taken.
func (h *Hooks) fireSome(ctx context.Context, pairs []pair, spent map[int64]time.Duration, from position) (rest []pair, to position, err error) {
	hooks, n, err := h.hooksOf(ctx, pairs)
	if err != nil {
		return nil, from, err
	}
	rest = pairs[n:]
	var fires []*fire
	passedOver := map[int64]int{}
	size, began := 0, time.Now()
	for i, p := range pairs[:n] {
		k := hooks[p.hook]
		if k == nil || p.message.Created < k.created {
			continue
		}
		if spent[p.hook] > allotment { // others do not wait for it
			passedOver[p.hook]++
			continue
		}
		start := time.Now()
		if f := h.fireFor(k, p.message); f != nil {
			fires = append(fires, f)
			size += len(f.context) + len(f.definition)
		}
		now := time.Now()
		spent[p.hook] += now.Sub(start)
		if size > portionSize || now.Sub(began) > portionTime {
			rest = pairs[i+1:]
			break
		}
	}
	for hook, n := range passedOver {
		fires = append(fires, failedFire(hooks[hook], "%d messages were passed over, since the hook's template and triggerSchema take too long", n))
	}
	last := pairs[len(pairs)-len(rest)-1]
	to = position{message: last.message.Position}
	if len(rest) > 0 && rest[0].message.Position == to.message {
		to.hook = last.hook
	}
	return rest, to, h.db.Do(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`UPDATE hook_state SET value = $3, hook = $4 WHERE name = 'position' AND value = $1 AND hook = $2`,
			from.message, from.hook, to.message, to.hook)
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("another replica follows the messages, too")
		}
		return insertBounded(tx, fires)
	})
}

// hooksOf loads the hooks of the first n pairs: those of all, unless they are
// very many.
func (h *Hooks) hooksOf(ctx context.Context, pairs []pair) (hooks map[int64]*hook, n int, err error) {
	wanted := map[int64]struct{}{}
	for _, p := range pairs {
		if _, known := wanted[p.hook]; !known && len(wanted) == batch {
			break
		}
		wanted[p.hook] = struct{}{}
		n++
	}
	err = h.db.View(ctx, func(tx *store.Tx) error {
		hooks = map[int64]*hook{}
		list, err := queryHooks(tx, `WHERE id IN (SELECT CAST(value AS BIGINT) FROM json_each($1))`, numbers(slices.Sorted(maps.Keys(wanted))))
		for _, k := range list {
			hooks[k.key] = k
		}
		return err
	})
	return hooks, n, err
}

// learnBindings brings the index up to date and returns the position up to which
// messages have become fires. Who created a hook before a message was
// published finds the hook fired: the message was there to be read only after
// the hook was.
func (h *Hooks) learnBindings(ctx context.Context) (at position, err error) {
	var version int64
	err = h.db.ViewOnce(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(`
			SELECT b.value, p.value, p.hook FROM hook_state AS b, hook_state AS p WHERE b.name = 'bindings' AND p.name = 'position'`,
		).Scan(&version, &at.message, &at.hook)
	})
	if err != nil || h.bound.known && h.bound.version == version {
		return at, err
	}
	var fresh *boundHooks
	err = h.db.View(ctx, func(tx *store.Tx) error {
		fresh = &boundHooks{known: true}
		if err := tx.QueryRow(`SELECT value FROM hook_state WHERE name = 'bindings'`).Scan(&fresh.version); err != nil {
			return err
		}
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
	if err == nil {
		h.bound = *fresh
	}
	return at, err
}

// fireFor renders a hook for a message. It returns nil where the message does
// not fit, or the template wants no task.
func (h *Hooks) fireFor(k *hook, m event.Message) *fire {
	schema, err := h.schemas.of(k.TriggerSchema)
	if err != nil {
		return failedFire(k, "triggerSchema: %w", err)
	}
	if len(m.Payload) > largestPayload {
		return failedFire(k, "a message on %s was passed over, since its payload has %d bytes, and %d are the most", m.Exchange, len(m.Payload), largestPayload)
	}
	var payload any
	if err := json.Unmarshal(m.Payload, &payload); err != nil {
		return failedFire(k, "the payload of a message on %s is not JSON: %w", m.Exchange, err)
	}
	if err := schema.check(payload); err == errCostly {
		return failedFire(k, "a message on %s was passed over: %w", m.Exchange, err)
	} else if err != nil {
		h.log.Debug("a message does not fit a hook's triggerSchema", "hook", k.path().String(), "exchange", m.Exchange, "routingKey", m.RoutingKey, "err", err)
		return nil
	}
	now := timestamp.Now()
	return newFire(k, byMessage, "", now, now.Add(persistence), map[string]any{"payload": payload})
}

// failedFire is one for a message that comes to nothing.
func failedFire(k *hook, format string, args ...any) *fire {
	return &fire{hook: k.key, path: k.path(), taskID: slugid.New(), firedBy: byMessage, fired: timestamp.Now(), err: fmt.Errorf(format, args...)}
}

// insertBounded writes fires down, leaving out what a hook has too many of, and
// those of hooks that are gone.
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
		if err := f.insert(tx, now); err != nil && !isNotFound(err) {
			return err
		}
	}
	for hook, n := range over {
		f := &fire{hook: hook, taskID: slugid.New(), firedBy: byMessage, fired: now}
		f.err = fmt.Errorf("%d messages were passed over, since %d fires of the hook are still to be done", n, mostWaiting)
		if err := f.insertFailed(tx); err != nil && !isNotFound(err) {
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
