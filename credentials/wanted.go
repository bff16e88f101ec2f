package credentials

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Of some credentials people make the versions. One that is due is wanted: that is its
// state, and it is said again and again until somebody supplies a version. From then on
// its rotation is like any other.

const (
	remindEvery  = 7 * 24 * time.Hour
	beforeExpiry = 14 * 24 * time.Hour // is a version wanted
	lastReminder = 24 * time.Hour      // before that

	supplyLimit = 30 * time.Second // for looking at what was supplied
	noticeLimit = 20 * time.Second // for writing to people, as rotations wait for that
)

// supplied tells that people make the versions.
func (d *defined) supplied() bool {
	_, ok := d.kind.(Supplied)
	return ok
}

// expires is when the version expires that is in use since a time; zero if that is not
// known. A date before that was of the one before.
func (d *defined) expires(since timestamp.Time) timestamp.Time {
	s, ok := d.kind.(Supplied)
	if !ok {
		return 0
	}
	if at := s.Supplied(d.Settings); !at.IsZero() && timestamp.Of(at) > since {
		return timestamp.Of(at)
	}
	return 0
}

// wants tells that a version is wanted, and that it is time to say so.
func (r *row) wants(d *defined, now timestamp.Time) bool {
	expires := d.expires(r.since)
	if r.wanted.IsZero() {
		return r.current == "" || !expires.IsZero() && now >= expires.Add(-beforeExpiry)
	}
	last := expires.Add(-lastReminder)
	return now >= r.reminded.Add(remindEvery) || !expires.IsZero() && now >= last && r.reminded < last
}

// want says that a version is wanted.
func (c *Credentials) want(tx *store.Tx, d *defined, r *row, s start) error {
	now := timestamp.Now()
	if !r.wanted.IsZero() && !r.wants(d, now) && !s.forced {
		return nil // it was said
	}
	since := r.wanted
	if since.IsZero() {
		since = now
	}
	if _, err := tx.Exec(`UPDATE credential SET wanted = $2, reminded = $3, again = $4 WHERE name = $1`, d.Name, since, now, r.again || s.forced); err != nil {
		return err
	}
	text := "a new version is to be supplied: taskfleet credentials supply " + d.Name
	if at := d.expires(r.since); !at.IsZero() {
		text += "; the one in use expires at " + at.String()
	}
	tx.AfterCommit(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.toWrite = append(c.toWrite, notice{d, text})
	})
	tx.Wake(topicRotate, store.Everybody) // which writes it
	return c.alert(tx, d, nil, text)
}

// A notice is what those are to be told who supply a credential.
type notice struct {
	d    *defined
	text string
}

// write writes the notices of this process. One that is lost is no harm: the credential's
// state says the same, and so does the next one.
func (c *Credentials) write(ctx context.Context) {
	c.mu.Lock()
	list := c.toWrite
	c.toWrite = nil
	c.mu.Unlock()
	if c.config.Notices == nil {
		return
	}
	ctx, stop := context.WithTimeout(ctx, noticeLimit)
	defer stop()
	for _, n := range list {
		for _, address := range n.d.Notify {
			text := fmt.Sprintf("The credential %s (%s): %s < FILE\n", n.d.Name, n.d.place, n.text)
			if err := c.config.Notices.Write(ctx, address, "The credential "+n.d.Name+" is to be replaced", text); err != nil {
				c.log.Warn("nobody could be told that a credential is to be supplied", "credential", n.d.Name, "err", err)
			}
		}
	}
}

// Supply brings the version of a credential that people make, and begins its rotation.
// What is under way with the same one is what was asked for.
func (c *Credentials) Supply(ctx context.Context, name string, secret json.RawMessage, clientID string) error {
	d, err := c.find(name)
	if err != nil {
		return err
	}
	if !d.supplied() {
		return api.Errorf(api.RequestConflict, "Versions of %s are made by its kind, %s; have one made by rotate.", name, d.Kind)
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, secret); err != nil {
		return api.Errorf(api.InputError, "What was supplied for %s is no JSON.", name)
	}
	limited, stop := context.WithTimeout(ctx, supplyLimit)
	defer stop()
	m, err := d.kind.Mint(limited, Order{Credential: name, Settings: d.Settings, Seed: compact.Bytes()})
	if err == nil {
		err = m.check()
	}
	if err != nil {
		return api.Errorf(api.InputError, "What was supplied for %s cannot be used: %s", name, scrubbed(err, compact.Bytes()))
	}
	return c.db.Do(ctx, func(tx *store.Tx) error {
		id, err := c.beginIn(tx, d, start{reason: reasonSupplied, by: clientID, supplied: compact.Bytes()})
		if errors.Is(err, errRunning) {
			same, err := c.isOf(tx, d, id, m.Secret, compact.Bytes())
			if err != nil || same {
				return err
			}
			return api.Errorf(api.RequestConflict, "A rotation of %s is under way with another version; supply this one when it has ended, or end it by revoke.", name)
		} else if err != nil {
			return err
		}
		return c.record(tx, name, clientID, "supplied")
	})
}

// isOf tells that a rotation is that of one of the secrets.
func (c *Credentials) isOf(tx *store.Tx, d *defined, rotation string, secrets ...[]byte) (bool, error) {
	v := &version{}
	if err := v.scan(tx.QueryRow(`SELECT `+versionColumns+` FROM credential_version WHERE id = (SELECT version FROM credential_rotation WHERE id = $1)`, rotation)); err != nil {
		return false, err
	}
	has, err := c.keys.Open(v.sealed, v.bound())
	for _, s := range secrets {
		if err == nil && bytes.Equal(has, s) {
			return true, nil
		}
	}
	return false, err
}
