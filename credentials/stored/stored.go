// Package stored is for credentials whose new versions people bring: passwords of mail
// servers, tokens of Slack, keys that were bought. The platform keeps them, says when a
// new one is due, tries it by the protocol that it is for, and hands it out.
package stored

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
)

// Kind is credentials.Kind for them.
type Kind struct {
	Transport http.RoundTripper // nil: the usual one
}

// Settings are those of a credential of this kind.
type Settings struct {
	Place   string   `json:"place"`   // where it comes from, in words
	Expires string   `json:"expires"` // 2027-01-31: until when the one in use is good
	Members []string `json:"members"` // that every version has, as texts
	Prove   string   `json:"prove"`   // how it is tried
	SMTP    *SMTP    `json:"smtp"`
	Slack   *Slack   `json:"slack"`
	HTTP    *HTTP    `json:"http"`
}

// The ways to try a version.
const (
	bySMTP  = "smtp"
	bySlack = "slack"
	byHTTP  = "http"
	byNone  = "none"
)

// A prover tries a version, and may end it.
type prover interface {
	// check fills in what was left out, and says what is wrong; needs are the members that
	// it has to have.
	check() (needs []string, err error)
	prove(ctx context.Context, transport http.RoundTripper, secret map[string]string) error
	retire(ctx context.Context, transport http.RoundTripper, secret map[string]string) error
}

func parse(text json.RawMessage) (s Settings, p prover, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, nil, fmt.Errorf("the settings of what is stored are place, expires, members, prove, smtp, slack and http: %w", err)
	}
	if strings.TrimSpace(s.Place) == "" {
		return s, nil, errors.New("place must say in words where a new version comes from")
	}
	if _, err := s.expires(); err != nil {
		return s, nil, err
	}
	ways := map[string]prover{bySMTP: s.SMTP, bySlack: cmpSlack(s.Slack), byHTTP: s.HTTP, byNone: nothing{}}
	given := map[string]bool{bySMTP: s.SMTP != nil, bySlack: s.Slack != nil, byHTTP: s.HTTP != nil}
	p, ok := ways[s.Prove]
	if !ok {
		return s, nil, fmt.Errorf("prove is %q; it must be smtp, slack or http, as a version is tried, or none", s.Prove)
	}
	for _, way := range []string{bySMTP, bySlack, byHTTP} {
		switch {
		case given[way] && way != s.Prove:
			return s, nil, fmt.Errorf("%s is of no use where prove is %s", way, s.Prove)
		case !given[way] && way == s.Prove && way != bySlack:
			return s, nil, fmt.Errorf("prove is %s, so %s must say where that is", way, way)
		}
	}
	needs, err := p.check()
	if err != nil {
		return s, nil, fmt.Errorf("%s: %w", s.Prove, err)
	}
	for _, m := range needs {
		if !slices.Contains(s.Members, m) {
			s.Members = append(s.Members, m)
		}
	}
	return s, p, nil
}

func cmpSlack(s *Slack) *Slack {
	if s == nil {
		return &Slack{}
	}
	return s
}

// expires reads the date. What expires on a day does so when it begins.
func (s Settings) expires() (time.Time, error) {
	if s.Expires == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.DateOnly, s.Expires)
	if err != nil {
		t, err = time.Parse(time.RFC3339, s.Expires)
	}
	if err != nil {
		return t, fmt.Errorf("expires is %q; it must be a date such as 2027-01-31", s.Expires)
	}
	return t, nil
}

// Check implements credentials.Kind.
func (Kind) Check(settings json.RawMessage) (place string, err error) {
	s, _, err := parse(settings)
	return s.Place, err
}

// Site implements credentials.Sited: nothing is minted there.
func (Kind) Site(json.RawMessage) (site string, shared bool) { return "", true }

// Supplied implements credentials.Supplied.
func (Kind) Supplied(settings json.RawMessage) (expires time.Time) {
	s, _, err := parse(settings)
	if err != nil {
		return time.Time{}
	}
	expires, _ = s.expires()
	return expires
}

// texts are the members of a secret that are texts.
func texts(secret []byte) (map[string]string, error) {
	var all map[string]any
	if json.Unmarshal(secret, &all) != nil || len(all) == 0 {
		return nil, errors.New("it must be a JSON object that is not empty")
	}
	out := map[string]string{}
	for name, value := range all {
		if text, ok := value.(string); ok {
			out[name] = text
		}
	}
	return out, nil
}

// Mint implements credentials.Kind: the version is what was brought.
func (Kind) Mint(_ context.Context, o credentials.Order) (credentials.Minted, error) {
	s, _, err := parse(o.Settings)
	if err != nil {
		return credentials.Minted{}, credentials.Refused("%w", err)
	}
	has, err := texts(o.Seed)
	if err != nil {
		return credentials.Minted{}, credentials.Refused("%w", err)
	}
	for _, m := range s.Members {
		switch text := has[m]; {
		case text == "":
			return credentials.Minted{}, credentials.Refused("it has no member %q that is a text and not empty", m)
		case strings.TrimSpace(text) != text:
			return credentials.Minted{}, credentials.Refused("its member %q begins or ends with a space or the end of a line, as what was copied may", m)
		}
	}
	return credentials.Minted{Public: json.RawMessage(`{}`), Secret: o.Seed}, nil
}

// Prove implements credentials.Kind.
func (k Kind) Prove(ctx context.Context, v credentials.Version) error {
	_, p, err := parse(v.Settings)
	if err != nil {
		return credentials.Refused("%w", err)
	}
	has, err := texts(v.Secret)
	if err != nil {
		return credentials.Refused("%w", err)
	}
	return p.prove(ctx, k.Transport, has)
}

// Used implements credentials.Kind.
func (Kind) Used(context.Context, credentials.Version) (time.Time, error) {
	return time.Time{}, credentials.ErrNotTold
}

// Disable implements credentials.Kind.
func (Kind) Disable(context.Context, credentials.Version) error { return nil }

// Retire implements credentials.Kind. What cannot be ended from here somebody ends where
// it comes from.
func (k Kind) Retire(ctx context.Context, v credentials.Version) error {
	_, p, err := parse(v.Settings)
	if err != nil {
		return credentials.Refused("%w", err)
	}
	has, err := texts(v.Secret)
	if err != nil {
		return nil // it never was there
	}
	return p.retire(ctx, k.Transport, has)
}

// List implements credentials.Kind.
func (Kind) List(context.Context, credentials.Order) ([]credentials.Found, error) {
	return nil, credentials.ErrNotTold
}

// nothing is how a version is tried that cannot be.
type nothing struct{}

func (nothing) check() ([]string, error) { return nil, nil }

func (nothing) prove(context.Context, http.RoundTripper, map[string]string) error { return nil }

func (nothing) retire(context.Context, http.RoundTripper, map[string]string) error { return nil }
