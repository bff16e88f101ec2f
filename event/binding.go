package event

import "strings"

// A Binding selects messages: those of an exchange whose routing key, or one
// of whose CC keys, fits a pattern of dotted words in which '*' stands for one
// word and '#' for any number of them, as in AMQP topic exchanges.
type Binding struct {
	Exchange          string `json:"exchange"`
	RoutingKeyPattern string `json:"routingKeyPattern"`
}

func matches(bindings []Binding, m Message) bool {
	for _, b := range bindings {
		if b.Exchange != m.Exchange {
			continue
		}
		pattern := strings.Split(b.RoutingKeyPattern, ".")
		if fits(pattern, strings.Split(m.RoutingKey, ".")) {
			return true
		}
		for _, key := range m.CC {
			if fits(pattern, strings.Split(key, ".")) {
				return true
			}
		}
	}
	return false
}

// fits matches greedily and goes back only to the last '#', so its work is
// bounded by the product of the two lengths.
func fits(pattern, words []string) bool {
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
