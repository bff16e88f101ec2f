package stub

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestPolicyDocument(t *testing.T) {
	for _, c := range []struct {
		name      string
		arguments string // JSON, as the language's arguments
		want      string // without spaces
	}{
		{"nothing", `{}`, `{"Version":"2012-10-17","Statement":[]}`},
		{
			"a statement",
			`{"statement": [{"sid": "Read", "actions": ["s3:GetObject"], "resources": ["arn:aws:s3:::b/*"]}]}`,
			`{"Version":"2012-10-17","Statement":[{"Sid":"Read","Effect":"Allow","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*"}]}`,
		},
		{
			"lists are sorted",
			`{"policy_id": "p", "statement": [{"effect": "Deny", "not_actions": ["b:B", "a:A"], "not_resources": ["y", "x"]}]}`,
			`{"Version":"2012-10-17","Id":"p","Statement":[{"Effect":"Deny","NotAction":["a:A","b:B"],"NotResource":["x","y"]}]}`,
		},
		{
			"everybody",
			`{"statement": [{"actions": ["*"], "resources": ["*"], "principals": [{"type": "*", "identifiers": ["*"]}]}]}`,
			`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Resource":"*"}]}`,
		},
		{
			"principals of a type are one list",
			`{"statement": [{"actions": ["sts:AssumeRole"], "principals": [
				{"type": "AWS", "identifiers": ["b"]}, {"type": "AWS", "identifiers": ["a", "b"]}, {"type": "Service", "identifiers": ["ec2.amazonaws.com"]}]}]}`,
			`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":["a","b"],"Service":"ec2.amazonaws.com"},"Action":"sts:AssumeRole"}]}`,
		},
		{
			"conditions",
			`{"statement": [{"actions": ["a:A"], "resources": ["*"], "condition": [
				{"test": "StringLike", "variable": "s3:prefix", "values": ["home/&{aws:username}/*", "a"]},
				{"test": "StringLike", "variable": "aws:x", "values": ["<1>"]},
				{"test": "Bool", "variable": "aws:SecureTransport", "values": ["false"]}]}]}`,
			`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"a:A","Resource":"*","Condition":{"Bool":{"aws:SecureTransport":"false"},"StringLike":{"aws:x":"<1>","s3:prefix":["home/${aws:username}/*","a"]}}}]}`,
		},
		{
			"conditions with the same key are one list",
			`{"statement": [{"actions": ["a:A"], "resources": ["*"], "condition": [
				{"test": "StringEquals", "variable": "k", "values": ["b"]}, {"test": "StringEquals", "variable": "k", "values": ["a"]}]}]}`,
			`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"a:A","Resource":"*","Condition":{"StringEquals":{"k":["b","a"]}}}]}`,
		},
		{
			"sources, own, overrides",
			`{"source_policy_documents": ["{\"Version\":\"2012-10-17\",\"Statement\":{\"Sid\":\"A\",\"Effect\":\"Allow\",\"Action\":\"a:1\",\"Resource\":\"*\"}}", "{\"Statement\":[{\"Sid\":\"B\",\"Effect\":\"Allow\",\"Action\":[\"b:1\"],\"Resource\":\"*\"}]}", ""],
			  "statement": [{"sid": "A", "actions": ["a:2"], "resources": ["*"]}, {"sid": "C", "actions": ["c:1"], "resources": ["*"]}],
			  "override_policy_documents": ["{\"Statement\":[{\"Sid\":\"C\",\"Effect\":\"Deny\",\"Action\":\"c:2\",\"Resource\":\"*\",\"Principal\":\"*\"}]}"]}`,
			`{"Version":"2012-10-17","Statement":[{"Sid":"A","Effect":"Allow","Action":"a:2","Resource":"*"},{"Sid":"B","Effect":"Allow","Action":"b:1","Resource":"*"},{"Sid":"C","Effect":"Deny","Principal":"*","Action":"c:2","Resource":"*"}]}`,
		},
		{
			"the old version",
			`{"version": "2008-10-17", "statement": [{"actions": ["a:A"], "resources": ["*"]}]}`,
			`{"Version":"2008-10-17","Statement":[{"Effect":"Allow","Action":"a:A","Resource":"*"}]}`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			long, short, err := render(t, c.arguments)
			if err != nil {
				t.Fatal(err)
			}
			if short != c.want {
				t.Errorf("got  %s\nwant %s", short, c.want)
			}
			if strings.Count(long, "\n") < 3 || !strings.Contains(long, "\n  \"Version\": ") {
				t.Errorf("json is not indented by two spaces: %s", long)
			}
		})
	}
}

func TestPolicyDocumentRefused(t *testing.T) {
	for _, c := range []struct{ name, arguments, want string }{
		{"sid twice", `{"statement": [{"sid": "A"}, {"sid": "A"}]}`, `statement[1]: another statement has the sid "A"`},
		{"sid twice in sources", `{"source_policy_documents": ["{\"Statement\":[{\"Sid\":\"A\"}]}", "{\"Statement\":[{\"Sid\":\"A\"}]}"]}`, `source_policy_documents[1]`},
		{"effect", `{"statement": [{"effect": "allow"}]}`, `effect "allow"`},
		{"version", `{"version": "2012"}`, `version: "2012"`},
		{"variables in the old version", `{"version": "2008-10-17", "statement": [{"resources": ["&{x}"]}]}`, `variables want version`},
		{"source that is no JSON", `{"source_policy_documents": ["x"]}`, `source_policy_documents[0]: not a policy document`},
		{"override that is no JSON", `{"override_policy_documents": ["[]"]}`, `override_policy_documents[0]: not a policy document`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, _, err := render(t, c.arguments); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %s", err, c.want)
			}
		})
	}
}

func render(t *testing.T, arguments string) (long, short string, err error) {
	t.Helper()
	var parsed map[string]any
	if err := json.Unmarshal([]byte(arguments), &parsed); err != nil {
		t.Fatal(err)
	}
	return policyJSON(parsed)
}
