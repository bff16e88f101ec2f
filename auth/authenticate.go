package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/hawk"
)

// Authenticate implements api.Authenticator: it establishes who makes a
// request, by a Hawk header, or on GET and HEAD by a bewit, and what they may
// do. Nothing is read from or written to the database.
func (a *Auth) Authenticate(_ context.Context, r api.Credential) (api.Identity, error) {
	now := time.Now()
	s, err := a.trusted()
	if err != nil {
		return api.Identity{}, err
	}
	p, err := readProof(r)
	if err != nil {
		return api.Identity{}, refusal(err)
	}
	if p == nil {
		return api.Identity{Scopes: s.anonymous}, nil
	}
	id, err := p.verify(s.directory(), s.grants, now)
	if err == nil {
		err = p.checkPayload(r.ContentType, r.Body)
	}
	if err == nil && p.header != nil {
		err = a.nonces.use(p.header.MAC, p.header.Timestamp, now)
	}
	if err != nil {
		a.log.Debug("authentication failed", "clientId", p.id[:min(len(p.id), 200)], "remote", r.RemoteAddr, "reason", err)
		return api.Identity{}, refusal(err)
	}
	a.used(id.issuer, id.token, now)
	a.watch(&id, now)
	return id.Identity, nil
}

func refusal(err error) *api.Error {
	return api.Errorf(api.AuthenticationFailed, "Authentication failed: %v", err)
}

func (s *snapshot) directory() directory {
	return directory{s.clients, s.rules}
}

// A proof is what a request offers to show who makes it: a header or a bewit.
type proof struct {
	id, ext string
	header  *hawk.Header
	bewit   *hawk.Bewit
	request hawk.Request
}

// readProof takes a request apart. The result is nil where it offers nothing.
func readProof(r api.Credential) (*proof, error) {
	resource, text, found := hawk.CutBewit(r.Resource)
	if r.Authorization == "" && !found {
		return nil, nil
	}
	if r.Authorization != "" && found {
		return nil, errors.New("the request has both an Authorization header and a bewit; leave out one")
	}
	p := &proof{request: hawk.Request{Method: r.Method, Resource: resource}}
	var err error
	if p.request.Host, p.request.Port, err = addressed(r); err != nil {
		return nil, err
	}
	if !found {
		h, err := hawk.ParseHeader(r.Authorization)
		if err != nil {
			return nil, fmt.Errorf("the Authorization header is malformed: %w", err)
		}
		p.id, p.ext, p.header = h.ID, h.Ext, &h
		return p, nil
	}
	if m := strings.ToUpper(r.Method); m != http.MethodGet && m != http.MethodHead {
		return nil, errors.New("a bewit is good for GET and HEAD only; send an Authorization header")
	}
	b, err := hawk.ParseBewit(text)
	if err != nil {
		return nil, err
	}
	p.id, p.ext, p.bewit = b.ID, b.Ext, &b
	return p, nil
}

// addressed is the host and port that the client meant, as it signed them. A
// proxy that takes the client's connection says in X-Forwarded-* which port
// that was. Lying there helps nobody: it can only make a signature wrong.
func addressed(r api.Credential) (host string, port int, err error) {
	host, port, err = cred.SplitHost(r.Host)
	if err != nil {
		return "", 0, err
	}
	switch {
	case r.ForwardedPort != "":
		n, err := strconv.ParseUint(first(r.ForwardedPort), 10, 16)
		if err != nil {
			return "", 0, errors.New("the header X-Forwarded-Port is not a port number; a proxy in between is set up wrong")
		}
		port = int(n)
	case strings.EqualFold(first(r.ForwardedProto), "https"):
		port = 443
	case port == 0:
		port = 80
	}
	return host, port, nil
}

// first is the value that the proxy nearest to the client has set.
func first(list string) string {
	v, _, _ := strings.Cut(list, ",")
	return strings.TrimSpace(v)
}

// An identity is who made a request, and on whose credentials that rests.
type identity struct {
	api.Identity
	issuer *client
	token  *token // the issuer's
	naming string // the scope of the issuer by which it gave its temporary credentials a name
}

// errUnknown is the answer to anybody who does not hold the key, whatever the
// reason: it does not tell which clients exist.
var errUnknown = errors.New("the client is unknown or the signature is wrong. Check client id and access token, and that nothing on the way changes method, URL, host or port of the request")

// verify checks the proof against the clients of d. Whatever an error tells of
// a client, it tells only to one who holds the client's key.
func (p *proof) verify(d directory, cache *grants, now time.Time) (identity, error) {
	g, err := cache.get(p.id, p.ext), error(nil)
	cached := g != nil
	if !cached {
		if g, err = d.grant(p.id, p.ext); err != nil {
			return identity{}, err
		}
	}
	key, ok := p.key(g)
	if !ok {
		return identity{}, errUnknown
	}
	if err := p.timely(now); err != nil {
		return identity{}, err
	}
	if err := g.valid(now); err != nil {
		return identity{}, err
	}
	if !cached {
		if err := g.authorize(d, key); err != nil {
			return identity{}, err
		}
		cache.put(p.id, p.ext, g)
	}
	return identity{
		Identity: api.Identity{ClientID: g.clientID, Scopes: g.scopes, Expires: g.expires()},
		issuer:   g.issuer, token: key.token, naming: g.naming,
	}, nil
}

// key finds the one of the grant's keys that made the proof. Before it says no it
// has tried as many as a client can have, so that the time which that takes tells
// neither how many there are nor whether there is such a client.
func (p *proof) key(g *grant) (key, bool) {
	for _, k := range g.keys {
		if p.signedWith(k.text) && k.token != nil {
			return k, true
		}
	}
	return key{}, false
}

func (p *proof) signedWith(key string) bool {
	if p.bewit != nil {
		return p.bewit.Verify(p.request, key)
	}
	return p.header.Verify(p.request, key)
}

func (p *proof) timely(now time.Time) error {
	if p.bewit != nil {
		if p.bewit.Expired(now) {
			return fmt.Errorf("the signed URL has expired at %s", time.Unix(p.bewit.Expires, 0).UTC().Format(time.RFC3339))
		}
		return nil
	}
	if !p.header.Fresh(now) {
		return fmt.Errorf("the request is dated %s, the server's clock says %s; set the client's clock right",
			time.Unix(p.header.Timestamp, 0).UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

func (p *proof) checkPayload(contentType string, body []byte) error {
	if p.header == nil || p.header.Hash == "" || p.header.VerifyPayload(contentType, body) {
		return nil
	}
	return errors.New("the request body is not the one that was signed")
}
