package event

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
)

// A tail is the latest part of the log in memory. All readers of a process
// share it: whoever first misses something reads it from the database for all.
// What is older than the tail each reads by itself, and it stays out of it.
type tail struct {
	read func(ctx context.Context, after int64, limit int) ([]*entry, bool, error)
	span func(ctx context.Context) (oldest, head int64, err error)

	reading chan struct{} // holds a token while somebody reads for all
	begun   atomic.Int64  // how often somebody has begun to
	ended   int64         // the last of those that came to its end; for who holds the token
	behind  chan struct{} // tokens of those that read what is older

	mu   sync.Mutex
	list []*entry // without gaps; what it held is never written again
	size int      // bytes of payload
	head int64    // position of the last; of the head when list is empty
	warm bool     // read once
}

const (
	tailCount   = 10_000
	tailSize    = 16 << 20
	tailAtStart = 2_000
	maxBehind   = 4
)

// An entry is a message in memory, and how it is written to streams.
type entry struct {
	Message
	encode sync.Once
	sse    []byte
	ws     []byte
	err    error
}

func newTail(read func(context.Context, int64, int) ([]*entry, bool, error), span func(context.Context) (int64, int64, error)) *tail {
	return &tail{read: read, span: span, reading: make(chan struct{}, 1), behind: make(chan struct{}, maxBehind)}
}

// after returns up to limit messages after a position: those in memory if there
// are any, and otherwise those in the database. more tells that there may be
// more of them.
func (t *tail) after(ctx context.Context, at int64, limit int) (list []*entry, more bool, err error) {
	if list, known := t.known(at, limit); known && len(list) > 0 {
		return list, true, nil
	}
	return t.look(ctx, at, limit)
}

// fresh is after, without being content with what is in memory. It returns none
// only if there are none.
func (t *tail) fresh(ctx context.Context, at int64, limit int) ([]*entry, error) {
	if list, known := t.known(at, limit); known && len(list) == limit {
		return list, nil
	}
	list, _, err := t.look(ctx, at, limit)
	return list, err
}

// known returns what is in memory after a position. known is false if the
// position is before all that is in memory.
func (t *tail) known(at int64, limit int) (list []*entry, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.warm || at < t.head-int64(len(t.list)) {
		return nil, false
	}
	if at >= t.head {
		return nil, true
	}
	list = t.list[len(t.list)-int(t.head-at):]
	return list[:min(limit, len(list))], true
}

// look looks into the database. Where several do at the same time, one does for
// all. One that breaks off, since its caller has left, say, has looked for
// nobody.
func (t *tail) look(ctx context.Context, at int64, limit int) (list []*entry, more bool, err error) {
	if _, known := t.known(at, limit); !known && t.isWarm() {
		return t.older(ctx, at, limit)
	}
	if err := t.extendSince(ctx, t.begun.Load()); err != nil {
		return nil, false, err
	}
	if list, known := t.known(at, limit); known {
		return list, len(list) == limit, nil
	}
	return t.older(ctx, at, limit)
}

// extendSince reads what is after the tail, unless somebody has who began after
// that many had.
func (t *tail) extendSince(ctx context.Context, came int64) error {
	select {
	case t.reading <- struct{}{}:
		defer func() { <-t.reading }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if t.ended > came {
		return nil
	}
	n := t.begun.Add(1)
	err := t.extend(ctx)
	if err == nil {
		t.ended = n
	}
	return err
}

func (t *tail) isWarm() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.warm
}

// older reads what is before the tail, for one reader. A few do at a time.
func (t *tail) older(ctx context.Context, at int64, limit int) (list []*entry, more bool, err error) {
	select {
	case t.behind <- struct{}{}:
		defer func() { <-t.behind }()
	case <-ctx.Done():
		return nil, false, context.Cause(ctx)
	}
	return t.read(ctx, at, limit)
}

// extend reads what is after the tail. It is for who holds the token.
func (t *tail) extend(ctx context.Context) error {
	if !t.isWarm() {
		if err := t.restart(ctx); err != nil {
			return err
		}
	}
	for {
		list, more, err := t.read(ctx, t.head, tailAtStart)
		if err != nil || len(list) == 0 {
			return err
		}
		t.add(list)
		if !more {
			return nil
		}
		if err := t.restart(ctx); err != nil {
			return err
		}
	}
}

// restart has the tail begin at most tailAtStart before the head of the log, as
// it does at first and after a time in which nobody read.
func (t *tail) restart(ctx context.Context) error {
	oldest, head, err := t.span(ctx)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.warm && head-t.head < tailCount {
		return nil
	}
	t.list, t.size = nil, 0
	t.warm, t.head = true, max(oldest-1, head-tailAtStart)
	return nil
}

func (t *tail) add(list []*entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if list[0].Position != t.head+1 { // it was away for longer than messages are kept
		t.list, t.size = nil, 0
	}
	t.list = append(t.list, list...)
	for _, e := range list {
		t.size += len(e.Payload)
	}
	t.head = list[len(list)-1].Position
	drop := 0
	for len(t.list)-drop > tailCount || t.size > tailSize && drop < len(t.list)-1 {
		t.size -= len(t.list[drop].Payload)
		drop++
	}
	t.list = t.list[drop:]
	if cap(t.list) > 2*len(t.list)+tailAtStart { // let go of what was dropped
		t.list = slices.Clone(t.list)
	}
}

// write makes what streams send, once for all of them.
func (e *entry) write() error {
	e.encode.Do(func() {
		id := strconv.FormatInt(e.Position, 10)
		var body []byte
		if body, e.err = json.Marshal(e.Message); e.err != nil {
			return
		}
		e.sse = slices.Concat([]byte("event: message\nid: "+id+"\ndata: "), body, []byte("\n\n"))
		e.ws = slices.Concat([]byte(`{"event":"message","id":"`+id+`","payload":`), body, []byte("}"))
	})
	return e.err
}
