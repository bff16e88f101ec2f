package stacks

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	yaml "go.yaml.in/yaml/v3"

	"github.com/taskfleet/taskfleet/resource"
)

// A reader reads YAML into structs, whose fields have JSON names, and collects what is wrong, with its lines.
type reader struct {
	file  string
	lines map[string]int // by member, such as platform.replicas
	errs  []error
	nodes int
}

// Limits of what is read: values with aliases written out, and how deep they are.
const (
	mostNodes = 100_000
	deepest   = 50
)

func (r *reader) err() error {
	if len(r.errs) > 20 {
		r.errs = append(r.errs[:20:20], fmt.Errorf("and %d more mistakes", len(r.errs)-20))
	}
	return errors.Join(r.errs...)
}

// fail tells what is wrong with a member, at its line or that of what it is missing in.
func (r *reader) fail(member, format string, args ...any) {
	line := 1
	for m := member; m != ""; m = m[:max(strings.LastIndexAny(m, ".["), 0)] {
		if r.lines[m] > 0 {
			line = r.lines[m]
			break
		}
	}
	r.errs = append(r.errs, fmt.Errorf("%s:%d: "+format, append([]any{r.file, line}, args...)...))
}

// has is the member if it was given.
func (r *reader) has(member string) string {
	if r.lines[member] > 0 {
		return member
	}
	return ""
}

func (r *reader) read(n *yaml.Node, into any, member string) {
	r.value(n, reflect.ValueOf(into).Elem(), member, deepest)
}

func follow(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

var (
	unmarshalerType = reflect.TypeFor[json.Unmarshaler]()
	rawType         = reflect.TypeFor[json.RawMessage]()
)

// value reads a node into v. What is null is left out.
func (r *reader) value(n *yaml.Node, v reflect.Value, member string, depth int) {
	n = follow(n)
	if r.nodes++; r.nodes > mostNodes || depth == 0 {
		if r.nodes <= mostNodes+1 {
			r.fail(member, "the document is too deep, or too large with its aliases written out")
		}
		return
	}
	if r.lines[member] == 0 {
		r.lines[member] = n.Line
	}
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" {
		return
	}
	wrong := func(want string) { r.fail(member, "%s must be %s, not %s", nameOf(member), want, sort(n)) }
	switch {
	case v.Type() == rawType || reflect.PointerTo(v.Type()).Implements(unmarshalerType):
		text, err := json.Marshal(r.tree(n, member, depth))
		if err == nil {
			err = json.Unmarshal(text, v.Addr().Interface())
		}
		if err != nil {
			r.fail(member, "%s: %s", nameOf(member), strings.TrimPrefix(err.Error(), "json: "))
		}
	case v.Kind() == reflect.Interface:
		if of := r.tree(n, member, depth); of != nil {
			v.Set(reflect.ValueOf(of))
		}
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		r.value(n, v.Elem(), member, depth)
	case v.Kind() == reflect.Struct:
		if n.Kind != yaml.MappingNode {
			wrong("a mapping")
			return
		}
		known := map[string][]int{}
		for _, f := range reflect.VisibleFields(v.Type()) {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); f.IsExported() && name != "-" && name != "" {
				known[name] = f.Index
			}
		}
		r.fields(n, member, func(name, of string, value *yaml.Node, line int) {
			index, ok := known[name]
			if !ok {
				r.errs = append(r.errs, fmt.Errorf("%s:%d: %s has no field %.100q; %s", r.file, line, nameOf(member), name, resource.Suggest(name, slices.Collect(maps.Keys(known)))))
				return
			}
			r.value(value, v.FieldByIndex(index), of, depth-1)
		})
	case v.Kind() == reflect.Map:
		if n.Kind != yaml.MappingNode {
			wrong("a mapping")
			return
		}
		v.Set(reflect.MakeMap(v.Type()))
		r.fields(n, member, func(name, of string, value *yaml.Node, _ int) {
			x := reflect.New(v.Type().Elem()).Elem()
			r.value(value, x, of, depth-1)
			v.SetMapIndex(reflect.ValueOf(name), x)
		})
	case v.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			wrong("a list")
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, of := range n.Content {
			r.value(of, v.Index(i), fmt.Sprintf("%s[%d]", member, i), depth-1)
		}
	case v.Kind() == reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!bool" || n.Decode(v.Addr().Interface()) != nil {
			wrong("true or false")
		}
	case v.CanInt():
		i, err := strconv.ParseInt(n.Value, 10, 64)
		if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil || v.OverflowInt(i) {
			wrong("a whole number")
			return
		}
		v.SetInt(i)
	case v.CanFloat():
		f, err := strconv.ParseFloat(n.Value, 64)
		if n.Kind != yaml.ScalarNode || err != nil {
			wrong("a number")
			return
		}
		v.SetFloat(f)
	case n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str":
		wrong("text; put it in quotes if it is meant as such")
	default:
		v.SetString(n.Value)
	}
}

// fields tells each entry of a mapping once.
func (r *reader) fields(n *yaml.Node, member string, entry func(name, of string, value *yaml.Node, line int)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := follow(n.Content[i])
		if key.Kind != yaml.ScalarNode || key.Tag == "!!merge" {
			r.errs = append(r.errs, fmt.Errorf("%s:%d: a name in %s must be a word", r.file, key.Line, nameOf(member)))
			continue
		}
		of := strings.TrimPrefix(member+"."+key.Value, ".")
		if first := seen[key.Value]; first > 0 {
			r.errs = append(r.errs, fmt.Errorf("%s:%d: %s has %.100q twice; the first is in line %d", r.file, key.Line, nameOf(member), key.Value, first))
			continue
		}
		seen[key.Value], r.lines[of] = key.Line, key.Line
		entry(key.Value, of, n.Content[i+1], key.Line)
	}
}

// tree is any value, as JSON has it.
func (r *reader) tree(n *yaml.Node, member string, depth int) any {
	n = follow(n)
	if r.nodes++; r.nodes > mostNodes || depth == 0 {
		if r.nodes <= mostNodes+1 {
			r.fail(member, "the document is too deep, or too large with its aliases written out")
		}
		return nil
	}
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		r.fields(n, member, func(name, of string, value *yaml.Node, _ int) { m[name] = r.tree(value, of, depth-1) })
		return m
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, of := range n.Content {
			list[i] = r.tree(of, fmt.Sprintf("%s[%d]", member, i), depth-1)
		}
		return list
	}
	var v any
	switch n.ShortTag() {
	case "!!null", "!!bool", "!!int", "!!float":
		if n.Decode(&v) == nil {
			return v
		}
	}
	return n.Value
}

func nameOf(member string) string {
	if member == "" {
		return "the file"
	}
	return member
}

// sort says what a node is, without its value.
func sort(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		return "true or false"
	}
	return "a word"
}
