package blob

import (
	"context"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// MaxExpiry is how long a presigned URL can be valid at most.
const MaxExpiry = 7 * 24 * time.Hour

// PresignPut is a URL to which anyone may PUT the object under key, once or
// more, until it expires. The request must carry the header Content-Type with
// that value, unless it is empty. It may carry Content-Encoding and
// Content-Disposition, which are kept, and Content-MD5, which is compared with
// what arrives.
func (b *Bucket) PresignPut(ctx context.Context, key, contentType string, expires time.Duration) (string, error) {
	return b.sign(ctx, "PUT", key, expires, func(name *string, o func(*s3.PresignOptions)) (*v4.PresignedHTTPRequest, error) {
		return b.store.presign.PresignPutObject(ctx, &s3.PutObjectInput{
			Bucket:      &b.name,
			Key:         name,
			ContentType: optional(contentType),
		}, o)
	})
}

// PresignPutSized is PresignPut for a body of length bytes: a request with
// another Content-Length is refused. That an empty body is empty is not
// enforced, since S3's signatures leave out a length of nothing.
func (b *Bucket) PresignPutSized(ctx context.Context, key, contentType string, length int64, expires time.Duration) (string, error) {
	if length < 0 {
		return "", fmt.Errorf("blob: presign PUT of %q: a body cannot have %d bytes", key, length)
	}
	if length == 0 { // for which the SDK would not sign the content type either
		return b.PresignPut(ctx, key, contentType, expires)
	}
	return b.sign(ctx, "PUT", key, expires, func(name *string, o func(*s3.PresignOptions)) (*v4.PresignedHTTPRequest, error) {
		return b.store.presign.PresignPutObject(ctx, &s3.PutObjectInput{
			Bucket:        &b.name,
			Key:           name,
			ContentType:   optional(contentType),
			ContentLength: &length,
		}, o)
	})
}

// PresignGet is a URL from which anyone may GET the object under key until it
// expires. The headers that are set in h replace those of the object.
func (b *Bucket) PresignGet(ctx context.Context, key string, expires time.Duration, h Headers) (string, error) {
	return b.sign(ctx, "GET", key, expires, func(name *string, o func(*s3.PresignOptions)) (*v4.PresignedHTTPRequest, error) {
		return b.store.presign.PresignGetObject(ctx, &s3.GetObjectInput{
			Bucket:                     &b.name,
			Key:                        name,
			ResponseContentType:        optional(h.ContentType),
			ResponseContentEncoding:    optional(h.ContentEncoding),
			ResponseContentDisposition: optional(h.ContentDisposition),
		}, o)
	})
}

// PresignPart is a URL to which anyone may PUT part number of a multipart
// upload until it expires. The answer's ETag is what [Bucket.CompleteMultipart]
// needs. The request may carry Content-MD5.
func (b *Bucket) PresignPart(ctx context.Context, key, uploadID string, number int, expires time.Duration) (string, error) {
	if err := checkPart(number); err != nil {
		return "", err
	}
	return b.sign(ctx, "PUT", key, expires, func(name *string, o func(*s3.PresignOptions)) (*v4.PresignedHTTPRequest, error) {
		return b.store.presign.PresignUploadPart(ctx, &s3.UploadPartInput{
			Bucket:     &b.name,
			Key:        name,
			UploadId:   &uploadID,
			PartNumber: aws.Int32(int32(number)),
		}, o)
	})
}

func (b *Bucket) sign(ctx context.Context, method, key string, expires time.Duration,
	presign func(name *string, o func(*s3.PresignOptions)) (*v4.PresignedHTTPRequest, error)) (string, error) {
	if expires < time.Second || expires > MaxExpiry {
		return "", fmt.Errorf("blob: a presigned URL is valid for 1s to %v, not for %v", MaxExpiry, expires)
	}
	name, err := Spell(key)
	if err != nil {
		return "", err
	}
	r, err := presign(&name, s3.WithPresignExpires(expires))
	if err != nil {
		return "", b.fail("presign "+method+" of", key, err)
	}
	return r.URL, nil
}
