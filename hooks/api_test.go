package hooks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestHooksAreCreatedChangedAndDeleted(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.runAll()
		w.want(404, "no hook g/a/b", "GET", at("g/a/b", ""), nil)
		w.want(404, "no hook in the group", "GET", "/hooks/g", nil)
		w.want(404, "no hook", "GET", at("g/a/b", "/status"), nil)
		w.want(404, "never fired", "GET", at("g/a/b", "/last-fires"), nil)
		w.want(404, "no hook", "POST", at("g/a/b", ""), hookBody(nil))
		w.want(404, "no hook", "POST", at("g/a/b", "/trigger"), m{})
		w.want(404, "no hook", "GET", at("g/a/b", "/token"), nil)
		w.want(404, "no hook", "POST", at("g/a/b", "/token"), nil)

		created := w.want(200, "", "PUT", at("g/a/b", ""), hookBody(nil))
		want := hookBody(m{"hookGroupId": "g", "hookId": "a/b", "schedule": []any{}, "bindings": []any{}, "triggerSchema": m{"type": "object", "additionalProperties": false}})
		want["metadata"].(m)["emailOnError"] = true
		if same, err := json.Marshal(want); err != nil || !sameJSON(mustEncode(created), same) {
			t.Errorf("created: %v", created)
		}
		if got := w.want(200, "", "GET", at("g/a/b", ""), nil); !sameJSON(mustEncode(got), mustEncode(created)) {
			t.Errorf("shown: %v", got)
		}
		w.want(200, "", "PUT", at("g/a/b", ""), hookBody(m{"hookGroupId": "g", "hookId": "a/b"})) // once more
		w.want(409, "with another schedule", "PUT", at("g/a/b", ""), hookBody(m{"schedule": []string{"@daily"}}))
		w.want(409, "with another task", "PUT", at("g/a/b", ""), hookBody(m{"task": m{}}))
		w.hook("g/c", nil)
		w.hook("f/d", nil)
		if got := w.want(200, "", "GET", "/hooks", nil)["groups"]; fmt.Sprint(got) != "[f g]" {
			t.Errorf("groups: %v", got)
		}
		if got := w.want(200, "", "GET", "/hooks/g", nil)["hooks"].([]any); len(got) != 2 || got[0].(m)["hookId"] != "a/b" || got[1].(m)["hookId"] != "c" {
			t.Errorf("hooks of g: %v", got)
		}
		if got := w.want(200, "", "GET", at("g/a/b", "/status"), nil); fmt.Sprint(got) != "map[lastFire:map[result:no-fire]]" {
			t.Errorf("status: %v", got)
		}
		w.want(200, "", "POST", at("g/a/b", ""), hookBody(m{"schedule": []string{"@daily"}}))
		if got := w.want(200, "", "GET", at("g/a/b", "/status"), nil)["nextScheduledDate"]; got != "2000-01-02T00:00:00.000Z" {
			t.Errorf("next: %v", got)
		}
		w.want(200, "", "POST", at("g/a/b", "/trigger"), m{})
		w.want(200, "", "DELETE", at("g/a/b", ""), nil)
		w.want(200, "", "DELETE", at("g/a/b", ""), nil)
		w.want(404, "", "GET", at("g/a/b", "/last-fires"), nil)
		w.hook("g/a/b", nil)
		w.want(404, "", "GET", at("g/a/b", "/last-fires"), nil) // another hook of the name

		wait(time.Second)
		all, err := w.bus.Read(t.Context(), 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, x := range all {
			got = append(got, strings.TrimPrefix(x.Exchange, "exchange/taskcluster-hooks/v1/hook-")+string(x.Payload))
		}
		if want := []string{
			`created{"hookGroupId":"g","hookId":"a/b"}`, `created{"hookGroupId":"g","hookId":"c"}`, `created{"hookGroupId":"f","hookId":"d"}`,
			`updated{"hookGroupId":"g","hookId":"a/b"}`, `deleted{"hookGroupId":"g","hookId":"a/b"}`, `created{"hookGroupId":"g","hookId":"a/b"}`,
		}; !slices.Equal(got, want) {
			t.Errorf("messages: %q", got)
		}
	})
}

func TestDefinitionsThatAreRefused(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.hook("g/h", nil)
		binding := func(exchange string) []m { return []m{{"exchange": exchange, "routingKeyPattern": "#"}} }
		var schedule []string
		var bindings []m
		for i := range 101 {
			schedule = append(schedule, fmt.Sprintf("%d %d * * * *", i%60, i/60))
			bindings = append(bindings, binding(fmt.Sprint("e", i))...)
		}
		for say, parts := range map[string]m{
			"hookGroupId is f in the body":           {"hookGroupId": "f"},
			"hookId is i in the body":                {"hookId": "i"},
			`schedule entry "0 0 3 0 * *": the day`:  {"schedule": []string{"0 0 3 0 * *"}},
			`there is no such date`:                  {"schedule": []string{"0 0 0 30 2 *"}},
			"schedule has 101 entries":               {"schedule": schedule},
			"bindings has 101 entries":               {"bindings": bindings},
			"denied access to hooks":                 {"bindings": binding("exchange/taskcluster-hooks/v1/hook-created")},
			"have been denied access":                {"bindings": binding("exchange/taskcluster-queue/v1/task-created")},
			"bindings/0: a binding needs":            {"bindings": binding(strings.Repeat("x", 2000))},
			"task has":                               {"task": m{"x": strings.Repeat("x", largestTemplate)}},
			"task cannot be rendered":                {"task": json.RawMessage(`{"x":1e400}`)},
			"triggerSchema/type":                     {"triggerSchema": m{"type": "beer"}},
			"missing property 'routingKeyPattern'":   {"bindings": []m{{"exchange": "e"}}},
			"missing property 'owner'":               {"metadata": m{"name": "n", "description": "d"}},
			"data/schedule":                          {"schedule": "@daily"},
			"data/schedule: items at 0 and 1":        {"schedule": []string{"@daily", "@daily"}},
			"additional properties 'expires' not al": {"expires": "1 day"},
		} {
			w.want(400, say, "PUT", at("g/new", ""), hookBody(parts))
			w.want(400, say, "POST", at("g/h", ""), hookBody(parts))
		}
		w.want(404, "", "GET", at("g/new", ""), nil)
		w.want(400, "hookGroupId", "PUT", "/hooks/g!/h", hookBody(nil))
		w.want(400, "hookId", "PUT", at("g/h!", ""), hookBody(nil))

		if err := db.Do(t.Context(), func(tx *store.Tx) error {
			_, err := tx.Exec(`UPDATE hook SET size = $1`, largestHookGroup)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		w.want(400, "Use another group", "PUT", at("g/more", ""), hookBody(nil))
		w.hook("other/h", nil)
	})
}

func TestWhoMayDoWhat(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.hook("g/h", nil)
		for scopes, call := range map[string]string{
			"hooks:list-hooks:":                               "GET /hooks",
			"hooks:list-hooks:g":                              "GET /hooks/g",
			"hooks:get:g:h":                                   "GET /hooks/g/h",
			"hooks:status:g/h":                                "GET /hooks/g/h/status",
			"hooks:modify-hook:g/h assume:hook-id:g/h":        "PUT /hooks/g/h",
			"assume:hook-id:g/h hooks:modify-hook:g/h hooks:": "POST /hooks/g/h",
			"hooks:trigger-hook:g/h":                          "POST /hooks/g/h/trigger",
			"hooks:get-trigger-token:g/h":                     "GET /hooks/g/h/token",
			"hooks:reset-trigger-token:g/h":                   "POST /hooks/g/h/token",
			"hooks:list-last-fires:g/h":                       "GET /hooks/g/h/last-fires",
		} {
			verb, path, _ := strings.Cut(call, " ")
			var body any
			switch {
			case strings.HasSuffix(path, "trigger"):
				body = m{}
			case strings.HasSuffix(path, "/h") && verb != "GET":
				body = hookBody(nil)
			}
			if code, out := w.call("somebody "+scopes, verb, path, body); code != 200 && code != 404 {
				t.Errorf("%s with %s: %d %v", call, scopes, code, out)
			}
			all := strings.Fields(scopes)
			less := []string{"hooks:", "hooks:list-hooks:f", "assume:hook-id:f/*", "hooks:get:g/h"}
			less = append(less, all[1:]...)
			if code, _ := w.call("somebody "+strings.Join(less, " "), verb, path, body); code != 403 {
				t.Errorf("%s without %s: %d", call, all[0], code)
			}
			if code, _ := w.call("", verb, path, body); code != 403 {
				t.Errorf("%s by nobody: %d", call, code)
			}
		}
		if code, _ := w.call("somebody hooks:modify-hook:g/h", "PUT", "/hooks/g/h", hookBody(nil)); code != 403 {
			t.Errorf("createHook without the hook's role: %d", code)
		}
		if code, _ := w.call("somebody hooks:modify-hook:g/h", "DELETE", "/hooks/g/h", nil); code != 200 {
			t.Errorf("removeHook: %d", code)
		}
	})
}

func TestTokensFireTheirHookUntilTheyAreReset(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		task := template()
		task["extra"] = m{"p": m{"$eval": "payload"}, "who": m{"$if": "defined('clientId')", "then": "${clientId}", "else": "nobody"}}
		w.hook("g/h", m{"triggerSchema": anything, "task": task})
		w.hook("g/i", m{"triggerSchema": anything})
		token := func(p string) string { return w.want(200, "", "GET", at(p, "/token"), nil)["token"].(string) }
		first := token("g/h")
		if token("g/h") != first || first == token("g/i") {
			t.Error("tokens change by themselves, or are shared")
		}
		with := func(p, token string) int {
			code, _ := w.call("", "POST", at(p, "/trigger/"+url.PathEscape(token)), m{"x": 1})
			return code
		}
		if code := with("g/h", first); code != 200 {
			t.Errorf("with the token: %d", code)
		}
		for _, wrong := range []string{token("g/i"), first + "x", first[1:], strings.ToLower(first), "x", "é%"} {
			if code := with("g/h", wrong); code != 401 {
				t.Errorf("with %s: %d", wrong, code)
			}
		}
		if code := with("g/nowhere", first); code != 404 {
			t.Errorf("where there is no hook: %d", code)
		}
		second := w.want(200, "", "POST", at("g/h", "/token"), nil)["token"].(string)
		if second == first || token("g/h") != second || with("g/h", first) != 401 || with("g/h", second) != 200 {
			t.Error("the token was not replaced")
		}
		w.want(200, "", "POST", at("g/h", ""), hookBody(m{"triggerSchema": anything, "task": task}))
		if token("g/h") != second {
			t.Error("a change of the hook changes its token")
		}
		w.want(200, "", "POST", at("g/h", "/trigger"), m{"x": 2})
		tasks := w.queue.of("g/h")
		if got := fmt.Sprint(tasks[0].definition["extra"], tasks[2].definition["extra"]); got != "map[p:map[x:1] who:nobody] map[p:map[x:2] who:root]" {
			t.Errorf("contexts: %s", got)
		}
		if got := w.fires("g/h"); !slices.Equal(got, []string{"success triggerHook", "success triggerHookWithToken", "success triggerHookWithToken"}) {
			t.Errorf("fires: %q", got)
		}

		// At rest tokens are sealed, and move to a new key.
		var sealed string
		read := func() {
			if err := db.View(t.Context(), func(tx *store.Tx) error {
				return tx.QueryRow(`SELECT trigger_token FROM hook WHERE hook_id = 'h'`).Scan(&sealed)
			}); err != nil {
				t.Fatal(err)
			}
		}
		read()
		if strings.Contains(sealed, second) {
			t.Error("the token can be read in the database")
		}
		fresh := seal.NewKey()
		w.start(w.key, fresh)
		if _, err := w.reseal(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.start(fresh)
		if old := sealed; token("g/h") != second {
			t.Error("the token is another with another key")
		} else if read(); sealed == old {
			t.Error("the token is sealed as it was")
		}
	})
}

var (
	insufficient = api.Errorf(api.InsufficientScopes, "it lacks queue:create-task")
	errBusy      = errors.New("the database is busy")
)

func TestTriggersTellWhatCameOfThem(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.run()
		trigger := func(status int, say string, body any) m {
			t.Helper()
			return w.want(status, say, "POST", at("g/h", "/trigger"), body)
		}
		task := m{"$if": "payload.go", "then": template()}
		w.hook("g/h", m{"task": task, "triggerSchema": m{"type": "object", "properties": m{"go": m{"type": "boolean", "default": true}, "n": m{"type": "number"}}}})
		out := trigger(200, "", m{})
		if id := out["taskId"]; len(w.queue.of("g/h")) != 1 || id != w.queue.of("g/h")[0].id || out["status"].(m)["taskId"] != id {
			t.Errorf("%v", out)
		}
		if out := trigger(200, "", m{"go": false}); len(out) != 0 {
			t.Errorf("no task is wanted: %v", out)
		}
		trigger(400, "payload/n: got string, want number", m{"n": "x", "go": true})
		trigger(400, "data: got array, want object", []any{})
		trigger(413, "bytes", m{"x": strings.Repeat("x", largestPayload)})
		trigger(400, "no slugid", m{"taskId": "mine"})
		trigger(400, "no slugid", m{"taskId": 7})
		trigger(400, "", json.RawMessage(`{"n":1e400}`))

		// A caller who chooses the id can repeat the call.
		mine := m{"taskId": "VMxKlcVxTDyPoOYBxIhZ5A", "n": 1}
		for range 3 {
			if out := trigger(200, "", mine); out["taskId"] != mine["taskId"] {
				t.Errorf("%v", out)
			}
			wait(time.Minute)
		}
		trigger(400, "While calling createTask: RequestConflict", m{"taskId": mine["taskId"], "n": 2})
		if got := w.fires("g/h"); !slices.Equal(got, []string{"error triggerHook: RequestConflict: Task VMxKlcVxTDyPoOYBxIhZ5A exists already with another definition", "success triggerHook", "success triggerHook"}) {
			t.Errorf("fires: %q", got)
		}

		w.queue.interfere(func(context.Context, string, string) error { return insufficient }, nil)
		w.want(403, "The role `hook-id:g/h` does not have sufficient scopes to create the task:\n\nit lacks", "POST", at("g/h", "/trigger"), m{})
		w.queue.interfere(func(context.Context, string, string) error { return errBusy }, nil)
		calls := w.queue.called()
		trigger(503, "Call again", m{})
		if n := w.queue.called() - calls; n != 3 {
			t.Errorf("%d attempts while the caller waits", n)
		}
		fails := 2
		w.queue.interfere(nil, func(context.Context, string, string) error {
			if fails--; fails >= 0 {
				return errBusy // after the task was created
			}
			return nil
		})
		trigger(200, "", m{})
		w.queue.interfere(nil, nil)
		w.want(200, "", "POST", at("g/h", ""), hookBody(m{"task": m{"$if": "payload.x.y"}}))
		trigger(400, "While firing the hook:\n\nthe template cannot be rendered", m{})
		list := w.want(200, "", "GET", at("g/h", "/last-fires"), nil)["lastFires"].([]any)
		if f := list[0].(m); f["result"] != "error" || f["taskState"] != "unknown" || list[1].(m)["taskState"] != "pending" {
			t.Errorf("%v", list[:2])
		}

		// The caller hangs up, or the process stops: the task comes later.
		w.want(200, "", "POST", at("g/h", ""), hookBody(nil))
		before := len(w.queue.of("g/h"))
		ctx, hangUp := context.WithCancel(t.Context())
		w.queue.interfere(func(ctx context.Context, _, _ string) error {
			hangUp()
			<-ctx.Done()
			return ctx.Err()
		}, nil)
		k, err := w.find(ctx, hookPath{"g", "h"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.trigger(ctx, k, byCall, json.RawMessage(`{}`), m{}); err == nil {
			t.Error("a call that was broken off succeeds")
		}
		w.queue.interfere(nil, nil)
		wait(2 * time.Minute)
		if n := len(w.queue.of("g/h")) - before; n != 1 {
			t.Errorf("%d tasks of a call that was broken off", n)
		}
	})
}

func TestFiresAreListedInPagesAndBounded(t *testing.T) {
	t.Parallel()
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.hook("g/h", m{"task": m{"$eval": "x"}})
		w.hook("g/i", nil)
		fire := func(n int) {
			if err := db.Do(t.Context(), func(tx *store.Tx) error {
				k, err := loadHook(tx, hookPath{"g", "h"}, noLock)
				if err != nil {
					return err
				}
				for range n {
					if err := newFire(k, byMessage, "", 1, 2, nil).insert(tx, 0); err != nil {
						return err
					}
				}
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		fire(25)
		w.want(200, "", "POST", at("g/i", "/trigger"), m{})
		var ids []string
		token, pages := "", 0
		for ; pages == 0 || token != ""; pages++ {
			out := w.want(200, "", "GET", at("g/h", "/last-fires")+"?limit=10&continuationToken="+token, nil)
			for _, f := range out["lastFires"].([]any) {
				ids = append(ids, f.(m)["taskId"].(string))
			}
			token, _ = out["continuationToken"].(string)
			fire(1) // meanwhile
		}
		if slices.Sort(ids); pages != 3 || len(slices.Compact(ids)) != 25 {
			t.Errorf("%d fires in %d pages", len(ids), pages)
		}
		fire(1100)
		out := w.want(200, "", "GET", at("g/h", "/last-fires"), nil)
		if n := len(out["lastFires"].([]any)); n != mostFires || out["continuationToken"] != nil {
			t.Errorf("%d fires are kept", n)
		}
		w.want(400, "limit", "GET", at("g/h", "/last-fires")+"?limit=0", nil)
		w.want(400, "continuationToken", "GET", at("g/h", "/last-fires")+"?continuationToken=x", nil)

		time.Sleep(367 * 24 * time.Hour)
		for more := true; more; {
			var err error
			if more, err = w.forget(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		w.want(404, "", "GET", at("g/h", "/last-fires"), nil)
	})
}

// The index finds what asking one binding after the other finds.
func FuzzBindingIndex(f *testing.F) {
	f.Add("a.b.c", "a.#", "#.c", "a.*.c", "#")
	f.Add("a.b.a.b", "#.b.#.b", "*.#.b", "a.#.#", "##")
	f.Add("", "#", "*", "#.#", "*.#")
	f.Add("a..b", "a..b", "a.*.b", "#.", ".")
	f.Fuzz(func(t *testing.T, key, p1, p2, p3, p4 string) {
		var x bindingIndex
		m := event.Message{Exchange: "e", RoutingKey: "other.key", CC: []string{key}}
		var want []int64
		for i, p := range []string{p1, p2, p3, p4, p1 + "." + p2, p3 + ".#." + p4} {
			b := []event.Binding{{Exchange: "e", RoutingKeyPattern: p}, {Exchange: "f", RoutingKeyPattern: "#"}}
			x.add(int64(i), b)
			if event.Compile(b).Matches(m) {
				want = append(want, int64(i))
			}
		}
		if got := x.match(m); !slices.Equal(got, want) {
			t.Errorf("%q with %q: %v, want %v", []string{p1, p2, p3, p4}, key, got, want)
		}
	})
}

// hostile are values that some layer below might choke on.
var hostile = []any{
	nil, true, -1, 0, 1e308, 12345678901234567, 0.5, "", "x", "\u2028", "\ufffd", "ü/../\\", "%00%2F", "' OR 1=1 --", "$1", "a\nb", "${", "${1/0}",
	strings.Repeat("x", 70_000), []any{}, []any{nil}, []any{"x", "x"}, []any{m{}}, m{}, m{"": m{"a": []any{1, "2"}}}, m{"$eval": "range(0, 999999999)"},
	m{"$map": m{"$eval": "range(0,1000)"}, "each(x)": m{"$map": m{"$eval": "range(0,1000)"}, "each(y)": "z"}}, m{"$let": m{"a": 1}}, m{"$nonsense": 1},
	m{"$json": m{"$eval": "1 ** 1"}}, m{"created": -1, "deadline": []any{}, "taskGroupId": m{}}, m{"$ref": "#"}, m{"pattern": "("}, []any{m{"exchange": "e", "routingKeyPattern": strings.Repeat("#.", 400) + "#"}},
	json.RawMessage(strings.Repeat("[", 500) + strings.Repeat("]", 500)), json.RawMessage(`1e400`), json.RawMessage(`{"n":1e999999999}`),
	json.RawMessage(`"\ud800"`), json.RawMessage(`{"a":1,"a":2}`), json.RawMessage(`123456789012345678901234567890`), json.RawMessage(`{"$eval":"\u0000"}`),
}

func TestNoInputCausesAnInternalError(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.hook("g/h", m{"triggerSchema": anything})
		try := func(verb, path string, body any) {
			if code, out := w.call(root, verb, path, body); code >= 500 || code >= 400 && out["message"] == "" {
				t.Errorf("%s %.200s %.200v: %d %v", verb, path, body, code, out)
			}
		}
		for _, method := range API.Methods {
			verb, route, _ := strings.Cut(method.Route, " ")
			good := strings.NewReplacer("<hookGroupId>", "g", "<hookId>", "h", "<token>", "t").Replace(route)
			for _, x := range hostile {
				if text, ok := x.(string); ok && text != "" {
					try(verb, strings.NewReplacer("<hookGroupId>", url.PathEscape(text), "<hookId>", url.PathEscape(text), "<token>", url.PathEscape(text)).Replace(route), nil)
					for _, q := range method.Query {
						try(verb, good+"?"+q+"="+url.QueryEscape(text), nil)
					}
				}
				if verb != "DELETE" {
					try(verb, good, x)
				}
			}
		}
		n := 0
		for _, property := range []string{"hookGroupId", "hookId", "metadata", "task", "bindings", "schedule", "triggerSchema"} {
			for _, x := range hostile {
				n++
				p := fmt.Sprintf("g/n%d", n)
				body := hookBody(m{"triggerSchema": anything})
				body[property] = x
				try("PUT", at(p, ""), body)
				try("POST", at("g/h", ""), body)
				for _, payload := range []any{m{}, m{"a": x}} {
					try("POST", at(p, "/trigger"), payload)
				}
				w.publish("e", "k", m{"a": 1})
			}
		}
		for _, l := range slices.Concat(w.bus.Loops(), w.Loops()) {
			if !strings.HasPrefix(l.Name, "event.expire") {
				for range 10 {
					if _, err := l.Pass(t.Context()); err != nil {
						t.Errorf("%s: %v", l.Name, err)
					}
				}
			}
		}
		w.scheduleAlarm.set(0, nil)
		w.fireAlarm.set(0, nil)
		w.hook("g/fine", nil)
		w.want(200, "", "POST", at("g/fine", "/trigger"), m{})
		if keys := slices.Collect(maps.Keys(w.queue.tasks)); len(keys) == 0 {
			t.Error("no task was created at all")
		}
	})
}
