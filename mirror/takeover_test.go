package mirror

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/blob/blobtest"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// inParts has a copier copy in small parts, and write down at once how far it is.
func inParts(m *Mirror) {
	m.copier.copySize, m.copier.saveAfter = blob.MinPartSize, time.Millisecond
}

// hasty has its leases be short, too. Work that takes longer is done again.
func hasty(m *Mirror) {
	inParts(m)
	m.copier.leaseTime, m.copier.renewAfter = time.Second, 250*time.Millisecond
}

// leasesEnd has the leases of all copiers run out, without anybody having to wait for
// that.
func (w *world) leasesEnd() {
	w.Helper()
	w.edit("lease_until = $1", "state = 'copying'", timestamp.Now())
}

// holdUp has the first request that fits wait until it is let go. began receives
// when it has come, that is, before the store has got it.
func (w *world) holdUp(fits func(*http.Request) bool) (began, letGo chan struct{}) {
	began, letGo = make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
		if fits(r) && held.CompareAndSwap(false, true) {
			close(began)
			<-letGo
		}
		return on()
	})
	return began, letGo
}

func puts(r *http.Request) bool { return r.Method == "PUT" }

// A copier that stops, loses its lease and comes back later changes nothing, and
// takes away what it has made.
func TestACopierComesBackFromTheDead(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		sizes := []int{100, partSize + 1, 2*partSize + 1}
		if testing.Short() {
			sizes = sizes[:2]
		}
		for i, size := range sizes {
			for _, where := range []string{near, far} {
				body := noise(i, size)
				o := w.artifact("t", fmt.Sprint(where, i), body)
				w.wanting(wish(where, o))
				dead, living := w.start(), w.start()
				inParts(dead)
				inParts(living)
				dead.copier.renewAfter = time.Hour
				dead.copier.saveAfter = time.Hour
				began, letGo := w.holdUp(puts)
				var done sync.WaitGroup
				done.Go(func() { w.settle(dead) })
				<-began
				w.leasesEnd()
				w.settle(living)
				is := w.copyOf(where, o)
				if is.State != Present {
					t.Errorf("%d bytes in %s: %+v", size, where, is)
				}
				close(letGo)
				done.Wait()
				if now := w.copyOf(where, o); now.Token != is.Token || now.Verified != is.Verified {
					t.Errorf("%d bytes in %s: it became %+v", size, where, now)
				}
				if got, _ := w.served(where, o); !bytes.Equal(got, body) {
					t.Errorf("%d bytes in %s are served wrongly", size, where)
				}
			}
		}
		w.count()
		w.noLitter()
	})
}

// What is purged, or expires, while it is copied is not there afterwards.
func TestACopyIsNotWantedAnyMore(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		inParts(w.Mirror)
		for i, size := range []int{100, partSize + 1} {
			for _, where := range []string{near, far} {
				for what, f := range map[string]func(c *Copy){
					"purged":  func(c *Copy) { c.leave() },
					"expired": func(c *Copy) { c.Expires = timestamp.Now() },
				} {
					o := w.artifact("t", fmt.Sprint(where, i, what), noise(i, size))
					w.wanting(wish(where, o))
					began, letGo := w.holdUp(puts)
					var done sync.WaitGroup
					done.Go(func() { w.settle(w.Mirror) })
					<-began
					w.set(where, o, f)
					close(letGo)
					done.Wait()
					if c := w.copyOf(where, o); c.State != Leaving || c.Again {
						t.Errorf("%s while %d bytes were copied to %s: %+v", what, size, where, c)
					}
				}
			}
		}
		life := newLife(w.Mirror)
		for more := true; more; {
			var err error
			if more, err = life.remove(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := w.count(); len(got) != 0 {
			t.Errorf("there are %v", got)
		}
		w.noLitter()
	})
}

// A copier that is told to stop leaves its work to others at once, who go on with
// the next part.
func TestACopierStops(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		size := int64(8 * partSize)
		o := w.remote("/large", faulty.Object{Size: size})
		want := wish(far, o)
		want.SHA256 = w.origin.SHA256("/large")
		w.wanting(want)
		ctx, stop := context.WithCancel(t.Context())
		var mu sync.Mutex
		parts := 0
		w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
			a, err := on()
			mu.Lock()
			defer mu.Unlock()
			if r.URL.Query().Has("partNumber") {
				if parts++; parts == 4 {
					stop()
				}
			}
			return a, err
		})
		if _, err := w.copier.shift(ctx); err != nil {
			t.Fatal(err)
		}
		c := w.copyOf(far, o)
		if c.State != Waiting || c.Attempts != 0 || c.Error != "" || c.Lease != "" || c.Upload == nil || c.Done < partSize {
			t.Fatalf("after the stop it is %+v", c)
		}
		w.settle(w.start())
		if c := w.copyOf(far, o); c.State != Present || c.SHA256 != want.SHA256 {
			t.Errorf("then it is %+v", c)
		}
		if n := w.origin.Count("/large"); n.Gets != 2 {
			t.Errorf("it was asked for %+v", n)
		}
		w.noLitter()
	})
}

// Two replicas share the work, and nothing is fetched twice.
func TestTwoReplicasShareTheWork(t *testing.T) {
	t.Parallel()
	storetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		w := newTest(t, storetest.Open(t, url))
		replicas := []*Mirror{w.Mirror}
		if strings.HasPrefix(url, "postgres") {
			w.config.DB = storetest.Open(t, url)
			var err error
			if w.config.Events, err = event.New(t.Context(), w.config.DB, w.config.Log); err != nil {
				t.Fatal(err)
			}
		}
		replicas = append(replicas, w.start())
		const n = 300
		var list []Want
		for i := range n {
			want := wish(far, w.remote(fmt.Sprint("/", i), faulty.Object{Size: int64(i)}))
			if i%3 > 0 {
				want.Size = int64(i)
			}
			list = append(list, want)
		}
		var all sync.WaitGroup
		for i, m := range replicas {
			all.Go(func() {
				for range 2 {
					if _, err := m.want(t.Context(), list...); err != nil {
						t.Error(err)
					}
				}
				if _, err := m.copier.shift(t.Context()); err != nil {
					t.Errorf("replica %d: %v", i, err)
				}
			})
		}
		all.Wait()
		if got := w.count(); got[tallied{far, Present}].Objects != n || len(got) != 1 {
			t.Errorf("there are %v", got)
		}
		for i := range n {
			if c := w.origin.Count(fmt.Sprint("/", i)); c.Gets != 1 {
				t.Errorf("object %d was asked for %+v", i, c)
			}
		}
		w.noLitter()
	})
}

// killed is how a process of this test is told what to do: to copy what waits in
// the database at the URL, with its stores at an address.
const killed = "TASKFLEET_TEST_MIRROR_KILLED"

// TestKilledProcess is the process that TestKilledAtAnyPoint kills, and nothing in
// any other.
func TestKilledProcess(t *testing.T) {
	text, ok := os.LookupEnv(killed)
	if !ok {
		return
	}
	database, endpoint, _ := strings.Cut(text, " ")
	w := newQuiet(t, storetest.Open(t, database))
	w.config.Artifacts, w.config.Regions = killedBuckets(t, endpoint, os.Getenv(killed+"_KEY"))
	m := w.start()
	hasty(m)
	w.settle(m)
}

func killedBuckets(t *testing.T, endpoint, secret string) (*blob.Bucket, []Region) {
	open := func(endpoint string) *blob.Store {
		s, err := blob.Open(t.Context(), blob.Config{Endpoint: endpoint, Region: "us-east-1", AccessKeyID: "test", SecretAccessKey: secret, PathStyle: true})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// By another name of the host the store is another, for all that can be known.
	s, other := open(endpoint), open(strings.Replace(endpoint, "127.0.0.1", "localhost", 1))
	return s.Bucket("artifacts"), []Region{{Name: near, Bucket: s.Bucket("copies-near")}, {Name: far, Bucket: other.Bucket("copies-far")}}
}

// A process is killed at each of its requests to the stores, in turn before the
// store has got it and before its answer has come. Another one finishes the work,
// and what it serves is right.
func TestKilledAtAnyPoint(t *testing.T) {
	t.Parallel()
	storetest.EachURL(t, func(t *testing.T, database string) {
		t.Parallel()
		gateway := blobtest.Start(t, t.TempDir(), "127.0.0.1:0").Blob()
		target, err := url.Parse(gateway.Endpoint)
		if err != nil {
			t.Fatal(err)
		}
		proxy := &killer{proxy: &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		}, ErrorLog: log.New(io.Discard, "", 0)}}
		server := newServer(t, proxy)
		buckets, regions := killedBuckets(t, server, gateway.SecretAccessKey)
		for _, b := range []*blob.Bucket{buckets, regions[0].Bucket, regions[1].Bucket} {
			if err := b.Ensure(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		var bodies [][]byte
		for i, size := range []int{1000, partSize + 1} {
			bodies = append(bodies, noise(i, size))
		}
		for at := 1; ; at++ {
			db := storetest.Open(t, database)
			w := newQuiet(t, db)
			w.artifacts, w.config.Artifacts, w.config.Regions = buckets, buckets, regions
			w.catalog = &catalog{list: map[string]Artifact{}}
			w.Mirror = w.start()
			var list []Want
			for i, body := range bodies {
				o := w.artifact("t", fmt.Sprint(at, "/", i), body)
				for _, r := range regions {
					want := wish(r.Name, o)
					want.Size = int64(len(body))
					list = append(list, want)
				}
			}
			w.wanting(list...)
			child := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledProcess$")
			child.Env = append(os.Environ(), killed+"="+database+" "+server, killed+"_KEY="+gateway.SecretAccessKey)
			var out bytes.Buffer
			child.Stdout, child.Stderr = &out, &out
			if err := proxy.arm(at, at%2 == 0, child); err != nil {
				t.Fatal(err)
			}
			err := child.Wait()
			over := !proxy.disarm()
			if over && err != nil {
				t.Fatalf("the process that was not killed: %v\n%s", err, &out)
			}
			hasty(w.Mirror)
			w.leasesEnd()
			// PostgreSQL may take a moment to notice that the process is gone, which has
			// rows locked until then, and a machine that is busy more than a lease to write
			// down how a copy ended; the loop looks now and then.
			for more := true; more; {
				w.settle(w.Mirror)
				more = false
				for k, n := range w.count() {
					more = more || (k.state == Waiting || k.state == Copying) && n.Objects > 0
				}
			}
			for i, want := range list {
				c := w.copyOf(want.Region, want.Origin)
				if got, _ := w.served(want.Region, want.Origin); c.State != Present || !bytes.Equal(got, bodies[i/2]) {
					t.Errorf("killed at request %d: %+v", at, c)
				}
			}
			w.count()
			if over {
				return
			}
		}
	})
}

// A killer passes requests on and kills the process that makes them at one of
// them, before or after it was passed on.
type killer struct {
	proxy *httputil.ReverseProxy

	mu     sync.Mutex
	left   int // requests until then; 0: none
	before bool
	child  *exec.Cmd
	done   bool
}

// arm starts the process that is to be killed.
func (k *killer) arm(at int, before bool, child *exec.Cmd) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left, k.before, k.child, k.done = at, before, child, false
	return child.Start()
}

// disarm tells whether somebody was killed.
func (k *killer) disarm() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left, k.child = 0, nil
	return k.done
}

// ServeHTTP is part of http.Handler.
func (k *killer) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	k.left--
	kill, child := k.left == 0 && k.child != nil, k.child
	k.done = k.done || kill
	k.mu.Unlock()
	if kill && k.before {
		child.Process.Kill()
		panic(http.ErrAbortHandler)
	}
	if !kill {
		k.proxy.ServeHTTP(rw, r)
		return
	}
	k.proxy.ServeHTTP(unanswered{http.Header{}}, r)
	child.Process.Kill()
	panic(http.ErrAbortHandler)
}

// unanswered is where an answer goes that nobody gets.
type unanswered struct{ header http.Header }

func (u unanswered) Header() http.Header       { return u.header }
func (unanswered) Write(p []byte) (int, error) { return len(p), nil }
func (unanswered) WriteHeader(int)             {}
