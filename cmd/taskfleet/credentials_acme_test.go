//go:build !agent

package main

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
)

// Any replica answers challenges, and everything else is as it was.
func TestChallengesAreAnsweredFromTheDatabase(t *testing.T) {
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	keys, err := seal.NewKeys(seal.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	conf := credentials.Config{DB: db, Keys: keys, Log: slog.New(slog.DiscardHandler), Kinds: map[string]credentials.Kind{}}
	k, err := addACME(t.Context(), &conf)
	if err != nil || conf.Kinds["acme"] == nil || conf.Kinds["ssh"] == nil {
		t.Fatalf("%v, there are %v", err, conf.Kinds)
	}
	if err := db.Do(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Exec(`INSERT INTO acme_challenge (version, token, record, answer, made) VALUES ('v', 'token-of-an-authority', '', 'the answer', 1), ('v', 'token-of-a-dns-record', 'name', 'another', 1)`)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	h := withChallenges(k, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	for _, c := range []struct {
		method, path string
		code         int
		body         string
	}{
		{"GET", "/.well-known/acme-challenge/token-of-an-authority", 200, "the answer"},
		{"POST", "/.well-known/acme-challenge/token-of-an-authority", 404, ""},
		{"GET", "/.well-known/acme-challenge/token-of-a-dns-record", 404, ""},
		{"GET", "/.well-known/acme-challenge/token-that-is-not-there", 404, ""},
		{"GET", "/.well-known/acme-challenge/", 404, ""},
		{"GET", "/.well-known/acme-challenge/a/../" + "x%27", 404, ""},
		{"GET", "/metrics", http.StatusTeapot, ""},
	} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if w.Code != c.code || c.body != "" && w.Body.String() != c.body {
			t.Errorf("%s %s: %d %q", c.method, c.path, w.Code, w.Body)
		}
	}
}
