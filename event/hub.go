package event

import (
	"context"
	"slices"
	"sync"
	"time"
)

// A hub hands new messages to the streams of this process. It looks at each
// message once, finds the bindings that may fit by a word of the key, and wakes
// only the streams that get it: a stream that waits for nothing that happens
// costs nothing but its memory.
//
// A stream is live, which means that the hub knows of it, or behind: then it
// reads the log by itself (stream.next) until it has caught up. One that lets
// more than maxQueue messages gather falls behind.
type hub struct {
	bus *Bus

	mu        sync.Mutex
	at        int64 // up to which messages were handed out
	streams   int
	run       *hubRun // nil without streams
	exchanges map[string]*bindingIndex
}

// A hubRun is the time from the first stream to the last.
type hubRun struct{ stop context.CancelFunc }

const (
	maxStreams = 20_000 // of one process
	maxQueue   = 64
	handedOut  = 50 // messages for which the hub is locked at once
)

func newHub(b *Bus) *hub {
	return &hub{bus: b, exchanges: map[string]*bindingIndex{}}
}

// enter counts a stream in, and tells how far the hub is, or -1 where it does
// not run yet.
func (h *hub) enter() (at int64, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.streams >= maxStreams {
		return 0, false
	}
	h.streams++
	if h.run == nil {
		return unknown, true
	}
	return h.at, true
}

// start makes sure that the hub runs; if it does not yet, from at on.
func (h *hub) start(at int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.run == nil {
		ctx, cancel := context.WithCancel(context.Background())
		h.run, h.at = &hubRun{cancel}, at
		go h.follow(ctx, h.run, at)
	}
}

// leave counts a stream out.
func (h *hub) leave(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s.goBehind()
	h.streams--
	if h.streams == 0 && h.run != nil {
		h.run.stop()
		h.run = nil
	}
}

// follow hands out messages until the last stream has left.
func (h *hub) follow(ctx context.Context, run *hubRun, at int64) {
	for ctx.Err() == nil {
		wait := h.bus.db.Waits().Wait(topicPlaced)
		list, more, err := h.bus.tail.heard(ctx, at, batch)
		for part := range slices.Chunk(list, handedOut) {
			h.handOut(run, part)
			at = part[len(part)-1].Position
		}
		switch {
		case ctx.Err() != nil:
		case err != nil:
			h.bus.log.Error("streams cannot read messages; trying again", "err", err)
			pause(ctx, nil, time.Second)
		case !more:
			pause(ctx, wait.C, fallback)
		}
		wait.Close()
	}
}

func pause(ctx context.Context, wake <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-wake:
	case <-t.C:
	case <-ctx.Done():
	}
}

func (h *hub) handOut(run *hubRun, list []*entry) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.run != run { // another run has begun, maybe somewhere else
		return
	}
	for _, e := range list {
		if x := h.exchanges[e.Exchange]; x != nil {
			x.offer(e)
		}
		h.at = e.Position
	}
}

// A bindingIndex is the bindings of live streams on one exchange.
type bindingIndex struct {
	byHandle map[handle]boundSet
	others   boundSet // patterns without a handle
}

// A bound is a binding of a live stream.
type bound struct {
	pattern
	exchange string
	stream   *stream
}

type boundSet map[*bound]struct{}

func (h *hub) add(b *bound) {
	x := h.exchanges[b.exchange]
	if x == nil {
		x = &bindingIndex{map[handle]boundSet{}, boundSet{}}
		h.exchanges[b.exchange] = x
	}
	set := x.others
	if at, ok := b.handle(); ok {
		if set = x.byHandle[at]; set == nil {
			set = boundSet{}
			x.byHandle[at] = set
		}
	}
	set[b] = struct{}{}
}

func (h *hub) remove(b *bound) {
	x := h.exchanges[b.exchange]
	if at, ok := b.handle(); ok {
		delete(x.byHandle[at], b)
		if len(x.byHandle[at]) == 0 {
			delete(x.byHandle, at)
		}
	} else {
		delete(x.others, b)
	}
	if len(x.byHandle) == 0 && len(x.others) == 0 {
		delete(h.exchanges, b.exchange)
	}
}

// offer gives a message to the streams that it fits.
func (x *bindingIndex) offer(e *entry) {
	x.offerKey(e, e.RoutingKey)
	for _, key := range e.CC {
		x.offerKey(e, key)
	}
}

func (x *bindingIndex) offerKey(e *entry, key string) {
	var room [16]string
	words := splitKey(room[:0], key)
	for b := range x.others {
		if b.fits(words) {
			b.stream.offer(e)
		}
	}
	for i, word := range words {
		for b := range x.byHandle[handle{i, word}] {
			if b.fits(words) {
				b.stream.offer(e)
			}
		}
	}
}
