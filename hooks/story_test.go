package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

const day = 24 * time.Hour

// wait lets time pass and everything that is due happen.
func wait(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// The bubble's time begins at midnight, 1 January 2000, a Saturday.

func TestAScheduleCreatesATaskEachDay(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.run()
		w.hook("g/daily", m{"schedule": []string{"0 0 3 * * *", "0 0 3 * * 1-5"}})
		if next := w.want(200, "", "GET", at("g/daily", "/status"), nil)["nextScheduledDate"]; next != "2000-01-01T03:00:00.000Z" {
			t.Errorf("next: %v", next)
		}
		wait(2 * day)
		tasks := w.queue.of("g/daily")
		if len(tasks) != 2 {
			t.Fatalf("%d tasks in two days", len(tasks))
		}
		for i, task := range tasks {
			due := time.Date(2000, 1, 1+i, 3, 0, 0, 0, time.UTC)
			d := task.definition
			if !task.at.Equal(due) {
				t.Errorf("task %d was created at %v", i, task.at)
			}
			for name, want := range map[string]time.Time{"created": due, "deadline": due.Add(day), "expires": due.Add(30 * day)} {
				if d[name] != want.Format("2006-01-02T15:04:05.000Z") {
					t.Errorf("task %d: %s is %v", i, name, d[name])
				}
			}
			if d["taskGroupId"] != task.id || fmt.Sprint(d["extra"]) != fmt.Sprint(m{"taskId": task.id, "now": d["created"]}) || fmt.Sprint(d["metadata"].(m)["description"]) != "by schedule" {
				t.Errorf("task %d: %v", i, d)
			}
		}
		if got := w.fires("g/daily"); !slices.Equal(got, []string{"success schedule", "success schedule"}) {
			t.Errorf("fires: %q", got)
		}
		status := w.want(200, "", "GET", at("g/daily", "/status"), nil)
		if want := (m{
			"lastFire":          m{"result": "success", "taskId": tasks[1].id, "time": "2000-01-02T03:00:00.000Z"},
			"nextScheduledDate": "2000-01-03T03:00:00.000Z",
		}); fmt.Sprint(status) != fmt.Sprint(want) {
			t.Errorf("status: %v", status)
		}
	})
}

func TestASchedulesSecondsCountAndAHookIsDueOnceAMinute(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.run()
		w.hook("g/second", m{"schedule": []string{"30 * * * * *"}})
		w.hook("g/mistake", m{"schedule": []string{"* 5 * * * *"}})
		w.hook("g/minute", m{"schedule": []string{"* * * * *"}})
		wait(10*time.Minute + time.Second)
		for p, want := range map[string]string{"g/second": "10 00:00:30", "g/mistake": "1 00:05:00", "g/minute": "10 00:01:00"} {
			tasks := w.queue.of(p)
			if len(tasks) == 0 {
				t.Errorf("%s: no tasks", p)
			} else if got := fmt.Sprint(len(tasks), tasks[0].at.UTC().Format(" 15:04:05")); got != want {
				t.Errorf("%s: %s, want %s", p, got, want)
			}
		}
	})
}

func TestWhatWasMissedIsMadeUpForOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		stop := w.run()
		w.hook("g/hourly", m{"schedule": []string{"0 0 * * * *"}})
		wait(90 * time.Minute)
		stop()
		wait(3 * day)
		w.start(w.key)
		w.run()
		wait(time.Second)
		tasks := w.queue.of("g/hourly")
		if len(tasks) != 2 || tasks[1].definition["created"] != "2000-01-04T01:30:00.000Z" {
			t.Fatalf("after three days of rest: %d tasks, the last one %v", len(tasks), tasks[len(tasks)-1].definition["created"])
		}
		wait(time.Hour)
		if n := len(w.queue.of("g/hourly")); n != 3 {
			t.Errorf("an hour later there are %d tasks", n)
		}
	})
}

// The process may stop before the task is created, or after that and before
// anybody knows; and it may be away for so long that the definition is past.
func TestAFireThatWasInterruptedHappensOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		for _, away := range []time.Duration{time.Second, 30 * time.Hour} {
			for _, where := range []string{"before", "after"} {
				p := fmt.Sprintf("g/%s-%v", where, away)
				stop := w.run()
				hang := func(ctx context.Context, q, _ string) error {
					if p == q {
						<-ctx.Done()
						return ctx.Err()
					}
					return nil
				}
				if where == "before" {
					w.queue.interfere(hang, nil)
				} else {
					w.queue.interfere(nil, hang)
				}
				task := template()
				task["deadline"] = m{"$fromNow": "1 hour"}
				w.hook(p, m{"schedule": []string{time.Now().UTC().Add(time.Minute).Format("5 4 15 2 1 *")}, "task": task})
				wait(2 * time.Minute)
				stop()
				w.queue.interfere(nil, nil)
				if got := w.fires(p); len(got) != 0 {
					t.Errorf("%s: what is not over is in the list: %q", p, got)
				}
				wait(away)
				w.start(w.key)
				stop = w.run()
				wait(time.Minute)
				stop()
				if n := len(w.queue.of(p)); n != 1 {
					t.Errorf("%s: %d tasks", p, n)
				}
				if got := w.fires(p); !slices.Equal(got, []string{"success schedule"}) {
					t.Errorf("%s: fires: %q", p, got)
				}
			}
		}
	})
}

func TestReplicasFireOnce(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		other, otherBus := w.replica(w.key)
		stop := w.runAs(db.Lease("a"), w.Hooks, slices.Concat(w.Loops(), w.bus.Loops()))
		w.runAs(db.Lease("b"), other, slices.Concat(other.Loops(), otherBus.Loops()))
		w.hook("g/often", m{"schedule": []string{"*/10 * * * *"}})
		w.hook("g/bound", m{"bindings": []m{{"exchange": "e", "routingKeyPattern": "#"}}, "triggerSchema": anything})
		wait(30*time.Minute + time.Second)
		w.publish("e", "a", m{})
		wait(time.Minute)
		stop()
		w.publish("e", "b", m{})
		wait(30 * time.Minute)
		if n := len(w.queue.of("g/often")); n != 6 {
			t.Errorf("%d tasks in an hour, want one each ten minutes", n)
		}
		if n := len(w.queue.of("g/bound")); n != 2 {
			t.Errorf("%d tasks of two messages", n)
		}
	})
}

// Without the lease, too: passes that overlap do no harm.
func TestOverlappingPassesFireOnce(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		for i := range 20 {
			w.hook(fmt.Sprintf("g/h%d", i), m{"schedule": []string{"* * * * * *"}})
		}
		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`UPDATE hook SET next = 1000, schedule = '["0 0 0 1 1 *"]'`)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		errs := make(chan error)
		for range 4 {
			h, _ := w.replica(w.key)
			go func() {
				_, err1 := h.followSchedules(t.Context())
				_, err2 := h.createTasks(t.Context())
				h.fireAlarm.set(0, nil)
				h.scheduleAlarm.set(0, nil)
				errs <- errors.Join(err1, err2)
			}()
		}
		for range 4 {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		if _, err := w.createTasks(t.Context()); err != nil {
			t.Error(err)
		}
		for i := range 20 {
			p := fmt.Sprintf("g/h%d", i)
			if n := len(w.queue.of(p)); n != 1 {
				t.Errorf("%s: %d tasks", p, n)
			}
			if got := w.fires(p); !slices.Equal(got, []string{"success schedule"}) {
				t.Errorf("%s: %q", p, got)
			}
		}
	})
}

func TestAnErrorForGoodIsToldAndTheScheduleGoesOn(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.run()
		w.hook("g/bad", m{"schedule": []string{"*/30 * * * *"}, "task": m{"$eval": "nonsense"}})
		w.hook("g/quiet", m{"schedule": []string{"*/30 * * * *"}, "task": m{"$eval": "nonsense"}, "metadata": m{
			"name": "n", "description": "d", "owner": "quiet@example.com", "emailOnError": false,
		}})
		w.hook("g/text", m{"schedule": []string{"0 * * * *"}, "task": m{"$eval": "'text'"}})
		w.hook("g/poor", m{"schedule": []string{"0 * * * *"}})
		w.queue.interfere(func(_ context.Context, p, _ string) error {
			if p == "g/poor" {
				return api.Errorf(api.InsufficientScopes, "it lacks queue:create-task")
			}
			return nil
		}, nil)
		wait(3*time.Hour + time.Minute)
		for p, want := range map[string]struct {
			n   int
			say string
		}{"g/bad": {6, "nonsense"}, "g/quiet": {6, "nonsense"}, "g/text": {3, "renders to string"}, "g/poor": {3, "InsufficientScopes: it lacks queue:create-task"}} {
			got := w.fires(p)
			if len(got) != want.n || !strings.HasPrefix(got[0], "error schedule: ") || !strings.Contains(got[0], want.say) {
				t.Errorf("%s: %q", p, got)
			}
			status := fmt.Sprint(w.want(200, "", "GET", at(p, "/status"), nil)["lastFire"])
			if !strings.Contains(status, want.say) || strings.Contains(status, "taskId") && p != "g/poor" {
				t.Errorf("%s: %s", p, status)
			}
		}
		// An email an hour, to those who want them.
		if sent := w.mail.all(); len(sent) != 9 || !strings.Contains(sent[0], "owner@example.com: Hook g/") || strings.Contains(fmt.Sprint(sent), "quiet") {
			t.Errorf("%d emails: %q", len(sent), sent)
		}
		w.queue.interfere(nil, nil)
		wait(time.Hour)
		if got := w.fires("g/poor"); got[0] != "success schedule" {
			t.Errorf("once it has the scopes: %q", got)
		}
	})
}

func TestAnErrorThatPassesIsTriedAgainUntilTheNextDate(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.run()
		var down atomic.Bool
		down.Store(true)
		fail := func(context.Context, string, string) error {
			if down.Load() {
				return errors.New("dial tcp: connection refused by secret-host")
			}
			return nil
		}
		w.queue.interfere(fail, nil)
		task := template()
		task["deadline"] = m{"$fromNow": "30 minutes"}
		w.hook("g/hourly", m{"schedule": []string{"0 * * * *"}})
		w.hook("g/seldom", m{"schedule": []string{"0 1-23/4 * * *"}, "task": task})
		wait(90 * time.Minute)
		if got := w.fires("g/hourly"); len(got) != 0 {
			t.Errorf("while it is tried: %q", got)
		}
		status := fmt.Sprint(w.want(200, "", "GET", at("g/hourly", "/status"), nil))
		if !strings.Contains(status, "result:error") || strings.Contains(status, "secret-host") || strings.Contains(status, "lastFire:map[taskId") {
			t.Errorf("status: %s", status)
		}
		wait(time.Hour)
		if got := w.fires("g/hourly"); len(got) != 1 || !strings.Contains(got[0], "error schedule: The task could not be created") {
			t.Errorf("after the next date: %q", got)
		}
		if calls := w.queue.called(); calls > 100 {
			t.Errorf("%d attempts in an hour and a half", calls)
		}
		down.Store(false)
		wait(10 * time.Minute)
		if got := w.fires("g/hourly"); len(got) != 2 || got[0] != "success schedule" {
			t.Errorf("once the queue is back: %q", got)
		}
		// It would have been past its deadline, and was rendered anew.
		if got := w.fires("g/seldom"); !slices.Equal(got, []string{"success schedule"}) {
			t.Errorf("once the queue is back: %q", got)
		}

		// The task is created, but the answer is lost, and it is for so long
		// that the next attempt has another definition.
		down.Store(true)
		w.queue.interfere(nil, fail)
		before := len(w.queue.of("g/seldom"))
		wait(4 * time.Hour)
		down.Store(false)
		wait(time.Hour)
		if n := len(w.queue.of("g/seldom")); n != before+1 {
			t.Errorf("%d tasks of one date", n-before)
		}
		if got := w.fires("g/seldom"); !slices.Equal(got, []string{"success schedule", "success schedule"}) {
			t.Errorf("after lost answers: %q", got)
		}
	})
}

func TestMessagesFireTheHooksThatAreBoundToThem(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		stop := w.runAll()
		const completed = "exchange/taskcluster-queue/v1/task-completed"
		w.publish(completed, "primary.early", m{})
		wait(time.Second)
		task := template()
		task["extra"] = m{"n": m{"$eval": "payload.n"}, "kind": "${payload.kind}"}
		w.hook("g/bound", m{
			"bindings": []m{{"exchange": completed, "routingKeyPattern": "primary.*.x.#"}, {"exchange": completed, "routingKeyPattern": "route.index.#"}},
			"task":     task, "triggerSchema": m{"type": "object", "required": []string{"n"}, "properties": m{"n": m{"type": "integer"}, "kind": m{"type": "string", "default": "plain"}}},
		})
		w.hook("g/default", m{"bindings": []m{{"exchange": completed, "routingKeyPattern": "#"}}})
		for i, key := range []string{"primary.a.x", "primary.a.y", "other.a.x", "primary.b.x.z.z"} {
			w.publish(completed, key, m{"n": i})
		}
		w.publish(completed, "nothing", m{"n": 7, "kind": "routed"}, "route.a", "route.index.b")
		w.publish("exchange/other", "primary.a.x", m{"n": 8})
		w.publish(completed, "primary.a.x", m{"n": "no number"})
		w.publish(completed, "primary.a.x", m{})
		wait(time.Second)
		see := func() string {
			var got []string
			for _, task := range w.queue.of("g/bound") {
				got = append(got, fmt.Sprint(task.definition["extra"]))
			}
			slices.Sort(got)
			return strings.Join(got, " ")
		}
		if got := see(); got != "map[kind:plain n:0] map[kind:plain n:3] map[kind:routed n:7]" {
			t.Errorf("tasks: %s", got)
		}
		if n := len(w.queue.of("g/default")); n != 1 {
			t.Errorf("the default triggerSchema takes an empty payload alone: %d tasks", n)
		}
		if got := w.fires("g/bound"); !slices.Equal(got, []string{"success pulseMessage", "success pulseMessage", "success pulseMessage"}) {
			t.Errorf("fires: %q", got)
		}

		// The log goes on while nobody is there, and the same messages may come
		// twice.
		stop()
		w.publish(completed, "primary.c.x", m{"n": 9})
		w.start(w.key)
		w.runAll()
		wait(time.Second)
		all, err := w.bus.Read(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.follow(t.Context(), all); err != nil {
			t.Fatal(err)
		}
		wait(time.Second)
		if got := see(); strings.Count(got, "n:") != 4 || !strings.Contains(got, "n:9") {
			t.Errorf("after a restart and redelivery: %s", got)
		}

		// Bindings change, and go.
		w.want(200, "", "POST", at("g/bound", ""), hookBody(m{"task": task, "triggerSchema": anything, "bindings": []m{{"exchange": "exchange/other", "routingKeyPattern": "k"}}}))
		w.want(200, "", "POST", at("g/bound", ""), hookBody(m{"task": task, "triggerSchema": m{}})) // keeps them
		w.publish(completed, "primary.d.x", m{"n": 10})
		w.publish("exchange/other", "k", m{"n": 11, "kind": "k"})
		wait(time.Second)
		w.want(200, "", "POST", at("g/bound", ""), hookBody(m{"bindings": []m{}}))
		w.publish("exchange/other", "k", m{"n": 12, "kind": "k"})
		wait(time.Second)
		if got := see(); strings.Count(got, "n:") != 5 || !strings.Contains(got, "map[kind:k n:11]") {
			t.Errorf("after changes of bindings: %s", got)
		}
	})
}

// A hook that is bound to too much loses messages, knows that it does, and
// takes nothing from others.
func TestAFloodOfMessagesIsBounded(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.hook("g/flood", m{"bindings": []m{{"exchange": "flood", "routingKeyPattern": "#"}}, "triggerSchema": anything})
		w.hook("g/calm", m{"bindings": []m{{"exchange": "calm", "routingKeyPattern": "#"}}, "triggerSchema": anything})
		var down atomic.Bool
		down.Store(true)
		w.queue.interfere(func(_ context.Context, p, _ string) error {
			if down.Load() && p == "g/flood" {
				return errors.New("busy")
			}
			return nil
		}, nil)
		w.runAll()
		for range 13 {
			if err := db.Do(t.Context(), func(tx *store.Tx) error {
				for range 100 {
					if err := w.bus.Publish(tx, "flood", "k", nil, m{}); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			wait(time.Second)
		}
		w.publish("calm", "k", m{})
		wait(time.Second)
		if n := len(w.queue.of("g/calm")); n != 1 {
			t.Errorf("the calm hook has %d tasks", n)
		}
		down.Store(false)
		wait(10 * time.Minute)
		if n := len(w.queue.of("g/flood")); n != mostWaiting {
			t.Errorf("the flooded hook has %d tasks", n)
		}
		said := 0
		for _, f := range w.fires("g/flood") {
			if strings.Contains(f, "messages were passed over") {
				said++
			}
		}
		if got := len(w.fires("g/flood")); said == 0 || got > mostFires {
			t.Errorf("%d fires are listed, %d of them say that messages were passed over", got, said)
		}
	})
}

// What is not due costs nothing: the loop sleeps until something is.
func TestIdleHooksCostNothing(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.hook("g/yearly", m{"schedule": []string{"@yearly"}})
		w.hook("g/exact", m{"schedule": []string{"17 41 13 1 1 *"}})
		ctx, cancel := context.WithCancel(t.Context())
		runner := loop.NewRunner(w.log, loop.Alone, prometheus.NewRegistry())
		done := make(chan error, 1)
		go func() { done <- runner.Run(ctx, w.Loops()...) }()
		wait(14 * time.Hour)
		passes := map[string]int64{}
		for _, s := range runner.Status() {
			passes[s.Name] = s.Passes
		}
		if n := passes["hooks.schedule"]; n > 14*60+10 {
			t.Errorf("%d passes over schedules in 14 hours", n)
		}
		if tasks := w.queue.of("g/exact"); len(tasks) != 1 || !tasks[0].at.Equal(time.Date(2000, 1, 1, 13, 41, 17, 0, time.UTC)) {
			t.Errorf("the fire in between: %d tasks", len(tasks))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Rendering takes a while, in which the hook can be deleted. A fire that nobody
// looks for any more would keep the loop awake for ever.
func TestAHookThatIsDeletedMeanwhileIsNotFired(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.hook("g/short", nil)
		k, err := w.find(t.Context(), hookPath{"g", "short"})
		if err != nil {
			t.Fatal(err)
		}
		made := func() *fire {
			now := timestamp.Now()
			return newFire(k, byMessage, "", now, now.Add(persistence), map[string]any{"payload": nil})
		}
		failed := made()
		failed.err = errors.New("it went wrong")
		w.want(200, "", "DELETE", at("g/short", ""), nil)
		w.hook("g/another", nil) // whose fires they must not become

		if err := db.Do(t.Context(), func(tx *store.Tx) error { return insertBounded(tx, []*fire{made(), failed}) }); err != nil {
			t.Error(err)
		}
		if _, err := w.trigger(t.Context(), k, byCall, json.RawMessage(`{}`), map[string]any{}); !strings.Contains(fmt.Sprint(err), "There is no hook g/short") {
			t.Errorf("fired by a call: %v", err)
		}
		var left int
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT count(*) FROM hook_fire`).Scan(&left)
		}); err != nil || left != 0 {
			t.Errorf("%d fires are left, %v", left, err)
		}
	})
}

// What many hooks make of one message is written down in parts, since it may
// not fit into memory. A process that stops in between has fired each hook once
// in the end.
func TestManyHooksOfOneMessageAreFiredInParts(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		const n = 120
		for i := range n {
			task := m{}
			if i < 40 { // together more than portionSize
				task = m{"extra": m{"$eval": "join(range(0, 150000), ' ')"}}
			}
			w.hook(fmt.Sprintf("g/h%d", i), m{"task": task, "triggerSchema": anything, "bindings": []m{{"exchange": "e", "routingKeyPattern": "#"}}})
		}
		messages := []event.Message{{Position: 4, Exchange: "e", Payload: json.RawMessage(`{}`), Created: timestamp.Now()}}
		at, err := w.learnBindings(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var pairs []pair
		for _, hook := range w.bound.index.match(messages[0]) {
			pairs = append(pairs, pair{messages[0], hook})
		}
		rest, to, err := w.fireSome(t.Context(), pairs, map[int64]time.Duration{}, at)
		if err != nil || to.message != 4 || to.hook == 0 || len(rest) == 0 || len(rest) >= n-20 {
			t.Errorf("after the first part: at %v, %d of %d hooks are left, %v", to, len(rest), n, err)
		}
		for range 2 { // delivered again
			if _, err := w.follow(t.Context(), messages); err != nil {
				t.Fatal(err)
			}
		}
		var fires, hooks int
		if err := db.View(t.Context(), func(tx *store.Tx) error {
			return tx.QueryRow(`SELECT count(*), count(DISTINCT hook) FROM hook_fire WHERE result = ''`).Scan(&fires, &hooks)
		}); err != nil || fires != n || hooks != n {
			t.Errorf("the message has become %d fires of %d hooks, %v", fires, hooks, err)
		}
	})
}
