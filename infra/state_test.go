package infra_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/infra"
	"github.com/taskfleet/taskfleet/infra/plan"
)

func TestDrift(t *testing.T) {
	t.Parallel()
	aws, o := account(t)
	d := open(t, write(t, stubborn+`
resource "aws_cloudwatch_event_rule" "a" {
  name        = "a"
  description = "as it should be"
  event_pattern = "{}"
}
resource "aws_cloudwatch_event_rule" "b" {
  name          = "b"
  event_pattern = "{}"
}
`), o)
	accept(t, d.Directory, "tags")
	applied(t, d, infra.ApplyOptions{})
	drift := func() []plan.Change {
		t.Helper()
		p, err := d.Drift(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		return p.Drift
	}
	if list := drift(); len(list) != 0 {
		t.Fatalf("drift at once: %+v", list)
	}
	rules := aws.Objects("aws_cloudwatch_event_rule")
	if err := aws.Change("aws_cloudwatch_event_rule", rules[0].ID, map[string]any{"description": "by hand"}); err != nil {
		t.Fatal(err)
	}
	if err := aws.Delete("aws_cloudwatch_event_rule", rules[1].ID); err != nil {
		t.Fatal(err)
	}
	list := drift()
	if len(list) != 2 {
		t.Fatalf("drift: %+v", list)
	}
	changed, gone := list[0], list[1]
	if changed.Action == plan.Delete {
		changed, gone = gone, changed
	}
	if changed.Action != plan.Update || len(changed.Attributes) != 1 || changed.Attributes[0].Path != "description" || changed.Attributes[0].After != "by hand" || gone.Action != plan.Delete {
		t.Errorf("drift: %+v", list)
	}
	if s := planned(t, d); len(s.Plan.Drift) != 2 || len(s.Plan.Changes) != 2 {
		t.Errorf("what puts it back: %s", s.Counts)
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	aws, o := account(t)
	d := open(t, write(t, stubborn+`
resource "aws_cloudwatch_event_rule" "a" {
  name          = "a"
  event_pattern = "{}"
}
`), o)
	id, err := aws.Add("aws_cloudwatch_event_rule", "eu-central-1", map[string]any{"name": "a", "event_pattern": "{}"})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Import(t.Context(), "-state=elsewhere", id, nil); err == nil || !strings.Contains(err.Error(), "is no address") {
		t.Errorf("an address that is a flag: %v", err)
	}
	if err := d.Import(t.Context(), "aws_cloudwatch_event_rule.nothing", id, nil); err == nil || !strings.Contains(err.Error(), "aws_cloudwatch_event_rule.nothing") {
		t.Errorf("an address without a block: %v", err)
	}
	if err := d.Import(t.Context(), "aws_cloudwatch_event_rule.a", id, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range planned(t, d).Plan.Changes {
		if c.Action == plan.Create {
			t.Errorf("it would be made again: %+v", c)
		}
	}
}

func TestDataIsDestroyedByItsNameOnly(t *testing.T) {
	t.Parallel()
	_, o := account(t)
	const bucket = `
resource "aws_s3_bucket" "artifacts" {
  bucket        = "taskfleet-test-artifacts"
  force_destroy = false
}
`
	d := open(t, write(t, stubborn+bucket), o)
	others := []string{"tags", "bucket_encrypted", "bucket_private", "bucket_tls"}
	accept(t, d.Directory, others...)
	applied(t, d, infra.ApplyOptions{})

	rewrite(t, d.Directory, stubborn)
	s := planned(t, d)
	if !s.Policy.Refused() {
		t.Error("policy lets a bucket go")
	}
	_, err := d.Apply(t.Context(), s.Name, infra.ApplyOptions{Digest: s.Digest, Confirm: yes, Word: "taskfleet-test"})
	var violated *infra.ViolatedError
	if !errors.As(err, &violated) {
		t.Errorf("against policy: %v", err)
	}
	// What policy says is what it says now, not what meta.json has.
	meta := filepath.Join(d.Directory, ".plans", s.Name, "meta.json")
	text, err := os.ReadFile(meta)
	if err != nil {
		t.Fatal(err)
	}
	easy := strings.NewReplacer(`"severity": "error"`, `"severity": "warning"`, `"destroy": false`, `"destroy": true`).Replace(string(text))
	if err := os.WriteFile(meta, []byte(easy), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = d.Apply(t.Context(), s.Name, infra.ApplyOptions{Digest: s.Digest, Confirm: yes, Word: "taskfleet-test"}); !errors.As(err, &violated) {
		t.Errorf("against policy, with another meta.json: %v", err)
	}

	// An exception that is written after it was planned counts.
	accept(t, d.Directory, append(others, "protected")...)
	if err := os.WriteFile(filepath.Join(d.Directory, "plan.txt"), []byte("somebody keeps what plan has printed\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{"", "somewhere"} {
		_, err := d.Apply(t.Context(), s.Name, infra.ApplyOptions{Digest: s.Digest, Confirm: yes, Word: word})
		if err == nil || !strings.Contains(err.Error(), "taskfleet-test") || !strings.Contains(err.Error(), `bucket aws_s3_bucket.artifacts "taskfleet-test-artifacts"`) {
			t.Errorf("with the word %q: %v", word, err)
		}
	}
	if _, err := d.Apply(t.Context(), s.Name, infra.ApplyOptions{Digest: s.Digest, Confirm: yes, Word: "taskfleet-test"}); err != nil {
		t.Errorf("with the name: %v", err)
	}
}

func TestDestroySaysWhatAWSWouldRefuse(t *testing.T) {
	t.Parallel()
	aws, o := account(t)
	d := open(t, write(t, stubborn+`
variable "protected" { default = true }
resource "aws_lb" "a" {
  name                       = "a"
  internal                   = true
  enable_deletion_protection = var.protected
}
resource "aws_s3_bucket" "b" { bucket = "taskfleet-test-b" }
`), o)
	accept(t, d.Directory, "tags", "bucket_encrypted", "bucket_private", "bucket_tls")
	applied(t, d, infra.ApplyOptions{})
	s, err := d.Plan(t.Context(), infra.PlanOptions{Destroy: true})
	if err != nil {
		t.Fatal(err)
	}
	certain, possible := s.Obstacles()
	if len(certain) != 1 || !strings.Contains(certain[0], "aws_lb.a") || len(possible) != 1 || !strings.Contains(possible[0], "aws_s3_bucket.b") {
		t.Errorf("obstacles: %q, %q", certain, possible)
	}
	if s.Policy.Refused() {
		t.Errorf("policy does not let everything go: %+v", s.Policy.Errors())
	}
	if err := os.WriteFile(filepath.Join(d.Directory, ".plans", s.Name, "journal.jsonl"), []byte(`{"what":"begin"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := d.Report(t.Context(), s); err != nil || !strings.Contains(r.Next[len(r.Next)-1], "infra destroy") || strings.Contains(strings.Join(r.Next, ""), "infra plan") {
		t.Errorf("after a crash: %+v, %v", r, err)
	}
	if _, err := d.Apply(t.Context(), s.Name, infra.ApplyOptions{Digest: s.Digest, Confirm: yes, Word: "taskfleet-test", Destroy: true}); err != nil {
		t.Fatal(err)
	}
	if left := aws.Objects(""); len(left) != 0 {
		t.Errorf("left: %+v", left)
	}
}
