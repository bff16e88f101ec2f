package mount

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/worker/archive"
	"github.com/taskfleet/taskfleet/worker/livelog"
	"github.com/taskfleet/taskfleet/worker/payload"
)

// web answers requests by path.
type web map[string]func(*http.Request) (*http.Response, error)

func (w web) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, found := w[r.URL.Path]
	if !found {
		return respond(404, "no such thing")(r)
	}
	return answer(r)
}

func respond(status int, body string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		return &http.Response{
			StatusCode: status, Status: fmt.Sprint(status, " ", http.StatusText(status)), Header: http.Header{},
			ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)), Request: r,
		}, nil
	}
}

// inTurn gives one answer after the other, and the last one for ever.
func inTurn(answers ...func(*http.Request) (*http.Response, error)) func(*http.Request) (*http.Response, error) {
	n := 0
	return func(r *http.Request) (*http.Response, error) {
		answer := answers[min(n, len(answers)-1)]
		n++
		return answer(r)
	}
}

// A stage is a worker's directory with one task after the other in it.
type stage struct {
	t      *testing.T
	dir    string
	caches *Caches
	web    web
	tasks  int
}

func newStage(t *testing.T) *stage {
	t.Helper()
	dir := t.TempDir()
	caches, err := NewCaches(filepath.Join(dir, "caches"))
	if err != nil {
		t.Fatal(err)
	}
	return &stage{t: t, dir: dir, caches: caches, web: web{}}
}

// task begins a task.
func (s *stage) task() *Mounter {
	s.t.Helper()
	s.tasks++
	base := filepath.Join(s.dir, fmt.Sprint("task", s.tasks))
	m := &Mounter{
		Dir: filepath.Join(base, "task"), Scratch: filepath.Join(base, "scratch"), Caches: s.caches,
		Limits: archive.Limits{Bytes: 1 << 20, Entries: 1000},
		Fetcher: &Fetcher{
			Client: &http.Client{Transport: s.web}, For: 5 * time.Minute, Stall: time.Minute,
			Locate: func(_ context.Context, taskID, name string) (string, error) {
				if name == "public/absent" {
					return "", errors.New("there is no such artifact")
				}
				return "http://bucket/" + taskID + "/" + name + "?signature=secret", nil
			},
		},
	}
	for _, d := range []string{m.Dir, m.Scratch} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			s.t.Fatal(err)
		}
	}
	var err error
	if m.Log, err = livelog.Create(filepath.Join(base, "log")); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { m.Log.End() })
	return m
}

func (s *stage) read(m *Mounter, name string) string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(m.Dir, name))
	if err != nil {
		s.t.Error(err)
	}
	return string(b)
}

func (s *stage) write(m *Mounter, name, content string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(m.Dir, name), []byte(content), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func text(content string) *payload.Content { return &payload.Content{Raw: &content} }

func sum(content string) string {
	digest := sha256.Sum256([]byte(content))
	return hex.EncodeToString(digest[:])
}

func tarball(t *testing.T, headers ...tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Mode = 0o644
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name)) // a file contains its name
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(w, h.Name)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func regular(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }

func TestContentOfEveryKind(t *testing.T) {
	s := newStage(t)
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	io.WriteString(w, "decompressed")
	w.Close()
	s.web["/abc/public/a.txt"] = respond(200, "an artifact")
	s.web["/url"] = respond(200, "a page")
	s.web["/f.gz"] = respond(200, gz.String())
	s.web["/a.tar"] = respond(200, tarball(t, regular("sub/file")))
	m := s.task()
	base64 := "Ynl0ZXM="
	err := m.Mount(t.Context(), []payload.Mount{
		{File: "deep/down/raw", Content: text("words")},
		{File: "base64", Content: &payload.Content{Base64: &base64}},
		{File: "artifact", Content: &payload.Content{TaskID: "abc", Artifact: "public/a.txt", SHA256: sum("an artifact")}},
		{File: "url", Content: &payload.Content{URL: "http://user:password@web/url?key=secret"}},
		{File: "f", Format: "gz", Content: &payload.Content{URL: "http://web/f.gz"}},
		{Directory: "d", Format: "tar", Content: &payload.Content{URL: "http://web/a.tar"}},
		{Directory: ".", Format: "tar", Content: &payload.Content{URL: "http://web/a.tar"}},
		{File: "deep/down/raw", Content: text("other words")},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Return(false)
	for name, want := range map[string]string{
		"deep/down/raw": "other words", "base64": "bytes", "artifact": "an artifact", "url": "a page",
		"f": "decompressed", "d/sub/file": "sub/file", "sub/file": "sub/file",
	} {
		if got := s.read(m, name); got != want {
			t.Errorf("%s contains %q, want %q", name, got, want)
		}
	}
	if left, err := os.ReadDir(m.Scratch); err != nil || len(left) > 0 {
		t.Errorf("downloads are left: %v, %v", left, err)
	}
	log, err := os.ReadFile(filepath.Join(filepath.Dir(m.Dir), "log"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(log), "secret") || strings.Contains(string(log), "password") {
		t.Errorf("the log tells secrets:\n%s", log)
	}
	if !strings.Contains(string(log), sum("a page")) {
		t.Errorf("the log does not tell the digest of what was downloaded:\n%s", log)
	}
}

func TestMountsThatFail(t *testing.T) {
	for name, test := range map[string]struct {
		mount       payload.Mount
		unavailable bool
		message     string
	}{
		"a wrong digest":        {payload.Mount{File: "f", Content: &payload.Content{URL: "http://web/page", SHA256: sum("other")}}, true, "has the SHA-256 " + sum("page")},
		"no such page":          {payload.Mount{File: "f", Content: &payload.Content{URL: "http://web/absent?key=secret"}}, true, "cannot download http://web/absent: the answer is 404"},
		"no such artifact":      {payload.Mount{File: "f", Content: &payload.Content{TaskID: "abc", Artifact: "public/absent"}}, true, "there is no such artifact"},
		"a page that is down":   {payload.Mount{File: "f", Content: &payload.Content{URL: "http://web/down"}}, true, "gave up after 5m"},
		"nobody there":          {payload.Mount{File: "f", Content: &payload.Content{URL: "http://web/refused"}}, true, "connection refused"},
		"too long":              {payload.Mount{File: "f", Content: &payload.Content{URL: "http://web/long"}}, false, "is longer than 1048576 bytes"},
		"secretly too long":     {payload.Mount{File: "f", Content: &payload.Content{URL: "http://web/unannounced"}}, false, "is longer than 1048576 bytes"},
		"an unknown encoding":   {payload.Mount{File: "f", Content: &payload.Content{URL: "http://web/brotli"}}, false, `Content-Encoding "br"`},
		"no base64":             {payload.Mount{File: "f", Content: &payload.Content{Base64: new("a")}}, false, "not valid base64"},
		"a hostile archive":     {payload.Mount{Directory: "d", Format: "tar", Content: &payload.Content{URL: "http://web/hostile"}}, false, `archive entry "../secret": the name contains ..`},
		"no archive":            {payload.Mount{Directory: "d", Format: "zip", Content: &payload.Content{URL: "http://web/page"}}, false, "not a valid zip"},
		"no gzip":               {payload.Mount{File: "f", Format: "gz", Content: &payload.Content{URL: "http://web/page"}}, false, "archive: "},
		"a place in a file":     {payload.Mount{File: "taken/f", Content: text("")}, false, "taken"},
		"a place that is taken": {payload.Mount{File: "dir", Content: text("")}, false, "there is a directory of that name already"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				s.web["/page"] = respond(200, "page")
				s.web["/down"] = respond(503, "")
				s.web["/refused"] = func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }
				s.web["/long"] = respond(200, strings.Repeat("x", 1<<20+1))
				s.web["/unannounced"] = func(r *http.Request) (*http.Response, error) {
					resp, err := respond(200, strings.Repeat("x", 1<<20+1))(r)
					resp.ContentLength = -1
					return resp, err
				}
				s.web["/brotli"] = func(r *http.Request) (*http.Response, error) {
					resp, err := respond(200, "x")(r)
					resp.Header.Set("Content-Encoding", "br")
					return resp, err
				}
				s.web["/hostile"] = respond(200, tarball(t, regular("../secret")))
				m := s.task()
				s.write(m, "taken", "")
				if err := os.Mkdir(filepath.Join(m.Dir, "dir"), 0o700); err != nil {
					t.Fatal(err)
				}
				err := m.Mount(t.Context(), []payload.Mount{test.mount})
				m.Return(false)
				var failure *Failure
				if !errors.As(err, &failure) {
					t.Fatalf("err is %v", err)
				}
				if failure.Unavailable != test.unavailable || !strings.Contains(failure.Message, test.message) {
					t.Errorf("failure is %+v, want unavailable %v, %q", failure, test.unavailable, test.message)
				}
				if strings.Contains(failure.Message, "secret") && name != "a hostile archive" {
					t.Errorf("%q tells a secret", failure.Message)
				}
				if _, err := os.Stat(filepath.Join(m.Dir, "f")); err == nil {
					t.Error("the file is there all the same")
				}
			})
		})
	}
}

func TestDownloadsAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.web["/f"] = inTurn(
			respond(500, "oops"), respond(403, "expired"),
			func(r *http.Request) (*http.Response, error) { // breaks off
				resp, err := respond(200, "the whole")(r)
				resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("the "), broken{}))
				return resp, err
			},
			func(r *http.Request) (*http.Response, error) { // stands still
				resp, err := respond(200, "the whole")(r)
				resp.Body = io.NopCloser(io.MultiReader(strings.NewReader("the who"), still{r.Context()}))
				return resp, err
			},
			respond(200, "the whole"),
		)
		m := s.task()
		if err := m.Mount(t.Context(), []payload.Mount{{File: "f", Content: &payload.Content{URL: "http://web/f", SHA256: sum("the whole")}}}); err != nil {
			t.Fatal(err)
		}
		m.Return(false)
		if got := s.read(m, "f"); got != "the whole" {
			t.Errorf("the file contains %q", got)
		}
	})
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

type still struct{ ctx context.Context }

func (s still) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

func TestMountingEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.web["/down"] = respond(503, "")
		m := s.task()
		canceled := errors.New("the task was canceled")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Minute, func() { cancel(canceled) })
		err := m.Mount(ctx, []payload.Mount{{File: "f", Content: &payload.Content{URL: "http://web/down"}}})
		m.Return(false)
		if !errors.Is(err, canceled) {
			t.Errorf("err is %v", err)
		}
	})
}

func TestACacheIsWhatTheLastTaskLeft(t *testing.T) {
	s := newStage(t)
	s.web["/a.tar"] = respond(200, tarball(t, regular("first")))
	mounts := []payload.Mount{{
		Directory: "a/cache", CacheName: "c", Format: "tar", Content: &payload.Content{URL: "http://web/a.tar"},
	}}
	mount := func() *Mounter {
		t.Helper()
		m := s.task()
		if err := m.Mount(t.Context(), mounts); err != nil {
			t.Fatal(err)
		}
		return m
	}

	one := mount()
	if got := s.read(one, "a/cache/first"); got != "first" {
		t.Errorf("the cache begins with %q", got)
	}
	s.write(one, "a/cache/second", "second")
	if err := os.Chmod(filepath.Join(one.Dir, "a/cache"), 0o500); err != nil {
		t.Fatal(err)
	}
	one.Return(false)

	two := mount()
	if got := s.read(two, "a/cache/second"); got != "second" {
		t.Errorf("the next task finds %q", got)
	}
	three := mount() // while two has it
	if _, err := os.Stat(filepath.Join(three.Dir, "a/cache/second")); err == nil {
		t.Error("two tasks have the same cache at the same time")
	}
	two.Return(false)
	three.Return(true) // purges

	four := mount()
	if _, err := os.Stat(filepath.Join(four.Dir, "a/cache/second")); err == nil {
		t.Error("the cache is there after it was purged")
	}
	four.Return(false)
}

func TestACacheCannotBeUsedToReachOutside(t *testing.T) {
	s := newStage(t)
	outside := filepath.Join(s.dir, "outside", "c")
	if err := os.MkdirAll(outside, 0o700); err != nil {
		t.Fatal(err)
	}
	cache := payload.Mount{Directory: "p/c", CacheName: "c"}

	// A task that puts a link in place of its cache, or above it, hands nothing over.
	for _, swap := range []func(dir string) error{
		func(dir string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, "p/c")), os.Symlink(outside, filepath.Join(dir, "p/c")))
		},
		func(dir string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, "p")), os.Symlink(filepath.Dir(outside), filepath.Join(dir, "p")))
		},
	} {
		m := s.task()
		if err := m.Mount(t.Context(), []payload.Mount{cache}); err != nil {
			t.Fatal(err)
		}
		if err := swap(m.Dir); err != nil {
			t.Fatal(err)
		}
		m.Return(false)
		if _, err := os.Stat(outside); err != nil {
			t.Fatalf("the directory outside was taken away: %v", err)
		}
		if kept := s.caches.take("c"); kept != "" {
			t.Errorf("%s was kept", kept)
		}
	}

	// A cache with a link in it does not lead the next task's mounts outside.
	m := s.task()
	if err := m.Mount(t.Context(), []payload.Mount{cache}); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(m.Dir, "p/c/out")); err != nil {
		t.Fatal(err)
	}
	m.Return(false)
	for _, second := range []payload.Mount{
		{Directory: "p/c/out/d", CacheName: "d"},
		{File: "p/c/out/f", Content: text("x")},
		{Directory: "p/c/out/d", Format: "zip", Content: text("x")},
	} {
		m := s.task()
		err := m.Mount(t.Context(), []payload.Mount{cache, second})
		m.Return(false)
		var failure *Failure
		if !errors.As(err, &failure) {
			t.Errorf("%+v: err is %v", second, err)
		}
	}
	if found, err := os.ReadDir(filepath.Dir(outside)); err != nil || len(found) != 1 {
		t.Errorf("outside there is %v, %v", found, err)
	}
}
