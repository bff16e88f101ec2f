package mirror

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// of is a region in a status.
func (w *window) statusOf(region string) regionStatus {
	w.Helper()
	var out statusReport
	if err := json.Unmarshal([]byte(w.answers(200, "GET", "/status", nil).text), &out); err != nil {
		w.Fatal(err)
	}
	for _, r := range out.Regions {
		if r.Region == region {
			return r
		}
	}
	w.Fatalf("the status has no %s", region)
	return regionStatus{}
}

// What cannot be deleted shows, with the reason, also where nothing can be.
func TestWhatCannotBeDeletedShows(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		life := newLife(w.Mirror)
		for _, o := range w.made(3, 100, near) {
			if err := w.purge(t.Context(), o.ID(), near); err != nil {
				t.Fatal(err)
			}
		}
		r := w.statusOf(near)
		if r.States[Leaving].Objects != 3 || r.OldestLeaving.IsZero() || len(r.Errors) != 0 || w.statusOf(far).LeavingFor != 0 {
			t.Errorf("before: %+v", r)
		}
		w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
			if strings.Contains(r.URL.Path, "copies-near") && (r.Method == http.MethodDelete || r.URL.Query().Has("delete")) {
				return answer(r, 403, `<Error><Code>AccessDenied</Code><Message>no</Message></Error>`)
			}
			return on()
		})
		if _, err := life.remove(t.Context()); err != nil {
			t.Errorf("one region of two fails: %v", err)
		}
		r = w.statusOf(near)
		if len(r.Errors) != 3 || r.States[Leaving].Objects != 3 {
			t.Fatalf("after a refusal: %+v", r)
		}
		for _, e := range r.Errors {
			if e.State != Leaving || e.Attempts != 1 || !strings.Contains(e.Error, "AccessDenied") {
				t.Errorf("it is told as %+v", e)
			}
		}
		w.wire.set(nil)
		if _, err := newLife(w.Mirror).remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r = w.statusOf(near); len(r.Errors) != 0 || r.States[Leaving].Objects != 0 || !r.OldestLeaving.IsZero() {
			t.Errorf("at last: %+v", r)
		}
		w.count()
	})
}

// For how long copies have been leaving counts from when they were told to go, and
// what failed before does not count.
func TestHowLongCopiesLeave(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newQuiet(t, db)
		w.wanting(wish(near, thing))
		w.set(near, thing, func(c *Copy) { c.State, c.Attempts, c.Error = Failed, 8, "it is broken" })
		time.Sleep(time.Hour)
		if err := w.purge(t.Context(), thing.ID(), near); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		if err := w.purge(t.Context(), thing.ID(), near); err != nil { // once more
			t.Fatal(err)
		}
		if c := w.copyOf(near, thing); c.Attempts != 0 {
			t.Errorf("it is %+v", c)
		}
		r := prometheus.NewPedanticRegistry()
		r.MustRegister(stock{w.Mirror})
		if got := scraped(t, r); got["leaving_seconds "+near] != 600 || got["leaving_seconds "+far] != 0 {
			t.Errorf("the metrics are %v", got)
		}
	})
}

// Why readers get the origin is what the bucket says when it is asked, and not what
// the copies fail by.
func TestWhyABucketIsAwayIsTold(t *testing.T) {
	onSQLite(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		if r := w.statusOf(near); r.Away || r.Unsure || r.Reason != "" {
			t.Errorf("with all well: %+v", r)
		}
		w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
			if strings.Contains(r.URL.Path, "copies-near") {
				return answer(r, 403, `<Error><Code>AccessDenied</Code><Message>no key for you</Message></Error>`)
			}
			return on()
		})
		for range probesToFail {
			if _, err := w.probe(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if r := w.statusOf(near); !r.Away || !strings.Contains(r.Reason, "does not answer") || !strings.Contains(r.Reason, "AccessDenied") || strings.Contains(r.Reason, "Signature=") {
			t.Errorf("with a bucket that refuses: %+v", r)
		}
		w.wire.set(nil)
		if r := w.statusOf(near); !strings.Contains(r.Reason, "it answers now") {
			t.Errorf("with the bucket back: %+v", r)
		}
		w.region(far).health.moved.Store(true)
		if r := w.statusOf(far); r.Away || !r.Unsure || !strings.Contains(r.Reason, "was not compared") {
			t.Errorf("with another bucket: %+v", r)
		}
	})
}
