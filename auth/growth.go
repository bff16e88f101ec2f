package auth

import (
	"fmt"
	"strings"
)

// checkGrowth refuses roles that would expand without end.
//
// Only parameters can do that: scopes written out are finitely many. Take the
// roles with "<..>" as nodes, with an edge wherever a scope made from one
// role's parameter may match another role. Along an edge the new parameter is
// the old one with something cut off in front or something added, in front or
// behind. On a path without a circle parameters stay bounded; on a circle they
// do if nothing is added anywhere on it. So that is what is demanded: no edge
// that adds to the parameter may lie on a circle.
//
// This also refuses a few circles that cut off more than they add. They end,
// but after as many steps as the parameter is long, which nobody means.
func checkGrowth(rs *rules) error {
	var nodes []*rule
	for _, r := range rs.patterns {
		if len(r.templates) > 0 {
			nodes = append(nodes, r)
		}
	}
	g := growth{nodes: nodes, prefixes: newPrefixes(nodes), index: make([]int, len(nodes)), low: make([]int, len(nodes)), circle: make([]int, len(nodes))}
	for i := range nodes {
		if g.index[i] == 0 {
			g.visit(i)
		}
	}
	var err error
	for i, r := range nodes {
		for _, t := range r.templates {
			g.edges(t, func(j int) {
				if err == nil && g.circle[i] == g.circle[j] && t.adds(nodes[j]) {
					err = &growthError{r.roleID, t.head + paramMark + t.tail, nodes[j].roleID}
				}
			})
		}
	}
	return err
}

// A growthError reports roles that would expand without end.
type growthError struct{ role, scope, into string }

func (e *growthError) Error() string {
	via := fmt.Sprintf("matches role %q, from which the role can be reached again", e.into)
	if e.role == e.into {
		via = "matches the role itself again"
	}
	return fmt.Sprintf("the roles would expand without end: the scope %q of role %q adds to the parameter and %s. "+
		"Roles may refer to each other in a circle only if no scope on it adds to what stands for %s.", e.scope, e.role, via, paramMark)
}

// adds reports whether the parameter that a scope made from t hands to r can
// contain more than t's own did.
func (t template) adds(r *rule) bool {
	return strings.TrimSuffix(t.tail, "*") != "" || len(t.head) > len(r.key)
}

// growth finds the circles: the strongly connected components, by Tarjan's
// algorithm.
type growth struct {
	nodes    []*rule
	prefixes prefixes
	index    []int // when a node was found, from 1
	low      []int // the earliest node found that is known to be reachable
	circle   []int // the component of a node, from 1; 0 while it is open
	stack    []int
	count    int
	circles  int
}

// edges calls f with every node that a scope made from t may match.
func (g *growth) edges(t template, f func(int)) {
	for i := g.prefixes.longest(t.head); i >= 0; i = g.prefixes.parent[i] {
		f(i)
	}
	from, to := g.prefixes.under(t.head)
	for i := from; i < to; i++ {
		if len(g.nodes[i].key) > len(t.head) { // the equal one came above
			f(i)
		}
	}
}

func (g *growth) visit(i int) {
	g.count++
	g.index[i], g.low[i] = g.count, g.count
	g.stack = append(g.stack, i)
	for _, t := range g.nodes[i].templates {
		g.edges(t, func(j int) {
			if g.index[j] == 0 {
				g.visit(j)
				g.low[i] = min(g.low[i], g.low[j])
			} else if g.circle[j] == 0 {
				g.low[i] = min(g.low[i], g.index[j])
			}
		})
	}
	if g.low[i] != g.index[i] {
		return
	}
	g.circles++
	for {
		j := g.stack[len(g.stack)-1]
		g.stack = g.stack[:len(g.stack)-1]
		g.circle[j] = g.circles
		if j == i {
			return
		}
	}
}
