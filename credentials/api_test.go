package credentials

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/api/apitest"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestEveryMethodNeedsItsScopes(t *testing.T) {
	storetest.EachReal(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Consumers: []Use{{Name: "grafana"}}})
		w.run(0)
		apitest.Scopes(t, API, w.Credentials, apitest.Samples{
			Path: map[string]string{"name": "db", "consumer": "grafana", "service": "sentry", "project": "x"},
			Methods: map[string]apitest.Sample{
				"bootstrap": {Body: map[string]any{"spec": map[string]any{}}},
				"consumed":  {Body: map[string]any{}}, "retire": {Body: map[string]any{"id": "x"}}, "supply": {Body: map[string]any{"secret": map[string]any{"a": "b"}}},
			},
		})
	})
}

// everybody may do everything.
type everybody struct{}

func (everybody) Authenticate(context.Context, api.Credential) (api.Identity, error) {
	return api.Identity{ClientID: "tester", Scopes: scope.NewSet("*")}, nil
}

func TestTheAPI(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db, Definition{Name: "db", Kind: "mint", Plan: Plan{Cron: "0 4 * * 1", Zone: "Europe/Berlin"}, Overlap: time.Minute, Consumers: []Use{{Name: "grafana"}}},
			Definition{Name: "wrong", Kind: "magic"})
		s := api.NewServer(api.Options{RootURL: "http://tasks.test", Auth: everybody{}, Log: w.config.Log, Metrics: prometheus.NewRegistry(), CheckOutput: true})
		if err := api.Mount(s, API, w.Credentials); err != nil {
			t.Fatal(err)
		}
		call := func(status int, verb, path, body string) string {
			t.Helper()
			r := httptest.NewRequest(verb, "http://tasks.test/api/credentials/v1"+path, strings.NewReader(body))
			if body != "" {
				r.Header.Set("Content-Type", "application/json")
			}
			rec := httptest.NewRecorder()
			s.ServeHTTP(rec, r)
			if rec.Code != status {
				t.Fatalf("%s %s: %d: %s", verb, path, rec.Code, rec.Body)
			}
			return rec.Body.String()
		}
		call(409, http.MethodPost, "/credentials/db/verify", "")
		call(409, http.MethodGet, "/credentials/db/secret", "")
		w.run(time.Minute)
		for range 3 {
			call(200, http.MethodPost, "/credentials/db/rotate", "")
			call(204, http.MethodPost, "/credentials/db/consumers/grafana/consumed", "{}")
			w.run(3 * hours)
		}
		call(200, http.MethodPost, "/credentials/db/rotate", "")
		w.run(0)
		all := call(200, http.MethodGet, "/credentials", "") + call(200, http.MethodGet, "/credentials/db", "") + call(200, http.MethodGet, "/credentials/wrong", "") +
			call(200, http.MethodPost, "/credentials/db/verify", "") + call(200, http.MethodGet, "/credentials/db/leftovers", "")
		var got []string
		for query := "?limit=3"; ; {
			text := call(200, http.MethodGet, "/credentials/db/history"+query, "")
			all += text
			var page struct {
				Rotations         []struct{ Reason, By, State string }
				ContinuationToken string
			}
			if err := json.Unmarshal([]byte(text), &page); err != nil {
				t.Fatal(err)
			}
			for _, r := range page.Rotations {
				got = append(got, fmt.Sprint(r.Reason, " ", r.By, " ", r.State))
			}
			if page.ContinuationToken == "" {
				break
			}
			query = "?limit=3&continuationToken=" + page.ContinuationToken
		}
		if want := []string{"request tester running", "request tester done", "request tester done", "request tester done", "first  done"}; !slices.Equal(got, want) {
			t.Errorf("the history is %q", got)
		}
		if strings.Contains(all, planted) {
			t.Errorf("a secret is shown in %s", all)
		}
		if text := call(200, http.MethodGet, "/credentials/db/secret", ""); !strings.Contains(text, planted) {
			t.Errorf("revealed is %s", text)
		}
		if !strings.Contains(w.log.String(), `"msg":"credential revealed","credential":"db"`) {
			t.Error("the log does not tell who has read the secret")
		}
		call(200, http.MethodPost, "/credentials/db/revoke", "")
		call(404, http.MethodGet, "/credentials/nothing", "")
		call(409, http.MethodPost, "/credentials/wrong/rotate", "")
		metrics := make(chan prometheus.Metric, 100)
		stock{w.Credentials}.Collect(metrics)
		if n := len(metrics); n != 6 { // age, next, failures and state of one, failures and state of the other
			t.Errorf("there are %d metrics", n)
		}
	})
}
