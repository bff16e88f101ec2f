package queue

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/timestamp"
)

// hostile are values that some layer below might choke on.
var hostile = []any{
	nil, true, -1, 0, 1e308, 1e18, 12345678901234567, 0.5, "", "x", "\u2028", "\ufffd", "ü/../\\", "%00%2F", "' OR 1=1 --", "$1", "a\nb",
	strings.Repeat("x", 70_000), "0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z", "2026-01-01T00:00:00+23:59", "-1",
	"9999-12-31T23:59:59-23:59", "0000-01-01T00:00:00+23:59", []any{strings.Repeat("x", 20_000)},
	[]any{}, []any{nil}, []any{"x", "x"}, []any{map[string]any{}}, map[string]any{}, map[string]any{"": map[string]any{"a": []any{1, "2"}}},
	map[string]any{"x": strings.Repeat("y", 5000)}, map[string]any{"label": strings.Repeat("ü", 4000)}, json.RawMessage(strings.Repeat("[", 500) + strings.Repeat("]", 500)), json.RawMessage(`1e400`),
	json.RawMessage(`"\ud800"`), json.RawMessage(`{"a":1,"a":2}`), json.RawMessage(`123456789012345678901234567890`),
}

// Every property of every body, and every URL parameter, takes every hostile
// value. The stage fails on any reply of 500 or more.
func TestNoInputCausesAnInternalError(t *testing.T) {
	t.Parallel()
	soon := timestamp.Now().Add(time.Hour).String()
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		s := newStage(t, db, nil)
		s.do(strings.Fields("create A"))
		s.do(strings.Fields("claim w"))
		if _, err := s.queue.claimNow(t.Context(), "prov/wt", Worker{"grp", "w9"}, 1); err != nil { // which makes it known
			t.Fatal(err)
		}
		n, refused := 0, 0
		try := func(method, path string, body any) {
			n++
			code, out := s.call(method, path, body)
			if code >= 400 {
				refused++
				if m, _ := out["message"].(string); m == "" && out["error"] == nil && out["reason"] == nil {
					t.Errorf("%s %s: %d without a message: %v", method, path, code, out)
				}
			}
		}
		s.do([]string{"create", "base"})
		for _, m := range API.Methods {
			if m.Name == "claimWork" {
				continue // it waits; its bodies are tried below
			}
			verb, route, _ := strings.Cut(m.Route, " ")
			for _, h := range hostile {
				if text, ok := h.(string); ok {
					try(verb, fill(route, func(string) string { return url.PathEscape(text) }), nil)
					try(verb, fill(route, func(p string) string {
						if p == "taskId" {
							return s.id("A")
						}
						return url.PathEscape(text)
					}), map[string]any{})
					for _, q := range m.Query {
						try(verb, fill(route, s.good)+"?"+q+"="+url.QueryEscape(text), nil)
					}
				}
				try(verb, fill(route, s.good), h)
			}
		}
		bodies := map[string]map[string]any{
			"POST /claim-work/prov/empty": {"workerGroup": "grp", "workerId": "w", "tasks": 1},
			"PUT /task/" + s.id("new"):    s.tasks["base"],
			"POST " + s.run("A/0") + "/artifacts/x": {
				"storageType": "reference", "url": "http://example.com", "contentType": "a/b", "expires": soon,
			},
			"POST " + s.run("A/0") + "/exception":                   {"reason": "nonsense"},
			"PUT /provisioners/prov/worker-types/wt/workers/grp/w9": {"quarantineUntil": soon, "quarantineInfo": "x"},
			"POST /task/" + s.id("A") + "/priority":                 {"newPriority": "high"},
			"POST /task-group/" + s.id("A") + "/priority":           {"newPriority": "high"},
			"PUT /provisioners/prov/worker-types/wt/grp/w9":         {"expires": soon},
			"POST " + s.run("A/0") + "/artifacts/public%2Fo":        {"storageType": "object", "contentType": "a/b", "expires": soon},
			"PUT " + s.run("A/0") + "/artifacts/public%2Fo":         {"uploadId": s.id("upload"), "parts": []any{"a"}},
			"POST /tasks":        {"taskIds": []any{s.id("A")}},
			"POST /tasks/status": {"taskIds": []any{s.id("A")}},
		}
		optional := []string{
			"dependencies", "requires", "routes", "priority", "retries", "scopes", "tags", "extra", "taskGroupId", "schedulerId", "projectId",
			"expires", "provisionerId", "workerType", "artifact", "reason", "message", "contentLength",
		}
		for _, target := range slices.Sorted(maps.Keys(bodies)) {
			verb, path, _ := strings.Cut(target, " ")
			for _, property := range slices.Concat(slices.Sorted(maps.Keys(bodies[target])), optional) {
				for _, h := range hostile {
					b := maps.Clone(bodies[target])
					b[property] = h
					if strings.HasPrefix(path, "/claim-work") && property != "workerId" && property != "tasks" && property != "workerGroup" {
						continue
					}
					if strings.HasPrefix(path, "/claim-work") && (h == "x" || h == "-1") {
						continue // a good claim: it would wait
					}
					try(verb, path, b)
				}
			}
		}
		// Whatever was created can be claimed: nothing stands in the way of others.
		for got := s.do(strings.Fields("claim w 32")); got != "none"; got = s.do(strings.Fields("claim w 32")) {
			if strings.HasPrefix(got, "4") {
				t.Fatal(got)
			}
		}
		if code, out := s.call("PUT", "/task/"+s.id("endless"), withScope(s.tasks["base"], strings.Repeat("x", 20_000))); code != 400 {
			t.Errorf("a scope that no credentials can hold: %d %v", code, out)
		}
		t.Logf("%d requests, %d refused", n, refused)
		if refused < n/2 {
			t.Errorf("only %d of %d hostile requests were refused", refused, n)
		}
	})
}

func withScope(body map[string]any, scope string) map[string]any {
	b := maps.Clone(body)
	b["scopes"] = []string{scope}
	return b
}

func (s *stage) good(param string) string {
	return map[string]string{
		"taskId": s.id("A"), "taskGroupId": s.id("A"), "runId": "0", "name": "public/x", "taskQueueId": "prov/wt",
		"provisionerId": "prov", "workerType": "wt", "workerGroup": "grp", "workerId": "w",
	}[param]
}

func fill(route string, value func(param string) string) string {
	var out []string
	for part := range strings.SplitSeq(route, "/") {
		if name, ok := strings.CutPrefix(part, "<"); ok {
			part = value(strings.TrimRight(name, ".>"))
		}
		out = append(out, part)
	}
	return strings.Join(out, "/")
}

func FuzzCreateTask(f *testing.F) {
	f.Add([]byte(`{"taskQueueId":"prov/wt","created":"2026-01-01T00:00:00Z","deadline":"2026-01-02T00:00:00Z","payload":{},"metadata":{"name":"n","description":"d","owner":"o","source":"https://x"}}`))
	f.Add([]byte(`{"dependencies":["` + strings.Repeat("A", 22) + `"],"routes":["a"],"scopes":["**"],"retries":49}`))
	db, err := store.Open(f.Context(), storetest.URL(f, "sqlite"))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { db.Close() })
	s := newStage(f, db, nil)
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequest("PUT", fmt.Sprintf("http://tasks.test/api/queue/v1/task/%s", s.id("fuzz")), bytes.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		s.server.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Fatalf("%q: %d %s", body, w.Code, w.Body)
		}
	})
}
