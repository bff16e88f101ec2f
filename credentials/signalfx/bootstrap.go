package signalfx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/signalfx/signalfx-go"
	"github.com/signalfx/signalfx-go/dashboard_group"
	"github.com/signalfx/signalfx-go/orgtoken"
	"github.com/signalfx/signalfx-go/team"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
)

// A Bootstrapper has what a service or a team needs at SignalFx be there.
type Bootstrapper struct {
	Kind *Kind
	DB   *store.DB

	// Settings say where and as whom: realm, api and ingest, token and tokenFile.
	Settings Settings
}

// A Spec is what there should be. What has no name is not wanted.
type Spec struct {
	Team            string
	TeamDescription string

	Group            string // of dashboards; it is shown with the team
	GroupDescription string

	// Token is the name of a token. To rotate it, it is named as the present one of a
	// credential of the kind signalfx, which then replaces it; and is no business of a Spec
	// any more.
	Token Token
}

// A Token is how a token of an organisation should be.
type Token struct {
	Name        string
	Description string
	AuthScopes  []string        // INGEST where there are none; they are those that the token was made with
	Limits      *orgtoken.Limit // nil leaves them alone
}

// A Change is something that is not as a Spec says. Nothing of it is secret.
type Change struct {
	What, Name, Action string // the kind of thing, which, and create or update
	Before, After      any    // nil where there is nothing
}

const (
	applyLimit = 90 * time.Second // of one Apply
	leaseFor   = 2 * time.Minute  // which is longer, so that the lease need not be renewed
	lookAgain  = time.Second
)

// Check tells what is wrong with the settings.
func (b *Bootstrapper) Check() error {
	s := b.Settings
	return s.places()
}

// Plan tells what Apply would do. It changes nothing.
func (b *Bootstrapper) Plan(ctx context.Context, spec Spec) ([]Change, error) {
	r, err := b.open(spec)
	if err != nil {
		return nil, err
	}
	err = r.run(ctx)
	return r.changes, err
}

// Apply has everything be as it should, and tells what it has changed, also if it fails.
// Where all is well it changes nothing. SignalFx knows several of one name, so those who do
// this at the same time, whatever for, do it one after the other.
func (b *Bootstrapper) Apply(ctx context.Context, spec Spec) ([]Change, error) {
	r, err := b.open(spec)
	if err != nil {
		return nil, err
	}
	r.apply = true
	name, lease := "signalfx/"+r.at, b.DB.Lease(slugid.New()) // as a team may be of several projects
	for begun := time.Now(); ; {
		held, err := lease.Hold(ctx, name, leaseFor)
		if err != nil {
			return nil, err
		}
		if held {
			break
		}
		if time.Since(begun) > leaseFor+applyLimit {
			return nil, errors.New("others bootstrap at SignalFx, and find no end; try again")
		}
		select {
		case <-time.After(lookAgain):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer lease.Release(context.WithoutCancel(ctx), name)
	limited, stop := context.WithTimeout(ctx, applyLimit)
	defer stop()
	err = r.run(limited)
	return r.changes, err
}

// A bringing brings things to what they should be, or tells what would be done.
type bringing struct {
	spec    Spec
	client  *signalfx.Client
	at      string // the address of the API
	apply   bool
	changes []Change
	team    string // its id, "" where there is none yet
}

func (b *Bootstrapper) open(spec Spec) (*bringing, error) {
	for what, name := range map[string]string{"team": spec.Team, "dashboard group": spec.Group} {
		if len(name) > 100 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' }) || strings.TrimSpace(name) != name {
			return nil, credentials.Refused("the name of the %s is %q; it must be a line of up to 100 characters", what, name)
		}
	}
	if spec.Token.Name != "" && !namePattern.MatchString(spec.Token.Name) {
		return nil, credentials.Refused("the name of the token is %q; it must be of letters, digits, full stops, underscores and hyphens", spec.Token.Name)
	}
	if len(spec.Token.AuthScopes) == 0 {
		spec.Token.AuthScopes = []string{scopeIngest}
	}
	s := b.Settings
	if err := s.places(); err != nil {
		return nil, err
	}
	c, err := b.Kind.client(s)
	if err != nil {
		return nil, err
	}
	return &bringing{spec: spec, client: c, at: s.API}, nil
}

func (b *bringing) run(ctx context.Context) error {
	for _, step := range []struct {
		what string
		name string
		do   func(context.Context) error
	}{{"team", b.spec.Team, b.haveTeam}, {"dashboard group", b.spec.Group, b.haveGroup}, {"token", b.spec.Token.Name, b.haveToken}} {
		if step.name == "" {
			continue
		}
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("the %s %s of SignalFx: %w", step.what, step.name, err)
		}
	}
	return nil
}

// change does something, if it is to be done.
func (b *bringing) change(c Change, do func() error) error {
	if b.apply {
		if err := do(); err != nil {
			return err
		}
	}
	b.changes = append(b.changes, c)
	return nil
}

// made makes something. If that fails it looks whether it is there all the same, as the
// answer may have been lost.
func made[T any](make, look func() (*T, error)) (*T, error) {
	x, err := make()
	if err == nil {
		return x, nil
	}
	if x, again := look(); again == nil && x != nil {
		return x, nil
	}
	return nil, judge(err)
}

// named finds one by its exact name among all that have it in theirs. Of several the
// first one counts, whoever looks.
func named[T any](name string, page func(offset int) (all int, list []T, err error), is func(T) (name, id string)) (out *T, err error) {
	first := ""
	for offset := 0; ; {
		all, list, err := page(offset)
		if err != nil {
			return nil, judge(err)
		}
		for _, x := range list {
			if n, id := is(x); n == name && (out == nil || id < first) {
				out, first = &x, id
			}
		}
		offset += len(list)
		switch {
		case len(list) == 0 || offset >= all:
			return out, nil
		case offset >= mostFound:
			return nil, errNoEnd
		}
	}
}

func described(text string) any {
	if text == "" {
		return nil
	}
	return map[string]any{"description": text}
}

func (b *bringing) haveTeam(ctx context.Context) error {
	find := func() (*team.Team, error) {
		return named(b.spec.Team, func(offset int) (int, []team.Team, error) {
			page, err := b.client.SearchTeam(ctx, pageSize, b.spec.Team, offset, "")
			if err != nil {
				return 0, nil, err
			}
			return int(page.Count), page.Results, nil
		}, func(t team.Team) (string, string) { return t.Name, t.Id })
	}
	t, err := find()
	if err != nil {
		return err
	}
	want := b.spec.TeamDescription
	if t == nil {
		return b.change(Change{"team", b.spec.Team, "create", nil, described(want)}, func() error {
			t, err := made(func() (*team.Team, error) {
				return b.client.CreateTeam(ctx, &team.CreateUpdateTeamRequest{Name: b.spec.Team, Description: want})
			}, find)
			if err == nil {
				b.team = t.Id
			}
			return err
		})
	}
	b.team = t.Id
	if want == "" || t.Description == want {
		return nil
	}
	return b.change(Change{"team", t.Name, "update", described(t.Description), described(want)}, func() error {
		_, err := b.client.UpdateTeam(ctx, t.Id, &team.CreateUpdateTeamRequest{Name: t.Name, Description: want,
			Members: t.Members, NotificationLists: t.NotificationLists, DashboardGroups: t.DashboardGroups, Detectors: t.Detectors})
		return judge(err)
	})
}

func (b *bringing) haveGroup(ctx context.Context) error {
	type group = dashboard_group.DashboardGroup
	find := func() (*group, error) {
		g, err := named(b.spec.Group, func(offset int) (int, []*group, error) {
			page, err := b.client.SearchDashboardGroups(ctx, pageSize, b.spec.Group, offset)
			if err != nil {
				return 0, nil, err
			}
			return int(page.Count), page.Results, nil
		}, func(g *group) (string, string) { return g.Name, g.Id })
		if err != nil || g == nil {
			return nil, err
		}
		return *g, nil
	}
	g, err := find()
	if err != nil {
		return err
	}
	after := map[string]any{}
	if b.spec.GroupDescription != "" {
		after["description"] = b.spec.GroupDescription
	}
	if b.spec.Team != "" {
		after["team"] = b.spec.Team
	}
	if g == nil {
		return b.change(Change{"dashboard group", b.spec.Group, "create", nil, after}, func() error {
			r := &dashboard_group.CreateUpdateDashboardGroupRequest{Name: b.spec.Group, Description: b.spec.GroupDescription}
			if b.team != "" {
				r.Teams = []string{b.team}
			}
			_, err := made(func() (*group, error) { return b.client.CreateDashboardGroup(ctx, r, true) }, find)
			return err
		})
	}
	r := &dashboard_group.CreateUpdateDashboardGroupRequest{Name: g.Name, Description: g.Description, Teams: g.Teams, Dashboards: g.Dashboards,
		AuthorizedWriters: g.AuthorizedWriters, Permissions: g.Permissions, DashboardConfigs: g.DashboardConfigs, ImportQualifiers: g.ImportQualifiers}
	before := map[string]any{}
	if b.spec.GroupDescription == "" || b.spec.GroupDescription == g.Description {
		delete(after, "description")
	} else {
		before["description"] = g.Description
		r.Description = b.spec.GroupDescription
	}
	if b.spec.Team == "" || b.team != "" && slices.Contains(g.Teams, b.team) {
		delete(after, "team")
	} else {
		before["team"] = nil
	}
	if len(after) == 0 {
		return nil
	}
	return b.change(Change{"dashboard group", g.Name, "update", before, after}, func() error {
		if after["team"] != nil {
			r.Teams = append(slices.Clone(r.Teams), b.team)
		}
		_, err := b.client.UpdateDashboardGroup(ctx, g.Id, r)
		return judge(err)
	})
}

func (b *bringing) haveToken(ctx context.Context) error {
	want := b.spec.Token
	t, err := b.client.GetOrgToken(ctx, want.Name)
	if err := judge(err); errors.Is(err, errNotThere) {
		after := map[string]any{"authScopes": want.AuthScopes}
		if want.Description != "" {
			after["description"] = want.Description
		}
		if want.Limits != nil {
			after["limits"] = want.Limits
		}
		return b.change(Change{"token", want.Name, "create", nil, after}, func() error {
			_, err := create(ctx, b.client, &orgtoken.CreateUpdateTokenRequest{Name: want.Name, Description: want.Description, AuthScopes: want.AuthScopes, Limits: want.Limits})
			return err
		})
	} else if err != nil {
		return err
	}
	before, after := map[string]any{}, map[string]any{}
	r := &orgtoken.CreateUpdateTokenRequest{Name: t.Name, AuthScopes: t.AuthScopes, Description: t.Description, Limits: t.Limits, Notifications: t.Notifications, Disabled: t.Disabled}
	if want.Description != "" && want.Description != t.Description {
		before["description"], after["description"] = t.Description, want.Description
		r.Description = want.Description
	}
	if want.Limits != nil && !alike(want.Limits, t.Limits) {
		before["limits"], after["limits"] = t.Limits, want.Limits
		r.Limits = want.Limits
	}
	if len(after) == 0 {
		return nil
	}
	return b.change(Change{"token", t.Name, "update", before, after}, func() error {
		_, err := b.client.UpdateOrgToken(ctx, t.Name, r)
		return judge(err)
	})
}

func alike(a, b any) bool {
	x, err := json.Marshal(a)
	y, again := json.Marshal(b)
	return err == nil && again == nil && bytes.Equal(x, y)
}
