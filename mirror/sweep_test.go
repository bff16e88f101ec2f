package mirror

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// lose empties the index.
func (w *world) lose() {
	w.Helper()
	err := w.db.Do(w.Context(), func(tx *store.Tx) error {
		for _, table := range []string{"mirror_copy", "mirror_tally", "mirror_sweep", "mirror_scrub"} {
			if _, err := tx.Exec(`DELETE FROM ` + table); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
}

// With the index gone, all that is in the buckets is served again as it was, and
// nothing is copied.
func TestALostIndexIsMadeAnew(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		bodies := map[Origin][]byte{}
		for i := range 60 {
			bodies[w.artifact("task", fmt.Sprint("public/", i), noise(i, 100*i))] = noise(i, 100*i)
		}
		bodies[w.artifact("task", "large", noise(1, partSize+1))] = noise(1, partSize+1)
		bodies[w.artifact("task", strings.Repeat("ü", 400), noise(2, 50))] = noise(2, 50)
		for i, o := range []faulty.Object{{Size: 1000}, {Size: 3000, Always: []faulty.Fault{faulty.Chunked}}, {Size: partSize + 1}, {Size: 7, NoETag: true}} {
			origin := w.remote(fmt.Sprint("/pub/", i), o)
			var b bytes.Buffer
			if _, err := b.ReadFrom(w.origin.Content(fmt.Sprint("/pub/", i))); err != nil {
				t.Fatal(err)
			}
			bodies[origin] = b.Bytes()
		}
		for o := range bodies {
			w.wanting(wish(near, o), wish(far, o))
		}
		w.settle(w.Mirror)
		before := w.count()
		known := map[name]*Copy{}
		for o := range bodies {
			for _, region := range []string{near, far} {
				known[name{region, o.ID()}] = w.copyOf(region, o)
			}
		}
		w.lose()

		copied := 0
		w.wire.set(counting(&copied, "PUT"))
		gets := w.origin.Count("/pub/0").Gets
		m := w.start()
		all(t, newLife(m).sweep)
		if after := w.count(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("before there were %v, and now %v", before, after)
		}
		for o, body := range bodies {
			for _, region := range []string{near, far} {
				w.wanting(wish(region, o))
				was, is := known[name{region, o.ID()}], w.copyOf(region, o)
				if is.State != Present || is.Token != was.Token || is.Stored != was.Stored || is.Size != was.Size || is.ETag != was.ETag ||
					was.SHA256 != "" && is.SHA256 != "" && is.SHA256 != was.SHA256 || is.Expires < was.Expires || is.Expires > timestamp.Now().Add(time.Hour) {
					t.Errorf("it was %+v and is %+v", was, is)
				}
				if got, h := w.served(region, o); !bytes.Equal(got, body) || o.URL == "" && h.Get("Content-Type") != "text/plain" {
					t.Errorf("%s in %s: %d bytes, want %d; %v", o, region, len(got), len(body), h)
				}
			}
		}
		w.settle(m)
		w.wire.set(nil)
		// Life-cycle rules are put, too, once for each bucket.
		if n := w.origin.Count("/pub/0").Gets; copied > 2 || n != gets {
			t.Errorf("%d objects were put, %d fetched", copied-2, n-gets)
		}
		w.noLitter()
		for _, p := range m.regions {
			if _, due, err := m.sweepState(t.Context(), p); due || err != nil {
				t.Errorf("another sweep is due: %v", err)
			}
		}
	})
}

// What is asked for while the index is being made anew is adopted all the same, if
// nobody has begun to copy it.
func TestWhatWaitsIsAdopted(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		list := w.made(3, 500, far)
		was := w.copyOf(far, list[0])
		w.lose()
		waits := wish(far, list[0])
		waits.Pinned, waits.Expires = true, timestamp.Now().Add(30*time.Minute)
		w.wanting(waits)
		wrong := wish(far, list[1])
		wrong.SHA256 = sumOf("something else")
		w.wanting(wrong)
		failed := wish(far, list[2])
		w.wanting(failed)
		w.edit("state = 'failed', due = $1", "id = $2", timestamp.Now().Add(time.Minute), list[2].ID())
		w.rectify()
		all(t, newLife(w.Mirror).sweep)
		if c := w.copyOf(far, list[0]); c.State != Present || c.Token != was.Token || !c.Pinned || c.Priority != Waited || c.Expires.Sub(was.Expires).Abs() > time.Minute {
			t.Errorf("what waited is %+v", c)
		}
		if s := w.state(far, list[1]); s != Waiting {
			t.Errorf("what is wanted with another SHA-256 is %s", s)
		}
		if s := w.state(far, list[2]); s != Present {
			t.Errorf("what had failed is %s", s)
		}
		w.count()
	})
}

// rectify makes the tallies right after an edit of states.
func (w *world) rectify() {
	w.Helper()
	err := w.db.Do(w.Context(), func(tx *store.Tx) error {
		if _, err := tx.Exec(`DELETE FROM mirror_tally`); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO mirror_tally (region, state, objects, bytes)
			SELECT region, state, count(*), CAST(sum(CASE WHEN size > 0 THEN size ELSE 0 END) AS BIGINT) FROM mirror_copy GROUP BY region, state`)
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
}

func TestWhatIsNoCopyAnyMoreIsNotAdopted(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		life := newLife(w.Mirror)
		b := w.region(far).Bucket
		list := w.made(8, 300, far)
		remote := w.remote("/x", faulty.Object{Size: 100})
		soon := wish(far, remote)
		w.wanting(soon)
		w.settle(w.Mirror)
		w.lose()

		w.catalog.remove(list[0].Key) // expired, say
		for i, edit := range map[int]func(a *Artifact){
			1: func(a *Artifact) { a.Size++ },
			2: func(a *Artifact) { a.Open = true },
			3: func(a *Artifact) { a.Expires = timestamp.Now() },
		} {
			a, err := w.catalog.ArtifactAt(t.Context(), list[i].Key)
			if err != nil {
				t.Fatal(err)
			}
			edit(&a)
			w.catalog.add(a)
		}
		put := func(c Copy, body string) {
			c.Token = slugid.New()
			if _, err := b.PutBytes(t.Context(), c.key(), []byte(body), blob.Headers{Metadata: c.metadata()}); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []Copy{
			{Origin: Origin{Bucket: "elsewhere", Key: "x"}, Size: 1, Expires: timestamp.Max},
			{Origin: Origin{URL: "https://not-allowed.example.com/x"}, Size: 1, Expires: timestamp.Max},
			{Origin: Origin{URL: w.originURL + "/expired"}, Size: 1, Expires: timestamp.Now()},
			{Origin: Origin{URL: w.originURL + "/endless"}, Size: 1},
			{Origin: Origin{URL: w.originURL + "/longer"}, Size: 2, Expires: timestamp.Max},
			{Origin: Origin{URL: w.originURL + "/other"}, Size: 1, SHA256: sumOf("y"), Expires: timestamp.Max},
		} {
			c.ID = c.Origin.ID()
			put(c, "x")
		}
		foreign := []string{"mine", "copies/readme.txt", keysOf(list[0].ID()) + ".notes", keysOf(list[4].ID()) + "." + slugid.New() + ".bak"}
		for _, key := range foreign {
			w.overwrite(b, key, []byte("somebody's own"))
		}
		all(t, life.sweep)
		if got := w.count(); got[tallied{far, Present}].Objects != 5 || len(got) != 1 {
			t.Errorf("adopted are %v, want 4 artifacts and a URL", got)
		}
		if n := len(w.keys(far)); n != 9+6+len(foreign) {
			t.Errorf("there are %d objects, though all are too young to be deleted", n)
		}
		// Once they are old enough they go, and what is somebody else's stays.
		life.grace = 0
		w.sweepNow(life)
		keys := w.keys(far)
		for _, key := range foreign {
			if !slices.Contains(keys, key) {
				t.Errorf("%s is gone", key)
			}
		}
		if len(keys) != 5+len(foreign) {
			t.Errorf("left are %q", keys)
		}
		if got := w.count(); got[tallied{far, Present}].Objects != 5 {
			t.Errorf("there are %v", got)
		}
	})
}

// sweepNow sweeps all regions, as if a day had passed.
func (w *world) sweepNow(l *life) {
	w.Helper()
	err := w.db.Do(w.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE mirror_sweep SET ended = ended - $1, began = began - $1`, (sweepEvery + time.Minute).Milliseconds())
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
	all(w, l.sweep)
}

// What attempts have left goes; what belongs to one that is under way, or to one
// that will be gone on with, never does.
func TestWhatAttemptsLeaveGoes(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		life := newLife(w.Mirror)
		b := w.region(far).Bucket
		list := w.made(6, 300, far)
		begin := func(c Copy) string {
			id, err := b.StartMultipart(t.Context(), c.key(), blob.Headers{Metadata: c.metadata()})
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		put := func(c Copy) {
			if _, err := b.PutBytes(t.Context(), c.key(), noise(0, 300), blob.Headers{Metadata: c.metadata()}); err != nil {
				t.Fatal(err)
			}
			w.overwrite(b, c.originKey(), []byte(c.Origin.String()))
		}
		attempt := func(o Origin) Copy {
			c := *w.copyOf(far, o)
			c.Token = slugid.New()
			return c
		}
		// Of a copy that is there: an object and an upload of attempts before.
		old := attempt(list[0])
		begin(old)
		put(old)
		// Of one that is being copied: the attempt's own, and an earlier one.
		now := attempt(list[1])
		before := attempt(list[1])
		begin(before)
		put(before)
		now.Upload = &upload{ID: begin(now), PartSize: partSize}
		w.become(list[1], &now, Copying)
		// Of one that waits to be gone on with.
		later := attempt(list[2])
		if err := b.Delete(t.Context(), w.copyOf(far, list[2]).key()); err != nil {
			t.Fatal(err)
		}
		later.Upload = &upload{ID: begin(later), PartSize: partSize}
		w.become(list[2], &later, Waiting)
		// Of one that was stored just now, by a copier that has not said so yet.
		done := attempt(list[3])
		put(done)
		w.become(list[3], &done, Copying)
		// Somebody else's.
		other, err := b.StartMultipart(t.Context(), "copies/readme.txt", blob.Headers{})
		if err != nil {
			t.Fatal(err)
		}

		all(t, life.sweep)
		if n := len(w.keys(far)); n != 5+2+2+2+5 {
			t.Errorf("while it is young %d things are there: %q", n, w.keys(far))
		}
		life.grace = 0
		w.sweepNow(life)
		want := []string{
			w.copyOf(far, list[0]).key(), w.copyOf(far, list[4]).key(), w.copyOf(far, list[5]).key(),
			"upload of " + now.key(), "upload of " + later.key(), done.key(), done.originKey(), "upload of copies/readme.txt",
		}
		slices.Sort(want)
		if got := slices.Sorted(slices.Values(w.keys(far))); !slices.Equal(got, want) {
			t.Errorf("left is %q, want %q", got, want)
		}
		if err := b.AbortMultipart(t.Context(), "copies/readme.txt", other); err != nil {
			t.Fatal(err)
		}
	})
}

// become makes the row of a copy that of an attempt.
func (w *world) become(o Origin, attempt *Copy, state State) {
	w.Helper()
	err := w.change(w.Context(), func(ch *changes) error {
		list, err := ch.named(name{attempt.Region, o.ID()})
		if err == nil {
			*list[0] = *attempt
			list[0].State = state
			list[0].Lease, list[0].LeaseUntil = "somebody's", timestamp.Now().Add(time.Hour)
		}
		return err
	})
	if err != nil {
		w.Fatal(err)
	}
}

// A sweep goes on where it was, in another process too, and one region that does
// not answer does not keep it from the others.
func TestASweepGoesOnWhereItWas(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		w.made(10, 100, near, far)
		w.lose()
		away := func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
			prefix := r.URL.Query().Get("prefix")
			if strings.Contains(r.URL.Path, "copies-far") && prefix >= "copies~/80~/80" {
				return answer(r, 403, `<Error><Code>AccessDenied</Code><Message>no</Message></Error>`)
			}
			return on()
		}
		w.wire.set(away)
		if _, err := newLife(w.Mirror).sweep(t.Context()); err != nil {
			t.Error(err)
		}
		near10, far10 := w.count()[tallied{near, Present}].Objects, w.count()[tallied{far, Present}].Objects
		if near10 != 10 || far10 == 10 {
			t.Errorf("adopted are %d where all is well and %d where it is not", near10, far10)
		}
		listed := 0
		w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
			if prefix := r.URL.Query().Get("prefix"); strings.HasPrefix(prefix, "copies~/") && len(prefix) == len("copies~/00~/00") {
				if listed++; prefix < "copies~/80~/80" {
					t.Errorf("%s is listed again", prefix)
				}
			}
			return on()
		})
		all(t, newLife(w.start()).sweep)
		if n := w.count()[tallied{far, Present}].Objects; n != 10 || listed != 128 {
			t.Errorf("in the end %d are adopted, %d shares listed", n, listed)
		}
		listed = 0
		w.wire.set(counting(&listed, "GET"))
		all(t, newLife(w.start()).sweep)
		if listed > 4 { // asking for life-cycle rules
			t.Errorf("another sweep, right away, made %d requests", listed)
		}
	})
}

func TestSharesCoverAllIDs(t *testing.T) {
	for copies, want := range map[int64]int{0: 2, 1: 1, 16_000: 1, 17_000: 2, 256_000: 2, 300_000: 3, 50_000_000: 4} {
		if got := digitsFor(copies, true); got != want {
			t.Errorf("%d copies: %d digits, want %d", copies, got, want)
		}
		if got := digitsFor(copies, false); got != max(2, want) {
			t.Errorf("%d copies at least: %d digits", copies, got)
		}
	}
	s := &sweep{digits: 2}
	var list []string
	for ; s.share < s.shares(); s.share++ {
		list = append(list, s.prefix())
	}
	if !slices.IsSorted(list) || len(list) != 256 || list[0] != "00" || list[255] != "ff" {
		t.Errorf("%q", list)
	}
}

// A region that nobody uses is looked into with few requests.
func TestAnEmptyRegionIsSweptInNoTime(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		life := newLife(w.Mirror)
		w.overwrite(w.region(near).Bucket, "copies/readme.txt", []byte("somebody's"))
		asked := 0
		w.wire.set(counting(&asked, "GET"))
		all(t, life.sweep)
		all(t, life.sweep)
		if asked > 2*3 { // life-cycle rules, objects, uploads
			t.Errorf("two empty regions took %d requests", asked)
		}
	})
}

// Many objects are looked at a pass at a time.
func TestAPassIsBounded(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		life := newLife(w.Mirror)
		b := w.region(near).Bucket
		const n = lifeBatch + 100
		list := make([]int, n)
		for i := range list {
			list[i] = i
		}
		if err := each(t.Context(), list, func(ctx context.Context, i int) error {
			o := Origin{URL: fmt.Sprint(w.originURL, "/", i)}
			c := &Copy{ID: o.ID(), Origin: o, Token: slugid.New(), Size: 1, Expires: timestamp.Max}
			_, err := b.PutBytes(ctx, c.key(), []byte("x"), blob.Headers{Metadata: c.metadata()})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		passes, seen := 0, int64(0)
		for more := true; more; passes++ {
			var err error
			if more, err = life.sweep(t.Context()); err != nil {
				t.Fatal(err)
			}
			now := w.count()[tallied{near, Present}].Objects
			if now-seen > lifeBatch+100 {
				t.Errorf("a pass looked at %d objects", now-seen)
			}
			seen = now
		}
		if seen != n || passes != 2 {
			t.Errorf("in %d passes %d copies were adopted", passes, seen)
		}
		w.edit("expires = $1", "TRUE", timestamp.Now())
		w.edit("verified = 0", "TRUE")
		if more, err := life.scrub(t.Context()); err != nil || !more {
			t.Error(more, err)
		}
		if more, err := w.expire(t.Context()); err != nil || !more || w.count()[tallied{near, Leaving}].Objects != lifeBatch {
			t.Error(more, err, w.count())
		}
		all(t, w.expire)
		w.edit("due = 0", "TRUE")
		if more, err := life.remove(t.Context()); err != nil || !more || w.count()[tallied{near, Leaving}].Objects != n-lifeBatch {
			t.Error(more, err, w.count())
		}
		all(t, life.remove)
		if len(w.count()) != 0 || len(w.keys(near)) != 0 {
			t.Errorf("left are %v and %d objects", w.count(), len(w.keys(near)))
		}
	})
}

// What was purged while a copier was at it does not come back, though the object
// that the copier has put afterwards says what it is.
func TestWhatWasGivenUpIsNotAdopted(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		life := newLife(w.Mirror)
		all(t, life.sweep)
		o := w.made(1, 100, far)[0]
		late := w.copyOf(far, o)
		if err := w.purge(t.Context(), o.ID(), far); err != nil {
			t.Fatal(err)
		}
		all(t, life.remove)
		put := func() {
			t.Helper()
			late.Token = slugid.New()
			if _, err := w.region(far).Bucket.PutBytes(t.Context(), late.key(), noise(0, 100), blob.Headers{Metadata: late.metadata()}); err != nil {
				t.Fatal(err)
			}
		}
		put()
		for range 2 { // though the index has nothing any more
			w.sweepNow(life)
			if s := w.state(far, o); s != "" {
				t.Fatalf("it is %s again", s)
			}
		}
		if n := len(w.keys(far)); n != 1 {
			t.Errorf("while it is young there are %d objects", n)
		}
		life.grace = 0
		w.sweepNow(life)
		w.noLitter()

		// Nor while an index is made anew, if it was put since that began.
		w.lose()
		s, _, err := w.sweepState(t.Context(), w.region(far))
		if err != nil || !s.rebuilds() {
			t.Fatalf("%+v, %v", s, err)
		}
		s.began = timestamp.Now().Add(-time.Hour)
		if err := w.saveSweep(t.Context(), w.region(far), s); err != nil {
			t.Fatal(err)
		}
		put()
		all(t, life.sweep)
		if s := w.state(far, o); s != "" {
			t.Errorf("while the index is made anew it is %s again", s)
		}
	})
}

// Where a region has got another bucket nobody is sent to copies that are not
// there, and they are made anew.
func TestAnotherBucket(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		list := w.made(5, 100, near, far)
		all(t, newLife(w.Mirror).sweep)
		if w.away(far) != "" {
			t.Error(w.away(far))
		}
		before := w.region(far).Bucket
		w.config.Regions[1].Bucket = w.bucket(w.store(), "copies-elsewhere")
		old, m := w.Mirror, w.start()
		unsure := func(m *Mirror, want bool) {
			t.Helper()
			if p := m.region(far); p.unsure() != want || m.region(near).unsure() {
				t.Errorf("that is unsure: %v and %v", p.unsure(), m.region(near).unsure())
			}
			d, err := m.conclude(t.Context(), w.copyOf(far, list[0]))
			if err != nil || want && (d.Outcome == outcomeCopy || m.away(far) == "") {
				t.Errorf("%+v, %v", d, err)
			}
		}
		unsure(m, true)
		unsure(w.start(), true)
		life := newLife(m)
		// A sweep that has not come to its end makes nothing sure.
		w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
			if r.URL.Query().Has("uploads") && strings.Contains(r.URL.Path, "copies-elsewhere") {
				return answer(r, 403, `<Error><Code>AccessDenied</Code><Message>no</Message></Error>`)
			}
			return on()
		})
		if _, err := life.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.wire.set(nil)
		unsure(m, true)
		unsure(w.start(), true)
		life = newLife(m)
		all(t, life.sweep)
		unsure(m, false)
		unsure(w.start(), false)
		if _, err := old.probe(t.Context()); err != nil { // a replica that has the old configuration still
			t.Fatal(err)
		}
		unsure(old, true)
		for _, o := range list {
			if c := w.copyOf(far, o); c.State != Leaving || !c.Again {
				t.Errorf("%+v", c)
			}
			if s := w.state(near, o); s != Present {
				t.Errorf("in another region it is %s", s)
			}
		}
		all(t, life.remove)
		w.Mirror = m
		w.settle(m)
		if got, _ := w.served(far, list[1]); !bytes.Equal(got, noise(1, 100)) {
			t.Errorf("it is %q", got)
		}
		w.noLitter()
		if ours, err := (&place{Region: Region{Bucket: before}}).hasObjects(t.Context()); !ours || err != nil {
			t.Errorf("in the bucket of before there is nothing any more: %v", err)
		}
	})
}

// A pass that ends, having no time left, has got somewhere.
func TestAPassThatEndsHasDoneSomething(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		const n = 2*adoptBatch + 10
		w.made(n, 100, far)
		w.lose()
		life, p := newLife(w.Mirror), w.region(far)
		ctx, stop := context.WithCancel(t.Context())
		var asked atomic.Int64
		w.wire.set(func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
			if r.Method == "HEAD" && asked.Add(1) == adoptBatch+20 {
				stop()
			}
			return on()
		})
		s := &sweep{began: timestamp.Now()}
		if _, err := life.sweepShare(ctx, p, s, ""); err == nil {
			t.Error("it has not ended")
		}
		w.wire.set(nil)
		if got := w.count()[tallied{far, Present}].Objects; got != adoptBatch {
			t.Errorf("%d copies are adopted", got)
		}
		// How far it is was written down, too.
		s.share = 7
		if err := w.saveSweep(ctx, p, s); err != nil {
			t.Error(err)
		}
		if _, err := life.sweepShare(t.Context(), p, s, ""); err != nil || w.count()[tallied{far, Present}].Objects != n {
			t.Errorf("%v, %v", w.count(), err)
		}
	})
}

func TestWhatOperatorsSeeOfKeys(t *testing.T) {
	if got := namePrefix(); got != "copies~/" {
		t.Error(got)
	}
}
