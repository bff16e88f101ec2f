package event

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Binding selects messages: those of an exchange whose routing key, or one
// of whose CC keys, fits a pattern of dotted words in which '*' stands for one
// word and '#' for any number of them, as in AMQP topic exchanges.
type Binding struct {
	Exchange          string `json:"exchange"`
	RoutingKeyPattern string `json:"routingKeyPattern"`
}

const maxPattern = 255 // characters; AMQP has no longer ones

// Check tells what is wrong with a binding that somebody gave us.
func (b Binding) Check() error {
	if b.Exchange == "" || utf8.RuneCountInString(b.Exchange) > maxKey {
		return fmt.Errorf("a binding needs an exchange of 1 to %d characters, such as exchange/taskcluster-queue/v1/task-completed", maxKey)
	}
	if b.RoutingKeyPattern == "" || utf8.RuneCountInString(b.RoutingKeyPattern) > maxPattern {
		return fmt.Errorf("a binding needs a routingKeyPattern of 1 to %d characters; # fits every message", maxPattern)
	}
	return nil
}

// A Matcher tells which messages fit one of many bindings. Its work for a
// message is that of the bindings of the message's exchange.
type Matcher struct {
	exchanges map[string][]pattern
}

// Compile makes a Matcher. One of no bindings fits nothing.
func Compile(bindings []Binding) *Matcher {
	m := &Matcher{map[string][]pattern{}}
	for _, b := range bindings {
		m.exchanges[b.Exchange] = append(m.exchanges[b.Exchange], parsePattern(b.RoutingKeyPattern))
	}
	return m
}

// Matches reports whether m fits.
func (x *Matcher) Matches(m Message) bool {
	patterns := x.exchanges[m.Exchange]
	if len(patterns) == 0 {
		return false
	}
	if anyFits(patterns, m.RoutingKey) {
		return true
	}
	for _, key := range m.CC {
		if anyFits(patterns, key) {
			return true
		}
	}
	return false
}

func anyFits(patterns []pattern, key string) bool {
	var room [16]string
	var words []string // of the key, once they are needed
	for i := range patterns {
		x := &patterns[i]
		if x.all {
			return true
		}
		if !strings.HasPrefix(key, x.start) {
			continue
		}
		if words == nil {
			words = splitKey(room[:0], key)
		}
		if x.fits(words) {
			return true
		}
	}
	return false
}

// A pattern is the words of a routingKeyPattern.
type pattern struct {
	words []string
	start string // with which every key begins that it fits
	all   bool   // it is "#"
}

func parsePattern(s string) pattern {
	words := splitKey(nil, s)
	n := slices.IndexFunc(words, func(w string) bool { return w == "*" || w == "#" })
	if n < 0 {
		n = len(words)
	}
	return pattern{words, strings.Join(words[:n], "."), s == "#"}
}

// splitKey appends the words of a key. The empty key has none, as in AMQP.
func splitKey(words []string, key string) []string {
	if key == "" {
		return words
	}
	for {
		word, rest, more := strings.Cut(key, ".")
		words = append(words, word)
		if !more {
			return words
		}
		key = rest
	}
}

// fits matches greedily and goes back only to the last '#', so its work is
// bounded by the product of the two lengths.
func (x *pattern) fits(words []string) bool {
	if x.all {
		return true
	}
	pattern := x.words
	p, w := 0, 0
	hash, mark := -1, 0
	for w < len(words) {
		switch {
		case p < len(pattern) && pattern[p] == "#":
			hash, mark = p, w
			p++
		case p < len(pattern) && (pattern[p] == "*" || pattern[p] == words[w]):
			p++
			w++
		case hash >= 0:
			mark++
			p, w = hash+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == "#" {
		p++
	}
	return p == len(pattern)
}

// handle is where in a key to look for a pattern: the longest of its words that
// is always at the same place. A pattern that begins with '#', or has nothing
// but '*' before it, has none.
func (x *pattern) handle() (h handle, ok bool) {
	for i, word := range x.words {
		if word == "#" {
			break
		}
		if word != "*" && (!ok || len(word) > len(h.word)) {
			h, ok = handle{i, word}, true
		}
	}
	return h, ok
}

type handle struct {
	place int
	word  string
}
