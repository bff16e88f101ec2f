package ring

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A row is a key in the database, one that is retired as well.
type row struct {
	Key
	idle timestamp.Time
}

func rows(tx *store.Tx, purpose string) (list []*row, err error) {
	found, err := tx.Query(`SELECT idle, `+keyColumns+` FROM platform_key WHERE purpose = $1 ORDER BY seq`, purpose)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	for found.Next() {
		k := &row{}
		if err := k.scan(found, &k.idle); err != nil {
			return nil, err
		}
		list = append(list, k)
	}
	return list, found.Err()
}

func find(list []*row, id string) *row {
	for _, k := range list {
		if k.ID == id {
			return k
		}
	}
	return nil
}

func used(list []*row) *row {
	for _, k := range list {
		if k.State == Used {
			return k
		}
	}
	return nil
}

// errNothing has a change be none.
var errNothing = errors.New("ring: nothing to change")

// change is a transaction that changes keys of a purpose: one at a time, of all. What
// it brings is taken here before change returns.
func (r *Ring) change(ctx context.Context, purpose string, f func(tx *store.Tx, version int64, list []*row) error) error {
	err := r.db.Do(ctx, func(tx *store.Tx) error {
		var version int64
		if err := tx.QueryRow(`UPDATE platform_key_version SET version = version + 1 RETURNING version`).Scan(&version); err != nil {
			return err
		}
		list, err := rows(tx, purpose)
		if err != nil {
			return err
		}
		if err := f(tx, version, list); err != nil {
			return err
		}
		tx.Wake(topicChanged, store.Everybody)
		return nil
	})
	switch {
	case errors.Is(err, errNothing):
		return nil
	case err != nil:
		return err
	}
	return r.Follow(ctx)
}

// Add makes a key, which is accepted by every replica soon, and used by none. Where
// there is one with that id it does nothing.
func (r *Ring) Add(ctx context.Context, purpose, id string) error {
	p, ok := r.served(purpose)
	if !ok {
		return noPurpose(purpose)
	}
	secret, name, probe := p.New(), "", ""
	if p.Name != nil {
		var err error
		if name, err = p.Name(secret); err != nil {
			return err
		}
		k, err := seal.ParseKey(secret)
		if err != nil {
			return err
		}
		probe = k.Seal([]byte(id), Key{ID: id, purpose: purpose}.probed())
	}
	return r.change(ctx, purpose, func(tx *store.Tx, version int64, list []*row) error {
		now, live := timestamp.Now(), 0
		for _, k := range list {
			if k.ID == id && k.State == Retired {
				return fmt.Errorf("%w: %s of %s", ErrRetired, id, purpose)
			} else if k.ID == id {
				return errNothing
			}
			if k.State != Retired {
				live++
			}
		}
		if p.Own != "" && find(list, Own) == nil {
			if _, err := tx.Exec(`INSERT INTO platform_key (purpose, id, seq, state, name, sealed, probe, changed, idle, created, retired, used)
				VALUES ($1, $2, 0, 'used', '', '', '', $3, 0, $4, 0, 0)`, purpose, Own, version, now); err != nil {
				return err
			}
			live++
		}
		if p.Most > 0 && live >= p.Most {
			return fmt.Errorf("ring: %s has %d keys that are accepted, and can have no more; retire one first", purpose, live)
		}
		_, err := tx.Exec(`INSERT INTO platform_key (purpose, id, seq, state, name, sealed, probe, changed, idle, created, retired, used)
			VALUES ($1, $2, $3, 'accepted', $4, $5, $6, $3, 0, $7, 0, 0)`,
			purpose, id, version, name, r.root.Seal([]byte(secret), place(purpose, id)), probe, now)
		return err
	})
}

func (r *Ring) served(purpose string) (Purpose, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.purposes[purpose]
	return p, ok
}

func noPurpose(purpose string) error {
	return fmt.Errorf("ring: this platform has no key %q", purpose)
}

// ErrBehind reports replicas that do not have what others have.
var ErrBehind = errors.New("ring: not every replica has the keys")

// behind is an ErrBehind if a replica that was seen lately has not come to a version.
func behind(tx *store.Tx, version int64) error {
	found, err := tx.Query(`SELECT replica, trouble FROM platform_key_replica WHERE version < $1 AND seen BETWEEN $2 AND $3 ORDER BY replica`,
		version, timestamp.Now().Add(-gone), timestamp.Now().Add(skew))
	if err != nil {
		return err
	}
	defer found.Close()
	var list []string
	for found.Next() {
		var replica, trouble string
		if err := found.Scan(&replica, &trouble); err != nil {
			return err
		}
		if trouble != "" {
			replica += " (" + trouble + ")"
		}
		list = append(list, replica)
	}
	if err := found.Err(); err != nil {
		return err
	}
	if len(list) > 0 {
		return fmt.Errorf("%w: %s should take them within a second. If it does not, look at the loop keys.follow in its log, or stop it", ErrBehind, strings.Join(list, ", "))
	}
	return nil
}

// Everywhere waits for a few seconds until every replica has a key, and has tried it.
// It is an ErrBehind if one does not, and a store.ErrNotFound if there is no such key
// that is accepted.
func (r *Ring) Everywhere(ctx context.Context, purpose, id string) error {
	const patience, look = 5 * time.Second, 250 * time.Millisecond
	for until := time.Now().Add(patience); ; {
		if err := r.Follow(ctx); err != nil {
			return err
		}
		err := r.db.View(ctx, func(tx *store.Tx) error {
			var seq int64
			if err := tx.QueryRow(`SELECT seq FROM platform_key WHERE purpose = $1 AND id = $2 AND state <> 'retired'`, purpose, id).Scan(&seq); err != nil {
				return err
			}
			return behind(tx, seq)
		})
		if !errors.Is(err, ErrBehind) || time.Now().After(until) {
			return err
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Try uses a key here, as others would. It is a store.ErrNotFound if it is not
// accepted.
func (r *Ring) Try(ctx context.Context, purpose, id string) error {
	if err := r.Follow(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.keys[purpose] {
		if k.ID == id {
			return r.try(ctx, r.purposes[purpose], k)
		}
	}
	return fmt.Errorf("%w: %s of %s", store.ErrNotFound, id, purpose)
}

// Use has a key be the one that is used. Where a later one is, nothing changes. It is
// an ErrBehind if there is a replica that does not have the key.
func (r *Ring) Use(ctx context.Context, purpose, id string) error {
	return r.change(ctx, purpose, func(tx *store.Tx, version int64, list []*row) error {
		next, now := find(list, id), used(list)
		switch {
		case next == nil:
			return fmt.Errorf("%w: %s of %s", store.ErrNotFound, id, purpose)
		case next == now || now != nil && now.seq > next.seq:
			return errNothing
		case next.State == Retired:
			return fmt.Errorf("%w: %s of %s", ErrRetired, id, purpose)
		}
		return replace(tx, version, purpose, now, next)
	})
}

// replace has next be used instead of now, which may be nil.
func replace(tx *store.Tx, version int64, purpose string, now, next *row) error {
	if err := behind(tx, next.seq); err != nil {
		return err
	}
	if now != nil {
		if _, err := tx.Exec(`UPDATE platform_key SET state = 'accepted', changed = $3, idle = 0 WHERE purpose = $1 AND id = $2`, purpose, now.ID, version); err != nil {
			return err
		}
	}
	_, err := tx.Exec(`UPDATE platform_key SET state = 'used', changed = $3, idle = 0 WHERE purpose = $1 AND id = $2`, purpose, next.ID, version)
	return err
}

// Leave has the latest key be used, if the one that is is not to be any more, or is
// gone. It begins the time for which a key is kept that no replica uses.
func (r *Ring) Leave(ctx context.Context, purpose, id string) error {
	if err := r.change(ctx, purpose, func(tx *store.Tx, version int64, list []*row) error {
		now := used(list)
		if now != nil && now.ID != id || len(list) == 0 {
			return errNothing
		}
		next := list[len(list)-1]
		if next.State != Accepted || next.ID == id {
			return errNothing
		}
		return replace(tx, version, purpose, now, next)
	}); err != nil {
		return err
	}
	err := r.idle(ctx, purpose, id)
	if errors.Is(err, errBusy) || errors.Is(err, ErrBehind) {
		return nil // it is asked again
	}
	return err
}

var errBusy = errors.New("ring: the key is in use")

// idle notes since when a key is used by no replica, and fails unless that is settled.
func (r *Ring) idle(ctx context.Context, purpose, id string) error {
	var wait time.Duration
	err := r.db.Do(ctx, func(tx *store.Tx) error {
		wait = 0
		if _, err := tx.Exec(`UPDATE platform_key_version SET version = version`); err != nil { // nothing changes meanwhile
			return err
		}
		list, err := rows(tx, purpose)
		if err != nil {
			return err
		}
		k, by := find(list, id), used(list)
		switch {
		case k == nil || k.State == Retired:
			return nil
		case by == k:
			return fmt.Errorf("%w: %s of %s, and no later one is", errBusy, id, purpose)
		case by == nil || k.seq > by.seq:
			return nil // it never was used
		}
		if err := behind(tx, by.changed); err != nil {
			return err
		}
		now := timestamp.Now()
		if k.idle.IsZero() {
			k.idle = now
			_, err = tx.Exec(`UPDATE platform_key SET idle = $3 WHERE purpose = $1 AND id = $2`, purpose, id, now)
		}
		wait = k.idle.Add(settle).Sub(now)
		return err
	})
	if err == nil && wait > 0 {
		return fmt.Errorf("%w: what was begun with %s of %s may take %s more to end", errBusy, id, purpose, wait.Round(time.Second))
	}
	return err
}

// Retire has a key not be accepted any more; where there is none with that id, there
// will be none. It is an error if the key is used, or could be, or is needed: by what
// is sealed with it.
func (r *Ring) Retire(ctx context.Context, purpose, id string) error {
	p, ok := r.served(purpose)
	if !ok {
		return noPurpose(purpose)
	}
	if err := r.Follow(ctx); err != nil {
		return err
	}
	if err := r.idle(ctx, purpose, id); err != nil {
		return err
	}
	if p.Move != nil {
		if err := p.Move(ctx); err != nil {
			return fmt.Errorf("ring: sealing anew what older keys of %s have sealed: %w", purpose, err)
		}
	}
	return r.change(ctx, purpose, func(tx *store.Tx, version int64, list []*row) error {
		now, k := timestamp.Now(), find(list, id)
		switch {
		case k == nil:
			_, err := tx.Exec(`INSERT INTO platform_key (purpose, id, seq, state, name, sealed, probe, changed, idle, created, retired, used)
				VALUES ($1, $2, $3, 'retired', '', '', '', $3, 0, $4, $4, 0)`, purpose, id, version, now)
			return err
		case k.State == Retired:
			return errNothing
		case k.State == Used:
			return fmt.Errorf("%w: %s of %s, and no later one is", errBusy, id, purpose)
		}
		if by := used(list); by != nil && k.seq < by.seq && (k.idle.IsZero() || k.idle.Add(settle) > now) {
			return fmt.Errorf("%w: %s of %s was, until a moment ago", errBusy, id, purpose)
		}
		if k.Name != "" {
			left, err := r.sealedBy(tx, k.Name)
			if err != nil {
				return err
			}
			if left.total() > 0 {
				return fmt.Errorf("ring: the key %s of %s has sealed %s, which is to be sealed anew first; the loops whose names end in reseal do that, and taskfleet loops shows whether they fail", k.Name, purpose, left)
			}
		}
		// What seals nothing is not kept, as nothing can turn up.
		_, err := tx.Exec(`UPDATE platform_key SET state = 'retired', sealed = CASE WHEN name = '' THEN '' ELSE sealed END, changed = $3, retired = $4
			WHERE purpose = $1 AND id = $2`, purpose, id, version, now)
		return err
	})
}

// Keys are those of a purpose that are accepted, the used one first, without what is
// secret.
func (r *Ring) Keys(ctx context.Context, purpose string) (list []Key, err error) {
	var found []*row
	if err := r.db.View(ctx, func(tx *store.Tx) (err error) { found, err = rows(tx, purpose); return err }); err != nil {
		return nil, err
	}
	for _, k := range found {
		if k.State != Retired {
			k.Secret, k.probe = "", ""
			list = append(list, k.Key)
		}
	}
	if p := r.purpose(purpose); len(found) == 0 && p.Own != "" {
		list = append(list, Key{ID: Own, State: Used})
	}
	slices.SortStableFunc(list, func(a, b Key) int {
		switch {
		case a.State == b.State:
			return int(b.seq - a.seq)
		case a.State == Used:
			return -1
		}
		return 1
	})
	return list, nil
}

// Left counts what a key has sealed and what is not to be found otherwise; nothing for
// one that seals nothing.
func (r *Ring) Left(ctx context.Context, purpose, id string) (Sealed, error) {
	var left Sealed
	err := r.db.View(ctx, func(tx *store.Tx) error {
		left = nil
		list, err := rows(tx, purpose)
		k := find(list, id)
		if err != nil || k == nil || k.Name == "" {
			return err
		}
		left, err = r.sealedBy(tx, k.Name)
		return err
	})
	return left, err
}

// Move has what older keys have sealed be sealed by the one that is used.
func (r *Ring) Move(ctx context.Context, purpose string) error {
	if p := r.purpose(purpose); p.Move != nil {
		return p.Move(ctx)
	}
	return nil
}
