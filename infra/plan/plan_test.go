package plan_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/infra/plan"
)

var update = flag.Bool("update", false, "write the texts that are expected anew")

func read(t testing.TB, name string) *plan.Plan {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := plan.Read(f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func find(t testing.TB, list []plan.Change, address string) plan.Change {
	t.Helper()
	for _, c := range list {
		if c.Address == address {
			return c
		}
	}
	t.Fatalf("%s is not among the changes", address)
	return plan.Change{}
}

func attribute(t testing.TB, c plan.Change, path string) plan.Attribute {
	t.Helper()
	for _, a := range c.Attributes {
		if a.Path == path {
			return a
		}
	}
	t.Fatalf("%s has no attribute %s: %+v", c.Address, path, c.Attributes)
	return plan.Attribute{}
}

func TestRead(t *testing.T) {
	t.Parallel()
	p := read(t, "mixed.json")
	if p.Name != "taskfleet-prod" || p.Terraform != "1.11.4" || p.Unchanged != 1 || p.Empty() {
		t.Errorf("plan %q by %q, %d unchanged", p.Name, p.Terraform, p.Unchanged)
	}
	for address, want := range map[string]plan.Action{
		"module.network.aws_subnet.private[0]":        plan.Create,
		"module.database.aws_db_instance.this":        plan.Replace,
		"module.artifacts.aws_s3_bucket.this":         plan.Delete,
		"module.service.aws_ecs_task_definition.this": plan.Update,
		"aws_kms_key.moved":                           plan.Move,
		"aws_cloudwatch_log_group.imported":           plan.Import,
		"aws_sns_topic.left":                          plan.Forget,
		"data.aws_caller_identity.me":                 plan.ReadData,
	} {
		if c := find(t, p.Changes, address); c.Action != want {
			t.Errorf("%s: %s, want %s", address, c.Action, want)
		}
	}

	var all, data []string
	for _, c := range p.Destroys(false) {
		all = append(all, c.Address)
	}
	for _, c := range p.Destroys(true) {
		data = append(data, c.Holds+" "+c.Address)
	}
	if got := strings.Join(all, ", "); got != "aws_sqs_queue.events, module.artifacts.aws_s3_bucket.this, module.database.aws_db_instance.this" {
		t.Errorf("destroys %s", got)
	}
	if got := strings.Join(data, ", "); got != "bucket module.artifacts.aws_s3_bucket.this, database module.database.aws_db_instance.this" {
		t.Errorf("destroys data: %s", got)
	}

	db := find(t, p.Changes, "module.database.aws_db_instance.this")
	if a := attribute(t, db, "storage_encrypted"); !a.ForcesReplacement || a.Before != false || a.After != true {
		t.Errorf("storage_encrypted: %+v", a)
	}
	if a := attribute(t, db, "allocated_storage"); a.ForcesReplacement {
		t.Errorf("allocated_storage: %+v", a)
	}
	if a := attribute(t, db, "endpoint"); !a.Unknown || a.After != nil {
		t.Errorf("endpoint: %+v", a)
	}
	if a := attribute(t, db, "password"); !a.Secret || a.Before != nil || a.After != nil {
		t.Errorf("password: %+v", a)
	}
	if a := attribute(t, db, "tags.Stage"); a.Before != nil || a.After != "prod" {
		t.Errorf("tags.Stage: %+v", a)
	}
	task := find(t, p.Changes, "module.service.aws_ecs_task_definition.this")
	if a := attribute(t, task, `container_definitions["taskfleet"].image`); a.After != "taskfleet:2" {
		t.Errorf("image: %+v", a)
	}
	if a := attribute(t, task, `container_definitions["taskfleet"].environment["DB_PASSWORD"].value`); !a.Secret {
		t.Errorf("an environment's password: %+v", a)
	}
	if a := attribute(t, task, `container_definitions["taskfleet"].environment["LOG_LEVEL"].value`); a.Secret || a.After != "debug" {
		t.Errorf("an environment's level: %+v", a)
	}
	if len(p.Drift) != 2 || find(t, p.Drift, "aws_sqs_queue.gone").Destructive {
		t.Errorf("drift: %+v", p.Drift)
	}
	if len(p.Outputs) != 2 || p.Outputs[0].Name != "manifest" || !p.Outputs[1].Secret {
		t.Errorf("outputs: %+v", p.Outputs)
	}
	if !read(t, "empty.json").Empty() {
		t.Error("a plan without changes is not empty")
	}
}

// TestNoSecretLeaves looks for the plan's secrets, all of which have the same beginning, in everything made of it.
func TestNoSecretLeaves(t *testing.T) {
	t.Parallel()
	p := read(t, "mixed.json")
	asJSON, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := p.Text(&text, 400, true); err != nil {
		t.Fatal(err)
	}
	for what, got := range map[string]string{"JSON": string(asJSON), "text": text.String()} {
		if i := strings.Index(got, "hunter2"); i >= 0 {
			t.Errorf("the %s has a secret: …%s…", what, got[max(0, i-80):min(len(got), i+20)])
		}
		if !strings.Contains(got, "(secret)") && !strings.Contains(got, `"secret":true`) {
			t.Errorf("the %s does not say that there is a secret", what)
		}
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"mixed", "empty"} {
		var got bytes.Buffer
		if err := read(t, name+".json").Text(&got, 100, false); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("testdata", name+".txt")
		if *update {
			if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got.String() != string(want) {
			t.Errorf("%s is\n%s\nwant\n%s", name, got.String(), want)
		}
	}
	for _, width := range []int{40, 60, 100} {
		var got bytes.Buffer
		if err := read(t, "mixed.json").Text(&got, width, false); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(got.String()) {
			// An attribute's line has a least width.
			if n := utf8.RuneCountInString(line) - 1; n > max(width, 100) {
				t.Errorf("%d columns at width %d: %s", n, width, line)
			}
		}
		if strings.ContainsRune(got.String(), '\x1b') {
			t.Error("what a terminal obeys is in the text")
		}
	}
}

func TestTheDigestIsOfFileAndMeaning(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("testdata", "mixed.json"))
	if err != nil {
		t.Fatal(err)
	}
	seal := func(file string, text []byte) string {
		t.Helper()
		p, err := plan.Read(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		return p.Seal([]byte(file))
	}
	was := seal("file", text)
	var compact bytes.Buffer
	if err := json.Compact(&compact, text); err != nil {
		t.Fatal(err)
	}
	if got := seal("file", compact.Bytes()); got != was {
		t.Error("another spelling of the JSON has another digest")
	}
	if got := seal("File", text); got == was {
		t.Error("another file has the same digest")
	}
	if got := seal("file", bytes.Replace(text, []byte(`"allocated_storage": 200`), []byte(`"allocated_storage": 201`), 1)); got == was {
		t.Error("other JSON has the same digest")
	}
	if !strings.HasPrefix(was, "sha256:") || len(was) != len("sha256:")+64 {
		t.Errorf("digest %q", was)
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                         "not a plan's JSON",
		"[]":                       "not a plan's JSON",
		"{}":                       "format version",
		`{"format_version":"9.0"}`: "format version",
		`{"format_version":"1.2","resource_changes":[{"address":"a.b"}]}`:                                  "no change in it",
		`{"format_version":"1.2","resource_changes":[null]}`:                                               "no change in it",
		`{"format_version":"1.2","resource_changes":[{"address":"a.b","change":{"actions":["explode"]}}]}`: "update taskfleet",
		`{"format_version":"1.2","output_changes":{"a":null}}`:                                             `output "a"`,
	} {
		if _, err := plan.Read(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, name := range []string{"mixed.json", "empty.json"} {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"format_version":"1.2","resource_changes":[{"address":"a.b","mode":"managed","change":{"actions":["update"],"before":"{\"a\":[1]}","after":["x"],"after_unknown":[true],"replace_paths":[[0,"a"],7]}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := plan.Read(bytes.NewReader(text))
		if err != nil {
			return
		}
		var out bytes.Buffer
		if err := p.Text(&out, 80, false); err != nil {
			t.Fatal(err)
		}
		if strings.ContainsRune(out.String(), '\x1b') {
			t.Error("what a terminal obeys is in the text")
		}
		if _, err := json.Marshal(p); err != nil {
			t.Error(err)
		}
		if p.Seal(nil) != p.Seal(nil) {
			t.Error("two digests of one plan")
		}
	})
}

// TestWhatCannotBeShownIsRefused: an apply would do it, and nobody would have seen it.
func TestWhatCannotBeShownIsRefused(t *testing.T) {
	t.Parallel()
	for _, more := range []string{`"action_invocations":[{"address":"action.aws_lambda_invoke.a","type":"aws_lambda_invoke","name":"a"}]`, `"deferred_changes":[{"reason":"unknown"}]`} {
		if _, err := plan.Read(strings.NewReader(`{"format_version":"1.2",` + more + `}`)); err == nil || !strings.Contains(err.Error(), "nobody would see") {
			t.Errorf("%s: %v", more, err)
		}
	}
}

func TestHide(t *testing.T) {
	t.Parallel()
	p, err := plan.Read(strings.NewReader(`{
		"format_version": "1.2",
		"variables": {"short": {"value": "hunter2-is"}, "long": {"value": "hunter2-is-secret"}},
		"configuration": {"root_module": {"variables": {"short": {"sensitive": true}, "long": {"sensitive": true}}}}
	}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Hide("password hunter2-is-secret is too short"); got != "password (secret) is too short" {
		t.Errorf("hidden: %q", got)
	}
}

func TestWhatIsOthersToChangeIsNoDrift(t *testing.T) {
	drift := func(kind, before, after string) string {
		return `{"address": "` + kind + `.a", "mode": "managed", "type": "` + kind + `", "name": "a", "change": {"actions": ["update"], "before": ` + before + `, "after": ` + after + `}}`
	}
	p, err := plan.Read(strings.NewReader(`{"format_version": "1.2", "terraform_version": "1.11.4", "resource_drift": [` + strings.Join([]string{
		drift("aws_ecs_service", `{"desired_count": 2, "task_definition": "a:1", "name": "a"}`, `{"desired_count": 5, "task_definition": "a:9", "name": "a"}`),
		drift("aws_appautoscaling_target", `{"min_capacity": 1, "max_capacity": 2, "role_arn": "a"}`, `{"min_capacity": 3, "max_capacity": 9, "role_arn": "b"}`),
		drift("aws_lb", `{"desired_count": 2}`, `{"desired_count": 5}`),
	}, ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Drift) != 2 || p.Drift[0].Type != "aws_appautoscaling_target" || len(p.Drift[0].Attributes) != 1 || p.Drift[0].Attributes[0].Path != "role_arn" || p.Drift[1].Type != "aws_lb" {
		t.Errorf("drift: %+v", p.Drift)
	}
}
