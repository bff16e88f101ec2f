package ring

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A Sealed is how many rows hold something that a key has sealed, by table.
type Sealed map[string]int64

func (s Sealed) total() (n int64) {
	for _, rows := range s {
		n += rows
	}
	return n
}

// Total is how many rows there are.
func (s Sealed) Total() int64 { return s.total() }

// String says what there is.
func (s Sealed) String() string {
	var list []string
	for _, table := range slices.Sorted(maps.Keys(s)) {
		rows := "rows"
		if s[table] == 1 {
			rows = "row"
		}
		list = append(list, fmt.Sprintf("%d %s of %s", s[table], rows, table))
	}
	if len(list) == 0 {
		return "nothing"
	}
	return strings.Join(list, ", ")
}

// own are the tables of the ring, whose probes and keys are no business of others.
var own = []string{"platform_key", "platform_key_version", "platform_key_replica", "migration", "lease"}

// sealedBy looks through all tables for what a key has sealed, on its own or within
// something else. It goes by the tables as they are, and leaves out those that are
// known to hold nothing: so what somebody adds later is looked through.
func (r *Ring) sealedBy(tx *store.Tx, key string) (Sealed, error) {
	columns, err := tx.TextColumns()
	if err != nil {
		return nil, err
	}
	found := Sealed{}
	for _, table := range slices.Sorted(maps.Keys(columns)) {
		if slices.Contains(own, table) || slices.Contains(r.config.Plain, table) {
			continue
		}
		var has []string
		for _, c := range columns[table] {
			has = append(has, c+` LIKE $1`)
		}
		var n int64
		if err := tx.QueryRow(`SELECT COUNT(*) FROM `+table+` WHERE `+strings.Join(has, ` OR `), "%"+seal.SealedBy(key)+"%").Scan(&n); err != nil {
			return nil, fmt.Errorf("ring: look in the table %s for what the key %s has sealed: %w", table, key, err)
		}
		if n > 0 {
			found[table] = n
		}
	}
	return found, nil
}

// Check is a pass of the loop keys.check.
func (r *Ring) Check(ctx context.Context) error {
	_, err := r.check(ctx)
	return err
}

// check is one pass of the loop keys.check.
func (r *Ring) check(ctx context.Context) (more bool, err error) {
	return false, errors.Join(r.rewrap(ctx), r.revive(ctx), r.forget(ctx))
}

// rewrap seals keys with the newest root key. The key itself stays the same, so no
// replica has to know.
func (r *Ring) rewrap(ctx context.Context) error {
	type entry struct{ purpose, id, sealed string }
	var stale []entry
	if err := r.db.View(ctx, func(tx *store.Tx) error {
		stale = nil
		found, err := tx.Query(`SELECT purpose, id, sealed FROM platform_key WHERE sealed <> '' ORDER BY purpose, id`)
		if err != nil {
			return err
		}
		defer found.Close()
		for found.Next() {
			var e entry
			if err := found.Scan(&e.purpose, &e.id, &e.sealed); err != nil {
				return err
			}
			if !r.root.Current(e.sealed) {
				stale = append(stale, e)
			}
		}
		return found.Err()
	}); err != nil {
		return err
	}
	var failed error
	moved := 0
	for _, e := range stale {
		secret, err := r.unseal(e.purpose, e.id, e.sealed)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		if err := r.db.Do(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(`UPDATE platform_key SET sealed = $4 WHERE purpose = $1 AND id = $2 AND sealed = $3`,
				e.purpose, e.id, e.sealed, r.root.Seal([]byte(secret), place(e.purpose, e.id)))
			return err
		}); err != nil {
			return err
		}
		moved++
	}
	if len(stale) > 0 {
		r.log.Info("keys of the platform were sealed anew with the newest root key", "moved", moved, "left", len(stale)-moved, "key", r.root.Newest())
	}
	return failed
}

// revive has keys that were retired be accepted again if something turns up that they
// have sealed: a replica that stood still for long may have written it.
func (r *Ring) revive(ctx context.Context) error {
	type entry struct{ purpose, id, name string }
	var list []entry
	if err := r.db.View(ctx, func(tx *store.Tx) error {
		list = nil
		found, err := tx.Query(`SELECT purpose, id, name FROM platform_key WHERE state = 'retired' AND sealed <> '' AND name <> '' ORDER BY purpose, id`)
		if err != nil {
			return err
		}
		defer found.Close()
		for found.Next() {
			var e entry
			if err := found.Scan(&e.purpose, &e.id, &e.name); err != nil {
				return err
			}
			list = append(list, e)
		}
		return found.Err()
	}); err != nil {
		return err
	}
	var failed error
	for _, e := range list {
		var left Sealed
		if err := r.db.View(ctx, func(tx *store.Tx) (err error) { left, err = r.sealedBy(tx, e.name); return err }); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		if left.total() == 0 {
			continue
		}
		if err := r.change(ctx, e.purpose, func(tx *store.Tx, version int64, list []*row) error {
			k := find(list, e.id)
			if k == nil || k.State != Retired || k.Secret == "" {
				return errNothing
			}
			if _, err := r.unseal(e.purpose, e.id, k.Secret); err != nil {
				return err // no replica could take it, or start
			}
			_, err := tx.Exec(`UPDATE platform_key SET state = 'accepted', changed = $3, idle = 0, retired = 0 WHERE purpose = $1 AND id = $2`, e.purpose, e.id, version)
			return err
		}); err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		r.log.Error("something was found that a retired key has sealed: the key is accepted again, and what it has sealed is sealed anew", "purpose", e.purpose, "key", e.name, "found", left.String())
		failed = errors.Join(failed, r.Move(ctx, e.purpose), r.Leave(ctx, e.purpose, e.id))
	}
	return failed
}

// forget erases keys that were retired long ago and have sealed nothing that is there,
// and replicas that are not any more.
func (r *Ring) forget(ctx context.Context) error {
	now := timestamp.Now()
	return r.db.Do(ctx, func(tx *store.Tx) error {
		if _, err := tx.Exec(`UPDATE platform_key_version SET version = version`); err != nil {
			return err
		}
		found, err := tx.Column(`SELECT name FROM platform_key WHERE state = 'retired' AND sealed <> '' AND retired <= $1 ORDER BY purpose, id`, now.Add(-keep))
		if err != nil {
			return err
		}
		for _, name := range found {
			left, err := r.sealedBy(tx, name)
			if err != nil {
				return err
			}
			if left.total() > 0 {
				continue
			}
			if _, err := tx.Exec(`UPDATE platform_key SET sealed = '', probe = '' WHERE name = $1 AND state = 'retired'`, name); err != nil {
				return err
			}
			r.log.Info("a key that was retired long ago is erased", "key", name)
		}
		_, err = tx.Exec(`DELETE FROM platform_key_replica WHERE seen <= $1`, now.Add(-keep))
		return err
	})
}
