package purgecache

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

const root = "https://tasks.test"

// A world is a purge cache behind its HTTP methods.
type world struct {
	testing.TB
	*PurgeCache
	server *api.Server
	as     []string // scopes of the caller; nil is all
}

func newWorld(t testing.TB, db *store.DB) *world {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	p, err := New(t.Context(), Config{DB: db, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, PurgeCache: p}
	w.server = api.NewServer(api.Options{RootURL: root, Auth: w, Log: log, Metrics: prometheus.NewRegistry(), CheckOutput: !benchmarking(t)})
	if err := api.Mount(w.server, API, p); err != nil {
		t.Fatal(err)
	}
	return w
}

// Authenticate makes the world's caller of every request.
func (w *world) Authenticate(context.Context, api.Credential) (api.Identity, error) {
	if w.as == nil {
		return api.Identity{ClientID: "tester", Scopes: scope.NewSet("*")}, nil
	}
	return api.Identity{ClientID: "tester", Scopes: scope.NewSet(w.as...)}, nil
}

func benchmarking(t testing.TB) bool {
	_, yes := t.(*testing.B)
	return yes
}

type reply struct {
	status int
	text   string
	list   requestList
}

func (w *world) call(method, path string, body any) reply {
	w.Helper()
	var in bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&in).Encode(body); err != nil {
			w.Fatal(err)
		}
	}
	r := httptest.NewRequestWithContext(w.Context(), method, root+"/api/purge-cache/v1"+path, &in)
	r.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	w.server.ServeHTTP(rec, r)
	p := reply{status: rec.Code, text: rec.Body.String()}
	json.Unmarshal(rec.Body.Bytes(), &p.list) // an error stays in text
	return p
}

func (w *world) want(status int, method, path string, body any) reply {
	w.Helper()
	p := w.call(method, path, body)
	if p.status != status {
		w.Fatalf("%s %s: %d, want %d: %s", method, path, p.status, status, p.text)
	}
	return p
}

// order has a cache purged.
func (w *world) order(pool, cache string) {
	w.Helper()
	w.want(204, "POST", "/purge-cache/"+pool, map[string]string{"cacheName": cache})
}

// poll is what a worker of a pool is told: "cache 0s", with the time since the
// caches may be used.
func (w *world) poll(pool, since string) string {
	w.Helper()
	if since != "" {
		since = "?since=" + url.QueryEscape(since)
	}
	return w.want(200, "GET", "/purge-cache/"+pool+since, nil).told()
}

func (p reply) told() string {
	var list []string
	for _, r := range p.list.Requests {
		list = append(list, fmt.Sprint(r.CacheName, " ", timestamp.Now().Sub(r.Before)))
	}
	return strings.Join(list, ", ")
}

// run runs the loops until the test ends.
func (w *world) run() {
	ctx, stop := context.WithCancel(w.Context())
	done := make(chan error)
	go func() {
		done <- loop.NewRunner(slog.New(slog.DiscardHandler), loop.Alone, prometheus.NewRegistry()).Run(ctx, w.Loops()...)
	}()
	w.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			w.Error(err)
		}
	})
}

func (w *world) pass(name string) {
	w.Helper()
	for _, l := range w.Loops() {
		for more := l.Name == name; more; {
			var err error
			if more, err = l.Pass(w.Context()); err != nil {
				w.Fatal(err)
			}
		}
	}
}

func (w *world) rows() (n int) {
	w.Helper()
	if err := w.db.View(w.Context(), func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT count(*) FROM purge_request`).Scan(&n)
	}); err != nil {
		w.Fatal(err)
	}
	return n
}

func TestWorkersAreToldWhatToPurge(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		if p := w.want(200, "GET", "/purge-cache/p/w", nil); p.text != `{"requests":[]}` {
			t.Errorf("at first: %s", p.text)
		}
		w.order("p/w", "obj")
		w.order("p/other", "obj")
		if got := w.poll("p/w", ""); got != "obj 0s" {
			t.Errorf("right after: %s", got)
		}
		time.Sleep(time.Hour)
		w.order("p%2Fw", "checkouts")
		if got := w.poll("p%2Fw", ""); got != "checkouts 0s, obj 1h0m0s" {
			t.Errorf("after an hour: %s", got)
		}
		w.order("p/w", "obj")
		if got := w.poll("p/w", ""); got != "checkouts 0s, obj 0s" {
			t.Errorf("after the repetition: %s", got)
		}
		if p := w.want(200, "GET", "/purge-cache/p/other", nil); p.text != `{"requests":[{"provisionerId":"p","workerType":"other","cacheName":"obj","before":"2000-01-01T00:00:00.000Z"}]}` {
			t.Errorf("the other pool: %s", p.text)
		}
	})
}

func TestSinceLeavesOutWhatCameBefore(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.order("p/w", "a")
		time.Sleep(time.Minute)
		w.order("p/w", "b")
		for since, want := range map[string]string{
			"2000-01-01T00:00:00Z":          "a 1m0s, b 0s",
			"2000-01-01T00:00:00.001Z":      "b 0s",
			"2000-01-01T01:01:00.000+01:00": "b 0s",
			"2000-01-01T00:01:00.001Z":      "",
			"9999-12-31T00:00:00Z":          "",
			"0001-01-01T00:00:00Z":          "a 1m0s, b 0s",
		} {
			if got := w.poll("p/w", since); got != want {
				t.Errorf("since %s: %s", since, got)
			}
		}
		for _, since := range []string{"x", "yesterday", "2000-01-01", "5", "", strings.Repeat("9", 100), "2000-13-01T00:00:00Z"} {
			if p := w.want(400, "GET", "/purge-cache/p/w?since="+since, nil); !strings.Contains(p.text, "since") {
				t.Errorf("since %s: %s", since, p.text)
			}
		}
	})
}

func TestRequestsEndAfterADay(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		other := newWorld(t, db)
		for i := range batch + 5 {
			if err := w.purge(t.Context(), "p/old", fmt.Sprint(i)); err != nil {
				t.Fatal(err)
			}
		}
		w.order("p/w", "a")
		time.Sleep(12 * time.Hour)
		w.order("p/w", "b")
		time.Sleep(12 * time.Hour)
		for _, w := range []*world{w, other} {
			if got := w.poll("p/w", ""); got != "b 12h0m0s" {
				t.Errorf("after a day: %s", got)
			}
			if got := w.want(200, "GET", "/purge-cache/list", nil).told(); got != "b 12h0m0s" {
				t.Errorf("after a day, of all: %s", got)
			}
		}
		w.pass("purge-cache.expiry")
		if n := w.rows(); n != 1 {
			t.Errorf("%d rows are left", n)
		}
		for _, w := range []*world{w, other} {
			w.pass("purge-cache.refresh")
			if s := w.current.Load(); len(s.pools) != 1 || len(s.pools["p/w"]) != 1 {
				t.Errorf("kept in memory: %v", s.pools)
			}
		}
		before := w.current.Load().version
		w.pass("purge-cache.expiry")
		if w.pass("purge-cache.refresh"); w.current.Load().version != before {
			t.Error("a pass that deletes nothing is a change")
		}
	})
}

// The answer comes from memory. The proof is that the database is gone.
func TestPollingNeedsNoDatabase(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		synctest.Test(t, func(t *testing.T) {
			db := storetest.Open(t, url)
			w := newWorld(t, db)
			w.order("p/w", "a")
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(patience)
			if got := w.poll("p/w", ""); got != "a 3s" {
				t.Errorf("told %s", got)
			}
			// But nobody is told what may be long out of date.
			time.Sleep(time.Millisecond)
			if p := w.want(503, "GET", "/purge-cache/p/w", nil); !strings.Contains(p.text, "no cache is safe to use") {
				t.Errorf("when the answer is too old: %s", p.text)
			}
		})
	})
}

func TestReplicasFollowEachOther(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		one, two := newWorld(t, db), newWorld(t, db)
		one.order("p/w", "a")
		if one.poll("p/w", "") != "a 0s" || two.poll("p/w", "") != "" {
			t.Errorf("%s; %s", one.poll("p/w", ""), two.poll("p/w", ""))
		}
		// A process that takes a request itself has not missed those of others.
		two.order("p/w", "b")
		if got := two.poll("p/w", ""); got != "a 0s, b 0s" {
			t.Errorf("the second says %s", got)
		}
		one.pass("purge-cache.refresh")
		if got := one.poll("p/w", ""); got != "a 0s, b 0s" {
			t.Errorf("the first says %s", got)
		}
		// One whose loop does not run looks by itself, if late.
		two.order("p/w", "c")
		time.Sleep(patience + time.Millisecond)
		if got := one.poll("p/w", ""); got != "a 3.001s, b 3.001s, c 3.001s" {
			t.Errorf("the first says, later, %s", got)
		}
		// After a restart all is there.
		if got := newWorld(t, db).poll("p/w", ""); got != "a 3.001s, b 3.001s, c 3.001s" {
			t.Errorf("a new process says %s", got)
		}
	})
}

func TestARequestReachesReplicasWithinASecond(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		synctest.Test(t, func(t *testing.T) {
			// Each replica has a connection of its own, and no wake reaches it.
			one, two := newWorld(t, storetest.Open(t, url)), newWorld(t, storetest.Open(t, url))
			one.run()
			two.run()
			for i := range 5 {
				time.Sleep(777 * time.Millisecond)
				one.order("p/w", fmt.Sprint(i))
				time.Sleep(time.Second)
				synctest.Wait()
				if got := strings.Count(two.poll("p/w", ""), ","); got != i {
					t.Errorf("a second after request %d the other replica says %s", i, two.poll("p/w", ""))
				}
			}
		})
	})
}

// Wherever a request was taken, there the next question is answered with it,
// while others are taken here and elsewhere.
func TestManyRequestsAtTheSameTime(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		replicas := []*world{newWorld(t, db), newWorld(t, db)}
		var all sync.WaitGroup
		for i := range 8 {
			for n, w := range replicas {
				all.Go(func() {
					for j := range 10 {
						pool, cache := fmt.Sprint("p/", j%3), fmt.Sprintf("%d-%d", i, j)
						w.order(pool, cache)
						if !strings.Contains(w.poll(pool, "")+" ", cache+" ") {
							t.Errorf("replica %d was not told of %s", n, cache)
						}
					}
				})
			}
		}
		all.Wait()
		for _, w := range replicas {
			w.pass("purge-cache.refresh")
		}
		one, two := replicas[0].current.Load(), replicas[1].current.Load()
		if one.version != 160 || two.version != 160 || fmt.Sprint(one.pools) != fmt.Sprint(two.pools) {
			t.Errorf("the replicas disagree: version %d and %d", one.version, two.version)
		}
		for pool, list := range one.pools {
			if !slices.IsSortedFunc(list, func(a, b request) int { return strings.Compare(a.CacheName, b.CacheName) }) || len(list) < 24 {
				t.Errorf("%s: %v", pool, list)
			}
		}
	})
}

// A clock that is behind does not take back what another has set.
func TestARequestIsNeverTakenBack(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		ahead := timestamp.Now().Add(time.Minute)
		w.order("p/w", "a")
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			version, err := raise(tx)
			if err != nil {
				return err
			}
			_, err = tx.Exec(`UPDATE purge_request SET made_before = $1, version = $2`, ahead, version)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		w.order("p/w", "a")
		if got := w.poll("p/w", ""); got != "a -1m0s" {
			t.Errorf("told %s", got)
		}
	})
}

// A database that was put back to an earlier state has lower versions.
func TestADatabaseThatWasRestored(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		for range 3 {
			w.order("p/w", "lost")
		}
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			if _, err := tx.Exec(`UPDATE purge_version SET version = 1`); err != nil {
				return err
			}
			_, err := tx.Exec(`UPDATE purge_request SET cache_name = 'restored', version = 1`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		w.pass("purge-cache.refresh")
		if got := w.poll("p/w", ""); got != "restored 0s" {
			t.Errorf("told %s", got)
		}
	})
}

func TestPagingThroughAllRequests(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		add := func(pool, cache string) { w.order(pool, cache) }
		for i := range 10 {
			add("p/a", fmt.Sprint("c", i))
			add("p/b", fmt.Sprint("c", i))
		}
		seen := map[string]int{}
		token, pages := "", 0
		for {
			p := w.want(200, "GET", "/purge-cache/list?limit=3&continuationToken="+token, nil)
			if len(p.list.Requests) > 3 {
				t.Fatalf("a page of %d", len(p.list.Requests))
			}
			for _, r := range p.list.Requests {
				seen[r.pool()+" "+r.CacheName]++
			}
			if token = p.list.ContinuationToken; token == "" {
				break
			}
			if pages++; pages < 8 {
				add("p/a", fmt.Sprint("b", pages))
				add("p/a", fmt.Sprint("z", pages))
				add("p/c", fmt.Sprint("z", pages))
				add("a/a", fmt.Sprint("z", pages))
			}
		}
		for _, pool := range []string{"p/a", "p/b"} {
			for i := range 10 {
				if n := seen[fmt.Sprintf("%s c%d", pool, i)]; n != 1 {
					t.Errorf("%s c%d was listed %d times", pool, i, n)
				}
			}
		}
		for name, n := range seen {
			if n != 1 {
				t.Errorf("%s was listed %d times", name, n)
			}
		}
		for _, bad := range []string{"limit=0", "limit=x", "continuationToken=x", "continuationToken=WyJhIl0", "since=2000-01-01T00:00:00Z"} {
			w.want(400, "GET", "/purge-cache/list?"+bad, nil)
		}
	})
}

func TestEveryMethodAsksForItsScope(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		for _, c := range []struct {
			call, scope string
			body        any
		}{
			{"POST /purge-cache/p/w", "purge-cache:p/w:obj", map[string]string{"cacheName": "obj"}},
			{"GET /purge-cache/p/w", "purge-cache:purge-requests::p/w", nil},
			{"GET /purge-cache/list", "purge-cache:all-purge-requests", nil},
		} {
			verb, path, _ := strings.Cut(c.call, " ")
			w.as = []string{c.scope + "x", "purge-cache:p/x:*"}
			if p := w.want(403, verb, path, c.body); !strings.Contains(p.text, c.scope) {
				t.Errorf("%s: %s", c.call, p.text)
			}
			w.as = []string{c.scope}
			if p := w.call(verb, path, c.body); p.status >= 300 {
				t.Errorf("%s: %s", c.call, p.text)
			}
		}
	})
}

func TestHostileRequestsAreRefused(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		for _, pool := range []string{
			"p", "p/", "/w", "p/w/x", "p%2Fw%2Fx", "p//w", "p/w%00", "p/%ff", "p/%F0%9F%92%A9", "../w", "p/" + strings.Repeat("w", 39), "p/w%20", "p/'; DROP TABLE purge_request",
		} {
			for _, verb := range []string{"GET", "POST"} {
				if p := w.call(verb, "/purge-cache/"+strings.ReplaceAll(pool, " ", "%20"), map[string]string{"cacheName": "obj"}); p.status != 400 && p.status != 404 {
					t.Errorf("%s %s: %d %s", verb, pool, p.status, p.text)
				}
			}
		}
		for _, body := range []string{
			`{}`, `[]`, `null`, `"x"`, `{"cacheName": 5}`, `{"cacheName": null}`, `{"cacheName": ""}`, `{"cacheName": "x", "more": 1}`, `{"cacheName": ["x"]}`,
			`{"cacheName": "\u0000"}`, `{"cacheName": "x\u0000y"}`, "{\"cacheName\": \"\xff\"}", `{`, `{"cacheName": "` + strings.Repeat("x", maxName+1) + `"}`,
			`{"cacheName": "` + strings.Repeat("ü", maxName/2+1) + `"}`,
		} {
			if p := w.raw(body); p.status != 400 || !strings.Contains(p.text, "message") {
				t.Errorf("%.60s: %d %s", body, p.status, p.text)
			}
		}
		if w.rows() != 0 {
			t.Errorf("%d requests came of it", w.rows())
		}
		for _, name := range []string{"x", " ", "%2F", "../..", "ü\n\t\u2028", "' OR 1=1 --", `a"b\c`, strings.Repeat("ü", 127), "<&>"} {
			w.order("p/w", name)
			if p := w.want(200, "GET", "/purge-cache/p/w", nil); !slices.ContainsFunc(p.list.Requests, func(r request) bool { return r.CacheName == name }) {
				t.Errorf("%q does not come back: %s", name, p.text)
			}
		}
		if one, all := w.poll("p/w", ""), w.want(200, "GET", "/purge-cache/list", nil); len(all.list.Requests) != 9 || len(strings.Split(one, ", ")) != 9 {
			t.Errorf("told %s, listed %s", one, all.text)
		}
	})
}

// raw purges by a body as it is.
func (w *world) raw(body string) reply {
	r := httptest.NewRequestWithContext(w.Context(), "POST", root+"/api/purge-cache/v1/purge-cache/p/w", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	rec := httptest.NewRecorder()
	w.server.ServeHTTP(rec, r)
	return reply{status: rec.Code, text: rec.Body.String()}
}

func TestAPoolHasSoManyOpenRequests(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		var list []request
		for i := range maxOpen {
			list = append(list, request{"p", "w", fmt.Sprint(i), timestamp.Now(), timestamp.Now() + 1_000_000})
		}
		s := w.current.Load()
		w.current.Store(&snapshot{s.version, s.read, merge(s.pools, list, timestamp.Now())})
		if p := w.want(400, "POST", "/purge-cache/p/w", map[string]string{"cacheName": "more"}); !strings.Contains(p.text, "cacheName is one too many") {
			t.Errorf("%s", p.text)
		}
		w.order("p/w", "5") // is one of them
		w.order("p/other", "more")
	})
}

// The reply to a purge is empty, on a connection that goes on to be used.
func TestAPurgeIsAnsweredWithNoContent(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		s := httptest.NewServer(w.server)
		defer s.Close()
		for range 3 {
			r, err := s.Client().Post(s.URL+"/api/purge-cache/v1/purge-cache/p/w", "application/json", strings.NewReader(`{"cacheName":"obj"}`))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r.Body)
			r.Body.Close()
			if err != nil || r.StatusCode != 204 || len(b) > 0 || r.Header.Get("Content-Type") != "" {
				t.Errorf("%s, %v, %q: %v", r.Status, r.Header, b, err)
			}
		}
	})
}

// What a worker asks before every task, among 100 pools of 20 requests each,
// without network and authentication.
func BenchmarkPurgeRequests(b *testing.B) {
	w := newWorld(b, storetest.Open(b, storetest.URL(b, "sqlite")))
	var list []request
	for i := range 2000 {
		list = append(list, request{"p", fmt.Sprint("w", i%100), fmt.Sprint("cache-", i), timestamp.Now(), timestamp.Now() + 1_000_000_000})
	}
	now := timestamp.Now()
	w.current.Store(&snapshot{0, time.Now(), merge(nil, list, now)})
	for _, c := range []struct{ name, query string }{{"everything", ""}, {"since", "?since=" + (now + 1).String()}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					w.want(200, "GET", "/purge-cache/p/w7"+c.query, nil)
				}
			})
		})
	}
	b.Run("without HTTP", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s, err := w.recent(b.Context())
			if err != nil || len(s.open("p/w7", 0, now)) != 20 {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkPurgeCache(b *testing.B) {
	for _, kind := range []string{"sqlite", "postgres"} {
		b.Run(kind, func(b *testing.B) {
			w := newWorld(b, storetest.Open(b, storetest.URL(b, kind)))
			for i := 0; b.Loop(); i++ {
				w.order("p/w", fmt.Sprint(i%1000))
			}
		})
	}
}
