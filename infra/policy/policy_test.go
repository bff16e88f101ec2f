package policy

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"
	"unicode/utf8"
)

// Two buckets without anything: several rules find something in them.
var bare = []planted{
	{Address: `module.mirror["us"].aws_s3_bucket.this`, After: map[string]any{"bucket": "us"}},
	{Address: `module.mirror["eu"].aws_s3_bucket.this`, After: map[string]any{"bucket": "eu"}},
}

func exception(rule, resource, until string) Exception {
	return Exception{Rule: rule, Resource: resource, Reason: "it is for a test of exceptions", Until: until}
}

func TestAnExceptionAcceptsWhatItNamesUntilItsDate(t *testing.T) {
	t.Parallel()
	plan := planOf(t, bare...)
	all := judged(t, plan, Options{})
	v := judged(t, plan, Options{Exceptions: []Exception{
		exception("bucket_tls", `module.mirror["us"].*`, "2026-11-26"),     // today is its last day
		exception("bucket_private", `module.mirror["eu"].*`, "2026-11-25"), // it was yesterday
		exception("bucket_encrypted", "module.other.*", "2027-01-31"),
		exception("protected", `*.aws_kms_key.*`, "2027-01-31"),
	}})
	if got := v.Excepted(); len(got) != 1 || got[0].Rule != "bucket_tls" || got[0].Address != bare[0].Address || got[0].Excepted.Reason == "" {
		t.Errorf("accepted: %+v", got)
	}
	if len(v.Expired) != 1 || v.Expired[0].Rule != "bucket_private" {
		t.Errorf("expired: %+v", v.Expired)
	}
	if len(v.Unused) != 2 || v.Unused[0].Rule != "bucket_encrypted" || v.Unused[1].Rule != "protected" {
		t.Errorf("unused: %+v", v.Unused)
	}
	if len(v.Errors()) != len(all.Errors())-1 || !v.Refused() {
		t.Errorf("%d errors, and %d without exceptions", len(v.Errors()), len(all.Errors()))
	}
	text := v.Text(100)
	for _, want := range []string{"until 2026-11-26: it is for a test", "An exception is over: rule bucket_private", "accepts nothing any more, and can go: rule protected", "2 resources by 26 rules: 5 violations", "1 accepted"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text lacks %q:\n%s", want, text)
		}
	}
	for line := range strings.Lines(text) {
		if utf8.RuneCountInString(line) > 101 {
			t.Errorf("too long: %s", line)
		}
	}
}

func TestExceptionsThatMakeNoSenseAreRefusedWithTheirLine(t *testing.T) {
	t.Parallel()
	const good = "exceptions:\n- rule: bucket_tls\n  resource: x\n  reason: it is for a test of exceptions\n  until: 2027-01-31\n"
	for _, c := range []struct{ text, want string }{
		{good + "- rule: bucket_tsl\n  resource: x\n  reason: it is for a test\n  until: 2027-01-31\n", `line 6: the exception for x: there is no rule "bucket_tsl"; taskfleet infra policy list`},
		{strings.Replace(good, "2027-01-31", "soon", 1), `line 2: the exception for x: until is "soon"`},
		{strings.Replace(good, "2027-01-31", "9999-12-31", 1), "lasts for a year at most: give 2027-11-27 or before"},
		{strings.Replace(good, "it is for a test of exceptions", "yes", 1), `line 2: the exception for x: the reason "yes" says nothing`},
		{strings.Replace(good, "  resource: x\n", "", 1), "line 2: the exception for no resource: it names no resource"},
		{strings.Replace(good, "rule: bucket_tls", "resource: y", 1), "resource is there twice (line 3)"},
		{strings.Replace(good, "resource: x", "resource: '*'", 1), "line 2: the exception for *: it is for every resource"},
		{strings.Replace(good, "resource: x", "resource: '*.*[*]'", 1), "it is for every resource, those too that nobody has written yet"},
		{good + "- bucket_tls\n", "line 6: exceptions[1]: it is no mapping"},
		{good + "- rule: [a]\n", "rule is no text (line 6)"},
		{good + "- ruel: a\n", `there is no field "ruel" (line 6)`},
		{"exeptions: []\n", "line 1: field exeptions not found"},
		{"exceptions: [\n", "line 1"},
		{"exceptions:\n" + strings.Repeat("- {}\n", maxExceptions+1), "there are 501 exceptions"},
		{strings.Repeat("#", maxFile+1), "more than 1024 KiB"},
	} {
		directory := t.TempDir()
		if err := os.WriteFile(filepath.Join(directory, File), []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		o, err := Load(directory)
		if err == nil {
			o.Now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
			_, err = Judge(t.Context(), planOf(t), o)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), File) {
			t.Errorf("%.60q: %v\nshould say %s", c.text, err, c.want)
		}
	}
}

const ownRule = `# METADATA
# title: Buckets have the prefix of the company
# custom: {severity: warning}
package taskfleet.policy.bucket_prefix

import data.taskfleet.plan

deny contains plan.finding(r, "bucket", "the name does not begin with acme-", "rename it") if {
	some r in plan.resources("aws_s3_bucket")
	not startswith(plan.value(r, ["bucket"]), "acme-")
}
`

func TestOwnRulesJudgeBesideOurs(t *testing.T) {
	t.Parallel()
	directory := t.TempDir()
	if err := os.Mkdir(filepath.Join(directory, Folder), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		filepath.Join(Folder, "prefix.rego"):      ownRule,
		filepath.Join(Folder, "prefix_test.rego"): "package taskfleet.policy.bucket_prefix_test\n\ntest_it if true\n",
		File: "production: false\nexceptions:\n- rule: bucket_prefix\n  resource: module.mirror[\"eu\"].*\n  reason: it was made before the rule\n  until: 2027-01-31\n",
	} {
		if err := os.WriteFile(filepath.Join(directory, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o, err := Load(directory)
	if err != nil || !o.Development {
		t.Fatalf("%+v, %v", o, err)
	}
	v := judged(t, planOf(t, bare...), o)
	w := v.Warnings()
	if len(w) != 1 || w[0].Rule != "bucket_prefix" || w[0].Address != bare[0].Address || w[0].Fix != "rename it" || v.Rules != 27 {
		t.Errorf("%d rules: %+v", v.Rules, w)
	}
	if e := v.Excepted(); len(e) != 1 || e[0].Address != bare[1].Address {
		t.Errorf("%+v", e)
	}
	list, err := List(t.Context(), o.Rules)
	if err != nil || len(list) != 27 {
		t.Fatalf("%d, %v", len(list), err)
	}
	for _, r := range list {
		if r.Own != (r.ID == "bucket_prefix") {
			t.Errorf("%+v", r)
		}
	}
}

func TestOwnRulesThatAreWrongAreRefused(t *testing.T) {
	t.Parallel()
	rule := func(name, body string) fstest.MapFS {
		return fstest.MapFS{"x.rego": {Data: []byte("package taskfleet.policy." + name + "\n\n" + body)}}
	}
	const finds = `deny contains {"address": "a", "message": "m"} if `
	many := fstest.MapFS{}
	for i := range maxRuleFiles + 1 {
		many[strings.Repeat("x", i+1)+".rego"] = &fstest.MapFile{Data: []byte(ownRule)}
	}
	for name, c := range map[string]struct {
		rules fstest.MapFS
		want  string
	}{
		"syntax":          {rule("x", "deny contains"), "x.rego:3: rego_parse_error"},
		"network":         {rule("x", finds+`http.send({"method": "get", "url": "http://127.0.0.1/"}).status_code == 200`), "undefined function http.send"},
		"addresses":       {rule("x", finds+`net.lookup_ip_addr("localhost")`), "undefined function net.lookup_ip_addr"},
		"environment":     {rule("x", finds+`opa.runtime().env.HOME != ""`), "undefined function opa.runtime"},
		"clock":           {rule("x", finds+`time.now_ns() > 0`), "undefined function time.now_ns"},
		"chance":          {rule("x", finds+`rand.intn("x", 2) == 0`), "undefined function rand.intn"},
		"name of ours":    {rule("tags", finds+"true"), "there is a rule tags already"},
		"other package":   {fstest.MapFS{"x.rego": {Data: []byte("package taskfleet.plan\n\nmanaged := []")}}, "call it taskfleet.policy.NAME"},
		"deeper package":  {rule("a.b", finds+"true"), "call it taskfleet.policy.NAME"},
		"no deny":         {rule("x", "allow if true"), "the package has no deny"},
		"severity":        {fstest.MapFS{"x.rego": {Data: []byte("# METADATA\n# title: x\n# custom: {severity: fatal}\npackage taskfleet.policy.x\n\n" + finds + "true")}}, "x.rego:1: the severity is fatal; it must be error or warning"},
		"text":            {rule("x", `deny contains "no"`), "rule x (x.rego): deny has to hold objects of text"},
		"no address":      {rule("x", `deny contains {"message": "m"}`), "without an address"},
		"no message":      {rule("x", `deny contains {"address": "a"}`), "something of a without a message"},
		"conflict":        {rule("x", "deny contains f(1)\n\nf(_) := {\"address\": \"a\", \"message\": \"m\"}\n\nf(_) := {\"address\": \"b\", \"message\": \"m\"}"), "x.rego:7: eval_conflict_error"},
		"too long a file": {rule("x", "#"+strings.Repeat("x", maxRuleFile)), "own rule x.rego has more than 256 KiB"},
		"too many files":  {many, "there are 101 files of own rules"},
		"twice":           {fstest.MapFS{"a.rego": {Data: []byte(ownRule)}, "b.rego": {Data: []byte(ownRule)}}, "own rule b.rego: a.rego has package taskfleet.policy.bucket_prefix already"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Judge(t.Context(), planOf(t), Options{Rules: c.rules}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nshould say %s", err, c.want)
			}
		})
	}
}

// What would take for ever is stopped with the context, as it is when MaxTime is over.
func TestARuleThatTakesTooLongIsStopped(t *testing.T) {
	t.Parallel()
	endless := fstest.MapFS{"x.rego": {Data: []byte(`package taskfleet.policy.x

deny contains {"address": "a", "message": "m"} if {
	some a in numbers.range(1, 5000)
	some b in numbers.range(1, 5000)
	some c in numbers.range(1, 5000)
	a * b * c == -1
}
`)}}
	set, err := compileOwn(t.Context(), endless)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errTooLong)
	defer cancel()
	if _, err := set.judge(ctx, map[string]any{}); err == nil || !strings.Contains(err.Error(), "judging was stopped after 20s") {
		t.Error(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	if _, err := set.judge(ctx, map[string]any{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestWhatIsNoPlanIsNotJudged(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{"", "the plan is not JSON"},
		{"[]", "the plan is not JSON"},
		{"{}", "this is no plan"},
		{`{"format_version": "2.0", "resource_changes": []}`, `format_version is "2.0"`},
		{`{"format_version": "1.0", "values": {}}`, "this is a state and no plan"},
		{`{"format_version": "1.2", "resource_changes": [], "errored": true}`, "the plan was not finished"},
		{`{"format_version": "1.2", "resource_changes": [{}]}`, "something without an address"},
		{strings.Repeat(" ", MaxPlan+1), "at most are judged"},
	} {
		if _, err := Judge(t.Context(), []byte(c.text), Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: %v\nshould say %s", c.text, err, c.want)
		}
	}
}

// A plan of nothing but odd values is judged too: what rules take for granted is not there.
func TestOddPlansAreJudged(t *testing.T) {
	t.Parallel()
	var list []planted
	for _, kind := range []string{
		"aws_instance", "aws_launch_template", "aws_ebs_volume", "aws_db_instance", "aws_s3_bucket", "aws_s3_bucket_policy", "aws_sqs_queue", "aws_iam_role",
		"aws_iam_policy", "aws_security_group", "aws_security_group_rule", "aws_lb", "aws_lb_listener", "aws_kms_key", "aws_ecs_task_definition", "aws_mq_broker",
	} {
		list = append(list,
			planted{Address: kind + ".empty", After: map[string]any{}},
			planted{Address: kind + ".odd", After: map[string]any{
				"metadata_options": "x", "block_device_mappings": map[string]any{}, "policy": "[]", "assume_role_policy": `{"Statement": [[], 1, {"Principal": 1}]}`, "ingress": []any{nil, "x"},
				"bucket": 5, "container_definitions": "{}", "engine": 7, "tags_all": "x", "user_data": 1, "ssl_policy": []any{}, "cidr_blocks": "0.0.0.0/0", "statement": "x",
			}},
		)
	}
	if v := judged(t, planOf(t, list...), Options{}); v.Resources != len(list) || !v.Refused() {
		t.Errorf("%d resources, %d errors", v.Resources, len(v.Errors()))
	}
}

func BenchmarkJudge(b *testing.B) {
	plan := planOf(b, bare...)
	judged(b, plan, Options{}) // compiles
	for b.Loop() {
		judged(b, plan, Options{})
	}
}

func BenchmarkCompile(b *testing.B) {
	own := fstest.MapFS{"prefix.rego": {Data: []byte(ownRule)}}
	for b.Loop() {
		if _, err := compileOwn(b.Context(), own); err != nil {
			b.Fatal(err)
		}
	}
}
