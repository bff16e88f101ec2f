package awsfake

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"time"
)

// timer is something that will happen by itself.
type timer struct {
	at   time.Time
	seq  uint64
	fire func(*Cloud)
	live func() bool // nil: always; a timer that is not live any more is dropped
}

// timers is a binary heap of timers, by time and then by when they were set.
type timers struct {
	heap []timer
	seq  uint64
}

func (t *timers) less(i, j int) bool {
	if c := t.heap[i].at.Compare(t.heap[j].at); c != 0 {
		return c < 0
	}
	return t.heap[i].seq < t.heap[j].seq
}

func (t *timers) add(at time.Time, live func() bool, fire func(*Cloud)) {
	t.seq++
	t.heap = append(t.heap, timer{at, t.seq, fire, live})
	for i := len(t.heap) - 1; i > 0; {
		parent := (i - 1) / 2
		if !t.less(i, parent) {
			break
		}
		t.heap[i], t.heap[parent] = t.heap[parent], t.heap[i]
		i = parent
	}
}

func (t *timers) pop() timer {
	top := t.heap[0]
	last := len(t.heap) - 1
	t.heap[0] = t.heap[last]
	t.heap[last] = timer{}
	t.heap = t.heap[:last]
	for i := 0; ; {
		child := 2*i + 1
		if child >= last {
			return top
		}
		if child+1 < last && t.less(child+1, child) {
			child++
		}
		if !t.less(child, i) {
			return top
		}
		t.heap[i], t.heap[child] = t.heap[child], t.heap[i]
		i = child
	}
}

// next is the time of the first timer that still matters.
func (t *timers) next() time.Time {
	for len(t.heap) > 0 {
		if top := &t.heap[0]; top.live == nil || top.live() {
			return top.at
		}
		t.pop()
	}
	return time.Time{}
}

// due takes the first timer that is due by then.
func (t *timers) due(until time.Time) (timer, bool) {
	if next := t.next(); next.IsZero() || next.After(until) {
		return timer{}, false
	}
	return t.pop(), true
}

// after sets a timer and, when it is the next one, wakes Run.
func (c *Cloud) after(at time.Time, live func() bool, fire func(*Cloud)) {
	c.timers.add(at, live, fire)
	if c.timers.heap[0].seq == c.timers.seq {
		select {
		case c.rescheduled <- struct{}{}:
		default:
		}
	}
}

// streams are the sources of chance, one a feature.
type streams struct {
	seed uint64

	ids, boot, dead, visible, states, interrupt, rebalance, events, faults, leaks, zone *rand.Rand
}

func newStreams(seed uint64) streams {
	s := streams{seed: seed}
	s.ids, s.boot, s.dead = s.of("ids"), s.of("boot"), s.of("dead")
	s.visible, s.states, s.interrupt, s.rebalance = s.of("visible"), s.of("states"), s.of("interrupt"), s.of("rebalance")
	s.events, s.faults, s.leaks, s.zone = s.of("events"), s.of("faults"), s.of("leaks"), s.of("zone")
	return s
}

// of starts the stream of a feature, or of a feature of one thing.
func (s *streams) of(feature string) *rand.Rand {
	h := fnv.New64a()
	h.Write([]byte(feature))
	return rand.New(rand.NewPCG(s.seed, h.Sum64()))
}

// id makes an identifier as AWS does: a prefix and 17 hexadecimal digits.
func (s *streams) id(prefix string) string {
	return hexID(prefix, s.ids.Uint64(), s.ids.Uint64())
}

func hexID(prefix string, a, b uint64) string {
	const digits = "0123456789abcdef"
	id := make([]byte, 0, len(prefix)+17)
	id = append(id, prefix...)
	id = append(id, digits[b&15])
	for range 16 {
		id = append(id, digits[a&15])
		a >>= 4
	}
	return string(id)
}

// fixedID is the identifier of something that every cloud has.
func fixedID(prefix string, names ...string) string {
	h := fnv.New64a()
	for _, n := range names {
		h.Write([]byte(n))
		h.Write([]byte{0})
	}
	return hexID(prefix, h.Sum64(), h.Sum64()>>7)
}

// logNormal draws a duration by its median.
func logNormal(r *rand.Rand, median time.Duration, sigma float64) time.Duration {
	x := r.NormFloat64()
	return time.Duration(float64(median) * math.Exp(sigma*x))
}

// exponential draws a duration by its mean, at most a century.
func exponential(r *rand.Rand, mean float64) time.Duration {
	const century = 100 * 365 * 24 * time.Hour
	return time.Duration(min(r.ExpFloat64()*mean, float64(century)))
}

// below draws a duration uniformly.
func below(r *rand.Rand, limit time.Duration) time.Duration {
	return time.Duration(r.Float64() * float64(max(limit, 0)))
}
