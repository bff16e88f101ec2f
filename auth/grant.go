package auth

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/slugid"
)

// A grant is what a client id together with an ext stands for: the keys, with
// one of which a request must be signed, and what the signer may then do. It
// holds as long as the snapshot it was made from.
type grant struct {
	clientID string
	ext      cred.Ext
	issuer   *client // the client itself, or who issued its temporary credentials
	keys     [maxTokens]key
	scopes   scope.Set // after authorize
	naming   string    // likewise: the scope by which the issuer gave the credentials a name, if it did
}

// A key belongs to one access token of a client: it is the token itself or, for
// temporary credentials, derived from it. One that fills an empty place has no
// token and is nobody's.
type key struct {
	text  string
	token *token
}

// A directory is where clients are looked up.
type directory struct {
	clients map[string]*client
	rules   *rules
}

// grant finds out what id and ext stand for. The error is about the form of
// ext. A client that does not exist gets a grant as well, with a key that
// nobody has, so that refusing it takes the same way as any wrong signature.
func (d directory) grant(id, ext string) (*grant, error) {
	e, err := cred.ParseExt(ext)
	if err != nil {
		return nil, err
	}
	g := &grant{clientID: id, ext: e}
	issuerID := id
	if e.Certificate != nil && e.Certificate.Issuer != "" {
		if issuerID = e.Certificate.Issuer; issuerID == id {
			return nil, errors.New("ext.certificate names the client itself as its issuer; leave the issuer out")
		}
	}
	if g.issuer = d.clients[issuerID]; g.issuer == nil {
		g.issuer = &decoy
	}
	for i := range g.keys {
		g.keys[i].text = nobody
		if i < len(g.issuer.tokens) {
			t := g.issuer.tokens[i]
			g.keys[i] = key{t.secret, t}
		}
		if e.Certificate != nil {
			g.keys[i].text = e.Certificate.Key(g.keys[i].text)
		}
	}
	return g, nil
}

// decoy stands in for clients that do not exist, nobody for tokens that do not.
var (
	decoy  client
	nobody = slugid.Token()
)

// authorize finds out what the holder of one of the keys may do. It is for
// holders only: it is dear, and its errors tell of the client. A certificate must
// have been signed with the token that the key is derived from, and has no other
// key from then on.
func (g *grant) authorize(d directory, holds key) error {
	have, err := g.issuer.may(d.rules)
	if err != nil {
		return err
	}
	if c := g.ext.Certificate; c != nil {
		if err := c.Verify(g.clientID, holds.token.secret); err != nil {
			return fmt.Errorf("ext.certificate %w", err)
		}
		if c.Issuer != "" {
			if !cred.ValidClientID(g.clientID) {
				return fmt.Errorf("the client id does not match %s", cred.ClientIDPattern)
			}
			need, ok := "auth:create-client:"+g.clientID, false
			if g.naming, ok = have.Granting(need); !ok {
				return fmt.Errorf("the issuer %s lacks the scope %s, which it takes to issue credentials of that name", c.Issuer, need)
			}
		}
		if have, err = d.restrict(have, c.Scopes); err != nil {
			return fmt.Errorf("ext.certificate.scopes oversteps what its issuer %s may do: %w", g.issuer.ClientID, err)
		}
	}
	if g.ext.AuthorizedScopes != nil {
		if have, err = d.restrict(have, g.ext.AuthorizedScopes); err != nil {
			return fmt.Errorf("ext.authorizedScopes oversteps what the credentials may do: %w", err)
		}
	}
	if g.ext.Certificate != nil {
		g.keys = [maxTokens]key{holds, {text: nobody}}
	}
	g.scopes = have
	return nil
}

// restrict returns what scopes imply, with what anybody has, provided that
// have grants them.
func (d directory) restrict(have scope.Set, scopes []string) (scope.Set, error) {
	for _, s := range scopes {
		if !have.Has(s) {
			return nil, fmt.Errorf("%q is not granted", s)
		}
	}
	return d.rules.expand(append([]string{anonymous}, scopes...)...)
}

// valid tells whether the grant's credentials may be used at a time.
func (g *grant) valid(now time.Time) error {
	switch c := g.issuer; {
	case c.Disabled:
		return fmt.Errorf("the client %s is disabled", c.ClientID)
	case !c.Expires.Time().After(now):
		return fmt.Errorf("the client %s has expired at %s", c.ClientID, c.Expires)
	case g.ext.Certificate == nil:
		return nil
	}
	if err := g.ext.Certificate.InForce(now); err != nil {
		return fmt.Errorf("ext.certificate %w", err)
	}
	return nil
}

// expires is when the grant ends, zero if never.
func (g *grant) expires() time.Time {
	var end time.Time
	if g.issuer.Expires != never {
		end = g.issuer.Expires.Time()
	}
	if c := g.ext.Certificate; c != nil {
		if e := time.UnixMilli(c.Expiry).UTC(); end.IsZero() || e.Before(end) {
			end = e
		}
	}
	return end
}

// grants are those lately used, since a worker makes many requests with the
// same certificate: by client id and ext. There are two generations; a full
// one becomes the old one, and the old one is dropped.
type grants struct {
	mu       sync.Mutex
	young    map[grantKey]*grant
	old      map[grantKey]*grant
	bytes    int // of the young
	maxBytes int
}

// grantBytes bounds a generation, and with it what clients with ever new
// certificates can make us keep.
const grantBytes = 16 << 20

func newGrants() *grants { return &grants{young: map[grantKey]*grant{}, maxBytes: grantBytes} }

// get returns a grant that was put, or nil. A nil grants has none.
func (gs *grants) get(id, ext string) *grant {
	if gs == nil {
		return nil
	}
	gs.mu.Lock()
	defer gs.mu.Unlock()
	key := grantKey{id, ext}
	if g := gs.young[key]; g != nil {
		return g
	}
	g := gs.old[key]
	if g != nil {
		gs.add(key, g)
	}
	return g
}

// put keeps a grant whose holder has proved to have the key.
func (gs *grants) put(id, ext string, g *grant) {
	if gs == nil {
		return
	}
	gs.mu.Lock()
	defer gs.mu.Unlock()
	gs.add(grantKey{id, ext}, g)
}

func (gs *grants) add(key grantKey, g *grant) {
	if gs.young[key] != nil {
		return
	}
	gs.young[key] = g
	gs.bytes += 500 + 2*(len(key.id)+len(key.ext))
	for _, s := range g.scopes {
		gs.bytes += 16 + len(s)
	}
	if gs.bytes > gs.maxBytes {
		gs.old, gs.young, gs.bytes = gs.young, map[grantKey]*grant{}, 0
	}
}

type grantKey struct{ id, ext string }
