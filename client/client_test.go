package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/hawk"
)

var creds = cred.Credentials{ClientID: "tester", AccessToken: "the-token-of-the-tester-that-nobody-may-see0"}

// quick repeats without waiting long, for tests over real connections.
var quick = client.Retry{Wait: time.Microsecond, MaxWait: time.Microsecond}

func newClient(t *testing.T, opts client.Options) *client.Client {
	t.Helper()
	opts.Log = slog.New(slog.DiscardHandler)
	c, err := client.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// serve starts a server and returns a client of it that repeats quickly.
func serve(t *testing.T, h http.HandlerFunc) *client.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return newClient(t, client.Options{RootURL: s.URL, Credentials: creds, Retry: quick, Transport: &http.Transport{}})
}

var (
	look  = client.Request{Name: "test.look", Verb: "GET", Route: "/api/test/v1/look", Repeatable: true}
	once  = client.Request{Name: "test.once", Verb: "POST", Route: "/api/test/v1/once", In: map[string]int{"n": 1}}
	twice = client.Request{Name: "test.twice", Verb: "POST", Route: "/api/test/v1/twice", In: map[string]int{"n": 1}, Repeatable: true}
)

func TestRequestsAreSignedAsTheyAreSent(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if want := "/api/queue/v1/task-queues/local%2Fbuild/counts"; r.RequestURI != want {
			t.Errorf("asked for %s, want %s", r.RequestURI, want)
		}
		h := verified(t, r)
		ext, err := cred.ParseExt(h.Ext)
		if err != nil || !slices.Equal(ext.AuthorizedScopes, []string{"queue:pending-count:*"}) {
			t.Errorf("ext %q gives %v, %v", h.Ext, ext, err)
		}
		io.WriteString(w, `{"pendingTasks":7,"claimedTasks":2,"unheardOf":true}`)
	})
	scopes := []string{"queue:pending-count:*"}
	q := queue.New(c.WithCredentials(creds, scopes))
	scopes[0] = "*" // the client has its own
	counts, err := q.TaskQueueCounts(t.Context(), "local/build")
	if err != nil || counts.PendingTasks != 7 {
		t.Errorf("got %v, %v", counts, err)
	}
}

// verified checks the signature of a request and returns it.
func verified(t *testing.T, r *http.Request) hawk.Header {
	t.Helper()
	h, err := hawk.ParseHeader(r.Header.Get("Authorization"))
	if err != nil {
		t.Errorf("bad header: %v", err)
	}
	host, port, _ := cred.SplitHost(r.Host)
	if !h.Verify(hawk.Request{Method: r.Method, Resource: r.RequestURI, Host: host, Port: port}, creds.AccessToken) {
		t.Errorf("the signature of %s %s does not hold", r.Method, r.RequestURI)
	}
	return h
}

func TestWithoutCredentialsRequestsGoUnsigned(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if h, ok := r.Header["Authorization"]; ok {
			t.Errorf("signed: %s", h)
		}
	})
	if err := c.WithCredentials(cred.Credentials{}, nil).Do(t.Context(), look, nil); err != nil {
		t.Error(err)
	}
}

// A server that gives up on a request in the worst way: it reads it and
// closes the connection. http.Transport would repeat a GET on a kept
// connection by itself, with the signature that was already used.
func TestEveryAttemptHasItsOwnSignature(t *testing.T) {
	var calls atomic.Int32
	var nonces sync.Map
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if _, used := nonces.LoadOrStore(verified(t, r).Nonce, true); used {
			t.Errorf("call %d comes with a signature that was used before", calls.Load())
		}
		switch calls.Add(1) {
		case 2, 3:
			panic(http.ErrAbortHandler)
		case 5:
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	for range 3 {
		if err := c.Do(t.Context(), look, nil); err != nil {
			t.Fatal(err)
		}
	}
	if calls.Load() != 6 {
		t.Errorf("%d calls, want 6", calls.Load())
	}
}

func TestWhatIsRepeated(t *testing.T) {
	reply := func(status int, header ...string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if len(header) > 0 {
				w.Header().Set(header[0], header[1])
			}
			w.WriteHeader(status)
		}
	}
	breakOff := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	cutShort := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, `{"half`)
	}
	for name, tc := range map[string]struct {
		fault                http.HandlerFunc
		look, repeated, once bool
	}{
		"a broken connection":        {breakOff, true, true, false},
		"an answer that is cut":      {cutShort, true, true, false},
		"500":                        {reply(500), true, true, false},
		"502":                        {reply(502), true, true, false},
		"503":                        {reply(503), true, true, false},
		"503 that says when":         {reply(503, "Retry-After", "0"), true, true, true},
		"429":                        {reply(429), true, true, true},
		"429 that says when":         {reply(429, "Retry-After", "0"), true, true, true},
		"501":                        {reply(501), false, false, false},
		"400":                        {reply(400), false, false, false},
		"401":                        {reply(401), false, false, false},
		"404":                        {reply(404), false, false, false},
		"409":                        {reply(409), false, false, false},
		"302":                        {reply(302, "Location", "/elsewhere"), false, false, false},
		"something else than JSON":   {func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") }, false, false, false},
		"JSON of another kind":       {func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "[1]") }, false, false, false},
		"nothing at all, with a 200": {func(w http.ResponseWriter, r *http.Request) {}, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			for _, x := range []struct {
				request client.Request
				again   bool
			}{{look, tc.look}, {twice, tc.repeated}, {once, tc.once}} {
				var calls atomic.Int32
				c := serve(t, func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					if want := `{"n":1}`; r.Method == "POST" && strings.TrimSpace(string(body)) != want {
						t.Errorf("body %q, want %q", body, want)
					}
					if calls.Add(1) == 1 {
						tc.fault(w, r)
						return
					}
					io.WriteString(w, `{"answer":42}`)
				})
				var out struct{ Answer int }
				err := c.Do(t.Context(), x.request, &out)
				switch {
				case x.again && (err != nil || out.Answer != 42 || calls.Load() != 2):
					t.Errorf("%s: %d calls, then %v, %v; want it repeated once, with success", x.request.Name, calls.Load(), out, err)
				case !x.again && (err == nil || calls.Load() != 1):
					t.Errorf("%s: %d calls, then %v; want it to fail at once", x.request.Name, calls.Load(), err)
				}
			}
		})
	}
}

// A server that is not there has not acted on the request.
func TestWithoutConnectionEverythingIsRepeated(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	var dials atomic.Int32
	c := newClient(t, client.Options{RootURL: s.URL, Retry: quick, Transport: &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dials.Add(1) <= 3 {
				return nil, errors.New("connection refused")
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		},
	}})
	if err := c.Do(t.Context(), once, nil); err != nil {
		t.Errorf("after %d dials: %v", dials.Load(), err)
	}
}

func TestConnectionsAreKept(t *testing.T) {
	var conns atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("n") {
		case "error":
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, strings.Repeat("long ", 20000))
		case "unread":
			io.WriteString(w, `{"padding":"`+strings.Repeat("x", 10000)+`"}`)
		default:
			io.WriteString(w, `{}   `)
		}
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			conns.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	c := newClient(t, client.Options{RootURL: s.URL, Credentials: creds, Transport: &http.Transport{}})
	for range 5 {
		for _, n := range []string{"error", "unread", "read"} {
			r := look
			r.Query = map[string][]string{"n": {n}}
			if n == "read" {
				c.Do(t.Context(), r, &struct{}{})
			} else {
				c.Do(t.Context(), r, nil)
			}
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("15 calls took %d connections", n)
	}
}

func TestArtifactRedirectsAreAnswers(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bucket/x" {
			t.Error("the redirect was followed")
		}
		w.Header().Set("Location", "/bucket/x")
		w.WriteHeader(http.StatusSeeOther)
		io.WriteString(w, `{"storageType":"s3","url":"https://example.com/bucket/x"}`)
	})
	got, err := queue.New(c).GetArtifact(t.Context(), "Fqq8_T1RQ5yLF4Xc0fNn6g", 0, "public/a b/../x")
	if err != nil || *got != (queue.GetArtifactResponse{StorageType: "s3", URL: "https://example.com/bucket/x"}) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestRefusalsAreTyped(t *testing.T) {
	const body = `{
		"code": "ResourceNotFound",
		"message": "There is no task x.\n\n---\n\n* method:     task\n* errorCode:  ResourceNotFound",
		"requestInfo": {"method": "task", "params": {"taskId": "x"}, "payload": {
			"scopes": ["a"], "accessToken": "s3cret", "deep": [{"workerIdentityProof": {"token": "s3cret"}}],
			"text": "my the-token-of-the-tester-that-nobody-may-see0", "big": 12345678901234567890
		}, "time": "2026-01-02T03:04:05.678Z"}}`
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("x-for-request-id", "abc")
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, body)
	})
	err := c.Do(t.Context(), look, nil)
	e, ok := errors.AsType[*client.Error](err)
	if !ok || !client.IsNotFound(err) || !client.IsRefusal(err) || client.IsConflict(err) {
		t.Fatalf("got %v", err)
	}
	if e.Code != "ResourceNotFound" || e.Message != "There is no task x." || e.Method != "test.look" || e.RequestID != "abc" ||
		e.RequestInfo.Params["taskId"] != "x" || e.RequestInfo.Time.String() != "2026-01-02T03:04:05.678Z" {
		t.Errorf("got %+v, %+v", e, e.RequestInfo)
	}
	if want := "test.look: 404 ResourceNotFound: There is no task x."; err.Error() != want {
		t.Errorf("got %q, want %q", err, want)
	}
	payload := string(e.RequestInfo.Payload)
	if strings.Contains(payload, "s3cret") || strings.Contains(payload, "nobody-may-see") || !strings.Contains(payload, "12345678901234567890") {
		t.Errorf("payload %s", payload)
	}
}

func TestRefusalsWithoutTheUsualBody(t *testing.T) {
	for name, tc := range map[string]struct {
		status     int
		body, want string
	}{
		"an artifact that was not made": {424, `{"reason":"file-missing-on-worker","message":"no such file"}`, "test.once: 424 file-missing-on-worker: no such file"},
		"a proxy's page":                {502, "<html>Bad gateway</html>\n", "test.once: 502 Bad Gateway: <html>Bad gateway</html>"},
		"JSON of another server":        {404, `{"error":"Not found"}`, `test.once: 404 Not Found: {"error":"Not found"}`},
		"nothing":                       {403, "", "test.once: 403 Forbidden: the reply has no body"},
		"our own secret":                {400, "bad " + creds.AccessToken, "test.once: 400 Bad Request: bad [redacted]"},
	} {
		t.Run(name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(tc.status)
				io.WriteString(w, tc.body)
			})
			if err := c.Do(t.Context(), once, nil); err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func TestErrorsAreBounded(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		for range 1000 {
			io.WriteString(w, strings.Repeat("x", 10000))
		}
	})
	err := c.Do(t.Context(), look, nil)
	if err == nil || len(err.Error()) > 5000 {
		t.Errorf("an error of %d bytes", len(fmt.Sprint(err)))
	}
}

func TestErrorsDoNotShowSecrets(t *testing.T) {
	secret := cred.Credentials{ClientID: "c", AccessToken: "s3cret", Certificate: "not JSON, s3cret"}
	c := newClient(t, client.Options{RootURL: "http://127.0.0.1:1", Credentials: secret})
	if err := c.Do(t.Context(), look, nil); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v", err)
	}
	_, err := client.New(client.Options{RootURL: "http://user:s3cret@example.com/?s3cret"})
	if err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v", err)
	}
}

func TestCredentialsCanBeReplacedDuringACall(t *testing.T) {
	var seen []string
	var c *client.Client
	c = serve(t, func(w http.ResponseWriter, r *http.Request) {
		h, _ := hawk.ParseHeader(r.Header.Get("Authorization"))
		if seen = append(seen, h.ID); len(seen) == 1 {
			c.SetCredentials(cred.Credentials{ClientID: "next", AccessToken: "x"})
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	if err := c.Do(t.Context(), look, nil); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(seen, []string{"tester", "next"}) || c.Credentials().ClientID != "next" {
		t.Errorf("signed by %v", seen)
	}
}

func TestConcurrentUse(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"answer":1}`) })
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 20 {
				c.SetCredentials(cred.Credentials{ClientID: fmt.Sprint(i, "-", n), AccessToken: "x"})
				var out struct{ Answer int }
				if err := c.Do(t.Context(), twice, &out); err != nil || out.Answer != 1 {
					t.Error(out, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestAnEmptyArgumentIsNotSent(t *testing.T) {
	c := newClient(t, client.Options{RootURL: "http://127.0.0.1:1", Retry: client.Retry{For: -1}})
	_, err := queue.New(c).Status(t.Context(), "")
	if want := "client: queue.status: taskId is empty"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestNewChecksTheRootURL(t *testing.T) {
	for _, bad := range []string{"", "127.0.0.1:8080", "ftp://example.com", "https://", "http://a b", "https://example.com?x=1"} {
		if _, err := client.New(client.Options{RootURL: bad}); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	c := newClient(t, client.Options{RootURL: "https://example.com/"})
	if c.RootURL() != "https://example.com" {
		t.Errorf("root URL %s", c.RootURL())
	}
}

func TestFromEnv(t *testing.T) {
	for _, tc := range []struct{ root, id, token, certificate, problem string }{
		{"http://x", "", "", "", ""},
		{"http://x", "id", "token", "", ""},
		{"http://x", "id", "token", "{}", ""},
		{"", "id", "token", "", "TASKCLUSTER_ROOT_URL is not set"},
		{"http://x", "", "token", "", "TASKCLUSTER_CLIENT_ID is not set"},
		{"http://x", "", "", "{}", "TASKCLUSTER_CLIENT_ID is not set"},
		{"http://x", "id", "", "", "TASKCLUSTER_ACCESS_TOKEN is not"},
	} {
		t.Setenv("TASKCLUSTER_ROOT_URL", tc.root)
		t.Setenv("TASKCLUSTER_CLIENT_ID", tc.id)
		t.Setenv("TASKCLUSTER_ACCESS_TOKEN", tc.token)
		t.Setenv("TASKCLUSTER_CERTIFICATE", tc.certificate)
		opts, err := client.FromEnv()
		want := client.Options{RootURL: tc.root, Credentials: cred.Credentials{ClientID: tc.id, AccessToken: tc.token, Certificate: tc.certificate}}
		switch {
		case tc.problem == "" && (err != nil || opts.RootURL != want.RootURL || opts.Credentials != want.Credentials):
			t.Errorf("%+v: got %+v, %v", tc, opts, err)
		case tc.problem != "" && (err == nil || !strings.Contains(err.Error(), tc.problem)):
			t.Errorf("%+v: got %v", tc, err)
		}
	}
}

func TestListIsNeverNull(t *testing.T) {
	for want, l := range map[string]client.List[string]{"[]": nil, `["a<b"]`: {"a<b"}} {
		b, err := json.Marshal(l)
		if err != nil || strings.ReplaceAll(string(b), `\u003c`, "<") != want {
			t.Errorf("%v gives %s, %v", l, b, err)
		}
	}
}

func TestPages(t *testing.T) {
	broken := errors.New("broken")
	pages := map[string]struct {
		items []int
		next  string
		err   error
	}{
		"":      {[]int{1, 2}, "more", nil},
		"more":  {nil, "last", nil}, // a page may be empty
		"last":  {[]int{3}, "", nil},
		"bad":   {[]int{4}, "worse", nil},
		"worse": {nil, "", broken},
		"loop":  {[]int{5}, "loop", nil},
	}
	all := func(first string, most int) (got []int, err error) {
		for x, e := range client.Pages(first, func(token string) ([]int, string, error) {
			p := pages[token]
			return p.items, p.next, p.err
		}) {
			if e != nil {
				return got, e
			}
			if got = append(got, x); len(got) == most {
				break
			}
		}
		return got, nil
	}
	for _, tc := range []struct {
		first string
		most  int
		want  []int
		fails bool
	}{
		{"", 100, []int{1, 2, 3}, false},
		{"", 1, []int{1}, false},
		{"last", 100, []int{3}, false},
		{"bad", 100, []int{4}, true},
		{"loop", 100, nil, true},
	} {
		if got, err := all(tc.first, tc.most); !slices.Equal(got, tc.want) || (err != nil) != tc.fails {
			t.Errorf("from %q: %v, %v; want %v, failing %v", tc.first, got, err, tc.want, tc.fails)
		}
	}
}
