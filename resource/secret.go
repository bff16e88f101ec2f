package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

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
	exists, err := secretExists(ctx, c, s.SecretName)
	if !exists {
		return nil, err
	}
	return s.Want(), nil
}

// Make implements Resource. If the client was not made just now its token is known to
// nobody any more, or to others, with whom it ends: it gets another one.
func (s *TokenSecret) Make(ctx context.Context, c *client.Client, _ bool) error {
	token := s.Client.token
	if token == "" {
		reset, err := auth.New(c).ResetAccessToken(ctx, s.Client.ClientID)
		if err != nil {
			return fmt.Errorf("a new access token for %s: %w", s.Client.ClientID, err)
		}
		token = reset.AccessToken
	}
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
}

// Kind implements Resource.
func (*Secret) Kind() string { return "secret" }

// Name implements Resource.
func (s *Secret) Name() string { return s.SecretName }

// Want implements Resource.
func (*Secret) Want() any { return struct{}{} }

// Is implements Resource.
func (s *Secret) Is(ctx context.Context, c *client.Client) (any, error) {
	exists, err := secretExists(ctx, c, s.SecretName)
	if !exists {
		return nil, err
	}
	return s.Want(), nil
}

// Make implements Resource.
func (s *Secret) Make(ctx context.Context, c *client.Client, _ bool) error {
	return setSecret(ctx, c, s.SecretName, json.RawMessage("{}"), s.Expires)
}

// secretExists looks by the list of names, for which nobody has to be allowed to
// read secrets.
func secretExists(ctx context.Context, c *client.Client, name string) (bool, error) {
	for have, err := range secrets.New(c).ListAll(ctx, secrets.ListOptions{}) {
		if err != nil {
			return false, err
		}
		if have == name {
			return true, nil
		}
	}
	return false, nil
}

func setSecret(ctx context.Context, c *client.Client, name string, value json.RawMessage, expires timestamp.Time) error {
	return secrets.New(c).Set(ctx, name, &secrets.Secret{Secret: value, Expires: expires})
}
