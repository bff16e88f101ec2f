package references

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// Where the schemas of each published service stand, seen from this package.
var schemaFolders = map[string]string{
	"auth":           "../auth/schemas",
	"hooks":          "../hooks/schemas",
	"index":          "../index/schemas",
	"notify":         "../notify/schemas",
	"object":         "../object/schemas",
	"purge-cache":    "../purgecache/schemas",
	"queue":          "../queue/schemas",
	"secrets":        "../secrets/schemas",
	"worker-manager": "../provisioner/schemas",
}

// The schemas that the services declare have the published shape: whatever one
// side accepts or promises, the other must too, or clients written for one fail
// against the other. The published references are not part of this repository:
// see TestReferencesEqualThePublishedOnes.
func TestSchemasHaveThePublishedShape(t *testing.T) {
	file := os.Getenv("TASKFLEET_PUBLISHED_REFERENCES")
	if file == "" {
		t.Log("TASKFLEET_PUBLISHED_REFERENCES names no file: nothing to compare with")
		return
	}
	published := readPublished(t, file)
	found := map[string]bool{}
	for service, dir := range schemaFolders {
		files, err := filepath.Glob(filepath.Join(dir, "*.yml"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no schemas in %s: %v", dir, err)
		}
		for _, f := range files {
			name := strings.TrimSuffix(filepath.Base(f), ".yml") + ".json"
			theirs, ok := published["schemas/"+service+"/v1/"+name]
			if !ok {
				found[service+"/"+name] = true
				continue
			}
			for _, path := range compare("", shape(readYAML(t, f)), shape(theirs)) {
				found[service+"/"+name+" "+path] = true
			}
		}
	}
	for _, d := range slices.Sorted(maps.Keys(found)) {
		if Deviations[d] == "" {
			t.Errorf("differs from what is published: %s", d)
		}
	}
	for _, d := range slices.Sorted(maps.Keys(Deviations)) {
		if !found[d] {
			t.Errorf("listed as different, but is not: %s (%s)", d, Deviations[d])
		}
	}
}

// shape drops what only humans read, and what the loader adds.
func shape(schema any) any {
	switch s := schema.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, v := range s {
			text, isText := v.(string)
			switch {
			case isText && slices.Contains([]string{"title", "description", "$id", "$schema"}, k):
			case isText && k == "$ref":
				out[k] = strings.TrimPrefix(text, "./")
			default:
				out[k] = shape(v)
			}
		}
		return out
	case []any:
		out := make([]any, len(s))
		for i, v := range s {
			out[i] = shape(v)
		}
		return out
	}
	return schema
}

// compare lists the places at which two shapes differ.
func compare(path string, ours, theirs any) (differ []string) {
	switch a := ours.(type) {
	case map[string]any:
		b, ok := theirs.(map[string]any)
		if !ok {
			return []string{path}
		}
		for k := range a {
			if _, ok := b[k]; !ok {
				differ = append(differ, path+"/"+k)
			} else {
				differ = append(differ, compare(path+"/"+k, a[k], b[k])...)
			}
		}
		for k := range b {
			if _, ok := a[k]; !ok {
				differ = append(differ, path+"/"+k)
			}
		}
		return differ
	case []any:
		b, ok := theirs.([]any)
		if !ok || len(a) != len(b) {
			return []string{path}
		}
		if strings.HasSuffix(path, "/required") || strings.HasSuffix(path, "/enum") {
			a, b = sorted(a), sorted(b)
		}
		for i := range a {
			differ = append(differ, compare(path+"/"+strconv.Itoa(i), a[i], b[i])...)
		}
		return differ
	}
	if !reflect.DeepEqual(ours, theirs) {
		return []string{path}
	}
	return nil
}

func sorted(list []any) []any {
	return slices.SortedFunc(slices.Values(list), func(a, b any) int {
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		return strings.Compare(string(x), string(y))
	})
}

func readPublished(t *testing.T, file string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var list []struct {
		Filename string
		Content  any
	}
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatalf("%s is not a JSON list of {filename, content}: %v", file, err)
	}
	out := map[string]any{}
	for _, f := range list {
		out[f.Filename] = f.Content
	}
	return out
}

func readYAML(t *testing.T, file string) (schema any) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := yaml.UnmarshalStrict(data, &schema); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return schema
}
