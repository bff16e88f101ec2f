//go:build !agent

package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	clientsecrets "github.com/taskfleet/taskfleet/client/secrets"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// configureKeys has all keys of the platform be rotated.
func configureKeys(c *Config) {
	for name, key := range map[string]string{
		"platform-seal": "seal", "platform-queue": "static-client:queue", "platform-provisioner": "static-client:provisioner",
		"platform-hooks": "static-client:hooks", "platform-credentials": "static-client:credentials", "platform-index": "static-client:index",
	} {
		c.Credentials = append(c.Credentials, CredentialConfig{Name: name, Kind: "platform-key", Settings: map[string]any{"key": key}, MaxAge: "90d"})
	}
}

func wait(t *testing.T, what string, f func() bool) {
	t.Helper()
	for until := time.Now().Add(soon); !f(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("%s does not come", what)
		}
	}
}

// A platform with all of its keys in the database works, also after a restart; graphs
// run on while the tokens that their credentials are made of are replaced.
func TestThePlatformRotatesItsOwnKeys(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	ctx := t.Context()

	// A data directory of before, with something sealed in it.
	before := startKeys(t, data)
	setSecret(t, before, "project/old", `{"a":"1"}`)
	stop(t, before)

	p := startKeys(t, data, configureKeys)
	keys := p.keys.ring
	wait(t, "the first rotation of every key", func() bool {
		for _, purpose := range keys.Purposes() {
			list, err := keys.Keys(ctx, purpose)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) == 0 || list[0].ID == "own" {
				return false
			}
		}
		return true
	})
	expect(t, exitOK, "created local/test", "pool", "apply", "-f", writeFile(t, "pool.yml", testPool))
	expect(t, exitOK, "All 2 tasks completed", "graph", "submit", writeFile(t, "graph.yml", testGraph), "--watch")
	setSecret(t, p, "project/new", `{"b":"2"}`)
	readSecret(t, p, "project/old", `{"a":"1"}`)
	if err := p.keys.sealAnew(ctx); err != nil {
		t.Fatal(err)
	}
	out := expect(t, exitOK, `seal .*used`, "keys", "list", "--data", data)
	if !regexp.MustCompile(`root .* used .* 6 rows`).MatchString(out) || !regexp.MustCompile(`static-client:queue +own`).MatchString(out) {
		t.Errorf("the keys are shown as\n%s", out)
	}
	var shown struct {
		Keys []struct{ Purpose, ID, State, Name string }
	}
	if err := json.Unmarshal([]byte(expect(t, exitOK, "", "keys", "list", "--data", data, "--json")), &shown); err != nil || len(shown.Keys) < 7 {
		t.Errorf("%v: %+v", err, shown)
	}
	expect(t, exitOK, `platform-seal +platform-key`, "credentials", "list")
	stop(t, p)

	again := startKeys(t, data) // without the definitions: keys stay what they are
	if again.keys.seal.Newest() == rootOf(t, data).Newest() {
		t.Error("the keys of the database are not used after a restart")
	}
	readSecret(t, again, "project/old", `{"a":"1"}`)
	readSecret(t, again, "project/new", `{"b":"2"}`)
	stop(t, again)

	// The root key is replaced.
	expect(t, exitOK, "restart", "keys", "rotate-root", "--data", data)
	last := startKeys(t, data)
	if err := errors.Join(last.keys.sealAnew(ctx), last.keys.ring.Check(ctx)); err != nil {
		t.Fatal(err)
	}
	readSecret(t, last, "project/new", `{"b":"2"}`)
	if out = expect(t, exitOK, "", "keys", "list", "--data", data); !strings.Contains(out, "can be removed") {
		t.Errorf("that the old root key can be removed is not told:\n%s", out)
	}
	stop(t, last)
}

// startKeys is startReal for a platform that is stopped by stop.
func startKeys(t *testing.T, data string, changes ...func(*Config)) *platform {
	t.Helper()
	c := defaultConfig()
	c.Data, c.Listen = data, "127.0.0.1:0"
	for _, f := range changes {
		f(&c)
	}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	p, err := startPlatform(t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TASKFLEET_DATA", data)
	return p
}

func setSecret(t *testing.T, p *platform, name, value string) {
	t.Helper()
	c, err := p.keys.acting.client(p.RootURL, p.Root)
	if err != nil {
		t.Fatal(err)
	}
	if err := clientsecrets.New(c).Set(t.Context(), name, &clientsecrets.Secret{Secret: json.RawMessage(value), Expires: timestamp.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
}

func readSecret(t *testing.T, p *platform, name, want string) {
	t.Helper()
	c, err := p.keys.acting.client(p.RootURL, p.Root)
	if err != nil {
		t.Fatal(err)
	}
	s, err := clientsecrets.New(c).Get(t.Context(), name)
	if err != nil || string(s.Secret) != want {
		t.Errorf("the secret %s is %v, %v", name, s, err)
	}
}

func stop(t *testing.T, p *platform) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func rootOf(t *testing.T, data string) *seal.Keys {
	t.Helper()
	c := Config{Data: data}
	own, err := openSecrets(c)
	if err != nil {
		t.Fatal(err)
	}
	root, err := c.sealKeys(t.Context(), own)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// What is looked through for what a key has sealed is every table but those that are
// known to hold nothing, which must not have a column for it.
func TestTablesThatAreNotLookedThroughHoldNothingSealed(t *testing.T) {
	p := startReal(t)
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(p.Data, "taskfleet.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var columns map[string][]string
	if err := db.View(t.Context(), func(tx *store.Tx) (err error) { columns, err = tx.TextColumns(); return err }); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"auth_token", "hook", "secret", "credential_version"} {
		if columns[table] == nil || slices.Contains(plainTables, table) {
			t.Errorf("%s is not looked through", table)
		}
	}
	for _, table := range plainTables {
		for _, c := range columns[table] {
			if regexp.MustCompile(`seal|token|secret|dsn`).MatchString(c) {
				t.Errorf("%s is not looked through, and has a column %s", table, c)
			}
		}
	}
}
