// Package monitoring has what people see a platform by as kinds of stacks: dashboards, charts,
// detectors and tokens of SignalFx (Splunk Observability Cloud by now), and teams and projects
// of Sentry.
//
// A thing of SignalFx has an id that SignalFx gives, and a name that several may have. So that
// nothing is made twice, what is made here says so in its description: "managed by taskfleet
// stacks, environment prod". Before something is made it is looked for by its name and these
// words, and what is found is taken: a run that ended between making and writing the state down
// leaves nothing behind that another one does not find. What has the name without the words is
// somebody else's, and is left alone until it is imported.
//
// Names lead from one thing to another: a dashboard names its group and its charts, and their
// ids are looked up when it is written. So a preview needs none, and nothing in a program waits
// for the output of something else.
//
// What is read back is what can be written here. The rest of a thing, such as who may change it
// and colours that somebody chose, is left as it is by an update.
//
// Teams and projects of Sentry are made and completed, and never deleted: a project has the
// history of its errors, and its keys are somebody's, of package credentials for instance.
//
// What is written here was made after the published references. No real SignalFx or Sentry has
// been seen by it.
package monitoring

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"

	"github.com/taskfleet/taskfleet/stacks/provider"
)

// Tokens of the kinds.
const (
	TokenGroup     = "taskfleet:monitoring:DashboardGroup"
	TokenDashboard = "taskfleet:monitoring:Dashboard"
	TokenChart     = "taskfleet:monitoring:Chart"
	TokenDetector  = "taskfleet:monitoring:Detector"
	TokenToken     = "taskfleet:monitoring:Token"
	TokenTeam      = "taskfleet:monitoring:SentryTeam"
	TokenProject   = "taskfleet:monitoring:SentryProject"
)

// A Thing is a resource that a Config asks for.
type Thing struct {
	Token string // of its kind
	Name  string // one of a kind has it
	Spec  json.RawMessage

	// After are things that have to be there before, and go after. Each is in the list before this one.
	After []Ref
}

// A Ref names a Thing.
type Ref struct{ Token, Name string }

var environmentPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,62}$`)

// Check tells what is wrong with the section: a *provider.Problem for each member, joined.
func (c Config) Check() error {
	_, err := c.Things("check")
	return err
}

// Kinds are the kinds of what the section is about: those of SignalFx, those of Sentry. They ask nobody
// before they are used. A nil transport is http.DefaultTransport.
func (c Config) Kinds(environment string, transport http.RoundTripper) (list []provider.Kind, err error) {
	if !environmentPattern.MatchString(environment) {
		return nil, fmt.Errorf("the environment is called %q; it must be letters, digits and hyphens", environment)
	}
	if err := errors.Join(c.places()...); err != nil {
		return nil, err
	}
	if c.SignalFx != nil {
		s := newSite(*c.SignalFx, environment, transport)
		g, ch := newGroups(s), newCharts(s)
		list = append(list, g, ch, newDashboards(s, g, ch), newDetectors(s), newTokens(s))
	}
	if c.Sentry != nil {
		s := kept{&sentry{*c.Sentry, transport}}
		list = append(list, sentryTeams{s}, sentryProjects{s})
	}
	return list, nil
}
