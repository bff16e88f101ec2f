//go:build !agent

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/auth"
	"github.com/taskfleet/taskfleet/client/credentials"
	"github.com/taskfleet/taskfleet/client/secrets"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A client of the platform whose token is rotated, into a secret of the platform and a
// file, and then used.
func TestTheCommandsForCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	c, err := loadText(t, `
credentials:
- name: ci-token
  kind: client
  settings: {clientId: team/ci}
  maxAge: 30d
  consumers:
  - {name: app, secret: project/ci/token}
  - {name: proxy, file: `+file+`, member: accessToken}
- name: wrong
  kind: magic
`)
	if err != nil {
		t.Fatal(err)
	}
	p := startReal(t, func(to *Config) { to.Credentials = c.Credentials })
	core, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, exitFailed, `ci-token is failed: adopt: .*team/ci.*\n.*To do: mend what it names`, "credentials", "rotate", "ci-token", "--wait")
	if _, err := auth.New(core).CreateClient(t.Context(), "team/ci", &auth.CreateClientRequest{
		Expires: timestamp.Now().Add(time.Hour), Description: "test", Scopes: []string{"auth:current-scopes"},
	}); err != nil {
		t.Fatal(err)
	}
	expect(t, exitOK, "ci-token has the version [A-Za-z0-9_-]{22} in use", "credentials", "rotate", "ci-token", "--wait")
	works := func(token string) bool {
		t.Helper()
		_, err := auth.New(core.WithCredentials(cred.Credentials{ClientID: "team/ci", AccessToken: token}, nil)).CurrentScopes(t.Context())
		return err == nil
	}
	secret, err := secrets.New(core).Get(t.Context(), "project/ci/token")
	if err != nil {
		t.Fatal(err)
	}
	var published struct{ ClientID, AccessToken, RootURL, CredentialVersion string }
	if err := json.Unmarshal(secret.Secret, &published); err != nil || published.RootURL != p.RootURL || !works(published.AccessToken) {
		t.Fatalf("what was published for %s does not work (%v)", published.ClientID, err)
	}
	if out := expect(t, exitFailed, `ci-token +client +rotating .* in 2\dd\n(.*\n)*\nwrong: there is no kind "magic"`, "credentials", "list"); widest(out) > 200 {
		t.Errorf("the list is\n%s", out)
	}
	expect(t, exitOK, `proxy +file +current`, "credentials", "show", "ci-token")
	expect(t, exitOK, `"state": "live"`, "credentials", "show", "ci-token", "--json")
	expect(t, exitOK, published.AccessToken, "credentials", "show", "ci-token", "--reveal")
	expect(t, exitOK, "ci-token works", "credentials", "verify", "ci-token")
	expect(t, exitFailed, "magic", "credentials", "verify", "wrong")
	expect(t, exitFailed, "has 2 versions that app may use", "credentials", "consumed", "ci-token", "app")
	expect(t, exitOK, "", "credentials", "consumed", "ci-token", "app", "--version", published.CredentialVersion)
	expect(t, exitFailed, "that is no version of ci-token", "credentials", "retire", "ci-token", "nobody", "--yes") // which is no leftover
	expect(t, exitOK, "ci-token has the version", "credentials", "revoke", "ci-token", "--wait")
	if works(published.AccessToken) {
		t.Error("a token that was revoked works")
	}
	var text []byte // which a revocation does not wait for
	for limit := time.Now().Add(soon); ; time.Sleep(20 * time.Millisecond) {
		var err error
		if text, err = os.ReadFile(file); err == nil && works(string(text)) {
			break
		}
		if time.Now().After(limit) {
			t.Fatalf("what is in the file does not work (%v)", err)
		}
	}
	out := expect(t, exitOK, `(?s)STEP.*mint +done.*prove +done.*publish +done`, "credentials", "history", "ci-token", "--steps")
	for _, secret := range []string{published.AccessToken, string(text)} {
		if strings.Contains(out, secret) {
			t.Errorf("a secret is shown:\n%s", out)
		}
	}
	expect(t, exitFailed, "no credential nothing", "credentials", "show", "nothing")
	expect(t, exitUsage, "arg", "credentials", "rotate")
}

func TestWhatIsReadOfWhatSomebodySupplies(t *testing.T) {
	for _, c := range []struct{ text, member, want, says string }{
		{"hunter2\n", "password", `{"password":"hunter2"}`, ""},
		{`{"token": "hunter2"}`, "", `{"token": "hunter2"}`, ""},
		{"hunter2", "", "", "name that, as in --member"},
		{" \n", "token", "", "nothing on stdin"},
		{strings.Repeat("x", mostSupplied+1), "token", "", "more than"},
	} {
		got, err := readSupplied(strings.NewReader(c.text), c.member)
		if string(got) != c.want || (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%.20q: %s, %v", c.text, got, err)
		}
	}
}

func widest(text string) (n int) {
	for line := range strings.Lines(text) {
		n = max(n, len(line))
	}
	return n
}

func TestMistakesInTheCredentialsConfigurationAreToldWithTheirLine(t *testing.T) {
	for text, want := range map[string]string{
		"credentials:\n- name: CI token":                   `:2: credentials: the name "CI token"`,
		"credentials:\n- {name: a}\n- {name: a}":           `:3: credentials: there are two called a`,
		"credentials:\n- name: a\n  maxAge: long":          `:3: credentials: a: maxAge is "long"; it must be a time such as 30d`,
		"credentials:\n- name: a\n  overlap: -1h":          `:3: credentials: a: overlap is "-1h"`,
		"credentials:\n- name: a\n  consumer: [{name: b}]": `unknown field "consumer"`,
	} {
		if _, err := loadText(t, text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v, want %s", text, err, want)
		}
	}
}

// What docs/credentials.md shows loads, but for the definitions that leave something out
// on purpose.
func TestWhatTheGuideToCredentialsShows(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "credentials.md"))
	if err != nil {
		t.Fatal(err)
	}
	loaded := 0
	for _, m := range regexp.MustCompile("(?s)```yaml\n(credentials:.*?)```").FindAllStringSubmatch(string(raw), -1) {
		c, err := loadText(t, m[1])
		if err != nil || len(c.Credentials) == 0 {
			t.Errorf("%v in\n%s", err, m[1])
		}
		loaded++
	}
	if loaded < 4 {
		t.Errorf("%d configurations were loaded", loaded)
	}
	root := newRootCommand()
	for _, m := range regexp.MustCompile(`taskfleet (credentials [a-z]+)`).FindAllStringSubmatch(string(raw), -1) {
		if cmd, _, err := root.Find(strings.Fields(m[1])); err != nil || cmd.Name() != strings.Fields(m[1])[1] {
			t.Errorf("there is no command %s", m[0])
		}
	}
}

// A command that waits does not give up for what was wrong before it was given.
func TestWaitingCommandsGiveUpForWhatHappensAfterThem(t *testing.T) {
	state := func(state string, attempt int64) *credentials.Credential {
		return &credentials.Credential{State: state, Rotation: &credentials.CredentialRotation{RotationID: "r", Step: "mint", Attempt: attempt}}
	}
	for _, c := range []struct {
		what string
		saw  []*credentials.Credential
		want bool
	}{
		{"it was waiting for a consumer", []*credentials.Credential{state("waiting", 0), state("waiting", 0)}, false},
		{"what was wrong is mended", []*credentials.Credential{state("undelivered", 0), state("rotating", 0)}, false},
		{"it fails", []*credentials.Credential{state("rotating", 0), state("failing", 3)}, true},
		{"it was failing", []*credentials.Credential{state("failing", 5), state("failing", 5)}, false},
		{"it was failing and fails again", []*credentials.Credential{state("failing", 5), state("failing", 6)}, true},
		{"what was wrong comes back", []*credentials.Credential{state("waiting", 0), state("rotating", 0), state("waiting", 0)}, true},
	} {
		var w attending
		got := false
		for _, s := range c.saw {
			got = w.gaveUp(s)
		}
		if got != c.want {
			t.Errorf("%s: it gives up: %v, want %v", c.what, got, c.want)
		}
	}
}
