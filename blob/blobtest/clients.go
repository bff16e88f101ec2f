package blobtest

import (
	"cmp"
	"context"
	"crypto/md5"
	"encoding/base64"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/blob"
)

// This part of the suite is what clients do with the URLs that they are given,
// and what becomes of it.

// send is what a client does with a presigned URL: if the connection is lost, as that
// to an imitation is now and then, it does it again.
func send(t *testing.T, method, url, body string, headers ...string) (status int, answer string, h http.Header) {
	t.Helper()
	for again := 4; ; again-- {
		status, answer, h, err := sendOnce(t.Context(), method, url, body, headers)
		if err == nil {
			return status, answer, h
		}
		if again == 0 {
			t.Fatal(err)
		}
	}
}

func sendOnce(ctx context.Context, method, url, body string, headers []string) (status int, answer string, h http.Header, err error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, "", nil, err
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	client := http.Client{Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true}}
	a, err := client.Do(r)
	if err != nil {
		return 0, "", nil, err
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	return a.StatusCode, string(text), a.Header, err
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

func presignedLength(t *testing.T, b *blob.Bucket) {
	for _, want := range []string{"12345", ""} {
		in, err := b.PresignPutSized(t.Context(), "sized", "text/plain", int64(len(want)), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for _, body := range []string{"1234", "123456", ""} {
			if want == "" || body == want {
				continue
			}
			if status, answer, _ := send(t, "PUT", in, body, "Content-Type", "text/plain"); status != 403 {
				t.Errorf("PUT of %q where %d bytes were to come: %d %.300s", body, len(want), status, answer)
			}
		}
		if status, answer, _ := send(t, "PUT", in, want, "Content-Type", "text/html"); status != 403 {
			t.Errorf("PUT of %q with another content type: %d %.300s", want, status, answer)
		}
		if status, answer, _ := send(t, "PUT", in, want, "Content-Type", "text/plain"); status != 200 {
			t.Errorf("PUT of %q: %d %.300s", want, status, answer)
		}
		if got := get(t, b, "sized", blob.Range{}); got != want {
			t.Errorf("then the object was %q, want %q", got, want)
		}
	}
	if _, err := b.PresignPutSized(t.Context(), "sized", "", -1, time.Hour); err == nil {
		t.Error("signed for fewer than no bytes")
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
		if o.Key != key || !reflect.DeepEqual(o.Headers, h) || o.Size != int64(len(first)+len(second)+len(last)) {
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
	if err != nil || !reflect.DeepEqual(again, completed[0]) {
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
