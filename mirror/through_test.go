package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/store"
)

// copying runs the copier until the end of the test.
func (w *world) copying() {
	ctx, stop := context.WithCancel(w.Context())
	var done sync.WaitGroup
	done.Go(func() { loop.NewRunner(w.log, loop.Alone, prometheus.NewRegistry()).Run(ctx, w.Loops()[:1]...) })
	w.Cleanup(func() { stop(); done.Wait() })
}

// A reader takes what comes, or does not.
type reader struct {
	bytes.Buffer
	headers blob.Headers
	size    int64
	wait    func(got int) error // before it takes more
}

func (r *reader) open(h blob.Headers, size int64) io.Writer {
	r.headers, r.size = h, size
	return r
}

func (r *reader) Write(p []byte) (int, error) {
	if r.wait != nil {
		if err := r.wait(r.Len()); err != nil {
			return 0, err
		}
	}
	return r.Buffer.Write(p)
}

// The bytes come while they are stored, from wherever and however large.
func TestThrough(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		w.copying()
		for i, size := range []int{0, 10, partSize + 1} {
			body := noise(i, size)
			for _, where := range []string{near, far} {
				o := w.artifact("t", fmt.Sprint(where, i), body)
				var r reader
				c, err := w.through(t.Context(), wish(where, o), r.open)
				if err != nil || c.State != Present || !bytes.Equal(r.Bytes(), body) || r.size != int64(size) || r.headers.ContentType != "text/plain" || r.headers.Metadata != nil {
					t.Errorf("%d bytes in %s: %d came, %+v; %+v %v", size, where, r.Len(), r.headers, c, err)
				}
				if got, _ := w.served(where, o); !bytes.Equal(got, body) {
					t.Errorf("%d bytes in %s are served wrongly", size, where)
				}
				if _, err := w.through(t.Context(), wish(where, o), r.open); !errors.Is(err, errBusy) {
					t.Errorf("again: %v", err)
				}
			}
			o := w.remote(fmt.Sprint("/", i), faulty.Object{Size: int64(size), Always: []faulty.Fault{faulty.Chunked}})
			var r reader
			if c, err := w.through(t.Context(), wish(far, o), r.open); err != nil || sha(r.Bytes()) != c.SHA256 || r.size != -1 {
				t.Errorf("%d bytes of unknown size: %d came, %+v %v", size, r.Len(), c, err)
			}
		}
		w.count()
	})
}

// One reader gets the bytes, the others are told that they are being copied.
func TestThroughForOne(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		w.copying()
		o := w.remote("/popular", faulty.Object{Size: 100_000})
		var all sync.WaitGroup
		var mu sync.Mutex
		outcomes := map[string]int{}
		for range 20 {
			all.Go(func() {
				var r reader
				_, err := w.through(t.Context(), wish(far, o), r.open)
				if errors.Is(err, errBusy) {
					err = errBusy
				} else if r.Len() != 100_000 {
					t.Errorf("%d bytes came: %v", r.Len(), err)
				}
				mu.Lock()
				outcomes[fmt.Sprint(err)]++
				mu.Unlock()
			})
		}
		all.Wait()
		if outcomes["<nil>"] != 1 || outcomes[errBusy.Error()] != 19 {
			t.Errorf("%v", outcomes)
		}
		if n := w.origin.Count("/popular"); n.Gets != 1 {
			t.Errorf("it was asked for %+v", n)
		}
	})
}

// A reader that is slow gets the rest from the copy, and one that is gone is not
// waited for.
func TestThroughForASlowReader(t *testing.T) {
	onSQLite(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		w.copying()
		size := int64(2*partSize + 3)
		slow, gone := w.remote("/slow", faulty.Object{Size: size}), w.remote("/gone", faulty.Object{Size: size})
		r := reader{wait: func(got int) error {
			if got == 0 {
				_, err := w.await(t.Context(), far, slow.ID(), patience)
				return err
			}
			return nil
		}}
		c, err := w.through(t.Context(), wish(far, slow), r.open)
		if err != nil || sha(r.Bytes()) != w.origin.SHA256("/slow") {
			t.Errorf("%d bytes came: %+v %v", r.Len(), c, err)
		}
		left := errors.New("the reader has left")
		r = reader{wait: func(int) error { return left }}
		if _, err := w.through(t.Context(), wish(far, gone), r.open); !errors.Is(err, left) {
			t.Errorf("a reader that is gone: %v", err)
		}
		if c, err := w.await(t.Context(), far, gone.ID(), patience); err != nil || c.State != Present {
			t.Errorf("without its reader: %+v %v", c, err)
		}
		for _, path := range []string{"/slow", "/gone"} {
			if n := w.origin.Count(path); n.Gets != 1 {
				t.Errorf("%s was asked for %+v", path, n)
			}
		}
	})
}

// A reader of what turns out to be wrong is told so.
func TestThroughOfWhatIsWrong(t *testing.T) {
	onSQLite(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		w.copying()
		for _, f := range []faulty.Fault{faulty.Truncate, faulty.WrongBytes, faulty.InternalError, faulty.Missing} {
			path := "/" + string(f)
			o := w.remote(path, faulty.Object{Size: partSize + 1, Plan: faulty.Script(f)})
			want := wish(far, o)
			want.SHA256 = w.origin.SHA256(path)
			var r reader
			if c, err := w.through(t.Context(), want, r.open); err == nil || errors.Is(err, errBusy) {
				t.Errorf("%s: %+v, %v", f, c, err)
			}
			c, err := w.await(t.Context(), far, o.ID(), patience)
			if err != nil || (c.State == Present) != (f != faulty.Missing) {
				t.Errorf("%s: then it is %+v, %v", f, c, err)
			}
		}
		if r, err := w.through(t.Context(), wish("mars", thing), nil); err == nil {
			t.Errorf("on mars: %+v", r)
		}
	})
}

// Where no copier is at work the copy is left to others.
func TestThroughWithoutACopier(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		w.copier.handLimit = 10 * time.Millisecond
		o := w.artifact("t", "x", []byte("x"))
		var r reader
		if _, err := w.through(t.Context(), wish(far, o), r.open); !errors.Is(err, errBusy) {
			t.Errorf("%v", err)
		}
		if c := w.copyOf(far, o); c.State != Waiting || c.Lease != "" || c.Token != "" {
			t.Errorf("it is %+v", c)
		}
		w.settle(w.Mirror)
		if got, _ := w.served(far, o); string(got) != "x" {
			t.Errorf("served is %q", got)
		}
	})
}
