package blob

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

const (
	// PartSize is the size of the parts that [Bucket.Put] uploads.
	PartSize = 16 << 20
	// MinPartSize is the least that a part other than the last may hold.
	MinPartSize = 5 << 20
	// MaxParts is how many parts an object can have.
	MaxParts = 10_000
)

// A Part is one of the pieces that make up an object.
type Part struct {
	Number int    // from 1; gaps are allowed
	ETag   string // as the answer to the upload of the part gave it
	Size   int64  // not needed to complete an upload
}

// An Upload is a multipart upload that was started and neither completed nor
// aborted.
type Upload struct {
	Key, ID string
	Started time.Time
}

func checkPart(number int) error {
	if number < 1 || number > MaxParts {
		return fmt.Errorf("blob: %w: there is no part %d: parts are numbered from 1 to %d", ErrPart, number, MaxParts)
	}
	return nil
}

// StartMultipart begins an upload in parts. The parts are written by
// [Bucket.PutPart], [Bucket.CopyPart] and whoever has a URL of
// [Bucket.PresignPart], in any order and at the same time, and a part may be
// written again. Until [Bucket.CompleteMultipart] there is no object.
func (b *Bucket) StartMultipart(ctx context.Context, key string, h Headers) (uploadID string, err error) {
	return b.start(ctx, key, h, "", plain)
}

func (b *Bucket) start(ctx context.Context, key string, h Headers, sum types.ChecksumAlgorithm, opts ...func(*s3.Options)) (string, error) {
	name, err := Spell(key)
	if err != nil {
		return "", err
	}
	metadata, err := h.metadata()
	if err != nil {
		return "", b.fail("start multipart upload of", key, err)
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	out, err := b.store.client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{
		Bucket:             &b.name,
		Key:                &name,
		ContentType:        optional(h.ContentType),
		ContentEncoding:    optional(h.ContentEncoding),
		ContentDisposition: optional(h.ContentDisposition),
		Metadata:           metadata,
		ChecksumAlgorithm:  sum,
	}, opts...)
	if err != nil {
		return "", b.fail("start multipart upload of", key, err)
	}
	return aws.ToString(out.UploadId), nil
}

// PutPart uploads a part from memory. The store compares it with a checksum.
func (b *Bucket) PutPart(ctx context.Context, key, uploadID string, number int, body []byte) (Part, error) {
	return b.PutPartFrom(ctx, key, uploadID, number, bytes.NewReader(body), int64(len(body)), sha256.Sum256(body))
}

// PutPartFrom is PutPart of what is not in memory: the first size bytes of a body
// that can be read again, such as a file, and their SHA-256. S3 takes 5 GiB at most.
func (b *Bucket) PutPartFrom(ctx context.Context, key, uploadID string, number int, body io.ReaderAt, size int64, sum [32]byte) (Part, error) {
	name, err := Spell(key)
	if err != nil {
		return Part{}, err
	}
	if err := checkPart(number); err != nil {
		return Part{}, err
	}
	// What an upload that was started without a checksum allows of them S3 and
	// its imitations disagree about; the one in the signature all compare.
	out, err := b.store.client.UploadPart(ctx, &s3.UploadPartInput{
		Bucket:        &b.name,
		Key:           &name,
		UploadId:      &uploadID,
		PartNumber:    aws.Int32(int32(number)),
		Body:          io.NewSectionReader(body, 0, size),
		ContentLength: &size,
	}, plain, signBody(sum))
	if err != nil {
		return Part{}, b.fail(fmt.Sprintf("put part %d of", number), key, err)
	}
	return Part{Number: number, ETag: unquote(out.ETag), Size: size}, nil
}

// CompleteMultipart makes the parts, in the order of their numbers, the object
// under key. It may be repeated: an upload that was completed from these parts
// already, by a call whose answer was lost, is completed. Parts that are
// missing, have another ETag or are too small are an [ErrPart].
func (b *Bucket) CompleteMultipart(ctx context.Context, key, uploadID string, parts []Part) (Object, error) {
	done := make([]types.CompletedPart, len(parts))
	for i, p := range parts {
		if err := checkPart(p.Number); err != nil {
			return Object{}, err
		}
		done[i] = types.CompletedPart{PartNumber: aws.Int32(int32(p.Number)), ETag: aws.String(p.ETag)}
	}
	return b.complete(ctx, key, uploadID, done)
}

func (b *Bucket) complete(ctx context.Context, key, uploadID string, parts []types.CompletedPart) (Object, error) {
	name, err := Spell(key)
	if err != nil {
		return Object{}, err
	}
	if len(parts) == 0 {
		return Object{}, fmt.Errorf("blob: complete multipart upload of %q: %w: there are none", key, ErrPart)
	}
	parts = slices.SortedFunc(slices.Values(parts), func(a, b types.CompletedPart) int { return int(*a.PartNumber - *b.PartNumber) })
	limited, cancel := context.WithTimeout(ctx, workLimit)
	defer cancel()
	out, err := b.store.client.CompleteMultipartUpload(limited, &s3.CompleteMultipartUploadInput{
		Bucket:          &b.name,
		Key:             &name,
		UploadId:        &uploadID,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts},
	}, b.store.patient)
	err = explain(err)
	if err != nil && !errors.Is(err, ErrNoUpload) {
		return Object{}, b.fail("complete multipart upload of", key, err)
	}
	// The object itself is the witness: of a call before this one, and that this
	// one did what it said.
	etag := joinedETag(parts)
	if err == nil && aws.ToString(out.ETag) != "" { // or else the answer was cut short
		etag = unquote(out.ETag)
	}
	object, staterr := b.Stat(ctx, key)
	if staterr == nil && etag != "" && object.ETag == etag {
		return object, nil
	}
	if err == nil {
		err = fmt.Errorf("the upload was completed with ETag %s, but that object cannot be seen: %w", etag, cmp.Or(staterr, fmt.Errorf("there is one with ETag %s", object.ETag)))
	}
	return Object{}, b.fail("complete multipart upload of", key, err)
}

// joinedETag is S3's ETag of an object made of parts: the MD5 of their MD5s.
func joinedETag(parts []types.CompletedPart) string {
	sum := md5.New()
	for _, p := range parts {
		part, err := hex.DecodeString(unquote(p.ETag))
		if err != nil {
			return "" // encrypted by S3: no way to know
		}
		sum.Write(part)
	}
	return fmt.Sprintf("%x-%d", sum.Sum(nil), len(parts))
}

// AbortMultipart gives up an upload and what was uploaded. That it does not
// exist is no error.
func (b *Bucket) AbortMultipart(ctx context.Context, key, uploadID string) error {
	name, err := Spell(key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err = b.store.client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: &b.name, Key: &name, UploadId: &uploadID})
	if err := explain(err); err != nil && !errors.Is(err, ErrNoUpload) {
		return b.fail("abort multipart upload of", key, err)
	}
	return nil
}

// Parts is what was uploaded so far, in the order of the numbers.
func (b *Bucket) Parts(ctx context.Context, key, uploadID string) ([]Part, error) {
	name, err := Spell(key)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	var parts []Part
	in := &s3.ListPartsInput{Bucket: &b.name, Key: &name, UploadId: &uploadID}
	for pages := s3.NewListPartsPaginator(b.store.client, in); pages.HasMorePages(); {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, b.fail("list parts of", key, err)
		}
		for _, p := range page.Parts {
			parts = append(parts, Part{Number: int(aws.ToInt32(p.PartNumber)), ETag: unquote(p.ETag), Size: aws.ToInt64(p.Size)})
		}
	}
	return parts, nil
}

// Uploads is the unfinished uploads of keys that start with prefix, so that
// those that nobody will finish can be aborted. After an error the sequence ends.
func (b *Bucket) Uploads(ctx context.Context, prefix string) iter.Seq2[Upload, error] {
	return func(yield func(Upload, error) bool) {
		in := &s3.ListMultipartUploadsInput{Bucket: &b.name, Prefix: optional(spellPrefix(prefix))}
		for pages := s3.NewListMultipartUploadsPaginator(b.store.client, in); pages.HasMorePages(); {
			limited, cancel := context.WithTimeout(ctx, callLimit)
			page, err := pages.NextPage(limited)
			cancel()
			if err != nil {
				yield(Upload{}, b.fail("list uploads of", prefix, err))
				return
			}
			for _, u := range page.Uploads {
				key, ours := Unspell(aws.ToString(u.Key))
				if !ours || !strings.HasPrefix(key, prefix) {
					continue
				}
				if !yield(Upload{Key: key, ID: aws.ToString(u.UploadId), Started: aws.ToTime(u.Initiated)}, nil) {
					return
				}
			}
		}
	}
}

// putParts is Put for a body that is larger than a part.
func (b *Bucket) putParts(ctx context.Context, key string, body io.Reader, h Headers) (_ Object, err error) {
	name, err := Spell(key)
	if err != nil {
		return Object{}, err
	}
	uploadID, err := b.start(ctx, key, h, types.ChecksumAlgorithmCrc32)
	if err != nil {
		return Object{}, err
	}
	defer func() {
		if err != nil {
			// Even, and above all, when ctx has ended.
			err = errors.Join(err, b.AbortMultipart(context.WithoutCancel(ctx), key, uploadID))
		}
	}()
	var parts []types.CompletedPart
	buffer := make([]byte, PartSize)
	for number := 1; ; number++ {
		n, err := io.ReadFull(body, buffer)
		if err == io.EOF {
			break
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			return Object{}, fmt.Errorf("blob: read the body of %q: %w", key, err)
		}
		if number > MaxParts {
			return Object{}, fmt.Errorf("blob: put %q: the body is longer than %d parts of %d bytes", key, MaxParts, PartSize)
		}
		out, err := b.store.client.UploadPart(ctx, &s3.UploadPartInput{
			Bucket:            &b.name,
			Key:               &name,
			UploadId:          &uploadID,
			PartNumber:        aws.Int32(int32(number)),
			Body:              bytes.NewReader(buffer[:n]),
			ChecksumAlgorithm: types.ChecksumAlgorithmCrc32,
		})
		if err != nil {
			return Object{}, b.fail(fmt.Sprintf("put part %d of", number), key, err)
		}
		parts = append(parts, types.CompletedPart{PartNumber: aws.Int32(int32(number)), ETag: out.ETag, ChecksumCRC32: out.ChecksumCRC32})
	}
	return b.complete(ctx, key, uploadID, parts)
}
