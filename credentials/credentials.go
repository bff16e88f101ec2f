// Package credentials rotates what can leak: on time, without anybody noticing.
//
// A credential is minted somewhere (its provider, spoken to by a Kind), and used by
// consumers. It has versions: one that is current, and during the overlap of a
// rotation an older one beside it.
//
// # A rotation
//
// is a journaled sequence of steps, each of which can be repeated:
//
//	adopt     note what the provider has of the credential that others have made
//	mint      make a version; its id and what its secret may be made of are written before
//	prove     use it against the real provider
//	publish   hand it to the consumers; from here on it is the current version
//	await     until every consumer has confirmed it, or the overlap ends, and the old one is not seen in use any more
//	disable   the old ones
//	retire    the old ones, after a time of grace
//	withdraw  instead of all after mint or prove: remove the new version again; the old one stays
//
// A step is written down before it begins and when it ends, together with what it
// has changed. So whatever ends a process in between, another one, which may be on
// another replica, repeats the step that was under way, and nothing is minted that
// is not written down. One process works on a rotation at a time: it holds a lease,
// everything it writes is refused when it has lost it, and what it does elsewhere
// is given no longer than the lease lasts.
//
// A version remembers where it was minted, and ends there, whatever the definition says
// by then.
//
// When a rotation is due is a matter of package schedule: each credential with a plan has a
// job (plan.go). What the engine begins by itself is the first version, another try after
// one that failed, and the move to where the definition says that it is minted now.
//
// Kinds whose versions people bring (Supplied) have no rotation begin that is due: it is
// said that a version is wanted, and the rotation begins when there is one (wanted.go).
//
// Nothing is disabled or retired before the next one works, was handed out, and the
// provider, where it tells, has not seen the old one in use for a while. Only a
// rotation that is forced (revoke) does not wait.
//
// # Consumers
//
// A secret of the platform is written by the rotation. Files, programs and parts of
// the platform are on every replica, so every replica looks after its own
// (deliver.go) and says what it has; a rotation waits for all replicas that were
// seen lately. Others say by the API which version they use.
//
// # Where things are
//
// Definitions are the configuration's (definition.go says why), state and journal
// are in the database, secrets sealed (package seal) and bound to their version. A
// secret is in no error, log or event: what kinds and programs say is scrubbed of
// those that are known.
package credentials

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/schedule"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed schemas/*.yml
var schemaFiles embed.FS

// Config is what a Credentials needs.
type Config struct {
	DB      *store.DB
	Events  *event.Bus
	Keys    *seal.Keys
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: none

	Kinds       map[string]Kind
	Definitions []Definition

	// Replica names this process. A name is kept over restarts, and no two processes have
	// the same at once.
	Replica string

	// Secrets writes secrets of the platform; nil: there are none.
	Secrets Secrets

	// Schedule has the jobs that say when rotations are due; nil: none is due by itself.
	Schedule *schedule.Schedule

	// Audit keeps the history of who did what; nil: the log alone tells.
	Audit Auditor

	// Notices writes to people; nil: none are written.
	Notices Notices

	// Platform are the parts of the platform that use credentials, by name.
	Platform map[string]Part

	// Bootstrappers know services elsewhere at which projects need something, by name.
	Bootstrappers map[string]Bootstrapper
}

// Secrets is where secrets of the platform are set.
type Secrets interface {
	Set(ctx context.Context, name string, value json.RawMessage, expires timestamp.Time) error
}

// An Auditor keeps the history: who did what to an entity, written in the transaction
// that does it.
type Auditor interface {
	Audit(tx *store.Tx, entityType, entityID, clientID, action string) error
}

// Notices is how people are written to.
type Notices interface {
	Write(ctx context.Context, address, subject, text string) error
}

// A Part is a part of the platform that uses a credential. It is given the secret
// of a version, on every replica, and from its return on uses that one.
type Part func(ctx context.Context, id string, secret json.RawMessage) error

// Credentials is the service.
type Credentials struct {
	config  Config
	db      *store.DB
	keys    *seal.Keys
	log     *slog.Logger
	metrics *metrics
	defined map[string]*defined
	names   []string // in order

	mu      sync.Mutex
	toWrite []notice // to people
	given   sync.Map // what parts of the platform have, by credential and consumer
}

// New opens the credentials, creating the tables where they do not exist. A
// definition that is wrong is no error: it has a state that says so.
func New(ctx context.Context, c Config) (*Credentials, error) {
	if err := c.DB.Migrate(ctx, "credentials", migrations); err != nil {
		return nil, fmt.Errorf("credentials: migrate: %w", err)
	}
	s := &Credentials{config: c, db: c.DB, keys: c.Keys, log: c.Log, defined: map[string]*defined{}}
	for _, d := range c.Definitions {
		switch {
		case !goodName(d.Name):
			return nil, fmt.Errorf("credentials: the name %q is none for a credential; it is lower-case letters, digits and hyphens between, up to %d", d.Name, maxName)
		case s.defined[d.Name] != nil:
			return nil, fmt.Errorf("credentials: there are two definitions of %s", d.Name)
		}
		s.defined[d.Name] = s.define(d)
	}
	apart(s.defined)
	for _, name := range sortedKeys(s.defined) {
		if x := s.defined[name]; x.wrong != "" {
			c.Log.Error("a credential is defined wrongly, and is not rotated", "credential", name, "err", x.wrong)
		}
	}
	s.names = sortedKeys(s.defined)
	s.metrics = newMetrics(c.Metrics, s)
	if err := s.takeBack(ctx); err != nil {
		return nil, fmt.Errorf("credentials: taking back the rotations of the process before: %w", err)
	}
	return s, s.scheduled(ctx)
}

const (
	topicRotate  = "credentials.rotate"
	topicDeliver = "credentials.deliver"

	topicPublished = "credentials.published." // and the name of the credential: its rotation was published, or has failed
)

// Loops are the work that goes on beside the calls.
func (c *Credentials) Loops() []loop.Loop {
	return []loop.Loop{
		{
			Name: "credentials.rotate", Doc: "Begins the rotations of credentials that are due, and takes those under way from step to step.",
			When: loop.Every(10 * time.Second), Wake: c.db.Waits().Signal(topicRotate), Pass: c.rotate, EveryReplica: true,
		},
		{
			Name: "credentials.deliver", Doc: "Gives the consumers of credentials that are on this replica the current versions.",
			When: loop.Every(deliverEvery), Wake: c.db.Waits().Signal(topicDeliver), Pass: c.deliver, EveryReplica: true, Limit: deliverLimit,
		},
		{
			Name: "credentials.check", Doc: "Proves that current versions of credentials still work, once a day, and removes what is left of those that are gone.",
			When: loop.Every(15 * time.Minute), Pass: c.check, Limit: 15 * time.Minute,
		},
		{
			Name: "credentials.upkeep", Doc: "Seals secrets of credentials anew that are sealed with an old key, and forgets journals and versions after a while.",
			When: loop.Every(time.Hour), Pass: c.upkeep,
		},
	}
}
