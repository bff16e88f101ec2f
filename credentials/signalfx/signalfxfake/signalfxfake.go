// Package signalfxfake is an imitation of SignalFx with a memory: organisation tokens,
// teams and dashboard groups, and what is sent and asked with a token. It behaves as the
// published reference of the API says, and misbehaves as it is told to.
package signalfxfake

import (
	"bytes"
	"cmp"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A Fake is an organisation.
type Fake struct {
	// Session is the token of a session of an administrator.
	Session string

	// Fault is asked before the nth request is carried out; zero is none.
	Fault func(n int, r *http.Request) Fault

	Slow     time.Duration // each request takes
	Skew     time.Duration // of the clock
	Lifetime time.Duration // of tokens
	Page     int           // the most that a page has; zero is what is asked for
	Discreet bool          // tokens tell their secret only once

	mux *http.ServeMux

	mu       sync.Mutex
	tokens   []*Token
	objects  map[string][]*Object // teams and dashboard groups, by their path
	made     int
	requests []Request
	sent     map[string]int // datapoints, by the name of the token
}

// A Fault is how a request fails.
type Fault struct {
	Status     int
	After      bool   // it was carried out all the same
	RetryAfter string // "date" is a moment two seconds away, by the clock of the fake
}

// A Request is one that was made.
type Request struct {
	Verb, Path string
	At         time.Time
}

// A Token is one of the organisation.
type Token struct {
	Name           string          `json:"name"`
	ID             string          `json:"id"`
	Description    string          `json:"description"`
	AuthScopes     []string        `json:"authScopes"`
	Secret         string          `json:"secret,omitempty"`
	Disabled       bool            `json:"disabled"`
	Limits         json.RawMessage `json:"limits,omitempty"`
	Notifications  json.RawMessage `json:"notifications,omitempty"`
	Created        int64           `json:"created"`
	Expiry         int64           `json:"expiry"`
	LatestRotation int64           `json:"latestRotation"`
}

// An Object is a team or a dashboard group: what was sent, with an id.
type Object map[string]any

// New makes an organisation.
func New(session string) *Fake {
	f := &Fake{Session: session, Lifetime: 30 * 24 * time.Hour, mux: http.NewServeMux(), objects: map[string][]*Object{}, sent: map[string]int{}}
	for pattern, handle := range map[string]func(r *http.Request) (int, any){
		"GET api/v2/token":           f.searchTokens,
		"POST api/v2/token":          f.createToken,
		"GET api/v2/token/{name}":    f.token,
		"PUT api/v2/token/{name}":    f.updateToken,
		"DELETE api/v2/token/{name}": f.deleteToken,
		"POST ingest/v2/datapoint":   f.datapoint,
		"GET api/v2/metric":          f.metrics,
		"GET api/v2/{kind}":          f.searchObjects,
		"POST api/v2/{kind}":         f.createObject,
		"GET api/v2/{kind}/{id}":     f.object,
		"PUT api/v2/{kind}/{id}":     f.updateObject,
		"DELETE api/v2/{kind}/{id}":  f.deleteObject,
	} {
		verb, path, _ := strings.Cut(pattern, " ")
		f.mux.HandleFunc(verb+" /"+path, func(w http.ResponseWriter, r *http.Request) {
			status, out := handle(r)
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			if out != nil {
				json.NewEncoder(w).Encode(out)
			}
		})
	}
	return f
}

// RoundTrip implements http.RoundTripper: whatever the host is, as long as its first name
// is api or ingest.
func (f *Fake) RoundTrip(r *http.Request) (*http.Response, error) {
	f.mu.Lock()
	f.requests = append(f.requests, Request{r.Method, r.URL.Path, time.Now()})
	n, slow := len(f.requests), f.Slow
	f.mu.Unlock()
	if slow > 0 {
		select {
		case <-time.After(slow):
		case <-r.Context().Done():
			return nil, r.Context().Err()
		}
	}
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body.Close()
	}
	var fault Fault
	if f.Fault != nil {
		fault = f.Fault(n, r)
	}
	w := httptest.NewRecorder()
	if fault.Status == 0 || fault.After {
		host, _, _ := strings.Cut(r.URL.Hostname(), ".")
		in := r.Clone(r.Context())
		in.URL.Path, in.URL.RawPath = "/"+host+r.URL.Path, ""
		in.Body = io.NopCloser(bytes.NewReader(body))
		f.mu.Lock()
		f.mux.ServeHTTP(w, in)
		f.mu.Unlock()
	}
	now := f.now().UTC()
	if fault.Status != 0 {
		w = httptest.NewRecorder()
		switch fault.RetryAfter {
		case "":
		case "date":
			w.Header().Set("Retry-After", now.Add(2*time.Second).Format(http.TimeFormat))
		default:
			w.Header().Set("Retry-After", fault.RetryAfter)
		}
		w.WriteHeader(fault.Status)
		fmt.Fprintf(w, `{"code":%d,"message":%q}`, fault.Status, string(body)+r.Header.Get("X-Sf-Token")) // some repeat what they were sent
	}
	w.Header().Set("Date", now.Format(http.TimeFormat))
	out := w.Result()
	out.Request = r
	return out, nil
}

func (f *Fake) now() time.Time { return time.Now().Add(f.Skew) }

// Requests are those that were made.
func (f *Fake) Requests() []Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

// Tokens are those that there are.
func (f *Fake) Tokens() (list []Token) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, t := range f.tokens {
		list = append(list, *t)
	}
	return list
}

// Add has somebody make a token by hand.
func (f *Fake) Add(t Token) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.add(&t)
}

// Change has somebody do something with a token by hand.
func (f *Fake) Change(name string, change func(t *Token)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if t := f.find(name); t != nil {
		change(t)
	}
}

// Objects are what there is of team or dashboardgroup.
func (f *Fake) Objects(kind string) (list []Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, o := range f.objects[kind] {
		list = append(list, *o)
	}
	return list
}

// Sent is how many datapoints came with a token.
func (f *Fake) Sent(name string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent[name]
}

func (f *Fake) add(t *Token) {
	f.made++
	now := f.now()
	t.ID = fmt.Sprintf("token-%d", f.made)
	t.Secret = cmp.Or(t.Secret, fmt.Sprintf("secret-of-token-%d", f.made))
	t.Created, t.Expiry = now.UnixMilli(), now.Add(f.Lifetime).UnixMilli()
	f.tokens = append(f.tokens, t)
}

func (f *Fake) find(name string) *Token {
	for _, t := range f.tokens {
		if t.Name == name {
			return t
		}
	}
	return nil
}

// is tells whether a request comes with something.
func is(r *http.Request, secret string) bool {
	return subtle.ConstantTimeCompare([]byte(r.Header.Get("X-Sf-Token")), []byte(secret)) == 1
}

// with is the token that a request comes with, if it may do something.
func (f *Fake) with(r *http.Request, scope string) *Token {
	for _, t := range f.tokens {
		if is(r, t.Secret) && !t.Disabled && t.Expiry > f.now().UnixMilli() && slices.Contains(t.AuthScopes, scope) {
			return t
		}
	}
	return nil
}

func failed(status int, text string) (int, any) {
	return status, map[string]any{"code": status, "message": text}
}

// refuses tells that a request is not an administrator's.
func (f *Fake) refuses(r *http.Request) (status int, out any, refused bool) {
	switch {
	case is(r, f.Session):
		return 0, nil, false
	case f.with(r, "API") != nil:
		status, out = failed(403, "an administrator is needed")
	default:
		status, out = failed(401, "unauthorized")
	}
	return status, out, true
}

// part is a page of a list.
func (f *Fake) part(r *http.Request, list []any) (int, any) {
	offset, _ := strconv.Atoi(r.URL.Query().Get("offset"))
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil || limit < 1 || offset < 0 {
		return failed(400, "limit or offset is wrong")
	}
	if f.Page > 0 {
		limit = min(limit, f.Page)
	}
	from := min(offset, len(list))
	return 200, map[string]any{"count": len(list), "results": append([]any{}, list[from:min(from+limit, len(list))]...)}
}

// shown is a token as it is told.
func (f *Fake) shown(t *Token) any {
	out := *t
	if f.Discreet {
		out.Secret = ""
	}
	return out
}

func (f *Fake) searchTokens(r *http.Request) (int, any) {
	if status, out, refused := f.refuses(r); refused {
		return status, out
	}
	list := []any{}
	for _, t := range f.tokens {
		if strings.Contains(strings.ToLower(t.Name), strings.ToLower(r.URL.Query().Get("name"))) {
			list = append(list, f.shown(t))
		}
	}
	return f.part(r, list)
}

func (f *Fake) token(r *http.Request) (int, any) {
	if status, out, refused := f.refuses(r); refused {
		return status, out
	}
	t := f.find(r.PathValue("name"))
	if t == nil {
		return failed(404, "no such token")
	}
	return 200, f.shown(t)
}

func (f *Fake) createToken(r *http.Request) (int, any) {
	if status, out, refused := f.refuses(r); refused {
		return status, out
	}
	t := &Token{}
	if json.NewDecoder(r.Body).Decode(t) != nil || t.Name == "" {
		return failed(400, "a token needs a name")
	}
	if f.find(t.Name) != nil {
		return failed(400, "there is a token of that name")
	}
	t.Secret = ""
	f.add(t)
	return 200, *t
}

func (f *Fake) updateToken(r *http.Request) (int, any) {
	if status, out, refused := f.refuses(r); refused {
		return status, out
	}
	t := f.find(r.PathValue("name"))
	var in Token
	if t == nil {
		return failed(404, "no such token")
	}
	if json.NewDecoder(r.Body).Decode(&in) != nil || in.Name == "" {
		return failed(400, "a token needs a name")
	}
	t.Name, t.Description, t.AuthScopes, t.Disabled, t.Limits, t.Notifications = in.Name, in.Description, in.AuthScopes, in.Disabled, in.Limits, in.Notifications
	return 200, f.shown(t)
}

func (f *Fake) deleteToken(r *http.Request) (int, any) {
	if status, out, refused := f.refuses(r); refused {
		return status, out
	}
	if f.find(r.PathValue("name")) == nil {
		return failed(404, "no such token")
	}
	f.tokens = slices.DeleteFunc(f.tokens, func(t *Token) bool { return t.Name == r.PathValue("name") })
	return 204, nil
}

func (f *Fake) datapoint(r *http.Request) (int, any) {
	t := f.with(r, "INGEST")
	if t == nil {
		return failed(401, "unauthorized")
	}
	var in map[string][]struct {
		Metric string
		Value  *float64
	}
	if json.NewDecoder(r.Body).Decode(&in) != nil {
		return failed(400, "no datapoints")
	}
	for kind, list := range in {
		for _, d := range list {
			if kind != "gauge" && kind != "counter" && kind != "cumulative_counter" || d.Metric == "" || d.Value == nil {
				return failed(400, "a datapoint is wrong")
			}
			f.sent[t.Name]++
		}
	}
	return 200, "OK"
}

func (f *Fake) metrics(r *http.Request) (int, any) {
	if f.with(r, "API") == nil && !is(r, f.Session) {
		return failed(401, "unauthorized")
	}
	if r.URL.Query().Get("query") == "" {
		return failed(400, "query is missing")
	}
	return f.part(r, nil)
}

// kinds of objects.
var kinds = []string{"team", "dashboardgroup"}

func (f *Fake) of(r *http.Request) (o *Object, status int, out any) {
	if status, out, refused := f.refuses(r); refused {
		return nil, status, out
	}
	for _, o := range f.objects[r.PathValue("kind")] {
		if (*o)["id"] == r.PathValue("id") {
			return o, 0, nil
		}
	}
	status, out = failed(404, "no such object")
	return nil, status, out
}

func (f *Fake) searchObjects(r *http.Request) (int, any) {
	if status, out, refused := f.refuses(r); refused {
		return status, out
	}
	if !slices.Contains(kinds, r.PathValue("kind")) {
		return failed(404, "not imitated")
	}
	list := []any{}
	for _, o := range f.objects[r.PathValue("kind")] {
		if name, _ := (*o)["name"].(string); strings.Contains(strings.ToLower(name), strings.ToLower(r.URL.Query().Get("name"))) {
			list = append(list, *o)
		}
	}
	return f.part(r, list)
}

func (f *Fake) createObject(r *http.Request) (int, any) {
	if status, out, refused := f.refuses(r); refused {
		return status, out
	}
	kind := r.PathValue("kind")
	o := &Object{}
	if !slices.Contains(kinds, kind) {
		return failed(404, "not imitated")
	}
	if json.NewDecoder(r.Body).Decode(o) != nil || (*o)["name"] == nil {
		return failed(400, "it needs a name")
	}
	f.made++
	(*o)["id"] = fmt.Sprintf("%s-%d", kind, f.made) // of names there may be several, as in the original
	f.objects[kind] = append(f.objects[kind], o)
	return 200, *o
}

func (f *Fake) object(r *http.Request) (int, any) {
	o, status, out := f.of(r)
	if o == nil {
		return status, out
	}
	return 200, *o
}

func (f *Fake) updateObject(r *http.Request) (int, any) {
	o, status, out := f.of(r)
	if o == nil {
		return status, out
	}
	in := Object{}
	if json.NewDecoder(r.Body).Decode(&in) != nil || in["name"] == nil {
		return failed(400, "it needs a name")
	}
	in["id"] = (*o)["id"]
	*o = in
	return 200, *o
}

func (f *Fake) deleteObject(r *http.Request) (int, any) {
	o, status, out := f.of(r)
	if o == nil {
		return status, out
	}
	kind := r.PathValue("kind")
	f.objects[kind] = slices.DeleteFunc(f.objects[kind], func(x *Object) bool { return x == o })
	return 204, nil
}
