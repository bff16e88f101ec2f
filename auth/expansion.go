package auth

import (
	"cmp"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/taskfleet/taskfleet/scope"
)

// rules are the roles of a deployment, arranged so that a set of scopes is
// expanded quickly.
//
// A role is a rule "who has assume:<roleId> also has these scopes". A role id
// that ends in '*' matches every scope that goes on after the star, and its
// own scopes may hold "<..>", which stands for the part that the star matched:
// the parameter. A scope that ends in '*' in turn has what all the scopes it
// grants have: it matches every role that begins with it, and its parameter
// ends in a star, with which the scope made from "<..>" ends too.
//
// rules is immutable. Expansion is a fixpoint: scopes that are already there
// are not followed again. Roles in a circle are refused when they are written, see
// cycle; those of old do no harm.
type rules struct {
	exact    map[string]*rule // by scope, "assume:" + role id
	sorted   []*rule          // by key
	patterns []*rule          // those with a star, as in prefixes
	prefixes prefixes         // the keys of patterns
	limit    budget

	givers func() *givers // made when it is first asked for
}

// A rule is one role.
type rule struct {
	roleID    string
	key       string // "assume:" + role id, without star
	star      bool
	scopes    []string   // granted as they are
	templates []template // granted with the parameter filled in
}

// A template is a scope of a role with star: head<..>tail.
type template struct{ head, tail string }

// fill puts the parameter in. Where that ends in a star, so does the scope:
// what it says of one parameter must be granted for all that the star covers.
func (t template) fill(param string, star bool) string {
	if star {
		return t.head + param
	}
	return t.head + param + t.tail
}

const (
	assume    = "assume:"
	anonymous = "assume:anonymous"
	paramMark = "<..>"
)

// A budget bounds an expansion. Parameters make it possible for a few roles to
// imply very many scopes; that must cost their user, not the service.
type budget struct{ scopes, bytes int }

const (
	// What an expansion may have beyond the scopes of all roles together.
	extraScopes = 20_000
	extraBytes  = 4 << 20
)

// newRules arranges roles, given by id.
func newRules(roles map[string]*role) *rules {
	rs := &rules{exact: make(map[string]*rule, len(roles)), limit: budget{extraScopes, extraBytes}}
	for id, ro := range roles {
		r := newRule(id, ro.Scopes)
		rs.sorted = append(rs.sorted, r)
		if !r.star {
			rs.exact[r.key] = r
		}
		for _, s := range ro.Scopes {
			rs.limit.scopes++
			rs.limit.bytes += len(s)
		}
	}
	slices.SortFunc(rs.sorted, func(a, b *rule) int { return cmp.Compare(a.key, b.key) })
	var keys []string
	for _, r := range rs.sorted {
		if r.star {
			rs.patterns = append(rs.patterns, r)
			keys = append(keys, r.key)
		}
	}
	rs.prefixes = newPrefixes(keys)
	rs.givers = sync.OnceValue(rs.arrangeGivers)
	return rs
}

func newRule(roleID string, scopes []string) *rule {
	r := &rule{roleID: roleID}
	r.key, r.star = strings.CutSuffix(assume+roleID, "*")
	if !r.star {
		r.scopes = scopes
		return r
	}
	for _, s := range scopes {
		if head, tail, ok := strings.Cut(s, paramMark); ok {
			r.templates = append(r.templates, template{head, tail})
		} else {
			r.scopes = append(r.scopes, s)
		}
	}
	return r
}

// An expansionError reports a set of scopes that implies too many.
type expansionError struct{ limit budget }

func (e *expansionError) Error() string {
	return fmt.Sprintf("the scopes expand, through parameterized roles, to more than %d scopes or %d MiB; use narrower roles",
		e.limit.scopes, e.limit.bytes>>20)
}

// expand returns scopes and all that they imply, in normal form.
func (rs *rules) expand(scopes ...string) (scope.Set, error) {
	x := expansion{rules: rs, seen: make(map[string]struct{}, 2*len(scopes))}
	for _, s := range scopes {
		if s == "*" {
			return scope.Set{"*"}, nil // grants all that it could imply
		}
		x.add(s)
	}
	for i := 0; i < len(x.list); i++ { // list grows while it is followed
		if x.list[i] == "*" {
			return scope.Set{"*"}, nil
		}
		x.match(x.list[i], x.grant)
		if len(x.list) > rs.limit.scopes || x.bytes > rs.limit.bytes {
			return nil, &expansionError{rs.limit}
		}
	}
	return scope.NewSet(x.list...), nil
}

type expansion struct {
	*rules
	seen  map[string]struct{}
	list  []string
	bytes int
}

func (x *expansion) add(s string) {
	if _, ok := x.seen[s]; ok {
		return
	}
	x.seen[s] = struct{}{}
	x.list = append(x.list, s)
	x.bytes += len(s)
}

// match calls f with every role that the scope s has, what stands for <..> in it,
// and whether that ends in a star.
func (rs *rules) match(s string, f func(r *rule, param string, star bool)) {
	prefix, star := strings.CutSuffix(s, "*")
	if !star {
		if !strings.HasPrefix(s, assume) {
			return
		}
		if r := rs.exact[s]; r != nil {
			f(r, "", false)
		}
		for i := rs.prefixes.longest(s); i >= 0; i = rs.prefixes.parent[i] {
			r := rs.patterns[i]
			f(r, s[len(r.key):], false)
		}
		return
	}
	if !strings.HasPrefix(prefix, assume) && !strings.HasPrefix(assume, prefix) {
		return
	}
	for i := sort.Search(len(rs.sorted), func(i int) bool { return rs.sorted[i].key >= prefix }); i < len(rs.sorted) && strings.HasPrefix(rs.sorted[i].key, prefix); i++ {
		f(rs.sorted[i], "*", true)
	}
	for i := rs.prefixes.longest(prefix); i >= 0; i = rs.prefixes.parent[i] {
		if r := rs.patterns[i]; len(r.key) < len(prefix) { // the equal one came above
			f(r, s[len(r.key):], true)
		}
	}
}

// grant adds what a role gives.
func (x *expansion) grant(r *rule, param string, star bool) {
	for _, s := range r.scopes {
		x.add(s)
	}
	for _, t := range r.templates {
		x.add(t.fill(param, star))
	}
}

// prefixes answers which of a set of strings another string begins with.
type prefixes struct {
	keys   []string // sorted, each once
	parent []int    // the longest other key that a key begins with, or -1
}

// newPrefixes is for keys that are sorted, each of them once.
func newPrefixes(keys []string) prefixes {
	p := prefixes{keys, make([]int, len(keys))}
	for i, key := range keys {
		j := i - 1
		for j >= 0 && !strings.HasPrefix(key, p.keys[j]) {
			j = p.parent[j]
		}
		p.parent[i] = j
	}
	return p
}

// longest is the index of the longest key that s begins with, or -1; its
// parents are the others. Any key that sorts between a beginning of s and s
// has that beginning too, so the search starts just before s and climbs.
func (p prefixes) longest(s string) int {
	i := sort.Search(len(p.keys), func(i int) bool { return p.keys[i] > s }) - 1
	for i >= 0 && !strings.HasPrefix(s, p.keys[i]) {
		i = p.parent[i]
	}
	return i
}
