package auth

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An AccessToken is what can be told of an access token of a client. The token
// itself is known to whoever got it when it was made.
type AccessToken struct {
	ID      string
	Created timestamp.Time

	// LastUsed is when a request was last signed with it, or with temporary
	// credentials that were issued with it; zero if it never was. While the client
	// has two tokens it is at most UseLag behind; else up to six hours more.
	LastUsed timestamp.Time

	Live bool // else it was retired, or died when the token was reset
}

const (
	// UseLag is how much later than a token's LastUsed it may have been used, while
	// its client has two.
	UseLag = 3 * time.Minute

	// maxTokens is how many a client can have that live: one in use, and the one
	// that takes over from it.
	maxTokens = 2

	// original is the id of those tokens that are from when a client had no other.
	original = "first"

	// While a client has two tokens, it matters which of them is used, so that is
	// known to within this time.
	tokenUseInterval = time.Minute

	// All replicas know of a change after this time.
	agreeWithin = time.Second
)

// AddToken gives a client another access token, beside the one that it has: all
// that was made with either is good, until one is retired. It returns when every
// replica accepts the new one.
//
// The id is the caller's to choose, a slugid: adding the same again returns the
// same token, for those who did not get the reply. One that was retired does not
// come back. A client with two tokens gets no third.
func (a *Auth) AddToken(ctx context.Context, clientID, id string) (string, error) {
	if err := checkClient(clientID, nil); err != nil {
		return "", err
	}
	if !slugid.Valid(id) {
		return "", api.Errorf(api.InputError, "The id of an access token is a slugid, of 22 characters; %.100q is none.", id)
	}
	var t *token
	if err := a.change(ctx, func(tx *store.Tx, now *snapshot) (delta, error) {
		old := now.clients[clientID]
		if old == nil {
			return delta{}, noClient(clientID)
		}
		if t = old.token(id); t != nil {
			return delta{}, nil
		}
		known, err := retiredToken(tx, tokenKey{clientID, id})
		switch {
		case err != nil:
			return delta{}, err
		case known:
			return delta{}, api.Errorf(api.RequestConflict, "The access token %s of client %s was retired, and does not come back. Add one with another id.", id, clientID)
		case len(old.tokens) >= maxTokens:
			return delta{}, api.Errorf(api.RequestConflict, "Client %s has %d access tokens already: %s and %s. Retire one first.", clientID, maxTokens, old.tokens[0].id, old.tokens[1].id)
		}
		t = old.next(id, slugid.Token())
		c := old.changed(func(x *client) {
			x.tokens, x.LastRotated = append([]*token{t}, old.tokens...), after(x.Created)
		})
		return a.writeClient(tx, old, c, clientUpdated, deed{self, tokenAdded})
	}); err != nil {
		return "", err
	}
	if err := t.agreed(ctx); err != nil {
		return "", fmt.Errorf("auth: wait until all replicas know the access token %s of client %s; call again for it: %w", id, clientID, err)
	}
	return t.secret, nil
}

// Tokens lists the access tokens of a client, the newest first: those that live,
// and those that were retired as far back as the history goes.
func (a *Auth) Tokens(ctx context.Context, clientID string) ([]AccessToken, error) {
	if err := checkClient(clientID, nil); err != nil {
		return nil, err
	}
	var list []AccessToken
	err := a.db.View(ctx, func(tx *store.Tx) error {
		list = nil
		rows, err := tx.Query(`SELECT token_id, created, last_used, retired = 0 FROM auth_token WHERE client_id = $1 ORDER BY created DESC, token_id`, clientID)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var t AccessToken
			if err := rows.Scan(&t.ID, &t.Created, &t.LastUsed, &t.Live); err != nil {
				return err
			}
			list = append(list, t)
		}
		return rows.Err()
	})
	if err == nil && list == nil {
		err = noClient(clientID)
	}
	a.usedMu.Lock()
	defer a.usedMu.Unlock()
	for i := range list {
		t := &list[i]
		t.LastUsed = max(t.LastUsed, a.usedTokens[tokenKey{clientID, t.ID}])
	}
	return list, err
}

// RetireToken ends an access token of a client, and with it all temporary
// credentials that were issued with it: here at once, on other replicas within a
// second. Where there is no such token nothing is left to do, and an AddToken of
// that id that is still on its way comes too late. The only token of a client is
// not retired.
func (a *Auth) RetireToken(ctx context.Context, clientID, id string) error {
	if err := checkClient(clientID, nil); err != nil {
		return err
	}
	if id != original && !slugid.Valid(id) {
		return api.Errorf(api.InputError, "The id of an access token is a slugid, of 22 characters, or %q; %.100q is neither.", original, id)
	}
	return a.change(ctx, func(tx *store.Tx, now *snapshot) (delta, error) {
		old := now.clients[clientID]
		if old == nil {
			return delta{}, nil
		}
		if old.token(id) == nil {
			return keepOut(tx, old, id)
		}
		if len(old.tokens) == 1 {
			return delta{}, api.Errorf(api.RequestConflict, "%s is the only access token of client %s. Add another one first, or disable or delete the client.", id, clientID)
		}
		c := old.changed(func(x *client) {
			x.tokens = slices.DeleteFunc(slices.Clone(x.tokens), func(t *token) bool { return t.id == id })
		})
		return a.writeClient(tx, old, c, clientUpdated, deed{self, tokenRetired})
	})
}

// keepOut sees to it that there will be no token of an id.
func keepOut(tx *store.Tx, c *client, id string) (delta, error) {
	n, err := tx.Exec(`
		INSERT INTO auth_token (client_id, token_id, access_token, created, last_used, retired) VALUES ($1, $2, '', $3, 0, $3)
		ON CONFLICT DO NOTHING`, c.ClientID, id, timestamp.Now())
	if err != nil || n == 0 {
		return delta{}, err
	}
	return delta{clients: map[string]*client{c.ClientID: c}}, nil
}

func retiredToken(tx *store.Tx, key tokenKey) (known bool, err error) {
	err = tx.QueryRow(`SELECT EXISTS (SELECT 1 FROM auth_token WHERE client_id = $1 AND token_id = $2)`, key.clientID, key.id).Scan(&known)
	return known, err
}

// A token is one that lives.
type token struct {
	id       string // "" of static clients
	secret   string
	created  timestamp.Time
	lastUsed atomic.Int64 // a timestamp.Time; 0: never
}

// String keeps the secret out of what is printed.
func (t *token) String() string { return "access token " + t.id }

func newToken(created timestamp.Time) *token {
	return &token{id: slugid.New(), secret: slugid.Token(), created: created}
}

// next makes a token that is newer than those of c.
func (c *client) next(id, secret string) *token {
	t := &token{id: id, secret: secret, created: timestamp.Now()}
	if len(c.tokens) > 0 {
		t.created = max(t.created, c.tokens[0].created+1)
	}
	return t
}

// token is the one with an id that lives, or nil.
func (c *client) token(id string) *token {
	for _, t := range c.tokens {
		if t.id == id {
			return t
		}
	}
	return nil
}

// signing is the token to issue temporary credentials with: the newest that other
// replicas know as well.
func (c *client) signing(now timestamp.Time) *token {
	for _, t := range c.tokens[:len(c.tokens)-1] {
		if now.Sub(t.created) >= agreeWithin {
			return t
		}
	}
	return c.tokens[len(c.tokens)-1]
}

// agreed waits until all replicas know the token.
func (t *token) agreed(ctx context.Context) error {
	// It may have been made by a replica whose clock is ahead.
	left := min(agreeWithin-timestamp.Now().Sub(t.created), agreeWithin)
	if left <= 0 {
		return nil
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A tokenKey is what a row is found by.
type tokenKey struct{ clientID, id string }

// place binds a sealed token to its row. Ids of tokens have no slash, so no two
// rows have the same; those from when tokens were in the clients' rows keep the
// place they had.
func (k tokenKey) place() string {
	if k.id == original {
		return "auth_client/" + k.clientID + "/access_token"
	}
	return "auth_token/" + k.clientID + "/" + k.id
}

func (a *Auth) unseal(k tokenKey, sealed string) (string, error) {
	secret, err := a.keys.Open(sealed, k.place())
	if err != nil {
		return "", fmt.Errorf("auth: the access token %s of client %s cannot be opened; is its key still among the seal keys? %w", k.id, k.clientID, err)
	}
	return string(secret), nil
}

// writeTokens makes the rows follow: what the client does not have any more is
// retired, and nothing of it stays that opens anything.
func (a *Auth) writeTokens(tx *store.Tx, old, c *client) error {
	if old == nil {
		old = &client{}
	}
	for _, t := range old.tokens {
		if c.token(t.id) != nil {
			continue
		}
		if _, err := tx.Exec(`UPDATE auth_token SET retired = $3, access_token = '' WHERE client_id = $1 AND token_id = $2`,
			c.ClientID, t.id, timestamp.Now()); err != nil {
			return err
		}
	}
	for _, t := range c.tokens {
		if old.token(t.id) != nil {
			continue
		}
		if _, err := tx.Exec(`INSERT INTO auth_token (client_id, token_id, access_token, created, last_used, retired) VALUES ($1, $2, $3, $4, 0, 0)`,
			c.ClientID, t.id, a.keys.Seal([]byte(t.secret), tokenKey{c.ClientID, t.id}.place()), t.created); err != nil {
			return err
		}
	}
	return nil
}

// loadTokens gives clients that were read their tokens.
func (a *Auth) loadTokens(tx *store.Tx, clients map[string]*client) error {
	rows, err := tx.Query(`SELECT client_id, token_id, access_token, created, last_used FROM auth_token WHERE retired = 0`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var k tokenKey
		var sealed string
		var t token
		var used int64
		if err := rows.Scan(&k.clientID, &k.id, &sealed, &t.created, &used); err != nil {
			return err
		}
		c := clients[k.clientID]
		if c == nil || a.static[k.clientID] != nil {
			continue
		}
		t.id = k.id
		if t.secret, err = a.unseal(k, sealed); err != nil {
			return err
		}
		t.lastUsed.Store(used)
		if c.tokens = append(c.tokens, &t); len(c.tokens) > 1 {
			slices.SortFunc(c.tokens, func(x, y *token) int { return cmp.Compare(y.created, x.created) })
		}
	}
	return rows.Err()
}

// usedToken notes that a client's token was used.
func (a *Auth) usedToken(c *client, t *token, now time.Time) {
	if t.id == "" {
		return
	}
	interval := useInterval
	if len(c.tokens) > 1 {
		interval = tokenUseInterval
	}
	last, at := t.lastUsed.Load(), now.UnixMilli()
	if at-last < interval.Milliseconds() || !t.lastUsed.CompareAndSwap(last, at) {
		return
	}
	a.notedUse(map[tokenKey]timestamp.Time{{c.ClientID, t.id}: timestamp.Time(at)})
}

func (a *Auth) notedUse(noted map[tokenKey]timestamp.Time) {
	a.usedMu.Lock()
	defer a.usedMu.Unlock()
	for k, at := range noted {
		a.usedTokens[k] = max(a.usedTokens[k], at)
	}
}

// recordTokenUse writes down which tokens were used, and when. Nobody decides by
// that before it is written, so it is no change of clients.
func (a *Auth) recordTokenUse(ctx context.Context) (more bool, err error) {
	taken := map[tokenKey]timestamp.Time{}
	a.usedMu.Lock()
	for k, at := range a.usedTokens {
		if more = len(taken) == batch; more {
			break
		}
		taken[k] = at
		delete(a.usedTokens, k)
	}
	a.usedMu.Unlock()
	if len(taken) == 0 {
		return false, nil
	}
	ordered := slices.SortedFunc(maps.Keys(taken), func(x, y tokenKey) int {
		return cmp.Or(cmp.Compare(x.clientID, y.clientID), cmp.Compare(x.id, y.id))
	})
	err = a.db.Do(ctx, func(tx *store.Tx) error {
		for _, k := range ordered {
			if _, err := tx.Exec(`UPDATE auth_token SET last_used = $3 WHERE client_id = $1 AND token_id = $2 AND last_used < $3`, k.clientID, k.id, taken[k]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		a.notedUse(taken)
	}
	return more, err
}
