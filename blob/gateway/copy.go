package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3api/utils"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
)

// Copies are made here, and not by the posix backend, which finds their source
// relative to the working directory, takes "?versionId=" within a name for a
// query, changes the object in place where source and target are one, and reads
// and digests every byte. Here a copy is a new file always, made by the kernel
// (which may let both files share their blocks) where nothing has to be
// computed. It has the ETag and the checksum that the source has, so a reader
// of the copy is warned of what the disk has done to the source.

// maxCopy is how many bytes one request copies, on S3 too.
const maxCopy = 5 << 30

// A source is an object that is being copied. It stays what it is though the
// object be replaced.
type source struct {
	*os.File
	disk        *disk
	bucket, key string // the path of the bucket
	info        fs.FileInfo
	etag        string
	checksum    s3response.Checksum // of the whole, or nothing
}

// openSource finds what the header x-amz-copy-source names: "bucket/key" or
// "/bucket/key", percent-encoded.
func (d *disk) openSource(header, owner *string, conditions backend.PreConditions) (_ *source, err error) {
	encoded, version, versioned := strings.Cut(str(header), "?versionId=")
	if versioned && version != "null" {
		return nil, s3err.GetInvalidArgumentErr(s3err.InvalidArgVersionId, version)
	}
	decoded, err := url.QueryUnescape(encoded) // a plus sign is a space, on S3 too
	if err != nil {
		return nil, s3err.GetInvalidArgumentErr(s3err.InvalidArgCopySourceEncoding, encoded)
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(decoded, "/"), "/")
	if !filepath.IsLocal(key) || strings.HasSuffix(key, "/") || strings.ContainsRune(key, 0) || strings.HasPrefix(key+"/", posix.MetaTmpDir+"/") {
		return nil, s3err.GetAPIError(s3err.ErrNoSuchKey)
	}
	path, err := d.bucket(&bucket)
	if err != nil {
		return nil, err
	}
	if str(owner) != "" {
		if err := d.checkOwner(*path, *owner); err != nil {
			return nil, err
		}
	}
	f, err := os.Open(filepath.Join(*path, key))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ENAMETOOLONG) {
		return nil, s3err.GetAPIError(s3err.ErrNoSuchKey)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	s := &source{File: f, disk: d, bucket: *path, key: key}
	if s.info, err = f.Stat(); err != nil {
		return nil, err
	}
	if !s.info.Mode().IsRegular() {
		return nil, s3err.GetAPIError(s3err.ErrNoSuchKey)
	}
	etag, err := d.attributes.RetrieveAttribute(f, s.bucket, key, "etag")
	if err != nil {
		return nil, fmt.Errorf("find the ETag of the source: %w", err)
	}
	s.etag = string(etag)
	if err := backend.EvaluatePreconditions(s.etag, s.info.ModTime(), conditions); err != nil {
		return nil, err
	}
	if b, err := d.attributes.RetrieveAttribute(f, s.bucket, key, checksums); err == nil {
		if err := json.Unmarshal(b, &s.checksum); err != nil {
			return nil, fmt.Errorf("read the checksum of the source: %w", err)
		}
	} else if !errors.Is(err, meta.ErrNoSuchKey) {
		return nil, fmt.Errorf("find the checksum of the source: %w", err)
	}
	if sum := *sumOf(&s.checksum, s.checksum.Algorithm); s.checksum.Type != types.ChecksumTypeFullObject || sum == nil {
		s.checksum = s3response.Checksum{} // of parts, which the copy does not consist of
	}
	return s, nil
}

func (d *disk) checkOwner(bucket, owner string) error {
	b, err := d.attributes.RetrieveAttribute(nil, bucket, "", bucketACL)
	if err != nil {
		return fmt.Errorf("find the owner of the source's bucket: %w", err)
	}
	acl, err := auth.ParseACL(b)
	if err != nil {
		return err
	}
	if acl.Owner != owner {
		return s3err.GetAPIError(s3err.ErrAccessDenied)
	}
	return nil
}

// sumOf is where c has the sum of that algorithm: the fields are called so.
func sumOf(c *s3response.Checksum, algorithm types.ChecksumAlgorithm) **string {
	if f := reflect.ValueOf(c).Elem().FieldByName(string(algorithm)); f.IsValid() && f.Type() == reflect.TypeFor[*string]() {
		return f.Addr().Interface().(**string)
	}
	return new(*string)
}

// writeTo copies the source into f and returns the checksum that was asked for.
func (s *source) writeTo(f *os.File, algorithm types.ChecksumAlgorithm) (s3response.Checksum, error) {
	have := s.checksum.Algorithm
	if algorithm == "" {
		algorithm = have
	}
	if algorithm == "" {
		algorithm = types.ChecksumAlgorithmCrc64nvme
	}
	var from io.Reader = s.File
	var to io.Writer = f
	var sum *utils.HashReader
	if algorithm != have {
		to = struct{ io.Writer }{f} // which reads with a larger buffer than f would
		var err error
		if have != "" {
			if from, err = utils.NewHashReader(from, **sumOf(&s.checksum, have), hashType(have)); err != nil {
				return s3response.Checksum{}, err
			}
		}
		if sum, err = utils.NewHashReader(from, "", hashType(algorithm)); err != nil {
			return s3response.Checksum{}, err
		}
		from = sum
	}
	var buffer []byte
	if sum != nil {
		buffer = make([]byte, min(ioBuffer, s.info.Size()+1))
	}
	n, err := io.CopyBuffer(to, from, buffer)
	if _, wrong := err.(s3err.S3Error); wrong {
		return s3response.Checksum{}, fmt.Errorf("the source is not what was written: %v", err)
	}
	if err == nil && n != s.info.Size() {
		err = fmt.Errorf("the source has %d bytes, and %d could be read", s.info.Size(), n)
	}
	if err != nil || sum == nil {
		return s.checksum, err
	}
	c := s3response.Checksum{Algorithm: algorithm, Type: types.ChecksumTypeFullObject}
	value := sum.Sum()
	*sumOf(&c, algorithm) = &value
	return c, nil
}

func hashType(a types.ChecksumAlgorithm) utils.HashType {
	return utils.HashType(strings.ToLower(string(a)))
}

// properties are the attributes that describe an object to its readers, from
// the request or from the source.
func (s *source) properties(in s3response.CopyObjectInput) (map[string][]byte, error) {
	all := map[string][]byte{}
	for name, value := range map[string]*string{
		"content-type":              in.ContentType,
		"content-encoding":          in.ContentEncoding,
		"content-disposition":       in.ContentDisposition,
		"content-language":          in.ContentLanguage,
		"cache-control":             in.CacheControl,
		"expires":                   in.Expires,
		"website-redirect-location": in.WebsiteRedirectLocation,
	} {
		if str(value) != "" {
			all[name] = []byte(*value)
		}
	}
	if len(in.Metadata) > 0 {
		b, err := json.Marshal(in.Metadata)
		if err != nil {
			return nil, err
		}
		all["metadata"] = b
	}
	if in.MetadataDirective == types.MetadataDirectiveReplace {
		return all, nil
	}
	for _, name := range []string{"content-type", "content-encoding", "content-disposition", "content-language", "cache-control", "expires", "metadata"} {
		value, err := s.disk.attributes.RetrieveAttribute(s.File, s.bucket, s.key, name)
		if delete(all, name); errors.Is(err, meta.ErrNoSuchKey) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find %s of the source: %w", name, err)
		}
		all[name] = value
	}
	return all, nil
}

func (d *disk) CopyObject(ctx context.Context, in s3response.CopyObjectInput) (s3response.CopyObjectOutput, error) {
	out, err := d.copyObject(in)
	if err != nil {
		return s3response.CopyObjectOutput{}, d.explain("CopyObject", in.Bucket, in.Key, err)
	}
	return s3response.CopyObjectOutput{CopyObjectResult: out}, nil
}

func (d *disk) copyObject(in s3response.CopyObjectInput) (*s3response.CopyObjectResult, error) {
	bucket, err := d.bucket(in.Bucket)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(*in.Key, "/") || in.ObjectLockMode != "" || in.ObjectLockLegalHoldStatus == types.ObjectLockLegalHoldStatusOn || str(in.Tagging) != "" {
		return nil, s3err.GetAPIError(s3err.ErrNotImplemented)
	}
	s, err := d.openSource(in.CopySource, in.ExpectedSourceBucketOwner, backend.PreConditions{
		IfMatch:       in.CopySourceIfMatch,
		IfNoneMatch:   in.CopySourceIfNoneMatch,
		IfModSince:    in.CopySourceIfModifiedSince,
		IfUnmodeSince: in.CopySourceIfUnmodifiedSince,
	})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	if s.info.Size() > maxCopy {
		return nil, s3err.GetCopySourceObjectTooLargeErr(maxCopy)
	}
	if s.bucket == *bucket && s.key == *in.Key && in.MetadataDirective != types.MetadataDirectiveReplace {
		return nil, s3err.GetAPIError(s3err.ErrInvalidCopyDest)
	}
	attributes, err := s.properties(in)
	if err != nil {
		return nil, err
	}
	f, err := d.temporary(*bucket)
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name()) // unless it has been renamed
	defer f.Close()
	sum, err := s.writeTo(f, in.ChecksumAlgorithm)
	if err != nil {
		return nil, err
	}
	if attributes[checksums], err = json.Marshal(sum); err != nil {
		return nil, err
	}
	attributes["etag"] = []byte(s.etag)
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	defer d.keys.lock(filepath.Join(*bucket, *in.Key))()
	if err := d.attributes.storeAll(f, *bucket, *in.Key, attributes); err != nil {
		return nil, err
	}
	if err := errors.Join(d.sync(f), f.Close()); err != nil {
		return nil, err
	}
	if err := publish(f.Name(), filepath.Join(*bucket, *in.Key)); err != nil {
		return nil, err
	}
	return &s3response.CopyObjectResult{
		ETag:              &s.etag,
		LastModified:      backend.GetTimePtr(info.ModTime()),
		ChecksumType:      sum.Type,
		ChecksumCRC32:     sum.CRC32,
		ChecksumCRC32C:    sum.CRC32C,
		ChecksumCRC64NVME: sum.CRC64NVME,
		ChecksumSHA1:      sum.SHA1,
		ChecksumSHA256:    sum.SHA256,
		ChecksumSHA512:    sum.SHA512,
		ChecksumMD5:       sum.MD5,
		ChecksumXXHASH64:  sum.XXHASH64,
		ChecksumXXHASH3:   sum.XXHASH3,
		ChecksumXXHASH128: sum.XXHASH128,
	}, d.settle(*bucket, *in.Key)
}

// temporary is a file where the next start removes it. (os.CreateTemp makes one
// that only the owner can read, which is what objects are.)
func (d *disk) temporary(bucket string) (*os.File, error) {
	dir := filepath.Join(bucket, posix.MetaTmpDir)
	f, err := os.CreateTemp(dir, "copy.")
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		f, err = os.CreateTemp(dir, "copy.")
	}
	return f, err
}

// publish gives the file the name of an object.
func publish(file, name string) error {
	err := os.Rename(file, name)
	for range 10 { // somebody may find the directory empty, and remove it
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err = os.MkdirAll(filepath.Dir(name), 0o700); err == nil {
			err = os.Rename(file, name)
		}
	}
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return s3err.GetAPIError(s3err.ErrObjectParentIsFile)
	case errors.Is(err, fs.ErrExist), errors.Is(err, syscall.EISDIR):
		return s3err.GetAPIError(s3err.ErrExistingObjectIsDirectory)
	case errors.Is(err, syscall.ENAMETOOLONG):
		return s3err.GetKeyTooLongErr(int64(len(name)), 1024)
	}
	return err
}

// UploadPartCopy makes a part as UploadPart does: of a range of an object.
func (d *disk) UploadPartCopy(ctx context.Context, in *s3.UploadPartCopyInput) (s3response.CopyPartResult, error) {
	out, err := d.uploadPartCopy(ctx, in)
	return out, d.explain("UploadPartCopy", in.Bucket, in.Key, err)
}

func (d *disk) uploadPartCopy(ctx context.Context, in *s3.UploadPartCopyInput) (out s3response.CopyPartResult, err error) {
	bucket, err := d.bucket(in.Bucket)
	if err != nil {
		return out, err
	}
	if err := checkUpload(in.UploadId); err != nil {
		return out, err
	}
	s, err := d.openSource(in.CopySource, in.ExpectedSourceBucketOwner, backend.PreConditions{
		IfMatch:       in.CopySourceIfMatch,
		IfNoneMatch:   in.CopySourceIfNoneMatch,
		IfModSince:    in.CopySourceIfModifiedSince,
		IfUnmodeSince: in.CopySourceIfUnmodifiedSince,
	})
	if err != nil {
		return out, err
	}
	defer s.Close()
	offset, length, err := copyRange(str(in.CopySourceRange), s.info.Size())
	if err != nil {
		return out, err
	}
	part, err := d.putPart(ctx, &s3.UploadPartInput{
		Bucket:        bucket,
		Key:           in.Key,
		UploadId:      in.UploadId,
		PartNumber:    in.PartNumber,
		Body:          io.NewSectionReader(s, offset, length),
		ContentLength: &length,
	}, func(f *os.File) error {
		info, err := f.Stat()
		if err == nil {
			out.LastModified = info.ModTime()
			err = checkLength(f, &length)
		}
		return err
	})
	if err != nil {
		return out, err
	}
	out.ETag = part.ETag
	out.ChecksumCRC32, out.ChecksumCRC32C, out.ChecksumCRC64NVME = part.ChecksumCRC32, part.ChecksumCRC32C, part.ChecksumCRC64NVME
	out.ChecksumSHA1, out.ChecksumSHA256 = part.ChecksumSHA1, part.ChecksumSHA256
	return out, nil
}

// copyRange reads "bytes=FIRST-LAST", both of which must be within the source.
// Nothing means all of it.
func copyRange(header string, size int64) (offset, length int64, err error) {
	offset, length = 0, size
	if header != "" {
		first, last, ok := strings.Cut(strings.TrimPrefix(header, "bytes="), "-")
		from, err := strconv.ParseUint(first, 10, 63)
		to, err2 := strconv.ParseUint(last, 10, 63)
		if !ok || !strings.HasPrefix(header, "bytes=") || err != nil || err2 != nil || from > to {
			return 0, 0, s3err.GetInvalidArgumentErr(s3err.InvalidArgCopySourceRange, header)
		}
		if int64(to) >= size {
			return 0, 0, s3err.GetInvalidArgExceedingRange(size)
		}
		offset, length = int64(from), int64(to-from)+1
	}
	if length > maxCopy {
		return 0, 0, s3err.GetCopySourceObjectTooLargeErr(maxCopy)
	}
	return offset, length, nil
}
