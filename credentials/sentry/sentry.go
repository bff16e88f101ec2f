// Package sentry has the platform keep Sentry's projects and their keys.
//
// It is three things about one Client, package sentryapi:
//
//   - Kind is a kind of credential: a key of a project for each version.
//   - Plan and Apply have a project be as it should: a team, a platform, an alert, a
//     limit; they create what is missing.
//   - DSN is what auth.sentryDSN gives out: the address of a project, which is created
//     when it is asked for first, with a key that is replaced every day.
//
// # Keys that are given out
//
// A key is valid for two days, and given out while it is for more than 25 hours. So who
// asks once a day always has one that works. A quarter of an hour after its end a key
// is disabled, which can be taken back by hand in Sentry, and a day later deleted.
//
// Whoever is asked for an address when there is none good enough makes a key, under a
// lease on the project; all others, of all replicas, wait for that. The key is written
// down with a fresh id before it is made, and its label has a part of the id and its
// end. So the process after a crash finds the key that was made, and one that no
// database knows is found once a day and goes at its end.
//
// Sentry being away, or slow, does not matter as long as there is an address that is valid
// for another hour: it is given out, and told when it ends.
//
// # Projects
//
// A project is created if Sentry says that there is none, and after no other error. That
// we are about to is written down before, so that the key that Sentry gives to every
// new project, which would be valid for ever, is disabled also after a crash.
//
// # Calls
//
// All replicas together call Sentry twice a second at most: a row of the database says
// when the next call has its turn. That is as exact as the replicas' clocks agree.
package sentry

import (
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/credentials/sentry/sentryapi"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Settings are what the configuration says.
type Settings struct {
	URL          string
	Organization string
	Token        string
	Team         string // of projects for which nobody says another one
	Platform     string // likewise; "" is none
	Prefix       string // of labels: taskfleet where it is empty
	RateLimit    sentryapi.RateLimit
	AlertEvery   time.Duration // between emails of one issue to the team of a new project; 0: no alert
}

// Config is what a Sentry needs.
type Config struct {
	Settings
	DB        *store.DB
	Keys      *seal.Keys
	Log       *slog.Logger
	Transport http.RoundTripper // for tests
}

// Sentry keeps projects and keys.
type Sentry struct {
	Settings
	client *sentryapi.Client
	db     *store.DB
	keys   *seal.Keys
	log    *slog.Logger

	mu      sync.Mutex
	flights map[string]*flight // by project

	soon chan struct{} // has room for one who makes a key while there is another one
}

const (
	defaultPrefix = "taskfleet"
	maxPrefix     = 9
)

var goodPrefix = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)

// Check tells what is wrong with settings. It asks nobody.
func (s Settings) Check() error {
	_, err := sentryapi.New(sentryapi.Config{URL: s.URL, Organization: s.Organization, Token: s.Token})
	wrong := []error{err}
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf("sentry: "+format, args...)) }
	if !sentryapi.ValidSlug(s.Team) || len(s.Team) > maxTeam {
		bad("initialTeam is %q; it must be the slug of a team, which new projects belong to", s.Team)
	}
	if p := cmp.Or(s.Prefix, defaultPrefix); len(p) > maxPrefix || !goodPrefix.MatchString(p) {
		bad("keyPrefix is %q; it must be lower-case letters, digits and hyphens between, up to %d, as labels have %d characters", s.Prefix, maxPrefix, sentryapi.MaxKeyName)
	}
	if err := checkLimit(s.RateLimit); err != nil {
		bad("%w", err)
	}
	if s.AlertEvery != 0 && !frequencies[s.AlertEvery] {
		bad("alertEvery is %s; Sentry knows 5m, 10m, 30m, 1h, 3h, 12h and 24h", s.AlertEvery)
	}
	return errors.Join(wrong...)
}

// frequencies are those that Sentry offers for alerts.
var frequencies = map[time.Duration]bool{5 * time.Minute: true, 10 * time.Minute: true, 30 * time.Minute: true, time.Hour: true, 3 * time.Hour: true,
	12 * time.Hour: true, 24 * time.Hour: true}

// checkLimit tells what is wrong with a limit.
func checkLimit(l sentryapi.RateLimit) error {
	if l.Count < 0 || l.Window < 0 || l.Window > 24*60*60 || (l.Count == 0) != (l.Window == 0) {
		return fmt.Errorf("the rate limit has the count %d and the window %d; it must be a number of events in up to 86400 seconds", l.Count, l.Window)
	}
	return nil
}

// New opens what is kept of Sentry. It does not connect to it.
func New(ctx context.Context, c Config) (*Sentry, error) {
	if err := c.Check(); err != nil {
		return nil, err
	}
	if err := c.DB.Migrate(ctx, "sentry", migrations); err != nil {
		return nil, fmt.Errorf("sentry: migrate: %w", err)
	}
	c.Prefix = cmp.Or(c.Prefix, defaultPrefix)
	client, err := sentryapi.New(sentryapi.Config{URL: c.URL, Organization: c.Organization, Token: c.Token, Pace: pace{c.DB}, Transport: c.Transport})
	if err != nil {
		return nil, err
	}
	return &Sentry{Settings: c.Settings, client: client, db: c.DB, keys: c.Keys, log: c.Log, flights: map[string]*flight{}, soon: make(chan struct{}, 1)}, nil
}

// String leaves the token out, as does GoString.
func (s *Sentry) String() string { return s.client.String() }

// GoString leaves the token out.
func (s *Sentry) GoString() string { return s.client.String() }

// Kind is the kind of credential, whose calls have their turn among the others.
func (s *Sentry) Kind() Kind { return Kind{Client: s.client, Prefix: s.Prefix} }

// UseToken has Sentry be called with another token from now on, if it works.
func (s *Sentry) UseToken(ctx context.Context, token string) error { return s.client.Use(ctx, token) }

// Loops are the work that goes on beside the calls; none of a deployment that has no
// Sentry.
func (s *Sentry) Loops() []loop.Loop {
	if s == nil {
		return nil
	}
	return []loop.Loop{
		{Name: "sentry.expiry", Doc: "Disables Sentry keys whose time is over, and deletes them a day later.", When: loop.Every(5 * time.Minute), Pass: s.expire},
		{Name: "sentry.sweep", Doc: "Looks at the keys of all Sentry projects once a day for those that nobody knows.", When: loop.Every(10 * time.Minute), Pass: s.sweep},
		{Name: "sentry.reseal", Doc: "Seals Sentry addresses anew that are sealed with an old key.", When: loop.Every(time.Hour), Pass: s.reseal},
	}
}
