package monitor_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/monitor"
	"github.com/taskfleet/taskfleet/scope"
)

// A faulty service fails in whichever way it is asked to.
type faulty struct {
	fault func(r *http.Request, path faultPath, body map[string]any) (any, error)
}

type faultPath struct {
	Name string `path:"name"`
}

func (*faulty) Authenticate(context.Context, api.Credential) (api.Identity, error) {
	return api.Identity{ClientID: "someone", Scopes: scope.NewSet("*")}, nil
}

// unspeakable is a reply that has no JSON.
type unspeakable struct{ error }

func (u unspeakable) MarshalJSON() ([]byte, error) { return nil, u.error }

var faultyAPI = api.Service[*faulty]{
	Name: "faulty", Version: "v1", Title: "Faulty", Doc: "Fails.",
	Schemas: fstest.MapFS{
		"any.yml":  {Data: []byte(`{type: object}`)},
		"none.yml": {Data: []byte(`{type: object, properties: {never: {type: integer}}, required: [never]}`)},
	},
	Params: map[string]string{"name": `.`},
	Methods: []api.Method[*faulty]{
		api.Declare(api.Spec{
			Name: "fail", Route: "POST /fail/<name>", Scopes: scope.Scope("fail"), Input: "v1/any.json#", Output: "v1/none.json#", Hidden: []string{"name"}, AnyQuery: true,
			Stability: api.Stable, Category: "Faults", Title: "Fail", Doc: "Fails.",
		}, func(_ context.Context, f *faulty, c api.Call[faultPath, map[string]any]) (any, error) {
			return f.fault(c.HTTP, c.Path, c.Body)
		}),
	},
}

var incidentID = regexp.MustCompile(`incident id ([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})`)

// A thousand failures of every sort, each with secrets in what the caller sends and
// in what the error says: each has one id, in the log, the answer and Sentry, and
// Sentry gets none of the secrets.
func TestEveryFaultIsFoundAgainAndTellsNoSecret(t *testing.T) {
	faults := 1000 // TASKFLEET_TEST_LONG, such as 10000, is for more
	if text := os.Getenv("TASKFLEET_TEST_LONG"); text != "" {
		var err error
		if faults, err = strconv.Atoi(text); err != nil {
			t.Fatalf("TASKFLEET_TEST_LONG is %q; it must be a number of faults", text)
		}
	}
	if testing.Short() {
		faults = 300 // with the race detector
	}
	s := &sink{}
	r, log, out := reporter(t, s, monitor.Config{Rate: 1 << 30, Queue: 500})
	f := &faulty{}
	server := api.NewServer(api.Options{RootURL: "https://tasks.test", Auth: f, Log: log, Metrics: prometheus.NewRegistry(), CheckOutput: true})
	// Where there is no check, what cannot be written is found out when it is.
	unchecked := api.NewServer(api.Options{RootURL: "https://tasks.test", Auth: f, Log: log, Metrics: prometheus.NewRegistry()})
	if err := errors.Join(api.Mount(server, faultyAPI, f), api.Mount(unchecked, faultyAPI, f)); err != nil {
		t.Fatal(err)
	}
	dice := rand.New(rand.NewPCG(6, 6))
	random := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(dice.Uint32())
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	sorts := map[string]int{}
	ids := map[string]bool{}
	for n := range faults {
		word, token, mac := "hunter"+random(6), random(33), base64.StdEncoding.EncodeToString([]byte(random(24)))
		body, err := json.Marshal(map[string]any{
			"payload": map[string]any{"env": map[string]any{"SECRET": word, "list": []any{"x " + word + ` "y"`}}}, "accessToken": token,
		})
		if err != nil {
			t.Fatal(err)
		}
		hawk := `Hawk id="someone", ts="1", nonce="abcdef", mac="` + mac + `", ext="` + base64.StdEncoding.EncodeToString([]byte(`{"certificate":{"seed":"`+token+`"}}`)) + `"`
		query := "bewit=" + url.QueryEscape(mac) + "&X-Amz-Signature=" + token

		// What an error can say of it.
		said := []string{
			"the payload " + string(body) + " is bad", "the value " + word, fmt.Sprintf("the value %q", word), "header " + hawk, "Authorization: " + hawk,
			"GET https://bucket.test/key?" + query, "the URL /x?" + query, "connecting to postgres://user:" + word + "@db/x", "token " + token,
			"body: " + fmt.Sprintf("%q", body), "the path fail/" + token, base64.StdEncoding.EncodeToString([]byte(token)),
			"-----BEGIN PRIVATE KEY-----\n" + token + "\n-----END PRIVATE KEY-----", url.QueryEscape(word + " " + mac), "password=" + word,
		}[dice.IntN(15)]
		sort := dice.IntN(8)
		f.fault = func(*http.Request, faultPath, map[string]any) (any, error) {
			switch sort {
			case 0:
				return nil, errors.New(said)
			case 1:
				return nil, fmt.Errorf("store: begin a transaction: %w", errors.Join(errors.New(said), io.ErrUnexpectedEOF))
			case 2:
				panic(said)
			case 3:
				panic(errors.New(said))
			case 4:
				return nil, api.Errorf(api.ServiceUnavailable, "The database is away. Call again.")
			case 5:
				return nil, fmt.Errorf("%s: %w", said, api.Errorf(api.InternalServerError, "It broke."))
			case 6:
				return map[string]any{"wrong": said}, nil
			}
			return unspeakable{errors.New(said)}, nil
		}
		q := httptest.NewRequest("POST", "/api/faulty/v1/fail/"+token+"?"+query, bytes.NewReader(body))
		q.Header.Set("Content-Type", "application/json")
		q.Header.Set("Authorization", hawk)
		w := httptest.NewRecorder()
		out.Reset()
		if sort == 7 {
			unchecked.ServeHTTP(w, q)
		} else {
			server.ServeHTTP(w, q)
		}
		found := incidentID.FindStringSubmatch(w.Body.String())
		if w.Code < 500 || found == nil {
			t.Fatalf("fault %d of sort %d: %d %s", n, sort, w.Code, w.Body)
		}
		id := found[1]
		if line := out.String(); ids[id] || strings.Count(line, id) != 1 || strings.Count(line, monitor.IDKey) != 1 {
			t.Fatalf("fault %d of sort %d: the log says\n%s", n, sort, line)
		}
		ids[id] = true
		pass(t, r)
		got := s.got()
		if len(got) != n+1 {
			t.Fatalf("fault %d of sort %d: %d events", n, sort, len(got))
		}
		e := got[n]
		if e.ID != strings.ReplaceAll(id, "-", "") || e.Tags["incident"] != id || e.Tags["service"] != "faulty" || e.Tags["method"] != "fail" {
			t.Fatalf("fault %d of sort %d: the event is\n%s", n, sort, e.raw)
		}
		for _, secret := range []string{word, token, mac, mac[:20], base64.StdEncoding.EncodeToString([]byte(token))[:20]} {
			if strings.Contains(e.raw, secret) || strings.Contains(e.raw, url.QueryEscape(secret)) {
				t.Fatalf("fault %d of sort %d, saying %s: the event tells %s:\n%s", n, sort, said, secret, e.raw)
			}
		}
		sorts[fmt.Sprint(sort)]++
	}
	if len(sorts) != 8 {
		t.Errorf("there were %v", sorts)
	}
}

// A stream that panics in the middle cannot be answered any more, but is reported.
func TestAPanicInAStreamIsReported(t *testing.T) {
	s := &sink{}
	r, log, _ := reporter(t, s, monitor.Config{})
	f := &faulty{fault: func(*http.Request, faultPath, map[string]any) (any, error) {
		return api.Stream(func(http.ResponseWriter, *http.Request) error { panic("broken pipe of ours") }), nil
	}}
	server := api.NewServer(api.Options{RootURL: "https://tasks.test", Auth: f, Log: log, Metrics: prometheus.NewRegistry()})
	if err := api.Mount(server, faultyAPI, f); err != nil {
		t.Fatal(err)
	}
	func() {
		defer func() {
			if p := recover(); p != http.ErrAbortHandler {
				t.Errorf("the connection is not broken: %v", p)
			}
		}()
		server.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/api/faulty/v1/fail/x", nil))
	}()
	pass(t, r)
	if got := s.got(); len(got) != 1 || !strings.Contains(got[0].Exception[0].Value, "broken pipe of ours") || !strings.Contains(fmt.Sprint(got[0].Contexts["panic"]), "goroutine") {
		t.Errorf("%+v", got)
	}
}

// BenchmarkACall is a call that succeeds, and one that fails, with and without Sentry:
// what either costs whoever calls.
func BenchmarkACall(b *testing.B) {
	for _, c := range []struct {
		name string
		err  error
	}{{"succeeds", nil}, {"fails", errors.New("store: begin a transaction: dial tcp 10.0.0.1:5432: connection refused")}} {
		for _, with := range []string{"without", "with"} {
			b.Run(c.name+"/"+with, func(b *testing.B) {
				log := slog.New(slog.NewTextHandler(io.Discard, nil))
				if with == "with" {
					s := &sink{answer: func(_ http.ResponseWriter, r *http.Request) bool { <-r.Context().Done(); return true }}
					r := monitor.New(monitor.Config{Rate: 60, Transport: s})
					if err := r.Assume(dsn); err != nil {
						b.Fatal(err)
					}
					log = slog.New(r.Handler(log.Handler()))
				}
				f := &faulty{fault: func(*http.Request, faultPath, map[string]any) (any, error) { return map[string]any{"never": 1}, c.err }}
				server := api.NewServer(api.Options{RootURL: "https://tasks.test", Auth: f, Log: log, Metrics: prometheus.NewRegistry()})
				if err := api.Mount(server, faultyAPI, f); err != nil {
					b.Fatal(err)
				}
				body := []byte(`{"payload":{"command":["true"],"env":{"A":"b"}}}`)
				for b.Loop() {
					q := httptest.NewRequest("POST", "/api/faulty/v1/fail/x", bytes.NewReader(body))
					q.Header.Set("Content-Type", "application/json")
					server.ServeHTTP(httptest.NewRecorder(), q)
				}
			})
		}
	}
}
