package mirror

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// What happens to objects behind the mirror's back is found by whoever looks: the
// scrubber by what the bucket says or by the bytes, the sweep, and those who ask.
func TestDamageIsFoundAndMended(t *testing.T) {
	t.Parallel()
	damages := map[string]func(w *world, b *blob.Bucket, key string, body []byte){
		"replaced by the same length": func(w *world, b *blob.Bucket, key string, body []byte) {
			w.overwrite(b, key, bytes.Repeat([]byte("x"), len(body)))
		},
		"cut off": func(w *world, b *blob.Bucket, key string, body []byte) { w.overwrite(b, key, body[:len(body)-1]) },
		"deleted": func(w *world, b *blob.Bucket, key string, body []byte) {
			if err := b.Delete(w.Context(), key); err != nil {
				w.Fatal(err)
			}
		},
		"rotten on the disk": func(w *world, b *blob.Bucket, key string, body []byte) { w.rot(key, body) },
	}
	finders := map[string]func(t *testing.T, w *world, o Origin){
		"by the scrubber": func(t *testing.T, w *world, o Origin) {
			w.edit("verified = $1", "state = 'present'", timestamp.Now().Add(-verifyEvery))
			all(t, newLife(w.Mirror).scrub)
		},
		"by who asks": func(t *testing.T, w *world, o Origin) {
			c, err := w.verify(t.Context(), far, o.ID())
			if err != nil || c.State != Leaving || c.Error == "" {
				t.Errorf("%+v, %v", c, err)
			}
		},
		"by the sweep": func(t *testing.T, w *world, o Origin) { all(t, newLife(w.Mirror).sweep) },
	}
	for what, spoil := range damages {
		t.Run(strings.ReplaceAll(what, " ", "-"), func(t *testing.T) {
			atOnce(t, func(t *testing.T, db *store.DB) {
				w := newTest(t, db)
				for how, find := range finders {
					if how == "by the sweep" && what == "rotten on the disk" {
						continue // which reads no bytes
					}
					size := 5000 + len(how)
					list := w.made(3, size, near, far)
					bad, body := list[1], noise(1, size)
					old := w.copyOf(far, bad)
					spoil(w, w.region(far).Bucket, old.key(), body)
					find(t, w, bad)
					if c := w.copyOf(far, bad); c.State != Leaving || !c.Again || c.Error == "" {
						t.Fatalf("%s: the damaged copy is %s, %q", how, c.State, c.Error)
					}
					for _, good := range []Origin{list[0], list[2]} {
						if s := w.state(far, good); s != Present {
							t.Errorf("%s: a good copy is %s", how, s)
						}
					}
					if _, err := w.sign(t.Context(), w.copyOf(far, bad)); err == nil {
						t.Errorf("%s: the damaged copy is served", how)
					}
					all(t, newLife(w.Mirror).remove)
					w.settle(w.Mirror)
					c := w.copyOf(far, bad)
					if c.State != Present || c.Token == old.Token {
						t.Fatalf("%s: it was not made anew: %+v", how, c)
					}
					if got, _ := w.served(far, bad); !bytes.Equal(got, body) {
						t.Errorf("%s: what is served now is not the origin", how)
					}
					w.count()
				}
				w.noLitter()
			})
		})
	}
}

// overwrite replaces an object as somebody with access to the bucket would.
func (w *world) overwrite(b *blob.Bucket, key string, body []byte) {
	w.Helper()
	if _, err := b.PutBytes(w.Context(), key, body, blob.Headers{}); err != nil {
		w.Fatal(err)
	}
}

// rot changes a byte on the disk of a store, which does not notice.
func (w *world) rot(key string, body []byte) {
	w.Helper()
	rotten := false
	// The stores have their directories beside each other.
	err := filepath.WalkDir(filepath.Dir(w.TempDir()), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() != filepath.Base(key) {
			return err
		}
		was, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(was, body) {
			return err
		}
		was[len(was)/2] ^= 1
		rotten = true
		return os.WriteFile(path, was, 0o600)
	})
	if err != nil {
		w.Fatal(err)
	}
	if !rotten {
		w.Fatalf("there is no file of %s", key)
	}
}

func TestWhatIsSoundStaysAndIsNotLookedAtAgainSoon(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		life := newLife(w.Mirror)
		list := w.made(5, 100, near, far)
		long := timestamp.Now().Add(-verifyEvery)
		w.edit("verified = $1", "region = $2", long, far)
		w.edit("sha256 = ''", "region = $1", far) // then only what the bucket says is compared
		all(t, life.scrub)
		for _, o := range list {
			if c := w.copyOf(far, o); c.State != Present || c.Verified <= long {
				t.Errorf("%+v", c)
			}
		}
		asked := 0
		w.wire.set(counting(&asked, "HEAD"))
		all(t, life.scrub)
		if asked != 0 {
			t.Errorf("the bucket was asked for %d copies that were compared just now", asked)
		}
		c, err := w.verify(t.Context(), near, list[0].ID())
		if err != nil || c.State != Present || asked != 2 { // at the copy and at the origin
			t.Errorf("%+v, %v, asked %d times", c, err, asked)
		}
	})
}

// What the scrubber reads is bounded, also over restarts, and a large copy is read
// in many passes.
func TestBytesAreReadWithinABudget(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		w.made(1, 1_000_000, far)
		w.made(3, 1000, far)
		p := w.region(far)
		at := &reading{}
		passes, read := 0, int64(0)
		whole := map[string]bool{}
		for len(whole) < 4 {
			c, err := w.toRead(t.Context(), p, at)
			if err != nil {
				t.Fatal(err)
			}
			if c == nil {
				t.Fatalf("after %d of 4 there are no more", len(whole))
			}
			n, done, err := w.readOn(t.Context(), p, at, c, 70_000)
			if err != nil || n > 70_000 {
				t.Fatalf("%d bytes were read, %v", n, err)
			}
			if read += n; done {
				whole[c.ID] = true
			}
			// As after a restart.
			if err := w.saveReading(t.Context(), p, at); err != nil {
				t.Fatal(err)
			}
			if at, err = w.reading(t.Context(), p); err != nil {
				t.Fatal(err)
			}
			passes++
		}
		if passes != 15+3 || read != 1_003_000 {
			t.Errorf("in %d passes %d bytes were read", passes, read)
		}
		if got := w.count(); got[tallied{far, Present}].Objects != 4 {
			t.Errorf("there are %v", got)
		}

		// A round reads all there is, once, and another one is not begun soon, nor
		// without a budget.
		reads := func(what string, at *reading, want int) {
			t.Helper()
			if err := w.saveReading(t.Context(), p, at); err != nil {
				t.Fatal(err)
			}
			asked := 0
			w.wire.set(counting(&asked, "GET"))
			all(t, func(ctx context.Context) (bool, error) { return w.readAgain(ctx, p) })
			if w.wire.set(nil); asked != want {
				t.Errorf("%s, %d copies were read, want %d", what, asked, want)
			}
		}
		now := timestamp.Now()
		reads("from the beginning", &reading{round: now.Add(-verifyEvery)}, 4)
		if at, err := w.reading(t.Context(), p); err != nil || at.id != "" || at.round < now || at.paid < now.Add(-scrubSaved) {
			t.Errorf("%+v, %v", at, err)
		}
		reads("with a round just over", &reading{round: now.Add(-time.Hour)}, 0)
		reads("without a budget", &reading{paid: now.Add(time.Hour)}, 0)
	})
}

// An object that cannot be read is passed over, and so is one that changes while
// it is read.
func TestReadingGoesOnBehindAFailure(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		list := w.made(4, 1000, far)
		p := w.region(far)
		bad := w.copyOf(far, list[2])
		w.wire.set(refusing(bad.key(), "GET"))
		if _, err := w.readAgain(t.Context(), p); err == nil {
			t.Error("a failure was kept to itself")
		}
		at, err := w.reading(t.Context(), p)
		if err != nil || at.token != "" || at.id != bad.ID {
			t.Errorf("%+v, %v", at, err)
		}
		if _, err := w.readAgain(t.Context(), p); err != nil {
			t.Errorf("behind it: %v", err)
		}
		if got := w.count(); got[tallied{far, Present}].Objects != 4 {
			t.Errorf("there are %v", got)
		}
	})
}

// counting counts requests of a method.
func counting(n *int, method string) func(*http.Request, func() (*http.Response, error)) (*http.Response, error) {
	var mu sync.Mutex
	return func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
		if r.Method == method {
			mu.Lock()
			*n++
			mu.Unlock()
		}
		return on()
	}
}

// refusing refuses requests of a method for a key.
func refusing(key, method string) func(*http.Request, func() (*http.Response, error)) (*http.Response, error) {
	name, _ := blob.Spell(key)
	return func(r *http.Request, on func() (*http.Response, error)) (*http.Response, error) {
		if r.Method == method && strings.HasSuffix(r.URL.Path, name) {
			return answer(r, 403, `<Error><Code>AccessDenied</Code><Message>no</Message></Error>`)
		}
		return on()
	}
}

// What a worker has written again, after it was copied, is found an hour later.
func TestAnOriginThatIsWrittenAgain(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		life := newLife(w.Mirror)
		list := w.made(3, 1000, near, far)
		scrub := func() {
			t.Helper()
			all(t, life.scrub)
			all(t, life.remove)
			w.settle(w.Mirror)
		}
		w.overwrite(w.artifacts, list[1].Key, []byte("another"))
		if err := w.artifacts.Delete(t.Context(), list[2].Key); err != nil {
			t.Fatal(err)
		}
		old := w.copyOf(far, list[1])
		scrub()
		if c := w.copyOf(far, list[1]); c.Token != old.Token {
			t.Error("it was looked at before it is an hour old")
		}
		const hour = int64(firstLook / time.Millisecond)
		w.edit("requested = requested - $1, verified = verified - $1", "TRUE", hour)
		scrub()
		for _, region := range []string{near, far} {
			if got, _ := w.served(region, list[1]); string(got) != "another" {
				t.Errorf("in %s it is %d bytes", region, len(got))
			}
			for _, o := range []Origin{list[0], list[2]} {
				if c := w.copyOf(region, o); c.State != Present || c.fresh() {
					t.Errorf("%+v", c)
				}
			}
		}
		// Then it is time for that once a week.
		w.overwrite(w.artifacts, list[0].Key, []byte("another"))
		w.edit("requested = requested - $1", "TRUE", hour)
		old = w.copyOf(far, list[0])
		scrub()
		if c := w.copyOf(far, list[0]); c.Token != old.Token {
			t.Error("it was looked at twice in a week")
		}
		w.edit("verified = $1", "TRUE", timestamp.Now().Add(-verifyEvery))
		scrub()
		if got, _ := w.served(far, list[0]); string(got) != "another" {
			t.Errorf("after a week it is %d bytes", len(got))
		}
		w.count()
	})
}
