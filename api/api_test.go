package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/scope"
)

// A library is a small service with every kind of method.
type library struct {
	undone int
}

type bookPath struct {
	Book string `path:"bookId"`
}

type book struct {
	Title string         `json:"title"`
	Pages int            `json:"pages"`
	Shelf string         `json:"shelf"`
	More  map[string]any `json:"more,omitempty"`
}

type filePath struct {
	Book string `path:"bookId"`
	Page int    `path:"page"`
	Name string `path:"name"`
}

type shelfPath struct {
	Shelf string `path:"shelf"`
}

type shelfAndBook struct {
	Shelf string `path:"shelf"`
	Book  string `path:"bookId"`
}

func spec(name, route string, scopes scope.Expression, input, output string) Spec {
	return Spec{Name: name, Route: route, Scopes: scopes, Input: input, Output: output, Stability: Stable, Category: "Books", Title: name, Doc: name}
}

var libraryAPI = Service[*library]{
	Name: "library", Version: "v1", Title: "Library", Doc: "Books.",
	Schemas: fstest.MapFS{
		"book.yml": {Data: []byte(`
type: object
properties:
  title: {type: string, minLength: 1}
  pages: {type: integer, default: 100}
  shelf: {$ref: place.json#, default: a/1}
  more: {type: object, properties: {deep: {type: object, properties: {x: {type: integer, default: 7}}}}}
required: [title]
additionalProperties: false`)},
		"place.yml": {Data: []byte(`{type: string, pattern: "^[a-z]/[0-9]$"}`)},
	},
	Params: map[string]string{"bookId": `^[a-z]+$`, "page": `^[0-9]+$`, "shelf": `^[a-z]/[0-9]$`, "name": `.`, "color": `^red|blue$`},
	Methods: []Method[*library]{
		Declare(spec("get", "GET /book/<bookId>", scope.Scope("get:<bookId>"), "", "v1/book.json#"),
			func(ctx context.Context, _ *library, c Call[bookPath, None]) (book, error) {
				switch c.Path.Book {
				case "waits":
					<-ctx.Done()
					return book{}, fmt.Errorf("waiting: %w", ctx.Err())
				case "secret":
					return book{}, errors.New("the password is hunter2")
				case "panic":
					panic("the password is hunter2")
				case "malformed":
					return book{Title: ""}, nil
				case "none":
					return book{}, Errorf(ResourceNotFound, "There is no such book.")
				}
				return book{Title: c.Path.Book + c.Query("color"), Pages: 1, Shelf: "a/1"}, nil
			}),
		Declare(spec("put", "PUT /book/<bookId>", scope.AllOf{scope.Scope("put:<bookId>:<shelf>")}, "v1/book.json#", "v1/book.json#"),
			func(_ context.Context, l *library, c Call[bookPath, book]) (book, error) {
				if c.Path.Book == "undecided" {
					return c.Body, nil
				}
				c.Undelivered(func() { l.undone++ })
				return c.Body, c.Authorize(scope.Vars{"shelf": c.Body.Shelf})
			}),
		Declare(spec("file", "GET /book/<bookId>/page/<page>/<name...>", nil, "", ""),
			func(_ context.Context, _ *library, c Call[filePath, None]) (map[string]any, error) {
				return map[string]any{"book": c.Path.Book, "page": c.Path.Page, "name": c.Path.Name}, nil
			}),
		Declare(spec("shelf", "GET /shelf/<shelf...>", nil, "", ""),
			func(_ context.Context, _ *library, c Call[shelfPath, None]) (map[string]any, error) {
				return map[string]any{"shelf": c.Path.Shelf}, nil
			}),
		Declare(spec("onShelf", "GET /shelf/<shelf...>/<bookId>", nil, "", ""),
			func(_ context.Context, _ *library, c Call[shelfAndBook, None]) (map[string]any, error) {
				return map[string]any{"shelf": c.Path.Shelf, "book": c.Path.Book}, nil
			}),
		Declare(Spec{Name: "list", Route: "GET /books/", Query: []string{"continuationToken", "limit", "color"}, Stability: Stable, Category: "Books", Title: "list", Doc: "list"},
			func(_ context.Context, _ *library, c Call[None, None]) (map[string]any, error) {
				p, err := c.Page(1)
				return map[string]any{"limit": p.Limit, "after": p.After, "token": p.Token("x")}, err
			}),
		Declare(Spec{Name: "keep", Route: "POST /secret", Input: "v1/book.json#", Private: true, Stability: Stable, Category: "Books", Title: "keep", Doc: "keep"},
			func(_ context.Context, _ *library, c Call[None, book]) (None, error) {
				return None{}, Errorf(RequestConflict, "There is one already.")
			}),
	},
}

// Authenticate takes the Authorization header for a list of scopes.
func (*library) Authenticate(_ context.Context, c Credential) (Identity, error) {
	if c.Authorization == "wrong" {
		return Identity{}, Errorf(AuthenticationFailed, "Bad mac.")
	}
	return Identity{ClientID: "someone", Scopes: scope.NewSet(strings.Fields(c.Authorization)...)}, nil
}

func newServer(t testing.TB) (*Server, *library, *bytes.Buffer) {
	l, log := &library{}, &bytes.Buffer{}
	s := NewServer(Options{
		RootURL: "https://tasks.test", Auth: l, Log: slog.New(slog.NewTextHandler(log, nil)), Metrics: prometheus.NewRegistry(), CheckOutput: true,
	})
	if err := Mount(s, libraryAPI, l); err != nil {
		t.Fatal(err)
	}
	return s, l, log
}

func ask(s http.Handler, method, path, authorization, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "http://tasks.test"+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Authorization", authorization)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestAnswers(t *testing.T) {
	s, _, _ := newServer(t)
	const root = "/api/library/v1"
	for _, c := range []struct {
		method, path, auth, body string
		code                     int
		has                      string
	}{
		{"GET", root + "/book/abc", "get:*", "", 200, `{"title":"abc","pages":1,"shelf":"a/1"}`},
		{"HEAD", root + "/book/abc", "get:*", "", 200, ``},
		{"GET", root + "/book/abc", "", "", 403, "get:abc"},
		{"GET", root + "/book/abc", "wrong", "", 401, "Bad mac."},
		{"GET", root + "/book/none", "*", "", 404, "There is no such book."},
		// Scopes come before the pattern of a parameter, as they need only the URL.
		{"GET", root + "/book/ABC", "", "", 403, "InsufficientScopes"},
		{"GET", root + "/book/ABC", "*", "", 400, "bookId"},
		{"GET", root + "/book/abc?color=red", "*", "", 400, `color\" is unknown`},
		{"GET", root + "/book/abc?%zz", "*", "", 400, "query string"},
		{"GET", root + "/book/%00", "*", "", 404, "Not found"},
		{"GET", root + "/book/%ff", "*", "", 404, "Not found"},
		{"GET", root + "/nothing", "*", "", 404, `{"error":"Not found"}`},
		{"POST", root + "/book/abc", "*", "{}", 404, "Not found"},
		{"GET", "/api/other/v1/ping", "", "", 404, "Not found"},
		{"GET", root + "/ping", "", "", 200, `"alive":true`},
		{"GET", root + "/__heartbeat__", "", "", 200, `{}`},
		{"GET", root + "/__version__", "", "", 200, `"commit"`},
		{"GET", "/__lbheartbeat__", "", "", 200, `{}`},
		{"OPTIONS", root + "/book/abc", "", "", 200, ``},

		// Names may contain slashes, dots and anything else.
		{"GET", root + "/book/abc/page/3/a/../b//c%2Fd%20e", "", "", 200, `"name":"a/../b//c/d e"`},
		{"GET", root + "/book/abc/page/x/a", "", "", 400, "page"},
		{"GET", root + "/book/abc/page/99999999999999999999/a", "", "", 400, "page"},
		{"GET", root + "/shelf/a%2F1", "", "", 200, `{"shelf":"a/1"}`},
		{"GET", root + "/shelf/a/1", "", "", 200, `{"shelf":"a/1"}`},
		{"GET", root + "/shelf/a/1/abc", "", "", 200, `{"book":"abc","shelf":"a/1"}`},
		{"GET", root + "/shelf/a%2F1/abc", "", "", 200, `{"book":"abc","shelf":"a/1"}`},
		{"GET", root + "/shelf/a", "", "", 400, "shelf"},

		// Bodies.
		{"PUT", root + "/book/abc", "put:*", `{"title":"T"}`, 200, `{"title":"T","pages":100,"shelf":"a/1"}`},
		{"PUT", root + "/book/abc", "put:*", `{"title":"T","more":{"deep":{}}}`, 200, `"deep":{"x":7}`},
		{"PUT", root + "/book/abc", "put:abc:b/2", `{"title":"T","shelf":"b/2"}`, 200, `b/2`},
		{"PUT", root + "/book/abc", "put:abc:b/2", `{"title":"T"}`, 403, `put:abc:a/1`},
		{"PUT", root + "/book/undecided", "put:*", `{"title":"T"}`, 500, `incident id`},
		{"PUT", root + "/book/abc", "", `{"title":`, 400, `MalformedPayload`},
		{"PUT", root + "/book/abc", "", `{"title":""}`, 400, `data/title`},
		{"PUT", root + "/book/abc", "", `{"title":"T","shelf":"zz","extra":1}`, 400, `data/shelf`},
		{"PUT", root + "/book/abc", "", `{"title":"a\u0000b"}`, 400, `U+0000`},
		{"PUT", root + "/book/abc", "put:*", `{"title":"a\\u0000b"}`, 200, `a\\u0000b`},
		{"PUT", root + "/book/abc", "", "{\"title\":\"\xff\"}", 400, `not valid UTF-8`},
		{"PUT", root + "/book/abc", "", `[]`, 400, `InputValidationError`},
		{"PUT", root + "/book/abc", "", `"x"`, 400, `InputValidationError`},
		{"PUT", root + "/book/abc", "", `{"title":"T"} {}`, 400, `MalformedPayload`},
		{"PUT", root + "/book/abc", "", ``, 400, `title`},
		{"PUT", root + "/book/abc", "", strings.Repeat("[", 100_000), 400, `MalformedPayload`},
		{"PUT", root + "/book/abc", "", `{"title":"` + strings.Repeat("x", MaxBody) + `"}`, 413, `InputTooLarge`},

		// Pages.
		{"GET", root + "/books/", "", "", 200, `{"after":null,"limit":1000`},
		{"GET", root + "/books", "", "", 200, `"limit":1000`},
		{"GET", root + "/books/?limit=5&continuationToken=WyJ4Il0", "", "", 200, `{"after":["x"],"limit":5,"token":"WyJ4Il0"}`},
		{"GET", root + "/books/?limit=2000", "", "", 200, `"limit":1000`},
		{"GET", root + "/books/?limit=0", "", "", 400, `limit`},
		{"GET", root + "/books/?limit=-1", "", "", 400, `limit`},
		{"GET", root + "/books/?limit=1&limit=2", "", "", 400, `2 times`},
		{"GET", root + "/books/?continuationToken=bogus", "", "", 400, `continuationToken`},
		{"GET", root + "/books/?continuationToken=WyJ4IiwieSJd", "", "", 400, `continuationToken`},
		{"GET", root + "/books/?continuationToken=%00", "", "", 400, `continuationToken`},

		// What went wrong inside stays inside.
		{"GET", root + "/book/secret", "*", "", 500, "incident id"},
		{"GET", root + "/book/panic", "*", "", 500, "incident id"},
		{"GET", root + "/book/malformed", "*", "", 500, "incident id"},
		{"POST", root + "/secret", "", `{"title":"hunter2"}`, 409, "There is one already."},

		{"GET", "/references/manifest.json", "", "", 200, "https://tasks.test/references/library/v1/api.json"},
		{"GET", "/references/library/v1/api.json", "", "", 200, `"route":"/book/<bookId>/page/<page>/<name>"`},
		{"GET", "/schemas/library/v1/book.json", "", "", 200, `"$id":"https://tasks.test/schemas/library/v1/book.json#"`},
		{"GET", "/schemas/common/manifest-v3.json", "", "", 200, `manifest`},
		{"GET", "/schemas/library/v1/none.json", "", "", 404, "Not found"},
		{"GET", "/", "", "", 404, "Not found"},
	} {
		w := ask(s, c.method, c.path, c.auth, c.body)
		body := w.Body.String()
		name := fmt.Sprintf("%s %.80s as %q with %.40s", c.method, c.path, c.auth, c.body)
		if w.Code != c.code || !strings.Contains(body, c.has) {
			t.Errorf("%s:\n got %d %.600s", name, w.Code, body)
		}
		if strings.Contains(body, "hunter2") {
			t.Errorf("%s: a secret leaks: %s", name, body)
		}
		if strings.HasPrefix(c.path, "/api/library") && w.Header().Get("X-For-Request-Id") == "" {
			t.Errorf("%s: no request id", name)
		}
	}
}

func TestAnErrorHasTheFormThatClientsKnow(t *testing.T) {
	s, _, log := newServer(t)
	w := ask(s, "PUT", "/api/library/v1/book/abc", "", `{"pages":7}`)
	var e struct {
		Code, Message string
		RequestInfo   struct {
			Method  string
			Params  map[string]string
			Payload map[string]any
			Time    string
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
		t.Fatal(err)
	}
	if e.Code != "InputValidationError" || e.RequestInfo.Method != "put" || e.RequestInfo.Params["bookId"] != "abc" ||
		e.RequestInfo.Payload["shelf"] != "a/1" || len(e.RequestInfo.Time) != 24 {
		t.Errorf("%+v", e)
	}
	tail := "\n\n---\n\n* method:     put\n* errorCode:  InputValidationError\n* statusCode: 400\n* time:       " + e.RequestInfo.Time
	if !strings.HasSuffix(e.Message, tail) {
		t.Errorf("message %q lacks %q", e.Message, tail)
	}

	w = ask(s, "GET", "/api/library/v1/book/secret", "*", "")
	_, id, _ := strings.Cut(w.Body.String(), "incident id ")
	id, _, _ = strings.Cut(id, ".")
	if !strings.Contains(log.String(), "incidentId="+id) || !strings.Contains(log.String(), "hunter2") {
		t.Errorf("incident %q is not in the log:\n%s", id, log)
	}
}

func TestHeaders(t *testing.T) {
	s, _, _ := newServer(t)
	r := httptest.NewRequest("GET", "http://tasks.test/api/library/v1/book/abc", nil)
	r.Header.Set("Authorization", "*")
	r.Header.Set("X-Taskcluster-Trace-Id", "trace-1")
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	for k, v := range map[string]string{
		"X-For-Trace-Id": "trace-1", "X-Content-Type-Options": "nosniff", "Access-Control-Allow-Origin": "*",
		"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store, no-cache, must-revalidate",
	} {
		if got := w.Header().Get(k); got != v {
			t.Errorf("%s: %q, want %q", k, got, v)
		}
	}
	tag := w.Header().Get("ETag")
	if !strings.HasPrefix(tag, `W/"`) {
		t.Errorf("ETag %q", tag)
	}
	r.Header.Set("If-None-Match", tag)
	w = httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != 304 || w.Body.Len() != 0 {
		t.Errorf("a known body is sent again: %d %s", w.Code, w.Body)
	}
	if w := ask(s, "GET", "/api/library/v1/book/abc", "wrong", ""); w.Header().Get("WWW-Authenticate") != "Hawk" {
		t.Errorf("401 does not say how to authenticate")
	}
	r = httptest.NewRequest("PUT", "http://tasks.test/api/library/v1/book/abc", strings.NewReader("title=T"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w = httptest.NewRecorder()
	s.ServeHTTP(w, r)
	if w.Code != 400 || !strings.Contains(w.Body.String(), "MalformedPayload") {
		t.Errorf("a form: %d %s", w.Code, w.Body)
	}
}

// brokenWriter is a connection that is gone when the reply is written.
type brokenWriter struct{ http.ResponseWriter }

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestWhatWasHandedOutIsTakenBackWhenTheReplyIsLost(t *testing.T) {
	s, l, _ := newServer(t)
	put := func(ctx context.Context, w http.ResponseWriter) {
		r := httptest.NewRequestWithContext(ctx, "PUT", "http://tasks.test/api/library/v1/book/abc", strings.NewReader(`{"title":"T"}`))
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "*")
		s.ServeHTTP(w, r)
	}
	put(t.Context(), httptest.NewRecorder())
	if l.undone != 0 {
		t.Fatal("undone although delivered")
	}
	put(t.Context(), brokenWriter{httptest.NewRecorder()})
	gone, leave := context.WithCancel(t.Context())
	leave()
	w := httptest.NewRecorder()
	put(gone, w)
	if l.undone != 2 {
		t.Errorf("undone %d times, want 2", l.undone)
	}
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("what was taken back is told as handed out: %d %s", w.Code, w.Body)
	}
}

// A server that is stopped ends the contexts of its calls. None of them may look
// as if it had been done.
func TestACallThatIsBrokenOffIsNotAcknowledged(t *testing.T) {
	s, _, _ := newServer(t)
	calls, stop := context.WithCancel(t.Context())
	h := httptest.NewUnstartedServer(s)
	h.Config.BaseContext = func(net.Listener) context.Context { return calls }
	h.Start()
	defer h.Close()
	time.AfterFunc(50*time.Millisecond, stop)
	r, err := http.NewRequest("GET", h.URL+"/api/library/v1/book/waits", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "*")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "Call again") {
		t.Errorf("%s %s %v", resp.Status, body, err)
	}
}

func TestAWrongDeclarationNeverStarts(t *testing.T) {
	do := func(context.Context, *library, Call[bookPath, None]) (None, error) { return None{}, nil }
	for name, f := range map[string]func(){
		"path":  func() { Declare(spec("x", "GET /book/<other>", nil, "", ""), do) },
		"input": func() { Declare(spec("x", "GET /book/<bookId>", nil, "v1/book.json#", ""), do) },
		"doc":   func() { Declare(Spec{Name: "x", Route: "GET /book/<bookId>"}, do) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: accepted", name)
				}
			}()
			f()
		}()
	}
	s := NewServer(Options{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry()})
	v := libraryAPI
	v.Methods = []Method[*library]{Declare(spec("x", "GET /book/<bookId>", nil, "", "v1/missing.json#"), do)}
	if err := Mount(s, v, &library{}); err == nil {
		t.Error("a missing schema was accepted")
	}
}

// Whatever is sent, the answer is never a 500 (but for the books that fail on
// purpose) and never a panic.
func FuzzRequests(f *testing.F) {
	f.Add("GET", "/book/abc", "limit=1", "", "application/json")
	f.Add("PUT", "/book/abc", "", `{"title":"T","more":{"deep":{"x":1e999}}}`, "application/json; charset=utf-8")
	f.Add("GET", "/book/a/page/1/%2e%2e/%2F", "bewit=x", "", "")
	f.Add("POST", "/secret", "a=%zz&a=;b", "[[[[", "text/plain")
	f.Fuzz(func(t *testing.T, method, path, query, body, contentType string) {
		s, _, log := newServer(t)
		r := httptest.NewRequest("GET", "http://tasks.test/", strings.NewReader(body))
		r.Method = method
		r.URL.Path, r.URL.RawPath, r.URL.RawQuery = "/api/library/v1"+path, "/api/library/v1"+path, query
		r.Header.Set("Authorization", "get:x* put:*")
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code >= 500 && !strings.Contains(path, "/undecided") {
			t.Errorf("%s %q ? %q %q: %d %s\n%s", method, path, query, body, w.Code, w.Body, log)
		}
	})
}
