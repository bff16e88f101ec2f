package jsone

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// The cases of testdata are our own account of the language.
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	atTestTime(t, func(t *testing.T) {
		for _, file := range files {
			seen := map[string]bool{}
			for _, c := range readCases(t, file) {
				name, _ := c["case"].(string)
				if name == "" || seen[name] {
					t.Errorf("%s: the case %q has no name of its own", file, name)
				}
				seen[name] = true
				_, hasResult := c["result"]
				_, hasError := c["error"]
				if hasResult == hasError {
					t.Errorf("%s: %s: a case has a result or an error", file, name)
				}
				context, _ := decoded(t, c["context"]).(map[string]any)
				got, err := Render(decoded(t, c["template"]), context)
				if complaint := compare(got, err, decoded(t, c["result"]), c["error"]); complaint != "" {
					t.Errorf("%s: %s: %s", file, name, complaint)
				}
			}
		}
	})
}

func readCases(t testing.TB, file string) (cases []map[string]any) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal(b, &cases); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return cases
}

// Every operator and every function has cases, with results and with errors.
func TestCasesAreComplete(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yml")
	if err != nil {
		t.Fatal(err)
	}
	var results, errors strings.Builder
	for _, file := range files {
		for _, c := range readCases(t, file) {
			to := &results
			if c["error"] != nil {
				to = &errors
			}
			to.WriteString(shown(stringKeys(c["template"])) + "\n")
		}
	}
	names := []string{"$eval", "$if", "$switch", "$match", "$let", "$map", "$reduce", "$find", "$sort", "$reverse",
		"$flatten", "$flattenDeep", "$merge", "$mergeDeep", "$json", "$fromNow"}
	for i, name := range names {
		if operators(name) == nil {
			t.Errorf("%s is no operator", name)
		}
		names[i] = `"` + name + `":`
	}
	for name := range builtins {
		names = append(names, name+"(")
	}
	slices.Sort(names)
	for _, name := range names {
		if !strings.Contains(results.String(), name) {
			t.Errorf("no case with a result has %s", name)
		}
		if !strings.Contains(errors.String(), name) {
			t.Errorf("no case with an error has %s", name)
		}
	}
}
