//go:build !agent

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/taskfleet/taskfleet/infra"
	"github.com/taskfleet/taskfleet/infra/statetest"
)

// driveInfra runs taskfleet infra, where nobody can be asked anything.
func driveInfra(t *testing.T, args ...string) (code int, out, errOut string) {
	t.Helper()
	var o, e bytes.Buffer
	code = run(t.Context(), append([]string{"infra"}, args...), strings.NewReader(""), &o, &e)
	return code, o.String(), e.String()
}

// infraDeployment is a deployment that needs nobody.
func infraDeployment(t *testing.T, hcl string) string {
	t.Helper()
	t.Setenv("PATH", filepath.Dir(statetest.Terraform(t))+string(filepath.ListSeparator)+os.Getenv("PATH"))
	directory := filepath.Join(t.TempDir(), "prod")
	if err := os.MkdirAll(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(directory, "main.tf"), []byte(hcl), 0o644); err != nil {
		t.Fatal(err)
	}
	return directory
}

var digestText = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

func TestTerraformFromPlanToDestroy(t *testing.T) {
	const hcl = `
variable "name" { default = "taskfleet-test" }
variable "password" {
  default   = "hunter2-is-secret"
  sensitive = true
}
resource "terraform_data" "a" { input = var.password }
resource "terraform_data" "b" {}
output "a" { value = terraform_data.b.id }
output "password" {
  value     = var.password
  sensitive = true
}
output "manifest" {
  value = {
    version = 1, deployment = "test", root_url = "https://tasks.example.com", account_id = "123456789012", service_region = "eu-central-1"
    regions = { eu-central-1 = { vpc_id = "vpc-1", subnet_ids = ["subnet-1"], worker_security_group_id = "sg-1", launch_template_id = "lt-1"
    worker_instance_profile_arn = "arn:aws:iam::123456789012:instance-profile/w" } }
    kms_key_arn = null, cluster_name = "test", service_name = "test", task_definition_arn = "arn:aws:ecs:eu-central-1:123456789012:task-definition/test:1"
    configuration_sections    = ["data"]
    configuration_secret_arns = { for s in ["platform", "mirror", "schedules"] : s => "arn:aws:secretsmanager:eu-central-1:123456789012:secret:${s}" }
    server_secret_arn         = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:server"
    metrics_secret_arn        = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:metrics"
  }
}
`
	dir := infraDeployment(t, hcl)
	all := ""
	must := func(want int, args ...string) string {
		t.Helper()
		code, out, errOut := driveInfra(t, args...)
		all += out + errOut
		if code != want {
			t.Fatalf("infra %v exits with %d, want %d\n%s%s", args, code, want, out, errOut)
		}
		return out + errOut
	}
	contains := func(text string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(text, p) {
				t.Errorf("%q is not in\n%s", p, text)
			}
		}
	}
	contains(must(0, "show", "--dir", dir), "no plan is saved")
	planned := must(0, "plan", "--dir", dir, "first")
	contains(planned, "2 to create", "+ create  terraform_data.a", "Policy:", "Cost:", "infra apply --dir "+dir+" first --digest sha256:")
	digest := digestText.FindString(planned)
	contains(must(1, "apply", "--dir", dir, "first"), "--digest is missing")
	contains(must(0, "apply", "--dir", dir, "first", "--digest", digest), "2/2  created", "applied plan first: 2 steps")
	contains(must(1, "apply", "--dir", dir, "first", "--digest", digest), "stale", "Nothing was done")
	contains(must(0, "show", "--dir", dir, "first"), "applied after", "2 of 2 steps done")
	contains(must(0, "show", "--dir", dir), "PLAN", "applied", "2 to create")
	contains(must(0, "drift", "--dir", dir), "no drift")
	contains(must(0, "output", "--dir", dir), "password = (secret)")
	contains(must(1, "output", "--dir", dir, "password"), "is secret")
	contains(must(1, "output", "--dir", dir, "nothing"), "there is no output nothing")
	file := filepath.Join(t.TempDir(), "manifest.json")
	contains(must(0, "output", "--dir", dir, "--manifest", "-o", file), "wrote "+file+": test, version ")
	if m, err := infra.ReadManifest(file); err != nil || m.ServiceName != "test" || m.State.Lineage == "" {
		t.Errorf("%v, %+v", err, m)
	}
	_, printed, _ := driveInfra(t, "output", "--dir", dir, "--manifest")
	if m, err := infra.ParseManifest([]byte(printed)); err != nil || m.ClusterName != "test" {
		t.Errorf("what is printed is no manifest: %v", err)
	}
	contains(must(1, "output", "--dir", dir, "--manifest", "a"), "leave a out")
	contains(must(1, "output", "--dir", dir, "-o", file), "-o is for --manifest")
	contains(must(0, "unlock", "--dir", dir), "is not locked")
	contains(must(1, "import", "--dir", dir, "terraform_data.c", "x"), "terraform_data.c")

	var report struct {
		Digest string
		Plan   struct {
			Changes []struct{ Address, Action string }
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "main.tf"), []byte(strings.Replace(hcl, `resource "terraform_data" "a"`, `resource "terraform_data" "z"`, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	text := must(0, "plan", "--dir", dir, "second", "--json")
	if err := json.Unmarshal([]byte(text[strings.Index(text, "{"):strings.LastIndex(text, "}")+1]), &report); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if len(report.Plan.Changes) != 2 || strings.Contains(text, `"files"`) {
		t.Errorf("the second plan: %+v", report)
	}
	contains(must(1, "apply", "--dir", dir, "second", "--digest", report.Digest), "nobody can be asked here, and --yes is not given", "!! destroy terraform_data.a")
	contains(must(0, "apply", "--dir", dir, "second", "--digest", report.Digest, "--yes"), "destroyed   terraform_data.a")

	contains(must(1, "destroy", "--dir", dir), "--destroy-protected taskfleet-test is not given", "2 to destroy")
	contains(must(1, "destroy", "--dir", dir, "--destroy-protected", "prod"), "it is taskfleet-test")
	contains(must(0, "destroy", "--dir", dir, "--destroy-protected", "taskfleet-test"), "applied plan destroy-")
	contains(must(0, "destroy", "--dir", dir, "--json"), "nothing to destroy", `"total": 0`)
	if i := strings.Index(all, "hunter2"); i >= 0 {
		t.Errorf("the password was printed: %s", all[max(0, i-200):i+20])
	}
}

// TestInfraApplySurvivesItsTerminal: when that goes away, what is under way is waited for, as after Ctrl-C.
func TestTerraformApplySurvivesItsTerminal(t *testing.T) {
	dir := infraDeployment(t, `
resource "terraform_data" "a" {
  provisioner "local-exec" { command = "echo >fifo; exec sleep 600" }
}
resource "terraform_data" "b" { depends_on = [terraform_data.a] }
`)
	fifo := filepath.Join(dir, "fifo")
	if out, err := exec.CommandContext(t.Context(), "mkfifo", fifo).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v, %s", err, out)
	}
	code, planned, errOut := driveInfra(t, "plan", "--dir", dir, "first")
	if code != exitOK {
		t.Fatal(errOut)
	}
	go func() {
		if _, err := os.ReadFile(fifo); err != nil {
			t.Error(err)
			return
		}
		self, err := os.FindProcess(os.Getpid())
		if err == nil {
			err = self.Signal(syscall.SIGHUP)
		}
		if err != nil {
			t.Error(err)
		}
	}()
	code, out, errOut := driveInfra(t, "apply", "--dir", dir, "first", "--digest", digestText.FindString(planned))
	if code != exitFailed || !strings.Contains(out, "interrupted after") || !strings.Contains(out, "not begun (1)") || !strings.Contains(errOut, "the apply was interrupted") {
		t.Errorf("exits with %d: %s%s", code, out, errOut)
	}
}

// TestInfraUsageIsNoDrift: what drift says with exit code 2 cannot be meant by a wrong command line.
func TestInfraUsageIsNoDrift(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"drift", "--no-such-flag"}, {"drift", "argument"}, {"drift", "--dir"}, {"nothing"}, {"apply"}, {"apply", "a"}, {"import", "one"}, {"init"}, {"init", "x"},
	} {
		code, out, errOut := driveInfra(t, args...)
		if code != exitFailed || !strings.Contains(errOut, "--help") || out != "" {
			t.Errorf("infra %v exits with %d and prints %q, %q", args, code, out, errOut)
		}
	}
	if code, _, errOut := driveInfra(t, "drift", "--dir", t.TempDir()); code != exitFailed || !strings.Contains(errOut, "is no deployment") {
		t.Errorf("drift of nothing exits with %d: %s", code, errOut)
	}
}

func TestInfraInit(t *testing.T) {
	t.Parallel()
	if code, _, errOut := driveInfra(t, "init", t.TempDir(), "--example", "huge"); code != exitFailed || !strings.Contains(errOut, "small, large") {
		t.Errorf("exits with %d: %s", code, errOut)
	}
	for _, example := range []string{"small", "large"} {
		dir := filepath.Join(t.TempDir(), "prod")
		if code, out, errOut := driveInfra(t, "init", dir, "--example", example); code != exitOK || !strings.Contains(out, fmt.Sprintf("infra bootstrap --dir %s", dir)) {
			t.Errorf("exits with %d: %s%s", code, out, errOut)
		}
		if code, _, errOut := driveInfra(t, "init", dir, "--example", example); code != exitFailed || !strings.Contains(errOut, "is not empty") {
			t.Errorf("again: exits with %d: %s", code, errOut)
		}
	}
}
