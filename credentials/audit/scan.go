package audit

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/bits"
	"slices"

	"github.com/klauspost/compress/gzip"
)

// A hit is a place in a log.
type hit struct {
	source int    // of the index; -1: a shape
	shape  *shape // if it is one
	form   string
	at     int64 // in the text
	line   int   // from 1
	count  int   // how often
}

// scanned is what is known of a log once it was read.
type scanned struct {
	hits  []hit
	bytes int64 // of text
	cut   bool  // it goes on
}

const (
	readSize  = 128 << 10
	mostHits  = 100 // kinds of hits in a log
	mostZips  = 2   // times that a log is compressed
	lookAhead = max(longest, longestShape)
)

// scan reads a log up to a number of bytes, as they are after decompression. What it
// has found by then it returns with an error, too.
func (x *index) scan(ctx context.Context, r io.Reader, limit int64) (out scanned, err error) {
	s := scanner{index: x, out: &out, seen: map[seenHit]int{}}
	if r, err = unzipped(r); err != nil {
		return out, err
	}
	chunk := make([]byte, readSize)
	for {
		n, err := r.Read(chunk[:min(int64(len(chunk)), limit-out.bytes+1)])
		if int64(n) > limit-out.bytes {
			n, out.cut, err = int(limit-out.bytes), true, io.EOF
		}
		out.bytes += int64(n)
		s.write(chunk[:n])
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			s.look(true)
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return out, err
		}
	}
}

// unzipped is a log without its compression, whatever it is said to be.
func unzipped(r io.Reader) (io.Reader, error) {
	for range mostZips {
		p := newPeeker(r)
		magic, err := p.peek(2)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
			return p, nil
		}
		if r, err = gzip.NewReader(p); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// A peeker shows how a stream begins.
type peeker struct {
	r    io.Reader
	head []byte
}

func newPeeker(r io.Reader) *peeker { return &peeker{r: r} }

func (p *peeker) peek(n int) ([]byte, error) {
	p.head = make([]byte, n)
	m, err := io.ReadFull(p.r, p.head)
	p.head = p.head[:m]
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return p.head, err
}

func (p *peeker) Read(b []byte) (int, error) {
	if len(p.head) > 0 {
		n := copy(b, p.head)
		p.head = p.head[n:]
		return n, nil
	}
	return p.r.Read(b)
}

// A scanner looks at a text that comes in pieces. It keeps as much of the text before
// and after a place as it takes to tell what is there.
type scanner struct {
	*index
	cleaner cleaner
	text    []byte // cleaned
	from    int    // what comes before was searched for secrets
	shaped  int    // and for shapes
	offset  int64  // of text in all that came
	lines   int    // that ended before text
	spans   []extent
	seen    map[seenHit]int
	out     *scanned
}

type extent struct{ begin, end int64 }

type seenHit struct {
	source int
	rule   string
	form   string
}

func (s *scanner) write(b []byte) {
	s.text = s.cleaner.clean(s.text, b)
	s.look(false)
}

// look searches what can be judged: all of it at the end, else what has enough text
// after it.
func (s *scanner) look(end bool) {
	to := len(s.text)
	if !end {
		to -= lookAhead
	}
	if to > s.from {
		s.find(s.from, to)
		s.from = to
	}
	// What is a known secret is known by then.
	if !end {
		to -= lookAhead
	}
	if to > s.shaped {
		s.shapesIn(s.shaped, to)
		s.shaped = to
	}
	// Moved rarely, so that each byte is moved once or so.
	if keep := s.shaped - lookAhead; keep > readSize/2 {
		s.lines += bytes.Count(s.text[:keep], []byte{'\n'})
		s.offset += int64(keep)
		s.text = append(s.text[:0], s.text[keep:]...)
		s.from, s.shaped = s.from-keep, s.shaped-keep
		s.spans = slices.DeleteFunc(s.spans, func(e extent) bool { return e.end < s.offset })
	}
}

// find looks for the texts of the index whose fingerprint begins in [from, to).
func (s *scanner) find(from, to int) {
	text := s.text
	if len(text)-from < window || len(s.at) == 0 {
		return
	}
	last := min(to, len(text)-window+1) // positions before it
	h := s.fingerprint(text[from:])
	filter, shift, table, past := s.filter, s.shift, &s.table, &s.past
	for i := from; ; {
		bit := h >> shift
		if filter[bit>>6]>>(bit&63)&1 != 0 {
			if bit = h << shift >> shift; filter[bit>>6]>>(bit&63)&1 != 0 {
				s.judge(i, h)
			}
		}
		if i++; i >= last {
			return
		}
		h = bits.RotateLeft64(h, 1) ^ past[text[i-1]] ^ table[text[i+window-1]]
	}
}

// judge tells whether what has a fingerprint at i is what it seems.
func (s *scanner) judge(i int, h uint64) {
	list := s.at[h]
	for k := range list {
		n := &list[k]
		begin := i - n.offset
		if begin < 0 || begin+n.length > len(s.text) || !s.is(n, s.text[begin:begin+n.length]) {
			continue
		}
		s.spans = append(s.spans, extent{s.offset + int64(begin), s.offset + int64(begin+n.length)})
		if len(s.spans) > mostHits {
			s.spans = s.spans[len(s.spans)-mostHits:]
		}
		s.hit(hit{source: n.source, form: n.form}, seenHit{source: n.source}, begin)
	}
}

// shapesIn looks for shapes whose anchor begins in [from, to).
func (s *scanner) shapesIn(from, to int) {
	for k := range shapes {
		sh := &shapes[k]
		for i := from; ; {
			n := bytes.Index(s.text[i:min(to+len(sh.anchor)-1, len(s.text))], sh.anchor)
			if n < 0 {
				break
			}
			begin, end := sh.match(s.text, i+n)
			i += n + len(sh.anchor)
			if end == 0 || slices.ContainsFunc(s.spans, func(e extent) bool {
				return e.begin < s.offset+int64(end) && s.offset+int64(begin) < e.end
			}) {
				continue
			}
			s.hit(hit{source: -1, shape: sh}, seenHit{source: -1, rule: sh.rule}, begin)
		}
	}
}

// hit notes one, or one more of those that were there already.
func (s *scanner) hit(h hit, as seenHit, begin int) {
	h.at, h.count = s.offset+int64(begin), 1
	k, ok := s.seen[as]
	if ok {
		first := &s.out.hits[k]
		if first.count++; first.at <= h.at {
			return
		}
		h.count = first.count
	} else if len(s.out.hits) >= mostHits {
		return
	}
	h.line = s.lines + bytes.Count(s.text[:begin], []byte{'\n'}) + 1
	if ok {
		s.out.hits[k] = h
		return
	}
	s.seen[as] = len(s.out.hits)
	s.out.hits = append(s.out.hits, h)
}
