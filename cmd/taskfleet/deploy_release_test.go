//go:build !agent && !server

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// A releaseCloud imitates as much of AWS as a release needs: secrets, and a service of ECS whose rollouts are over at once.
type releaseCloud struct {
	mu        sync.Mutex
	values    map[string][]string // of secrets, by ARN: the last is current, its place the version
	revisions []map[string]any
	runs      int      // which of them
	broken    string   // image that does not run
	rolledOut []string // images
}

const releaseCloudARN = "arn:aws:%s:eu-central-1:123456789012:%s"

func (c *releaseCloud) arn(revision int) string {
	return fmt.Sprintf(releaseCloudARN, "ecs", "task-definition/test:"+strconv.Itoa(revision+1))
}

func (c *releaseCloud) find(arn string) int {
	for i := range c.revisions {
		if c.arn(i) == arn {
			return i
		}
	}
	return len(c.revisions) - 1 // a family is its latest
}

// container is one of a revision.
func (c *releaseCloud) container(revision int, name string) map[string]any {
	for _, d := range c.revisions[revision]["containerDefinitions"].([]any) {
		if d.(map[string]any)["name"] == name {
			return d.(map[string]any)
		}
	}
	return nil
}

// ServeHTTP implements http.Handler.
func (c *releaseCloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in := struct {
		SecretID       string `json:"SecretId"`
		SecretString   string
		VersionID      string `json:"VersionId"`
		TaskDefinition string
	}{}
	var members map[string]any
	d := json.NewDecoder(r.Body)
	var text json.RawMessage
	if err := errors.Join(d.Decode(&text), json.Unmarshal(text, &in), json.Unmarshal(text, &members)); err != nil {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	values := c.values[in.SecretID]
	out := map[string]any{}
	switch operation {
	case "DescribeSecret":
		if len(values) > 0 {
			out["VersionIdsToStages"] = map[string]any{strconv.Itoa(len(values)): []any{"AWSCURRENT"}}
		}
	case "PutSecretValue":
		c.values[in.SecretID] = append(values, in.SecretString)
		out["VersionId"] = strconv.Itoa(len(values) + 1)
	case "GetSecretValue":
		version, err := strconv.Atoi(in.VersionID)
		if err != nil || version > len(values) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		out["SecretString"] = values[version-1]
	case "RegisterTaskDefinition":
		c.revisions = append(c.revisions, members)
		in.TaskDefinition = c.arn(len(c.revisions) - 1)
		fallthrough
	case "DescribeTaskDefinition":
		i := c.find(in.TaskDefinition)
		one := maps.Clone(c.revisions[i])
		one["taskDefinitionArn"], one["status"] = c.arn(i), "ACTIVE"
		out["taskDefinition"] = one
	case "UpdateService":
		c.runs = c.find(in.TaskDefinition)
		c.rolledOut = append(c.rolledOut, c.container(c.runs, "taskfleet")["image"].(string))
	case "ListTasks":
		out["taskArns"] = []any{}
	case "DescribeServices":
		state := "COMPLETED"
		if c.container(c.runs, "taskfleet")["image"] == c.broken {
			state = "FAILED"
		}
		out["services"] = []any{map[string]any{"status": "ACTIVE", "taskDefinition": c.arn(c.runs), "deployments": []any{map[string]any{
			"id": strconv.Itoa(len(c.rolledOut)), "status": "PRIMARY", "taskDefinition": c.arn(c.runs), "rolloutState": state, "rolloutStateReason": "the imitation says so",
		}}}}
	default:
		w.WriteHeader(http.StatusNotImplemented)
		return
	}
	_ = json.NewEncoder(w).Encode(out) // a client that is gone needs no answer
}

// TestPulumiDeployTakesAReleaseBack has a release fail at an imitation of AWS. The service goes on with the image and with the
// configuration of before, though there is a later one, and deploy says so.
func TestPulumiDeployTakesAReleaseBack(t *testing.T) {
	pulumi := os.Getenv("TASKFLEET_TEST_PULUMI")
	if pulumi == "" {
		t.Fatal("TASKFLEET_TEST_PULUMI must name the program pulumi; make test builds it")
	}
	arn := func(service, resource string) string { return fmt.Sprintf(releaseCloudARN, service, resource) }
	secrets := map[string]string{}
	for _, s := range []string{"platform", "mirror", "schedules", "server", "metrics"} {
		secrets[s] = arn("secretsmanager", "secret:test/"+s+"-AbCdEf")
	}
	image := func(digit string) string { return "registry.example.com/taskfleet@sha256:" + strings.Repeat(digit, 64) }
	good, bad := image("a"), image("b")
	cloud := &releaseCloud{values: map[string][]string{}, broken: bad, revisions: []map[string]any{{"family": "test", "containerDefinitions": []any{
		map[string]any{"name": "files", "image": "files:1", "environment": []any{map[string]any{"name": "MORE_CONFIGURATION", "value": secrets["platform"]}}},
		map[string]any{"name": "taskfleet", "image": "taskfleet:0"},
	}}}}
	server := httptest.NewServer(cloud)
	t.Cleanup(server.Close)
	for k, v := range map[string]string{
		"AWS_ENDPOINT_URL": server.URL, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
		"TASKFLEET_STACKS_PASSPHRASE": "correct horse battery staple",
	} {
		t.Setenv(k, v)
	}
	t.Chdir(t.TempDir())
	write := func(name, text string) {
		t.Helper()
		name = filepath.Join("local", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	manifest, err := json.Marshal(map[string]any{
		"version": 1, "written": "2026-01-02T03:04:05Z", "state": map[string]any{"lineage": "x", "serial": 1}, "deployment": "test", "root_url": "http://127.0.0.1:1",
		"account_id": "123456789012", "service_region": "eu-central-1", "cluster_name": "test", "service_name": "test", "configuration_sections": []string{"data"},
		"regions": map[string]any{"eu-central-1": map[string]any{
			"vpc_id": "vpc-1", "subnet_ids": []string{"subnet-1"}, "worker_security_group_id": "sg-1", "launch_template_id": "lt-1",
			"worker_instance_profile_arn": arn("iam", "instance-profile/w"),
		}},
		"task_definition_arn": cloud.arn(0), "server_secret_arn": secrets["server"], "metrics_secret_arn": secrets["metrics"],
		"configuration_secret_arns": map[string]string{"platform": secrets["platform"], "mirror": secrets["mirror"], "schedules": secrets["schedules"]},
	})
	if err != nil {
		t.Fatal(err)
	}
	write("manifest.json", string(manifest))
	environment := "name: test\nmanifest: manifest.json\nbackend: file://./.stacks/state\nsecrets: passphrase\nplatform: {configuration: platform.yml, migrate: false, image: " + good + "}\n"
	write("environment.yml", environment)
	write("platform.yml", "metricsToken: hunter2\nnotify: {emailLimit: 50}\n")
	drive := func(code int) string {
		t.Helper()
		out, errOut, got := command(t, "deploy", "--environment", "local", "--pulumi", pulumi, "--yes")
		if got != code {
			t.Fatalf("deploy ended with %d, want %d\n%s%s", got, code, out, errOut)
		}
		if strings.Contains(out+errOut, "hunter2") || strings.Contains(out+errOut, "rootToken") {
			t.Errorf("deploy shows secrets:\n%s%s", out, errOut)
		}
		return out + errOut
	}
	runs := func(image, configuration string) {
		t.Helper()
		is, reads := cloud.container(cloud.runs, "taskfleet")["image"], cloud.container(cloud.runs, "files")["environment"].([]any)[0].(map[string]any)["value"]
		if is != image || reads != secrets["platform"]+configuration {
			t.Errorf("the service runs %v with %v", is, reads)
		}
	}

	drive(exitOK)
	runs(good, "#1")
	write("platform.yml", "metricsToken: hunter2\nnotify: {emailLimit: 51}\n")
	write("environment.yml", strings.Replace(environment, good, bad, 1))
	said := drive(exitRolledBack)
	for _, want := range []string{
		"the release of test:3 has failed: the imitation says so", "The service runs test:2 again, as before.", "rollback is done: " + good + " is at work again",
		good + " is at work again. It was not tested, since environment.yml has no smoke.", "environment.yml still asks for " + bad,
	} {
		if !strings.Contains(said, want) {
			t.Errorf("it does not say %q", want)
		}
	}
	runs(good, "#1")
	if len(cloud.values[secrets["platform"]]) != 2 || !slices.Equal(cloud.rolledOut, []string{good, bad, good}) {
		t.Errorf("configuration %q, rolled out %v", cloud.values[secrets["platform"]], cloud.rolledOut)
	}
	if t.Failed() {
		t.Log(said)
	}
}
