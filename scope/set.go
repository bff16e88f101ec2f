// Package scope holds the algebra of authority: scopes, sets of scopes and
// expressions over them.
//
// A scope is a string of printable ASCII. One that ends in '*' grants every
// scope that begins with what stands before the star. A Set is kept in normal
// form (no member grants another), which makes the question "does this set
// grant that scope" a binary search. An Expression is what a method demands.
package scope

import (
	"slices"
	"strings"
)

// A Set is a normalized set of scopes: sorted by Compare, without members that
// another member grants. Make one with NewSet; the zero Set is empty.
type Set []string

// NewSet returns the normal form of scopes.
func NewSet(scopes ...string) Set {
	s := slices.Clone(scopes)
	slices.SortFunc(s, Compare)
	return Set(compact(s))
}

// compact drops from a sorted list what an earlier member grants.
func compact(s []string) []string {
	out := s[:0]
	for _, x := range s {
		if n := len(out); n > 0 && Grants(out[n-1], x) {
			continue
		}
		out = append(out, x)
	}
	return out
}

// Compare orders scopes so that "p*" stands before every scope that begins
// with p. In a normalized set the only member that can grant a scope is then
// its predecessor in this order.
func Compare(a, b string) int {
	pa, starA := strings.CutSuffix(a, "*")
	pb, starB := strings.CutSuffix(b, "*")
	if c := strings.Compare(pa, pb); c != 0 {
		return c
	}
	switch {
	case starA && !starB:
		return -1
	case starB && !starA:
		return 1
	}
	return 0
}

// Grants reports whether the single scope have grants want.
func Grants(have, want string) bool {
	if have == want {
		return true
	}
	prefix, star := strings.CutSuffix(have, "*")
	return star && strings.HasPrefix(want, prefix)
}

// Has reports whether the set grants scope.
func (s Set) Has(scope string) bool {
	i, found := slices.BinarySearchFunc(s, scope, Compare)
	return found || i > 0 && Grants(s[i-1], scope)
}

// Granting is the member of the set that grants scope, if there is one.
func (s Set) Granting(scope string) (member string, ok bool) {
	i, found := slices.BinarySearchFunc(s, scope, Compare)
	if !found {
		if i--; i < 0 || !Grants(s[i], scope) {
			return "", false
		}
	}
	return s[i], true
}

// HasAll reports whether the set grants every one of scopes.
func (s Set) HasAll(scopes []string) bool { return s.firstMissing(scopes) == "" }

func (s Set) firstMissing(scopes []string) string {
	for _, x := range scopes {
		if !s.Has(x) {
			return x
		}
	}
	return ""
}

// Union returns the set of all that s or t grants.
func (s Set) Union(t Set) Set {
	if len(t) == 0 {
		return s
	}
	if len(s) == 0 {
		return t
	}
	return NewSet(slices.Concat(s, t)...)
}

// Valid reports whether s can be a scope: printable ASCII, at most 16 KiB.
func Valid(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return len(s) <= 16<<10
}
