package infra_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/infra"
	"github.com/taskfleet/taskfleet/infra/plan"
	"github.com/taskfleet/taskfleet/infra/stub"

	"github.com/taskfleet/taskfleet/infra/statetest"
)

// environ is the environment of tests without what concerns terraform.
func environ() []string {
	env := []string{"GOGC=400"} // terraform does not live long enough to collect much
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "TF_") {
			env = append(env, e)
		}
	}
	return env
}

func options(t testing.TB) infra.Options {
	return infra.Options{Terraform: statetest.Terraform(t), Env: environ(), Notice: func(line string) { t.Log("notice: " + line) }}
}

// write makes a deployment of one file.
func write(t testing.TB, hcl string) string {
	t.Helper()
	directory := filepath.Join(t.TempDir(), "somewhere")
	if err := os.MkdirAll(directory, 0o755); err != nil {
		t.Fatal(err)
	}
	rewrite(t, directory, hcl)
	return directory
}

func rewrite(t testing.TB, directory, hcl string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(directory, "main.tf"), []byte(hcl), 0o644); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, directory string, o infra.Options) *infra.Deployment {
	t.Helper()
	d, err := infra.Open(t.Context(), directory, o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// planned plans, under a name that is not taken: without one, two within a second would have the same.
func planned(t testing.TB, d *infra.Deployment) *infra.Saved {
	t.Helper()
	list, err := d.Plans()
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Plan(t.Context(), infra.PlanOptions{Name: fmt.Sprint("p", len(list))})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func applied(t testing.TB, d *infra.Deployment, o infra.ApplyOptions) {
	t.Helper()
	s := planned(t, d)
	o.Digest = s.Digest
	if _, err := d.Apply(t.Context(), s.Name, o); err != nil {
		t.Fatal(err)
	}
}

// yes lets everything be destroyed that is not data.
func yes(*infra.Saved) error { return nil }

const one = `
variable "name" { default = "taskfleet-test" }
variable "password" {
  default   = "hunter2-is-secret"
  sensitive = true
}
resource "terraform_data" "a" {
  input = { size = 1, password = var.password }
}
output "size" { value = terraform_data.a.output.size }
output "password" {
  value     = var.password
  sensitive = true
}
`

func TestAPlanIsSavedAndApplied(t *testing.T) {
	t.Parallel()
	d := open(t, write(t, one), options(t))
	s, err := d.Plan(t.Context(), infra.PlanOptions{Name: "first"})
	if err != nil {
		t.Fatal(err)
	}
	if s.Deployment != "taskfleet-test" || len(s.Plan.Changes) != 1 || s.Plan.Changes[0].Action != plan.Create || s.Policy.Refused() {
		t.Fatalf("planned %+v", s)
	}
	directory := filepath.Join(d.Directory, ".plans", "first")
	for _, name := range []string{"plan.tfplan", "plan.json", "summary.txt", "meta.json"} {
		info, err := os.Stat(filepath.Join(directory, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s is %v", name, info.Mode())
		}
	}
	for _, name := range []string{"summary.txt", "meta.json"} {
		text, err := os.ReadFile(filepath.Join(directory, name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), "hunter2") {
			t.Errorf("%s has the password:\n%s", name, text)
		}
	}

	if _, err := d.Plan(t.Context(), infra.PlanOptions{Name: "first"}); err == nil || !strings.Contains(err.Error(), "there is a plan first already") {
		t.Errorf("a second plan of the name: %v", err)
	}
	if _, err := d.Apply(t.Context(), "first", infra.ApplyOptions{}); err == nil || !strings.Contains(err.Error(), "--digest") {
		t.Errorf("without a digest: %v", err)
	}
	if _, err := d.Apply(t.Context(), "first", infra.ApplyOptions{Digest: "sha256:00"}); !refused(err, "not the one that was looked at") {
		t.Errorf("with another digest: %v", err)
	}
	if _, err := d.Apply(t.Context(), "second", infra.ApplyOptions{Digest: s.Digest}); err == nil || !strings.Contains(err.Error(), "there is no plan second") {
		t.Errorf("another plan: %v", err)
	}

	// A crash has cut a line of an earlier apply's journal.
	if err := os.WriteFile(filepath.Join(directory, "journal.jsonl"), []byte(`{"time":"2026-01-01T00:0`), 0o600); err != nil {
		t.Fatal(err)
	}
	var seen []string
	r, err := d.Apply(t.Context(), "first", infra.ApplyOptions{Digest: s.Digest, Progress: func(p infra.Progress) {
		seen = append(seen, fmt.Sprint(p.What, " ", p.Address, " ", p.Done, "/", p.Total))
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(seen, ", "); got != "start terraform_data.a 0/1, done terraform_data.a 1/1" {
		t.Errorf("progress: %s", got)
	}
	if r.Result != infra.Applied || r.PID != os.Getpid() || len(r.Done) != 1 || r.Done[0].ID == "" || len(r.Next) > 0 {
		t.Errorf("report: %+v", r)
	}
	if info, err := os.Stat(filepath.Join(d.Directory, "terraform.tfstate")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the state: %v %v", info, err)
	}
	if _, err := d.Apply(t.Context(), "first", infra.ApplyOptions{Digest: s.Digest}); !refused(err, "applied already") {
		t.Errorf("the plan again: %v", err)
	}

	outputs, err := d.Outputs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(outputs) != 2 || outputs[0].Name != "password" || !outputs[0].Secret || outputs[0].Value != nil || string(outputs[1].Value) != "1" {
		t.Errorf("outputs: %+v", outputs)
	}
	if s := planned(t, d); !s.Plan.Empty() || s.Plan.Unchanged != 1 {
		t.Errorf("planned again: %+v", s.Plan)
	}
	if list, err := d.Plans(); err != nil || len(list) != 2 || list[0].LastApply() != infra.Applied || list[1].LastApply() != "-" {
		t.Errorf("plans: %+v, %v", list, err)
	}
}

func refused(err error, why string) bool {
	var r *infra.RefusedError
	return errors.As(err, &r) && strings.Contains(r.Reason, why)
}

func TestAPlanIsStale(t *testing.T) {
	t.Parallel()
	// Directory and files may be links.
	directory := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(write(t, one), directory); err != nil {
		t.Fatal(err)
	}
	shared := filepath.Join(t.TempDir(), "shared.tf")
	if err := os.WriteFile(shared, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(shared, filepath.Join(directory, "more.tf")); err != nil {
		t.Fatal(err)
	}
	d := open(t, directory, options(t))
	applied(t, d, infra.ApplyOptions{})

	rewrite(t, d.Directory, strings.Replace(one, "size = 1", "size = 2", 1))
	values := filepath.Join(t.TempDir(), "values.tfvars")
	if err := os.WriteFile(values, []byte("password = \"another\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	beside := filepath.Join(d.Directory, ".secret.tfvars") // which is not looked for
	if err := os.WriteFile(beside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := d.Plan(t.Context(), infra.PlanOptions{Name: "stale", VarFiles: []string{values, beside}})
	if err != nil {
		t.Fatal(err)
	}
	apply := func(s *infra.Saved) error {
		_, err := d.Apply(t.Context(), s.Name, infra.ApplyOptions{Digest: s.Digest})
		return err
	}
	rewrite(t, d.Directory, one)
	if err := apply(s); !refused(err, "(main.tf)") {
		t.Errorf("main.tf has changed: %v", err)
	}
	rewrite(t, d.Directory, strings.Replace(one, "size = 1", "size = 2", 1))
	if err := os.WriteFile(shared, []byte("# changed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := apply(s); !refused(err, "(more.tf)") {
		t.Errorf("what a link is to has changed: %v", err)
	}
	if err := os.WriteFile(shared, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(values, []byte("password = \"again\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := apply(s); !refused(err, values) {
		t.Errorf("values have changed: %v", err)
	}

	s = planned(t, d)
	applied(t, d, infra.ApplyOptions{})
	if err := apply(s); !refused(err, "the state has changed") {
		t.Errorf("the state has changed: %v", err)
	}
	state := filepath.Join(d.Directory, "terraform.tfstate")
	if err := os.Remove(state); err != nil {
		t.Fatal(err)
	}
	if err := apply(s); !refused(err, "another state") {
		t.Errorf("there is no state: %v", err)
	}
}

func TestAPlanThatWasAlteredIsRefused(t *testing.T) {
	t.Parallel()
	d := open(t, write(t, one), options(t))
	s := planned(t, d)
	for _, name := range []string{"plan.tfplan", "plan.json"} {
		path := filepath.Join(d.Directory, ".plans", s.Name, name)
		was, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		altered := []byte(strings.Replace(string(was), `"size":1`, `"size":7`, 1))
		if name == "plan.tfplan" {
			altered = append([]byte{}, was...)
			altered[len(altered)/2] ^= 1
		}
		if string(altered) == string(was) {
			t.Fatalf("%s does not have what is to be altered", name)
		}
		if err := os.WriteFile(path, altered, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Apply(t.Context(), s.Name, infra.ApplyOptions{Digest: s.Digest}); !refused(err, "altered") {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.WriteFile(path, was, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Before it was looked at, somebody has put beside the plan a JSON that says something else, with its digest.
	directory := filepath.Join(d.Directory, ".plans", s.Name)
	original := map[string][]byte{}
	for _, name := range []string{"plan.tfplan", "plan.json", "meta.json"} {
		text, err := os.ReadFile(filepath.Join(directory, name))
		if err != nil {
			t.Fatal(err)
		}
		original[name] = text
	}
	lie := strings.Replace(string(original["plan.json"]), `"size":1`, `"size":7`, 1)
	p, err := plan.Read(strings.NewReader(lie))
	if err != nil {
		t.Fatal(err)
	}
	digest := p.Seal(original["plan.tfplan"])
	put := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(directory, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("plan.json", lie)
	put("meta.json", strings.ReplaceAll(string(original["meta.json"]), s.Digest, digest))
	if _, err := d.Apply(t.Context(), s.Name, infra.ApplyOptions{Digest: digest}); !refused(err, "does not say what its plan.tfplan would do") {
		t.Errorf("another JSON with its digest: %v", err)
	}
	put("plan.json", string(original["plan.json"]))
	put("meta.json", string(original["meta.json"]))
	if exists(filepath.Join(d.Directory, "terraform.tfstate")) {
		t.Error("something was applied")
	}
	if _, err := d.Apply(t.Context(), s.Name, infra.ApplyOptions{Digest: s.Digest}); err != nil {
		t.Errorf("as it was: %v", err)
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestNothingIsDestroyedUnasked(t *testing.T) {
	t.Parallel()
	d := open(t, write(t, one), options(t))
	applied(t, d, infra.ApplyOptions{})
	rewrite(t, d.Directory, "")
	// A crash has left a plan without a name, secrets and all.
	left := filepath.Join(d.Directory, ".plans", ".making-left")
	if err := os.Mkdir(left, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(left, time.Time{}, time.Now().AddDate(0, 0, -2)); err != nil {
		t.Fatal(err)
	}
	s := planned(t, d)
	if exists(left) {
		t.Error("what a crash has left is there still")
	}
	if list := s.Plan.Destroys(false); len(list) != 1 || !strings.Contains(list[0].Reason, "not in the configuration") {
		t.Fatalf("destroys %+v", list)
	}
	if _, err := d.Apply(t.Context(), s.Name, infra.ApplyOptions{Digest: s.Digest}); err == nil || !strings.Contains(err.Error(), "nobody has confirmed") {
		t.Errorf("unasked: %v", err)
	}
	no := errors.New("no")
	if _, err := d.Apply(t.Context(), s.Name, infra.ApplyOptions{Digest: s.Digest, Confirm: func(*infra.Saved) error { return no }}); !errors.Is(err, no) {
		t.Errorf("refused by people: %v", err)
	}
	if r, err := d.Apply(t.Context(), s.Name, infra.ApplyOptions{Digest: s.Digest, Confirm: yes}); err != nil || len(r.Done) != 1 {
		t.Errorf("confirmed: %+v, %v", r, err)
	}
}

func TestAnApplyThatFailsSaysHowFarItCame(t *testing.T) {
	t.Parallel()
	const fails = `
variable "password" {
  default   = "hunter2-is-secret"
  sensitive = true
}
resource "terraform_data" "a" { input = var.password }
resource "terraform_data" "b" {
  depends_on = [terraform_data.a]
  provisioner "local-exec" { command = "echo ${nonsensitive(var.password)}; exit 3" }
}
resource "terraform_data" "c" { depends_on = [terraform_data.b] }
`
	d := open(t, write(t, fails), options(t))
	s := planned(t, d)
	_, err := d.Apply(t.Context(), s.Name, infra.ApplyOptions{Digest: s.Digest})
	var failed *infra.ApplyError
	if !errors.As(err, &failed) {
		t.Fatalf("the error is %v", err)
	}
	check := func(r *infra.Report) {
		t.Helper()
		if r.Result != infra.Failed || addresses(r.Done) != "terraform_data.a" || addresses(r.Failed) != "terraform_data.b" || addresses(r.Left) != "terraform_data.c" {
			t.Errorf("report: %+v", r)
		}
		if len(r.Errors) != 1 || !strings.Contains(r.Errors[0], "exit status 3") || !strings.Contains(r.Errors[0], "main.tf:9") || strings.Contains(strings.Join(r.Errors, ""), "hunter2") {
			t.Errorf("errors: %q", r.Errors)
		}
		if len(r.Next) == 0 || !strings.Contains(r.Next[len(r.Next)-1], "taskfleet infra plan") {
			t.Errorf("next: %q", r.Next)
		}
	}
	check(failed.Report)
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error has the password: %v", err)
	}
	again, err := d.Saved(s.Name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := d.Report(t.Context(), again)
	if err != nil {
		t.Fatal(err)
	}
	check(r)

	// Another apply, which found the state locked meanwhile, does not hide what this one has done.
	journal, err := os.OpenFile(filepath.Join(d.Directory, ".plans", s.Name, "journal.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = journal.WriteString(`{"run":"another","what":"begin"}` + "\n" + `{"run":"another","what":"end","text":"failed"}` + "\n")
	if err := errors.Join(err, journal.Close()); err != nil {
		t.Fatal(err)
	}
	if r, err = d.Report(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	check(r)

	rewrite(t, d.Directory, strings.Replace(fails, "exit 3", "true", 1))
	s = planned(t, d)
	if list := s.Plan.Destroys(false); len(list) != 1 || list[0].Address != "terraform_data.b" || !strings.Contains(list[0].Reason, "tainted") {
		t.Errorf("what was left unfinished: %+v", list)
	}
	if r, err := d.Apply(t.Context(), s.Name, infra.ApplyOptions{Digest: s.Digest, Confirm: yes}); err != nil || addresses(r.Done) != "terraform_data.b terraform_data.b terraform_data.c" {
		t.Errorf("report: %+v, %v", r, err)
	}
}

func addresses(steps []infra.Step) string {
	var list []string
	for _, s := range steps {
		list = append(list, s.Address)
	}
	return strings.Join(list, " ")
}

const stubborn = `
terraform {
  required_providers {
    aws = { source = "hashicorp/aws" }
  }
}
provider "aws" { region = "eu-central-1" }
variable "name" { default = "taskfleet-test" }
`

// account starts a stand-in for AWS.
func account(t testing.TB) (*stub.Provider, infra.Options) {
	t.Helper()
	o := options(t)
	p, err := stub.Start(context.WithoutCancel(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	o.Reattach = p.Reattach()
	return p, o
}

// accept writes exceptions for rules that are not what a test is about.
func accept(t testing.TB, directory string, rules ...string) {
	t.Helper()
	text := "exceptions:\n"
	for _, r := range rules {
		text += fmt.Sprintf("  - rule: %s\n    resource: \"aws_*\"\n    reason: it is a test of something else\n    until: %s\n", r, time.Now().AddDate(0, 1, 0).Format(time.DateOnly))
	}
	if err := os.WriteFile(filepath.Join(directory, "policy.yml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestTheEnvironmentIsNotPassedOnUnseen(t *testing.T) {
	t.Parallel()
	directory := write(t, one)
	o := options(t)
	for _, e := range []string{"TF_CLI_ARGS=-lock=false", "TF_CLI_ARGS_apply=-auto-approve", "TF_VAR_password=x", "TF_WORKSPACE=other", "TF_DATA_DIR=/elsewhere", "TF_REATTACH_PROVIDERS={}"} {
		o.Env = append(environ(), e)
		name, _, _ := strings.Cut(e, "=")
		if _, err := infra.Open(t.Context(), directory, o); err == nil || !strings.Contains(err.Error(), name+" in the environment") || strings.Contains(err.Error(), "auto-approve") {
			t.Errorf("%s: %v", e, err)
		}
	}
	told := ""
	o.Env, o.Notice = append(environ(), "TF_LOG=trace"), func(line string) { told += line }
	if _, err := infra.Open(t.Context(), directory, o); err != nil || !strings.Contains(told, "TF_LOG is ignored") {
		t.Errorf("TF_LOG: %v, told %q", err, told)
	}
}

// It writes programs, and so is not run beside other tests, like TestServersGetTheirConfigurationAsFiles.
func TestOpenSaysWhatIsMissing(t *testing.T) {
	o := options(t)
	if _, err := infra.Open(t.Context(), t.TempDir(), o); err == nil || !strings.Contains(err.Error(), "is no deployment") {
		t.Errorf("an empty directory: %v", err)
	}
	o.Terraform = filepath.Join(t.TempDir(), "terraform")
	if _, err := infra.Open(t.Context(), write(t, one), o); err == nil || !strings.Contains(err.Error(), "--terraform") {
		t.Errorf("a program that is not there: %v", err)
	}
	for version, want := range map[string]string{"Terraform v1.5.7": "1.10.0 or later", "GNU sed 4.9": "neither terraform nor tofu"} {
		if err := os.WriteFile(o.Terraform, []byte("#!/bin/sh\necho '"+version+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := infra.Open(t.Context(), write(t, one), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", version, err)
		}
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	if got, err := infra.Values(directory, "name"); err != nil || len(got) != 0 {
		t.Errorf("without a file: %v, %v", got, err)
	}
	text := "name = \"a\"\n# region = \"b\"\nregion    = \"eu-central-1\" # here\nother = \"${x}\"\nnested = {\n  account_id = \"1\"\n}\n"
	if err := os.WriteFile(filepath.Join(directory, "terraform.tfvars"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := infra.Values(directory, "name", "region", "other", "account_id")
	if err != nil || len(got) != 2 || got["name"] != "a" || got["region"] != "eu-central-1" {
		t.Errorf("values: %v, %v", got, err)
	}
}

func TestRegion(t *testing.T) {
	t.Parallel()
	for example, want := range map[string]string{"small": "", "large": "us-east-1"} { // that of small is a value
		directory := filepath.Join(t.TempDir(), "prod")
		if err := infra.Write(directory, example); err != nil {
			t.Fatal(err)
		}
		if got, err := infra.Region(directory); err != nil || got != want {
			t.Errorf("%s: %q, %v", example, got, err)
		}
	}
}
