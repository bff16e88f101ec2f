package queue

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// The first claim of a worker finds what is pending, also while what is known
// of workers is being written down.
func TestTheFirstClaimOfAWorkerFindsWork(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		const workers = 200
		s.queue.seed(t, workers)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
					if err := s.queue.writeCrewDown(t.Context()); err != nil {
						t.Error(err)
						return
					}
				}
			}
		}()
		for i := range workers {
			k := workerKey{"prov/wt", Worker{"grp", fmt.Sprint("first-", i)}.String()}
			s.queue.crew.seen(k)
			if claims, _, err := s.queue.claim(t.Context(), k, 1); err != nil || len(claims) != 1 {
				t.Fatalf("worker %d got %d runs, %v", i, len(claims), err)
			}
		}
		close(stop)
		<-stopped
	})
}

// A claim counts how long its runs were pending; what is handed out again, or not at all, does not.
func TestClaimsTellHowLongTheirRunsWaited(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		r := prometheus.NewRegistry()
		r.MustRegister(s.queue.waited)
		s.queue.seed(t, 3)
		time.Sleep(10 * time.Second)
		k := workerKey{"prov/wt", Worker{"grp", "w"}.String()}
		for _, n := range []int{2, 1, 1} {
			if _, _, err := s.queue.claim(t.Context(), k, n); err != nil {
				t.Fatal(err)
			}
		}
		families, err := r.Gather()
		if err != nil {
			t.Fatal(err)
		}
		if h := families[0].GetMetric()[0].GetHistogram(); h.GetSampleCount() != 3 || h.GetSampleSum() < 30 || h.GetSampleSum() > 33 {
			t.Errorf("of 3 runs that waited 10 s each there are %d, of %v s in all", h.GetSampleCount(), h.GetSampleSum())
		}
	})
}
