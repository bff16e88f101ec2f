package sentry

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/sentry/sentryapi"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Kind rotates a key of a Sentry project.
type Kind struct {
	Client *sentryapi.Client
	Prefix string // of labels, unless the settings have one
}

var (
	_ credentials.Kind    = Kind{}
	_ credentials.Sited   = Kind{}
	_ credentials.Lagging = Kind{}
)

// kindSettings are the settings of a credential of the kind.
type kindSettings struct {
	Project   string              `json:"project"`
	Prefix    string              `json:"prefix"`
	Lifetime  string              `json:"lifetime"`
	RateLimit sentryapi.RateLimit `json:"rateLimit"`
	Replaces  []string            `json:"replaces"` // ids of keys that others have made

	lifetime time.Duration
}

type kindPublic struct {
	Project string `json:"project"`
	KeyID   string `json:"keyId"`
	Sentry  string `json:"sentry"` // server and organization
}

// kindSecret is what consumers get.
type kindSecret struct {
	DSN       string `json:"dsn"`
	SecretDSN string `json:"secretDsn,omitempty"` // with the other half of the key, which old SDKs want
}

const (
	defaultLifetime = 90 * 24 * time.Hour
	usedWithin      = 7 * 24 * time.Hour // is how far back uses are asked for
)

func (k Kind) parse(text json.RawMessage) (s kindSettings, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("the settings of a Sentry key are project, prefix, lifetime, rateLimit and replaces: %w", err)
	}
	s.Prefix = cmp.Or(s.Prefix, k.Prefix, defaultPrefix)
	s.lifetime = defaultLifetime
	if days, ok := strings.CutSuffix(s.Lifetime, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil || n == 0 {
			return s, fmt.Errorf("lifetime is %q; it must be a time such as 90d or 36h", s.Lifetime)
		}
		s.lifetime = time.Duration(n) * 24 * time.Hour
	} else if s.Lifetime != "" {
		if s.lifetime, err = time.ParseDuration(s.Lifetime); err != nil || s.lifetime <= 0 {
			return s, fmt.Errorf("lifetime is %q; it must be a time such as 90d or 36h", s.Lifetime)
		}
	}
	switch {
	case k.Client == nil:
		return s, errors.New("this deployment has no Sentry: its configuration has no section auth.sentry")
	case !sentryapi.ValidSlug(s.Project):
		return s, fmt.Errorf("project is %q; it must be the slug of a Sentry project, lower-case letters, digits, - and _", s.Project)
	case len(s.Prefix) > maxPrefix || !goodPrefix.MatchString(s.Prefix):
		return s, fmt.Errorf("prefix is %q; it must be lower-case letters, digits and hyphens between, up to %d", s.Prefix, maxPrefix)
	}
	return s, checkLimit(s.RateLimit)
}

// Check implements credentials.Kind.
func (k Kind) Check(settings json.RawMessage) (place string, err error) {
	s, err := k.parse(settings)
	if err != nil {
		return "", err
	}
	return "keys of the project " + s.Project + " at Sentry " + k.Client.Place(), nil
}

// Site implements credentials.Sited: credentials with the same project and prefix would
// take each other's keys for their own.
func (k Kind) Site(settings json.RawMessage) (site string, shared bool) {
	s, err := k.parse(settings)
	if err != nil {
		return "", false
	}
	return strings.Join([]string{k.Client.Place(), s.Project, s.Prefix}, " "), false
}

// Lag implements credentials.Lagging. Sentry promises nothing of the sort; its figures
// come within a minute or two.
func (Kind) Lag() time.Duration { return 3 * time.Minute }

// judge says whether trying again is of use.
func judge(err error) error {
	if sentryapi.Final(err) {
		return credentials.Refused("%w", err)
	}
	return err
}

func (s kindSettings) limit() *sentryapi.RateLimit {
	if s.RateLimit.Count == 0 {
		return nil
	}
	return &s.RateLimit
}

// of tells that a key is the version of an id.
func (s kindSettings) of(k sentryapi.Key, id string) bool {
	l, ok := read(k.Name)
	return ok && l.prefix == s.Prefix && l.id == id
}

// Mint implements credentials.Kind. A key that was made for the version is found by its
// label.
func (k Kind) Mint(ctx context.Context, o credentials.Order) (m credentials.Minted, err error) {
	s, err := k.parse(o.Settings)
	if err != nil {
		return m, credentials.Refused("%w", err)
	}
	all, err := k.Client.Keys(ctx, s.Project)
	if errors.Is(err, sentryapi.ErrNotFound) {
		return m, credentials.Refused("there is no project %s, or the token does not let it be seen; taskfleet credentials bootstrap makes one: %w", s.Project, err)
	} else if err != nil {
		return m, judge(err)
	}
	at := slices.IndexFunc(all, func(x sentryapi.Key) bool { return s.of(x, o.ID) && x.Active })
	var made sentryapi.Key
	if at >= 0 {
		made = all[at]
	} else if made, err = k.Client.CreateKey(ctx, s.Project, sentryapi.NewKey{
		Name: versionLabel(s.Prefix, o.ID, time.Now().Add(s.lifetime)), RateLimit: s.limit(),
	}); err != nil {
		return m, judge(err)
	}
	if made.ID == "" || made.DSN.Public == "" {
		return m, errors.New("sentry: the key that was made has no id or no DSN")
	}
	if m.Public, err = json.Marshal(kindPublic{s.Project, made.ID, k.Client.Place()}); err == nil {
		m.Secret, err = json.Marshal(kindSecret{made.DSN.Public, made.DSN.Secret})
	}
	return m, err
}

// Prove implements credentials.Kind: it asks Sentry for the key, as an ingesting server
// can take a while to hear that there is none, and sends an envelope with it.
func (k Kind) Prove(ctx context.Context, v credentials.Version) error {
	var secret kindSecret
	if json.Unmarshal(v.Secret, &secret) != nil || secret.DSN == "" {
		return credentials.Refused("the secret has no DSN")
	}
	s, id, err := k.identify(v)
	if err != nil {
		return err
	}
	found, err := k.Client.Key(ctx, s.Project, id)
	switch {
	case errors.Is(err, sentryapi.ErrNotFound):
		return credentials.ErrNoVersion
	case err != nil:
		return judge(err)
	case !found.Active:
		return errors.New("the key is disabled in Sentry")
	}
	return k.Client.Try(ctx, secret.DSN)
}

// identify tells the project of a version and what Sentry calls its key; "" if it was
// not minted, or that is not known.
func (k Kind) identify(v credentials.Version) (s kindSettings, id string, err error) {
	if s, err = k.parse(v.Settings); err != nil {
		return s, "", credentials.Refused("%w", err)
	}
	var p kindPublic
	if json.Unmarshal(v.Public, &p) == nil && p.KeyID != "" {
		if here := k.Client.Place(); p.Sentry != here { // where nothing of the key would look as if it were gone
			return s, "", credentials.Refused("the key is one of Sentry %s, and the configuration has %s now; bring that back, or delete the key of the project %s there by hand", p.Sentry, here, p.Project)
		}
		s.Project = cmp.Or(p.Project, s.Project) // which may be another one by now
		return s, p.KeyID, nil
	}
	return s, "", nil
}

// Used implements credentials.Kind, if the server tells. It tells of errors alone.
func (k Kind) Used(ctx context.Context, v credentials.Version) (time.Time, error) {
	s, id, err := k.identify(v)
	if err != nil {
		return time.Time{}, err
	}
	if id == "" {
		return time.Time{}, credentials.ErrNoVersion
	}
	at, err := k.Client.KeyUse(ctx, s.Project, id, usedWithin)
	e, answered := errors.AsType[*sentryapi.Error](err)
	switch {
	case err == nil:
		return at, nil
	case answered && e.Status == http.StatusNotFound: // the key, or the call
		if _, err := k.Client.Key(ctx, s.Project, id); errors.Is(err, sentryapi.ErrNotFound) {
			return time.Time{}, credentials.ErrNoVersion
		} else if err != nil {
			return time.Time{}, err
		}
		return time.Time{}, credentials.ErrNotTold
	case answered && slices.Contains([]int{http.StatusBadRequest, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusGone, http.StatusNotImplemented}, e.Status):
		return time.Time{}, credentials.ErrNotTold
	}
	return time.Time{}, err
}

// Disable implements credentials.Kind.
func (k Kind) Disable(ctx context.Context, v credentials.Version) error {
	return k.each(ctx, v, func(project string, x sentryapi.Key) error {
		if !x.Active {
			return nil
		}
		return k.Client.SetActive(ctx, project, x.ID, false)
	})
}

// Retire implements credentials.Kind.
func (k Kind) Retire(ctx context.Context, v credentials.Version) error {
	return k.each(ctx, v, func(project string, x sentryapi.Key) error { return k.Client.DeleteKey(ctx, project, x.ID) })
}

// each does something with the keys of a version: what it is known to be called, and
// whatever is labelled with it, as a request can have been carried out that failed.
func (k Kind) each(ctx context.Context, v credentials.Version, do func(project string, x sentryapi.Key) error) error {
	s, id, err := k.identify(v)
	if err != nil {
		return err
	}
	all, err := k.Client.Keys(ctx, s.Project)
	if errors.Is(err, sentryapi.ErrNotFound) {
		return nil // nor are there keys
	} else if err != nil {
		return judge(err)
	}
	for _, x := range all {
		if x.ID != id && !s.of(x, v.ID) {
			continue
		}
		if err := do(s.Project, x); err != nil && !errors.Is(err, sentryapi.ErrNotFound) {
			return judge(err)
		}
	}
	return nil
}

// List implements credentials.Kind: what is labelled with the prefix and a whole id, and
// what the settings name.
func (k Kind) List(ctx context.Context, o credentials.Order) (found []credentials.Found, err error) {
	s, err := k.parse(o.Settings)
	if err != nil {
		return nil, credentials.Refused("%w", err)
	}
	all, err := k.Client.Keys(ctx, s.Project)
	if errors.Is(err, sentryapi.ErrNotFound) {
		return nil, credentials.Refused("there is no project %s, or the token does not let it be seen; taskfleet credentials bootstrap makes one: %w", s.Project, err)
	} else if err != nil {
		return nil, judge(err)
	}
	for _, x := range all {
		l, ok := read(x.Name)
		ours := ok && l.prefix == s.Prefix && l.id != "" && !l.lent(s.Prefix)
		adopt := !ours && slices.Contains(s.Replaces, x.ID)
		if !ours && !adopt {
			continue
		}
		f := credentials.Found{ID: cmp.Or(l.id, x.ID), Created: timestamp.Of(x.Created), Adopt: adopt}
		if adopt {
			f.ID = x.ID
		}
		if f.Public, err = json.Marshal(kindPublic{s.Project, x.ID, k.Client.Place()}); err != nil {
			return nil, err
		}
		found = append(found, f)
	}
	return found, nil
}
