package mirror

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// Nothing is signed but what is an artifact, wherever the caller is and whatever
// else fails.
func TestOnlyArtifactsAreSigned(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db, Route{Name: "behind", Policy: Redirect})
		put := func(key string) string {
			t.Helper()
			if _, err := w.artifacts.Put(t.Context(), key, strings.NewReader("secret"), blob.Headers{}); err != nil {
				t.Fatal(err)
			}
			return Origin{Bucket: w.artifacts.Name(), Key: key}.String()
		}
		refused := func(what, of string) {
			t.Helper()
			for _, region := range []string{home, near} {
				if p := w.redirected(region, of); p.status != 404 || p.location != "" {
					t.Errorf("%s in %s: %d %s", what, region, p.status, p.text)
				}
			}
		}
		refused("an object of the object service", put("object/"+someTask+"/public/x"))
		refused("an object that looks like an artifact", put("object/0/public/x"))
		refused("another name of a run", put(someTask+"/00/public/x"))
		refused("what the queue does not know", put(someTask+"/0/public/unfinished"))
		o := w.artifact(someTask, "public/a", []byte("a"))
		if p := w.redirected(home, o.String()); p.status != 302 || w.get("GET", p.location, nil).text != "a" {
			t.Errorf("an artifact, at home: %d %s", p.status, p.text)
		}

		// A copy is of what was an artifact; its origin may not be one any more.
		w.wanting(wish(near, o))
		w.settle(w.Mirror)
		w.catalog.remove(o.Key)
		w.demandCopy(near, o.String(), []byte("a"))
		w.region(near).health.away.Store(true)
		if p := w.redirected(near, o.String()); p.status != 404 || p.location != "" {
			t.Errorf("a copy in a bucket that is away: %d %s", p.status, p.text)
		}
		w.finds = store.NewBatch(func(context.Context, func(*store.Tx) error) error { return errors.New("no database") }, 1, 1, w.findAll)
		if p := w.redirected(near, o.String()); p.status != 404 || p.location != "" {
			t.Errorf("without an index: %d %s", p.status, p.text)
		}
	})
}

// What is there is served though its route would not make it, but for routes that
// are off.
func TestWhatIsThereIsServed(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db, Route{Name: "never", TaskQueue: "proj/*", Artifact: "*/never", Policy: Off}, Route{Name: "far", Artifact: "*/far", Regions: []string{far}})
		never, elsewhere := w.artifact(someTask, "public/never", []byte("never")), w.artifact(someTask, "public/far", []byte("far"))
		p := w.redirected(near, elsewhere.String())
		if p.status != 302 || !strings.Contains(p.text, "makes no copies in "+near) {
			t.Errorf("before: %d %s", p.status, p.text)
		}
		w.wanting(wish(near, never), wish(near, elsewhere))
		if p := w.redirected(near, elsewhere.String()); p.status != 302 || !strings.Contains(p.text, "makes no copies in "+near) {
			t.Errorf("under way: %d %s", p.status, p.text)
		}
		w.settle(w.Mirror)
		w.demandCopy(near, elsewhere.String(), []byte("far"))
		if p := w.redirected(near, never.String()); p.status != 302 || !strings.Contains(p.text, "the route never makes no copies") {
			t.Errorf("off: %d %s", p.status, p.text)
		}
	})
}

// Where many copies wait nobody adds to them who may not ask for copies.
func TestACrowdIsNotAddedTo(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db, Route{Name: "behind", Policy: Redirect})
		there, other := w.remote("/pub/a", faulty.Object{Size: 500}), w.originURL+"/pub/b?v=1"
		w.wanting(wish(near, there))
		w.settle(w.Mirror)
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`INSERT INTO mirror_tally (region, state, objects, bytes) VALUES ($1, 'waiting', $2, 0)
				ON CONFLICT (region, state) DO UPDATE SET objects = excluded.objects`, near, maxCrowd)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for p := w.region(near); p.crowd.waiting.Load() < maxCrowd; { // a machine that is too busy to look in time looks again
			p.crowd.looked.Store(0) // as if a second had passed
			w.crowded(t.Context(), near)
		}
		if p := w.redirected(near, other); p.location != other || !strings.Contains(p.text, "10000 copies wait in "+near) {
			t.Errorf("in a crowd: %d %s", p.status, p.text)
		}
		if p := w.answers(200, "GET", "/explain/"+near+"/"+url.PathEscape(other), nil); p.body["answer"] != "origin" || !strings.Contains(p.text, "10000 copies wait in "+near) {
			t.Errorf("explained: %s", p.text)
		}
		o := Origin{URL: other}
		if _, err := w.find(t.Context(), near, o.ID()); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("it is wanted: %v", err)
		}
		if p := w.redirected(near, there.URL); p.body["status"] != "present" {
			t.Errorf("what is there: %d %s", p.status, p.text)
		}
		if p := w.redirected(far, other); !strings.Contains(p.text, "The copy is being made") {
			t.Errorf("in another region: %d %s", p.status, p.text)
		}
		w.auth = holder("mirror:copy:" + near)
		if p := w.redirected(near, other); !strings.Contains(p.text, "The copy is being made") {
			t.Errorf("for who may ask for copies: %d %s", p.status, p.text)
		}
	})
}

// Where the database hangs nobody waits for longer than the route says.
func TestAHangingDatabaseHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		// hangs is how many transactions go well before the rest do not end.
		hangs := func(transact func(context.Context, func(*store.Tx) error) error, after int32) func(context.Context, func(*store.Tx) error) error {
			var n atomic.Int32
			return func(ctx context.Context, f func(*store.Tx) error) error {
				if n.Add(1) <= after {
					return transact(ctx, f)
				}
				<-ctx.Done()
				return ctx.Err()
			}
		}
		a := deskArtifact("public/x")
		try := func(what string, looks, wants int32) {
			t.Helper()
			m, _ := deskMirror(t, db, &library{}, Route{Name: "wait", MaxWait: 10 * time.Second})
			m.finds = store.NewBatch(hangs(db.ViewOnce, looks), 1, 1, m.findAll)
			m.wants = store.NewBatch(hangs(db.Do, wants), 1, 1, m.wantAll)
			start := time.Now()
			d, err := m.decide(t.Context(), m.plan(m.guide.stored(&a), &a, "eu"))
			if took := time.Since(start); took > 10*time.Second+100*time.Millisecond || d.URL != "" || err == nil && d.Outcome != outcomeLate {
				t.Errorf("%s hangs: %+v, %v after %s", what, d, err, took)
			}
		}
		try("the first look", 0, 0)
		try("asking for it", 1, 0)
		try("the first look of who waits", 1, 1)
		try("the second look of who waits", 2, 1)
		time.Sleep(2 * time.Minute) // until those that hang have ended
		synctest.Wait()
	})
}

// A URL that is signed with temporary credentials is not handed out again.
func TestURLsOfTemporaryCredentialsAreNotKept(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		m, _ := deskMirror(t, db, &library{})
		for _, session := range []string{"", "session"} {
			t.Setenv("AWS_SESSION_TOKEN", session)
			s, err := blob.Open(t.Context(), blob.Config{Endpoint: "http://s3.test", Region: "us-east-1", PathStyle: true})
			if err != nil {
				t.Fatal(err)
			}
			m.region("eu").Bucket = s.Bucket("copies-eu")
			a := deskArtifact("public/x" + session)
			m.become(t, "eu", m.guide.stored(&a), Present)
			c, err := m.find(t.Context(), "eu", m.guide.stored(&a).ID())
			if err != nil {
				t.Fatal(err)
			}
			first, err := m.sign(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			if again, err := m.sign(t.Context(), c); err != nil || (again == first) != (session == "") {
				t.Errorf("with the session %q: %s and %s, %v", session, first, again, err)
			}
		}
	})
}

// The client has a minute for the last byte, too, which may come long after the one
// before.
func TestTheLastByteHasItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &deadlined{}
		out := &outflow{to: rec, control: http.NewResponseController(rec)}
		if _, err := out.begin(blob.Headers{}, 2).Write([]byte("ab")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * stall)
		if err := out.finish(); err != nil || rec.until.Sub(time.Now()) != stall {
			t.Errorf("%v, until %s at %s", err, rec.until, time.Now())
		}
	})
}

// deadlined is a client with a deadline.
type deadlined struct {
	header http.Header
	until  time.Time
}

func (d *deadlined) Header() http.Header {
	if d.header == nil {
		d.header = http.Header{}
	}
	return d.header
}
func (d *deadlined) WriteHeader(int)                        {}
func (d *deadlined) SetWriteDeadline(until time.Time) error { d.until = until; return nil }
func (d *deadlined) Write(p []byte) (int, error) {
	if !d.until.After(time.Now()) {
		return 0, errors.New("too late")
	}
	return len(p), nil
}
