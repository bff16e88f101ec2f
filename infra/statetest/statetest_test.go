package statetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestLocks has the real program use the bucket: a state is written, a lock that somebody else holds stops it, tells who
// that is, and can be broken.
func TestLocks(t *testing.T) {
	program := Terraform(t)
	b := Start(t)
	directory := t.TempDir()
	configuration := b.Config("a/terraform.tfstate") + `
variable "v" {}
output "v" { value = var.v }
`
	if err := os.WriteFile(filepath.Join(directory, "main.tf"), []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	rc := filepath.Join(directory, "rc")
	if err := os.WriteFile(rc, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(arguments ...string) (string, error) {
		command := exec.CommandContext(t.Context(), program, arguments...)
		command.Dir = directory
		command.Env = append(os.Environ(), b.Env()...)
		command.Env = append(command.Env, "TF_CLI_CONFIG_FILE="+rc, "CHECKPOINT_DISABLE=1", "TF_IN_AUTOMATION=1")
		out, err := command.CombinedOutput()
		return string(out), err
	}
	must := func(arguments ...string) {
		t.Helper()
		if out, err := run(arguments...); err != nil {
			t.Fatalf("terraform %v: %v\n%s", arguments, err, out)
		}
	}
	must("init", "-input=false")
	must("apply", "-auto-approve", "-var=v=one")
	if keys := b.Keys(t); !slices.Equal(keys, []string{"a/terraform.tfstate"}) {
		t.Fatalf("in the bucket are %v, want the state and no lock", keys)
	}
	if state := string(b.Get(t, "a/terraform.tfstate")); !strings.Contains(state, `"one"`) {
		t.Fatalf("the state is %s", state)
	}

	const id = "11111111-2222-3333-4444-555555555555"
	b.Lock(t, "a/terraform.tfstate", id, "somebody@elsewhere")
	out, err := run("apply", "-auto-approve", "-no-color", "-var=v=two")
	if err == nil {
		t.Fatal("apply changed a state that somebody else has locked")
	}
	if !strings.Contains(out, "Error acquiring the state lock") || !strings.Contains(out, "somebody@elsewhere") {
		t.Fatalf("the error does not tell who holds the lock:\n%s", out)
	}
	must("force-unlock", "-force", id)
	must("apply", "-auto-approve", "-var=v=two")
	if out, err := run("output", "-raw", "v"); err != nil || out != "two" {
		t.Fatalf("output: %q, %v", out, err)
	}
}
