package credentials

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An Audited is what an audit is told of a credential.
type Audited struct {
	Name, Kind string
	State      State
	Why        string
	MaxAge     time.Duration // 0: none
	Planned    bool          // it is rotated by itself
	Next       timestamp.Time
	Since      timestamp.Time // the current version is in use; zero: there is none
	Used       timestamp.Time // the current version was last seen in use; zero: never, or not since it was minted
	UseTold    bool           // the provider tells of use
}

const (
	usedLimit  = 10 * time.Second // a provider may take to tell when a version was used
	askAtATime = 8                // versions, as a provider that is away may have many
)

// Audited tells of all credentials, in the order of their names. Of those that are
// defined the providers are asked when they were last used.
func (c *Credentials) Audited(ctx context.Context) (list []Audited, err error) {
	var views []*view
	current := map[string]*version{}
	err = c.db.View(ctx, func(tx *store.Tx) error {
		clear(current)
		if views, err = c.views(tx); err != nil {
			return err
		}
		return c.eachLive(tx, func(v *version) {
			for _, x := range views {
				if x.Current == v.id {
					current[x.Name] = v
				}
			}
		})
	})
	if err != nil {
		return nil, err
	}
	list = make([]Audited, len(views))
	var asking errgroup.Group
	asking.SetLimit(askAtATime)
	for i, v := range views {
		a := &list[i]
		*a = Audited{Name: v.Name, Kind: v.Kind, State: v.State, Why: v.Why, Next: v.Next, Since: v.Since}
		d := c.defined[v.Name]
		if d != nil {
			a.MaxAge, a.Planned = d.Plan.MaxAge, d.Plan != Plan{}
		}
		if row := current[v.Name]; row != nil {
			a.Since = cmp.Or(a.Since, row.published, row.created)
			a.Used, a.UseTold = row.used, !row.used.IsZero()
			if d != nil && d.wrong == "" {
				asking.Go(func() error {
					if at, told := c.lastUse(ctx, d, row); told {
						a.UseTold = true
						a.Used = max(a.Used, at)
					}
					return ctx.Err()
				})
			}
		}
	}
	return list, asking.Wait()
}

// lastUse asks the provider; one that does not answer does not tell.
func (c *Credentials) lastUse(ctx context.Context, d *defined, row *version) (at timestamp.Time, told bool) {
	v, err := c.open(d, row)
	if err != nil {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, usedLimit)
	defer cancel()
	used, err := d.kind.Used(ctx, v)
	if err != nil {
		if !errors.Is(err, ErrNotTold) {
			c.log.Warn("the provider of a credential does not tell when it was used", "credential", d.Name)
		}
		return 0, false
	}
	if used.IsZero() {
		return 0, true
	}
	return timestamp.Of(used), true
}

// eachLive reads the versions whose secrets may be good for something.
func (c *Credentials) eachLive(tx *store.Tx, f func(*version)) error {
	rows, err := tx.Query(`SELECT ` + versionColumns + ` FROM credential_version WHERE state IN ('minted', 'live', 'disabled') ORDER BY id`)
	if err != nil {
		return err
	}
	for rows.Next() {
		v := &version{}
		if err := v.scan(rows); err != nil {
			return err
		}
		f(v)
	}
	return rows.Err()
}

// EachSecret calls f with the secret of every version that is not gone, so that it
// can be looked for where it should not be. Nothing of it is to be kept, or told. One that
// cannot be opened is left out, which the log tells.
func (c *Credentials) EachSecret(ctx context.Context, f func(credential, version string, secret json.RawMessage)) error {
	var rows []*version
	if err := c.db.View(ctx, func(tx *store.Tx) error {
		rows = nil
		return c.eachLive(tx, func(v *version) { rows = append(rows, v) })
	}); err != nil {
		return err
	}
	for _, row := range rows {
		d := c.defined[row.credential]
		if d == nil {
			d = &defined{} // what was minted is still there
		}
		v, err := c.open(d, row)
		if err != nil {
			c.log.Error("a secret is left out", "err", err)
		} else if v.Secret != nil {
			f(row.credential, row.id, v.Secret)
		}
	}
	return nil
}
