package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/versity/versitygw/s3response"
)

// copy replaces the headers of the source by none, as package blob does.
func (d *disk) copy(key, source string) (s3response.CopyObjectOutput, error) {
	return d.CopyObject(context.Background(), s3response.CopyObjectInput{
		Bucket: p("bucket"), Key: &key, CopySource: &source,
		MetadataDirective: types.MetadataDirectiveReplace, ChecksumAlgorithm: types.ChecksumAlgorithmSha256,
	})
}

func (d *disk) get(t *testing.T, key string) (*s3.GetObjectOutput, string) {
	t.Helper()
	out, err := d.GetObject(t.Context(), &s3.GetObjectInput{Bucket: p("bucket"), Key: &key, ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Body.Close()
	body, err := io.ReadAll(out.Body)
	if err != nil {
		t.Fatal(err)
	}
	return out, string(body)
}

// What clients other than ours ask for, and what is no source.
func TestWhatACopyCanBeMadeOf(t *testing.T) {
	d := open(t, t.TempDir())
	d.create(t, "bucket")
	d.create(t, "other")
	for _, key := range []string{"dir/key", "a b+c", "x?versionId=y"} {
		if err := d.put(t.Context(), key, "body of "+key); err != nil {
			t.Fatal(err)
		}
	}
	upload := d.upload(t, "upload", "body")
	for source, want := range map[string]string{
		"bucket/dir/key":                "body of dir/key",
		"/bucket/dir/key":               "body of dir/key",
		"%2Fbucket%2Fdir%2Fkey":         "body of dir/key",
		"bucket/a+b%2Bc":                "body of a b+c",
		"bucket/a%20b%2Bc":              "body of a b+c",
		"bucket/x%3FversionId%3Dy":      "body of x?versionId=y",
		"bucket/dir/key?versionId=null": "body of dir/key",

		"bucket/dir/key?versionId=1": "InvalidArgument",
		"bucket/%zz":                 "InvalidArgument",
		"bucket/dir":                 "NoSuchKey",
		"bucket/dir/":                "NoSuchKey",
		"bucket/dir/key/":            "NoSuchKey",
		"bucket/dir/key/x":           "NoSuchKey",
		"bucket/":                    "NoSuchKey",
		"bucket":                     "NoSuchKey",
		"":                           "NoSuchKey",
		"other/dir/key":              "NoSuchKey",
		"other/../bucket/dir/key":    "NoSuchKey",
		"bucket/../../lock":          "NoSuchKey",
		"bucket//dir/key":            "NoSuchKey",
		"bucket/%00":                 "NoSuchKey",
		"nowhere/dir/key":            "NoSuchBucket",
		"../lock":                    "InvalidBucketName",
		"./bucket/dir/key":           "InvalidBucketName",
		"bucket/" + uploadPath("upload", *upload.UploadId) + "/1": "NoSuchKey",
		"bucket/" + strings.Repeat("x", 300):                      "NoSuchKey",
	} {
		_, err := d.copy("copy", source)
		_, partErr := d.UploadPartCopy(t.Context(), &s3.UploadPartCopyInput{
			Bucket: p("bucket"), Key: p("upload"), UploadId: upload.UploadId, PartNumber: p(int32(2)), CopySource: &source,
		})
		if !strings.HasPrefix(want, "body") {
			if !isCode(err, want) || !isCode(partErr, want) {
				t.Errorf("copy %s: %v, %v; want %s", source, err, partErr, want)
			}
			continue
		}
		if err != nil || partErr != nil {
			t.Errorf("copy %s: %v, %v", source, err, partErr)
			continue
		}
		if _, got := d.get(t, "copy"); got != want {
			t.Errorf("copy %s: got %q, want %q", source, got, want)
		}
	}
}

func TestACopyKeepsWhatItIsNotToldToReplace(t *testing.T) {
	for _, extended := range []bool{true, false} {
		dir := t.TempDir()
		if !extended {
			if err := os.Mkdir(filepath.Join(dir, "metadata"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		d := open(t, dir)
		d.create(t, "bucket")
		_, err := d.PutObject(t.Context(), s3response.PutObjectInput{
			Bucket: p("bucket"), Key: p("source"), Body: strings.NewReader("body"), ContentLength: p(int64(4)),
			ContentType: p("text/plain"), ContentLanguage: p("de"), CacheControl: p("no-store"), Metadata: map[string]string{"k": "v"},
			ChecksumAlgorithm: types.ChecksumAlgorithmCrc32c,
		})
		if err != nil {
			t.Fatal(err)
		}
		in := s3response.CopyObjectInput{
			Bucket: p("bucket"), Key: p("dir/copy"), CopySource: p("bucket/source"), ContentType: p("binary/octet-stream"), Expires: p("x"),
		}
		if _, err := d.CopyObject(t.Context(), in); err != nil {
			t.Fatal(err)
		}
		source, _ := d.get(t, "source")
		got, body := d.get(t, "dir/copy")
		if body != "body" || *got.ETag != *source.ETag || *got.ContentType != "text/plain" || *got.ContentLanguage != "de" || *got.CacheControl != "no-store" ||
			got.ExpiresString != nil || !maps.Equal(got.Metadata, map[string]string{"k": "v"}) || *got.ChecksumCRC32C != *source.ChecksumCRC32C {
			t.Errorf("the copy is %+v of %+v", got, source)
		}
		in.CopySource = p("bucket/dir/copy")
		if _, err := d.CopyObject(t.Context(), in); !isCode(err, "InvalidRequest") {
			t.Errorf("a copy to itself that changes nothing: %v", err)
		}
		in.MetadataDirective = types.MetadataDirectiveReplace
		if _, err := d.CopyObject(t.Context(), in); err != nil {
			t.Error(err)
		}
		if got, body := d.get(t, "dir/copy"); body != "body" || *got.ContentType != "binary/octet-stream" || *got.ExpiresString != "x" || len(got.Metadata) > 0 || got.CacheControl != nil {
			t.Errorf("in place, the copy became %+v", got)
		}
		for what, change := range map[string]func(*s3response.CopyObjectInput){
			"a directory": func(in *s3response.CopyObjectInput) { in.Key = p("dir2/") },
			"with tags":   func(in *s3response.CopyObjectInput) { in.Tagging = p("a=b") },
			"locked":      func(in *s3response.CopyObjectInput) { in.ObjectLockMode = types.ObjectLockModeGovernance },
		} {
			odd := in
			change(&odd)
			if _, err := d.CopyObject(t.Context(), odd); !isCode(err, "NotImplemented") {
				t.Errorf("%s: %v", what, err)
			}
		}
		in.ExpectedSourceBucketOwner = p("somebody else")
		if _, err := d.CopyObject(t.Context(), in); !isCode(err, "AccessDenied") {
			t.Errorf("of another's bucket: %v", err)
		}
		in.ExpectedSourceBucketOwner = p("test")
		if _, err := d.CopyObject(t.Context(), in); err != nil {
			t.Errorf("of one's own bucket: %v", err)
		}
		for key, code := range map[string]string{"source/x": "ObjectParentIsFile", "dir": "ExistingObjectIsDirectory"} {
			if _, err := d.copy(key, "bucket/source"); !isCode(err, code) {
				t.Errorf("copy to %s: %v, want %s", key, err, code)
			}
		}
		if left, err := filepath.Glob(filepath.Join(d.root, "bucket", ".sgwtmp", "copy.*")); len(left) > 0 || err != nil {
			t.Errorf("left is %v, %v", left, err)
		}
	}
}

// What the disk did to the source is not made good by a fresh checksum.
func TestWhatIsDamagedIsNotCopiedAsIfItWereNot(t *testing.T) {
	d := open(t, t.TempDir())
	d.create(t, "bucket")
	if err := d.put(t.Context(), "source", "the source"); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(d.root, "bucket", "source"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("T"), 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := d.copy("copy", "bucket/source"); !isCode(err, "InternalError") {
		t.Errorf("copy, with another checksum: %v", err)
	}
	if n, err := d.size("copy"); err == nil {
		t.Errorf("then there are %d bytes", n)
	}
	// Without, the copy has that of what was written, for its reader to compare.
	if _, err := d.CopyObject(t.Context(), s3response.CopyObjectInput{Bucket: p("bucket"), Key: p("copy"), CopySource: p("bucket/source")}); err != nil {
		t.Fatal(err)
	}
	source, _ := d.get(t, "source")
	if got, _ := d.get(t, "copy"); *got.ChecksumCRC64NVME != *source.ChecksumCRC64NVME {
		t.Errorf("the copy has the checksum %s, the source %s", *got.ChecksumCRC64NVME, *source.ChecksumCRC64NVME)
	}
}

func TestACopyHasAnyChecksum(t *testing.T) {
	d := open(t, t.TempDir())
	d.create(t, "bucket")
	d.sync = func(*os.File) error { return nil }
	body := bytes.Repeat([]byte("0123456789"), 30_000) // more than a buffer
	algorithms := append([]types.ChecksumAlgorithm{""}, types.ChecksumAlgorithm("").Values()...)
	for _, from := range []types.ChecksumAlgorithm{"", types.ChecksumAlgorithmCrc32c, types.ChecksumAlgorithmSha256} {
		if _, err := d.PutObject(t.Context(), s3response.PutObjectInput{
			Bucket: p("bucket"), Key: p("source"), Body: bytes.NewReader(body), ContentLength: p(int64(len(body))), ChecksumAlgorithm: from,
		}); err != nil {
			t.Fatal(err)
		}
		for _, to := range algorithms {
			out, err := d.CopyObject(t.Context(), s3response.CopyObjectInput{
				Bucket: p("bucket"), Key: p("copy"), CopySource: p("bucket/source"), ChecksumAlgorithm: to,
			})
			if err != nil {
				t.Fatal(err)
			}
			if to == "" {
				to = from
			}
			if to == "" {
				to = types.ChecksumAlgorithmCrc64nvme
			}
			want, err := d.PutObject(t.Context(), s3response.PutObjectInput{
				Bucket: p("bucket"), Key: p("put"), Body: bytes.NewReader(body), ContentLength: p(int64(len(body))), ChecksumAlgorithm: to,
			})
			if err != nil {
				t.Fatal(err)
			}
			field := "Checksum" + string(to)
			told, put := reflect.ValueOf(*out.CopyObjectResult).FieldByName(field), reflect.ValueOf(want).FieldByName(field)
			b, err := d.attributes.RetrieveAttribute(nil, filepath.Join(d.root, "bucket"), "copy", checksums)
			var kept s3response.Checksum
			if err == nil {
				err = json.Unmarshal(b, &kept)
			}
			if told.IsNil() || told.Elem().String() != put.Elem().String() || err != nil || **sumOf(&kept, to) != put.Elem().String() || kept.Type != types.ChecksumTypeFullObject {
				t.Errorf("from %q to %q: told %v, kept %s, %v; want %v", from, to, told, b, err, put.Elem())
			}
			if got, content := d.get(t, "copy"); content != string(body) || *got.ETag != want.ETag {
				t.Errorf("from %q to %q: got %d bytes", from, to, len(content))
			}
		}
	}
}

func TestRangesOfTheSourceOfAPart(t *testing.T) {
	for header, want := range map[string][2]int64{
		"": {0, 10}, "bytes=0-9": {0, 10}, "bytes=3-3": {3, 1}, "bytes=9-9": {9, 1},
		"bytes=3-": {-1, 0}, "bytes=-3": {-1, 0}, "bytes=4-3": {-1, 0}, "bytes=0-10": {-1, 0}, "bytes=10-11": {-1, 0},
		"0-3": {-1, 0}, "bytes=+1-3": {-1, 0}, "bytes=0-3,5-6": {-1, 0}, "bytes=0-99999999999999999999": {-1, 0}, "items=0-3": {-1, 0},
	} {
		offset, length, err := copyRange(header, 10)
		if bad := want[0] < 0; bad && !isCode(err, "InvalidArgument") || !bad && (err != nil || offset != want[0] || length != want[1]) {
			t.Errorf("%q: %d bytes at %d, %v; want %v", header, length, offset, err, want)
		}
	}
	if _, _, err := copyRange("", maxCopy+1); !isCode(err, "InvalidRequest") {
		t.Errorf("more than can be copied: %v", err)
	}
}
