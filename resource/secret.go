package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/auth"
	"github.com/taskfleet/taskfleet/client/secrets"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A TokenSecret is a secret of the platform with the credentials of a client, for
// those who are to act as it: rootUrl, clientId and accessToken. Its value is made
// once, and never compared: who rotates the token publishes the new one there.
type TokenSecret struct {
	SecretName string
	Client     *Client
	Expires    timestamp.Time
	Names      *SecretNames
}

type tokenDocument struct {
	ClientID string `json:"credentialsOf"`
}

// Kind implements Resource.
func (*TokenSecret) Kind() string { return "secret" }

// Name implements Resource.
func (s *TokenSecret) Name() string { return s.SecretName }

// Want implements Resource.
func (s *TokenSecret) Want() any { return tokenDocument{s.Client.ClientID} }

// Is implements Resource. A secret that is there is taken for what it should be:
// its value is not asked for.
func (s *TokenSecret) Is(ctx context.Context, c *client.Client) (any, error) {
	exists, err := s.Names.have(ctx, c, s.SecretName)
	if !exists {
		return nil, err
	}
	return s.Want(), nil
}

// mostTokens is how many are made for a secret because somebody else has made one.
const mostTokens = 5

// Make implements Resource. If the client was not made just now its token is known to
// nobody any more, or to others, with whom it ends: it gets another one.
//
// Somebody may do the same at this moment, and have ended the token before it is put here
// over his own. So once it is there it is looked whether it is the latest, and if not another
// one is made.
func (s *TokenSecret) Make(ctx context.Context, c *client.Client, _ bool) error {
	token, rotated := s.Client.token, s.Client.rotated
	for range mostTokens {
		if token == "" {
			reset, err := auth.New(c).ResetAccessToken(ctx, s.Client.ClientID)
			if err != nil {
				return fmt.Errorf("a new access token for %s: %w", s.Client.ClientID, err)
			}
			token, rotated = reset.AccessToken, reset.LastRotated
		}
		if err := s.put(ctx, c, token); err != nil {
			return err
		}
		is, err := auth.New(c).Client(ctx, s.Client.ClientID)
		if err != nil {
			return fmt.Errorf("looking whether the access token of %s is still the latest: %w", s.Client.ClientID, err)
		}
		if is.LastRotated <= rotated {
			return nil
		}
		token = ""
	}
	return fmt.Errorf("somebody else makes access tokens of %s all the time: find out who, and do the same again", s.Client.ClientID)
}

func (s *TokenSecret) put(ctx context.Context, c *client.Client, token string) error {
	value, err := json.Marshal(map[string]string{"rootUrl": c.RootURL(), "clientId": s.Client.ClientID, "accessToken": token})
	if err != nil {
		return err
	}
	err = setSecret(ctx, c, s.SecretName, value, s.Expires)
	if err != nil && strings.Contains(err.Error(), token) {
		err = errors.New("the platform did not take it, and says why in words that have the token in them")
	}
	return err
}

// A Secret is one that should be there, with nothing in it until somebody sets it.
type Secret struct {
	SecretName string
	Expires    timestamp.Time
	Names      *SecretNames
}

// Kind implements Resource.
func (*Secret) Kind() string { return "secret" }

// Name implements Resource.
func (s *Secret) Name() string { return s.SecretName }

// Want implements Resource.
func (*Secret) Want() any { return struct{}{} }

// Is implements Resource.
func (s *Secret) Is(ctx context.Context, c *client.Client) (any, error) {
	exists, err := s.Names.have(ctx, c, s.SecretName)
	if !exists {
		return nil, err
	}
	return s.Want(), nil
}

// Make implements Resource.
func (s *Secret) Make(ctx context.Context, c *client.Client, _ bool) error {
	return setSecret(ctx, c, s.SecretName, json.RawMessage("{}"), s.Expires)
}

// SecretNames are the names of secrets that a platform has and that begin in some way. They
// are listed once, when the first of the secrets asks. For a list of names nobody has to be
// allowed to read secrets.
type SecretNames struct {
	Prefix string

	mu    sync.Mutex
	names map[string]bool // nil: not listed yet
}

func (n *SecretNames) have(ctx context.Context, c *client.Client, name string) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.names == nil {
		have := map[string]bool{}
		for name, err := range secrets.New(c).ListAll(ctx, secrets.ListOptions{}) {
			if err != nil {
				return false, err
			}
			if strings.HasPrefix(name, n.Prefix) {
				have[name] = true
			} else if name > n.Prefix {
				break // they come in order
			}
		}
		n.names = have
	}
	return n.names[name], nil
}

func setSecret(ctx context.Context, c *client.Client, name string, value json.RawMessage, expires timestamp.Time) error {
	return secrets.New(c).Set(ctx, name, &secrets.Secret{Secret: value, Expires: expires})
}
