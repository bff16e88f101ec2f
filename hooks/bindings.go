package hooks

import (
	"maps"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/event"
)

// A bindingIndex tells which hooks a message fires. Patterns of an exchange
// make a tree of words, so that a message meets those that it may fit, not all
// there are. It is for one goroutine.
type bindingIndex struct {
	exchanges map[string]*wordNode
	turn      int
}

// A wordNode stands for the patterns that begin with the same words.
type wordNode struct {
	next  map[string]*wordNode
	star  *wordNode // any one word
	hash  *wordNode // any number of words
	loops bool      // it is a hash itself
	hooks []int64   // whose patterns end here
	seen  int       // in which turn it was added to the set
}

func (x *bindingIndex) add(hook int64, bindings []event.Binding) {
	if x.exchanges == nil {
		x.exchanges = map[string]*wordNode{}
	}
	for _, b := range bindings {
		n := x.exchanges[b.Exchange]
		if n == nil {
			n = &wordNode{}
			x.exchanges[b.Exchange] = n
		}
		for _, word := range words(b.RoutingKeyPattern) {
			n = n.child(word)
		}
		n.hooks = append(n.hooks, hook)
	}
}

func (n *wordNode) child(word string) *wordNode {
	switch word {
	case "*":
		if n.star == nil {
			n.star = &wordNode{}
		}
		return n.star
	case "#":
		if n.loops {
			return n // ## is #
		}
		if n.hash == nil {
			n.hash = &wordNode{loops: true}
		}
		return n.hash
	}
	if n.next == nil {
		n.next = map[string]*wordNode{}
	}
	c := n.next[word]
	if c == nil {
		c = &wordNode{}
		n.next[word] = c
	}
	return c
}

// words are those of a key; the empty key has none.
func words(key string) []string {
	if key == "" {
		return nil
	}
	return strings.Split(key, ".")
}

// match returns the hooks that a message fires, in the order of their ids.
func (x *bindingIndex) match(m event.Message) []int64 {
	root := x.exchanges[m.Exchange]
	if root == nil {
		return nil
	}
	var found map[int64]struct{}
	for i := -1; i < len(m.CC); i++ {
		key := m.RoutingKey
		if i >= 0 {
			key = m.CC[i]
		}
		// All nodes that the words so far lead to, at once: their number is
		// bounded by that of the nodes, whatever the hashes.
		set := x.enter(nil, root)
		for _, word := range words(key) {
			x.turn++
			var after []*wordNode
			for _, n := range set {
				if n.loops {
					after = x.visit(after, n)
				}
				after = x.visit(after, n.next[word])
				after = x.visit(after, n.star)
			}
			if set = after; len(set) == 0 {
				break
			}
		}
		for _, n := range set {
			for _, hook := range n.hooks {
				if found == nil {
					found = map[int64]struct{}{}
				}
				found[hook] = struct{}{}
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// enter begins a set with a node.
func (x *bindingIndex) enter(set []*wordNode, n *wordNode) []*wordNode {
	x.turn++
	return x.visit(set, n)
}

// visit adds a node to the set, and what a hash that stands for no word leads
// to.
func (x *bindingIndex) visit(set []*wordNode, n *wordNode) []*wordNode {
	for ; n != nil && n.seen != x.turn; n = n.hash {
		n.seen = x.turn
		set = append(set, n)
	}
	return set
}
