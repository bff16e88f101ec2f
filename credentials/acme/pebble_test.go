package acme

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
)

// within answers requests without a network.
type within struct{ http.Handler }

func (w within) RoundTrip(r *http.Request) (*http.Response, error) {
	to := httptest.NewRecorder()
	in := httptest.NewRequest(r.Method, r.URL.String(), r.Body)
	in.Header, in.RequestURI = r.Header.Clone(), r.URL.RequestURI()
	w.ServeHTTP(to, in)
	return to.Result(), nil
}

// names answers for all names: they are this machine, and their texts are the lines of
// files in a directory.
func names(t *testing.T, dir string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{Listener: l, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		name := q.Question[0].Name
		head := dns.RR_Header{Name: name, Rrtype: q.Question[0].Qtype, Class: dns.ClassINET}
		switch q.Question[0].Qtype {
		case dns.TypeA:
			m.Answer = append(m.Answer, &dns.A{Hdr: head, A: net.IPv4(127, 0, 0, 1)})
		case dns.TypeTXT:
			text, _ := os.ReadFile(filepath.Join(dir, strings.TrimSuffix(name, ".")))
			for _, line := range strings.Fields(string(text)) {
				m.Answer = append(m.Answer, &dns.TXT{Hdr: head, Txt: []string{line}})
			}
		}
		w.WriteMsg(m)
	})}
	go server.ActivateAndServe()
	t.Cleanup(func() { server.Shutdown() })
	return l.Addr().String()
}

// Pebble is the authority that Let's Encrypt has made for tests. It refuses half of
// all good nonces here, and is asked by both challenges.
func TestPebble(t *testing.T) {
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "50")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	own, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	keys, err := seal.NewKeys(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	k, err := New(t.Context(), Config{DB: own, Keys: keys, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	web, dir := httptest.NewServer(k), t.TempDir()
	defer web.Close()
	at, _ := url.Parse(web.URL)
	port, _ := strconv.Atoi(at.Port())

	quiet, memory := log.New(io.Discard, "", 0), db.NewMemoryStore()
	mac := base64.RawURLEncoding.EncodeToString([]byte("a key for tests of 32 bytes, no more"))
	if err := memory.AddExternalAccountKeyByID("kid-1", mac); err != nil {
		t.Fatal(err)
	}
	issuer := ca.New(quiet, memory, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {ValidityPeriod: 30 * 24 * 3600}})
	front := wfe.New(quiet, memory, va.New(quiet, port, 0, true, names(t, dir), memory), issuer, []string{"ca.test"}, true, true, 0, 0)
	k.transport = within{front.Handler()}
	roots := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(roots, issuer.GetRootCert(0).PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, more := range map[string]map[string]any{
		"by HTTP": {"names": []string{"a.example.test", "b.example.test"}, "keyType": "rsa-2048"},
		"by DNS": {"names": []string{"example.test", "*.example.test"}, "challenge": "dns-01", "keyType": "ecdsa-p384",
			"dns": map[string]any{"command": []string{self, asProgram, dir}, "timeout": "100s", "settings": map[string]string{"zone": "z-secret"}}},
	} {
		settings := map[string]any{"directory": "https://pebble.test/dir", "agreeToTerms": true, "contact": []string{"mailto:ops@example.com"}, "roots": roots,
			"account": map[string]string{"id": "kid-1", "key": mac}}
		for name, v := range more {
			settings[name] = v
		}
		text, err := json.Marshal(settings)
		if err != nil {
			t.Fatal(err)
		}
		o := credentials.Order{Credential: "web", Settings: text, ID: slugid.New()}
		m, err := k.Mint(t.Context(), o)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		again, err := k.Mint(t.Context(), o)
		if err != nil || string(again.Secret) != string(m.Secret) {
			t.Errorf("%s: minted again it is another one: %v", what, err)
		}
		v := versionOf(o, m)
		if err := k.Prove(t.Context(), v); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		v.Leaked = true
		if err := k.Retire(t.Context(), v); err != nil {
			t.Errorf("%s: revoking: %v", what, err)
		}
		var held secret
		json.Unmarshal(m.Secret, &held)
		if leaf, _, err := held.pair(); err != nil || memory.GetRevokedCertificateBySerial(leaf.SerialNumber) == nil {
			t.Errorf("%s: %s is not revoked", what, m.Public)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
}
