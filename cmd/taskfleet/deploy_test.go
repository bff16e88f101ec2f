//go:build !agent && !server

package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/auth"
	"github.com/taskfleet/taskfleet/deploy"
	"github.com/taskfleet/taskfleet/infra/statetest"
	"github.com/taskfleet/taskfleet/stacks"
)

// deployedInfra is a deployment that needs nobody, with a manifest that is whole. The root URL is that of the platform.
const deployedInfra = `
variable "root_url" {}
resource "terraform_data" "network" {}
output "manifest" {
  value = {
    version = 1, deployment = "test", root_url = var.root_url, account_id = "123456789012", service_region = "eu-central-1"
    regions = { eu-central-1 = {
      vpc_id = terraform_data.network.id, subnet_ids = ["subnet-1"], worker_security_group_id = "sg-1", launch_template_id = "lt-1"
      worker_instance_profile_arn = "arn:aws:iam::123456789012:instance-profile/w", event_queue_url = null, mirror_bucket = null, artifact_bucket = "artifacts"
    } }
    database = null, broker = null, cluster_name = "test", service_name = "test", configuration_sections = ["data"]
    task_definition_arn       = "arn:aws:ecs:eu-central-1:123456789012:task-definition/test:1"
    configuration_secret_arns = { for s in ["platform", "mirror", "schedules"] : s => "arn:aws:secretsmanager:eu-central-1:123456789012:secret:${s}" }
    server_secret_arn         = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:server"
    metrics_secret_arn        = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:metrics"
  }
}
`

const deployedEnvironment = `
name: test
manifest: ../manifest.json
backend: file://./.stacks/state
secrets: passphrase
platform: {configuration: platform.yml, files: conf.d, restart: [touch, restarted]}
access: {files: [access.yml]}
smoke: {taskQueueId: built-in/fail}
`

// TestPulumiDeployOfAnEnvironment goes from nothing to a task by terraform, Pulumi's engine and a platform, all of them real. The
// servers are on this machine, so that there is no AWS in it.
func TestPulumiDeployOfAnEnvironment(t *testing.T) {
	pulumi := os.Getenv("TASKFLEET_TEST_PULUMI")
	if pulumi == "" {
		t.Fatal("TASKFLEET_TEST_PULUMI must name the program pulumi; make test builds it")
	}
	t.Setenv("PATH", filepath.Dir(statetest.Terraform(t))+string(filepath.ListSeparator)+os.Getenv("PATH"))
	t.Setenv("TASKFLEET_STACKS_PASSPHRASE", "correct horse battery staple")
	p := startReal(t)
	t.Chdir(t.TempDir())
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join(environments, "test", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	write("main.tf", deployedInfra)
	write("terraform.tfvars", "root_url = \""+p.RootURL+"\"\n")
	restarted := filepath.Join(t.TempDir(), "restarted")
	environment := strings.Replace(deployedEnvironment, "touch, restarted", "touch, "+restarted, 1)
	write("stacks/environment.yml", environment)
	if err := os.MkdirAll(filepath.Join(environments, "test", "stacks", "conf.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	write("stacks/platform.yml", "notify: {emailLimit: 50}\n")
	write("stacks/access.yml", "managed: [\"Role=project:test:.*\"]\nroles:\n  project:test:builds: {description: Builds., scopes: [\"queue:scheduler-id:test\"]}\n")
	drive := func(code int, want []string, args ...string) string {
		t.Helper()
		out, errOut, got := command(t, append([]string{"deploy", "--environment", "test", "--pulumi", pulumi}, args...)...)
		if got != code {
			t.Fatalf("deploy %v ended with %d, want %d\n%s%s", args, got, code, out, errOut)
		}
		for _, w := range want {
			if !strings.Contains(out+errOut, w) {
				t.Errorf("deploy %v does not say %q\n%s%s", args, w, out, errOut)
			}
		}
		return out
	}

	drive(exitOK, []string{"+ create  terraform_data.network", "Cost: ", "no violations", "cannot be previewed before the changes to infra are made"}, "--plan-only")
	for _, name := range []string{deploy.Folder, "manifest.json", "terraform.tfstate", "stacks/conf.d/platform.yml"} {
		if _, err := os.Stat(filepath.Join(environments, "test", name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("--plan-only has left %s: %v", name, err)
		}
	}
	drive(exitFailed, []string{"nobody can be asked here, and --yes is not given", "has ended before the step infra"})

	// Its task fails, on the first release there is.
	drive(exitFailed, []string{
		"1/1  created     terraform_data.network", "manifest.json, of version", "+ Role=project:test:builds", "platform.yml", "has ended as failed",
		"infra     done", "smoke     failed", "To go back, put back the files", "--environment environments/test --resume",
	}, "--yes")
	core, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root})
	if err != nil {
		t.Fatal(err)
	}
	if role, err := auth.New(core).Role(t.Context(), "project:test:builds"); err != nil || len(role.Scopes) != 1 {
		t.Errorf("the role is %v, %v", role, err)
	}
	if _, err := os.Stat(restarted); err != nil {
		t.Errorf("the servers were not restarted: %v", err)
	}
	drive(exitFailed, []string{"has not come to its end", "--anew"}, "--yes")
	write("stacks/environment.yml", strings.Replace(environment, "built-in/fail", "built-in/succeed", 1))
	out := drive(exitOK, []string{"stacks was done before: 1 to create", "the task has completed on succeed"}, "--resume", "--yes")
	if strings.Contains(out, "Preview ") {
		t.Errorf("resumed, it did more than the test:\n%s", out)
	}

	// Again there is nothing to do, as programs are told, line by line.
	last := map[string]any{}
	for line := range strings.Lines(drive(exitOK, nil, "--skip-infra", "--json")) {
		clear(last)
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if last["what"] == deploy.EventDone && last["step"] != string(deploy.StepSmoke) && last["text"] != "nothing to do" {
			t.Errorf("the second time it did %v", last)
		}
	}
	if last["result"] != string(deploy.Done) {
		t.Errorf("its last line is %v", last)
	}
}

func TestWhatIsWrongWithACommandLineOfDeploy(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.MkdirAll("local/conf.d", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile("local/environment.yml", []byte("name: local\nrootUrl: http://127.0.0.1:1\nbackend: file://./x\nsecrets: passphrase\nplatform: {files: conf.d}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]struct {
		code int
		text string
	}{
		"":                         {exitUsage, "--environment is missing"},
		"--environment nowhere":    {exitFailed, "there is no environment nowhere: no environment.yml in nowhere/stacks, environments/nowhere"},
		"-e local --image a:1":     {exitUsage, "has no release at AWS"},
		"-e local --resume --anew": {exitUsage, "[anew resume]"},
		"-e local --resume":        {exitFailed, "was never deployed from here"},
	} {
		out, errOut, code := command(t, append([]string{"deploy"}, strings.Fields(line)...)...)
		if code != want.code || !strings.Contains(errOut, want.text) {
			t.Errorf("deploy %s ended with %d:\n%s%s\nwant %d and %s", line, code, out, errOut, want.code, want.text)
		}
	}
}

func TestImageThatRunsIsReadOffAPreview(t *testing.T) {
	change := func(id, before string) *stacks.Saved {
		return &stacks.Saved{Stacks: []stacks.StackPreview{{Name: "platform", Changes: []*stacks.Change{{ID: id, Before: json.RawMessage(before)}}}}}
	}
	for want, s := range map[string]*stacks.Saved{
		"wanted": change("Configuration=arn", `{"image":"another"}`),
		"before": change("Release=eu-central-1/a/b", `{"image":"before","versions":{"a":"1"}}`),
		"":       change("Release=eu-central-1/a/b", ``),
	} {
		if got := running(s, "wanted"); got != want {
			t.Errorf("%s runs, want %s", got, want)
		}
	}
}
