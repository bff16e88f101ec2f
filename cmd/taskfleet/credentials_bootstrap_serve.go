//go:build !agent

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/sentry"
	"github.com/taskfleet/taskfleet/credentials/sentry/sentryapi"
	"github.com/taskfleet/taskfleet/credentials/signalfx"
	"github.com/taskfleet/taskfleet/notify"
	"github.com/taskfleet/taskfleet/store"
)

// signalfxTokenVariable holds the token where the configuration does not.
const signalfxTokenVariable = "TASKFLEET_SIGNALFX_TOKEN"

// SignalFxConfig is the organisation at SignalFx in which projects get what they need.
type SignalFxConfig struct {
	Realm     string        `yaml:"realm"`
	API       string        `yaml:"api"`
	Ingest    string        `yaml:"ingest"`
	Token     notify.Secret `yaml:"token"`
	TokenFile string        `yaml:"tokenFile"`
}

// bootstrapper acts by the kind that rotates tokens, so that both together keep to the
// calls a second that SignalFx is asked.
func (c *SignalFxConfig) bootstrapper(kind *signalfx.Kind, db *store.DB) (*signalfx.Bootstrapper, error) {
	token := string(c.Token)
	if c.TokenFile == "" {
		token = cmp.Or(token, os.Getenv(signalfxTokenVariable))
	}
	b := &signalfx.Bootstrapper{Kind: kind, DB: db,
		Settings: signalfx.Settings{Realm: c.Realm, API: c.API, Ingest: c.Ingest, Token: token, TokenFile: c.TokenFile}}
	if err := b.Check(); err != nil {
		return nil, fmt.Errorf("auth.signalfx: %w", err)
	}
	return b, nil
}

// addBootstrappers adds the services that the configuration names.
func (p *platform) addBootstrappers(c Config, kind *signalfx.Kind, to *credentials.Config) error {
	to.Bootstrappers = map[string]credentials.Bootstrapper{}
	if p.sentry != nil {
		to.Bootstrappers["sentry"] = projectsAt[sentry.Spec, sentry.Change]{sentrySpec, p.sentry.Plan, p.sentry.Apply}
	}
	if c.Auth.SignalFx != nil {
		b, err := c.Auth.SignalFx.bootstrapper(kind, to.DB)
		if err != nil {
			return err
		}
		to.Bootstrappers["signalfx"] = projectsAt[signalfx.Spec, signalfx.Change]{signalfxSpec, b.Plan, b.Apply}
	}
	return nil
}

// strict reads what somebody wants of a service.
func strict(service string, text json.RawMessage, to any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return credentials.Refused("the spec for %s: %v", service, err)
	}
	return nil
}

// A projectsAt has projects be as they should at a service, whose words for what that
// is are S, and C for what has to be changed.
type projectsAt[S any, C sentry.Change | signalfx.Change] struct {
	spec        func(project string, text json.RawMessage) (S, error)
	plan, apply func(ctx context.Context, spec S) ([]C, error)
}

// Plan implements credentials.Bootstrapper.
func (s projectsAt[S, C]) Plan(ctx context.Context, project string, spec json.RawMessage) ([]credentials.Change, error) {
	return s.do(ctx, s.plan, project, spec)
}

// Apply implements credentials.Bootstrapper.
func (s projectsAt[S, C]) Apply(ctx context.Context, project string, spec json.RawMessage) ([]credentials.Change, error) {
	return s.do(ctx, s.apply, project, spec)
}

func (s projectsAt[S, C]) do(ctx context.Context, do func(context.Context, S) ([]C, error), project string, text json.RawMessage) (out []credentials.Change, err error) {
	spec, err := s.spec(project, text)
	if err != nil {
		return nil, err
	}
	list, err := do(ctx, spec)
	for _, c := range list {
		out = append(out, credentials.Change(c))
	}
	return out, err
}

func sentrySpec(project string, text json.RawMessage) (sentry.Spec, error) {
	var in struct {
		Team       string              `json:"team"`
		Platform   string              `json:"platform"`
		RateLimit  sentryapi.RateLimit `json:"rateLimit"`
		AlertEvery string              `json:"alertEvery"`
	}
	if err := strict("sentry", text, &in); err != nil {
		return sentry.Spec{}, err
	}
	every, err := parseSpan(in.AlertEvery)
	if err != nil {
		return sentry.Spec{}, credentials.Refused("the spec for sentry: alertEvery is %q; it must be a time such as 30m", in.AlertEvery)
	}
	return sentry.Spec{Project: project, Team: in.Team, Platform: in.Platform, RateLimit: in.RateLimit, AlertEvery: every}, nil
}

func signalfxSpec(project string, text json.RawMessage) (signalfx.Spec, error) {
	var in struct {
		Team             string `json:"team"`
		TeamDescription  string `json:"teamDescription"`
		Group            string `json:"group"`
		GroupDescription string `json:"groupDescription"`
		Token            string `json:"token"`
	}
	if err := strict("signalfx", text, &in); err != nil {
		return signalfx.Spec{}, err
	}
	spec := signalfx.Spec{Team: in.Team, TeamDescription: in.TeamDescription, Group: in.Group, GroupDescription: in.GroupDescription}
	if in.Token != "" {
		// Who may do this for one project has no business with the tokens of others.
		if in.Token != project && !strings.HasPrefix(in.Token, project+"-") {
			return signalfx.Spec{}, credentials.Refused("the spec for signalfx: token is %q; it must be %s, or begin with %s-", in.Token, project, project)
		}
		spec.Token = signalfx.Token{Name: in.Token, Description: "Of the project " + project + "."}
	}
	return spec, nil
}
