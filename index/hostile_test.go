package index

import (
	"encoding/json"
	"maps"
	"math"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// hostile are values that some layer below might choke on.
var hostile = []any{
	nil, true, -1, 0, 1e308, 1e18, 12345678901234567, 0.5, "", "x", "\u2028", "\ufffd", "ü/../\\", "%00%2F", "' OR 1=1 --", "$1", "a\nb", ".", "..", "a..b", ".a", "a.",
	strings.Repeat("x", 70_000), strings.Repeat("x.", 200), "0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z", "2026-01-01T00:00:00+23:59", "-1",
	"9999-12-31T23:59:59-23:59", "0000-01-01T00:00:00+23:59", []any{strings.Repeat("x", 20_000)}, []any{"a.b", "%", "_", "*", "(", "'"},
	[]any{}, []any{nil}, []any{"x", "x"}, []any{map[string]any{}}, map[string]any{}, map[string]any{"": map[string]any{"a": []any{1, "2"}}},
	map[string]any{"x": strings.Repeat("y", 5000)}, json.RawMessage(strings.Repeat("[", 500) + strings.Repeat("]", 500)), json.RawMessage(`1e400`), json.RawMessage(`-1e400`), json.RawMessage(`1e-400`),
	json.RawMessage(`"\ud800"`), json.RawMessage(`{"a":1,"a":2}`), json.RawMessage(`123456789012345678901234567890`), json.RawMessage(`{"a":123456789012345678901234567890}`),
	json.RawMessage(`"\u0000"`), json.RawMessage(`{"\u0000":1}`), "WyJcdTAwMDAiXQ", "WyJhIl0", "WyItMSJd", "WyI5OTk5OTk5OTk5OTk5OTk5OTkiXQ",
}

// Every property of every body, every URL parameter and every query parameter
// takes every hostile value. The world fails on any reply of 500 or more.
func TestNoInputCausesAnInternalError(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.insert("a.b", 0)
		n, refused := 0, 0
		try := func(method, path string, body any) {
			n++
			p := w.call(method, path, body)
			if p.status >= 400 {
				refused++
				if m, _ := p.body["message"].(string); m == "" && p.body["error"] == nil {
					t.Errorf("%s %s: %d without a message: %s", method, path, p.status, p.text)
				}
			}
		}
		bodies := map[string]map[string]any{
			"insertTask":         task(slugid.New(), 0, time.Now().Add(time.Hour)),
			"findTasksAtIndex":   {"indexes": []string{"a.b"}},
			"listNamespacesPost": {"limit": 1, "continuationToken": "WyJhIl0"},
			"listTasksPost":      {"limit": 1, "continuationToken": "WyJhIl0"},
		}
		for _, m := range API.Methods {
			verb, route, _ := strings.Cut(m.Route, " ")
			fill := func(value string) string {
				var out []string
				for part := range strings.SplitSeq(route, "/") {
					if strings.HasPrefix(part, "<") {
						part = value
					}
					out = append(out, part)
				}
				return strings.Join(out, "/")
			}
			for _, h := range hostile {
				if text, ok := h.(string); ok {
					if len(text) < 20_000 {
						body := any(bodies[m.Name])
						if bodies[m.Name] == nil {
							body = nil
						}
						try(verb, fill(url.PathEscape(text)), body)
					}
					for _, q := range m.Query {
						try(verb, fill("a")+"?"+q+"="+url.QueryEscape(text), bodies[m.Name])
					}
				}
				try(verb, fill("hostile"), h)
				for _, property := range slices.Sorted(maps.Keys(bodies[m.Name])) {
					b := maps.Clone(bodies[m.Name])
					b[property] = h
					try(verb, fill("hostile.x"), b)
				}
			}
		}
		t.Logf("%d requests, %d refused", n, refused)
		if refused < n/2 {
			t.Errorf("only %d of %d hostile requests were refused", refused, n)
		}
	})
}

func TestWhatIsTooLongIsRefusedByName(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		good := task(slugid.New(), 0, time.Now().Add(time.Hour))
		long := strings.Repeat("a", maxPath+1)
		for _, c := range []struct{ verb, path, want string }{
			{"GET", "/task/" + long, "indexPath has 256 characters; a path may have 255"},
			{"PUT", "/task/" + long, "namespace has 256 characters; a path may have 255"},
			{"DELETE", "/task/" + long, "namespace has 256"},
			{"GET", "/tasks/" + long, "namespace has 256"},
			{"GET", "/namespaces/" + long, "namespace has 256"},
			{"GET", "/task/" + long + "/artifacts/public/x", "indexPath has 256"},
			{"GET", "/task/a%2Fb", "indexPath is"},
			{"PUT", "/task/", "Not found"},
		} {
			var body any
			if c.verb == "PUT" {
				body = good
			}
			if p := w.call(c.verb, c.path, body); p.status != 400 && p.status != 404 || !strings.Contains(p.text, c.want) {
				t.Errorf("%s %.30s: %s", c.verb, c.path, p.text)
			}
		}
		w.want(200, "PUT", "/task/"+strings.Repeat("a.", 127)+"a", good)
		if got := w.count("index_namespace"); got != 127 {
			t.Errorf("the deepest path has %d namespaces", got)
		}
		big := maps.Clone(good)
		big["data"] = map[string]string{"x": strings.Repeat("x", maxData-8)} // with {"x":""}
		w.want(200, "PUT", "/task/big", big)
		big["data"] = map[string]string{"x": strings.Repeat("x", maxData-7)}
		if p := w.want(400, "PUT", "/task/big", big); !strings.Contains(p.text, "data has 32769 bytes as JSON; 32768 may be kept") {
			t.Errorf("%.300s", p.text)
		}
		for _, query := range []string{"limit=0", "limit=x", "limit=-1", "limit=1&limit=2", "continuationToken=!", "continuationToken=abc", "unknown=1"} {
			w.want(400, "GET", "/tasks/a?"+query, nil)
		}
		w.want(200, "GET", "/tasks/a?limit=1000000", nil)
	})
}

// A rank comes out of the database as it went in.
func TestRanksAreKeptToTheLastDigit(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		ranks := []float64{0.1, 1.0 / 3, math.Pi, 1<<53 - 1, -1 << 53, math.MaxFloat64, math.SmallestNonzeroFloat64, 5e-324 * 3, 1e22, 1e23, math.Copysign(0, -1)}
		for range 300 {
			if f := math.Float64frombits(rand.Uint64()); !math.IsNaN(f) && !math.IsInf(f, 0) {
				ranks = append(ranks, f)
			}
		}
		for range 300 {
			ranks = append(ranks, rand.Float64()*2e9)
		}
		for _, r := range ranks {
			p := w.want(200, "PUT", "/task/"+slugid.New(), task(slugid.New(), r, time.Now().Add(time.Hour)))
			if p.body["rank"] != r {
				t.Errorf("%v became %v", r, p.body["rank"])
			}
		}
	})
}
