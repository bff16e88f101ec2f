package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror/source"
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
// another makes the copy already, it is not one that waits, or the bucket takes
// none.
//
// The copy is made by the copier, as any other, and goes on without its reader. So
// does the reader without the copy, where that is not to be had for a reason that
// says nothing against the bytes, such as a bucket that takes none: it gets the rest
// from the origin, and what it got is compared all the same. Once bytes have come a
// context that ends does not end it, as a server that is being stopped is no reason
// to break off; a reader that is gone is one that cannot be written to.
func (m *Mirror) through(ctx context.Context, w Want, to func(h blob.Headers, size int64) io.Writer) (*Copy, error) {
	p := m.region(w.Region)
	if p == nil {
		return nil, noRegion(&w)
	}
	if p.desk.broken.Load() {
		return nil, errBusy
	}
	j, err := m.copier.claimFor(ctx, p, w)
	if err != nil {
		return nil, err
	}
	s := newSpout()
	s.wanted = j.state().SHA256
	j.spout = s
	if err := p.desk.hand(ctx, j); err != nil {
		return nil, err
	}
	defer s.leave()
	if err := s.pass(ctx, to); err != nil {
		return nil, err
	}
	if s.to != nil {
		ctx = context.WithoutCancel(ctx)
	}
	select {
	case <-j.ended:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	c := j.state()
	switch {
	case j.err == nil:
		c.State = Present
		if s.to != nil && s.sent < c.Size {
			err = m.rest(ctx, p, &c, s)
		}
	case s.to == nil || !innocent(j.err):
		return nil, j.err
	default:
		c.State = Waiting
		if err = m.withoutCopy(ctx, &c, s); err != nil {
			err = fmt.Errorf("%w; and the reader did not get the rest from the origin: %w", j.err, err)
		}
	}
	return &c, err
}

// innocent tells that what ended an attempt says nothing against the bytes.
func innocent(end error) bool {
	f, ok := errors.AsType[*fault](end)
	return ok && f.bucket || !ok && !errors.Is(end, errLost)
}

// rest writes what a reader has not got yet, from the copy.
func (m *Mirror) rest(ctx context.Context, p *place, c *Copy, s *spout) error {
	r, err := p.Bucket.GetIf(ctx, c.key(), blob.Range{Offset: s.sent}, c.Stored)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(s.to, r)
	return err
}

// withoutCopy writes what a reader has not got yet, from the origin, if that is
// still what the attempt has found, and makes sure that the reader has what there
// is.
func (m *Mirror) withoutCopy(ctx context.Context, c *Copy, s *spout) error {
	if !s.complete() && s.sent != s.size {
		r, err := m.reopen(ctx, c, s.sent)
		if err != nil {
			return err
		}
		defer r.Close()
		if _, err := io.Copy(writerFunc(s.write), r); err != nil {
			return err
		}
		if s.size < 0 {
			s.size = s.sent // it has come to its end
		}
	}
	switch sum := s.sum.sum(); {
	case s.size >= 0 && s.sent != s.size:
		return fmt.Errorf("%d bytes came instead of %d", s.sent, s.size)
	case s.wanted != "" && s.wanted != sum:
		return fmt.Errorf("the SHA-256 is %s instead of %s", sum, s.wanted)
	}
	return nil
}

// reopen reads on where an attempt has broken off.
func (m *Mirror) reopen(ctx context.Context, c *Copy, offset int64) (io.ReadCloser, error) {
	if c.ETag == "" && c.SHA256 == "" {
		return nil, errors.New("nothing tells whether it is what it was")
	}
	if c.Origin.URL == "" {
		return m.guide.bucket.GetIf(ctx, c.Origin.Key, blob.Range{Offset: offset}, c.ETag)
	}
	u, err := source.Canonical(c.Origin.URL)
	if err != nil {
		return nil, err
	}
	want := source.Unknown
	want.ETag, want.Size = c.ETag, c.Size
	body, _, err := m.guide.http.Get(ctx, u, offset, -1, want)
	return body, err
}

type writerFunc func(p []byte) (int, error)

// Write is part of io.Writer.
func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// claimFor claims the copy that is wanted.
func (k *copier) claimFor(ctx context.Context, p *place, w Want) (j *job, err error) {
	err = k.mirror.change(ctx, func(ch *changes) error {
		j = nil
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
			return errBusy // who looks for it next finds it
		default:
			c = list[0]
			w.apply(c)
		}
		j = k.claim(p, c)
		return nil
	})
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
	came    int64 // bytes
	whole   bool  // the body has come to its end

	// The reader's own:
	to     io.Writer
	sent   int64
	sum    digest // of that, if it is to be compared
	wanted string // SHA-256; "": not known

	waiting [][]byte
	held    int // bytes in waiting
	ended   bool
	behind  bool // the reader is too slow: nothing more is kept for it
	gone    bool
	waited  time.Duration // for the reader
}

func newSpout() *spout { return &spout{changed: make(chan struct{}), sum: newHash()} }

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
	b.spout.mu.Lock()
	defer b.spout.mu.Unlock()
	b.spout.came += int64(n)
	b.spout.whole = b.spout.whole || err == io.EOF
	return n, err
}

// complete tells that the reader has all of a body that has come to its end.
func (s *spout) complete() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.whole && s.sent == s.came
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

// write gives bytes to the reader.
func (s *spout) write(p []byte) (int, error) {
	n, err := s.to.Write(p)
	s.sent += int64(n)
	if s.wanted != "" {
		s.sum.Write(p[:n])
	}
	return n, err
}

// pass writes what comes, until no more does.
func (s *spout) pass(ctx context.Context, open func(blob.Headers, int64) io.Writer) error {
	over := ctx.Done()
	for {
		s.mu.Lock()
		begun, ended, changed, next := s.begun, s.ended || s.behind, s.changed, s.waiting
		s.waiting = nil
		s.mu.Unlock()
		if begun && s.to == nil {
			s.to = open(s.headers, s.size)
			over = nil
		}
		for _, b := range next {
			if _, err := s.write(b); err != nil {
				return err
			}
			s.change(func() { s.held -= len(b) })
		}
		switch {
		case len(next) > 0:
		case ended:
			return nil
		default:
			select {
			case <-changed:
			case <-over:
				return context.Cause(ctx)
			}
		}
	}
}
