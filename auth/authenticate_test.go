package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/hawk"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

// signed is a request for the caller's own scopes, signed after prepare has
// changed it.
func (w *world) signed(c cred.Credentials, prepare func(*http.Request)) *http.Request {
	w.Helper()
	r := w.request("GET", "/scopes/current", nil)
	if prepare != nil {
		prepare(r)
	}
	if err := cred.Sign(r, c, nil); err != nil {
		w.Fatal(err)
	}
	return r
}

func TestTemporaryCredentials(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.role("team:*", "secret:<..>")
		issuer := w.client("ci", "a", "b:*", "assume:team:red", "auth:create-client:ci/*")
		other := w.client("other", "*")
		now := time.Now()
		sign := func(c cred.Certificate, clientID string) cred.Credentials {
			c.Seed = slugid.Token()
			if c.Start == 0 {
				c.Start, c.Expiry = now.UnixMilli(), now.Add(time.Hour).UnixMilli()
			}
			// Temporary refuses to make what these tests need; so take a good
			// certificate and change it.
			return forge(t, issuer, clientID, c)
		}
		const oversteps = "ext.certificate.scopes oversteps what its issuer ci may do: "
		for name, c := range map[string]struct {
			creds cred.Credentials
			want  string
		}{
			"unnamed":                     {w.temporary(issuer, cred.Options{Scopes: []string{"a", "b:1"}}), "a b:1"},
			"without scopes":              {w.temporary(issuer, cred.Options{}), ""},
			"with a role":                 {w.temporary(issuer, cred.Options{Scopes: []string{"assume:team:red"}}), "assume:team:red secret:red"},
			"named":                       {w.temporary(issuer, cred.Options{ClientID: "ci/1", Scopes: []string{"a"}}), "a"},
			"named beyond its right":      {w.temporary(issuer, cred.Options{ClientID: "co/1", Scopes: []string{"a"}}), "the issuer ci lacks the scope auth:create-client:co/1, which it takes to issue credentials of that name"},
			"more than it has":            {w.temporary(issuer, cred.Options{Scopes: []string{"a", "b*"}}), oversteps + `"b*" is not granted`},
			"everything":                  {w.temporary(issuer, cred.Options{Scopes: []string{"*"}}), oversteps + `"*" is not granted`},
			"used as another client":      {cred.Credentials{ClientID: "other", AccessToken: w.temporary(issuer, cred.Options{}).AccessToken, Certificate: w.temporary(issuer, cred.Options{}).Certificate}, unknown[len("Authentication failed: "):]},
			"issued by nobody":            {w.temporary(cred.Credentials{ClientID: "nobody", AccessToken: slugid.Token()}, cred.Options{}), unknown[len("Authentication failed: "):]},
			"issued with a wrong token":   {w.temporary(cred.Credentials{ClientID: "ci", AccessToken: slugid.Token()}, cred.Options{}), unknown[len("Authentication failed: "):]},
			"not yet":                     {w.temporary(issuer, cred.Options{Start: now.Add(6 * time.Minute)}), "ext.certificate is not in force before " + now.Add(6*time.Minute).UTC().Format(time.RFC3339)},
			"within the slack":            {w.temporary(issuer, cred.Options{Start: now.Add(4 * time.Minute)}), ""},
			"just over":                   {w.temporary(issuer, cred.Options{Start: now.Add(-time.Hour), Expiry: now.Add(-4 * time.Minute), Scopes: []string{"a"}}), "a"},
			"over":                        {w.temporary(issuer, cred.Options{Start: now.Add(-time.Hour), Expiry: now.Add(-6 * time.Minute)}), "ext.certificate has expired at " + now.Add(-6*time.Minute).UTC().Format(time.RFC3339)},
			"for 32 days":                 {sign(cred.Certificate{Version: 1, Scopes: []string{}, Start: now.UnixMilli(), Expiry: now.Add(32 * 24 * time.Hour).UnixMilli()}, "ci"), "longer than 31 days"},
			"of version 2":                {sign(cred.Certificate{Version: 2, Scopes: []string{}}, "ci"), "ext.certificate is of version 2, not 1"},
			"issued by itself, named":     {sign(cred.Certificate{Version: 1, Scopes: []string{}, Issuer: "ci"}, "ci"), "names the client itself as its issuer"},
			"with a changed certificate":  {widened(t, w.temporary(issuer, cred.Options{Scopes: []string{"a"}})), "ext.certificate has a signature that is not valid, or is for another client id"},
			"a name that cannot be":       {sign(cred.Certificate{Version: 1, Scopes: []string{}, Issuer: "ci"}, "ci/ö"), "malformed"},
			"a name that may not be":      {sign(cred.Certificate{Version: 1, Scopes: []string{}, Issuer: "ci"}, "ci/a b"), "the client id does not match"},
			"of temporary credentials":    {forge(t, w.temporary(issuer, cred.Options{}), "ci", cred.Certificate{Version: 1, Scopes: []string{}, Start: now.UnixMilli(), Expiry: now.Add(time.Hour).UnixMilli(), Seed: slugid.Token()}), unknown[len("Authentication failed: "):]},
			"somebody's, with everything": {w.temporary(other, cred.Options{Scopes: []string{"*"}}), "*"},
		} {
			got := w.scopes(c.creds)
			if rest, failed := strings.CutPrefix(got, "Authentication failed: "); failed && strings.Contains(rest, c.want) && c.want != "" || got == c.want {
				continue
			}
			t.Errorf("%s: %s\nwant %s", name, got, c.want)
		}
	})
}

// forge signs a certificate as the issuer could, whatever it says.
func forge(t *testing.T, issuer cred.Credentials, clientID string, c cred.Certificate) cred.Credentials {
	t.Helper()
	text := fmt.Sprintf("version:%d", c.Version)
	if c.Issuer != "" {
		text += "\nclientId:" + clientID + "\nissuer:" + c.Issuer
	}
	text += fmt.Sprintf("\nseed:%s\nstart:%d\nexpiry:%d\nscopes:", c.Seed, c.Start, c.Expiry)
	for _, s := range c.Scopes {
		text += "\n" + s
	}
	c.Signature = base64.StdEncoding.EncodeToString(hmacOf(issuer.AccessToken, text))
	return cred.Credentials{ClientID: clientID, AccessToken: c.Key(issuer.AccessToken), Certificate: string(c.JSON())}
}

// widened adds a scope to a certificate after it was signed.
func widened(t *testing.T, c cred.Credentials) cred.Credentials {
	t.Helper()
	var cert cred.Certificate
	if err := json.Unmarshal([]byte(c.Certificate), &cert); err != nil {
		t.Fatal(err)
	}
	cert.Scopes = append(cert.Scopes, "b:2")
	c.Certificate = string(cert.JSON())
	return c
}

func TestAuthorizedScopes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.role("team:*", "secret:<..>")
		c := w.client("ci", "a", "b:*", "assume:team:red")
		temp := w.temporary(c, cred.Options{Scopes: []string{"b:1", "assume:team:red"}})
		for _, x := range []struct {
			creds  cred.Credentials
			scopes string
			want   string
		}{
			{c, "", ""},
			{c, "b:1", "b:1"},
			{c, "assume:team:red", "assume:team:red secret:red"},
			{c, "secret:red", "secret:red"},
			{c, "auth:get-client:x", ""}, // what anybody has may be authorized
			{c, "assume:anonymous", ""},
			{c, "b*", `Authentication failed: ext.authorizedScopes oversteps what the credentials may do: "b*" is not granted`},
			{temp, "b:1", "b:1"},
			{temp, "secret:red", "secret:red"},
			{temp, "a", `Authentication failed: ext.authorizedScopes oversteps what the credentials may do: "a" is not granted`},
			{w.root, "x", "x"},
			{w.root, "*", "*"},
		} {
			if got := w.restricted(x.creds, append([]string{}, strings.Fields(x.scopes)...), "GET", "/scopes/current", nil).scopes(); got != x.want {
				t.Errorf("%s restricted to %q: %s, want %s", x.creds.ClientID, x.scopes, got, x.want)
			}
		}
	})
}

func TestReplaysAndClocks(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		c := w.client("ci", "a")
		r := w.signed(c, nil)
		copies := []*http.Request{r.Clone(t.Context()), r.Clone(t.Context()), r.Clone(t.Context())}
		if got := w.send(r).scopes(); got != "a" {
			t.Fatal(got)
		}
		for i, r := range copies {
			if got := w.send(r).scopes(); !strings.HasPrefix(got, "Authentication failed: this very request was made before") {
				t.Errorf("replay %d: %s", i, got)
			}
			time.Sleep(6 * time.Minute)
		}
		if got := w.send(r.Clone(t.Context())).scopes(); !strings.Contains(got, "the server's clock says") {
			t.Errorf("after the window: %s", got)
		}
		for off, want := range map[time.Duration]bool{-15 * time.Minute: true, 15 * time.Minute: true, -15*time.Minute - 2*time.Second: false, 15*time.Minute + 2*time.Second: false} {
			h := hawk.Header{ID: c.ClientID, Timestamp: time.Now().Add(off).Unix(), Nonce: "n"}
			h.Sign(hawk.Request{Method: "GET", Resource: "/api/auth/v1/scopes/current", Host: host, Port: 443}, c.AccessToken)
			r := w.request("GET", "/scopes/current", nil)
			r.Header.Set("Authorization", h.String())
			if got := w.send(r).scopes(); (got == "a") != want {
				t.Errorf("%s off: %s", off, got)
			}
		}
	})
}

func TestSignedURLs(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.client("c/1")
		c := w.client("ci", "a", "b:*")
		temp := w.temporary(c, cred.Options{Scopes: []string{"b:1"}})
		base := "https://" + host + "/api/auth/v1"
		get := func(method, u string) reply {
			r := httptest.NewRequest(method, u, nil)
			r.Header.Set("X-Forwarded-Proto", "https")
			return w.send(r)
		}
		sign := func(u string, c cred.Credentials, scopes []string) string {
			s, err := cred.SignURL(u, c, time.Now().Add(time.Minute), scopes)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		for want, u := range map[string]string{
			"a b:*": sign(base+"/scopes/current", c, nil),
			"b:1":   sign(base+"/scopes/current", temp, nil),
			"a":     sign(base+"/scopes/current", c, []string{"a"}),
		} {
			for range 2 { // a signed URL may be used again
				if got := get("GET", u).scopes(); got != want {
					t.Errorf("%s: %s", want, got)
				}
			}
			if p := get("HEAD", u); p.status != 200 {
				t.Errorf("HEAD: %d", p.status)
			}
		}
		if p := get("GET", sign(base+"/clients/?prefix=c%2F&limit=1", w.root, nil)); p.status != 200 || strings.Count(p.text, "clientId") != 1 {
			t.Errorf("with other parameters: %s", p.text)
		}
		u := sign(base+"/scopes/current", c, nil)
		both := httptest.NewRequest("GET", u, nil)
		both.Header.Set("X-Forwarded-Proto", "https")
		if err := cred.Sign(both, c, nil); err != nil {
			t.Fatal(err)
		}
		if got := w.send(both).scopes(); !strings.Contains(got, "both an Authorization header and a bewit") {
			t.Errorf("both: %s", got)
		}
		if p := get("POST", sign(base+"/clients/c%2F1/disable", w.root, nil)); p.status != 401 || !strings.Contains(p.text, "GET and HEAD only") {
			t.Errorf("POST: %s", p.text)
		}
		if got := get("GET", strings.Replace(u, "/scopes/current?", "/scopes/current?x=1&", 1)).scopes(); got != unknown {
			t.Errorf("another URL: %s", got)
		}
		for _, bad := range []string{"", "x", "%00", strings.Repeat("A", 100_000)} {
			if p := get("GET", base+"/scopes/current?bewit="+bad); p.status != 401 {
				t.Errorf("bewit %.20q: %s", bad, p.text)
			}
		}
		time.Sleep(time.Minute)
		if got := get("GET", u).scopes(); !strings.HasPrefix(got, "Authentication failed: the signed URL has expired") {
			t.Errorf("a minute later: %s", got)
		}
	})
}

func TestHostsPortsAndProxies(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		c := w.client("ci", "a")
		for _, x := range []struct {
			url, host, port, proto string
			want                   bool
		}{
			{"http://tc.example.com", "tc.example.com", "", "", true},
			{"http://tc.example.com:8080", "tc.example.com:8080", "", "", true},
			{"http://[::1]:8080", "[::1]:8080", "", "", true},
			{"http://[::1]", "[::1]", "", "", true},
			{"http://TC.example.com", "tc.example.com", "", "", true},
			{"https://tc.example.com", "tc.example.com", "", "https", true},
			{"https://tc.example.com", "tc.example.com", "443", "", true},
			{"https://tc.example.com", "tc.example.com:80", "443", "http", true},
			{"https://tc.example.com:8443", "tc.example.com", "8443", "https", true},
			{"https://tc.example.com", "tc.example.com:8080", "", "https", true},
			{"https://tc.example.com", "tc.example.com", "443, 80", "https, http", true},
			{"https://tc.example.com", "tc.example.com", "", "HTTPS", true},
			{"https://tc.example.com", "tc.example.com", "", "", false},
			{"http://tc.example.com:8080", "tc.example.com:8081", "", "", false},
			{"http://tc.example.com", "tc.example.org", "", "", false},
			{"http://tc.example.com", "tc.example.com", "x", "", false},
			{"http://tc.example.com", "tc.example.com", "65536", "", false},
			{"http://tc.example.com", "tc.example.com:", "", "", true},
			{"http://tc.example.com", "tc.example.com:99999", "", "", false},
			{"http://tc.example.com", "", "", "", false},
		} {
			out, err := http.NewRequest("GET", x.url+"/api/auth/v1/scopes/current", nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := cred.Sign(out, c, nil); err != nil {
				t.Fatal(err)
			}
			in := httptest.NewRequest("GET", "/api/auth/v1/scopes/current", nil)
			in.Host = x.host
			in.Header = out.Header
			if x.port != "" {
				in.Header.Set("X-Forwarded-Port", x.port)
			}
			if x.proto != "" {
				in.Header.Set("X-Forwarded-Proto", x.proto)
			}
			if got := w.send(in); (got.status == 200) != x.want || got.status != 200 && got.status != 401 {
				t.Errorf("%+v: %d %s", x, got.status, got.text)
			}
		}
	})
}

func TestPayloadHash(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		for _, x := range []struct {
			path   string
			by     cred.Credentials
			body   string
			others []string // fit the schema as well
		}{
			{"/scopes/expand", w.root, `{"scopes": ["x"]}`, []string{`{"scopes": ["y"]}`, `{"scopes":["x"]}`, `{"scopes": ["x"]} `}},
			{"/test-authenticate", cred.Credentials{ClientID: "tester", AccessToken: "no-secret"},
				`{"clientScopes": ["s"], "requiredScopes": ["s"]}`, []string{`{"clientScopes": ["s"], "requiredScopes": []}`}},
		} {
			send := func(hash string, body string) reply {
				r := httptest.NewRequest("POST", "https://"+host+"/api/auth/v1"+x.path, strings.NewReader(body))
				r.Header.Set("Content-Type", "application/json; charset=utf-8")
				r.Header.Set("X-Forwarded-Proto", "https")
				h := hawk.Header{ID: x.by.ClientID, Timestamp: time.Now().Unix(), Nonce: slugid.New(), Hash: hash}
				h.Sign(hawk.Request{Method: "POST", Resource: r.URL.RequestURI(), Host: host, Port: 443}, x.by.AccessToken)
				r.Header.Set("Authorization", h.String())
				return w.send(r)
			}
			hash := hawk.PayloadHash("application/json", []byte(x.body))
			if p := send(hash, x.body); p.status != 200 {
				t.Errorf("%s with its hash: %s", x.path, p.text)
			}
			if p := send("", x.body); p.status != 200 {
				t.Errorf("%s without a hash: %s", x.path, p.text)
			}
			for _, other := range x.others {
				if p := send(hash, other); p.status != 401 || !strings.Contains(p.text, "not the one that was signed") {
					t.Errorf("%s with another body: %s", x.path, p.text)
				}
			}
		}
	})
}

// To one who does not hold the key, a client that exists, one that does not,
// one that is disabled and one that has expired look the same.
func TestStrangersLearnNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		w.client("exists", "auth:create-client:*")
		w.client("disabled")
		w.want(200, w.root, "POST", "/clients/disabled/disable", nil)
		w.want(200, w.root, "PUT", "/clients/expired", clientBody(time.Now().Add(-time.Hour)))
		for _, id := range []string{"exists", "none", "disabled", "expired", "static/taskcluster/root", "static/none", "tester"} {
			wrong := cred.Credentials{ClientID: id, AccessToken: slugid.Token()}
			for name, c := range map[string]cred.Credentials{
				"wrong token":    wrong,
				"no token":       {ClientID: id},
				"temporary":      w.temporary(wrong, cred.Options{Scopes: []string{"*"}}),
				"named":          w.temporary(wrong, cred.Options{ClientID: "x", Scopes: []string{"*"}}),
				"over":           w.temporary(wrong, cred.Options{Start: time.Now().Add(-2 * time.Hour), Expiry: time.Now().Add(-time.Hour)}),
				"tester's token": {ClientID: id, AccessToken: "no-secret"},
			} {
				if p := w.call(c, "GET", "/scopes/current", nil); p.status != 401 || p.scopes() != unknown {
					t.Errorf("%s of %s: %d %s", name, id, p.status, p.text)
				}
			}
		}
	})
}

func TestAuthenticateHawk(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		c := w.client("ci", "a", "auth:create-client:ci/*")
		temp := w.temporary(c, cred.Options{ClientID: "ci/1", Scopes: []string{"a"}})
		in, err := http.NewRequest("PUT", "https://other.example.com:8443/x?y=z", nil)
		if err != nil {
			t.Fatal(err)
		}
		ask := func(method, resource, authorization string) reply {
			body := map[string]any{"method": method, "resource": resource, "host": "other.example.com", "port": 8443, "sourceIp": "::1"}
			if authorization != "" {
				body["authorization"] = authorization
			}
			return w.want(200, cred.Credentials{}, "POST", "/authenticate-hawk", body)
		}
		for name, x := range map[string]struct {
			creds            cred.Credentials
			client, expires  string
			authorizedScopes []string
			want             string
		}{
			"client":    {c, "ci", time.Now().Add(24 * time.Hour).UTC().Format("2006-01-02T15:04:05.000Z"), nil, "a auth:create-client:ci/*"},
			"temporary": {temp, "ci/1", time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05.000Z"), nil, "a"},
			"static":    {w.root, w.root.ClientID, "3000-01-01T00:00:00.000Z", []string{"x"}, "x"},
		} {
			if err := cred.Sign(in, x.creds, x.authorizedScopes); err != nil {
				t.Fatal(err)
			}
			for range 2 { // asking again is not making the request again
				p := ask("put", "/x?y=z", in.Header.Get("Authorization"))
				if p.member("status") != "auth-success" || p.member("scheme") != "hawk" || p.member("clientId") != x.client || p.member("expires") != x.expires || p.scopes() != x.want || p.body["hash"] != nil {
					t.Errorf("%s: %s", name, p.text)
				}
			}
			for _, p := range []reply{ask("post", "/x?y=z", in.Header.Get("Authorization")), ask("put", "/x", in.Header.Get("Authorization")), ask("put", "/x?y=z", "Hawk")} {
				if p.member("status") != "auth-failed" || p.member("message") == "" || len(p.body) != 2 {
					t.Errorf("%s, another request: %s", name, p.text)
				}
			}
		}
		h := hawk.Header{ID: "ci", Timestamp: time.Now().Unix(), Nonce: "n", Hash: "h"}
		h.Sign(hawk.Request{Method: "PUT", Resource: "/x", Host: "other.example.com", Port: 8443}, c.AccessToken)
		if p := ask("put", "/x", h.String()); p.member("hash") != "h" {
			t.Errorf("with a hash: %s", p.text)
		}
		if p := ask("get", "/x", ""); p.member("status") != "no-auth" || p.member("scheme") != "none" || p.scopes() != "" || p.member("expires") == "" {
			t.Errorf("no credentials: %s", p.text)
		}
		u, err := cred.SignURL("https://other.example.com:8443/x?y=z", c, time.Now().Add(time.Minute), []string{"a"})
		if err != nil {
			t.Fatal(err)
		}
		if p := ask("get", strings.TrimPrefix(u, "https://other.example.com:8443"), ""); p.scopes() != "a" || p.member("clientId") != "ci" {
			t.Errorf("signed URL: %s", p.text)
		}
	})
}

func TestTestAuthenticate(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		tester := cred.Credentials{ClientID: "tester", AccessToken: "no-secret"}
		named := w.temporary(tester, cred.Options{ClientID: "test:x", Scopes: []string{"test:a"}})
		for _, x := range []struct {
			creds            cred.Credentials
			authorized       []string
			client, required string
			status           int
		}{
			{tester, nil, "s:t", "s:t", 200},
			{tester, nil, "s:*", "s:t", 200},
			{tester, nil, "s:a s:b", "s:a", 200},
			{tester, nil, "", "", 200},
			{tester, nil, "s", "s:*", 403},
			{tester, []string{"s:t"}, "s:*", "s:t", 200},
			{tester, []string{"s:u"}, "s:*", "s:t", 403},
			{tester, []string{"s:*"}, "s:t", "s:t", 401},
			{named, nil, "test:* auth:create-client:test:*", "test:a", 200},
			{named, nil, "test:*", "test:a", 401},
			{cred.Credentials{ClientID: "tester", AccessToken: "wrong"}, nil, "s", "s", 401},
			{cred.Credentials{}, nil, "s", "s", 401},
			{w.root, nil, "s", "s", 401}, // real clients are not known here
			{tester, nil, "s**", "s", 400},
		} {
			body := map[string]any{"clientScopes": append([]string{}, strings.Fields(x.client)...), "requiredScopes": append([]string{}, strings.Fields(x.required)...)}
			p := w.restricted(x.creds, x.authorized, "POST", "/test-authenticate", body)
			if p.status != x.status || x.status == 200 && p.member("clientId") != x.creds.ClientID {
				t.Errorf("%+v: %d %s", x, p.status, p.text)
			}
		}
		if p := w.want(200, tester, "GET", "/test-authenticate-get/", nil); p.scopes() != "auth:create-client:test:* test:*" {
			t.Errorf("get: %s", p.text)
		}
		w.want(401, cred.Credentials{}, "GET", "/test-authenticate-get/", nil)
		if p := w.restricted(tester, []string{"test:x"}, "GET", "/test-authenticate-get/", nil); p.status != 403 {
			t.Errorf("restricted: %s", p.text)
		}
		u, err := cred.SignURL("https://"+host+"/api/auth/v1/test-authenticate-get/", tester, time.Now().Add(time.Minute), nil)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("GET", u, nil)
		r.Header.Set("X-Forwarded-Proto", "https")
		if p := w.send(r); p.status != 200 {
			t.Errorf("signed URL: %s", p.text)
		}
		w.want(401, tester, "GET", "/scopes/current", nil) // the tester is nobody elsewhere
		if w.nonces.size != 0 {
			t.Errorf("the tester, whose secret all know, has filled %d nonces", w.nonces.size)
		}
	})
}

// What strangers can send is answered with 401, quickly, and never repeated.
func TestHostileHeaders(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		header := func(ext string) string {
			return fmt.Sprintf(`Hawk id="x", ts="%d", nonce="n", ext="%s", mac="6R4rV5iE+NPoym+WwjeHzjAGXUtLNIxmo1vpMofpLAE="`, time.Now().Unix(), ext)
		}
		b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
		cert := `{"certificate":{"version":1,"scopes":[%s],"start":0,"expiry":1000,"seed":"` + slugid.Token() + `","signature":"x"}}`
		for _, h := range []string{
			"Hawk", "Bearer x", "Basic eDp5", `Hawk id="<script>"`, header("%%%"), header(b64("{")), header(b64("null")), header(b64("[]")),
			header(b64(strings.Repeat("[", 40_000))), header(b64(strings.Repeat(`{"certificate":`, 3000))),
			header(b64(fmt.Sprintf(cert, `"`+strings.Repeat("assume:*", 2000)+`"`))),
			header(b64(fmt.Sprintf(cert, strings.Repeat(`"*",`, 10_000)+`"*"`))),
			header(b64(fmt.Sprintf(cert, `"\u0000"`))),
			header(b64(`{"authorizedScopes":` + strings.Repeat(" ", 40_000) + `["*"]}`)),
			header(strings.Repeat("A", 200_000)), strings.Repeat("Hawk ", 100_000), `Hawk id="` + strings.Repeat(`",id="`, 10_000),
		} {
			r := w.request("GET", "/scopes/current", nil)
			r.Header.Set("Authorization", h)
			p := w.send(r)
			if p.status != 401 || p.member("code") != "AuthenticationFailed" || strings.Contains(p.text, "<script>") || len(p.text) > 2000 {
				t.Errorf("%.60s: %d %.500s", h, p.status, p.text)
			}
		}
		if w.nonces.size != 0 || len(w.current.Load().grants.young) != 0 {
			t.Error("strangers have filled our memory")
		}
	})
}

// Certificates that are used once each do not fill the memory.
func TestGrantsAreBounded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, db *store.DB) {
		w := newWorld(t, db)
		c := w.client("ci", "a*")
		gs := w.current.Load().grants
		gs.maxBytes = 20_000
		for i := range 100 {
			if got := w.scopes(w.temporary(c, cred.Options{Scopes: []string{fmt.Sprint("a", i)}})); got != fmt.Sprint("a", i) {
				t.Fatal(got)
			}
			if gs.bytes > gs.maxBytes || len(gs.young)+len(gs.old) > 40 {
				t.Fatalf("%d bytes, %d + %d grants are kept", gs.bytes, len(gs.young), len(gs.old))
			}
		}
		if len(gs.young) == 0 {
			t.Error("nothing is kept")
		}
	})
}

// Whatever stands in the header, the URL or the ext: the answer is 200 or 401,
// and who does not hold a key is not taken for somebody.
func FuzzAuthenticate(f *testing.F) {
	w := newWorld(f, storetest.Open(f, storetest.URL(f, "sqlite")))
	c := w.client("ci", "a", "auth:create-client:ci/*")
	good := w.signed(w.temporary(c, cred.Options{ClientID: "ci/1", Scopes: []string{"a"}}), nil).Header.Get("Authorization")
	h, err := hawk.ParseHeader(good)
	if err != nil {
		f.Fatal(err)
	}
	ext, err := base64.StdEncoding.DecodeString(h.Ext)
	if err != nil {
		f.Fatal(err)
	}
	f.Add("ci", int64(0), "x", []byte("{}"), "")
	f.Add("ci/1", time.Now().Unix(), "n", ext, "")
	f.Add("ci", int64(1), "n", []byte(`{"certificate":{"version":1}}`), "bewit=")
	f.Fuzz(func(t *testing.T, id string, ts int64, nonce string, ext []byte, query string) {
		r := api.Credential{Method: "GET", Resource: "/x?" + query, Host: host}
		made := hawk.Header{ID: id, Timestamp: ts, Nonce: nonce, Ext: base64.StdEncoding.EncodeToString(ext)}
		made.Sign(hawk.Request{Method: "GET", Resource: "/x?" + query, Host: host, Port: 80}, "not a key of anybody")
		for _, r.Authorization = range []string{made.String(), id + nonce, ""} {
			who, err := w.Authenticate(t.Context(), r)
			if err == nil && who.ClientID != "" {
				t.Fatalf("%+v was taken for %+v", r, who)
			}
			if e, ok := errors.AsType[*api.Error](err); err != nil && (!ok || e.Code != api.AuthenticationFailed) {
				t.Fatalf("%+v: %v", r, err)
			}
		}
		b := hawk.Bewit{ID: id, Expires: ts, Ext: made.Ext}
		r.Authorization, r.Resource = "", "/x?bewit="+b.String()
		if who, err := w.Authenticate(t.Context(), r); err == nil {
			t.Fatalf("%+v was taken for %+v", r, who)
		}
	})
}

func hmacOf(key, text string) []byte {
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(text))
	return h.Sum(nil)
}
