package blob

import (
	"context"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// A Range is a part of an object. The zero Range is all of it.
type Range struct {
	Offset int64 // of the first byte; negative: so many bytes before the end
	Length int64 // 0 means up to the end
}

func (r Range) header() (string, error) {
	switch {
	case r == Range{}:
		return "", nil
	case r.Length < 0 || r.Offset < 0 && r.Length != 0:
		return "", fmt.Errorf("blob: impossible range: %d bytes at %d", r.Length, r.Offset)
	case r.Offset < 0:
		return fmt.Sprintf("bytes=%d", r.Offset), nil
	case r.Length == 0:
		return fmt.Sprintf("bytes=%d-", r.Offset), nil
	}
	return fmt.Sprintf("bytes=%d-%d", r.Offset, r.Offset+r.Length-1), nil
}

// A Reader is the bytes of an object, or of a range of it. It must be closed.
type Reader struct {
	Object       // with the size of the whole object
	Length int64 // bytes that there are to read
	read   int64
	body   io.ReadCloser
	bucket string
}

// Get reads the range of the object under key. The answer is [ErrNotFound] or
// [ErrRange] here, or the bytes. A range that goes beyond the end stops there;
// of an empty object there is no range but the whole.
func (b *Bucket) Get(ctx context.Context, key string, r Range) (*Reader, error) {
	return b.GetIf(ctx, key, r, "")
}

// GetIf is Get of the object as long as its ETag is etag, unless that is empty.
// The answer is [ErrChanged] if it is not.
func (b *Bucket) GetIf(ctx context.Context, key string, r Range, etag string) (*Reader, error) {
	name, err := Spell(key)
	if err != nil {
		return nil, err
	}
	header, err := r.header()
	if err != nil {
		return nil, err
	}
	out, err := b.store.client.GetObject(ctx, &s3.GetObjectInput{
		Bucket:  &b.name,
		Key:     &name,
		Range:   optional(header),
		IfMatch: quote(etag),
	})
	if err != nil {
		return nil, b.fail("get", key, err)
	}
	if out.ContentLength == nil || *out.ContentLength < 0 {
		out.Body.Close()
		return nil, b.fail("get", key, fmt.Errorf("the answer does not say how long it is, so its end could not be told from a broken connection"))
	}
	size, sum := *out.ContentLength, wholeSHA256(out.ChecksumSHA256, out.ChecksumType)
	if header != "" {
		sum = "" // of a part, if there is one
		if _, err := fmt.Sscanf(aws.ToString(out.ContentRange), "bytes %d-%d/%d", new(int64), new(int64), &size); err != nil {
			out.Body.Close()
			return nil, b.fail("get", key, fmt.Errorf("asked for %s, and got the content range %q", header, aws.ToString(out.ContentRange)))
		}
	}
	return &Reader{
		Object: Object{
			Key:      key,
			Size:     size,
			ETag:     unquote(out.ETag),
			SHA256:   sum,
			Modified: aws.ToTime(out.LastModified),
			Headers:  headers(out.ContentType, out.ContentEncoding, out.ContentDisposition, out.Metadata),
		},
		Length: *out.ContentLength,
		body:   out.Body,
		bucket: b.name,
	}, nil
}

// Read returns io.EOF only after the last of Length bytes.
func (r *Reader) Read(p []byte) (int, error) {
	n, err := r.body.Read(p)
	r.read += int64(n)
	if err == io.EOF && r.read == r.Length {
		return n, io.EOF
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		err = fmt.Errorf("blob: read %q in bucket %s: after %d of %d bytes: %w", r.Key, r.bucket, r.read, r.Length, err)
	}
	return n, err
}

// Close ends the reading, wherever it is.
func (r *Reader) Close() error { return r.body.Close() }
