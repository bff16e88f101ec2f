package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strings"
)

// A schema is the part of JSON Schema that the services use.
type schema struct {
	Title, Description string
	Ref                string `json:"$ref"`
	Type               string
	Format             string
	Maximum            *float64
	Default            json.RawMessage
	Enum               []any
	Const              any
	Properties         map[string]*schema
	Definitions        map[string]*schema
	Required           []string
	// AdditionalProperties is a schema, a boolean, or absent.
	AdditionalProperties json.RawMessage
	Items                *schema
	OneOf, AnyOf         []*schema
}

// types writes the types of one service.
type types struct {
	*service
	source
	done map[string]string // Go type -> where it comes from
}

func typesFile(s *service) ([]byte, error) {
	t := &types{service: s, done: map[string]string{}}
	for file, whole := range s.Schemas {
		whole.absolute(file)
	}
	for _, file := range slices.Sorted(maps.Keys(s.Schemas)) {
		whole := s.Schemas[file]
		for _, name := range slices.Sorted(maps.Keys(whole.Definitions)) {
			if d := whole.Definitions[name]; d.Type == "object" && len(d.Properties) > 0 {
				if err := t.declare(typeName(file)+goName(name), file+"#/definitions/"+name, d); err != nil {
					return nil, fmt.Errorf("%s: %w", file, err)
				}
			}
		}
		if whole.Type == "" && len(whole.Definitions) > 0 {
			continue // a place for these, and no type
		}
		if err := t.declare(typeName(file), file, whole); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return t.finish("", s.packageName())
}

// typeName is the Go type of a schema file.
func typeName(file string) string { return goName(strings.TrimSuffix(file, ".json")) }

// declare writes the type called name for a schema. The types of objects
// within it follow.
func (t *types) declare(name, origin string, s *schema) error {
	if other := t.done[name]; other != "" {
		return fmt.Errorf("both %s and %s would be called %s", other, origin, name)
	}
	t.done[name] = origin
	s = t.merged(s)
	doc := docComment(0, name+": "+lowerFirst(s.Description))
	if s.Description == "" {
		doc = fmt.Sprintf("// %s is the type of %s.\n", name, origin)
	}
	if s.Type != "object" || len(s.Properties) == 0 {
		later := &nested{types: t}
		goType, err := later.typeOf(name+"Item", s)
		if err != nil {
			return err
		}
		t.printf("\n%stype %s %s\n", doc, name, goType)
		return later.declare()
	}
	later := &nested{types: t}
	t.printf("\n%stype %s struct {\n", doc, name)
	for i, p := range members(s) {
		if err := later.field(name, p, s.Properties[p], slices.Contains(s.Required, p), i > 0); err != nil {
			return err
		}
	}
	t.printf("}\n")
	return later.declare()
}

// members lists the required properties in their order, then the others.
func members(s *schema) []string {
	var out []string
	for _, p := range s.Required {
		if s.Properties[p] != nil && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(s.Properties)) {
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// nested collects the object types met within a type, to declare after it.
type nested struct {
	*types
	found []struct {
		name, origin string
		schema       *schema
	}
}

func (n *nested) declare() error {
	for _, f := range n.found {
		if err := n.types.declare(f.name, f.origin, f.schema); err != nil {
			return err
		}
	}
	return nil
}

func (n *nested) field(owner, property string, s *schema, required, gap bool) error {
	target, err := n.resolve(s)
	if err != nil {
		return err
	}
	if doc := target.Description; doc != "" && !n.wholeFile(s) {
		if gap {
			n.printf("\n")
		}
		n.printf("%s", docComment(1, doc))
	}
	var goType string
	if !required && !n.wholeFile(s) && target.Type == "array" { // nil is left out, so it need not be []
		goType, err = n.itemType(owner+goName(property), target)
		goType = "[]" + goType
	} else {
		goType, err = n.typeOf(owner+goName(property), s)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", property, err)
	}
	tag := property
	if !required {
		tag += ",omitzero"
		if pointed(target, goType) {
			goType = "*" + goType
		}
	}
	n.printf("\t%s %s `json:%q`\n", goName(property), goType, tag)
	return nil
}

// pointed reports whether an optional member needs a pointer: because its zero
// value is not what absence means, or because it is a struct.
func pointed(s *schema, goType string) bool {
	switch goType {
	case "int", "int64", "float64":
		return string(s.Default) != "0"
	case "bool":
		return string(s.Default) != "false"
	}
	return s.Type == "object" && len(s.Properties) > 0
}

// typeOf returns the Go type for a schema, in a place that gives a new type
// the name.
func (n *nested) typeOf(name string, s *schema) (string, error) {
	if s.Ref != "" {
		file, pointer, _ := strings.Cut(s.Ref, "#")
		file = strings.TrimPrefix(file, "./")
		if pointer == "" {
			if n.Schemas[file] == nil {
				return "", fmt.Errorf("$ref to %s, which does not exist", s.Ref)
			}
			return typeName(file), nil
		}
		target, err := n.resolve(s)
		if err != nil {
			return "", err
		}
		s = target
		if s.Type == "object" && len(s.Properties) > 0 {
			return typeName(file) + goName(path.Base(pointer)), nil // declared with the schema that it is in
		}
	}
	s = n.merged(s)
	switch kind(s) {
	case "string":
		if s.Format == "date-time" {
			n.use("github.com/taskfleet/taskfleet/timestamp")
			return "timestamp.Time", nil
		}
		return "string", nil
	case "integer":
		if s.Maximum != nil && *s.Maximum <= math.MaxInt32 {
			return "int", nil
		}
		if len(s.Enum) > 0 {
			return "int", nil
		}
		return "int64", nil
	case "number":
		return "float64", nil
	case "boolean":
		return "bool", nil
	case "array":
		n.use("github.com/taskfleet/taskfleet/client")
		item, err := n.itemType(name, s)
		return "client.List[" + item + "]", err
	case "object":
		if len(s.Properties) > 0 {
			n.found = append(n.found, struct {
				name, origin string
				schema       *schema
			}{name, "an object within another", s})
			return name, nil
		}
		var values *schema
		if err := json.Unmarshal(s.AdditionalProperties, &values); err == nil && values != nil {
			v, err := n.typeOf(name+"Value", values)
			return "map[string]" + v, err
		}
	}
	n.use("encoding/json")
	return "json.RawMessage", nil
}

// itemType returns the Go type for an item of a list that gives it the name.
func (n *nested) itemType(name string, list *schema) (string, error) {
	if list.Items == nil {
		n.use("encoding/json")
		return "json.RawMessage", nil
	}
	return n.typeOf(singular(name), list.Items)
}

// kind is the type of a schema, from its values where it does not say.
func kind(s *schema) string {
	values := s.Enum
	if s.Const != nil {
		values = []any{s.Const}
	}
	if s.Type != "" || len(values) == 0 {
		return s.Type
	}
	same := ""
	for _, v := range values {
		k := ""
		switch v := v.(type) {
		case string:
			k = "string"
		case bool:
			k = "boolean"
		case float64:
			if k = "number"; v == math.Trunc(v) {
				k = "integer"
			}
		}
		if same != "" && same != k {
			return ""
		}
		same = k
	}
	return same
}

// wholeFile reports whether s stands for a schema with a file of its own, which
// is documented there.
func (t *types) wholeFile(s *schema) bool { return strings.HasSuffix(s.Ref, "#") }

// resolve follows $ref to a schema, or a property or definition of one.
func (t *types) resolve(s *schema) (*schema, error) {
	for depth := 0; s.Ref != ""; depth++ {
		file, pointer, _ := strings.Cut(s.Ref, "#")
		target := t.Schemas[strings.TrimPrefix(file, "./")]
		if pointer != "" && target != nil {
			var err error
			if target, err = target.at(pointer); err != nil {
				return nil, fmt.Errorf("$ref to %s: %w", s.Ref, err)
			}
		}
		if target == nil || depth > 10 {
			return nil, fmt.Errorf("$ref to %s, which does not exist", s.Ref)
		}
		own := s.Default
		s = target
		if own != nil { // stands beside the $ref and overrides
			c := *s
			c.Default = own
			s = &c
		}
	}
	return s, nil
}

// at is the part of a schema at a JSON pointer, nil where there is none.
func (s *schema) at(pointer string) (*schema, error) {
	steps := strings.Split(strings.TrimPrefix(pointer, "/"), "/")
	for ; s != nil && len(steps) >= 2; steps = steps[2:] {
		switch steps[0] {
		case "properties":
			s = s.Properties[steps[1]]
		case "definitions":
			s = s.Definitions[steps[1]]
		default:
			return nil, errors.New("only whole schemas, their properties and definitions can be referred to")
		}
	}
	return s, nil
}

// absolute has references within a file name it.
func (s *schema) absolute(file string) {
	if s == nil {
		return
	}
	if strings.HasPrefix(s.Ref, "#") {
		s.Ref = file + s.Ref
	}
	for _, part := range slices.Concat(slices.Collect(maps.Values(s.Properties)), slices.Collect(maps.Values(s.Definitions)), s.OneOf, s.AnyOf, []*schema{s.Items}) {
		part.absolute(file)
	}
}

// merged makes one object of alternatives that one member tells apart.
// Members of all alternatives that require them stay required.
func (t *types) merged(s *schema) *schema {
	var alternatives []*schema
	for _, a := range s.OneOf {
		if whole, err := t.resolve(a); err == nil { // else it is said where it is used
			a = whole
		}
		alternatives = append(alternatives, a)
	}
	if s.Type != "" || len(alternatives) == 0 {
		return s
	}
	tells := ""
	for _, p := range alternatives[0].Required {
		if !slices.ContainsFunc(alternatives, func(a *schema) bool {
			return a.Type != "object" || a.Properties[p] == nil || single(a.Properties[p]) == ""
		}) {
			tells = p
			break
		}
	}
	if tells == "" {
		return s
	}
	out := &schema{Title: s.Title, Description: s.Description, Type: "object", Properties: map[string]*schema{}, Required: slices.Clone(alternatives[0].Required)}
	var forms []string
	docs := map[string][]formDoc{}
	for _, a := range alternatives {
		form := single(a.Properties[tells])
		forms = append(forms, form)
		out.Required = slices.DeleteFunc(out.Required, func(p string) bool { return !slices.Contains(a.Required, p) })
		for name, p := range a.Properties {
			if out.Properties[name] == nil {
				c := *p
				c.Type, c.Enum, c.Const = kind(p), nil, nil
				out.Properties[name] = &c
			}
			docs[name] = addForm(docs[name], form, p.Description)
		}
	}
	for name, p := range out.Properties {
		if name == tells {
			p.Description = "Which form it has: " + quoted(forms, "or") + "."
		} else if d := docs[name]; len(d) > 1 || len(d[0].forms) < len(forms) {
			var lines []string
			for _, f := range d {
				lines = append(lines, "With "+quoted(f.forms, "and")+": "+lowerFirst(cmp.Or(f.text, "see its type.")))
			}
			p.Description = strings.Join(lines, "\n\n")
		}
	}
	return out
}

// A formDoc is what a member means in some of the forms that an object can have.
type formDoc struct {
	forms []string
	text  string
}

func addForm(docs []formDoc, form, text string) []formDoc {
	for i, d := range docs {
		if d.text == text {
			docs[i].forms = append(d.forms, form)
			return docs
		}
	}
	return append(docs, formDoc{[]string{form}, text})
}

// single is the only value that a schema allows, "" if there are more.
func single(s *schema) string {
	v := s.Const
	if v == nil && len(s.Enum) == 1 {
		v = s.Enum[0]
	}
	text, _ := v.(string)
	return text
}

func quoted(list []string, and string) string {
	var q []string
	for _, s := range list {
		q = append(q, "`"+s+"`")
	}
	if len(q) < 2 {
		return strings.Join(q, "")
	}
	return strings.Join(q[:len(q)-1], ", ") + " " + and + " " + q[len(q)-1]
}

func lowerFirst(s string) string {
	if len(s) > 1 && s[1] >= 'a' && s[1] <= 'z' || strings.HasPrefix(s, "A ") {
		return strings.ToLower(s[:1]) + s[1:]
	}
	return s
}
