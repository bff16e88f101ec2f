package references

import (
	"encoding/json"
	"os"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// compared is what a client or a caller's scopes depend on; titles, texts and
// categories are our own.
var compared = []string{"type", "method", "route", "args", "query", "scopes", "stability", "input", "output", "exchange", "schema"}

// With TASKFLEET_PUBLISHED_REFERENCES naming the published references (a list
// of {filename, content}), every entry of ours must equal the published one.
func TestReferencesEqualThePublishedOnes(t *testing.T) {
	file := os.Getenv("TASKFLEET_PUBLISHED_REFERENCES")
	if file == "" {
		t.Log("TASKFLEET_PUBLISHED_REFERENCES is not set: nothing to compare with")
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var files []struct {
		Filename string
		Content  struct{ Entries []map[string]any }
	}
	if err := json.Unmarshal(text, &files); err != nil {
		t.Fatal(err)
	}
	published := map[string]map[string]any{}
	for _, f := range files {
		for _, e := range f.Content.Entries {
			published[f.Filename+" "+e["name"].(string)] = e
		}
	}
	n := 0
	for _, f := range files {
		name, ok := strings.CutPrefix(f.Filename, "references/")
		if service, _, _ := strings.Cut(name, "/"); !ok || schemaFolders[service] == "" || !slices.Contains([]string{"api.json", "exchanges.json"}, path.Base(name)) {
			continue // of a service that is none of ours, or of its metrics
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		var ours struct{ Entries []map[string]any }
		if err := json.Unmarshal(text, &ours); err != nil {
			t.Fatal(err)
		}
		for _, e := range ours.Entries {
			key := "references/" + name + " " + e["name"].(string)
			p, ok := published[key]
			if !ok {
				t.Errorf("%s is not published", key)
				continue
			}
			for _, k := range compared {
				if !reflect.DeepEqual(e[k], p[k]) && Deviations[key+" "+k] == "" {
					t.Errorf("%s: %s\n ours      %v\n published %v", key, k, e[k], p[k])
				}
			}
			delete(published, key)
			n++
		}
		for _, e := range f.Content.Entries {
			if key := "references/" + name + " " + e["name"].(string); published[key] != nil {
				t.Errorf("%s is missing", key)
			}
		}
	}
	t.Logf("%d entries compared", n)
}
