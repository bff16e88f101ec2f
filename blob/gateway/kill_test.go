package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/smithy-go"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/blob/gateway"
)

const (
	childDirectory = "TASKFLEET_TEST_GATEWAY_DIRECTORY"
	childListen    = "TASKFLEET_TEST_GATEWAY_LISTEN"
)

// child is a gateway in a process of its own, until that is killed.
func child() {
	g, err := gateway.Start(context.Background(), gateway.Config{
		Directory: os.Getenv(childDirectory), Listen: os.Getenv(childListen),
		AccessKeyID: "test", SecretAccessKey: "test", NoSync: true,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(g.Addr())
	g.WaitSwept()
	fmt.Println("swept")
	g.Wait()
}

// A process is a gateway that can be killed.
type process struct {
	*exec.Cmd
	addr   string
	lines  *bufio.Reader // what it tells
	output *bytes.Buffer // what it printed beside
	once   sync.Once
}

func startProcess(t testing.TB, directory, listen string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0]), output: new(bytes.Buffer)}
	p.Env = append(os.Environ(), childDirectory+"="+directory, childListen+"="+listen)
	p.Stderr = p.output
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	p.lines = bufio.NewReader(out)
	line, err := p.lines.ReadString('\n')
	if err != nil {
		p.kill()
		t.Fatalf("the gateway did not start: %v %s", err, p.output)
	}
	p.addr = strings.TrimSpace(line)
	t.Cleanup(p.kill)
	return p
}

// kill is kill -9.
func (p *process) kill() {
	p.once.Do(func() {
		p.Process.Kill()
		p.Wait()
	})
}

// body is bytes that can be told from all others and from a part of them.
func body(seed uint64, size int) []byte {
	p := make([]byte, 16+size)
	binary.BigEndian.PutUint64(p, seed)
	binary.BigEndian.PutUint64(p[8:], uint64(size))
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	rand.NewChaCha8(key).Read(p[16:])
	return p
}

// seedOf is the seed of a body, if it is a whole one.
func seedOf(p []byte) (uint64, bool) {
	if len(p) < 16 {
		return 0, false
	}
	seed := binary.BigEndian.Uint64(p)
	return seed, bytes.Equal(p, body(seed, len(p)-16))
}

// a fuse kills a process after so many steps or bytes.
type fuse struct {
	left atomic.Int64
	p    *process
}

func (f *fuse) burn(n int) {
	if f.left.Add(-int64(n)) <= 0 {
		f.p.kill()
	}
}

func (f *fuse) reader(p []byte) io.Reader { return io.TeeReader(bytes.NewReader(p), burning{f}) }

type burning struct{ *fuse }

func (b burning) Write(p []byte) (int, error) {
	b.burn(len(p))
	return len(p), nil
}

// history is what may be under a key.
type history struct {
	mu       sync.Mutex
	answered map[string]uint64   // the seed of the last PUT that was
	pending  map[string][]uint64 // those that were not, since
	uploads  map[string]pendingUpload
	written  int // objects that a check found
}

// A pendingUpload is one of which all parts are there.
type pendingUpload struct {
	id    string
	seed  uint64
	parts []blob.Part
}

func TestKilledAtAnyMomentItHasOnlyWholeObjects(t *testing.T) {
	for _, place := range places() {
		times := 12
		if place.name != "disk" {
			times = 4
		}
		t.Run(place.name, func(t *testing.T) { killOften(t, place.make(t), times) })
	}
}

func killOften(t *testing.T, directory string, times int) {
	const listen = "127.0.0.1:0" // another port each time: the one before may be somebody else's by then
	h := &history{answered: map[string]uint64{}, pending: map[string][]uint64{}, uploads: map[string]pendingUpload{}}
	var seeds atomic.Uint64
	random := rand.New(rand.NewPCG(1, 2))
	for range times {
		p := startProcess(t, directory, listen)
		s, err := blob.Open(t.Context(), blob.Config{
			Endpoint: "http://" + p.addr, Region: "us-east-1", AccessKeyID: "test", SecretAccessKey: "test", PathStyle: true,
			Transport: hasty{&http.Transport{}},
		})
		if err != nil {
			t.Fatal(err)
		}
		b := s.Bucket("bucket")
		if err := b.Ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.check(t, b)
		f := &fuse{p: p}
		f.left.Store(random.Int64N(6 << 20))
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				for f.left.Load() > 0 {
					h.write(t, b, f, &seeds)
				}
			})
		}
		group.Wait()
		p.kill()
		if p.output.Len() > 0 {
			t.Errorf("it printed: %s", p.output)
		}
	}
	p := startProcess(t, directory, listen)
	s, err := blob.Open(t.Context(), blob.Config{
		Endpoint: "http://" + p.addr, Region: "us-east-1", AccessKeyID: "test", SecretAccessKey: "test", PathStyle: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	b := s.Bucket("bucket")
	h.check(t, b)
	if line, err := p.lines.ReadString('\n'); line != "swept\n" {
		t.Errorf("what killed processes left was not looked for: %q, %v", line, err)
	}
	if h.written < 3*times {
		t.Errorf("only %d objects were written: that tests nothing", h.written)
	}
	clear(t, b)
	p.kill()
	for _, tree := range []string{"buckets", "metadata"} {
		filepath.WalkDir(filepath.Join(directory, tree), func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() && path != filepath.Join(directory, "metadata/bucket.attributes") {
				t.Errorf("left is %s", strings.TrimPrefix(path, directory))
			}
			return nil
		})
	}
}

// hasty fails at once when the gateway is gone, where the SDK would try again.
type hasty struct{ *http.Transport }

func (h hasty) RoundTrip(r *http.Request) (*http.Response, error) {
	a, err := h.Transport.RoundTrip(r)
	if err != nil {
		return nil, &smithy.CanceledError{Err: err}
	}
	return a, nil
}

// write puts one object, in one of the ways there are.
func (h *history) write(t *testing.T, b *blob.Bucket, f *fuse, seeds *atomic.Uint64) {
	seed := seeds.Add(1)
	key := fmt.Sprintf("dir/%d", seed%12) // written again and again
	content := body(seed, int(seed*7919%(1<<(seed%20))))
	f.burn(100) // for the moments before and after the bytes
	if seed%3 == 0 {
		h.upload(t, b, f, fmt.Sprintf("parts/%d", seed), seed, content)
		return
	}
	h.mu.Lock()
	h.pending[key] = append(h.pending[key], seed)
	h.mu.Unlock()
	target := key
	if seed%3 == 1 {
		target = fmt.Sprintf("source/%d", seed)
	}
	url, err := b.PresignPut(t.Context(), target, "", time.Hour)
	if err != nil {
		t.Error(err)
		return
	}
	done := send(t.Context(), url, f.reader(content), len(content))
	if done && target != key {
		go f.burn(1000) // at the same time as what follows
		_, err := b.Copy(t.Context(), key, b, target, "", blob.Headers{})
		done = err == nil
	}
	if done {
		h.mu.Lock()
		defer h.mu.Unlock()
		// Another writer may have been later, and its object be there now: those
		// that are pending stay possible until the next check.
		h.answered[key] = seed
	}
	f.burn(100)
}

func (h *history) upload(t *testing.T, b *blob.Bucket, f *fuse, key string, seed uint64, content []byte) {
	id, err := b.StartMultipart(t.Context(), key, blob.Headers{ContentType: "text/x-parts"})
	if err != nil {
		return
	}
	f.burn(100)
	url, err := b.PresignPart(t.Context(), key, id, 1, time.Hour)
	if err != nil {
		t.Error(err)
		return
	}
	if !send(t.Context(), url, f.reader(content), len(content)) {
		return
	}
	parts, err := b.Parts(t.Context(), key, id)
	if err != nil {
		return
	}
	h.mu.Lock()
	h.uploads[key] = pendingUpload{id, seed, parts}
	h.mu.Unlock()
	go f.burn(1000) // at the same time as what follows
	if _, err := b.CompleteMultipart(t.Context(), key, id, parts); err != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.uploads, key)
	h.answered[key] = seed
}

func send(ctx context.Context, url string, body io.Reader, size int) bool {
	r, err := http.NewRequestWithContext(ctx, "PUT", url, body)
	if err != nil {
		return false
	}
	r.ContentLength = int64(size)
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		return false
	}
	defer a.Body.Close()
	_, err = io.Copy(io.Discard, a.Body)
	return err == nil && a.StatusCode == 200
}

// check finds under each key what may be there, and completes what can be.
func (h *history) check(t *testing.T, b *blob.Bucket) {
	t.Helper()
	for key, u := range h.uploads {
		o, err := b.CompleteMultipart(t.Context(), key, u.id, u.parts)
		if err != nil || o.ContentType != "text/x-parts" {
			t.Errorf("upload %s, of which all parts were there, became %+v, %v", key, o, err)
		}
		delete(h.uploads, key)
		h.answered[key] = u.seed
	}
	found := map[string]uint64{}
	for o, err := range b.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		r, err := b.Get(t.Context(), o.Key, blob.Range{})
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		r.Close()
		seed, whole := seedOf(content)
		if err != nil || !whole || o.ETag == "" || o.ETag != r.ETag {
			t.Errorf("under %s are %d bytes (%+v, of seed %d, whole: %v), %v", o.Key, len(content), o, seed, whole, err)
			continue
		}
		found[o.Key] = seed
	}
	for key, seed := range h.answered {
		possible := append(h.pending[key], seed)
		if got, ok := found[key]; !ok {
			t.Errorf("under %s is nothing, though %d was put there", key, seed)
		} else if !contains(possible, got) {
			t.Errorf("under %s is %d, want one of %d", key, got, possible)
		}
	}
	h.written += len(h.answered)
	h.answered = map[string]uint64{}
	h.pending = map[string][]uint64{}
	for key, seed := range found {
		if strings.HasPrefix(key, "dir/") && len(h.answered) < 8 {
			h.answered[key] = seed // to be seen again after the next time
		} else if err := b.Delete(t.Context(), key); err != nil {
			t.Error(err)
		}
	}
}

func contains(seeds []uint64, seed uint64) bool {
	for _, s := range seeds {
		if s == seed {
			return true
		}
	}
	return false
}

// clear removes all that clients can see.
func clear(t *testing.T, b *blob.Bucket) {
	t.Helper()
	var keys []string
	for o, err := range b.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	if err := b.Delete(t.Context(), keys...); err != nil {
		t.Fatal(err)
	}
	for u, err := range b.Uploads(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if err := b.AbortMultipart(t.Context(), u.Key, u.ID); err != nil {
			t.Fatal(err)
		}
	}
}
