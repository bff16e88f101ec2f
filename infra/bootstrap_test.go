package infra_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/infra"
	"github.com/taskfleet/taskfleet/infra/statetest"
)

// TestBootstrapGoesOnAfterEveryInterruption interrupts each of its steps, and the making of the bucket in the middle, and
// has it go on; then it dies between moving a state and forgetting where that was.
func TestBootstrapGoesOnAfterEveryInterruption(t *testing.T) {
	t.Parallel()
	aws, o := account(t)
	s3 := statetest.Start(t)
	o.Env = append(o.Env, s3.Env()...)
	directory := filepath.Join(t.TempDir(), "prod")
	if err := infra.Write(directory, "small"); err != nil {
		t.Fatal(err)
	}
	// The deployment itself is not what this is about: it is one resource, which has a state in a file already.
	for _, name := range []string{"main.tf", "outputs.tf", "providers.tf", "variables.tf", "terraform.tfvars"} {
		if err := os.Remove(filepath.Join(directory, name)); err != nil {
			t.Fatal(err)
		}
	}
	rewrite(t, directory, one)
	d := open(t, directory, o)
	applied(t, d, infra.ApplyOptions{})

	// The lines of the test's bucket that are about where it is.
	_, places, _ := strings.Cut(s3.Config("key"), "use_lockfile = true\n")
	places, _, _ = strings.Cut(places, "\n  }")
	b := infra.BootstrapOptions{Name: "taskfleet-test", Account: "123456789012", Region: s3.Region, Bucket: s3.Bucket, Backend: strings.ReplaceAll(places, "    ", "")}
	notice := o.Notice
	steps := 0
	for stop := 1; ; stop++ {
		if stop > 40 {
			t.Fatal("it does not come to its end")
		}
		ctx, cancel := context.WithCancel(t.Context())
		n := 0
		tick := func() {
			if n++; n == stop {
				cancel()
			}
		}
		o.Notice = func(line string) {
			notice(line)
			if strings.Contains(line, "/4 ") {
				tick()
			}
		}
		// Of the resources only the first: each interruption costs a plan.
		b.Progress = func(p infra.Progress) {
			if p.What == "done" && p.Done == 1 {
				tick()
			}
		}
		err := infra.Bootstrap(ctx, directory, o, b)
		cancel()
		if err == nil {
			break
		}
		if n < stop { // nobody has interrupted it
			t.Fatalf("at step %d: %v", stop, err)
		}
		steps++
	}
	if steps < 4 {
		t.Errorf("it was interrupted %d times only", steps)
	}
	check := func() {
		t.Helper()
		if keys := s3.Keys(t); !slices.Equal(keys, []string{"taskfleet-test/state.tfstate", "taskfleet-test/terraform.tfstate"}) {
			t.Errorf("in the bucket are %v", keys)
		}
		buckets := 0
		for _, bucket := range aws.Objects("aws_s3_bucket") {
			if bucket.Attributes["bucket"] == s3.Bucket {
				buckets++
			}
		}
		if buckets != 1 {
			t.Errorf("there are %d buckets for states: %+v", buckets, aws.Objects("aws_s3_bucket"))
		}
		for _, dir := range []string{directory, filepath.Join(directory, "state")} {
			if exists(filepath.Join(dir, "terraform.tfstate")) {
				t.Errorf("a state is left in %s", dir)
			}
		}
	}
	check()
	for _, dir := range []string{directory, filepath.Join(directory, "state")} {
		if s := planned(t, open(t, dir, o)); !s.Plan.Empty() {
			t.Errorf("%s has something to do: %s", dir, s.Counts)
		}
	}

	// It died after it had copied a state, before it removed the file; the bucket has gone on since. And .terraform is not
	// there, as on another machine.
	state := filepath.Join(directory, "terraform.tfstate")
	remote := s3.Get(t, "taskfleet-test/terraform.tfstate")
	older := regexp.MustCompile(`"serial": ?[0-9]+`).ReplaceAll(remote, []byte(`"serial": 0`))
	if err := os.WriteFile(state, older, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(directory, ".terraform")); err != nil {
		t.Fatal(err)
	}
	if err := infra.Bootstrap(t.Context(), directory, o, b); err != nil {
		t.Errorf("after it died: %v", err)
	}
	check()

	// A state that is another one is never overwritten.
	kept := func(name string, text []byte, want string) {
		t.Helper()
		if err := os.WriteFile(state, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := infra.Bootstrap(t.Context(), directory, o, b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("with %s: %v", name, err)
		}
		if now, err := os.ReadFile(state); err != nil || !bytes.Equal(now, text) {
			t.Errorf("with %s the file is lost: %v", name, err)
		}
	}
	other := regexp.MustCompile(`("lineage": ?")`).ReplaceAll(remote, []byte("${1}00")) // OpenTofu writes no space
	kept("another state", other, "another state already")

	// It has gone another way, and knows of something else: that a replacement has left behind, even.
	deposed := regexp.MustCompile(`("schema_version": ?0)`).ReplaceAll(remote, []byte(`"deposed": "00000001", ${1}`))
	kept("a state that knows more", deposed, "terraform_data.a (deposed 00000001)")

	// A backend.tf without the bucket leaves the state where it is.
	backend := filepath.Join(directory, "backend.tf")
	was, err := os.ReadFile(backend)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(backend, []byte("# nothing\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	kept("an empty backend.tf", remote, `has no backend "s3"`)
	if err := os.WriteFile(backend, was, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	check()

	b.Bucket = "another"
	if err := infra.Bootstrap(t.Context(), directory, o, b); err == nil || !strings.Contains(err.Error(), "says otherwise") {
		t.Errorf("with another bucket: %v", err)
	}
	b.Bucket = "${file(\"/etc/passwd\")}"
	if err := infra.Bootstrap(t.Context(), directory, o, b); err == nil || !strings.Contains(err.Error(), "letters, digits") {
		t.Errorf("with a name that is none: %v", err)
	}
}

// TestTheExamplePassesPolicy: whoever begins with it is not refused at once.
func TestTheExamplePassesPolicy(t *testing.T) {
	t.Parallel()
	_, o := account(t)
	directory := filepath.Join(t.TempDir(), "prod")
	if err := infra.Write(directory, "small"); err != nil {
		t.Fatal(err)
	}
	s := planned(t, open(t, directory, o))
	if s.Policy.Refused() || len(s.Plan.Changes) < 50 || len(s.Policy.Expired)+len(s.Policy.Unused) > 0 {
		t.Errorf("%s: %+v", s.Counts, s.Policy.Errors())
	}
}

// moduleFile matches a file that a module reads from beside itself.
var moduleFile = regexp.MustCompile(`\$\{path\.module\}/([A-Za-z0-9_./-]+)"`)

func TestWhatIsWrittenFindsItsModules(t *testing.T) {
	t.Parallel()
	for _, example := range infra.Examples() {
		directory := filepath.Join(t.TempDir(), "prod")
		if err := infra.Write(directory, example); err != nil {
			t.Fatal(err)
		}
		if err := infra.Write(directory, example); err == nil || !strings.Contains(err.Error(), "is not empty") {
			t.Errorf("again: %v", err)
		}
		found := 0
		err := filepath.WalkDir(directory, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || filepath.Ext(path) != ".tf" {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, m := range moduleFile.FindAllSubmatch(text, -1) {
				if !exists(filepath.Join(filepath.Dir(path), string(m[1]))) {
					t.Errorf("%s: there is no file %s", path, m[1])
				}
			}
			for line := range strings.Lines(string(text)) {
				key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
				source := strings.Trim(strings.TrimSpace(value), `"`)
				if !ok || strings.TrimSpace(key) != "source" || !strings.HasPrefix(source, ".") {
					continue
				}
				module := filepath.Join(filepath.Dir(path), source)
				if !strings.HasPrefix(module, directory) || !exists(filepath.Join(module, "variables.tf")) {
					t.Errorf("%s: there is no module %s", path, source)
				}
				found++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if found < 10 {
			t.Errorf("%s has %d modules only", example, found)
		}
		for _, name := range []string{".gitignore", "terraform.tfvars", "README.md"} {
			if _, err := os.Stat(filepath.Join(directory, name)); errors.Is(err, fs.ErrNotExist) && (name != "README.md" || example == "small") {
				t.Errorf("%s has no %s", example, name)
			}
		}
		if exists(filepath.Join(directory, "modules", "network", "tests")) || exists(filepath.Join(directory, "tests")) {
			t.Errorf("%s has the tests of modules", example)
		}
	}
}
