package auth

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// # Which scopes are of use
//
// A call that was authorized has needed certain scopes, and each was granted by
// one that its client has: by itself or by a role, often one with a star. That is
// noted for the client, or for the one that has issued its temporary credentials,
// with the time of its latest use, to within a day. It is kept in memory, and what
// is new is written by the loop auth.scope-use, so that replicas add up in the
// table.
//
// Not known is what other services do that ask for authenticateHawk: they decide by
// themselves.

const (
	scopeUseInterval = 24 * time.Hour
	keepScopeUse     = 400 * 24 * time.Hour

	// maxScopeUses is how many scopes of a client are told apart. A client that uses
	// more of those it has has a row that says so.
	maxScopeUses = 500
	tooMany      = ""
)

// scopeUses are the scopes that a client has used. It outlives the snapshot.
type scopeUses struct {
	auth     *Auth
	clientID string
	seen     atomic.Pointer[map[string]*atomic.Int64] // when last, a timestamp.Time; the map is never changed
}

type scopeKey struct{ clientID, scope string }

// watch has the issuer of an identity told of what the scopes are good for.
func (a *Auth) watch(id *identity, now time.Time) {
	c := id.issuer
	u := c.uses.Load()
	if u == nil {
		u = a.usesOf(c.ClientID)
		c.uses.Store(u)
	}
	id.Witness = c
	if id.naming != "" {
		u.note(id.naming, now)
	}
}

func (a *Auth) usesOf(clientID string) *scopeUses {
	a.usedMu.Lock()
	defer a.usedMu.Unlock()
	u := a.scopeUses[clientID]
	if u == nil {
		u = &scopeUses{auth: a, clientID: clientID}
		u.seen.Store(&map[string]*atomic.Int64{})
		a.scopeUses[clientID] = u
	}
	return u
}

// Satisfied implements api.Witness: have, which is what the client has or a part of
// it, was enough for what was needed.
func (c *client) Satisfied(need scope.Need, have scope.Set) {
	u, may := c.uses.Load(), c.authority.Load()
	if u == nil || may == nil {
		return
	}
	now := time.Now()
	need.Used(have, func(needed string) {
		if granted, ok := may.scopes.Granting(needed); ok {
			u.note(granted, now)
		}
	})
}

// note remembers that a granted scope was of use.
func (u *scopeUses) note(granted string, now time.Time) {
	at := now.UnixMilli()
	last := (*u.seen.Load())[granted]
	if last == nil {
		if granted, last = u.add(granted); last == nil {
			return
		}
	}
	before := last.Load()
	if at-before < scopeUseInterval.Milliseconds() || !last.CompareAndSwap(before, at) {
		return
	}
	u.auth.notedScopes(map[scopeKey]timestamp.Time{{u.clientID, granted}: timestamp.Time(at)})
}

// add makes room for a scope that was not seen before, or returns the one that
// stands for those that there is no room for.
func (u *scopeUses) add(granted string) (string, *atomic.Int64) {
	u.auth.usedMu.Lock()
	defer u.auth.usedMu.Unlock()
	seen := *u.seen.Load()
	if len(seen) >= maxScopeUses {
		granted = tooMany
	}
	if last := seen[granted]; last != nil {
		return granted, last
	}
	seen, last := maps.Clone(seen), new(atomic.Int64)
	seen[granted] = last
	u.seen.Store(&seen)
	return granted, last
}

func (a *Auth) notedScopes(noted map[scopeKey]timestamp.Time) {
	a.usedMu.Lock()
	defer a.usedMu.Unlock()
	for k, at := range noted {
		a.usedScopes[k] = max(a.usedScopes[k], at)
	}
}

// recordScopeUse writes down which scopes were of use, and when.
func (a *Auth) recordScopeUse(ctx context.Context) (more bool, err error) {
	taken := map[scopeKey]timestamp.Time{}
	clients := a.current.Load().clients
	a.usedMu.Lock()
	for id := range a.scopeUses {
		if clients[id] == nil {
			delete(a.scopeUses, id)
		}
	}
	for k, at := range a.usedScopes {
		if more = len(taken) == batch; more {
			break
		}
		taken[k] = at
		delete(a.usedScopes, k)
	}
	a.usedMu.Unlock()
	if len(taken) == 0 {
		return false, nil
	}
	ordered := slices.SortedFunc(maps.Keys(taken), func(x, y scopeKey) int {
		return cmp.Or(cmp.Compare(x.clientID, y.clientID), cmp.Compare(x.scope, y.scope))
	})
	err = a.db.Do(ctx, func(tx *store.Tx) error {
		for _, k := range ordered {
			if _, err := tx.Exec(`
				INSERT INTO auth_scope_use (client_id, scope, last_used) VALUES ($1, $2, $3)
				ON CONFLICT (client_id, scope) DO UPDATE SET last_used = excluded.last_used WHERE auth_scope_use.last_used < excluded.last_used`,
				k.clientID, k.scope, taken[k]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		a.notedScopes(taken)
	}
	return more, err
}

// beginScopeUse notes at the first start since when uses are recorded.
func (a *Auth) beginScopeUse(ctx context.Context) error {
	return a.db.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO auth_scope_use_since (one, since) VALUES (1, $1) ON CONFLICT DO NOTHING`, timestamp.Now())
		return err
	})
}

// A ClientUse is what can be told of a client and the use that is made of it.
type ClientUse struct {
	ClientID    string
	Static      bool // it is in the configuration
	Disabled    bool
	Expires     timestamp.Time // NeverExpires or later: it does not
	Created     timestamp.Time
	Modified    timestamp.Time
	LastUsed    timestamp.Time // to within six hours; when it was created, if never
	Tokens      []AccessToken  // that live; none of a static client
	Scopes      []ScopeUse     // its own, not expanded
	Uncountable bool           // it uses so many scopes that some uses of them are not known
}

// NeverExpires is when those clients expire that are not meant to.
const NeverExpires = timestamp.Time(32503680000000) // the year 3000

// A ScopeUse is a scope of a client and what it was good for.
type ScopeUse struct {
	Scope    string
	LastUsed timestamp.Time // of it or what it implies, to within a day; zero: never, since uses are recorded

	// Of a role: how many scopes it implies, and how many of these were used since
	// the time asked for.
	Implied, ImpliedUsed int
}

// Use tells of all clients what use is made of them and their scopes, in the order
// of their ids, and since when uses of scopes are recorded. What was used within the
// last minutes on another replica may not be known yet.
func (a *Auth) Use(ctx context.Context, recent timestamp.Time) (list []ClientUse, since timestamp.Time, err error) {
	s, err := a.trusted()
	if err != nil {
		return nil, 0, err
	}
	used := map[string]map[string]timestamp.Time{}
	note := func(k scopeKey, at timestamp.Time) {
		if used[k.clientID] == nil {
			used[k.clientID] = map[string]timestamp.Time{}
		}
		used[k.clientID][k.scope] = max(used[k.clientID][k.scope], at)
	}
	err = a.db.View(ctx, func(tx *store.Tx) error {
		clear(used)
		if err := tx.QueryRow(`SELECT since FROM auth_scope_use_since WHERE one = 1`).Scan(&since); err != nil {
			return err
		}
		rows, err := tx.Query(`SELECT client_id, scope, last_used FROM auth_scope_use`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var k scopeKey
			var at timestamp.Time
			if err := rows.Scan(&k.clientID, &k.scope, &at); err != nil {
				return err
			}
			note(k, at)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, 0, err
	}
	a.usedMu.Lock()
	for k, at := range a.usedScopes {
		note(k, at)
	}
	a.usedMu.Unlock()
	for _, id := range s.clientIDs {
		c := s.clients[id]
		u := ClientUse{
			ClientID: id, Static: a.static[id] != nil, Disabled: c.Disabled, Expires: c.Expires, Created: c.Created, Modified: c.LastModified,
			LastUsed: timestamp.Time(c.lastUsed.Load()), Uncountable: used[id][tooMany] > 0,
		}
		for _, t := range c.tokens {
			if t.id != "" {
				u.Tokens = append(u.Tokens, AccessToken{ID: t.id, Created: t.created, LastUsed: timestamp.Time(t.lastUsed.Load()), Live: true})
			}
		}
		if u.Scopes, err = s.scopeUse(c, used[id], recent); err != nil {
			return nil, 0, err
		}
		list = append(list, u)
	}
	return list, since, ctx.Err()
}

// scopeUse finds out which scopes of a client the recorded uses stand for. What a
// scope or role was when it was used is not known, so one that covers the other, in
// either direction, counts as used: rather a scope too few is called useless.
func (s *snapshot) scopeUse(c *client, used map[string]timestamp.Time, recent timestamp.Time) (list []ScopeUse, err error) {
	// Sorted as scopes are, what a scope with a star covers is in one place.
	uses := slices.SortedFunc(maps.Keys(used), scope.Compare)
	uses = slices.DeleteFunc(uses, func(x string) bool { return x == tooMany })
	latest := func(granted string) (at timestamp.Time) {
		if at = used[granted]; at >= recent && at > 0 {
			return at
		}
		for _, x := range uses {
			if scope.Grants(granted, x) || scope.Grants(x, granted) {
				at = max(at, used[x])
			}
		}
		return at
	}
	for _, own := range c.Scopes {
		u := ScopeUse{Scope: own, LastUsed: latest(own)}
		all, err := s.rules.expand(own)
		if err != nil {
			continue // it gives nothing: such a client cannot do anything
		}
		for _, x := range all {
			if x == own {
				continue
			}
			at := latest(x)
			u.Implied++
			if at > 0 && at >= recent {
				u.ImpliedUsed++
			}
			u.LastUsed = max(u.LastUsed, at)
		}
		list = append(list, u)
	}
	return list, nil
}

// EachToken calls f with every access token that lives, so that one can be looked
// for where it should not be. Nothing of it is to be kept, or told.
func (a *Auth) EachToken(f func(clientID, id, token string)) error {
	s, err := a.trusted()
	if err != nil {
		return err
	}
	for _, id := range s.clientIDs {
		for _, t := range s.clients[id].tokens {
			f(id, t.id, t.secret)
		}
	}
	return nil
}
