package mirror

import (
	"bytes"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// Whatever its size, key and kind, an origin is copied to where the store copies
// by itself and to where it cannot, with its headers, and the copy is the same.
func TestCopies(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		w := newTest(t, db)
		bodies := map[Origin][]byte{}
		for i, size := range []int{0, 1, inlineSize, inlineSize + 1, partSize, partSize + 1, 3*partSize + 17} {
			body := noise(i, size)
			bodies[w.artifact("task", strings.Repeat("x", i+1), body)] = body
		}
		for i, key := range []string{"../..//a", "naïve/日本/\n", strings.Repeat("ü", 500), "a b+c%2F~"} {
			body := noise(100+i, 3000)
			bodies[w.artifact("t", key, body)] = body
		}
		for _, o := range []faulty.Object{{Size: 0}, {Size: 1000}, {Size: 1000, Always: []faulty.Fault{faulty.Chunked}}, {Size: 2*partSize + 5},
			{Size: 2*unknownPart + 5, Always: []faulty.Fault{faulty.Chunked}}, {Size: 2 * unknownPart, Always: []faulty.Fault{faulty.Chunked}}, {Size: 7, NoETag: true}} {
			o.ContentType, o.ContentEncoding = "text/plain", "identity"
			origin := w.remote("/pub/"+strings.Repeat("x", len(bodies)), o)
			var b bytes.Buffer
			if _, err := b.ReadFrom(w.origin.Content(origin.URL[len(w.originURL):])); err != nil {
				t.Fatal(err)
			}
			bodies[origin] = b.Bytes()
		}
		for o := range bodies {
			w.wanting(wish(near, o), wish(far, o))
		}
		w.count()
		w.settle(w.Mirror)
		for o, body := range bodies {
			for _, region := range []string{near, far} {
				c := w.copyOf(region, o)
				if c.State != Present || c.Size != int64(len(body)) || c.SHA256 != "" && c.SHA256 != sha(body) || c.Upload != nil || c.Attempts != 0 {
					t.Errorf("%s in %s: %+v", o, region, c)
					continue
				}
				got, h := w.served(region, o)
				if !bytes.Equal(got, body) || h.Get("Content-Type") != "text/plain" || h.Get("Content-Encoding") != "identity" {
					t.Errorf("%s in %s: %d bytes, want %d; %v", o, region, len(got), len(body), h)
				}
			}
			if o.URL != "" {
				if n := w.origin.Count(o.URL[len(w.originURL):]); n.Gets != 2 || n.Heads != 0 {
					t.Errorf("%s was asked for %+v, for two regions", o, n)
				}
			}
		}
		if got := w.count(); got[tallied{near, Present}].Objects != int64(len(bodies)) || len(got) != 2 {
			t.Errorf("there are %v", got)
		}
		w.noLitter()
	})
}
