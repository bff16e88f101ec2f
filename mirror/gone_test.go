package mirror

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// delete deletes a region's bucket.
func (w *world) delete(region string) {
	w.Helper()
	b := w.region(region).Bucket
	if err := errors.Join(b.Delete(w.Context(), w.keys(region)...), b.Remove(w.Context())); err != nil {
		w.Fatal(err)
	}
}

// A bucket that is not there is away at once, and what is there when it comes back
// is compared with the index before anybody is sent to it.
func TestABucketIsGone(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		list := w.made(3, 100, near, far)
		life, other := newLife(w.Mirror), w.start()
		all(t, life.sweep)
		probe := func(list ...*Mirror) {
			t.Helper()
			for _, m := range list {
				if _, err := m.probe(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		demand := func(m *Mirror, want outcome, text string) {
			t.Helper()
			d, err := m.conclude(t.Context(), &Copy{Region: far, ID: list[0].ID(), Origin: list[0], State: Present})
			if err != nil || d.Outcome != want || !strings.Contains(m.away(far), text) || (m.away(far) == "") != (text == "") {
				t.Errorf("%+v %v: %q", d, err, m.away(far))
			}
			if away := m.away(near); away != "" {
				t.Errorf("in another region: %s", away)
			}
		}
		probe(w.Mirror, other)
		demand(w.Mirror, outcomeCopy, "")
		underWay, _, err := w.sweepState(t.Context(), w.region(far))
		if err != nil || underWay != nil {
			t.Fatalf("%+v, %v", underWay, err)
		}
		underWay = &sweep{digits: 1, share: 5, began: timestamp.Now().Add(-time.Minute), ended: timestamp.Now().Add(-time.Hour), bucket: w.region(far).address(), sure: true}

		w.delete(far)
		probe(w.Mirror)
		demand(w.Mirror, outcomeAway, "there is no bucket copies-far")
		probe(other)
		demand(other, outcomeAway, "there is no bucket copies-far")
		missing := w.artifact("task", "public/missing", []byte("missing"))
		d, err := w.decide(t.Context(), w.plan(missing, &Artifact{Size: 7, Expires: timestamp.Now().Add(time.Hour)}, far))
		if err != nil || d.Outcome != outcomeAway {
			t.Errorf("what is not there yet: %+v, %v", d, err)
		}

		// It is made anew, by whomever. A sweep that was under way knows nothing of it.
		if err := w.region(far).Bucket.Ensure(t.Context()); err != nil {
			t.Fatal(err)
		}
		probe(w.Mirror, other)
		if err := w.saveSweep(t.Context(), w.region(far), underWay); err != nil {
			t.Fatal(err)
		}
		probe(w.Mirror, other)
		for _, m := range []*Mirror{w.Mirror, other, w.start()} {
			demand(m, outcomeAway, "was gone")
		}
		var ruled atomic.Int64
		w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
			if r.Method == "GET" && r.URL.Query().Has("lifecycle") && strings.HasPrefix(r.URL.Path, "/copies-far") {
				ruled.Add(1)
			}
			return on()
		})
		all(t, life.sweep)
		w.wire.set(nil)
		if n := ruled.Load(); n != 1 {
			t.Errorf("its life-cycle rules were looked at %d times, to be set", n)
		}
		probe(other)
		demand(w.Mirror, outcomeCopy, "")
		demand(other, outcomeCopy, "")
		for _, o := range list {
			if c := w.copyOf(far, o); c.State != Leaving || !c.Again {
				t.Errorf("%+v", c)
			}
			if s := w.state(near, o); s != Present {
				t.Errorf("in another region it is %s", s)
			}
		}
		all(t, life.remove)
		w.settle(w.Mirror)
		if got, _ := w.served(far, list[1]); string(got) != string(noise(1, 100)) {
			t.Errorf("it is %q", got)
		}
		w.noLitter()
		if _, due, err := w.sweepState(t.Context(), w.region(far)); due || err != nil {
			t.Errorf("another sweep is due: %v", err)
		}
	})
}

// The sweep makes a bucket again that is gone, if it may, and does not wait for a
// region to be tried again whose bucket has come back.
func TestTheSweepFindsABucketGone(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		o := w.made(1, 100, far)[0]
		life := newLife(w.Mirror)
		all(t, life.sweep)
		w.delete(far)
		woken := db.Waits().Wait(topicSweep)
		defer woken.Close()
		if _, err := w.probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-woken.C
		all(t, life.sweep)
		all(t, life.remove)
		if _, err := w.probe(t.Context()); err != nil || w.trouble(far) != "" {
			t.Errorf("%v, %s", err, w.trouble(far))
		}
		w.settle(w.Mirror)
		if got, _ := w.served(far, o); string(got) != string(noise(0, 100)) {
			t.Errorf("it is %q", got)
		}

		var x rounds
		p := w.region(far)
		x.note(w.regions, map[string]error{far: errors.New("no such bucket")})
		if list := x.awake(w.regions); len(list) != 1 || list[0] == p {
			t.Errorf("awake are %d", len(list))
		}
		p.health.back.Store(time.Now().Add(time.Millisecond).UnixNano())
		if list := x.awake(w.regions); len(list) != 2 {
			t.Errorf("with the bucket back, awake are %d", len(list))
		}
	})
}

// What is purged while an index is made anew does not become a copy, whether the
// sweep has come to it or not.
func TestAPurgeWhileTheIndexIsMadeAnew(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		list := []Origin{w.artifact(someTask, "public/a", noise(1, 100)), w.artifact(someTask, "public/b", noise(2, 100)), w.artifact(someTask, "public/c", noise(3, 100))}
		for _, o := range list {
			w.wanting(wish(near, o), wish(far, o))
		}
		w.settle(w.Mirror)
		w.lose()
		w.Mirror = w.start()
		life := newLife(w.Mirror)
		purge := func(region string, o Origin) {
			t.Helper()
			if err := w.forestall(t.Context(), o, region); err != nil {
				t.Fatal(err)
			}
			if err := w.purge(t.Context(), o.ID(), region); err != nil {
				t.Fatal(err)
			}
			w.count()
		}
		w.answers(204, "DELETE", "/purge/s3/"+far+"/"+url.PathEscape(list[0].String()), nil)
		purge(everywhere, list[1])
		w.wanting(wish(far, list[1])) // it is to be copied, not found
		all(t, life.sweep)
		for _, x := range []struct {
			region string
			of     int
			want   State
		}{{far, 0, Leaving}, {near, 0, Present}, {far, 1, Leaving}, {near, 1, Leaving}, {far, 2, Present}, {near, 2, Present}} {
			if s := w.state(x.region, list[x.of]); s != x.want {
				t.Errorf("%d in %s is %s, want %s", x.of, x.region, s, x.want)
			}
		}
		all(t, life.remove)
		if s := w.state(far, list[1]); s != Waiting {
			t.Errorf("what is wanted again is %s", s)
		}
		w.settle(w.Mirror)
		if c := w.copyOf(far, list[1]); c.State != Present {
			t.Errorf("what is wanted again is %+v", c)
		}
		if s := w.state(far, list[0]); s != "" {
			t.Errorf("what was purged is %s", s)
		}
		w.count()
		w.noLitter()

		// Once it is made, what has no row needs none.
		purge(everywhere, Origin{Bucket: w.artifacts.Name(), Key: someTask + "/0/public/none"})
		if n := w.count()[tallied{far, Leaving}].Objects; n != 0 {
			t.Errorf("%d copies are leaving that never were", n)
		}
	})
}

// An object that goes while others are examined does not become a copy.
func TestWhatGoesWhileItIsAdopted(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		list := w.made(2, 100, far)
		goes, stays := w.copyOf(far, list[0]), w.copyOf(far, list[1])
		w.lose()
		var looks atomic.Int64
		seen := make(chan struct{})
		w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
			switch {
			case r.Method == "HEAD" && strings.Contains(r.URL.Path, goes.ID) && looks.Add(1) == 1:
				defer close(seen)
			case r.Method == "HEAD" && strings.Contains(r.URL.Path, stays.ID):
				<-seen
				if err := w.region(far).Bucket.Delete(t.Context(), goes.key()); err != nil {
					t.Error(err)
				}
			}
			return on()
		})
		if _, err := newLife(w.Mirror).sweepShare(t.Context(), w.region(far), &sweep{began: timestamp.Now()}, ""); err != nil {
			t.Fatal(err)
		}
		w.wire.set(nil)
		if c := w.copyOf(far, list[0]); c.State != Leaving {
			t.Errorf("what is gone is %+v", c)
		}
		if s := w.state(far, list[1]); s != Present {
			t.Errorf("what is there is %s", s)
		}
		w.count()
	})
}
