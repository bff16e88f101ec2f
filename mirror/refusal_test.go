package mirror

import (
	"encoding/json"
	"math"
	"net/url"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// ordered asks for copies, and returns where they stand.
func (w *window) ordered(region string, items ...map[string]any) []position {
	w.Helper()
	var out orderResponse
	if err := json.Unmarshal([]byte(w.answers(200, "POST", "/copies", map[string]any{"region": region, "copies": items}).text), &out); err != nil {
		w.Fatal(err)
	}
	return out.Copies
}

// Whatever size somebody says, figures stay right and others go on.
func TestSizesThatCannotBe(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		for i, name := range []string{"/pub/a", "/pub/b", "/pub/c", "/pub/d"} {
			o := w.remote(name, faulty.Object{Size: 100})
			item := map[string]any{"url": o.URL, "size": int64(math.MaxInt64)}
			w.answers(400, "POST", "/copies", map[string]any{"region": far, "copies": []any{item}})
			item["size"] = int64(maxObject)
			if p := w.ordered(far, item)[0]; p.State != string(Waiting) {
				t.Errorf("%s: %+v", name, p)
			}
			huge := wish(far, o)
			huge.Size = math.MaxInt64 // as from elsewhere
			w.wanting(huge)
			small := wish(near, o)
			small.Size = 100
			if c := w.wanting(small)[0]; c.Size != 100 {
				t.Errorf("what is said to be small has %d bytes", c.Size)
			}
			if got := w.count()[tallied{far, Waiting}]; got != (Sum{Objects: int64(i + 1)}) {
				t.Errorf("counted are %+v, of a size that nobody has seen", got)
			}
		}
		w.settle(w.Mirror)
		if got := w.count()[tallied{far, Present}]; got != (Sum{4, 400}) {
			t.Errorf("made are %+v", got)
		}
	})
}

// An artifact that cannot be in a bucket is not copied, and whoever asks is told.
func TestAnArtifactThatIsTooLarge(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		o := w.artifact(someTask, "public/huge", []byte("huge"))
		a, err := w.catalog.ArtifactAt(t.Context(), o.Key)
		if err != nil {
			t.Fatal(err)
		}
		a.Size = maxObject + 1
		w.catalog.add(a)
		if p := w.redirected(far, o.String()); p.status != 302 || !strings.Contains(p.text, "5497558138881 bytes") || strings.Contains(p.location, "copies") {
			t.Errorf("%d %s", p.status, p.text)
		}
		if p := w.answers(200, "GET", "/explain/"+far+"/"+url.PathEscape(o.String()), nil); p.body["answer"] != answerOrigin || !strings.Contains(p.text, "5497558138881 bytes") {
			t.Errorf("explained: %s", p.text)
		}
		if p := w.ordered(far, map[string]any{"url": o.String()})[0]; p.State != stateRefused || !strings.Contains(p.Error, "5 TiB") {
			t.Errorf("ordered: %+v", p)
		}
		w.settle(w.Mirror)
		if s := w.state(far, o); s != "" || len(w.count()) != 0 {
			t.Errorf("it is %s", s)
		}
	})
}

// Who asks with a wrong SHA-256 takes nothing away from others.
func TestAWrongSHA256TakesNothingAway(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		body := noise(1, 300)
		o, other := w.artifact(someTask, "public/a", body), w.artifact(someTask, "public/b", noise(2, 300))
		w.wanting(wish(far, o), wish(far, other))
		w.settle(w.Mirror)
		was := w.copyOf(far, o)
		right, wrong := map[string]any{"url": o.String(), "sha256": sha(body)}, map[string]any{"url": o.String(), "sha256": sumOf("something else")}
		check := func(what string, p position, state, text string) {
			t.Helper()
			if p.State != state || !strings.Contains(p.Error, text) {
				t.Errorf("%s: %+v", what, p)
			}
			if c := w.copyOf(far, o); c.State != Present || c.Token != was.Token || c.SHA256 != sha(body) {
				t.Errorf("%s: it is %+v", what, c)
			}
			w.demandCopy(far, o.String(), body)
		}
		check("known, wrong", w.ordered(far, wrong)[0], stateRefused, sha(body))
		check("known, right", w.ordered(far, right)[0], string(Present), "")
		for what, item := range map[string]map[string]any{"unknown, right": right, "unknown, wrong": wrong} {
			w.set(far, o, func(c *Copy) { c.SHA256 = "" })
			if item["sha256"] == wrong["sha256"] {
				check(what, w.ordered(far, map[string]any{"url": other.String()}, item)[1], stateRefused, "purge")
			} else {
				check(what, w.ordered(far, item)[0], string(Present), "")
			}
		}
		// Where the bucket is away nothing is known, and nothing given up.
		w.set(far, o, func(c *Copy) { c.SHA256 = "" })
		w.region(far).health.away.Store(true)
		if p := w.ordered(far, right)[0]; p.State != string(Waiting) || !strings.Contains(p.Error, "does not answer") {
			t.Errorf("in a bucket that is away: %+v", p)
		}
		w.region(far).health.away.Store(false)
		check("when it is back", w.ordered(far, right)[0], string(Present), "")

		// What is large is not read while somebody waits.
		w.set(far, other, func(c *Copy) { c.SHA256, c.Size = "", verifyBytes+1 })
		if p := w.ordered(far, map[string]any{"url": other.String(), "sha256": sumOf("x")})[0]; p.State != stateRefused || !strings.Contains(p.Error, "too many") {
			t.Errorf("a large one: %+v", p)
		}
		if s := w.state(far, other); s != Present {
			t.Errorf("a large one is %s", s)
		}

		// What is not in the bucket any more is made anew, and compared then.
		w.set(far, o, func(c *Copy) { c.SHA256 = "" })
		if err := w.region(far).Bucket.Delete(t.Context(), was.key()); err != nil {
			t.Fatal(err)
		}
		if p := w.ordered(far, right)[0]; p.State != string(Leaving) {
			t.Errorf("what is lost: %+v", p)
		}
	})
}

// What is asked for in one call is read up to a limit; the rest is for the next.
func TestWhatIsReadForACall(t *testing.T) {
	w := &world{TB: t}
	var list []Want
	var out []*Copy
	for _, c := range []*Copy{
		{State: Waiting, Size: 1}, {State: Present, Size: verifyBytes, SHA256: "aa"}, {State: Present, Size: verifyBytes}, {State: Present, Size: 1},
	} {
		c.Region, c.Origin = far, thing
		list, out = append(list, Want{Region: far, Origin: thing, SHA256: "aa"}), append(out, c)
	}
	p := &place{Region: Region{Name: far, Bucket: deskBucket(t, "copies")}}
	p.health.away.Store(true)
	w.Mirror = &Mirror{regions: []*place{p}}
	w.prove(t.Context(), list, out)
	for i, want := range []struct {
		state State
		text  string
	}{{Waiting, ""}, {Present, ""}, {Waiting, "does not answer"}, {Waiting, "asked for again"}} {
		if c := out[i]; c.State != want.state || !strings.Contains(c.Error, want.text) || (c.Error == "") != (want.text == "") {
			t.Errorf("%d is %s: %s", i, c.State, c.Error)
		}
	}
}

// Tables that were dropped are made again, as the documentation says.
func TestDroppedTables(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		o := w.made(1, 100, far)[0]
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			for _, statement := range []string{
				`DROP TABLE mirror_copy`, `DROP TABLE mirror_tally`, `DROP TABLE mirror_sweep`, `DROP TABLE mirror_scrub`, `DELETE FROM migration WHERE service = 'mirror'`,
			} {
				if _, err := tx.Exec(statement); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		w.Mirror = w.start()
		all(t, newLife(w.Mirror).sweep)
		if c := w.copyOf(far, o); c.State != Present || c.Expires <= timestamp.Now() {
			t.Errorf("it is %+v", c)
		}
	})
}
