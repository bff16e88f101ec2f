package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

func definition() *task.Definition {
	t := timestamp.Now()
	return &task.Definition{
		ProvisionerID: "prov", WorkerType: "wt", TaskQueueID: "prov/wt", SchedulerID: "-", ProjectID: "none",
		Dependencies: []string{}, Routes: []string{}, Scopes: []string{}, Requires: task.AllCompleted, Priority: "lowest", Retries: 5,
		Created: t, Deadline: t.Add(time.Hour), Expires: t.Add(24 * time.Hour),
		Payload: []byte(`{}`), Extra: []byte(`{}`), Tags: map[string]string{},
	}
}

func mustCreate(t testing.TB, q *Queue, d *task.Definition) string {
	t.Helper()
	id := slugid.New()
	d.TaskGroupID = id
	if _, err := q.create(t.Context(), id, d); err != nil {
		t.Fatal(err)
	}
	return id
}

// claimNow claims for a worker without waiting.
func (q *Queue) claimNow(ctx context.Context, queueID string, w Worker, n int) ([]claim, error) {
	claims, _, err := q.claim(ctx, workerKey{queueID, w.String()}, n)
	return claims, err
}

// The peer hid 5 to 8 % of the tasks of a queue with this many claimers.
func Test32ClaimersShareAQueueAndNoTaskIsHidden(t *testing.T) {
	const claimers = 32
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		tasks := 4_000
		if testing.Short() {
			tasks = 1_000
		}
		s := newStage(t, db, nil)
		s.queue.seed(t, tasks)
		var mu sync.Mutex
		seen := map[string]int{}
		var wg sync.WaitGroup
		for c := range claimers {
			wg.Go(func() {
				for {
					claims, err := s.queue.claimNow(t.Context(), "prov/wt", Worker{"grp", fmt.Sprint("w", c)}, 1+c%4)
					if err != nil {
						t.Error(err)
						return
					}
					if len(claims) == 0 {
						return // on the first refusal: a hidden task would be missing below
					}
					mu.Lock()
					for _, c := range claims {
						seen[c.Status.TaskID]++
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if len(seen) != tasks {
			t.Errorf("%d of %d tasks were claimed", len(seen), tasks)
		}
		for id, n := range seen {
			if n != 1 {
				t.Errorf("task %s was claimed %d times", id, n)
			}
		}
	})
}

// PostgreSQL keeps the plan that it made for a claim while nothing was pending.
func TestAClaimTakesNoMoreThanItAsksFor(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`ANALYZE pending`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for range 40 { // workers that wait; from the sixth time on a plan may be kept
			if _, err := s.queue.claimNow(t.Context(), "prov/wt", Worker{"grp", "w"}, 1); err != nil {
				t.Fatal(err)
			}
		}
		s.queue.seed(t, 50)
		for _, n := range []int{1, 7} {
			claims, err := s.queue.claimNow(t.Context(), "prov/wt", Worker{"grp", "w"}, n)
			if err != nil || len(claims) != n {
				t.Errorf("asked for %d, got %d, %v", n, len(claims), err)
			}
		}
	})
}

// A task becomes pending while its cancellation waits for the lock: it is
// canceled nevertheless, and stays so.
func TestACancellationMeetsARestart(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		id := mustCreate(t, s.queue, definition())
		if _, err := s.queue.claimNow(t.Context(), "prov/wt", Worker{"grp", "w"}, 1); err != nil {
			t.Fatal(err)
		}
		locked, done := make(chan struct{}), make(chan error)
		go func() {
			done <- s.queue.change(t.Context(), func(c *changes) error {
				r, err := lock(c.tx, id)
				if err != nil {
					return err
				}
				close(locked)
				time.Sleep(200 * time.Millisecond) // for the cancellation to come and wait
				c.lose(r, task.ClaimExpired, task.Retry)
				return nil
			})
		}()
		<-locked
		var ended bool
		err := s.queue.change(t.Context(), func(c *changes) (err error) {
			_, ended, err = c.end(id, task.Canceled)
			return err
		})
		if err := errors.Join(err, <-done); err != nil || !ended {
			t.Fatalf("ended: %v, %v", ended, err)
		}
		if claims, err := s.queue.claimNow(t.Context(), "prov/wt", Worker{"grp", "w"}, 1); err != nil || len(claims) != 0 {
			t.Errorf("claimed after it was canceled: %v, %v", claims, err)
		}
		if r, err := s.queue.read(t.Context(), id); err != nil || r.State != task.Exception || r.Latest().ReasonResolved != task.Canceled {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// The tasks of a graph share a group, and are created at the same time.
func TestCreationsInAGroupDoNotWaitForEachOther(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		if strings.HasPrefix(url, "sqlite:") {
			return // which has one writer
		}
		db := storetest.Open(t, url)
		s := newStage(t, db, nil)
		d := definition()
		d.TaskGroupID = mustCreate(t, s.queue, definition())
		d.Expires = d.Expires.Add(-time.Minute)
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			joined := &newTask{record: &record{Status: task.Status{TaskGroupID: d.TaskGroupID, SchedulerID: d.SchedulerID, Expires: d.Expires}}}
			joined.Item = &store.Item[creation, task.Status]{}
			groups, err := readGroups(tx, []string{d.TaskGroupID})
			if err != nil {
				return err
			}
			if err := errors.Join(joinGroups(tx, []*newTask{joined}, groups), joined.Err); err != nil {
				return err
			}
			_, err = s.queue.create(t.Context(), slugid.New(), d) // in another transaction; each has a minute, here and in PostgreSQL
			return err
		}); err != nil {
			t.Error(err)
		}
	})
}

// A task can expire at its deadline. Its end comes first, with all that follows.
func TestNoTaskIsForgottenBeforeItsEndIsTold(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		bus, err := event.New(t.Context(), db, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		q, err := New(t.Context(), Config{DB: db, Events: bus, Mint: fakeMint{}, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		d := definition()
		d.Expires = d.Deadline
		id := mustCreate(t, q, d)
		time.Sleep(2 * time.Hour)
		for _, pass := range []func(context.Context) (bool, error){q.expireDeadlines, q.followResolutions} {
			if _, err := q.expireTasks(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := q.read(t.Context(), id); err != nil {
				t.Fatalf("forgotten too early: %v", err)
			}
			if _, err := pass(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		for _, l := range bus.Loops() {
			if l.Name == "event.place" {
				if _, err := l.Pass(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		messages, err := bus.Read(t.Context(), 0, 1000)
		if err != nil || len(messages) == 0 || !strings.HasSuffix(messages[len(messages)-1].Exchange, "/task-group-resolved") {
			t.Errorf("the last of the messages %v does not tell of the group's end, %v", messages, err)
		}
		if _, err := q.expireTasks(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := q.read(t.Context(), id); err == nil {
			t.Error("it is kept")
		}
	})
}

// seed fills a queue with pending tasks in few transactions.
func (q *Queue) seed(t testing.TB, n int) {
	t.Helper()
	d := definition()
	for n > 0 {
		k := min(n, 500)
		n -= k
		if err := q.change(t.Context(), func(c *changes) error {
			for range k {
				r := &record{tags: []byte("{}"), Status: task.Status{
					TaskID: slugid.New(), TaskGroupID: slugid.New(), TaskQueueID: d.TaskQueueID, ProvisionerID: "prov", WorkerType: "wt",
					SchedulerID: "-", ProjectID: "none", RetriesLeft: 5, Deadline: d.Deadline, Expires: d.Expires, Priority: "lowest",
				}}
				if _, err := c.tx.Exec(`INSERT INTO task (`+columns+`) VALUES ($1, $2, '-', 'none', $3, 0, 'pending', 5, 5, $4, $5, 0, '', 0, '',
					'[{"runId":0,"state":"pending","reasonCreated":"scheduled","scheduled":"`+now().String()+`"}]', '[]', '{}', '{"scopes":[]}')`,
					r.TaskID, r.TaskQueueID, r.TaskGroupID, d.Deadline, d.Expires); err != nil {
					return err
				}
				r.addRun(task.Scheduled)
				c.pending = append(c.pending, r) // without a message
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestATaskWakesOneWaitingWorkerAtOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		start := time.Now()
		got := make(chan []claim, 3)
		for i := range 3 {
			go func() {
				claims, err := s.queue.awaitWork(t.Context(), "prov/wt", Worker{"grp", fmt.Sprint("w", i)}, 1)
				if err != nil {
					t.Error(err)
				}
				got <- claims
			}()
		}
		time.Sleep(5 * time.Second)
		a := mustCreate(t, s.queue, definition())
		b := mustCreate(t, s.queue, definition())
		for range 2 {
			c := <-got
			if len(c) != 1 || c[0].Status.TaskID != a && c[0].Status.TaskID != b || time.Since(start) != 5*time.Second {
				t.Errorf("claimed %v after %v", c, time.Since(start))
			}
		}
		if c := <-got; len(c) != 0 || time.Since(start) != pollTimeout {
			t.Errorf("the third worker got %v after %v", c, time.Since(start))
		}
	})
}

func TestAWorkerThatHangsUpLosesNoTask(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		// It hangs up while it waits,
		ctx, hangUp := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.queue.awaitWork(ctx, "prov/wt", Worker{"grp", "w1"}, 1); close(done) }()
		other := make(chan []claim, 1)
		synctest.Wait()
		go func() {
			c, err := s.queue.awaitWork(t.Context(), "prov/wt", Worker{"grp", "w2"}, 1)
			if err != nil {
				t.Error(err)
			}
			other <- c
		}()
		synctest.Wait()
		hangUp()
		<-done
		id := mustCreate(t, s.queue, definition())
		if c := <-other; len(c) != 1 || c[0].Status.TaskID != id {
			t.Errorf("the next worker got %v", c)
		}
		// and when the reply is on its way: the run goes back as it was.
		id = mustCreate(t, s.queue, definition())
		claims, err := s.queue.claimNow(t.Context(), "prov/wt", Worker{"grp", "w1"}, 1)
		if err != nil || len(claims) != 1 {
			t.Fatal(claims, err)
		}
		s.queue.unclaim(claims)
		r, err := s.queue.read(t.Context(), id)
		if err != nil || r.State != task.Pending || len(r.Runs) != 1 || r.RetriesLeft != 5 || r.Runs[0].WorkerID != "" {
			t.Errorf("%+v, %v", r, err)
		}
		again, err := s.queue.claimNow(t.Context(), "prov/wt", Worker{"grp", "w3"}, 1)
		if err != nil || len(again) != 1 || again[0].RunID != 0 {
			t.Errorf("%v, %v", again, err)
		}
		// What another worker has by now is not taken from it.
		s.queue.unclaim(claims[:0])
		time.Sleep(time.Millisecond)
		s.queue.unclaim([]claim{{Status: task.Status{TaskID: id}, RunID: 0, TakenUntil: claims[0].TakenUntil - 1}})
		if r, err := s.queue.read(t.Context(), id); err != nil || r.State != task.Running {
			t.Errorf("%+v, %v", r, err)
		}
	})
}

// Dependents are created while what they depend on is being resolved: none may
// be forgotten between the two.
func TestDependentsCreatedDuringTheResolutionAreScheduled(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		const rounds, dependents = 20, 8
		var all []string
		for range rounds {
			first := mustCreate(t, s.queue, definition())
			claims, err := s.queue.claimNow(t.Context(), "prov/wt", Worker{"grp", "w"}, 1)
			if err != nil || len(claims) != 1 {
				t.Fatal(claims, err)
			}
			var mu sync.Mutex
			var wg sync.WaitGroup
			for range dependents {
				wg.Go(func() {
					d := definition()
					d.TaskQueueID, d.WorkerType, d.Dependencies = "prov/other", "other", []string{first}
					id := slugid.New()
					d.TaskGroupID = id
					if _, err := s.queue.create(t.Context(), id, d); err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					all = append(all, id)
					mu.Unlock()
				})
			}
			wg.Go(func() {
				if _, err := s.queue.report(t.Context(), runPath{first, 0}, task.Completed, task.DidComplete); err != nil {
					t.Error(err)
				}
			})
			wg.Wait()
		}
		eventually(t, "a pending run of each dependent", func() bool {
			pending, _, err := s.queue.Pending(t.Context(), "prov/other")
			if err != nil {
				t.Fatal(err)
			}
			return int(pending) == rounds*dependents
		})
	})
}

func TestTheEndOfAGroupIsToldOnceHoweverManyTasksEndTogether(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		for i := range 5 {
			s.do([]string{"create", fmt.Sprint(i), "group=G"})
		}
		s.do([]string{"seal", "G"})
		if got := s.do([]string{"cancel-group", "G"}); got != "5 of 5" {
			t.Error(got)
		}
		synctest.Wait()
		if told := s.events(); strings.Count(told, "task-group-resolved G") != 1 || !strings.HasSuffix(told, "task-group-resolved G") {
			t.Error(told)
		}
	})
}

// A node with many dependents is followed up in batches.
func TestAWideFanOutIsScheduledCompletely(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		root := mustCreate(t, s.queue, definition())
		const width = 3*batch + 7
		for range width {
			d := definition()
			d.TaskQueueID, d.WorkerType, d.Dependencies = "prov/other", "other", []string{root}
			mustCreate(t, s.queue, d)
		}
		if _, err := s.queue.claimNow(t.Context(), "prov/wt", Worker{"grp", "w"}, 1); err != nil {
			t.Fatal(err)
		}
		if _, err := s.queue.report(t.Context(), runPath{root, 0}, task.Completed, task.DidComplete); err != nil {
			t.Fatal(err)
		}
		claimed := 0
		eventually(t, "a run of each dependent", func() bool {
			c, err := s.queue.awaitWork(t.Context(), "prov/other", Worker{"grp", "w"}, 32)
			if err != nil {
				t.Fatalf("after %d of %d: %v", claimed, width, err)
			}
			claimed += len(c)
			return claimed == width
		})
	})
}

// A page of large tasks ends early, and none of them is missed.
func TestAPageIsBoundedInBytes(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		for i := range 5 {
			s.create(false, fmt.Sprint("big", i), []string{"group=G"})
			if err := db.Do(t.Context(), func(tx *store.Tx) error {
				_, err := tx.Exec(`UPDATE task SET definition = $2 WHERE task_id = $1`, s.id(fmt.Sprint("big", i)), fmt.Sprintf(`{"payload":%q}`, strings.Repeat("x", maxPage/2)))
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
		var seen []string
		pages := 0
		for page := (api.Page{Limit: api.MaxLimit}); ; pages++ {
			var token string
			if err := db.View(t.Context(), func(tx *store.Tx) error {
				list, next, err := queryPage(tx, page, `SELECT `+columns+` FROM task WHERE task_group_id = $1 AND task_id > $2 ORDER BY task_id LIMIT $3`, s.id("G"), after(page))
				for _, r := range list {
					seen = append(seen, r.TaskID)
					page.After = []string{r.TaskID}
				}
				token = next
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if token == "" {
				break
			}
		}
		if len(seen) != 5 || pages != 2 || !slices.IsSorted(seen) {
			t.Errorf("%d tasks, %d further pages, %v", len(seen), pages, seen)
		}
	})
}
