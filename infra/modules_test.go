package infra_test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/infra/stub"

	"github.com/taskfleet/taskfleet/infra/statetest"
)

// This is about the HCL: modules and deployments go through everything that terraform does with them, on the stand-in for
// AWS (infra/stub). The provider is served by this process, so that no command installs or starts one; terraform-exec is
// not used, as it cannot attach a running provider to validate and test.

// A workbench is a copy of all modules and deployments, and an account of its own.
type workbench struct {
	*testing.T
	program, directory string
	environment        []string
	aws                *stub.Provider
}

func newWorkbench(t *testing.T) *workbench {
	t.Helper()
	w := &workbench{T: t, program: statetest.Terraform(t), directory: t.TempDir()}
	for _, name := range []string{"modules", "live"} {
		copyTree(t, name, filepath.Join(w.directory, name))
	}
	aws, err := stub.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(aws.Close)
	w.aws = aws
	// Nothing may be installed: where something is missing, init fails instead of asking a registry.
	config := filepath.Join(w.directory, "terraform.rc")
	w.write(config, "disable_checkpoint = true\nprovider_installation {\n  filesystem_mirror { path = \"/var/empty\" }\n}\n")
	w.environment = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + w.directory, "TMPDIR=" + os.TempDir(),
		"TF_REATTACH_PROVIDERS=" + aws.Reattach(), "TF_CLI_CONFIG_FILE=" + config,
		"CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1", "TF_INPUT=0",
		// These processes are short and many, and run beside each other: collecting garbage is a third of their work, and
		// waiting for threads of theirs that have nothing to do another part.
		"GOGC=off", "GOMEMLIMIT=800MiB", "GOMAXPROCS=1",
	}
	return w
}

// copyTree leaves out what terraform and people leave behind.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if strings.HasPrefix(name, ".") || strings.Contains(name, ".tfstate") || strings.HasSuffix(name, ".tfplan") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		target := filepath.Join(to, strings.TrimPrefix(path, from))
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, content, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (w *workbench) read(path string) string {
	w.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		w.Fatal(err)
	}
	return string(content)
}

func (w *workbench) write(path, content string) {
	w.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		w.Fatal(err)
	}
}

// terraform runs in a directory of the copy, and gives its exit code and what it said.
func (w *workbench) terraform(directory string, arguments ...string) (int, string) {
	w.Helper()
	command := exec.CommandContext(w.Context(), w.program, arguments...)
	command.Dir = filepath.Join(w.directory, directory)
	command.Env = w.environment
	var out bytes.Buffer
	command.Stdout, command.Stderr = &out, &out
	err := command.Run()
	if exit := new(exec.ExitError); err != nil && !errors.As(err, &exit) {
		w.Fatal(err)
	}
	return command.ProcessState.ExitCode(), out.String()
}

// must is for what has to succeed.
func (w *workbench) must(directory string, arguments ...string) {
	w.Helper()
	if code, out := w.terraform(directory, arguments...); code != 0 {
		w.Fatalf("in %s: terraform %s: exit code %d\n%s", directory, strings.Join(arguments, " "), code, out)
	}
}

func (w *workbench) init(directory string) {
	w.Helper()
	w.must(directory, "init", "-no-color", "-backend=false")
}

// modules are the names of directories in infra/modules, deployments those in infra/live.
func modules(t *testing.T) []string     { return directories(t, "modules") }
func deployments(t *testing.T) []string { return directories(t, "live") }

func directories(t *testing.T, parent string) []string {
	t.Helper()
	entries, err := os.ReadDir(parent)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestFormat(t *testing.T) {
	t.Parallel()
	for _, directory := range []string{"modules", "live"} {
		command := exec.CommandContext(t.Context(), statetest.Terraform(t), "fmt", "-check", "-diff", "-recursive", "-no-color", directory)
		config := filepath.Join(t.TempDir(), "terraform.rc")
		if err := os.WriteFile(config, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		command.Env = append(os.Environ(), "TF_CLI_CONFIG_FILE="+config, "CHECKPOINT_DISABLE=1")
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("run: terraform fmt -recursive infra/%s\n%s", directory, out)
		}
	}
}

func TestModules(t *testing.T) {
	t.Parallel()
	for _, name := range modules(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorkbench(t)
			module := filepath.Join("modules", name)
			complete(t, module)
			w.init(module)
			w.must(module, "test", "-no-color")
			w.destroyed()
			example := filepath.Join(module, "examples", "complete")
			w.applied(example)
			if name == "service" {
				w.released(example)
			}
			w.must(example, "destroy", "-no-color", "-auto-approve", "-refresh=false")
			w.destroyed()
		})
	}
}

func TestDeployments(t *testing.T) {
	t.Parallel()
	for _, name := range deployments(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorkbench(t)
			directory := filepath.Join("live", name)
			example := filepath.Join(w.directory, directory, "terraform.tfvars.example")
			if _, err := os.Stat(example); err == nil {
				w.write(strings.TrimSuffix(example, ".example"), w.read(example))
			}
			w.applied(directory)
			if name != "state" {
				w.manifest(directory)
			}
			// Three regions are three times the resources, and terraform's graph takes time by their square or worse: to
			// destroy them would take longer than all the rest.
			if name != "example-large" {
				w.must(directory, "destroy", "-no-color", "-auto-approve", "-refresh=false")
				w.destroyed()
			}
			if tests, err := filepath.Glob(filepath.Join(directory, "tests", "*.tftest.hcl")); err != nil || len(tests) > 0 {
				w.must(directory, "test", "-no-color")
			}
		})
	}
}

// applied makes what a configuration wants, and looks whether that is all that it wants. Applying plans, and planning
// validates, so neither is done before.
func (w *workbench) applied(directory string) {
	w.Helper()
	w.init(directory)
	w.must(directory, "apply", "-no-color", "-auto-approve")
	made := w.aws.Objects("")
	if len(made) == 0 {
		w.Error("nothing was made")
	}
	for _, o := range made {
		if _, taggable := o.Attributes["tags_all"]; !taggable {
			continue
		}
		if tags, _ := o.Attributes["tags"].(map[string]any); tags["Name"] == nil || tags["Name"] == "" {
			w.Errorf("%s %s has no tag Name", o.Type, o.ID)
		}
	}
	// The stand-in reads what was written, so that to refresh would find nothing and take as long as the plan.
	if code, out := w.terraform(directory, "plan", "-no-color", "-refresh=false", "-detailed-exitcode"); code != 0 {
		w.Errorf("in %s: a second plan finds something to do, exit code %d\n%s", directory, code, out)
	}
}

// destroyed looks whether nothing is left.
func (w *workbench) destroyed() {
	w.Helper()
	for _, o := range w.aws.Objects("") {
		w.Errorf("%s %s is left", o.Type, o.ID)
	}
}

var variable = regexp.MustCompile(`(?m)^variable "(\w+)" \{\n((?:  .*\n|\n)*)\}`)

// complete looks for what every module has.
func complete(t *testing.T, module string) {
	t.Helper()
	for _, name := range []string{"README.md", "versions.tf", "variables.tf", "main.tf", "outputs.tf", "examples/complete/main.tf", "tests/*.tftest.hcl"} {
		if found, err := filepath.Glob(filepath.Join(module, name)); err != nil || len(found) == 0 {
			t.Errorf("%s has no %s", module, name)
		}
	}
	content, err := os.ReadFile(filepath.Join(module, "variables.tf"))
	if err != nil {
		t.Fatal(err)
	}
	found := variable.FindAllStringSubmatch(string(content), -1)
	if len(found) == 0 {
		t.Errorf("%s has no variables, or the pattern for them is wrong", module)
	}
	for _, v := range found {
		for _, argument := range []string{"description", "type"} {
			if !regexp.MustCompile(`(?m)^  ` + argument + ` +=`).MatchString(v[2]) {
				t.Errorf("%s: variable %q has no %s", module, v[1], argument)
			}
		}
	}
}

// A mistake is made in a copy of a module: the first match of find becomes replace.
type mistake struct {
	name    string
	module  string
	file    string
	find    string // regular expression
	replace string
	command string // that has to refuse it, run in the example, or in the module if it is test
	want    string // in the error
	at      string // regular expression, for the line that the error names; the mistake's if empty
	in      string // file of that line; the mistake's if empty
}

func TestMistakes(t *testing.T) {
	t.Parallel()
	const example = "examples/complete/main.tf"
	for _, m := range []mistake{
		{
			name: "misspelt variable of a module", module: "network", file: example,
			find: `cidr( +)=`, replace: `cird$1=`, command: "validate", want: "Unsupported argument",
		},
		{
			name: "misspelt argument of a resource", module: "bucket", file: "main.tf",
			find: `block_public_acls( +)=`, replace: `block_public_acl$1=`, command: "validate", want: "Did you mean \"block_public_acls\"?",
		},
		{
			name: "wrong type", module: "database", file: example,
			find: `storage_gib( +)= \d+`, replace: `storage_gib$1= "plenty"`, command: "validate", want: "a number is required",
		},
		{
			name: "value that is not valid", module: "workers", file: example,
			find: `account_id( +)= "\d+"`, replace: `account_id$1= "12345"`, command: "plan", want: "Invalid value for variable",
		},
		{
			name: "name that is not valid", module: "kms", file: example,
			find: `name( +)= "taskfleet-`, replace: `name$1= "Taskfleet_`, command: "plan", want: "Invalid value for variable",
		},
		{
			name: "missing variable", module: "budget", file: example,
			find: `(?m)^  monthly_usd.*\n`, replace: "", command: "validate", want: "Missing required argument", at: `module "budget"`,
		},
		{
			name: "misspelt type of a resource", module: "events", file: "main.tf",
			find: `resource "aws_sqs_queue"`, replace: `resource "aws_sqs_qeue"`, command: "validate", want: "Invalid resource type",
		},
		{
			name: "variable that is not declared", module: "state", file: "main.tf",
			find: `var\.tags`, replace: `var.tag`, command: "validate", want: "Reference to undeclared input variable",
		},
		{
			name: "attribute that a resource has not", module: "dns", file: "outputs.tf",
			find: `(value( +)= aws_\w+\.\w+)\.\w+`, replace: `$1.nothing`, command: "validate", want: "Unsupported attribute",
		},
		{
			name: "syntax", module: "iam", file: "versions.tf",
			find: `(?m)^terraform \{`, replace: `terraform (`, command: "init", want: "Argument or block definition required",
		},
		{
			name: "bucket that can be public, found by the module's tests", module: "bucket", file: "main.tf",
			find: `block_public_acls( +)= true`, replace: `block_public_acls$1= false`, command: "test", want: "Test assertion failed",
			in: "tests/bucket.tftest.hcl", at: `condition = \(aws_s3_bucket_public_access_block`,
		},
	} {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			newWorkbench(t).plant(m)
		})
	}
}

// plant makes a mistake, and has it refused.
func (w *workbench) plant(m mistake) {
	w.Helper()
	module := filepath.Join("modules", m.module)
	path := filepath.Join(w.directory, module, m.file)
	content := w.read(path)
	find := regexp.MustCompile(m.find)
	match := find.FindStringIndex(content)
	if match == nil {
		w.Fatalf("%s of module %s has nothing that matches %s: plant the mistake elsewhere", m.file, m.module, m.find)
	}
	line := 1 + strings.Count(content[:match[0]], "\n")
	planted := content[:match[0]] + find.ReplaceAllString(content[match[0]:match[1]], m.replace) + content[match[1]:]
	w.write(path, planted)

	in := cmp.Or(m.in, m.file)
	if m.at != "" {
		text := w.read(filepath.Join(w.directory, module, in))
		at := regexp.MustCompile(m.at).FindStringIndex(text)
		if at == nil {
			w.Fatalf("%s of module %s has nothing that matches %s", in, m.module, m.at)
		}
		line = 1 + strings.Count(text[:at[0]], "\n")
	}
	directory := filepath.Join(module, "examples", "complete")
	if m.command == "test" {
		directory = module
	}
	file, err := filepath.Rel(directory, filepath.Join(module, in))
	if err != nil {
		w.Fatal(err)
	}
	if m.command != "init" {
		w.init(directory)
	}
	code, out := w.terraform(directory, m.command, "-no-color")
	if code == 0 {
		w.Fatalf("terraform %s accepts it:\n%s", m.command, out)
	}
	// Long messages are wrapped.
	said := strings.Join(strings.Fields(out), " ")
	for _, want := range []string{m.want, fmt.Sprintf("on %s line %d", file, line)} {
		if !strings.Contains(said, want) {
			w.Errorf("terraform %s does not say %q:\n%s", m.command, want, out)
		}
	}
}
