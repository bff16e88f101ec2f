package stacks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/auto/events"
	"github.com/pulumi/pulumi/sdk/v3/go/common/apitype"

	"github.com/taskfleet/taskfleet/infra"
	"github.com/taskfleet/taskfleet/resource"
	"github.com/taskfleet/taskfleet/stacks/monitoring"
	"github.com/taskfleet/taskfleet/stacks/provider"
)

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

func TestPreviewsOfTheSameSecond(t *testing.T) {
	base, created := t.TempDir(), time.Now()
	list := make([]*Saved, 8)
	var wait sync.WaitGroup
	for i := range list {
		list[i] = &Saved{Created: created, directory: filepath.Join(base, fmt.Sprint(makingPrefix, i))}
		if err := os.Mkdir(list[i].directory, 0o700); err != nil {
			t.Fatal(err)
		}
		wait.Go(func() {
			if err := list[i].save(base); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	names := map[string]bool{}
	for _, s := range list {
		names[s.Name] = true
		if text, err := os.ReadFile(filepath.Join(base, s.Name, "meta.json")); err != nil || !strings.Contains(string(text), s.Digest) {
			t.Errorf("%s: %v, %s", s.Name, err, text)
		}
	}
	if len(names) != len(list) {
		t.Errorf("%d previews are called %v", len(list), names)
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

// However slow the machine is: nothing that was sent is left out, and nobody waits for what never comes.
func TestARecorderEndsWithTheLastEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, begun := newRecorder("access"), time.Now()
		for range 100 {
			r.in <- events.EngineEvent{EngineEvent: apitype.EngineEvent{ResourcePreEvent: &apitype.ResourcePreEvent{Metadata: apitype.StepEventMetadata{Op: apitype.OpSame, Type: "taskfleet:index:Role"}}}}
		}
		close(r.in)
		if r.wait(); r.unchanged != 100 {
			t.Errorf("%d of 100 events were recorded", r.unchanged)
		}
		newRecorder("pools").wait() // of an engine that had no stream
		if took := time.Since(begun); took > 0 {
			t.Errorf("it took %v", took)
		}
	})
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

// A preview that was saved is done by another process, for which the manifest of a deployment is read again.
func TestAManifestThatIsReadAgainIsTheSame(t *testing.T) {
	e, err := Load(written(t))
	if err != nil {
		t.Fatal(err)
	}
	e.Infra = ".."
	of := func(m infra.Manifest) map[string]string {
		t.Helper()
		files, err := (&Driver{Environment: e, inputs: &inputs{manifest: &m}}).files()
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	first := of(infra.Manifest{ServiceName: "prod", Written: time.Unix(1, 0)})
	if later := of(infra.Manifest{ServiceName: "prod", Written: time.Unix(2, 0)}); !maps.Equal(first, later) {
		t.Errorf("%v, %v", first, later)
	}
	if other := of(infra.Manifest{ServiceName: "prod-2", Written: time.Unix(1, 0)}); maps.Equal(first, other) {
		t.Errorf("another service is the same: %v", other)
	}
}

func TestWordsOfAShell(t *testing.T) {
	for word, want := range map[string]string{"prod/stacks": "prod/stacks", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$(x)": "'$(x)'", "~": "'~'", "a\x1bb": "'a\ufffdb'"} {
		if got := ShellWord(word); got != want {
			t.Errorf("%q is %s, and not %s", word, got, want)
		}
	}
}
