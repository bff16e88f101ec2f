package acme

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/credentials/rotatortest"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/store/storetest"
)

func TestCertificatesRotate(t *testing.T) {
	of := map[*store.DB]*place{}
	rotatortest.Run(t, func(t *testing.T, db *store.DB) rotatortest.Subject {
		if of[db] == nil {
			of[db] = newPlace(t, db)
		}
		p := of[db]
		return rotatortest.Subject{
			Kind: p.Kind, Settings: p.text(), Slow: true,
			Works: func(_ context.Context, secret json.RawMessage) error { return p.ca.works(secret) },
		}
	})
}

func each(t *testing.T, f func(t *testing.T, p *place)) {
	storetest.Each(t, func(t *testing.T, db *store.DB) { f(t, newPlace(t, db)) })
}

// Whatever answer is lost, wherever it was: one certificate is issued, and nothing is
// left of what was done for it.
func TestAnAnswerThatIsLostOrdersNothingTwice(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		for _, status := range []int{500, 429} {
			for _, op := range []string{"directory", "nonce", "account", "order", "get", "authz", "challenge", "finalize", "certificate"} {
				for _, after := range []bool{false, true} {
					if status == 429 && after {
						continue // which nobody says of what is done
					}
					for _, times := range []int{1, 4} {
						before, failures := len(p.ca.issued), 0
						if op == "account" {
							p.ca.accounts, p.ca.thumbs = nil, nil
							p.do(t.Context(), `DELETE FROM acme_account`)
							p.ca.accounts, p.ca.thumbs = newAuthority(t).accounts, newAuthority(t).thumbs
						}
						p.ca.fault = func(what string, _ int) (int, bool, http.Header) {
							if what != op || failures == times {
								return 0, false, nil
							}
							failures++
							return status, after, http.Header{"Retry-After": {"3"}}
						}
						v, err := p.mint(p.order())
						p.ca.fault = nil
						at := fmt.Sprintf("%d of %s, after: %v, %d times", status, op, after, times)
						if err != nil {
							t.Fatalf("%s: %v", at, err)
						}
						if n := len(p.ca.issued) - before; n != 1 {
							t.Errorf("%s: %d certificates were issued", at, n)
						}
						if err := p.Prove(t.Context(), v); err != nil {
							t.Errorf("%s: %v", at, err)
						}
						if n := p.count("acme_challenge"); n != "0" {
							t.Errorf("%s: %s answers are left", at, n)
						}
						if err := p.Retire(t.Context(), v); err != nil || p.count("acme_order") != "0" {
							t.Errorf("%s: retiring: %v, and %s orders are left", at, err, p.count("acme_order"))
						}
					}
				}
			}
		}
	})
}

// Minted again, a version is the same certificate with the same key, also by another
// replica, and nothing is ordered.
func TestAMintThatIsRepeatedIsTheSame(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		o := p.order()
		first, err := p.mint(o)
		if err != nil {
			t.Fatal(err)
		}
		p.Kind, err = New(t.Context(), Config{DB: p.db, Keys: p.keys, Log: p.Kind.log, Transport: p.ca})
		if err != nil {
			t.Fatal(err)
		}
		again, err := p.mint(o)
		if err != nil || string(again.Secret) != string(first.Secret) || string(again.Public) != string(first.Public) {
			t.Errorf("minted again it is another one: %v", err)
		}
		if len(p.ca.issued) != 1 || p.ca.calls["order"] != 1 || len(p.ca.accounts) != 1 {
			t.Errorf("%d certificates, %d orders, %d accounts", len(p.ca.issued), p.ca.calls["order"], len(p.ca.accounts))
		}
	})
}

// An authority that is slow is asked again, for as long as the engine does; one whose
// order has expired gets another one.
func TestASlowOrderIsWaitedFor(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		p.ca.slow = 5 * time.Minute
		o := p.order()
		short, stop := context.WithTimeout(t.Context(), 2*time.Minute)
		defer stop()
		if _, err := p.Mint(short, o); err == nil || final(err) || !strings.Contains(err.Error(), "still at work") && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while it is at work: %v", err)
		}
		v, err := p.mint(o)
		if err != nil || p.Prove(t.Context(), v) != nil || len(p.ca.issued) != 1 || p.ca.calls["order"] != 1 {
			t.Errorf("after that: %v, %d certificates, %d orders", err, len(p.ca.issued), p.ca.calls["order"])
		}
		o = p.order()
		p.ca.slow = 0
		p.ca.fault = func(op string, _ int) (int, bool, http.Header) {
			if op == "finalize" {
				return 500, false, nil
			}
			return 0, false, nil
		}
		if _, err := p.Mint(t.Context(), o); err == nil {
			t.Error("an order that cannot be finalized was minted")
		}
		p.ca.fault = nil
		p.ca.orders = map[string]*order{"x": nil, "y": nil, "z": nil} // days later
		if v, err := p.mint(o); err != nil || p.Prove(t.Context(), v) != nil {
			t.Errorf("after its order has expired: %v", err)
		}
	})
}

// Whom an authority has asked to wait does not ask it, whichever replica it is.
func TestAnAuthorityIsLeftAloneForAsLongAsItAsks(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		limited := true
		p.ca.fault = func(op string, _ int) (int, bool, http.Header) {
			if op == "order" && limited {
				return 429, false, http.Header{"Retry-After": {"7200"}}
			}
			return 0, false, nil
		}
		o := p.order()
		if _, err := p.mint(o); !final(err) || !strings.Contains(err.Error(), "not to be called before 2000-01-01T0") {
			t.Errorf("an authority that is asked too often: %v", err)
		}
		calls := fmt.Sprint(p.ca.calls)
		limited = false
		if _, err := p.mint(p.order()); !final(err) || fmt.Sprint(p.ca.calls) != calls {
			t.Errorf("before it may be asked: %v, and it was called: %v", err, fmt.Sprint(p.ca.calls) != calls)
		}
		time.Sleep(2 * time.Hour)
		if _, err := p.mint(p.order()); err != nil {
			t.Errorf("after that: %v", err)
		}
	})
}

// hasty is a network with an authority whose clock is behind: what it asks to wait is over.
type hasty struct {
	http.RoundTripper
	calls int
}

func (h *hasty) RoundTrip(r *http.Request) (*http.Response, error) {
	if h.calls++; h.calls > 500 {
		return nil, errors.New("it was asked without a pause")
	}
	res, err := h.RoundTripper.RoundTrip(r)
	if err == nil {
		res.Header.Set("Retry-After", []string{"-1", time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat)}[h.calls%2])
	}
	return res, err
}

func TestAnAuthorityIsNotAskedWithoutAPause(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		p.ca.slow = time.Minute
		p.transport = &hasty{RoundTripper: p.ca}
		if _, err := p.Mint(t.Context(), p.order()); err != nil {
			t.Error(err)
		}
	})
}

// An order that has failed before a crash counts; one that has expired does not, nor one
// whose authorizations have, and an attempt orders once.
func TestAnOrderThatIsOver(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		p.ca.lapses = time.Hour
		begin := func() credentials.Order {
			t.Helper()
			o := p.order()
			p.ca.fault = func(op string, _ int) (int, bool, http.Header) {
				return map[string]int{"challenge": 500}[op], false, nil
			}
			if _, err := p.Mint(t.Context(), o); err == nil {
				t.Fatal("it was minted")
			}
			p.ca.fault = nil
			return o
		}
		o := begin()
		p.ca.orders["1"].failed = true
		if _, err := p.Mint(t.Context(), o); !final(err) || !strings.Contains(err.Error(), "given the order up") || p.ca.calls["order"] != 1 {
			t.Errorf("one that has failed: %v, %d orders", err, p.ca.calls["order"])
		}
		o = begin()
		p.ca.orders["2"].failed = true
		time.Sleep(2 * time.Hour)
		if _, err := p.Mint(t.Context(), o); err == nil || final(err) || p.ca.calls["order"] != 2 {
			t.Errorf("one that has expired: %v, %d orders", err, p.ca.calls["order"])
		}
		if _, err := p.Mint(t.Context(), o); err != nil || p.ca.calls["order"] != 3 {
			t.Errorf("after that: %v, %d orders", err, p.ca.calls["order"])
		}
		o = begin()
		p.ca.orders["4"].authz["www.example.test"] = "expired"
		limited, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		if _, err := p.Mint(limited, o); err == nil || final(err) || !strings.Contains(err.Error(), "is expired") {
			t.Errorf("with an authorization that has expired: %v", err)
		}
		if _, err := p.Mint(t.Context(), o); err != nil || p.ca.calls["order"] != 5 {
			t.Errorf("after that: %v, %d orders", err, p.ca.calls["order"])
		}
	})
}

// A challenge that fails is told with what the authority says of it, and ends the
// rotation: failures count.
func TestANameThatIsNotOursIsRefused(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		p.ca.answers = func(name, _, token string) (string, error) {
			if name == "www.example.test" {
				return "", errors.New("no such host")
			}
			return p.ask(token)
		}
		o := p.order()
		_, err := p.mint(o)
		if !final(err) || !strings.Contains(err.Error(), "www.example.test") || !strings.Contains(err.Error(), "nobody answers") || strings.Contains(err.Error(), "web.example.test") {
			t.Errorf("the error is %v", err)
		}
		if n := p.count("acme_challenge"); n != "0" || p.ca.calls["order"] != 1 {
			t.Errorf("%s answers are left, %d orders were made", n, p.ca.calls["order"])
		}
		if err := p.Retire(t.Context(), credentials.Version{ID: o.ID, Credential: o.Credential, Settings: o.Settings}); err != nil || p.count("acme_order") != "0" {
			t.Errorf("withdrawing: %v", err)
		}
	})
}

// What was replaced is revoked if it has leaked, and by default not otherwise. What
// was issued and never arrived here is found by its order.
func TestWhatHasLeakedIsRevoked(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		p.settings["revoke"] = "leaked"
		o := p.order()
		v, err := p.mint(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Retire(t.Context(), v); err != nil || len(p.ca.revoked) != 0 {
			t.Errorf("one that was replaced: %v, %d revoked", err, len(p.ca.revoked))
		}
		if v, err = p.mint(p.order()); err != nil {
			t.Fatal(err)
		}
		v.Leaked = true
		for range 2 {
			if err := p.Retire(t.Context(), v); err != nil {
				t.Errorf("one that has leaked: %v", err)
			}
		}
		if err := p.Prove(t.Context(), v); err == nil || !strings.Contains(err.Error(), "was revoked at") {
			t.Errorf("proving it: %v", err)
		}
		for _, always := range []bool{false, true} { // the authority has forgotten the account
			if v, err = p.mint(p.order("revoke", map[bool]string{true: "always", false: "leaked"}[always])); err != nil {
				t.Fatal(err)
			}
			clear(p.ca.accounts)
			clear(p.ca.thumbs)
			v.Leaked = !always
			before, err := len(p.ca.revoked), p.Retire(t.Context(), v)
			if always && err != nil { // which it learns by this
				err = p.Retire(t.Context(), v)
			}
			if err != nil || len(p.ca.revoked) != before+1 {
				t.Errorf("without the account, replaced: %v: %v, %d revoked", always, err, len(p.ca.revoked)-before)
			}
		}
		o = p.order("revoke", "always")
		p.ca.fault = func(op string, _ int) (int, bool, http.Header) {
			return map[string]int{"certificate": 500}[op], false, nil
		}
		if _, err := p.Mint(t.Context(), o); err == nil {
			t.Fatal("a certificate has arrived")
		}
		p.ca.fault = nil
		if err := p.Retire(t.Context(), credentials.Version{ID: o.ID, Credential: o.Credential, Settings: o.Settings}); err != nil || len(p.ca.revoked) != 4 {
			t.Errorf("one that never arrived: %v, %d revoked", err, len(p.ca.revoked))
		}
		if err := p.Retire(t.Context(), credentials.Version{ID: slugid.New(), Credential: "another", Settings: o.Settings, Leaked: true}); err != nil {
			t.Errorf("one that was never ordered: %v", err)
		}
	})
}

// A certificate is proved against all that can be wrong with it.
func TestAProofFindsWhatIsWrong(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		v, err := p.mint(p.order())
		if err != nil {
			t.Fatal(err)
		}
		other, err := p.mint(p.order())
		if err != nil {
			t.Fatal(err)
		}
		var a, b secret
		json.Unmarshal(v.Secret, &a)
		json.Unmarshal(other.Secret, &b)
		a.PrivateKey = b.PrivateKey
		for what, c := range map[string]struct {
			change func(v *credentials.Version)
			says   string
		}{
			"another key": {func(v *credentials.Version) { v.Secret, _ = json.Marshal(a) }, "do not belong together"},
			"other names": {func(v *credentials.Version) {
				v.Settings = json.RawMessage(p.text("names", []string{"db.example.test"}))
			}, "should be for db.example.test"},
			"no root": {func(v *credentials.Version) {
				v.Settings = json.RawMessage(p.text("roots", newAuthority(t).rootsFile(t)))
			}, "certificate"},
			"nothing to read": {func(v *credentials.Version) { v.Secret = json.RawMessage(`"x"`) }, "cannot be read"},
		} {
			wrong := v
			c.change(&wrong)
			if err := p.Prove(t.Context(), wrong); err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "PRIVATE") {
				t.Errorf("%s: %v", what, err)
			}
		}
		p.ca.fault = func(op string, _ int) (int, bool, http.Header) { return map[string]int{"crl": 503}[op], false, nil }
		if err := p.Prove(t.Context(), v); err != nil || !strings.Contains(p.log.String(), "revoked certificates could not be had") {
			t.Errorf("without the list of those that were revoked: %v", err)
		}
		p.ca.fault = nil
		due := p.Due(v).Sub(time.Now())
		if due < 59*24*time.Hour || due > 60*24*time.Hour || !p.Due(credentials.Version{}).IsZero() {
			t.Errorf("it is to be renewed in %s", due)
		}
		time.Sleep(91 * 24 * time.Hour)
		if err := p.Prove(t.Context(), v); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("after it has expired: %v", err)
		}
		v.Leaked = true
		calls := p.ca.calls["revoke"]
		if err := p.Retire(t.Context(), v); err != nil || p.ca.calls["revoke"] != calls {
			t.Errorf("one that has expired: %v", err)
		}
		p.ca.skew = 3 * time.Hour // its clock is before ours
		if v, err = p.mint(p.order()); err != nil {
			t.Fatal(err)
		}
		if err := p.Prove(t.Context(), v); err == nil || final(err) || !strings.Contains(err.Error(), "do the clocks differ?") {
			t.Errorf("a clock that is before ours: %v", err)
		}
	})
}

// An authority that has forgotten the account gets another one; one that asks for an
// account elsewhere gets its binding, and errors do not show it.
func TestAccounts(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		if _, err := p.mint(p.order()); err != nil {
			t.Fatal(err)
		}
		other := newAuthority(t)
		p.ca.accounts, p.ca.thumbs = other.accounts, other.thumbs
		if _, err := p.mint(p.order()); err != nil || len(p.ca.accounts) != 1 {
			t.Errorf("an account that was forgotten: %v, %d accounts", err, len(p.ca.accounts))
		}
		key := base64.RawURLEncoding.EncodeToString([]byte("hunter2-hunter2-hunter2-hunter2"))
		p.ca.bound = key
		o := p.order()
		o.Credential = "bound"
		if _, err := p.mint(o); !final(err) || !strings.Contains(err.Error(), "bind it") {
			t.Errorf("without a binding: %v", err)
		}
		o.Settings = json.RawMessage(p.text("account", map[string]string{"id": "kid-1", "key": key[:20]}))
		if _, err := p.mint(o); err == nil || strings.Contains(err.Error(), key[:20]) {
			t.Errorf("with a wrong one: %v", err)
		}
		o.Settings = json.RawMessage(p.text("account", map[string]string{"id": "kid-1", "key": key}))
		if _, err := p.mint(o); err != nil {
			t.Errorf("with a binding: %v", err)
		}
	})
}

// Keys that are kept are sealed anew, and what nobody has taken back is forgotten.
func TestUpkeep(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		o := p.order()
		before, err := p.mint(o)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.do(t.Context(), `INSERT INTO acme_challenge (version, token, record, answer, made) VALUES ('v', 'abcdefghijklmnopqrst', '', 'a', 1), ('v', 'record', '_acme-challenge.a.test', 'a', 1)`); err != nil {
			t.Fatal(err)
		}
		next := seal.NewKey()
		fresh, err := seal.NewKeys(next)
		if err != nil {
			t.Fatal(err)
		}
		moved := *p.Kind
		moved.keys = fresh
		if _, err := moved.upkeep(t.Context()); err == nil || !strings.Contains(err.Error(), "still among the seal keys") {
			t.Errorf("without the old key: %v", err)
		}
		if moved.keys, err = seal.NewKeys(p.key, next); err != nil {
			t.Fatal(err)
		}
		if _, err := moved.upkeep(t.Context()); err != nil {
			t.Fatal(err)
		}
		moved.keys = fresh
		if m, err := moved.Mint(t.Context(), o); err != nil || string(m.Secret) != string(before.Secret) {
			t.Errorf("with the new key alone: %v", err)
		}
		if found, err := p.has("abcdefghijklmnopqrst", "a"); err != nil || found {
			t.Errorf("an old answer is kept, %v", err)
		}
		if found, err := p.has("record", "a"); err != nil || !found {
			t.Errorf("a record that nobody has taken back is forgotten, %v", err)
		}
	})
}

func TestSettings(t *testing.T) {
	each(t, func(t *testing.T, p *place) {
		if where, err := p.Check(json.RawMessage(p.text())); err != nil || where != "ca.test, for web.example.test and 1 more" {
			t.Errorf("%q, %v", where, err)
		}
		program := filepath.Join(t.TempDir(), "dns")
		if err := os.WriteFile(program, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			says string
			more []any
		}{
			{"unknown field", []any{"nmaes", "x"}},
			{"directory must be the https URL", []any{"directory", "http://ca.test"}},
			{"agreeToTerms must be true", []any{"agreeToTerms", false}},
			{"names must be", []any{"names", []string{}}},
			{"names must be", []any{"names", slices.Repeat([]string{strings.Repeat("a.", 100) + "test"}, 60)}},
			{"no DNS name in lower case", []any{"names", []string{"Web.example.test"}}},
			{"no DNS name", []any{"names", []string{"localhost"}}},
			{"is there twice", []any{"names", []string{"a.test", "a.test"}}},
			{"needs challenge: dns-01", []any{"names", []string{"*.a.test"}}},
			{"mailto:ops@example.com", []any{"contact", []string{"ops@a.test"}}},
			{"keyType is", []any{"keyType", "rsa"}},
			{"challenge is", []any{"challenge", "tls-alpn-01"}},
			{"dns must be there", []any{"challenge", "dns-01"}},
			{"dns must be there", []any{"dns", map[string]any{"command": []string{"/bin/true"}}}},
			{"absolute path of a program", []any{"challenge", "dns-01", "dns", map[string]any{"command": []string{"dns"}}}},
			{"dns.timeout is", []any{"challenge", "dns-01", "dns", map[string]any{"command": []string{program}, "timeout": "1h"}}},
			{"is no program that can be run", []any{"challenge", "dns-01", "dns", map[string]any{"command": []string{program}}}},
			{"cannot be found", []any{"challenge", "dns-01", "dns", map[string]any{"command": []string{program + "x"}}}},
			{"revoke is", []any{"revoke", "never"}},
			{"absolute path", []any{"roots", "roots.pem"}},
			{"cannot be read on this machine", []any{"roots", program + "x"}},
			{"no certificate in PEM", []any{"roots", program}},
			{"account must have", []any{"account", map[string]string{"id": "x", "key": "???"}}},
		} {
			if _, err := p.Check(json.RawMessage(p.text(c.more...))); err == nil || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "???") {
				t.Errorf("%v: %v", c.more, err)
			}
		}
	})
}

// has tells whether a value is the answer to a token.
func (p *place) has(token, value string) (found bool, err error) {
	err = p.db.View(p.Context(), func(tx *store.Tx) error {
		list, err := tx.Column(`SELECT answer FROM acme_challenge WHERE token = $1`, token)
		found = slices.Contains(list, value)
		return err
	})
	return found, err
}
