package provider

import (
	"encoding/json"
	"regexp"
	"strings"
)

// release is what a version has to be to be named in a schema: semantic.
var release = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+([-+][0-9A-Za-z.+-]+)?$`)

// schema describes the kinds to Pulumi, such as for SDKs in other languages.
func (v *provider) schema(version string) (string, error) {
	object := func(description string) map[string]any {
		values := map[string]any{"$ref": "pulumi.json#/Any"}
		return map[string]any{"type": "object", "additionalProperties": values, "description": description}
	}
	listed := func(what string, members []string) string {
		if len(members) == 0 {
			return ""
		}
		return " " + what + ": " + strings.Join(members, ", ") + "."
	}
	name := map[string]any{
		"type": "string", "description": "What the platform calls it. Another name is another thing.", "willReplaceOnChanges": true,
	}
	resources := map[string]any{}
	for token, k := range v.kinds {
		spec := "How it should be." + listed("Secret", k.Secrets()) + listed("What replaces the thing when it changes", k.Replaces())
		computed := "What is known only after it was made." + listed("Members", k.Computed())
		resources[token] = map[string]any{
			"description":     "A " + token[strings.LastIndex(token, ":")+1:] + " of Taskfleet.",
			"inputProperties": map[string]any{"name": name, "spec": object(spec)},
			"requiredInputs":  []string{"name", "spec"},
			"properties": map[string]any{
				"name": name, "spec": object(spec + " It is completed with what there is."), "computed": object(computed),
			},
			"required": []string{"computed", "name", "spec"},
		}
	}
	schema := map[string]any{
		"name": Name, "displayName": "Taskfleet", "description": "What a deployment of Taskfleet consists of.",
		"homepage": "https://github.com/taskfleet/taskfleet", "license": "Apache-2.0", "resources": resources,
	}
	if version = strings.TrimPrefix(version, "v"); release.MatchString(version) {
		schema["version"] = version
	}
	out, err := json.Marshal(schema)
	return string(out), err
}
