package index

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

func TestATaskThatCompletesIsFoundUnderItsRoutes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.subscribed()
		long := strings.Repeat("x.", 127) + "x"                      // as long as a path may be
		end := timestamp.Of(time.Now().Add(48 * time.Hour)).String() // of the task
		id := w.complete(`{}`, "index.a.b", "index.top", "index.(odd)!.~'name'*_%-1", "index."+long, "index."+long+"x",
			"index", "index.", "index.no/slash", "index.two..dots", "index.dot.", "notify.x", "indexed.a.c")
		w.complete(`{}`, "index")
		w.complete(`{}`, "tc-treeherder.v2.x")
		w.complete(`{}`)
		w.delivered()
		for _, path := range []string{"a.b", "top", "(odd)!.~'name'*_%25-1", long} {
			if p := w.want(200, "GET", "/task/"+path, nil); p.body["taskId"] != id || p.body["rank"] != 0.0 ||
				p.body["expires"] != end || fmt.Sprint(p.body["data"]) != "map[]" {
				t.Errorf("at %s: %s", path, p.text)
			}
		}
		if n := w.count("index_task"); n != 4 {
			t.Errorf("%d tasks are indexed", n)
		}
		if got := w.want(200, "GET", "/tasks/", nil).paths(); got != "top" {
			t.Errorf("at the top: %s", got)
		}
		if got := w.want(200, "GET", "/namespaces/", nil).paths(); got != "(odd)! a x" {
			t.Errorf("namespaces: %s", got)
		}
	})
}

func TestATaskSaysHowItIsIndexed(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.subscribed()
		high := w.complete(`{"index": {"rank": 7.5, "data": {"hello": ["world"]}, "expires": "2000-01-01T01:00:00Z"}}`, "index.a.b")
		w.complete(`{"index": {"rank": 7}}`, "index.a.b")
		w.delivered()
		p := w.want(200, "GET", "/task/a.b", nil)
		if p.body["taskId"] != high || p.body["rank"] != 7.5 || fmt.Sprint(p.body["data"]) != "map[hello:[world]]" || p.body["expires"] != "2000-01-01T01:00:00.000Z" {
			t.Errorf("found %s", p.text)
		}
		equal := w.complete(`{"index": {"rank": 7.5}}`, "index.a.b")
		w.delivered()
		if got := w.at("a.b"); got != equal {
			t.Errorf("of equal ranks not the one that completed last stayed, but %s", got)
		}
	})
}

// What a task says about its indexing can be anything. It costs no other task,
// and nothing of itself but what makes no sense.
func TestNonsenseDoesNotStopTheSubscription(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.subscribed()
		big := `{"x": "` + strings.Repeat("x", maxData) + `"}`
		for i, c := range []struct{ extra, want string }{
			{`null`, "0 map[] of the task"},
			{`"text"`, "0 map[] of the task"},
			{`[]`, "0 map[] of the task"},
			{`{"index": null}`, "0 map[] of the task"},
			{`{"index": 5}`, "0 map[] of the task"},
			{`{"index": []}`, "0 map[] of the task"},
			{`{"index": {"rank": "5"}}`, "0 map[] of the task"},
			{`{"index": {"rank": null}}`, "0 map[] of the task"},
			{`{"index": {"rank": 1e999}}`, "0 map[] of the task"},
			{`{"index": {"rank": {}, "data": {"a": 1}}}`, "0 map[a:1] of the task"},
			{`{"index": {"rank": 3, "data": "text"}}`, "3 map[] of the task"},
			{`{"index": {"rank": 3, "data": [1]}}`, "3 map[] of the task"},
			{`{"index": {"rank": 3, "data": null}}`, "3 map[] of the task"},
			{`{"index": {"rank": 3, "data": ` + big + `}}`, "3 map[] of the task"},
			{`{"index": {"rank": 3, "expires": "tomorrow"}}`, "3 map[] of the task"},
			{`{"index": {"rank": 3, "expires": 5}}`, "3 map[] of the task"},
			{`{"index": {"rank": 3, "expires": null}}`, "3 map[] of the task"},
			{`{"index": {"rank": 3, "expires": "12026-01-01T00:00:00Z"}}`, "3 map[] of the task"},
			{`{"index": {"rank": 3, "expires": "9999-12-31T23:59:59.999Z"}}`, "3 map[] 9999-12-31T23:59:59.999Z"},
			{`{"index": {"rank": -1e308, "unknown": {}}}`, "-1e+308 map[] of the task"},
		} {
			path := fmt.Sprint("nonsense.", i)
			end := timestamp.Of(time.Now().Add(48 * time.Hour)).String()
			id := w.complete(c.extra, "index."+path)
			good := w.complete(`{}`, "index.good")
			w.delivered()
			p := w.want(200, "GET", "/task/"+path, nil)
			if got := strings.Replace(fmt.Sprintf("%v %v %v", p.body["rank"], p.body["data"], p.body["expires"]), end, "of the task", 1); got != c.want || p.body["taskId"] != id {
				t.Errorf("%.100s: %s", c.extra, got)
			}
			if got := w.at("good"); got != good {
				t.Errorf("%.100s: the next task was lost", c.extra)
			}
		}
		if got := strings.Count(w.log.String(), "makes no sense"); got != 12 {
			t.Errorf("nonsense was logged %d times:\n%s", got, w.log)
		}
	})
}

func TestMessagesThatCannotBeReadDoNotStopTheSubscription(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.subscribed()
		for _, payload := range []any{nil, "text", map[string]any{}, map[string]any{"status": "running"}, map[string]any{"status": map[string]any{"taskId": 5}}} {
			if err := db.Do(t.Context(), func(tx *store.Tx) error {
				return w.events.Publish(tx, topicCompleted, "x", []string{"route.index.bad"}, payload)
			}); err != nil {
				t.Fatal(err)
			}
		}
		w.announce(slugid.New(), "index.gone") // the queue does not know it
		w.mu.Lock()
		odd := slugid.New()
		w.tasks[odd] = `"no object at all"`
		w.mu.Unlock()
		w.announce(odd, "index.odd")
		id := w.complete(`{}`, "index.good")
		w.delivered()
		if w.at("good") != id || w.at("gone") != "" || w.at("bad") != "" {
			t.Errorf("good %s, gone %s, bad %s", w.at("good"), w.at("gone"), w.at("bad"))
		}
		if p := w.want(200, "GET", "/task/odd", nil); p.body["expires"].(string)[:10] != "2000-12-31" {
			t.Errorf("a task whose definition makes no sense: %s", p.text)
		}
	})
}

func TestNothingIsLostWhileTheQueueDoesNotAnswer(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.subscribed()
		one := w.complete(`{}`, "index.one")
		w.fail(errBroken)
		w.delivered()
		if !strings.Contains(w.log.String(), errBroken.Error()) || w.count("index_task") != 0 {
			t.Errorf("%d tasks were indexed:\n%s", w.count("index_task"), w.log)
		}
		two := w.complete(`{}`, "index.two")
		w.fail(nil)
		time.Sleep(time.Minute)
		w.delivered()
		if w.at("one") != one || w.at("two") != two {
			t.Errorf("one is %q, two is %q", w.at("one"), w.at("two"))
		}
	})
}

// Delivery is at least once. The second time must undo neither what was
// inserted nor what was deleted since.
func TestMessagesThatComeAgainChangeNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.subscribed()
		w.complete(`{}`, "index.replaced")
		w.complete(`{}`, "index.deleted")
		w.delivered()
		messages, err := w.events.Read(t.Context(), 0, 100)
		if err != nil || len(messages) != 2 {
			t.Fatal(messages, err)
		}
		newer := w.insert("replaced", 0)
		w.want(200, "DELETE", "/task/deleted", nil)
		again := func(list []event.Message) {
			t.Helper()
			if _, err := w.follow(t.Context(), list); err != nil {
				t.Fatal(err)
			}
			if w.at("replaced") != newer || w.at("deleted") != "" {
				t.Errorf("now there are %q and %q", w.at("replaced"), w.at("deleted"))
			}
		}
		again(messages)
		again(messages[1:])
		// Together with others they are told apart.
		third := messages[1]
		third.Position++
		third.CC = []string{"route.index.third"}
		again(append(messages, third))
		if w.at("third") == "" {
			t.Errorf("the new one of them was lost")
		}
		again(append(messages, third))
	})
}

// A call brings many messages, which are taken in at once, each path by its own
// rule and the namespaces with the furthest expiry.
func TestManyMessagesAreTakenInTogether(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.subscribed()
		var last, highest string
		start := time.Now()
		for i := range 300 {
			rank, life := i%7, time.Duration(i)*time.Hour
			extra := fmt.Sprintf(`{"index": {"rank": %d, "expires": %q}}`, rank, timestamp.Of(start.Add(life+time.Hour)))
			id := w.complete(extra, "index.many.highest", fmt.Sprint("index.many.each.", i), "index.many.each.0")
			if rank == 6 {
				highest = id
			}
			last = id
		}
		w.complete(`{"index": {"rank": 100, "expires": "1999-01-01T00:00:00Z"}}`, "index.many.highest") // has expired
		w.complete(`{"index": {"rank": -5}}`, "index.many.highest")
		w.delivered()
		if got := w.at("many.highest"); got != highest {
			t.Errorf("highest is %s, not %s: %s", got, highest, w.want(200, "GET", "/task/many.highest", nil).text)
		}
		if got := w.at("many.each.299"); got != last {
			t.Errorf("the last is %s", got)
		}
		if got := w.at("many.each.0"); got != highest {
			t.Errorf("the path of all is %s, not %s", got, highest)
		}
		if got := w.want(200, "GET", "/tasks/many.each", nil).paths(); len(strings.Fields(got)) != 300 {
			t.Errorf("%d are listed", len(strings.Fields(got)))
		}
		n := w.want(200, "GET", "/namespaces/many", nil).body["namespaces"].([]any)[0].(map[string]any)
		if want := endOfDay(timestamp.Of(start.Add(300 * time.Hour))).String(); n["expires"] != want {
			t.Errorf("the namespace lasts until %s, not %s", n["expires"], want)
		}
	})
}

// What does not fit into one transaction is taken in by several.
func TestManyLargeMessagesAreTakenIn(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.subscribed()
		deep := strings.Repeat("x.", 120)
		var ids []string
		for i := range 12 {
			var routes []string
			for j := range 40 {
				routes = append(routes, fmt.Sprintf("index.%s%d.%d", deep, i, j))
			}
			ids = append(ids, w.complete(`{"index": {"data": {"x": "`+strings.Repeat("x", 30_000)+`"}}}`, routes...))
		}
		w.delivered()
		for i, id := range ids {
			if got := w.at(fmt.Sprintf("%s%d.39", deep, i)); got != id {
				t.Errorf("the task of message %d is not there", i)
			}
		}
		if n := w.count("index_namespace"); n != 120+12 {
			t.Errorf("%d namespaces", n)
		}
	})
}

// Rank and path decide in memory, for a batch, as they do in the database.
func TestABatchDecidesAsInsertionsOneByOne(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		newWorld(t, db) // for its tables
		now := timestamp.Now()
		var list []entry
		for i := range 200 {
			expires := now + 1000
			if i%5 == 0 {
				expires = now // expired
			}
			list = append(list, entry{fmt.Sprint("x.", i%6), slugid.New(), float64((i * 7919) % 13), []byte(`{}`), expires})
		}
		var one, all []entry
		err := db.Do(t.Context(), func(tx *store.Tx) error {
			for _, e := range list {
				if err := insert(tx, []entry{e}); err != nil {
					return err
				}
			}
			var err error
			if one, err = queryEntries(tx, `SELECT `+entryColumns+` FROM index_task ORDER BY path`); err != nil {
				return err
			}
			if _, err := tx.Exec(`DELETE FROM index_task`); err != nil {
				return err
			}
			if err := insert(tx, list); err != nil {
				return err
			}
			all, err = queryEntries(tx, `SELECT `+entryColumns+` FROM index_task ORDER BY path`)
			return err
		})
		if err != nil || fmt.Sprint(one) != fmt.Sprint(all) {
			t.Errorf("one by one %v\ntogether %v: %v", one, all, err)
		}
	})
}
