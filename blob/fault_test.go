package blob_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/blob/blobtest"
)

// service answers requests without a network.
type service func(*http.Request) (*http.Response, error)

func (s service) RoundTrip(r *http.Request) (*http.Response, error) { return s(r) }

func answer(status int, body string, headers ...string) *http.Response {
	a := &http.Response{
		StatusCode:    status,
		Header:        http.Header{},
		Body:          io.NopCloser(strings.NewReader(body)),
		ContentLength: int64(len(body)),
	}
	for i := 0; i < len(headers); i += 2 {
		a.Header.Set(headers[i], headers[i+1])
	}
	return a
}

func failure(status int, code string) *http.Response {
	return answer(status, "<Error><Code>"+code+"</Code><Message>because</Message></Error>", "Content-Type", "application/xml")
}

func open(t *testing.T, c blob.Config) *blob.Bucket {
	t.Helper()
	if c.Endpoint == "" {
		c.Endpoint, c.AccessKeyID, c.SecretAccessKey = "http://s3.test", "id", "secret"
	}
	c.Region, c.PathStyle = "us-east-1", true
	s, err := blob.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return s.Bucket("bucket")
}

func TestWhatFailsForReasonsThatPassIsRepeated(t *testing.T) {
	for _, c := range []struct {
		name string
		fail service
	}{
		{"unavailable", func(*http.Request) (*http.Response, error) { return failure(503, "ServiceUnavailable"), nil }},
		{"throttled", func(*http.Request) (*http.Response, error) { return failure(503, "SlowDown"), nil }},
		{"broken", func(*http.Request) (*http.Response, error) { return failure(500, "InternalError"), nil }},
		{"gateway in between", func(*http.Request) (*http.Response, error) { return answer(502, "<html>oops"), nil }},
		{"refused", func(*http.Request) (*http.Response, error) {
			return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		}},
		{"reset", func(r *http.Request) (*http.Response, error) {
			r.Body.Read(make([]byte, 3))
			return nil, &net.OpError{Op: "write", Err: syscall.ECONNRESET}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var requests int
				b := open(t, blob.Config{Transport: service(func(r *http.Request) (*http.Response, error) {
					if requests++; requests < 5 {
						return c.fail(r)
					}
					if body, err := io.ReadAll(r.Body); string(body) != "the body" || err != nil {
						t.Errorf("the body was %q, %v", body, err)
					}
					return answer(200, "", "ETag", `"etag"`), nil
				})})
				o, err := b.Put(t.Context(), "key", strings.NewReader("the body"), blob.Headers{})
				if err != nil || o.ETag != "etag" || requests != 5 {
					t.Errorf("after %d requests: %+v, %v", requests, o, err)
				}
			})
		})
	}
}

func TestAServiceThatStaysDownIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var requests int
		b := open(t, blob.Config{Transport: service(func(r *http.Request) (*http.Response, error) {
			requests++
			return failure(503, "SlowDown"), nil
		})})
		start := time.Now()
		_, err := b.Put(t.Context(), "a/key", strings.NewReader("body"), blob.Headers{})
		if err == nil || requests != 5 || time.Since(start) > time.Minute {
			t.Errorf("after %d requests in %v: %v", requests, time.Since(start), err)
		}
		for _, part := range []string{"put", `"a/key"`, "bucket", "SlowDown"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("the error does not mention %s: %v", part, err)
			}
		}
	})
}

func TestARefusalIsNotRepeated(t *testing.T) {
	var requests int
	b := open(t, blob.Config{Transport: service(func(r *http.Request) (*http.Response, error) {
		requests++
		return failure(403, "AccessDenied"), nil
	})})
	if err := b.Ensure(t.Context()); err == nil {
		t.Error("a bucket that may not be looked for was ensured")
	}
	if _, err := b.Put(t.Context(), "key", strings.NewReader("body"), blob.Headers{}); err == nil || requests != 2 {
		t.Errorf("after %d requests: %v", requests, err)
	}
}

func TestACallEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := service(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		b := open(t, blob.Config{Transport: silent})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		calls := map[string]func() error{
			"put":    func() error { _, err := b.Put(ctx, "key", strings.NewReader(""), blob.Headers{}); return err },
			"get":    func() error { _, err := b.Get(ctx, "key", blob.Range{}); return err },
			"stat":   func() error { _, err := b.Stat(ctx, "key"); return err },
			"delete": func() error { return b.Delete(ctx, "key") },
			"ensure": func() error { return b.Ensure(ctx) },
			"list": func() (err error) {
				for _, err = range b.List(ctx, "") {
				}
				return err
			},
			"start": func() error { _, err := b.StartMultipart(ctx, "key", blob.Headers{}); return err },
			"complete": func() error {
				_, err := b.CompleteMultipart(ctx, "key", "id", []blob.Part{{Number: 1, ETag: "x"}})
				return err
			},
			"abort":     func() error { return b.AbortMultipart(ctx, "key", "id") },
			"put bytes": func() error { _, err := b.PutBytes(ctx, "key", nil, blob.Headers{}); return err },
			"put part":  func() error { _, err := b.PutPart(ctx, "key", "id", 1, nil); return err },
			"copy":      func() error { _, err := b.Copy(ctx, "key", b, "from", "", blob.Headers{}); return err },
			"copy part": func() error {
				_, err := b.CopyPart(ctx, "key", "id", 1, b, "from", "", blob.Range{Length: 1})
				return err
			},
			"rules": func() error { return b.SetLifecycle(ctx, blob.Lifecycle{ID: "x"}) },
		}
		for name, call := range calls {
			if err := call(); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("that took %v", d)
		}
	})
}

func TestACallWithoutBodyEndsBySelf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, blob.Config{Transport: service(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})})
		start := time.Now()
		if _, err := b.Stat(t.Context(), "key"); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 5*time.Minute {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestABodyThatEndsEarlyIsAnError(t *testing.T) {
	const whole = "0123456789"
	reset := &net.OpError{Op: "read", Err: syscall.ECONNRESET}
	for _, c := range []struct {
		name   string
		length int64
		body   io.Reader
		r      blob.Range
		want   error // nil: there is nothing wrong
	}{
		{"whole", 10, strings.NewReader(whole), blob.Range{}, nil},
		{"whole, and the end known at once", 10, iotest.DataErrReader(strings.NewReader(whole)), blob.Range{}, nil},
		{"byte by byte", 10, iotest.OneByteReader(strings.NewReader(whole)), blob.Range{}, nil},
		{"empty", 0, strings.NewReader(""), blob.Range{}, nil},
		{"short", 10, strings.NewReader(whole[:9]), blob.Range{}, io.ErrUnexpectedEOF},
		{"nothing", 10, strings.NewReader(""), blob.Range{}, io.ErrUnexpectedEOF},
		{"reset", 10, io.MultiReader(strings.NewReader(whole[:4]), iotest.ErrReader(reset)), blob.Range{}, reset},
		{"a short range", 4, strings.NewReader(whole[2:5]), blob.Range{Offset: 2, Length: 4}, io.ErrUnexpectedEOF},
		{"a whole range", 4, strings.NewReader(whole[2:6]), blob.Range{Offset: 2, Length: 4}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := open(t, blob.Config{Transport: service(func(r *http.Request) (*http.Response, error) {
				a := answer(200, "", "Content-Length", fmt.Sprint(c.length), "Content-Range", "bytes 2-5/10")
				a.Body, a.ContentLength = io.NopCloser(c.body), c.length
				return a, nil
			})})
			r, err := b.Get(t.Context(), "key", c.r)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got, err := io.ReadAll(r)
			if !errors.Is(err, c.want) || err == nil && int64(len(got)) != c.length {
				t.Errorf("read %q, %v; want error: %v", got, err, c.want)
			}
		})
	}
}

func TestAnAnswerThatCannotBeCheckedIsAnError(t *testing.T) {
	for name, a := range map[string]func() *http.Response{
		"no length": func() *http.Response {
			a := answer(200, "body")
			a.ContentLength = -1
			return a
		},
		"all instead of a range": func() *http.Response { return answer(200, "0123456789", "Content-Length", "10") },
	} {
		b := open(t, blob.Config{Transport: service(func(*http.Request) (*http.Response, error) { return a(), nil })})
		if _, err := b.Get(t.Context(), "key", blob.Range{Offset: 1}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// damage flips a bit in the bodies of requests or answers that want says.
type damage struct {
	next           http.RoundTripper
	want           func(*http.Request) bool
	requests, gets bool
}

type flipped struct {
	io.ReadCloser
	done bool
}

func (f *flipped) Read(p []byte) (int, error) {
	n, err := f.ReadCloser.Read(p)
	if n > 0 && !f.done {
		p[n/2] ^= 1
		f.done = true
	}
	return n, err
}

func (d damage) RoundTrip(r *http.Request) (*http.Response, error) {
	if d.requests && r.Body != nil && d.want(r) {
		r = r.Clone(r.Context())
		r.Body = &flipped{ReadCloser: r.Body}
	}
	a, err := d.next.RoundTrip(r)
	if err == nil && d.gets && d.want(r) {
		a.Body = &flipped{ReadCloser: a.Body}
	}
	return a, err
}

// gatewayBucket is a bucket on a gateway, and the way there.
func gatewayBucket(t *testing.T) (*blob.Bucket, blob.Config) {
	t.Helper()
	c := blobtest.Start(t, t.TempDir(), "127.0.0.1:0").Blob()
	b := open(t, c)
	if err := b.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b, c
}

func TestDamageOnTheWayInIsNoticedAndNothingIsKept(t *testing.T) {
	b, c := gatewayBucket(t)
	c.Transport = damage{next: http.DefaultTransport, requests: true, want: func(r *http.Request) bool { return r.Method == "PUT" }}
	damaged := open(t, c)
	id, err := b.StartMultipart(t.Context(), "key", blob.Headers{})
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{1, 1000, blob.PartSize + 1} {
		_, err := damaged.Put(t.Context(), "key", bytes.NewReader(make([]byte, size)), blob.Headers{})
		if err == nil {
			t.Errorf("%d damaged bytes were put", size)
		}
		if _, err := damaged.PutBytes(t.Context(), "key", make([]byte, size), blob.Headers{}); err == nil {
			t.Errorf("%d damaged bytes were put from memory", size)
		}
		if _, err := damaged.PutPart(t.Context(), "key", id, 1, make([]byte, size)); err == nil {
			t.Errorf("%d damaged bytes were put as a part", size)
		}
		if _, err := b.Stat(t.Context(), "key"); !errors.Is(err, blob.ErrNotFound) {
			t.Errorf("then: %v", err)
		}
	}
	if parts, err := b.Parts(t.Context(), "key", id); err != nil || len(parts) != 0 {
		t.Errorf("then there were parts: %v, %v", parts, err)
	}
	for u, err := range b.Uploads(t.Context(), "") {
		if u.ID != id || err != nil {
			t.Errorf("left is %+v, %v", u, err)
		}
	}
}

func TestDamageOnTheWayOutIsNoticed(t *testing.T) {
	b, c := gatewayBucket(t)
	c.Transport = damage{next: http.DefaultTransport, gets: true, want: func(r *http.Request) bool { return r.Method == "GET" }}
	damaged := open(t, c)
	for _, size := range []int{1, 1000, 1 << 20} {
		if _, err := b.Put(t.Context(), "key", bytes.NewReader(make([]byte, size)), blob.Headers{}); err != nil {
			t.Fatal(err)
		}
		r, err := damaged.Get(t.Context(), "key", blob.Range{})
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, r)
		r.Close()
		if err == nil {
			t.Errorf("read %d damaged bytes of %d", n, size)
		}
	}
}

// fragile is a connection that is reset after some bytes were written.
type fragile struct {
	net.Conn
	left int
}

func (f *fragile) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left > 0 {
		return f.Conn.Write(p)
	}
	f.Conn.(*net.TCPConn).SetLinger(0)
	f.Close()
	return 0, &net.OpError{Op: "write", Err: syscall.ECONNRESET}
}

// breaking is a transport whose first connections break after some bytes.
func breaking(connections int, after int) http.RoundTripper {
	var dialed atomic.Int64
	return &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err != nil || dialed.Add(1) > int64(connections) {
			return c, err
		}
		return &fragile{c, after}, nil
	}}
}

func TestAConnectionThatBreaksDuringAnUploadIsRepeated(t *testing.T) {
	b, c := gatewayBucket(t)
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	c.Transport = breaking(3, len(body)/2)
	written, err := open(t, c).Put(t.Context(), "key", bytes.NewReader(body), blob.Headers{})
	if err != nil {
		t.Fatal(err)
	}
	r, err := b.Get(t.Context(), "key", blob.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, body) || r.ETag != written.ETag {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

func TestAnUploadThatKeepsBreakingLeavesNothing(t *testing.T) {
	b, c := gatewayBucket(t)
	c.Transport = breaking(1000, 1<<19)
	if _, err := open(t, c).Put(t.Context(), "key", bytes.NewReader(make([]byte, 1<<20)), blob.Headers{}); err == nil {
		t.Error("put")
	}
	if _, err := b.Stat(t.Context(), "key"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("then: %v", err)
	}
}

// A client of a presigned URL sends no checksum. To the gateway's HTTP server a
// connection that ends looks like the end of the body.
func TestAClientThatGoesAwayLeavesNothing(t *testing.T) {
	b, _ := gatewayBucket(t)
	id, err := b.StartMultipart(t.Context(), "parts", blob.Headers{})
	if err != nil {
		t.Fatal(err)
	}
	whole, err := b.PresignPut(t.Context(), "key", "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	part, err := b.PresignPart(t.Context(), "parts", id, 1, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{whole, part} {
		for _, sent := range []int{0, 1, 5000, 100_000, 999_999} {
			if status := sendSome(t, target, 1_000_000, sent); status != 400 {
				t.Errorf("after %d bytes: %d", sent, status)
			}
		}
	}
	if _, err := b.Stat(t.Context(), "key"); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("then there was an object: %v", err)
	}
	if parts, err := b.Parts(t.Context(), "parts", id); err != nil || len(parts) != 0 {
		t.Errorf("then there were parts: %v, %v", parts, err)
	}
}

// sendSome announces more bytes than it sends, and says it is at the end.
func sendSome(t *testing.T, target string, announced, sent int) (status int) {
	t.Helper()
	u, err := url.Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	fmt.Fprintf(c, "PUT %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", u.RequestURI(), u.Host, announced)
	c.Write(make([]byte, sent))
	c.(*net.TCPConn).CloseWrite()
	a, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	return a.StatusCode
}

func TestConfigurationThatCannotWorkIsRefused(t *testing.T) {
	for name, c := range map[string]blob.Config{
		"no region":        {Endpoint: "http://x", AccessKeyID: "a", SecretAccessKey: "b"},
		"half a key":       {Region: "r", AccessKeyID: "a"},
		"the other half":   {Region: "r", SecretAccessKey: "very-secret"},
		"not a URL":        {Region: "r", Endpoint: "127.0.0.1:9000"},
		"another scheme":   {Region: "r", Endpoint: "ftp://x"},
		"with credentials": {Region: "r", Endpoint: "http://u:very-secret@x"},
	} {
		_, err := blob.Open(t.Context(), c)
		if err == nil || strings.Contains(err.Error(), "very-secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheSecretIsNotPrinted(t *testing.T) {
	c := blob.Config{Endpoint: "http://x", AccessKeyID: "id", SecretAccessKey: "very-secret"}
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), fmt.Sprintf("%v", []blob.Config{c}), c.LogValue().String()} {
		if strings.Contains(s, "very-secret") {
			t.Errorf("printed: %s", s)
		}
	}
	b := open(t, blob.Config{Endpoint: "http://127.0.0.1:1", AccessKeyID: "id", SecretAccessKey: "very-secret"})
	u, err := b.PresignGet(t.Context(), "key", time.Hour, blob.Headers{})
	if err != nil || strings.Contains(u, "very-secret") {
		t.Errorf("signed %s, %v", u, err)
	}
}

func TestKeysThatCannotBeDeletedAreNamed(t *testing.T) {
	b := open(t, blob.Config{Transport: service(func(r *http.Request) (*http.Response, error) {
		return answer(200, `<DeleteResult><Error><Key>a~/b</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>`), nil
	})})
	keys := slices.Repeat([]string{"a/b"}, 1001)
	err := b.Delete(t.Context(), keys...)
	if err == nil || strings.Count(err.Error(), `"a/b"`) != 2 || !strings.Contains(err.Error(), "AccessDenied") {
		t.Errorf("the error of two batches: %v", err)
	}
}
