package mirror

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// errBusy says that a copy cannot be handed on while it is made: it is there,
// failed, or is being made already.
var errBusy = errors.New("the copy is not one that waits to be made")

const (
	// spoutSize is how far the copy may be ahead of its reader. One that takes longer
	// than spoutLimit, in all, to make room is not waited for any more: it gets the
	// rest from the copy, once that is there.
	spoutSize  = 1 << 20
	spoutLimit = 5 * time.Second
)

// through makes a copy that waits, or that nobody wanted before, and writes its
// bytes to what to returns at the same time: to is called once they begin to come.
// It returns when the reader has all of them and the copy was verified; errBusy, if
// another makes the copy already or it is not one that waits.
//
// The copy is made by the copier, as any other, and goes on without its reader.
func (m *Mirror) through(ctx context.Context, w Want, to func(h blob.Headers, size int64) io.Writer) (*Copy, error) {
	p := m.region(w.Region)
	if p == nil {
		return nil, noRegion(&w)
	}
	j, err := m.copier.claimFor(ctx, p, w)
	if err != nil {
		return nil, err
	}
	s := newSpout()
	j.spout = s
	if err := p.desk.hand(ctx, j); err != nil {
		return nil, err
	}
	defer s.leave()
	sent, err := s.pass(ctx, to)
	if err != nil {
		return nil, err
	}
	select {
	case <-j.ended:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if j.err != nil {
		return nil, j.err
	}
	c := j.state()
	c.State = Present
	if s.to != nil && sent < c.Size {
		err = m.rest(ctx, p, &c, sent, s.to)
	}
	return &c, err
}

// rest writes what a reader has not got yet, from the copy.
func (m *Mirror) rest(ctx context.Context, p *place, c *Copy, offset int64, to io.Writer) error {
	r, err := p.Bucket.GetIf(ctx, c.key(), blob.Range{Offset: offset}, c.Stored)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(to, r)
	return err
}

// claimFor claims the copy that is wanted.
func (k *copier) claimFor(ctx context.Context, p *place, w Want) (j *job, err error) {
	var busy bool
	err = k.mirror.change(ctx, func(ch *changes) error {
		j, busy = nil, false
		list, err := ch.named(w.name())
		if err != nil {
			return err
		}
		var c *Copy
		switch {
		case len(list) == 0:
			c = w.copy(w.Origin.ID())
			ch.add(c)
		case list[0].State != Waiting || list[0].Due > timestamp.Now() || list[0].Upload != nil:
			// Not as an error: that would not wait for the commit, and the row may be
			// of a transaction that shares it. Who looks for it next is to find it.
			busy = true
			return nil
		default:
			c = list[0]
			w.apply(c)
		}
		j = k.claim(p, c)
		return nil
	})
	if err == nil && busy {
		err = errBusy
	}
	return j, err
}

// hand gives a job to the copier, which may have to be woken. If it is about to
// stop, others make the copy.
func (d *desk) hand(ctx context.Context, j *job) error {
	db := d.copier.mirror.db
	db.Waits().Wake(topicWork, store.Everybody)
	late := time.NewTimer(d.copier.handLimit)
	defer late.Stop()
	select {
	case d.handed <- j:
		return nil
	case <-late.C:
	case <-ctx.Done():
	}
	j.end = errInterrupted
	d.copier.finish(ctx, []*job{j})
	return errBusy
}

// A spout is where bytes go on to a reader while they are stored. The transfer
// writes, the reader's goroutine takes.
type spout struct {
	mu      sync.Mutex
	changed chan struct{} // closed, and made anew, with each change

	begun   bool
	headers blob.Headers
	size    int64
	to      io.Writer

	waiting [][]byte
	held    int // bytes in waiting
	ended   bool
	behind  bool // the reader is too slow: nothing more is kept for it
	gone    bool
	waited  time.Duration // for the reader
}

func newSpout() *spout { return &spout{changed: make(chan struct{})} }

// change changes the spout and tells whoever waits for that.
func (s *spout) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *spout) begin(h blob.Headers, size int64) {
	s.change(func() { s.begun, s.headers, s.size = true, h, size })
}

// on is a body of which the reader gets what is read.
func (s *spout) on(body io.ReadCloser) io.ReadCloser { return &spouted{body, s} }

type spouted struct {
	io.ReadCloser
	spout *spout
}

func (b *spouted) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.spout.put(p[:n])
	return n, err
}

// put keeps bytes for the reader, and waits for it if it has much to take, but
// not for long.
func (s *spout) put(p []byte) {
	if len(p) == 0 {
		return
	}
	for {
		s.mu.Lock()
		full, lost, changed, left := s.held > 0 && s.held+len(p) > spoutSize, s.behind || s.gone, s.changed, spoutLimit-s.waited
		s.mu.Unlock()
		if lost {
			return
		}
		if !full {
			break
		}
		start := time.Now()
		timer := time.NewTimer(max(0, left))
		select {
		case <-changed:
		case <-timer.C:
			s.change(func() { s.behind = true })
		}
		timer.Stop()
		s.mu.Lock()
		s.waited += time.Since(start)
		s.mu.Unlock()
	}
	own := append([]byte(nil), p...)
	s.change(func() {
		s.waiting = append(s.waiting, own)
		s.held += len(own)
	})
}

// end tells that nothing more comes.
func (s *spout) end() { s.change(func() { s.ended = true }) }

// leave tells that nobody takes any more.
func (s *spout) leave() { s.change(func() { s.gone, s.waiting, s.held = true, nil, 0 }) }

// pass writes what comes, until no more does, and returns how much that was.
func (s *spout) pass(ctx context.Context, open func(blob.Headers, int64) io.Writer) (sent int64, err error) {
	for {
		s.mu.Lock()
		begun, over, changed, next := s.begun, s.ended || s.behind, s.changed, s.waiting
		s.waiting = nil
		s.mu.Unlock()
		if begun && s.to == nil {
			s.to = open(s.headers, s.size)
		}
		for _, b := range next {
			if _, err := s.to.Write(b); err != nil {
				return sent, err
			}
			sent += int64(len(b))
			s.change(func() { s.held -= len(b) })
		}
		switch {
		case len(next) > 0:
		case over:
			return sent, nil
		default:
			select {
			case <-changed:
			case <-ctx.Done():
				return sent, context.Cause(ctx)
			}
		}
	}
}
