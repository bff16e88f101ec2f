package queue

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/task"
)

// Workers claim and give back, report and get again, while others drain them:
// whoever was drained has nothing, from that transaction on.
func TestADrainedWorkerHasNoClaim(t *testing.T) {
	const workers, claimers, drainers = 396, 12, 3
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		rounds := 10 // without one of the two locks, any of the first two finds a claim that a drained worker has
		if testing.Short() {
			rounds = 3
		}
		s := newStage(t, db, nil)
		s.queue.seed(t, 3*claimers)
		claimed, refused := 0, 0
		for round := range rounds {
			crew := make([]Worker, workers)
			var known []string                   // before they claim
			gone := make([]atomic.Bool, workers) // its drain was committed
			for i := range crew {
				crew[i] = Worker{"grp", fmt.Sprintf("w%d-%d", round, i)}
				if i%8 > 0 {
					known = append(known, crew[i].String())
				}
			}
			if err := db.Do(t.Context(), func(tx *store.Tx) error { return addWorkers(tx, "prov/wt", known) }); err != nil {
				t.Fatal(err)
			}
			var left atomic.Int64
			left.Store(workers)
			var mu sync.Mutex
			var wg sync.WaitGroup
			for c := range claimers {
				wg.Go(func() {
					for left.Load() > 0 && !t.Failed() {
						i := c + claimers*rand.IntN(workers/claimers) // a worker makes one call at a time
						before := gone[i].Load()
						if before && rand.IntN(16) > 0 {
							time.Sleep(200 * time.Microsecond) // leaves the machine to the others
							continue
						}
						claims, _, err := s.queue.claim(t.Context(), workerKey{"prov/wt", crew[i].String()}, 1+rand.IntN(3))
						if err != nil {
							t.Error(err)
							return
						}
						if before && len(claims) > 0 {
							t.Errorf("%v claimed %d runs after it was drained", crew[i], len(claims))
						}
						if len(claims) > 0 && rand.IntN(4) == 0 { // its answer is lost; it asks again
							n := len(claims)
							claims, err = s.queue.handAgain(t.Context(), "prov/wt", claimWorkRequest{crew[i], n, []string{}})
							if err != nil || len(claims) != n {
								t.Errorf("of %d runs it gets %d again: %v", n, len(claims), err)
							}
						}
						if len(claims) > 0 && gone[i].Load() {
							t.Errorf("%v was drained while it had %d runs", crew[i], len(claims))
						}
						s.queue.unclaim(claims)
						mu.Lock()
						claimed += len(claims)
						if len(claims) == 0 {
							refused++
						}
						mu.Unlock()
					}
				})
			}
			for range drainers {
				wg.Go(func() {
					for left.Load() > 0 && !t.Failed() {
						var some []Worker
						for i := range crew {
							if !gone[i].Load() && (rand.IntN(4) == 0 || left.Load() < workers/8) || rand.IntN(40) == 0 {
								some = append(some, crew[i])
							}
						}
						var drained []Worker
						if err := db.Do(t.Context(), func(tx *store.Tx) (err error) {
							drained, err = s.queue.DrainAny(tx, "prov/wt", some)
							return err
						}); err != nil {
							t.Error(err)
							return
						}
						for _, w := range drained {
							if gone[slices.Index(crew, w)].CompareAndSwap(false, true) {
								left.Add(-1)
							}
						}
						if n := heldBy(t, db, drained); n > 0 {
							t.Errorf("%d runs are held by workers that were drained", n)
						}
					}
				})
			}
			wg.Wait()
			if n := heldBy(t, db, crew); n > 0 {
				t.Fatalf("%d runs are held by workers that were drained", n)
			}
		}
		t.Logf("%d drained; %d runs claimed, %d claims refused or in vain", rounds*workers, claimed, refused)
	})
}

// heldBy counts the runs that workers hold.
func heldBy(t *testing.T, db *store.DB, workers []Worker) (n int) {
	t.Helper()
	var names []string
	for _, w := range workers {
		names = append(names, w.String())
	}
	if err := db.View(t.Context(), func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT count(*) FROM task WHERE task_queue_id = 'prov/wt' AND worker IN (SELECT value FROM json_each($1)) AND state = 'running'`, names).Scan(&n)
	}); err != nil {
		t.Error(err)
	}
	return n
}

// What the caller of Drain writes in the same transaction, and the draining,
// are undone together.
func TestADrainThatIsNotCommittedIsNone(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		no := errors.New("no")
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			if drained, err := s.queue.Drain(tx, "prov/wt", "grp", "w"); !drained || err != nil {
				t.Error(drained, err)
			}
			return no
		}); err != no {
			t.Fatal(err)
		}
		id := mustCreate(t, s.queue, definition())
		if c, err := s.queue.awaitWork(t.Context(), "prov/wt", Worker{"grp", "w"}, 1); err != nil || len(c) != 1 || c[0].Status.TaskID != id {
			t.Error(c, err)
		}
	})
}

// A wake that reaches a worker just as it is drained goes on to the next.
func TestADrainedWorkerPassesWorkOn(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		poll := func(id string) <-chan []claim {
			got := make(chan []claim, 1)
			go func() {
				c, err := s.queue.awaitWork(t.Context(), "prov/wt", Worker{"grp", id}, 1)
				if err != nil {
					t.Error(err)
				}
				got <- c
			}()
			synctest.Wait()
			return got
		}
		other := poll("other")
		time.Sleep(time.Second)
		drained := poll("drained") // is first in line, as it came later
		start := time.Now()
		var id string
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			tx.Wake(topicPending("prov/wt"), 1) // reaches it before its own topic does
			_, err := s.queue.Drain(tx, "prov/wt", "grp", "drained")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		id = mustCreate(t, s.queue, definition())
		if c := <-other; len(c) != 1 || c[0].Status.TaskID != id || time.Since(start) > 0 {
			t.Errorf("the other got %v after %v", c, time.Since(start))
		}
		if c := <-drained; len(c) != 0 || time.Since(start) > 0 {
			t.Errorf("the drained one got %v after %v", c, time.Since(start))
		}
	})
}

// A worker is remembered, with its place in line, by the next process.
func TestWorkersAreRememberedAcrossARestart(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		for _, id := range []string{"first", "last"} {
			mustCreate(t, s.queue, definition())
			c, err := s.queue.awaitWork(t.Context(), "prov/wt", Worker{"grp", id}, 1)
			if err != nil || len(c) != 1 {
				t.Fatal(c, err)
			}
			time.Sleep(time.Minute)
			if _, err := s.queue.report(t.Context(), runPath{c[0].Status.TaskID, 0}, task.Completed, task.DidComplete); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.queue.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		released := time.Now()
		time.Sleep(time.Minute)
		again := newStage(t, db, nil).queue
		d, err := again.Demand(t.Context(), []string{"prov/wt"})
		if err != nil || len(d["prov/wt"].Workers) != 2 {
			t.Fatal(d, err)
		}
		for _, w := range d["prov/wt"].Workers {
			if w.Worker.ID == "last" && w.Released.Time().UnixMilli() != released.UnixMilli() {
				t.Errorf("released %v, not %v", w.Released, released)
			}
		}
		got := make(chan string, 2)
		for _, id := range []string{"last", "first"} {
			go func() {
				if c, err := again.awaitWork(t.Context(), "prov/wt", Worker{"grp", id}, 1); err != nil {
					t.Error(err)
				} else if len(c) > 0 {
					got <- id
				}
			}()
			synctest.Wait()
			time.Sleep(time.Second)
		}
		for _, want := range []string{"last", "first"} {
			mustCreate(t, again, definition())
			if id := <-got; id != want {
				t.Errorf("%s got work before %s", id, want)
			}
		}
	})
}

// One that may have nothing takes nothing, not even for a moment.
func TestAWorkerThatGetsNothingLeavesTheQueueAlone(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		mustCreate(t, s.queue, definition())
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			if err := addWorkers(tx, "prov/wt", []string{"grp/w"}); err != nil {
				return err
			}
			_, err := tx.Exec(`UPDATE queue_worker SET quarantine_until = $1`, now().Add(time.Hour))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		other := db.Waits().Wait(topicPending("prov/wt"))
		defer other.Close()
		if claims, err := s.queue.claimNow(t.Context(), "prov/wt", Worker{"grp", "w"}, 1); err != nil || len(claims) > 0 {
			t.Errorf("%d claims, %v", len(claims), err)
		}
		select {
		case <-other.C:
			t.Error("others were woken, as if there were new work")
		default:
		}
		if claims, err := s.queue.claimNow(t.Context(), "prov/wt", Worker{"grp", "new"}, 1); err != nil || len(claims) != 1 {
			t.Errorf("another worker: %d claims, %v", len(claims), err)
		}
	})
}
