package credentials

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

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
	if err := c.begin(ctx, d, start{reason: reasonRequest, by: clientID}); !errors.Is(err, errRunning) {
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
			_, err := c.beginIn(tx, d, start{reason: reasonRevoke, by: clientID, forced: true})
			if err == nil {
				err = c.record(tx, name, clientID, "revoked")
			}
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
			return c.record(tx, name, clientID, "revoked")
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
	var usable []string
	err = c.db.View(ctx, func(tx *store.Tx) error {
		if err := tx.QueryRow(`SELECT current FROM credential WHERE name = $1`, name).Scan(&current); err != nil {
			return err
		}
		if id == "" {
			if usable, err = tx.Column(`SELECT id FROM credential_version WHERE credential = $1 AND state = 'live' ORDER BY created, id`, name); err != nil || len(usable) > 1 {
				return err
			}
			id = current
		}
		return tx.QueryRow(`SELECT state FROM credential_version WHERE id = $1 AND credential = $2`, id, name).Scan(&state)
	})
	switch {
	case errors.Is(err, store.ErrNotFound) && id == "":
		return noVersion(name)
	case errors.Is(err, store.ErrNotFound):
		return api.Errorf(api.ResourceNotFound, "The credential %s has no version %s.", name, id)
	case err != nil:
		return err
	case id == "":
		// The current one may be newer than what the consumer has read.
		return api.Errorf(api.RequestConflict, "The credential %s has %d versions that %s may use: %s. Give the one that it does: "+
			"it stands in the secret (%s), beside the file (in the file of the same name with %s), and in what the method secret returns.",
			name, len(usable), consumer, strings.Join(usable, " and "), labelMember, labelSuffix)
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

// record keeps that a client has done something to a credential.
func (c *Credentials) record(tx *store.Tx, name, clientID, action string) error {
	tx.AfterCommit(func() { c.log.Info("credential "+action, "credential", name, "client", clientID) })
	if c.config.Audit == nil {
		return nil
	}
	return c.config.Audit.Audit(tx, "credential", name, clientID, action)
}

// Reveal returns the secret of the current version to a client, which is kept in the history.
func (c *Credentials) Reveal(ctx context.Context, name, clientID string) (id string, secret json.RawMessage, err error) {
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
	if err == nil {
		err = c.db.Do(ctx, func(tx *store.Tx) error { return c.record(tx, name, clientID, "revealed") })
	}
	if err != nil {
		return "", nil, err
	}
	return row.id, v.Secret, nil
}

// Retire has the provider not have something any more that is none of the credential's
// versions. What was seen in use lately is retired only if it is forced.
func (c *Credentials) Retire(ctx context.Context, name, id, clientID string, forced bool) error {
	d, err := c.find(name)
	if err != nil {
		return err
	}
	list, err := c.leftovers(ctx, d)
	if errors.Is(err, ErrNotTold) {
		return api.Errorf(api.RequestConflict, "The provider of %s does not tell what it has; remove %s there by hand.", name, id)
	} else if err != nil {
		return err
	}
	i := slices.IndexFunc(list, func(l Leftover) bool { return l.ID == id })
	if i < 0 {
		return api.Errorf(api.ResourceNotFound, "The provider has no %q that is no version of %s; GET /credentials/%s/leftovers lists what it has. Versions are retired by rotate and revoke.", id, name, name)
	}
	v := list[i].version(d)
	ctx, stop := context.WithTimeout(ctx, stepLimit)
	defer stop()
	if !forced {
		var at time.Time
		err := c.call(ctx, "used", []Version{v}, func() (err error) { at, err = d.kind.Used(ctx, v); return err })
		switch {
		case err != nil && !errors.Is(err, ErrNotTold) && !errors.Is(err, ErrNoVersion):
			return fmt.Errorf("asking when %s was last used: %w", id, err)
		case err == nil && !at.IsZero() && time.Since(at) < d.Quiet:
			return api.Errorf(api.RequestConflict, "%s was seen in use at %s, which is less than %s ago. Find who uses it, or force it.", id, timestamp.Of(at), d.Quiet)
		}
	}
	if err := c.gone(ctx, d.kind, v); err != nil {
		return err
	}
	return c.db.Do(ctx, func(tx *store.Tx) error { return c.record(tx, name, clientID, "retired "+id) })
}

// Removed notes that a version which is not the current one was removed by hand, where
// its provider cannot be had to do it.
func (c *Credentials) Removed(ctx context.Context, name, id, clientID string) error {
	return c.db.Do(ctx, func(tx *store.Tx) error {
		var current, state string
		err := tx.QueryRow(`SELECT current FROM credential WHERE name = $1 /*for update*/`, name).Scan(&current)
		if err == nil {
			err = tx.QueryRow(`SELECT state FROM credential_version WHERE id = $1 AND credential = $2`, id, name).Scan(&state)
		}
		switch {
		case errors.Is(err, store.ErrNotFound):
			return api.Errorf(api.ResourceNotFound, "The credential %s has no version %s.", name, id)
		case err != nil:
			return err
		case id == current:
			return api.Errorf(api.RequestConflict, "Version %s is the one in use. Rotate %s first.", id, name)
		case state == versionRetired, state == versionWithdrawn:
			return nil
		}
		published, err := rotations(tx, `credential = $1 AND version = $2 AND state = 'running' AND step = 'publish'`, name, id)
		if err != nil {
			return err
		} else if len(published) > 0 { // and would be left with consumers
			return api.Errorf(api.RequestConflict, "Version %s is being handed to consumers. Wait until it is the one in use, and rotate %s then.", id, name)
		}
		// What runs looks again at what there is.
		if _, err := tx.Exec(`UPDATE credential_rotation SET due = $2 WHERE credential = $1 AND state = 'running'`, name, timestamp.Now()); err != nil {
			return err
		}
		if err := forget(tx, id, versionRetired); err != nil {
			return err
		}
		tx.Wake(topicRotate, store.Everybody)
		return c.record(tx, name, clientID, "noted "+id+" as removed")
	})
}
