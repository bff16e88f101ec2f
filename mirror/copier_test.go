package mirror

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/store"
)

// Whatever its size, key and kind, an origin is copied to where the store copies
// by itself and to where it cannot, with its headers, and the copy is the same.
func TestCopies(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		bodies := map[Origin][]byte{}
		sizes := []int{0, 1, inlineSize, inlineSize + 1, partSize, partSize + 1}
		remote := []faulty.Object{
			{Size: 0}, {Size: 1000}, {Size: 1000, Always: []faulty.Fault{faulty.Chunked}}, {Size: 7, NoETag: true},
			{Size: 2 * unknownPart, Always: []faulty.Fault{faulty.Chunked}},
		}
		if !testing.Short() {
			sizes = append(sizes, 2*partSize+17)
			remote = append(remote, faulty.Object{Size: 2*partSize + 5}, faulty.Object{Size: 2*unknownPart + 5, Always: []faulty.Fault{faulty.Chunked}})
		}
		for i, size := range sizes {
			body := noise(i, size)
			bodies[w.artifact("task", strings.Repeat("x", i+1), body)] = body
		}
		for i, key := range []string{"../..//a", "naïve/日本/\n", strings.Repeat("ü", 500), "a b+c%2F~"} {
			body := noise(100+i, 3000)
			bodies[w.artifact("t", key, body)] = body
		}
		for _, o := range remote {
			o.ContentType, o.ContentEncoding = "text/plain", "identity"
			origin := w.remote("/pub/"+strings.Repeat("x", len(bodies)), o)
			var b bytes.Buffer
			if _, err := b.ReadFrom(w.origin.Content(origin.URL[len(w.originURL):])); err != nil {
				t.Fatal(err)
			}
			bodies[origin] = b.Bytes()
		}
		// URLs are read in the same way for all regions.
		to := func(o Origin) []string {
			if o.URL != "" && len(bodies[o]) > partSize {
				return []string{far}
			}
			return []string{near, far}
		}
		copies := map[string]int64{}
		for o := range bodies {
			for _, region := range to(o) {
				w.wanting(wish(region, o))
				copies[region]++
			}
		}
		w.count()
		w.settle(w.Mirror)
		for o, body := range bodies {
			for _, region := range to(o) {
				c := w.copyOf(region, o)
				if c.State != Present || c.Size != int64(len(body)) || c.SHA256 != "" && c.SHA256 != sha(body) || c.Upload != nil || c.Attempts != 0 {
					t.Errorf("%s in %s: %+v", o, region, c)
					continue
				}
				got, h := w.served(region, o)
				if !bytes.Equal(got, body) || h.Get("Content-Type") != "text/plain" || h.Get("Content-Encoding") != "identity" {
					t.Errorf("%s in %s: %d bytes, want %d; %v", o, region, len(got), len(body), h)
				}
			}
			if o.URL != "" {
				if n := w.origin.Count(o.URL[len(w.originURL):]); n.Gets != len(to(o)) || n.Heads != 0 {
					t.Errorf("%s was asked for %+v, for %d regions", o, n, len(to(o)))
				}
			}
		}
		if got := w.count(); got[tallied{near, Present}].Objects != copies[near] || got[tallied{far, Present}].Objects != copies[far] || len(got) != 2 {
			t.Errorf("there are %v", got)
		}
		w.noLitter()
	})
}

// Whatever the origin does wrong, the copy is right in the end, or it fails and
// says why.
func TestFaultsOfTheOrigin(t *testing.T) {
	onSQLite(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		small, large := int64(1000), int64(2*partSize+5)
		type origin struct {
			Origin
			what  string
			known bool // its SHA-256
			state State
		}
		var list []origin
		put := func(what string, o faulty.Object, known bool, state State) {
			path := fmt.Sprintf("/%d", len(list))
			list = append(list, origin{w.remote(path, o), what, known, state})
			want := wish(far, list[len(list)-1].Origin)
			if known {
				want.SHA256 = w.origin.SHA256(path)
			}
			w.wanting(want)
		}
		always := func(f faulty.Fault) func(string, int) faulty.Fault {
			return func(string, int) faulty.Fault { return f }
		}
		whatever := func(faults ...faulty.Fault) {
			for _, f := range faults {
				for _, size := range []int64{small, large} {
					// Where no byte of the body comes that can be used its size is of no matter.
					if size == large && (testing.Short() && f != faulty.Reset || f == faulty.InternalError || f == faulty.Unavailable || f == faulty.TooMany || f == faulty.Empty) {
						continue
					}
					o := faulty.Object{Size: size, Plan: faulty.Script(f)}
					state := Present
					if f == faulty.Empty {
						o.Plan, state = always(f), Failed
					}
					put(fmt.Sprint(f, " of ", size), o, true, state)
					if f != faulty.WrongBytes && f != faulty.ShortLength { // of which nobody can know
						put(fmt.Sprint(f, " of ", size, ", SHA-256 unknown"), o, false, state)
					}
				}
			}
		}
		whatever(faulty.Truncate, faulty.Reset, faulty.LongLength, faulty.ShortLength, faulty.WrongBytes, faulty.InternalError, faulty.Unavailable, faulty.TooMany, faulty.Empty)
		put("wrong range", faulty.Object{Size: large, Plan: faulty.Script(faulty.Truncate, faulty.WrongRange)}, true, Present)
		if !testing.Short() {
			put("no ranges", faulty.Object{Size: large, Always: []faulty.Fault{faulty.NoRanges}, Plan: faulty.Script(faulty.Truncate)}, true, Present)
			put("no ETag", faulty.Object{Size: large, NoETag: true, Plan: faulty.Script(faulty.Truncate)}, true, Present)
		}
		put("missing", faulty.Object{Size: small, Plan: always(faulty.Missing)}, false, Failed)
		put("redirect to secrets", faulty.Object{Size: small, Plan: always(faulty.RedirectToMetadata)}, false, Failed)
		put("redirect for ever", faulty.Object{Size: small, Plan: always(faulty.RedirectLoop)}, false, Failed)
		put("another SHA-256", faulty.Object{Size: small}, false, Present)
		w.settle(w.Mirror)
		// Only where it is to be given up for its silence is an origin given up soon.
		whatever(faulty.Stall, faulty.Trickle)
		w.config.HTTP = w.client(5 * time.Second)
		w.settle(w.start())
		for _, o := range list {
			c := w.copyOf(far, o.Origin)
			if c.State != o.state || (c.Error == "") != (o.state == Present) {
				t.Errorf("%s: %s, %q after %d attempts", o.what, c.State, c.Error, c.Attempts)
			}
			if c.State != Present {
				continue
			}
			path := o.URL[len(w.originURL):]
			body, _ := w.served(far, o.Origin)
			if c.SHA256 != sha(body) || c.SHA256 != w.origin.SHA256(path) || c.Size != int64(len(body)) {
				t.Errorf("%s: served are %d bytes with SHA-256 %s; %+v", o.what, len(body), sha(body), c)
			}
			if c.Size == large && strings.HasPrefix(o.what, "truncate") {
				if n := w.origin.Count(path); n.Bytes >= 2*large-partSize {
					t.Errorf("%s: what was copied was copied again: %+v", o.what, n)
				}
			}
		}
		w.count()
		w.noLitter()
	})
}

// What has the wrong size or the wrong SHA-256 is never served, however often it
// is tried.
func TestWhatIsWrongIsNotServed(t *testing.T) {
	onSQLite(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		for _, where := range []string{near, far} {
			for i, size := range []int{10, inlineSize + 1, partSize + 1} {
				o := w.artifact("t", fmt.Sprint(i), noise(i, size))
				want := wish(where, o)
				want.SHA256 = sha([]byte("something else"))
				w.wanting(want)
				w.set(where, o, func(c *Copy) { c.Attempts = maxAttempts - 1 })
				other := w.artifact("t", fmt.Sprint("size", i), noise(i, size))
				want = wish(where, other)
				want.Size = int64(size) + 1
				w.wanting(want)
				w.settle(w.Mirror)
				if c := w.copyOf(where, o); c.State != Failed || !strings.Contains(c.Error, "SHA-256") {
					t.Errorf("%d bytes in %s with another SHA-256: %s, %q", size, where, c.State, c.Error)
				}
				if c := w.copyOf(where, other); c.State != Failed || !strings.Contains(c.Error, "bytes") {
					t.Errorf("%d bytes in %s with another size: %s, %q", size, where, c.State, c.Error)
				}
			}
		}
		w.count()
		w.noLitter()
	})
}

// An origin that changes while it is copied is copied from the beginning.
func TestTheOriginChanges(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		w.copier.copySize = blob.MinPartSize
		w.copier.saveAfter = time.Millisecond
		size := 2*partSize + 5
		old, young := noise(1, partSize+1), noise(2, partSize+1)
		for _, where := range []string{near, far} {
			o := w.artifact("t", where, old)
			var parts atomic.Int32
			w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
				a, err := on()
				if r.Method == "PUT" && r.URL.Query().Has("partNumber") {
					if parts.Add(1) == 1 {
						w.wire.set(nil)
						w.artifact("t", where, young)
						return answer(r, 403, "<Error><Code>AccessDenied</Code></Error>")
					}
				}
				return a, err
			})
			w.wanting(wish(where, o))
			w.settle(w.Mirror)
			if body, _ := w.served(where, o); !bytes.Equal(body, young) {
				t.Errorf("in %s what is served is not what there is now: %+v", where, w.copyOf(where, o))
			}
		}
		remote := []faulty.Object{{Size: int64(size), Plan: faulty.Script(faulty.Truncate, faulty.Changed)}, {Size: int64(size), NoETag: true, Plan: faulty.Script(faulty.Truncate, faulty.Changed)}}
		if testing.Short() {
			remote = remote[:1]
		}
		for i, o := range remote {
			origin := w.remote(fmt.Sprint("/changes", i), o)
			w.wanting(wish(far, origin))
			w.settle(w.Mirror)
			if body, _ := w.served(far, origin); sha(body) != w.origin.SHA256(fmt.Sprint("/changes", i)) {
				t.Errorf("what is served is not what there is now: %+v", w.copyOf(far, origin))
			}
		}
		w.count()
		w.noLitter()
	})
}

// A bucket that fails is tried carefully, and nothing is given up meanwhile.
func TestABucketFailsAndRecovers(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		var list []Want
		for i := range 30 {
			o := w.artifact("t", fmt.Sprint(i), noise(i, 100))
			list = append(list, wish(near, o), wish(far, o))
		}
		w.wanting(list...)
		var mu sync.Mutex
		refused, late := 0, 0
		w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
			if !strings.HasPrefix(r.URL.Path, "/copies-far/") {
				return on()
			}
			mu.Lock()
			defer mu.Unlock()
			tried := r.Method == "PUT" // and nothing is deleted after an attempt that failed
			if tried && w.region(far).desk.broken.Load() {
				late++
			}
			if late > 3 {
				return on()
			}
			if tried {
				refused++
			}
			return answer(r, 403, "<Error><Code>AccessDenied</Code></Error>")
		})
		w.settle(w.Mirror)
		if most := defaultTransfers + seriousTrouble + 3; refused > most {
			t.Errorf("it was tried %d times while it failed, want at most %d", refused, most)
		}
		for _, want := range list {
			if c := w.copyOf(want.Region, want.Origin); c.State != Present {
				t.Errorf("in %s it is %s: %s", c.Region, c.State, c.Error)
			}
		}
		w.count()
	})
}

// Large copies do not keep small ones from being made, nor the other way round.
func TestLargeAndSmallAreFair(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		w.config.Regions[0].Transfers = 4
		m := w.start()
		var list []Want
		for i := range 8 { // unknown, so maybe large
			list = append(list, wish(near, w.remote(fmt.Sprint("/large", i), faulty.Object{Size: 1000})))
		}
		for i := range 40 {
			want := wish(near, w.remote(fmt.Sprint("/small", i), faulty.Object{Size: 1000}))
			want.Size, want.Priority = 1000, Bulk
			list = append(list, want)
		}
		var mu sync.Mutex
		little, held, most := 0, 0, 0 // transfers of small ones, and large ones at a time
		both := make(chan struct{})   // closed when two are large
		release := make(chan struct{})
		w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
			said := r.Header.Get("X-Amz-Meta-Taskfleet-Copy")
			if r.Method != "PUT" || said == "" {
				return on()
			}
			if strings.Contains(said, "/small") {
				<-both
				mu.Lock()
				if little++; little == 30 && most != 2 { // others still wait
					t.Errorf("while small ones waited %d of 4 transfers were large", most)
				}
				if little == 40 {
					close(release)
				}
				mu.Unlock()
				return on()
			}
			mu.Lock()
			if held++; held == 2 && most < 2 {
				close(both)
			}
			most = max(most, held)
			mu.Unlock()
			<-release
			mu.Lock()
			held--
			mu.Unlock()
			return on()
		})
		w.wanting(list...)
		w.settle(m)
		if got := w.count(); got[tallied{near, Present}].Objects != 48 {
			t.Errorf("there are %v", got)
		}
	})
}

// A thousand ask for the same at once: it is fetched once, and all are woken.
func TestAThousandWaiters(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		o := w.remote("/popular", faulty.Object{Size: 3 * partSize})
		ctx, stop := context.WithCancel(t.Context())
		var loops, all sync.WaitGroup
		loops.Go(func() { loop.NewRunner(w.log, loop.Alone, prometheus.NewRegistry()).Run(ctx, w.Loops()[:1]...) })
		for range 1000 {
			all.Go(func() {
				if _, err := w.want(t.Context(), wish(far, o)); err != nil {
					t.Error(err)
				}
				if c, err := w.await(t.Context(), far, o.ID(), patience); err != nil || c.State != Present {
					t.Errorf("%+v %v", c, err)
				}
			})
		}
		all.Wait()
		stop()
		loops.Wait()
		if n := w.origin.Count("/popular"); n.Gets != 1 || n.Heads != 0 {
			t.Errorf("it was asked for %+v", n)
		}
	})
}
