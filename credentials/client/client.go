// Package client rotates the access token of a client of this platform.
//
// The client has two tokens during the overlap, so that what was made with the old
// one, temporary credentials above all, goes on working. The platform tells when each
// was last used, with what was issued with it.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Clients are those of the platform.
type Clients interface {
	// AddToken gives a client another access token; again for the same id, the same.
	AddToken(ctx context.Context, clientID, id string) (token string, err error)

	// Tokens are those of a client.
	Tokens(ctx context.Context, clientID string) ([]Token, error)

	// RetireToken ends one, if it is there.
	RetireToken(ctx context.Context, clientID, id string) error
}

// A Token is what is known of an access token.
type Token struct {
	ID                string
	Created, LastUsed timestamp.Time
	Live              bool
}

// Kind is credentials.Kind for clients.
type Kind struct {
	Clients Clients

	// RootURL is that of the platform, and Transport leads there.
	RootURL   string
	Transport http.RoundTripper
}

// Settings are those of a credential of this kind.
type Settings struct {
	ClientID string `json:"clientId"`
}

// A public is what tells a version.
type public struct {
	ClientID string `json:"clientId"`
	TokenID  string `json:"tokenId"`
}

// A secret is what consumers get: all that the official clients want to know.
type secret struct {
	RootURL     string `json:"rootUrl"`
	ClientID    string `json:"clientId"`
	AccessToken string `json:"accessToken"`
}

func parse(text json.RawMessage) (s Settings, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("the setting of a client is clientId: %w", err)
	}
	if !cred.ValidClientID(s.ClientID) {
		return s, fmt.Errorf("clientId is %q; it must be that of a client", s.ClientID)
	}
	return s, nil
}

// Check implements credentials.Kind.
func (Kind) Check(settings json.RawMessage) (place string, err error) {
	s, err := parse(settings)
	return "client " + s.ClientID, err
}

// Lag implements credentials.Lagging.
func (Kind) Lag() time.Duration { return UseLag }

// UseLag is how late the platform tells of a use at most, with some to spare: auth.UseLag.
const UseLag = 3 * time.Minute

// judge says whether trying again is of use.
func judge(err error) error {
	if e, ok := errors.AsType[*api.Error](err); ok && e.Status() < 500 {
		return credentials.Refused("%w", err)
	}
	return err
}

// Mint implements credentials.Kind.
func (k Kind) Mint(ctx context.Context, o credentials.Order) (m credentials.Minted, err error) {
	s, err := parse(o.Settings)
	if err != nil {
		return m, credentials.Refused("%w", err)
	}
	token, err := k.Clients.AddToken(ctx, s.ClientID, o.ID)
	if err != nil {
		return m, judge(err)
	}
	if m.Public, err = json.Marshal(public{s.ClientID, o.ID}); err == nil {
		m.Secret, err = json.Marshal(secret{k.RootURL, s.ClientID, token})
	}
	return m, err
}

// Prove implements credentials.Kind: it asks the platform what the client may do. A
// client that may not even know that has shown who it is all the same.
func (k Kind) Prove(ctx context.Context, v credentials.Version) error {
	var s secret
	if err := json.Unmarshal(v.Secret, &s); err != nil {
		return credentials.Refused("the secret cannot be read")
	}
	c, err := client.New(client.Options{
		RootURL: k.RootURL, Credentials: cred.Credentials{ClientID: s.ClientID, AccessToken: s.AccessToken}, Transport: k.Transport, Retry: client.Retry{For: -1},
	})
	if err != nil {
		return err
	}
	err = c.Do(ctx, client.Request{Name: "auth.currentScopes", Verb: http.MethodGet, Route: "/api/auth/v1/scopes/current"}, nil)
	if e, ok := errors.AsType[*client.Error](err); ok && e.StatusCode == http.StatusForbidden {
		return nil
	} else if ok && e.StatusCode == http.StatusUnauthorized { // the platform knows its tokens
		return fmt.Errorf("%w: %w", credentials.ErrNoVersion, err)
	}
	return err
}

// token is the id of a version's token: one that was adopted has another than the
// version.
func token(v credentials.Version) (clientID, id string, err error) {
	s, err := parse(v.Settings)
	if err != nil {
		return "", "", credentials.Refused("%w", err)
	}
	var p public
	if json.Unmarshal(v.Public, &p) != nil || p.TokenID == "" { // it was not minted, or it is not known
		return s.ClientID, v.ID, nil
	}
	return p.ClientID, p.TokenID, nil
}

// Used implements credentials.Kind.
func (k Kind) Used(ctx context.Context, v credentials.Version) (time.Time, error) {
	clientID, id, err := token(v)
	if err != nil {
		return time.Time{}, err
	}
	list, err := k.Clients.Tokens(ctx, clientID)
	if err != nil {
		return time.Time{}, judge(err)
	}
	for _, t := range list {
		switch {
		case t.ID != id || !t.Live:
		case t.LastUsed.IsZero():
			return time.Time{}, nil
		default:
			return t.LastUsed.Time(), nil
		}
	}
	return time.Time{}, credentials.ErrNoVersion
}

// Disable implements credentials.Kind. A token is there or it is not.
func (Kind) Disable(context.Context, credentials.Version) error { return nil }

// Retire implements credentials.Kind.
func (k Kind) Retire(ctx context.Context, v credentials.Version) error {
	clientID, id, err := token(v)
	if err != nil {
		return err
	}
	return judge(k.Clients.RetireToken(ctx, clientID, id))
}

// List implements credentials.Kind.
func (k Kind) List(ctx context.Context, o credentials.Order) (found []credentials.Found, err error) {
	s, err := parse(o.Settings)
	if err != nil {
		return nil, credentials.Refused("%w", err)
	}
	list, err := k.Clients.Tokens(ctx, s.ClientID)
	if err != nil {
		return nil, judge(err)
	}
	versions := map[string]string{}
	for _, v := range o.Known {
		if _, id, err := token(v); err == nil {
			versions[id] = v.ID
		}
	}
	for _, t := range list {
		if !t.Live {
			continue
		}
		f := credentials.Found{ID: t.ID, Created: t.Created, Adopt: true} // whoever has made it
		if id, ok := versions[t.ID]; ok {
			f.ID = id
		}
		if f.Public, err = json.Marshal(public{s.ClientID, t.ID}); err != nil {
			return nil, err
		}
		found = append(found, f)
	}
	return found, nil
}
