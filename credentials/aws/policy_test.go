package aws

import (
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A statement is one of a policy of IAM.
type statement struct {
	Sid, Effect string
	Action      []string
	Resource    []string
}

const policies = "../../infra/policies"

// readPolicy reads a policy as those who use it are told to: with their own names in it.
func readPolicy(t *testing.T, name string) []statement {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(policies, name))
	if err != nil {
		t.Fatal(err)
	}
	var p struct {
		Version   string
		Statement []statement
	}
	d := json.NewDecoder(strings.NewReader(strings.NewReplacer("ACCOUNT", account, "REGION", "eu-central-1", "USER", "ci", "ROLE", "builds", "SECRET", "builds/database-AbCdEf").Replace(string(text))))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil || p.Version != "2012-10-17" || len(p.Statement) == 0 {
		t.Fatalf("%s: %v, %+v", name, err, p)
	}
	for _, s := range p.Statement {
		if s.Effect != "Allow" || len(s.Action) == 0 || len(s.Resource) == 0 || slices.Contains(s.Resource, "*") {
			t.Errorf("%s: the statement %s allows too much or nothing: %+v", name, s.Sid, s)
		}
		for _, a := range s.Action {
			if strings.Contains(a, "*") {
				t.Errorf("%s allows %s", name, a)
			}
		}
	}
	return p.Statement
}

func allows(list []statement, action, on string) bool {
	return slices.ContainsFunc(list, func(s statement) bool {
		return slices.Contains(s.Action, action) && slices.ContainsFunc(s.Resource, func(pattern string) bool {
			like, _ := path.Match(strings.ReplaceAll(pattern, "/", "|"), strings.ReplaceAll(on, "/", "|"))
			return like
		})
	})
}

// used has every action of a policy be one that was called. That no other is called is
// seen to by the fake.
func (f *fake) used() {
	f.t.Helper()
	for _, s := range f.policy {
		for _, a := range s.Action {
			if f.calls[a] == 0 {
				f.t.Errorf("the policy allows %s, which is never called", a)
			}
		}
	}
}

func TestAllPoliciesAreRead(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(policies, "aws-*.json"))
	if err != nil || len(files) != 6 {
		t.Errorf("%q, %v", files, err)
	}
	for _, f := range files {
		readPolicy(t, filepath.Base(f))
	}
}
