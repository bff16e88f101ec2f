// Package monitoringtest imitates what stacks/monitoring uses of SignalFx: charts, dashboards and
// detectors, with a memory, and groups and tokens by the imitation of credentials/signalfx. It
// behaves as the published reference of the API says, and misbehaves as it is told to.
//
// A SignalFx is an http.RoundTripper for tests in a bubble of testing/synctest, which have no
// network, and an http.Handler for httptest.
package monitoringtest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/credentials/signalfx/signalfxfake"
)

// A SignalFx is an organisation.
type SignalFx struct {
	// Fault is asked before the nth request, from 1 on, is carried out; nil and zero are none.
	Fault func(n int, r *http.Request) Fault

	Page int // the most that a page has; 0 is what is asked for

	org *signalfxfake.Fake

	mu       sync.Mutex
	objects  map[string][]Object // by kind
	made     int
	requests []Request
}

// A Fault is how a request fails.
type Fault struct {
	signalfxfake.Fault
	Cut bool // the connection ends instead of an answer
}

// A Request is one that was made.
type Request struct {
	Verb, Path string
	At         time.Time
}

// An Object is a chart, a dashboard or a detector, as JSON.
type Object = map[string]any

// New makes an organisation, in which a token may do everything.
func New(token string) *SignalFx {
	return &SignalFx{org: signalfxfake.New(token), objects: map[string][]Object{}}
}

// Tokens is what there is of tokens, with what tests do to them by hand.
func (f *SignalFx) Tokens() *signalfxfake.Fake { return f.org }

// ServeHTTP implements http.Handler.
func (f *SignalFx) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer, err := f.RoundTrip(r)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer answer.Body.Close()
	for name, values := range answer.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(answer.StatusCode)
	io.Copy(w, answer.Body)
}

// RoundTrip implements http.RoundTripper.
func (f *SignalFx) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
		r.Body.Close()
	}
	f.mu.Lock()
	f.requests = append(f.requests, Request{r.Method, r.URL.Path, time.Now()})
	n := len(f.requests)
	f.mu.Unlock()
	var fault Fault
	if f.Fault != nil {
		fault = f.Fault(n, r)
	}
	failing := fault.Status != 0 || fault.Cut
	var answer *http.Response
	if !failing || fault.After {
		var err error
		if answer, err = f.answer(r, body); err != nil {
			return nil, err
		}
	}
	switch {
	case fault.Cut:
		return nil, errors.New("the connection was cut")
	case failing:
		w := httptest.NewRecorder()
		now := time.Now().UTC()
		w.Header().Set("Date", now.Format(http.TimeFormat))
		if fault.RetryAfter == "date" {
			fault.RetryAfter = now.Add(2 * time.Second).Format(http.TimeFormat)
		}
		if fault.RetryAfter != "" {
			w.Header().Set("Retry-After", fault.RetryAfter)
		}
		w.WriteHeader(fault.Status)
		json.NewEncoder(w).Encode(map[string]any{"code": fault.Status, "message": string(body) + r.Header.Get("X-Sf-Token")}) // some repeat what they were sent
		answer = w.Result()
	}
	answer.Request = r
	return answer, nil
}

// answer answers, from the memory of whom it is about.
func (f *SignalFx) answer(r *http.Request, body []byte) (*http.Response, error) {
	kind, id, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/")
	if kind != "chart" && kind != "dashboard" && kind != "detector" {
		in := r.Clone(r.Context())
		in.URL.Scheme, in.URL.Host, in.RequestURI = "https", "api.test", ""
		in.Body = io.NopCloser(bytes.NewReader(body))
		return f.org.RoundTrip(in)
	}
	f.mu.Lock()
	status, out := f.handle(r, kind, id, body)
	f.mu.Unlock()
	w := httptest.NewRecorder()
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if out != nil {
		json.NewEncoder(w).Encode(out)
	}
	return w.Result(), nil
}

func failed(status int, text string) (int, any) {
	return status, map[string]any{"code": status, "message": text}
}

func (f *SignalFx) handle(r *http.Request, kind, id string, body []byte) (int, any) {
	if r.Header.Get("X-Sf-Token") != f.org.Session {
		return failed(401, "unauthorized")
	}
	switch r.Method {
	case http.MethodGet:
		if id == "" {
			return f.search(r, kind)
		}
		if o := f.find(kind, id); o != nil {
			return 200, o
		}
	case http.MethodPost, http.MethodPut:
		var in Object
		if json.Unmarshal(body, &in) != nil {
			return failed(400, "that is no JSON")
		}
		was := f.find(kind, id)
		if r.Method == http.MethodPut && was == nil {
			break
		}
		if text := f.wrong(kind, id, in); text != "" {
			return failed(400, text)
		}
		if was != nil {
			in["id"], in["created"], in["creator"] = was["id"], was["created"], was["creator"]
			list := f.objects[kind]
			list[slices.IndexFunc(list, func(o Object) bool { return o["id"] == id })] = in
			return 200, in
		}
		return 200, f.add(kind, in)
	case http.MethodDelete:
		o := f.find(kind, id)
		if o == nil {
			break
		}
		f.drop(kind, id)
		if kind == "dashboard" {
			for _, chart := range chartsOf(o) {
				f.drop("chart", chart)
			}
		}
		if kind == "detector" {
			return 204, nil
		}
		return 200, nil
	}
	return failed(404, "there is no such "+kind)
}

func (f *SignalFx) find(kind, id string) Object {
	for _, o := range f.objects[kind] {
		if o["id"] == id {
			return o
		}
	}
	return nil
}

func (f *SignalFx) add(kind string, o Object) Object {
	f.made++
	o["id"], o["created"], o["creator"] = fmt.Sprintf("%s-%d", kind, f.made), float64(time.Now().UnixMilli()), "somebody"
	f.objects[kind] = append(f.objects[kind], o)
	return o
}

func (f *SignalFx) drop(kind, id string) {
	f.objects[kind] = slices.DeleteFunc(f.objects[kind], func(o Object) bool { return o["id"] == id })
	if kind == "chart" {
		for _, d := range f.objects["dashboard"] {
			list, _ := d["charts"].([]any)
			d["charts"] = slices.DeleteFunc(list, func(c any) bool { return c.(map[string]any)["chartId"] == id })
		}
	}
}

func chartsOf(dashboard Object) (ids []string) {
	list, _ := dashboard["charts"].([]any)
	for _, c := range list {
		id, _ := c.(map[string]any)["chartId"].(string)
		ids = append(ids, id)
	}
	return ids
}

// wrong is what SignalFx would refuse.
func (f *SignalFx) wrong(kind, id string, in Object) string {
	program, _ := in["programText"].(string)
	if in["name"] == nil {
		return "a name is needed"
	}
	if kind != "dashboard" && !strings.Contains(program, "publish(") || strings.Contains(program, "syntax error") {
		return "the program cannot be compiled: line 1: " + program
	}
	switch kind {
	case "chart":
		options, _ := in["options"].(map[string]any)
		if options["type"] == nil {
			return "options.type is needed"
		}
	case "detector":
		rules, _ := in["rules"].([]any)
		for _, r := range rules {
			if label, _ := r.(map[string]any)["detectLabel"].(string); !strings.Contains(program, "'"+label+"'") {
				return "there is no detect label " + label
			}
		}
	case "dashboard":
		if !slices.ContainsFunc(f.org.Objects("dashboardgroup"), func(g signalfxfake.Object) bool { return g["id"] == in["groupId"] }) {
			return "there is no such group"
		}
		for _, chart := range chartsOf(in) {
			if f.find("chart", chart) == nil {
				return "there is no chart " + chart
			}
			for _, other := range f.objects["dashboard"] {
				if other["id"] != id && slices.Contains(chartsOf(other), chart) {
					return "the chart " + chart + " is on another dashboard"
				}
			}
		}
	}
	return ""
}

func (f *SignalFx) search(r *http.Request, kind string) (int, any) {
	q := r.URL.Query()
	list := []Object{}
	for _, o := range f.objects[kind] {
		if name, _ := o["name"].(string); strings.Contains(strings.ToLower(name), strings.ToLower(q.Get("name"))) {
			list = append(list, o)
		}
	}
	offset, _ := strconv.Atoi(q.Get("offset"))
	limit, err := strconv.Atoi(q.Get("limit"))
	if err != nil || limit < 1 || offset < 0 {
		return failed(400, "limit or offset is wrong")
	}
	from := min(offset, len(list))
	return 200, map[string]any{"count": len(list), "results": list[from:min(from+min(limit, cmp.Or(f.Page, limit)), len(list))]}
}

// Objects is what there is of chart, dashboard, detector or dashboardgroup, as copies.
func (f *SignalFx) Objects(kind string) (list []Object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.objects[kind]
	if kind == "dashboardgroup" {
		for _, o := range f.org.Objects(kind) {
			all = append(all, o)
		}
	}
	text, _ := json.Marshal(all)
	json.Unmarshal(text, &list)
	return list
}

// Add has somebody make something by hand, and returns its id.
func (f *SignalFx) Add(kind string, o Object) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.add(kind, o)["id"].(string)
}

// Change has somebody change something by hand.
func (f *SignalFx) Change(kind, id string, change func(Object)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if o := f.find(kind, id); o != nil {
		change(o)
	}
}

// Remove has somebody delete something by hand.
func (f *SignalFx) Remove(kind, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop(kind, id)
}

// Requests are those that were made.
func (f *SignalFx) Requests() []Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}
