// Package acme has TLS certificates issued and renewed by an authority that speaks
// ACME (RFC 8555).
//
// What has to outlive a crash is in tables of its own: the key of the account, and
// for each version the key of its certificate and the URL of its order, both written
// down before a certificate can come of them. So a version that is minted again looks up
// the order that exists: nothing is issued twice, and no rate limit is used up by
// crashes. How long an authority wants to be left alone is written down, too, and heeded
// by all replicas.
//
// A challenge by HTTP is answered from the database, and so by whichever replica is
// asked. One by DNS is answered by a program of the operator.
package acme

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/acme"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// Config is what a Kind needs.
type Config struct {
	DB   *store.DB
	Keys *seal.Keys
	Log  *slog.Logger

	// Transport leads to authorities; nil: the network.
	Transport http.RoundTripper
}

// Kind is credentials.Kind for certificates, and answers challenges as an
// http.Handler.
type Kind struct {
	db        *store.DB
	keys      *seal.Keys
	log       *slog.Logger
	transport http.RoundTripper
}

// New opens the kind, creating its tables where they do not exist.
func New(ctx context.Context, c Config) (*Kind, error) {
	if err := c.DB.Migrate(ctx, "acme", migrations); err != nil {
		return nil, fmt.Errorf("acme: migrate: %w", err)
	}
	return &Kind{c.DB, c.Keys, c.Log, c.Transport}, nil
}

// Loops are the work that goes on beside the rotations.
func (k *Kind) Loops() []loop.Loop {
	return []loop.Loop{{
		Name: "acme.upkeep", Doc: "Seals keys of ACME accounts and orders anew that are sealed with an old key, and forgets answers by HTTP after a while.",
		When: loop.Every(time.Hour), Pass: k.upkeep,
	}}
}

// Settings are those of a credential of this kind.
type Settings struct {
	Directory    string   `json:"directory"`    // URL of the authority's directory
	AgreeToTerms bool     `json:"agreeToTerms"` // of the authority; it issues nothing otherwise
	Contact      []string `json:"contact"`      // addresses, for the authority
	Account      *binding `json:"account"`      // an account elsewhere at the authority, where it asks for one

	Names     []string `json:"names"`     // DNS names; *.example.com by dns-01 alone
	KeyType   string   `json:"keyType"`   // ecdsa-p256 where it is empty
	Challenge string   `json:"challenge"` // http-01 where it is empty, or dns-01
	DNS       *program `json:"dns"`       // sets records, for dns-01

	Roots  string `json:"roots"`  // a file of authorities, PEM, that are trusted beside those of the system
	Revoke string `json:"revoke"` // leaked where it is empty: those that were ended by force; or always
}

// A binding is the key of an account elsewhere: External Account Binding.
type binding struct {
	ID  string `json:"id"`
	Key string `json:"key"` // base64url, as authorities tell it; a secret
}

// A program sets the records of challenges.
type program struct {
	Command  []string        `json:"command"`
	Timeout  string          `json:"timeout"`
	Settings json.RawMessage `json:"settings"`
}

const (
	byHTTP = "http-01"
	byDNS  = "dns-01"

	revokeLeaked = "leaked"
	revokeAlways = "always"

	defaultTimeout = 30 * time.Second
	maxTimeout     = 100 * time.Second // less than a step may take
	maxNames       = 100
	maxNameBytes   = 8 << 10 // of all of them, as they are told with each version
)

var dnsName = regexp.MustCompile(`^(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9][a-z0-9-]{0,61}[a-z0-9]$`)

// A parsed is settings that were checked.
type parsed struct {
	Settings
	mac     []byte
	timeout time.Duration
}

func parse(text json.RawMessage) (s parsed, err error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&s.Settings); err != nil {
		return s, fmt.Errorf("the settings of a certificate are directory, agreeToTerms, contact, account, names, keyType, challenge, dns, roots and revoke: %w", err)
	}
	u, err := url.Parse(s.Directory)
	switch {
	case err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil:
		return s, errors.New("directory must be the https URL of the authority's directory, such as https://acme-v02.api.letsencrypt.org/directory")
	case !s.AgreeToTerms:
		return s, fmt.Errorf("agreeToTerms must be true: read the terms of service that %s names; without agreement nothing is issued", s.Directory)
	case len(s.Names) == 0 || len(s.Names) > maxNames || len(strings.Join(s.Names, "")) > maxNameBytes:
		return s, fmt.Errorf("names must be the DNS names of the certificate, up to %d of together %d bytes", maxNames, maxNameBytes)
	}
	for _, c := range s.Contact {
		if !strings.HasPrefix(c, "mailto:") || !strings.Contains(c, "@") {
			return s, fmt.Errorf("contact: %q must be an address such as mailto:ops@example.com", c)
		}
	}
	if s.KeyType == "" {
		s.KeyType = "ecdsa-p256"
	}
	if s.Challenge == "" {
		s.Challenge = byHTTP
	}
	if s.Revoke == "" {
		s.Revoke = revokeLeaked
	}
	seen := map[string]bool{}
	for _, n := range s.Names {
		switch {
		case !dnsName.MatchString(n) || len(n) > 253:
			return s, fmt.Errorf("names: %q is no DNS name in lower case; write one that is not ASCII as xn--…", n)
		case seen[n]:
			return s, fmt.Errorf("names: %s is there twice", n)
		case strings.HasPrefix(n, "*.") && s.Challenge != byDNS:
			return s, fmt.Errorf("names: %s needs challenge: dns-01, as authorities issue wildcards by nothing else", n)
		}
		seen[n] = true
	}
	switch {
	case generators[s.KeyType] == nil:
		return s, fmt.Errorf("keyType is %q; it must be ecdsa-p256, ecdsa-p384, rsa-2048 or rsa-4096", s.KeyType)
	case s.Challenge != byHTTP && s.Challenge != byDNS:
		return s, fmt.Errorf("challenge is %q; it must be http-01 or dns-01", s.Challenge)
	case (s.DNS != nil) != (s.Challenge == byDNS):
		return s, errors.New("dns must be there with challenge: dns-01, and only then: it names the program that sets the records")
	case s.Revoke != revokeLeaked && s.Revoke != revokeAlways:
		return s, fmt.Errorf("revoke is %q; it must be leaked or always", s.Revoke)
	case s.Roots != "" && !filepath.IsAbs(s.Roots):
		return s, fmt.Errorf("roots is %q; it must be an absolute path", s.Roots)
	}
	if s.Account != nil {
		s.mac, err = base64.RawURLEncoding.DecodeString(strings.TrimRight(s.Account.Key, "="))
		if err != nil || s.Account.ID == "" || len(s.mac) == 0 {
			return s, errors.New("account must have the id and the key, in base64url, that the authority has given you; they are not shown")
		}
	}
	if s.DNS != nil {
		if len(s.DNS.Command) == 0 || !filepath.IsAbs(s.DNS.Command[0]) {
			return s, errors.New("dns.command must be a list that begins with the absolute path of a program")
		}
		s.timeout = defaultTimeout
		if s.DNS.Timeout != "" {
			if s.timeout, err = time.ParseDuration(s.DNS.Timeout); err != nil || s.timeout <= 0 || s.timeout > maxTimeout {
				return s, fmt.Errorf("dns.timeout is %q; it must be a time such as 30s, up to %s", s.DNS.Timeout, maxTimeout)
			}
		}
	}
	return s, nil
}

// Check implements credentials.Kind.
func (*Kind) Check(settings json.RawMessage) (place string, err error) {
	s, err := parse(settings)
	if err != nil {
		return "", err
	}
	if _, err := s.trusted(); err != nil {
		return "", err
	}
	if s.DNS != nil {
		if info, err := os.Stat(s.DNS.Command[0]); err != nil {
			return "", fmt.Errorf("dns.command: the program cannot be found on this machine: %w", err)
		} else if info.IsDir() || info.Mode()&0o111 == 0 {
			return "", fmt.Errorf("dns.command: %s is no program that can be run", s.DNS.Command[0])
		}
	}
	u, _ := url.Parse(s.Directory)
	more := ""
	if len(s.Names) > 1 {
		more = fmt.Sprintf(" and %d more", len(s.Names)-1)
	}
	return fmt.Sprintf("%s, for %s%s", u.Host, s.Names[0], more), nil
}

// Site implements credentials.Sited: a certificate is another one for other names, and
// those of several credentials are not in each other's way.
func (*Kind) Site(settings json.RawMessage) (site string, shared bool) {
	s, err := parse(settings)
	if err != nil {
		return string(settings), true
	}
	return strings.Join(append([]string{s.Directory, s.KeyType}, slices.Sorted(slices.Values(s.Names))...), "\x00"), true
}

// trusted are the authorities that a certificate may come from, and that of the
// directory itself.
func (s parsed) trusted() (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a machine without any
	}
	if s.Roots != "" {
		text, err := os.ReadFile(s.Roots)
		if err != nil {
			return nil, fmt.Errorf("roots cannot be read on this machine: %w", err)
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("roots: there is no certificate in PEM in %s", s.Roots)
		}
	}
	return pool, nil
}

// reach is how to reach what belongs to the authority.
func (k *Kind) reach(s parsed) (*http.Client, error) {
	t := k.transport
	if t == nil {
		pool, err := s.trusted()
		if err != nil {
			return nil, err
		}
		network := http.DefaultTransport.(*http.Transport).Clone()
		network.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
		network.IdleConnTimeout = 10 * time.Second // as it is used once
		t = network
	}
	return &http.Client{Transport: bounded{t}, Timeout: 30 * time.Second}, nil
}

// maxAnswer is how much of an answer is read, in bytes; the largest are lists of
// what was revoked.
const maxAnswer = 16 << 20

// A bounded transport reads no more than that. A time to wait which is over, by clocks
// that differ, is none: package acme would ask again without any pause.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := b.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, maxAnswer), res.Body}
	if after, ok := waitOf(res.Header); ok && after <= 0 {
		res.Header.Del("Retry-After")
	}
	return res, nil
}

// waitOf is the time to wait that an answer tells.
func waitOf(h http.Header) (after time.Duration, ok bool) {
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseInt(text, 10, 32); err == nil {
		return time.Duration(seconds) * time.Second, true
	} else if at, err := http.ParseTime(text); err == nil {
		return time.Until(at), true
	}
	return 0, false
}

// Mint implements credentials.Kind. Called again it goes on with the order that there
// is, whatever has become of it.
func (k *Kind) Mint(ctx context.Context, o credentials.Order) (m credentials.Minted, err error) {
	s, err := parse(o.Settings)
	if err != nil {
		return m, credentials.Refused("%w", err)
	}
	w, err := k.work(ctx, s, o.Credential, o.ID)
	if err != nil {
		return m, err
	}
	chain, err := w.obtain(ctx)
	if err != nil {
		return m, w.judge(ctx, err)
	}
	if m, err = describe(chain, w.key); err != nil {
		return m, err
	}
	// Answers that cannot be taken back now are taken back when the version is retired.
	if err := k.takeBack(ctx, s, o.Credential, o.ID); err != nil {
		k.log.Warn("the answers to challenges could not be taken back; it is tried again when the version is retired", "credential", o.Credential, "version", o.ID, "err", err)
	}
	return m, nil
}

// Used implements credentials.Kind.
func (*Kind) Used(context.Context, credentials.Version) (time.Time, error) {
	return time.Time{}, credentials.ErrNotTold
}

// Disable implements credentials.Kind. A revocation cannot be taken back.
func (*Kind) Disable(context.Context, credentials.Version) error { return nil }

// Retire implements credentials.Kind. A certificate that was merely replaced is not
// revoked, unless the settings say so: it ends by itself.
func (k *Kind) Retire(ctx context.Context, v credentials.Version) error {
	s, err := parse(v.Settings)
	if err != nil {
		return credentials.Refused("%w", err)
	}
	if v.Leaked || s.Revoke == revokeAlways {
		if err := k.revoke(ctx, s, v); err != nil {
			return err
		}
	}
	if err := k.takeBack(ctx, s, v.Credential, v.ID); err != nil {
		return err
	}
	return k.forgetOrder(ctx, v.ID)
}

func (k *Kind) revoke(ctx context.Context, s parsed, v credentials.Version) error {
	var held secret
	if len(v.Secret) > 0 && json.Unmarshal(v.Secret, &held) != nil {
		return credentials.Refused("the secret cannot be read")
	}
	w, err := k.resume(ctx, s, v.Credential, v.ID)
	if err != nil || w == nil {
		return err // nothing was ever ordered
	}
	leaf, key, err := held.pair()
	if err != nil {
		return err
	}
	if leaf == nil { // it may have been issued without anybody knowing
		chain, err := w.issued(ctx)
		if err != nil || chain == nil {
			return w.judge(ctx, err)
		}
		if leaf, err = x509.ParseCertificate(chain[0]); err != nil {
			return credentials.Refused("the certificate that was issued cannot be read: %w", err)
		}
		key = w.key
	}
	if time.Now().After(leaf.NotAfter) {
		return nil
	}
	reason := acme.CRLReasonSuperseded
	if v.Leaked {
		reason = acme.CRLReasonKeyCompromise
	}
	// Signed by the certificate's own key it is the proof that others can know that, and
	// needs no account, which the authority may have forgotten.
	if !v.Leaked && w.client.KID != "" {
		key = nil
	}
	return w.judge(ctx, w.client.RevokeCert(ctx, key, leaf.Raw, reason))
}

// List implements credentials.Kind. ACME knows orders, but most authorities do not
// list them.
func (*Kind) List(context.Context, credentials.Order) ([]credentials.Found, error) {
	return nil, credentials.ErrNotTold
}

// Due implements credentials.Expiring: a certificate is renewed when a third of its
// life is left.
func (*Kind) Due(v credentials.Version) time.Time {
	var p public
	if json.Unmarshal(v.Public, &p) != nil || p.NotAfter.IsZero() {
		return time.Time{}
	}
	return p.NotAfter.Time().Add(-p.NotAfter.Sub(p.NotBefore) / 3)
}

// judge says whether trying again is of use, and notes what the authority has said
// of when.
func (w *work) judge(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*acme.Error](err)
	if !ok {
		return err
	}
	wait := retryAfter(e)
	kind := problem(e)
	if wait > 0 {
		until := time.Now().Add(wait)
		if err := w.kind.leaveAlone(context.WithoutCancel(ctx), w.credential, w.settings.Directory, until); err != nil {
			return err
		}
		err = fmt.Errorf("the authority asks not to be called before %s: %w", until.UTC().Format(time.RFC3339), err)
		if wait > longWait {
			return credentials.Refused("%w", err)
		}
		return err
	}
	switch {
	case kind == "accountDoesNotExist": // it has forgotten; the next attempt registers again
		return errors.Join(err, w.kind.setAccount(context.WithoutCancel(ctx), w.credential, w.settings.Directory, ""))
	case e.StatusCode >= 500, kind == "badNonce", kind == "orderNotReady", e.StatusCode == http.StatusRequestTimeout:
		return err
	}
	return credentials.Refused("%w", err)
}

const (
	longWait = 5 * time.Minute

	// unknownWait is how long an authority is left alone that says it has been asked too
	// often, and not when it may be asked again.
	unknownWait = 2 * time.Minute
	maxWait     = 8 * 24 * time.Hour
)

// retryAfter is for how long an authority wants to be left alone.
func retryAfter(e *acme.Error) time.Duration {
	limited := problem(e) == "rateLimited" || e.StatusCode == http.StatusTooManyRequests
	if !limited && e.StatusCode != http.StatusServiceUnavailable {
		return 0
	}
	if after, ok := waitOf(e.Header); ok {
		return min(after, maxWait)
	} else if limited {
		return unknownWait
	}
	return 0
}

// problem is the type of an error without the name space.
func problem(e *acme.Error) string {
	return e.ProblemType[strings.LastIndex(e.ProblemType, ":")+1:]
}

// example is a name that a name of a certificate stands for.
func example(name string) string {
	if rest, ok := strings.CutPrefix(name, "*."); ok {
		return "taskfleet." + rest
	}
	return name
}

func equal(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}
