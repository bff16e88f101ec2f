package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/mirror/region"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// newQuiet is a world without a network, for tests in which nothing is copied. It
// can be in a bubble.
func newQuiet(t testing.TB, db *store.DB) *world {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	events, err := event.New(t.Context(), db, log)
	if err != nil {
		t.Fatal(err)
	}
	s, err := blob.Open(t.Context(), blob.Config{Endpoint: "http://s3.invalid", Region: "us-east-1", AccessKeyID: "a", SecretAccessKey: "b", PathStyle: true})
	if err != nil {
		t.Fatal(err)
	}
	finder, err := region.New(region.Config{Regions: []string{home, near, far}})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.NewKeys(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{TB: t, events: events, artifacts: s.Bucket("artifacts")}
	w.config = Config{
		DB: db, Events: events, Keys: keys, Log: log, RootURL: "https://tasks.example.com", Home: home, Artifacts: w.artifacts, Finder: finder,
		Regions: []Region{{Name: near, Bucket: s.Bucket("copies-near")}, {Name: far, Bucket: s.Bucket("copies-far")}},
	}
	w.Mirror = w.start()
	return w
}

// set changes a copy, as whoever has a reason to.
func (w *world) set(region string, o Origin, f func(c *Copy)) {
	w.Helper()
	err := w.change(w.Context(), func(ch *changes) error {
		list, err := ch.named(name{region, o.ID()})
		if err == nil && len(list) != 1 {
			err = fmt.Errorf("there are %d copies", len(list))
		}
		if err == nil {
			f(list[0])
		}
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
}

var thing = Origin{Bucket: "artifacts", Key: "task/0/public/thing"}

// What becomes of a want, by what there is already.
func TestWant(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newQuiet(t, db)
		long := timestamp.Now().Add(time.Hour)
		first := w.wanting(Want{Region: near, Origin: thing, Priority: Bulk, Size: 10, Expires: long})[0]
		if first.State != Waiting || first.Size != 10 || first.Pinned || first.Expires != long {
			t.Fatalf("%+v", first)
		}
		again := func() *Copy {
			t.Helper()
			c := w.wanting(Want{Region: near, Origin: thing, Priority: Ahead, Pinned: true, Size: -1, Expires: long.Add(time.Hour)})[0]
			if c.Priority != Ahead || !c.Pinned || c.Expires != long.Add(time.Hour) || c.Size != 10 {
				t.Errorf("wanted again it is %+v", c)
			}
			w.count()
			return c
		}
		if c := again(); c.State != Waiting {
			t.Errorf("waiting, it became %s", c.State)
		}
		if c := w.wanting(Want{Region: near, Origin: thing, Size: 10})[0]; c.Priority != Ahead || c.Expires != long.Add(time.Hour) {
			t.Errorf("who wants it less took from it: %+v", c)
		}
		w.set(near, thing, func(c *Copy) { c.State, c.Lease, c.LeaseUntil = Copying, "x", long })
		if c := again(); c.State != Copying || c.Lease != "x" {
			t.Errorf("being copied, it became %+v", c)
		}
		w.set(near, thing, func(c *Copy) { c.State, c.Token, c.Lease, c.LeaseUntil, c.SHA256 = Present, "token", "", 0, "aa" })
		if c := again(); c.State != Present || c.Token != "token" {
			t.Errorf("present, it became %+v", c)
		}

		// It has other bytes than those that are wanted.
		c := w.wanting(Want{Region: near, Origin: thing, Size: -1, SHA256: "bb"})[0]
		if is := w.copyOf(near, thing); c.State != stateRefused || !strings.Contains(c.Error, "aa") || is.State != Present || is.SHA256 != "aa" {
			t.Errorf("present with another SHA-256, it is %+v and became %+v", c, is)
		}
		w.set(near, thing, func(c *Copy) { c.leave(); c.Again, c.Pinned = true, true })
		if c := again(); c.State != Leaving || !c.Again || c.settled() {
			t.Errorf("leaving, it became %+v", c)
		}
		err := w.change(t.Context(), func(ch *changes) error {
			list, err := ch.named(c.name())
			for _, c := range list {
				ch.left(c)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if c := w.copyOf(near, thing); c.State != Waiting || c.Token != "" || c.Again || !c.Pinned {
			t.Errorf("after it has left, it is %+v", c)
		}

		w.set(near, thing, func(c *Copy) {
			c.State, c.Due, c.Attempts, c.Error = Failed, timestamp.Now().Add(time.Minute), 8, "it is broken"
		})
		if c := again(); c.State != Failed {
			t.Errorf("failed just now, it became %s", c.State)
		}
		time.Sleep(time.Minute)
		if c := again(); c.State != Waiting || c.Attempts != 0 || c.Error != "" {
			t.Errorf("failed some time ago, it became %+v", c)
		}
		w.set(near, thing, func(c *Copy) { c.leave() })
		err = w.change(t.Context(), func(ch *changes) error {
			list, err := ch.named(c.name())
			for _, c := range list {
				ch.left(c)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.find(t.Context(), near, thing.ID()); !errors.Is(err, store.ErrNotFound) || len(w.count()) != 0 {
			t.Errorf("it left, and there is %v, %v", err, w.count())
		}
		for _, where := range []string{home, "mars"} {
			if _, err := w.want(t.Context(), wish(where, thing)); err == nil || !strings.Contains(err.Error(), where) {
				t.Errorf("wanted in %s: %v", where, err)
			}
		}
	})
}

// Whoever waits returns as soon as there is something to return for, and no later
// than it said.
func TestAwait(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newQuiet(t, db)
		for _, x := range []struct {
			what string
			do   func()
			want State
		}{
			{"it is made", func() { w.set(near, thing, func(c *Copy) { c.State = Present }) }, Present},
			{"it fails", func() { w.set(near, thing, func(c *Copy) { c.State = Failed }) }, Failed},
			{"it is purged", func() { w.set(near, thing, func(c *Copy) { c.leave() }) }, Leaving},
			{"nothing happens", func() {}, Waiting},
			{"it is being copied", func() { w.set(near, thing, func(c *Copy) { c.State = Copying }) }, Copying},
		} {
			w.wanting(wish(near, thing))
			w.set(near, thing, func(c *Copy) { c.restart() })
			start := time.Now()
			var c *Copy
			var err error
			var waiter sync.WaitGroup
			waiter.Go(func() { c, err = w.await(t.Context(), near, thing.ID(), 25*time.Second) })
			time.Sleep(time.Second)
			synctest.Wait()
			x.do()
			waiter.Wait()
			waited, limit := time.Since(start), time.Second
			if x.want == Waiting || x.want == Copying {
				limit = 25 * time.Second
			}
			if err != nil || c.State != x.want || waited != limit {
				t.Errorf("%s: %+v %v after %v", x.what, c, err, waited)
			}
		}
		w.set(near, thing, func(c *Copy) { c.restart() })
		var err error
		var waiter sync.WaitGroup
		waiter.Go(func() { _, err = w.await(t.Context(), near, thing.ID(), patience) })
		synctest.Wait()
		if e := w.change(t.Context(), func(ch *changes) error {
			list, err := ch.named(name{near, thing.ID()})
			for _, c := range list {
				ch.drop(c)
			}
			return err
		}); e != nil {
			t.Fatal(e)
		}
		waiter.Wait()
		if !errors.Is(err, store.ErrNotFound) {
			t.Errorf("it is gone: %v", err)
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		w.wanting(wish(near, thing))
		if _, err := w.await(ctx, near, thing.ID(), patience); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the caller is gone: %v", err)
		}
	})
}

// Many want many of the same, while others change them: nobody fails, there is one
// of each, and the tallies are right at any moment.
func TestTalliesAreExact(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newQuiet(t, db)
		other := w.start()
		states := []State{Waiting, Copying, Present, Failed, Leaving}
		const people, rounds, things = 8, 15, 20
		var all sync.WaitGroup
		for p := range people {
			m := []*Mirror{w.Mirror, other}[p%2]
			all.Go(func() {
				for round := range rounds {
					var list []Want
					var names []name
					for i := range things {
						o := Origin{Bucket: "artifacts", Key: fmt.Sprint((i*7 + p + round) % 30)}
						list = append(list, Want{Region: []string{near, far}[i%2], Origin: o, Size: int64(i), Expires: timestamp.Now().Add(time.Hour)})
						names = append(names, list[i].name())
					}
					if _, err := m.want(t.Context(), list...); err != nil {
						t.Errorf("want: %v", err)
					}
					err := m.change(t.Context(), func(ch *changes) error {
						found, err := ch.named(names[:10]...)
						for i, c := range found {
							if c.Size, c.State = int64(i*p), states[(i+p+round)%len(states)]; (i+round)%7 == 0 {
								ch.drop(c)
							}
						}
						return err
					})
					if err != nil {
						t.Errorf("change: %v", err)
					}
				}
			})
		}
		all.Wait()
		w.count()
	})
}

// Events tell what becomes of copies, and no secrets.
func TestEvents(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newQuiet(t, db)
		signed := Origin{URL: "https://user.example.com/file?signature=secret"}
		w.wanting(wish(near, signed), wish(far, thing))
		w.set(near, signed, func(c *Copy) { c.State = Copying })
		w.set(near, signed, func(c *Copy) { c.State, c.Size = Present, 12 })
		w.set(near, signed, func(c *Copy) { c.Read = timestamp.Now().Add(time.Hour) })
		w.set(near, signed, func(c *Copy) { c.leave() })
		w.set(far, thing, func(c *Copy) { c.State, c.Error = Failed, "it is broken" })
		for _, l := range w.events.Loops() {
			if l.Name == "event.place" {
				if _, err := l.Pass(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		list, err := w.events.Read(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range list {
			var x message
			if err := json.Unmarshal(m.Payload, &x); err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(m.Exchange[strings.LastIndex(m.Exchange, "/")+1:], " ", m.RoutingKey, " ", x.Origin, " ", x.State, " ", x.Size, " ", x.Error))
		}
		want := []string{
			"copy-present primary.us-east-1.http._ https://user.example.com/file present 12 ",
			"copy-gone primary.us-east-1.http._ https://user.example.com/file leaving 12 ",
			"copy-failed primary.eu-central-1.s3._ s3://artifacts/task%2F0%2Fpublic%2Fthing failed -1 Origin",
		}
		if !slices.Equal(got, want) {
			t.Errorf("events are %q, want %q", got, want)
		}
	})
}

// Reads are written down together, some time later, and say which copies to keep.
func TestReadsAreKept(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newQuiet(t, db)
		w.wanting(wish(near, thing))
		w.set(near, thing, func(c *Copy) { c.State, c.Token = Present, "token" })
		before := w.copyOf(near, thing)
		w.touch(before) // it was wanted just now
		time.Sleep(2 * readsApart)
		w.touch(before)
		read := timestamp.Now()
		time.Sleep(time.Second)
		if _, err := w.saveReads(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c := w.copyOf(near, thing); c.Read != read {
			t.Errorf("it was read at %s, and that is %s", read, c.Read)
		}

		// A URL is signed once for many readers, and anew before it is too old.
		one, err := w.sign(t.Context(), before)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range []struct {
			wait time.Duration
			same bool
		}{{time.Second, true}, {time.Minute, true}, {signedAgain, false}} {
			time.Sleep(x.wait)
			next, err := w.sign(t.Context(), before)
			if err != nil || (next == one) != x.same {
				t.Errorf("after %v the same: %v, %v", x.wait, next == one, err)
			}
		}
		if _, err := w.sign(t.Context(), &Copy{Region: near, State: Waiting}); err == nil {
			t.Error("what is not there was signed")
		}
	})
}
