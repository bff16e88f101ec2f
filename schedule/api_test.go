package schedule

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/api/apitest"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/timestamp"
)

func TestScopes(t *testing.T) {
	each(t, func(w *world) {
		r := w.open("a")
		w.put(r, Job{Name: "team/x", Expression: "* * * * *"})
		v, err := r.runNow(w.Context(), "team/x", "me")
		w.check(err)
		apitest.Scopes(t, API, r.Schedule, apitest.Samples{
			Path: map[string]string{"name": "team/x", "due": v.Due.String()},
			Methods: map[string]apitest.Sample{
				"explainExpression": {Query: "expression=0+3+*+*+*&zone=Europe/Berlin"},
			},
		})
	})
}

// everybody may do everything.
type everybody struct{}

func (everybody) Authenticate(context.Context, api.Credential) (api.Identity, error) {
	return api.Identity{ClientID: "me", Scopes: scope.NewSet("*")}, nil
}

// A caller calls the API of a replica, by "GET /jobs". What it returns is checked
// against the schemas.
type caller struct {
	*world
	server *api.Server
}

func (w *world) caller(r *replica) caller {
	s := api.NewServer(api.Options{RootURL: "http://api.test", Auth: everybody{}, Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), CheckOutput: true})
	w.check(api.Mount(s, API, r.Schedule))
	return caller{w, s}
}

func (c caller) call(want int, request string, to any) {
	c.Helper()
	verb, path, _ := strings.Cut(request, " ")
	rec := httptest.NewRecorder()
	c.server.ServeHTTP(rec, httptest.NewRequest(verb, "http://api.test/api/schedules/v1"+path, nil))
	body, err := io.ReadAll(rec.Body)
	if err != nil || rec.Code != want {
		c.Fatalf("%s: %d %s, want %d (%v)", request, rec.Code, body, want, err)
	}
	if to != nil {
		reflect.ValueOf(to).Elem().SetZero()
		if err := json.Unmarshal(body, to); err != nil {
			c.Fatalf("%s: %v", request, err)
		}
	}
}

func TestCalls(t *testing.T) {
	each(t, func(w *world) {
		w.does(func(ctx context.Context, o Occasion) (string, error) {
			if o.Due.Time().Minute() == 20 {
				return "", errors.New("the wind has blown it over")
			}
			return "well", sleep(ctx, 10*time.Second)
		})
		r := w.start("a")
		r.others = []Other{func(context.Context) ([]Shown, error) {
			return []Shown{{Source: "hook", Name: "g/h", Expressions: []string{"0 3 * * *"}, Zone: "UTC", Next: timestamp.Of(noon)}}, nil
		}}
		w.put(r, Job{Name: "team/x", Expression: "*/10 * * * *", Zone: "Europe/Berlin", Doc: "Does x.", Jitter: time.Second})
		w.put(r, Job{Name: "y", Expression: "0 0 1 1 *"})
		w.until("12:25:00")
		c := w.caller(r)

		var jobs jobList
		c.call(200, "GET /jobs", &jobs)
		var names []string
		for _, j := range jobs.Jobs {
			names = append(names, j.Name+" "+j.State)
		}
		if got := strings.Join(names, ", "); got != "schedule.tidy idle, team/x failed, y idle" {
			t.Errorf("jobs: %s", got)
		}
		seen := 0
		for token := ""; ; {
			var page jobList
			c.call(200, "GET /jobs?limit=1&continuationToken="+token, &page)
			seen += len(page.Jobs)
			if token = page.ContinuationToken; token == "" {
				break
			}
		}
		if seen != 3 {
			t.Errorf("%d jobs by pages of one", seen)
		}
		var one status
		c.call(200, "GET /jobs/team%2Fx", &one)
		if one.Last == nil || one.Last.Error != "the wind has blown it over" || one.Zone != "Europe/Berlin" || one.Next.Time().Format("15:04") != "12:30" {
			t.Errorf("the job: %+v", one)
		}

		var dates dateList
		c.call(200, "GET /jobs/team%2Fx/dates?count=2", &dates)
		if len(dates.Dates) != 2 || dates.Dates[0].Local != "Wed 2026-07-15 14:30:00 +02:00" || dates.Dates[1].Due.Time().Format("15:04") != "12:40" {
			t.Errorf("dates: %+v", dates)
		}
		c.call(200, "GET /dates?expression=30+2+*+*+*&zone=Europe/Berlin&count=300", &dates)
		if len(dates.Dates) != 300 || dates.Dates[256].Local != "Mon 2027-03-29 02:30:00 +02:00" || dates.Dates[255].Local != "Sun 2027-03-28 03:00:00 +02:00" {
			t.Errorf("dates over the change of the clock: %+v", dates.Dates[250:260])
		}

		var runs runList
		c.call(200, "GET /jobs/team%2Fx/runs", &runs)
		if len(runs.Runs) != 2 || runs.Runs[0].State != Failed || runs.Runs[1].State != Done || runs.Runs[1].Outcome != "well" {
			t.Errorf("runs: %+v", runs)
		}
		c.call(200, "GET /jobs/team%2Fx/runs?limit=1", &runs)
		c.call(200, "GET /jobs/team%2Fx/runs?limit=1&continuationToken="+runs.ContinuationToken, &runs)
		if len(runs.Runs) != 1 || runs.Runs[0].State != Done || runs.ContinuationToken != "" {
			t.Errorf("the second page: %+v", runs)
		}
		c.call(200, "GET /jobs/team%2Fx/runs?state=failed", &runs)
		if len(runs.Runs) != 1 {
			t.Errorf("failed runs: %+v", runs)
		}
		var x run
		c.call(200, "GET /jobs/team%2Fx/runs/2026-07-15T12:10:00.000Z", &x)
		if x.State != Done {
			t.Errorf("a run: %+v", x)
		}

		c.call(200, "POST /jobs/team%2Fx/pause", &one)
		if one.State != "paused" || one.PausedBy != "me" {
			t.Errorf("paused: %+v", one)
		}
		c.call(200, "POST /jobs/team%2Fx/run", &x)
		if x.State != Due || x.Caller != "me" {
			t.Errorf("asked for: %+v", x)
		}
		time.Sleep(time.Minute)
		c.call(200, "GET /jobs/team%2Fx/runs/"+x.Due.String(), &x)
		if x.State != Done {
			t.Errorf("the run that was asked for: %+v", x)
		}
		c.call(200, "POST /jobs/team%2Fx/resume", &one)
		if one.State != "idle" || !one.Paused.IsZero() {
			t.Errorf("resumed: %+v", one)
		}
		var others otherList
		c.call(200, "GET /others", &others)
		if len(others.Others) != 1 {
			t.Errorf("others: %+v", others)
		}

		for _, missing := range []string{"GET /jobs/z", "GET /jobs/z/dates", "GET /jobs/z/runs", "POST /jobs/z/run", "POST /jobs/z/pause", "POST /jobs/z/resume", "GET /jobs/y/runs/2026-07-15T12:10:00.000Z"} {
			c.call(404, missing, nil)
		}
		for _, wrong := range []string{"GET /jobs/y/dates?count=0", "GET /jobs/y/dates?count=9999", "GET /dates?expression=0+3+*", "GET /dates?expression=0+3+*+*+*&zone=Mars/Olympus", "GET /dates", "GET /jobs/y/runs/yesterday", "GET /jobs/y/runs?state=well"} {
			c.call(400, wrong, nil)
		}
	})
}
