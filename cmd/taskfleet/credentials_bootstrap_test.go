//go:build !agent

package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/auth"
	"github.com/taskfleet/taskfleet/client/secrets"
	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/credentials/sentry/sentryfake"
	"github.com/taskfleet/taskfleet/credentials/signalfx/signalfxfake"
	"github.com/taskfleet/taskfleet/timestamp"
)

// The project of the examples, made, made again, changed, and interrupted.
func TestAProjectIsBootstrapped(t *testing.T) {
	const file = "../../examples/project.yml"
	p := startReal(t)
	core, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root})
	if err != nil {
		t.Fatal(err)
	}
	grant := func(want ...string) {
		t.Helper()
		role, err := auth.New(core).Role(t.Context(), "repo:github.com/example/nightly:*")
		if err != nil || !slices.Equal(role.Scopes, want) {
			t.Errorf("the role of the repository is %+v, %v; want the scopes %q", role, err, want)
		}
	}
	if _, err := auth.New(core).CreateRole(t.Context(), "repo:github.com/example/nightly:*", &auth.CreateRoleRequest{Description: "others'", Scopes: client.List[string]{"queue:route:x"}}); err != nil {
		t.Fatal(err)
	}

	expect(t, exitOK, `(?s)\+ role project-admin:nightly.*\+ client project/nightly/ci.*the project nightly: 7 to create, 1 to change, 0 as they should be\n\nnothing was changed`,
		"credentials", "bootstrap", file, "--dry-run")
	grant("queue:route:x")
	expect(t, exitOK, `(?s)created client project/nightly/ci\ncreated secret project/nightly/ci\n`, "credentials", "bootstrap", file)
	grant("assume:project:nightly:builds", "queue:route:x")
	expect(t, exitOK, `^the project nightly is as it should be: nothing to change in 8 resources\n$`, "credentials", "bootstrap", file)

	// Who acts as the client finds what he needs.
	works := func() string {
		t.Helper()
		secret, err := secrets.New(core).Get(t.Context(), "project/nightly/ci")
		if err != nil {
			t.Fatal(err)
		}
		var is struct{ RootURL, ClientID, AccessToken string }
		if err := json.Unmarshal(secret.Secret, &is); err != nil || is.RootURL != p.RootURL {
			t.Fatalf("the secret is for %s, of %s: %v", is.ClientID, is.RootURL, err)
		}
		has, err := auth.New(core.WithCredentials(cred.Credentials{ClientID: is.ClientID, AccessToken: is.AccessToken}, nil)).CurrentScopes(t.Context())
		if err != nil || !slices.Contains(has.Scopes, "queue:create-task:low:proj-nightly/build") {
			t.Errorf("the client has %+v, %v", has, err)
		}
		return is.AccessToken
	}
	first := works()
	if pool, err := workermanager.New(core).WorkerPool(t.Context(), "proj-nightly/build"); err != nil || pool.Owner != "releases@example.com" {
		t.Errorf("the pool is %+v, %v", pool, err)
	}

	// A secret that was set, or whose token was rotated, stays; one that went gets another token.
	if err := secrets.New(core).Set(t.Context(), "project/nightly/signing-key", &secrets.Secret{Secret: json.RawMessage(`{"key": 1}`), Expires: timestamp.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	if err := secrets.New(core).Remove(t.Context(), "project/nightly/ci"); err != nil {
		t.Fatal(err)
	}
	expect(t, exitOK, `(?s)1 to create, 0 to change.*created secret project/nightly/ci\n$`, "credentials", "bootstrap", file)
	if works() == first {
		t.Error("the token whose secret was lost lives on")
	}
	if s, err := secrets.New(core).Get(t.Context(), "project/nightly/signing-key"); err != nil || string(s.Secret) != `{"key":1}` && string(s.Secret) != `{"key": 1}` {
		t.Errorf("the secret that was set is %+v, %v", s, err)
	}

	// A change is shown as a diff, and what the file does not name stays.
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := writeFile(t, "changed.yml", strings.Replace(string(text), "maxCapacity: 2", "maxCapacity: 3", 1))
	expect(t, exitOK, `(?s)~ worker pool proj-nightly/build\n.*\n-    "maxCapacity": 2,\n\+    "maxCapacity": 3,\n.*updated worker pool proj-nightly/build\n$`, "credentials", "bootstrap", changed)

	// For programs.
	var result changeResult
	if err := json.Unmarshal([]byte(expect(t, exitOK, `"action"`, "credentials", "bootstrap", file, "--json")), &result); err != nil || result.Applied != 1 || len(result.Changes) != 8 {
		t.Errorf("as JSON: %+v, %v", result, err)
	}

	// What cannot be done says what is done and what is left.
	broken := writeFile(t, "broken.yml", strings.Replace(strings.Replace(string(text), "providerId: local", "providerId: nowhere", 1), "project: nightly", "project: other", 1))
	expect(t, exitFailed, `(?s)created client project/other/ci\n.*the worker pool proj-other/build cannot be made as it should be: .*nowhere.*the same again does the rest`, "credentials", "bootstrap", broken)
	mended := writeFile(t, "mended.yml", strings.Replace(string(text), "project: nightly", "project: other", 1))
	expect(t, exitOK, `(?s)the project other: 1 to create, 0 to change, 7 as they should be`, "credentials", "bootstrap", mended)
}

// What a project needs at Sentry and SignalFx is part of its file.
func TestAProjectGetsWhatItNeedsElsewhere(t *testing.T) {
	sentry := sentryfake.New(sentryfake.Options{})
	atSentry := httptest.NewServer(sentry)
	defer atSentry.Close()
	sentry.SetURL(atSentry.URL)
	signalfx := signalfxfake.New("of an administrator")
	atSignalFx := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.Host = "api.test"
		answer, err := signalfx.RoundTrip(r)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(answer.StatusCode)
		io.Copy(w, answer.Body)
	}))
	defer atSignalFx.Close()
	token := writeFile(t, "token", sentry.Token()+"\n")
	c, err := loadText(t, "auth:\n  sentry: {url: "+atSentry.URL+", organization: acme, tokenFile: "+token+", initialTeam: builds}\n"+
		"  signalfx: {api: "+atSignalFx.URL+", ingest: "+atSignalFx.URL+", token: of an administrator}\n")
	if err != nil {
		t.Fatal(err)
	}
	startReal(t, func(to *Config) { to.Auth = c.Auth })
	file := writeFile(t, "project.yml", "project: nightly\nowner: a@b.c\nsentry: {team: releases, platform: go}\nsignalfx: {team: releases, group: Nightly, token: nightly}\n")
	expect(t, exitOK, `(?s)\+ sentry nightly.*"project nightly".*\+ signalfx nightly.*"dashboard group Nightly".*3 to create`, "credentials", "bootstrap", file, "--dry-run")
	if n := len(sentry.Keys("nightly")); n != 0 {
		t.Errorf("a dry run left %d keys", n)
	}
	expect(t, exitOK, `created sentry nightly\ncreated signalfx nightly\n`, "credentials", "bootstrap", file)
	expect(t, exitOK, `nothing to change in 3 resources`, "credentials", "bootstrap", file)
	changed := writeFile(t, "changed.yml", "project: nightly\nowner: a@b.c\nsignalfx: {team: releases, teamDescription: of nightly builds}\n")
	expect(t, exitOK, `(?s)~ signalfx nightly\n.*\+ .*of nightly builds.*updated signalfx nightly\n$`, "credentials", "bootstrap", changed)
	wrong := writeFile(t, "wrong.yml", "project: nightly\nowner: a@b.c\nsentry: {alertEvery: often}\n")
	expect(t, exitFailed, `alertEvery is "often"; it must be a time such as 30m`, "credentials", "bootstrap", wrong)
	others := writeFile(t, "others.yml", "project: night\nowner: a@b.c\nsignalfx: {token: nightly}\n")
	expect(t, exitFailed, `token is "nightly"; it must be night, or begin with night-`, "credentials", "bootstrap", others)
}
