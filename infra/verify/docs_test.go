package verify_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/infra/verify"
)

// The document has all checks, and exactly the permissions that are asked for.
func TestTheDocument(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/infra-verify.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range verify.Checks() {
		if !strings.Contains(string(text), "| `"+c+"` |") {
			t.Errorf("the check %s is not in there", c)
		}
	}
	permission := regexp.MustCompile(`"((?:ec2|ecs|elasticloadbalancing|iam|kms|mq|rds|s3|sqs):[A-Z][A-Za-z]+)"`)
	permissions := func(text []byte) (list []string) {
		for _, m := range permission.FindAllSubmatch(text, -1) {
			list = append(list, string(m[1]))
		}
		slices.Sort(list)
		return slices.Compact(list)
	}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var source []byte
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			source = append(source, b...)
		}
	}
	if got, want := permissions(text), permissions(source); len(want) < 30 || !slices.Equal(got, want) {
		t.Errorf("the document has %d permissions, the program asks for %d\n%q\n%q", len(got), len(want), got, want)
	}
}
