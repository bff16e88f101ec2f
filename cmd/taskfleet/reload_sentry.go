//go:build !agent

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"time"

	clientauth "github.com/taskfleet/taskfleet/client/auth"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/monitor"
)

// SentryConfig is where the platform sends its own errors.
type SentryConfig struct {
	DSN         string `yaml:"dsn"`
	DSNFile     string `yaml:"dsnFile"`
	Project     string `yaml:"project"` // of ours, whose keys this platform keeps
	Environment string `yaml:"environment"`
	ServerName  string `yaml:"serverName"`
	Rate        int    `yaml:"rate"` // events a minute
}

var projectName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

func (s SentryConfig) check(bad func(path, format string, args ...any)) {
	switch {
	case s.DSN != "" && s.Project != "":
		bad("sentry.project", "there are both sentry.dsn and sentry.project; give one of them")
	case s.DSN != "":
		if err := monitor.New(monitor.Config{}).Assume(s.DSN); err != nil {
			bad("sentry.dsn", "sentry.dsn: %v", err)
		}
	case s.Project != "" && !projectName.MatchString(s.Project):
		bad("sentry.project", "sentry.project is %q; it must be letters, digits, _ and -, up to 64", s.Project)
	}
	if s.Rate < 0 {
		bad("sentry.rate", "sentry.rate must be above 0: how many events are sent in a minute")
	}
}

// monitorClient is who asks for the DSN of the platform's own project.
const monitorClient = "static/taskcluster/monitor"

// openSentry has errors be sent to where the configuration says. Whoever gets a DSN by
// a rotation, or from its own service, sends nothing until it is there.
func (c Config) openSentry(r *monitor.Reporter, again *reload, own secretsFile) error {
	hideOwn(r, c, own)
	again.take("sentry", c.Sentry.DSNFile, func(ctx context.Context, secret json.RawMessage) error {
		dsn, err := readDSN(secret)
		if err != nil {
			return err
		}
		return r.Use(ctx, dsn)
	})
	dsn := c.Sentry.DSN
	if c.Sentry.DSNFile != "" {
		secret, err := again.first(c.Sentry.DSNFile)
		if err == nil {
			dsn, err = readDSN(secret)
		}
		if err != nil {
			return fmt.Errorf("sentry.dsnFile: %w", err)
		}
	}
	if dsn == "" {
		return nil
	}
	return r.Assume(dsn)
}

// readDSN reads a credential of the kind sentry, or the DSN alone.
func readDSN(secret json.RawMessage) (string, error) {
	var s struct {
		URL    string `json:"url"` // of a file that holds nothing else
		DSN    string `json:"dsn"`
		Public string `json:"public"`
	}
	if json.Unmarshal(secret, &s) != nil || cmp.Or(s.DSN, s.Public, s.URL) == "" {
		return "", errors.New("the credential has no member dsn")
	}
	return cmp.Or(s.DSN, s.Public, s.URL), nil
}

// askEvery is how often the platform asks itself for its DSN, which is good for a day
// or more.
const askEvery = 5 * time.Minute

// sentryLoops send errors, and ask for the DSN of the project.
func (c Config) sentryLoops(r *monitor.Reporter, acting *inside, rootURL string, own secretsFile) ([]loop.Loop, error) {
	list := r.Loops()
	if c.Sentry.Project == "" {
		return list, nil
	}
	as, err := acting.client(rootURL, cred.Credentials{ClientID: monitorClient, AccessToken: own.tokenFor(monitorClient)})
	if err != nil {
		return nil, err
	}
	ask, last := clientauth.New(as), ""
	return append(list, loop.Loop{
		Name: "monitor.dsn", Doc: "Asks the service auth where the platform's own errors are to be sent to.",
		When: loop.Every(askEvery), EveryReplica: true, Pass: func(ctx context.Context) (bool, error) {
			answer, err := ask.SentryDSN(ctx, c.Sentry.Project)
			if err != nil || answer.DSN.Public == last {
				return false, err
			}
			if err := r.Use(ctx, answer.DSN.Public); err != nil {
				return false, err
			}
			last = answer.DSN.Public
			return false, nil
		},
	}), nil
}

// hideOwn has the platform's own secrets never be sent, wherever they may stand.
func hideOwn(r *monitor.Reporter, c Config, own secretsFile) {
	r.Hide(own.RootToken, own.QueueToken, own.ProvisionerToken, own.SealKeys, own.S3Secret, c.MetricsToken, c.S3.SecretAccessKey)
	for _, id := range []string{hooksClient, credentialsClient, indexClient, monitorClient} {
		r.Hide(own.tokenFor(id))
	}
	for _, s := range c.Clients {
		r.Hide(s.AccessToken)
	}
	for _, text := range []string{c.Database, c.RabbitMQ.URL} {
		if u, err := url.Parse(text); err == nil && u.User != nil {
			if password, ok := u.User.Password(); ok {
				r.Hide(password)
			}
		}
	}
}
