package mirror

import (
	"encoding/json"
	"net/url"
	"testing"

	"github.com/taskfleet/taskfleet/mirror/source/faulty"
	"github.com/taskfleet/taskfleet/store"
)

// Who does not know the query of a URL purges its copies by their id, and is told
// how many that were.
func TestPurgesByID(t *testing.T) {
	atOnce(t, func(t *testing.T, db *store.DB) {
		w := openWindow(t, db)
		w.remote("/pub/a", faulty.Object{Size: 500})
		o := Origin{URL: w.originURL + "/pub/a?signature=secret"}
		w.wanting(wish(near, o), wish(far, o))
		w.settle(w.Mirror)
		purged := func(region, id string) (regions []string) {
			t.Helper()
			var out copyList
			p := w.answers(200, "DELETE", "/copies/"+region+"/"+id, nil)
			if err := json.Unmarshal([]byte(p.text), &out); err != nil {
				t.Fatal(err)
			}
			for _, c := range out.Copies {
				if c.ID != id || c.State != Present {
					t.Errorf("what went is %+v", c)
				}
				regions = append(regions, c.Region)
			}
			return regions
		}
		if got := purged(near, o.ID()); len(got) != 1 || got[0] != near || w.copyOf(near, o).State != Leaving || w.copyOf(far, o).State != Present {
			t.Errorf("in %s went %q", near, got)
		}
		if got := purged(everywhere, o.ID()); len(got) != 1 || got[0] != far || w.copyOf(far, o).State != Leaving {
			t.Errorf("everywhere went %q", got)
		}
		if got := purged(everywhere, o.ID()); len(got) != 0 {
			t.Errorf("of nothing went %q", got)
		}
		if got := purged(near, Origin{URL: "https://example.com/none"}.ID()); len(got) != 0 {
			t.Errorf("of what there never was went %q", got)
		}
		w.answers(404, "DELETE", "/copies/mars/"+o.ID(), nil)
		w.answers(400, "DELETE", "/copies/"+home+"/"+o.ID(), nil)
		w.answers(400, "DELETE", "/copies/"+near+"/nonsense", nil)
		w.count()

		// Of what is not allowed any more the id can be found out.
		former := Origin{URL: "https://former.example.com/a"}
		w.wanting(wish(near, former))
		p := w.answers(200, "GET", "/explain/"+near+"/"+url.PathEscape(former.URL), nil)
		if found, ok := p.body["copy"].(map[string]any); p.body["answer"] != answerRefused || p.body["id"] != former.ID() || !ok || found["state"] != "waiting" {
			t.Errorf("what is not allowed any more: %s", p.text)
		}
	})
}
