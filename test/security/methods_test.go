package security

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth"
	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/audit"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/hooks"
	"github.com/taskfleet/taskfleet/index"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/mirror"
	"github.com/taskfleet/taskfleet/notify"
	objects "github.com/taskfleet/taskfleet/object"
	"github.com/taskfleet/taskfleet/provisioner"
	"github.com/taskfleet/taskfleet/purgecache"
	"github.com/taskfleet/taskfleet/queue"
	"github.com/taskfleet/taskfleet/schedule"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/secrets"
)

// A method is one that the platform serves.
type method struct {
	service, name, verb, route string // route with the service's prefix
	query                      []string
	input                      bool
	scopes                     scope.Expression // nil: it is open
}

func (m method) String() string { return m.service + "." + m.name }

// methods are all that the served references name, and those that they leave
// out, which are known from the declarations.
func (p *platform) methods() (list []method) {
	p.t.Helper()
	var manifest struct{ References []string }
	p.fetch("/references/manifest.json", &manifest)
	for _, path := range manifest.References {
		if !strings.HasSuffix(path, "/api.json") {
			continue
		}
		var reference struct {
			ServiceName, APIVersion string
			Entries                 []struct {
				Type, Name, Method, Route, Input string
				Query                            []string
				Scopes                           any
			}
		}
		p.fetch(strings.TrimPrefix(path, p.RootURL), &reference)
		for _, e := range reference.Entries {
			list = append(list, method{
				reference.ServiceName, e.Name, strings.ToUpper(e.Method), "/api/" + reference.ServiceName + "/" + reference.APIVersion + e.Route,
				e.Query, e.Input != "", expression(p.t, e.Scopes),
			})
		}
	}
	if len(list) < 150 {
		p.t.Fatalf("the references name %d methods only", len(list))
	}
	return append(list, unpublished()...)
}

func (p *platform) fetch(path string, to any) {
	p.t.Helper()
	r := p.want(200, anonymous, "GET", path, nil)
	if err := json.Unmarshal([]byte(r.text), to); err != nil {
		p.t.Fatalf("%s: %v", path, err)
	}
}

func unpublished() []method {
	return slices.Concat(
		leftOut(auth.API), leftOut(queue.API), leftOut(provisioner.API), leftOut(provisioner.Operations), leftOut(event.API), leftOut(loop.API), leftOut(schedule.API),
		leftOut(hooks.API), leftOut(index.API), leftOut(secrets.API), leftOut(purgecache.API), leftOut(objects.API), leftOut(notify.API),
		leftOut(mirror.API), leftOut(credentials.API), leftOut(audit.API),
	)
}

func leftOut[S any](v api.Service[S]) (list []method) {
	for _, m := range v.Methods {
		if m.Unpublished {
			verb, route, _ := strings.Cut(m.Route, " ")
			route = strings.NewReplacer("...?>", ">", "...>", ">", "?>", ">").Replace(route)
			list = append(list, method{v.Name, m.Name, verb, "/api/" + v.Name + "/" + v.Version + route, m.Query, m.Input != "", m.Scopes})
		}
	}
	return list
}

// expression reads a scope expression as references have it.
func expression(t *testing.T, form any) scope.Expression {
	t.Helper()
	list := func(v any) (of []scope.Expression) {
		for _, x := range v.([]any) {
			of = append(of, expression(t, x))
		}
		return of
	}
	switch form := form.(type) {
	case nil:
		return nil
	case string:
		return scope.Scope(form)
	case map[string]any:
		switch {
		case form["AllOf"] != nil:
			return scope.AllOf(list(form["AllOf"]))
		case form["AnyOf"] != nil:
			return scope.AnyOf(list(form["AnyOf"]))
		case form["for"] != nil:
			return scope.ForEach{For: form["for"].(string), In: form["in"].(string), Each: form["each"].(string)}
		case form["if"] != nil:
			return scope.If{If: form["if"].(string), Then: expression(t, form["then"]), Else: expression(t, form["else"])}
		}
	}
	t.Fatalf("a scope expression is %v", form)
	return nil
}

// A sample is a call that passes all checks but that of scopes.
type sample struct {
	path  map[string]string // URL parameters, beside those that its service's samples share
	query string
	body  any
	vars  scope.Vars // parameters of the scopes that the URL does not give
}

var parameter = regexp.MustCompile(`<(\w+)>`)

// fill puts parameters into a route.
func (s sample) fill(route string) (string, error) {
	var err error
	path := parameter.ReplaceAllStringFunc(route, func(p string) string {
		name := p[1 : len(p)-1]
		value, ok := s.path[name]
		if !ok {
			err = fmt.Errorf("there is no sample of the URL parameter %s", name)
		}
		return url.PathEscape(value)
	})
	if s.query != "" {
		path += "?" + s.query
	}
	return path, err
}

// ways are the smallest sets of scopes that satisfy the expression for the
// sample.
func (s sample) ways(e scope.Expression) ([][]string, error) {
	vars := scope.Vars{}
	for name, value := range s.path {
		vars[name] = value
	}
	maps.Copy(vars, s.vars)
	need, err := scope.Resolve(e, vars)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(need)
	if err != nil {
		return nil, err
	}
	var form any
	if err := json.Unmarshal(text, &form); err != nil {
		return nil, err
	}
	return sets(form), nil
}

func sets(form any) (list [][]string) {
	members, all := form.(map[string]any)
	if !all {
		return [][]string{{form.(string)}}
	}
	if of, any := members["AnyOf"].([]any); any {
		for _, x := range of {
			list = append(list, sets(x)...)
		}
		return list
	}
	list = [][]string{{}}
	for _, x := range members["AllOf"].([]any) {
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
