package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
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

// A secretDocument is a secret of which the value, if it has one, is that. What is left out
// stays as it is.
type secretDocument struct {
	Expires timestamp.Time `json:"expires,omitzero"`
	Value   tree           `json:"value,omitzero"`
	// From is where files say the value is; it is gone once that is read.
	From *source `json:"valueFrom,omitempty"`
}

// A source is where the value of a secret is, as JSON.
type source struct {
	File string `json:"file,omitempty"` // relative to the file that names it
	Env  string `json:"env,omitempty"`
}

const largestSecret = 1 << 20 // bytes of JSON

// What is shown in place of values.
const (
	hidden  = `"(hidden)"`
	another = `"(hidden, another value)"`
)

// Secrets are those of the secrets service. Their values are read only where a definition
// gives one, or an expiry, to compare with; otherwise it is enough that they are listed.
var Secrets Kind = &kind[secretDocument]{
	name: "Secret", noun: "secret", section: "secrets",
	check: func(name string, d *secretDocument) error {
		switch {
		case name == "" || len(name) > 1000:
			return errors.New("the name of a secret has 1 to 1000 bytes")
		case d.From != nil && len(d.Value) > 0:
			return errors.New("it has both value and valueFrom; give one")
		case d.From != nil && (d.From.File == "") == (d.From.Env == ""):
			return errors.New("valueFrom needs one of file and env, which say where the value is")
		case len(d.Value) > 0 && !d.Value.object():
			return errors.New("the value of a secret must be a JSON object, such as {\"key\": \"...\"}")
		case len(d.Value) > largestSecret:
			return fmt.Errorf("the value has %d bytes of JSON; %d are the most", len(d.Value), largestSecret)
		}
		return nil
	},
	read: readSecret,
	list: func(ctx context.Context, c *client.Client) (map[string]*secretDocument, error) {
		all := map[string]*secretDocument{}
		for name, err := range secrets.New(c).ListAll(ctx, secrets.ListOptions{}) {
			if err != nil {
				return nil, err
			}
			all[name] = &secretDocument{}
		}
		return all, nil
	},
	write: func(ctx context.Context, c *client.Client, name string, d *secretDocument, exists bool) error {
		if exists && (len(d.Value) == 0 || d.Expires.IsZero()) {
			is, err := readSecret(ctx, c, name)
			if err != nil {
				return err
			}
			if is == nil {
				return errGone
			}
			completeSecret(d, is)
		}
		value, expires := json.RawMessage(d.Value), d.Expires
		if len(value) == 0 {
			value = json.RawMessage("{}")
		}
		if expires.IsZero() {
			expires = never
		}
		if err := setSecret(ctx, c, name, value, expires); err != nil {
			return quiet(err)
		}
		return nil
	},
	remove: func(ctx context.Context, c *client.Client, name string) error {
		return secrets.New(c).Remove(ctx, name)
	},
	complete: completeSecret,
	show: func(d, other *secretDocument) {
		switch {
		case len(d.Value) == 0:
		case other == nil || string(d.Value) == string(other.Value):
			d.Value = tree(hidden)
		default:
			d.Value = tree(another)
		}
		d.From = nil
	},
	listed: func(want *secretDocument) bool { return len(want.Value) == 0 && want.Expires.IsZero() },
	exists: func(ctx context.Context, c *client.Client, name string) (bool, error) {
		return (&SecretNames{Prefix: name}).have(ctx, c, name)
	},
}

// quiet is an error of setting a secret, without the words of the platform where these might repeat the value.
func quiet(err error) error {
	if e, ok := errors.AsType[*client.Error](err); ok && e.StatusCode == http.StatusBadRequest {
		return fmt.Errorf("the platform does not take it (%s %d %s); its words are left out, as they may have the value in them", e.Method, e.StatusCode, e.Code)
	}
	return err
}

func readSecret(ctx context.Context, c *client.Client, name string) (*secretDocument, error) {
	s, err := secrets.New(c).Get(ctx, name)
	if e, ok := errors.AsType[*client.Error](err); ok && e.StatusCode == http.StatusGone {
		return nil, nil // it has expired, which is not to be there
	}
	if err != nil {
		return nil, err
	}
	d := &secretDocument{Expires: s.Expires}
	if d.Value.UnmarshalJSON(s.Secret) != nil {
		return nil, errors.New("its value is not JSON")
	}
	return d, nil
}

func completeSecret(want, is *secretDocument) {
	if len(want.Value) == 0 {
		want.Value = is.Value
	}
	if want.Expires.IsZero() {
		want.Expires = is.Expires
	}
}
