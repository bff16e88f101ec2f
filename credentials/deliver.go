package credentials

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/credentials/internal/cut"
	"github.com/taskfleet/taskfleet/credentials/internal/program"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	deliverEvery = 15 * time.Second

	// A replica that was not seen for so long is not waited for; what was noted of it
	// is forgotten later.
	replicaGone   = 2 * time.Minute
	replicaForget = 24 * time.Hour

	commandLimit = time.Minute
)

// A pickup is which version a consumer has, on one replica if it is on all.
type pickup struct {
	credential, consumer, replica string
	version, confirmed            string
	at, seen                      timestamp.Time
	err                           string
}

// pickedUp writes a pickup down. What it does not tell stays as it is.
func pickedUp(tx *store.Tx, p pickup) error {
	_, err := tx.Exec(`INSERT INTO credential_pickup (credential, consumer, replica, version, confirmed, at, seen, error) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		 ON CONFLICT (credential, consumer, replica) DO UPDATE SET
		   version = CASE WHEN excluded.version = '' THEN credential_pickup.version ELSE excluded.version END,
		   confirmed = CASE WHEN excluded.confirmed = '' THEN credential_pickup.confirmed ELSE excluded.confirmed END,
		   at = excluded.at, seen = excluded.seen, error = excluded.error`,
		p.credential, p.consumer, p.replica, p.version, p.confirmed, p.at, p.seen, p.err)
	return err
}

// pickups are those of a credential.
func pickups(tx *store.Tx, name string) (list []pickup, err error) {
	rows, err := tx.Query(`SELECT consumer, replica, version, confirmed, at, seen, error FROM credential_pickup WHERE credential = $1 ORDER BY consumer, replica`, name)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		p := pickup{credential: name}
		if err := rows.Scan(&p.consumer, &p.replica, &p.version, &p.confirmed, &p.at, &p.seen, &p.err); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, rows.Err()
}

// deliver is one pass of the loop credentials.deliver.
func (c *Credentials) deliver(ctx context.Context) (more bool, err error) {
	var failed []error
	for _, name := range c.names {
		if err := c.deliverTo(ctx, c.defined[name]); err != nil {
			failed = append(failed, fmt.Errorf("credential %s: %w", name, err))
		}
	}
	return false, errors.Join(failed...)
}

// deliverTo gives the consumers of a credential that are on this replica the
// current version, and notes that the replica is there.
func (c *Credentials) deliverTo(ctx context.Context, d *defined) error {
	if d.wrong != "" || !slices.ContainsFunc(d.Consumers, Use.everywhere) {
		return nil
	}
	var current *version
	had := map[string]pickup{}
	err := c.db.View(ctx, func(tx *store.Tx) error {
		current = nil
		clear(had)
		list, err := pickups(tx, d.Name)
		if err != nil {
			return err
		}
		for _, p := range list {
			if p.replica == c.config.Replica {
				had[p.consumer] = p
			}
		}
		v := &version{}
		err = v.scan(tx.QueryRow(`SELECT `+versionColumns+` FROM credential_version WHERE id = (SELECT current FROM credential WHERE name = $1)`, d.Name))
		if errors.Is(err, store.ErrNotFound) {
			return nil // nothing was minted yet
		}
		current = v
		return err
	})
	if err != nil {
		return err
	}
	var v Version
	if current != nil && current.sealed != "" {
		if v, err = c.open(d, current); err != nil {
			return err
		}
	}
	var failed []error
	for _, u := range d.Consumers {
		if !u.everywhere() {
			continue
		}
		now := timestamp.Now()
		was := had[u.Name]
		p := pickup{credential: d.Name, consumer: u.Name, replica: c.config.Replica, at: was.at, seen: now}
		if v.Secret != nil && (was.version != v.ID || was.err != "" || c.missing(d, u, v)) {
			p.at = now
			err := c.call(ctx, "deliver "+u.Name, []Version{v}, func() error { return c.hand(ctx, u, v) })
			switch {
			case err != nil && ctx.Err() != nil:
				return err
			case err != nil:
				p.err = err.Error()
				failed = append(failed, fmt.Errorf("consumer %s: %w", u.Name, err))
			default:
				p.version = v.ID
				c.given.Store(d.Name+"/"+u.Name, v.ID)
				if u.confirms() {
					p.confirmed = v.ID
				}
			}
		}
		if err := c.journal(ctx, "deliver "+u.Name, func(tx *store.Tx) error {
			if p.version != "" {
				tx.Wake(topicRotate, store.Everybody)
			}
			return pickedUp(tx, p)
		}); err != nil {
			return err
		}
	}
	return errors.Join(failed...)
}

// missing tells that a consumer does not have what it was given: a file is gone or was
// changed, or the part of the platform has started anew.
func (c *Credentials) missing(d *defined, u Use, v Version) bool {
	switch {
	case u.Platform != "":
		id, _ := c.given.Load(d.Name + "/" + u.Name)
		return id != v.ID
	case u.File != "":
		text, err := u.content(v)
		if err != nil {
			return true
		}
		there, err := os.ReadFile(u.File)
		return err != nil || !bytes.Equal(text, there)
	}
	return false
}

// hand hands a version to a consumer on this replica.
func (c *Credentials) hand(ctx context.Context, u Use, v Version) error {
	switch {
	case u.File != "":
		text, err := u.content(v)
		if err != nil {
			return err
		}
		return writeFile(u.File, text)
	case u.Platform != "":
		return c.config.Platform[u.Platform](ctx, v.ID, v.Secret)
	}
	in, err := json.Marshal(map[string]any{"version": 1, "action": "publish", "credential": v.Credential, "id": v.ID, "public": v.Public, "secret": v.Secret})
	if err != nil {
		return err
	}
	_, err = program.Run(ctx, u.Command, commandLimit, in, v.Secret)
	return err
}

// content is what a file holds.
func (u Use) content(v Version) ([]byte, error) {
	if u.Member == "" {
		return append(slices.Clone([]byte(v.Secret)), '\n'), nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(v.Secret, &all); err != nil {
		return nil, errors.New("the secret is no JSON object")
	}
	value, ok := all[u.Member]
	if !ok {
		return nil, fmt.Errorf("the secret has no member %q; it has %v", u.Member, sortedKeys(all))
	}
	var text string
	if json.Unmarshal(value, &text) == nil {
		return []byte(text), nil
	}
	return value, nil
}

// writeFile replaces a file in one moment. Only its owner can read it.
func writeFile(name string, text []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.Write(text)
	err = errors.Join(err, f.Sync())
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// unconfirmed are the consumers that are not known to use a version.
func (c *Credentials) unconfirmed(ctx context.Context, d *defined, id string) (late []Use, err error) {
	var list []pickup
	if err := c.db.View(ctx, func(tx *store.Tx) (err error) { list, err = pickups(tx, d.Name); return err }); err != nil {
		return nil, err
	}
	now := timestamp.Now()
	for _, u := range d.Consumers {
		if !u.has(list, now, func(p pickup) bool { return p.confirmed == id }) {
			late = append(late, u)
		}
	}
	return late, nil
}

// has tells that a condition holds of a consumer wherever it is.
func (u Use) has(list []pickup, now timestamp.Time, holds func(pickup) bool) bool {
	found := false
	for _, p := range list {
		if p.consumer != u.Name || u.everywhere() != (p.replica != "") || p.replica != "" && p.seen.Add(replicaGone) < now {
			continue
		}
		if !holds(p) {
			return false
		}
		found = true
	}
	return found
}

// consumed notes that a consumer says that it uses a version. One that is on every
// replica has said so for all of them.
func (c *Credentials) consumed(ctx context.Context, d *defined, u Use, id string) error {
	return cut.Around(ctx, "journal consumed", func() error {
		return c.db.Do(ctx, func(tx *store.Tx) error {
			now := timestamp.Now()
			_, err := tx.Exec(`UPDATE credential_rotation SET due = $2 WHERE credential = $1 AND state = 'running' AND step = 'await'`, d.Name, now)
			if err != nil {
				return err
			}
			if u.everywhere() {
				_, err = tx.Exec(`UPDATE credential_pickup SET confirmed = $3, at = $4 WHERE credential = $1 AND consumer = $2 AND replica <> ''`, d.Name, u.Name, id, now)
			} else {
				err = pickedUp(tx, pickup{credential: d.Name, consumer: u.Name, confirmed: id, at: now, seen: now})
			}
			tx.Wake(topicRotate, store.Everybody)
			return err
		})
	})
}
