package platform_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/stacks/platform"
	"github.com/taskfleet/taskfleet/stacks/provider"
)

func TestConfigurationIsAFile(t *testing.T) {
	o := platform.Options{Check: func([]byte) error { return nil }}
	directory := t.TempDir()
	path := filepath.Join(directory, "platform.yml")
	const first, second = "notify: {slack: {token: hunter2}}\n", "notify: {emailLimit: 5}\n"
	c := newThing(o, "Configuration", path)
	if _, err := c.up(t.Context(), platform.ConfigurationSpec{Document: first}); err != nil {
		t.Fatal(err)
	}
	is := func(want string) {
		t.Helper()
		text, err := os.ReadFile(path)
		info, e := os.Stat(path)
		if err != nil || e != nil || string(text) != want || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v, %v, %s", err, e, info, text)
		}
	}
	is(first)
	// Nobody can try by the version what a short secret is.
	version := c.member(t, "version")
	if at, err := time.Parse(time.RFC3339Nano, version); err != nil || time.Since(at).Abs() > time.Hour || c.refresh(t) {
		t.Errorf("%v, state: %s", err, c.state)
	}
	if err := os.Chtimes(path, time.Time{}, time.Now().Add(-time.Hour)); err != nil || c.refresh(t) {
		t.Errorf("out of a backup: %v, %s", err, c.state)
	}
	if _, err := c.up(t.Context(), platform.ConfigurationSpec{Document: first, Reserved: []string{"s3"}}); err != nil || c.member(t, "version") != version {
		t.Errorf("with another section that is reserved: %v, %s", err, c.state)
	}
	if err := os.WriteFile(path, []byte("notify: {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if !c.refresh(t) || c.member(t, "document") != "notify: {}\n" || c.member(t, "version") == version {
		t.Errorf("what somebody else has written is not seen: %s", c.state)
	}
	if c.refresh(t) {
		t.Errorf("it has changed again: %s", c.state)
	}
	if _, err := c.up(t.Context(), platform.ConfigurationSpec{Document: second}); err != nil {
		t.Fatal(err)
	}
	is(second)
	if left, err := os.ReadDir(directory); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	if err := errors.Join(c.Delete(t.Context(), path, c.state), c.Delete(t.Context(), path, c.state)); err != nil {
		t.Error(err)
	}
	if c.refresh(t); c.state != nil {
		t.Errorf("after it was deleted: %s", c.state)
	}
	// What a killed process has left is no obstacle, and does not stay.
	if err := os.WriteFile(filepath.Join(directory, ".platform.yml.new"), []byte("notify: {slack: {to"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := c.up(t.Context(), platform.ConfigurationSpec{Document: first}); err != nil {
		t.Fatal(err)
	}
	is(first)
	if left, err := os.ReadDir(directory); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	if err := errors.Join(os.Rename(path, filepath.Join(directory, "elsewhere")), os.Symlink("elsewhere", path)); err != nil {
		t.Fatal(err)
	}
	_, err := c.up(t.Context(), platform.ConfigurationSpec{Document: second})
	fails(t, err, path+" is a link")
	_, err = newThing(o, "Configuration", filepath.Join(directory, "conf.d", "a.yml")).up(t.Context(), platform.ConfigurationSpec{Document: first})
	fails(t, err, "there is no directory "+filepath.Join(directory, "conf.d"))
}

func TestServersWithFilesAreRestarted(t *testing.T) {
	var started atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/__lbheartbeat__" || !started.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(s.Close)
	mark := filepath.Join(t.TempDir(), "restarted")
	x := newThing(platform.Options{}, "Restart", s.URL)
	spec := platform.RestartSpec{Command: []string{"sh", "-c", `echo one >> "$0"`, mark}, Versions: map[string]string{"platform": "sha256:1"}}
	started.Store(true)
	if _, err := x.up(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	restarts := func(want int) {
		t.Helper()
		text, err := os.ReadFile(mark)
		if err != nil || strings.Count(string(text), "one") != want {
			t.Errorf("%v, %s", err, text)
		}
	}
	restarts(1)
	if differs, err := x.up(t.Context(), spec); err != nil || differs || x.refresh(t) {
		t.Errorf("again: %t, %v", differs, err)
	}
	restarts(1)
	spec.Versions = map[string]string{"platform": "sha256:2"}
	if _, err := x.up(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	restarts(2)
	// A server that it leaves running holds its output. The passphrase of the states is not for it.
	t.Setenv("TASKFLEET_STACKS_PASSPHRASE", "hunter2")
	spec.Versions, spec.Command = nil, []string{"sh", "-c", `test -z "$TASKFLEET_STACKS_PASSPHRASE" && { while test -e "$0"; do sleep 0.1; done & }`, mark}
	if _, err := x.up(t.Context(), spec); err != nil { // after two minutes, if the end of what runs was waited for
		t.Error(err)
	}
	if err := os.Remove(mark); err != nil {
		t.Error(err)
	}
	before := string(x.state)
	spec.Versions = map[string]string{"platform": "sha256:3"}
	spec.Command = []string{"sh", "-c", `printf '\377no such unit' >&2; exit 5`}
	_, err := x.up(t.Context(), spec)
	fails(t, err, "exit status 5\n?no such unit")
	if string(x.state) != before {
		t.Errorf("the state is %s", x.state)
	}
}

// What is wrong is told by members, before anybody is asked.
func TestProblems(t *testing.T) {
	o := platform.Options{Check: func(document []byte) error {
		if strings.Contains(string(document), "lissten") {
			return errors.New(`[1:1] unknown field "lissten"`)
		}
		return nil
	}}
	const service = "eu-central-1/prod/prod"
	release := func(image, more string) string {
		return `{"image": "` + image + `", "template": "` + prefix + `task-definition/prod:1"` + more + `}`
	}
	for _, c := range []struct{ token, name, spec, want string }{ // want: regular expression; nothing: it is good
		{"Release", service, release("registry.example.com:5000/taskfleet:1.2.3", ""), ""},
		{"Release", service, release("taskfleet@sha256:"+strings.Repeat("a", 64), `, "timeout": "1h"`), ""},
		{"Release", service, release("taskfleet:latest", ""), `^image: .*other than latest`},
		{"Release", service, release("taskfleet", ""), `^image: `},
		{"Release", service, release("taskfleet:1", `, "timeout": "1s"`), `^timeout: .*1m0s to 2h0m0s`},
		{"Release", service, `{"image": "taskfleet:1", "template": "prod:1"}`, `^template: .*task_definition_arn`},
		{"Release", "prod", release("taskfleet:1", ""), `REGION/CLUSTER/SERVICE`},
		{"Release", service, release("taskfleet:1", `, "imag": 1`), `unknown field "imag"`},
		{"Release", service, `{"image": ["hunter2"]}`, `^image: must be of the type string$`},
		{"Replicas", service, `{"min": 2, "max": 6.0}`, ""},
		{"Replicas", service, `{"min": 0, "max": 6}`, `^min: `},
		{"Replicas", service, `{"min": 3, "max": 2}`, `^max: .*must be 3`},
		{"Replicas", service, `{"min": 1.5, "max": 2}`, `whole number`},
		{"GeneratedSecret", serverSecret, `{"content": "token"}`, ""},
		{"GeneratedSecret", serverSecret, `{"content": "password"}`, `^content: .*server or token`},
		{"GeneratedSecret", "arn:aws:secretsmanager:example.com/:123456789012:secret:a", `{"content": "token"}`, `must be the ARN of a secret`},
		{"Replicas", "example.com?/prod/prod", `{"min": 2, "max": 6}`, `REGION/CLUSTER/SERVICE`},
		{"GeneratedSecret", "server", `{"content": "token"}`, `must be the ARN of a secret`},
		{"Configuration", platformSecret, `{"document": "notify: {}\nauth: {}\n", "reserved": ["s3"]}`, ""},
		{"Configuration", platformSecret, `{"document": "{notify: {}}"}`, ""},
		{"Configuration", platformSecret, `{"document": "notify: {}\ns3: {region: hunter2}", "reserved": ["s3"]}`, `^document: .*section s3, which is configured elsewhere`},
		{"Configuration", platformSecret, `{"document": "# Nothing.\n"}`, `^document: has no sections`},
		{"Configuration", platformSecret, `{"document": "hunter2"}`, `^document: must have sections`},
		{"Configuration", platformSecret, `{"document": "a: \"hunter2"}`, `^document: is no YAML`},
		{"Configuration", platformSecret, `{"document": "notify: {}\n---\nauth: {}"}`, `^document: .*several documents`},
		{"Configuration", platformSecret, `{"document": "lissten: hunter2"}`, `^document: .*unknown field "lissten"`},
		{"Configuration", "platform.yml", `{"document": "notify: {}"}`, `absolute path`},
		{"Configuration", "/etc/taskfleet/conf.d/platform.yaml", `{"document": "notify: {}"}`, `must end with \.yml`},
		{"Restart", "https://tasks.example.com", `{"command": ["systemctl", "restart", "taskfleet"]}`, ""},
		{"Restart", "https://tasks.example.com/", `{}`, `without a slash at the end`},
		{"Restart", "https://tasks.example.com", `{"command": [""], "timeout": "soon"}`, `command: has an empty word[\s\S]*timeout: `},
	} {
		x := newThing(o, c.token, c.name)
		normal, err := x.Normal(c.name, json.RawMessage(c.spec))
		if c.want != "" {
			if err == nil || !regexp.MustCompile(c.want).MatchString(err.Error()) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s %s: %v, want %s", c.token, c.spec, err, c.want)
			}
			if _, ok := errors.AsType[*provider.Problem](err); !ok {
				t.Errorf("%s %s: %T is no problem", c.token, c.spec, err)
			}
			continue
		}
		again, e := x.Normal(c.name, normal)
		if err != nil || e != nil || string(again) != string(normal) {
			t.Errorf("%s %s: %v, %v, %s, %s", c.token, c.spec, err, e, normal, again)
		}
	}
}
