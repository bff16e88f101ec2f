package blobtest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/taskfleet/taskfleet/blob"
)

// Run is the conformance suite: what package blob promises holds on the stores
// that open returns.
func Run(t *testing.T, open func(t *testing.T) *blob.Store) {
	for _, test := range []struct {
		name string
		run  func(t *testing.T, b *blob.Bucket)
	}{
		{"an object is what was put", roundTrip},
		{"what is not there is not found", missing},
		{"a range is a part of an object", ranges},
		{"any key holds its own object", awkwardKeys},
		{"a key that is too long is refused", longKeys},
		{"many objects are listed and deleted in pages", pages},
		{"a prefix selects what is listed", prefixes},
		{"a large body is put in parts", largeBody},
		{"a body that fails leaves nothing", failingBody},
		{"a presigned URL writes and reads", presigned},
		{"a presigned URL allows nothing else", presignedLimits},
		{"a body that differs from its digest is refused", digests},
		{"an upload in parts becomes an object when it is completed", multipart},
		{"an upload can be completed again", multipartAgain},
		{"an upload that is not whole is not completed", multipartRefused},
		{"an upload that is aborted leaves nothing", multipartAborted},
		{"of writers at the same time one wins", writers},
	} {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) { test.run(t, Bucket(t, open(t))) })
	}
	t.Run("ensuring-a-bucket-twice-keeps-it", func(t *testing.T) { ensureTwice(t, open(t)) })
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

// send is what a client does with a presigned URL.
func send(t *testing.T, method, url, body string, headers ...string) (status int, answer string, h http.Header) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	a, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a.StatusCode, string(text), a.Header
}

func ensureTwice(t *testing.T, s *blob.Store) {
	b := Bucket(t, s)
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
		if known.Key != "key" || known.Size != int64(len(body)) || known.Headers != h || known.ETag != written.ETag || known.ETag == "" {
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
		if err != nil || string(got) != body || r.Object != known || r.Length != known.Size {
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
		if r.Headers != h || written.ETag != r.ETag || written.Size != n {
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

func presigned(t *testing.T, b *blob.Bucket) {
	in, err := b.PresignPut(t.Context(), "t/0/public/log", "text/plain", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"first", "again", ""} {
		if status, answer, _ := send(t, "PUT", in, body, "Content-Type", "text/plain", "Content-Encoding", "gzip"); status != 200 {
			t.Fatalf("PUT: %d %s", status, answer)
		}
		o, err := b.Stat(t.Context(), "t/0/public/log")
		if err != nil || o.Size != int64(len(body)) || o.ContentType != "text/plain" || o.ContentEncoding != "gzip" {
			t.Errorf("then there was %+v, %v", o, err)
		}
	}
	put(t, b, "t/0/public/log", "0123456789")
	out, err := b.PresignGet(t.Context(), "t/0/public/log", blob.MaxExpiry, blob.Headers{
		ContentType: "text/html", ContentEncoding: "identity", ContentDisposition: `attachment; filename="ü+.log"`,
	})
	if err != nil {
		t.Fatal(err)
	}
	status, answer, h := send(t, "GET", out, "")
	if status != 200 || answer != "0123456789" || h.Get("Content-Type") != "text/html" || h.Get("Content-Encoding") != "identity" ||
		h.Get("Content-Disposition") != `attachment; filename="ü+.log"` {
		t.Errorf("GET: %d %q %v", status, answer, h)
	}
	status, answer, h = send(t, "GET", out, "", "Range", "bytes=2-4")
	if status != 206 || answer != "234" || h.Get("Content-Range") != "bytes 2-4/10" {
		t.Errorf("GET of a range: %d %q %v", status, answer, h)
	}
	status, _, h = send(t, "GET", out, "", "If-None-Match", h.Get("ETag"))
	if status != 304 {
		t.Errorf("GET of what the client has: %d %v", status, h)
	}
	if err := b.Delete(t.Context(), "t/0/public/log"); err != nil {
		t.Fatal(err)
	}
	if status, _, _ := send(t, "GET", out, ""); status != 404 {
		t.Errorf("GET of a deleted object: %d", status)
	}
}

func presignedLimits(t *testing.T, b *blob.Bucket) {
	put(t, b, "a", "a")
	put(t, b, "b", "b")
	in, err := b.PresignPut(t.Context(), "a", "text/plain", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	out, err := b.PresignGet(t.Context(), "a", time.Hour, blob.Headers{ContentType: "text/plain"})
	if err != nil {
		t.Fatal(err)
	}
	bare, _, _ := strings.Cut(out, "?")
	for _, c := range []struct{ what, method, url, contentType string }{
		{"another content type", "PUT", in, "text/html"},
		{"no content type", "PUT", in, ""},
		{"another method on the URL to write", "GET", in, "text/plain"},
		{"another method on the URL to read", "PUT", out, "text/plain"},
		{"a method that deletes", "DELETE", in, "text/plain"},
		{"another key", "GET", strings.Replace(out, "/a?", "/b?", 1), ""},
		{"another header", "GET", strings.Replace(out, "text%2Fplain", "text%2Fhtml", 1), ""},
		{"a longer time", "GET", strings.Replace(out, "X-Amz-Expires=3600", "X-Amz-Expires=36000", 1), ""},
		{"no signature", "GET", bare, ""},
		{"no signature, to write", "PUT", bare, ""},
		{"no signature, to delete", "DELETE", bare, ""},
		{"no signature, to list", "GET", strings.TrimSuffix(bare, "/a"), ""},
	} {
		var h []string
		if c.contentType != "" {
			h = []string{"Content-Type", c.contentType}
		}
		if status, answer, _ := send(t, c.method, c.url, "evil", h...); status != 403 {
			t.Errorf("%s: %d %.300s", c.what, status, answer)
		}
	}
	if a, b := get(t, b, "a", blob.Range{}), get(t, b, "b", blob.Range{}); a != "a" || b != "b" {
		t.Errorf("then the objects were %q, %q", a, b)
	}
	for _, expires := range []time.Duration{0, -time.Hour, blob.MaxExpiry + time.Second} {
		if _, err := b.PresignGet(t.Context(), "a", expires, blob.Headers{}); err == nil {
			t.Errorf("signed for %v", expires)
		}
	}
}

func digest(body string) string {
	sum := md5.Sum([]byte(body))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func digests(t *testing.T, b *blob.Bucket) {
	in, err := b.PresignPut(t.Context(), "key", "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if status, answer, _ := send(t, "PUT", in, "damaged", "Content-MD5", digest("intact")); status != 400 || !strings.Contains(answer, "BadDigest") {
		t.Errorf("PUT of a damaged body: %d %s", status, answer)
	}
	_, err = b.Stat(t.Context(), "key")
	want(t, "stat", err, blob.ErrNotFound)
	if status, answer, _ := send(t, "PUT", in, "intact", "Content-MD5", digest("intact")); status != 200 {
		t.Errorf("PUT of an intact body: %d %s", status, answer)
	}
	if status, _, _ := send(t, "PUT", in, "damaged", "Content-MD5", digest("intact")); status != 400 {
		t.Errorf("PUT of a damaged body over an object: %d", status)
	}
	if got := get(t, b, "key", blob.Range{}); got != "intact" {
		t.Errorf("then the object was %q", got)
	}
	id, err := b.StartMultipart(t.Context(), "key", blob.Headers{})
	if err != nil {
		t.Fatal(err)
	}
	part, err := b.PresignPart(t.Context(), "key", id, 1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if status, answer, _ := send(t, "PUT", part, "damaged", "Content-MD5", digest("intact")); status != 400 {
		t.Errorf("PUT of a damaged part: %d %s", status, answer)
	}
	if parts, err := b.Parts(t.Context(), "key", id); err != nil || len(parts) != 0 {
		t.Errorf("then the parts were %v, %v", parts, err)
	}
}

// upload sends the parts of an upload, as a client would.
func upload(t *testing.T, b *blob.Bucket, key, id string, numbers []int, bodies ...string) []blob.Part {
	t.Helper()
	var parts []blob.Part
	for i, body := range bodies {
		url, err := b.PresignPart(t.Context(), key, id, numbers[i], time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		status, answer, h := send(t, "PUT", url, body, "Content-MD5", digest(body))
		if status != 200 || h.Get("ETag") == "" {
			t.Fatalf("PUT of a part: %d %s", status, answer)
		}
		parts = append(parts, blob.Part{Number: numbers[i], ETag: h.Get("ETag")})
	}
	return parts
}

func multipart(t *testing.T, b *blob.Bucket) {
	first, second, last := string(noise(blob.MinPartSize)), string(noise(blob.MinPartSize+1)), "the end"
	for _, key := range []string{"dir/plain", "../~ awkward/\n"} {
		h := blob.Headers{ContentType: "video/webm", ContentEncoding: "br", ContentDisposition: "inline"}
		id, err := b.StartMultipart(t.Context(), key, h)
		if err != nil {
			t.Fatal(err)
		}
		parts := upload(t, b, key, id, []int{7, 2, 1, 7}, "to be replaced", second, first, last)[1:]
		slices.SortFunc(parts, func(a, b blob.Part) int { return cmp.Compare(a.Number, b.Number) })
		_, err = b.Stat(t.Context(), key)
		want(t, "stat before completion", err, blob.ErrNotFound)

		known, err := b.Parts(t.Context(), key, id)
		if err != nil || len(known) != 3 {
			t.Fatalf("the parts are %v, %v", known, err)
		}
		for i, p := range known {
			if p.Number != parts[i].Number || p.ETag != strings.Trim(parts[i].ETag, `"`) || p.Size != int64(len([]string{first, second, last}[i])) {
				t.Errorf("part %d is %+v, want %+v", i, p, parts[i])
			}
		}
		var unfinished []blob.Upload
		for u, err := range b.Uploads(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			unfinished = append(unfinished, u)
		}
		if len(unfinished) != 1 || unfinished[0].Key != key || unfinished[0].ID != id || time.Since(unfinished[0].Started).Abs() > time.Hour {
			t.Errorf("unfinished are %+v", unfinished)
		}
		slices.Reverse(parts) // the order is that of the numbers all the same
		o, err := b.CompleteMultipart(t.Context(), key, id, parts)
		if err != nil {
			t.Fatal(err)
		}
		if o.Key != key || o.Headers != h || o.Size != int64(len(first)+len(second)+len(last)) {
			t.Errorf("completed to %+v", o)
		}
		if got := get(t, b, key, blob.Range{}); got != first+second+last {
			t.Errorf("got %d bytes, that are not those of the parts", len(got))
		}
	}
	for u, err := range b.Uploads(t.Context(), "") {
		t.Errorf("left is %+v, %v", u, err)
	}
}

func multipartAgain(t *testing.T, b *blob.Bucket) {
	put(t, b, "key", "what was there before")
	id, err := b.StartMultipart(t.Context(), "key", blob.Headers{})
	if err != nil {
		t.Fatal(err)
	}
	parts := upload(t, b, "key", id, []int{1}, "the object")
	var completed [4]blob.Object
	var group sync.WaitGroup
	for i := range completed {
		group.Go(func() {
			var err error
			if completed[i], err = b.CompleteMultipart(t.Context(), "key", id, parts); err != nil {
				t.Errorf("call %d: %v", i, err)
			}
		})
	}
	group.Wait()
	again, err := b.CompleteMultipart(t.Context(), "key", id, parts)
	if err != nil || again != completed[0] {
		t.Errorf("completed to %+v, and again to %+v, %v", completed[0], again, err)
	}
	if got := get(t, b, "key", blob.Range{}); got != "the object" {
		t.Errorf("got %q", got)
	}
	put(t, b, "key", "what came after")
	_, err = b.CompleteMultipart(t.Context(), "key", id, parts)
	want(t, "completing what was overwritten since", err, blob.ErrNoUpload)
	if got := get(t, b, "key", blob.Range{}); got != "what came after" {
		t.Errorf("got %q", got)
	}
}

func multipartRefused(t *testing.T, b *blob.Bucket) {
	put(t, b, "key", "there")
	id, err := b.StartMultipart(t.Context(), "key", blob.Headers{})
	if err != nil {
		t.Fatal(err)
	}
	parts := upload(t, b, "key", id, []int{1, 2}, "too small", "the end")
	_, err = b.CompleteMultipart(t.Context(), "key", id, parts)
	want(t, "parts that are too small", err, blob.ErrPart)
	_, err = b.CompleteMultipart(t.Context(), "key", id, nil)
	want(t, "no parts", err, blob.ErrPart)
	_, err = b.CompleteMultipart(t.Context(), "key", id, []blob.Part{{Number: 3, ETag: parts[0].ETag}})
	want(t, "a part that was not uploaded", err, blob.ErrPart)
	_, err = b.CompleteMultipart(t.Context(), "key", id, []blob.Part{{Number: 1, ETag: parts[1].ETag}})
	want(t, "a part of other bytes", err, blob.ErrPart)
	_, err = b.CompleteMultipart(t.Context(), "other", id, parts[:1])
	want(t, "another key", err, blob.ErrNoUpload)
	for _, number := range []int{0, -1, blob.MaxParts + 1} {
		_, err = b.PresignPart(t.Context(), "key", id, number, time.Hour)
		want(t, "presign an impossible part", err, blob.ErrPart)
		_, err = b.CompleteMultipart(t.Context(), "key", id, []blob.Part{{Number: number}})
		want(t, "an impossible part", err, blob.ErrPart)
	}
	if got := get(t, b, "key", blob.Range{}); got != "there" {
		t.Errorf("then there was %q", got)
	}
	if _, err := b.CompleteMultipart(t.Context(), "key", id, parts[:1]); err != nil {
		t.Errorf("after all that: %v", err)
	}
	if got := get(t, b, "key", blob.Range{}); got != "too small" {
		t.Errorf("got %q", got)
	}
}

func multipartAborted(t *testing.T, b *blob.Bucket) {
	id, err := b.StartMultipart(t.Context(), "key", blob.Headers{})
	if err != nil {
		t.Fatal(err)
	}
	parts := upload(t, b, "key", id, []int{1}, "part")
	other, err := b.StartMultipart(t.Context(), "key", blob.Headers{})
	if err != nil {
		t.Fatal(err)
	}
	url, err := b.PresignPart(t.Context(), "key", id, 1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.AbortMultipart(t.Context(), "key", id); err != nil {
			t.Error(err)
		}
	}
	if status, answer, _ := send(t, "PUT", url, "part"); status != 404 {
		t.Errorf("PUT of a part: %d %s", status, answer)
	}
	_, err = b.Parts(t.Context(), "key", id)
	want(t, "list parts", err, blob.ErrNoUpload)
	_, err = b.CompleteMultipart(t.Context(), "key", id, parts)
	want(t, "complete", err, blob.ErrNoUpload)
	_, err = b.Stat(t.Context(), "key")
	want(t, "stat", err, blob.ErrNotFound)
	parts = upload(t, b, "key", other, []int{1}, "the other")
	if _, err := b.CompleteMultipart(t.Context(), "key", other, parts); err != nil {
		t.Error(err)
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
