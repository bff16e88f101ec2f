package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

// A Bucket is a set of objects, one per key.
type Bucket struct {
	store *Store
	name  string
	forms func() []url.URL // of its objects' URLs; see URLForms
}

// Object is what is known about an object without reading it.
type Object struct {
	Key      string
	Size     int64     // -1 from Copy, which is not told
	ETag     string    // changes with the bytes; without the quotes of the protocol
	SHA256   string    // of all bytes, in lower-case hexadecimal, where the store knows it
	Modified time.Time // not told by Put
	Headers            // not told by List
}

// Name is the bucket's name.
func (b *Bucket) Name() string { return b.name }

// fail is the error of a call on key.
func (b *Bucket) fail(verb, key string, err error) error {
	return fmt.Errorf("blob: %s %q in bucket %s: %w", verb, key, b.name, explain(err))
}

// Ensure creates the bucket if it does not exist, readable by web pages of any
// origin (that hold a presigned URL). A bucket that exists is left as it is.
func (b *Bucket) Ensure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	client := b.store.client
	_, err := client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &b.name})
	if err == nil {
		return nil
	}
	var missing *types.NotFound
	if !errors.As(err, &missing) {
		return fmt.Errorf("blob: look for bucket %s: %w", b.name, err)
	}
	in := &s3.CreateBucketInput{Bucket: &b.name}
	if b.store.region != "us-east-1" { // which S3 does not accept by its name
		in.CreateBucketConfiguration = &types.CreateBucketConfiguration{
			LocationConstraint: types.BucketLocationConstraint(b.store.region),
		}
	}
	var owned *types.BucketAlreadyOwnedByYou
	if _, err := client.CreateBucket(ctx, in); errors.As(err, &owned) {
		return nil // another replica was faster
	} else if err != nil {
		return fmt.Errorf("blob: create bucket %s: %w", b.name, err)
	}
	_, err = client.PutBucketCors(ctx, &s3.PutBucketCorsInput{
		Bucket: &b.name,
		CORSConfiguration: &types.CORSConfiguration{CORSRules: []types.CORSRule{{
			AllowedOrigins: []string{"*"},
			AllowedMethods: []string{"GET", "HEAD"},
			AllowedHeaders: []string{"*"},
			ExposeHeaders:  []string{"ETag", "Content-Length", "Content-Range", "Content-Encoding"},
			MaxAgeSeconds:  aws.Int32(3600),
		}}},
	})
	if err != nil {
		return fmt.Errorf("blob: bucket %s was created, but web pages cannot read from it until it is allowed (CORS): %w", b.name, err)
	}
	return nil
}

// Remove deletes the bucket, which must be empty.
func (b *Bucket) Remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if _, err := b.store.client.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: &b.name}); err != nil {
		return fmt.Errorf("blob: remove bucket %s: %w", b.name, explain(err))
	}
	return nil
}

// Put writes all of body under key, replacing what is there. Nothing of it is
// visible before all of it is. A body of more than [PartSize] bytes is uploaded
// in parts, of which one at a time is in memory.
func (b *Bucket) Put(ctx context.Context, key string, body io.Reader, h Headers) (Object, error) {
	if _, err := Spell(key); err != nil {
		return Object{}, err
	}
	part, err := io.ReadAll(io.LimitReader(body, PartSize+1))
	if err != nil {
		return Object{}, fmt.Errorf("blob: read the body of %q: %w", key, err)
	}
	if len(part) > PartSize {
		return b.putParts(ctx, key, io.MultiReader(bytes.NewReader(part), body), h)
	}
	return b.PutBytes(ctx, key, part, h)
}

// PutBytes is Put of what is in memory, in one request, with its SHA-256 as the
// checksum. S3 takes 5 GiB at most that way.
func (b *Bucket) PutBytes(ctx context.Context, key string, body []byte, h Headers) (Object, error) {
	name, err := Spell(key)
	if err != nil {
		return Object{}, err
	}
	metadata, err := h.metadata()
	if err != nil {
		return Object{}, b.fail("put", key, err)
	}
	sum := sha256.Sum256(body)
	out, err := b.store.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket:             &b.name,
		Key:                &name,
		Body:               bytes.NewReader(body),
		ContentType:        optional(h.ContentType),
		ContentEncoding:    optional(h.ContentEncoding),
		ContentDisposition: optional(h.ContentDisposition),
		Metadata:           metadata,
		ChecksumAlgorithm:  types.ChecksumAlgorithmSha256,
		ChecksumSHA256:     aws.String(base64.StdEncoding.EncodeToString(sum[:])),
	}, signBody(sum))
	if err != nil {
		return Object{}, b.fail("put", key, err)
	}
	return Object{Key: key, Size: int64(len(body)), ETag: unquote(out.ETag), SHA256: hex.EncodeToString(sum[:]), Headers: h}, nil
}

// Stat says what is under key, or [ErrNotFound].
func (b *Bucket) Stat(ctx context.Context, key string) (Object, error) {
	name, err := Spell(key)
	if err != nil {
		return Object{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	out, err := b.store.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.name, Key: &name, ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		return Object{}, b.fail("stat", key, err)
	}
	return Object{
		Key:      key,
		Size:     aws.ToInt64(out.ContentLength),
		ETag:     unquote(out.ETag),
		SHA256:   wholeSHA256(out.ChecksumSHA256, out.ChecksumType),
		Modified: aws.ToTime(out.LastModified),
		Headers:  headers(out.ContentType, out.ContentEncoding, out.ContentDisposition, out.Metadata),
	}, nil
}

// batch is how many keys S3 deletes at once.
const batch = 1000

// Delete removes the objects under keys. That one of them does not exist is no
// error. Where some cannot be deleted the others are, and the error names those.
func (b *Bucket) Delete(ctx context.Context, keys ...string) error {
	var failed []error
	for chunk := range slices.Chunk(keys, batch) {
		if err := b.deleteBatch(ctx, chunk); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func (b *Bucket) deleteBatch(ctx context.Context, keys []string) error {
	var ids []types.ObjectIdentifier
	var failed []error
	for _, key := range keys {
		name, err := Spell(key)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		ids = append(ids, types.ObjectIdentifier{Key: &name})
	}
	if len(ids) == 0 {
		return errors.Join(failed...)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	out, err := b.store.client.DeleteObjects(ctx, &s3.DeleteObjectsInput{
		Bucket: &b.name,
		Delete: &types.Delete{Objects: ids, Quiet: aws.Bool(true)},
	})
	if err != nil {
		return fmt.Errorf("blob: delete %d objects from bucket %s: %w", len(keys), b.name, explain(err))
	}
	for _, e := range out.Errors {
		key, _ := Unspell(aws.ToString(e.Key))
		failed = append(failed, b.fail("delete", key, &smithy.GenericAPIError{
			Code: aws.ToString(e.Code), Message: aws.ToString(e.Message),
		}))
	}
	return errors.Join(failed...)
}

// List is the objects whose keys start with prefix, in the order of their
// spellings. Objects that were put there under names that [Spell] does not make
// are passed over. After an error the sequence ends.
func (b *Bucket) List(ctx context.Context, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		in := &s3.ListObjectsV2Input{Bucket: &b.name, Prefix: optional(spellPrefix(prefix))}
		for pages := s3.NewListObjectsV2Paginator(b.store.client, in); pages.HasMorePages(); {
			page, err := b.page(ctx, pages)
			if err != nil {
				yield(Object{}, b.fail("list", prefix, err))
				return
			}
			for _, o := range page.Contents {
				key, ours := Unspell(aws.ToString(o.Key))
				if !ours || !strings.HasPrefix(key, prefix) {
					continue
				}
				object := Object{Key: key, Size: aws.ToInt64(o.Size), ETag: unquote(o.ETag), Modified: aws.ToTime(o.LastModified)}
				if !yield(object, nil) {
					return
				}
			}
		}
	}
}

func (b *Bucket) page(ctx context.Context, pages *s3.ListObjectsV2Paginator) (*s3.ListObjectsV2Output, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	return pages.NextPage(ctx)
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func unquote(etag *string) string { return strings.Trim(aws.ToString(etag), `"`) }
