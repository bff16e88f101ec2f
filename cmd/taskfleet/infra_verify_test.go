//go:build !agent

package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/infra/verify"
)

// The command against an AWS that tells who the caller is, and allows nothing.
func TestInfraVerify(t *testing.T) {
	aws := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if strings.Contains(string(body), "Action=GetCallerIdentity") {
			_, _ = io.WriteString(w, `<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:iam::123456789012:user/auditor</Arn><Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>`)
			return
		}
		w.Header().Set("X-Amzn-Errortype", "AccessDeniedException")
		w.WriteHeader(http.StatusForbidden)
		switch auth := r.Header.Get("Authorization"); {
		case strings.Contains(auth, "/ec2/aws4_request"):
			_, _ = io.WriteString(w, "<Response><Errors><Error><Code>UnauthorizedOperation</Code></Error></Errors></Response>")
		case strings.Contains(auth, "/s3/aws4_request"):
			_, _ = io.WriteString(w, "<Error><Code>AccessDenied</Code></Error>")
		case strings.HasPrefix(string(body), "Action="):
			_, _ = io.WriteString(w, "<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>")
		default:
			_, _ = io.WriteString(w, `{"__type": "AccessDeniedException"}`)
		}
	}))
	t.Cleanup(aws.Close)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": aws.URL, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "hunter2", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
	} {
		t.Setenv(name, value)
	}
	directory := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(directory, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good := write("good.json", `{"version": 1, "deployment": "prod", "regions": {"eu-central-1": {}}, "kms_key_arn": "arn:aws:kms:us-east-1:123456789012:key/1"}`)
	verified := func(code int, args ...string) (out, errOut string) {
		t.Helper()
		out, errOut, got := command(t, append([]string{"infra", "verify"}, args...)...)
		if got != code || strings.Contains(out+errOut, "hunter2") {
			t.Errorf("%s: exit code %d, want %d\n%s%s", args, got, code, out, errOut)
		}
		return out, errOut
	}

	out, errOut := verified(2, "--manifest", good)
	for _, want := range []string{"warning   unchecked  eu-central-1", "warning   unchecked  global", "rds:DescribeDBInstances is not allowed", "To mend it: allow the caller", "20 warnings. Looked at, of prod in the account 123456789012"} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
	if !strings.Contains(errOut, "20 findings in the account") {
		t.Errorf("the error is %s", errOut)
	}

	out, _ = verified(2, "--manifest", good, "--json")
	var report verify.Report
	if err := json.Unmarshal([]byte(out), &report); err != nil || report.Account != "123456789012" || len(report.Findings) != 20 || report.Findings[0].Check != verify.Unchecked {
		t.Errorf("%v\n%s", err, out)
	}

	for file, want := range map[string]string{
		write("bad.json", `{"version": 7}`): "version is 7",
		write("foreign.json", `{"version": 1, "deployment": "prod", "kms_key_arn": "arn:aws:kms:us-east-1:210987654321:key/1"}`): "in the account 210987654321",
		filepath.Join(directory, "none"): "no such file",
	} {
		if _, errOut := verified(1, "--manifest", file); !strings.Contains(errOut, want) {
			t.Errorf("%s: %s, want %s", file, errOut, want)
		}
	}
	if _, errOut := verified(1, "--manifest", good, "--dir", directory); !strings.Contains(errOut, "--manifest is instead of --dir") {
		t.Errorf("both: %s", errOut)
	}
	if _, errOut := verified(1, "--dir", directory); !strings.Contains(errOut, "is no deployment") {
		t.Errorf("no deployment: %s", errOut)
	}
}

// Reports fit 100 columns, whatever is in them, and do nothing to a terminal.
func TestReportsOfVerificationsAreNarrow(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("long", 60)
	text := verifyText(&verify.Report{
		Deployment: long, Account: "123456789012", Regions: []string{"us-east-1", "eu-central-1"}, Resources: map[string]int{"bucket": 2, "security group": 1},
		Findings: []verify.Finding{
			{Check: "database-deletion-protection", Severity: verify.Error, Region: "ap-southeast-2", Resource: "arn:aws:rds:" + long, Message: "evil \x1b[2J" + long + " " + long, Fix: long},
			{Check: "tags", Severity: verify.Warning, Region: verify.Global, Resource: "arn:aws:iam::123456789012:role/r", Message: "it has no tag", Fix: "give it"},
		},
	})
	for line := range strings.SplitSeq(text, "\n") {
		if n := utf8.RuneCountInString(line); n > 100 || strings.HasSuffix(line, " ") {
			t.Errorf("%d columns: %q", n, line)
		}
	}
	for _, want := range []string{"error     database-deletion-protection  ap-southeast-2\n", "warning   tags                          global\n", "1 error, 1 warning.", "1 security group."} {
		if !strings.Contains(text, want) {
			t.Errorf("it has not %q:\n%s", want, text)
		}
	}
	if strings.Contains(text, "\x1b") {
		t.Error("it moves the cursor")
	}
}
