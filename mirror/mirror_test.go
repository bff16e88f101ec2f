package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/blob/blobtest"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/mirror/region"
	"github.com/taskfleet/taskfleet/mirror/source"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Tests wait for leases and back-off most of the time, and do it together.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// atOnce is storetest.EachReal, beside the other tests.
func atOnce(t *testing.T, f func(t *testing.T, db *store.DB)) {
	t.Helper()
	t.Parallel()
	storetest.EachURL(t, func(t *testing.T, url string) {
		t.Parallel()
		f(t, storetest.Open(t, url))
	})
}

// onSQLite is atOnce for what does not depend on the database: how bytes go wrong.
func onSQLite(t *testing.T, f func(t *testing.T, db *store.DB)) {
	t.Helper()
	t.Parallel()
	f(t, storetest.Open(t, storetest.URL(t, "sqlite")))
}

// The regions of a world. In near the bucket is on the same store as the
// artifacts, which copies by itself; in far it is on another, and bytes come by
// here.
const (
	home = "us-west-2"
	near = "us-east-1"
	far  = "eu-central-1"
)

// patience is how long is waited for what comes, also on a machine that has much else
// to do.
const patience = 5 * time.Minute

// A world is a mirror, and what is around it: stores, an origin that misbehaves,
// a catalog and pools that are made up.
type world struct {
	testing.TB
	*Mirror
	config    Config
	events    *event.Bus
	artifacts *blob.Bucket
	origin    *faulty.Origin
	originURL string // without a slash at the end
	wire      *wire  // to the stores of near and far
	catalog   *catalog
	pools     pools
}

// newTest makes a world on an empty database. It needs real time, as it has HTTP
// servers.
func newTest(t testing.TB, db *store.DB) *world {
	t.Helper()
	w := &world{TB: t, origin: faulty.New(1), wire: &wire{}, catalog: &catalog{list: map[string]Artifact{}}, pools: pools{}}
	server := httptest.NewServer(w.origin)
	t.Cleanup(server.Close)
	w.originURL = server.URL
	finder, err := region.New(region.Config{Regions: []string{home, near, far}})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.NewKeys(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo}))
	if w.events, err = event.New(t.Context(), db, log); err != nil {
		t.Fatal(err)
	}
	here, there := w.store(), w.store()
	w.artifacts = w.bucket(here, "artifacts")
	w.config = Config{
		DB: db, Events: w.events, Keys: keys, Log: log, RootURL: "https://tasks.example.com",
		Home: home, Artifacts: w.artifacts,
		Regions: []Region{{Name: near, Bucket: w.bucket(here, "copies-near")}, {Name: far, Bucket: w.bucket(there, "copies-far")}},
		HTTP:    w.client(patience), Finder: finder, Catalog: w.catalog, Pools: w.pools,
	}
	w.Mirror = w.start()
	return w
}

// client reads from the HTTP origin, and gives it up when it is slow for so long.
func (w *world) client(stall time.Duration) *source.Client {
	w.Helper()
	c, err := source.New(source.Config{Allow: []string{w.originURL + "/"}, Addresses: []string{"127.0.0.0/8"}, Stall: stall, RateWindow: stall})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(c.Close)
	return c
}

// start opens another mirror on the same database and buckets: another replica, or
// the same one after a restart. It gives nobody up for being slow.
func (w *world) start() *Mirror {
	w.Helper()
	m, err := New(w.Context(), w.config)
	if err != nil {
		w.Fatal(err)
	}
	m.copier.handLimit, m.copier.tidyLimit, m.probeLimit, m.collectLimit = patience, patience, patience, patience
	return m
}

// store is a store of its own, to which all requests go over the wire.
func (w *world) store() *blob.Store {
	c := blobtest.Start(w, w.TempDir(), "127.0.0.1:0").Blob()
	c.Transport = w.wire
	s, err := blob.Open(w.Context(), c)
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func (w *world) bucket(s *blob.Store, name string) *blob.Bucket {
	b := s.Bucket(name)
	if err := b.Ensure(w.Context()); err != nil {
		w.Fatal(err)
	}
	return b
}

// A wire is the way of requests to the stores, which a test can be in.
type wire struct {
	mu sync.Mutex
	// through passes a request on, or does not. Nil passes all on.
	through func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error)
}

func (x *wire) set(f func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.through = f
}

var transport = &http.Transport{MaxIdleConnsPerHost: 64}

// RoundTrip is part of http.RoundTripper.
func (x *wire) RoundTrip(r *http.Request) (*http.Response, error) {
	x.mu.Lock()
	f := x.through
	x.mu.Unlock()
	on := func() (*http.Response, error) { return transport.RoundTrip(r) }
	if f == nil {
		return on()
	}
	return f(r, on)
}

// answer is a response that a test makes up.
func answer(r *http.Request, status int, body string) (*http.Response, error) {
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/xml"}}, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}, nil
}

// artifact puts an artifact of a task and returns its origin.
func (w *world) artifact(taskID, name string, body []byte) Origin {
	w.Helper()
	key := taskID + "/0/" + name
	if _, err := w.artifacts.Put(w.Context(), key, bytes.NewReader(body), blob.Headers{ContentType: "text/plain", ContentEncoding: "identity"}); err != nil {
		w.Fatal(err)
	}
	w.catalog.add(Artifact{TaskID: taskID, Name: name, TaskQueueID: "proj/linux", Size: int64(len(body)), Expires: timestamp.Now().Add(time.Hour), Key: key})
	return Origin{Bucket: w.artifacts.Name(), Key: key}
}

// remote puts an object at the HTTP origin and returns it.
func (w *world) remote(path string, o faulty.Object) Origin {
	w.origin.Put(path, o)
	return Origin{URL: w.originURL + (&url.URL{Path: path}).EscapedPath()}
}

// wish is a want of an origin of which nothing is known.
func wish(region string, o Origin) Want {
	return Want{Region: region, Origin: o, Priority: Waited, Size: -1, Expires: timestamp.Now().Add(time.Hour)}
}

// wanting wants, and fails the test if that fails.
func (w *world) wanting(list ...Want) []*Copy {
	w.Helper()
	copies, err := w.want(w.Context(), list...)
	if err != nil {
		w.Fatal(err)
	}
	return copies
}

// settle makes the copies that there are to be made, until nothing will be for
// half a minute.
func (w *world) settle(m *Mirror) {
	w.Helper()
	if _, err := m.copier.shift(w.Context()); err != nil {
		w.Fatal(err)
	}
}

// copyOf is a copy as it is.
func (w *world) copyOf(region string, o Origin) *Copy {
	w.Helper()
	c, err := w.find(w.Context(), region, o.ID())
	if err != nil {
		w.Fatalf("find %s in %s: %v", o, region, err)
	}
	return c
}

// served is what whoever follows the URL of a copy gets.
func (w *world) served(region string, o Origin) ([]byte, http.Header) {
	w.Helper()
	c := w.copyOf(region, o)
	u, err := w.sign(w.Context(), c)
	if err != nil {
		w.Fatalf("%s in %s: %v (%s)", o, region, err, c.Error)
	}
	r, err := http.Get(u)
	if err != nil {
		w.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != 200 {
		w.Fatalf("%s in %s: %v %s", o, region, r.Status, err)
	}
	return body, r.Header
}

// count makes sure that the tallies are what can be counted.
func (w *world) count() tally {
	w.Helper()
	counted := tally{}
	var told tally
	err := w.db.View(w.Context(), func(tx *store.Tx) error {
		clear(counted)
		rows, err := tx.Query(`SELECT region, state, count(*), CAST(sum(CASE WHEN size > 0 THEN size ELSE 0 END) AS BIGINT) FROM mirror_copy GROUP BY region, state`)
		if err != nil {
			return err
		}
		for rows.Next() {
			var k tallied
			var s Sum
			if err := rows.Scan(&k.region, &k.state, &s.Objects, &s.Bytes); err != nil {
				return err
			}
			counted[k] = s
		}
		return rows.Err()
	})
	if err == nil {
		told, err = w.tallies(w.Context())
	}
	if err != nil {
		w.Fatal(err)
	}
	maps.DeleteFunc(told, func(_ tallied, s Sum) bool { return s == Sum{} })
	if !maps.Equal(told, counted) {
		w.Errorf("the tallies are %v, and there are %v", told, counted)
	}
	return counted
}

// keys are those of the objects in a region's bucket.
func (w *world) keys(region string) (list []string) {
	w.Helper()
	for o, err := range w.region(region).Bucket.List(w.Context(), "") {
		if err != nil {
			w.Fatal(err)
		}
		list = append(list, o.Key)
	}
	for u, err := range w.region(region).Bucket.Uploads(w.Context(), "") {
		if err != nil {
			w.Fatal(err)
		}
		list = append(list, "upload of "+u.Key)
	}
	return list
}

// noLitter makes sure that in the buckets there is what is served, and nothing else.
func (w *world) noLitter() {
	w.Helper()
	for _, p := range w.regions {
		var want []string
		err := w.db.View(w.Context(), func(tx *store.Tx) error {
			list, err := copies(tx, `SELECT `+copyColumns+` FROM mirror_copy WHERE region = $1 AND state = 'present' ORDER BY id`, p.Name)
			want = nil
			for _, c := range list {
				want = append(want, c.key())
				if c.needsOriginObject() {
					want = append(want, c.originKey())
				}
			}
			return err
		})
		if err != nil {
			w.Fatal(err)
		}
		slices.Sort(want)
		if got := w.keys(p.Name); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
			w.Errorf("in %s there is %q, want %q", p.Name, got, want)
		}
	}
}

// noise is bytes that are different for each seed.
func noise(seed, size int) []byte {
	out := make([]byte, size)
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], uint64(seed))
	rand.NewChaCha8(key).Read(out)
	return out
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

type testWriter struct{ testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.Log(string(bytes.TrimSpace(b)))
	return len(b), nil
}

// A catalog is the artifacts that a test has made.
type catalog struct {
	mu   sync.Mutex
	list map[string]Artifact // by key
}

func (c *catalog) add(a Artifact) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list[a.Key] = a
}

func (c *catalog) remove(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.list, key)
}

func (c *catalog) ArtifactAt(_ context.Context, key string) (Artifact, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.list[key]
	if !ok {
		return a, api.Errorf(api.ResourceNotFound, "There is no artifact %s.", key)
	}
	return a, nil
}

func (c *catalog) Artifacts(_ context.Context, taskID string) (list []Artifact, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(c.list)) {
		if c.list[key].TaskID == taskID {
			list = append(list, c.list[key])
		}
	}
	return list, nil
}

func (c *catalog) Dependencies(context.Context, string) (string, []string, error) {
	return "", nil, nil
}

// pools are the regions of task queues.
type pools map[string][]string

func (p pools) Regions(_ context.Context, taskQueueID string) ([]string, error) {
	return p[taskQueueID], nil
}

// newServer serves until the end of the test, and returns its URL.
func newServer(t testing.TB, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}
