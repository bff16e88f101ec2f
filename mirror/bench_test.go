package mirror

import (
	"fmt"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// BenchmarkBooks is what the database takes for a copy, from the want over the
// claim to the end, without the copying.
func BenchmarkBooks(b *testing.B) {
	w := newQuiet(b, storetest.Open(b, storetest.URL(b, "sqlite")))
	d := w.region(far).desk
	s := &shift{copier: w.copier, ctx: b.Context(), jobs: map[*job]bool{}}
	var spent [3]time.Duration
	b.ReportAllocs()
	for n := 0; n < b.N; {
		var list []Want
		for range min(500, b.N-n) {
			o := Origin{Bucket: "artifacts", Key: fmt.Sprint("task/0/public/", n)}
			list = append(list, Want{Region: far, Origin: o, Size: 1024, Expires: timestamp.Now().Add(time.Hour)})
			n++
		}
		lap := time.Now()
		split := func(i int) { now := time.Now(); spent[i], lap = spent[i]+now.Sub(lap), now }
		w.wanting(list...)
		split(0)
		var jobs []*job
		for len(jobs) < len(list) {
			jobs = append(jobs, d.claim(s, claim{small: 100}).jobs...)
		}
		split(1)
		for len(jobs) > 0 {
			some := jobs[:min(len(jobs), 50)]
			jobs = jobs[len(some):]
			for _, j := range some {
				j.note(func(c *Copy) { c.ETag, c.Stored, c.SHA256, c.Done = c.ID[:32], c.ID[:32], c.ID, c.Size })
			}
			w.copier.finish(b.Context(), some)
		}
		split(2)
	}
	for i, what := range []string{"want-µs", "claim-µs", "end-µs"} {
		b.ReportMetric(float64(spent[i].Microseconds())/float64(b.N), what)
	}
}
