package blob

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

// MaxCopy is how many bytes the store copies in one request: by [Bucket.Copy],
// or as one part.
const MaxCopy = 5 << 30

// Copy makes key a copy, made by the store itself, of what is under fromKey in
// from, which the credentials of b must be able to read. If etag is set and the
// source has another, the answer is [ErrChanged]; if the source is larger than
// MaxCopy, [ErrTooLarge]. h replaces all headers of the source.
//
// The store is asked for the SHA-256 of what it has copied. Of the size it says
// nothing: that is the source's, which etag names.
func (b *Bucket) Copy(ctx context.Context, key string, from *Bucket, fromKey, etag string, h Headers) (Object, error) {
	name, err := Spell(key)
	if err != nil {
		return Object{}, err
	}
	source, err := from.source(fromKey)
	if err != nil {
		return Object{}, err
	}
	metadata, err := h.metadata()
	if err != nil {
		return Object{}, b.copyFailed(key, from, fromKey, err)
	}
	ctx, cancel := context.WithTimeout(ctx, workLimit)
	defer cancel()
	out, err := b.store.client.CopyObject(ctx, &s3.CopyObjectInput{
		Bucket:             &b.name,
		Key:                &name,
		CopySource:         &source,
		CopySourceIfMatch:  quote(etag),
		MetadataDirective:  types.MetadataDirectiveReplace,
		TaggingDirective:   types.TaggingDirectiveReplace, // to read tags takes a permission more
		ContentType:        optional(h.ContentType),
		ContentEncoding:    optional(h.ContentEncoding),
		ContentDisposition: optional(h.ContentDisposition),
		Metadata:           metadata,
		ChecksumAlgorithm:  types.ChecksumAlgorithmSha256,
	}, b.store.patient)
	if err == nil && (out.CopyObjectResult == nil || aws.ToString(out.CopyObjectResult.ETag) == "") {
		err = errCutShort
	}
	if err != nil {
		return Object{}, b.copyFailed(key, from, fromKey, err)
	}
	r := out.CopyObjectResult
	return Object{
		Key:      key,
		Size:     -1,
		ETag:     unquote(r.ETag),
		SHA256:   wholeSHA256(r.ChecksumSHA256, r.ChecksumType),
		Modified: aws.ToTime(r.LastModified),
		Headers:  h,
	}, nil
}

// CopyPart is Copy to part number of a multipart upload, from a range of the
// source. A range that goes beyond its end is an [ErrRange].
func (b *Bucket) CopyPart(ctx context.Context, key, uploadID string, number int, from *Bucket, fromKey, etag string, r Range) (Part, error) {
	name, err := Spell(key)
	if err != nil {
		return Part{}, err
	}
	source, err := from.source(fromKey)
	if err != nil {
		return Part{}, err
	}
	if err := checkPart(number); err != nil {
		return Part{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, workLimit)
	defer cancel()
	if r.Length == 0 { // S3 wants to know both ends of it
		o, err := from.Stat(ctx, fromKey)
		if err != nil {
			return Part{}, err
		}
		if etag == "" {
			etag = o.ETag
		}
		if r = r.within(o.Size); r.Length == 0 && r.Offset > 0 {
			return Part{}, b.copyFailed(key, from, fromKey, fmt.Errorf("%w: %d of %d bytes", ErrRange, r.Offset, o.Size))
		}
	}
	if r.Length > MaxCopy {
		return Part{}, b.copyFailed(key, from, fromKey, fmt.Errorf("a part of %d bytes is %w of %d bytes at most", r.Length, ErrTooLarge, int64(MaxCopy)))
	}
	header, err := r.header()
	if err != nil {
		return Part{}, err
	}
	out, err := b.store.client.UploadPartCopy(ctx, &s3.UploadPartCopyInput{
		Bucket:            &b.name,
		Key:               &name,
		UploadId:          &uploadID,
		PartNumber:        aws.Int32(int32(number)),
		CopySource:        &source,
		CopySourceIfMatch: quote(etag),
		CopySourceRange:   optional(header),
	}, b.store.patient)
	if err == nil && (out.CopyPartResult == nil || aws.ToString(out.CopyPartResult.ETag) == "") {
		err = errCutShort
	}
	if err != nil {
		return Part{}, b.copyFailed(key, from, fromKey, err)
	}
	return Part{Number: number, ETag: unquote(out.CopyPartResult.ETag), Size: r.Length}, nil
}

// within is the range of an object of that size with its length filled in. The
// whole of an empty object stays a range without length.
func (r Range) within(size int64) Range {
	if r.Offset < 0 {
		r.Offset = max(0, size+r.Offset)
	}
	if r.Length == 0 {
		r.Length = max(0, size-r.Offset)
	}
	return r
}

var errCutShort = errors.New("the answer ended before it said what was copied: try again")

// source is what S3 wants to be told of where to copy from. Whatever lies on
// the way to it decodes this once, taking a plus sign for a space.
func (b *Bucket) source(key string) (string, error) {
	name, err := Spell(key)
	if err != nil {
		return "", err
	}
	segments := strings.Split(b.name+"/"+name, "/")
	for i, s := range segments {
		segments[i] = strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
	}
	return strings.Join(segments, "/"), nil
}

// copyFailed is the error of a copy. S3 has no codes of its own for what only
// copies can suffer from.
func (b *Bucket) copyFailed(key string, from *Bucket, fromKey string, err error) error {
	var api smithy.APIError
	if errors.As(err, &api) {
		message := strings.ToLower(api.ErrorMessage())
		switch {
		case api.ErrorCode() == "InvalidRequest" && strings.Contains(message, "maximum allowable size"):
			err = &apiError{ErrTooLarge, err}
		case api.ErrorCode() == "InvalidArgument" && strings.Contains(message, "range"):
			err = &apiError{ErrRange, err}
		}
	}
	return fmt.Errorf("blob: copy %q in bucket %s to %q in bucket %s: %w", fromKey, from.name, key, b.name, explain(err))
}

// CanCopyFrom tells whether [Bucket.Copy] from that bucket can work: both are on
// one endpoint, or in regions of AWS that are connected, and have the same
// credentials.
func (b *Bucket) CanCopyFrom(from *Bucket) bool {
	a, c := b.store, from.store
	if a.account != c.account {
		return false
	}
	if a.isAWS() && c.isAWS() {
		return partition(a.region) == partition(c.region)
	}
	return !a.isAWS() && !c.isAWS() && *place(a.endpoint) == *place(c.endpoint)
}
