package mirror

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"golang.org/x/sync/semaphore"

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
	if err := t.take(ctx, f); err != nil {
		return err
	}
	if t.job.spout != nil {
		t.job.spout.begin(f.headers, f.size)
		body = t.job.spout.on(body)
	}
	if c.Upload == nil && f.size >= 0 && f.size <= partSize {
		return t.putAll(ctx, f, body)
	}
	if c.Upload == nil && f.size < 0 {
		return t.putUnknown(ctx, f, body)
	}
	return t.putParts(ctx, f, body)
}

// putUnknown puts what does not say how large it is. If it is small it takes no room
// from others.
func (t *transfer) putUnknown(ctx context.Context, f found, body io.Reader) error {
	b := bufio.NewReaderSize(body, inlineSize)
	head, err := b.Peek(int(min(inlineSize, t.most()+1)))
	if err != io.EOF {
		return t.putParts(ctx, f, b) // where other errors come again
	}
	t.job.note(func(c *Copy) { c.Size = int64(len(head)) })
	return t.putBytes(ctx, f, head)
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
	b, err := t.buffer(ctx, f.size, false)
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

// putParts puts what is large, or may be. The parts are read one after the other,
// and put beside that: some at a time from memory, or one from the disk.
func (t *transfer) putParts(ctx context.Context, f found, body io.Reader) (err error) {
	c := t.job.state()
	sum, size := newHash(), t.copier.sizes.of(f.size)
	var number int
	var total int64
	if up := c.Upload; up != nil {
		number, total, size = len(up.Parts), c.Done, up.PartSize
		if err := sum.resume(up.Hash); err != nil {
			return changed("the upload cannot be gone on with: %w", err)
		}
	}
	most := t.most()
	if total > most {
		return t.tooLarge("it has more than %d bytes", total-1)
	}
	next := func() (*piece, error) {
		size := size
		if size == 0 {
			size = t.copier.sizes.grown(number + 1)
		}
		p, err := t.read(ctx, body, min(size, most-total+1), sum) // as much as tells that it is too much
		if err == nil && total+p.size > most {
			p.free()
			return nil, t.tooLarge("it has more than %d bytes", most)
		}
		return p, err
	}
	hash := sum.state()
	p, err := next()
	if err != nil {
		return err
	}
	if c.Upload == nil && f.size < 0 && p.last { // it was not known to be small
		defer p.free()
		t.job.note(func(c *Copy) { c.Size = p.size })
		return t.putBytes(ctx, f, p.bytes)
	}
	up, err := t.begin(ctx, f, size, hash)
	if err != nil {
		p.free()
		return err
	}
	done := &parts{job: t.job, waiting: map[int]uploaded{}}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	group := newGroup(stop)
	for p != nil {
		this, state := p, sum.state()
		p = nil
		number++
		total += this.size
		if this.size > 0 {
			n := number
			group.run(func() error {
				defer this.free()
				part, err := t.putPart(ctx, up.ID, n, this)
				if err == nil {
					done.add(uploaded{part, state})
				}
				return toBucket(err)
			})
		} else { // it ended where the part before did
			this.free()
		}
		switch {
		case this.last:
		case number == t.copier.sizes.parts:
			if err := t.noMore(body, total); err != nil {
				group.fail(err)
			}
		default:
			if this.file != nil {
				group.all.Wait() // one at a time is on disk
			}
			if p, err = next(); err != nil {
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

func (t *transfer) putPart(ctx context.Context, upload string, n int, p *piece) (blob.Part, error) {
	if p.file != nil {
		return t.bucket.PutPartFrom(ctx, t.key(), upload, n, p.file, p.size, p.sum)
	}
	return t.bucket.PutPart(ctx, t.key(), upload, n, p.bytes)
}

// noMore makes sure that nothing comes after the last part that there may be.
func (t *transfer) noMore(body io.Reader, total int64) error {
	var one [1]byte
	switch n, err := io.ReadFull(body, one[:]); {
	case n > 0:
		return refused("it goes on after %d bytes, in as many parts as an object has at most", total)
	case err != io.EOF:
		return fromOrigin(err)
	}
	return nil
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

// sizes are those of what is put in parts.
type sizes struct {
	object int64 // that a bucket takes at most
	parts  int   // that an object has at most
	memory int64 // of a part: what is larger is put from the disk
	unsure []run // of parts of what may turn out to be of any size
}

// A run is parts of the same size.
type run struct {
	parts int
	size  int64
}

// sizesOfParts are as S3 has them. All parts of an object are as large but the last,
// as some stores want it. Only where the size is not known do they grow, so that few
// of them would be small and all be enough for the largest object: what is larger
// than 31 GiB and does not say so cannot be copied to those stores.
var sizesOfParts = sizes{
	object: 5 << 40, parts: blob.MaxParts, memory: bulkLimit,
	unsure: []run{{2000, unknownPart}, {blob.MaxParts - 2000, 652 << 20}},
}

// unknownPart is the size of the first parts of what may turn out to be of any size.
const unknownPart = 16 << 20

// of is the size of the parts of what has that size; 0: it grows.
func (s *sizes) of(size int64) int64 {
	if size < 0 {
		return 0
	}
	parts := int64(s.parts)
	n := max(partSize, (size+parts-1)/parts)
	return (n + 1<<20 - 1) >> 20 << 20
}

// grown is the size of part n where it grows.
func (s *sizes) grown(n int) int64 {
	for _, r := range s.unsure {
		if n -= r.parts; n <= 0 {
			return r.size
		}
	}
	return s.unsure[len(s.unsure)-1].size
}

// A piece is a part that was read: bytes in memory, or a file, both of which are
// bounded for all transfers together.
type piece struct {
	buffer
	file *spool
	size int64
	sum  [sha256.Size]byte // of the file
	last bool              // nothing comes after it
}

func (p *piece) free() {
	if p.file != nil {
		p.file.remove()
	} else {
		p.buffer.free()
	}
}

// read reads the next part, and adds it to the sum. The last one may be shorter, or
// empty.
func (t *transfer) read(ctx context.Context, body io.Reader, size int64, sum digest) (*piece, error) {
	if size > t.copier.sizes.memory {
		return t.spool(ctx, body, size, sum)
	}
	b, err := t.buffer(ctx, size, true)
	if err != nil {
		return nil, err
	}
	p := &piece{buffer: b}
	n, err := io.ReadFull(body, b.bytes)
	p.bytes, p.size = b.bytes[:n], int64(n)
	switch {
	case err == io.EOF, err == io.ErrUnexpectedEOF && endsHere(body):
		p.last = true
	case err != nil:
		p.free()
		return nil, fromOrigin(err)
	}
	sum.Write(p.bytes)
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
	from   bounds
	bytes  []byte
	whole  []byte
}

// buffer waits until there is memory for a buffer, or for one of parts.
func (t *transfer) buffer(ctx context.Context, size int64, part bool) (buffer, error) {
	k := t.copier
	b := buffer{copier: k, from: bounds{k.memory}}
	switch {
	case t.remote() && part:
		b.from = bounds{k.bulk, k.remote, k.memory}
	case t.remote():
		b.from = bounds{k.remote, k.memory}
	}
	if err := b.from.acquire(ctx, size); err != nil {
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
	b.from.release(int64(len(b.whole)))
	b.whole, b.bytes = nil, nil
}

// remote tells that the bytes come from a server that may be slow.
func (t *transfer) remote() bool { return t.job.state().Origin.URL != "" }

// bounds are what room is taken from, the narrowest first.
type bounds []*semaphore.Weighted

func (b bounds) acquire(ctx context.Context, size int64) error {
	for i, x := range b {
		if err := x.Acquire(ctx, size); err != nil {
			b[:i].release(size)
			return err
		}
	}
	return nil
}

func (b bounds) release(size int64) {
	for _, x := range b {
		x.Release(size)
	}
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
