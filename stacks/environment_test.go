package stacks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/common/apitype"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/resource"
	"github.com/taskfleet/taskfleet/stacks/monitoring"
	"github.com/taskfleet/taskfleet/stacks/provider"
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

// fakeKind is a kind that notes what is asked of it.
type fakeKind struct {
	provider.Kind
	calls []string
}

func (k *fakeKind) Token() string { return "taskfleet:index:Role" }
func (k *fakeKind) Read(_ context.Context, name string, _ json.RawMessage) (json.RawMessage, error) {
	k.calls = append(k.calls, "read "+name)
	return json.RawMessage(`{"a":1}`), nil
}
func (k *fakeKind) Create(_ context.Context, name string, spec json.RawMessage) (json.RawMessage, error) {
	k.calls = append(k.calls, "create "+name)
	return spec, nil
}
func (k *fakeKind) Update(_ context.Context, name string, state, spec json.RawMessage) (json.RawMessage, error) {
	k.calls = append(k.calls, "update "+name+" from "+string(state))
	return spec, nil
}
func (k *fakeKind) Delete(_ context.Context, name string, _ json.RawMessage) error {
	k.calls = append(k.calls, "delete "+name)
	return nil
}

// Whoever asks, what no pattern matches is not deleted.
func TestTheGuardDeletesOnlyWhatIsManaged(t *testing.T) {
	g := newGuard(map[string]*resource.Set{"access": setOf(t, "managed: ['Role=mine:.*']\n")})
	under := &fakeKind{}
	k := g.kind(under)
	ctx := t.Context()
	for _, name := range []string{"mine:a", "yours"} {
		if err := k.Delete(ctx, name, nil); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(under.calls, []string{"delete mine:a"}) || !slices.Equal(g.kept, []string{"Role=yours"}) {
		t.Errorf("it was told %v, and kept %v", under.calls, g.kept)
	}
	under.calls = nil
	g.take([]string{"Role=taken"})
	if is, err := k.Read(ctx, "taken", nil); is != nil || err != nil {
		t.Errorf("what is to be taken is %s, %v", is, err)
	}
	if _, err := k.Create(ctx, "taken", json.RawMessage(`{"a":2}`)); err != nil {
		t.Fatal(err)
	}
	if is, err := k.Read(ctx, "taken", nil); is == nil || err != nil {
		t.Errorf("what was taken is %s, %v", is, err)
	}
	if want := []string{"read taken", `update taken from {"a":1}`, "read taken"}; !slices.Equal(under.calls, want) {
		t.Errorf("it was told %v", under.calls)
	}
}

func TestAPreviewIsReadable(t *testing.T) {
	s := &Saved{Environment: "prod", Prune: true, Stacks: []StackPreview{{Name: "access", Unchanged: 3, Changes: []*Change{
		{Stack: "access", ID: "Role=new", Action: Create, After: json.RawMessage(`{"scopes":["a"]}`)},
		{Stack: "access", ID: "Role=a\x1b[31m", Action: Update, Before: json.RawMessage(`{"scopes":["x","y"],"d":"one"}`), After: json.RawMessage(`{"scopes":["y","z"],"d":"two"}`)},
		{Stack: "access", ID: "Role=old", Action: Keep},
		{Stack: "access", ID: "SentryProject=web", Kind: monitoring.TokenProject, Action: Keep},
	}}, {Name: "schedules", Changes: []*Change{
		{Stack: "schedules", ID: "Secret=s", Kind: "taskfleet:index:Secret", Action: Delete},
		{Stack: "schedules", ID: "Secret=t", Action: Update, Before: json.RawMessage(`{"value":"[secret]"}`), After: json.RawMessage(`{"value":"[secret]"}`), Hidden: []string{"value"}},
	}}}, Strays: []*Change{{Stack: "pools", ID: "WorkerPool=a/b", Kind: "taskfleet:index:WorkerPool", Action: Delete}}}
	var b strings.Builder
	if err := s.Text(&b, 0, false); err != nil {
		t.Fatal(err)
	}
	want := `1 to create, 2 to change, 2 to delete, 2 to forget; 3 unchanged

!!! DELETES Secret=s  SECRET: what is in it is gone for good
!!! DELETES WorkerPool=a/b  WORKER POOL: its workers are ended, with the tasks that they run

access
  ~ Role=a` + "\ufffd" + `[31m
      d       "one" -> "two"
      scopes  - x
              + z
  + Role=new
      scopes:
        - a
  o Role=old  (stays on the platform, as no managed pattern matches it; add one to have it deleted)
  o SentryProject=web  (stays as it is: such a thing is never deleted)

schedules
  - Secret=s
  ~ Secret=t
      value  (hidden) -> (hidden, another value)

Strays (1): on the platform, managed by a pattern, and defined nowhere. They are deleted
  pools  WorkerPool=a/b
`
	if b.String() != want {
		t.Errorf("it is\n%s\nwant\n%s", b.String(), want)
	}
	s.Notices = []string{"what to do: " + strings.Repeat("x", 50)}
	b.Reset()
	if err := s.Text(&b, 40, false); err != nil || !strings.Contains(b.String(), s.Notices[0]) || !strings.Contains(b.String(), want[strings.Index(want, "!!! DELETES Secret"):strings.Index(want, "\naccess")]) || !strings.Contains(b.String(), "Strays (1): on the platform, managed by…") {
		t.Errorf("in 40 columns it is, %v,\n%s", err, b.String())
	}
	if s.Count() != 7 || len(s.Deletes()) != 2 {
		t.Errorf("%d changes, %d to delete", s.Count(), len(s.Deletes()))
	}
}

// What was altered is refused, whatever it was.
func TestASavedPreviewIsSealed(t *testing.T) {
	d := &Driver{Environment: &Environment{Directory: t.TempDir()}}
	base := filepath.Join(d.Environment.workDirectory(), "previews")
	s := &Saved{Environment: "prod", Stacks: []StackPreview{{Name: "access", Plan: digestOf([]byte("plan")), Changes: []*Change{{ID: "Role=a", Action: Create, After: json.RawMessage(`{"a": "<&>"}`)}}}}}
	s.directory = filepath.Join(base, ".making")
	if err := os.MkdirAll(s.directory, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.directory, "access.plan"), []byte("plan"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.save(base); err != nil {
		t.Fatal(err)
	}
	again, err := d.Saved(s.Name)
	if err != nil || again.Digest != s.Digest {
		t.Fatalf("%+v, %v", again, err)
	}
	for _, name := range []string{"meta.json", "access.plan"} {
		file := filepath.Join(base, s.Name, name)
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		altered := strings.Replace(strings.Replace(string(text), "Role=a", "Role=b", 1), "plan", "plot", 1)
		if err := os.WriteFile(file, []byte(altered), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Saved(s.Name); err == nil {
			t.Errorf("%s was altered, and nothing is said", name)
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"../x", "20270131-101500"} {
		if _, err := d.Saved(name); err == nil {
			t.Errorf("%s is read", name)
		}
	}
}

// What has been taken out of the environment, and still has things, is told; from the files that the engine has written.
func TestAStackWithoutASection(t *testing.T) {
	e, err := Load(written(t))
	if err != nil {
		t.Fatal(err)
	}
	d := &Driver{Environment: e, names: []string{"pools"}, engine: &engine{environment: e, command: &command{path: "/is/not/there"}, home: t.TempDir()}}
	write := func(name, text string) {
		file := filepath.Join(e.states(), ".pulumi", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("meta.yaml", "version: 1\n")
	const pools = "stacks/taskfleet-pools/local.json"
	write(pools, `{"version":3,"checkpoint":{"latest":{"resources":[{"type":"pulumi:pulumi:Stack"},{"type":"taskfleet:index:WorkerPool","id":"a/b"}]}}}`)
	write("stacks/taskfleet-access/local.json", `{"version":3,"checkpoint":{"latest":{}}}`)
	if told, err := d.left(t.Context()); err != nil || len(told) != 0 {
		t.Errorf("as all is described it tells %q, %v", told, err)
	}
	// Without an answer of the platform nothing can be said of it.
	d.inputs = &inputs{rootURL: "http://127.0.0.1:1", sets: map[string]*resource.Set{"pools": setOf(t, "managed: [WorkerPool=a/.*]\n")}}
	if d.client, err = client.New(client.Options{RootURL: d.inputs.rootURL, Retry: client.Retry{For: -1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Preview(t.Context(), PreviewOptions{}); err == nil || !strings.Contains(err.Error(), "does not answer") || !strings.Contains(err.Error(), "--stack platform") {
		t.Errorf("without an answer: %v", err)
	}
	e.Pools, e.Access = nil, nil
	told, err := d.left(t.Context())
	if err != nil || len(told) != 1 || !strings.Contains(told[0], "stack pools has things (1)") || !strings.Contains(told[0], "taskfleet stacks destroy --dir "+e.Directory+" --stack pools") {
		t.Errorf("it tells %q, %v", told, err)
	}
	// Any other form is the engine's to read, which is not there.
	for _, text := range []string{`{"version":4,"checkpoint":{"latest":{}}}`, "not JSON", `{"version":3}`, `{"version":3,"checkpoint":{"latest":null}}`} {
		write(pools, text)
		if _, err := d.engine.state(t.Context(), "pools"); err == nil || !strings.Contains(err.Error(), "/is/not/there") {
			t.Errorf("%s is read: %v", text, err)
		}
	}
	// A state that others have written since it was read is not overwritten.
	write(pools, `{"version":3,"checkpoint":{"latest":{"resources":[{"type":"t"}],"pending_operations":[{"type":"creating"}]}}}`)
	was, err := d.engine.state(t.Context(), "pools")
	if err != nil {
		t.Fatal(err)
	}
	write(pools, `{"version":3,"checkpoint":{"latest":{"resources":[{"type":"u"}]}}}`)
	if err := d.engine.clearPending(t.Context(), "pools", was); err == nil || !strings.Contains(err.Error(), "somebody else has changed the state") {
		t.Errorf("it is overwritten: %v", err)
	}
}

// The end of an engine cancels what its provider does, and nothing of the others'.
func TestEnginesShareNoProvider(t *testing.T) {
	e, err := Load(written(t))
	if err != nil {
		t.Fatal(err)
	}
	names := e.Stacks()
	d := &Driver{Environment: e, names: names, engine: &engine{environment: e, ports: map[string]int{}, home: t.TempDir()}, inputs: &inputs{rootURL: e.RootURL}}
	d.options.Client = func(rootURL string) (*client.Client, error) { return client.New(client.Options{RootURL: rootURL}) }
	defer d.Close()
	if err := d.serve(t.Context(), names); err != nil {
		t.Fatal(err)
	}
	if ports := slices.Compact(slices.Sorted(maps.Values(d.engine.ports))); len(ports) != len(names) || ports[0] == 0 {
		t.Errorf("the ports are %v", d.engine.ports)
	}
}

// What a definition leaves out stays as it is, and is not shown as taken away.
func TestAPreviewCompletesWhatIsLeftOut(t *testing.T) {
	r := newRecorder("access")
	spec := func(of map[string]any) map[string]any { return map[string]any{"name": "x/y", "spec": of} }
	m := apitype.StepEventMetadata{Op: apitype.OpUpdate, URN: "urn:pulumi:local::taskfleet-access::taskfleet:index:Client::x/y", Type: "taskfleet:index:Client",
		Old: &apitype.StepEventStateMetadata{Outputs: spec(map[string]any{"description": "one", "disabled": false})},
		New: &apitype.StepEventStateMetadata{Inputs: spec(map[string]any{"description": "two"})}}
	r.before(&m)
	done := m
	done.New = &apitype.StepEventStateMetadata{Inputs: m.New.Inputs, Outputs: spec(map[string]any{"description": "two", "disabled": false})}
	r.after(&done)
	close(r.in)
	if d := differences(r.changes[0].Before, r.changes[0].After); len(r.changes) != 1 || len(d) != 1 || d[0].path != "description" {
		t.Errorf("what differs is %+v", d)
	}
}

// The engine tells both values of what it did not plan, secret ones too.
func TestAViolatedPlanTellsNoValues(t *testing.T) {
	const urn = "urn:pulumi:local::taskfleet-schedules::taskfleet:stacks:Schedules$taskfleet:index:Secret::a/b"
	const said = "error: resource " + urn + " violates plan: properties changed: ~~spec[{map[value:{&{{hunter2\nhunter3}}}]}!={map[value:{&{{hunter4}}}]}]"
	r := newRecorder("schedules")
	r.failure(&apitype.DiagnosticEvent{URN: urn, Message: said, Severity: "error"})
	close(r.in)
	n := &engine{environment: &Environment{}}
	for _, err := range []error{&StackError{"schedules", r.failures}, n.explain(t.Context(), "schedules", "what was said before\n"+said, errors.New("exit status 1"))} {
		if text := err.Error(); strings.Contains(text, "hunter") || !strings.Contains(text, "has changed since the preview") {
			t.Errorf("it says %q", text)
		}
	}
	if f := r.failures; len(f) != 1 || f[0].ID != "Secret=a/b" {
		t.Errorf("failures are %+v", f)
	}
}

// What a process left that was killed goes after a day; what others have, or may have, stays.
func TestWhatKilledProcessesLeftIsRemoved(t *testing.T) {
	base, dead := t.TempDir(), 1<<30 // no system has that many processes
	old := time.Now().Add(-25 * time.Hour)
	for name, stays := range map[string]bool{fmt.Sprintf("%s%d-1", homePrefix, dead): false, fmt.Sprintf("%s%d-1", homePrefix, os.Getpid()): true, homePrefix + "other": true, "other": true} {
		directory := filepath.Join(base, name)
		if err := errors.Join(os.Mkdir(directory, 0o700), os.WriteFile(filepath.Join(directory, "f"), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		for _, age := range []time.Time{time.Now(), old} {
			if err := os.Chtimes(directory, age, age); err != nil {
				t.Fatal(err)
			}
			forgetHomes(base)
			if _, err := os.Stat(directory); (err == nil) != (stays || age != old) {
				t.Errorf("%s of %s: %v", name, age, err)
			}
		}
	}
}

// A process that has ended is not at work, whether somebody has waited for it or not.
func TestWhoIsAlive(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	if !alive(pid) {
		t.Error("it is at work")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS == "linux" {
		for begun := time.Now(); alive(pid); time.Sleep(time.Millisecond) {
			if time.Since(begun) > 10*time.Second {
				t.Fatal("it has ended, and is taken for alive")
			}
		}
	}
	cmd.Wait()
	if alive(pid) {
		t.Error("it is gone, and is taken for alive")
	}
}

// A change is seen wherever definitions are read from.
func TestFilesBehindALink(t *testing.T) {
	e, err := Load(written(t))
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "access")
	if err := errors.Join(os.Rename(e.path("access"), elsewhere), os.Symlink(elsewhere, e.path("access"))); err != nil {
		t.Fatal(err)
	}
	d := &Driver{Environment: e}
	before, err := d.files()
	if err != nil || before[filepath.Join("access", "access.yml")] == "" {
		t.Fatalf("%v, %v", before, err)
	}
	if err := os.WriteFile(filepath.Join(elsewhere, "access.yml"), []byte("roles: {a: {}}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	after, err := d.files()
	if err != nil || after[filepath.Join("access", "access.yml")] == before[filepath.Join("access", "access.yml")] {
		t.Errorf("%v, %v", after, err)
	}
	// Somebody's editor has it open, and marks that with a link to nowhere.
	if err := os.Symlink("nowhere", filepath.Join(elsewhere, ".#access.yml")); err != nil {
		t.Fatal(err)
	}
	if opened, err := d.files(); err != nil || !maps.Equal(opened, after) {
		t.Errorf("%v, %v", opened, err)
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

func TestABalancerIsNoPlatform(t *testing.T) {
	for _, c := range []struct {
		err  error
		away bool
	}{
		{&client.Error{StatusCode: 503}, true},
		{&client.Error{StatusCode: 503, Code: "InternalServerError"}, false},
		{&client.Error{StatusCode: 404}, false},
		{errors.New("another"), false},
	} {
		if got := unreachable(fmt.Errorf("asking: %w", c.err)); got != c.away {
			t.Errorf("%v: %t", c.err, got)
		}
	}
}

func TestWordsOfAShell(t *testing.T) {
	for word, want := range map[string]string{"prod/stacks": "prod/stacks", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$(x)": "'$(x)'", "~": "'~'", "a\x1bb": "'a\ufffdb'"} {
		if got := ShellWord(word); got != want {
			t.Errorf("%q is %s, and not %s", word, got, want)
		}
	}
}

func TestPulumiThatIsNotThereOrTooOld(t *testing.T) {
	directory := t.TempDir()
	t.Setenv("PATH", directory)
	if _, err := findPulumi(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "no pulumi on PATH: with --install") {
		t.Error(err)
	}
	path := filepath.Join(directory, "pulumi")
	for version, want := range map[string]string{"v3.100.0": "is Pulumi 3.100.0; 3.259.0 or later is needed", "v4.0.0": "is Pulumi 4.0.0", "hello": "is no Pulumi"} {
		if err := os.WriteFile(path, []byte("#!/bin/sh\necho "+version+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := findPulumi(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", version, err)
		}
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n[ -z \"$PULUMI_ACCESS_TOKEN\" ] && echo v3.260.1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PULUMI_ACCESS_TOKEN", "not for us")
	if c, err := findPulumi(t.Context(), Options{}); err != nil || c.path != path {
		t.Errorf("%+v, %v", c, err)
	}
}
