package cred

import (
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/hawk"
)

//go:embed testdata/vectors.json
var vectorsJSON []byte

type vectorFile struct {
	Issuer  Credentials
	Seed    string
	Start   int64
	Vectors []struct {
		Scopes      []string
		Name        string
		Credentials Credentials
		Ext         string
	}
}

func vectors(t testing.TB) (f vectorFile) {
	if err := json.Unmarshal(vectorsJSON, &f); err != nil || len(f.Vectors) == 0 {
		t.Fatal(err)
	}
	return f
}

// The official Python client agrees on signatures, derived keys and ext.
func TestVectorsOfThePythonClient(t *testing.T) {
	f := vectors(t)
	for _, v := range f.Vectors {
		c := Certificate{Version: 1, Scopes: v.Scopes, Start: f.Start, Expiry: f.Start + time.Hour.Milliseconds(), Seed: f.Seed}
		client := f.Issuer.ClientID
		if v.Name != "" {
			c.Issuer, client = f.Issuer.ClientID, v.Name
		}
		c.Signature = base64.StdEncoding.EncodeToString(c.signature(client, f.Issuer.AccessToken))
		if got := c.Key(f.Issuer.AccessToken); got != v.Credentials.AccessToken {
			t.Errorf("key %s, want %s", got, v.Credentials.AccessToken)
		}
		e, err := ParseExt(v.Ext)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(*e.Certificate, c) || !slices.Equal(e.AuthorizedScopes, []string{"x:*"}) {
			t.Errorf("their ext is %+v %v, want %+v", e.Certificate, e.AuthorizedScopes, c)
		}
		if err := e.Certificate.Verify(v.Credentials.ClientID, f.Issuer.AccessToken); err != nil {
			t.Errorf("their certificate: %v", err)
		}
		again, err := ParseExt(e.String())
		if err != nil || !reflect.DeepEqual(again, e) {
			t.Errorf("ext written and read: %+v, %v", again, err)
		}
	}
}

var issuer = Credentials{ClientID: "issuer", AccessToken: "u8FzQ6vQTiSvpd0YfAmiBwG2pXyrTk9cQtIbE4FLN0hA"}

func certificateOf(t *testing.T, c Credentials) Certificate {
	t.Helper()
	var cert Certificate
	if err := json.Unmarshal([]byte(c.Certificate), &cert); err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestTemporary(t *testing.T) {
	now := time.UnixMilli(1462959000123)
	o := Options{ClientID: "issuer/temp", Scopes: []string{"a", "b:*"}, Start: now, Expiry: now.Add(time.Hour)}
	c, err := Temporary(issuer, o)
	if err != nil {
		t.Fatal(err)
	}
	cert := certificateOf(t, c)
	if c.ClientID != "issuer/temp" || cert.Issuer != "issuer" || c.AccessToken != cert.Key(issuer.AccessToken) {
		t.Errorf("got %v with %+v", c.ClientID, cert)
	}
	for at, ok := range map[time.Duration]bool{
		-6 * time.Minute: false, -4 * time.Minute: true, 0: true, 64 * time.Minute: true, 66 * time.Minute: false,
	} {
		if err := cert.InForce(now.Add(at)); (err == nil) != ok {
			t.Errorf("%s after start: %v", at, err)
		}
	}
	if err := cert.Verify(c.ClientID, issuer.AccessToken); err != nil {
		t.Error(err)
	}
	if cert.Verify("other", issuer.AccessToken) == nil || cert.Verify(c.ClientID, "other") == nil {
		t.Error("the certificate verifies for another name or token")
	}
	for name, change := range map[string]func(*Certificate){
		"scopes": func(c *Certificate) { c.Scopes = append(c.Scopes, "c") }, "expiry": func(c *Certificate) { c.Expiry++ },
		"start": func(c *Certificate) { c.Start-- }, "seed": func(c *Certificate) { c.Seed = strings.Repeat("x", 44) },
		"issuer": func(c *Certificate) { c.Issuer = "" }, "signature": func(c *Certificate) { c.Signature = "" },
	} {
		changed := certificateOf(t, c)
		change(&changed)
		if changed.Verify(c.ClientID, issuer.AccessToken) == nil {
			t.Errorf("%s is not covered by the signature", name)
		}
	}

	unnamed, err := Temporary(issuer, Options{Expiry: time.Now().Add(MaxValidity - time.Second)})
	if err != nil || unnamed.ClientID != "issuer" || certificateOf(t, unnamed).Scopes == nil || strings.Contains(unnamed.Certificate, "null") {
		t.Errorf("unnamed: %v, %v, %s", unnamed, err, unnamed.Certificate)
	}
	for name, bad := range map[string]Options{
		"too long":     {Start: now, Expiry: now.Add(MaxValidity + time.Second)},
		"ends first":   {Start: now, Expiry: now},
		"no expiry":    {Start: now},
		"bad scope":    {Start: now, Expiry: now.Add(time.Hour), Scopes: []string{"a\nb"}},
		"bad clientId": {Start: now, Expiry: now.Add(time.Hour), ClientID: "a b"},
	} {
		if _, err := Temporary(issuer, bad); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
	if _, err := Temporary(c, o); err == nil {
		t.Error("temporary credentials issued others")
	}
}

func TestParseExtRefuses(t *testing.T) {
	cert := func(s string) string { return `{"certificate":` + s + `}` }
	seed := strings.Repeat("s", 44)
	good := `{"version":1,"scopes":["a"],"start":1000,"expiry":2000,"seed":"` + seed + `","signature":"x"}`
	swap := func(old, new string) string { return cert(strings.Replace(good, old, new, 1)) }
	if _, err := ParseExt(base64.StdEncoding.EncodeToString([]byte(cert(good)))); err != nil {
		t.Fatal(err)
	}
	for _, ok := range []string{`{}`, `{"authorizedScopes":[]}`, `{"other":1}`} {
		if _, err := ParseExt(base64.URLEncoding.EncodeToString([]byte(ok))); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	for _, bad := range []string{
		`null`, `[]`, `"x"`, `{`, `1`, "\x00", strings.Repeat("[", 40000), strings.Repeat(`{"certificate":`, 3000),
		`{"authorizedScopes":null}`, `{"authorizedScopes":"x"}`, `{"authorizedScopes":[1]}`, `{"authorizedScopes":["\n"]}`, `{"authorizedScopes":["é"]}`,
		cert(`null`), cert(`"x"`), cert(`[]`), cert(`{}`),
		swap(`"version":1`, `"version":2`), swap(`"version":1`, `"version":"1"`), swap(`["a"]`, `null`), swap(`["a"]`, `"a"`), swap(`["a"]`, `[{}]`), swap(`["a"]`, `["a\u000ab"]`),
		swap(`"scopes":["a"],`, ``), swap(seed, seed+"s"), swap(seed, ""), swap(`"start":1000`, `"start":1e30`), swap(`"start":1000`, `"start":-1`), swap(`"start":1000`, `"start":"1000"`),
		swap(`"expiry":2000`, `"expiry":1000`), swap(`"expiry":2000`, `"expiry":2678402000`), swap(`"expiry":2000`, `"expiry":9223372036854775807`),
		swap(`"signature"`, `"issuer":"a b","signature"`), swap(`"signature"`, `"issuer":1,"signature"`),
	} {
		if e, err := ParseExt(base64.StdEncoding.EncodeToString([]byte(bad))); err == nil {
			t.Errorf("%.200s: parsed as %+v", bad, e)
		}
	}
	if _, err := ParseExt("%"); err == nil {
		t.Error("not base64, but parsed")
	}
}

// A request is signed for what the server will see of it: the server in this
// test knows nothing but its own view.
func TestSign(t *testing.T) {
	var got *http.Request
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r }))
	defer server.Close()
	client := Credentials{ClientID: "me", AccessToken: "secret"}
	for _, path := range []string{"", "/", "/a/b%2Fc?x=1&y=%20", "/ü?q=ü", "//x"} {
		req, err := http.NewRequest("PUT", server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := Sign(req, client, []string{}); err != nil {
			t.Fatal(err)
		}
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		h, err := hawk.ParseHeader(got.Header.Get("Authorization"))
		if err != nil {
			t.Fatal(err)
		}
		host, port, err := SplitHost(got.Host)
		if err != nil {
			t.Fatal(err)
		}
		if !h.Verify(hawk.Request{Method: got.Method, Resource: got.RequestURI, Host: host, Port: port}, "secret") || !h.Fresh(time.Now()) {
			t.Errorf("%q: the server cannot verify %s", path, h)
		}
		if e, err := ParseExt(h.Ext); err != nil || e.AuthorizedScopes == nil || len(e.AuthorizedScopes) != 0 {
			t.Errorf("ext %q: %+v, %v", h.Ext, e, err)
		}
	}
}

func TestSignKnowsPortsAndHosts(t *testing.T) {
	for u, want := range map[string]hawk.Request{
		"http://a.example/x":        {Method: "GET", Resource: "/x", Host: "a.example", Port: 80},
		"https://a.example":         {Method: "GET", Resource: "/", Host: "a.example", Port: 443},
		"https://a.example:8443/?b": {Method: "GET", Resource: "/?b", Host: "a.example", Port: 8443},
		"https://a.example:/x":      {Method: "GET", Resource: "/x", Host: "a.example", Port: 443},
		"http://[::1]:8080/x":       {Method: "GET", Resource: "/x", Host: "[::1]", Port: 8080},
		"http://[::1]/x":            {Method: "GET", Resource: "/x", Host: "[::1]", Port: 80},
	} {
		req, err := http.NewRequest("", u, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Method = "" // the zero value is GET
		if err := Sign(req, Credentials{ClientID: "me", AccessToken: "secret"}, nil); err != nil {
			t.Fatal(err)
		}
		h, err := hawk.ParseHeader(req.Header.Get("Authorization"))
		if err != nil || !h.Verify(want, "secret") || h.Ext != "" {
			t.Errorf("%s is not signed as %+v (%v)", u, want, err)
		}
		signed, err := SignURL(u, Credentials{ClientID: "me", AccessToken: "secret"}, time.Unix(1462959000, 0), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, text, found := hawk.CutBewit(signed)
		b, err := hawk.ParseBewit(text)
		if !found || err != nil || !b.Verify(want, "secret") || b.Expires != 1462959000 {
			t.Errorf("%s is signed as %s (%v)", u, signed, err)
		}
	}
	proxied, _ := http.NewRequest("GET", "http://10.0.0.1:9000/x", nil)
	proxied.Host = "tc.example.com:81"
	if err := Sign(proxied, Credentials{ClientID: "me", AccessToken: "secret"}, nil); err != nil {
		t.Fatal(err)
	}
	if h, _ := hawk.ParseHeader(proxied.Header.Get("Authorization")); !h.Verify(hawk.Request{Method: "GET", Resource: "/x", Host: "tc.example.com", Port: 81}, "secret") {
		t.Error("the Host that is sent is not the one that is signed")
	}
	anonymous, _ := http.NewRequest("GET", "http://a.example/x", nil)
	if err := Sign(anonymous, Credentials{}, nil); err != nil || anonymous.Header.Get("Authorization") != "" {
		t.Errorf("anonymous: %v %v", err, anonymous.Header)
	}
	odd, _ := http.NewRequest("GET", "gopher://a.example/x", nil)
	if err := Sign(odd, Credentials{ClientID: "me"}, nil); err == nil {
		t.Error("signed for a port that is not known")
	}
	if err := Sign(proxied, Credentials{ClientID: "me", Certificate: "{"}, nil); err == nil {
		t.Error("signed with a broken certificate")
	}
}

func TestSplitHost(t *testing.T) {
	for in, want := range map[string]string{
		"a": "a 0", "a:80": "a 80", "a:": "a 0", "[::1]": "[::1] 0", "[::1]:80": "[::1] 80", "127.0.0.1:65535": "127.0.0.1 65535",
		"": "error", "a:65536": "error", "a:-1": "error", "a:b": "error", "::1": "error", "a:1:2": "error",
	} {
		host, port, err := SplitHost(in)
		got := fmt.Sprint(host, " ", port)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("SplitHost(%q) = %s (%v), want %s", in, got, err, want)
		}
	}
}

func TestSecretsStayOutOfText(t *testing.T) {
	c := Credentials{ClientID: "me", AccessToken: "hush", Certificate: "hush"}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("hello", "credentials", c)
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%v %+v %#v %s", c, c, c, c), log.String()} {
		if strings.Contains(s, "hush") || !strings.Contains(s, "me") {
			t.Errorf("written as %s", s)
		}
	}
}

func FuzzParseExt(f *testing.F) {
	for _, v := range vectors(f).Vectors {
		text, err := base64.StdEncoding.DecodeString(v.Ext)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"certificate":{"Version":1,"scopes":[null]},"AuthorizedScopes":["a",null]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := ParseExt(base64.RawURLEncoding.EncodeToString(text))
		if err != nil {
			return
		}
		again, err := ParseExt(e.String())
		if err != nil || !reflect.DeepEqual(again, e) {
			t.Fatalf("%+v was written and read as %+v, %v", e, again, err)
		}
	})
}

func BenchmarkParseExt(b *testing.B) {
	now := time.Now()
	var scopes []string
	for i := range 20 {
		scopes = append(scopes, fmt.Sprintf("queue:create-task:project/level-%d/*", i))
	}
	c, err := Temporary(issuer, Options{ClientID: "x", Scopes: scopes, Expiry: now.Add(time.Hour)})
	if err != nil {
		b.Fatal(err)
	}
	ext, err := c.ext(nil)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		e, err := ParseExt(ext)
		if err == nil {
			err = e.Certificate.Verify("x", issuer.AccessToken)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
