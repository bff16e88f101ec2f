package auth

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A snapshot is all clients and roles as of one version. It is never changed:
// a change makes another one, which shares what it can.
type snapshot struct {
	version   int64
	clients   map[string]*client
	roles     map[string]*role
	clientIDs []string // sorted
	roleIDs   []string // sorted

	rules     *rules
	anonymous scope.Set // what anybody has
	grants    *grants   // of temporary credentials seen lately
}

// A client is one that may authenticate. All but the atomics is immutable,
// and so is tokens.
type client struct {
	ClientID           string
	Description        string
	Scopes             []string
	tokens             []*token // those that live, the newest first: one or two
	Disabled           bool
	DeleteOnExpiration bool
	Expires            timestamp.Time
	Created            timestamp.Time
	createdBy          string
	LastModified       timestamp.Time
	LastRotated        timestamp.Time

	lastUsed  atomic.Int64 // a timestamp.Time
	authority atomic.Pointer[authority]
	uses      atomic.Pointer[scopeUses]
}

// changed returns a copy of c with a change.
func (c *client) changed(f func(*client)) *client {
	d := &client{
		ClientID: c.ClientID, Description: c.Description, Scopes: c.Scopes, tokens: c.tokens,
		Disabled: c.Disabled, DeleteOnExpiration: c.DeleteOnExpiration, Expires: c.Expires,
		Created: c.Created, createdBy: c.createdBy, LastModified: c.LastModified, LastRotated: c.LastRotated,
	}
	d.lastUsed.Store(c.lastUsed.Load())
	d.uses.Store(c.uses.Load())
	f(d)
	return d
}

// An authority is what a client may do, by certain roles.
type authority struct {
	rules  *rules
	scopes scope.Set // expanded, with what anybody has
	err    error
}

// may returns the client's expanded scopes. They are computed when they are
// first needed, and again after the roles have changed.
func (c *client) may(rs *rules) (scope.Set, error) {
	if a := c.authority.Load(); a != nil && a.rules == rs {
		return a.scopes, a.err
	}
	a := &authority{rules: rs}
	a.scopes, a.err = rs.expand(append([]string{anonymous}, c.Scopes...)...)
	c.authority.Store(a)
	return a.scopes, a.err
}

// A role is a named set of scopes; see rules for what they mean.
type role struct {
	RoleID       string
	Description  string
	Scopes       []string
	Created      timestamp.Time
	LastModified timestamp.Time
}

// A delta is what a transaction changed: clients and roles by id, nil for one
// that is gone.
type delta struct {
	clients map[string]*client
	roles   map[string]*role
}

func (d delta) empty() bool { return len(d.clients)+len(d.roles) == 0 }

// with is the snapshot after a change. It fails where the change would bring
// roles into a circle.
func (s *snapshot) with(d delta, version int64) (*snapshot, error) {
	next := *s
	next.version = version
	next.clients, next.clientIDs = patched(s.clients, s.clientIDs, d.clients)
	next.roles, next.roleIDs = patched(s.roles, s.roleIDs, d.roles)
	next.grants = newGrants()
	if len(d.roles) > 0 {
		next.rules = newRules(next.roles)
		for id := range d.roles {
			if c := next.rules.cycle(id); c != nil {
				return nil, api.Errorf(api.InputError, "The role %q is refused, since roles would go round in a circle, each having the next: %s.", id, wayRound(c))
			}
		}
	}
	return &next, next.init()
}

func patched[V any](m map[string]*V, ids []string, changes map[string]*V) (map[string]*V, []string) {
	if len(changes) == 0 {
		return m, ids
	}
	m = maps.Clone(m)
	for id, v := range changes {
		if v == nil {
			delete(m, id)
		} else {
			m[id] = v
		}
	}
	return m, slices.Sorted(maps.Keys(m))
}

func newSnapshot(version int64, clients map[string]*client, roles map[string]*role) (*snapshot, error) {
	s := &snapshot{
		version: version, clients: clients, roles: roles,
		clientIDs: slices.Sorted(maps.Keys(clients)), roleIDs: slices.Sorted(maps.Keys(roles)),
		rules: newRules(roles), grants: newGrants(),
	}
	return s, s.init()
}

func (s *snapshot) init() (err error) {
	s.anonymous, err = s.rules.expand(anonymous)
	return err
}

// topicChanged is woken by every change of clients or roles.
const (
	topicChanged = "auth.changed"
)

// change runs f in a transaction and makes what it did effective, here before
// change returns and on other replicas within a second.
//
// f decides by the snapshot it is given, which is the state of the tables: the
// transaction has raised the version, so no other can have changed them since.
// It writes its changes to the tables and returns them as a delta, or nothing
// and the transaction is dropped. It may be run again.
func (a *Auth) change(ctx context.Context, f func(*store.Tx, *snapshot) (delta, error)) error {
	release, err := a.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	err = a.db.Do(ctx, func(tx *store.Tx) error {
		var version int64
		if err := tx.QueryRow(`UPDATE auth_version SET version = version + 1 RETURNING version`).Scan(&version); err != nil {
			return err
		}
		now := a.current.Load()
		if now.version != version-1 { // another replica was here
			var err error
			if now, err = a.load(tx, version-1); err != nil {
				return err
			}
		}
		d, err := f(tx, now)
		if err != nil {
			return err
		}
		if d.empty() {
			return errNothingToDo
		}
		next, err := now.with(d, version)
		if err != nil {
			return err
		}
		tx.Wake(topicChanged, store.Everybody)
		tx.AfterCommit(func() { a.current.Store(next) })
		return nil
	})
	switch {
	case errors.Is(err, errNothingToDo):
		return nil
	case errors.Is(err, store.ErrUnknownOutcome):
		// What was revoked must not go on working because we were not told.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return errors.Join(err, a.read(ctx))
	}
	return err
}

var errNothingToDo = errors.New("auth: nothing to change")

// lock keeps snapshots from overtaking each other: whoever replaces the
// current one holds it from before it reads the tables.
func (a *Auth) lock(ctx context.Context) (release func(), err error) {
	select {
	case a.changing <- struct{}{}:
		return func() { <-a.changing }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// refresh follows the changes that other replicas have made.
func (a *Auth) refresh(ctx context.Context) error {
	release, err := a.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	return a.read(ctx)
}

const (
	followInterval = 500 * time.Millisecond
	followLimit    = 20 * time.Second // of one look at the tables
	blindAfter     = 30 * time.Second
)

// follow is refresh as the loop does it, which notices when it goes wrong.
func (a *Auth) follow(ctx context.Context) (more bool, err error) {
	limited, cancel := context.WithTimeout(ctx, followLimit)
	defer cancel()
	err = a.refresh(limited)
	switch now := timestamp.Now(); {
	case err == nil:
		a.seen.Store(int64(now))
		if a.blind.CompareAndSwap(true, false) {
			a.log.Info("clients and roles can be read again: authenticating")
		}
	case ctx.Err() == nil && now.Sub(timestamp.Time(a.seen.Load())) >= blindAfter && a.blind.CompareAndSwap(false, true):
		a.log.Error("clients and roles cannot be read: not authenticating anybody until they can", "for", blindAfter, "err", err)
	}
	return false, err
}

// trusted is the snapshot to authenticate by.
func (a *Auth) trusted() (*snapshot, error) {
	if a.blind.Load() {
		return nil, api.Errorf(api.ServiceUnavailable, "The server cannot reach its database, and so cannot tell whose credentials are still good. Call again later.")
	}
	return a.current.Load(), nil
}

// read brings the current snapshot up to date. The caller holds the lock.
func (a *Auth) read(ctx context.Context) error {
	return a.db.View(ctx, func(tx *store.Tx) error {
		var version int64
		if err := tx.QueryRow(`SELECT version FROM auth_version`).Scan(&version); err != nil {
			return err
		}
		if now := a.current.Load(); now != nil && now.version == version {
			return nil
		}
		s, err := a.load(tx, version)
		if err != nil {
			return err
		}
		a.current.Store(s)
		return nil
	})
}

// load reads the tables, whose state is that of version.
func (a *Auth) load(tx *store.Tx, version int64) (*snapshot, error) {
	clients := maps.Clone(a.static)
	rows, err := tx.Query(`
		SELECT client_id, description, scopes, disabled, delete_on_expiration,
		       expires, created, created_by, last_modified, last_rotated, last_used FROM auth_client`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var c client
		var used int64
		if err := rows.Scan(&c.ClientID, &c.Description, &c.Scopes, &c.Disabled, &c.DeleteOnExpiration,
			&c.Expires, &c.Created, &c.createdBy, &c.LastModified, &c.LastRotated, &used); err != nil {
			return nil, err
		}
		c.lastUsed.Store(used)
		if _, taken := clients[c.ClientID]; !taken {
			clients[c.ClientID] = &c
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if err := a.loadTokens(tx, clients); err != nil {
		return nil, err
	}
	roles := map[string]*role{}
	rows, err = tx.Query(`SELECT role_id, description, scopes, created, last_modified FROM auth_role`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var r role
		if err := rows.Scan(&r.RoleID, &r.Description, &r.Scopes, &r.Created, &r.LastModified); err != nil {
			return nil, err
		}
		roles[r.RoleID] = &r
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return newSnapshot(version, clients, roles)
}
