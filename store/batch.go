package store

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"
)

// A Batch lets calls that come at the same time share a transaction: not only
// its commit but its statements, each of which does for all of them what it
// would do for one. A call that finds a free lane runs at once, alone; those
// that come while it runs are taken together when it is done. So nothing waits
// for company, and the busier it gets the less a call costs.
//
// Nobody is answered before the transaction has committed.
type Batch[In, Out any] struct {
	transact func(context.Context, func(*Tx) error) error
	limit    int
	work     func(*Tx, []*Item[In, Out]) error

	mu      sync.Mutex
	waiting []*Item[In, Out]
	free    int // lanes
}

// An Item is one call of a Batch.
type Item[In, Out any] struct {
	In  In
	Out Out

	// Err is the call's own failure, which keeps nobody else from success. Work
	// must not write anything for an item that it sets Err of.
	Err error

	turn chan bool // true: lead the next transaction; false: this call is over
}

// NewBatch returns a Batch of transactions of db.Do or db.View, each for at most
// limit calls. Up to lanes of them run at the same time: more than one pays
// where one can compute while another waits for the disk.
//
// Work sets Out or Err of each item. Like the function of Do it may run again,
// and then finds both as they were at first. If it returns an error nothing
// has happened, and each call is tried again alone, so that none fails by what
// another has brought: until the database proves to be the reason, or for a
// minute.
func NewBatch[In, Out any](transact func(context.Context, func(*Tx) error) error, lanes, limit int, work func(*Tx, []*Item[In, Out]) error) *Batch[In, Out] {
	return &Batch[In, Out]{transact: transact, limit: limit, work: work, free: lanes}
}

// batchTimeout bounds a transaction of a Batch, which ends with the context of
// none of its callers.
const batchTimeout = time.Minute

// Do makes one call. If ctx ends before the call's transaction has begun, none
// begins; later it changes nothing.
func (b *Batch[In, Out]) Do(ctx context.Context, in In) (Out, error) {
	it := &Item[In, Out]{In: in, turn: make(chan bool, 1)}
	b.mu.Lock()
	lead := b.free > 0
	if lead {
		b.free--
	} else {
		b.waiting = append(b.waiting, it)
	}
	b.mu.Unlock()
	if !lead {
		select {
		case lead = <-it.turn:
		case <-ctx.Done():
			if b.forget(it) {
				return it.Out, context.Cause(ctx)
			}
			lead = <-it.turn
		}
	}
	if lead {
		b.lead(ctx, it)
	}
	return it.Out, it.Err
}

// forget takes a call out of the line, unless it has left it already.
func (b *Batch[In, Out]) forget(it *Item[In, Out]) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	i := slices.Index(b.waiting, it)
	if i >= 0 {
		b.waiting = slices.Delete(b.waiting, i, i+1)
	}
	return i >= 0
}

// lead runs a transaction for own and those in line behind it, and passes the
// lane on.
func (b *Batch[In, Out]) lead(ctx context.Context, own *Item[In, Out]) {
	b.mu.Lock()
	n := min(len(b.waiting), b.limit-1)
	items := append([]*Item[In, Out]{own}, b.waiting[:n]...)
	b.waiting = slices.Delete(b.waiting, 0, n)
	b.mu.Unlock()

	b.settle(context.WithoutCancel(ctx), items)

	b.mu.Lock()
	if len(b.waiting) > 0 {
		b.waiting[0].turn <- true
		b.waiting = slices.Delete(b.waiting, 0, 1)
	} else {
		b.free++
	}
	b.mu.Unlock()
	for _, it := range items[1:] {
		it.turn <- false
	}
}

// settle answers items, together or, if that fails, one by one.
func (b *Batch[In, Out]) settle(ctx context.Context, items []*Item[In, Out]) {
	err := b.once(ctx, items)
	if err == nil {
		return
	}
	if len(items) == 1 || errors.Is(err, ErrUnknownOutcome) {
		fail(items, err)
		return
	}
	end := time.Now().Add(batchTimeout)
	for i := range items {
		own, rest := items[i:i+1], items[i+1:]
		alone := b.once(ctx, own)
		if alone != nil {
			fail(own, alone)
		}
		// Where the database is gone each would wait for it anew, and nobody
		// behind them would get anywhere.
		switch {
		case errors.Is(alone, errGaveUp):
			fail(rest, alone)
			return
		case time.Now().After(end):
			fail(rest, err)
			return
		}
	}
}

func fail[In, Out any](items []*Item[In, Out], err error) {
	for _, it := range items {
		it.Err = err
	}
}

func (b *Batch[In, Out]) once(ctx context.Context, items []*Item[In, Out]) (err error) {
	ctx, cancel := context.WithTimeout(ctx, batchTimeout)
	defer cancel()
	defer func() { // of a panic, which would leave the others waiting for ever
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return b.transact(ctx, func(tx *Tx) error {
		for _, it := range items {
			var none Out
			it.Out, it.Err = none, nil
		}
		return b.work(tx, items)
	})
}
