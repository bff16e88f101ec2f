package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
)

// open is the disk that a gateway in the directory has after its start.
func open(t *testing.T, directory string) *disk {
	t.Helper()
	d, err := openDisk(directory, true, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Shutdown)
	if err := d.repair(); err != nil {
		t.Fatal(err)
	}
	d.sweep(t.Context(), time.Now())
	return d
}

func p[T any](v T) *T { return &v }

func (d *disk) create(t *testing.T, name string) {
	t.Helper()
	in := &s3.CreateBucketInput{Bucket: &name, CreateBucketConfiguration: &types.CreateBucketConfiguration{}}
	if err := d.CreateBucket(t.Context(), in, []byte(`{"Owner":"test"}`)); err != nil {
		t.Fatal(err)
	}
}

func (d *disk) put(ctx context.Context, key, body string) error {
	_, err := d.PutObject(ctx, s3response.PutObjectInput{
		Bucket: p("bucket"), Key: &key, Body: strings.NewReader(body), ContentLength: p(int64(len(body))),
	})
	return err
}

func (d *disk) size(key string) (int64, error) {
	out, err := d.HeadObject(context.Background(), &s3.HeadObjectInput{Bucket: p("bucket"), Key: &key})
	if err != nil {
		return 0, err
	}
	return *out.ContentLength, nil
}

// upload puts the one part of an upload there.
func (d *disk) upload(t *testing.T, key, body string) *s3.CompleteMultipartUploadInput {
	t.Helper()
	u, err := d.CreateMultipartUpload(t.Context(), s3response.CreateMultipartUploadInput{Bucket: p("bucket"), Key: &key})
	if err != nil {
		t.Fatal(err)
	}
	part, err := d.UploadPart(t.Context(), &s3.UploadPartInput{
		Bucket: p("bucket"), Key: &key, UploadId: &u.UploadId, PartNumber: p(int32(1)),
		Body: strings.NewReader(body), ContentLength: p(int64(len(body))),
	})
	if err != nil {
		t.Fatal(err)
	}
	return &s3.CompleteMultipartUploadInput{
		Bucket: p("bucket"), Key: &key, UploadId: &u.UploadId,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: []types.CompletedPart{{ETag: part.ETag, PartNumber: p(int32(1))}}},
	}
}

func isCode(err error, code string) bool {
	var answer s3err.S3Error
	return errors.As(err, &answer) && answer.BaseError().Code == code
}

func TestWhatIsNotOnTheDiskIsNotVisible(t *testing.T) {
	d := open(t, t.TempDir())
	d.create(t, "bucket")
	for key, body := range map[string]string{"old": "old", "source": "the source"} {
		if err := d.put(t.Context(), key, body); err != nil {
			t.Fatal(err)
		}
	}
	upload := d.upload(t, "parts", "body")
	good := d.sync
	d.sync = func(f *os.File) error {
		if info, err := f.Stat(); err == nil && !info.IsDir() {
			return &fs.PathError{Op: "sync", Err: errors.New("the disk is broken")}
		}
		return nil
	}
	for _, key := range []string{"old", "new"} {
		if err := d.put(t.Context(), key, "new body"); !isCode(err, "InternalError") {
			t.Errorf("put %s: %v", key, err)
		}
		if _, err := d.copy(key, "bucket/source"); !isCode(err, "InternalError") {
			t.Errorf("copy to %s: %v", key, err)
		}
	}
	if _, _, err := d.CompleteMultipartUpload(t.Context(), upload); !isCode(err, "InternalError") {
		t.Errorf("complete: %v", err)
	}
	if n, err := d.size("old"); n != 3 {
		t.Errorf("the old object has %d bytes, %v", n, err)
	}
	for _, key := range []string{"new", "parts"} {
		if n, err := d.size(key); !isCode(err, "NoSuchKey") && !isCode(err, "NotFound") {
			t.Errorf("%s has %d bytes, %v", key, n, err)
		}
	}
	d.sync = good
	if _, _, err := d.CompleteMultipartUpload(t.Context(), upload); err != nil {
		t.Errorf("complete, after the disk was repaired: %v", err)
	}
	if n, err := d.size("parts"); n != 4 {
		t.Errorf("then it has %d bytes, %v", n, err)
	}
}

// What is synchronised when an object becomes visible: its bytes before, and
// afterwards the directories that lead to it.
func TestAnAnswerMeansThatAllIsOnTheDisk(t *testing.T) {
	d := open(t, t.TempDir())
	d.create(t, "bucket")
	var synced []string
	d.sync = func(f *os.File) error {
		info, err := f.Stat()
		if err == nil && info.IsDir() {
			relative, _ := filepath.Rel(d.root, f.Name())
			synced = append(synced, relative)
		} else if _, err := d.size("a~/b~/c"); err != nil {
			synced = append(synced, "bytes, before")
		} else {
			synced = append(synced, "bytes, after")
		}
		return err
	}
	want := "[bytes, before bucket/a~/b~ bucket/a~ bucket .]"
	if err := d.put(t.Context(), "a~/b~/c", "body"); err != nil || fmt.Sprint(synced) != want {
		t.Errorf("put: %v, synchronised %v, want %v", err, synced, want)
	}
	if _, err := d.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: p("bucket"), Key: p("a~/b~/c")}); err != nil {
		t.Fatal(err)
	}
	upload := d.upload(t, "a~/b~/c", "body")
	synced = nil
	if _, _, err := d.CompleteMultipartUpload(t.Context(), upload); err != nil || fmt.Sprint(synced) != want {
		t.Errorf("complete: %v, synchronised %v, want %v", err, synced, want)
	}
	if err := d.put(t.Context(), "source", "body"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: p("bucket"), Key: p("a~/b~/c")}); err != nil {
		t.Fatal(err)
	}
	synced = nil
	if _, err := d.copy("a~/b~/c", "bucket/source"); err != nil || fmt.Sprint(synced) != want {
		t.Errorf("copy: %v, synchronised %v, want %v", err, synced, want)
	}
}

// What a process leaves that was killed at the worst moments.
func TestARestartRepairs(t *testing.T) {
	for _, extended := range []bool{true, false} {
		dir := t.TempDir()
		if !extended {
			if err := os.Mkdir(filepath.Join(dir, "metadata"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		d := open(t, dir)
		d.create(t, "bucket")
		if err := d.put(t.Context(), "dir~/object", "body"); err != nil {
			t.Fatal(err)
		}
		claimed, linked, waiting := d.upload(t, "claimed", "body"), d.upload(t, "linked", "body"), d.upload(t, "waiting", "body")
		bucket := filepath.Join(d.root, "bucket")
		claim := func(u *s3.CompleteMultipartUploadInput) {
			path := uploadPath(*u.Key, *u.UploadId)
			if err := os.Rename(filepath.Join(bucket, path), filepath.Join(bucket, path+".etag-1.inprogress")); err != nil {
				t.Fatal(err)
			}
			if err := d.attributes.RenameObject(bucket, path, path+".etag-1.inprogress"); err != nil {
				t.Fatal(err)
			}
		}
		// Killed while it was being completed, and after the object was there.
		claim(claimed)
		again := *linked
		if _, _, err := d.CompleteMultipartUpload(t.Context(), linked); err != nil {
			t.Fatal(err)
		}
		left := filepath.Join(bucket, uploadPath("linked", *linked.UploadId)+".etag-1.inprogress")
		for name, make := range map[string]func(string) error{
			left:                               func(name string) error { return os.MkdirAll(name, 0o700) },
			filepath.Join(d.root, "half-made"): func(name string) error { return os.Mkdir(name, 0o700) },
			filepath.Join(bucket, uploads, "hash", "id"): func(name string) error { return os.MkdirAll(name, 0o700) },
			filepath.Join(bucket, ".sgwtmp", "0123.456"): func(name string) error { return os.WriteFile(name, []byte("half"), 0o600) },
			filepath.Join(bucket, filepath.Dir(uploadPath("waiting", "x")), "0123.456"): func(name string) error {
				return os.WriteFile(name, []byte("half"), 0o600)
			},
			filepath.Join(bucket, "dir~", ".object.sgwtmp.1234567890"): func(name string) error { return os.WriteFile(name, []byte("body"), 0o600) },
		} {
			if err := make(name); err != nil {
				t.Fatal(err)
			}
		}
		// Killed before the object was there, and while its attributes were written.
		var orphans []string
		if !extended {
			for _, name := range []string{"bucket/gone~/object.attributes", "bucket/gone~/half.attributes.new", "bucket/dir~/object.attributes.new"} {
				orphans = append(orphans, filepath.Join(dir, "metadata", name))
			}
		}
		for _, name := range orphans {
			if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte("[]"), 0o600)); err != nil {
				t.Fatal(err)
			}
		}

		d = open(t, dir)
		for _, name := range orphans {
			if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("left is %s: %v", name, err)
			}
		}
		for _, u := range []*s3.CompleteMultipartUploadInput{claimed, &again, waiting} {
			out, _, err := d.CompleteMultipartUpload(t.Context(), u)
			if err != nil || out.ETag == nil {
				t.Errorf("complete %s: %v, %v", *u.Key, out.ETag, err)
			}
			if n, err := d.size(*u.Key); n != 4 {
				t.Errorf("%s has %d bytes, %v", *u.Key, n, err)
			}
		}
		d.create(t, "half-made")
		for _, key := range []string{"claimed", "linked", "waiting", "dir~/object"} {
			if _, err := d.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: p("bucket"), Key: &key}); err != nil {
				t.Error(err)
			}
		}
		filepath.WalkDir(filepath.Join(bucket, ".sgwtmp"), func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				t.Errorf("left is %s", path)
			}
			return nil
		})
		if err := d.DeleteBucket(t.Context(), "bucket"); err != nil {
			t.Errorf("something is left in the bucket: %v", err)
		}
		filepath.WalkDir(filepath.Join(dir, "metadata"), func(path string, e fs.DirEntry, err error) error {
			if err == nil && strings.Contains(path, "bucket") {
				t.Errorf("left is %s", path)
			}
			return nil
		})
	}
}

func TestACopyWithoutAttributesIsNoticed(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "buckets/bucket/task~"), 0o700); err != nil {
		t.Fatal(err)
	}
	d, err := openDisk(dir, false, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Shutdown()
	if err := d.repair(); err == nil || !strings.Contains(err.Error(), "attributes") {
		t.Errorf("repair: %v", err)
	}
}

func TestAnObjectOfManyPartsFitsIntoItsAttributes(t *testing.T) {
	d := open(t, t.TempDir())
	d.create(t, "bucket")
	if err := d.put(t.Context(), "key", "body"); err != nil {
		t.Fatal(err)
	}
	many := backend.MpUploadMetadata{UploadID: "the-id"}
	for i := range int64(10_000) {
		many.Parts = append(many.Parts, i*i*7_654_321)
	}
	value, err := backend.MarshalMpUploadMetadata(many, false)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(d.root, "bucket")
	f, err := os.Open(filepath.Join(path, "key"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := d.attributes.StoreAttribute(f, path, "key", joinedParts, value); err != nil {
		t.Error(err)
	}
	if _, ok := d.completed(path, "key", "the-id"); !ok {
		t.Error("then it does not say of which upload it is made")
	}
}

// Attributes in files of their own change when the file does, and not before.
func TestAttributesBelongToAFile(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	s := &sidecar{root: root, dir: dir, sync: func(*os.File) error { return nil }}
	bucket := filepath.Join(root, "bucket")
	make := func(name, attribute string) *os.File {
		t.Helper()
		f, err := os.Create(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		if err := s.StoreAttribute(f, bucket, "a~/object", attribute, []byte("of "+name)); err != nil {
			t.Fatal(err)
		}
		return f
	}
	publish := func(name string) {
		t.Helper()
		if err := os.Rename(filepath.Join(root, name), filepath.Join(bucket, "a~/object")); err != nil {
			t.Fatal(err)
		}
	}
	want := func(attribute, value string) {
		t.Helper()
		got, err := s.RetrieveAttribute(nil, bucket, "a~/object", attribute)
		if string(got) != value || value == "" && !errors.Is(err, meta.ErrNoSuchKey) && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is %q, %v; want %q", attribute, got, err, value)
		}
	}
	if err := os.MkdirAll(filepath.Join(bucket, "a~"), 0o700); err != nil {
		t.Fatal(err)
	}
	first := make("first", "etag")
	want("etag", "")
	publish("first")
	want("etag", "of first")
	second, third := make("second", "type"), make("third", "etag")
	want("etag", "of first")
	want("type", "")
	publish("second")
	want("etag", "")
	want("type", "of second")
	publish("third")
	want("etag", "of third")
	want("type", "")
	for f, attribute := range map[*os.File]string{first: "etag", second: "type", third: "etag"} {
		if _, err := s.RetrieveAttribute(f, bucket, "a~/object", attribute); err != nil {
			t.Errorf("of %s: %v", f.Name(), err)
		}
	}
	if err := s.DeleteAttributes(bucket, "a~/object"); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left is %v, %v", left, err)
	}
}

// A part that arrives when its upload is over is refused, and the upload stays over.
func TestAPartThatComesTooLate(t *testing.T) {
	d := open(t, t.TempDir())
	d.create(t, "bucket")
	if err := d.put(t.Context(), "source", "the source"); err != nil {
		t.Fatal(err)
	}
	for name, end := range map[string]func(in *s3.CompleteMultipartUploadInput) error{
		"aborted": func(in *s3.CompleteMultipartUploadInput) error {
			return d.AbortMultipartUpload(t.Context(), &s3.AbortMultipartUploadInput{Bucket: in.Bucket, Key: in.Key, UploadId: in.UploadId})
		},
		"completed": func(in *s3.CompleteMultipartUploadInput) error {
			_, _, err := d.CompleteMultipartUpload(t.Context(), in)
			return err
		},
	} {
		in := d.upload(t, name, "part one")
		body := &callingReader{Reader: strings.NewReader("part two"), call: func() {
			if err := end(in); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}}
		_, err := d.UploadPart(t.Context(), &s3.UploadPartInput{
			Bucket: in.Bucket, Key: in.Key, UploadId: in.UploadId, PartNumber: p(int32(2)), Body: body, ContentLength: p(int64(8)),
		})
		if !isCode(err, "NoSuchUpload") {
			t.Errorf("a part of what is %s meanwhile: %v", name, err)
		}
		list, err := d.ListMultipartUploads(t.Context(), &s3.ListMultipartUploadsInput{Bucket: p("bucket"), MaxUploads: p(int32(1000))})
		if err != nil || len(list.Uploads) > 0 {
			t.Errorf("once it is %s: %+v, %v", name, list.Uploads, err)
		}
	}
}

// A callingReader calls once before its first bytes.
type callingReader struct {
	io.Reader
	call func()
}

func (r *callingReader) Read(p []byte) (int, error) {
	if call := r.call; call != nil {
		r.call = nil
		call()
	}
	return r.Reader.Read(p)
}
