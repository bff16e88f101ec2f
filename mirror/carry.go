package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror/source"
)

// carry gets the bytes here and puts them into the bucket. The origin is asked for
// them once, from the first to the last, or from where an upload breaks off to the
// last; what is read is uploaded in parts, some at a time.
func (t *transfer) carry(ctx context.Context) error {
	c := t.job.state()
	offset := c.Done
	if c.Upload == nil {
		offset = 0
	}
	if c.Upload != nil && offset == c.Size {
		return t.joinParts(ctx)
	}
	body, f, err := t.open(ctx, &c, offset)
	if err != nil {
		return fromOrigin(err)
	}
	defer body.Close()
	if err := t.take(f); err != nil {
		return err
	}
	if t.job.spout != nil {
		t.job.spout.begin(f.headers, f.size)
		body = t.job.spout.on(body)
	}
	if c.Upload == nil && f.size >= 0 && f.size <= partSize {
		return t.putAll(ctx, f, body)
	}
	return t.putParts(ctx, f, body)
}

// open begins to read the origin.
func (t *transfer) open(ctx context.Context, c *Copy, offset int64) (io.ReadCloser, found, error) {
	etag := ""
	if c.Upload != nil {
		etag = c.ETag
	}
	if c.Origin.URL == "" {
		r, err := t.mirror.guide.bucket.GetIf(ctx, c.Origin.Key, blob.Range{Offset: offset}, etag)
		if err != nil {
			return nil, found{}, err
		}
		return r, foundObject(r.Object), nil
	}
	if t.mirror.guide.http == nil {
		return nil, found{}, refused("this deployment copies artifacts only: allow URLs in the mirror's configuration")
	}
	u, err := source.Canonical(c.Origin.URL)
	if err != nil {
		return nil, found{}, err
	}
	want := source.Unknown
	if c.Upload != nil {
		want.ETag, want.Size = etag, c.Size
	}
	body, info, err := t.mirror.guide.http.Get(ctx, u, offset, -1, want)
	if errors.Is(err, source.ErrNoRanges) {
		err = changed("it can only be copied as a whole: %w", err)
	}
	return body, foundURL(info), err
}

// putAll puts what is small at once.
func (t *transfer) putAll(ctx context.Context, f found, body io.Reader) error {
	b, err := t.buffer(ctx, f.size)
	if err != nil {
		return err
	}
	defer b.free()
	n, err := io.ReadFull(body, b.bytes)
	if err != nil && (err != io.EOF || f.size > 0) {
		return fromOrigin(err)
	}
	if err := atEnd(body); err != nil {
		return fromOrigin(err)
	}
	return t.putBytes(ctx, f, b.bytes[:n])
}

// atEnd makes sure that a body has come to its end: only then is it known to be
// whole.
func atEnd(body io.Reader) error {
	var one [1]byte
	switch n, err := io.ReadFull(body, one[:]); {
	case n > 0:
		return damaged("the origin has more bytes than it has told")
	case err != io.EOF:
		return err
	}
	return nil
}

func (t *transfer) putBytes(ctx context.Context, f found, bytes []byte) error {
	c := t.job.state()
	if c.SHA256 != "" { // before it is there
		if sum := sha256.Sum256(bytes); hex.EncodeToString(sum[:]) != c.SHA256 {
			return damaged("its SHA-256 is %x instead of %s", sum, c.SHA256)
		}
	}
	t.job.wrote = true
	o, err := t.bucket.PutBytes(ctx, c.key(), bytes, t.headers(f))
	if err != nil {
		return toBucket(err)
	}
	return t.stored(o, o.SHA256)
}

// putParts puts what is large, or may be.
func (t *transfer) putParts(ctx context.Context, f found, body io.Reader) (err error) {
	c := t.job.state()
	size := partSizeOf(f.size)
	if f.size > maxCarried {
		return refused("it has %d bytes. More than %d cannot be copied from where the store cannot copy by itself", f.size, int64(maxCarried))
	}
	if c.Upload != nil {
		size = c.Upload.PartSize
	}
	first, err := t.read(ctx, body, size)
	if err != nil {
		return err
	}
	if c.Upload == nil && first.last { // it was not known to be small
		defer first.free()
		t.job.note(func(c *Copy) { c.Size = int64(len(first.bytes)) })
		return t.putBytes(ctx, f, first.bytes)
	}
	sum := newHash()
	if c.Upload != nil {
		if err := sum.resume(c.Upload.Hash); err != nil {
			first.free()
			return changed("the upload cannot be gone on with: %w", err)
		}
	}
	up, err := t.begin(ctx, f, size, sum.state())
	if err != nil {
		first.free()
		return err
	}
	done := &parts{job: t.job, waiting: map[int]uploaded{}}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	group := newGroup(stop)
	number, total := len(up.Parts), t.job.state().Done
	for p := first; p != nil; number++ {
		this, n := p, number+1
		total += int64(len(this.bytes))
		sum.Write(this.bytes)
		state := sum.state()
		p = nil
		if len(this.bytes) > 0 { // otherwise it ended where the part before did
			group.run(func() error {
				defer this.free()
				part, err := t.bucket.PutPart(ctx, t.key(), up.ID, n, this.bytes)
				if err == nil {
					part.Size = int64(len(this.bytes))
					done.add(uploaded{part, state})
				}
				return toBucket(err)
			})
		} else {
			this.free()
		}
		switch {
		case this.last:
		case n == blob.MaxParts:
			group.fail(refused("it goes on after %d bytes, which is as much as can be copied of what does not say how large it is", total))
		default:
			if p, err = t.read(ctx, body, size); err != nil {
				group.fail(err)
			}
		}
	}
	if err := group.wait(); err != nil {
		return err
	}
	if f.size >= 0 && total != f.size {
		return changed("%d bytes came instead of %d", total, f.size)
	}
	t.job.note(func(c *Copy) { c.Size = total })
	return t.joinParts(ctx)
}

// joinParts makes the parts that came by here an object, if they are what they are
// to be.
func (t *transfer) joinParts(ctx context.Context) error {
	c := t.job.state()
	sum := newHash()
	if err := sum.resume(c.Upload.Hash); err != nil {
		return changed("the upload cannot be gone on with: %w", err)
	}
	if got := sum.sum(); c.SHA256 != "" && got != c.SHA256 {
		return changed("its SHA-256 is %s instead of %s", got, c.SHA256)
	}
	o, err := t.complete(ctx)
	if err != nil {
		return err
	}
	return t.stored(o, sum.sum())
}

func (t *transfer) key() string { c := t.job.state(); return c.key() }

const (
	maxPartSize = 64 << 20
	maxCarried  = maxPartSize * blob.MaxParts // 640 GB

	// unknownPart is the size of parts of what may turn out to be of any size. All
	// parts are as large, as some stores want it.
	unknownPart = 16 << 20
)

// partSizeOf is the size of the parts of what has that size.
func partSizeOf(size int64) int64 {
	if size < 0 {
		return unknownPart
	}
	n := max(partSize, (size+blob.MaxParts-1)/blob.MaxParts)
	return (n + 1<<20 - 1) >> 20 << 20
}

// A piece is bytes in memory, which is bounded for all transfers together.
type piece struct {
	buffer
	last bool // nothing comes after it
}

// read reads the next part. The last one may be shorter, or empty.
func (t *transfer) read(ctx context.Context, body io.Reader, size int64) (*piece, error) {
	b, err := t.buffer(ctx, size)
	if err != nil {
		return nil, err
	}
	p := &piece{buffer: b}
	n, err := io.ReadFull(body, b.bytes)
	p.bytes = b.bytes[:n]
	switch {
	case err == io.EOF, err == io.ErrUnexpectedEOF && endsHere(body):
		p.last = true
	case err != nil:
		p.free()
		return nil, fromOrigin(err)
	}
	return p, nil
}

// endsHere tells a body that ended from one that broke off, both of which
// io.ReadFull calls unexpected. Bodies repeat how they ended.
func endsHere(body io.Reader) bool {
	n, err := body.Read(make([]byte, 1))
	return n == 0 && err == io.EOF
}

// A buffer is memory that was asked for.
type buffer struct {
	copier *copier
	remote bool
	bytes  []byte
	whole  []byte
}

// buffer waits until there is memory for a buffer.
func (t *transfer) buffer(ctx context.Context, size int64) (buffer, error) {
	k := t.copier
	b := buffer{copier: k, remote: t.job.state().Origin.URL != ""}
	if b.remote {
		if err := k.remote.Acquire(ctx, size); err != nil {
			return buffer{}, fmt.Errorf("wait for memory: %w", err)
		}
	}
	if err := k.memory.Acquire(ctx, size); err != nil {
		if b.remote {
			k.remote.Release(size)
		}
		return buffer{}, fmt.Errorf("wait for memory: %w", err)
	}
	if size == partSize {
		select {
		case b.whole = <-k.spare:
		default:
		}
	}
	if b.whole == nil {
		b.whole = make([]byte, size)
	}
	b.bytes = b.whole
	return b, nil
}

func (b *buffer) free() {
	if len(b.whole) == partSize {
		select {
		case b.copier.spare <- b.whole:
		default:
		}
	}
	b.copier.memory.Release(int64(len(b.whole)))
	if b.remote {
		b.copier.remote.Release(int64(len(b.whole)))
	}
	b.whole, b.bytes = nil, nil
}

// A digest is SHA-256 with a state that can be put down.
type digest struct{ hash.Hash }

func newHash() digest { return digest{sha256.New()} }

func (d digest) sum() string { return hex.EncodeToString(d.Sum(nil)) }

func (d digest) state() []byte {
	b, err := d.Hash.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		panic("mirror: SHA-256 has no state: " + err.Error())
	}
	return b
}

func (d digest) resume(state []byte) error {
	return d.Hash.(encoding.BinaryUnmarshaler).UnmarshalBinary(bytes.Clone(state))
}
