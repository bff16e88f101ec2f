// Package gcp issues access tokens of service accounts of Google Cloud: it
// implements auth.GCP.
//
// It holds, for each project, the key of one service account, which itself may
// do nothing but make tokens for others (roles/iam.serviceAccountTokenCreator),
// and the list of those others.
package gcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	pem "github.com/golang-jwt/jwt/v5"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/jwt"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth"
)

// A Project is what is configured of a project.
type Project struct {
	Key             string   `yaml:"key"` // of the service account that makes the tokens: the JSON text that Google hands out
	ServiceAccounts []string `yaml:"serviceAccounts"`
}

// LogValue leaves the key out.
func (p Project) LogValue() slog.Value { return slog.AnyValue(p.ServiceAccounts) }

// String leaves the key out.
func (p Project) String() string { return p.LogValue().String() }

// GoString leaves the key out.
func (p Project) GoString() string { return p.String() }

// Config says what access is given to.
type Config struct {
	Projects  map[string]Project `yaml:"projects"` // by their ids
	Endpoint  string             `yaml:"endpoint"` // of the IAM credentials API; replaces Google's own
	Transport http.RoundTripper  `yaml:"-"`        // for tests
}

// Tokens makes access tokens.
type Tokens struct {
	endpoint string
	projects map[string]project
}

type project struct {
	client  *http.Client // signs with the project's key
	allowed []string
}

var _ auth.GCP = (*Tokens)(nil)

const (
	googleEndpoint = "https://iamcredentials.googleapis.com"
	cloudPlatform  = "https://www.googleapis.com/auth/cloud-platform"
	validity       = "3600s"
	timeout        = 20 * time.Second
	maxAnswer      = 1 << 20
)

// New checks the configuration. It does not connect.
func New(c Config) (*Tokens, error) {
	t := &Tokens{strings.TrimSuffix(c.Endpoint, "/"), map[string]project{}}
	if t.endpoint == "" {
		t.endpoint = googleEndpoint
	}
	for id, p := range c.Projects {
		var key struct {
			Type         string `json:"type"`
			ProjectID    string `json:"project_id"`
			ClientEmail  string `json:"client_email"`
			PrivateKey   string `json:"private_key"`
			PrivateKeyID string `json:"private_key_id"`
			TokenURI     string `json:"token_uri"`
		}
		if err := json.Unmarshal([]byte(p.Key), &key); err != nil {
			return nil, fmt.Errorf("auth: gcp: project %s: the key is not the JSON text that Google hands out", id) // err may show some of it
		}
		switch {
		case key.Type != "service_account" || key.ClientEmail == "" || key.PrivateKey == "" || key.TokenURI == "":
			return nil, fmt.Errorf("auth: gcp: project %s: the key is not one of a service account, with client_email, private_key and token_uri", id)
		case key.ProjectID != id:
			return nil, fmt.Errorf("auth: gcp: project %s: the key is one of project %s", id, key.ProjectID)
		}
		if _, err := pem.ParseRSAPrivateKeyFromPEM([]byte(key.PrivateKey)); err != nil {
			return nil, fmt.Errorf("auth: gcp: project %s: the key's private_key is not an RSA key in PEM", id)
		}
		// The client is used under the contexts of calls; this one only hands
		// over how to connect.
		base := context.WithValue(context.Background(), oauth2.HTTPClient, &http.Client{Transport: c.Transport, Timeout: timeout})
		t.projects[id] = project{
			(&jwt.Config{
				Email: key.ClientEmail, PrivateKey: []byte(key.PrivateKey), PrivateKeyID: key.PrivateKeyID,
				TokenURL: key.TokenURI, Scopes: []string{cloudPlatform},
			}).Client(base),
			p.ServiceAccounts,
		}
	}
	return t, nil
}

// AccessToken implements auth.GCP.
func (t *Tokens) AccessToken(ctx context.Context, id, account string) (token auth.Token, err error) {
	p, ok := t.projects[id]
	switch {
	case !ok:
		return token, api.Errorf(api.ResourceNotFound, "This deployment gives no access to the project %s of Google Cloud: an operator would have to add it to the configuration (auth.gcp).", id)
	case !slices.Contains(p.allowed, account):
		return token, api.Errorf(api.InvalidRequestArguments, "The service account %s is not one of those that this deployment gives access to: an operator would have to add it to those of project %s (auth.gcp).", account, id)
	}
	fail := func(err error) (auth.Token, error) {
		return auth.Token{}, fmt.Errorf("auth: get an access token of service account %s of Google Cloud: %w", account, err)
	}
	body, err := json.Marshal(map[string]any{"scope": []string{cloudPlatform}, "lifetime": validity})
	if err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// The dash is for the project: accounts are known without it.
	r, err := http.NewRequestWithContext(ctx, http.MethodPost,
		t.endpoint+"/v1/projects/-/serviceAccounts/"+url.PathEscape(account)+":generateAccessToken", strings.NewReader(string(body)))
	if err != nil {
		return fail(err)
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := p.client.Do(r)
	if err != nil {
		if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok { // its text is the whole answer
			var said struct {
				Error       string `json:"error"`
				Description string `json:"error_description"`
			}
			json.Unmarshal(refused.Body, &said) // what does not say why stays without
			return fail(fmt.Errorf("the key of project %s is refused with status %s: %.100s %.500s", id, refused.Response.Status, said.Error, said.Description))
		}
		return fail(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fail(err)
	}
	var answer struct {
		AccessToken string    `json:"accessToken"`
		ExpireTime  time.Time `json:"expireTime"`
		Error       struct {
			Status  string `json:"status"`
			Message string `json:"message"`
		} `json:"error"`
	}
	err = json.Unmarshal(text, &answer)
	switch res.StatusCode {
	case http.StatusForbidden, http.StatusNotFound:
		return token, api.Errorf(api.ResourceNotFound, "Google Cloud gives no token for the service account %s: %.500s. The account must exist, and the deployment's own account in project %s needs the role Service Account Token Creator on it.", account, answer.Error.Message, id)
	case http.StatusTooManyRequests:
		return token, api.Errorf(api.TooManyRequests, "Google Cloud refuses to make more tokens at present. Try again later.")
	case http.StatusOK:
		if err == nil && answer.AccessToken != "" && !answer.ExpireTime.IsZero() {
			return auth.Token{Text: answer.AccessToken, Expires: answer.ExpireTime}, nil
		}
		return fail(errors.New("the answer has none"))
	}
	return fail(fmt.Errorf("status %d %s: %.500s", res.StatusCode, answer.Error.Status, answer.Error.Message))
}
