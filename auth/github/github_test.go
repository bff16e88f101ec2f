package github_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth/github"
)

var private = sync.OnceValues(func() (*rsa.PrivateKey, string) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k, string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(k)}))
})

// hub imitates GitHub: an app that is installed on some accounts.
type hub struct {
	accounts map[string]int64 // installations by path: orgs/acme, users/jo
	logins   map[string]string
	lookups  int
	limited  http.Header // of a 403, where it is not nil
}

func (h *hub) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := func(status int, headers http.Header, text string) (*http.Response, error) {
		if headers == nil {
			headers = http.Header{}
		}
		return &http.Response{StatusCode: status, Header: headers, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
	}
	key, _ := private()
	claims := jwt.RegisteredClaims{}
	proof, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	_, err := jwt.ParseWithClaims(proof, &claims, func(*jwt.Token) (any, error) { return &key.PublicKey, nil }, jwt.WithValidMethods([]string{"RS256"}))
	if err != nil || claims.Issuer != "4711" || claims.ExpiresAt.Sub(claims.IssuedAt.Time) > 10*time.Minute {
		return answer(401, nil, `{"message":"A JSON web token could not be decoded"}`)
	}
	if h.limited != nil {
		return answer(403, h.limited, `{"message":"no"}`)
	}
	if account, ok := strings.CutSuffix(strings.TrimPrefix(r.URL.Path, "/"), "/installation"); ok {
		h.lookups++
		if id := h.accounts[account]; id != 0 {
			_, login, _ := strings.Cut(account, "/")
			if h.logins[login] != "" {
				login = h.logins[login]
			}
			return answer(200, nil, fmt.Sprintf(`{"id":%d,"account":{"login":%q}}`, id, login))
		}
		return answer(404, nil, `{"message":"Not Found"}`)
	}
	for id := range maps.Values(h.accounts) {
		if r.Method != "POST" || r.URL.Path != fmt.Sprintf("/app/installations/%d/access_tokens", id) {
			continue
		}
		var x struct {
			Repositories []string
			Permissions  map[string]string
		}
		if err := json.NewDecoder(r.Body).Decode(&x); err != nil {
			return nil, err
		}
		if slices.Contains(x.Repositories, "private") {
			return answer(422, nil, `{"message":"There is at least one repository that does not exist or is not accessible"}`)
		}
		return answer(201, nil, fmt.Sprintf(`{"token":"ghs_%d_%s_%s","expires_at":"2030-01-02T03:04:05Z"}`, id, strings.Join(x.Repositories, "+"), x.Permissions["contents"]))
	}
	return answer(404, nil, `{"message":"Not Found"}`)
}

func open(t *testing.T, h *hub) *github.Apps {
	t.Helper()
	_, text := private()
	x, err := github.New(github.Config{Transport: h, Apps: map[string]github.App{"ci": {ID: "4711", PrivateKey: strings.ReplaceAll(text, "\n", `\n`)}}})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestTokens(t *testing.T) {
	h := &hub{accounts: map[string]int64{"orgs/acme": 7, "users/jo": 8}}
	synctest.Test(t, func(t *testing.T) {
		x := open(t, h)
		get := func(owner string, repositories ...string) string {
			got, err := x.RepoToken(t.Context(), "ci", owner, repositories, map[string]string{"contents": "read"})
			if e, ok := errors.AsType[*api.Error](err); ok {
				return string(e.Code)
			}
			if err != nil {
				t.Fatal(err)
			}
			return got.Text
		}
		for range 2 {
			if got := get("acme", "a", "b"); got != "ghs_7_a+b_read" {
				t.Error(got)
			}
		}
		if h.lookups != 1 {
			t.Errorf("the installation was looked up %d times", h.lookups)
		}
		if got := get("jo", "c"); got != "ghs_8_c_read" {
			t.Error(got)
		}
		if got := get("nobody", "c"); got != "ResourceNotFound" {
			t.Error(got)
		}
		if got := get("acme", "private"); got != "InputError" {
			t.Error(got)
		}

		// Installed anew, it has another id: that is found out by trying.
		delete(h.accounts, "orgs/acme")
		if got := get("acme", "a"); got != "ResourceNotFound" {
			t.Error(got)
		}
		h.accounts["orgs/acme"] = 9
		if got := get("acme", "a"); got != "ghs_9_a_read" {
			t.Error(got)
		}

		// An owner with another name now may be one that the caller has no
		// scopes for.
		h.logins = map[string]string{"jo": "joanna"}
		time.Sleep(time.Hour)
		if got := get("jo", "c"); got != "InputError" {
			t.Error(got)
		}
	})
}

func TestLimitsAndFailures(t *testing.T) {
	h := &hub{accounts: map[string]int64{"orgs/acme": 7}}
	x := open(t, h)
	for name, c := range map[string]struct {
		header http.Header
		want   api.Code
	}{
		"used up":      {http.Header{"X-Ratelimit-Remaining": {"0"}}, api.TooManyRequests},
		"told to wait": {http.Header{"Retry-After": {"60"}}, api.TooManyRequests},
		"forbidden":    {http.Header{}, ""},
	} {
		h.limited = c.header
		_, err := x.RepoToken(t.Context(), "ci", "acme", []string{"a"}, nil)
		e, ok := errors.AsType[*api.Error](err)
		if err == nil || ok != (c.want != "") || ok && e.Code != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := x.RepoToken(t.Context(), "other", "acme", []string{"a"}, nil)
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.ResourceNotFound {
		t.Errorf("an app that is not configured: %v", err)
	}
}

func TestConfiguration(t *testing.T) {
	_, text := private()
	for says, a := range map[string]map[string]github.App{
		"does not match":         {"a/b": {ID: "1", PrivateKey: text}},
		"needs an appId":         {"ci": {PrivateKey: text}},
		"which is an RSA key in": {"ci": {ID: "1", PrivateKey: text[40:]}},
	} {
		if _, err := github.New(github.Config{Apps: a}); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), text[100:120]) {
			t.Errorf("%v; want one saying %q", err, says)
		}
	}
	c := github.Config{Apps: map[string]github.App{"ci": {ID: "1", PrivateKey: text}}}
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), c.Apps["ci"].LogValue().String()} {
		if strings.Contains(s, "PRIVATE") {
			t.Errorf("shows the key: %s", s)
		}
	}
}
