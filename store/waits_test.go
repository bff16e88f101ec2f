package store

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func woken(w *Waiter) bool {
	select {
	case <-w.C:
		return true
	default:
		return false
	}
}

func TestWakesFirstComeFirstServed(t *testing.T) {
	ws := newWaits()
	a, b, c := ws.Wait("t"), ws.Wait("t"), ws.Wait("t")
	other := ws.Wait("other")
	ws.Wake("t", 2)
	if !woken(a) || !woken(b) || woken(c) || woken(other) {
		t.Error("want the first two of the topic woken")
	}
	ws.Wake("t", 5)
	if !woken(c) || woken(a) {
		t.Error("want the third one woken, and nobody twice")
	}
	ws.Wake("t", 1)
	if d := ws.Wait("t"); woken(d) {
		t.Error("a wake was kept for somebody who came later")
	}
}

func TestWakesTheHighestRankFirst(t *testing.T) {
	ws := newWaits()
	low, high, plain, high2, lowest := ws.WaitRanked("t", 1), ws.WaitRanked("t", 7), ws.Wait("t"), ws.WaitRanked("t", 7), ws.WaitRanked("t", -1)
	for i, want := range []*Waiter{high, high2, low, plain, lowest} {
		ws.Wake("t", 1)
		if !woken(want) {
			t.Fatalf("the waiter that is %d in line was not woken", i)
		}
	}
	// A wake that is left unused goes to the best of those that are left.
	a, b, c := ws.WaitRanked("t", 3), ws.WaitRanked("t", 1), ws.WaitRanked("t", 2)
	ws.Wake("t", 1)
	a.Close()
	if !woken(c) || woken(b) {
		t.Error("the wake did not go to the next in rank")
	}
	b.Close()
	c.Close()
	if len(ws.topics) != 0 {
		t.Error("a topic without waiters is kept")
	}
}

// Waiters come and go at random; each wake goes to the one that is best then.
func TestTheLineStaysInOrder(t *testing.T) {
	ws := newWaits()
	var line []*Waiter
	for range 20_000 {
		switch n := rand.N(4); {
		case n < 2 || len(line) == 0:
			line = append(line, ws.WaitRanked("t", rand.N(int64(10))))
		case n == 2:
			i := rand.N(len(line))
			line[i].Close()
			line = slices.Delete(line, i, i+1)
		default:
			best := 0
			for i, w := range line {
				if w.rank > line[best].rank { // the first of its rank came first
					best = i
				}
			}
			ws.Wake("t", 1)
			if !woken(line[best]) {
				t.Fatal("another one than the best was woken")
			}
			line = slices.Delete(line, best, best+1)
		}
	}
}

func TestWakeIsHandedOver(t *testing.T) {
	ws := newWaits()
	a, b, c := ws.Wait("t"), ws.Wait("t"), ws.Wait("t")
	b.Close() // leaves without having been woken
	ws.Wake("t", 1)
	a.Close()
	a.Close()
	if !woken(c) {
		t.Error("the wake that one left unused did not reach the next")
	}
	c.Close()
	if len(ws.topics) != 0 {
		t.Error("a topic without waiters is kept")
	}
}

func TestWakeThatWasReceivedIsNotHandedOver(t *testing.T) {
	ws := newWaits()
	a, b := ws.Wait("t"), ws.Wait("t")
	ws.Wake("t", 1)
	<-a.C
	a.Close()
	if woken(b) {
		t.Error("one wake woke two")
	}
}

func TestSignalsCoalesce(t *testing.T) {
	ws := newWaits()
	s := ws.Signal("t")
	w := ws.Wait("t")
	ws.Wake("t", 0)
	if len(s) != 0 {
		t.Error("waking nobody gave a signal")
	}
	ws.Wake("t", 1)
	ws.Wake("t", 1)
	if len(s) != 1 || !woken(w) {
		t.Error("want one signal, and the waiter woken beside it")
	}
	<-s
	ws.wakeAll()
	if len(s) != 1 {
		t.Error("waking everybody left a signal out")
	}
}

// Whatever waiters do, each wake reaches exactly one that acts on it, as long
// as somebody waits.
func TestEveryWakeIsActedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ws := newWaits()
		var mu sync.Mutex
		todo, done := 0, 0
		look := func() bool {
			mu.Lock()
			defer mu.Unlock()
			if todo == 0 {
				return false
			}
			todo--
			done++
			return true
		}
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				for ctx.Err() == nil {
					w := ws.Wait("t")
					if look() {
						w.Close()
						continue
					}
					select {
					case <-w.C:
						continue
					case <-time.After(rand.N(20 * time.Millisecond)): // gives up, and comes back much later
					case <-ctx.Done():
					}
					w.Close()
					time.Sleep(rand.N(20 * time.Millisecond))
				}
			})
		}
		wg.Go(func() { // one that never gives up
			for {
				w := ws.Wait("t")
				if look() {
					w.Close()
					continue
				}
				select {
				case <-w.C:
				case <-ctx.Done():
					w.Close()
					return
				}
			}
		})
		const all = 5000
		for range all {
			mu.Lock()
			todo++
			mu.Unlock()
			ws.Wake("t", 1)
			if rand.N(3) == 0 {
				time.Sleep(rand.N(5 * time.Millisecond))
			}
		}
		synctest.Wait()
		mu.Lock()
		if todo != 0 || done != all {
			t.Errorf("%d of %d done, %d left while somebody waits", done, all, todo)
		}
		mu.Unlock()
		stop()
		wg.Wait()
		if len(ws.topics) != 0 {
			t.Error("a waiter was left behind")
		}
	})
}
