package gateway

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
)

// disk is versitygw's posix backend, as far as it is wanted, with these things
// put right:
//
//   - It reaches its files relative to the working directory of the process,
//     which it changes. Here it is given the paths of the buckets for their
//     names, and the working directory is left alone.
//   - A connection that breaks looks to it like the end of the body, and what
//     arrived until then would become the object, or a part. Here the bytes are
//     counted.
//   - It leaves it to the operating system when bytes reach the disk. Here they
//     are there before an object is visible, and its name before the answer.
//   - To complete an upload that is unknown it calls a success if there is any
//     object under the key, or if a process that was killed had begun to. Here
//     the object must be made of that upload.
//   - Its copies are none of this: see copy.go.
//   - Errors that are no answer of S3's are printed. Here they are logged.
//
// What is not here is answered with NotImplemented.
type disk struct {
	backend.BackendUnsupported
	posix      *posix.Posix
	root       string // absolute
	attributes *attributes
	durable    bool
	sync       func(*os.File) error
	keys       locks // held to change what is under the path of a key
	log        *slog.Logger
}

// uploads is the directory, in a bucket, of the uploads in parts: one directory
// per key, named after its hash, and in that one per upload, named after its id.
const uploads = posix.MetaTmpMultipartDir

func openDisk(directory string, durable bool, log *slog.Logger) (*disk, error) {
	root, err := filepath.Abs(filepath.Join(directory, "buckets"))
	if err != nil {
		return nil, fmt.Errorf("gateway: find the data directory: %w", err)
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("gateway: create the directory of the buckets: %w", err)
	}
	d := &disk{root: root, durable: durable, log: log, sync: func(*os.File) error { return nil }}
	if durable {
		d.sync = (*os.File).Sync
	}
	if d.attributes, err = openAttributes(directory, root, func(f *os.File) error { return d.sync(f) }); err != nil {
		return nil, err
	}
	options := posix.PosixOpts{
		ForceNoObjLockFile: true, // against other processes: the lock keeps them out
		IOBufferSize:       ioBuffer,
	}
	options.SetNewDirPerm(0o700)
	options.SetNewFilePerm(0o600)
	// The directory that it is given is where it changes to: to where we are.
	if d.posix, err = posix.New(".", d.attributes, options); err != nil {
		return nil, fmt.Errorf("gateway: open the posix backend: %w", err)
	}
	return d, nil
}

func (d *disk) String() string { return "Taskfleet" }

func (d *disk) Shutdown() { d.posix.Shutdown() }

// bucket is what the posix backend shall call it.
func (d *disk) bucket(name *string) (*string, error) {
	if name == nil || !backend.IsValidDirectoryName(*name) || *name == "" || *name == "." || *name == ".." {
		return nil, s3err.GetBucketErr(s3err.ErrInvalidBucketName, str(name))
	}
	path := filepath.Join(d.root, *name)
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, s3err.GetBucketErr(s3err.ErrNoSuchBucket, *name)
	}
	return &path, err
}

// finish is the context of a request that ends when it is done: the server's
// ends as soon as that is to stop, to finish what it serves.
func finish(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }

// explain makes an answer of S3's out of any error.
func (d *disk) explain(verb string, bucket, key *string, err error) error {
	if _, ok := err.(s3err.S3Error); ok || err == nil {
		return err
	}
	attrs := []any{"operation", verb, "bucket", str(bucket), "key", str(key), "error", err}
	var network *net.OpError
	if errors.Is(err, errShort) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network) {
		d.log.Info("S3 gateway: the client went away", attrs...)
		return s3err.GetAPIError(s3err.ErrIncompleteBody)
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		d.log.Error("S3 gateway: no space", attrs...)
		return s3err.GetAPIError(s3err.ErrNoSpaceLeftOnDevice)
	}
	d.log.Error("S3 gateway: the disk failed", attrs...)
	return s3err.GetAPIError(s3err.ErrInternalError)
}

func str(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

var errShort = errors.New("the body ended early")

// checkLength says whether as many bytes were written to f as were announced.
func checkLength(f *os.File, length *int64) error {
	written, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("find the end of the body: %w", err)
	}
	if length != nil && written != *length {
		return fmt.Errorf("%w: %d of %d bytes", errShort, written, *length)
	}
	return nil
}

// settle makes the name of an object as durable as its bytes.
func (d *disk) settle(bucket, key string) error {
	err := d.syncDirectories(filepath.Join(bucket, key), d.root)
	if s := d.attributes.sidecar; s != nil && err == nil {
		err = d.syncDirectories(filepath.Join(s.dir, filepath.Base(bucket), key), s.dir)
	}
	return err
}

// syncDirectories does so with those that path is in, up to top.
func (d *disk) syncDirectories(path, top string) error {
	for dir := filepath.Dir(path); len(dir) >= len(top); dir = filepath.Dir(dir) {
		if err := d.syncDirectory(dir); err != nil {
			return err
		}
	}
	return nil
}

func (d *disk) syncDirectory(name string) error {
	if !d.durable {
		return nil
	}
	f, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the object was deleted meanwhile
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return d.sync(f)
}

func (d *disk) PutObject(ctx context.Context, in s3response.PutObjectInput) (s3response.PutObjectOutput, error) {
	name := in.Bucket
	out, err := func() (out s3response.PutObjectOutput, err error) {
		if in.Bucket, err = d.bucket(name); err != nil {
			return out, err
		}
		unlock := func() {}
		defer func() { unlock() }()
		out, err = d.posix.PutObjectWithPostFunc(finish(ctx), in, func(f *os.File) error {
			if err := checkLength(f, in.ContentLength); err != nil {
				return err
			}
			if err := d.sync(f); err != nil {
				return err
			}
			unlock = d.keys.lock(filepath.Join(*in.Bucket, *in.Key))
			return nil
		})
		if err != nil {
			return out, err
		}
		return out, d.settle(*in.Bucket, *in.Key)
	}()
	return out, d.explain("PutObject", name, in.Key, err)
}

func (d *disk) HeadObject(ctx context.Context, in *s3.HeadObjectInput) (*s3.HeadObjectOutput, error) {
	copied := *in
	var err error
	if copied.Bucket, err = d.bucket(in.Bucket); err != nil {
		return nil, d.explain("HeadObject", in.Bucket, in.Key, err)
	}
	out, err := d.posix.HeadObject(finish(ctx), &copied)
	return out, d.explain("HeadObject", in.Bucket, in.Key, err)
}

func (d *disk) GetObject(ctx context.Context, in *s3.GetObjectInput) (*s3.GetObjectOutput, error) {
	copied := *in
	var err error
	if copied.Bucket, err = d.bucket(in.Bucket); err != nil {
		return nil, d.explain("GetObject", in.Bucket, in.Key, err)
	}
	out, err := d.posix.GetObject(finish(ctx), &copied)
	return out, d.explain("GetObject", in.Bucket, in.Key, err)
}

func (d *disk) DeleteObject(ctx context.Context, in *s3.DeleteObjectInput) (*s3.DeleteObjectOutput, error) {
	copied := *in
	var err error
	if copied.Bucket, err = d.bucket(in.Bucket); err != nil {
		return nil, d.explain("DeleteObject", in.Bucket, in.Key, err)
	}
	defer d.keys.lock(filepath.Join(*copied.Bucket, *in.Key))()
	out, err := d.posix.DeleteObject(finish(ctx), &copied)
	var answer s3err.S3Error
	if errors.As(err, &answer) && answer.BaseError().Code == "NoSuchKey" {
		return &s3.DeleteObjectOutput{}, nil // somebody else was faster
	}
	return out, d.explain("DeleteObject", in.Bucket, in.Key, err)
}

func (d *disk) DeleteObjects(ctx context.Context, in *s3.DeleteObjectsInput) (s3response.DeleteResult, error) {
	var result s3response.DeleteResult
	for _, o := range in.Delete.Objects {
		_, err := d.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: in.Bucket, Key: o.Key, VersionId: o.VersionId})
		if err != nil {
			result.Error = append(result.Error, s3err.ObjectDeleteError(o.Key, o.VersionId, err))
		} else {
			result.Deleted = append(result.Deleted, types.DeletedObject{Key: o.Key})
		}
	}
	return result, nil
}

func (d *disk) ListObjectsV2(ctx context.Context, in *s3.ListObjectsV2Input) (s3response.ListObjectsV2Result, error) {
	copied := *in
	var err error
	if copied.Bucket, err = d.bucket(in.Bucket); err != nil {
		return s3response.ListObjectsV2Result{}, d.explain("ListObjectsV2", in.Bucket, in.Prefix, err)
	}
	out, err := d.posix.ListObjectsV2(finish(ctx), &copied)
	out.Name = in.Bucket
	return out, d.explain("ListObjectsV2", in.Bucket, in.Prefix, err)
}

func (d *disk) CreateMultipartUpload(ctx context.Context, in s3response.CreateMultipartUploadInput) (s3response.InitiateMultipartUploadResult, error) {
	name := in.Bucket
	var err error
	if in.Bucket, err = d.bucket(name); err != nil {
		return s3response.InitiateMultipartUploadResult{}, d.explain("CreateMultipartUpload", name, in.Key, err)
	}
	defer d.keys.lock(filepath.Join(*in.Bucket, *in.Key))()
	out, err := d.posix.CreateMultipartUpload(finish(ctx), in)
	out.Bucket = str(name)
	return out, d.explain("CreateMultipartUpload", name, in.Key, err)
}

// UploadPart does not synchronise: a part that a power failure took is missing
// when the upload is to be completed, which fails then.
func (d *disk) UploadPart(ctx context.Context, in *s3.UploadPartInput) (*s3.UploadPartOutput, error) {
	copied := *in
	out, err := func() (_ *s3.UploadPartOutput, err error) {
		if copied.Bucket, err = d.bucket(in.Bucket); err != nil {
			return nil, err
		}
		if err := checkUpload(in.UploadId); err != nil {
			return nil, err
		}
		return d.putPart(ctx, &copied, func(f *os.File) error { return checkLength(f, in.ContentLength) })
	}()
	return out, d.explain("UploadPart", in.Bucket, in.Key, err)
}

// putPart puts a part that check finds good, if the upload is still there once all
// bytes are: the backend would make the directory of one anew that has been aborted
// or completed meanwhile.
func (d *disk) putPart(ctx context.Context, in *s3.UploadPartInput, check func(*os.File) error) (*s3.UploadPartOutput, error) {
	var over error
	unlock := func() {}
	defer func() { unlock() }()
	out, err := d.posix.UploadPartWithPostFunc(finish(ctx), in, func(f *os.File) error {
		if err := check(f); err != nil {
			return err
		}
		unlock = d.keys.lock(filepath.Join(*in.Bucket, *in.Key))
		if _, err := os.Stat(filepath.Join(*in.Bucket, uploadPath(*in.Key, *in.UploadId))); err != nil {
			over = s3err.GetNoSuchUploadErr(*in.UploadId)
		}
		return over
	})
	if over != nil {
		return nil, over
	}
	return out, err
}

// checkUpload keeps ids that are paths away from the disk.
func checkUpload(id *string) error {
	if id == nil || !backend.IsValidDirectoryName(*id) {
		return s3err.GetNoSuchUploadErr(str(id))
	}
	return nil
}

// uploadPath is where the upload is, in the bucket.
func uploadPath(key, id string) string {
	return filepath.Join(uploads, fmt.Sprintf("%x", sha256.Sum256([]byte(key))), id)
}

func (d *disk) CompleteMultipartUpload(ctx context.Context, in *s3.CompleteMultipartUploadInput) (s3response.CompleteMultipartUploadResult, string, error) {
	copied := *in
	out, err := func() (out s3response.CompleteMultipartUploadResult, err error) {
		if copied.Bucket, err = d.bucket(in.Bucket); err != nil {
			return out, err
		}
		if err := checkUpload(in.UploadId); err != nil {
			return out, err
		}
		// A second call waits for the first, and then sees what that did.
		defer d.keys.lock(filepath.Join(*copied.Bucket, *in.Key))()
		return d.complete(ctx, &copied)
	}()
	out.Bucket, out.Key = in.Bucket, in.Key
	return out, "", d.explain("CompleteMultipartUpload", in.Bucket, in.Key, err)
}

func (d *disk) complete(ctx context.Context, in *s3.CompleteMultipartUploadInput) (out s3response.CompleteMultipartUploadResult, err error) {
	path := uploadPath(*in.Key, *in.UploadId)
	etag, completed := d.completed(*in.Bucket, *in.Key, *in.UploadId)
	if completed {
		out.ETag = &etag
		err = os.RemoveAll(filepath.Join(*in.Bucket, path))
	} else if _, err := os.Stat(filepath.Join(*in.Bucket, path)); err != nil {
		return out, s3err.GetNoSuchUploadErr(*in.UploadId)
	} else if out, _, err = d.posix.CompleteMultipartUpload(finish(ctx), in); err != nil {
		return out, err
	}
	return out, errors.Join(err, d.forget(*in.Bucket, *in.Key, *in.UploadId), d.settle(*in.Bucket, *in.Key))
}

// completed says whether the object under key is made of the upload.
func (d *disk) completed(bucket, key, id string) (etag string, ok bool) {
	b, err := d.attributes.RetrieveAttribute(nil, bucket, key, joinedParts)
	if err != nil {
		return "", false
	}
	parts, err := backend.UnmarshalMpUploadMetadata(b, false)
	if err != nil || parts.UploadID != id {
		return "", false
	}
	b, err = d.attributes.RetrieveAttribute(nil, bucket, key, "etag")
	return string(b), err == nil
}

// forget removes what the backend leaves of the attributes of an upload that is
// over, and of its key where that was the last.
func (d *disk) forget(bucket, key, id string) error {
	path := uploadPath(key, id)
	err := d.attributes.DeleteAttributes(bucket, path)
	if _, e := os.Stat(filepath.Join(bucket, filepath.Dir(path))); errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, d.attributes.DeleteAttributes(bucket, filepath.Dir(path)))
	}
	return err
}

func (d *disk) AbortMultipartUpload(ctx context.Context, in *s3.AbortMultipartUploadInput) error {
	copied := *in
	err := func() (err error) {
		if copied.Bucket, err = d.bucket(in.Bucket); err != nil {
			return err
		}
		if err := checkUpload(in.UploadId); err != nil {
			return err
		}
		defer d.keys.lock(filepath.Join(*copied.Bucket, *in.Key))()
		if err := d.posix.AbortMultipartUpload(finish(ctx), &copied); err != nil {
			return err
		}
		return d.forget(*copied.Bucket, *in.Key, *in.UploadId)
	}()
	return d.explain("AbortMultipartUpload", in.Bucket, in.Key, err)
}

func (d *disk) ListMultipartUploads(ctx context.Context, in *s3.ListMultipartUploadsInput) (s3response.ListMultipartUploadsResult, error) {
	copied := *in
	var err error
	if copied.Bucket, err = d.bucket(in.Bucket); err != nil {
		return s3response.ListMultipartUploadsResult{}, d.explain("ListMultipartUploads", in.Bucket, in.Prefix, err)
	}
	out, err := d.posix.ListMultipartUploads(finish(ctx), &copied)
	out.Bucket = str(in.Bucket)
	return out, d.explain("ListMultipartUploads", in.Bucket, in.Prefix, err)
}

func (d *disk) ListParts(ctx context.Context, in *s3.ListPartsInput) (s3response.ListPartsResult, error) {
	copied := *in
	out, err := func() (out s3response.ListPartsResult, err error) {
		if copied.Bucket, err = d.bucket(in.Bucket); err != nil {
			return out, err
		}
		if err := checkUpload(in.UploadId); err != nil {
			return out, err
		}
		return d.posix.ListParts(finish(ctx), &copied)
	}()
	out.Bucket = str(in.Bucket)
	return out, d.explain("ListParts", in.Bucket, in.Key, err)
}

func (d *disk) HeadBucket(ctx context.Context, in *s3.HeadBucketInput) (*s3.HeadBucketOutput, error) {
	if _, err := d.bucket(in.Bucket); err != nil {
		return nil, d.explain("HeadBucket", in.Bucket, nil, err)
	}
	return &s3.HeadBucketOutput{}, nil
}

func (d *disk) CreateBucket(ctx context.Context, in *s3.CreateBucketInput, acl []byte) error {
	if in.Bucket == nil || !backend.IsValidDirectoryName(*in.Bucket) {
		return s3err.GetBucketErr(s3err.ErrInvalidBucketName, str(in.Bucket))
	}
	copied := *in
	path := filepath.Join(d.root, *in.Bucket)
	copied.Bucket = &path
	err := d.posix.CreateBucket(finish(ctx), &copied, acl)
	if err == nil {
		err = d.settle(path, ".")
	}
	var taken s3err.BucketError
	if errors.As(err, &taken) {
		taken.BucketName = *in.Bucket
		err = taken
	}
	return d.explain("CreateBucket", in.Bucket, nil, err)
}

func (d *disk) DeleteBucket(ctx context.Context, name string) error {
	path, err := d.bucket(&name)
	if err == nil {
		err = d.posix.DeleteBucket(finish(ctx), *path)
	}
	var full s3err.BucketError
	if errors.As(err, &full) {
		full.BucketName = name
		err = full
	}
	return d.explain("DeleteBucket", &name, nil, err)
}

func (d *disk) GetBucketAcl(ctx context.Context, in *s3.GetBucketAclInput) ([]byte, error) {
	path, err := d.bucket(in.Bucket)
	if err != nil {
		return nil, d.explain("GetBucketAcl", in.Bucket, nil, err)
	}
	acl, err := d.posix.GetBucketAcl(finish(ctx), &s3.GetBucketAclInput{Bucket: path})
	return acl, d.explain("GetBucketAcl", in.Bucket, nil, err)
}

func (d *disk) GetBucketCors(ctx context.Context, name string) ([]byte, error) {
	path, err := d.bucket(&name)
	if err != nil {
		return nil, d.explain("GetBucketCors", &name, nil, err)
	}
	cors, err := d.posix.GetBucketCors(finish(ctx), *path)
	return cors, d.explain("GetBucketCors", &name, nil, err)
}

func (d *disk) PutBucketCors(ctx context.Context, name string, cors []byte) error {
	path, err := d.bucket(&name)
	if err == nil {
		err = d.posix.PutBucketCors(finish(ctx), *path, cors)
	}
	return d.explain("PutBucketCors", &name, nil, err)
}

// There is one account, nothing is locked and nothing has versions: what every
// request asks for gets the same answer.

func (d *disk) GetBucketPolicy(_ context.Context, name string) ([]byte, error) {
	return nil, s3err.GetBucketErr(s3err.ErrNoSuchBucketPolicy, name)
}

func (d *disk) GetObjectLockConfiguration(context.Context, string) ([]byte, error) {
	return nil, s3err.GetAPIError(s3err.ErrObjectLockConfigurationNotFound)
}

func (d *disk) GetBucketVersioning(context.Context, string) (s3response.GetBucketVersioningOutput, error) {
	return s3response.GetBucketVersioningOutput{}, nil
}
