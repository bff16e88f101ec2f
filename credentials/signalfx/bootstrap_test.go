package signalfx

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/signalfx/signalfx-go/orgtoken"

	"github.com/taskfleet/taskfleet/credentials/signalfx/signalfxfake"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func wanted(limit int32) Spec {
	return Spec{Team: "builds", TeamDescription: "who builds", Group: "builds", GroupDescription: "how builds go",
		Token: Token{Name: "builds", Limits: &orgtoken.Limit{DpmQuota: &limit}}}
}

// migrate brings the table of leases, as any service does.
func migrate(t *testing.T, db *store.DB) {
	t.Helper()
	if _, err := event.New(t.Context(), db, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
}

func bootstrapper(f *signalfxfake.Fake, db *store.DB) *Bootstrapper {
	return &Bootstrapper{New(f), db, Settings{Realm: "eu0", Token: session}}
}

func actions(changes []Change) string {
	var list []string
	for _, c := range changes {
		list = append(list, c.Action+" "+c.What)
	}
	return strings.Join(list, ", ")
}

// crowd has other things of similar names be there.
func crowd(t *testing.T, f *signalfxfake.Fake) {
	t.Helper()
	for i := range pageSize + 5 {
		for _, kind := range []string{"team", "dashboardgroup"} {
			r, err := http.NewRequest(http.MethodPost, "https://api.test/v2/"+kind, strings.NewReader(fmt.Sprintf(`{"name":"builds %d"}`, i)))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("X-Sf-Token", session)
			if out, err := f.RoundTrip(r); err != nil || out.StatusCode != 200 {
				t.Fatal(out, err)
			}
		}
	}
}

func called(f *signalfxfake.Fake, kind string) (list []signalfxfake.Object) {
	for _, o := range f.Objects(kind) {
		if o["name"] == "builds" {
			list = append(list, o)
		}
	}
	return list
}

func TestWhatIsThereIsWhatIsWanted(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		f := signalfxfake.New(session)
		crowd(t, f)
		f.Page = 40
		b := bootstrapper(f, db)
		const all = "create team, create dashboard group, create token"
		if changes, err := b.Plan(t.Context(), wanted(100)); err != nil || actions(changes) != all || len(called(f, "team")) > 0 {
			t.Errorf("planned: %s, %v", actions(changes), err)
		}
		changes, err := b.Apply(t.Context(), wanted(100))
		if err != nil || actions(changes) != all {
			t.Errorf("applied: %s, %v", actions(changes), err)
		}
		if text, err := json.Marshal(changes); err != nil || strings.Contains(string(text), "secret-of") {
			t.Errorf("the changes tell a secret: %s, %v", text, err)
		}
		teams, groups, tokens := called(f, "team"), called(f, "dashboardgroup"), f.Tokens()
		if len(teams) != 1 || len(groups) != 1 || len(tokens) != 1 || fmt.Sprint(groups[0]["teams"]) != fmt.Sprintf("[%s]", teams[0]["id"]) || teams[0]["description"] != "who builds" || string(tokens[0].Limits) == "" {
			t.Errorf("there are %v, %v, %+v", teams, groups, tokens)
		}
		for _, do := range []func(context.Context, Spec) ([]Change, error){b.Plan, b.Apply} {
			if changes, err := do(t.Context(), wanted(100)); err != nil || len(changes) > 0 {
				t.Errorf("again: %+v, %v", changes, err)
			}
		}
		more := wanted(200)
		more.TeamDescription = "who builds and tests"
		if changes, err := b.Apply(t.Context(), more); err != nil || actions(changes) != "update team, update token" {
			t.Errorf("another limit: %s, %v", actions(changes), err)
		}
		if changes, err := b.Plan(t.Context(), more); err != nil || len(changes) > 0 {
			t.Errorf("after that: %+v, %v", changes, err)
		}
		requests := f.Requests()[2*(pageSize+5):]
		for i := 2; i < len(requests); i++ {
			if d := requests[i].At.Sub(requests[i-2].At); d < time.Second {
				t.Errorf("three requests within %v", d)
			}
		}
	})
}

// Several who bootstrap the same at once, of whom some lose answers, make one of each.
func TestThoseWhoBootstrapAtOnceMakeOneOfEach(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		migrate(t, db)
		f := signalfxfake.New(session)
		f.Fault = func(n int, _ *http.Request) signalfxfake.Fault {
			return sometimes(n, signalfxfake.Fault{After: n%2 == 0}, 500, 502)
		}
		var all sync.WaitGroup
		for i := range 4 {
			b, spec := bootstrapper(f, db), wanted(100)
			if i == 0 { // another project of the same team
				spec.Group, spec.Token.Name = "", ""
			}
			all.Go(func() {
				for range 30 {
					if _, err := b.Apply(t.Context(), spec); err == nil {
						return
					} else if strings.Contains(err.Error(), session) || strings.Contains(err.Error(), "secret-of") {
						t.Errorf("an error with a secret: %v", err)
					}
				}
				t.Error("it does not succeed")
			})
		}
		all.Wait()
		if teams, groups, tokens := called(f, "team"), called(f, "dashboardgroup"), f.Tokens(); len(teams) != 1 || len(groups) != 1 || len(tokens) != 1 {
			t.Errorf("there are %d teams, %d groups and %d tokens", len(teams), len(groups), len(tokens))
		}
	})
}

type roundTrips func(*http.Request) (*http.Response, error)

func (f roundTrips) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestListsWithoutAnEndHaveOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		page := `{"count": 2000000000, "results": [` + strings.Repeat(`{"name": "x", "id": "x"},`, pageSize-1) + `{"name": "x", "id": "x"}]}`
		base := roundTrips(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(page))}, nil
		})
		if _, err := New(base).List(t.Context(), order(first)); !errors.Is(err, errNoEnd) {
			t.Errorf("tokens: %v", err)
		}
		b := &Bootstrapper{New(base), nil, Settings{Realm: "eu0", Token: session}}
		if _, err := b.Plan(t.Context(), Spec{Team: "builds"}); !errors.Is(err, errNoEnd) {
			t.Errorf("teams: %v", err)
		}
	})
}

func TestASpecSaysWhatIsWrongWithIt(t *testing.T) {
	b := bootstrapper(signalfxfake.New(session), nil)
	for says, spec := range map[string]Spec{"team": {Team: " x"}, "dashboard group": {Group: "a\nb"}, "token": {Token: Token{Name: "a b"}}} {
		if _, err := b.Plan(t.Context(), spec); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%+v: %v", spec, err)
		}
	}
	b.Settings.Token = ""
	if _, err := b.Plan(t.Context(), Spec{Team: "x"}); err == nil || !strings.Contains(err.Error(), "token is missing") {
		t.Errorf("without a token: %v", err)
	}
}
