package mirror

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/mirror/source"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// How many transfers each kind of copy may have, by what the others do.
func TestLimits(t *testing.T) {
	type counts [kinds]int
	for _, x := range []struct {
		what             string
		transfers        int
		running, waiting counts // small, unknown, large
		unknown, large   int
	}{
		{"all are of unknown size", 16, counts{}, counts{0, 9, 0}, 12, 8},
		{"small ones wait, too", 16, counts{}, counts{9, 9, 0}, 8, 8},
		{"all are large", 16, counts{}, counts{0, 0, 9}, 12, 11},
		{"large ones have what small ones leave, nearly", 16, counts{0, 0, 11}, counts{0, 9, 9}, 1, 8},
		{"none are left", 16, counts{0, 12, 0}, counts{0, 9, 9}, 12, 0},
		{"four", 4, counts{}, counts{0, 9, 0}, 3, 2},
		{"four, two of them large", 4, counts{0, 0, 2}, counts{0, 9, 0}, 1, 2},
		{"four, all of them large", 4, counts{}, counts{0, 0, 9}, 3, 2},
		{"three", 3, counts{}, counts{9, 9, 9}, 1, 1},
		{"two", 2, counts{}, counts{9, 9, 0}, 1, 1},
		{"two, one of them large", 2, counts{0, 0, 1}, counts{9, 9, 9}, 0, 1},
		{"one", 1, counts{}, counts{0, 9, 0}, 1, 1},
		{"one, large", 1, counts{0, 0, 1}, counts{0, 9, 0}, 0, 1},
		{"one, and all wait", 1, counts{}, counts{9, 9, 9}, 1, 1},
	} {
		d := &desk{place: &place{Region: Region{Transfers: x.transfers}}}
		for k := range kinds {
			d.lanes[k].running = x.running[k]
			d.lanes[k].queue = make([]*job, x.waiting[k])
		}
		if d.limit(small) != x.transfers || d.limit(unknown) != x.unknown || d.limit(large) != x.large {
			t.Errorf("%s: there may be %d small, %d unknown and %d large ones, want %d, %d and %d",
				x.what, d.limit(small), d.limit(unknown), d.limit(large), x.transfers, x.unknown, x.large)
		}
	}

	// Where there is one transfer all get it, by turns.
	d := &desk{place: &place{Region: Region{Transfers: 1}}}
	for k := range kinds {
		d.lanes[k].kind, d.lanes[k].queue = k, make([]*job, 1)
	}
	var turns []kind
	for len(turns) < 3 {
		l := d.turn()
		l.ended, l.took = time.Now(), time.Minute
		turns = append(turns, l.kind)
	}
	if !slices.Equal(turns, []kind{large, unknown, small}) {
		t.Errorf("the turns are %v", turns)
	}
}

// Giants of unknown size, which may or may not say how large they are when they
// begin to come, do not keep others waiting.
func TestGiantsOfUnknownSizeKeepNobodyWaiting(t *testing.T) {
	for _, sized := range []bool{true, false} {
		t.Run(fmt.Sprint("sized=", sized), func(t *testing.T) {
			atOnce(t, func(t *testing.T, db *store.DB) {
				w := newTest(t, db)
				const giants = 6
				asked := make(chan string, 100)
				server := w.serving(func(rw http.ResponseWriter, r *http.Request) {
					if strings.HasPrefix(r.URL.Path, "/little") {
						fmt.Fprint(rw, "12345")
						return
					}
					if sized {
						rw.Header().Set("Content-Length", fmt.Sprint(largeSize+1))
					}
					rw.WriteHeader(200)
					rw.Write(make([]byte, inlineSize+1)) // so that it is not taken for small
					http.NewResponseController(rw).Flush()
					asked <- r.URL.Path
					<-r.Context().Done()
				})
				w.config.Regions[1].Transfers = 4
				m := w.start()
				var list []Want
				for i := range giants {
					list = append(list, wish(far, Origin{URL: fmt.Sprint(server, "/giant/", i)}))
				}
				w.wanting(list...)
				ctx, stop := context.WithCancel(t.Context())
				var done sync.WaitGroup
				done.Go(func() {
					if _, err := m.copier.shift(ctx); err != nil {
						t.Error(err)
					}
				})
				begun := map[string]bool{}
				for want := map[bool]int{true: giants, false: 3}[sized]; len(begun) < want; {
					begun[<-asked] = true
				}
				known := wish(far, w.artifact("t", "known", []byte("12345")))
				known.Size = 5
				others := []Want{known, wish(far, Origin{URL: server + "/little/known"})}
				others[1].Size = 5
				if sized { // others may be giants themselves, for all that is known
					others = append(others, wish(far, Origin{URL: server + "/little"}), wish(far, w.artifact("t", "unknown", []byte("12345"))))
				}
				w.wanting(others...)
				for _, o := range others {
					if c, err := w.await(t.Context(), far, o.Origin.ID(), patience); err != nil || c.State != Present {
						t.Errorf("%s: %+v, %v", o.Origin, c, err)
					}
				}
				stop()
				done.Wait()
				for _, o := range list {
					c := w.copyOf(far, o.Origin)
					if c.State != Waiting || c.Attempts != 0 || c.Error != "" || sized != (c.Size == largeSize+1) {
						t.Errorf("a giant became %+v", c)
					}
				}
				w.count()
			})
		})
	}
}

// What makes way for others is made in the end, and that it made way counts for
// nothing.
func TestWhatMakesWayIsMadeLater(t *testing.T) {
	onSQLite(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		w.config.Regions[1].Transfers = 3
		made := make(chan struct{}) // closed when one has made way for the other
		var once sync.Once
		var asked atomic.Int32
		body := make([]byte, largeSize+1)
		server := w.serving(func(rw http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			rw.Header().Set("Content-Length", fmt.Sprint(len(body)))
			rw.WriteHeader(200)
			http.NewResponseController(rw).Flush()
			select {
			case <-made:
			case <-r.Context().Done():
				once.Do(func() { close(made) })
			}
			rw.Write(body)
		})
		m := w.start()
		list := []Want{wish(far, Origin{URL: server + "/1"}), wish(far, Origin{URL: server + "/2"})}
		w.wanting(list...)
		w.settle(m)
		for _, o := range list {
			if c := w.copyOf(far, o.Origin); c.State != Present || c.Attempts != 0 || c.SHA256 != sha(body) {
				t.Errorf("%+v", c)
			}
		}
		if n := asked.Load(); n != 3 {
			t.Errorf("two of which one makes way were asked for %d times", n)
		}
		w.count()
		w.noLitter()
	})
}

// serving is an origin that is read by mirrors that are started from now on.
func (w *world) serving(f http.HandlerFunc) (server string) {
	w.Helper()
	server = newServer(w, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("ETag", `"x"`)
		f(rw, r)
	}))
	c, err := source.New(source.Config{Allow: []string{server + "/"}, Addresses: []string{"127.0.0.0/8"}, Stall: patience, RateWindow: patience})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(c.Close)
	w.config.HTTP = c
	return server
}

// What has no length, and more bytes than a region keeps, is given up as soon as
// that is known. Nothing else goes for it.
func TestMoreThanARegionKeeps(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		w.copier.sizes.unsure = []run{{1, 5 << 20}, {10, 6 << 20}}
		body := []byte("what others read")
		kept := w.artifact("t", "kept", body)
		w.wanting(wish(far, kept))
		for i, x := range []struct{ size, most int64 }{{5000, 1000}, {12 << 20, 5 << 20}, {40 << 20, 13 << 20}} {
			w.region(far).MaxBytes = x.most
			path := fmt.Sprint("/", i)
			o := w.remote(path, faulty.Object{Size: x.size, Always: []faulty.Fault{faulty.Chunked}})
			exact := w.remote(path+"/exact", faulty.Object{Size: x.most, Always: []faulty.Fault{faulty.Chunked}})
			w.wanting(wish(far, o))
			w.settle(w.Mirror)
			if c := w.copyOf(far, o); c.State != Failed || c.Upload != nil || !strings.Contains(c.Error, fmt.Sprint("keeps no more than ", x.most)) {
				t.Errorf("of %d bytes: %+v", x.size, c)
			}
			all(t, w.expire)
			if got, _ := w.served(far, kept); !bytes.Equal(got, body) {
				t.Error("another copy went for it")
			}
			w.wanting(wish(far, exact))
			w.settle(w.Mirror)
			if c := w.copyOf(far, exact); c.State != Present || c.Size != x.most {
				t.Errorf("of as many bytes as there may be: %+v", c)
			}
			w.edit("read = 0", "id = $1", exact.ID())
			all(t, w.expire)
			w.edit("due = 0", "state = 'leaving'")
			all(t, newLife(w.Mirror).remove)
		}
		w.count()
		w.noLitter()
	})
}

// Where the budget was lowered what is larger than all of it goes first, and not
// all that was not read since.
func TestWhatIsLargerThanTheBudgetGoesFirst(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		little := w.made(3, 100, near)
		huge := w.artifact("t", "huge", noise(1, 5000))
		w.wanting(wish(near, huge))
		w.settle(w.Mirror)
		for _, unit := range []int64{1, largeSize} { // there is an index of large ones
			for i, o := range append(little, huge) {
				w.set(near, o, func(c *Copy) {
					c.State, c.Size, c.Read = Present, 100*unit, timestamp.Now().Add(time.Duration(i)*time.Minute)
					if o == huge {
						c.Size = 5000 * unit
					}
				})
			}
			w.region(near).MaxBytes = 400 * unit
			all(t, w.expire)
			if s := w.state(near, huge); s != Leaving {
				t.Errorf("what is larger than all may be is %s", s)
			}
			for _, o := range little {
				if s := w.state(near, o); s != Present {
					t.Errorf("what was read before is %s", s)
				}
			}
			w.count()
		}
	})
}
