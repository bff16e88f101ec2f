package acme

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
)

func hmacOf(key, text string) string {
	raw, _ := base64.RawURLEncoding.DecodeString(key)
	m := hmac.New(sha256.New, raw)
	io.WriteString(m, text)
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// A place is a kind and an authority.
type place struct {
	*testing.T
	*Kind
	ca       *authority
	log      bytes.Buffer
	key      seal.Key
	keys     *seal.Keys
	settings map[string]any
}

func newPlace(t *testing.T, db *store.DB) *place {
	t.Helper()
	p := &place{T: t, ca: newAuthority(t), key: seal.NewKey()}
	var err error
	if p.keys, err = seal.NewKeys(p.key); err != nil {
		t.Fatal(err)
	}
	if p.Kind, err = New(t.Context(), Config{DB: db, Keys: p.keys, Log: slog.New(slog.NewTextHandler(&p.log, nil)), Transport: p.ca}); err != nil {
		t.Fatal(err)
	}
	p.ca.answers = func(name, kind, token string) (string, error) { return p.ask(token) }
	p.settings = map[string]any{"directory": directoryURL, "agreeToTerms": true, "names": []string{"web.example.test", "www.example.test"}, "roots": p.ca.rootsFile(t), "revoke": "always"}
	return p
}

// ask asks the platform for an answer, as an authority does.
func (p *place) ask(token string) (string, error) {
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://web.example.test"+Path+token, nil))
	if w.Code != http.StatusOK {
		return "", fmt.Errorf("the answer is %d", w.Code)
	}
	return w.Body.String(), nil
}

func (p *place) text(more ...any) string {
	p.Helper()
	s := maps.Clone(p.settings)
	for i := 0; i < len(more); i += 2 {
		s[more[i].(string)] = more[i+1]
	}
	text, err := json.Marshal(s)
	if err != nil {
		p.Fatal(err)
	}
	return string(text)
}

// order is one for a new version.
func (p *place) order(more ...any) credentials.Order {
	p.Helper()
	return credentials.Order{Credential: "web", Settings: json.RawMessage(p.text(more...)), ID: slugid.New(), Seed: []byte(strings.Repeat("5", 64))}
}

func versionOf(o credentials.Order, m credentials.Minted) credentials.Version {
	return credentials.Version{ID: o.ID, Credential: o.Credential, Settings: o.Settings, Public: m.Public, Secret: m.Secret}
}

// mint mints, again and again where that is of use, as the engine does.
func (p *place) mint(o credentials.Order) (credentials.Version, error) {
	for n := 1; ; n++ {
		m, err := p.Mint(p.Context(), o)
		if err == nil || n == 12 || final(err) {
			return versionOf(o, m), err
		}
		time.Sleep(min(time.Second<<n, 5*time.Minute))
	}
}

var refusal = fmt.Sprintf("%T", credentials.Refused(""))

// final tells that trying again is of no use.
func final(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		if fmt.Sprintf("%T", err) == refusal {
			return true
		}
	}
	return false
}

func (p *place) count(table string) string {
	p.Helper()
	var n []string
	if err := p.db.View(p.Context(), func(tx *store.Tx) (err error) {
		n, err = tx.Column(`SELECT CAST(count(*) AS TEXT) FROM ` + table)
		return err
	}); err != nil {
		p.Fatal(err)
	}
	return n[0]
}
