package blobtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/taskfleet/taskfleet/blob"
)

// A promise of package blob, and the test of it.
type promise struct {
	name string
	test func(t *testing.T, b *blob.Bucket)
	pair func(t *testing.T, b, from *blob.Bucket) // or a test of two buckets
}

// format is what depends on nothing but that the requests are understood.
var format = []promise{
	{name: "an object is what was put", test: roundTrip},
	{name: "what is not there is not found", test: missing},
	{name: "a range is a part of an object", test: ranges},
	{name: "any key holds its own object", test: awkwardKeys},
	{name: "a key that is too long is refused", test: longKeys},
	{name: "many objects are listed and deleted in pages", test: pages},
	{name: "a prefix selects what is listed", test: prefixes},
	{name: "a large body is put in parts", test: largeBody},
	{name: "a body that fails leaves nothing", test: failingBody},
	{name: "of writers at the same time one wins", test: writers},
	{name: "a bucket that exists is kept", test: ensureTwice},
	{name: "metadata comes with an object", test: metadata},
	{name: "the SHA-256 of an object is known", test: sums},
	{name: "the store makes a copy", pair: copies},
	{name: "the store makes a copy of a large object", pair: largeCopies},
	{name: "an object is read as long as it has not changed", test: readIf},
	{name: "any key can be copied", pair: copiedKeys},
	{name: "an object is made of parts of others", pair: parts},
	{name: "the URL of an object tells its key", test: urls},
	{name: "there are rules for the life of objects", test: lifecycle},
}

// checks is what depends on that they are looked at closely, too.
var checks = []promise{
	{name: "a presigned URL writes and reads", test: presigned},
	{name: "a presigned URL allows nothing else", test: presignedLimits},
	{name: "a presigned URL can say how long the body is", test: presignedLength},
	{name: "a body that differs from its digest is refused", test: digests},
	{name: "an upload in parts becomes an object when it is completed", test: multipart},
	{name: "an upload can be completed again", test: multipartAgain},
	{name: "an upload that is not whole is not completed", test: multipartRefused},
	{name: "an upload that is aborted leaves nothing", test: multipartAborted},
	{name: "an object is copied as long as it has not changed", pair: copyIf},
	{name: "a part of what is not there is refused", pair: partsRefused},
}

// Run is the conformance suite: what package blob promises holds on the store
// that open returns.
func Run(t *testing.T, open func(t *testing.T) *blob.Store) {
	run(t, open(t), slices.Concat(format, checks))
}

// RunFormat leaves out what an imitation of S3 such as moto gets wrong, which
// checks no signatures and digests, and knows little about uploads in parts. It
// is a second opinion on the format of requests and answers.
func RunFormat(t *testing.T, open func(t *testing.T) *blob.Store) { run(t, open(t), format) }

func run(t *testing.T, s *blob.Store, promises []promise) {
	for _, p := range promises {
		t.Run(strings.ReplaceAll(p.name, " ", "-"), func(t *testing.T) {
			if p.pair != nil {
				p.pair(t, Bucket(t, s), Bucket(t, s))
			} else {
				p.test(t, Bucket(t, s))
			}
		})
	}
}

// AwkwardKeys are keys that an artifact may have and that something between a
// client and a disk is known to stumble over.
var AwkwardKeys = []string{
	"a", "a/b", "a/b/c", "a/", "a//", "a//b", "/a", "//a", "/", "//",
	".", "..", "../a", "../../etc/passwd", "a/../b", "a/./b", "a/..", "a/.", "./a", "...", "a./b", ".a",
	"with space", " leading and trailing ", "a b/c d", "plus+plus", "100%", "%2e%2e/%2F", "%", "a%20b",
	"q?x=1&y=2", "hash#hash", "semi;colon:colon", "back\\slash", "..\\..\\a", "quote\"'`", "<xml>&amp;", "{}[]|^", "@$,=!*()",
	"ünïcode", "日本語/ファイル", "🚀", "e\u0301 is not \u00e9", "\u00e9", "\u202eright to left", "zero\u200bwidth",
	"tab\ttab", "new\nline", "carriage\rreturn", "bell\a", "nul\x00nul", "del\x7f", "\xff\xfe not utf-8", "\ufffe\uffff", "half \xe6\x97",
	"~", "~/~", "a~/b", "a~7e", "~empty", "~-", "tilde~", "~/", ".sgwtmp", ".sgwtmp/x", "meta", "meta/etag", "a/meta",
	".vgwlocks", "con", "nul", "readme", "README",
	strings.Repeat("long", 60), strings.Repeat("x", 900), strings.Repeat("é", 300), "deep/" + strings.Repeat("d/", 200) + "file",
	strings.Repeat("~", 300), strings.Repeat("../", 100) + "x",
}

func put(t *testing.T, b *blob.Bucket, key, body string) blob.Object {
	t.Helper()
	o, err := b.Put(t.Context(), key, strings.NewReader(body), blob.Headers{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func get(t *testing.T, b *blob.Bucket, key string, r blob.Range) string {
	t.Helper()
	o, err := b.Get(t.Context(), key, r)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	body, err := io.ReadAll(o)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// list is the keys, in no particular order but the same one always.
func list(t *testing.T, b *blob.Bucket, prefix string) []string {
	t.Helper()
	var keys []string
	for o, err := range b.List(t.Context(), prefix) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	slices.Sort(keys)
	return keys
}

// want fails the test unless err is one of target's kind.
func want(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: %v, want: %v", what, err, target)
	}
}

func ensureTwice(t *testing.T, b *blob.Bucket) {
	put(t, b, "a", "1")
	if err := b.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := get(t, b, "a", blob.Range{}); got != "1" {
		t.Errorf("got %q", got)
	}
}

func roundTrip(t *testing.T, b *blob.Bucket) {
	start := time.Now()
	h := blob.Headers{ContentType: "text/plain; charset=utf-8", ContentEncoding: "gzip", ContentDisposition: `attachment; filename="x"`}
	for _, body := range []string{"first", "", "the second is longer", "3"} {
		written, err := b.Put(t.Context(), "key", strings.NewReader(body), h)
		if err != nil {
			t.Fatal(err)
		}
		known, err := b.Stat(t.Context(), "key")
		if err != nil {
			t.Fatal(err)
		}
		if known.Key != "key" || known.Size != int64(len(body)) || !reflect.DeepEqual(known.Headers, h) || known.ETag != written.ETag || known.ETag == "" {
			t.Errorf("put %+v, and then there was %+v", written, known)
		}
		if d := known.Modified.Sub(start).Abs(); d > time.Hour {
			t.Errorf("modified %v from now", d)
		}
		r, err := b.Get(t.Context(), "key", blob.Range{})
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if err != nil || string(got) != body || !reflect.DeepEqual(r.Object, known) || r.Length != known.Size {
			t.Errorf("got %q of %+v, %v; want %q of %+v", got, r.Object, err, body, known)
		}
		r.Close()
	}
	if err := b.Delete(t.Context(), "key"); err != nil {
		t.Fatal(err)
	}
	_, err := b.Stat(t.Context(), "key")
	want(t, "stat of a deleted object", err, blob.ErrNotFound)
}

func missing(t *testing.T, b *blob.Bucket) {
	put(t, b, "a/b", "")
	for _, key := range []string{"x", "a", "a/", "a/b/c", "a/b/"} {
		_, err := b.Stat(t.Context(), key)
		want(t, "stat", err, blob.ErrNotFound)
		_, err = b.Get(t.Context(), key, blob.Range{})
		want(t, "get", err, blob.ErrNotFound)
		if err := b.Delete(t.Context(), key); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if got := list(t, b, ""); !slices.Equal(got, []string{"a/b"}) {
		t.Errorf("left is %q", got)
	}
	if err := b.Delete(t.Context()); err != nil {
		t.Errorf("delete nothing: %v", err)
	}
}

func ranges(t *testing.T, b *blob.Bucket) {
	put(t, b, "digits", "0123456789")
	for r, body := range map[blob.Range]string{
		{}:                      "0123456789",
		{Offset: 3}:             "3456789",
		{Offset: 3, Length: 2}:  "34",
		{Length: 1}:             "0",
		{Offset: 8, Length: 99}: "89",
		{Offset: -4}:            "6789",
		{Offset: -99}:           "0123456789",
	} {
		o, err := b.Get(t.Context(), "digits", r)
		if err != nil {
			t.Errorf("%+v: %v", r, err)
			continue
		}
		got, err := io.ReadAll(o)
		if err != nil || string(got) != body || o.Size != 10 || o.Length != int64(len(body)) {
			t.Errorf("%+v: got %q (%d) of %d, %v; want %q of 10", r, got, o.Length, o.Size, err, body)
		}
		o.Close()
	}
	_, err := b.Get(t.Context(), "digits", blob.Range{Offset: 10})
	want(t, "a range beyond the end", err, blob.ErrRange)
	if _, err := b.Get(t.Context(), "digits", blob.Range{Offset: -1, Length: 1}); err == nil {
		t.Error("a range that makes no sense was answered")
	}
}

func awkwardKeys(t *testing.T, b *blob.Bucket) {
	for _, key := range AwkwardKeys {
		put(t, b, key, "put at "+key)
	}
	sorted := slices.Sorted(slices.Values(AwkwardKeys))
	if got := list(t, b, ""); !slices.Equal(got, sorted) {
		t.Errorf("listed %q, want %q", got, sorted)
	}
	for _, key := range AwkwardKeys {
		if got := get(t, b, key, blob.Range{}); got != "put at "+key {
			t.Errorf("under %q is %q", key, got)
		}
	}
	for _, key := range AwkwardKeys {
		in, err := b.PresignPut(t.Context(), key, "text/x-awkward", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if status, answer, _ := send(t, "PUT", in, "sent to "+key, "Content-Type", "text/x-awkward"); status != 200 {
			t.Errorf("PUT of %q: %d %s", key, status, answer)
		}
	}
	for _, key := range AwkwardKeys {
		out, err := b.PresignGet(t.Context(), key, time.Hour, blob.Headers{})
		if err != nil {
			t.Fatal(err)
		}
		status, answer, h := send(t, "GET", out, "")
		if status != 200 || answer != "sent to "+key || h.Get("Content-Type") != "text/x-awkward" {
			t.Errorf("GET of %q: %d %q %q", key, status, h.Get("Content-Type"), answer)
		}
	}
	if err := b.Delete(t.Context(), AwkwardKeys...); err != nil {
		t.Error(err)
	}
	if got := list(t, b, ""); len(got) != 0 {
		t.Errorf("left is %q", got)
	}
}

func longKeys(t *testing.T, b *blob.Bucket) {
	longest := strings.Repeat("abc/", 204) + "abcd"
	put(t, b, longest, "fits")
	if got := get(t, b, longest, blob.Range{}); got != "fits" {
		t.Errorf("got %q", got)
	}
	_, err := b.Put(t.Context(), longest+"e", strings.NewReader(""), blob.Headers{})
	want(t, "put", err, blob.ErrKeyTooLong)
	_, err = b.PresignPut(t.Context(), longest+"e", "", time.Hour)
	want(t, "presign", err, blob.ErrKeyTooLong)
	want(t, "delete", b.Delete(t.Context(), longest+"e", longest), blob.ErrKeyTooLong)
	_, err = b.Stat(t.Context(), longest)
	want(t, "stat of the key deleted along with an impossible one", err, blob.ErrNotFound)
	_, err = b.Stat(t.Context(), "")
	want(t, "stat of the empty key", err, blob.ErrKey)
}

func pages(t *testing.T, b *blob.Bucket) {
	keys := make([]string, 1203)
	for i := range keys {
		keys[i] = fmt.Sprintf("task/%d/public/%04d.txt", i%7, i)
	}
	each(t, keys, func(ctx context.Context, key string) error {
		_, err := b.Put(ctx, key, strings.NewReader(key), blob.Headers{})
		return err
	})
	slices.Sort(keys)
	if got := list(t, b, ""); !slices.Equal(got, keys) {
		t.Errorf("listed %d objects, want %d", len(got), len(keys))
	}
	n := 0
	for range b.List(t.Context(), "") {
		if n++; n == 1001 {
			break
		}
	}
	if err := b.Delete(t.Context(), keys[1:]...); err != nil {
		t.Error(err)
	}
	if got := list(t, b, ""); !slices.Equal(got, keys[:1]) {
		t.Errorf("left is %q, want %q", got, keys[:1])
	}
}

// each does the same for all keys, some at a time.
func each(t *testing.T, keys []string, do func(ctx context.Context, key string) error) {
	t.Helper()
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := worker; i < len(keys); i += 8 {
				if err := do(t.Context(), keys[i]); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
}

func prefixes(t *testing.T, b *blob.Bucket) {
	keys := []string{"t/0/a", "t/0/ab", "t/0/a/b", "t/0/a.b", "t/00/a", "t/1/a", "t", "u/ü/x", "u/ü", "u/..", "u/../x", "u/.x", "u/~", "u//x"}
	for _, key := range keys {
		put(t, b, key, "")
	}
	for _, prefix := range []string{"", "t", "t/", "t/0", "t/0/", "t/0/a", "t/0/a/", "t/0/ab", "t/0/x", "u/\xc3", "u/ü", "u/ü/", "u/.", "u/..", "u/../", "u/~", "u//", "x/"} {
		var selected []string
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) {
				selected = append(selected, key)
			}
		}
		slices.Sort(selected)
		if got := list(t, b, prefix); !slices.Equal(got, selected) {
			t.Errorf("under %q are %q, want %q", prefix, got, selected)
		}
	}
}

// noise is n bytes that no one else has.
func noise(n int) []byte {
	p := make([]byte, n)
	rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%032d", n)))).Read(p)
	return p
}

func largeBody(t *testing.T, b *blob.Bucket) {
	h := blob.Headers{ContentType: "application/zip", ContentEncoding: "gzip", ContentDisposition: "inline"}
	for _, size := range []int{blob.PartSize, blob.PartSize + 1, 2*blob.PartSize + 12345} {
		body := noise(size)
		// A reader of which nothing is known, not even whether it has ended.
		written, err := b.Put(t.Context(), "dir/large", iotest.DataErrReader(struct{ io.Reader }{bytes.NewReader(body)}), h)
		if err != nil {
			t.Fatal(err)
		}
		r, err := b.Get(t.Context(), "dir/large", blob.Range{})
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		n, err := io.Copy(sum, r)
		r.Close()
		if err != nil || n != int64(size) || [32]byte(sum.Sum(nil)) != sha256.Sum256(body) {
			t.Errorf("got %d bytes, %v; want %d", n, err, size)
		}
		if !reflect.DeepEqual(r.Headers, h) || written.ETag != r.ETag || written.Size != n {
			t.Errorf("put %+v, got %+v", written, r.Object)
		}
	}
	for u, err := range b.Uploads(t.Context(), "") {
		t.Errorf("left is %+v, %v", u, err)
	}
}

func failingBody(t *testing.T, b *blob.Bucket) {
	broken := errors.New("broken")
	for _, size := range []int{10, blob.PartSize + 10} {
		body := io.MultiReader(bytes.NewReader(noise(size)), iotest.ErrReader(broken))
		_, err := b.Put(t.Context(), "key", body, blob.Headers{})
		want(t, "put", err, broken)
		_, err = b.Stat(t.Context(), "key")
		want(t, "stat", err, blob.ErrNotFound)
	}
	for u, err := range b.Uploads(t.Context(), "") {
		t.Errorf("left is %+v, %v", u, err)
	}
}

func writers(t *testing.T, b *blob.Bucket) {
	var keys []string
	for i := range 40 {
		keys = append(keys, fmt.Sprintf("%032d", i))
	}
	put(t, b, "key", strings.Repeat(keys[0], 1000))
	each(t, keys, func(ctx context.Context, key string) error {
		if _, err := b.Put(ctx, "key", strings.NewReader(strings.Repeat(key, 1000+len(keys))), blob.Headers{}); err != nil {
			return err
		}
		r, err := b.Get(ctx, "key", blob.Range{})
		if err != nil {
			return err
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		if string(got) != strings.Repeat(string(got[:32]), len(got)/32) {
			return fmt.Errorf("read a mixture of what was put")
		}
		return nil
	})
}
