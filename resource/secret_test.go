package resource

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"github.com/taskfleet/taskfleet/client"
)

// A platform is as much of one as secrets need. It has one client.
type platform struct {
	mu      sync.Mutex
	rotated int64 // its latest token was made then, and is called token-N
	names   []string
	lists   int
	secrets map[string]string // tokens in secrets
	onSet   func()            // somebody else, before a secret is set
}

func (p *platform) client(t *testing.T) *client.Client {
	t.Helper()
	answer := func(w http.ResponseWriter, format string, args ...any) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, format, args...)
	}
	about := func(token bool) string {
		text := fmt.Sprintf(`{"clientId": "project/a/ci", "description": "", "expires": "3000-01-01T00:00:00Z", "created": "2026-01-01T00:00:00Z",
			"lastModified": "2026-01-01T00:00:00Z", "lastDateUsed": "2026-01-01T00:00:00Z", "lastRotated": "2026-01-01T00:00:%02dZ",
			"deleteOnExpiration": false, "scopes": [], "expandedScopes": [], "disabled": false`, p.rotated)
		if token {
			text += fmt.Sprintf(`, "accessToken": "token-%d"`, p.rotated)
		}
		return text + "}"
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/auth/v1/clients/{id}", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		answer(w, "%s", about(false))
	})
	mux.HandleFunc("POST /api/auth/v1/clients/{id}/reset", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.rotated++
		answer(w, "%s", about(true))
	})
	mux.HandleFunc("GET /api/secrets/v1/secrets", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.lists++
		text, _ := json.Marshal(p.names)
		answer(w, `{"secrets": %s, "continuationToken": "more"}`, text) // it has no end
	})
	mux.HandleFunc("PUT /api/secrets/v1/secret/{name}", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Secret struct{ AccessToken string }
		}
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		p.mu.Lock()
		onSet := p.onSet
		p.mu.Unlock()
		if onSet != nil {
			onSet()
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.secrets[r.PathValue("name")] = in.Secret.AccessToken
		answer(w, "{}")
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	c, err := client.New(client.Options{RootURL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Names are listed once, and as far as they may be of the project.
func TestNamesOfSecretsAreListedOnce(t *testing.T) {
	p := &platform{names: []string{"garbage", "project/a/b", "project/a/c", "project/b/x"}}
	c := p.client(t)
	names := &SecretNames{Prefix: "project/a/"}
	var all []Resource
	for _, name := range []string{"a", "b", "c", "d"} {
		all = append(all, &Secret{SecretName: "project/a/" + name, Expires: 1, Names: names})
	}
	changes, err := Plan(t.Context(), c, all)
	if err != nil {
		t.Fatal(err)
	}
	var actions []Action
	for _, x := range changes {
		actions = append(actions, x.Action)
	}
	if want := []Action{Create, Keep, Keep, Create}; !slices.Equal(actions, want) || p.lists != 1 {
		t.Errorf("to be done: %v, want %v, after %d lists", actions, want, p.lists)
	}
}

// Somebody who does the same at the same time ends the token that was made, and puts
// his own before it.
func TestASecretHasTheTokenThatWorks(t *testing.T) {
	p := &platform{secrets: map[string]string{}}
	others := 2
	p.onSet = func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if others > 0 {
			others--
			p.rotated++
			p.secrets["project/a/ci"] = fmt.Sprintf("token-%d", p.rotated)
		}
	}
	s := &TokenSecret{SecretName: "project/a/ci", Client: &Client{ClientID: "project/a/ci"}}
	if err := s.Make(t.Context(), p.client(t), false); err != nil {
		t.Fatal(err)
	}
	if got, want := p.secrets["project/a/ci"], fmt.Sprintf("token-%d", p.rotated); got != want {
		t.Errorf("the secret has %s, and what works is %s", got, want)
	}
}
