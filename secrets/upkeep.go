package secrets

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	batch = 500

	// How long a reader is told that a secret has expired, and how long before
	// its value is erased. What is erased is gone, so the clock that says so may
	// be wrong by that much.
	expiredFor  = 24 * time.Hour
	erasedAfter = 15 * time.Minute

	// resealBatch is smaller, as whole values are in memory.
	resealBatch = 50
)

// expire is one pass of the loop secrets.expiry. Its statements look at the
// expiry again, in case a secret was set anew meanwhile.
func (s *Secrets) expire(ctx context.Context) (more bool, err error) {
	now := timestamp.Now()
	err = s.db.Do(ctx, func(tx *store.Tx) error {
		due, err := tx.Column(`SELECT name FROM secret WHERE expires <= $1 AND key_id <> '' ORDER BY expires LIMIT $2`, now.Add(-erasedAfter), batch)
		if err != nil {
			return err
		}
		for _, name := range due {
			n, err := tx.Exec(`UPDATE secret SET sealed = '', key_id = '' WHERE name = $1 AND expires <= $2 AND key_id <> ''`, name, now.Add(-erasedAfter))
			if err != nil {
				return err
			}
			if n == 0 {
				continue
			}
			if err := s.record(tx, name, self, expired); err != nil {
				return err
			}
		}
		forgotten, err := tx.Exec(`
			DELETE FROM secret WHERE expires <= $1 AND key_id = '' AND name IN (
			  SELECT name FROM secret WHERE expires <= $1 AND key_id = '' LIMIT $2)`, now.Add(-expiredFor), batch)
		more = len(due) == batch || forgotten == batch
		return err
	})
	return more, err
}

// Sealed tells how many secrets each key has sealed, by its id. A key that is
// not there has none, so as far as secrets go it can be removed from the keys.
func (s *Secrets) Sealed(ctx context.Context) (map[string]int, error) {
	var out map[string]int
	err := s.db.View(ctx, func(tx *store.Tx) error {
		out = map[string]int{}
		rows, err := tx.Query(`SELECT key_id, COUNT(*) FROM secret WHERE key_id <> '' GROUP BY key_id`)
		if err != nil {
			return err
		}
		for rows.Next() {
			var id string
			var n int
			if err := rows.Scan(&id, &n); err != nil {
				return err
			}
			out[id] = n
		}
		return rows.Err()
	})
	return out, err
}

// reseal is one pass of the loop secrets.reseal. A secret that cannot be opened
// is passed over, and named in the error, so that it keeps no other from moving.
func (s *Secrets) reseal(ctx context.Context) (more bool, err error) {
	newest, moved, after := s.keys.Newest(), 0, ""
	var failed []error
	for {
		stale := map[string]string{} // sealed, by name
		err := s.db.View(ctx, func(tx *store.Tx) error {
			clear(stale)
			rows, err := tx.Query(`SELECT name, sealed FROM secret WHERE (key_id <> $1 OR sealed NOT LIKE $4) AND key_id <> '' AND name > $2 ORDER BY name LIMIT $3`,
				newest, after, resealBatch, seal.SealedBy(newest)+"%") // the keys may have changed between sealing and noting by which
			if err != nil {
				return err
			}
			for rows.Next() {
				var name, sealed string
				if err := rows.Scan(&name, &sealed); err != nil {
					return err
				}
				stale[name] = sealed
			}
			return rows.Err()
		})
		if err != nil {
			return false, err
		}
		if len(stale) == 0 {
			break
		}
		order := slices.Sorted(maps.Keys(stale))
		after = order[len(order)-1]
		anew := map[string]string{}
		for _, name := range order {
			value, err := s.open(name, stale[name])
			if err != nil {
				failed = append(failed, err)
				continue
			}
			anew[name] = s.keys.Seal(value, place(name))
		}
		n := 0
		err = s.db.Do(ctx, func(tx *store.Tx) error {
			n = 0
			for _, name := range order { // in one order, whoever else does this
				if anew[name] == "" {
					continue
				}
				changed, err := tx.Exec(`UPDATE secret SET sealed = $3, key_id = $4 WHERE name = $1 AND sealed = $2`, name, stale[name], anew[name], seal.KeyID(anew[name]))
				if err != nil {
					return err
				}
				n += int(changed)
			}
			return nil
		})
		if err != nil {
			return false, err
		}
		moved += n
	}
	if moved > 0 {
		if err := s.report(ctx, moved); err != nil {
			return false, err
		}
	}
	if len(failed) > 0 {
		const shown = 5
		return false, fmt.Errorf("%d secrets are sealed with old keys and cannot be moved to the newest one, among them: %w",
			len(failed), errors.Join(failed[:min(shown, len(failed))]...))
	}
	return false, nil
}

// report logs what a pass has moved and whether the old keys are still needed.
func (s *Secrets) report(ctx context.Context, moved int) error {
	sealed, err := s.Sealed(ctx)
	if err != nil {
		return err
	}
	left := 0
	for id, n := range sealed {
		if id != s.keys.Newest() {
			left += n
		}
	}
	if left > 0 {
		s.log.Info("secrets were sealed anew with the newest key, and old keys are still needed", "moved", moved, "left", left, "key", s.keys.Newest())
		return nil
	}
	s.log.Info("all secrets are sealed with the newest key: the secrets service does not need the older keys any more", "moved", moved, "key", s.keys.Newest())
	return nil
}
