package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A Lease keeps what has a name to one holder at a time, among all processes
// on the database. It is what a loop.Runner asks for.
//
// A lease is held until it expires by the clock of whoever asks. Whose clock is
// ahead takes it from a holder that lives, once. Whose clock is ahead and who
// then dies leaves a lease that is good for long by the clocks of the others: so
// it also ends when somebody has watched it for its time to live, by a clock that
// does not jump, and it was not renewed.
type Lease struct {
	db     *DB
	holder string

	mu      sync.Mutex
	watched map[string]watched // by name, those of others
}

// watched is a lease of another holder, as it was seen since a time.
type watched struct {
	holder  string
	expires int64
	since   time.Time
}

// Lease returns the leases of a holder. Give each process a name of its own;
// one that keeps its name over a restart need not wait for the leases it held.
// The table comes with the first Migrate, of whatever service.
func (db *DB) Lease(holder string) *Lease {
	return &Lease{db: db, holder: holder, watched: map[string]watched{}}
}

// Hold takes or renews the lease called name for ttl from now. It returns
// false if another holder has it.
func (l *Lease) Hold(ctx context.Context, name string, ttl time.Duration) (bool, error) {
	var held bool
	var other watched
	before := l.watching(name)
	err := l.db.Do(ctx, func(tx *Tx) error {
		now := time.Now()
		given := ""
		if now.Sub(before.since) >= ttl {
			given = before.holder
		}
		n, err := tx.Exec(`
			INSERT INTO lease (name, holder, expires) VALUES ($1, $2, $3)
			ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires = excluded.expires
			 WHERE lease.holder = excluded.holder OR lease.expires <= $4 OR lease.holder = $5 AND lease.expires = $6`,
			name, l.holder, now.Add(ttl).UnixMilli(), now.UnixMilli(), given, before.expires)
		if held = n == 1; held || err != nil {
			return err
		}
		other = watched{since: now}
		err = tx.QueryRow(`SELECT holder, expires FROM lease WHERE name = $1`, name).Scan(&other.holder, &other.expires)
		if errors.Is(err, ErrNotFound) {
			return nil // given up meanwhile
		}
		return err
	})
	if err != nil {
		return false, fmt.Errorf("store: hold lease %s: %w", name, err)
	}
	l.watch(name, held, other)
	return held, nil
}

func (l *Lease) watching(name string) watched {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.watched[name]
}

// watch remembers a lease of another, since when it is as it is now.
func (l *Lease) watch(name string, held bool, now watched) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch before, known := l.watched[name]; {
	case held:
		delete(l.watched, name)
	case !known || before.holder != now.holder || before.expires != now.expires:
		l.watched[name] = now
	}
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
