package mirror

import (
	"context"
	"sync"
	"time"
)

// await waits until a copy is there, or until waiting for it is in vain, and
// returns it as it is then: present, failed or leaving, or store.ErrNotFound if
// it is gone. After limit it returns it as it is. It is shared with others who wait
// for it: nobody writes to it.
func (m *Mirror) await(ctx context.Context, region, id string, limit time.Duration) (*Copy, error) {
	n := name{region, id}
	w := m.join(n)
	defer m.part(n, w)
	over := time.NewTimer(limit)
	defer over.Stop()
	select {
	case <-w.over:
		return w.last, w.err
	case <-over.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if c := m.watches.seen(w); c != nil {
		return c, nil
	}
	over.Reset(lookLimit)
	select {
	case <-w.over:
		return w.last, w.err
	case <-over.C: // a look that takes too long is as good as none
		return nil, context.DeadlineExceeded
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// A watch looks out for what becomes of a copy, for all who wait for it here: they
// may be thousands.
type watch struct {
	over chan struct{} // closed when something has become of it
	stop context.CancelFunc

	// What follows is guarded by the mutex of watches; last and err are for all once
	// it is over.
	waiting int
	last    *Copy // as it was seen last; nil: it was not
	err     error
}

// watches are those that there are.
type watches struct {
	mu     sync.Mutex
	byName map[name]*watch
}

// join is for who begins to wait.
func (m *Mirror) join(n name) *watch {
	m.watches.mu.Lock()
	defer m.watches.mu.Unlock()
	w := m.watches.byName[n]
	if w == nil {
		ctx, stop := context.WithCancel(context.Background())
		w = &watch{over: make(chan struct{}), stop: stop}
		if m.watches.byName == nil {
			m.watches.byName = map[name]*watch{}
		}
		m.watches.byName[n] = w
		go m.watch(ctx, n, w)
	}
	w.waiting++
	select {
	case m.copier.hurry <- struct{}{}: // what has ended is written down now
	default:
	}
	return w
}

// part is for who waits no longer. The last one ends the watch.
func (m *Mirror) part(n name, w *watch) {
	m.watches.mu.Lock()
	defer m.watches.mu.Unlock()
	if w.waiting--; w.waiting == 0 {
		m.watches.forget(n, w)
		w.stop()
	}
}

// forget has those who come from now on not join a watch.
func (s *watches) forget(n name, w *watch) {
	if s.byName[n] == w {
		delete(s.byName, n)
	}
}

func (s *watches) seen(w *watch) *Copy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return w.last
}

// watch is woken by the transaction that ends the copy. A wake is a hint that can
// be lost with a process, so it also looks by itself now and then.
func (m *Mirror) watch(ctx context.Context, n name, w *watch) {
	for ctx.Err() == nil {
		wake := m.db.Waits().Wait(n.topic())
		c, err := within(ctx, func() (*Copy, error) { return m.find(ctx, n.region, n.id) })
		over := err != nil || c.settled()
		m.watches.mu.Lock()
		w.last, w.err = c, err
		if over {
			m.watches.forget(n, w)
			close(w.over)
		}
		m.watches.mu.Unlock()
		if over {
			wake.Close()
			return
		}
		select {
		case <-wake.C:
		case <-time.After(fallback):
		case <-ctx.Done():
		}
		wake.Close()
	}
}

const lookLimit = 50 * time.Millisecond

// within returns what do does, or when ctx ends. Who leads a store.Batch goes on in
// it without a context, for longer than callers are to wait where the database
// hangs.
func within[T any](ctx context.Context, do func() (T, error)) (out T, err error) {
	type result struct {
		out T
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := do()
		done <- result{out, err}
	}()
	select {
	case r := <-done:
		return r.out, r.err
	case <-ctx.Done():
		return out, context.Cause(ctx)
	}
}
