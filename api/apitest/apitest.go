// Package apitest walks the methods of a service and checks what is to hold for
// every one of them: that nobody gets in without the scopes, and that whoever
// has them does.
//
// The walk goes over the declarations, so a method that is added is walked
// without anybody thinking of it; what it needs is one sample call of each. The
// scopes are what the declaration says for the sample's parameters. Callers are
// made up, as authentication is not what is tested: each has exactly the scopes
// that a case is about.
package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
)

// A Sample is a call that passes all checks but that of scopes. What becomes of
// it then does not matter, as long as it is no failure of the server: it may
// well be a 404.
type Sample struct {
	Path  map[string]string // URL parameters, beside those of Samples
	Query string
	Body  any // JSON, or nil

	// Vars are the parameters of the method's scopes that the URL does not give,
	// or gives in another form.
	Vars scope.Vars

	// Before is run before each call, to put things where they were.
	Before func()
}

// Samples are the calls for one service.
type Samples struct {
	Path map[string]string // URL parameters that most calls share
	Open []string          // methods that are meant for everybody, without credentials

	// Methods are the samples by the methods' names. A method needs none if it
	// has no body and its scopes follow from the URL.
	Methods map[string]Sample
}

// Scopes walks all methods of a service. Each is called without scopes, with
// ones that merely look like those it demands, with all but one of them, and
// with exactly them, for every alternative that there is.
func Scopes[S any](t *testing.T, v api.Service[S], impl S, samples Samples) {
	t.Helper()
	s := api.NewServer(api.Options{
		RootURL: "http://api.test", Auth: bearer{}, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), CheckOutput: true,
	})
	if err := api.Mount(s, v, impl); err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, m := range v.Methods {
		known[m.Name] = true
		if open := slices.Contains(samples.Open, m.Name); m.Scopes == nil {
			if !open {
				t.Errorf("%s is open to everybody; if it is meant to be, list it as open", m.Name)
			}
			continue
		} else if open {
			t.Errorf("%s demands scopes, but is listed as open", m.Name)
		}
		t.Run(m.Name, func(t *testing.T) { walk(t, s, v.Name+"/"+v.Version, m.Spec, samples) })
	}
	for _, name := range slices.Concat(samples.Open, slices.Collect(maps.Keys(samples.Methods))) {
		if !known[name] {
			t.Errorf("there is no method %s", name)
		}
	}
}

func walk(t *testing.T, s http.Handler, service string, m api.Spec, samples Samples) {
	sample := samples.Methods[m.Name]
	if sample.Body == nil && m.Input != "" {
		t.Fatalf("%s has a body: give it a sample", m.Name)
	}
	path := maps.Clone(samples.Path)
	if path == nil {
		path = map[string]string{}
	}
	maps.Copy(path, sample.Path)
	vars := scope.Vars{}
	for name, value := range path {
		vars[name] = value
	}
	maps.Copy(vars, sample.Vars)
	need, err := scope.Resolve(m.Scopes, vars)
	if err != nil {
		t.Fatalf("%v: give the sample this parameter", err)
	}
	enough := ways(t, need)
	call := func(scopes []string) *httptest.ResponseRecorder {
		if sample.Before != nil {
			sample.Before()
		}
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, request(t, service, m, path, sample, scopes))
		return rec
	}
	refused := func(what string, scopes []string) {
		t.Helper()
		rec := call(scopes)
		var e struct{ Code api.Code }
		if json.Unmarshal(rec.Body.Bytes(), &e); rec.Code != http.StatusForbidden || e.Code != api.InsufficientScopes {
			t.Errorf("%s (%q): %d %.1000s; want InsufficientScopes", what, scopes, rec.Code, rec.Body)
		}
	}
	refused("without scopes", []string{})
	for _, scopes := range enough {
		if len(scopes) == 0 {
			t.Fatalf("the sample needs no scopes: make it one that does")
		}
		var like []string
		for _, x := range scopes {
			like = append(like, x+"x", x+"/", strings.TrimSuffix(x, x[len(x)-1:]), "x"+x, strings.ToUpper(x))
		}
		refused("with scopes that are merely like those", slices.DeleteFunc(like, func(x string) bool { return slices.Contains(scopes, x) }))
		for i := range scopes {
			if len(scopes) > 1 {
				refused("without "+scopes[i], slices.Concat(scopes[:i:i], scopes[i+1:]))
			}
		}
	}
	for _, scopes := range enough {
		if rec := call(scopes); rec.Code == http.StatusUnauthorized || rec.Code == http.StatusForbidden || rec.Code >= 500 || rec.Code == http.StatusBadRequest {
			t.Errorf("with %q: %d %.1000s", scopes, rec.Code, rec.Body)
		}
	}
}

var parameter = regexp.MustCompile(`<(\w+)(\.\.\.)?\??>`)

func request(t *testing.T, service string, m api.Spec, path map[string]string, sample Sample, scopes []string) *http.Request {
	verb, route, _ := strings.Cut(m.Route, " ")
	route = parameter.ReplaceAllStringFunc(route, func(p string) string {
		name := parameter.FindStringSubmatch(p)[1]
		if path[name] == "" && !strings.HasSuffix(p, "?>") {
			t.Fatalf("there is no sample of the URL parameter %s", name)
		}
		return url.PathEscape(path[name])
	})
	var body bytes.Buffer
	if sample.Body != nil {
		if err := json.NewEncoder(&body).Encode(sample.Body); err != nil {
			t.Fatal(err)
		}
	}
	if sample.Query != "" {
		route += "?" + sample.Query
	}
	r := httptest.NewRequest(verb, "http://api.test/api/"+service+route, &body)
	if sample.Body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Authorization", bearer{}.of(scopes))
	return r
}

// ways are the smallest sets of scopes that satisfy n.
func ways(t *testing.T, n scope.Need) [][]string {
	text, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	var form any
	if err := json.Unmarshal(text, &form); err != nil {
		t.Fatal(err)
	}
	return sets(form)
}

func sets(form any) (list [][]string) {
	switch form := form.(type) {
	case string:
		return [][]string{{form}}
	case map[string]any:
		if any, ok := form["AnyOf"].([]any); ok {
			for _, x := range any {
				list = append(list, sets(x)...)
			}
			return list
		}
		list = [][]string{{}}
		for _, x := range form["AllOf"].([]any) {
			var longer [][]string
			for _, a := range list {
				for _, b := range sets(x) {
					both := slices.Concat(a, b)
					slices.Sort(both)
					longer = append(longer, slices.Compact(both))
				}
			}
			list = longer
		}
		return list
	}
	panic(fmt.Sprintf("apitest: a scope expression of type %T", form))
}

// bearer takes callers' word for what they may do.
type bearer struct{}

func (bearer) of(scopes []string) string {
	b, err := json.Marshal(scopes)
	if err != nil {
		panic(err) // texts always marshal
	}
	return string(b)
}

// Authenticate implements api.Authenticator.
func (bearer) Authenticate(_ context.Context, r api.Credential) (api.Identity, error) {
	var scopes []string
	if err := json.Unmarshal([]byte(r.Authorization), &scopes); err != nil {
		return api.Identity{}, err
	}
	return api.Identity{ClientID: "test/caller", Scopes: scope.NewSet(scopes...)}, nil
}
