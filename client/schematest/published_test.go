// Package schematest compares the schemas that the services declare with
// those that Taskcluster publishes: whatever one side accepts or promises, the
// other must too, or clients written for one fail against the other.
//
// The published references are not part of this repository. The comparison
// runs when TASKFLEET_PUBLISHED_REFERENCES names a file that holds them, as the
// JSON list of {filename, content} that ships with the official clients.
package schematest

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
var services = map[string]string{
	"auth":           "../../auth/schemas",
	"queue":          "../../queue/schemas",
	"worker-manager": "../../provisioner/schemas",
}

// What differs on purpose, and why. A difference that is not listed fails the
// test, and so does a line in this list that is no longer true.
var differences = map[string]string{
	"queue/create-task-request.json /properties/payload/default": "published as [], which the schema of payload itself refuses; payload is required anyway",

	"queue/post-artifact-response.json /oneOf/0/properties/multipart":      "extension: one presigned PUT ends at 5 GiB",
	"queue/claim-work-request.json /properties/holding":                    "extension: a claim whose answer was lost is handed out again at once",
	"queue/post-artifact-request.json /oneOf/0/properties/contentEncoding": "extension: an upload in parts gets its encoding when it begins",
	"queue/finish-artifact-request.json /properties/parts":                 "extension: S3 joins the parts of an upload by their ETags",

	"worker-manager/config-local.json": "extension: pools whose workers are processes on the machine of the server",

	"worker-manager/worker-lifecycle.json /properties/maxAge": "extension: workers that grow too old are replaced",

	"worker-manager/register-worker-request.json /properties/workerIdentityProof/oneOf": "extension: the stronger of the two signatures that AWS gives to identity documents",

	"worker-manager/config-aws.json /required":                                                        "launchConfigs or regions: anyOf says so",
	"worker-manager/config-aws.json /anyOf":                                                           "extension: regions times zones times instance types, beside launchConfigs",
	"worker-manager/config-aws.json /properties/sizing":                                               "extension: how the size is decided",
	"worker-manager/config-aws.json /properties/schedule":                                             "extension: how the size is decided",
	"worker-manager/config-aws.json /properties/scopes":                                               "extension: what workers get besides",
	"worker-manager/config-aws.json /properties/secrets":                                              "extension: what workers get besides",
	"worker-manager/config-aws.json /properties/regions":                                              "extension: regions times zones times instance types",
	"worker-manager/config-aws.json /properties/launchConfig":                                         "extension: regions times zones times instance types",
	"worker-manager/config-aws.json /properties/additionalUserData":                                   "extension: regions times zones times instance types",
	"worker-manager/config-aws.json /properties/workerConfig":                                         "extension: regions times zones times instance types",
	"worker-manager/config-aws.json /properties/account":                                              "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/account":               "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/imageParameter":                                       "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/imageParameter":        "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/availabilityZones":                                    "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/availabilityZones":     "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/instanceTypes":                                        "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/instanceTypes":         "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/canUseSpot":                                           "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/canUseSpot":            "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/canUseOndemand":                                       "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/canUseOndemand":        "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/minPrice":                                             "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/minPrice":              "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/maxPrice":                                             "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/maxPrice":              "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/ondemandAfter":                                        "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/ondemandAfter":         "extension: which markets workers are bought in",
	"worker-manager/config-aws.json /properties/launchConfigs/items/properties/launchConfig/required": "the image may be that of an imageParameter",
	"worker-manager/config-static.json /properties/scopes":                                            "extension: what workers get besides",
	"worker-manager/config-static.json /properties/secrets":                                           "extension: what workers get besides",
}

func TestSchemasHaveThePublishedShape(t *testing.T) {
	file := os.Getenv("TASKFLEET_PUBLISHED_REFERENCES")
	if file == "" {
		t.Log("TASKFLEET_PUBLISHED_REFERENCES names no file: nothing to compare with")
		return
	}
	published := readPublished(t, file)
	found := map[string]bool{}
	for service, dir := range services {
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
		if differences[d] == "" {
			t.Errorf("differs from what is published: %s", d)
		}
	}
	for _, d := range slices.Sorted(maps.Keys(differences)) {
		if !found[d] {
			t.Errorf("listed as different, but is not: %s (%s)", d, differences[d])
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
