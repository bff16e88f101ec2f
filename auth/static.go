package auth

import (
	"context"
	"crypto/subtle"
	"fmt"
	"maps"

	"github.com/taskfleet/taskfleet/timestamp"
)

// A StaticToken is an access token of a static client.
type StaticToken struct {
	ID    string // tells it from others, and is no secret
	Token string
}

// SetStaticTokens gives a static client other access tokens, on this replica: all of
// them are accepted from its return on, and the first issues what the client issues.
// What was made with a token that is not among them ends.
func (a *Auth) SetStaticTokens(ctx context.Context, clientID string, tokens ...StaticToken) error {
	switch {
	case len(tokens) == 0 || len(tokens) > maxTokens:
		return fmt.Errorf("auth: static client %s is given %d access tokens; it has between 1 and %d", clientID, len(tokens), maxTokens)
	}
	for _, t := range tokens {
		if len(t.Token) < 22 {
			return fmt.Errorf("auth: static client %s: an access token has fewer than 22 characters", clientID)
		}
	}
	release, err := a.lock(ctx)
	if err != nil {
		return err
	}
	defer release()
	old := a.static[clientID]
	if old == nil {
		return fmt.Errorf("auth: there is no static client %s", clientID)
	}
	c := old.changed(func(c *client) {
		c.tokens = nil
		for _, t := range tokens {
			c.tokens = append(c.tokens, staticToken(old, t))
		}
		c.LastRotated = timestamp.Now()
	})
	next, err := a.current.Load().withStatic(c)
	if err != nil {
		return err
	}
	a.static = maps.Clone(a.static)
	a.static[clientID] = c
	a.current.Store(next)
	return nil
}

// staticToken is the token that the client has already, or a new one. It is as old as
// can be: other replicas have it before anybody issues anything with it.
func staticToken(c *client, t StaticToken) *token {
	for _, has := range c.tokens {
		if subtle.ConstantTimeCompare([]byte(has.secret), []byte(t.Token)) == 0 {
			continue
		}
		if has.id == t.ID {
			return has
		}
		named := &token{id: t.ID, secret: t.Token, created: has.created}
		named.lastUsed.Store(has.lastUsed.Load())
		return named
	}
	return &token{id: t.ID, secret: t.Token}
}

// withStatic is the snapshot with another static client.
func (s *snapshot) withStatic(c *client) (*snapshot, error) {
	next := *s
	next.clients, next.clientIDs = patched(s.clients, s.clientIDs, map[string]*client{c.ClientID: c})
	next.grants = newGrants()
	return &next, next.init()
}

// StaticTokensUsed tells when tokens of a static client were last used on this
// replica, with what was issued with them, by id. While it has two it is exact to
// within a minute.
func (a *Auth) StaticTokensUsed(clientID string) map[string]timestamp.Time {
	c := a.current.Load().clients[clientID]
	if c == nil {
		return nil
	}
	used := map[string]timestamp.Time{}
	for _, t := range c.tokens {
		if at := t.lastUsed.Load(); t.id != "" && at != 0 {
			used[t.id] = timestamp.Time(at)
		}
	}
	return used
}
