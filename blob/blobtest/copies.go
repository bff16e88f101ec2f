package blobtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/blob"
)

// This part of the suite is what is known about objects beside their bytes, and
// what the store does with them by itself.

func sha(body string) string {
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:])
}

// largest is metadata of as many bytes as there can be.
func largest() map[string]string {
	m := map[string]string{"origin": "s3://bucket/a%20key", "with-dash": `a "quoted" = value; x, y`, "dotted.name_2": "~"}
	size := len("rest")
	for k, v := range m {
		size += len(k) + len(v)
	}
	m["rest"] = strings.Repeat("r", blob.MaxMetadata-size)
	return m
}

func metadata(t *testing.T, b *blob.Bucket) {
	h := blob.Headers{ContentType: "text/plain", Metadata: largest()}
	if _, err := b.Put(t.Context(), "key", strings.NewReader("body"), h); err != nil {
		t.Fatal(err)
	}
	o, err := b.Stat(t.Context(), "key")
	if err != nil || !reflect.DeepEqual(o.Headers, h) {
		t.Errorf("stat: %+v, %v; want %+v", o.Headers, err, h)
	}
	r, err := b.Get(t.Context(), "key", blob.Range{Offset: 1})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	if !reflect.DeepEqual(r.Headers, h) {
		t.Errorf("get: %+v, want %+v", r.Headers, h)
	}
	id, err := b.StartMultipart(t.Context(), "key", h)
	if err != nil {
		t.Fatal(err)
	}
	part, err := b.PutPart(t.Context(), "key", id, 1, []byte("part"))
	if err != nil {
		t.Fatal(err)
	}
	o, err = b.CompleteMultipart(t.Context(), "key", id, []blob.Part{part})
	if err != nil || !reflect.DeepEqual(o.Headers, h) {
		t.Errorf("in parts: %+v, %v; want %+v", o.Headers, err, h)
	}
	for what, m := range map[string]map[string]string{
		"a byte too many":      {"x": strings.Repeat("x", blob.MaxMetadata)},
		"a key in upper case":  {"Key": "x"},
		"a key with a space":   {"a key": "x"},
		"no key":               {"": "x"},
		"a value that is text": {"key": "ü"},
		"a line break":         {"key": "x\r\nx-amz-acl: public-read"},
		"a space at the end":   {"key": "x "},
	} {
		bad := blob.Headers{Metadata: m}
		_, put := b.Put(t.Context(), "bad", strings.NewReader(""), bad)
		_, start := b.StartMultipart(t.Context(), "bad", bad)
		_, copied := b.Copy(t.Context(), "bad", b, "key", "", bad)
		for _, err := range []error{put, start, copied} {
			if err == nil || !strings.Contains(err.Error(), "metadata") {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
}

func sums(t *testing.T, b *blob.Bucket) {
	for _, body := range []string{"the body", ""} {
		o := put(t, b, "key", body)
		known, err := b.Stat(t.Context(), "key")
		if err != nil || o.SHA256 != sha(body) || known.SHA256 != o.SHA256 {
			t.Errorf("put %+v, and then there was %+v, %v", o, known, err)
		}
		r, err := b.Get(t.Context(), "key", blob.Range{})
		if err != nil {
			t.Fatal(err)
		}
		if r.Close(); r.SHA256 != o.SHA256 {
			t.Errorf("got %+v", r.Object)
		}
	}
	o, err := b.PutBytes(t.Context(), "key", []byte("bytes"), blob.Headers{})
	if err != nil || o.SHA256 != sha("bytes") || get(t, b, "key", blob.Range{}) != "bytes" {
		t.Errorf("put bytes: %+v, %v", o, err)
	}
	if r, err := b.Get(t.Context(), "key", blob.Range{Length: 2}); err != nil || r.SHA256 != "" {
		t.Errorf("a range: %+v, %v", r, err)
	} else {
		r.Close()
	}
	// One of its parts is not one of the whole.
	if _, err := b.Put(t.Context(), "key", strings.NewReader(string(noise(blob.PartSize+1))), blob.Headers{}); err != nil {
		t.Fatal(err)
	}
	if o, err := b.Stat(t.Context(), "key"); err != nil || o.SHA256 != "" && o.SHA256 != sha(string(noise(blob.PartSize+1))) {
		t.Errorf("an object of parts: %+v, %v", o, err)
	}
}

func copies(t *testing.T, b, from *blob.Bucket) {
	start := time.Now()
	old := blob.Headers{ContentType: "text/plain", ContentEncoding: "gzip", ContentDisposition: "inline", Metadata: map[string]string{"old": "1"}}
	source, err := from.Put(t.Context(), "dir/source", strings.NewReader("the source"), old)
	if err != nil {
		t.Fatal(err)
	}
	put(t, b, "there", "what was there")
	if !b.CanCopyFrom(from) || !b.CanCopyFrom(b) {
		t.Error("these buckets are said not to be copied from")
	}
	h := blob.Headers{ContentType: "text/html", Metadata: largest()}
	for _, key := range []string{"new/copy", "there", "there"} {
		for _, etag := range []string{source.ETag, ""} {
			o, err := b.Copy(t.Context(), key, from, "dir/source", etag, h)
			if err != nil {
				t.Fatal(err)
			}
			known, err := b.Stat(t.Context(), key)
			if err != nil || known.ETag != o.ETag || known.Size != source.Size || !reflect.DeepEqual(known.Headers, h) {
				t.Errorf("copied %+v, and then there was %+v, %v", o, known, err)
			}
			if o.Key != key || o.Size != -1 || o.SHA256 != "" && o.SHA256 != source.SHA256 || known.SHA256 != o.SHA256 || !reflect.DeepEqual(o.Headers, h) {
				t.Errorf("copied %+v of %+v, and then there was %+v", o, source, known)
			}
			if o.Modified.Sub(start).Abs() > time.Hour {
				t.Errorf("modified %v from now", o.Modified.Sub(start))
			}
			if got := get(t, b, key, blob.Range{}); got != "the source" {
				t.Errorf("got %q", got)
			}
		}
	}
	if o, err := from.Stat(t.Context(), "dir/source"); err != nil || !reflect.DeepEqual(o.Headers, old) || o.ETag != source.ETag {
		t.Errorf("then the source was %+v, %v", o, err)
	}
	// In place, for other headers.
	if _, err := from.Copy(t.Context(), "dir/source", from, "dir/source", source.ETag, h); err != nil {
		t.Error(err)
	}
	if o, err := from.Stat(t.Context(), "dir/source"); err != nil || !reflect.DeepEqual(o.Headers, h) || get(t, from, "dir/source", blob.Range{}) != "the source" {
		t.Errorf("then the source was %+v, %v", o, err)
	}
	put(t, from, "empty", "")
	if _, err := b.Copy(t.Context(), "there", from, "empty", "", blob.Headers{}); err != nil || get(t, b, "there", blob.Range{}) != "" {
		t.Errorf("a copy of nothing: %v", err)
	}
}

func largeCopies(t *testing.T, b, from *blob.Bucket) {
	body := string(noise(2*blob.PartSize + 12345))
	source, err := from.Put(t.Context(), "source", strings.NewReader(body), blob.Headers{})
	if err != nil {
		t.Fatal(err)
	}
	o, err := b.Copy(t.Context(), "copy", from, "source", source.ETag, blob.Headers{})
	if err != nil || o.SHA256 != "" && o.SHA256 != sha(body) {
		t.Fatalf("%+v, %v", o, err)
	}
	if got := get(t, b, "copy", blob.Range{}); got != body {
		t.Errorf("got %d bytes that are not the source's", len(got))
	}
}

func readIf(t *testing.T, from *blob.Bucket) {
	o := put(t, from, "key", "first")
	if r, err := from.GetIf(t.Context(), "key", blob.Range{Length: 2}, o.ETag); err != nil || r.Length != 2 {
		t.Errorf("get what has not changed: %+v, %v", r, err)
	} else {
		r.Close()
	}
	put(t, from, "key", "second")
	_, err := from.GetIf(t.Context(), "key", blob.Range{}, o.ETag)
	want(t, "get what has changed", err, blob.ErrChanged)
}

func copyIf(t *testing.T, b, from *blob.Bucket) {
	o := put(t, from, "key", "first")
	put(t, from, "key", "second")
	put(t, b, "there", "there")
	for _, key := range []string{"there", "new"} {
		_, err := b.Copy(t.Context(), key, from, "key", o.ETag, blob.Headers{})
		want(t, "copy what has changed", err, blob.ErrChanged)
		_, err = b.Copy(t.Context(), key, from, "nothing", "", blob.Headers{})
		want(t, "copy nothing", err, blob.ErrNotFound)
	}
	_, err := b.Stat(t.Context(), "new")
	want(t, "then", err, blob.ErrNotFound)
	if got := get(t, b, "there", blob.Range{}); got != "there" {
		t.Errorf("then there was %q", got)
	}
}

func copiedKeys(t *testing.T, b, from *blob.Bucket) {
	keys := append([]string{strings.Repeat("abc/", 204) + "abcd", "a?versionId=null", "a%3FversionId=x", "a+b c%2Bd"}, AwkwardKeys...)
	each(t, keys, func(ctx context.Context, key string) error {
		o, err := from.PutBytes(ctx, key, []byte("put at "+key), blob.Headers{})
		if err != nil {
			return err
		}
		_, err = b.Copy(ctx, key, from, key, o.ETag, blob.Headers{})
		return err
	})
	for _, key := range keys {
		if got := get(t, b, key, blob.Range{}); got != "put at "+key {
			t.Errorf("under %q is %q", key, got)
		}
	}
	slices.Sort(keys)
	if got := list(t, b, ""); !slices.Equal(got, keys) {
		t.Errorf("listed %q, want %q", got, keys)
	}
}

// parts makes an object of every kind of part.
func parts(t *testing.T, b, from *blob.Bucket) {
	body := string(noise(2*blob.MinPartSize + 1000))
	source := put(t, from, "dir/source", body)
	id, err := b.StartMultipart(t.Context(), "key", blob.Headers{ContentType: "text/x-parts"})
	if err != nil {
		t.Fatal(err)
	}
	const half = blob.MinPartSize
	var made []blob.Part
	for i, r := range []blob.Range{{Offset: 10, Length: half}, {Offset: half, Length: half}, {}, {}, {Offset: half}, {Offset: -3}} {
		var p blob.Part
		size := int64(half + 1)
		switch i {
		case 2:
			p, err = b.PutPart(t.Context(), "key", id, i+1, []byte(body[:half+1]))
		case 3:
			size = int64(len(body))
			p, err = b.CopyPart(t.Context(), "key", id, i+1, from, "dir/source", "", r)
		case 4:
			size = half + 1000
			p, err = b.CopyPart(t.Context(), "key", id, i+1, from, "dir/source", "", r)
		case 5:
			size = 3
			p, err = b.CopyPart(t.Context(), "key", id, i+1, from, "dir/source", "", r)
		default:
			size = half
			p, err = b.CopyPart(t.Context(), "key", id, i+1, from, "dir/source", source.ETag, r)
		}
		if err != nil || p.Number != i+1 || p.ETag == "" || p.Size != size {
			t.Fatalf("part %d is %+v, %v", i+1, p, err)
		}
		made = append(made, p)
	}
	known, err := b.Parts(t.Context(), "key", id)
	if err != nil || !slices.Equal(known, made) {
		t.Errorf("the parts are %v, %v; want %v", known, err, made)
	}
	o, err := b.CompleteMultipart(t.Context(), "key", id, made)
	if err != nil || o.ContentType != "text/x-parts" {
		t.Fatalf("completed to %+v, %v", o, err)
	}
	whole := body[10:10+half] + body[half:2*half] + body[:half+1] + body + body[half:] + body[len(body)-3:]
	if got := get(t, b, "key", blob.Range{}); got != whole {
		t.Errorf("got %d bytes, that are not those of the parts", len(got))
	}
}

func partsRefused(t *testing.T, b, from *blob.Bucket) {
	old := put(t, from, "source", "0123456")
	put(t, from, "source", "0123456789")
	id, err := b.StartMultipart(t.Context(), "key", blob.Headers{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, id, from, etag string
		r                    blob.Range
		number               int
		want                 error
	}{
		{"an upload that is none", "no-such-upload", "source", "", blob.Range{Length: 5}, 1, blob.ErrNoUpload},
		{"a source that is none", id, "nothing", "", blob.Range{Length: 5}, 1, blob.ErrNotFound},
		{"a source that is none, in whole", id, "nothing", "", blob.Range{}, 1, blob.ErrNotFound},
		{"a source that has changed", id, "source", old.ETag, blob.Range{Length: 5}, 1, blob.ErrChanged},
		{"a range behind the end", id, "source", "", blob.Range{Offset: 10, Length: 5}, 1, blob.ErrRange},
		{"a range behind the end, up to that", id, "source", "", blob.Range{Offset: 10}, 1, blob.ErrRange},
		{"a range beyond the end", id, "source", "", blob.Range{Offset: 5, Length: 6}, 1, blob.ErrRange},
		{"a range that is too large", id, "source", "", blob.Range{Length: blob.MaxCopy + 1}, 1, blob.ErrTooLarge},
		{"a number that is none", id, "source", "", blob.Range{}, 0, blob.ErrPart},
	} {
		_, err := b.CopyPart(t.Context(), "key", c.id, c.number, from, c.from, c.etag, c.r)
		want(t, c.what, err, c.want)
	}
	_, err = b.PutPart(t.Context(), "key", "no-such-upload", 1, []byte("x"))
	want(t, "put a part of an upload that is none", err, blob.ErrNoUpload)
	_, err = b.PutPart(t.Context(), "key", id, blob.MaxParts+1, nil)
	want(t, "put a part that is none", err, blob.ErrPart)
	if parts, err := b.Parts(t.Context(), "key", id); err != nil || len(parts) != 0 {
		t.Errorf("then the parts were %v, %v", parts, err)
	}
}

func urls(t *testing.T, b *blob.Bucket) {
	forms := b.URLForms()
	for _, key := range AwkwardKeys {
		signed, err := b.PresignGet(t.Context(), key, time.Hour, blob.Headers{})
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(signed)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := b.ParseURL(u); !ok || got != key {
			t.Errorf("the URL of %q is of %q, %v", key, got, ok)
		}
		bare, _, _ := strings.Cut(signed, "?")
		if !slices.ContainsFunc(forms, func(f string) bool { return strings.HasPrefix(bare, f) }) {
			t.Errorf("the URL of %q is none of %q", key, forms)
		}
	}
}

// lifecycle is of a store that has such a thing, or says that it has not.
func lifecycle(t *testing.T, b *blob.Bucket) {
	const day = 24 * time.Hour
	err := b.SetLifecycle(t.Context(), blob.Lifecycle{ID: "copies", Prefix: "copies/", AbortAfter: 2 * day, ExpireAfter: 30 * day})
	if errors.Is(err, blob.ErrUnsupported) {
		return
	}
	for _, rules := range [][]blob.Lifecycle{
		{{ID: "copies", Prefix: "copies/", AbortAfter: day}},
		{{ID: "another", Prefix: "copies/", ExpireAfter: day}, {ID: "all", AbortAfter: 7 * day}},
		{{ID: "another", Prefix: "copies/"}, {ID: "all"}},
		{{ID: "another", Prefix: "copies/"}, {ID: "all"}},
	} {
		if err == nil {
			err = b.SetLifecycle(t.Context(), rules...)
		}
	}
	if err != nil {
		t.Error(err)
	}
	for what, bad := range map[string]blob.Lifecycle{
		"no name":                        {Prefix: "copies/", ExpireAfter: day},
		"half a day":                     {ID: "x", Prefix: "copies/", ExpireAfter: day / 2},
		"a time that has passed":         {ID: "x", Prefix: "copies/", AbortAfter: -day},
		"a prefix that others have, too": {ID: "x", Prefix: "copies~", AbortAfter: day},
	} {
		if err := b.SetLifecycle(t.Context(), bad); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}
