package stacks

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// written is the example, in a directory.
func written(t *testing.T) string {
	t.Helper()
	directory := filepath.Join(t.TempDir(), "local")
	if err := Write(directory, ""); err != nil {
		t.Fatal(err)
	}
	return directory
}

func TestTheExampleIsRead(t *testing.T) {
	directory := written(t)
	e, err := Load(directory)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"platform", "access", "pools", "schedules"}; !slices.Equal(e.Stacks(), want) {
		t.Errorf("the stacks are %v", e.Stacks())
	}
	for _, name := range e.Stacks()[1:] {
		set, err := e.definitions(name)
		if err != nil || len(set.Definitions) == 0 || set.Managed == nil {
			t.Errorf("%s: %v, %v", name, set, err)
		}
	}
	if err := Write(directory, ""); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("over another one: %v", err)
	}
	if _, err := Load(t.TempDir()); err == nil || !strings.Contains(err.Error(), "taskfleet stacks init") {
		t.Errorf("without a file: %v", err)
	}
}

// On a deployment of infra, states lie beside its own.
func TestAnEnvironmentOnInfra(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"terraform.tfvars": "deployment = \"taskfleet-prod\"\n",
		"backend.tf":       "terraform {\n  backend \"s3\" {\n    bucket       = \"the-state\"\n    region = \"eu-central-1\"\n  }\n}\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	directory := filepath.Join(root, "stacks")
	if err := Write(directory, root); err != nil {
		t.Fatal(err)
	}
	e, err := Load(directory)
	if err != nil {
		t.Fatal(err)
	}
	if e.Name != "taskfleet-prod" || e.Infra != ".." || e.Backend != "s3://the-state/stacks?region=eu-central-1" {
		t.Errorf("it is %+v", e)
	}
	if err := Write(filepath.Join(t.TempDir(), "x"), t.TempDir()); err == nil || !strings.Contains(err.Error(), "is that a deployment") {
		t.Errorf("without one: %v", err)
	}
}

const good = `name: prod
rootUrl: http://127.0.0.1:1
backend: file://./state
secrets: passphrase
access: {files: [access]}
`

// All mistakes are told, with lines.
func TestMistakesInAnEnvironment(t *testing.T) {
	directory := written(t)
	for text, want := range map[string][]string{
		"": {"f.yml:1: name is", "infra, manifest and rootUrl is missing", "backend is missing", "secrets is missing", "no stack is described"},
		good + "acess: {}\nsmoke: {taskqueueid: x}\n":                                      {`f.yml:6: the file has no field "acess"; did you mean access?`, `f.yml:7: smoke has no field "taskqueueid"; did you mean taskQueueId?`},
		good + "name: again\n":                                                             {`f.yml:6: the file has "name" twice; the first is in line 1`},
		good + "manifest: m\n":                                                             {"exclude each other"},
		good + "pools: {}\n":                                                               {"f.yml:6: pools.files is missing"},
		good + "pools:\n  files: [nowhere]\n":                                              {"f.yml:7: pools.files[0]: ", "no such file"},
		good + "pools: [a]\n":                                                              {"f.yml:6: pools must be a mapping, not a list"},
		good + "mirror: {configuration: configuration/platform.yml}\n":                     {"f.yml:6: mirror.configuration is configuration of the servers, which needs the section platform"},
		good + "platform: {files: nowhere, image: x, replicas: {min: 0}}\n":                {"platform.files: there is no directory", "platform.image is for AWS", "platform.replicas is for AWS", "platform.replicas is 0 to 0"},
		good + "platform: {replicas: {min: two}}\n":                                        {"f.yml:6: platform.replicas.min must be a whole number, not a word"},
		good + "platform: {restart: [1]}\n":                                                {"f.yml:6: platform.restart[0] must be text; put it in quotes if it is meant as such, not a number"},
		good + "platform: {configuration: access}\n":                                       {"platform.files is missing"},
		"name: a b\nrootUrl: x\nbackend: gs://x\nsecrets: none\naccess: {files: [access]}": {`f.yml:1: name is "a b"`, `f.yml:2: rootUrl is "x"`, `f.yml:3: backend is "gs://x"`, `f.yml:4: secrets is "none"`},
		"infra: ..\nplatform: {image: x:latest}\n":                                         {`f.yml:2: platform.image is "x:latest"; it ends with a digest`},
		good + "---\na: b\n":                                                               {"after the first document"},
		"\tx":                                                                              {"f.yml is not YAML"},
	} {
		e := &Environment{Directory: directory}
		err := e.parse("f.yml", []byte(text))
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%q: %v; want %q", text, err, w)
			}
		}
	}
	e := &Environment{Directory: directory}
	if err := e.parse("f.yml", []byte(good)); err != nil {
		t.Error(err)
	}
	if _, err := e.Select([]string{"acces"}); err == nil || !strings.Contains(err.Error(), "did you mean access?") {
		t.Error(err)
	}
	if _, err := e.Select([]string{"pools"}); err == nil || !strings.Contains(err.Error(), "has no section pools") {
		t.Error(err)
	}
}

func TestDefinitionsBelongToTheirStack(t *testing.T) {
	directory := written(t)
	if err := os.WriteFile(filepath.Join(directory, "access", "wrong.yml"), []byte("managed: ['Hook=x/.*']\nhooks: {x/y: {name: n, owner: a@example.com, task: {a: b}}}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	e, err := Load(directory)
	if err != nil {
		t.Fatal(err)
	}
	_, err = e.definitions("access")
	for _, want := range []string{"wrong.yml:2: Hook=x/y is defined among the files of access; a hook belongs to schedules", "the pattern Hook=x/.* is of schedules"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

func TestTokensAreBesideTheEnvironment(t *testing.T) {
	directory := written(t)
	text, err := os.ReadFile(filepath.Join(directory, "environment.yml"))
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "monitoring:\n  signalfx: {realm: eu0, ours: true, tokenFrom: {file: token}}\n"...)
	if err := os.WriteFile(filepath.Join(directory, "environment.yml"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	e, err := Load(directory)
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Monitoring.SignalFx.TokenFrom.File; got != filepath.Join(e.Directory, "token") {
		t.Errorf("the token is in %s", got)
	}
}
