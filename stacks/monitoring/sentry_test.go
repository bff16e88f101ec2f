package monitoring

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/taskfleet/taskfleet/credentials/sentry/sentryfake"
	"github.com/taskfleet/taskfleet/stacks/provider"
)

func newSentry(t *testing.T) (*sentryfake.Server, *world) {
	t.Helper()
	s := sentryfake.New(sentryfake.Options{})
	t.Setenv("TEST_SENTRY_TOKEN", s.Token())
	w := &world{t: t, kinds: map[string]provider.Kind{}, states: map[Ref]json.RawMessage{}}
	w.config = Config{Sentry: &Sentry{URL: "http://sentry.test", Organization: s.Organization(), TokenFrom: Source{Env: "TEST_SENTRY_TOKEN"}, Team: "platform",
		Projects: []ProjectConfig{{"queue", ProjectSpec{Platform: "go", AlertEvery: "1h"}}, {"web", ProjectSpec{Team: "front"}}}}}
	list, err := w.config.Kinds("prod", s)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range list {
		w.kinds[k.Token()] = k
	}
	return s, w
}

// every thing of the section, until it is there.
func (w *world) until(things []Thing) {
	w.t.Helper()
	for _, x := range things {
		var err error
		for range 10 {
			if _, err = w.bring(w.t.Context(), x.Token, x.Name, string(x.Spec)); err == nil {
				break
			}
			if strings.Contains(err.Error(), sentryfake.Token) {
				w.t.Fatalf("an error with a secret: %v", err)
			}
		}
		if err != nil {
			w.t.Fatalf("%s %s: %v", x.Token, x.Name, err)
		}
	}
}

func TestProjectsOfSentryAreMadeOnceWhateverHappens(t *testing.T) {
	for name, faults := range map[string][]sentryfake.Fault{
		"nothing":              nil,
		"too many requests":    {{Times: 3, Status: 429, RetryAfter: "2"}},
		"not done":             {{Method: "POST", Times: 3, Status: 502}},
		"team, answer lost":    {{Method: "POST", Path: "/teams/", Times: 1, Cut: true, After: true}},
		"project, answer lost": {{Method: "POST", Path: "/projects/", Times: 1, Status: 500, After: true}},
		"alert, answer lost":   {{Method: "POST", Path: "/workflows/", Times: 1, Status: 504, After: true}},
		"no monitors at first": {{Path: "/detectors/", Times: 8, Status: 500}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := newSentry(t)
				for _, f := range faults {
					s.Fail(f)
				}
				things, err := w.config.Things("prod")
				if err != nil {
					t.Fatal(err)
				}
				if strings.HasSuffix(name, "lost") {
					for _, x := range things {
						w.want(x.Token, x.Name, string(x.Spec), "created")
					}
				}
				w.until(things)
				platform, teams := s.Project("queue")
				if got := fmt.Sprintln(s.Teams(), s.Projects(), platform, teams, s.Alerts("queue"), s.Alerts("web")); got !=
					"[platform front] [queue web] go [platform] [taskfleet stacks: issues of queue, every 1h] [Send a notification for high priority issues]\n" {
					t.Errorf("there are %s", got)
				}
				for _, x := range things {
					w.want(x.Token, x.Name, string(x.Spec), "")
					if want, is := w.drifted(x.Token, x.Name, string(x.Spec)); is != "" {
						t.Errorf("%s is read as %s, not %s", x.Name, is, want)
					}
				}
				clear(w.states) // as after a crash
				for _, x := range things {
					w.want(x.Token, x.Name, string(x.Spec), "adopted")
				}
			})
		})
	}
}

// A run that ended after it had made the project, and before its alert, is completed by the next.
func TestAProjectHalfMadeIsCompleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newSentry(t)
		things, err := w.config.Things("prod")
		if err != nil {
			t.Fatal(err)
		}
		queue := slices.IndexFunc(things, func(x Thing) bool { return x.Name == "queue" })
		w.until(things[:queue])
		lift := s.Fail(sentryfake.Fault{Path: "/workflows/", Method: "POST", Status: 503})
		x, ref := things[queue], Ref{TokenProject, "queue"}
		if _, err := w.bring(t.Context(), x.Token, x.Name, string(x.Spec)); err == nil || w.states[ref] == nil {
			t.Fatalf("half of it is %s, %v", w.states[ref], err)
		}
		lift()
		half := w.states[ref]
		w.want(x.Token, x.Name, string(x.Spec), "updated")
		w.want(x.Token, x.Name, string(x.Spec), "")
		if len(s.Alerts("queue")) != 1 {
			t.Errorf("there are the alerts %v", s.Alerts("queue"))
		}
		w.states[ref] = half // which was written down nowhere, on another machine
		w.want(x.Token, x.Name, string(x.Spec), "updated")

		s.AddProject("platform", "half")
		w.want(TokenProject, "half", `{"team":"platform","platform":"go","alertEvery":"5m"}`, "created")
		if platform, _ := s.Project("half"); platform != "go" || len(s.Alerts("half")) != 1 || len(s.Projects()) != 2 {
			t.Errorf("it was completed to %s, %v", platform, s.Alerts("half"))
		}
		s.AddProject("others", "theirs")
		if _, err := w.bring(t.Context(), TokenProject, "theirs", `{"team":"platform"}`); err == nil || !strings.Contains(err.Error(), "differs") {
			t.Errorf("another team's project: %v", err)
		}
	})
}

func TestProjectsOfSentryChangeAndAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := newSentry(t)
		things, err := w.config.Things("prod")
		if err != nil {
			t.Fatal(err)
		}
		w.until(things)
		w.want(TokenProject, "web", `{"team":"platform","platform":"javascript","alertEvery":"24h"}`, "updated")
		platform, teams := s.Project("web")
		if platform != "javascript" || !slices.Equal(teams, []string{"front", "platform"}) || len(s.Alerts("web")) != 2 {
			t.Errorf("it is of %s and %v, with %v", platform, teams, s.Alerts("web"))
		}
		if _, is := w.drifted(TokenProject, "web", `{"team":"platform","platform":"javascript","alertEvery":"24h"}`); is != "" {
			t.Errorf("it is read as %s", is)
		}
		if _, err := w.bring(t.Context(), TokenProject, "web", `{"team":"platform","alertEvery":"5m"}`); err == nil || !strings.Contains(err.Error(), `"taskfleet stacks: issues of web, every 24h"`) {
			t.Errorf("another time between emails: %v", err)
		}
		state, err := w.kinds[TokenProject].Read(t.Context(), "queue", nil)
		if err != nil || !same(state, w.states[Ref{TokenProject, "queue"}]) {
			t.Errorf("imported is %s, %v", state, err)
		}
		for _, x := range things {
			if err := w.kinds[x.Token].Delete(t.Context(), x.Name, w.states[Ref{x.Token, x.Name}]); err != nil {
				t.Error(err)
			}
		}
		if len(s.Projects()) != 2 || len(s.Teams()) != 2 {
			t.Errorf("what is left is %v of %v", s.Projects(), s.Teams())
		}
		if _, is := w.drifted(TokenTeam, "nobody", `{}`); is != "gone" {
			t.Errorf("a team that is not there is read as %s", is)
		}
	})
}
