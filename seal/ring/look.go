package ring

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
)

// A Looker tells what there is, and takes no part in it.
type Looker struct{ ring *Ring }

// Look looks at the ring of a database, whoever runs on it.
func Look(db *store.DB, root *seal.Keys, log *slog.Logger, plain []string) Looker {
	return Looker{&Ring{config: Config{DB: db, Root: root, Log: log, Plain: plain}, db: db, root: root, log: log}}
}

// Purpose is what the key is for.
func (k Key) Purpose() string { return k.purpose }

// All are the keys of all purposes, also retired ones that are kept; Secret is as it is
// sealed.
func (l Looker) All(ctx context.Context) (list []Key, err error) {
	err = l.ring.db.View(ctx, func(tx *store.Tx) error {
		list = nil
		columns, err := tx.TextColumns()
		if err != nil || columns["platform_key"] == nil {
			return err
		}
		found, err := tx.Query(`SELECT purpose, ` + keyColumns + ` FROM platform_key ORDER BY purpose, seq`)
		if err != nil {
			return err
		}
		defer found.Close()
		for found.Next() {
			var k Key
			if err := k.scan(found, &k.purpose); err != nil {
				return err
			}
			list = append(list, k)
		}
		return found.Err()
	})
	return list, err
}

// SealedBy counts what a key has sealed; for a root key, keys of the ring as well.
func (l Looker) SealedBy(ctx context.Context, key string, root bool) (Sealed, error) {
	var found Sealed
	err := l.ring.db.View(ctx, func(tx *store.Tx) error {
		var err error
		if found, err = l.ring.sealedBy(tx, key); err != nil || !root {
			return err
		}
		columns, err := tx.TextColumns()
		if err != nil || columns["platform_key"] == nil {
			return err
		}
		var n int64
		if err := tx.QueryRow(`SELECT COUNT(*) FROM platform_key WHERE sealed LIKE $1`, seal.SealedBy(key)+"%").Scan(&n); err != nil {
			return fmt.Errorf("ring: count the keys that %s has sealed: %w", key, err)
		}
		if n > 0 {
			found["platform_key"] = n
		}
		return nil
	})
	return found, err
}
