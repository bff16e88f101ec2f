//go:build !agent

package main

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/auth"
	"github.com/taskfleet/taskfleet/credentials/sentry/sentryfake"
)

// A platform gives out the DSN of a project, and goes on with another token once that is
// in the file.
func TestThePlatformKeepsSentryKeys(t *testing.T) {
	fake := sentryfake.New(sentryfake.Options{})
	server := httptest.NewServer(fake)
	defer server.Close()
	fake.SetURL(server.URL)
	fake.AddProject("builds", "queue")
	file := writeFile(t, "token", fake.Token()+"\n")
	c, err := loadText(t, "auth:\n  sentry: {url: "+server.URL+", organization: acme, tokenFile: "+file+", initialTeam: builds, rateLimit: {count: 7, window: 60}}\n")
	if err != nil {
		t.Fatal(err)
	}
	p := startReal(t, func(to *Config) { to.Auth = c.Auth })
	core, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root})
	if err != nil {
		t.Fatal(err)
	}
	got, err := auth.New(core).SentryDSN(t.Context(), "queue")
	if err != nil {
		t.Fatal(err)
	}
	keys := fake.Keys("queue")
	if len(keys) != 2 || keys[1].DSN != got.DSN.Public || keys[1].Count != 7 || got.Project != "queue" || time.Until(got.Expires.Time()) < 47*time.Hour {
		t.Errorf("of %d keys one is given out until %s", len(keys), got.Expires)
	}
	part := p.again.parts["sentry-token"]
	if part == nil {
		t.Fatal("the token is nothing that can be replaced")
	}
	if err := part(t.Context(), "", json.RawMessage(`{"token":"hunter2"}`)); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a token that does not work: %v", err)
	}
	if err := part(t.Context(), "", json.RawMessage(`{"token":"`+fake.Token()+`"}`)); err != nil {
		t.Errorf("one that works: %v", err)
	}
}

func TestMistakesInTheSentryConfigurationAreToldWithTheirLine(t *testing.T) {
	for text, want := range map[string]string{
		"{organization: acme, initialTeam: builds}":                                         "sentry: token must be",
		"{organization: acme, initialTeam: builds, token: hunter2, tokenFile: /x}":          "there are both",
		"{organization: acme, initialTeam: builds, tokenFile: x}":                           "absolute path",
		"{organization: acme, initialTeam: builds, token: hunter2, alertEvery: often}":      "alertEvery is",
		"{organization: acme, initialTeam: builds, token: hunter2, keyPrefix: taskcluster}": "keyPrefix is",
		"{token: hunter2}": "organization is",
	} {
		_, err := loadText(t, "auth:\n  sentry: "+text+"\n")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), ":2: ") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	raw, err := os.ReadFile(filepath.Join("..", "..", "docs", "credentials.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?s)```yaml\n(auth:\n  sentry:.*?)```").FindSubmatch(raw)
	if shown == nil {
		t.Fatal("the guide shows no section auth.sentry")
	}
	if _, err := loadText(t, string(shown[1])); err != nil {
		t.Errorf("what the guide shows: %v", err)
	}
	t.Setenv(sentryTokenVariable, "hunter2")
	c, err := loadText(t, "auth:\n  sentry: {organization: acme, initialTeam: builds}\ncredentials:\n- {name: a, kind: sentry-key}\n- {name: b, kind: sentry-key, grace: 2h}\n")
	if err != nil {
		t.Fatal(err)
	}
	list := c.readCredentials(func(string, string, ...any) {})
	if len(list) != 2 || list[0].Grace != sentryGrace || list[1].Grace != 2*time.Hour {
		t.Errorf("the times of grace are wrong: %+v", list)
	}
}
