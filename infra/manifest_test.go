package infra_test

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/infra"
)

// released does to a service what stacks do, and looks whether terraform leaves it at that.
func (w *workbench) released(directory string) {
	w.Helper()
	change := func(resource string, attributes map[string]any) {
		w.Helper()
		for _, o := range w.aws.Objects(resource) {
			if err := w.aws.Change(resource, o.ID, attributes); err != nil {
				w.Error(err)
			}
			return
		}
		w.Errorf("there is no %s", resource)
	}
	change("aws_ecs_service", map[string]any{"task_definition": "arn:aws:ecs:eu-central-1:123456789012:task-definition/taskfleet-example:99", "desired_count": 5})
	change("aws_appautoscaling_target", map[string]any{"min_capacity": 5, "max_capacity": 9})
	if code, out := w.terraform(directory, "plan", "-no-color", "-detailed-exitcode"); code != 0 {
		w.Errorf("in %s: a plan after a release finds something to do, exit code %d\n%s", directory, code, out)
	}
}

// manifest looks whether what a deployment hands on is a manifest.
func (w *workbench) manifest(directory string) {
	w.Helper()
	code, out := w.terraform(directory, "output", "-no-color", "-json", "manifest")
	if code != 0 {
		w.Fatal(out)
	}
	var members map[string]any
	if err := json.Unmarshal([]byte(out), &members); err != nil {
		w.Fatal(err)
	}
	m, err := infra.ParseManifest(wrapped(w.T, members))
	if err != nil {
		w.Errorf("%s: %v", directory, err)
	} else if len(m.Regions) == 0 || m.ConfigurationSecretARNs["mirror"] == m.ConfigurationSecretARNs["platform"] || !slices.Contains(m.ConfigurationSections, "providers") ||
		!strings.Contains(m.TaskDefinitionARN, m.Deployment) || m.Database == nil {
		w.Errorf("%s: %s", directory, out)
	}
}

// wrapped is a manifest of an output.
func wrapped(t *testing.T, output map[string]any) []byte {
	t.Helper()
	members := maps.Clone(output)
	members["written"] = "2026-11-26T12:00:00Z"
	members["state"] = map[string]any{"lineage": "l", "serial": 7}
	text, err := json.Marshal(members)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// example is the output of a deployment with as little as there can be.
const example = `{
  "version": 1, "deployment": "test", "root_url": "https://tasks.example.com", "account_id": "123456789012", "service_region": "eu-central-1",
  "regions": {"eu-central-1": {"vpc_id": "vpc-1", "subnet_ids": ["subnet-1"], "worker_security_group_id": "sg-1", "worker_instance_profile_arn": "arn:aws:iam::123456789012:instance-profile/w",
    "launch_template_id": "lt-1", "event_queue_url": null, "mirror_bucket": null, "artifact_bucket": "artifacts"}},
  "database": null, "broker": null, "cluster_name": "test", "service_name": "test",
  "task_definition_arn": "arn:aws:ecs:eu-central-1:123456789012:task-definition/test:1", "configuration_sections": ["data"],
  "configuration_secret_arns": {"platform": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:p", "mirror": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:m", "schedules": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:s"},
  "server_secret_arn": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:server", "metrics_secret_arn": "arn:aws:secretsmanager:eu-central-1:123456789012:secret:metrics"
}`

func TestWhatIsWrongWithAManifestIsNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		change func(map[string]any)
		want   string // regular expression; nothing: it is good
	}{
		{func(m map[string]any) {}, ""},
		{func(m map[string]any) { m["something"] = "of a later version" }, ""},
		{func(m map[string]any) { m["version"] = 2 }, `version is 2, and this program knows version 1`},
		{func(m map[string]any) { delete(m, "state") }, `not what taskfleet infra output --manifest writes`},
		{func(m map[string]any) { delete(m, "task_definition_arn"); delete(m, "metrics_secret_arn") }, `lacks metrics_secret_arn, task_definition_arn: .*outputs\.tf`},
		{func(m map[string]any) { delete(m["configuration_secret_arns"].(map[string]any), "mirror") }, `lacks configuration_secret_arns\.mirror`},
		{func(m map[string]any) {
			delete(m["regions"].(map[string]any)["eu-central-1"].(map[string]any), "vpc_id")
		}, `lacks regions\.eu-central-1\.vpc_id`},
		{func(m map[string]any) { m["regions"] = map[string]any{} }, `regions: `},
		{func(m map[string]any) { m["cluster_name"] = nil; m["root_url"] = "tasks.example.com" }, `cluster_name: .*null.*; root_url: .*tasks\.example\.com`},
		{func(m map[string]any) { m["server_secret_arn"] = "server" }, `server_secret_arn: `},
		{func(m map[string]any) { m["written"] = "yesterday" }, `written: `},
	} {
		members := map[string]any{}
		if err := json.Unmarshal([]byte(example), &members); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(wrapped(t, members), &members); err != nil {
			t.Fatal(err)
		}
		c.change(members)
		text, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		m, err := infra.ParseManifest(text)
		switch {
		case c.want == "" && (err != nil || m.ServiceName != "test" || m.State.Serial != 7 || m.Regions["eu-central-1"].ArtifactBucket != "artifacts"):
			t.Errorf("%+v, %v", m, err)
		case c.want != "" && (err == nil || !regexp.MustCompile(c.want).MatchString(err.Error())):
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	if _, err := infra.ParseManifest([]byte("manifest")); err == nil || !strings.Contains(err.Error(), "is no JSON") {
		t.Error(err)
	}
	if _, err := infra.ReadManifest(filepath.Join(t.TempDir(), "manifest.json")); err == nil || !strings.Contains(err.Error(), "taskfleet infra output --manifest -o") {
		t.Error(err)
	}
}

func TestAManifestIsOfAState(t *testing.T) {
	t.Parallel()
	o := options(t)
	const value = `
terraform {
  required_version = ">= 1.10.0"
}
output "manifest" {
  value = jsondecode(file("${path.module}/example.json"))
}
`
	d := open(t, write(t, value), o)
	if _, err := d.Manifest(t.Context()); err == nil || !strings.Contains(err.Error(), "has no output manifest: it was not applied yet") {
		t.Errorf("before the first apply: %v", err)
	}
	apply := func(text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(d.Directory, "example.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		applied(t, d, infra.ApplyOptions{})
	}
	apply(example)
	path := filepath.Join(t.TempDir(), "manifest.json")
	if _, err := d.WriteManifest(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	m, err := infra.ReadManifest(path)
	if err != nil || m.Deployment != "test" || m.State.Lineage == "" || m.Written.IsZero() {
		t.Fatalf("%+v, %v", m, err)
	}
	if err := d.CheckManifest(t.Context(), m); err != nil {
		t.Errorf("at once: %v", err)
	}
	apply(strings.Replace(example, `"lt-1"`, `"lt-2"`, 1))
	if err := d.CheckManifest(t.Context(), m); err == nil || !strings.Contains(err.Error(), "is stale") || !strings.Contains(err.Error(), "output --dir "+d.Directory+" --manifest") {
		t.Errorf("after another apply: %v", err)
	}
	m.State.Lineage = "another"
	if err := d.CheckManifest(t.Context(), m); err == nil || !strings.Contains(err.Error(), "is of another state") {
		t.Errorf("of another deployment: %v", err)
	}
	now, err := d.Manifest(t.Context())
	if err != nil || now.Regions["eu-central-1"].LaunchTemplateID != "lt-2" {
		t.Errorf("%+v, %v", now, err)
	}
	apply(strings.Replace(example, `"cluster_name": "test",`, "", 1))
	if _, err := d.WriteManifest(t.Context(), path); err == nil || !strings.Contains(err.Error(), "lacks cluster_name") {
		t.Errorf("with an older outputs.tf: %v", err)
	}
	if again, err := infra.ReadManifest(path); err != nil || again.ClusterName != "test" {
		t.Errorf("what there was is gone: %v", err)
	}
}
