// Package signalfx rotates organisation tokens of SignalFx, which is Splunk
// Observability Cloud by now.
//
// Each version is a token of its own, whose name ends with the version's id. SignalFx can
// also change the secret of a token in place and have the old one work for a number of
// seconds. That is not used here: the request is not repeatable, as a second one ends what
// the first has made; the old secret goes at a time that nobody can move when somebody
// still needs it; and it can be neither disabled nor told from the new one.
//
// Who asks is an administrator. To him a token tells its secret whenever he asks, so a
// version that was made before a crash is found again, and is the same.
package signalfx

import (
	"bytes"
	"cmp"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/signalfx/signalfx-go"
	"github.com/signalfx/signalfx-go/orgtoken"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/pace"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Kind is credentials.Kind for SignalFx.
type Kind struct{ http *http.Client }

const (
	every        = 500 * time.Millisecond // is a request sent, at most
	requestLimit = time.Minute            // of one request, with what it has to wait
	pageSize     = 100
	mostFound    = 20_000 // things that have something in their name
)

// New makes the kind. All its requests keep their distance from each other. Where base is
// nil it is http.DefaultTransport.
func New(base http.RoundTripper) *Kind {
	return &Kind{&http.Client{
		Transport:     &pace.Transport{Base: base, Every: every},
		Timeout:       requestLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// A public is what tells a version.
type public struct {
	Name    string         `json:"name"`
	Expires timestamp.Time `json:"expires,omitempty"`
}

// A secret is what consumers get.
type secret struct {
	Token     string `json:"token"`
	Name      string `json:"name"`
	Realm     string `json:"realm,omitempty"`
	APIURL    string `json:"apiUrl"`
	IngestURL string `json:"ingestUrl"`
}

// errNotThere is that there is no token of a name.
var errNotThere = errors.New("there is no such token")

var errNoEnd = fmt.Errorf("SignalFx lists more than %d", mostFound)

// open reads the settings, and is then who they say.
func (k *Kind) open(text json.RawMessage) (s Settings, c *signalfx.Client, err error) {
	if s, err = parse(text); err != nil {
		return s, nil, credentials.Refused("%w", err)
	}
	c, err = k.client(s)
	return s, c, err
}

func (k *Kind) client(s Settings) (*signalfx.Client, error) {
	token := s.Token
	if s.TokenFile != "" {
		text, err := os.ReadFile(s.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("tokenFile: %w", err)
		}
		token = strings.TrimSpace(string(text))
	}
	return k.as(s, token)
}

func (k *Kind) as(s Settings, token string) (*signalfx.Client, error) {
	return signalfx.NewClient(token, signalfx.APIUrl(s.API), signalfx.HTTPClient(k.http), signalfx.UserAgent("taskfleet"))
}

// judge says what an error of the client means. What the server says besides a number is
// not repeated.
func judge(err error) error {
	if err == nil {
		return nil
	}
	answer, ok := signalfx.AsResponseError(err)
	if !ok {
		return err
	}
	switch code := answer.Code(); {
	case code == http.StatusNotFound:
		return errNotThere
	case code == http.StatusUnauthorized:
		return credentials.Refused("SignalFx answers 401 Unauthorized; has the session of token or tokenFile ended?")
	case code == http.StatusForbidden:
		return credentials.Refused("SignalFx answers 403 Forbidden; is token or tokenFile that of a session of an administrator? One of an organisation will not do")
	case code/100 == 4 && code != http.StatusRequestTimeout && code != http.StatusTooManyRequests:
		return credentials.Refused("SignalFx answers %d %s", code, http.StatusText(code))
	default:
		return fmt.Errorf("SignalFx answers %d %s", code, http.StatusText(code))
	}
}

// label is in the description of a version.
func label(credential, id string) string {
	return "taskfleet credential " + credential + " version " + id
}

// labelled is the id of the version that a description names.
func labelled(credential, text string) string {
	_, id, _ := strings.Cut(text, label(credential, ""))
	return strings.TrimSuffix(id, ")")
}

// nameOf is the name of the token that is a version.
func nameOf(s Settings, v credentials.Version) string {
	var p public
	if json.Unmarshal(v.Public, &p) == nil && p.Name != "" {
		return p.Name
	}
	return s.Name + "-" + v.ID // it was not minted, or that is not known
}

// Check implements credentials.Kind.
func (*Kind) Check(settings json.RawMessage) (place string, err error) {
	s, err := parse(settings)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("SignalFx at %s, tokens %s-…", s.API, s.Name), nil
}

// Site implements credentials.Sited: names of tokens are those of an organisation, and
// ids tell those of one credential from those of others.
func (*Kind) Site(settings json.RawMessage) (site string, shared bool) {
	s, err := parse(settings)
	if err != nil {
		return string(settings), true
	}
	return s.API, true
}

// Due implements credentials.Expiring: a version has to go while a third of its life, or
// a month, is left.
func (*Kind) Due(v credentials.Version) time.Time {
	var p public
	if json.Unmarshal(v.Public, &p) != nil || p.Expires.IsZero() {
		return time.Time{}
	}
	left := min(p.Expires.Time().Sub(v.Created.Time())/3, 30*24*time.Hour)
	return p.Expires.Time().Add(-max(left, 0))
}

// Mint implements credentials.Kind.
func (k *Kind) Mint(ctx context.Context, o credentials.Order) (m credentials.Minted, err error) {
	s, c, err := k.open(o.Settings)
	if err != nil {
		return m, err
	}
	t, err := create(ctx, c, s.request(s.Name+"-"+o.ID, label(o.Credential, o.ID)))
	if err != nil {
		return m, fmt.Errorf("making the token %s-%s: %w", s.Name, o.ID, err)
	}
	p := public{Name: t.Name}
	if t.Expiry > 0 {
		p.Expires = timestamp.Of(time.UnixMilli(t.Expiry))
	}
	if m.Public, err = json.Marshal(p); err == nil {
		m.Secret, err = json.Marshal(secret{t.Secret, t.Name, s.Realm, s.API, s.Ingest})
	}
	return m, err
}

// create makes a token, unless an attempt before has.
func create(ctx context.Context, c *signalfx.Client, r *orgtoken.CreateUpdateTokenRequest) (*orgtoken.Token, error) {
	t, err := c.GetOrgToken(ctx, r.Name)
	if err := judge(err); err != nil && !errors.Is(err, errNotThere) {
		return nil, err
	} else if err == nil && t.Secret != "" {
		return t, nil
	} else if err == nil { // nobody will ever know what it is
		if err := judge(c.DeleteOrgToken(ctx, r.Name)); err != nil && !errors.Is(err, errNotThere) {
			return nil, err
		}
	}
	if t, err = c.CreateOrgToken(ctx, r); err != nil {
		return nil, judge(err)
	}
	if t.Secret == "" || t.Name != r.Name {
		return nil, errors.New("SignalFx has made a token and does not tell its secret")
	}
	return t, nil
}

// Prove implements credentials.Kind: what the scopes of the token are for is done once.
func (k *Kind) Prove(ctx context.Context, v credentials.Version) error {
	s, c, err := k.open(v.Settings)
	if err != nil {
		return err
	}
	var is secret
	if json.Unmarshal(v.Secret, &is) != nil || is.Token == "" {
		return credentials.Refused("the secret cannot be read")
	}
	if err := k.try(ctx, s, is, v.Credential); err != nil {
		if _, missing := c.GetOrgToken(ctx, is.Name); errors.Is(judge(missing), errNotThere) {
			return credentials.ErrNoVersion
		}
		return err
	}
	if slices.Contains(s.AuthScopes, scopeIngest) || slices.Contains(s.AuthScopes, scopeAPI) {
		return nil
	}
	// One for browsers alone can only be looked at.
	t, err := c.GetOrgToken(ctx, is.Name)
	switch err := judge(err); {
	case errors.Is(err, errNotThere):
		return credentials.ErrNoVersion
	case err != nil:
		return fmt.Errorf("looking at the token %s: %w", is.Name, err)
	case t.Disabled:
		return fmt.Errorf("the token %s is disabled", is.Name)
	case subtle.ConstantTimeCompare([]byte(t.Secret), []byte(is.Token)) == 0:
		return fmt.Errorf("the token %s has got another secret; somebody has rotated it", is.Name)
	}
	return nil
}

func (k *Kind) try(ctx context.Context, s Settings, is secret, credential string) error {
	if slices.Contains(s.AuthScopes, scopeIngest) {
		if err := k.send(ctx, s, is.Token, credential); err != nil {
			return fmt.Errorf("sending a datapoint with the token %s: %w", is.Name, err)
		}
	}
	if slices.Contains(s.AuthScopes, scopeAPI) {
		c, err := k.as(s, is.Token)
		if err != nil {
			return err
		}
		if _, err := c.SearchMetric(ctx, "sf_metric:taskfleet.*", "", 1, 0); err != nil {
			if answer, ok := signalfx.AsResponseError(err); ok {
				err = fmt.Errorf("SignalFx answers %d %s", answer.Code(), http.StatusText(answer.Code()))
			}
			return fmt.Errorf("searching for metrics with the token %s: %w", is.Name, err)
		}
	}
	return nil
}

// send sends a datapoint, of a metric that has one time series for each credential.
func (k *Kind) send(ctx context.Context, s Settings, token, credential string) error {
	body, err := json.Marshal(map[string]any{"gauge": []map[string]any{{
		"metric": "taskfleet.credentials.proof", "value": 1, "dimensions": map[string]string{"credential": credential},
	}}})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Ingest+"/v2/datapoint", bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set(signalfx.AuthHeaderKey, token)
	r.Header.Set("Content-Type", "application/json")
	answer, err := k.http.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	io.Copy(io.Discard, io.LimitReader(answer.Body, 1<<16))
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("SignalFx answers %d %s", answer.StatusCode, http.StatusText(answer.StatusCode))
	}
	return nil
}

// Used implements credentials.Kind. SignalFx counts what comes with a token, and does not
// tell when it was used last.
func (*Kind) Used(context.Context, credentials.Version) (time.Time, error) {
	return time.Time{}, credentials.ErrNotTold
}

// Disable implements credentials.Kind.
func (k *Kind) Disable(ctx context.Context, v credentials.Version) error {
	s, c, err := k.open(v.Settings)
	if err != nil {
		return err
	}
	name := nameOf(s, v)
	t, err := c.GetOrgToken(ctx, name)
	if err := judge(err); errors.Is(err, errNotThere) {
		return nil
	} else if err != nil {
		return fmt.Errorf("looking at the token %s: %w", name, err)
	}
	if t.Disabled {
		return nil
	}
	r := &orgtoken.CreateUpdateTokenRequest{Name: t.Name, AuthScopes: t.AuthScopes, Description: t.Description, Limits: t.Limits, Notifications: t.Notifications, Disabled: true}
	_, err = c.UpdateOrgToken(ctx, name, r)
	if err := judge(err); err != nil && !errors.Is(err, errNotThere) {
		return fmt.Errorf("disabling the token %s: %w", name, err)
	}
	return nil
}

// Retire implements credentials.Kind.
func (k *Kind) Retire(ctx context.Context, v credentials.Version) error {
	s, c, err := k.open(v.Settings)
	if err != nil {
		return err
	}
	name := nameOf(s, v)
	if err := judge(c.DeleteOrgToken(ctx, name)); err != nil && !errors.Is(err, errNotThere) {
		return fmt.Errorf("deleting the token %s: %w", name, err)
	}
	return nil
}

// List implements credentials.Kind. A version says in its description what it is.
func (k *Kind) List(ctx context.Context, o credentials.Order) (found []credentials.Found, err error) {
	s, c, err := k.open(o.Settings)
	if err != nil {
		return nil, err
	}
	tokens, err := search(ctx, c, s.Name)
	if err != nil {
		return nil, fmt.Errorf("searching for tokens %s-…: %w", s.Name, err)
	}
	if s.Present != "" && !slices.ContainsFunc(tokens, func(t orgtoken.Token) bool { return t.Name == s.Present }) {
		t, err := c.GetOrgToken(ctx, s.Present)
		if err := judge(err); err == nil {
			tokens = append(tokens, *t)
		} else if !errors.Is(err, errNotThere) {
			return nil, fmt.Errorf("looking at the token %s: %w", s.Present, err)
		}
	}
	versions := map[string]string{}
	for _, v := range o.Known {
		versions[nameOf(s, v)] = v.ID
	}
	for _, t := range tokens {
		id := labelled(o.Credential, t.Description)
		present := t.Name == s.Present && id == ""
		if id == "" && !present {
			continue
		}
		f := credentials.Found{ID: cmp.Or(versions[t.Name], id, t.Name), Adopt: present}
		if t.Created > 0 {
			f.Created = timestamp.Of(time.UnixMilli(t.Created))
		}
		p := public{Name: t.Name}
		if t.Expiry > 0 {
			p.Expires = timestamp.Of(time.UnixMilli(t.Expiry))
		}
		if f.Public, err = json.Marshal(p); err != nil {
			return nil, err
		}
		found = append(found, f)
	}
	return found, nil
}

// search finds all tokens that have something in their name.
func search(ctx context.Context, c *signalfx.Client, name string) (all []orgtoken.Token, err error) {
	seen := map[string]bool{}
	for offset := 0; ; {
		page, err := c.SearchOrgTokens(ctx, pageSize, name, offset)
		if err != nil {
			return nil, judge(err)
		}
		for _, t := range page.Results {
			if !seen[t.Name] { // the pages move when something is made or deleted meanwhile
				seen[t.Name] = true
				all = append(all, t)
			}
		}
		offset += len(page.Results)
		switch {
		case len(page.Results) == 0 || offset >= int(page.Count):
			return all, nil
		case offset >= mostFound:
			return nil, errNoEnd
		}
	}
}
