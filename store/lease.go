package store

import (
	"context"
	"fmt"
	"time"
)

// A Lease keeps what has a name to one holder at a time, among all processes
// on the database. It is what a loop.Runner asks for.
//
// A lease is held until it expires by the clock of whoever asks, so the clocks
// of replicas may differ by much less than the time to live.
type Lease struct {
	db     *DB
	holder string
}

// Lease returns the leases of a holder. Give each process a name of its own;
// one that keeps its name over a restart need not wait for the leases it held.
// The table comes with the first Migrate, of whatever service.
func (db *DB) Lease(holder string) *Lease { return &Lease{db, holder} }

// Hold takes or renews the lease called name for ttl from now. It returns
// false if another holder has it.
func (l *Lease) Hold(ctx context.Context, name string, ttl time.Duration) (bool, error) {
	var held bool
	err := l.db.Do(ctx, func(tx *Tx) error {
		now := time.Now()
		n, err := tx.Exec(`
			INSERT INTO lease (name, holder, expires) VALUES ($1, $2, $3)
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires = excluded.expires
			 WHERE lease.holder = excluded.holder OR lease.expires <= $4`,
			name, l.holder, now.Add(ttl).UnixMilli(), now.UnixMilli())
		held = n == 1
		return err
	})
	if err != nil {
		return false, fmt.Errorf("store: hold lease %s: %w", name, err)
	}
	return held, nil
}

// Release gives the lease up, if the holder has it, so that the next one need
// not wait until it expires.
func (l *Lease) Release(ctx context.Context, name string) error {
	err := l.db.Do(ctx, func(tx *Tx) error {
		_, err := tx.Exec(`DELETE FROM lease WHERE name = $1 AND holder = $2`, name, l.holder)
		return err
	})
	if err != nil {
		return fmt.Errorf("store: release lease %s: %w", name, err)
	}
	return nil
}
