package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// edit changes rows past everything, as time would: set is of mirror_copy.
func (w *world) edit(set, where string, args ...any) {
	w.Helper()
	err := w.db.Do(w.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE mirror_copy SET `+set+` WHERE `+where, args...)
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
}

// all runs passes until they say that there is no more to do.
func all(t testing.TB, pass func(context.Context) (bool, error)) {
	t.Helper()
	for range 100 {
		more, err := pass(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !more {
			return
		}
	}
	t.Fatal("a hundred passes were not enough")
}

// state is that of a copy; "" if there is none.
func (w *world) state(region string, o Origin) State {
	w.Helper()
	c, err := w.find(w.Context(), region, o.ID())
	if errors.Is(err, store.ErrNotFound) {
		return ""
	} else if err != nil {
		w.Fatal(err)
	}
	return c.State
}

// made has copies made of some artifacts, of size bytes each.
func (w *world) made(n, size int, regions ...string) (list []Origin) {
	w.Helper()
	for i := range n {
		o := w.artifact("task", fmt.Sprintf("public/%d-%d", size, i), noise(i, size))
		list = append(list, o)
		for _, r := range regions {
			wanted := wish(r, o)
			wanted.Size = int64(size)
			w.wanting(wanted)
		}
	}
	w.settle(w.Mirror)
	for _, o := range list {
		for _, r := range regions {
			if s := w.state(r, o); s != Present {
				w.Fatalf("the copy of %s in %s is %s: %s", o, r, s, w.copyOf(r, o).Error)
			}
		}
	}
	return list
}

func TestCopiesExpireWithTheirArtifact(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		life := newLife(w.Mirror)
		list := w.made(4, 100, near, far)
		waiting := w.artifact("task", "waiting", []byte("abc"))
		w.wanting(wish(near, waiting))
		all(t, w.expire)
		if n := w.count()[tallied{near, Present}].Objects; n != 4 {
			t.Fatalf("%d copies are left of 4 that are not to expire yet", n)
		}
		w.edit("expires = $1", "id IN ($2, $3) OR state = 'waiting'", timestamp.Now(), list[0].ID(), list[1].ID())
		w.edit("pinned = TRUE", "id = $1", list[1].ID())
		all(t, w.expire)
		for i, o := range list {
			if s := w.state(far, o); s != map[bool]State{true: Leaving, false: Present}[i < 2] {
				t.Errorf("copy %d is %s", i, s)
			}
		}
		// Who was sent there just now still finds the bytes.
		all(t, life.remove)
		if s := w.state(far, list[0]); s != Leaving || len(w.keys(far)) != 4 {
			t.Errorf("the copy is %q, and in the bucket is %q", s, w.keys(far))
		}
		w.count()
		w.edit("due = 0", "state = 'leaving'")
		all(t, life.remove)
		if s := w.state(near, waiting); s != "" {
			t.Errorf("what waited is %s", s)
		}
		if n := w.count()[tallied{near, Present}].Objects; n != 2 {
			t.Errorf("%d copies are left, want 2", n)
		}
		w.noLitter()
	})
}

func TestTheLeastRecentlyReadMakeRoom(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		life := newLife(w.Mirror)
		list := w.made(10, 100, near, far)
		for i, o := range list {
			w.edit("read = $1", "id = $2", timestamp.Now().Add(time.Duration(i-100)*time.Hour), o.ID())
		}
		w.edit("pinned = TRUE", "id = $1", list[0].ID())
		w.touch(w.copyOf(near, list[1])) // makes it the last one to go
		if _, err := w.saveReads(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.region(near).MaxBytes = 550
		all(t, w.expire)
		all(t, w.expire)
		for i, o := range list {
			want := Present
			if i >= 2 && i < 7 {
				want = Leaving
			}
			if s := w.state(near, o); s != want {
				t.Errorf("copy %d is %s, want %s", i, s, want)
			}
			if s := w.state(far, o); s != Present {
				t.Errorf("where there is no limit, copy %d is %s", i, s)
			}
		}
		w.edit("due = 0", "state = 'leaving'")
		all(t, life.remove)
		if got := w.count()[tallied{near, Present}]; got != (Sum{5, 500}) {
			t.Errorf("what is left is %+v", got)
		}
		w.noLitter()

		// Pins stay, even where there is no room for them.
		w.edit("pinned = TRUE", "region = $1 AND id IN ($2, $3)", near, list[1].ID(), list[9].ID())
		w.region(near).MaxBytes = 150
		all(t, w.expire)
		if got := w.count()[tallied{near, Present}]; got != (Sum{3, 300}) {
			t.Errorf("what is left besides pins: %+v", got)
		}
	})
}

func TestFailuresAreForgottenAfterADay(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		gone := w.remote("/gone", faulty.Object{Size: 10, Always: []faulty.Fault{faulty.Missing}})
		w.wanting(wish(near, gone))
		w.settle(w.Mirror)
		all(t, w.expire)
		if s := w.state(near, gone); s != Failed {
			t.Fatalf("what is not there is %s", s)
		}
		w.edit("due = $1", "state = 'failed'", timestamp.Now().Add(-forgetAfter))
		all(t, w.expire)
		all(t, newLife(w.Mirror).remove)
		if s := w.state(near, gone); s != "" || len(w.count()) != 0 {
			t.Errorf("after a day it is %s", s)
		}
	})
}

// What is left of earlier attempts goes with a copy, or it might come back.
func TestPurgedCopiesAreGoneEverywhere(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		life := newLife(w.Mirror)
		list := w.made(3, 100, near, far)
		long := w.artifact("task", strings.Repeat("ü", 400), []byte("long"))
		w.wanting(wish(near, long), wish(far, long))
		w.settle(w.Mirror)
		b := w.region(far).Bucket
		was := w.copyOf(far, list[0])
		was.Token = slugid.New()
		if _, err := b.PutBytes(t.Context(), was.key(), noise(0, 100), blob.Headers{Metadata: was.metadata()}); err != nil {
			t.Fatal(err)
		}
		for _, o := range []Origin{list[0], long} {
			if err := w.purge(t.Context(), o.ID(), "all"); err != nil {
				t.Fatal(err)
			}
			for _, region := range []string{near, far} {
				if _, err := w.sign(t.Context(), w.copyOf(region, o)); err == nil {
					t.Error("a purged copy is served")
				}
			}
		}
		all(t, life.remove)
		if len(w.keys(near)) != 2 || len(w.keys(far)) != 2 {
			t.Errorf("left are %q and %q", w.keys(near), w.keys(far))
		}
		w.noLitter()
		w.count()
		life.grace = 0
		all(t, life.sweep)
		if s := w.state(far, list[0]); s != "" {
			t.Errorf("a sweep made it %s again", s)
		}
	})
}

// A copy that is wanted again while it is leaving is made anew afterwards, and
// whoever waits gets it.
func TestWantedWhileItLeaves(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		o := w.made(1, 1000, near)[0]
		old := w.copyOf(near, o)
		if err := w.purge(t.Context(), o.ID(), near); err != nil {
			t.Fatal(err)
		}
		w.wanting(wish(near, o))
		all(t, newLife(w.Mirror).remove)
		w.settle(w.Mirror)
		if c := w.copyOf(near, o); c.State != Present || c.Token == old.Token {
			t.Errorf("it is %+v", c)
		}
		w.noLitter()
	})
}

// Neither a region that does not answer nor bytes that cannot be deleted hold up
// others, and in the end all are gone.
func TestBytesThatCannotBeDeleted(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		life := newLife(w.Mirror)
		list := w.made(8, 100, near, far)
		for _, o := range list {
			if err := w.purge(t.Context(), o.ID(), "all"); err != nil {
				t.Fatal(err)
			}
		}
		w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
			if strings.Contains(r.URL.Path, "copies-far") {
				return answer(r, 403, `<Error><Code>AccessDenied</Code><Message>no</Message></Error>`)
			}
			return on()
		})
		if _, err := life.remove(t.Context()); err != nil {
			t.Errorf("one region of two fails: %v", err)
		}
		if got := w.count(); got[tallied{near, Leaving}].Objects != 0 || got[tallied{far, Leaving}].Objects != 8 {
			t.Errorf("there are %v", got)
		}
		if _, err := life.remove(t.Context()); err != nil || len(life.leaving.rests) != 1 {
			t.Errorf("with %d regions left out: %v", len(life.leaving.rests), err)
		}

		// One object is held by something; the others can go.
		life = newLife(w.Mirror)
		stuck := w.copyOf(far, list[3])
		w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
			if r.Method == "POST" && r.URL.Query().Has("delete") {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return nil, err
				}
				r.Body = io.NopCloser(bytes.NewReader(body))
				if bytes.Contains(body, []byte(stuck.ID)) {
					return answer(r, 403, `<Error><Code>AccessDenied</Code><Message>It is held.</Message></Error>`)
				}
			}
			return on()
		})
		if _, err := life.remove(t.Context()); err != nil {
			t.Error(err)
		}
		if c := w.copyOf(far, list[3]); c.State != Leaving || c.Due <= timestamp.Now() || !strings.Contains(c.Error, "held") || w.count()[tallied{far, Leaving}].Objects != 1 {
			t.Errorf("what is stuck is %+v", c)
		}
		w.wire.set(nil)
		w.edit("due = 0", "state = 'leaving'")
		all(t, life.remove)
		if len(w.count()) != 0 {
			t.Errorf("there are %v", w.count())
		}
		w.noLitter()
	})
}

// Regions come and go with the configuration.
func TestARegionThatIsNotConfiguredAnyMore(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		w.made(3, 100, near, far)
		w.config.Regions = w.config.Regions[:1]
		m := w.start()
		all(t, m.expire)
		if n := w.count()[tallied{far, Present}].Objects; n != 3 {
			t.Errorf("%d copies are left where nobody looks, want 3: the region may come back", n)
		}
		w.edit("expires = $1", "region = $2", timestamp.Now(), far)
		all(t, m.expire)
		if got := w.count(); len(got) != 1 || got[tallied{near, Present}].Objects != 3 {
			t.Errorf("there are %v", got)
		}
	})
}

// awaitEnd waits until there is no such copy.
func (w *world) awaitEnd(region string, o Origin) {
	w.Helper()
	for {
		waiter := w.db.Waits().Wait(name{region, o.ID()}.topic())
		if w.state(region, o) == "" {
			waiter.Close()
			return
		}
		<-waiter.C
	}
}

// Life goes on in all replicas, of which one at a time does the work.
func TestLoopsOfTwoReplicas(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 2)
		for i, m := range []*Mirror{w.Mirror, w.start()} {
			runner := loop.NewRunner(w.config.Log, db.Lease(fmt.Sprint("replica ", i)), prometheus.NewRegistry())
			go func() { ended <- runner.Run(ctx, m.Loops()...) }()
		}
		var list []Origin
		for i := range 40 {
			o := w.artifact("task", fmt.Sprint("public/", i), noise(i, 2000))
			list = append(list, o)
			w.wanting(wish(near, o), wish(far, o))
		}
		for _, o := range list {
			for _, region := range []string{near, far} {
				if c, err := w.await(t.Context(), region, o.ID(), patience); err != nil || c.State != Present {
					t.Fatalf("%+v, %v", c, err)
				}
			}
		}
		for _, o := range list[:20] {
			if err := w.purge(t.Context(), o.ID(), "all"); err != nil {
				t.Fatal(err)
			}
		}
		for _, o := range list[:20] {
			for _, region := range []string{near, far} {
				w.awaitEnd(region, o)
			}
		}
		stop()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if got := w.count(); got[tallied{near, Present}].Objects != 20 || len(got) != 2 {
			t.Errorf("there are %v", got)
		}
		w.noLitter()
	})
}

func TestEachStopsAtAFailure(t *testing.T) {
	bad := errors.New("bad")
	list := slices.Repeat([]int{0}, 1000)
	list[10] = 1
	n := 0
	done := make(chan int, len(list))
	err := each(t.Context(), list, func(_ context.Context, i int) error {
		done <- i
		if i == 1 {
			return bad
		}
		return nil
	})
	if n = len(done); !errors.Is(err, bad) || n < 11 || n == len(list) {
		t.Errorf("%d of %d were done: %v", n, len(list), err)
	}
	if err := each(t.Context(), nil, func(context.Context, int) error { return bad }); err != nil {
		t.Errorf("nothing to do: %v", err)
	}
	ended, stop := context.WithCancelCause(t.Context())
	stop(bad)
	if err := each(ended, list, func(context.Context, int) error { return nil }); !errors.Is(err, bad) {
		t.Errorf("with a context that has ended: %v", err)
	}
}

// A replica that stands still while it removes a copy does not take the one that
// was made meanwhile.
func TestRemovingAFormerCopy(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		o := w.made(1, 100, far)[0]
		if err := w.purge(t.Context(), o.ID(), far); err != nil {
			t.Fatal(err)
		}
		stood := false
		w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
			if strings.Contains(r.URL.Query().Get("prefix"), o.ID()) && !stood {
				stood = true
				all(t, newLife(w.Mirror).remove)
				w.wanting(wish(far, o))
				w.settle(w.Mirror)
			}
			return on()
		})
		all(t, newLife(w.Mirror).remove)
		w.wire.set(nil)
		if got, _ := w.served(far, o); !stood || !bytes.Equal(got, noise(0, 100)) {
			t.Errorf("it is %q", got)
		}
		w.noLitter()
	})
}

// What leaves a region that is not configured any more is forgotten, and what comes
// to light when it is configured again is not taken for a copy.
func TestLeavingARegionThatIsNotConfiguredAnyMore(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		all(t, newLife(w.Mirror).sweep)
		list := w.made(3, 100, near, far)
		failed := w.remote("/gone", faulty.Object{Size: 10, Always: []faulty.Fault{faulty.Missing}})
		w.wanting(wish(far, failed))
		w.settle(w.Mirror)
		both := w.config.Regions
		w.config.Regions = both[:1]
		m := w.start()
		for _, id := range []string{list[0].ID(), list[1].ID()} {
			if err := m.purge(t.Context(), id, "all"); err != nil {
				t.Fatal(err)
			}
		}
		w.edit("due = $1", "state = 'failed'", timestamp.Now().Add(-forgetAfter))
		all(t, m.expire)
		if got := w.count(); len(got) != 3 || got[tallied{far, Present}].Objects != 1 || got[tallied{near, Leaving}].Objects != 2 {
			t.Errorf("there are %v", got)
		}
		w.config.Regions = both
		w.Mirror = w.start()
		life := newLife(w.Mirror)
		all(t, life.remove)
		life.grace = 0
		w.sweepNow(life)
		if got := w.count(); got[tallied{far, Present}].Objects != 1 {
			t.Errorf("there are %v", got)
		}
		w.noLitter()
	})
}
