package auth

import (
	"slices"
	"sort"
	"strconv"
	"strings"
)

// cycle finds the way from a role, given by its id, back to itself: roles each
// of which may have the next through one of its scopes. It is nil where there
// is none.
//
// Roles in a circle are refused, as the platform that we are compatible with
// does it. They say nothing that could not be said without, they are mostly
// mistakes, and with a parameter that gets longer at every turn they would
// expand without end. A circle is looked for with parameters that are anything
// at all, so a few are refused that would come to an end.
//
// Only a circle through the role that is written can be new. Those that
// databases have from before this check existed stay, and do no harm: an
// expansion follows no scope twice, and has a budget.
func (rs *rules) cycle(roleID string) []string {
	start := rs.rule(roleID)
	if start == nil {
		return nil
	}
	cameFrom := map[*rule]*rule{}
	for queue := []*rule{start}; len(queue) > 0; queue = queue[1:] {
		r := queue[0]
		closed := false
		reach := func(next *rule, _ string, _ bool) {
			if next == start {
				closed = true
			} else if _, seen := cameFrom[next]; !seen {
				cameFrom[next] = r
				queue = append(queue, next)
			}
		}
		for _, s := range r.scopes {
			if s != "*" { // who has everything has no role through another
				rs.match(s, reach)
			}
		}
		for _, t := range r.templates {
			rs.match(t.head+"*", reach)
		}
		if !closed {
			continue
		}
		path := []string{roleID}
		for ; r != start; r = cameFrom[r] {
			path = append(path, r.roleID)
		}
		path = append(path, roleID)
		slices.Reverse(path)
		return path
	}
	return nil
}

// rule is the role of an id.
func (rs *rules) rule(roleID string) *rule {
	key := assume + strings.TrimSuffix(roleID, "*")
	for i := sort.Search(len(rs.sorted), func(i int) bool { return rs.sorted[i].key >= key }); i < len(rs.sorted) && rs.sorted[i].key == key; i++ {
		if rs.sorted[i].roleID == roleID {
			return rs.sorted[i]
		}
	}
	return nil
}

// wayRound says a circle of roles in words.
func wayRound(path []string) string {
	const shown = 10
	var b strings.Builder
	for i, id := range path {
		if i == shown && len(path) > shown+1 {
			b.WriteString(" → … → " + strconv.Quote(path[len(path)-1]))
			break
		}
		if i > 0 {
			b.WriteString(" → ")
		}
		b.WriteString(strconv.Quote(id))
	}
	return b.String()
}
