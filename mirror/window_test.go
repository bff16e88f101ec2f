package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
)

// someTask has the artifacts of tests.
const someTask = "fN1SbArXTPSVFNUvaOlinQ"

// A window is where the mirror of a world is called by HTTP.
type window struct {
	*world
	root   string
	client *http.Client // follows no redirects
	said   strings.Builder
}

// openWindow serves a world's mirror, on routes if there are some. Its callers may
// do everything.
func openWindow(t *testing.T, db *store.DB, routes ...Route) *window {
	t.Helper()
	w := &window{world: newTest(t, db), client: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	var inner http.Handler
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.EscapedPath(), "/v1/") {
			Legacy(inner).ServeHTTP(rw, r)
			return
		}
		inner.ServeHTTP(rw, r)
	}))
	t.Cleanup(server.Close)
	w.root, w.config.RootURL, w.config.Routes = server.URL, server.URL, routes
	w.Mirror = w.start()
	s := api.NewServer(api.Options{RootURL: w.root, Auth: everybody{}, Log: w.config.Log, Metrics: prometheus.NewRegistry(), CheckOutput: true})
	if err := api.Mount(s, API, w.Mirror); err != nil {
		t.Fatal(err)
	}
	inner = s
	return w
}

// everybody may do everything.
type everybody struct{}

func (everybody) Authenticate(context.Context, api.Credential) (api.Identity, error) {
	return api.Identity{ClientID: "tester", Scopes: scope.NewSet("*")}, nil
}

// copying has copies made until the test ends.
func (w *window) copying() {
	ctx, stop := context.WithCancel(w.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for ctx.Err() == nil {
			work := w.db.Waits().Wait(topicWork)
			if _, err := w.copier.shift(ctx); err != nil && ctx.Err() == nil {
				w.Error(err)
			}
			select {
			case <-work.C:
			case <-ctx.Done():
			}
			work.Close()
		}
	})
	w.Cleanup(func() { stop(); done.Wait() })
}

type reply struct {
	status   int
	location string
	text     string
	body     map[string]any
	header   http.Header
}

// call calls a path, which is below the service's unless it begins with /v1/.
func (w *window) call(method, path string, body any) reply {
	w.Helper()
	if !strings.HasPrefix(path, "/v1/") {
		path = "/api/mirror/v1" + path
	}
	return w.get(method, w.root+path, body)
}

func (w *window) get(method, place string, body any) reply {
	w.Helper()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			w.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(w.Context(), method, place, in)
	if err != nil {
		w.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	a, err := w.client.Do(r)
	if err != nil {
		w.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		w.Fatal(err)
	}
	p := reply{status: a.StatusCode, location: a.Header.Get("Location"), text: string(b), header: a.Header}
	json.Unmarshal(b, &p.body) // what is no JSON stays in text
	if a.StatusCode != http.StatusFound {
		w.said.Write(b)
	}
	return p
}

// answers calls and demands a status.
func (w *window) answers(status int, method, path string, body any) reply {
	w.Helper()
	p := w.call(method, path, body)
	if p.status != status {
		w.Fatalf("%s %s: %d, want %d: %s", method, path, p.status, status, p.text)
	}
	return p
}

// redirected asks for a copy.
func (w *window) redirected(region, of string) reply {
	w.Helper()
	return w.call("GET", "/redirect/s3/"+region+"/"+url.PathEscape(of), nil)
}

// demand makes sure that a redirect leads to the copy, and the copy to the bytes.
func (w *window) demandCopy(region, of string, body []byte) reply {
	w.Helper()
	p := w.redirected(region, of)
	if p.status != 302 || p.body["status"] != "present" || p.body["url"] != p.location || !strings.Contains(p.location, w.region(region).Bucket.Name()) {
		w.Fatalf("%s in %s: %d %s", of, region, p.status, p.text)
	}
	if got := w.get("GET", p.location, nil); got.text != string(body) {
		w.Fatalf("%s in %s: %d bytes of %d", of, region, len(got.text), len(body))
	}
	return p
}
