package api

import (
	"cmp"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// A route is a verb and path segments. Ours is no http.ServeMux pattern: a
// parameter may span slashes in the middle of a path (a task queue id is
// written with %2F or with a plain slash), paths are never cleaned (".." and
// "//" may be part of an artifact's name), and two routes that fit the same
// path are told apart by the patterns of their parameters.
type route struct {
	verb     string
	segments []segment
	text     string // as in the reference: /task/<taskId>/status
}

type segment struct {
	literal string
	param   string
	multi   bool
	empty   bool // as the last segment: may be left empty, after its slash
}

func parseRoute(s string) route {
	verb, path, ok := strings.Cut(s, " ")
	if !ok || !strings.HasPrefix(path, "/") {
		panic("api: bad route " + s)
	}
	r := route{verb: verb, text: strings.NewReplacer("...>", ">", "...?>", ">").Replace(path)}
	for part := range strings.SplitSeq(path[1:], "/") {
		if name, ok := strings.CutPrefix(part, "<"); ok {
			name, empty := strings.CutSuffix(strings.TrimSuffix(name, ">"), "?")
			name, multi := strings.CutSuffix(name, "...")
			r.segments = append(r.segments, segment{param: name, multi: multi, empty: empty})
		} else {
			r.segments = append(r.segments, segment{literal: part})
		}
	}
	if r.segments[0].param != "" {
		panic("api: a route begins with a literal, by which it is found: " + s)
	}
	return r
}

func (r route) params() (names []string) {
	for _, s := range r.segments {
		if s.param != "" {
			names = append(names, s.param)
		}
	}
	return names
}

func (r route) literals() (n int) {
	for _, s := range r.segments {
		if s.param == "" {
			n++
		}
	}
	return n
}

// match fills vars from path and reports whether the path has the route's
// form. Where a spanning parameter leaves a choice, the first division whose
// values fit the patterns is taken; fits tells whether there is one.
func (r route) match(path []string, patterns map[string]*regexp.Regexp) (vars map[string]string, form, fits bool) {
	var fallback map[string]string
	vars = map[string]string{}
	var walk func(segs []segment, path []string) bool
	walk = func(segs []segment, path []string) bool {
		if len(segs) == 0 {
			if len(path) > 0 {
				return false
			}
			form = true
			for name, v := range vars {
				if p := patterns[name]; p != nil && !p.MatchString(v) {
					if fallback == nil {
						fallback = map[string]string{}
						for k, v := range vars {
							fallback[k] = v
						}
					}
					return false
				}
			}
			return true
		}
		s := segs[0]
		switch {
		case len(path) == 0:
			return false
		case s.param == "":
			return s.literal == path[0] && walk(segs[1:], path[1:])
		case !s.multi:
			vars[s.param] = path[0]
			return path[0] != "" && walk(segs[1:], path[1:])
		}
		longest := len(path) - len(segs) + 1 // each later segment takes at least one
		if len(segs) == 1 {
			vars[s.param] = strings.Join(path, "/")
			return (vars[s.param] != "" || s.empty) && walk(nil, nil)
		}
		for n := 1; n <= min(longest, maxSpan); n++ {
			vars[s.param] = strings.Join(path[:n], "/")
			if walk(segs[1:], path[n:]) {
				return true
			}
		}
		return false
	}
	if walk(r.segments, path) {
		return vars, true, true
	}
	return fallback, form, false
}

// maxSpan bounds how many segments a parameter in the middle of a path may
// take, and with it the work that a hostile path can cause.
const maxSpan = 16

// A router finds the endpoint for a request within one service.
type router struct {
	byFirst  map[string][]*endpoint // by the first, literal segment
	patterns map[string]*regexp.Regexp
}

func (rt *router) add(e *endpoint) {
	first := e.route.segments[0].literal
	rt.byFirst[first] = append(rt.byFirst[first], e)
	// The more literal route is asked first, then the one with more segments.
	slices.SortStableFunc(rt.byFirst[first], func(a, b *endpoint) int {
		return cmp.Or(
			cmp.Compare(b.route.literals(), a.route.literals()),
			cmp.Compare(len(b.route.segments), len(a.route.segments)),
		)
	})
}

// find returns the endpoint for verb and the escaped path below the service's
// root, "/task/x/status". Where the path has the form of a route but a value
// does not fit its pattern, fits is false. A nil endpoint is an unknown path.
func (rt *router) find(verb, escaped string) (e *endpoint, vars map[string]string, fits bool) {
	parts := strings.Split(strings.TrimPrefix(escaped, "/"), "/")
	for i, p := range parts {
		s, err := url.PathUnescape(p)
		if err != nil || !plainText(s) {
			return nil, nil, false
		}
		parts[i] = s
	}
	if verb == http.MethodHead {
		verb = http.MethodGet
	}
	for _, c := range rt.byFirst[parts[0]] {
		if c.route.verb != verb {
			continue
		}
		v, form, ok := c.route.match(parts, rt.patterns)
		if ok {
			return c, v, true
		}
		if form && e == nil {
			e, vars = c, v
		}
	}
	if e == nil && len(parts) == 1 && parts[0] != "" { // "/clients" for "/clients/"
		return rt.find(verb, escaped+"/")
	}
	return e, vars, false
}
