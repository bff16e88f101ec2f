package graph

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"

	yaml "go.yaml.in/yaml/v3"
)

// variables are what ${...} can stand for in some part of a file. A name leads
// to a value, or to the error of looking for it.
type variables struct {
	values map[string]string
	lookup map[string]func(name string) (string, error) // by what is before the colon
}

// with returns v and some more values.
func (v *variables) with(more map[string]string) *variables {
	w := &variables{map[string]string{}, v.lookup}
	for _, m := range []map[string]string{v.values, more} {
		for k, x := range m {
			w.values[k] = x
		}
	}
	return w
}

var (
	variableName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	variableStart = "${"
)

// expand replaces each ${...} in s.
func (v *variables) expand(s string) (string, error) {
	if !strings.Contains(s, variableStart) {
		return s, nil
	}
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, variableStart)
		if !found {
			b.WriteString(s)
			return b.String(), nil
		}
		if literal, escaped := strings.CutSuffix(before, "$"); escaped {
			b.WriteString(literal + variableStart)
			s = after
			continue
		}
		end := closing(after)
		if end < 0 {
			return "", fmt.Errorf("%q lacks its }; write $${ for a ${ that is not to be replaced", shorten(variableStart+after, 40))
		}
		name, rest := after[:end], after[end+1:]
		if strings.Contains(name, variableStart) { // as in ${task:work-${count}}
			var err error
			if name, err = v.expand(name); err != nil {
				return "", err
			}
		}
		value, err := v.value(name)
		if err != nil {
			return "", err
		}
		b.WriteString(before + value)
		s = rest
	}
}

// closing is where the } is that ends what s begins with; -1 if there is none.
func closing(s string) int {
	depth := 0
	for i := range len(s) {
		switch {
		case s[i] == '}' && depth == 0:
			return i
		case s[i] == '}':
			depth--
		case strings.HasPrefix(s[i:], variableStart):
			depth++
		}
	}
	return -1
}

func (v *variables) value(name string) (string, error) {
	if value, ok := v.values[name]; ok {
		return value, nil
	}
	if kind, rest, ok := strings.Cut(name, ":"); ok && v.lookup[kind] != nil {
		return v.lookup[kind](rest)
	}
	known := sortedKeys(v.values)
	for kind := range v.lookup {
		known = append(known, kind+":…")
	}
	return "", fmt.Errorf("nothing is called ${%s} here (%s); write $${%s} if it is the shell's", shorten(name, 40), suggest(name, known), shorten(name, 40))
}

// text is a single value with its variables replaced.
func (r *reader) text(n *yaml.Node, what string, vars *variables) string {
	s, err := vars.expand(r.scalar(n, what))
	if err != nil {
		r.fail(n, "%s: %w", what, err)
	}
	return s
}

// value is any value, as JSON has it, with its variables replaced.
func (r *reader) value(n *yaml.Node, what string, vars *variables) any {
	n = r.follow(n)
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for _, f := range r.fields(n, what) {
			m[f.name] = r.value(f.node, what+"."+f.name, vars)
		}
		return m
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for i, c := range n.Content {
			list = append(list, r.value(c, fmt.Sprintf("%s[%d]", what, i), vars))
		}
		return list
	}
	if isNull(n) {
		return nil
	}
	s := r.text(n, what, vars)
	if s != n.Value && s != "" && n.Style == 0 {
		n = &yaml.Node{Kind: yaml.ScalarNode, Value: s, Line: n.Line} // read again: it may be a number now
	}
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		return s == "true" || s == "True" || s == "TRUE"
	case "!!int", "!!float":
		x, err := number(n)
		if err != nil {
			r.fail(n, "%s: %w", what, err)
		}
		return x
	}
	return s
}

// parameters reads what a file declares and gives every parameter its value.
func (r *reader) parameters(n *yaml.Node, o Options) []Parameter {
	var list []Parameter
	defaults := &variables{
		values: map[string]string{},
		lookup: map[string]func(string) (string, error){
			"env": func(name string) (string, error) { return o.Env(name), nil },
			"go":  o.Go,
		},
	}
	for name, value := range map[string]string{"repository": o.Repository, "directory": o.Directory, "executable": o.Executable} {
		if value != "" {
			defaults.values[name] = value
		}
	}
	if n != nil {
		for _, f := range r.fields(n, "parameters") {
			if !variableName.MatchString(f.name) || reserved[f.name] {
				r.fail(f.key, "a parameter cannot be called %q: the name must be letters, digits and _, and none of "+reservedNames, f.name)
				continue
			}
			p := r.parameter(f, o, defaults)
			defaults.values[p.Name] = p.Value // for the defaults of those below
			list = append(list, p)
		}
	}
	for _, name := range sortedKeys(o.Parameters) {
		if !slices.ContainsFunc(list, func(p Parameter) bool { return p.Name == name }) {
			names := make([]string, len(list))
			for i, p := range list {
				names[i] = p.Name
			}
			r.errs = append(r.errs, fmt.Errorf("%s has no parameter %q, for which a value was given; %s", r.file, name, suggest(name, names)))
		}
	}
	return list
}

var reserved = map[string]bool{"group": true, "task": true, "env": true, "go": true, "repository": true, "directory": true, "executable": true}

var reservedNames = strings.Join(sortedKeys(reserved), ", ")

func (r *reader) parameter(f field, o Options, defaults *variables) Parameter {
	p := Parameter{Name: f.name}
	what := "parameter " + f.name
	var standard *yaml.Node
	if f.node.Kind == yaml.MappingNode {
		r.object(f.node, what, table{
			"description": func(n *yaml.Node) { p.Description = r.scalar(n, what+".description") },
			"default":     func(n *yaml.Node) { standard = n },
		})
	} else if !isNull(f.node) {
		standard = f.node
	}
	given, ok := o.Parameters[p.Name]
	switch {
	case ok:
		p.Value = given
	case standard != nil:
		p.Value = r.text(standard, what, defaults)
	default:
		r.fail(f.key, "the parameter %s has no default and was given no value; give one with --param %s=VALUE", p.Name, p.Name)
	}
	return p
}

func valuesOf(list []Parameter) map[string]string {
	m := map[string]string{}
	for _, p := range list {
		m[p.Name] = p.Value
	}
	return m
}

// goEnv asks the go command, once for all variables. Where there is none, all
// are empty.
func goEnv(name string) (string, error) {
	all, err := goEnvironment()
	if err != nil {
		return "", fmt.Errorf("the default asks for go env %s: %w; give the parameter a value with --param", name, err)
	}
	return all[name], nil
}

var goEnvironment = sync.OnceValues(func() (map[string]string, error) {
	out, err := exec.Command("go", "env", "-json").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
		}
		return nil, err
	}
	all := map[string]string{}
	if err := json.Unmarshal(out, &all); err != nil {
		return nil, fmt.Errorf("go env -json: %w", err)
	}
	return all, nil
})
