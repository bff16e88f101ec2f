package object

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	batch     = 500
	retryTime = time.Hour // until bytes that could not be deleted are tried again
	giveUp    = 5         // failures in a row that say that no bytes can be deleted now
)

// A corpse is what is left of a record: its name and the key of its bytes.
type corpse struct{ name, key string }

// expire is one pass of the loop object.expiry. Bytes go before their record: a
// crash in between leaves a record whose bytes are deleted again.
func (o *Objects) expire(ctx context.Context) (more bool, err error) {
	var due []corpse
	err = o.db.View(ctx, func(tx *store.Tx) error {
		due = nil
		rows, err := tx.Query(`SELECT name, blob_key FROM object WHERE deletable <= $1 ORDER BY deletable, name LIMIT $2`, timestamp.Now(), batch)
		if err != nil {
			return err
		}
		for rows.Next() {
			var c corpse
			if err := rows.Scan(&c.name, &c.key); err != nil {
				return err
			}
			due = append(due, c)
		}
		return rows.Err()
	})
	if err != nil || len(due) == 0 {
		return false, err
	}
	gone, stuck, failure := o.deleteBytes(ctx, due)
	err = o.db.Do(ctx, func(tx *store.Tx) error {
		for _, c := range gone {
			if _, err := tx.Exec(`DELETE FROM object WHERE name = $1 AND blob_key = $2`, c.name, c.key); err != nil {
				return err
			}
		}
		for _, c := range stuck {
			if _, err := tx.Exec(`UPDATE object SET deletable = $3 WHERE name = $1 AND blob_key = $2`, c.name, c.key, timestamp.Now().Add(retryTime)); err != nil {
				return err
			}
		}
		return nil
	})
	if len(gone) > 0 && err == nil {
		o.log.Info("expired objects were deleted", "objects", len(gone))
	}
	return len(due) == batch, errors.Join(failure, err)
}

// deleteBytes deletes all at once; or, if that fails, one by one, so that bytes
// that cannot be deleted are in the way of no others. Those are stuck.
func (o *Objects) deleteBytes(ctx context.Context, due []corpse) (gone, stuck []corpse, err error) {
	keys := make([]string, len(due))
	for i, c := range due {
		keys[i] = c.key
	}
	if err := o.bucket.Delete(ctx, keys...); err == nil {
		return due, nil, nil
	} else if len(due) == 1 {
		return nil, nil, fmt.Errorf("object: delete the bytes of %q: %w", due[0].name, err)
	}
	var failures []error
	for _, c := range due {
		if err := o.bucket.Delete(ctx, c.key); err != nil {
			stuck = append(stuck, c)
			failures = append(failures, fmt.Errorf("object: delete the bytes of %q: %w", c.name, err))
		} else {
			gone = append(gone, c)
		}
		if len(gone) == 0 && len(stuck) == giveUp {
			return nil, nil, errors.Join(failures...)
		}
	}
	if len(gone) == 0 {
		stuck = nil // nothing says that it is these
	}
	return gone, stuck, errors.Join(failures[:min(giveUp, len(failures))]...)
}
