package infra_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/infra"
	"github.com/taskfleet/taskfleet/infra/statetest"
	"github.com/taskfleet/taskfleet/infra/stub"
)

// A child is what this test binary does instead of testing when it is to be killed.
type child struct {
	Directory, Plan, Digest string
	Options                 struct {
		Terraform, Reattach string
		Env                 []string
	}
}

func TestMain(m *testing.M) {
	text := os.Getenv("TASKFLEET_TEST_INFRA_CHILD")
	infra.PrivateFiles()
	if text == "" {
		os.Exit(m.Run())
	}
	if err := applyAsChild(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func applyAsChild(text string) error {
	var c child
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	o := infra.Options{Terraform: c.Options.Terraform, Reattach: c.Options.Reattach, Env: c.Options.Env}
	d, err := infra.Open(context.Background(), c.Directory, o)
	if err != nil {
		return err
	}
	_, err = d.Apply(context.Background(), c.Plan, infra.ApplyOptions{Digest: c.Digest, Progress: func(p infra.Progress) { fmt.Println(p.What, p.Address) }})
	return err
}

const three = stubborn + `
resource "aws_cloudwatch_event_rule" "a" {
  name          = "a"
  event_pattern = "{}"
}
resource "aws_cloudwatch_event_rule" "b" {
  name          = "b"
  event_pattern = "{}"
  depends_on    = [aws_cloudwatch_event_rule.a]
}
resource "aws_cloudwatch_event_rule" "c" {
  name          = "c"
  event_pattern = "{}"
  depends_on    = [aws_cloudwatch_event_rule.b]
}
`

// stopAt makes the creation of the rule with a name wait until terraform is killed. reached is closed when that begins,
// left when it ends.
func stopAt(aws *stub.Provider, name string) (reached, left <-chan struct{}) {
	begun, ended := make(chan struct{}), make(chan struct{})
	aws.Before(func(ctx context.Context, o stub.Operation) error {
		if o.Attributes["name"] != name {
			return nil
		}
		aws.Before(nil)
		close(begun)
		defer close(ended)
		<-ctx.Done()
		return ctx.Err()
	})
	return begun, ended
}

// TestAKilledApplyLosesNothing kills the driver, and with it terraform, while it holds the lock, has made one
// resource that the state in S3 does not know yet, and makes another.
func TestAKilledApplyLosesNothing(t *testing.T) {
	t.Parallel()
	aws, o := account(t)
	s3 := statetest.Start(t)
	o.Env = append(o.Env, s3.Env()...)
	directory := write(t, three)
	if err := os.WriteFile(filepath.Join(directory, "backend.tf"), []byte(s3.Config("test/terraform.tfstate")), 0o644); err != nil {
		t.Fatal(err)
	}
	accept(t, directory, "tags")
	d := open(t, directory, o)
	s := planned(t, d)
	reached, left := stopAt(aws, "b")

	c := child{Directory: directory, Plan: s.Name, Digest: s.Digest}
	c.Options.Terraform, c.Options.Reattach, c.Options.Env = o.Terraform, o.Reattach, o.Env
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(environ(), "TASKFLEET_TEST_INFRA_CHILD="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if said += lines.Text() + "\n"; lines.Text() == "start aws_cloudwatch_event_rule.b" {
			break
		}
	}
	wait(t, reached, "b is being made")
	if r, err := d.Report(t.Context(), s); err != nil || r.Result != infra.Running || r.PID != cmd.Process.Pid {
		t.Errorf("while it runs: %+v, %v", r, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it ended well")
	}
	wait(t, left, "terraform has died too")

	r, err := d.Report(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if r.Result != infra.CutOff || addresses(r.Unrecorded) != "aws_cloudwatch_event_rule.a" || addresses(r.Unknown) != "aws_cloudwatch_event_rule.b" || addresses(r.Left) != "aws_cloudwatch_event_rule.c" {
		t.Fatalf("after it was killed, having said\n%s%+v", said, r)
	}
	next := strings.Join(r.Next, "\n")
	for _, want := range []string{"infra import --dir " + directory + " 'aws_cloudwatch_event_rule.a' 'a'", "aws_cloudwatch_event_rule.b may be there", "infra unlock", "infra plan"} {
		if !strings.Contains(next, want) {
			t.Errorf("how to go on lacks %q:\n%s", want, next)
		}
	}

	// The lock of the dead is still there, and a state that could not be written needs that it goes first.
	_, err = d.Plan(t.Context(), infra.PlanOptions{Name: "locked"})
	var locked *infra.LockedError
	if !errors.As(err, &locked) {
		t.Fatalf("with the lock of the dead: %v", err)
	}
	if locked.ID == "" || !strings.Contains(locked.Who, "@") || time.Since(locked.Since).Abs() > time.Hour || locked.Operation != "OperationTypeApply" || !strings.Contains(err.Error(), "infra unlock") {
		t.Errorf("%+v: %v", locked, err)
	}
	no := errors.New("no")
	if held, err := d.Unlock(t.Context(), func(*infra.LockedError) error { return no }); !errors.Is(err, no) || held.ID != locked.ID {
		t.Errorf("not unlocked: %+v, %v", held, err)
	}
	errored := filepath.Join(directory, "errored.tfstate")
	if err := os.WriteFile(errored, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if held, err := d.Unlock(t.Context(), func(*infra.LockedError) error { return nil }); err != nil || held.ID != locked.ID {
		t.Errorf("unlocked: %+v, %v", held, err)
	}
	if err := os.Remove(errored); err != nil {
		t.Fatal(err)
	}
	if held, err := d.Unlock(t.Context(), func(*infra.LockedError) error { t.Error("asked"); return nil }); err != nil || held != nil {
		t.Errorf("unlocked again: %+v, %v", held, err)
	}

	// Planning warns of what would be made twice; it is taken in as the report says.
	warned := ""
	o.Notice = func(line string) { warned += line + "\n" }
	planned(t, open(t, directory, o))
	if !strings.Contains(warned, "aws_cloudwatch_event_rule.a: the apply of plan "+s.Name+" was cut off") {
		t.Errorf("planning warned of %q", warned)
	}
	if err := d.Import(t.Context(), r.Unrecorded[0].Address, r.Unrecorded[0].ID, nil); err != nil {
		t.Fatal(err)
	}
	applied(t, d, infra.ApplyOptions{})
	if n := len(aws.Objects("aws_cloudwatch_event_rule")); n != 3 {
		t.Errorf("there are %d rules", n)
	}
	if keys := s3.Keys(t); len(keys) != 1 {
		t.Errorf("in the bucket are %v", keys)
	}
}

func wait(t testing.TB, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(5 * time.Minute):
		t.Fatalf("it did not come to it that %s", what)
	}
}

// TestAnInterruptedApplyEndsInGoodOrder: what is under way ends and is recorded, the rest is not begun. The lock is
// held meanwhile, and the state is let go afterwards.
func TestAnInterruptedApplyEndsInGoodOrder(t *testing.T) {
	t.Parallel()
	const waits = `
resource "terraform_data" "a" {}
resource "terraform_data" "b" {
  depends_on = [terraform_data.a]
  provisioner "local-exec" { command = "echo >fifo; exec sleep 600" }
}
resource "terraform_data" "c" { depends_on = [terraform_data.b] }
`
	o := options(t)
	directory := write(t, waits)
	d := open(t, directory, o)
	s := planned(t, d)
	fifo := filepath.Join(directory, "fifo")
	if out, err := exec.CommandContext(t.Context(), "mkfifo", fifo).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v, %s", err, out)
	}
	reached := make(chan struct{})
	go func() {
		if _, err := os.ReadFile(fifo); err == nil {
			close(reached)
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type result struct {
		report *infra.Report
		err    error
	}
	done := make(chan result, 1)
	go func() {
		r, err := d.Apply(ctx, s.Name, infra.ApplyOptions{Digest: s.Digest})
		done <- result{r, err}
	}()
	wait(t, reached, "b is being made")

	other := open(t, directory, o)
	_, err := other.Plan(t.Context(), infra.PlanOptions{Name: "meanwhile"})
	var locked *infra.LockedError
	if !errors.As(err, &locked) || !strings.Contains(locked.Who, "@") || locked.Since.IsZero() {
		t.Errorf("while it runs: %v", err)
	}
	if _, err := other.Unlock(t.Context(), func(*infra.LockedError) error { return nil }); err == nil || !strings.Contains(err.Error(), "end that process") {
		t.Errorf("a lock of a file: %v", err)
	}

	cancel()
	got := <-done
	var failed *infra.ApplyError
	if !errors.As(got.err, &failed) || !strings.Contains(got.err.Error(), "interrupted") {
		t.Errorf("the error is %v", got.err)
	}
	r := got.report
	if r == nil || r.Result != infra.Interrupted || addresses(r.Done) != "terraform_data.a" || addresses(r.Failed) != "terraform_data.b" || addresses(r.Left) != "terraform_data.c" {
		t.Fatalf("report: %+v", r)
	}
	rewrite(t, directory, strings.Replace(waits, "echo >fifo; exec sleep 600", "true", 1))
	applied(t, d, infra.ApplyOptions{Confirm: yes})
}
