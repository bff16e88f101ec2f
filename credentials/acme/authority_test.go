package acme

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	authorityURL = "https://ca.test"
	directoryURL = authorityURL + "/directory"
)

// An authority is an imitation of one that speaks ACME, with behaviour: it keeps
// accounts, orders and what it has revoked, checks signatures and nonces, tries
// challenges, and fails where it is told to.
type authority struct {
	*testing.T
	mu       sync.Mutex
	root     *x509.Certificate
	rootKey  *ecdsa.PrivateKey
	inter    *x509.Certificate
	interKey *ecdsa.PrivateKey

	accounts map[string]*ecdsa.PublicKey // by URL
	thumbs   map[string]string           // URLs by thumbprint
	nonces   map[string]bool
	orders   map[string]*order
	revoked  map[string]int // reasons by serial
	issued   []*x509.Certificate
	keys     map[string]bool // that have a certificate
	calls    map[string]int
	serial   int64

	// answers is asked for what is to be found for a challenge.
	answers func(name, kind, token string) (string, error)

	// fault can answer a call by itself: before it has an effect, or after it.
	fault func(op string, n int) (status int, after bool, h http.Header)

	skew   time.Duration // of its clock
	slow   time.Duration // is how long it takes to issue
	expiry time.Duration // of certificates
	lapses time.Duration // is when orders expire; never where it is zero
	bound  string        // MAC key of accounts elsewhere, where they are asked for
}

type order struct {
	id      string
	account string
	names   []string
	authz   map[string]string // state of each name
	csr     *x509.CertificateRequest
	ready   time.Time // when it is issued
	chain   []byte
	failed  bool
	expires time.Time
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{T: t, accounts: map[string]*ecdsa.PublicKey{}, thumbs: map[string]string{}, nonces: map[string]bool{}, orders: map[string]*order{},
		revoked: map[string]int{}, keys: map[string]bool{}, calls: map[string]int{}, expiry: 90 * 24 * time.Hour}
	make := func(name string, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		a.serial++
		template := &x509.Certificate{SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-10 * 365 * 24 * time.Hour), NotAfter: time.Now().Add(50 * 365 * 24 * time.Hour),
			IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
		if parent == nil {
			parent, by = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c, key
	}
	a.root, a.rootKey = make("root", nil, nil)
	a.inter, a.interKey = make("issuer", a.root, a.rootKey)
	return a
}

// rootsFile is a file with the authority's root.
func (a *authority) rootsFile(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "roots.pem")
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func (a *authority) now() time.Time { return time.Now().Add(a.skew) }

// RoundTrip is the network, on which there is the authority alone.
func (a *authority) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	in := httptest.NewRequest(r.Method, r.URL.String(), r.Body)
	in.Header = r.Header.Clone()
	a.serve(w, in)
	res := w.Result()
	res.Request = r
	return res, nil
}

func (a *authority) serve(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	op := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")[0]
	a.calls[op]++
	status, after, header := 0, false, http.Header(nil)
	if a.fault != nil {
		status, after, header = a.fault(op, a.calls[op])
	}
	fail := func() {
		for k, v := range header {
			w.Header()[k] = v
		}
		kind := map[int]string{429: "rateLimited", 500: "serverInternal", 503: "serverInternal"}[status]
		problemOf(w, status, kind, "as the test wants it")
	}
	w.Header().Set("Replay-Nonce", a.nonce())
	if status != 0 && !after {
		fail()
		return
	}
	if status != 0 {
		hidden := httptest.NewRecorder()
		a.act(hidden, r, op)
		fail()
		return
	}
	a.act(w, r, op)
}

func (a *authority) nonce() string {
	n := fmt.Sprintf("nonce-%d", len(a.nonces))
	a.nonces[n] = true
	return n
}

func problemOf(w http.ResponseWriter, status int, kind, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"type": "urn:ietf:params:acme:error:" + kind, "detail": detail, "status": status})
}

func (a *authority) act(w http.ResponseWriter, r *http.Request, op string) {
	reply := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(v)
	}
	switch op {
	case "directory":
		meta := map[string]any{"termsOfService": authorityURL + "/terms"}
		if a.bound != "" {
			meta["externalAccountRequired"] = true
		}
		reply(200, map[string]any{"newNonce": authorityURL + "/nonce", "newAccount": authorityURL + "/account", "newOrder": authorityURL + "/order", "revokeCert": authorityURL + "/revoke", "meta": meta})
		return
	case "nonce":
		w.WriteHeader(200)
		return
	case "crl":
		w.Write(a.crl())
		return
	}
	payload, account, key, ok := a.verify(w, r)
	if !ok {
		return
	}
	rest := strings.Split(strings.TrimPrefix(r.URL.Path, "/"+op+"/"), "/")
	o := a.orders[rest[0]]
	if o != nil && o.account != account {
		problemOf(w, 403, "unauthorized", "not yours")
		return
	}
	orderURL := func() string { return authorityURL + "/get/" + o.id }
	switch op {
	case "account":
		var in struct {
			Terms  bool `json:"termsOfServiceAgreed"`
			Only   bool `json:"onlyReturnExisting"`
			Bound  *jws `json:"externalAccountBinding"`
			Status string
		}
		json.Unmarshal(payload, &in)
		x := thumbprint(key)
		url, there := a.thumbs[x]
		switch {
		case there:
			w.Header().Set("Location", url)
			reply(200, map[string]any{"status": "valid"})
		case in.Only:
			problemOf(w, 400, "accountDoesNotExist", "no such account")
		case !in.Terms:
			problemOf(w, 403, "userActionRequired", "agree")
		case a.bound != "" && (in.Bound == nil || !in.Bound.macs(a.bound)):
			problemOf(w, 401, "externalAccountRequired", "bind it")
		default:
			url = fmt.Sprintf("%s/accounts/%d", authorityURL, len(a.accounts)+1)
			a.thumbs[x], a.accounts[url] = url, key
			w.Header().Set("Location", url)
			reply(201, map[string]any{"status": "valid"})
		}
	case "order":
		var in struct{ Identifiers []struct{ Value string } }
		json.Unmarshal(payload, &in)
		o = &order{id: fmt.Sprint(len(a.orders) + 1), account: account, authz: map[string]string{}, expires: a.now().Add(a.lapses)}
		for _, i := range in.Identifiers {
			o.names = append(o.names, i.Value)
			o.authz[i.Value] = "pending"
		}
		a.orders[o.id] = o
		w.Header().Set("Location", orderURL())
		reply(201, a.tell(o))
	case "get":
		if o == nil {
			problemOf(w, 404, "malformed", "no such order")
			return
		}
		reply(200, a.tell(o))
	case "authz":
		name := rest[1]
		reply(200, map[string]any{"status": o.authz[name], "identifier": map[string]string{"type": "dns", "value": strings.TrimPrefix(name, "*.")}, "wildcard": strings.HasPrefix(name, "*."), "challenges": a.challenges(o, name)})
	case "challenge":
		name, kind := rest[1], rest[2]
		if o.authz[name] == "pending" {
			host := strings.TrimPrefix(name, "*.")
			want := token(o, name) + "." + thumbprint(a.accounts[account])
			if kind == byDNS {
				sum := sha256.Sum256([]byte(want))
				want = base64.RawURLEncoding.EncodeToString(sum[:])
			}
			o.authz[name] = "valid"
			a.mu.Unlock()
			got, err := a.answers(host, kind, token(o, name))
			a.mu.Lock()
			if err != nil || got != want {
				o.authz[name], o.failed = "invalid", true
			}
		}
		reply(200, map[string]any{"type": kind, "status": "processing", "url": authorityURL + r.URL.Path, "token": token(o, name)})
	case "finalize":
		if a.tell(o)["status"] != "ready" {
			problemOf(w, 403, "orderNotReady", "it is not ready")
			return
		}
		var in struct{ CSR string }
		json.Unmarshal(payload, &in)
		der, _ := base64.RawURLEncoding.DecodeString(in.CSR)
		csr, err := x509.ParseCertificateRequest(der)
		if err != nil || csr.CheckSignature() != nil || !equal(csr.DNSNames, o.names) {
			problemOf(w, 400, "badCSR", "it is not liked")
			return
		}
		o.csr, o.ready = csr, a.now().Add(a.slow)
		w.Header().Set("Location", orderURL())
		reply(200, a.tell(o))
	case "certificate":
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		w.Write(o.chain)
	case "revoke":
		var in struct {
			Certificate string
			Reason      int
		}
		json.Unmarshal(payload, &in)
		der, _ := base64.RawURLEncoding.DecodeString(in.Certificate)
		c, err := x509.ParseCertificate(der)
		if err != nil {
			problemOf(w, 400, "malformed", "no certificate")
			return
		}
		if account == "" && !key.Equal(c.PublicKey) {
			problemOf(w, 403, "unauthorized", "neither the account's nor the certificate's key")
			return
		}
		if _, was := a.revoked[c.SerialNumber.String()]; was {
			problemOf(w, 400, "alreadyRevoked", "it is")
			return
		}
		a.revoked[c.SerialNumber.String()] = in.Reason
		w.WriteHeader(200)
	default:
		problemOf(w, 404, "malformed", "there is nothing at "+r.URL.Path)
	}
}

func token(o *order, name string) string {
	sum := sha256.Sum256([]byte(o.id + " " + name + " " + o.account))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func (a *authority) challenges(o *order, name string) (list []map[string]any) {
	for _, kind := range []string{byHTTP, byDNS, "tls-alpn-01"} {
		c := map[string]any{"type": kind, "status": o.authz[name], "url": fmt.Sprintf("%s/challenge/%s/%s/%s", authorityURL, o.id, name, kind), "token": token(o, name)}
		if o.authz[name] == "invalid" {
			c["error"] = map[string]any{"type": "urn:ietf:params:acme:error:connection", "detail": "nobody answers at " + name, "status": 400}
		}
		list = append(list, c)
	}
	return list
}

// tell is an order as it is now.
func (a *authority) tell(o *order) map[string]any {
	v := map[string]any{"finalize": authorityURL + "/finalize/" + o.id}
	ids, urls, status := []map[string]string{}, []string{}, "ready"
	for _, n := range o.names {
		ids = append(ids, map[string]string{"type": "dns", "value": n})
		urls = append(urls, authorityURL+"/authz/"+o.id+"/"+n)
		if o.authz[n] != "valid" {
			status = "pending"
		}
	}
	switch {
	case o.failed:
		status = "invalid"
	case o.csr != nil && a.now().Before(o.ready):
		status = "processing"
	case o.csr != nil:
		status = "valid"
		a.issue(o)
		v["certificate"] = authorityURL + "/certificate/" + o.id
	}
	if a.lapses > 0 {
		v["expires"] = o.expires
	}
	v["status"], v["identifiers"], v["authorizations"] = status, ids, urls
	return v
}

func (a *authority) issue(o *order) {
	if o.chain != nil {
		return
	}
	der, _ := x509.MarshalPKIXPublicKey(o.csr.PublicKey)
	if a.keys[string(der)] {
		a.Errorf("two certificates were issued for one key: something was ordered twice")
	}
	a.keys[string(der)] = true
	a.serial++
	leaf, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(a.serial), DNSNames: o.names,
		NotBefore: a.now().Add(-time.Hour), NotAfter: a.now().Add(a.expiry), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		CRLDistributionPoints: []string{authorityURL + "/crl"}}, a.inter, o.csr.PublicKey, a.interKey)
	if err != nil {
		a.Errorf("issuing: %v", err)
	}
	c, _ := x509.ParseCertificate(leaf)
	a.issued = append(a.issued, c)
	o.chain = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.inter.Raw})...)
}

func (a *authority) crl() []byte {
	var list []x509.RevocationListEntry
	for serial, reason := range a.revoked {
		n, _ := new(big.Int).SetString(serial, 10)
		list = append(list, x509.RevocationListEntry{SerialNumber: n, RevocationTime: a.now(), ReasonCode: reason})
	}
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: a.now(), NextUpdate: a.now().Add(time.Hour), RevokedCertificateEntries: list}, a.inter, a.interKey)
	if err != nil {
		a.Errorf("making a list: %v", err)
	}
	return der
}

type jws struct{ Protected, Payload, Signature string }

// macs tells that an account is bound with a key.
func (j *jws) macs(key string) bool {
	return hmacOf(key, j.Protected+"."+j.Payload) == j.Signature
}

// verify checks who has signed a request, and that its nonce is good.
func (a *authority) verify(w http.ResponseWriter, r *http.Request) (payload []byte, account string, key *ecdsa.PublicKey, ok bool) {
	var in jws
	body, _ := io.ReadAll(r.Body)
	var head struct {
		Alg, Nonce, URL, Kid string
		JWK                  *struct{ X, Y string }
	}
	protected, _ := base64.RawURLEncoding.DecodeString(func() string { json.Unmarshal(body, &in); return in.Protected }())
	json.Unmarshal(protected, &head)
	payload, _ = base64.RawURLEncoding.DecodeString(in.Payload)
	switch {
	case r.Method != http.MethodPost || head.URL != authorityURL+r.URL.Path:
		problemOf(w, 400, "malformed", "no request of ACME")
		return
	case !a.nonces[head.Nonce]:
		problemOf(w, 400, "badNonce", "this nonce is not known")
		return
	}
	a.nonces[head.Nonce] = false
	if head.JWK != nil {
		x, _ := base64.RawURLEncoding.DecodeString(head.JWK.X)
		y, _ := base64.RawURLEncoding.DecodeString(head.JWK.Y)
		key = &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int).SetBytes(x), Y: new(big.Int).SetBytes(y)}
	} else if key = a.accounts[head.Kid]; key == nil {
		problemOf(w, 400, "accountDoesNotExist", "no such account")
		return
	}
	sum := sha256.Sum256([]byte(in.Protected + "." + in.Payload))
	signature, _ := base64.RawURLEncoding.DecodeString(in.Signature)
	if len(signature) != 64 || !ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		problemOf(w, 403, "unauthorized", "the signature is wrong")
		return
	}
	return payload, head.Kid, key, true
}

func thumbprint(key *ecdsa.PublicKey) string {
	e := base64.RawURLEncoding.EncodeToString
	x, y := key.X.FillBytes(make([]byte, 32)), key.Y.FillBytes(make([]byte, 32))
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":%q,"y":%q}`, e(x), e(y)))
	return e(sum[:])
}

// works tells whether a client of a server that has the secret is content.
func (a *authority) works(text json.RawMessage) error {
	var s secret
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	leaf, _, err := s.pair()
	if err != nil || leaf == nil {
		return fmt.Errorf("no certificate: %v", err)
	}
	if !bytes.HasSuffix([]byte(s.Bundle), []byte(s.FullChain)) || s.FullChain != s.Certificate+s.Chain {
		return fmt.Errorf("the pieces do not fit together")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(a.root)
	between.AppendCertsFromPEM([]byte(s.Chain))
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between}); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if reason, was := a.revoked[leaf.SerialNumber.String()]; was {
		return fmt.Errorf("it was revoked for reason %d", reason)
	}
	return nil
}
