package event

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, key string
		want         bool
	}{
		{"#", "a.b.c", true}, {"#", "", true}, {"a.#", "a", true}, {"a.#.c", "a.c", true}, {"a.#.c", "a.b.b.c", true}, {"a.#.c", "a.b", false},
		{"a.*", "a.b", true}, {"a.*", "a", false}, {"a.*", "a.b.c", false}, {"#.b.#", "a.b.c", true}, {"#.x.#", "a.b.c", false},
		{"a.b", "a.b", true}, {"a.b", "a.c", false}, {"*.*", "a.b", true}, {"#.*", "a", true}, {"#.#.#", "a", true}, {"*", "", false},
	} {
		for _, m := range []Message{{Exchange: exchange, RoutingKey: c.key}, {Exchange: exchange, RoutingKey: "z.z.z.z.z.z.z.z", CC: []string{"y.y.y.y.y.y", c.key}}} {
			matcher := Compile([]Binding{{"other", "#"}, {exchange, "no.such.key"}, {exchange, c.pattern}})
			want := c.want || m.CC != nil && strings.HasPrefix(c.pattern, "#") && !strings.ContainsAny(c.pattern, "xb") // fits z and y
			if got := matcher.Matches(m); got != want {
				t.Errorf("%s matches %s, %v: %v", c.pattern, m.RoutingKey, m.CC, got)
			}
			m.Exchange = "another"
			if matcher.Matches(m) {
				t.Errorf("%s matches on another exchange", c.pattern)
			}
		}
	}
	if Compile(nil).Matches(Message{Exchange: exchange}) {
		t.Error("no binding matches something")
	}
}

// fitsSimply is what patterns mean, in the plainest way.
func fitsSimply(pattern, words []string) bool {
	switch {
	case len(pattern) == 0:
		return len(words) == 0
	case pattern[0] == "#":
		return fitsSimply(pattern[1:], words) || len(words) > 0 && fitsSimply(pattern, words[1:])
	}
	return len(words) > 0 && (pattern[0] == "*" || pattern[0] == words[0]) && fitsSimply(pattern[1:], words[1:])
}

func FuzzPattern(f *testing.F) {
	f.Add("#", "a.b")
	f.Add("a.*.#.b", "a.x.y.b")
	f.Add("", "")
	f.Add("..", "..")
	f.Fuzz(func(t *testing.T, text, key string) {
		if len(text) > 40 || len(key) > 40 {
			return
		}
		p := parsePattern(text)
		words := splitKey(nil, key)
		want := fitsSimply(p.words, words)
		if got := p.fits(words); got != want {
			t.Errorf("%q fits %q: %v", text, key, got)
		}
		// And where the hub looks for it.
		s := &stream{live: true, at: 0, wake: make(chan struct{}, 1)}
		h := &hub{exchanges: map[string]*bindingIndex{}}
		s.hub = h
		b := &bound{p, exchange, s}
		h.add(b)
		h.exchanges[exchange].offer(&entry{Message: Message{Position: 1, RoutingKey: key}})
		if got := len(s.queue) == 1; got != want {
			t.Errorf("the hub finds %q for %q: %v", text, key, got)
		}
		h.remove(b)
		if len(h.exchanges) > 0 {
			t.Error("something is left of the binding")
		}
	})
}

func FuzzCommand(f *testing.F) {
	f.Add([]byte(`{"method":"bind","id":"1","options":{"exchange":"x","routingKeyPattern":"#"}}`))
	f.Add([]byte(`{"method":"unbind","id":7,"options":{"exchange":"x","routingKeyPattern":"#"}}`))
	f.Add([]byte(`{"id":{}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, text []byte) {
		s := &stream{hub: &hub{exchanges: map[string]*bindingIndex{}}, wake: make(chan struct{}, 1)}
		reply, err := json.Marshal(s.command(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		var x struct{ Event string }
		if err := json.Unmarshal(reply, &x); err != nil || x.Event == "" || len(reply) > 4*len(text)+1000 {
			t.Errorf("%q: %s, %v", text, reply, err)
		}
	})
}

// A pattern that is made to go back often is no way to keep us busy.
func TestAHostilePatternIsCheap(t *testing.T) {
	p := parsePattern(strings.TrimSuffix(strings.Repeat("#.a.", 250), "."))
	words := splitKey(nil, strings.TrimSuffix(strings.Repeat("a.", 120), ".")+".b")
	start := time.Now()
	for range 100 {
		if p.fits(words) {
			t.Error("it fits")
		}
	}
	t.Log(time.Since(start) / 100)
}

const queueKey = "primary.aaaaaaaaaaaaaaaaaaaaaa.0.eu-west-1a.i-0123456789abcdef0.proj-test.build-linux.gecko-level-1.bbbbbbbbbbbbbbbbbbbbbb._"

func BenchmarkMatch(b *testing.B) {
	matcher := Compile([]Binding{{"other", "#"}, {exchange, "primary.*.*.*.*.*.*.*.cccccccccccccccccccccc.#"}, {exchange, "route.index.#"}})
	m := Message{Exchange: exchange, RoutingKey: queueKey, CC: []string{"route.garbage.a", "route.index.gecko"}}
	b.ReportAllocs()
	for b.Loop() {
		if !matcher.Matches(m) {
			b.Fatal("it does not fit")
		}
	}
}

// BenchmarkHub is what a message costs that one of ten thousand streams waits
// for.
func BenchmarkHub(b *testing.B) {
	h := &hub{exchanges: map[string]*bindingIndex{}}
	for i := range 10_000 {
		s := &stream{hub: h, live: true, wake: make(chan struct{}, 1)}
		id := fmt.Sprintf("%022d", i)
		s.bindings = []Binding{{exchange, "primary." + id + ".#"}, {exchange, "primary.*.*.*.*.*.*.*." + id + ".#"}}
		s.live = false
		s.goLive()
	}
	var list []*entry
	for i := range 1000 {
		list = append(list, &entry{Message: Message{Position: int64(i + 1), RoutingKey: strings.Replace(queueKey, "bbbbbbbbbbbbbbbbbbbbbb", fmt.Sprintf("%022d", rand.IntN(10_000)), 1), CC: []string{"route.index.gecko"}}})
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		h.exchanges[exchange].offer(list[i%len(list)])
	}
}
