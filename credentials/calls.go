package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/credentials/internal/cut"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// find returns the definition of a credential that something can be done with.
func (c *Credentials) find(name string) (*defined, error) {
	d := c.defined[name]
	switch {
	case d == nil:
		return nil, api.Errorf(api.ResourceNotFound, "There is no credential %s in the configuration. GET /credentials lists them.", name)
	case d.wrong != "":
		return nil, api.Errorf(api.RequestConflict, "The credential %s is defined wrongly: %s", name, d.wrong)
	}
	return d, nil
}

// Rotate begins a rotation of a credential in the name of a client. One that is
// under way is what was asked for.
func (c *Credentials) Rotate(ctx context.Context, name, clientID string) error {
	d, err := c.find(name)
	if err != nil {
		return err
	}
	if err := c.begin(ctx, d, reasonRequest, clientID, false); !errors.Is(err, errRunning) {
		return err
	}
	return nil
}

// Revoke replaces a credential at once: a new version is made, and as soon as it was
// published all that were there when this was called are disabled and retired,
// whoever uses them.
func (c *Credentials) Revoke(ctx context.Context, name, clientID string) error {
	d, err := c.find(name)
	if err != nil {
		return err
	}
	return cut.Around(ctx, "journal revoke", func() error {
		return c.db.Do(ctx, func(tx *store.Tx) error {
			err := c.beginIn(tx, d, reasonRevoke, clientID, true)
			if !errors.Is(err, errRunning) {
				return err
			}
			// What runs goes on without waiting. If its version may be known to
			// somebody already, it is itself replaced after that.
			now := timestamp.Now()
			if _, err := tx.Exec(`UPDATE credential_rotation SET forced = $2, due = $3, by_client = $4 WHERE credential = $1 AND state = 'running'`, name, true, now, clientID); err != nil {
				return err
			}
			if _, err := tx.Exec(`UPDATE credential SET again = $2 WHERE name = $1 AND EXISTS (
				SELECT 1 FROM credential_rotation r JOIN credential_version v ON v.id = r.version
				 WHERE r.credential = $1 AND r.state = 'running' AND v.state <> 'minting')`, name, true); err != nil {
				return err
			}
			tx.AfterCommit(func() { c.log.Info("a rotation is forced", "credential", name, "client", clientID) })
			tx.Wake(topicRotate, store.Everybody)
			return nil
		})
	})
}

// Consumed notes that a consumer uses a version: the current one where the id is "".
func (c *Credentials) Consumed(ctx context.Context, name, consumer, id string) error {
	d, err := c.find(name)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(d.Consumers, func(u Use) bool { return u.Name == consumer })
	if i < 0 {
		return api.Errorf(api.ResourceNotFound, "The credential %s has no consumer %s in the configuration.", name, consumer)
	}
	var current, state string
	err = c.db.View(ctx, func(tx *store.Tx) error {
		if err := tx.QueryRow(`SELECT current FROM credential WHERE name = $1`, name).Scan(&current); err != nil {
			return err
		}
		if id == "" {
			id = current
		}
		return tx.QueryRow(`SELECT state FROM credential_version WHERE id = $1 AND credential = $2`, id, name).Scan(&state)
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return api.Errorf(api.ResourceNotFound, "The credential %s has no version %s.", name, id)
	case err != nil:
		return err
	case state != versionLive:
		return api.Errorf(api.RequestConflict, "Version %s of the credential %s is %s: nobody can use it. The current one is %s.", id, name, state, current)
	}
	return c.consumed(ctx, d, d.Consumers[i], id)
}

// Verify uses the current version of a credential against its provider, and tells
// what is wrong with it; "" is nothing.
func (c *Credentials) Verify(ctx context.Context, name string) (wrong string, err error) {
	d, err := c.find(name)
	if err != nil {
		return "", err
	}
	wrong, err = c.verify(ctx, d)
	if errors.Is(err, store.ErrNotFound) {
		return "", noVersion(name)
	}
	return wrong, err
}

func noVersion(name string) error {
	return api.Errorf(api.RequestConflict, "The credential %s has no version yet.", name)
}

// Reveal returns the secret of the current version.
func (c *Credentials) Reveal(ctx context.Context, name string) (id string, secret json.RawMessage, err error) {
	d, err := c.find(name)
	if err != nil {
		return "", nil, err
	}
	row := &version{}
	err = c.db.View(ctx, func(tx *store.Tx) error {
		return row.scan(tx.QueryRow(`SELECT `+versionColumns+` FROM credential_version WHERE id = (SELECT current FROM credential WHERE name = $1)`, name))
	})
	switch {
	case errors.Is(err, store.ErrNotFound):
		return "", nil, noVersion(name)
	case err != nil:
		return "", nil, err
	}
	v, err := c.open(d, row)
	if err == nil && v.Secret == nil {
		err = fmt.Errorf("credentials: the secret of %s is not kept", name)
	}
	return row.id, v.Secret, err
}
