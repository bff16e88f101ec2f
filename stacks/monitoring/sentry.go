package monitoring

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/credentials/sentry/sentryapi"
	"github.com/taskfleet/taskfleet/stacks/provider"
)

// A sentry is an organization of Sentry.
type sentry struct {
	config Sentry
	base   http.RoundTripper
}

// open is a client with the token as it is now.
func (s *sentry) open() (*sentryapi.Client, error) {
	token, err := s.config.TokenFrom.read()
	if err != nil {
		return nil, fmt.Errorf("sentry: monitoring.sentry.%w", err)
	}
	return sentryapi.New(sentryapi.Config{URL: s.config.URL, Organization: s.config.Organization, Token: token, Transport: s.base})
}

// created creates something, and if that fails looks whether it is there all the same: the answer
// may have been lost.
func created(create, look func() error) error {
	err := create()
	if err == nil || sentryapi.Final(err) || look() != nil {
		return err
	}
	return nil
}

// checkSlug checks the name of a team or a project.
func checkSlug(name string) []error {
	if !sentryapi.ValidSlug(name) || len(name) > 50 {
		return []error{problem("", "the name is %q; it must be up to 50 lower-case letters, digits, - and _, and not digits alone", name)}
	}
	return nil
}

// kept are what both kinds of Sentry's have in common.
type kept struct {
	*sentry
}

// Secrets implements provider.Kind.
func (kept) Secrets() []string { return nil }

// Replaces implements provider.Kind.
func (kept) Replaces() []string { return nil }

// Computed implements provider.Kind.
func (kept) Computed() []string { return []string{"id"} }

// Delete implements provider.Kind. It leaves all as it is at Sentry: errors that were reported go with a project,
// and a team has other projects.
func (kept) Delete(context.Context, string, json.RawMessage) error { return nil }

// sentryTeams are the kind of teams.
type sentryTeams struct{ kept }

var _ provider.Kind = sentryTeams{}

// Token implements provider.Kind.
func (sentryTeams) Token() string { return TokenTeam }

// Normal implements provider.Kind.
func (sentryTeams) Normal(name string, text json.RawMessage) (json.RawMessage, error) {
	s, err := normal(text, func(*TeamSpec) []error { return checkSlug(name) })
	if err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// Complete implements provider.Kind.
func (sentryTeams) Complete(text, was json.RawMessage) (json.RawMessage, error) {
	if was != nil {
		return was, nil
	}
	return text, nil
}

// Read implements provider.Kind.
func (k sentryTeams) Read(ctx context.Context, name string, _ json.RawMessage) (json.RawMessage, error) {
	c, err := k.open()
	if err != nil {
		return nil, err
	}
	t, err := c.Team(ctx, name)
	if errors.Is(err, sentryapi.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return document(TeamSpec{}, map[string]any{"id": t.ID})
}

// Create implements provider.Kind.
func (k sentryTeams) Create(ctx context.Context, name string, _ json.RawMessage) (json.RawMessage, error) {
	c, err := k.open()
	if err != nil {
		return nil, err
	}
	var t sentryapi.Team
	err = created(func() (err error) { t, err = c.CreateTeam(ctx, name); return err }, func() (err error) { t, err = c.Team(ctx, name); return err })
	if errors.Is(err, sentryapi.ErrConflict) {
		err = fmt.Errorf("there is a team %s in Sentry that the token does not let be seen: %w", name, err)
	}
	if err != nil {
		return nil, err
	}
	return document(TeamSpec{}, map[string]any{"id": t.ID})
}

// Update implements provider.Kind.
func (sentryTeams) Update(_ context.Context, _ string, was, _ json.RawMessage) (json.RawMessage, error) {
	return was, nil
}

// sentryProjects are the kind of projects. How often an alert emails is a part of its name, as Sentry's list
// of alerts does not tell it.
type sentryProjects struct{ kept }

var _ provider.Kind = sentryProjects{}

// frequencies are those that Sentry knows.
var frequencies = []string{"5m", "10m", "30m", "1h", "3h", "12h", "24h"}

// A projectState is a state of a project.
type projectState struct {
	ProjectSpec
	ID string `json:"id,omitempty"`
}

// Token implements provider.Kind.
func (sentryProjects) Token() string { return TokenProject }

// Normal implements provider.Kind.
func (sentryProjects) Normal(name string, text json.RawMessage) (json.RawMessage, error) {
	s, err := normal(text, func(s *ProjectSpec) []error {
		problems := checkSlug(name)
		if !sentryapi.ValidSlug(s.Team) || len(s.Team) > 50 {
			problems = append(problems, problem("team", "is %q; it must be the slug of a team", s.Team))
		}
		if s.Platform != "" && !sentryapi.ValidSlug(s.Platform) {
			problems = append(problems, problem("platform", "is %q; it must be one of Sentry's, such as go or python-django", s.Platform))
		}
		if s.AlertEvery != "" && !slices.Contains(frequencies, s.AlertEvery) {
			problems = append(problems, problem("alertEvery", "is %q; Sentry knows %s", s.AlertEvery, strings.Join(frequencies, ", ")))
		}
		return problems
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

func parseProject(text json.RawMessage) (s *projectState, err error) {
	if text == nil {
		return nil, nil
	}
	s = &projectState{}
	return s, json.Unmarshal(text, s)
}

// Complete implements provider.Kind. A platform and an alert that are not asked for stay.
func (sentryProjects) Complete(text, was json.RawMessage) (json.RawMessage, error) {
	s, err := parseProject(text)
	if err != nil || was == nil {
		return text, err
	}
	state, err := parseProject(was)
	if err != nil {
		return nil, err
	}
	s.ID = state.ID
	if s.Platform == "" {
		s.Platform = state.Platform
	}
	if s.AlertEvery == "" {
		s.AlertEvery = state.AlertEvery
	}
	return json.Marshal(s)
}

// Read implements provider.Kind. A project that lacks something of what it is to be, and is the team's, is not there
// yet before it is created: an attempt before may have ended half way.
func (k sentryProjects) Read(ctx context.Context, name string, was json.RawMessage) (json.RawMessage, error) {
	state, err := parseProject(was)
	if err != nil {
		return nil, err
	}
	c, err := k.open()
	if err != nil {
		return nil, err
	}
	is, _, err := k.look(ctx, c, name, state)
	if err != nil || is == nil {
		return nil, err
	}
	if state != nil && state.ID == "" && is.lacks(state.ProjectSpec) {
		return nil, nil
	}
	return json.Marshal(is)
}

// lacks tells that a project can become what it is to be without losing anything.
func (is projectState) lacks(want ProjectSpec) bool {
	platform := want.Platform == "" || is.Platform == "" || is.Platform == want.Platform
	alert := is.AlertEvery == "" || is.AlertEvery == want.AlertEvery
	return is.Team == want.Team && platform && alert && is.ProjectSpec != want
}

// look is how a project is; nil if it is not there. Of its teams the one of state counts.
func (k sentryProjects) look(ctx context.Context, c *sentryapi.Client, name string, state *projectState) (*projectState, sentryapi.Project, error) {
	p, err := c.Project(ctx, name)
	if errors.Is(err, sentryapi.ErrNotFound) {
		return nil, p, nil
	}
	if err != nil {
		return nil, p, err
	}
	is := &projectState{ProjectSpec: ProjectSpec{Platform: p.Platform}, ID: p.ID}
	for i, t := range p.Teams {
		if i == 0 || state != nil && t.Slug == state.Team {
			is.Team = t.Slug
		}
	}
	if state != nil && state.AlertEvery == "" {
		return is, p, nil
	}
	alerts, err := c.Alerts(ctx, p)
	if errors.Is(err, sentryapi.ErrNotFound) {
		err = fmt.Errorf("this Sentry has no alerts of the kind that is made here; leave alertEvery out: %w", err)
	}
	if err != nil {
		return nil, p, err
	}
	for _, a := range alerts {
		if every, ok := strings.CutPrefix(a.Name, alertName(name, "")); ok && slices.Contains(frequencies, every) {
			is.AlertEvery = every
		}
	}
	return is, p, nil
}

func alertName(project, every string) string {
	return "taskfleet stacks: issues of " + project + ", every " + every
}

// Create implements provider.Kind.
func (k sentryProjects) Create(ctx context.Context, name string, text json.RawMessage) (json.RawMessage, error) {
	s, err := parseProject(text)
	if err != nil {
		return nil, err
	}
	c, err := k.open()
	if err != nil {
		return nil, err
	}
	is, p, err := k.look(ctx, c, name, s)
	if err != nil {
		return nil, err
	}
	if is == nil {
		err := created(func() (err error) {
			p, err = c.CreateProject(ctx, s.Team, sentryapi.NewProject{Name: name, Slug: name, Platform: s.Platform, Alerts: s.AlertEvery == ""})
			return err
		}, func() (err error) { p, err = c.Project(ctx, name); return err })
		switch {
		case errors.Is(err, sentryapi.ErrConflict):
			return nil, fmt.Errorf("there is a project %s in Sentry that the token does not let be seen, or that is being deleted: %w", name, err)
		case err != nil:
			return nil, err
		case p.Slug != name || p.ID == "":
			return nil, fmt.Errorf("sentry: the project %s was called %q by Sentry: delete it there", name, p.Slug)
		}
		is = &projectState{ProjectSpec: ProjectSpec{Team: s.Team, Platform: s.Platform}, ID: p.ID}
	} else if !is.lacks(s.ProjectSpec) && is.ProjectSpec != s.ProjectSpec {
		return nil, fmt.Errorf("sentry: there is a project %s, and it differs", name)
	}
	return k.bring(ctx, c, name, p, is, s.ProjectSpec)
}

// Update implements provider.Kind.
func (k sentryProjects) Update(ctx context.Context, name string, was, text json.RawMessage) (json.RawMessage, error) {
	s, err := parseProject(text)
	if err != nil {
		return nil, err
	}
	c, err := k.open()
	if err != nil {
		return nil, err
	}
	is, p, err := k.look(ctx, c, name, s)
	if err != nil {
		return nil, err
	}
	if is == nil {
		return nil, fmt.Errorf("sentry: the project %s is not there any more: run taskfleet stacks refresh, and then up", name)
	}
	return k.bring(ctx, c, name, p, is, s.ProjectSpec)
}

// bring has a project be as it should, from how it is. How far it has come is told also if it fails.
func (k sentryProjects) bring(ctx context.Context, c *sentryapi.Client, name string, p sentryapi.Project, is *projectState, want ProjectSpec) (json.RawMessage, error) {
	err := func() error {
		if is.Team != want.Team {
			if err := c.AddTeam(ctx, name, want.Team); err != nil {
				return err
			}
			is.Team = want.Team
		}
		if want.Platform != "" && is.Platform != want.Platform {
			if err := c.SetPlatform(ctx, name, want.Platform); err != nil {
				return err
			}
			is.Platform = want.Platform
		}
		if want.AlertEvery == "" || is.AlertEvery == want.AlertEvery {
			return nil
		}
		if is.AlertEvery != "" {
			return fmt.Errorf("sentry: the project %s has the alert %q: delete it at Sentry, and run it again", name, alertName(name, is.AlertEvery))
		}
		if err := k.alert(ctx, c, p, want); err != nil {
			return err
		}
		is.AlertEvery = want.AlertEvery
		return nil
	}()
	text, again := json.Marshal(is)
	return text, errors.Join(err, again)
}

// alert makes the alert.
func (k sentryProjects) alert(ctx context.Context, c *sentryapi.Client, p sentryapi.Project, want ProjectSpec) error {
	team, err := c.Team(ctx, want.Team)
	if err != nil {
		return err
	}
	monitors, err := c.Monitors(ctx, p)
	if err != nil {
		return err
	}
	monitor := ""
	for _, m := range monitors { // that of all issues, or that of errors
		if m.Type == "issue_stream" || m.Type == "error" && monitor == "" {
			monitor = m.ID
		}
	}
	if monitor == "" {
		return fmt.Errorf("sentry: the project %s has no monitor that an alert could be of", p.Slug)
	}
	every, err := time.ParseDuration(want.AlertEvery)
	if err != nil {
		return err
	}
	return created(func() error {
		_, err := c.CreateAlert(ctx, sentryapi.NewAlert{Name: alertName(p.Slug, want.AlertEvery), Monitor: monitor, Team: team.ID, Frequency: int(every.Minutes())})
		return err
	}, func() error {
		is, _, err := k.look(ctx, c, p.Slug, &projectState{ProjectSpec: want})
		if err == nil && (is == nil || is.AlertEvery != want.AlertEvery) {
			err = sentryapi.ErrNotFound
		}
		return err
	})
}
