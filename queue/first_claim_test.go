package queue

import (
	"fmt"
	"testing"

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
