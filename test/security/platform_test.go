package security

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/test/server"
)

var binary string // made once for all tests

func TestMain(m *testing.M) {
	directory, err := os.MkdirTemp("", "taskfleet-security-")
	if err != nil {
		panic(err)
	}
	if binary, err = server.Build(context.Background(), directory); err != nil {
		panic(err)
	}
	status := m.Run()
	if err := os.RemoveAll(directory); err != nil {
		panic(err)
	}
	os.Exit(status)
}

// A platform is a server under attack. What it says is remembered.
type platform struct {
	*server.Server
	t    *testing.T
	data string

	mu    sync.Mutex
	heard []heard
}

// heard is a refusal, or what else is not meant to hold a secret.
type heard struct{ where, text string }

// each runs f with a platform on every database.
func each(t *testing.T, o server.Options, f func(*testing.T, *platform)) {
	storetest.EachURL(t, func(t *testing.T, url string) { f(t, startPlatform(t, o, url)) })
}

// startPlatform starts a server on the database at url, or on SQLite where the
// server puts it by itself.
func startPlatform(t *testing.T, o server.Options, url string) *platform {
	o.Binary, o.Data, o.CheckOutput = binary, t.TempDir(), true
	if strings.HasPrefix(url, "postgres:") {
		o.Database = url
	}
	s, err := server.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Kill(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			log := s.Log()
			t.Logf("the server's log:\n%s", log[max(0, len(log)-20_000):])
		}
	})
	return &platform{Server: s, t: t, data: o.Data}
}

// A caller signs requests.
type caller struct {
	cred.Credentials
	scopes []string // nil: all that the credentials have
}

var anonymous = caller{}

func (p *platform) root() caller {
	return caller{Credentials: cred.Credentials{ClientID: p.ClientID, AccessToken: p.AccessToken}}
}

// with has credentials with these scopes and no others, as a client gives them
// to whoever works for it.
func (p *platform) with(scopes ...string) caller {
	p.t.Helper()
	// A certificate is good from its start on; clocks of the test and the server are the same.
	c, err := cred.Temporary(p.root().Credentials, cred.Options{Scopes: scopes, Start: time.Now().Add(-time.Minute), Expiry: time.Now().Add(time.Hour)})
	if err != nil {
		p.t.Fatal(err)
	}
	return caller{Credentials: c}
}

// A reply is an answer, with as much of the body as was read.
type reply struct {
	status int
	header http.Header
	text   string
	code   string         // of an error
	body   map[string]any // of a JSON object
}

// member finds a string in the answer: member("status", "taskId").
func (r reply) member(path ...string) string {
	var v any = r.body
	for _, name := range path {
		m, _ := v.(map[string]any)
		v = m[name]
	}
	s, _ := v.(string)
	return s
}

var direct = &http.Client{
	Transport:     &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 100},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       patience,
}

// patience is for machines that are slow beyond reason: it fails nothing that works.
const patience = 3 * time.Minute

// call makes a call. A body is JSON, unless it is an io.Reader or []byte.
func (p *platform) call(as caller, method, path string, body any, headers ...string) reply {
	p.t.Helper()
	var content io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		content = bytes.NewReader(b)
	default:
		text, err := json.Marshal(b)
		if err != nil {
			p.t.Fatal(err)
		}
		content = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(p.t.Context(), method, p.RootURL+path, content)
	if err != nil {
		p.t.Fatal(err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	if r.Header.Get("Authorization") == "" {
		if err := cred.Sign(r, as.Credentials, as.scopes); err != nil {
			p.t.Fatal(err)
		}
	}
	return p.send(r)
}

func (p *platform) send(r *http.Request) (out reply) {
	p.t.Helper()
	response, err := direct.Do(r)
	if err != nil {
		p.t.Fatal(err)
	}
	defer response.Body.Close()
	out.status, out.header = response.StatusCode, response.Header
	if !strings.HasPrefix(response.Header.Get("Content-Type"), "text/event-stream") { // which has no end
		text, err := io.ReadAll(response.Body)
		if err != nil {
			p.t.Fatalf("%s %s: %v", r.Method, r.URL.Path, err)
		}
		out.text = string(text)
		if json.Unmarshal(text, &out.body) == nil && out.status >= 400 {
			out.code = out.member("code")
		}
	}
	p.hear(r.Method+" "+r.URL.Path, out)
	return out
}

// hear remembers refusals, and the headers of all replies.
func (p *platform) hear(where string, r reply) {
	var headers strings.Builder
	_ = r.header.Write(&headers) // to memory
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heard = append(p.heard, heard{where + ", headers", headers.String()})
	if r.status >= 400 {
		p.heard = append(p.heard, heard{where + ", error", r.text})
	}
}

// want makes a call that has to be answered with this status.
func (p *platform) want(status int, as caller, method, path string, body any) reply {
	p.t.Helper()
	r := p.call(as, method, path, body)
	if r.status != status {
		p.t.Fatalf("%s %s: %d %.2000s; want %d", method, path, r.status, r.text, status)
	}
	return r
}

type object = map[string]any

func in(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }

// definition is a task's, with what is changed in it.
func definition(queue string, changes object) object {
	d := object{
		"taskQueueId": queue, "schedulerId": "scheduler", "projectId": "project", "priority": "high",
		"created": in(0), "deadline": in(time.Hour), "payload": object{},
		"metadata": object{"name": "name", "description": "description", "owner": "owner@example.com", "source": "https://example.com/"},
	}
	for name, value := range changes {
		d[name] = value
	}
	return d
}

// task creates a task and returns its id.
func (p *platform) task(queue string, changes object) string {
	p.t.Helper()
	id := slugid.New()
	p.want(200, p.root(), "PUT", "/api/queue/v1/task/"+id, definition(queue, changes))
	return id
}
