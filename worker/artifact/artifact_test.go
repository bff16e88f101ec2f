//go:build unix

package artifact

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/timestamp"
	"github.com/taskfleet/taskfleet/worker/livelog"
	"github.com/taskfleet/taskfleet/worker/payload"
)

var expires = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// platform is a queue's record of one run, and the bucket it gives URLs for. A
// URL works until expire is called.
type platform struct {
	url      string
	partSize int64
	multi    int64 // length above which an upload is in parts

	mu       sync.Mutex
	epoch    int // of the URLs that work
	records  map[string]queue.PostArtifactRequest
	objects  map[string]object
	parts    map[string]map[int][]byte // by upload and number
	finished map[string]bool

	requests  int
	disturb   func(n int, w http.ResponseWriter, r *http.Request) bool // answers itself if it likes
	mostAlive int
	alive     int
}

type object struct {
	content               []byte
	contentType, encoding string
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	p := &platform{
		partSize: 1 << 20, multi: 2 << 20,
		records: map[string]queue.PostArtifactRequest{}, objects: map[string]object{}, parts: map[string]map[int][]byte{}, finished: map[string]bool{},
	}
	s := httptest.NewServer(p)
	t.Cleanup(s.Close)
	p.url = s.URL
	return p
}

func (p *platform) CreateArtifact(_ context.Context, name string, in *queue.PostArtifactRequest) (*queue.PostArtifactResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if name == "refused" {
		return nil, &client.Error{Code: "InputError", StatusCode: 400, Message: "no such name", Method: "queue.createArtifact"}
	}
	p.records[name] = *in
	out := &queue.PostArtifactResponse{StorageType: in.StorageType}
	if in.StorageType != "s3" {
		return out, nil
	}
	out.ContentType, out.Expires = in.ContentType, timestamp.Now()
	out.PutURL = fmt.Sprintf("%s/%s?epoch=%d&signature=secret", p.url, name, p.epoch)
	if *in.ContentLength > p.multi {
		id := slugid.New()
		p.parts[id] = map[int][]byte{}
		out.Multipart = &queue.PostArtifactResponseMultipart{UploadID: id, PartSize: p.partSize}
		for i := int64(0); i*p.partSize < *in.ContentLength; i++ {
			out.Multipart.URLs = append(out.Multipart.URLs, fmt.Sprintf("%s/%s?epoch=%d&upload=%s&part=%d&signature=secret", p.url, name, p.epoch, id, i))
		}
	}
	return out, nil
}

func (p *platform) FinishArtifact(_ context.Context, name string, in *queue.FinishArtifactRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var whole []byte
	for i, tag := range in.Parts {
		content := p.parts[in.UploadID][i]
		if tag != etag(content) {
			return fmt.Errorf("part %d has the ETag %s, not %s", i, etag(content), tag)
		}
		whole = append(whole, content...)
	}
	if int64(len(whole)) != *p.records[name].ContentLength {
		return fmt.Errorf("%d bytes instead of %d", len(whole), *p.records[name].ContentLength)
	}
	p.objects[name] = object{whole, p.records[name].ContentType, p.records[name].ContentEncoding}
	p.finished[name] = true
	return nil
}

func etag(content []byte) string {
	sum := md5.Sum(content)
	return strconv.Quote(hex.EncodeToString(sum[:]))
}

func (p *platform) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.requests++
	n, disturb := p.requests, p.disturb
	p.alive++
	p.mostAlive = max(p.mostAlive, p.alive)
	p.mu.Unlock()
	defer func() { p.mu.Lock(); p.alive--; p.mu.Unlock() }()
	if disturb != nil && disturb(n, w, r) {
		return
	}
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	q := r.URL.Query()
	p.mu.Lock()
	defer p.mu.Unlock()
	if q.Get("epoch") != fmt.Sprint(p.epoch) || r.Method != http.MethodPut {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
		return
	}
	w.Header().Set("ETag", etag(content))
	if id := q.Get("upload"); id != "" {
		i, _ := strconv.Atoi(q.Get("part"))
		p.parts[id][i] = content
		return
	}
	p.objects[r.URL.Path[1:]] = object{content, r.Header.Get("Content-Type"), r.Header.Get("Content-Encoding")}
}

func (p *platform) expire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.epoch++
}

// plain is the content of an object as a reader gets it.
func (p *platform) plain(t *testing.T, name string) string {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	o, found := p.objects[name]
	if !found {
		t.Errorf("there is no object %s", name)
	}
	if o.encoding != "gzip" {
		return string(o.content)
	}
	r, err := gzip.NewReader(bytes.NewReader(o.content))
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

type stage struct {
	*Uploader
	*platform
	t        *testing.T
	dir, log string
}

func newStage(t *testing.T) *stage {
	t.Helper()
	base := t.TempDir()
	s := &stage{t: t, platform: newPlatform(t), dir: filepath.Join(base, "task"), log: filepath.Join(base, "log")}
	log, err := livelog.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.End() })
	s.Uploader = &Uploader{Run: s.platform, Client: http.DefaultClient, Scratch: filepath.Join(base, "scratch"), Log: log, For: time.Minute, Stall: time.Minute}
	for _, d := range []string{s.dir, s.Scratch} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *stage) write(name, content string) {
	s.t.Helper()
	name = filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) link(name, target string) {
	s.t.Helper()
	if err := os.Symlink(target, filepath.Join(s.dir, name)); err != nil {
		s.t.Fatal(err)
	}
}

// upload expects no error of the platform.
func (s *stage) upload(artifacts ...payload.Artifact) bool {
	s.t.Helper()
	complete, err := s.Upload(s.t.Context(), s.dir, artifacts)
	if err != nil {
		s.t.Fatal(err)
	}
	if left, err := os.ReadDir(s.Scratch); err != nil || len(left) > 0 {
		s.t.Errorf("copies are left: %v, %v", left, err)
	}
	if log := s.logged(); strings.Contains(log, "secret") {
		s.t.Errorf("the log tells a signature:\n%s", log)
	}
	return complete
}

func (s *stage) logged() string {
	s.t.Helper()
	log, err := os.ReadFile(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(log)
}

func (s *stage) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name, r := range s.records {
		names = append(names, name+" "+r.StorageType+r.Reason)
	}
	slices.Sort(names)
	return names
}

func fileAt(path string) payload.Artifact {
	return payload.Artifact{Type: "file", Path: path, Name: path, Expires: expires}
}

func dirAt(path, name string) payload.Artifact {
	return payload.Artifact{Type: "directory", Path: path, Name: name, Expires: expires}
}

func TestFilesAreUploadedByTheirKind(t *testing.T) {
	s := newStage(t)
	s.write("a.log", "words")
	s.write("b.bin", "bits")
	s.write("c.bin", "bits")
	s.write("d.txt", "words")
	s.write("empty", "")
	zipped, as, plain := fileAt("c.bin"), fileAt("b.bin"), fileAt("d.txt")
	zipped.ContentEncoding, plain.ContentEncoding = "gzip", "identity"
	as.ContentType, as.Name = "application/x-custom", "public/b"
	if !s.upload(fileAt("a.log"), as, zipped, plain, fileAt("empty")) {
		t.Errorf("not complete:\n%s", s.logged())
	}
	for name, want := range map[string]object{
		"a.log":    {[]byte("words"), "text/plain; charset=utf-8", "gzip"},
		"public/b": {[]byte("bits"), "application/x-custom", ""},
		"c.bin":    {[]byte("bits"), "application/octet-stream", "gzip"},
		"d.txt":    {[]byte("words"), "text/plain; charset=utf-8", ""},
		"empty":    {nil, "application/octet-stream", ""},
	} {
		got := s.objects[name]
		if s.plain(t, name) != string(want.content) || got.contentType != want.contentType || got.encoding != want.encoding {
			t.Errorf("%s is %q, %s, %q", name, s.plain(t, name), got.contentType, got.encoding)
		}
		if r := s.records[name]; !r.Expires.Time().Equal(expires) || *r.ContentLength != int64(len(got.content)) {
			t.Errorf("%s is recorded as %+v", name, r)
		}
	}
	sum := sha256.Sum256([]byte("words"))
	if want := fmt.Sprintf("Uploaded a.log: 5 bytes, compressed to %d, SHA-256 %x", len(s.objects["a.log"].content), sum); !strings.Contains(s.logged(), want) {
		t.Errorf("the log is\n%s\nwant %q", s.logged(), want)
	}
}

func TestADirectoryIsUploadedFileByFile(t *testing.T) {
	s := newStage(t)
	for i := range 40 {
		s.write(fmt.Sprintf("out/sub%d/file%d", i%3, i), fmt.Sprint(i))
	}
	s.write("other/target", "linked")
	s.write("out/é", "x")
	s.link("out/inside", "../other/target")
	s.link("out/directory", "../other")
	s.link("out/nowhere", "absent")
	if s.upload(dirAt("out", "public/out"), dirAt("./", "")) {
		t.Error("complete, although a name cannot be had")
	}
	for i := range 40 {
		for _, prefix := range []string{"public/", ""} {
			if got := s.plain(t, fmt.Sprintf("%sout/sub%d/file%d", prefix, i%3, i)); got != fmt.Sprint(i) {
				t.Errorf("file %d is %q", i, got)
			}
		}
	}
	if got := s.plain(t, "public/out/inside"); got != "linked" {
		t.Errorf("the link's content is %q", got)
	}
	if n := len(s.records); n != 2*42+1 {
		t.Errorf("%d artifacts: %v", n, s.names())
	}
	if s.mostAlive > Parallel {
		t.Errorf("%d requests at once", s.mostAlive)
	}
	for _, want := range []string{"out/nowhere, a link that leads nowhere", "out/directory, a link to a directory", "unnamable-"} {
		if !strings.Contains(s.logged(), want) {
			t.Errorf("the log is\n%s\nwant %q", s.logged(), want)
		}
	}
}

func TestWhatIsNotThereIsRecorded(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret-file")
	if err := os.WriteFile(outside, []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		artifact payload.Artifact
		reason   string
	}{
		"nothing":                     {fileAt("absent"), missing},
		"nothing below a file":        {fileAt("f/g"), missing},
		"no directory":                {dirAt("absent", "absent"), missing},
		"a path above":                {fileAt("../log"), invalid},
		"a path above and back":       {fileAt("d/../../task/f"), invalid},
		"an absolute path":            {fileAt("/etc/passwd"), invalid},
		"a directory above":           {dirAt("..", "up"), invalid},
		"a path with NUL":             {payload.Artifact{Type: "file", Path: "a\x00b", Name: "nul", Expires: expires}, invalid},
		"an absolute link":            {fileAt("absolute"), invalid},
		"a link above":                {fileAt("above"), invalid},
		"a link to a directory above": {fileAt("up/log"), invalid},
		"links in a ring":             {fileAt("ring"), invalid},
		"a directory as a file":       {fileAt("d"), invalid},
		"a file as a directory":       {dirAt("f", "f"), invalid},
		"a pipe":                      {fileAt("pipe"), invalid},
		"a directory with a link out": {dirAt("bad", "bad"), invalid},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			s.write("f", "x")
			s.write("d/g", "x")
			s.link("absolute", outside)
			s.link("above", "../log")
			s.link("up", "..")
			s.link("ring", "ring")
			s.write("bad/fine", "x")
			s.link("bad/passwd", "/etc/passwd")
			if err := syscall.Mkfifo(filepath.Join(s.dir, "pipe"), 0o600); err != nil {
				t.Fatal(err)
			}
			if s.upload(test.artifact) {
				t.Error("complete")
			}
			found := 0
			for _, r := range s.records {
				if r.StorageType == "error" {
					found++
					if r.Reason != test.reason || r.Message == "" || !r.Expires.Time().Equal(expires) {
						t.Errorf("recorded %+v, want the reason %s", r, test.reason)
					}
				}
			}
			if found != 1 {
				t.Errorf("recorded %v", s.names())
			}
			for name, o := range s.objects {
				if string(o.content) != "x" {
					t.Errorf("uploaded %s: %q", name, o.content)
				}
			}
		})
	}
}

func TestAnOptionalArtifactMayBeMissingButNotBad(t *testing.T) {
	s := newStage(t)
	s.link("out", "/etc/passwd")
	absent, directory, bad := fileAt("absent"), dirAt("absent", "absent"), fileAt("out")
	absent.Optional, directory.Optional, bad.Optional = true, true, true
	if !s.upload(absent, directory) || len(s.records) > 0 {
		t.Errorf("not complete without what is optional: %v", s.names())
	}
	if s.upload(bad) {
		t.Error("complete with a link to outside")
	}
}

func TestANameThatIsRefusedFailsOnlyItself(t *testing.T) {
	s := newStage(t)
	s.write("refused", "x")
	s.write("fine", "x")
	if s.upload(fileAt("refused"), fileAt("fine")) {
		t.Error("complete")
	}
	if !slices.Equal(s.names(), []string{"fine s3"}) || !strings.Contains(s.logged(), "no such name") {
		t.Errorf("recorded %v, logged\n%s", s.names(), s.logged())
	}
}

func TestALargeFileGoesInParts(t *testing.T) {
	s := newStage(t)
	content := strings.Repeat("0123456789abcdef", 5<<20/16) + "end"
	s.write("large.bin", content)
	// Every third request fails in one way or another.
	s.disturb = func(n int, w http.ResponseWriter, r *http.Request) bool {
		switch {
		case n%3 != 0:
			return false
		case n%2 == 0:
			w.WriteHeader(http.StatusServiceUnavailable)
		default: // breaks off
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				panic(err)
			}
			conn.Close()
		}
		return true
	}
	if !s.upload(fileAt("large.bin")) {
		t.Errorf("not complete:\n%s", s.logged())
	}
	if s.plain(t, "large.bin") != content || !s.finished["large.bin"] {
		t.Error("the content is not the same")
	}
	if sum := sha256.Sum256([]byte(content)); !strings.Contains(s.logged(), hex.EncodeToString(sum[:])) {
		t.Errorf("the log does not tell the digest:\n%s", s.logged())
	}
}

func TestExpiredURLsAreAskedForAgain(t *testing.T) {
	for _, length := range []int{10, 5 << 20} {
		s := newStage(t)
		content := strings.Repeat("x", length)
		s.write("file.bin", content)
		s.disturb = func(n int, _ http.ResponseWriter, _ *http.Request) bool {
			if n == 1 {
				s.expire()
			}
			return false
		}
		if !s.upload(fileAt("file.bin")) {
			t.Errorf("%d bytes: not complete:\n%s", length, s.logged())
		}
		if s.plain(t, "file.bin") != content {
			t.Errorf("%d bytes: the content is not the same", length)
		}
		if !strings.Contains(s.logged(), "403 Forbidden (AccessDenied)") {
			t.Errorf("the log is\n%s", s.logged())
		}
	}
}

func TestABucketThatRefusesIsAnError(t *testing.T) {
	s := newStage(t)
	s.write("file.bin", "x")
	s.disturb = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	if _, err := s.Upload(t.Context(), s.dir, []payload.Artifact{fileAt("file.bin")}); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("err is %v", err)
	}
}

func TestABucketThatIsDownIsAnErrorInTheEnd(t *testing.T) {
	s := newStage(t)
	s.For = 0
	s.write("file.bin", "x")
	s.disturb = func(_ int, w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	if _, err := s.Upload(t.Context(), s.dir, []payload.Artifact{fileAt("file.bin")}); err == nil || !strings.Contains(err.Error(), "gave up") {
		t.Errorf("err is %v", err)
	}
}

func TestUploadEndsWithItsContext(t *testing.T) {
	s := newStage(t)
	s.write("file.bin", "x")
	ctx, cancel := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	s.disturb = func(_ int, _ http.ResponseWriter, r *http.Request) bool {
		cancel(enough)
		io.Copy(io.Discard, r.Body) // lets the server notice that the worker has gone
		<-r.Context().Done()
		return true
	}
	if _, err := s.Upload(ctx, s.dir, []payload.Artifact{fileAt("file.bin")}); !errors.Is(err, enough) {
		t.Errorf("err is %v", err)
	}
}

func TestAFileThatChangesMeanwhileIsNoticed(t *testing.T) {
	long := strings.Repeat("x", 3<<20)
	for name, change := range map[string]func(path string) error{
		"grows": func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteString("more")
			return errors.Join(err, f.Close())
		},
		"shrinks": func(path string) error { return os.Truncate(path, 10) },
		"is written over": func(path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("y"), 0)
			return errors.Join(err, f.Close(), os.Chtimes(path, info.ModTime(), info.ModTime())) // hides the traces
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			s.multi = 1 << 30
			s.write("file.bin", long)
			var once sync.Once
			// As soon as the queue is told about it, and before it is sent.
			s.Run = &recorder{s.platform, func() {
				once.Do(func() {
					if err := change(filepath.Join(s.dir, "file.bin")); err != nil {
						t.Error(err)
					}
				})
			}}
			if name == "is written over" { // after it was read, before it is sent
				s.Run = s.platform
				s.Client = &http.Client{Transport: before{func() {
					once.Do(func() {
						if err := change(filepath.Join(s.dir, "file.bin")); err != nil {
							t.Error(err)
						}
					})
				}}}
			}
			if s.upload(fileAt("file.bin")) {
				t.Error("complete")
			}
			if !strings.Contains(s.logged(), "The artifact file.bin is not whole: file.bin changed while it was being uploaded") {
				t.Errorf("the log is\n%s", s.logged())
			}
		})
	}
}

// recorder does something whenever an artifact is recorded.
type recorder struct {
	*platform
	then func()
}

func (r *recorder) CreateArtifact(ctx context.Context, name string, in *queue.PostArtifactRequest) (*queue.PostArtifactResponse, error) {
	out, err := r.platform.CreateArtifact(ctx, name, in)
	r.then()
	return out, err
}

// before does something before each request.
type before struct{ do func() }

func (b before) RoundTrip(r *http.Request) (*http.Response, error) {
	b.do()
	return http.DefaultTransport.RoundTrip(r)
}

func TestCompressible(t *testing.T) {
	for mediaType, want := range map[string]bool{
		"text/plain; charset=utf-8": true, "TEXT/CSV": true, "application/json": true, "application/vnd.api+json": true, "image/svg+xml": true,
		"application/octet-stream": false, "application/gzip": false, "image/png": false, "": false,
	} {
		if got := compressible(mediaType); got != want {
			t.Errorf("compressible(%q) is %v", mediaType, got)
		}
	}
}
