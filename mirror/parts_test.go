package mirror

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
)

// However large an object is, there are enough parts for it, none is too small or
// too large, and one fits in what there may be on disk, or in memory.
func TestSizesOfParts(t *testing.T) {
	s := sizesOfParts
	if got := s.of(s.object); got*int64(s.parts) < s.object || got > remoteSpoolLimit {
		t.Errorf("the parts of the largest object have %d bytes", got)
	}
	if got := s.of(3 * partSize); got != partSize {
		t.Errorf("the parts of what is not large have %d bytes", got)
	}
	if s.of(-1) != 0 || s.memory > bulkLimit || s.grown(1) > s.memory {
		t.Errorf("what is not known to be large is not read to memory: %+v", s)
	}
	var sum int64
	for n := 1; n <= s.parts; n++ {
		size := s.grown(n)
		if size < blob.MinPartSize || size > remoteSpoolLimit || n > 1 && size < s.grown(n-1) {
			t.Fatalf("part %d has %d bytes", n, size)
		}
		sum += size
	}
	if sum < s.object {
		t.Errorf("%d bytes can be copied where the size is not known, want %d", sum, s.object)
	}
}

// tight has parts be on disk that are no larger than others, and few of them.
func tight(m *Mirror) {
	m.copier.sizes = sizes{object: 29 << 20, parts: 4, memory: 7 << 20, unsure: []run{{1, 5 << 20}, {1, 6 << 20}, {2, 9 << 20}}}
}

// What is put from the disk, as its parts are too large for the memory, is gone on
// with, put again if the bucket fails, and right in the end.
func TestPartsOnDisk(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		const size = 27<<20 + 5
		for path, o := range map[string]faulty.Object{
			"/known":   {Size: size},
			"/unknown": {Size: size, Always: []faulty.Fault{faulty.Chunked}},
		} {
			origin := w.remote(path, o)
			want := wish(far, origin)
			want.SHA256 = w.origin.SHA256(path)
			w.wanting(want)
			ctx, stop := context.WithCancel(t.Context())
			first := w.start()
			tight(first)
			var failed, onDisk atomic.Bool
			w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
				n := r.URL.Query().Get("partNumber")
				if r.Method != "PUT" || n == "" {
					return on()
				}
				if r.ContentLength > first.copier.sizes.memory {
					onDisk.Store(true)
					spools := first.copier.spools
					if spools.TryAcquire(spoolLimit) {
						t.Errorf("part %s is neither in memory nor on disk", n)
					} else if spools.TryAcquire(spoolLimit - 9<<20) {
						spools.Release(spoolLimit - 9<<20)
					} else {
						t.Error("more than a part is on disk")
					}
				}
				if n == "3" {
					if failed.CompareAndSwap(false, true) {
						a, err := on()
						if err != nil {
							return a, err
						}
						a.Body.Close()
						return answer(r, 500, "<Error><Code>InternalError</Code></Error>")
					}
					defer stop()
				}
				return on()
			})
			if _, err := first.copier.shift(ctx); err != nil {
				t.Fatal(err)
			}
			c := w.copyOf(far, origin)
			if !onDisk.Load() || c.State != Waiting || c.Upload == nil || len(c.Upload.Parts) < 2 || c.Attempts != 0 {
				t.Fatalf("after the stop it is %+v", c)
			}
			begun := c.Upload.ID
			var ids sync.Map
			w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
				if id := r.URL.Query().Get("uploadId"); id != "" {
					ids.Store(id, true)
				}
				return on()
			})
			second := w.start()
			tight(second)
			w.settle(second)
			if c := w.copyOf(far, origin); c.State != Present || c.SHA256 != want.SHA256 || c.Size != size {
				t.Errorf("then it is %+v", c)
			}
			if body, _ := w.served(far, origin); sha(body) != want.SHA256 {
				t.Error("what is served is wrong")
			}
			ids.Range(func(id, _ any) bool {
				if id != begun {
					t.Errorf("the upload %s was begun, instead of %s being gone on with", id, begun)
				}
				return true
			})
			for _, m := range []*Mirror{first, second} {
				k := m.copier
				if !k.spools.TryAcquire(spoolLimit) || !k.slow.TryAcquire(remoteSpoolLimit) || !k.memory.TryAcquire(memoryLimit) || !k.remote.TryAcquire(remoteLimit) || !k.bulk.TryAcquire(bulkLimit) {
					t.Error("memory, or room on the disk, was not given back")
				}
			}
		}
		w.wire.set(nil)
		// As many bytes as there can be, and one more.
		tight(w.Mirror)
		w.copier.sizes.object++
		for path, o := range map[string]faulty.Object{
			"/full": {Size: 29 << 20, Always: []faulty.Fault{faulty.Chunked}},
			"/over": {Size: 29<<20 + 1, Always: []faulty.Fault{faulty.Chunked}},
		} {
			origin := w.remote(path, o)
			w.wanting(wish(far, origin))
			w.settle(w.Mirror)
			c := w.copyOf(far, origin)
			if path == "/full" && c.State != Present || path == "/over" && (c.State != Failed || !strings.Contains(c.Error, "as many parts")) {
				t.Errorf("%s: %+v", path, c)
			}
		}
		w.count()
		w.noLitter()
	})
}

// An upload whose parts the bucket does not take, again and again, is begun anew if
// it takes those of others.
func TestAnUploadThatIsStuck(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		for _, where := range []string{near, far} {
			w.copier.copySize = blob.MinPartSize
			origin := w.artifact("t", where, noise(1, 2*partSize+5))
			want := wish(where, origin)
			want.Size = 2*partSize + 5
			w.wanting(want)
			var stuck string
			w.set(where, origin, func(c *Copy) {
				c.Token = slugid.New()
				o, err := w.artifacts.Stat(t.Context(), origin.Key)
				if err == nil {
					stuck, err = w.region(where).Bucket.StartMultipart(t.Context(), c.key(), blob.Headers{})
				}
				if err != nil {
					t.Fatal(err)
				}
				c.ETag, c.Upload = o.ETag, &upload{ID: stuck, PartSize: partSize, Stuck: maxStuck - 1}
				if where == far {
					c.Upload.Hash = newHash().state()
				}
			})

			// As long as the bucket takes nothing it is kept.
			ctx, stop := context.WithCancel(t.Context())
			var probed atomic.Bool
			w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
				if r.Method != "PUT" || !r.URL.Query().Has("partNumber") {
					return on()
				}
				if r.URL.Query().Get("uploadId") != stuck && probed.CompareAndSwap(false, true) {
					stop()
				}
				return answer(r, 403, "<Error><Code>AccessDenied</Code></Error>")
			})
			if _, err := w.copier.shift(ctx); err != nil {
				t.Fatal(err)
			}
			if c := w.copyOf(where, origin); !probed.Load() || c.State != Waiting || c.Upload == nil || c.Upload.ID != stuck || c.Upload.Stuck < maxStuck {
				t.Fatalf("in %s, whose bucket takes nothing, it is %+v", where, c)
			}

			w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
				if r.Method == "PUT" && r.URL.Query().Get("uploadId") == stuck {
					return answer(r, 403, "<Error><Code>AccessDenied</Code></Error>")
				}
				return on()
			})
			w.settle(w.start())
			if c := w.copyOf(where, origin); c.State != Present || c.Attempts != 0 {
				t.Errorf("in %s it is %+v", where, c)
			}
			w.wire.set(nil)
		}
		w.count()
		w.noLitter()
	})
}
