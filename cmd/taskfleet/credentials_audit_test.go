//go:build !agent

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/auth"
	"github.com/taskfleet/taskfleet/client/credentialsaudit"
	"github.com/taskfleet/taskfleet/client/secrets"
	"github.com/taskfleet/taskfleet/credentials/audit"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Tasks that print a token and a secret, and what the audit of that says.
func TestAnAuditOfARealPlatform(t *testing.T) {
	p := startReal(t, func(c *Config) {
		c.CredentialsAudit.Exceptions = []audit.Exception{
			{Name: "planted", Finding: "secret-in-log secret *", Reason: "this is a test", Until: "2999-12-31"},
			{Name: "old", Finding: "client-never-expires client team/*", Reason: "this was a test", Until: "2020-01-01"},
		}
	})
	core, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root})
	if err != nil {
		t.Fatal(err)
	}
	made, err := auth.New(core).CreateClient(t.Context(), "team/ci", &auth.CreateClientRequest{
		Expires: timestamp.Now().Add(100 * 365 * 24 * time.Hour), Description: "test", Scopes: []string{"auth:current-scopes"},
	})
	if err != nil {
		t.Fatal(err)
	}
	const password = "kX9-hunter2-planted-Zq"
	if err := secrets.New(core).Set(t.Context(), "project/ci", &secrets.Secret{
		Secret: json.RawMessage(`{"password": "` + password + `"}`), Expires: timestamp.Now().Add(time.Hour),
	}); err != nil {
		t.Fatal(err)
	}
	expect(t, exitOK, "created", "pool", "apply", "-f", writeFile(t, "pool.yml", testPool))
	graph := strings.ReplaceAll(testGraph, "echo making", "echo making; echo token "+made.AccessToken+"; printf %s "+password[:10]+"; echo "+password[10:])
	expect(t, exitOK, "All 2 tasks completed", "graph", "submit", writeFile(t, "graph.yml", graph), "--watch")

	const line = `secret-in-log +client team/ci\n +An access token of it is in a log of a task\.\n +[A-Za-z0-9_-]{22} run 0 line \d+`
	out := expect(t, exitFailed, line, "credentials", "audit")
	for _, want := range []string{
		`secret-in-log secret project/ci, until 2999-12-31: this is a test`, `The exception old was good until 2020-01-01`, `client-never-expires +client team/ci`, `client-static +client static/taskcluster/root`,
		`recorded since`, `2 of 2 logs of the last 24 hours`, `1 error, 1 warning, \d+ notes? and 1 accepted`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	if strings.Contains(out, "scopes-everything     client static/taskcluster/queue") {
		t.Errorf("the platform's own clients are told of:\n%s", out)
	}
	if n := widest(out); n > auditWidth+1 { // with the end of the line
		t.Errorf("it is %d wide:\n%s", n, out)
	}
	all := out
	all += expect(t, exitFailed, `"reason": "this is a test"`, "credentials", "audit", "--last", "--json")
	sarif := expect(t, exitFailed, `"startLine": \d`, "credentials", "audit", "--last", "--sarif")
	checkSARIF(t, []byte(sarif))
	all += sarif
	for _, secret := range []string{made.AccessToken, password} {
		if strings.Contains(all, secret) {
			t.Errorf("a secret is shown:\n%s", all)
		}
	}
	if !strings.Contains(sarif, `"justification": "this is a test (planted, until 2999-12-31)"`) {
		t.Errorf("nothing is suppressed:\n%s", sarif)
	}
	expect(t, exitOK, `Nothing was found`, "credentials", "audit", "--only", "unused")

	expect(t, exitTrouble, "must be one of .age., .unused.", "credentials", "audit", "--only", "everything")
	expect(t, exitTrouble, `--fail-on is "never"`, "credentials", "audit", "--fail-on", "never")
	expect(t, exitUsage, "json", "credentials", "audit", "--json", "--sarif")
}

// checkSARIF holds a document against what the specification demands of its parts.
func checkSARIF(t *testing.T, text []byte) {
	t.Helper()
	read := func(b []byte) any {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		return doc
	}
	essentials, err := os.ReadFile(filepath.Join("testdata", "sarif-essentials.json"))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("sarif.json", read(essentials)); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("sarif.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := schema.Validate(read(text)); err != nil {
		t.Errorf("it is no SARIF: %v\n%s", err, text)
	}
	var doc sarifLog
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	rules := doc.Runs[0].Tool.Driver.Rules
	for _, r := range doc.Runs[0].Results {
		if r.RuleIndex < 0 || r.RuleIndex >= len(rules) || rules[r.RuleIndex].ID != r.RuleID {
			t.Errorf("the rule of %+v is not at its place", r)
		}
	}
	for _, r := range rules {
		if r.Help.Text == "" || r.Help.Markdown == "" || r.Short.Text == "" || r.Default.Level == "" {
			t.Errorf("the rule %+v is not whole", r)
		}
	}
}

func TestAnAuditForPeopleFitsTheirScreens(t *testing.T) {
	long := strings.Repeat("project:releng:", 30)
	a := &credentialsaudit.Audit{Report: &credentialsaudit.AuditReport{
		Findings: []credentialsaudit.AuditFinding{
			{ID: "r s", Rule: "scopes-unused", Level: "warning", Subject: "client " + long, Message: "It did not use " + long + ", " + long},
			{ID: "r t", Rule: "secret-in-log", Level: "error", Subject: "client \x1b[31mx", Message: "x", Places: []credentialsaudit.AuditPlace{{TaskID: "VMxKlcVxTDyPoOYBxIhZ5A", Name: "public/" + long, Line: 3, Count: 9}}},
		},
		Rules: []credentialsaudit.AuditRule{{ID: "scopes-unused", Help: long + " " + strings.Repeat("word ", 50)}},
		Notes: []string{strings.Repeat("note ", 50)},
	}}
	text := auditText(a, sortFindings(a))
	if n := widest(strings.ReplaceAll(text, "…", ".")); n > auditWidth+1 || strings.Contains(text, "\x1b") {
		t.Errorf("it is %d wide:\n%s", n, text)
	}
}
