package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
)

const host = "tc.example.com"

// A world is a deployment of auth alone, and how tests make calls to it.
type world struct {
	testing.TB
	*Auth
	db     *store.DB
	events *event.Bus
	key    seal.Key
	config Config
	server http.Handler
	root   cred.Credentials
}

// newWorld is one whose tokens are sealed with a key, a new one if none is given.
func newWorld(t testing.TB, db *store.DB, keys ...seal.Key) *world {
	t.Helper()
	key := append(keys, seal.NewKey())[0]
	log := slog.New(slog.DiscardHandler)
	bus, err := event.New(t.Context(), db, log)
	if err != nil {
		t.Fatal(err)
	}
	root := StaticClient{ClientID: "static/taskcluster/root", AccessToken: slugid.Token(), Description: "Root", Scopes: []string{"*"}}
	w := &world{TB: t, db: db, events: bus, key: key, root: cred.Credentials{ClientID: root.ClientID, AccessToken: root.AccessToken}}
	w.config = Config{
		DB: db, Events: bus, Keys: keysOf(t, key), Log: log,
		Anonymous: []string{"auth:get-client:*", "auth:get-role:*", "auth:list-*", "auth:current-scopes", "auth:expand-scopes"},
		Static: []StaticClient{root, {
			ClientID: "static/taskcluster/queue", AccessToken: slugid.Token(),
			Scopes: []string{"auth:create-client:task-client/*", "queue:*", "assume:worker:*"},
		}},
	}
	w.Auth = w.start()
	w.server = w.serve(w.Auth)
	return w
}

func keysOf(t testing.TB, keys ...seal.Key) *seal.Keys {
	t.Helper()
	ks, err := seal.NewKeys(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return ks
}

// start opens another Auth on the same database: a replica, or this one after
// a restart.
func (w *world) start() *Auth {
	w.Helper()
	a, err := New(w.Context(), w.config)
	if err != nil {
		w.Fatal(err)
	}
	return a
}

func (w *world) serve(a *Auth) http.Handler {
	w.Helper()
	s := api.NewServer(api.Options{RootURL: "https://" + host, Auth: a, Log: w.config.Log, Metrics: prometheus.NewRegistry(), CheckOutput: true})
	if err := api.Mount(s, API, a); err != nil {
		w.Fatal(err)
	}
	return s
}

// A reply is the answer to a call.
type reply struct {
	status int
	body   map[string]any
	text   string
}

// send makes a request as it is.
func (w *world) send(r *http.Request) reply {
	rec := httptest.NewRecorder()
	w.server.ServeHTTP(rec, r)
	p := reply{status: rec.Code, text: rec.Body.String()}
	json.Unmarshal(rec.Body.Bytes(), &p.body) // a list stays in text
	return p
}

func (w *world) request(method, path string, body any) *http.Request {
	w.Helper()
	var b bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&b).Encode(body); err != nil {
			w.Fatal(err)
		}
	}
	r := httptest.NewRequest(method, "https://"+host+"/api/auth/v1"+path, &b)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("X-Forwarded-Proto", "https")
	return r
}

// call makes a signed call.
func (w *world) call(c cred.Credentials, method, path string, body any) reply {
	w.Helper()
	return w.restricted(c, nil, method, path, body)
}

func (w *world) restricted(c cred.Credentials, authorizedScopes []string, method, path string, body any) reply {
	w.Helper()
	r := w.request(method, path, body)
	if err := cred.Sign(r, c, authorizedScopes); err != nil {
		w.Fatal(err)
	}
	return w.send(r)
}

// want makes a call and checks its status.
func (w *world) want(status int, c cred.Credentials, method, path string, body any) reply {
	w.Helper()
	p := w.call(c, method, path, body)
	if p.status != status {
		w.Fatalf("%s %s by %s: %d, want %d: %s", method, path, c.ClientID, p.status, status, p.text)
	}
	return p
}

// scopes are what the credentials are good for, or why they are not.
func (w *world) scopes(c cred.Credentials) string {
	w.Helper()
	return w.call(c, "GET", "/scopes/current", nil).scopes()
}

// scopes are those of the reply, without what anybody has; or the first line
// of its error.
func (p reply) scopes() string {
	if p.status != 200 {
		line, _, _ := strings.Cut(p.body["message"].(string), "\n")
		return line
	}
	var list []string
	for _, s := range p.body["scopes"].([]any) {
		if s := s.(string); s != anonymous && !strings.HasPrefix(s, "auth:get-") && !slices.Contains([]string{"auth:list-*", "auth:current-scopes", "auth:expand-scopes"}, s) {
			list = append(list, s)
		}
	}
	return strings.Join(list, " ")
}

func (p reply) member(name string) string {
	s, _ := p.body[name].(string)
	return s
}

func clientPathOf(id string) string { return "/clients/" + url.PathEscape(id) }
func rolePathOf(id string) string   { return "/roles/" + url.PathEscape(id) }

// client creates a client, by root.
func (w *world) client(id string, scopes ...string) cred.Credentials {
	w.Helper()
	p := w.want(200, w.root, "PUT", clientPathOf(id), clientBody(time.Now().Add(24*time.Hour), scopes...))
	return cred.Credentials{ClientID: id, AccessToken: p.member("accessToken")}
}

func clientBody(expires time.Time, scopes ...string) map[string]any {
	return map[string]any{"description": "for a test", "expires": expires.UTC().Format(time.RFC3339), "scopes": append([]string{}, scopes...)}
}

func roleBody(scopes ...string) map[string]any {
	return map[string]any{"description": "for a test", "scopes": append([]string{}, scopes...)}
}

func (w *world) role(id string, scopes ...string) {
	w.Helper()
	w.want(200, w.root, "PUT", rolePathOf(id), roleBody(scopes...))
}

func (w *world) temporary(issuer cred.Credentials, o cred.Options) cred.Credentials {
	w.Helper()
	if o.Expiry.IsZero() {
		o.Expiry = time.Now().Add(time.Hour)
	}
	c, err := cred.Temporary(issuer, o)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// pass runs a pass of a loop of a.
func (w *world) pass(a *Auth, name string) {
	w.Helper()
	for _, l := range slices.Concat(a.Loops(), w.events.Loops()) {
		if l.Name != name {
			continue
		}
		for more := true; more; {
			var err error
			if more, err = l.Pass(context.WithoutCancel(w.Context())); err != nil {
				w.Fatal(err)
			}
		}
		return
	}
	w.Fatalf("there is no loop %s", name)
}

// run runs the loops of a until the test ends.
func (w *world) run(a *Auth) {
	ctx, stop := context.WithCancel(w.Context())
	done := make(chan error)
	go func() {
		done <- loop.NewRunner(w.config.Log, loop.Alone, prometheus.NewRegistry()).Run(ctx, a.Loops()...)
	}()
	w.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
}

// messages are what was published so far: "client-created some/client".
func (w *world) messages() (list []string) {
	w.Helper()
	w.pass(w.Auth, "event.place")
	all, err := w.events.Read(w.Context(), 0, 1000)
	if err != nil {
		w.Fatal(err)
	}
	for _, m := range all {
		var p message
		if err := json.Unmarshal(m.Payload, &p); err != nil || p.Version != 1 || m.RoutingKey != "_" {
			w.Fatalf("message %s %s: %v", m.RoutingKey, m.Payload, err)
		}
		list = append(list, m.Exchange[strings.LastIndexByte(m.Exchange, '/')+1:]+" "+p.ClientID+p.RoleID)
	}
	return list
}
