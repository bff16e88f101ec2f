package policy

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// A story is a plan, and what a rule finds in it.
type story struct {
	Name        string
	Development bool
	Resources   []planted
	Finds       []string // address and attribute
	Unknown     []string // likewise: what cannot be judged
}

// planted is a resource of a plan.
type planted struct {
	Address string
	Index   any
	Actions []string
	After   map[string]any
	Unknown map[string]any
	Says    map[string]any // the expressions that the files give its attributes
}

var (
	addressForm = regexp.MustCompile(`^((?:module\.\w+(?:\["?\w+"?\])?\.)*)(data\.)?(\w+)\.(\w+)(\["?\w+"?\])?$`)
	indices     = regexp.MustCompile(`\[[^\]]*\]`)
)

// planOf is the JSON of a plan of some resources, in the form that terraform prints.
func planOf(t testing.TB, list ...planted) []byte {
	t.Helper()
	changes := []any{}
	root := map[string]any{}
	for _, r := range list {
		m := addressForm.FindStringSubmatch(r.Address)
		if m == nil {
			t.Fatalf("%q is no address that the test reads", r.Address)
		}
		if len(r.Actions) == 0 {
			r.Actions = []string{"create"}
		}
		change := map[string]any{"actions": r.Actions, "before": nil, "after": r.After, "after_unknown": r.Unknown}
		if r.After == nil {
			change["after"] = nil
		}
		resource := map[string]any{"address": r.Address, "mode": "managed", "type": m[3], "name": m[4], "change": change}
		if m[2] != "" {
			resource["mode"] = "data"
		}
		if m[1] != "" {
			resource["module_address"] = strings.TrimSuffix(m[1], ".")
		}
		if r.Index != nil {
			resource["index"] = r.Index
		}
		changes = append(changes, resource)
		module := root
		for name := range strings.SplitSeq(strings.TrimSuffix(indices.ReplaceAllString(m[1], ""), "."), ".") {
			if name != "" && name != "module" {
				module = at(at(at(module, "module_calls"), name), "module")
			}
		}
		resources, _ := module["resources"].([]any)
		module["resources"] = append(resources, map[string]any{"address": m[2] + m[3] + "." + m[4], "expressions": r.Says})
	}
	text, err := json.Marshal(map[string]any{
		"format_version": "1.2", "planned_values": map[string]any{}, "resource_changes": changes, "configuration": map[string]any{"root_module": root},
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func at(m map[string]any, key string) map[string]any {
	inner, ok := m[key].(map[string]any)
	if !ok {
		inner = map[string]any{}
		m[key] = inner
	}
	return inner
}

// judged is a verdict that there has to be.
func judged(t testing.TB, plan []byte, o Options) Verdict {
	t.Helper()
	if o.Now.IsZero() {
		o.Now = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	}
	v, err := Judge(t.Context(), plan, o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestEachRuleFindsWhatIsPlantedAndNothingElse(t *testing.T) {
	t.Parallel()
	list, err := List(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, rule := range list {
		t.Run(rule.ID, func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(filepath.Join("testdata", "rules", rule.ID+".yml"))
			if err != nil {
				t.Fatal(err)
			}
			var stories []story
			d := yaml.NewDecoder(strings.NewReader(string(text)))
			d.KnownFields(true)
			if err := d.Decode(&stories); err != nil {
				t.Fatal(err)
			}
			broken, good := 0, 0
			for _, s := range stories {
				v := judged(t, planOf(t, s.Resources...), Options{Development: s.Development})
				var finds, unknown []string
				for _, x := range v.Violations {
					switch place := strings.TrimSpace(x.Address + " " + x.Attribute); {
					case x.Rule != rule.ID:
					case x.Unknown && x.Severity == SeverityWarning:
						unknown = append(unknown, place)
					case x.Severity != rule.Severity || x.Fix == "" || x.Message == "":
						t.Errorf("%s: %+v", s.Name, x)
					default:
						finds = append(finds, place)
						if strings.Contains(x.Message+x.Fix+x.Attribute, "PLANTED") {
							t.Errorf("%s: a secret is shown: %+v", s.Name, x)
						}
					}
				}
				same(t, s.Name+": finds", finds, s.Finds)
				same(t, s.Name+": cannot judge", unknown, s.Unknown)
				if len(s.Finds) > 0 {
					broken++
				} else if len(s.Unknown) == 0 {
					good++
				}
			}
			if broken == 0 || good == 0 {
				t.Errorf("%d stories with a violation and %d without; there has to be one of each", broken, good)
			}
		})
	}
}

func same(t testing.TB, what string, got, want []string) {
	t.Helper()
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if !slices.Equal(got, want) {
		t.Errorf("%s\n  %s\nand should\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// Whoever writes a rule says what it asks, why, and how bad it is to break it.
func TestEachRuleIsDescribed(t *testing.T) {
	t.Parallel()
	list, err := List(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, r := range list {
		if r.Title == r.ID || r.Description == "" || r.Own || r.File != r.ID+".rego" {
			t.Errorf("%+v", r)
		}
		seen[r.ID] = true
	}
	files, err := filepath.Glob("testdata/rules/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(list) {
		t.Errorf("%d rules and %d files of stories", len(list), len(files))
	}
	guide, err := os.ReadFile("../../docs/infra-policies.md")
	if err != nil {
		t.Fatal(err)
	}
	for id := range maps.Keys(seen) {
		if !strings.Contains(string(guide), "| "+id+" |") {
			t.Errorf("docs/infra-policies.md does not have rule %s", id)
		}
	}
}

// The stories have plans as short as may be. This one is as terraform prints it.
func TestAPlanAsTerraformPrintsItIsJudged(t *testing.T) {
	t.Parallel()
	plan, err := os.ReadFile("testdata/plan/plan.json")
	if err != nil {
		t.Fatal(err)
	}
	v := judged(t, plan, Options{})
	var finds, unknown []string
	for _, x := range v.Violations {
		place := x.Rule + ": " + x.Address
		if x.Unknown {
			unknown = append(unknown, place)
		} else {
			finds = append(finds, place)
		}
	}
	same(t, "finds", finds, []string{
		`bucket_private: aws_s3_bucket.this["bare"]`,
		`iam_principals: data.aws_iam_policy_document.bucket["bare"]`,
		`iam_principals: data.aws_iam_policy_document.bucket["good"]`,
		`imdsv2: aws_launch_template.worker`,
		`ingress_open: aws_vpc_security_group_ingress_rule.ssh`,
		`volume_encrypted: aws_launch_template.worker`,
	})
	same(t, "cannot judge", unknown, []string{"iam_wildcards: aws_iam_policy.read"})
}
