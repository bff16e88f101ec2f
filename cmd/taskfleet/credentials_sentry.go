//go:build !agent

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/taskfleet/taskfleet/auth"
	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/sentry"
	"github.com/taskfleet/taskfleet/credentials/sentry/sentryapi"
	"github.com/taskfleet/taskfleet/monitor"
	"github.com/taskfleet/taskfleet/notify"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
)

// SentryKeysConfig is the Sentry whose projects and keys the platform keeps.
type SentryKeysConfig struct {
	URL          string        `yaml:"url"`
	Organization string        `yaml:"organization"`
	Token        notify.Secret `yaml:"token"`
	TokenFile    string        `yaml:"tokenFile"`
	InitialTeam  string        `yaml:"initialTeam"`
	KeyPrefix    string        `yaml:"keyPrefix"`
	Platform     string        `yaml:"platform"`
	AlertEvery   string        `yaml:"alertEvery"`
	RateLimit    struct {
		Count  int `yaml:"count"`
		Window int `yaml:"window"`
	} `yaml:"rateLimit"`
}

// sentryTokenVariable holds the token where the configuration does not.
const sentryTokenVariable = "TASKFLEET_SENTRY_TOKEN"

// settings are what the section says, with the token.
func (c SentryKeysConfig) settings(token string) (s sentry.Settings, err error) {
	s = sentry.Settings{URL: c.URL, Organization: c.Organization, Token: token, Team: c.InitialTeam, Platform: c.Platform, Prefix: c.KeyPrefix,
		RateLimit: sentryapi.RateLimit{Count: c.RateLimit.Count, Window: c.RateLimit.Window}}
	if s.AlertEvery, err = parseSpan(c.AlertEvery); err != nil {
		err = fmt.Errorf("sentry: alertEvery is %q; it must be a time such as 30m", c.AlertEvery)
	}
	return s, errors.Join(err, s.Check())
}

// checkSentryKeys finds what cannot work. The file of a token need not be there yet.
func (c *Config) checkSentryKeys(bad func(path, format string, args ...any)) {
	s := c.Auth.Sentry
	if s == nil {
		return
	}
	token := cmp.Or(string(s.Token), os.Getenv(sentryTokenVariable))
	if s.TokenFile != "" {
		if s.Token != "" {
			bad("auth.sentry.tokenFile", "there are both auth.sentry.token and auth.sentry.tokenFile; give one of them")
		}
		if !filepath.IsAbs(s.TokenFile) {
			bad("auth.sentry.tokenFile", "auth.sentry.tokenFile is %q; it must be the absolute path of a file", s.TokenFile)
		}
		token = "in-the-file"
	}
	if _, err := s.settings(token); err != nil {
		bad("auth.sentry", "auth.%v", err)
	}
}

// sentryToken reads what holds a token: a credential of whatever kind, or the token
// alone.
func sentryToken(secret json.RawMessage) (string, error) {
	var s struct {
		URL   string `json:"url"` // of a file that holds nothing else
		Token string `json:"token"`
	}
	if json.Unmarshal(secret, &s) != nil || cmp.Or(s.Token, s.URL) == "" {
		return "", errors.New("the credential has no member token")
	}
	return cmp.Or(s.Token, s.URL), nil
}

// openSentryKeys opens the Sentry whose keys the platform keeps; nil without one. Its
// token can be a credential that is rotated, the part sentry-token, or in a file.
func (p *platform) openSentryKeys(ctx context.Context, c Config, db *store.DB, keys *seal.Keys, hide *monitor.Reporter, log *slog.Logger) (*sentry.Sentry, error) {
	conf := c.Auth.Sentry
	if conf == nil {
		return nil, nil
	}
	token := cmp.Or(string(conf.Token), os.Getenv(sentryTokenVariable))
	if conf.TokenFile != "" {
		secret, err := p.again.first(conf.TokenFile)
		if err == nil {
			token, err = sentryToken(secret)
		}
		if err != nil {
			return nil, fmt.Errorf("auth.sentry.tokenFile: %w", err)
		}
	}
	hide.Hide(token)
	settings, err := conf.settings(token)
	if err != nil {
		return nil, fmt.Errorf("auth.%w", err)
	}
	s, err := sentry.New(ctx, sentry.Config{Settings: settings, DB: db, Keys: keys, Log: log})
	if err != nil {
		return nil, err
	}
	p.again.take("sentry-token", conf.TokenFile, func(ctx context.Context, secret json.RawMessage) error {
		token, err := sentryToken(secret)
		if err != nil {
			return err
		}
		hide.Hide(token)
		return s.UseToken(ctx, token)
	})
	return s, nil
}

// addSentry adds the kind, also where there is no Sentry: it says so then.
func addSentry(to *credentials.Config, s *sentry.Sentry) {
	to.Kinds["sentry-key"] = sentry.Kind{}
	if s != nil {
		to.Kinds["sentry-key"] = s.Kind()
	}
}

// sentryGrace is how long a key of Sentry is disabled before it is deleted, unless the
// configuration says otherwise.
const sentryGrace = 24 * time.Hour

// sentryDSNs are what auth gives out.
type sentryDSNs struct{ *sentry.Sentry }

func (s sentryDSNs) DSN(ctx context.Context, project string) (auth.SentryDSN, error) {
	d, err := s.Sentry.DSN(ctx, project)
	return auth.SentryDSN(d), err
}
