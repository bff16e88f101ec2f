package gateway_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/blob/blobtest"
	"github.com/taskfleet/taskfleet/blob/gateway"
)

func TestMain(m *testing.M) {
	if os.Getenv(childDirectory) != "" {
		child()
		return
	}
	os.Exit(m.Run())
}

// start runs a gateway until the end of the test or until it is closed.
func start(t *testing.T, c gateway.Config) *gateway.Gateway {
	t.Helper()
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.AccessKeyID == "" {
		c.AccessKeyID, c.SecretAccessKey = "test", rand.Text()
	}
	g, err := gateway.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.Close() })
	return g
}

func bucket(t *testing.T, c blob.Config) *blob.Bucket {
	t.Helper()
	s, err := blob.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	b := s.Bucket("bucket")
	if err := b.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	return b
}

func put(t *testing.T, b *blob.Bucket, key, body string) {
	t.Helper()
	if _, err := b.Put(t.Context(), key, strings.NewReader(body), blob.Headers{ContentType: "text/plain"}); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, b *blob.Bucket, key string) string {
	t.Helper()
	r, err := b.Get(t.Context(), key, blob.Range{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	body, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// fetch is a GET as a browser would do it, without following or unpacking.
func fetch(t *testing.T, method, url string, headers ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	a, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a, string(body)
}

// What the suite of package blobtest asks for holds wherever the directory is.
func TestConformance(t *testing.T) {
	for _, place := range places() {
		t.Run(place.name, func(t *testing.T) {
			blobtest.Run(t, func(t *testing.T) *blob.Store {
				s, err := blob.Open(t.Context(), start(t, gateway.Config{Directory: place.make(t), NoSync: place.name != "disk"}).Blob())
				if err != nil {
					t.Fatal(err)
				}
				return s
			})
		})
	}
}

type place struct {
	name string
	make func(t *testing.T) string
}

func places() []place {
	return []place{
		{"disk", func(t *testing.T) string { return t.TempDir() }},
		{"memory", memory},
		{"files-without-attributes", withoutAttributes},
	}
}

// memory is a directory in memory, where there is one.
func memory(t *testing.T) string {
	if runtime.GOOS != "linux" {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "gateway")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// withoutAttributes is a directory in which the gateway once found that files
// have no extended attributes.
func withoutAttributes(t *testing.T) string {
	dir := memory(t)
	if err := os.Mkdir(filepath.Join(dir, "metadata"), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestWhatWasSignedAndPutOutlivesARestart(t *testing.T) {
	c := gateway.Config{Directory: t.TempDir(), AccessKeyID: "id", SecretAccessKey: "secret", Region: "local-1"}
	g := start(t, c)
	c.Listen = g.Addr()
	b := bucket(t, g.Blob())
	put(t, b, "a/b", "there")
	in, err := b.PresignPut(t.Context(), "new", "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	out, err := b.PresignGet(t.Context(), "a/b", time.Hour, blob.Headers{})
	if err != nil {
		t.Fatal(err)
	}
	id, err := b.StartMultipart(t.Context(), "parts", blob.Headers{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
		g = start(t, c)
		if g.Addr() != c.Listen {
			t.Errorf("it listens on %s, want %s", g.Addr(), c.Listen)
		}
		if a, body := fetch(t, "GET", out); a.StatusCode != 200 || body != "there" || a.Header.Get("Content-Type") != "text/plain" {
			t.Errorf("GET: %d %s", a.StatusCode, body)
		}
		if a, body := fetch(t, "PUT", in); a.StatusCode != 200 {
			t.Errorf("PUT: %d %s", a.StatusCode, body)
		}
		if parts, err := b.Parts(t.Context(), "parts", id); err != nil || len(parts) != 0 {
			t.Errorf("the parts: %v, %v", parts, err)
		}
		if err := b.Ensure(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestADirectoryHasOneGateway(t *testing.T) {
	dir := t.TempDir()
	g := start(t, gateway.Config{Directory: dir})
	second := gateway.Config{Directory: dir, Listen: "127.0.0.1:0", AccessKeyID: "a", SecretAccessKey: "b"}
	if _, err := gateway.Start(t.Context(), second); err == nil || !strings.Contains(err.Error(), "another") {
		t.Errorf("a second gateway: %v", err)
	}
	g.Close()
	start(t, second)
}

func TestSeveralGatewaysRunInAProcess(t *testing.T) {
	working, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	one := start(t, gateway.Config{Directory: t.TempDir()})
	two := start(t, gateway.Config{Directory: t.TempDir()})
	put(t, bucket(t, one.Blob()), "key", "one")
	put(t, bucket(t, two.Blob()), "key", "two")
	t.Chdir(t.TempDir()) // which must not matter to them
	if a, b := get(t, bucket(t, one.Blob()), "key"), get(t, bucket(t, two.Blob()), "key"); a != "one" || b != "two" {
		t.Errorf("got %q and %q", a, b)
	}
	if now := os.Getenv("PWD"); now == working {
		t.Errorf("the test is still in %s", now)
	}
	left, err := os.ReadDir(".")
	if err != nil || len(left) != 0 {
		t.Errorf("written to the working directory: %v, %v", left, err)
	}
}

func TestTheWorkingDirectoryStays(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	b := bucket(t, start(t, gateway.Config{Directory: "relative/data"}).Blob())
	put(t, b, "key", "body")
	if now, err := os.Getwd(); err != nil || now != dir {
		t.Errorf("in %s, %v", now, err)
	}
	if _, err := os.Stat("relative/data/buckets/bucket/key"); err != nil {
		t.Error(err)
	}
}

// With the metadata directory too: attributes are not kept by absolute paths.
func TestTheDirectoryCanBeMoved(t *testing.T) {
	for _, place := range places() {
		t.Run(place.name, func(t *testing.T) {
			dir := place.make(t)
			g := start(t, gateway.Config{Directory: dir})
			put(t, bucket(t, g.Blob()), "a/b", "body")
			g.Close()
			moved := dir + "-moved"
			if err := os.Rename(dir, moved); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.RemoveAll(moved) })
			b := bucket(t, start(t, gateway.Config{Directory: moved}).Blob())
			if o, err := b.Stat(t.Context(), "a/b"); err != nil || o.ContentType != "text/plain" || get(t, b, "a/b") != "body" {
				t.Errorf("then there was %+v, %v", o, err)
			}
		})
	}
}

func TestAddressesThatItCannotServeAreRefused(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for address, want := range map[string]string{
		"0.0.0.0:0": "loopback", ":0": "loopback", "192.0.2.1:80": "loopback", "example.com:80": "loopback",
		"": "form", "127.0.0.1": "form", "127.0.0.1:x": "", taken.Addr().String(): "in use",
	} {
		dir := t.TempDir()
		c := gateway.Config{Directory: dir, Listen: address, AccessKeyID: "a", SecretAccessKey: "b"}
		if _, err := gateway.Start(t.Context(), c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", address, err)
		}
		start(t, gateway.Config{Directory: dir}) // the directory is free
	}
	if _, err := gateway.Start(t.Context(), gateway.Config{Directory: t.TempDir(), Listen: "127.0.0.1:0"}); err == nil {
		t.Error("it started without a key")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := gateway.Config{Directory: file, Listen: "127.0.0.1:0", AccessKeyID: "a", SecretAccessKey: "b"}
	if _, err := gateway.Start(t.Context(), c); err == nil {
		t.Error("it started in a file")
	}
}

func TestItStopsThoughClientsStayConnected(t *testing.T) {
	g := start(t, gateway.Config{Directory: t.TempDir()})
	b := bucket(t, g.Blob()) // whose connection is idle now
	put(t, b, "key", "body")
	silent, err := net.Dial("tcp", g.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	// Connections are accepted in order: after this the silent one is known.
	if a, _ := fetch(t, "GET", g.Blob().Endpoint+"/bucket/key"); a.StatusCode != 403 {
		t.Errorf("GET: %d", a.StatusCode)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if err := g.Close(); err != nil {
		t.Errorf("again: %v", err)
	}
	if _, err := net.Dial("tcp", g.Addr()); err == nil {
		t.Error("it still listens")
	}
}

func TestARequestThatIsBeingServedFinishes(t *testing.T) {
	defer gateway.Patient()()
	g := start(t, gateway.Config{Directory: t.TempDir(), NoSync: true})
	b := bucket(t, g.Blob())
	in, err := b.PresignPut(t.Context(), "key", "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	body, write := io.Pipe()
	r, err := http.NewRequestWithContext(t.Context(), "PUT", in, body)
	if err != nil {
		t.Fatal(err)
	}
	const half = 12 << 20 // more than the buffers in between hold
	r.ContentLength = 2 * half
	answered := make(chan error, 1)
	go func() {
		a, err := http.DefaultTransport.RoundTrip(r)
		if err == nil && a.StatusCode != 200 {
			err = fmt.Errorf("status %d", a.StatusCode)
		}
		answered <- err
	}()
	if _, err := write.Write(make([]byte, half)); err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	go func() { closed <- g.Close() }()
	g.Wait() // it does not listen any more
	if _, err := write.Write(make([]byte, half)); err != nil {
		t.Fatal(err)
	}
	write.Close()
	if err := <-answered; err != nil {
		t.Error(err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestPagesOfAnyOriginMayRead(t *testing.T) {
	b := bucket(t, start(t, gateway.Config{Directory: t.TempDir()}).Blob())
	put(t, b, "key", "0123456789")
	url, err := b.PresignGet(t.Context(), "key", time.Hour, blob.Headers{})
	if err != nil {
		t.Fatal(err)
	}
	for _, method := range []string{"GET", "HEAD"} {
		a, _ := fetch(t, "OPTIONS", url, "Origin", "https://ui.test", "Access-Control-Request-Method", method, "Access-Control-Request-Headers", "range")
		if a.StatusCode >= 300 || !slices.Contains([]string{"*", "https://ui.test"}, a.Header.Get("Access-Control-Allow-Origin")) ||
			!strings.Contains(a.Header.Get("Access-Control-Allow-Methods"), method) || !strings.Contains(strings.ToLower(a.Header.Get("Access-Control-Allow-Headers")), "range") {
			t.Errorf("preflight of %s: %d %v", method, a.StatusCode, a.Header)
		}
	}
	a, body := fetch(t, "GET", url, "Origin", "https://ui.test", "Range", "bytes=1-2")
	if a.StatusCode != 206 || body != "12" || a.Header.Get("Access-Control-Allow-Origin") == "" || !strings.Contains(a.Header.Get("Access-Control-Expose-Headers"), "Content-Range") {
		t.Errorf("GET: %d %q %v", a.StatusCode, body, a.Header)
	}
	a, _ = fetch(t, "OPTIONS", url, "Origin", "https://ui.test", "Access-Control-Request-Method", "DELETE")
	if a.StatusCode < 300 && strings.Contains(a.Header.Get("Access-Control-Allow-Methods"), "DELETE") {
		t.Errorf("preflight of DELETE: %d %v", a.StatusCode, a.Header)
	}
}

func TestSignaturesAreChecked(t *testing.T) {
	g := start(t, gateway.Config{Directory: t.TempDir(), AccessKeyID: "id", SecretAccessKey: "secret"})
	put(t, bucket(t, g.Blob()), "key", "body")
	for name, change := range map[string]func(*blob.Config){
		"another secret": func(c *blob.Config) { c.SecretAccessKey = "guess" },
		"another key id": func(c *blob.Config) { c.AccessKeyID = "somebody" },
	} {
		c := g.Blob()
		change(&c)
		s, err := blob.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		b := s.Bucket("bucket")
		if _, err := b.Get(t.Context(), "key", blob.Range{}); err == nil {
			t.Errorf("%s: it could be read", name)
		}
		if _, err := b.Put(t.Context(), "key", strings.NewReader("evil"), blob.Headers{}); err == nil {
			t.Errorf("%s: it could be written", name)
		}
		if err := b.Delete(t.Context(), "key"); err == nil {
			t.Errorf("%s: it could be deleted", name)
		}
	}
	for age, want := range map[time.Duration]int{-time.Minute: 200, -2 * time.Hour: 403} {
		r, err := http.NewRequest("GET", g.Blob().Endpoint+"/bucket/key?X-Amz-Expires=3600", nil)
		if err != nil {
			t.Fatal(err)
		}
		signer := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
		url, _, err := signer.PresignHTTP(t.Context(), aws.Credentials{AccessKeyID: "id", SecretAccessKey: "secret"},
			r, "UNSIGNED-PAYLOAD", "s3", "us-east-1", time.Now().Add(age))
		if err != nil {
			t.Fatal(err)
		}
		if a, body := fetch(t, "GET", url); a.StatusCode != want {
			t.Errorf("a URL of an hour, signed %v ago: %d %s", -age, a.StatusCode, body)
		}
	}
}

func TestBadRequestsAreNoAccidents(t *testing.T) {
	g := start(t, gateway.Config{Directory: t.TempDir()})
	b := bucket(t, g.Blob())
	put(t, b, "key", "body")
	signed, err := b.PresignPut(t.Context(), "key", "", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	signed = strings.TrimPrefix(signed, g.Blob().Endpoint)
	for _, request := range []string{
		"GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /bucket/%zz HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /bucket/../../../etc/passwd HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /bucket/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /../lock HTTP/1.1\r\nHost: h\r\n\r\n",
		"PUT /bucket/..%2f..%2fx HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx",
		"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /bucket?list-type=2 HTTP/1.1\r\nHost: h\r\nAuthorization: AWS4-HMAC-SHA256 rubbish\r\nX-Amz-Date: 20200101T000000Z\r\n\r\n",
		"GET /bucket/key?X-Amz-Signature=x&X-Amz-Algorithm=y HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /bucket/key HTTP/1.1\r\nHost: h\r\nAuthorization: " + strings.Repeat("x", 10_000) + "\r\n\r\n",
		"GET /" + strings.Repeat("x", 10_000) + " HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST /bucket?delete HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n<xml>",
		"POST /bucket HTTP/1.1\r\nHost: h\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 5\r\n\r\n--x--",
		"PUT " + signed + " HTTP/1.1\r\nHost: " + g.Addr() + "\r\nContent-Length: -1\r\n\r\n",
		"PUT " + signed + " HTTP/1.1\r\nHost: " + g.Addr() + "\r\nContent-Length: 99999999999999999999\r\n\r\n",
		"PUT " + signed + " HTTP/1.1\r\nHost: " + g.Addr() + "\r\nContent-Length: 6000000000\r\n\r\n",
		"PUT " + signed + " HTTP/1.1\r\nHost: " + g.Addr() + "\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"PUT " + signed + " HTTP/1.1\r\nHost: " + g.Addr() + "\r\nContent-MD5: rubbish\r\nContent-Length: 1\r\n\r\nx",
		"PUT " + signed + " HTTP/1.1\r\nHost: " + g.Addr() + "\r\nX-Amz-Content-Sha256: STREAMING-UNSIGNED-PAYLOAD-TRAILER\r\nX-Amz-Decoded-Content-Length: 5\r\nContent-Length: 1\r\n\r\nx",
		"BREW / HTTP/1.1\r\nHost: h\r\n\r\n",
		"\x16\x03\x01\x00\x05hello\r\n\r\n",
		"GET\r\n\r\n",
	} {
		c, err := net.Dial("tcp", g.Addr())
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, request)
		c.(*net.TCPConn).CloseWrite()
		answer, err := io.ReadAll(c)
		c.Close()
		line, _, _ := strings.Cut(string(answer), "\r\n")
		if errors.Is(err, syscall.ECONNRESET) && line != "" {
			err = nil // it need not read all of it
		}
		if err != nil || !strings.HasPrefix(line, "HTTP/1.1 4") && !strings.HasPrefix(line, "HTTP/1.1 501") {
			t.Errorf("%.40q...%.80q: %q, %v", request, request[max(0, len(request)-80):], line, err)
		}
	}
	if got := get(t, b, "key"); got != "body" {
		t.Errorf("then the object was %q", got)
	}
}

func TestTheLogHasWhatMattersAndNoSignatures(t *testing.T) {
	var out bytes.Buffer // slog writes one record at a time
	dir := t.TempDir()
	g := start(t, gateway.Config{
		Directory: dir, AccessKeyID: "id", SecretAccessKey: "very-secret",
		Log: slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	b := bucket(t, g.Blob())
	put(t, b, "task/log", "body")
	url, err := b.PresignGet(t.Context(), "task/log", time.Hour, blob.Headers{})
	if err != nil {
		t.Fatal(err)
	}
	fetch(t, "GET", url)
	// What is no answer of S3's.
	if err := os.RemoveAll(filepath.Join(dir, "buckets/bucket/task~")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "buckets/bucket/task~"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fetch(t, "PUT", url)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Put(ctx, "task/log", strings.NewReader("x"), blob.Headers{}); !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	g.Close()
	log := out.String()
	for _, secret := range []string{"very-secret", "X-Amz-Signature", "Signature="} {
		if strings.Contains(log, secret) {
			t.Errorf("%s is in the log:\n%s", secret, log)
		}
	}
	for _, fact := range []string{"listening", "address=" + g.Addr(), "method=GET path=/bucket/task~/log status=200", "method=PUT path=/bucket/task~/log status=403"} {
		if !strings.Contains(log, fact) {
			t.Errorf("%s is not in the log:\n%s", fact, log)
		}
	}
	for _, s := range []string{fmt.Sprint(gateway.Config{SecretAccessKey: "very-secret"}), fmt.Sprintf("%#v", gateway.Config{SecretAccessKey: "very-secret"})} {
		if strings.Contains(s, "very-secret") {
			t.Errorf("printed: %s", s)
		}
	}
}
