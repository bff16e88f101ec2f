package monitoring

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/taskfleet/taskfleet/credentials/pace"
	"github.com/taskfleet/taskfleet/credentials/signalfx/signalfxfake"
	"github.com/taskfleet/taskfleet/stacks/monitoring/monitoringtest"
)

func TestAllIsMadeReadChangedAndDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "prod", SignalFx{})
		for _, x := range all {
			w.want(x.token, x.name, x.spec, "created")
			w.want(x.token, x.name, x.spec, "")
			if want, is := w.drifted(x.token, x.name, x.spec); is != "" {
				t.Errorf("%s is read as\n%s, not\n%s", x.name, is, want)
			}
		}
		if got := w.count(); got != "1 2 1 1 1" {
			t.Errorf("there are %s", got)
		}
		for _, kind := range []string{"dashboardgroup", "chart", "dashboard", "detector"} {
			for _, o := range w.Objects(kind) {
				if d, _ := o["description"].(string); !strings.HasSuffix(d, "(managed by taskfleet stacks, environment prod)") {
					t.Errorf("%s is described as %q", kind, d)
				}
			}
		}
		chart := w.Objects("chart")[0]["options"].(map[string]any)
		if got := fmt.Sprintln(chart["type"], chart["defaultPlotType"], chart["time"], chart["axes"], chart["publishLabelOptions"]); got !=
			"TimeSeriesChart LineChart map[range:7.2e+06 type:relative] [map[label:tasks min:0]] [map[displayName:waiting label:A]]\n" {
			t.Errorf("the chart is shown as %s", got)
		}
		rule := w.Objects("detector")[0]["rules"].([]any)[0].(map[string]any)
		if got := fmt.Sprintln(rule["detectLabel"], rule["severity"], rule["runbookUrl"], rule["tip"], len(rule["notifications"].([]any))); got != "behind Major https://example.com/lag look 2\n" {
			t.Errorf("the rule is %s", got)
		}
		var tok struct{ ID, Secret string }
		if err := json.Unmarshal(w.states[Ref{TokenToken, "collector"}], &tok); err != nil || tok.ID != "collector" || tok.Secret != w.Tokens().Tokens()[0].Secret {
			t.Errorf("the state of the token is %+v, %v", tok, err)
		}
		if k := w.kinds[TokenToken]; !slices.Contains(k.Secrets(), "secret") || !slices.Contains(k.Computed(), "secret") || !slices.Equal(k.Replaces(), []string{"scopes"}) {
			t.Error("the secret of a token is not computed and secret, or its scopes could be changed")
		}
		for _, x := range []struct{ token, name, spec string }{
			{TokenGroup, "Fleet", `{"description":"what else to look at"}`},
			{TokenChart, "Running", `{"kind":"list","sort":"+value","program":"data('taskfleet_pool_claimed_tasks').publish('B')","series":[{"label":"B","suffix":"%"}]}`},
			{TokenDashboard, "Queue", `{"group":"Fleet","charts":[{"chart":"Pending","row":0,"column":0,"width":12,"height":2}]}`},
			{TokenDetector, "Lag", strings.Replace(alarm, "Major", "Critical", 1)},
			{TokenToken, "collector", `{"disabled":true}`},
		} {
			w.want(x.token, x.name, x.spec, "updated")
			w.want(x.token, x.name, x.spec, "")
			if want, is := w.drifted(x.token, x.name, x.spec); is != "" {
				t.Errorf("%s was changed, and is read as\n%s, not\n%s", x.name, is, want)
			}
		}
		for _, x := range slices.Backward(all) {
			for range 2 { // what is gone is no error
				if err := w.kinds[x.token].Delete(t.Context(), x.name, w.states[Ref{x.token, x.name}]); err != nil {
					t.Errorf("deleting %s: %v", x.name, err)
				}
			}
		}
		if got := w.count(); got != "0 0 0 0 0" {
			t.Errorf("there are %s left", got)
		}
		requests := w.Requests()
		for i := 1; i < len(requests); i++ {
			if d := requests[i].At.Sub(requests[i-1].At); d < every {
				t.Fatalf("two requests within %v", d)
			}
		}
	})
}

// Whatever SignalFx does, there is one of each at the end, and no error has a secret in it.
func TestFaultsMakeNothingTwice(t *testing.T) {
	sometimes := func(n int, f monitoringtest.Fault) monitoringtest.Fault {
		if rand.New(rand.NewPCG(7, uint64(n))).IntN(3) > 0 {
			return monitoringtest.Fault{}
		}
		return f
	}
	fault := func(status int, after bool, retry string) monitoringtest.Fault {
		return monitoringtest.Fault{Fault: signalfxfake.Fault{Status: status, After: after, RetryAfter: retry}}
	}
	for name, f := range map[string]monitoringtest.Fault{
		"too many requests":              fault(429, false, "3"),
		"too many requests until a date": fault(429, false, "date"),
		"too many requests, no more":     fault(429, false, ""),
		"not done":                       fault(500, false, ""),
		"done, but says no":              fault(502, true, ""),
		"cut after it was done":          {Fault: signalfxfake.Fault{After: true}, Cut: true},
		"cut":                            {Cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "prod", SignalFx{})
				w.Fault = func(n int, _ *http.Request) monitoringtest.Fault { return sometimes(n, f) }
				until := func(what string, do func() error) {
					t.Helper()
					var err error
					for range 20 {
						if err = do(); err == nil {
							return
						}
						if text := err.Error(); strings.Contains(text, ofOrganisation) || strings.Contains(text, "secret-of") {
							t.Fatalf("%s: an error with a secret: %s", what, text)
						}
					}
					t.Fatalf("%s still fails: %v", what, err)
				}
				for _, x := range all {
					until(x.name, func() error { _, err := w.bring(t.Context(), x.token, x.name, x.spec); return err })
				}
				changed := strings.Replace(pending, "by pool", "by pools", 1)
				until("a change", func() error { _, err := w.bring(t.Context(), TokenChart, "Pending", changed); return err })
				if got := w.count(); got != "1 2 1 1 1" {
					t.Errorf("there are %s", got)
				}
				for _, x := range slices.Backward(all) {
					until("deleting "+x.name, func() error { return w.kinds[x.token].Delete(t.Context(), x.name, w.states[Ref{x.token, x.name}]) })
				}
				if got := w.count(); got != "0 0 0 0 0" {
					t.Errorf("there are %s left", got)
				}
			})
		})
	}
}

// Where the answer to a creation is lost, what was made is found at once.
func TestALostAnswerIsNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "prod", SignalFx{})
		w.Fault = func(_ int, r *http.Request) monitoringtest.Fault {
			if r.Method != http.MethodPost {
				return monitoringtest.Fault{}
			}
			return monitoringtest.Fault{Fault: signalfxfake.Fault{After: true}, Cut: true}
		}
		for _, x := range all {
			w.want(x.token, x.name, x.spec, "created")
			w.want(x.token, x.name, x.spec, "")
		}
		if got := w.count(); got != "1 2 1 1 1" {
			t.Errorf("there are %s", got)
		}
		w.Fault = func(_ int, r *http.Request) monitoringtest.Fault {
			return monitoringtest.Fault{Cut: r.Method == http.MethodPost}
		}
		if _, err := w.bring(t.Context(), TokenChart, "Other", pending); err == nil || !strings.Contains(err.Error(), "run it again") {
			t.Errorf("nobody knows whether it was made: %v", err)
		}
	})
}

func TestWaitingHasAnEnd(t *testing.T) {
	for name, f := range map[string]struct {
		status   int
		after    string
		requests int
	}{"for ever": {503, "", 4}, "for longer than anybody waits": {429, "3600", 1}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, "prod", SignalFx{})
				w.Fault = func(int, *http.Request) monitoringtest.Fault {
					return monitoringtest.Fault{Fault: signalfxfake.Fault{Status: f.status, RetryAfter: f.after}}
				}
				_, err := w.kinds[TokenChart].Read(t.Context(), "Pending", nil)
				if err == nil || !strings.Contains(err.Error(), fmt.Sprint(f.status)) || len(w.Requests()) != f.requests {
					t.Errorf("%v after %d requests", err, len(w.Requests()))
				}
			})
		})
	}
}

// Whoever ends between making a thing and writing its state down makes no second one.
func TestWhatACrashLeftIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "prod", SignalFx{})
		w.Page = 1 // so that it is on some page of others
		for i := range 3 {
			for _, kind := range []string{"chart", "dashboard", "detector"} {
				w.Add(kind, monitoringtest.Object{"name": fmt.Sprint("Pending Queue Lag ", i)})
			}
		}
		before := w.count()
		for _, x := range all {
			w.want(x.token, x.name, x.spec, "created")
			clear(w.states)
			w.want(x.token, x.name, x.spec, "adopted")
		}
		if got := w.count(); before != "0 3 3 3 0" || got != "1 5 4 4 1" {
			t.Errorf("there were %s, and are %s", before, got)
		}
		clear(w.states)
		if _, err := w.bring(t.Context(), TokenChart, "Pending", single); err == nil || !strings.Contains(err.Error(), "differs") {
			t.Errorf("what differs was taken: %v", err)
		}
	})
}

func TestWhatIsSomebodyElsesStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "prod", SignalFx{})
		w.Add("chart", monitoringtest.Object{"name": "Pending", "description": "mine", "programText": "data('x').publish()", "options": map[string]any{"type": "List"}})
		w.Add("chart", monitoringtest.Object{"name": "Pending", "description": "(managed by taskfleet stacks, environment staging)", "programText": "data('x').publish()", "options": map[string]any{"type": "List"}})
		w.want(TokenChart, "Pending", pending, "created")
		if got := w.Objects("chart"); len(got) != 3 || got[0]["description"] != "mine" || got[1]["programText"] != "data('x').publish()" {
			t.Errorf("there are %v", got)
		}
		w.Tokens().Add(signalfxfake.Token{Name: "collector", AuthScopes: []string{"INGEST"}})
		if _, err := w.bring(t.Context(), TokenToken, "collector", `{}`); err == nil || !strings.Contains(err.Error(), "differs") || strings.Contains(err.Error(), "secret-of") {
			t.Errorf("somebody's token was taken: %v", err)
		}
		if d := w.Tokens().Tokens()[0].Description; d != "" {
			t.Errorf("somebody's token is described as %q", d)
		}
		// Another environment has its own of the same names.
		w.kinds = w.of("staging-2")
		clear(w.states)
		w.want(TokenChart, "Pending", pending, "created")
	})
}

func TestDriftIsSeenAndRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "prod", SignalFx{})
		ids := map[string]string{}
		for _, x := range all {
			w.want(x.token, x.name, x.spec, "created")
			var is struct{ ID string }
			if err := json.Unmarshal(w.states[Ref{x.token, x.name}], &is); err != nil {
				t.Fatal(err)
			}
			ids[x.name] = is.ID
		}
		stray := w.Add("chart", monitoringtest.Object{"name": "Stray", "programText": "data('x').publish()", "options": map[string]any{"type": "List"}})
		for _, c := range []struct {
			what, kind string
			of         int // all
			change     func(monitoringtest.Object)
			tells      string
		}{
			{"another program", "chart", 1, func(o monitoringtest.Object) { o["programText"] = "data('other').publish('A')" }, "other"},
			{"another plot, in colours", "chart", 1, func(o monitoringtest.Object) {
				options := o["options"].(map[string]any)
				options["defaultPlotType"], options["colorBy"] = "AreaChart", "Metric"
				options["publishLabelOptions"].([]any)[0].(map[string]any)["paletteIndex"] = 5.0
			}, `"plot":"area"`},
			{"a chart of a kind that is not known here", "chart", 2, func(o monitoringtest.Object) { o["options"].(map[string]any)["type"] = "Heatmap" }, "Heatmap"},
			{"another name", "chart", 1, func(o monitoringtest.Object) { o["name"] = "Mine" }, `called \"Mine\"`},
			{"no marker", "detector", 4, func(o monitoringtest.Object) { o["description"] = "" }, "without the words"},
			{"other notifications", "detector", 4, func(o monitoringtest.Object) {
				rule := o["rules"].([]any)[0].(map[string]any)
				rule["notifications"], rule["parameterizedSubject"] = rule["notifications"].([]any)[:1], "mine"
			}, `"notifications":[{"credentialId":"C1","type":"Opsgenie"}]`},
			{"one chart more", "dashboard", 3, func(o monitoringtest.Object) {
				o["authorizedWriters"] = map[string]any{"teams": []any{"T9"}}
				o["charts"] = append(o["charts"].([]any), map[string]any{"chartId": stray, "row": 5.0, "column": 0.0, "width": 2.0, "height": 1.0})
			}, "Stray"},
			{"a program that publishes nothing under a name", "chart", 1, func(o monitoringtest.Object) { o["programText"] = "data('other').publish()" }, "publish()"},
			{"no charts", "dashboard", 3, func(o monitoringtest.Object) { delete(o, "charts") }, `"charts":null`},
			{"no variables", "dashboard", 3, func(o monitoringtest.Object) { delete(o, "filters") }, `"Queue"`},
		} {
			x := all[c.of]
			w.Change(c.kind, ids[x.name], c.change)
			_, is := w.drifted(x.token, x.name, x.spec)
			if is == "" || c.tells != `"Queue"` && !strings.Contains(is, c.tells) {
				t.Errorf("%s: seen is %s", c.what, is)
			}
			w.want(x.token, x.name, x.spec, "updated")
			if _, is := w.drifted(x.token, x.name, x.spec); is != "" {
				t.Errorf("%s: after it was repaired there is %s", c.what, is)
			}
		}
		// What is none of our business stays.
		text := fmt.Sprint(w.Objects("chart"), w.Objects("dashboard"), w.Objects("detector"))
		for _, theirs := range []string{"colorBy:Metric", "paletteIndex:5", "authorizedWriters:map[teams:[T9]]", "parameterizedSubject:mine"} {
			if !strings.Contains(text, theirs) {
				t.Errorf("%s has gone", theirs)
			}
		}
		// What SignalFx adds by itself, or tells in another order, is no difference.
		w.Change("detector", ids["Lag"], func(o monitoringtest.Object) {
			o["rules"].([]any)[0].(map[string]any)["notifications"].([]any)[0].(map[string]any)["responderName"] = "all"
		})
		if _, is := w.drifted(TokenDetector, "Lag", alarm); is != "" {
			t.Errorf("a notification with a name more is read as %s", is)
		}
		w.Change("dashboard", ids["Queue"], func(o monitoringtest.Object) { slices.Reverse(o["charts"].([]any)) })
		if _, is := w.drifted(TokenDashboard, "Queue", board); is != "" {
			t.Errorf("another order of charts in their places is read as %s", is)
		}
		w.Tokens().Change("collector", func(t *signalfxfake.Token) { t.Disabled = true })
		if _, is := w.drifted(TokenToken, "collector", sendings); !strings.Contains(is, `"disabled":true`) {
			t.Errorf("the token is %s", is)
		}
		w.want(TokenToken, "collector", sendings, "updated")

		w.Remove("chart", ids["Pending"])
		if _, is := w.drifted(TokenChart, "Pending", pending); is != "gone" {
			t.Errorf("a chart that was deleted is read as %s", is)
		}
		if _, is := w.drifted(TokenDashboard, "Queue", board); strings.Contains(is, `"chart":"Pending"`) || is == "" {
			t.Errorf("the dashboard without it is read as %s", is)
		}
		w.want(TokenChart, "Pending", pending, "created")
		w.want(TokenDashboard, "Queue", board, "updated")
		if _, is := w.drifted(TokenDashboard, "Queue", board); is != "" {
			t.Errorf("the dashboard with it is read as %s", is)
		}
	})
}

func TestImportIsByName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "prod", SignalFx{})
		mine := func(description string) string {
			return w.Add("chart", monitoringtest.Object{"name": "Pending", "description": description, "programText": "data('x').publish('A')",
				"options": map[string]any{"type": "List", "sortBy": "-value"}})
		}
		read := func() (string, error) {
			state, err := w.kinds[TokenChart].Read(t.Context(), "Pending", nil)
			return string(state), err
		}
		if state, err := read(); state != "" || err != nil {
			t.Errorf("nothing is read as %s, %v", state, err)
		}
		first := mine("the first")
		if state, err := read(); err != nil || !strings.Contains(state, `"`+first+`"`) || !strings.Contains(state, `"kind":"list"`) {
			t.Errorf("one without a marker: %s, %v", state, err)
		}
		second := mine("the second")
		if state, err := read(); err == nil || !strings.Contains(err.Error(), "(managed by taskfleet stacks, environment prod)") {
			t.Errorf("two without a marker: %s, %v", state, err)
		}
		w.Change("chart", second, func(o monitoringtest.Object) {
			o["description"] = "the second (managed by taskfleet stacks, environment prod)"
		})
		state, err := read()
		if err != nil || !strings.Contains(state, `"`+second+`"`) || !strings.Contains(state, `"description":"the second"`) {
			t.Errorf("one with a marker: %s, %v", state, err)
		}
		// A dashboard is read with the names of what it has.
		for _, x := range all[:4] {
			if x.name != "Pending" {
				w.states[Ref{x.token, x.name}] = nil
			}
		}
		w.states[Ref{TokenChart, "Pending"}] = json.RawMessage(state)
		for _, x := range all[:4] {
			if _, err := w.bring(t.Context(), x.token, x.name, x.spec); err != nil {
				t.Fatal(err)
			}
		}
		got, err := w.kinds[TokenDashboard].Read(t.Context(), "Queue", nil)
		if err != nil || !same(got, w.states[Ref{TokenDashboard, "Queue"}]) {
			t.Errorf("the dashboard is imported as %s, %v", got, err)
		}
	})
}

func TestASecretThatIsNotToldAgainStaysInTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "prod", SignalFx{})
		w.Tokens().Discreet = true
		w.want(TokenToken, "collector", sendings, "created")
		w.want(TokenToken, "collector", `{"disabled":true}`, "updated")
		secret := w.Tokens().Tokens()[0].Secret
		if state := w.states[Ref{TokenToken, "collector"}]; !strings.Contains(string(state), `"secret":"`+secret+`"`) {
			t.Errorf("the state is %s", state)
		}
		clear(w.states)
		if _, err := w.bring(t.Context(), TokenToken, "collector", sendings); err == nil || !strings.Contains(err.Error(), "delete the token collector") {
			t.Errorf("a token whose secret nobody knows: %v", err)
		}
	})
}

func TestErrorsSayWhatToDoAndNoSecret(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "prod", SignalFx{})
		_, err := w.bring(t.Context(), TokenChart, "Pending", strings.Replace(pending, "data(", "syntax error "+ofOrganisation+" data(", 1))
		if err == nil || !strings.Contains(err.Error(), "cannot be compiled") || strings.Contains(err.Error(), ofOrganisation) {
			t.Errorf("a mistake in a program: %v", err)
		}
		if _, err := w.bring(t.Context(), TokenDashboard, "Queue", board); err == nil || !strings.Contains(err.Error(), `no dashboard group "Fleet"`) {
			t.Errorf("a dashboard without its group: %v", err)
		}
		for status, says := range map[int]string{401: "not valid any more", 403: "scope API", 418: "418"} {
			w.Fault = func(int, *http.Request) monitoringtest.Fault {
				return monitoringtest.Fault{Fault: signalfxfake.Fault{Status: status}}
			}
			if _, err := w.kinds[TokenDetector].Read(t.Context(), "Lag", nil); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), ofOrganisation) {
				t.Errorf("%d: %v", status, err)
			}
		}
		w.Fault = nil
		if _, err := w.kinds[TokenChart].Update(t.Context(), "Pending", json.RawMessage(`{"id":"chart-77"}`), json.RawMessage(pending)); err == nil || !strings.Contains(err.Error(), "refresh") {
			t.Errorf("changing what is gone: %v", err)
		}
		w.kinds[TokenChart].(*charts).http.Transport.(*pace.Transport).Base = endless{}
		if _, err := w.kinds[TokenChart].Read(t.Context(), "Pending", nil); err == nil || !strings.Contains(err.Error(), "the answer has more than") {
			t.Errorf("an answer without an end: %v", err)
		}
	})
}

// endless answers with a text that has no end.
type endless struct{}

func (endless) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

func (endless) Close() error { return nil }

func (endless) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: endless{}}, nil
}

func TestWhereTokensAre(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Setenv("TEST_A", "of-the-environment")
	t.Setenv("TEST_B", "two words")
	for _, c := range []struct {
		source     Source
		want, says string
	}{
		{Source{Env: "TEST_A"}, "of-the-environment", ""},
		{Source{File: write("a", "of-a-file\n")}, "of-a-file", ""},
		{Source{Env: "TEST_C"}, "", "the variable TEST_C is empty"},
		{Source{Env: "TEST_B"}, "", "characters"},
		{Source{File: write("b", strings.Repeat("x", mostToken+1))}, "", "too long"},
		{Source{File: write("c", "")}, "", "is empty"},
		{Source{File: filepath.Join(dir, "d")}, "", "no such file"},
	} {
		got, err := c.source.read()
		if got != c.want || (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "words")) {
			t.Errorf("%+v: %q, %v", c.source, got, err)
		}
	}
}

// A token is for SignalFx alone, so a redirection is not followed.
func TestRedirectionsAreNotFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "prod", SignalFx{})
		asked := 0
		w.kinds[TokenChart].(*charts).http.Transport.(*pace.Transport).Base = roundTrip(func(r *http.Request) (*http.Response, error) {
			asked++
			return &http.Response{StatusCode: 302, Header: http.Header{"Location": {"https://elsewhere.test/"}}, Body: http.NoBody, Request: r}, nil
		})
		if _, err := w.kinds[TokenChart].Read(t.Context(), "Pending", nil); err == nil || asked != 1 {
			t.Errorf("%d requests, %v", asked, err)
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
