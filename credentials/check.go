package credentials

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	checkEvery = 24 * time.Hour

	// A check that cannot tell is repeated so often; after so many, over so long, the
	// version is taken for broken.
	doubtEvery   = 14 * time.Minute
	mostDoubts   = 4
	longestDoubt = 40 * time.Minute

	keepJournal = 400 * 24 * time.Hour
	upkeepBatch = 200
)

// check is one pass of the loop credentials.check.
func (c *Credentials) check(ctx context.Context) (more bool, err error) {
	var due []string
	if err := c.db.View(ctx, func(tx *store.Tx) (err error) {
		due, err = tx.Column(`SELECT name FROM credential WHERE (checked <= $1 OR doubts > 0 AND checked <= $2) AND current <> '' AND name IN (SELECT value FROM json_each($3)) ORDER BY checked LIMIT 100`,
			timestamp.Now().Add(-checkEvery), timestamp.Now().Add(-doubtEvery), c.usable())
		return err
	}); err != nil {
		return false, err
	}
	var failed []error
	for _, name := range due {
		d := c.defined[name]
		if _, err := c.verify(ctx, d); err != nil {
			failed = append(failed, fmt.Errorf("credential %s: %w", name, err))
		} else if err := c.sweep(ctx, d); err != nil {
			failed = append(failed, fmt.Errorf("credential %s: looking for what is left of old versions: %w", name, err))
		}
	}
	return false, errors.Join(failed...)
}

// verify proves that the current version works, and notes what it finds; "" is that
// it does. It is an error if that cannot be told.
func (c *Credentials) verify(ctx context.Context, d *defined) (wrong string, err error) {
	row := &version{}
	err = c.db.View(ctx, func(tx *store.Tx) error {
		return row.scan(tx.QueryRow(`SELECT `+versionColumns+` FROM credential_version WHERE id = (SELECT current FROM credential WHERE name = $1)`, d.Name))
	})
	if err != nil {
		return "", err
	}
	kind, v, err := c.provider(d, row)
	if err != nil {
		return "", err
	}
	limited, stop := context.WithTimeout(ctx, stepLimit)
	err = c.call(limited, "prove", []Version{v}, func() error { return kind.Prove(limited, v) })
	stop()
	sure := err == nil || errors.Is(err, ErrNoVersion) || refused(err)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.Is(err, ErrNoVersion):
		wrong = "the provider does not have it any more"
	case err != nil:
		wrong = err.Error()
	}
	now := timestamp.Now()
	err = c.journal(ctx, "verify", func(tx *store.Tx) error {
		var before string
		var doubts int64
		var since timestamp.Time
		if err := tx.QueryRow(`SELECT broken, doubts, doubted FROM credential WHERE name = $1 AND current = $2 /*for update*/`, d.Name, row.id).Scan(&before, &doubts, &since); errors.Is(err, store.ErrNotFound) {
			return nil // there is another one by now, which was proved
		} else if err != nil {
			return err
		}
		broken, doubt := wrong, ""
		if sure {
			doubts, since = 0, 0
		} else { // it may be the way there, which is nothing that a rotation mends
			if doubts++; doubts == 1 {
				since = now
			}
			if doubt = wrong; doubts < mostDoubts || now.Sub(since) < longestDoubt {
				broken = before
			}
		}
		if _, err := tx.Exec(`UPDATE credential SET broken = $2, checked = $3, doubt = $4, doubts = $5, doubted = $6 WHERE name = $1`, d.Name, broken, now, doubt, doubts, since); err != nil {
			return err
		}
		if broken == "" || before != "" {
			return nil
		}
		return c.alert(tx, d, nil, "the current version does not work: "+wrong)
	})
	return wrong, err
}

// A Leftover is what a provider has of a credential that is none of its versions.
type Leftover struct {
	Found
	State string `json:"state"` // of the version that it was; unknown if it never was one
}

const unknown = "unknown"

// leftovers asks the provider for them. What belongs to versions in use is none.
func (c *Credentials) leftovers(ctx context.Context, d *defined) (list []Leftover, err error) {
	states, known := map[string]string{}, []*version{}
	err = c.db.View(ctx, func(tx *store.Tx) error {
		clear(states)
		if known, err = versions(tx, d.Name); err != nil {
			return err
		}
		rows, err := tx.Query(`SELECT id, state FROM credential_version WHERE credential = $1`, d.Name)
		if err != nil {
			return err
		}
		for rows.Next() {
			var id, state string
			if err := rows.Scan(&id, &state); err != nil {
				return err
			}
			states[id] = state
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	o, err := c.order(d, d.site, d.Settings, known)
	if err != nil {
		return nil, err
	}
	limited, stop := context.WithTimeout(ctx, stepLimit)
	defer stop()
	found, err := c.list(limited, d.kind, o)
	if err != nil {
		return nil, err
	}
	list = []Leftover{}
	for _, f := range found {
		if states[f.ID] == "" { // an adopted one has the credential's name before it
			switch id := d.Name + "/" + f.ID; states[id] {
			case "", versionRetired: // if that is gone, somebody has made it anew
			default:
				f.ID = id
			}
		}
		switch state := states[f.ID]; state {
		case versionMinting, versionMinted, versionLive, versionDisabled:
		case "":
			list = append(list, Leftover{Found: f, State: unknown})
		default:
			list = append(list, Leftover{Found: f, State: state})
		}
	}
	return list, nil
}

// sweep removes what is left of versions that should be gone: a request that was
// under way when its process ended may have arrived later. What never was a version
// is left alone, and told by the API.
func (c *Credentials) sweep(ctx context.Context, d *defined) error {
	list, err := c.leftovers(ctx, d)
	if errors.Is(err, ErrNotTold) {
		return nil
	} else if err != nil {
		return err
	}
	for _, l := range list {
		if l.State != versionRetired && l.State != versionWithdrawn {
			continue
		}
		if err := c.gone(ctx, d.kind, l.version(d)); err != nil {
			return err
		}
		c.log.Warn("what was left of an old version was removed", "credential", d.Name, "version", l.ID)
	}
	return nil
}

func (l Leftover) version(d *defined) Version {
	return Version{ID: l.ID, Credential: d.Name, Settings: d.Settings, Public: l.Public, Created: l.Created}
}

// upkeep is one pass of the loop credentials.upkeep.
func (c *Credentials) upkeep(ctx context.Context) (more bool, err error) {
	if err := c.reseal(ctx); err != nil {
		return false, err
	}
	now := timestamp.Now()
	return false, c.db.Do(ctx, func(tx *store.Tx) error {
		for _, statement := range []string{
			`DELETE FROM credential_step WHERE rotation IN (SELECT id FROM credential_rotation WHERE state <> 'running' AND ended <= $1)`,
			`DELETE FROM credential_rotation WHERE state <> 'running' AND ended <= $1`,
			`DELETE FROM credential_version WHERE state IN ('retired', 'withdrawn') AND retired <= $1`,
		} {
			if _, err := tx.Exec(statement, now.Add(-keepJournal)); err != nil {
				return err
			}
		}
		_, err := tx.Exec(`DELETE FROM credential_pickup WHERE replica <> '' AND seen <= $1`, now.Add(-replicaForget))
		return err
	})
}

// sealAnew seals a text with the newest key; "" stays.
func (c *Credentials) sealAnew(sealed, bound string) (string, error) {
	if sealed == "" {
		return "", nil
	}
	text, err := c.keys.Open(sealed, bound)
	if err != nil {
		return "", err
	}
	return c.keys.Seal(text, bound), nil
}

// reseal seals with the newest key what older ones have sealed.
func (c *Credentials) reseal(ctx context.Context) error {
	newest, after, moved := c.keys.Newest(), "", 0
	var failed []error
	for {
		var stale []*version
		err := c.db.View(ctx, func(tx *store.Tx) error {
			stale = nil
			rows, err := tx.Query(`SELECT `+versionColumns+` FROM credential_version 
				 WHERE (key_id <> $1 OR sealed NOT LIKE $4 AND sealed <> '' OR settings NOT LIKE $4 AND settings <> '') AND key_id <> '' AND id > $2 ORDER BY id LIMIT $3`,
				newest, after, upkeepBatch, seal.SealedBy(newest)+"%") // the keys may have changed between sealing and noting by which
			if err != nil {
				return err
			}
			for rows.Next() {
				v := &version{}
				if err := v.scan(rows); err != nil {
					return err
				}
				stale = append(stale, v)
			}
			return rows.Err()
		})
		if err != nil {
			return err
		}
		if len(stale) == 0 {
			break
		}
		after = stale[len(stale)-1].id
		for _, v := range stale {
			sealed, err := c.sealAnew(v.sealed, v.bound())
			settings, err2 := c.sealAnew(v.settings, v.boundSettings())
			if err := errors.Join(err, err2); err != nil {
				failed = append(failed, fmt.Errorf("version %s of %s: %w", v.id, v.credential, err))
				continue
			}
			if err := c.db.Do(ctx, func(tx *store.Tx) error {
				_, err := tx.Exec(`UPDATE credential_version SET sealed = $4, settings = $5, key_id = $6 WHERE id = $1 AND sealed = $2 AND settings = $3`, v.id, v.sealed, v.settings, sealed, settings, newest)
				return err
			}); err != nil {
				return err
			}
			moved++
		}
	}
	if moved > 0 {
		c.log.Info("secrets of credentials were sealed anew with the newest key", "moved", moved, "failed", len(failed), "key", newest)
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d secrets of credentials are sealed with old keys and cannot be opened; are the keys still among the seal keys? %w", len(failed), failed[0])
	}
	return nil
}
