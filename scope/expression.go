package scope

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// An Expression says which scopes a method demands, with <parameters> that are
// filled in from the request. Its JSON form is that of the API references.
type Expression interface {
	// Params names the parameters, each once.
	Params() []string
	fill(*values) (Need, error)
}

// Single is the need of one scope, which is taken as it is.
func Single(s string) Need { return Need{scope: s} }

// Vars give parameters their values: a string, a []string for the "in" of a
// ForEach, a bool for the "if" of an If.
type Vars map[string]any

type (
	// Scope demands one scope, "queue:get-task:<taskId>".
	Scope string
	// AllOf demands every one of its members.
	AllOf []Expression
	// AnyOf demands one of its members; an empty AnyOf cannot be satisfied.
	AnyOf []Expression
	// ForEach demands the scope Each once for every value of the list In,
	// which it calls For. An empty list demands nothing. Within AnyOf, a
	// ForEach stands for its scopes as alternatives.
	ForEach struct{ For, In, Each string }
	// If demands Then where the parameter If is true and Else where it is not.
	If struct {
		If         string
		Then, Else Expression
	}
)

// A Need is an expression whose parameters are filled in.
type Need struct {
	scope string
	any   bool
	of    []Need // nil for a single scope
}

// Resolve fills in e's parameters. A missing one is an error: the method's
// declaration and its handler disagree.
func Resolve(e Expression, v Vars) (Need, error) { return e.fill(&values{vars: v}) }

// ResolveWith is Resolve with more parameters, of which v comes first.
func ResolveWith(e Expression, v Vars, more map[string]string) (Need, error) {
	return e.fill(&values{vars: v, more: more})
}

// values are where parameters are looked up.
type values struct {
	vars Vars
	more map[string]string

	each, current string // what a ForEach calls the current value, and that
}

func (v *values) text(name string) (string, bool) {
	if name == v.each && name != "" {
		return v.current, true
	}
	if x, ok := v.vars[name]; ok {
		s, ok := x.(string)
		return s, ok
	}
	s, ok := v.more[name]
	return s, ok
}

// SatisfiedBy reports whether have grants what is needed.
func (n Need) SatisfiedBy(have Set) bool {
	switch {
	case n.of == nil:
		return have.Has(n.scope)
	case n.any:
		return slices.ContainsFunc(n.of, func(m Need) bool { return m.SatisfiedBy(have) })
	default:
		return !slices.ContainsFunc(n.of, func(m Need) bool { return !m.SatisfiedBy(have) })
	}
}

// Used calls f with the single scopes by which have satisfies n: of alternatives,
// those of the first that it satisfies. It is only meaningful where n is satisfied.
func (n Need) Used(have Set, f func(scope string)) {
	if n.of == nil {
		f(n.scope)
		return
	}
	for _, m := range n.of {
		if n.any && !m.SatisfiedBy(have) {
			continue
		}
		m.Used(have, f)
		if n.any {
			return
		}
	}
}

// Missing is the part of n that have does not grant, for an error message. It
// is only meaningful where n is not satisfied.
func (n Need) Missing(have Set) Need {
	if n.of == nil {
		return n
	}
	left := Need{any: n.any, of: []Need{}}
	for _, m := range n.of {
		if !m.SatisfiedBy(have) {
			left.of = append(left.of, m.Missing(have))
		}
	}
	if len(left.of) == 1 {
		return left.of[0]
	}
	return left
}

// Scopes are the single scopes that n names, in their order.
func (n Need) Scopes() iter.Seq[string] {
	return func(yield func(string) bool) { n.walk(yield) }
}

func (n Need) walk(yield func(string) bool) bool {
	if n.of == nil {
		return yield(n.scope)
	}
	return !slices.ContainsFunc(n.of, func(m Need) bool { return !m.walk(yield) })
}

// MarshalJSON writes a scope or {"AllOf": […]} or {"AnyOf": […]}.
func (n Need) MarshalJSON() ([]byte, error) {
	switch {
	case n.of == nil:
		return json.Marshal(n.scope)
	case n.any:
		return json.Marshal(map[string][]Need{"AnyOf": n.of})
	default:
		return json.Marshal(map[string][]Need{"AllOf": n.of})
	}
}

func (n Need) String() string {
	b, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err.Error()
	}
	return string(b)
}

var param = regexp.MustCompile(`<(\w+)>`)

func params(template string) (names []string) {
	for _, m := range param.FindAllStringSubmatch(template, -1) {
		names = append(names, m[1])
	}
	return names
}

// substitute fills in a template, in which every "<" begins a parameter.
func substitute(template string, v *values) (string, error) {
	before, rest, more := strings.Cut(template, "<")
	if !more {
		return template, nil
	}
	var b strings.Builder
	b.Grow(128) // most scopes are shorter
	b.WriteString(before)
	for more {
		var name string
		name, rest, _ = strings.Cut(rest, ">")
		x, ok := v.text(name)
		if !ok {
			return "", fmt.Errorf("scope %q: parameter %q has no value", template, name)
		}
		b.WriteString(x)
		before, rest, more = strings.Cut(rest, "<")
		b.WriteString(before)
	}
	return b.String(), nil
}

func union(lists ...[]string) []string {
	seen := map[string]struct{}{}
	for _, l := range lists {
		for _, x := range l {
			seen[x] = struct{}{}
		}
	}
	return slices.Sorted(maps.Keys(seen))
}

func (s Scope) Params() []string { return union(params(string(s))) }

func (s Scope) fill(v *values) (Need, error) {
	x, err := substitute(string(s), v)
	return Need{scope: x}, err
}

func all(list []Expression) []string {
	var names [][]string
	for _, e := range list {
		names = append(names, e.Params())
	}
	return union(names...)
}

func (a AllOf) Params() []string { return all(a) }
func (a AnyOf) Params() []string { return all(a) }

func (a AllOf) fill(v *values) (Need, error) { return fillAll(a, false, v) }
func (a AnyOf) fill(v *values) (Need, error) { return fillAll(a, true, v) }

func fillAll(list []Expression, any bool, v *values) (Need, error) {
	n := Need{any: any, of: make([]Need, 0, len(list))}
	for _, e := range list {
		m, err := e.fill(v)
		if err != nil {
			return n, err
		}
		if _, each := e.(ForEach); each { // its scopes join the list they stand in
			n.of = append(n.of, m.of...)
		} else {
			n.of = append(n.of, m)
		}
	}
	return n, nil
}

func (e ForEach) Params() []string {
	rest := slices.DeleteFunc(params(e.Each), func(p string) bool { return p == e.For })
	return union([]string{e.In}, rest)
}

func (e ForEach) fill(v *values) (Need, error) {
	list, ok := v.vars[e.In].([]string)
	if !ok {
		return Need{of: []Need{}}, fmt.Errorf("scope %q: parameter %q is not a list", e.Each, e.In)
	}
	n := Need{of: make([]Need, 0, len(list))}
	inner := values{vars: v.vars, more: v.more, each: e.For}
	for _, inner.current = range list {
		s, err := substitute(e.Each, &inner)
		if err != nil {
			return n, err
		}
		n.of = append(n.of, Need{scope: s})
	}
	return n, nil
}

func (e ForEach) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]string{"for": e.For, "in": e.In, "each": e.Each})
}

func (i If) Params() []string { return union([]string{i.If}, i.Then.Params(), i.Else.Params()) }

func (i If) fill(v *values) (Need, error) {
	yes, ok := v.vars[i.If].(bool)
	switch {
	case !ok:
		return Need{}, fmt.Errorf("scope condition %q has no value", i.If)
	case yes:
		return i.Then.fill(v)
	default:
		return i.Else.fill(v)
	}
}

func (i If) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string]any{"if": i.If, "then": i.Then, "else": i.Else})
}

func (a AllOf) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string][]Expression{"AllOf": a})
}

func (a AnyOf) MarshalJSON() ([]byte, error) {
	return json.Marshal(map[string][]Expression{"AnyOf": a})
}
