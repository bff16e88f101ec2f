// Package secrets keeps small secrets for those who have the scope to read
// them, until they expire.
//
// A secret is a row: its name, its expiry, and its value, sealed with a key that
// is not in the database and bound to the name (package seal). Nothing of a
// value is anywhere else: not in an error, whose request is left out, not in
// the log, which names secrets and callers, not in an event, as there are none.
//
// An expired secret is refused from that moment on. The loop secrets.expiry then
// erases the value, and a day later the row, so that for a day a reader is told
// that there was such a secret, and when it expired.
//
// Keys change while the service runs: the newest one seals, all of them open,
// and the loop secrets.reseal moves what older ones have sealed. Each row says
// which key that is, so Sealed can tell when an old key has nothing left to
// open; the loop says so in the log, too.
package secrets

import (
	"context"
	"embed"
	"fmt"
	"log/slog"
	"time"

	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed schemas/*.yml
var schemaFiles embed.FS

// An Auditor keeps the history: who did what to an entity, written in the
// transaction that does it.
type Auditor interface {
	Audit(tx *store.Tx, entityType, entityID, clientID, action string) error
}

// Config is what a Secrets needs.
type Config struct {
	DB    *store.DB
	Keys  *seal.Keys
	Audit Auditor // nil: the log alone tells
	Log   *slog.Logger
}

// Secrets is the service.
type Secrets struct {
	db    *store.DB
	keys  *seal.Keys
	audit Auditor
	log   *slog.Logger
}

// New opens the secrets, creating the table where it does not exist.
func New(ctx context.Context, c Config) (*Secrets, error) {
	if err := c.DB.Migrate(ctx, "secrets", migrations); err != nil {
		return nil, fmt.Errorf("secrets: migrate: %w", err)
	}
	return &Secrets{db: c.DB, keys: c.Keys, audit: c.Audit, log: c.Log}, nil
}

// Loops are the work that goes on beside the calls.
func (s *Secrets) Loops() []loop.Loop {
	return []loop.Loop{
		{
			Name: "secrets.expiry", Doc: "Erases the values of expired secrets, and forgets the secrets a day later.",
			When: loop.Every(5 * time.Minute), Pass: s.expire,
		},
		{
			Name: "secrets.reseal", Doc: "Seals secrets anew that are sealed with an old key, and logs when an old key has none left.",
			When: loop.Every(time.Hour), Pass: s.reseal,
		},
	}
}

// place is what the value of a secret is bound to.
func place(name string) string { return "secret/" + name + "/value" }

const (
	created = "created"
	updated = "updated"
	deleted = "deleted"
	expired = "expired"

	// self is who does what nobody has asked for.
	self = "static/taskcluster/secrets"
)

// record logs and audits what was done to a secret.
func (s *Secrets) record(tx *store.Tx, name, clientID, action string) error {
	tx.AfterCommit(func() { s.log.Info("secret "+action, "secret", name, "client", clientID) })
	if s.audit == nil {
		return nil
	}
	return s.audit.Audit(tx, "secret", name, clientID, action)
}
