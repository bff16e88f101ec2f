// Package ring keeps keys of the platform in its database, so that all replicas
// come to a new one while they run.
//
// What is in the database is sealed with a root key, which is not: it is in a
// file, or wrapped by a key management service. There are few keys, so another
// root key means to seal a few rows anew, and backups of the database hold the
// keys that they need but for the root's.
//
// # The life of a key
//
// A key has a purpose: to seal secrets, to be the access token of one of the
// platform's own clients. For each purpose one key is used, and all that are not
// retired are accepted. The ring keeps five promises, whatever ends a process at
// any point:
//
//   - A key is used by nobody before every replica has it and has tried it. A
//     replica that was not seen for a while is not waited for; it looks before it
//     does anything, and Missing helps it.
//   - A key is not retired while it is used, or before every replica uses a later
//     one, and has done so for long enough that what was begun before has ended.
//   - A key is not retired while anything in the database is sealed with it. That is
//     looked for in all tables, but those that are known to hold nothing of the sort.
//   - One that is retired is kept for a while, and looked for again and again: if
//     something that it has sealed turns up all the same, it comes back.
//   - Nothing is used that is older than what is used.
//
// All changes are transactions on a version, which one at a time raises. A replica
// notes which version it has. Before the first key is added for a purpose, the one
// of the configuration is used, which has the id Own.
package ring

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Own is the id of the key that the configuration has.
const Own = "own"

// A State is how far a key is in its life.
type State string

// States of keys.
const (
	Accepted State = "accepted" // another one is used
	Used     State = "used"
	Retired  State = "retired"
)

const (
	followEvery = time.Second
	seenEvery   = 10 * time.Second

	// A replica that was not seen for so long is not waited for.
	gone = 2 * time.Minute

	// skew is by how much clocks may differ. What was seen later than that in the future
	// was not.
	skew = time.Hour

	// settle is for how long what was begun with a key goes on after a replica uses
	// another one: transactions, and what waits in memory to be written.
	settle = 10 * time.Minute

	// keep is for how long a retired key can come back.
	keep = 30 * 24 * time.Hour

	useWritten = time.Minute // how exactly uses are noted
)

// Config is what a Ring needs.
type Config struct {
	DB   *store.DB
	Root *seal.Keys // that the keys are sealed with
	Log  *slog.Logger

	// Replica names this process; a name is kept over restarts.
	Replica string

	// Plain are tables that hold nothing which is sealed, and are too large to look
	// through.
	Plain []string
}

// A Purpose is what keys are for.
type Purpose struct {
	// Doc says it in words.
	Doc string

	// New makes a key.
	New func() string

	// Own is the key that the configuration has, used until there is another one; ""
	// where the purpose has none.
	Own string

	// Name is that of a key, by which what it has sealed is told. It is nil for keys
	// that seal nothing.
	Name func(key string) (string, error)

	// Take gives this process the keys, the one that is used first. From its return on
	// it accepts all of them, and uses no other one.
	Take func(ctx context.Context, keys []Key) error

	// Try uses a key as others would, on this replica, after Take; nil where Take does.
	Try func(ctx context.Context, k Key) error

	// LastUsed tells when keys were used on this replica, by id; nil where that is not
	// known.
	LastUsed func() map[string]timestamp.Time

	// Move has what older keys have sealed be sealed by the one that is used; nil
	// where there is nothing of the sort.
	Move func(ctx context.Context) error

	// Most is how many keys can be accepted at a time; 0: any number.
	Most int
}

// A Key is one that is accepted.
type Key struct {
	ID, Name string
	State    State
	Secret   string
	Created  timestamp.Time
	LastUsed timestamp.Time

	seq, changed int64
	probe        string
	purpose      string
}

// probed is what the probe is bound to.
func (k Key) probed() string { return place(k.purpose, k.ID) + "/probe" }

// String keeps the secret out of what is printed.
func (k Key) String() string { return "key " + k.ID }

// Format is String, whatever the verb.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprint(f, k.String()) }

// A Ring is the keys as this replica has them.
type Ring struct {
	config Config
	db     *store.DB
	root   *seal.Keys
	log    *slog.Logger

	mu       sync.Mutex // held while the keys change
	purposes map[string]Purpose
	order    []string
	version  int64                                // that was read
	taken    bool                                 // what was read, by all purposes
	keys     map[string][]Key                     // by purpose, the used one first
	noted    time.Time                            // when this replica was last noted
	written  map[string]map[string]timestamp.Time // uses

	looked   sync.Mutex
	lookedAt time.Time // when Missing last looked
}

// ErrRetired reports a key that was retired, and does not come back.
var ErrRetired = errors.New("ring: the key was retired")

// Open reads the keys, creating the tables where they do not exist. Nobody uses
// them before Serve.
func Open(ctx context.Context, c Config) (*Ring, error) {
	if err := c.DB.Migrate(ctx, "keys", migrations); err != nil {
		return nil, fmt.Errorf("ring: migrate: %w", err)
	}
	r := &Ring{config: c, db: c.DB, root: c.Root, log: c.Log, purposes: map[string]Purpose{}, written: map[string]map[string]timestamp.Time{}}
	// What comes from here on waits for this replica, which has not taken anything.
	if err := r.note(ctx, 0, ""); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := r.read(ctx)
	return r, err
}

// Serve has the keys of a purpose be taken, now and whenever they change.
func (r *Ring) Serve(ctx context.Context, purpose string, p Purpose) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.purposes[purpose] = p
	r.order = append(r.order, purpose)
	return r.take(ctx, purpose)
}

// Purposes are those that are served.
func (r *Ring) Purposes() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(slices.Values(r.order))
}

// Doc is what a purpose says of itself.
func (r *Ring) Doc(purpose string) string { return r.purpose(purpose).Doc }

func (r *Ring) purpose(name string) Purpose {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.purposes[name]
}

// Missing looks whether other replicas have a key that this one does not know, at
// most once a second: for seal.Keys.Missing. Others that ask meanwhile wait for what
// is found.
func (r *Ring) Missing(string) {
	r.looked.Lock()
	defer r.looked.Unlock()
	if time.Since(r.lookedAt) < followEvery || !r.mu.TryLock() {
		return
	}
	defer r.mu.Unlock()
	defer func() { r.lookedAt = time.Now() }() // who waited does not wait again
	// Who asks may be in a transaction, and have what is to be had of connections.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if changed, err := r.read(ctx); err != nil || !changed {
		return
	}
	for _, name := range r.order {
		if r.purposes[name].Name != nil && r.take(ctx, name) != nil {
			return
		}
	}
	// The rest of it, and the word that it was taken, are the loop's.
}

// Loops are the work that goes on beside the calls.
func (r *Ring) Loops() []loop.Loop {
	return []loop.Loop{
		{
			Name: "keys.follow", Doc: "Takes the keys of the platform that other replicas have made or retired, and says so.",
			When: loop.Every(followEvery), EveryReplica: true, Wake: r.db.Waits().Signal(topicChanged), MaxBackoff: seenEvery,
			Pass: func(ctx context.Context) (bool, error) { return false, r.Follow(ctx) },
		},
		{
			Name: "keys.check", Doc: "Looks whether anything is sealed with a key that was retired, seals keys anew after the root key has changed, and forgets what is not needed any more.",
			When: loop.Every(time.Hour), Pass: r.check, Limit: 30 * time.Minute,
		},
	}
}

const topicChanged = "keys.changed"

// Follow takes what has changed, and notes that this replica has it.
func (r *Ring) Follow(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.follow(ctx)
}

func (r *Ring) follow(ctx context.Context) error {
	_, err := r.read(ctx)
	fresh := err == nil && !r.taken
	if fresh {
		err = r.takeAll(ctx)
	}
	late := time.Since(r.noted) >= seenEvery
	switch {
	case err != nil:
		err = fmt.Errorf("ring: take the keys of the platform: %w", err)
		if late {
			err = errors.Join(err, r.note(ctx, -1, err.Error()))
		}
		return err
	case fresh || late:
		if err := r.note(ctx, r.version, ""); err != nil {
			return err
		}
		r.taken = true
	}
	if fresh {
		r.log.Debug("keys of the platform were taken", "version", r.version)
	}
	return r.noteUses(ctx)
}

func (r *Ring) takeAll(ctx context.Context) error {
	for _, name := range r.order {
		if err := r.take(ctx, name); err != nil {
			return err
		}
		p := r.purposes[name]
		for _, k := range r.keys[name] {
			if err := r.try(ctx, p, k); err != nil {
				return fmt.Errorf("trying %s of %s: %w", k, name, err)
			}
		}
	}
	return nil
}

// try does with a key what it is for.
func (r *Ring) try(ctx context.Context, p Purpose, k Key) error {
	if p.Try == nil {
		return nil
	}
	return p.Try(ctx, k)
}

// take gives this process the keys of a purpose.
func (r *Ring) take(ctx context.Context, name string) error {
	p := r.purposes[name]
	keys := slices.Clone(r.keys[name])
	for i, k := range keys {
		if k.ID == Own {
			keys[i].Secret = p.Own
		}
	}
	if len(keys) == 0 && p.Own != "" {
		keys = []Key{{ID: Own, State: Used, Secret: p.Own}}
	}
	r.setKeys(name, keys)
	if err := p.Take(ctx, keys); err != nil {
		return fmt.Errorf("the keys of %s: %w", name, err)
	}
	return nil
}

func (r *Ring) setKeys(name string, keys []Key) {
	next := map[string][]Key{}
	for n, list := range r.keys {
		next[n] = list
	}
	next[name] = keys
	r.keys = next
}

// read reads the keys if their version has changed.
func (r *Ring) read(ctx context.Context) (changed bool, err error) {
	var keys map[string][]Key
	version := int64(0)
	err = r.db.View(ctx, func(tx *store.Tx) error {
		keys = nil
		if err := tx.QueryRow(`SELECT version FROM platform_key_version`).Scan(&version); err != nil || r.keys != nil && version == r.version {
			return err
		}
		rows, err := tx.Query(`SELECT purpose, ` + keyColumns + ` FROM platform_key WHERE state <> 'retired' ORDER BY purpose, seq`)
		if err != nil {
			return err
		}
		defer rows.Close()
		found := map[string][]Key{}
		for rows.Next() {
			var purpose string
			var k Key
			if err := k.scan(rows, &purpose); err != nil {
				return err
			}
			if k.ID != Own {
				if k.Secret, err = r.unseal(purpose, k.ID, k.Secret); err != nil {
					return err
				}
			}
			k.purpose = purpose
			found[purpose] = append(found[purpose], k)
		}
		keys = found
		return rows.Err()
	})
	if err != nil || keys == nil {
		return false, err
	}
	for _, list := range keys {
		slices.SortStableFunc(list, func(a, b Key) int { // the used one, then the newest
			if (a.State == Used) != (b.State == Used) {
				if a.State == Used {
					return -1
				}
				return 1
			}
			return cmp.Compare(b.seq, a.seq)
		})
	}
	r.keys, r.version, r.taken = keys, version, false
	return true, nil
}

const keyColumns = `id, seq, state, name, sealed, probe, changed, created, used`

func (k *Key) scan(from store.Scanner, before ...any) error {
	return from.Scan(append(before, &k.ID, &k.seq, (*string)(&k.State), &k.Name, &k.Secret, &k.probe, &k.changed, &k.Created, &k.LastUsed)...)
}

// place is what a sealed key is bound to.
func place(purpose, id string) string { return "platform_key/" + purpose + "/" + id }

func (r *Ring) unseal(purpose, id, sealed string) (string, error) {
	secret, err := r.root.Open(sealed, place(purpose, id))
	if err != nil {
		return "", fmt.Errorf("ring: the key %s of %s cannot be opened: it is sealed with the root key %s, and there are %s in the file of keys; put that key back, before the last line: %w",
			id, purpose, cmp.Or(seal.KeyID(sealed), "of no name"), ids(r.root), err)
	}
	return string(secret), nil
}

func ids(ks *seal.Keys) string {
	var list []string
	for _, k := range ks.All() {
		list = append(list, k.ID())
	}
	return strings.Join(list, ", ")
}

// note notes which version this replica has taken; -1: the one that it had.
func (r *Ring) note(ctx context.Context, version int64, trouble string) error {
	if err := r.db.Do(ctx, func(tx *store.Tx) error {
		// A replica whose clock is slow is seen no earlier than others, or they would take
		// it for one that is gone.
		now, latest := timestamp.Now(), timestamp.Time(0)
		if err := tx.QueryRow(`SELECT COALESCE(MAX(seen), 0) FROM platform_key_replica WHERE seen <= $1`, now.Add(skew)).Scan(&latest); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO platform_key_replica (replica, version, seen, trouble) VALUES ($1, $2, $3, $4)
			ON CONFLICT (replica) DO UPDATE SET seen = excluded.seen, trouble = excluded.trouble,
			  version = CASE WHEN excluded.version < 0 THEN platform_key_replica.version ELSE excluded.version END`, r.config.Replica, version, max(now, latest), trouble)
		return err
	}); err != nil {
		return fmt.Errorf("ring: note which keys this replica has: %w", err)
	}
	r.noted = time.Now()
	return nil
}

// noteUses writes down when keys were used here.
func (r *Ring) noteUses(ctx context.Context) error {
	type use struct {
		purpose, id string
		at          timestamp.Time
	}
	var list []use
	for _, name := range r.order {
		p := r.purposes[name]
		if p.LastUsed == nil {
			continue
		}
		if r.written[name] == nil {
			r.written[name] = map[string]timestamp.Time{}
		}
		for id, at := range p.LastUsed() {
			if at.Sub(r.written[name][id]) >= useWritten {
				list = append(list, use{name, id, at})
			}
		}
	}
	if len(list) == 0 {
		return nil
	}
	slices.SortFunc(list, func(a, b use) int { return cmp.Or(cmp.Compare(a.purpose, b.purpose), cmp.Compare(a.id, b.id)) })
	if err := r.db.Do(ctx, func(tx *store.Tx) error {
		for _, u := range list {
			if _, err := tx.Exec(`UPDATE platform_key SET used = $3 WHERE purpose = $1 AND id = $2 AND used < $3`, u.purpose, u.id, u.at); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("ring: note when keys were used: %w", err)
	}
	for _, u := range list {
		r.written[u.purpose][u.id] = u.at
	}
	return nil
}
