package signalfx

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/signalfx/signalfx-go/notification"
	"github.com/signalfx/signalfx-go/orgtoken"
)

// Settings are those of a credential of this kind.
type Settings struct {
	Realm  string `json:"realm"`  // such as eu0
	API    string `json:"api"`    // where requests go; default: https://api.<realm>.signalfx.com
	Ingest string `json:"ingest"` // where data goes; default: https://ingest.<realm>.signalfx.com

	// Token is that of a session of an administrator. It may be in TokenFile instead, which
	// is read whenever it is needed.
	Token     string `json:"token"`
	TokenFile string `json:"tokenFile"`

	Name    string `json:"name"`    // what names of tokens begin with
	Present string `json:"present"` // a token that is in use before the first rotation

	Description   string                       `json:"description"`
	AuthScopes    []string                     `json:"authScopes"` // INGEST, API, RUM; default: INGEST
	Limits        *orgtoken.Limit              `json:"limits"`
	Notifications []*notification.Notification `json:"notifications"`
}

const (
	scopeIngest = "INGEST"
	scopeAPI    = "API"
	scopeRUM    = "RUM"
)

var (
	realmPattern = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
	namePattern  = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,100}$`) // what needs no escapes, which not every client makes in the same way
)

func parse(text json.RawMessage) (s Settings, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return s, fmt.Errorf("the settings of a SignalFx token are realm, api, ingest, token, tokenFile, name, present, description, authScopes, limits and notifications: %w", err)
	}
	if err := s.places(); err != nil {
		return s, err
	}
	switch {
	case !namePattern.MatchString(s.Name):
		return s, fmt.Errorf("name is %q; it is what names of tokens begin with, of letters, digits, full stops, underscores and hyphens", s.Name)
	case s.Present != "" && !namePattern.MatchString(s.Present):
		return s, fmt.Errorf("present is %q; only tokens whose names are of letters, digits, full stops, underscores and hyphens can be replaced", s.Present)
	}
	if len(s.AuthScopes) == 0 {
		s.AuthScopes = []string{scopeIngest}
	}
	for i, scope := range s.AuthScopes {
		if !slices.Contains([]string{scopeIngest, scopeAPI, scopeRUM}, scope) || slices.Contains(s.AuthScopes[:i], scope) {
			return s, fmt.Errorf("authScopes[%d] is %q; there are %s, %s and %s, each once", i, scope, scopeIngest, scopeAPI, scopeRUM)
		}
	}
	for i, n := range s.Notifications {
		if n == nil || n.Value == nil {
			return s, fmt.Errorf("notifications[%d] is of no type that is known; it is for example {type: Email, email: somebody@example.com}", i)
		}
	}
	if strings.Contains(s.Description, "taskfleet credential") {
		return s, errors.New("description: which version a token is gets into it by itself")
	}
	return s, nil
}

// places reads where SignalFx is, and who we are there.
func (s *Settings) places() error {
	switch {
	case s.Realm == "" && (s.API == "" || s.Ingest == ""):
		return errors.New("realm is missing; it is in the profile of every user, and is for example eu0")
	case s.Realm != "" && !realmPattern.MatchString(s.Realm):
		return fmt.Errorf("realm is %q; it is lower-case letters and digits, such as eu0", s.Realm)
	case s.Token == "" && s.TokenFile == "":
		return errors.New("token is missing: that of a session of an administrator, or a file with it in tokenFile")
	case s.Token != "" && s.TokenFile != "":
		return errors.New("there are token and tokenFile; give one of them")
	case s.TokenFile != "" && !filepath.IsAbs(s.TokenFile):
		return fmt.Errorf("tokenFile is %q; it must be an absolute path", s.TokenFile)
	}
	s.API = cmp.Or(s.API, "https://api."+s.Realm+".signalfx.com")
	s.Ingest = cmp.Or(s.Ingest, "https://ingest."+s.Realm+".signalfx.com")
	for name, at := range map[string]*string{"api": &s.API, "ingest": &s.Ingest} {
		u, err := url.Parse(*at)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" {
			return fmt.Errorf("%s must be a URL such as https://%s.eu0.signalfx.com", name, name)
		}
		*at = strings.TrimSuffix(*at, "/")
	}
	return nil
}

// request is for a token as the settings want it.
func (s Settings) request(name, label string) *orgtoken.CreateUpdateTokenRequest {
	description := label
	if s.Description != "" {
		description = s.Description + " (" + label + ")"
	}
	return &orgtoken.CreateUpdateTokenRequest{Name: name, Description: description, AuthScopes: s.AuthScopes, Limits: s.Limits, Notifications: s.Notifications}
}
