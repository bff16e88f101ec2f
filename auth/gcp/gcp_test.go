package gcp_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth/gcp"
)

var private = sync.OnceValues(func() (*rsa.PrivateKey, string) {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		panic(err)
	}
	return k, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
})

func keyOf(project, text string) string {
	b, err := json.Marshal(map[string]string{
		"type": "service_account", "project_id": project, "private_key_id": "1", "private_key": text,
		"client_email": "maker@" + project + ".example", "token_uri": "https://oauth.example/token",
	})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// google imitates the two services that are asked.
type google struct {
	grants, tokens int
	revoked        bool
}

func (g *google) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	answer := func(status int, text string) (*http.Response, error) {
		return &http.Response{StatusCode: status, Status: fmt.Sprint(status), Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
	}
	const iam = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/"
	switch u := r.URL.String(); {
	case u == "https://oauth.example/token":
		q, err := url.ParseQuery(string(body))
		if err != nil {
			return nil, err
		}
		key, _ := private()
		claims := jwt.MapClaims{}
		_, err = jwt.ParseWithClaims(q.Get("assertion"), claims, func(*jwt.Token) (any, error) { return &key.PublicKey, nil }, jwt.WithValidMethods([]string{"RS256"}))
		if err != nil || g.revoked || q.Get("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" || claims["iss"] != "maker@fleet.example" {
			return answer(400, `{"error":"invalid_grant","error_description":"Invalid JWT Signature."}`)
		}
		g.grants++
		return answer(200, `{"access_token":"makers-own","token_type":"Bearer","expires_in":3600}`)
	case !strings.HasPrefix(u, iam) || r.Header.Get("Authorization") != "Bearer makers-own":
		return answer(401, `{"error":{"status":"UNAUTHENTICATED","message":"no"}}`)
	case u == iam+"ci@fleet.example:generateAccessToken":
		var x struct {
			Scope    []string
			Lifetime string
		}
		if err := json.Unmarshal(body, &x); err != nil || len(x.Scope) != 1 || x.Scope[0] != "https://www.googleapis.com/auth/cloud-platform" || x.Lifetime != "3600s" {
			return answer(400, `{"error":{"status":"INVALID_ARGUMENT","message":"no"}}`)
		}
		g.tokens++
		return answer(200, `{"accessToken":"ya29.made","expireTime":"2030-01-02T03:04:05Z"}`)
	case u == iam+"busy@fleet.example:generateAccessToken":
		return answer(429, `{"error":{"status":"RESOURCE_EXHAUSTED","message":"slow down"}}`)
	case u == iam+"broken@fleet.example:generateAccessToken":
		return answer(500, `{"error":{"status":"INTERNAL","message":"sorry"}}`)
	}
	return answer(403, `{"error":{"status":"PERMISSION_DENIED","message":"Permission 'iam.serviceAccounts.getAccessToken' denied"}}`)
}

func open(t *testing.T, g *google) *gcp.Tokens {
	t.Helper()
	_, text := private()
	x, err := gcp.New(gcp.Config{Transport: g, Projects: map[string]gcp.Project{"fleet": {
		Key: keyOf("fleet", text), ServiceAccounts: []string{"ci@fleet.example", "gone@fleet.example", "busy@fleet.example", "broken@fleet.example"},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func TestTokens(t *testing.T) {
	g := &google{}
	x := open(t, g)
	for range 2 {
		got, err := x.AccessToken(t.Context(), "fleet", "ci@fleet.example")
		if err != nil || got.Text != "ya29.made" || !got.Expires.Equal(time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)) {
			t.Errorf("%+v, %v", got, err)
		}
	}
	if g.grants != 1 || g.tokens != 2 {
		t.Errorf("the maker signed in %d times for %d tokens", g.grants, g.tokens)
	}
}

func TestWhatIsRefused(t *testing.T) {
	x := open(t, &google{})
	for account, want := range map[string]api.Code{
		"root@fleet.example":   api.InvalidRequestArguments,
		"gone@fleet.example":   api.ResourceNotFound,
		"busy@fleet.example":   api.TooManyRequests,
		"broken@fleet.example": "",
	} {
		_, err := x.AccessToken(t.Context(), "fleet", account)
		e, ok := errors.AsType[*api.Error](err)
		if err == nil || ok != (want != "") || ok && e.Code != want {
			t.Errorf("%s: %v", account, err)
		}
	}
	_, err := x.AccessToken(t.Context(), "other", "ci@fleet.example")
	if e, ok := errors.AsType[*api.Error](err); !ok || e.Code != api.ResourceNotFound {
		t.Errorf("another project: %v", err)
	}
	_, err = open(t, &google{revoked: true}).AccessToken(t.Context(), "fleet", "ci@fleet.example")
	if _, ok := errors.AsType[*api.Error](err); ok || err == nil || !strings.Contains(err.Error(), "invalid_grant Invalid JWT Signature") {
		t.Errorf("a key that was revoked: %v", err)
	}
}

func TestConfiguration(t *testing.T) {
	_, text := private()
	key := keyOf("fleet", text)
	for says, k := range map[string]string{
		"not the JSON text":           "-----BEGIN",
		"not one of a service":        `{"type":"authorized_user"}`,
		"one of project other":        keyOf("other", text),
		"is not an RSA key in PEM":    keyOf("fleet", "-----BEGIN PRIVATE KEY-----\nMII\n-----END PRIVATE KEY-----\n"),
		"not the JSON text that Goog": key[:len(key)-20],
	} {
		_, err := gcp.New(gcp.Config{Projects: map[string]gcp.Project{"fleet": {Key: k}}})
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "MII") {
			t.Errorf("%v; want one saying %q", err, says)
		}
	}
	c := gcp.Config{Projects: map[string]gcp.Project{"fleet": {Key: key}}}
	for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c), fmt.Sprintf("%#v", c), c.Projects["fleet"].LogValue().String()} {
		if strings.Contains(text, "PRIVATE") {
			t.Errorf("shows the key: %s", text)
		}
	}
}
