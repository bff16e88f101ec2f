package hooks

import (
	"context"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// punctual is how late a fire may be to count as of the time that it was
// scheduled for. A later one is of the time that it happens at: tasks of the
// past would be past their deadlines.
const punctual = time.Minute

// shortest is the least time between two dates of a schedule that count. A
// pattern whose first field is a star by mistake, and there are many, does not
// become sixty tasks.
const shortest = time.Minute

// followSchedules is a pass over the hooks whose schedules are due. The next
// date is moved on in the transaction that writes the fire down, if nobody else
// has moved it.
func (h *Hooks) followSchedules(ctx context.Context) (more bool, err error) {
	now := timestamp.Now()
	var due []*hook
	if err := h.db.View(ctx, func(tx *store.Tx) (err error) {
		due, err = queryHooks(tx, `WHERE next <= $1 ORDER BY next, id LIMIT $2`, now, batch)
		return err
	}); err != nil {
		return false, err
	}
	if len(due) == 0 {
		return false, h.earliest(ctx, &h.scheduleAlarm, topicSchedule, `SELECT min(next) FROM hook WHERE next IS NOT NULL`)
	}
	fires := make([]*fire, len(due))
	next := make([]timestamp.Time, len(due))
	for i, k := range due {
		after := max(now, k.next.Add(shortest-time.Millisecond))
		if next[i], err = nextDate(k.Schedule, k.path().String(), after); err != nil {
			h.log.Error("the schedule of a hook has no further date", "hook", k.path().String(), "err", err)
		}
		at, giveUp := k.next, next[i]
		if now.Sub(at) > punctual {
			at = now
		}
		if giveUp.IsZero() {
			giveUp = now.Add(persistence)
		}
		fires[i] = newFire(k, bySchedule, "", at, giveUp, nil)
	}
	var failed []*fire
	if err := h.db.Do(ctx, func(tx *store.Tx) error {
		failed = nil
		for i, k := range due {
			// With another template it is due still, and fires that in the next pass.
			n, err := tx.Exec(`UPDATE hook SET next = $3 WHERE id = $1 AND next = $2 AND task = $4`, k.key, k.next, orNull(next[i]), string(k.Task))
			if err != nil {
				return err
			}
			f := fires[i]
			if n == 0 || f == nil {
				continue
			}
			if err := f.insert(tx, now); err != nil {
				return err
			}
			if f.err != nil {
				failed = append(failed, f)
			}
		}
		return nil
	}); err != nil {
		return false, err
	}
	for _, f := range failed {
		h.tell(ctx, f, f.err.Error())
	}
	return true, nil
}

// A Scheduled is a hook with a schedule, as an overview shows it.
type Scheduled struct {
	Name     string // <group>/<hook>
	Schedule []string
	Next     timestamp.Time
}

// Scheduled returns hooks that have a schedule, those that are due first, up to a
// number.
func (h *Hooks) Scheduled(ctx context.Context, limit int) (list []Scheduled, err error) {
	err = h.db.ViewOnce(ctx, func(tx *store.Tx) error {
		list = nil
		rows, err := tx.Query(`SELECT hook_group_id, hook_id, schedule, next FROM hook WHERE next IS NOT NULL ORDER BY next, id LIMIT $1`, limit)
		if err != nil {
			return err
		}
		for rows.Next() {
			var p hookPath
			var s Scheduled
			if err := rows.Scan(&p.HookGroupID, &p.HookID, &s.Schedule, &s.Next); err != nil {
				return err
			}
			s.Name = p.String()
			list = append(list, s)
		}
		return rows.Err()
	})
	return list, err
}
