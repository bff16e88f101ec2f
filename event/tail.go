package event

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A tail is the latest part of the log in memory. All readers of a process
// share it: whoever first misses something reads it from the database for all.
// What is older than the tail each reads by itself, and it stays out of it.
//
// Who places messages that this process has published gives them to the tail
// (feed). By the news of placed messages it tells whether there may be others.
type tail struct {
	read func(ctx context.Context, after int64, limit int) ([]*entry, bool, error)
	span func(ctx context.Context) (oldest, head int64, err error)
	news <-chan struct{} // receives when messages were placed; nil if nobody tells

	reading chan struct{} // holds a token while somebody reads for all
	begun   atomic.Int64  // how often somebody has begun to
	ended   int64         // the last of those that came to its end; for who holds the token
	behind  chan struct{} // tokens of those that read what is older

	mu   sync.Mutex
	list []*entry // without gaps; what it held is never written again
	size int      // bytes of payload
	head int64    // position of the last; of the head when list is empty
	warm bool     // read once

	told    int64     // how often news came
	covered int64     // of how many of them the messages are here
	asOf    time.Time // when all messages were here
}

const (
	tailCount   = 10_000
	tailSize    = 16 << 20
	tailAtStart = 2_000
	maxBehind   = 4

	// tailTrust is for how long there are no more messages than one has heard of.
	// Such news can be lost.
	tailTrust = fallback / 3
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
// are any, and otherwise those in the database. more tells that there may be more
// of them.
func (t *tail) after(ctx context.Context, at int64, limit int) (list []*entry, more bool, err error) {
	if list, more, _ := t.known(at, limit); len(list) > 0 {
		return list, more, nil
	}
	return t.look(ctx, at, limit, func() bool {
		list, _, _ := t.known(at, 1)
		return len(list) > 0
	})
}

// heard is after, without looking for messages that nobody has told of. It is for
// those who are woken when there are some.
func (t *tail) heard(ctx context.Context, at int64, limit int) (list []*entry, more bool, err error) {
	if list, more, known := t.known(at, limit); known && len(list) == 0 && !more && t.isCurrent() {
		return nil, false, nil
	}
	return t.after(ctx, at, limit)
}

// fresh is after, without being content with what is in memory. It returns none
// only if there are none.
func (t *tail) fresh(ctx context.Context, at int64, limit int) ([]*entry, error) {
	if list, _, _ := t.known(at, limit); len(list) == limit {
		return list, nil
	}
	list, _, err := t.look(ctx, at, limit, func() bool { return false })
	return list, err
}

// known returns what is in memory after a position. more tells that there may be
// more. known is false if the position is before all that is in memory.
func (t *tail) known(at int64, limit int) (list []*entry, more, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.warm || at < t.head-int64(len(t.list)) {
		return nil, true, false
	}
	more = t.news == nil || t.hear() > t.covered
	if at >= t.head {
		return nil, more, true
	}
	list = t.list[len(t.list)-int(t.head-at):]
	return list[:min(limit, len(list))], more || len(list) >= limit, true
}

// hear counts the news. t.mu is held.
func (t *tail) hear() int64 {
	select {
	case <-t.news:
		t.told++
	default:
	}
	return t.told
}

// look looks into the database. Where several do at the same time, one does for
// all. One that breaks off, since its caller has left, say, has looked for
// nobody. Who has waited for others may have enough by then.
func (t *tail) look(ctx context.Context, at int64, limit int, enough func() bool) (list []*entry, more bool, err error) {
	if _, _, known := t.known(at, limit); !known && t.isWarm() {
		return t.older(ctx, at, limit)
	}
	if err := t.extendSince(ctx, t.begun.Load(), enough); err != nil {
		return nil, false, err
	}
	if list, more, known := t.known(at, limit); known {
		return list, more && len(list) > 0, nil
	}
	return t.older(ctx, at, limit)
}

// extendSince reads what is after the tail, unless somebody has who began after
// that many had.
func (t *tail) extendSince(ctx context.Context, came int64, enough func() bool) error {
	select {
	case t.reading <- struct{}{}:
		defer func() { <-t.reading }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if t.ended > came || enough() {
		return nil
	}
	n := t.begun.Add(1)
	now, told := t.begin()
	err := t.extend(ctx)
	if err == nil {
		t.ended = n
		t.cover(now, told)
	}
	return err
}

// begin returns what a look that begins now, once it is done, covers.
func (t *tail) begin() (now time.Time, told int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Now(), t.hear()
}

// cover notes that all messages are here that there were, and that so many news
// have told of.
func (t *tail) cover(at time.Time, told int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asOf, t.covered = at, told
}

// isCurrent tells whether all messages were here not long ago.
func (t *tail) isCurrent() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.asOf) < tailTrust
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
	t.append(list)
}

// append adds messages. t.mu is held.
func (t *tail) append(list []*entry) {
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

// A feed gives the tail what this process places. From its beginning, right
// before the commit, to its end nobody reads for all: the commit wakes them, and
// they shall find the messages here.
type feed struct {
	tail  *tail
	begun bool
	n     int64
	at    time.Time
	told  int64
}

// begin does not wait, as transactions do not. If somebody reads, or nobody has
// ever, the messages are left to be read.
func (f *feed) begin() {
	if !f.tail.isWarm() {
		return
	}
	select {
	case f.tail.reading <- struct{}{}:
		f.begun = true
		f.n = f.tail.begun.Add(1)
		f.at, f.told = f.tail.begin()
	default:
	}
}

func (f *feed) end() {
	if f.begun {
		f.begun = false
		<-f.tail.reading
	}
}

// add adds all messages that were placed after the position start, unless the
// tail ends elsewhere.
//
// As the head was locked, the tail is then as complete as the log was at the
// commit, which was one of the news. Should another replica place messages in the
// moment from then on, and the news of both be heard as one, its messages are
// found with the next, or after a while.
func (f *feed) add(start int64, list []*entry) {
	t := f.tail
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(list) == 0 || t.head != start {
		return
	}
	t.append(list)
	t.asOf, t.covered = f.at, min(t.hear(), f.told+1)
	t.ended = f.n
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
