package index

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

func TestTheTaskOfTheHighestRankStays(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		if got := w.at("a.b"); got != "" {
			t.Errorf("before anything was inserted: %s", got)
		}
		one := w.insert("a.b", 1)
		two := w.insert("a.b", 2)
		if got := w.at("a.b"); got != two {
			t.Errorf("after ranks 1 (%s) and 2 (%s): %s", one, two, got)
		}
		equal := w.insert("a.b", 2)
		if got := w.at("a.b"); got != equal {
			t.Errorf("of equal ranks not the later one stayed, but %s", got)
		}
		p := w.want(200, "PUT", "/task/a.b", task(slugid.New(), 1.5, time.Now().Add(time.Hour)))
		if p.body["taskId"] != equal || p.body["rank"] != 2.0 {
			t.Errorf("the reply to an insertion in vain: %s", p.text)
		}
		if got := w.at("a.b"); got != equal {
			t.Errorf("a lower rank won: %s", got)
		}
		for _, rank := range []float64{-3, 0, 1448500000000, 2e300} {
			id := w.insert(fmt.Sprint("ranks.", slugid.New()), rank)
			path := ""
			for _, e := range w.want(200, "GET", "/tasks/ranks", nil).body["tasks"].([]any) {
				if e := e.(map[string]any); e["taskId"] == id {
					path = e["namespace"].(string)
					if e["rank"] != rank {
						t.Errorf("rank %v came back as %v", rank, e["rank"])
					}
				}
			}
			if path == "" {
				t.Errorf("a task of rank %v is not listed", rank)
			}
		}
	})
}

func TestDataAndExpiryComeBackAsTheyWere(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		body := task(slugid.New(), 0.1, time.Now().Add(time.Hour))
		body["data"] = map[string]any{"text": "ü <&> \" \\ ' \u2028", "list": []any{1.0, nil, true}, "": map[string]any{}}
		put := w.want(200, "PUT", "/task/x", body)
		got := w.want(200, "GET", "/task/x", nil)
		if put.text != got.text {
			t.Errorf("inserted %s, found %s", put.text, got.text)
		}
		if fmt.Sprint(got.body["data"]) != fmt.Sprint(body["data"]) || got.body["expires"] != fmt.Sprint(body["expires"]) {
			t.Errorf("found %s", got.text)
		}
	})
}

// Whatever the order in which many insert at one path, on whichever replica,
// the highest rank is there in the end, and nobody is told of a lower one than
// their own.
func TestManyInsertAtOnePathAtTheSameTime(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		other := newWorld(t, db)
		for round := range 5 {
			path := fmt.Sprintf("many.round-%d.path", round)
			var all sync.WaitGroup
			ranks := rand.Perm(40)
			ids := make([]string, len(ranks))
			for i, rank := range ranks {
				ids[i] = slugid.New()
				all.Go(func() {
					replica := w
					if i%2 == 0 {
						replica = other
					}
					p := replica.call("PUT", "/task/"+path, task(ids[i], float64(rank), time.Now().Add(time.Hour)))
					if p.status != 200 || p.body["rank"].(float64) < float64(rank) {
						t.Errorf("rank %d: %s", rank, p.text)
					}
				})
			}
			all.Wait()
			for i, rank := range ranks {
				if rank == len(ranks)-1 && w.at(path) != ids[i] {
					t.Errorf("round %d: the highest rank is not there", round)
				}
			}
		}
		if got := w.want(200, "GET", "/namespaces/many", nil).paths(); len(strings.Fields(got)) != 5 {
			t.Errorf("namespaces: %s", got)
		}
	})
}

// Insertions below the same new namespaces, in every order, neither wait for
// each other in a circle nor lose a namespace.
func TestManyMakeTheSameNamespacesAtTheSameTime(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		start := time.Now()
		var all sync.WaitGroup
		for i := range 32 {
			all.Go(func() {
				w.call("PUT", fmt.Sprintf("/task/top.%d.%d.%d.name", i%2, i%4, i), task(slugid.New(), 0, start.Add(time.Hour+time.Duration(i%7)*24*time.Hour)))
			})
		}
		all.Wait()
		for path, want := range map[string]int{"top": 2, "top.0": 2, "top.1": 2, "top.1.3": 8} {
			if got := w.want(200, "GET", "/namespaces/"+path, nil).paths(); len(strings.Fields(got)) != want {
				t.Errorf("below %s: %s", path, got)
			}
		}
		if got := w.want(200, "GET", "/namespaces/", nil).body["namespaces"].([]any); len(got) != 1 ||
			got[0].(map[string]any)["expires"] != endOfDay(timestamp.Of(start.Add(time.Hour+6*24*time.Hour))).String() {
			t.Errorf("at the top: %v", got)
		}
	})
}

func TestDeletingMakesThePathEmpty(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.insert("a.b.c", 1)
		w.insert("a.b.c", 9)
		for range 2 {
			if p := w.want(200, "DELETE", "/task/a.b.c", nil); p.text != "{}" {
				t.Errorf("deleted: %s", p.text)
			}
			if got := w.at("a.b.c"); got != "" {
				t.Errorf("after the deletion: %s", got)
			}
		}
		if got := w.want(200, "GET", "/namespaces/a", nil).paths(); got != "a.b" {
			t.Errorf("the namespace did not stay: %s", got)
		}
		if id := w.insert("a.b.c", 0); w.at("a.b.c") != id {
			t.Error("the deleted task's rank still counts")
		}
	})
}

func TestNamespacesLastAsLongAsWhatIsBelow(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		start := time.Now()
		put := func(path string, life time.Duration) {
			w.want(200, "PUT", "/task/"+path, task(slugid.New(), 0, start.Add(life)))
		}
		const day = 24 * time.Hour
		put("a.b.long", 10*day)
		put("a.b.short", day)
		put("a.c.short", day)
		put("top", day)
		namespaces := func(in string) string {
			var list []string
			for _, n := range w.want(200, "GET", "/namespaces/"+in, nil).body["namespaces"].([]any) {
				n := n.(map[string]any)
				var at timestamp.Time
				if err := at.UnmarshalText([]byte(n["expires"].(string))); err != nil {
					t.Fatal(err)
				}
				left := at.Time().Sub(start).Hours() / 24
				list = append(list, fmt.Sprintf("%s/%s %v", n["namespace"], n["name"], left))
			}
			return strings.Join(list, ", ")
		}
		// A test begins at midnight, so an expiry of days is rounded up by one.
		if got := namespaces(""); got != "a/a 11" {
			t.Errorf("at the top: %s", got)
		}
		if got := namespaces("a"); got != "a.b/b 11, a.c/c 2" {
			t.Errorf("in a: %s", got)
		}
		if got := w.want(200, "GET", "/tasks/", nil).paths(); got != "top" {
			t.Errorf("tasks at the top: %s", got)
		}
		put("a.c.longer", 20*day)
		if got := namespaces(""); got != "a/a 21" {
			t.Errorf("after a longer one, at the top: %s", got)
		}
		if got := namespaces("a"); got != "a.b/b 11, a.c/c 21" {
			t.Errorf("after a longer one, in a: %s", got)
		}
		// One that loses lengthens nothing.
		w.want(200, "PUT", "/task/a.b.short", task(slugid.New(), -1, start.Add(50*day)))
		if got := namespaces("a"); got != "a.b/b 11, a.c/c 21" {
			t.Errorf("after one in vain: %s", got)
		}

		time.Sleep(11 * day)
		if got := namespaces("a"); got != "a.c/c 21" {
			t.Errorf("after eleven days, in a: %s", got)
		}
		if got := w.want(200, "GET", "/tasks/a.b", nil).paths(); got != "" {
			t.Errorf("after eleven days, tasks in a.b: %s", got)
		}
		if tasks, spaces := w.count("index_task"), w.count("index_namespace"); tasks != 5 || spaces != 3 {
			t.Errorf("before expiry has run there are %d tasks and %d namespaces", tasks, spaces)
		}
		w.expireNow()
		if tasks, spaces := w.count("index_task"), w.count("index_namespace"); tasks != 1 || spaces != 2 {
			t.Errorf("after expiry there are %d tasks and %d namespaces", tasks, spaces)
		}
		put("a.b.again", 12*day)
		if got := namespaces("a"); got != "a.b/b 13, a.c/c 21" {
			t.Errorf("after a.b has come again: %s", got)
		}
	})
}

func TestExpiryDeletesMoreThanABatch(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		var list []entry
		for i := range batch + 10 {
			list = append(list, entry{fmt.Sprintf("n%d.t", i), slugid.New(), 0, []byte(`{}`), timestamp.Now() + 1})
		}
		if err := db.Do(t.Context(), func(tx *store.Tx) error { return insert(tx, list) }); err != nil {
			t.Fatal(err)
		}
		if got := w.count("index_namespace"); got != len(list) {
			t.Fatalf("%d namespaces", got)
		}
		time.Sleep(48 * time.Hour)
		w.expireNow()
		if w.count("index_task") > 0 || w.count("index_namespace") > 0 {
			t.Errorf("%d tasks and %d namespaces are left", w.count("index_task"), w.count("index_namespace"))
		}
	})
}

func TestAnExpiredTaskGivesWayWhateverItsRank(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.insert("a.b", 100)
		time.Sleep(time.Hour)
		if got := w.at("a.b"); got != "" {
			t.Errorf("an expired task is found: %s", got)
		}
		if got := w.want(200, "GET", "/tasks/a", nil).paths(); got != "" {
			t.Errorf("an expired task is listed: %s", got)
		}
		if id := w.insert("a.b", 1); w.at("a.b") != id {
			t.Error("an expired task keeps another one away")
		}
		// What has expired when it is inserted is never found, and takes nothing's place.
		late := task(slugid.New(), 5, time.Now())
		if p := w.want(200, "PUT", "/task/new.c", late); p.body["taskId"] != late["taskId"] {
			t.Errorf("inserted when it had expired: %s", p.text)
		}
		if got := w.at("new.c") + w.want(200, "GET", "/namespaces/", nil).paths(); got != "a" {
			t.Errorf("inserted when it had expired: %s", got)
		}
		live := w.at("a.b")
		if p := w.want(200, "PUT", "/task/a.b", late); p.body["taskId"] != live || w.at("a.b") != live {
			t.Errorf("what had expired took another's place: %s", p.text)
		}
	})
}

func TestTheLastPossibleExpiry(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.want(200, "PUT", "/task/far.away", task(slugid.New(), 0, timestamp.Max.Time()))
		p := w.want(200, "GET", "/namespaces/", nil)
		if p.paths() != "far" || !strings.Contains(p.text, "9999-12-31T23:59:59.999Z") {
			t.Errorf("%s", p.text)
		}
	})
}

// A reader who pages sees everything that was there all the time, once, and no
// page is longer than asked for, while others insert and delete.
func TestPagingWhileTheIndexChanges(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		for round, list := range []struct{ verb, kind, initial string }{
			{"GET", "tasks", "n"}, {"GET", "namespaces", "s"}, {"POST", "tasks", "n"}, {"POST", "namespaces", "s"},
		} {
			in := fmt.Sprint("p", round)
			add := func(name string) {
				if w.insert(in+".n"+name, 0); list.initial == "s" {
					w.insert(in+".s"+name+".t", 0)
				}
			}
			for i := range 20 {
				add(fmt.Sprintf("%02d", i))
			}
			seen := map[string]int{}
			token := ""
			for page := 0; ; page++ {
				var p reply
				if list.verb == "POST" {
					body := map[string]any{"limit": 3}
					if token != "" {
						body["continuationToken"] = token
					}
					p = w.want(200, "POST", "/"+list.kind+"/"+in, body)
				} else {
					p = w.want(200, "GET", "/"+list.kind+"/"+in+"?limit=3&continuationToken="+token, nil)
				}
				names := strings.Fields(p.paths())
				if len(names) > 3 {
					t.Fatalf("%v: a page of %d", list, len(names))
				}
				for _, n := range names {
					seen[n]++
				}
				if token = p.token(); token == "" {
					break
				}
				if page < 10 {
					for _, n := range []string{"00", "10", "zz"} { // before, among and after what is there
						add(fmt.Sprintf("%sx%d", n, page))
					}
					w.want(200, "DELETE", fmt.Sprintf("/task/%s.n00x%d", in, page), nil)
				}
			}
			for i := range 20 {
				if n := seen[fmt.Sprintf("%s.%s%02d", in, list.initial, i)]; n != 1 {
					t.Errorf("%v: entry %d was listed %d times", list, i, n)
				}
			}
			for n, times := range seen {
				if times != 1 {
					t.Errorf("%v: %s was listed %d times", list, n, times)
				}
			}
		}
	})
}

func TestFindingTasksAtManyPaths(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		for _, path := range []string{"b", "a.x", "c.d.e", "d"} {
			w.insert(path, 0)
		}
		w.want(200, "PUT", "/task/gone", task(slugid.New(), 0, time.Now()))
		ask := func(query string, paths ...string) reply {
			return w.want(200, "POST", "/tasks/indexes"+query, map[string]any{"indexes": append([]string{}, paths...)})
		}
		if got := ask("", "c.d.e", "nothing", "a.x", "gone", "b", "a.x", "not/a path", "").paths(); got != "c.d.e a.x b" {
			t.Errorf("found %s", got)
		}
		if p := ask(""); p.text != `{"tasks":[]}` {
			t.Errorf("no paths at all: %s", p.text)
		}
		if p := w.want(200, "POST", "/tasks/indexes", map[string]any{}); p.text != `{"tasks":[]}` {
			t.Errorf("an empty body: %s", p.text)
		}
		paths := []string{"c.d.e", "nothing", "a.x", "b", "gone", "d", "nothing else"}
		var pages []string
		token := ""
		for {
			p := ask("?limit=2&continuationToken="+token, paths...)
			pages = append(pages, p.paths())
			if token = p.token(); token == "" {
				break
			}
			w.insert("nothing", 0) // it was passed over, and stays so
		}
		if got := strings.Join(pages, "; "); got != "c.d.e a.x; b d" {
			t.Errorf("pages: %s", got)
		}
		first := ask("?limit=1", "a.x", "b")
		if got := ask("?limit=1&continuationToken=" + first.token()).paths(); got != "" {
			t.Errorf("the token with no paths: %s", got)
		}
		if got := ask("?limit=1&continuationToken="+first.token(), "b", "whatever").paths(); got != "" {
			t.Errorf("the token with other paths: %s", got)
		}
		if got := ask("?limit=1&continuationToken="+first.token(), "a.x", "b"); got.paths() != "b" || got.token() != "" {
			t.Errorf("the token with the same paths: %s", got.text)
		}

		many := make([]string, maxPaths+1)
		for i := range many {
			many[i] = fmt.Sprint("many.", i)
		}
		ask("", many[:maxPaths]...)
		if p := w.want(400, "POST", "/tasks/indexes", map[string]any{"indexes": many}); !strings.Contains(p.text, "indexes has 10001 paths; 10000 are allowed") {
			t.Errorf("too many paths: %s", p.text)
		}

		w.as = []string{"index:find-task:a.*", "index:find-task:b"}
		ask("", "a.x", "b")
		if p := w.want(403, "POST", "/tasks/indexes", map[string]any{"indexes": []string{"a.x", "d"}}); !strings.Contains(p.text, "index:find-task:d") {
			t.Errorf("a path that the caller may not see: %s", p.text)
		}
	})
}

func TestRedirectsToArtifacts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		id := w.insert("my.build", 0)
		w.anonymous = []string{"queue:get-artifact:public/*"}
		get := func(status int, name string) string {
			t.Helper()
			p := w.want(status, "GET", "/task/my.build/artifacts/"+name, nil)
			if status == 303 && p.body["url"] != p.header["Location"][0] {
				t.Errorf("the body says %s", p.text)
			}
			return strings.Join(p.header["Location"], "")
		}
		base := root + "/api/queue/v1/task/" + id + "/artifacts/"
		if got := get(303, "public/logs/a%20b.log"); got != base+"public%2Flogs%2Fa%20b.log" {
			t.Errorf("a public artifact is at %s", got)
		}
		signed := func(scopes ...string) string { return "?bewit=" + url.QueryEscape(strings.Join(scopes, " ")) }
		if got := get(303, "private/x"); got != base+"private%2Fx"+signed("queue:get-artifact:*") {
			t.Errorf("an artifact for one who may do all is at %s", got)
		}
		w.as = []string{"queue:get-artifact:private/x", "queue:get-artifact:team/*", "queue:create-task:*"}
		if got := get(303, "private%2Fx"); got != base+"private%2Fx"+signed("queue:get-artifact:private/x", "queue:get-artifact:public/*", "queue:get-artifact:team/*") {
			t.Errorf("an artifact for one who may read some is at %s", got)
		}
		for i := range 100 {
			w.as = append(w.as, fmt.Sprint("queue:get-artifact:some/", i))
		}
		if got := get(303, "private/x"); got != base+"private%2Fx"+signed("queue:get-artifact:private/x") {
			t.Errorf("an artifact for one who may read many is at %s", got)
		}
		get(403, "private/y")
		w.as = nil
		w.want(404, "GET", "/task/my.other/artifacts/public/x", nil)
		time.Sleep(time.Hour)
		get(404, "public/x")
	})
}

func TestEveryMethodAsksForItsScope(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.insert("a.b", 0)
		body := task(slugid.New(), 1, time.Now().Add(time.Hour))
		for _, c := range []struct {
			call, scope string
			body        any
		}{
			{"GET /task/a.b", "index:find-task:a.b", nil},
			{"POST /tasks/indexes", "index:find-task:a.b", map[string]any{"indexes": []string{"a.b"}}},
			{"GET /namespaces/a.b", "index:list-namespaces:a.b", nil},
			{"GET /namespaces/", "index:list-namespaces:", nil},
			{"GET /namespaces", "index:list-namespaces:", nil},
			{"POST /namespaces/a.b", "index:list-namespaces:a.b", map[string]any{}},
			{"GET /tasks/a.b", "index:list-tasks:a.b", nil},
			{"GET /tasks/", "index:list-tasks:", nil},
			{"POST /tasks/a.b", "index:list-tasks:a.b", map[string]any{}},
			{"PUT /task/a.b", "index:insert-task:a.b", body},
			{"DELETE /task/a.b", "index:delete-task:a.b", nil},
		} {
			verb, path, _ := strings.Cut(c.call, " ")
			w.as = []string{c.scope + "x", "queue:*", "index:find-task:x"}
			if p := w.want(403, verb, path, c.body); !strings.Contains(p.text, c.scope) {
				t.Errorf("%s: %s", c.call, p.text)
			}
			w.as = []string{c.scope}
			w.want(200, verb, path, c.body)
		}
	})
}

func TestTwoReplicasSeeTheSame(t *testing.T) {
	storetest.EachURL(t, func(t *testing.T, url string) {
		one := newWorld(t, storetest.Open(t, url))
		two := newWorld(t, storetest.Open(t, url))
		id := one.insert("a.b", 1)
		if got := two.at("a.b"); got != id {
			t.Errorf("the other replica finds %q", got)
		}
		two.want(200, "DELETE", "/task/a.b", nil)
		if got := one.at("a.b"); got != "" {
			t.Errorf("after the other's deletion: %q", got)
		}
	})
}
