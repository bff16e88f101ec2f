package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth"
	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/rotatortest"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

const rootURL = "http://tasks.test"

// A platform is the service auth behind its API.
type platform struct {
	*auth.Auth
	refresh func(context.Context) (bool, error)
	server  *api.Server
	root    *client.Client
}

// RoundTrip has the API answer, after it has looked at what other replicas did: what
// is a loop elsewhere.
func (p *platform) RoundTrip(r *http.Request) (*http.Response, error) {
	if _, err := p.refresh(r.Context()); err != nil {
		return nil, err
	}
	in := httptest.NewRequest(r.Method, r.URL.String(), r.Body)
	in.Header = r.Header.Clone()
	w := httptest.NewRecorder()
	p.server.ServeHTTP(w, in.WithContext(r.Context()))
	return w.Result(), nil
}

func start(t *testing.T, db *store.DB) *platform {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	bus, err := event.New(t.Context(), db, log)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.NewKeys(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	root := cred.Credentials{ClientID: "static/taskcluster/root", AccessToken: "root-token-for-tests-only-0123456789"}
	p := &platform{}
	if p.Auth, err = auth.New(t.Context(), auth.Config{DB: db, Events: bus, Keys: keys, Log: log,
		Static: []auth.StaticClient{{ClientID: root.ClientID, AccessToken: root.AccessToken, Scopes: []string{"*"}}}}); err != nil {
		t.Fatal(err)
	}
	for _, l := range p.Loops() {
		if l.Name == "auth.refresh" {
			p.refresh = l.Pass
		}
	}
	p.server = api.NewServer(api.Options{RootURL: rootURL, Auth: p.Auth, Log: log, Metrics: prometheus.NewRegistry()})
	if err := api.Mount(p.server, auth.API, p.Auth); err != nil {
		t.Fatal(err)
	}
	p.root = p.as(t, root)
	return p
}

func (p *platform) as(t *testing.T, creds cred.Credentials) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{RootURL: rootURL, Credentials: creds, Transport: p, Retry: client.Retry{For: -1}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// create makes a client with some scopes, and returns its first token.
func (p *platform) create(t *testing.T, clientID string, scopes ...string) string {
	t.Helper()
	var out struct{ AccessToken string }
	if err := p.root.Do(t.Context(), client.Request{Name: "auth.createClient", Verb: http.MethodPut, Route: "/api/auth/v1/clients/<clientId>", Args: []string{clientID},
		In: map[string]any{"expires": timestamp.Now().Add(1000 * 24 * time.Hour), "description": "test", "scopes": append([]string{}, scopes...)}}, &out); err != nil {
		t.Fatal(err)
	}
	return out.AccessToken
}

// Tokens is what serve.go makes of auth's.
type tokens struct{ *auth.Auth }

func (k tokens) Tokens(ctx context.Context, clientID string) (list []Token, err error) {
	all, err := k.Auth.Tokens(ctx, clientID)
	for _, t := range all {
		list = append(list, Token(t))
	}
	return list, err
}

// works makes a request with the token and one with temporary credentials that were
// issued with it.
func (p *platform) works(t *testing.T) func(ctx context.Context, text json.RawMessage) error {
	return func(ctx context.Context, text json.RawMessage) error {
		var s secret
		if err := json.Unmarshal(text, &s); err != nil {
			return err
		}
		creds := cred.Credentials{ClientID: s.ClientID, AccessToken: s.AccessToken}
		temporary, err := cred.Temporary(creds, cred.Options{Start: time.Now().Add(-time.Minute), Expiry: time.Now().Add(time.Hour), Scopes: []string{"auth:current-scopes"}})
		if err != nil {
			return err
		}
		for _, c := range []cred.Credentials{creds, temporary} {
			if err := p.as(t, c).Do(ctx, client.Request{Name: "auth.currentScopes", Verb: http.MethodGet, Route: "/api/auth/v1/scopes/current"}, nil); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestClientsRotate(t *testing.T) {
	var clients atomic.Int64
	of := map[*store.DB]*platform{}
	rotatortest.Run(t, func(t *testing.T, db *store.DB) rotatortest.Subject {
		if of[db] == nil {
			of[db] = start(t, db)
		}
		p := of[db]
		clientID := fmt.Sprintf("team/ci-%d", clients.Add(1))
		p.create(t, clientID, "auth:current-scopes")
		return rotatortest.Subject{
			Kind: Kind{tokens{p.Auth}, rootURL, p}, Settings: fmt.Sprintf(`{"clientId":%q}`, clientID), Works: p.works(t), Slow: true,
			Forget: func(ctx context.Context, _ credentials.Version) error {
				return p.root.Do(ctx, client.Request{Name: "auth.resetAccessToken", Verb: http.MethodPost, Route: "/api/auth/v1/clients/<clientId>/reset", Args: []string{clientID}}, nil)
			},
		}
	})
}

// A client that may do nothing can show who it is; one that is disabled, or that has
// another token, cannot.
func TestAProofIsARequest(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		p := start(t, db)
		p.create(t, "team/ci")
		k := Kind{tokens{p.Auth}, rootURL, p}
		settings := json.RawMessage(`{"clientId":"team/ci"}`)
		m, err := k.Mint(t.Context(), credentials.Order{Credential: "c", Settings: settings, ID: "fN1SbArXTPSVFNUvaOlinQ"})
		if err != nil {
			t.Fatal(err)
		}
		v := credentials.Version{ID: "fN1SbArXTPSVFNUvaOlinQ", Settings: settings, Public: m.Public, Secret: m.Secret}
		if err := k.Prove(t.Context(), v); err != nil {
			t.Errorf("a client without scopes: %v", err)
		}
		wrong := v
		wrong.Secret = json.RawMessage(`{"clientId":"team/ci","accessToken":"hunter2hunter2hunter2hunter2"}`)
		if err := k.Prove(t.Context(), wrong); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("another token: %v", err)
		}
		if err := p.root.Do(t.Context(), client.Request{Name: "auth.disableClient", Verb: http.MethodPost, Route: "/api/auth/v1/clients/<clientId>/disable", Args: []string{"team/ci"}}, nil); err != nil {
			t.Fatal(err)
		}
		if err := k.Prove(t.Context(), v); err == nil {
			t.Error("a client that is disabled has proved its token")
		}
	})
}

func TestAClientThatIsNotThereIsRefusedForGood(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		k := Kind{tokens{start(t, db).Auth}, rootURL, nil}
		_, err := k.Mint(t.Context(), credentials.Order{Settings: json.RawMessage(`{"clientId":"team/nobody"}`), ID: "fN1SbArXTPSVFNUvaOlinQ"})
		if err == nil || !strings.Contains(err.Error(), "team/nobody") {
			t.Errorf("minting: %v", err)
		}
		for text, says := range map[string]string{`{}`: "clientId is", `{"clientId":"a","x":1}`: "unknown field"} {
			if _, err := k.Check(json.RawMessage(text)); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v", text, err)
			}
		}
	})
}
