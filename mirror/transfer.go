package mirror

import (
	"cmp"
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror/source"
)

// A transfer is how the bytes of an attempt get from the origin to the bucket.
// Where the store can copy by itself, it does; otherwise they come by here
// (carry.go), and on to a reader, if one waits (through.go).
type transfer struct {
	copier *copier
	mirror *Mirror
	job    *job
	bucket *blob.Bucket
}

const (
	// partSize is that of parts that come by here, and of their buffers. What is no
	// larger is put at once.
	partSize = 8 << 20

	// inlineSize is up to where it is not left to the store: an answer with all
	// bytes costs no more than one without, and they come with their SHA-256.
	inlineSize = 64 << 10
)

// run makes the copy. Nil means that the object is there, and is what it is to be.
func (t *transfer) run(ctx context.Context) error {
	c := t.job.state()
	if c.Origin.URL == "" && c.Origin.Bucket != t.mirror.guide.artifacts {
		return refused("the bucket %s is not the one of artifacts, %s", c.Origin.Bucket, t.mirror.guide.artifacts)
	}
	if c.needsOriginObject() {
		t.job.wrote = true
		if _, err := t.bucket.PutBytes(ctx, c.originKey(), []byte(c.Origin.String()), blob.Headers{ContentType: "text/plain"}); err != nil {
			return toBucket(err)
		}
	}
	if c.Upload != nil && c.Upload.Stuck >= maxStuck {
		if err := t.startOver(ctx, &c); err != nil {
			return err
		}
		c = t.job.state()
	}
	inline := c.Size >= 0 && c.Size <= inlineSize || t.job.spout != nil
	direct := c.Origin.URL == "" && !inline && t.bucket.CanCopyFrom(t.mirror.guide.bucket)
	if c.Upload != nil && (len(c.Upload.Hash) == 0) != direct {
		// It was begun in the other way: its parts are no use.
		return changed("the upload was begun in another way")
	}
	if direct {
		return t.direct(ctx)
	}
	return t.carry(ctx)
}

// maxStuck is after how many attempts at the same part its upload is given up.
const maxStuck = 3

// startOver gives up an upload that does not go on, if the bucket takes parts of
// another one: where it takes none, what is there is worth keeping.
func (t *transfer) startOver(ctx context.Context, c *Copy) error {
	up, err := t.bucket.StartMultipart(ctx, c.key(), blob.Headers{})
	if err != nil {
		return toBucket(err)
	}
	_, err = t.bucket.PutPart(ctx, c.key(), up, 1, []byte("?"))
	err = errors.Join(err, t.bucket.AbortMultipart(context.WithoutCancel(ctx), c.key(), up))
	if err == nil {
		err = t.bucket.AbortMultipart(ctx, c.key(), c.Upload.ID)
	}
	if err != nil {
		return toBucket(err)
	}
	t.job.begun = 0
	t.job.note(func(c *Copy) { c.Upload, c.Done = nil, 0 })
	return nil
}

// found is an origin as it was found.
type found struct {
	size    int64 // -1: not known
	etag    string
	sha256  string
	headers blob.Headers
	source  source.Info // of a URL
}

func foundObject(o blob.Object) found {
	h := o.Headers
	h.Metadata = nil
	return found{size: o.Size, etag: o.ETag, sha256: o.SHA256, headers: h}
}

func foundURL(i source.Info) found {
	return found{size: i.Size, etag: i.ETag, source: i, headers: blob.Headers{
		ContentType: i.ContentType, ContentEncoding: i.ContentEncoding, ContentDisposition: i.ContentDisposition,
	}}
}

// take compares an origin, as it was found, with what is wanted, and notes what
// was learned. Parts that were uploaded before go with one ETag only.
func (t *transfer) take(ctx context.Context, f found) error {
	c := t.job.state()
	switch {
	case c.Upload != nil && (f.etag != c.ETag || f.size != c.Size && c.Size >= 0):
		return changed("the origin has changed since its first parts were copied")
	case c.Upload == nil && c.Origin.URL == "" && c.ETag == "" && c.Size >= 0 && f.size != c.Size:
		return refused("the origin has %d bytes, and is to have %d", f.size, c.Size)
	case f.size > t.most():
		return t.tooLarge("it has %d bytes", f.size)
	case c.SHA256 != "" && f.sha256 != "" && f.sha256 != c.SHA256:
		return damaged("its SHA-256 is %s instead of %s", f.sha256, c.SHA256)
	}
	if f.size != c.Size || f.etag != c.ETag {
		t.job.note(func(c *Copy) { c.Size, c.ETag = f.size, f.etag })
	}
	if is := laneOf(f.size); is > t.job.lane {
		return t.job.place.desk.belongs(ctx, t.job, is)
	}
	return nil
}

// most is how many bytes a copy may have.
func (t *transfer) most() int64 {
	if limit := t.job.place.MaxBytes; limit > 0 {
		return min(limit, t.copier.sizes.object)
	}
	return t.copier.sizes.object
}

func (t *transfer) tooLarge(format string, size int64) error {
	if most := t.most(); most == t.job.place.MaxBytes {
		return refused(format+", and the region %s keeps no more than %d", size, t.job.place.Name, most)
	}
	return refused(format+", and no object has more than %d", size, t.copier.sizes.object)
}

// headers are those of the object that is stored.
func (t *transfer) headers(f found) blob.Headers {
	c := t.job.state()
	h := f.headers
	h.Metadata = c.metadata()
	return h
}

// stored notes that the object is there. What the store says of it is compared
// with what was to be stored.
func (t *transfer) stored(o blob.Object, sum string) error {
	c := t.job.state()
	switch {
	case o.Size >= 0 && o.Size != c.Size:
		return changed("%d bytes are stored instead of %d", o.Size, c.Size)
	case sum != "" && o.SHA256 != "" && o.SHA256 != sum:
		return changed("the SHA-256 of what is stored is %s instead of %s", o.SHA256, sum)
	case c.SHA256 != "" && sum != c.SHA256:
		return changed("its SHA-256 is %s instead of %s", sum, c.SHA256)
	}
	t.job.note(func(c *Copy) { c.Stored, c.SHA256, c.Done = o.ETag, sum, c.Size })
	return nil
}

// direct has the store make the copy.
func (t *transfer) direct(ctx context.Context) error {
	c := t.job.state()
	o, err := t.mirror.guide.bucket.Stat(ctx, c.Origin.Key)
	if err != nil {
		return fromOrigin(err)
	}
	f := foundObject(o)
	if err := t.take(ctx, f); err != nil {
		return err
	}
	t.job.wrote = true
	var made blob.Object
	if f.size <= t.copier.copySize {
		made, err = t.copyWhole(ctx, f)
	} else {
		made, err = t.copyParts(ctx, f)
	}
	if err != nil {
		return err
	}
	sum := made.SHA256
	if c.SHA256 != "" && sum == "" {
		if sum, err = t.readBack(ctx, made); err != nil {
			return err
		}
	}
	return t.stored(made, sum)
}

// copyWhole has the store copy the origin at once.
func (t *transfer) copyWhole(ctx context.Context, f found) (blob.Object, error) {
	c := t.job.state()
	made, err := t.bucket.Copy(ctx, c.key(), t.mirror.guide.bucket, c.Origin.Key, f.etag, t.headers(f))
	if err != nil || made.ETag == f.etag && isMD5(f.etag) {
		return made, fromBoth(err)
	}
	// Nothing in the answer tells that it is all there.
	is, err := t.bucket.Stat(ctx, c.key())
	is.SHA256 = cmp.Or(is.SHA256, made.SHA256)
	return is, toBucket(err)
}

// isMD5 tells that an ETag looks like that of an object that was put at once. If a
// copy has the same, both have the same bytes, whatever it is.
func isMD5(etag string) bool {
	return len(etag) == 32 && strings.Trim(etag, "0123456789abcdef") == ""
}

// copyParts has the store copy a large object in parts.
func (t *transfer) copyParts(ctx context.Context, f found) (blob.Object, error) {
	size := max(t.copier.copySize, (f.size+blob.MaxParts-1)/blob.MaxParts)
	up, err := t.begin(ctx, f, size, nil)
	if err != nil {
		return blob.Object{}, err
	}
	c := t.job.state()
	done := &parts{job: t.job, waiting: map[int]uploaded{}}
	var numbers []int
	for n := len(up.Parts) + 1; int64(n-1)*up.PartSize < f.size; n++ {
		numbers = append(numbers, n)
	}
	err = each(ctx, numbers, func(ctx context.Context, n int) error {
		offset := int64(n-1) * up.PartSize
		r := blob.Range{Offset: offset, Length: min(up.PartSize, f.size-offset)}
		p, err := t.bucket.CopyPart(ctx, c.key(), up.ID, n, t.mirror.guide.bucket, c.Origin.Key, f.etag, r)
		if err == nil {
			done.add(uploaded{part: p})
		}
		return fromBoth(err)
	})
	if err != nil {
		return blob.Object{}, err
	}
	return t.complete(ctx)
}

// begin starts an upload, or goes on with the one that there is.
func (t *transfer) begin(ctx context.Context, f found, size int64, hash []byte) (*upload, error) {
	c := t.job.state()
	if c.Upload != nil {
		return c.Upload, nil
	}
	t.job.wrote = true
	id, err := t.bucket.StartMultipart(ctx, c.key(), t.headers(f))
	if err != nil {
		return nil, toBucket(err)
	}
	up := &upload{ID: id, PartSize: size, Hash: hash}
	t.job.note(func(c *Copy) { c.Upload, c.Done = up, 0 })
	return up, nil
}

// complete makes the parts an object.
func (t *transfer) complete(ctx context.Context) (blob.Object, error) {
	c := t.job.state()
	o, err := t.bucket.CompleteMultipart(ctx, c.key(), c.Upload.ID, c.Upload.Parts)
	return o, toBucket(err)
}

// parts puts parts in order that were uploaded at the same time, as what can be
// gone on with is those from the first without gaps.
type parts struct {
	job     *job
	mu      sync.Mutex
	waiting map[int]uploaded
}

// uploaded is a part, and the state of the hash after it.
type uploaded struct {
	part blob.Part
	hash []byte
}

func (p *parts) add(u uploaded) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting[u.part.Number] = u
	p.job.note(func(c *Copy) {
		up := *c.Upload
		for {
			next, ok := p.waiting[len(up.Parts)+1]
			if !ok {
				break
			}
			delete(p.waiting, next.part.Number)
			up.Parts, up.Hash, up.Stuck = append(up.Parts[:len(up.Parts):len(up.Parts)], next.part), next.hash, 0
			c.Done += next.part.Size
		}
		c.Upload = &up
	})
}

// readBack is the SHA-256 of the object as it can be read.
func (t *transfer) readBack(ctx context.Context, o blob.Object) (string, error) {
	c := t.job.state()
	r, err := t.bucket.GetIf(ctx, c.key(), blob.Range{}, o.ETag)
	if err != nil {
		return "", toBucket(err)
	}
	defer r.Close()
	hash := newHash()
	if _, err := io.Copy(hash, r); err != nil {
		return "", toBucket(err)
	}
	return hash.sum(), nil
}
