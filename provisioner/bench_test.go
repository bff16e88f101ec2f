package provisioner

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store/storetest"
)

// BenchmarkPass is a pass over 200 pools with 10,000 workers, none of which
// needs anything: what a large deployment costs while nothing happens.
func BenchmarkPass(b *testing.B) {
	for _, kind := range []string{"sqlite", "postgres"} {
		b.Run(kind, func(b *testing.B) {
			const pools, workers = 200, 50
			s := newStage(b, storetest.Open(b, storetest.URL(b, kind)))
			s.stop()
			s.mood, s.cloud.Boot = "mute", time.Hour
			for i := range pools {
				id := fmt.Sprintf("p/pool-%d", i)
				if code, out := s.call("", "PUT", "/worker-pool/"+id, definition([]string{"max=50", "register-within=1000000"})); code != 200 {
					b.Fatal(out)
				}
				s.pending[id] = workers
			}
			at := now()
			pass := func() {
				at = at.Add(2 * time.Second) // so that each decides
				if _, err := s.prov.fleet.Pass(context.Background(), at, nil); err != nil {
					b.Fatal(err)
				}
			}
			begin := time.Now()
			pass()
			first := time.Since(begin)
			if n := s.cloud.Alive(); n != pools*workers {
				b.Fatalf("%d machines", n)
			}
			for b.Loop() {
				pass()
			}
			b.ReportMetric(first.Seconds(), "s-to-start-them")
		})
	}
}
