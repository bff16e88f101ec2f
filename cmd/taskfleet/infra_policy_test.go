//go:build !agent

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// A plan that makes a bucket without anything, at $15.80 a month, and one that makes nothing.
const (
	barePlan = `{"format_version": "1.2", "planned_values": {}, "resource_changes": [{"address": "module.a.aws_s3_bucket.this", "module_address": "module.a",
		"mode": "managed", "type": "aws_s3_bucket", "name": "this", "change": {"actions": ["create"], "before": null, "after": {"bucket": "b\u001b[2J", "region": "us-east-1"}, "after_unknown": {}}}]}`
	emptyPlan = `{"format_version": "1.2", "planned_values": {}, "resource_changes": []}`
)

// infraRun runs a command of taskfleet infra.
func infraRun(t *testing.T, args ...string) (out, errOut string, code int) {
	t.Helper()
	return command(t, append([]string{"infra"}, args...)...)
}

// deployment writes files of a deployment.
func deployment(t *testing.T, files map[string]string) string {
	t.Helper()
	directory := t.TempDir()
	for name, text := range files {
		file := filepath.Join(directory, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return directory
}

func TestAPlanIsJudged(t *testing.T) {
	directory := deployment(t, map[string]string{
		".plans/monday/plan.json": emptyPlan, ".plans/tuesday/plan.json": barePlan,
		"policy.yml": "exceptions:\n- rule: bucket_tls\n  resource: module.a.*\n  reason: it is for a test of commands\n  until: " + time.Now().AddDate(0, 1, 0).Format(time.DateOnly) + "\n",
	})
	monday, tuesday := filepath.Join(directory, ".plans", "monday"), filepath.Join(directory, ".plans", "tuesday", "plan.json")
	if out, errOut, code := infraRun(t, "policy", "check", monday); code != exitOK || errOut != "" || !strings.Contains(out, "no violations") {
		t.Errorf("%d, %s, %s", code, errOut, out)
	}
	earlier := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(monday, "plan.json"), earlier, earlier); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{directory, tuesday} {
		out, errOut, code := infraRun(t, "policy", "check", path)
		if code != exitViolated || !strings.Contains(errOut, "2 violations; mend them, or accept them in policy.yml") {
			t.Errorf("%d, %s", code, errOut)
		}
		for _, want := range []string{"bucket_private", "module.a.aws_s3_bucket.this, aws_s3_bucket_public_access_block", "it is for a test of commands", "1 accepted"} {
			if !strings.Contains(out, want) {
				t.Errorf("the output lacks %q:\n%s", want, out)
			}
		}
		for line := range strings.Lines(out) {
			if utf8.RuneCountInString(line) > 101 {
				t.Errorf("too long: %s", line)
			}
		}
	}
	out, _, code := infraRun(t, "policy", "check", tuesday, "--dir", t.TempDir(), "--json") // where there are no exceptions
	var v struct {
		Violations []struct{ Rule, Address string }
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || code != exitViolated || len(v.Violations) != 3 {
		t.Errorf("%d, %v, %s", code, err, out)
	}
	for _, c := range []struct{ path, want string }{
		{filepath.Join(directory, "none.json"), "no such file"},
		{t.TempDir(), "has neither plan.json nor .plans/NAME/plan.json; make a plan with taskfleet infra plan"},
		{filepath.Join(directory, "policy.yml"), "the plan is not JSON"},
	} {
		if _, errOut, code := infraRun(t, "policy", "check", c.path); code != exitFailed || !strings.Contains(errOut, c.want) {
			t.Errorf("%s: %d, %s", c.path, code, errOut)
		}
	}
}

func TestRulesAreListed(t *testing.T) {
	directory := deployment(t, map[string]string{"policies/x.rego": "package taskfleet.policy.own_one\n\ndeny contains {\"address\": \"a\", \"message\": \"m\"} if false\n"})
	out, errOut, code := infraRun(t, "policy", "list", "--dir", directory)
	if code != exitOK || errOut != "" || !strings.Contains(out, "bucket_tls") || !strings.Contains(out, "own_one (x.rego)") {
		t.Errorf("%d, %s, %s", code, errOut, out)
	}
	out, _, _ = infraRun(t, "policy", "list", "--json")
	var list []struct{ ID, Severity, Title, Description string }
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) < 20 || list[0].Description == "" {
		t.Errorf("%v, %s", err, out)
	}
}

func TestAPlanIsPriced(t *testing.T) {
	directory := deployment(t, map[string]string{".plans/x/plan.json": barePlan, "cost.yml": "usage: {s3_gb: 1000, s3_put_thousands: 0, s3_get_thousands: 0}\n"})
	out, errOut, code := infraRun(t, "cost", directory)
	if code != exitOK || errOut != "" || !strings.Contains(out, "module.a") || !strings.Contains(out, "+$23.00") || !strings.Contains(out, "Not in it:") {
		t.Errorf("%d, %s, %s", code, errOut, out)
	}
	out, _, _ = infraRun(t, "cost", directory, "--json")
	var b struct {
		After      float64
		PricesAsOf string   `json:"prices_as_of"`
		LeftOut    []string `json:"left_out"`
	}
	if err := json.Unmarshal([]byte(out), &b); err != nil || b.After != 23 || b.PricesAsOf == "" || len(b.LeftOut) == 0 {
		t.Errorf("%v, %s", err, out)
	}
	if _, errOut, code := infraRun(t, "cost", filepath.Join(directory, "cost.yml")); code != exitFailed || !strings.Contains(errOut, "not JSON of terraform") {
		t.Errorf("%d, %s", code, errOut)
	}
}
