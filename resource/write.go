package resource

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	yaml "go.yaml.in/yaml/v3"
)

// Write writes a set as YAML, which Load reads as the same set. What has the usual value is left out. Values of
// secrets are in it if the set has them.
func (s *Set) Write(w io.Writer) error {
	top := &yaml.Node{Kind: yaml.MappingNode}
	if s.Managed != nil {
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for _, p := range s.Managed {
			list.Content = append(list.Content, textNode(p.text))
		}
		top.Content = append(top.Content, textNode("managed"), list)
	}
	for _, k := range Kinds() {
		section := &yaml.Node{Kind: yaml.MappingNode}
		list := slices.DeleteFunc(slices.Clone(s.Definitions), func(d *Definition) bool { return d.Kind != k })
		slices.SortFunc(list, func(a, b *Definition) int { return cmp.Compare(a.Name, b.Name) })
		for _, d := range list {
			n, err := d.node()
			if err != nil {
				return fmt.Errorf("%s: %w", d.ID(), err)
			}
			section.Content = append(section.Content, textNode(d.Name), n)
		}
		if len(list) > 0 {
			top.Content = append(top.Content, textNode(k.Section()), section)
		}
	}
	if len(top.Content) == 0 {
		_, err := io.WriteString(w, "{}\n")
		return err
	}
	return encode(w, top)
}

func encode(w io.Writer, n *yaml.Node) error {
	e := yaml.NewEncoder(w)
	e.SetIndent(2)
	if err := e.Encode(n); err != nil {
		return err
	}
	return e.Close()
}

// YAML is a document as lines of YAML, for people.
func YAML(document json.RawMessage) ([]string, error) {
	d := json.NewDecoder(bytes.NewReader(document))
	d.UseNumber()
	n, err := nodeOf(d)
	if err != nil {
		return nil, err
	}
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		return nil, nil
	}
	var b strings.Builder
	if err := encode(&b, n); err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n"), nil
}

// node is a definition as files have it.
func (d *Definition) node() (*yaml.Node, error) {
	v := d.Kind.blank()
	if err := json.Unmarshal(d.Document, v.Interface()); err != nil {
		return nil, err
	}
	d.Kind.lean(v.Interface())
	n := &yaml.Node{Kind: yaml.MappingNode}
	for i := range v.Elem().NumField() {
		of := v.Elem().Field(i)
		if of.IsZero() || of.Kind() == reflect.Slice && of.Len() == 0 {
			continue
		}
		text, err := marshal(of.Interface())
		if err != nil {
			return nil, err
		}
		x := json.NewDecoder(bytes.NewReader(text))
		x.UseNumber()
		value, err := nodeOf(x)
		if err != nil {
			return nil, err
		}
		name, _, _ := strings.Cut(v.Elem().Type().Field(i).Tag.Get("json"), ",")
		n.Content = append(n.Content, textNode(name), value)
	}
	if len(n.Content) == 0 {
		n.Style = yaml.FlowStyle // {}
	}
	return n, nil
}

// nodeOf is the JSON value that comes next, its members in their order.
func nodeOf(d *json.Decoder) (*yaml.Node, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		n := &yaml.Node{Kind: yaml.MappingNode}
		if t == '[' {
			n.Kind = yaml.SequenceNode
		}
		for d.More() {
			if n.Kind == yaml.MappingNode {
				name, err := d.Token()
				if err != nil {
					return nil, err
				}
				n.Content = append(n.Content, textNode(name.(string)))
			}
			of, err := nodeOf(d)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, of)
		}
		if len(n.Content) == 0 {
			n.Style = yaml.FlowStyle
		}
		_, err := d.Token()
		return n, err
	case string:
		return textNode(t), nil
	case json.Number:
		tag := "!!float" // so are whole numbers that have no 64 bits
		if _, err := strconv.ParseInt(t.String(), 10, 64); err == nil {
			tag = "!!int"
		} else if _, err := strconv.ParseUint(t.String(), 10, 64); err == nil {
			tag = "!!int"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: t.String()}, nil
	}
	n := &yaml.Node{}
	err = n.Encode(t)
	return n, err
}

// textNode is text that is read as such, whatever is in it.
func textNode(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	odd := func(r rune) bool {
		return r != '\n' && unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r == '\ufeff' || r == utf8.RuneError
	}
	switch {
	case strings.ContainsFunc(s, odd):
		n.Style = yaml.DoubleQuotedStyle
	case !strings.Contains(s, "\n"):
		var plain yaml.Node
		if plain.Encode(s) == nil { // knows what has to be in quotes
			n.Style = plain.Style
		}
	case strings.HasPrefix(s, " ") || strings.HasPrefix(s, "\n") || strings.HasSuffix(s, "\n\n") || strings.Contains(s, " \n") || strings.HasSuffix(s, " "):
		n.Style = yaml.DoubleQuotedStyle // blocks of lines say these in ways that nobody reads
	default:
		n.Style = yaml.LiteralStyle
	}
	return n
}
