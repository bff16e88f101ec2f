package store

import (
	"container/list"
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
	waiters list.List // of *Waiter, in the order they came
	signals []chan struct{}
}

func newWaits() *Waits { return &Waits{topics: map[string]*topic{}} }

// A Waiter waits to be woken, once.
type Waiter struct {
	// C receives when the waiter is woken.
	C <-chan struct{}

	c       chan struct{}
	waits   *Waits
	topic   string
	element *list.Element // nil once woken or closed
	closed  bool
}

// Wait registers a waiter behind those that wait for the topic already.
func (ws *Waits) Wait(topic string) *Waiter {
	c := make(chan struct{}, 1)
	w := &Waiter{C: c, c: c, waits: ws, topic: topic}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	w.element = ws.at(topic).waiters.PushBack(w)
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
	if w.element != nil {
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

// Wake wakes up to n waiters, those first that came first, and every signal.
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
		topics[name] = max(1, t.waiters.Len())
	}
	ws.mu.Unlock()
	for name, n := range topics {
		ws.Wake(name, n)
	}
}

func (ws *Waits) wake(topic string, n int) {
	for range n {
		t := ws.topics[topic]
		if t == nil || t.waiters.Len() == 0 {
			return
		}
		w := t.waiters.Front().Value.(*Waiter)
		ws.remove(w)
		w.c <- struct{}{}
	}
}

func (ws *Waits) remove(w *Waiter) {
	t := ws.topics[w.topic]
	t.waiters.Remove(w.element)
	w.element = nil
	if t.waiters.Len() == 0 && len(t.signals) == 0 {
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
