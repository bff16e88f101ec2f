//go:build !agent

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/auth"
	"github.com/taskfleet/taskfleet/client"
	clientnotify "github.com/taskfleet/taskfleet/client/notify"
	clientsecrets "github.com/taskfleet/taskfleet/client/secrets"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/credentials"
	clientkind "github.com/taskfleet/taskfleet/credentials/client"
	"github.com/taskfleet/taskfleet/credentials/hook"
	"github.com/taskfleet/taskfleet/credentials/signalfx"
	"github.com/taskfleet/taskfleet/credentials/stored"
	"github.com/taskfleet/taskfleet/timestamp"
)

// CredentialConfig is a credential that is rotated.
type CredentialConfig struct {
	Name      string           `yaml:"name"`
	Kind      string           `yaml:"kind"`
	Settings  map[string]any   `yaml:"settings"` // of the kind
	Cron      string           `yaml:"cron"`
	Zone      string           `yaml:"zone"`
	MaxAge    string           `yaml:"maxAge"`
	Jitter    string           `yaml:"jitter"`
	Overlap   string           `yaml:"overlap"`
	Quiet     string           `yaml:"quiet"`
	Grace     string           `yaml:"grace"`
	Notify    []string         `yaml:"notify"` // addresses
	Consumers []ConsumerConfig `yaml:"consumers"`
}

// ConsumerConfig is one who uses a credential.
type ConsumerConfig struct {
	Name     string   `yaml:"name"`
	Secret   string   `yaml:"secret"`
	File     string   `yaml:"file"`
	Member   string   `yaml:"member"`
	Mode     string   `yaml:"mode"`
	Command  []string `yaml:"command"`
	Platform string   `yaml:"platform"`
	Must     bool     `yaml:"must"`
}

// readCredentials reads the section credentials and says what is wrong with how it is
// written. What else is wrong with a credential is its state: no other suffers from it.
func (c *Config) readCredentials(bad func(path, format string, args ...any)) (list []credentials.Definition) {
	names := map[string]bool{}
	for i, in := range c.Credentials {
		path := fmt.Sprintf("credentials[%d]", i)
		switch {
		case !regionName.MatchString(in.Name) || len(in.Name) > 64:
			bad(path, "credentials: the name %q is none for a credential; it is lower-case letters, digits and hyphens between, up to 64", in.Name)
		case names[in.Name]:
			bad(path+".name", "credentials: there are two called %s", in.Name)
		}
		names[in.Name] = true
		d := credentials.Definition{Name: in.Name, Kind: in.Kind, Plan: credentials.Plan{Cron: in.Cron, Zone: in.Zone}, Notify: in.Notify}
		var err error
		if d.Settings, err = json.Marshal(in.Settings); err != nil || in.Settings == nil {
			d.Settings = json.RawMessage("{}")
		}
		for _, span := range []struct {
			name, text, example string
			to                  *time.Duration
		}{{"maxAge", in.MaxAge, "30d", &d.Plan.MaxAge}, {"jitter", in.Jitter, "1h", &d.Plan.Jitter}, {"overlap", in.Overlap, "24h", &d.Overlap}, {"quiet", in.Quiet, "1h", &d.Quiet}, {"grace", in.Grace, "1h", &d.Grace}} {
			if *span.to, err = parseSpan(span.text); err != nil {
				bad(path+"."+span.name, "credentials: %s: %s is %q; it must be a time such as %s", in.Name, span.name, span.text, span.example)
			}
		}
		if in.Kind == "sentry-key" && d.Grace == 0 {
			d.Grace = sentryGrace
		}
		for _, u := range in.Consumers {
			d.Consumers = append(d.Consumers, credentials.Use(u))
		}
		list = append(list, d)
	}
	return list
}

// parseSpan reads a time that may be in days, such as 90d; "" is 0.
func parseSpan(text string) (d time.Duration, err error) {
	if text == "" {
		return 0, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil || n == 0 {
			return 0, fmt.Errorf("no number of days")
		}
		return time.Duration(n) * 24 * time.Hour, nil
	}
	if d, err = time.ParseDuration(text); err == nil && d <= 0 {
		err = fmt.Errorf("not positive")
	}
	return d, err
}

// credentialsClient is who sets the secrets of the platform that rotations publish.
const credentialsClient = "static/taskcluster/credentials"

// openCredentials opens the service credentials, with what this platform has of kinds
// and consumers.
func (p *platform) openCredentials(ctx context.Context, c Config, own secretsFile, acting *inside, a *auth.Auth, conf credentials.Config) (*credentials.Credentials, error) {
	as, err := acting.client(p.RootURL, cred.Credentials{ClientID: credentialsClient, AccessToken: own.tokenFor(credentialsClient)})
	if err != nil {
		return nil, err
	}
	if conf.Replica, err = replicaID(c.Data); err != nil {
		return nil, fmt.Errorf("naming this replica: %w", err)
	}
	conf.Kinds = map[string]credentials.Kind{
		"client": clientkind.Kind{Clients: accessTokens{a}, RootURL: p.RootURL, Transport: http.RoundTripper(acting)},
		"hook":   hook.Kind{},
		"stored": stored.Kind{},
	}
	conf.Secrets, conf.Notices = platformSecrets{as}, emails{as}
	addAWS(&conf)
	tokens := signalfx.New(nil)
	addRabbitMQ(tokens, &conf)
	if p.acme, err = addACME(ctx, &conf); err != nil {
		return nil, err
	}
	addSentry(&conf, p.sentry)
	if err := p.addBootstrappers(c, tokens, &conf); err != nil {
		return nil, err
	}
	conf.Platform = p.again.parts
	conf.Definitions = c.readCredentials(func(string, string, ...any) {})
	p.keys.act(credentialsClient, as)
	addPlatformKeys(&conf, p.keys)
	return credentials.New(ctx, conf)
}

// accessTokens are those of the platform's clients, for rotations.
type accessTokens struct{ *auth.Auth }

func (t accessTokens) Tokens(ctx context.Context, clientID string) (list []clientkind.Token, err error) {
	all, err := t.Auth.Tokens(ctx, clientID)
	for _, x := range all {
		list = append(list, clientkind.Token(x))
	}
	return list, err
}

// emails writes to people by the platform's API, from inside.
type emails struct{ client *client.Client }

func (e emails) Write(ctx context.Context, address, subject, text string) error {
	return clientnotify.New(e.client).Email(ctx, &clientnotify.EmailRequest{Address: address, Subject: subject, Content: text})
}

// platformSecrets sets secrets of the platform by its API, from inside.
type platformSecrets struct{ client *client.Client }

func (s platformSecrets) Set(ctx context.Context, name string, value json.RawMessage, expires timestamp.Time) error {
	return clientsecrets.New(s.client).Set(ctx, name, &clientsecrets.Secret{Secret: value, Expires: expires})
}
