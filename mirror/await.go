package mirror

import (
	"context"
	"time"
)

// await waits until a copy is there, or until waiting for it is in vain, and
// returns it as it is then: present, failed or leaving, or store.ErrNotFound if
// it is gone. After limit it returns it as it is.
//
// It is woken by the transaction that ends the copy. A wake is a hint that can be
// lost with a process, so it also looks by itself now and then.
func (m *Mirror) await(ctx context.Context, region, id string, limit time.Duration) (*Copy, error) {
	over := time.NewTimer(limit)
	defer over.Stop()
	topic := name{region, id}.topic()
	// A look that takes too long is as good as none, once there was one.
	looking, cancel := context.WithTimeout(ctx, limit+lookLimit)
	defer cancel()
	var last *Copy
	for {
		w := m.db.Waits().Wait(topic)
		c, err := within(looking, func() (*Copy, error) { return m.find(looking, region, id) })
		if err != nil && last != nil && looking.Err() != nil && ctx.Err() == nil {
			c, err = last, nil
		}
		if err != nil || c.settled() {
			w.Close()
			return c, err
		}
		last = c
		select {
		case <-w.C:
		case <-time.After(fallback):
		case <-over.C:
			w.Close()
			return c, nil
		case <-ctx.Done():
			w.Close()
			return nil, context.Cause(ctx)
		}
		w.Close()
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
