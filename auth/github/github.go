// Package github issues tokens of GitHub apps for some repositories and
// permissions: it implements auth.GitHub.
//
// An app proves itself with a token that it signs with its private key. With
// that it asks for the installation on the owner's account, which it remembers
// for a while, and for a token of the installation. What the token permits is
// within what the owner has given to the app.
package github

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth"
)

// An App is an app's identity.
type App struct {
	ID         string `yaml:"appId"`
	PrivateKey string `yaml:"privateKey"` // PEM; line ends may be written \n
}

// LogValue leaves the key out.
func (a App) LogValue() slog.Value { return slog.StringValue("GitHub app " + a.ID) }

// String leaves the key out.
func (a App) String() string { return a.LogValue().String() }

// GoString leaves the key out.
func (a App) GoString() string { return a.String() }

// Config says which apps there are.
type Config struct {
	Apps      map[string]App    `yaml:"apps"`     // by the names that scopes know them by
	Endpoint  string            `yaml:"endpoint"` // of the REST API; replaces that of github.com
	Transport http.RoundTripper `yaml:"-"`        // for tests
}

// Apps makes tokens.
type Apps struct {
	endpoint string
	client   *http.Client
	apps     map[string]*app
}

type app struct {
	name, id string
	key      *rsa.PrivateKey

	mu            sync.Mutex
	installations map[string]installation // by owner
}

type installation struct {
	id   int64
	till time.Time
}

var _ auth.GitHub = (*Apps)(nil)

const (
	githubEndpoint = "https://api.github.com"
	apiVersion     = "2022-11-28"
	timeout        = 20 * time.Second
	maxAnswer      = 4 << 20
	remembered     = time.Hour // an installation
	maxRemembered  = 1000

	appToken = 9 * time.Minute // GitHub takes no longer ones than 10
	slack    = time.Minute     // that GitHub's clock may be behind ours
)

var appName = regexp.MustCompile(`^[a-zA-Z0-9_-]+$`)

// New checks the configuration. It does not connect.
func New(c Config) (*Apps, error) {
	g := &Apps{strings.TrimSuffix(cmp.Or(c.Endpoint, githubEndpoint), "/"), &http.Client{Transport: c.Transport, Timeout: timeout}, map[string]*app{}}
	for name, a := range c.Apps {
		if !appName.MatchString(name) {
			return nil, fmt.Errorf("auth: github: the name %q of an app does not match %s", name, appName)
		}
		key, err := jwt.ParseRSAPrivateKeyFromPEM([]byte(strings.ReplaceAll(a.PrivateKey, `\n`, "\n")))
		if a.ID == "" || err != nil {
			return nil, fmt.Errorf("auth: github: app %s needs an appId and a privateKey, which is an RSA key in PEM", name) // err may show some of it
		}
		g.apps[name] = &app{name: name, id: a.ID, key: key, installations: map[string]installation{}}
	}
	return g, nil
}

// RepoToken implements auth.GitHub.
func (g *Apps) RepoToken(ctx context.Context, name, owner string, repositories []string, permissions map[string]string) (t auth.Token, err error) {
	a := g.apps[name]
	if a == nil {
		return t, api.Errorf(api.ResourceNotFound, "This deployment has no GitHub app of the name %s: an operator would have to add it to the configuration (auth.github).", name)
	}
	id, err := g.installation(ctx, a, owner)
	if err != nil {
		return t, err
	}
	var made struct {
		Token   string    `json:"token"`
		Expires time.Time `json:"expires_at"`
	}
	refused, err := g.call(ctx, a, http.MethodPost, "/app/installations/"+strconv.FormatInt(id, 10)+"/access_tokens",
		map[string]any{"repositories": repositories, "permissions": permissions}, &made)
	switch {
	case err != nil:
		return t, err
	case refused == nil && (made.Token == "" || made.Expires.IsZero()):
		return t, fmt.Errorf("auth: github: the answer to a request for a token of app %s has none", name)
	case refused == nil:
		return auth.Token{Text: made.Token, Expires: made.Expires}, nil
	case refused.status == http.StatusNotFound:
		a.forget(owner)
		return t, a.notInstalled(owner)
	case refused.status == http.StatusUnprocessableEntity:
		return t, api.Errorf(api.InputError, "GitHub refuses this token: %.500s. The repositories must be among those that the app %s is installed on, and the permissions among those that it has there.", refused.message, name)
	}
	return t, refused.of(a)
}

func (a *app) notInstalled(owner string) error {
	return api.Errorf(api.ResourceNotFound, "The GitHub app %s is not installed on %s. The owner can install it there.", a.name, owner)
}

// installation finds the installation on an owner's account.
func (g *Apps) installation(ctx context.Context, a *app, owner string) (int64, error) {
	if id, ok := a.recall(owner); ok {
		return id, nil
	}
	var found struct {
		ID      int64 `json:"id"`
		Account struct {
			Login string `json:"login"`
		} `json:"account"`
	}
	var refused *refusal
	for _, kind := range []string{"orgs", "users"} {
		var err error
		if refused, err = g.call(ctx, a, http.MethodGet, "/"+kind+"/"+url.PathEscape(owner)+"/installation", nil, &found); err != nil {
			return 0, err
		}
		if refused == nil || refused.status != http.StatusNotFound {
			break
		}
	}
	switch {
	case refused != nil && refused.status == http.StatusNotFound:
		return 0, a.notInstalled(owner)
	case refused != nil:
		return 0, refused.of(a)
	// GitHub follows an account to its new name, for which the caller need not
	// have scopes.
	case !strings.EqualFold(found.Account.Login, owner):
		return 0, api.Errorf(api.InputError, "GitHub says that the owner %s is called %.100q. Has it been renamed? Ask for a token by the new name.", owner, found.Account.Login)
	case found.ID == 0:
		return 0, fmt.Errorf("auth: github: the answer about the installation of app %s on %s has no id", a.name, owner)
	}
	a.remember(owner, found.ID)
	return found.ID, nil
}

func (a *app) recall(owner string) (int64, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	i, ok := a.installations[owner]
	return i.id, ok && time.Now().Before(i.till)
}

func (a *app) remember(owner string, id int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.installations) >= maxRemembered {
		clear(a.installations)
	}
	a.installations[owner] = installation{id, time.Now().Add(remembered)}
}

func (a *app) forget(owner string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.installations, owner)
}

// A refusal is an answer that is none of success.
type refusal struct {
	status  int
	message string
	limited bool // by a limit on requests
}

// of is the error for a refusal that says nothing special.
func (r *refusal) of(a *app) error {
	if r.limited {
		return api.Errorf(api.TooManyRequests, "GitHub refuses more requests of the app %s at present. Try again in a few minutes.", a.name)
	}
	return fmt.Errorf("auth: github: app %s: status %d: %.500s", a.name, r.status, r.message)
}

// call makes a request in the name of the app.
func (g *Apps) call(ctx context.Context, a *app, method, path string, body, answer any) (*refusal, error) {
	fail := func(err error) (*refusal, error) {
		return nil, fmt.Errorf("auth: github: app %s: %s %s: %w", a.name, method, path, err)
	}
	var sent io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fail(err)
		}
		sent = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, g.endpoint+path, sent)
	if err != nil {
		return fail(err)
	}
	now := time.Now()
	proof, err := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.RegisteredClaims{
		Issuer: a.id, IssuedAt: jwt.NewNumericDate(now.Add(-slack)), ExpiresAt: jwt.NewNumericDate(now.Add(appToken)),
	}).SignedString(a.key)
	if err != nil {
		return fail(err)
	}
	r.Header.Set("Authorization", "Bearer "+proof)
	r.Header.Set("Accept", "application/vnd.github+json")
	r.Header.Set("X-GitHub-Api-Version", apiVersion)
	r.Header.Set("User-Agent", "taskfleet")
	res, err := g.client.Do(r)
	if err != nil {
		return fail(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fail(err)
	}
	if res.StatusCode/100 == 2 {
		if err := json.Unmarshal(text, answer); err != nil {
			return fail(fmt.Errorf("the answer is not the JSON that was expected: %w", err))
		}
		return nil, nil
	}
	var said struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(text, &said) != nil {
		said.Message = "without an explanation"
	}
	return &refusal{
		status: res.StatusCode, message: said.Message,
		limited: res.StatusCode == http.StatusTooManyRequests || res.StatusCode == http.StatusForbidden &&
			(res.Header.Get("Retry-After") != "" || res.Header.Get("X-RateLimit-Remaining") == "0" || strings.Contains(strings.ToLower(said.Message), "secondary rate")),
	}, nil
}
