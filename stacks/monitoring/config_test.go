package monitoring

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"sigs.k8s.io/yaml"

	"github.com/taskfleet/taskfleet/stacks/monitoring/monitoringtest"
	"github.com/taskfleet/taskfleet/stacks/provider"
)

func parse(t *testing.T, text string) (c Config) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(text), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// Our dashboards and detectors, and own ones with them, are made in the order of the list, and then
// nothing is to be done.
func TestOursIsMadeAndThenNothingIsToBeDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := parse(t, `
signalfx:
  ours: true
  filter: {deployment.environment: prod, cluster: a/b}
  notify:
    Critical: [{type: PagerDuty, credentialId: P1}]
    Warning: [{type: Email, email: ops@example.com}]
  teams: [T1]
  dashboards:
    - name: Builds
      charts:
        - {name: Wide, kind: time, width: 8, height: 2, program: "data('x').publish('A')"}
        - {name: Beside, kind: single, width: 4, program: "data('x').publish('A')"}
        - {name: Below, kind: list, program: "data('x').publish('A')"}
  detectors:
    - name: Builds are slow
      program: detect(when(data('x') > 1)).publish('slow')
      rules: [{label: slow, severity: Info}]
  tokens: [{name: collector, datapointsPerMinute: 1000}]
`)
		w := newWorld(t, "prod", *c.SignalFx)
		things, err := w.config.Things("prod")
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range things {
			for _, ref := range x.After {
				if w.states[ref] == nil {
					t.Errorf("%s comes after %s, which is not before it", x.Name, ref.Name)
				}
			}
			w.want(x.Token, x.Name, string(x.Spec), "created")
		}
		if got := w.count(); !strings.HasPrefix(got, "1 ") || len(w.Objects("dashboard")) < 6 || len(w.Objects("detector")) < 12 || len(w.Objects("dashboard"))+len(w.Objects("detector"))+len(w.Objects("chart"))+2 != len(things) {
			t.Errorf("there are %s of %d", got, len(things))
		}
		for _, x := range things {
			if want, is := w.drifted(x.Token, x.Name, string(x.Spec)); is != "" {
				t.Errorf("%s is read as\n%s, not\n%s", x.Name, is, want)
			}
		}
		told := map[string]int{}
		for _, x := range things {
			if x.Token == TokenChart && strings.Contains(string(x.Spec), "taskfleet_") != strings.Contains(string(x.Spec), "filter('cluster', 'a/b') and filter('deployment.environment', 'prod')") {
				t.Errorf("%s looks at what is not of this environment: %s", x.Name, x.Spec)
			}
			if x.Token != TokenDetector {
				continue
			}
			var s DetectorSpec
			if err := json.Unmarshal(x.Spec, &s); err != nil {
				t.Fatal(err)
			}
			for _, r := range s.Rules {
				if len(r.Notifications) > 0 {
					told[string(r.Severity)+" "+r.Notifications[0]["type"].(string)]++
				}
				if x.Name != "Builds are slow" && (r.Tip == "" || r.Description == "") {
					t.Errorf("%s: the rule %s does not say what to do", x.Name, r.Label)
				}
			}
		}
		if len(told) != 2 || told["Critical PagerDuty"] < 3 || told["Warning Email"] < 5 {
			t.Errorf("who is told is %v", told)
		}
		var board DashboardSpec
		for _, x := range things {
			if x.Token == TokenDashboard && x.Name == "Builds" {
				if err := json.Unmarshal(x.Spec, &board); err != nil {
					t.Fatal(err)
				}
			}
		}
		if want := []Placed{{"Wide", 0, 0, 8, 2}, {"Beside", 0, 8, 4, 1}, {"Below", 2, 0, 6, 1}}; board.Group != "Taskfleet prod" || !slices.Equal(board.Charts, want) {
			t.Errorf("the dashboard is laid out as %+v", board)
		}
	})
}

func TestMistakesAreToldByWhereTheyAre(t *testing.T) {
	const head = "signalfx:\n  realm: eu0\n  tokenFrom: {env: SFX}\n"
	chart := func(text string) string {
		return head + "  dashboards: [{name: D, charts: [{name: C, program: \"data('x').publish('A')\", " + text + "}]}]\n"
	}
	detector := func(text string) string {
		return head + "  detectors: [{name: D, program: \"detect(x).publish('A')\", rules: [{label: A, severity: Major, " + text + "}]}]\n"
	}
	for _, c := range []struct{ text, member, reason string }{
		{"signalfx: {tokenFrom: {env: SFX}}", "signalfx.realm", "missing"},
		{"signalfx: {realm: EU, tokenFrom: {env: SFX}}", "signalfx.realm", "lower-case"},
		{"signalfx: {api: 'http://me:x@api', tokenFrom: {env: SFX}}", "signalfx.api", "without a user"},
		{"signalfx: {realm: eu0, tokenFrom: {}}", "signalfx.tokenFrom", "one of both"},
		{"signalfx: {realm: eu0, tokenFrom: {env: a-token}}", "signalfx.tokenFrom.env", "variable"},
		{head + "  filter: {a: b}", "signalfx", "ours"},
		{head + "  ours: true\n  filter: {a: \"b') or c\"}", "signalfx.filter", "letters"},
		{head + "  ours: true\n  notify: {Bad: []}", "signalfx.notify", "severities"},
		{head + "  ours: true\n  notify: {Major: [{type: Owl}]}", "signalfx.notify.Major[0]", "one of SignalFx's"},
		{head + "  dashboards: [{name: D}]", "signalfx.dashboards[0].charts", "1 to"},
		{chart("kind: pie"), "signalfx.dashboards[0].charts[0].kind", "time, single or list"},
		{chart("kind: single, plot: line"), "signalfx.dashboards[0].charts[0].plot", "kind time"},
		{chart("kind: time, plot: pie"), "signalfx.dashboards[0].charts[0].plot", "column"},
		{chart("kind: time, range: 1y"), "signalfx.dashboards[0].charts[0].range", "days"},
		{chart("kind: time, axis: {min: 2, max: 1}"), "signalfx.dashboards[0].charts[0].axis.max", "more than"},
		{chart("kind: time, sort: +value"), "signalfx.dashboards[0].charts[0].sort", "kind list"},
		{chart("kind: list, sort: value"), "signalfx.dashboards[0].charts[0].sort", "+"},
		{chart("kind: list, series: [{label: B, name: b}]"), "signalfx.dashboards[0].charts[0].series[0].label", "publishes nothing"},
		{chart("kind: list, series: [{label: A, unit: Mile}]"), "signalfx.dashboards[0].charts[0].series[0].unit", "Second"},
		{chart("kind: list, series: [{label: A}]"), "signalfx.dashboards[0].charts[0].series[0]", "says nothing"},
		{chart("kind: list, width: 13"), "signalfx.dashboards[0].charts[0]", "columns"},
		{chart("kind: list, description: managed by taskfleet stacks"), "signalfx.dashboards[0].charts[0].description", "added"},
		{head + "  dashboards: [{name: D, charts: [{name: C, kind: list, program: \"\"}]}]", "signalfx.dashboards[0].charts[0].program", "missing"},
		{head + "  dashboards: [{name: D, charts: [{name: C, kind: list, program: \"data('x')\"}]}]", "signalfx.dashboards[0].charts[0].program", "publishes nothing"},
		{head + "  dashboards: [{name: D, charts: [{kind: list, program: \"data('x').publish('A')\"}]}]", "signalfx.dashboards[0].charts[0].name", "line"},
		{chart("kind: list") + "  tokens: [{name: a b}]", "signalfx.tokens[0].name", "letters"},
		{head + "  tokens: [{name: a, scopes: [ROOT]}]", "signalfx.tokens[0].scopes[0]", "INGEST"},
		{head + "  tokens: [{name: a}, {name: a}]", "signalfx.tokens[1].name", "another one"},
		{head + "  detectors: [{name: D, program: \"detect(x).publish('A')\"}]", "signalfx.detectors[0].rules", "1 to"},
		{head + "  detectors: [{name: D, program: \"detect(x).publish('A')\", rules: [{label: B, severity: Major}]}]", "signalfx.detectors[0].rules[0].label", "publishes nothing"},
		{head + "  detectors: [{name: D, program: \"detect(x).publish('A')\", rules: [{label: A, severity: Loud}]}]", "signalfx.detectors[0].rules[0].severity", "Critical"},
		{detector("runbook: wiki"), "signalfx.detectors[0].rules[0].runbook", "URL"},
		{detector("notifications: [{type: Webhook, url: 'https://x', secret: hush}]"), "signalfx.detectors[0].rules[0].notifications[0]", "credentialId"},
		{detector("notifications: [{type: Email, emial: x}]"), "signalfx.detectors[0].rules[0].notifications[0].emial", "Email"},
		{"sentry: {organization: Acme, tokenFrom: {env: S}}", "sentry", "organization"},
		{"sentry: {organization: acme, tokenFrom: {env: S}, projects: [{name: queue}]}", "sentry.projects[0].team", "missing"},
		{"sentry: {organization: acme, tokenFrom: {env: S}, team: a, projects: [{name: Queue}]}", "sentry.projects[0].name", "lower-case"},
		{"sentry: {organization: acme, tokenFrom: {env: S}, team: a, projects: [{name: queue, alertEvery: 2h}]}", "sentry.projects[0].alertEvery", "24h"},
	} {
		err := parse(t, c.text).Check()
		found := false
		for _, p := range flat(err) {
			x, ok := errors.AsType[*provider.Problem](p)
			if !ok {
				t.Errorf("%s: %v is no Problem", c.text, p)
			} else if x.Member == c.member && strings.Contains(x.Reason, c.reason) {
				found = true
			}
		}
		if !found || strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), "a-token") {
			t.Errorf("%s\n%v\nand not %s: … %s …", c.text, err, c.member, c.reason)
		}
	}
}

func flat(err error) (list []error) {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range many.Unwrap() {
			list = append(list, flat(one)...)
		}
		return list
	}
	return append(list, err)
}

// Documents that are written differently and say the same are one.
func TestDocumentsHaveOneForm(t *testing.T) {
	w := newWorld(t, "prod", SignalFx{})
	for _, c := range []struct{ token, a, b string }{
		{TokenChart, `{"kind":"time","program":"data('x').publish('A')\n","range":"120m","axis":{}}`, `{"range":"2h","plot":"line","program":"data('x').publish('A')","kind":"time"}`},
		{TokenChart, `{"kind":"list","program":"data('x').publish('A')","description":" x "}`, `{"kind":"list","sort":"-value","program":"data('x').publish('A')","description":"x"}`},
		{TokenGroup, `{"teams":["b","a"]}`, `{"teams":["a","b"],"description":""}`},
		{TokenToken, `{}`, `{"scopes":["INGEST"]}`},
		{TokenDashboard, `{"group":"G","charts":[{"chart":"B","row":1,"column":0,"width":1,"height":1},{"chart":"A","row":0,"column":0,"width":1,"height":1}],"variables":[{"property":"p","values":[]}]}`,
			`{"group":"G","charts":[{"chart":"A","row":0,"column":0,"width":1,"height":1},{"chart":"B","row":1,"column":0,"width":1,"height":1}],"variables":[{"property":"p","label":"p"}]}`},
	} {
		a, err := w.kinds[c.token].Normal("N", json.RawMessage(c.a))
		b, again := w.kinds[c.token].Normal("N", json.RawMessage(c.b))
		if err != nil || again != nil || string(a) != string(b) {
			t.Errorf("%s is not %s: %v, %v", a, b, err, again)
		}
	}
	for _, bad := range []string{`{"kind":"list","program":"data('x').publish('A')","colour":"red"}`, `{} {}`, `[]`,
		`{"group":"G","charts":[{"chart":"A","row":0,"column":0,"width":4,"height":2},{"chart":"B","row":1,"column":3,"width":2,"height":1}]}`} {
		k := TokenChart
		if strings.Contains(bad, "group") {
			k = TokenDashboard
		}
		if out, err := w.kinds[k].Normal("N", json.RawMessage(bad)); err == nil {
			t.Errorf("%s was taken as %s", bad, out)
		}
	}
}

// The same over a real connection, with a token of a file.
func TestOverHTTP(t *testing.T) {
	f := monitoringtest.New(ofOrganisation)
	server := httptest.NewServer(f)
	defer server.Close()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(ofOrganisation+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	list, err := Config{SignalFx: &SignalFx{API: server.URL + "/", TokenFrom: Source{File: file}}}.Kinds("prod", nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{SignalFx: f, t: t, kinds: map[string]provider.Kind{}, states: map[Ref]json.RawMessage{}}
	for _, k := range list {
		w.kinds[k.Token()] = k
	}
	w.want(TokenDetector, "Lag", alarm, "created")
	if want, is := w.drifted(TokenDetector, "Lag", alarm); is != "" {
		t.Errorf("it is read as %s, not %s", is, want)
	}
	if err := w.kinds[TokenDetector].Delete(t.Context(), "Lag", w.states[Ref{TokenDetector, "Lag"}]); err != nil || len(f.Objects("detector")) != 0 {
		t.Errorf("deleting it: %v", err)
	}
}

// The example of the documentation is right.
func TestTheExampleOfTheDocumentation(t *testing.T) {
	text, err := os.ReadFile("../../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := bytes.Cut(text, []byte("\n    monitoring:\n"))
	example, _, ended := bytes.Cut(text, []byte("\n\n|"))
	if !found || !ended {
		t.Fatal("docs/monitoring.md has no example")
	}
	things, err := parse(t, string(example)).Things("prod")
	if err != nil || len(things) < 50 {
		t.Errorf("%d things, %v", len(things), err)
	}
}
