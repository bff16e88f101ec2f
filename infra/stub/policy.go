package stub

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// policyVersion is the version of the language unless a document says another.
const policyVersion = "2012-10-17"

// A policyDocument is one of IAM's, in the order in which its parts are written.
// The grammar is in the IAM user guide, "Grammar of the IAM JSON policy language".
type policyDocument struct {
	Version   string            `json:"Version,omitempty"`
	ID        string            `json:"Id,omitempty"`
	Statement []policyStatement `json:"Statement"`
}

// UnmarshalJSON accepts a single statement that is not in a list.
func (d *policyDocument) UnmarshalJSON(b []byte) error {
	var raw struct {
		Version   string
		ID        string `json:"Id"`
		Statement json.RawMessage
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	d.Version, d.ID = raw.Version, raw.ID
	if len(raw.Statement) == 0 {
		return nil
	}
	if bytes.HasPrefix(bytes.TrimSpace(raw.Statement), []byte("{")) {
		d.Statement = make([]policyStatement, 1)
		return json.Unmarshal(raw.Statement, &d.Statement[0])
	}
	return json.Unmarshal(raw.Statement, &d.Statement)
}

type policyStatement struct {
	Sid          string                      `json:"Sid,omitempty"`
	Effect       string                      `json:"Effect,omitempty"`
	Principal    policyPrincipals            `json:"Principal,omitempty"`
	NotPrincipal policyPrincipals            `json:"NotPrincipal,omitempty"`
	Action       oneOrMore                   `json:"Action,omitempty"`
	NotAction    oneOrMore                   `json:"NotAction,omitempty"`
	Resource     oneOrMore                   `json:"Resource,omitempty"`
	NotResource  oneOrMore                   `json:"NotResource,omitempty"`
	Condition    map[string]policyConditions `json:"Condition,omitempty"`
}

// policyConditions are the values by the key that they are compared with.
type policyConditions map[string]oneOrMore

// oneOrMore is written as a string if it is one.
type oneOrMore []string

// MarshalJSON writes a string or a list.
func (o oneOrMore) MarshalJSON() ([]byte, error) {
	if len(o) == 1 {
		return encode(o[0])
	}
	return encode([]string(o))
}

// UnmarshalJSON reads a string, a number or a boolean, or a list of these.
func (o *oneOrMore) UnmarshalJSON(b []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(b))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return err
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	*o = nil
	for _, e := range list {
		switch e.(type) {
		case string, bool, json.Number:
			*o = append(*o, fmt.Sprint(e))
		default:
			return fmt.Errorf("%s is not a string or a list of strings", b)
		}
	}
	return nil
}

// policyPrincipals are identifiers by type. Everybody is the type "*".
type policyPrincipals map[string]oneOrMore

// MarshalJSON writes "*" or an object.
func (p policyPrincipals) MarshalJSON() ([]byte, error) {
	if _, everybody := p["*"]; everybody {
		return []byte(`"*"`), nil
	}
	return encode(map[string]oneOrMore(p))
}

// UnmarshalJSON reads what MarshalJSON writes.
func (p *policyPrincipals) UnmarshalJSON(b []byte) error {
	if string(bytes.TrimSpace(b)) == `"*"` {
		*p = policyPrincipals{"*": {"*"}}
		return nil
	}
	return json.Unmarshal(b, (*map[string]oneOrMore)(p))
}

// encode writes JSON in which &, < and > are themselves, as policies have them.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// policyJSON renders the data source aws_iam_policy_document from its arguments, indented by two spaces and without
// spaces. Statements of sources come first, then those of the document, which replace sources' with the same Sid, then
// those of overrides, which replace any with the same Sid.
func policyJSON(arguments map[string]any) (indented, minified string, err error) {
	document := policyDocument{Version: policyVersion, Statement: []policyStatement{}}
	sources := texts(arguments["source_policy_documents"])
	if s, _ := arguments["source_json"].(string); s != "" {
		sources = append([]string{s}, sources...)
	}
	seen := map[string]bool{}
	for i, s := range sources {
		d, err := readPolicy(s)
		if err != nil {
			return "", "", fmt.Errorf("source_policy_documents[%d]: %w", i, err)
		}
		for _, statement := range d.Statement {
			if statement.Sid != "" && seen[statement.Sid] {
				return "", "", fmt.Errorf("source_policy_documents[%d]: another document has a statement with sid %q: rename one, or use override_policy_documents", i, statement.Sid)
			}
			seen[statement.Sid] = true
		}
		document.merge(d)
	}
	own, err := ownPolicy(arguments)
	if err != nil {
		return "", "", err
	}
	document.merge(own)
	overrides := texts(arguments["override_policy_documents"])
	if s, _ := arguments["override_json"].(string); s != "" {
		overrides = append(overrides, s)
	}
	for i, s := range overrides {
		d, err := readPolicy(s)
		if err != nil {
			return "", "", fmt.Errorf("override_policy_documents[%d]: %w", i, err)
		}
		document.merge(d)
	}
	short, err := encode(document)
	if err != nil {
		return "", "", err
	}
	var long bytes.Buffer
	if err := json.Indent(&long, short, "", "  "); err != nil {
		return "", "", err
	}
	return long.String(), string(short), nil
}

func readPolicy(s string) (policyDocument, error) {
	var d policyDocument
	if strings.TrimSpace(s) == "" {
		return d, nil
	}
	if err := json.Unmarshal([]byte(s), &d); err != nil {
		return d, fmt.Errorf("not a policy document in JSON: %w", err)
	}
	return d, nil
}

// merge takes over what other says.
func (d *policyDocument) merge(other policyDocument) {
	if other.ID != "" {
		d.ID = other.ID
	}
	if other.Version != "" {
		d.Version = other.Version
	}
	for _, statement := range other.Statement {
		at := slices.IndexFunc(d.Statement, func(s policyStatement) bool { return s.Sid != "" && s.Sid == statement.Sid })
		if at < 0 {
			d.Statement = append(d.Statement, statement)
			continue
		}
		d.Statement[at] = statement
	}
}

// ownPolicy is what the arguments say themselves.
func ownPolicy(arguments map[string]any) (policyDocument, error) {
	document := policyDocument{}
	document.ID, _ = arguments["policy_id"].(string)
	document.Version, _ = arguments["version"].(string)
	if document.Version != "" && document.Version != policyVersion && document.Version != "2008-10-17" {
		return document, fmt.Errorf("version: %q is not a version of the policy language: use %q", document.Version, policyVersion)
	}
	sids := map[string]bool{}
	for i, s := range blocks(arguments["statement"]) {
		statement := policyStatement{Effect: "Allow"}
		at := fmt.Sprintf("statement[%d]", i)
		statement.Sid, _ = s["sid"].(string)
		if statement.Sid != "" && sids[statement.Sid] {
			return document, fmt.Errorf("%s: another statement has the sid %q: rename one", at, statement.Sid)
		}
		sids[statement.Sid] = true
		if effect, _ := s["effect"].(string); effect != "" {
			statement.Effect = effect
		}
		if statement.Effect != "Allow" && statement.Effect != "Deny" {
			return document, fmt.Errorf("%s: effect %q is neither \"Allow\" nor \"Deny\"", at, statement.Effect)
		}
		substitute := func(list []string) (oneOrMore, error) {
			for i, e := range list {
				if strings.Contains(e, "&{") && document.Version == "2008-10-17" {
					return nil, fmt.Errorf("%s: %q: variables want version %q", at, e, policyVersion)
				}
				list[i] = strings.ReplaceAll(e, "&{", "${")
			}
			return list, nil
		}
		for name, field := range map[string]*oneOrMore{
			"actions": &statement.Action, "not_actions": &statement.NotAction,
			"resources": &statement.Resource, "not_resources": &statement.NotResource,
		} {
			list := texts(s[name])
			slices.Sort(list)
			var err error
			if *field, err = substitute(list); err != nil {
				return document, err
			}
		}
		for name, field := range map[string]*policyPrincipals{"principals": &statement.Principal, "not_principals": &statement.NotPrincipal} {
			for _, p := range blocks(s[name]) {
				kind, _ := p["type"].(string)
				identifiers, err := substitute(texts(p["identifiers"]))
				if err != nil {
					return document, err
				}
				if *field == nil {
					*field = policyPrincipals{}
				}
				all := append((*field)[kind], identifiers...)
				slices.Sort(all)
				(*field)[kind] = slices.Compact(all)
			}
		}
		for _, c := range blocks(s["condition"]) {
			test, _ := c["test"].(string)
			variable, _ := c["variable"].(string)
			values, err := substitute(texts(c["values"]))
			if err != nil {
				return document, err
			}
			if statement.Condition == nil {
				statement.Condition = map[string]policyConditions{}
			}
			if statement.Condition[test] == nil {
				statement.Condition[test] = policyConditions{}
			}
			statement.Condition[test][variable] = append(statement.Condition[test][variable], values...)
		}
		document.Statement = append(document.Statement, statement)
	}
	return document, nil
}

// texts are the strings of a list.
func texts(v any) []string {
	var result []string
	list, _ := v.([]any)
	for _, e := range list {
		if s, ok := e.(string); ok {
			result = append(result, s)
		}
	}
	return result
}

// blocks are the objects of a list.
func blocks(v any) []map[string]any {
	var result []map[string]any
	list, _ := v.([]any)
	for _, e := range list {
		if m, ok := e.(map[string]any); ok {
			result = append(result, m)
		}
	}
	return result
}
