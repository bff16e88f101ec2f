package livelog

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
)

func create(t *testing.T) *Log {
	t.Helper()
	l, err := Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.End() })
	return l
}

func serve(t *testing.T, l *Log) string {
	t.Helper()
	s, err := Serve(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	url, _ := s.Publish(l)
	return url
}

func content(t *testing.T, l *Log) string {
	t.Helper()
	b, err := os.ReadFile(l.path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// request returns the status, the Content-Range and the body.
func request(t *testing.T, method, url, byteRange string) (int, string, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Range"), string(body)
}

func TestTheWorkersLinesNeverContinueTheTasks(t *testing.T) {
	l := create(t)
	l.Note("Task %s", "abc")
	io.WriteString(l, "no newline")
	l.Error("it failed\nfor two reasons\n")
	io.WriteString(l, "next\n")
	l.Note("done")
	want := regexp.MustCompile(`^\[taskcluster \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] Task abc
no newline
\[taskcluster:error\] it failed
\[taskcluster:error\] for two reasons
next
\[taskcluster \S+Z\] done
$`)
	if got := content(t, l); !want.MatchString(got) {
		t.Errorf("the log is\n%s", got)
	}
}

func TestTimestampsGoBeforeEachLineOnce(t *testing.T) {
	l := create(t)
	l.TimestampLines()
	for _, s := range []string{"a", "b\nc\n", "\n", "d"} {
		io.WriteString(l, s)
	}
	stamp := regexp.MustCompile(`\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\] `)
	if got, want := stamp.ReplaceAllString(content(t, l), "@"), "@ab\n@c\n@\n@d"; got != want {
		t.Errorf("the log is %q, want %q", got, want)
	}
}

func TestReadersSeeTheLogGrowAndEnd(t *testing.T) {
	l := create(t)
	url := serve(t, l)
	io.WriteString(l, "first\n")
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	read := func(want string) {
		t.Helper()
		if got, err := lines.ReadString('\n'); err != nil || got != want {
			t.Fatalf("read %q, %v; want %q", got, err, want)
		}
	}
	read("first\n")
	for i := range 100 { // each is there before the next is written
		line := fmt.Sprintf("line %d\n", i)
		io.WriteString(l, line)
		read(line)
	}
	l.End()
	if _, err := lines.ReadByte(); err != io.EOF {
		t.Errorf("after the end of the log: %v", err)
	}
}

func TestReadersContinueAtAnOffset(t *testing.T) {
	l := create(t)
	url := serve(t, l)
	io.WriteString(l, "0123456789")
	for _, test := range []struct {
		query, byteRange string
		status           int
		contentRange     string
		body             string
	}{
		{"", "bytes=2-4", 206, "bytes 2-4/*", "234"},
		{"", "bytes=7-", 206, "bytes 7-9/*", "789"},
		{"", "bytes=7-100", 206, "bytes 7-9/*", "789"},
		{"", "bytes=7-9223372036854775807", 206, "bytes 7-9/*", "789"},
		{"", "bytes=-3", 206, "bytes 7-9/*", "789"},
		{"", "bytes=-30", 206, "bytes 0-9/*", "0123456789"},
		{"", "bytes=10-", 416, "bytes */10", "The log does not reach that far yet.\n"},
		{"", "bytes=-0", 416, "bytes */10", "The log does not reach that far yet.\n"},
		{"?offset=x", "", 400, "", "offset has to be a number of bytes.\n"},
	} {
		status, contentRange, body := request(t, "GET", url+test.query, test.byteRange)
		if status != test.status || contentRange != test.contentRange || body != test.body {
			t.Errorf("%s %s while the log grows: %d %q %q", test.query, test.byteRange, status, contentRange, body)
		}
	}
	l.End()
	for _, test := range []struct {
		query, byteRange string
		status           int
		contentRange     string
		body             string
	}{
		{"", "", 200, "", "0123456789"},
		{"?offset=4", "", 200, "", "456789"},
		{"?offset=-4", "", 200, "", "6789"},
		{"?offset=-40", "", 200, "", "0123456789"},
		{"?offset=40", "", 200, "", ""},
		{"", "bytes=2-4", 206, "bytes 2-4/10", "234"},
		{"", "bytes=0-1,3-4", 200, "", "0123456789"},
		{"", "bytes=4-2", 200, "", "0123456789"},
		{"", "lines=1-2", 200, "", "0123456789"},
		{"", "bytes=a-b", 200, "", "0123456789"},
	} {
		status, contentRange, body := request(t, "GET", url+test.query, test.byteRange)
		if status != test.status || contentRange != test.contentRange || body != test.body {
			t.Errorf("%s %s of the ended log: %d %q %q", test.query, test.byteRange, status, contentRange, body)
		}
	}
}

func TestOnlyTheExactURLShowsTheLog(t *testing.T) {
	l := create(t)
	io.WriteString(l, "secret\n")
	s, err := Serve(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	url, withdraw := s.Publish(l)
	l.End()
	if status, _, body := request(t, "GET", url, ""); status != 200 || body != "secret\n" {
		t.Errorf("the URL itself: %d %q", status, body)
	}
	if status, _, body := request(t, "HEAD", url, ""); status != 200 || body != "" {
		t.Errorf("HEAD: %d %q", status, body)
	}
	base := url[:strings.Index(url, "/log/")]
	for _, wrong := range []string{base, base + "/log", base + "/log/", url[:len(url)-1], url + "x", url + "/", base + "/log/../log/x"} {
		if status, _, body := request(t, "GET", wrong, ""); status != 404 || strings.Contains(body, "secret") {
			t.Errorf("%s: %d %q", wrong, status, body)
		}
	}
	if status, _, _ := request(t, "PUT", url, ""); status != 405 {
		t.Errorf("PUT: %d", status)
	}
	withdraw()
	if status, _, _ := request(t, "GET", url, ""); status != 404 {
		t.Errorf("after it was withdrawn: %d", status)
	}
}

func TestAFloodWithReadersThatTakeNothing(t *testing.T) {
	l := create(t)
	url := serve(t, l)
	host := strings.TrimPrefix(url[:strings.Index(url, "/log/")], "http://")
	for range 20 { // they ask, and then do not read
		conn, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", strings.TrimPrefix(url, "http://"+host), host)
	}
	line := []byte(strings.Repeat("x", 99) + "\n")
	const length = 100 << 20
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var eager sync.WaitGroup
	for range 3 {
		eager.Go(func() {
			req, _ := http.NewRequestWithContext(ctx, "GET", url, nil)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			if n, err := io.Copy(io.Discard, resp.Body); n != length || err != nil {
				t.Errorf("an eager reader got %d bytes, %v", n, err)
			}
		})
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for written := 0; written < length; {
		n, err := l.Write(line[:min(len(line), length-written)])
		if err != nil {
			t.Fatal(err)
		}
		written += n
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 8<<20 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	if err := l.End(); err != nil {
		t.Error(err)
	}
	eager.Wait()
}

func TestAFullDiskStopsTheLogAndNotTheTask(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	l := &Log{path: "/dev/full", file: full}
	if n, err := l.Write([]byte("abc")); n != 3 || err != nil {
		t.Errorf("Write returned %d, %v", n, err)
	}
	if err := l.End(); err == nil {
		t.Error("End does not say that the log is not complete")
	}
	if l.Size() != 0 {
		t.Errorf("size is %d", l.Size())
	}
}

func FuzzParseRange(f *testing.F) {
	f.Add("bytes=0-1", int64(10))
	f.Add("bytes=-9223372036854775807", int64(0))
	f.Fuzz(func(t *testing.T, spec string, size int64) {
		if size < 0 {
			return
		}
		from, to, kind := parseRange(spec, size)
		if kind == satisfiable && !(0 <= from && from < to && to <= size) {
			t.Errorf("%q of %d bytes is %d to %d", spec, size, from, to)
		}
	})
}
