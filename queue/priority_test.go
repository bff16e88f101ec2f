package queue

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/task"
)

// seedGroup makes a group of n pending tasks.
func (s *stage) seedGroup(n int) (groupID string) {
	s.t.Helper()
	s.queue.seed(s.t, n)
	groupID = slugid.New()
	if err := s.db.Do(s.t.Context(), func(tx *store.Tx) error {
		if _, err := tx.Exec(`UPDATE task SET task_group_id = $1`, groupID); err != nil {
			return err
		}
		_, err := tx.Exec(`INSERT INTO task_group (task_group_id, scheduler_id, expires) VALUES ($1, '-', $2)`, groupID, definition().Expires)
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	return groupID
}

// count is the number that a query returns.
func (s *stage) count(query string, args ...any) (n int) {
	s.t.Helper()
	if err := s.db.View(context.Background(), func(tx *store.Tx) error { return tx.QueryRow(query, args...).Scan(&n) }); err != nil {
		s.t.Fatal(err)
	}
	return n
}

// Priorities change, of tasks and of the group, while workers wait for work,
// claim, and lose what they have. Every task is claimed, and the two rows that
// hold its priority agree.
func TestPrioritiesChangeWhileWorkersClaim(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		tasks := 300
		if testing.Short() {
			tasks = 150
		}
		s := newStage(t, db, nil)
		groupID := s.seedGroup(tasks)
		ids, err := s.taskIDs()
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		var left atomic.Int64
		left.Store(int64(tasks))
		var wg sync.WaitGroup
		anyPriority := func() task.Priority { return task.Priorities[rand.IntN(len(task.Priorities))] }
		for range 3 {
			wg.Go(func() {
				for left.Load() > 0 && ctx.Err() == nil {
					err := db.Do(ctx, func(tx *store.Tx) error {
						_, err := s.queue.reprioritize(tx, ids[rand.IntN(len(ids))], anyPriority())
						return err
					})
					if e, ok := err.(*api.Error); err != nil && ctx.Err() == nil && (!ok || e.Code != api.RequestConflict) {
						t.Error(err)
						return
					}
				}
			})
		}
		wg.Go(func() {
			for left.Load() > 0 && ctx.Err() == nil {
				if code, out := s.call("POST", "/task-group/"+groupID+"/priority", map[string]any{"newPriority": anyPriority()}); code != 200 {
					t.Error(code, out)
					return
				}
			}
		})
		for i := range 4 {
			wg.Go(func() {
				for vain := 0; left.Load() > 0; {
					claims, err := s.queue.awaitWork(ctx, "prov/wt", Worker{"grp", fmt.Sprint("w", i)}, 3)
					if ctx.Err() != nil {
						return
					}
					if vain++; len(claims) > 0 {
						vain = 0
					}
					if err != nil || vain == 6 { // once or twice may be while others take their time with the last ones
						t.Errorf("waited in vain, %d tasks are left: %v", left.Load(), err)
						stop()
						return
					}
					for _, c := range claims {
						run := runPath{c.Status.TaskID, c.RunID}
						state, why := task.Completed, task.DidComplete
						if c.RunID == 0 && rand.IntN(4) == 0 {
							state, why = task.Exception, task.WorkerShutdown
						}
						out, err := s.queue.report(ctx, run, state, why)
						if err != nil {
							t.Error(err)
							return
						}
						if out.Status.State == task.Completed && left.Add(-1) == 0 {
							stop() // those that wait
						}
					}
				}
			})
		}
		wg.Go(func() {
			for left.Load() > 0 && ctx.Err() == nil {
				if n := s.count(`SELECT count(*) FROM pending JOIN task ON task.task_id = pending.task_id WHERE task.priority <> pending.priority`); n > 0 {
					t.Errorf("%d tasks have two priorities", n)
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
		wg.Wait()
		if n := s.count(`SELECT count(*) FROM task WHERE state <> 'completed'`); n > 0 {
			t.Errorf("%d tasks are not completed", n)
		}
	})
}

func (s *stage) taskIDs() (ids []string, err error) {
	err = s.db.View(s.t.Context(), func(tx *store.Tx) error {
		ids, err = tx.Column(`SELECT task_id FROM task`)
		return err
	})
	return ids, err
}

// groupChanges are the messages that tell of groups with another priority:
// "600 high".
func (s *stage) groupChanges() (list []string) {
	messages, err := s.bus.Read(s.t.Context(), 0, 1000)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, m := range messages {
		if m.Exchange == event.Topic("queue", "v1", taskGroupPriorityChanged) {
			list = append(list, string(m.Payload))
		}
	}
	return list
}

// The call changes some of them, and the loop the others.
func TestALargeGroupGetsAnotherPriority(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		const tasks = priorityInline + 1200
		s := newStage(t, db, nil)
		groupID := s.seedGroup(tasks)
		code, out := s.call("POST", "/task-group/"+groupID+"/priority", map[string]any{"newPriority": "high"})
		if code != 200 || len(out["taskIds"].([]any)) != int(out["tasksAffected"].(float64)) || out["tasksAffected"].(float64) >= tasks {
			t.Fatal(code, out["message"], out["tasksAffected"])
		}
		late := definition()
		late.TaskGroupID = groupID
		if _, err := s.queue.create(t.Context(), slugid.New(), late); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a message", func() bool { return len(s.groupChanges()) == 1 })
		if n := s.count(`SELECT count(*) FROM pending WHERE priority = $1`, task.Priority("high").Rank()); n < tasks {
			t.Errorf("%d of %d tasks have their new priority", n, tasks)
		}
		if got := s.groupChanges()[0]; !strings.Contains(got, fmt.Sprintf(`"tasksAffected":%d`, tasks)) && !strings.Contains(got, fmt.Sprintf(`"tasksAffected":%d`, tasks+1)) {
			t.Error(got)
		}
		if n := s.count(`SELECT count(*) FROM priority_change`); n != 0 {
			t.Errorf("%d changes are left", n)
		}
	})
}

// A process dies after it has recorded what is to be done: another does it.
func TestAChangeOfPriorityOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		groupID := s.seedGroup(1200)
		begin := func(p task.Priority) {
			t.Helper()
			g, err := s.queue.group(t.Context(), groupID)
			if err == nil {
				err = db.Do(t.Context(), func(tx *store.Tx) error { return s.queue.beginPriority(tx, g, p) })
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		begin("high")
		if ids, done, err := s.queue.changeSome(t.Context(), groupID, "high", priorityLease); len(ids) != priorityBatch || done || err != nil {
			t.Fatal(len(ids), done, err)
		}
		begin("high") // repeated: it is the same change
		time.Sleep(time.Minute)
		if got := s.groupChanges(); len(got) != 1 || !strings.Contains(got[0], `"newPriority":"high","tasksAffected":1200`) {
			t.Error(got)
		}
		// Another priority takes the place of one that is not done.
		begin("low")
		if ids, _, err := s.queue.changeSome(t.Context(), groupID, "low", priorityLease); len(ids) != priorityBatch || err != nil {
			t.Fatal(len(ids), err)
		}
		begin("medium")
		if _, done, err := s.queue.changeSome(t.Context(), groupID, "low", priorityLease); !done || err != nil {
			t.Error("the one before goes on:", done, err)
		}
		time.Sleep(time.Minute)
		got := s.groupChanges()
		if len(got) != 3 || !strings.Contains(got[1], `"newPriority":"low","tasksAffected":500`) || !strings.Contains(got[2], `"newPriority":"medium","tasksAffected":1200`) {
			t.Error(got)
		}
	})
}

// Two replicas resolve the tasks that need no worker, each once.
func TestBuiltInTasksAreResolvedOnce(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		s, other := newStage(t, db, nil), newStage(t, db, nil)
		const tasks = 60
		for i := range tasks {
			body := s.body()
			body["taskQueueId"], body["payload"] = "built-in/succeed", map[string]any{}
			if i%3 == 0 {
				body["taskQueueId"] = "built-in/fail"
			}
			s.must("PUT", "/task/"+slugid.New(), body)
		}
		ended := func() (n int) {
			count := s.messages()
			return count[event.Topic("queue", "v1", TaskCompleted)] + count[event.Topic("queue", "v1", TaskFailed)]
		}
		eventually(t, "an end of all", func() bool { return ended() >= tasks })
		eventually(t, "an end of all groups", func() bool {
			return s.messages()[event.Topic("queue", "v1", taskGroupResolved)] == tasks
		})
		if n := ended(); n != tasks {
			t.Errorf("%d tasks ended %d times", tasks, n)
		}
		if n := s.count(`SELECT count(*) FROM task WHERE state = 'failed'`); n != tasks/3 {
			t.Errorf("%d tasks failed", n)
		}
		if err := other.queue.writeCrewDown(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, out := s.call("GET", "/provisioners/built-in/worker-types/fail/workers/built-in/fail", nil)
		if recent := out["recentTasks"].([]any); len(recent) != tasks/3 {
			t.Errorf("the worker remembers %d", len(recent))
		}
	})
}

// Callers see the priority that counts wherever they see the task; what it was
// created with still tells a repeated createTask from another one.
func TestADefinitionShowsThePriorityThatCounts(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		id, body := slugid.New(), s.body()
		body["routes"] = []string{`tricky."priority":"low"`}
		body["payload"] = map[string]any{"priority": "mine"}
		s.must("PUT", "/task/"+id, body)
		s.must("POST", "/task/"+id+"/priority", map[string]any{"newPriority": "high"})
		for what, got := range map[string]any{
			"task":    s.must("GET", "/task/"+id, nil),
			"group":   s.must("GET", "/task-group/"+id+"/list", nil)["tasks"].([]any)[0].(map[string]any)["task"],
			"bulk":    s.must("POST", "/tasks", map[string]any{"taskIds": []string{id}})["tasks"].([]any)[0].(map[string]any)["task"],
			"pending": s.must("GET", "/task-queues/prov%2Fwt/pending", nil)["tasks"].([]any)[0].(map[string]any)["task"],
			"claim":   s.must("POST", "/claim-work/prov/wt", map[string]any{"workerGroup": "g", "workerId": "w", "tasks": 1})["tasks"].([]any)[0].(map[string]any)["task"],
		} {
			d := got.(map[string]any)
			if d["priority"] != "high" || d["payload"].(map[string]any)["priority"] != "mine" || d["routes"].([]any)[0] != `tricky."priority":"low"` {
				t.Errorf("%s shows %v", what, d)
			}
		}
		s.must("PUT", "/task/"+id, body)
	})
}
