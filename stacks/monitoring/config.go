package monitoring

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/credentials/sentry/sentryapi"
	"github.com/taskfleet/taskfleet/stacks/provider"
)

// A Config is the section monitoring of environment.yml.
type Config struct {
	SignalFx *SignalFx `json:"signalfx,omitempty"`
	Sentry   *Sentry   `json:"sentry,omitempty"`
}

// SignalFx is what there is to be at SignalFx.
type SignalFx struct {
	Realm string `json:"realm,omitempty"` // such as eu0; it is in the profile of every user
	API   string `json:"api,omitempty"`   // default: https://api.<realm>.signalfx.com

	// TokenFrom is where a token with the scope API is. For tokens it must be that of a session of an administrator.
	TokenFrom Source `json:"tokenFrom"`

	Group string   `json:"group,omitempty"` // that dashboards are in; default: Taskfleet <environment>
	Teams []string `json:"teams,omitempty"` // ids of teams that group and detectors are shown to

	Ours   bool                      `json:"ours,omitempty"`   // our dashboards and detectors
	Filter map[string]string         `json:"filter,omitempty"` // dimensions of this environment's figures, for ours
	Notify map[string][]Notification `json:"notify,omitempty"` // who is told by ours

	Dashboards []DashboardConfig `json:"dashboards,omitempty"`
	Detectors  []DetectorConfig  `json:"detectors,omitempty"`
	Tokens     []TokenConfig     `json:"tokens,omitempty"`
}

// Sentry is what there is to be at Sentry.
type Sentry struct {
	URL          string          `json:"url,omitempty"` // default: https://sentry.io
	Organization string          `json:"organization"`
	TokenFrom    Source          `json:"tokenFrom"`
	Team         string          `json:"team,omitempty"` // of projects that name none; made where there is none
	Projects     []ProjectConfig `json:"projects,omitempty"`
}

// A Source is where a token is: one of both. It is read whenever it is needed, and written nowhere.
type Source struct {
	Env  string `json:"env,omitempty"`  // a variable of the environment
	File string `json:"file,omitempty"` // a path
}

// In has the files of tokens be in a directory, where their paths are relative.
func (c Config) In(directory string) {
	in := func(s *Source) {
		if s.File != "" && !filepath.IsAbs(s.File) {
			s.File = filepath.Join(directory, s.File)
		}
	}
	if c.SignalFx != nil {
		in(&c.SignalFx.TokenFrom)
	}
	if c.Sentry != nil {
		in(&c.Sentry.TokenFrom)
	}
}

// A DashboardConfig is a dashboard with its charts, which are laid out from the left to the right in rows.
type DashboardConfig struct {
	Name        string        `json:"name"`
	Description string        `json:"description,omitempty"`
	Variables   []Variable    `json:"variables,omitempty"`
	Charts      []ChartConfig `json:"charts"`
}

// A ChartConfig is a chart of a dashboard.
type ChartConfig struct {
	Name string `json:"name"` // no other chart of the environment has it
	ChartSpec
	Width  int `json:"width,omitempty"`  // of 12; default: 6
	Height int `json:"height,omitempty"` // default: 1
}

// A DetectorConfig is a detector.
type DetectorConfig struct {
	Name string `json:"name"`
	DetectorSpec
}

// A TokenConfig is a token of the organisation.
type TokenConfig struct {
	Name string `json:"name"`
	TokenSpec
}

// A ProjectConfig is a project of Sentry.
type ProjectConfig struct {
	Name string `json:"name"` // its slug
	ProjectSpec
}

// places checks where SignalFx and Sentry are, and where the tokens are.
func (c Config) places() (problems []error) {
	source := func(at string, s Source) {
		switch {
		case (s.Env == "") == (s.File == ""):
			problems = append(problems, problem(at+".tokenFrom", "must have env, a variable of the environment, or file, a path; one of both"))
		case s.Env != "" && !variablePattern.MatchString(s.Env):
			problems = append(problems, problem(at+".tokenFrom.env", "must be the name of a variable, such as SFX_TOKEN")) // not what it is: somebody may have put the token there
		}
	}
	if s := c.SignalFx; s != nil {
		source("signalfx", s.TokenFrom)
		if s.Realm == "" && s.API == "" {
			problems = append(problems, problem("signalfx.realm", "is missing; it is in the profile of every user, and is for example eu0"))
		} else if s.Realm != "" && !realmPattern.MatchString(s.Realm) {
			problems = append(problems, problem("signalfx.realm", "is %q; it must be lower-case letters and digits, such as eu0", s.Realm))
		}
		if s.API != "" {
			if err := checkURL(s.API); err != nil {
				problems = append(problems, problem("signalfx.api", "%s", err))
			}
		}
	}
	if s := c.Sentry; s != nil {
		source("sentry", s.TokenFrom)
		if _, err := sentryapi.New(sentryapi.Config{URL: s.URL, Organization: s.Organization, Token: "checked-later"}); err != nil {
			problems = append(problems, problem("sentry", "%s", strings.TrimPrefix(err.Error(), "sentry: ")))
		}
	}
	return problems
}

var variablePattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)

// A collection collects things, and what is wrong with them.
type collection struct {
	things   []Thing
	problems []error
	seen     map[Ref]bool
}

// add checks a thing. at is where it is in the section.
func (l *collection) add(at string, k provider.Kind, name string, spec any, after ...Ref) Ref {
	ref := Ref{k.Token(), name}
	if l.seen[ref] {
		l.problems = append(l.problems, problem(at+".name", "is %q, as that of another one: all that are of a kind in an environment have names of their own", name))
		return ref
	}
	l.seen[ref] = true
	text, err := json.Marshal(spec)
	if err == nil {
		text, err = k.Normal(name, text)
	}
	l.problems = append(l.problems, within(at, err)...)
	l.things = append(l.things, Thing{Token: ref.Token, Name: name, Spec: text, After: after})
	return ref
}

// within are the problems of a part, by where they are in the whole.
func within(at string, err error) (problems []error) {
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range many.Unwrap() {
			problems = append(problems, within(at, one)...)
		}
		return problems
	}
	if p, ok := errors.AsType[*provider.Problem](err); ok {
		return []error{problem(at+"."+cmp.Or(p.Member, "name"), "%s", p.Reason)}
	}
	if err != nil {
		problems = append(problems, problem(at, "%s", err))
	}
	return problems
}

// Things are what the section asks for in an environment, in an order in which they can be made.
// The error is *provider.Problems, joined.
func (c Config) Things(environment string) ([]Thing, error) {
	l := &collection{problems: c.places(), seen: map[Ref]bool{}}
	if c.SignalFx != nil {
		c.SignalFx.collect(l, environment)
	}
	if c.Sentry != nil {
		c.Sentry.collect(l)
	}
	return l.things, errors.Join(l.problems...)
}

func (c *SignalFx) collect(l *collection, environment string) {
	s := &site{environment: environment}
	g, ch := newGroups(s), newCharts(s)
	d, det, tok := newDashboards(s, g, ch), newDetectors(s), newTokens(s)
	var boards []DashboardConfig
	var alarms []DetectorConfig
	if c.Ours {
		var problems []error
		if boards, alarms, problems = ours(environment, c.Filter, c.Notify); len(problems) > 0 {
			l.problems = append(l.problems, problems...)
			return
		}
		for i := range alarms {
			alarms[i].Teams = c.Teams
		}
	} else if len(c.Filter) > 0 || len(c.Notify) > 0 {
		l.problems = append(l.problems, problem("signalfx", "filter and notify are for ours, which is not true"))
	}
	group := Ref{TokenGroup, cmp.Or(c.Group, "Taskfleet "+environment)}
	if len(boards)+len(c.Dashboards) > 0 {
		l.add("signalfx.group", g, group.Name, GroupSpec{Description: "Taskfleet, environment " + environment, Teams: slices.Clone(c.Teams)})
	}
	for i, board := range boards {
		board.collect(l, fmt.Sprintf("signalfx.ours.dashboards[%d]", i), d, ch, group)
	}
	for i, board := range c.Dashboards {
		board.collect(l, fmt.Sprintf("signalfx.dashboards[%d]", i), d, ch, group)
	}
	for i, x := range alarms {
		l.add(fmt.Sprintf("signalfx.ours.detectors[%d]", i), det, x.Name, x.DetectorSpec)
	}
	for i, x := range c.Detectors {
		l.add(fmt.Sprintf("signalfx.detectors[%d]", i), det, x.Name, x.DetectorSpec)
	}
	for i, x := range c.Tokens {
		l.add(fmt.Sprintf("signalfx.tokens[%d]", i), tok, x.Name, x.TokenSpec)
	}
}

// collect lays the charts out: from the left to the right, in the next row where one does not fit any more.
func (c DashboardConfig) collect(l *collection, at string, d *dashboards, ch *charts, group Ref) {
	board := DashboardSpec{Group: group.Name, Description: c.Description, Variables: c.Variables}
	after := []Ref{group}
	row, column, height := 0, 0, 0
	for i, x := range c.Charts {
		place := Placed{Chart: x.Name, Width: cmp.Or(x.Width, columns/2), Height: cmp.Or(x.Height, 1)}
		if column+place.Width > columns && column > 0 {
			row, column, height = row+height, 0, 0
		}
		place.Row, place.Column = row, column
		column, height = column+place.Width, max(height, place.Height)
		board.Charts = append(board.Charts, place)
		after = append(after, l.add(fmt.Sprintf("%s.charts[%d]", at, i), ch, x.Name, x.ChartSpec))
	}
	l.add(at, d, c.Name, board, after...)
}

func (c *Sentry) collect(l *collection) {
	k := kept{&sentry{config: *c}}
	team := func(at, slug string) Ref {
		ref := Ref{TokenTeam, slug}
		if !l.seen[ref] {
			l.add(at, sentryTeams{k}, slug, TeamSpec{})
		}
		return ref
	}
	if c.Team != "" {
		team("sentry.team", c.Team)
	}
	for i, p := range c.Projects {
		at := fmt.Sprintf("sentry.projects[%d]", i)
		p.Team = cmp.Or(p.Team, c.Team)
		if p.Team == "" {
			l.problems = append(l.problems, problem(at+".team", "is missing, and so is sentry.team"))
			continue
		}
		l.add(at, sentryProjects{k}, p.Name, p.ProjectSpec, team(at+".team", p.Team))
	}
}
