package store

import (
	"cmp"
	"container/heap"
	"math"
	"sync"
)

// Waits are lists of goroutines that wait for something to change, by topic.
//
// A wake is not kept for those who come later, so the order matters: register,
// look at the database, and only then wait. Whatever commits after the look
// finds the waiter registered.
//
//	for {
//		w := db.Waits().Wait(topic)
//		found, err := look(ctx)
//		if found || err != nil {
//			w.Close()
//			return err
//		}
//		select {
//		case <-w.C: // look again
//		case <-ctx.Done():
//			w.Close()
//			return ctx.Err()
//		}
//	}
type Waits struct {
	mu     sync.Mutex
	topics map[string]*topic
	came   int64 // how many waiters have
}

// A wake is for up to n waiters of a topic.
type wake struct {
	topic string
	n     int
}

// merge adds a wake to those that go together.
func merge(wakes []wake, more wake) []wake {
	for i := range wakes {
		if w := &wakes[i]; w.topic == more.topic {
			w.n = min(w.n, math.MaxInt-more.n) + more.n
			return wakes
		}
	}
	return append(wakes, more)
}

type topic struct {
	waiters line
	signals []chan struct{}
}

// A line is a heap of waiters, the one to be woken next on top.
type line []*Waiter

func (l line) Len() int { return len(l) }

func (l line) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(l[j].rank, l[i].rank), cmp.Compare(l[i].came, l[j].came)) < 0
}

func (l line) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].place, l[j].place = i, j
}

// Push and Pop are for package heap.
func (l *line) Push(x any) {
	w := x.(*Waiter)
	w.place = len(*l)
	*l = append(*l, w)
}

func (l *line) Pop() any {
	last := len(*l) - 1
	w := (*l)[last]
	(*l)[last], *l = nil, (*l)[:last]
	w.place = gone
	return w
}

// gone is the place of a waiter that is in no line any more: it was woken, or
// it was closed.
const gone = -1

func newWaits() *Waits { return &Waits{topics: map[string]*topic{}} }

// A Waiter waits to be woken, once.
type Waiter struct {
	// C receives when the waiter is woken.
	C <-chan struct{}

	c      chan struct{}
	waits  *Waits
	topic  string
	rank   int64
	came   int64
	place  int // in the line of its topic
	closed bool
}

// Wait registers a waiter behind those that wait for the topic already. It is
// WaitRanked with rank 0.
func (ws *Waits) Wait(topic string) *Waiter { return ws.WaitRanked(topic, 0) }

// WaitRanked registers a waiter that is woken before those of a lower rank,
// and behind those of the same rank that wait already. With as many wakes as
// waiters the rank does not matter; with fewer, it says who sleeps on. It counts
// in this process only: a wake from another one goes to the first in line here.
func (ws *Waits) WaitRanked(topic string, rank int64) *Waiter {
	c := make(chan struct{}, 1)
	w := &Waiter{C: c, c: c, waits: ws, topic: topic, rank: rank}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.came++
	w.came = ws.came
	heap.Push(&ws.at(topic).waiters, w)
	return w
}

// Close ends the wait. A wake that came and was not received from C goes to
// the next waiter, for it may be the only one for what is to be done. Who did
// receive from C and yet cannot act on it passes it on with Waits.Wake.
func (w *Waiter) Close() {
	w.waits.mu.Lock()
	defer w.waits.mu.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	if w.place != gone {
		w.waits.remove(w)
		return
	}
	select {
	case <-w.c:
		w.waits.wake(w.topic, 1)
	default:
	}
}

// Signal returns a channel that receives whenever the topic is woken, however
// few are to be woken; wakes that come while one is unreceived are one. It
// lives as long as the database, and is meant for the Wake of a loop.
func (ws *Waits) Signal(topic string) <-chan struct{} {
	c := make(chan struct{}, 1)
	ws.mu.Lock()
	defer ws.mu.Unlock()
	t := ws.at(topic)
	t.signals = append(t.signals, c)
	return c
}

// Wake wakes up to n waiters, those of the highest rank first and among equals
// those that came first, and every signal.
func (ws *Waits) Wake(topic string, n int) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if t := ws.topics[topic]; t != nil && n > 0 {
		for _, c := range t.signals {
			select {
			case c <- struct{}{}:
			default:
			}
		}
	}
	ws.wake(topic, n)
}

// wakeAll wakes everybody, for when it is unknown what was missed.
func (ws *Waits) wakeAll() {
	ws.mu.Lock()
	topics := make(map[string]int, len(ws.topics))
	for name, t := range ws.topics {
		topics[name] = max(1, len(t.waiters))
	}
	ws.mu.Unlock()
	for name, n := range topics {
		ws.Wake(name, n)
	}
}

func (ws *Waits) wake(topic string, n int) {
	for range n {
		t := ws.topics[topic]
		if t == nil || len(t.waiters) == 0 {
			return
		}
		w := t.waiters[0]
		ws.remove(w)
		w.c <- struct{}{}
	}
}

func (ws *Waits) remove(w *Waiter) {
	t := ws.topics[w.topic]
	heap.Remove(&t.waiters, w.place)
	if len(t.waiters) == 0 && len(t.signals) == 0 {
		delete(ws.topics, w.topic)
	}
}

func (ws *Waits) at(name string) *topic {
	t := ws.topics[name]
	if t == nil {
		t = &topic{}
		ws.topics[name] = t
	}
	return t
}
