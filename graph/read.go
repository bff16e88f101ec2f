package graph

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
	yaml "go.yaml.in/yaml/v3"
)

// A reader turns the nodes of one YAML file into values and collects what is
// wrong with them, each with its line. It returns zero values for what it could
// not read, so that reading goes on to the next mistake.
type reader struct {
	file     string
	errs     []error
	failures int
	budget   int  // nodes that may still be visited: aliases can make a small file large
	spent    bool // whether that was reported
}

const (
	maxNodes = 1 << 20
	maxDepth = 100
	maxErrs  = 20
)

// fail records a mistake at n. One in the defaults is met for every task.
func (r *reader) fail(n *yaml.Node, format string, args ...any) {
	r.failures++
	if r.failures > 100*maxErrs {
		return
	}
	err := fmt.Errorf("%s:%d: %w", r.file, n.Line, fmt.Errorf(format, args...))
	if !slices.ContainsFunc(r.errs, func(e error) bool { return e.Error() == err.Error() }) {
		r.errs = append(r.errs, err)
	}
}

// err is all that was wrong, nil if nothing was.
func (r *reader) err() error {
	list := r.errs
	if len(list) > maxErrs {
		list = append(slices.Clone(list[:maxErrs]), fmt.Errorf("%s: and %d more mistakes", r.file, len(list)-maxErrs))
	}
	return errors.Join(list...)
}

// document returns the top of a file.
func (r *reader) document(text []byte) *yaml.Node {
	r.budget = maxNodes
	var n yaml.Node
	if err := yaml.Unmarshal(text, &n); err != nil {
		hint := ""
		if line, found := lineOf(text, err); found && strings.Contains(line, "${") && strings.ContainsAny(line, "[{") {
			hint = `; inside [ ] and { } a value with ${...} needs quotes: "${...}"`
		}
		r.errs = append(r.errs, fmt.Errorf("%s is not valid YAML: %s%s", r.file, strings.TrimPrefix(err.Error(), "yaml: "), hint))
		return nil
	}
	if n.Kind != yaml.DocumentNode || len(n.Content) != 1 || !r.bounded(n.Content[0], maxDepth) {
		if len(r.errs) == 0 {
			r.errs = append(r.errs, fmt.Errorf("%s is empty", r.file))
		}
		return nil
	}
	return r.follow(n.Content[0])
}

// bounded refuses documents that are too deep or that aliases blow up, before
// anything walks them.
func (r *reader) bounded(n *yaml.Node, depth int) bool {
	r.budget--
	if depth == 0 || r.budget < 0 {
		if !r.spent {
			r.spent = true
			r.fail(n, "the document is too deep or, with its aliases written out, too large")
		}
		return false
	}
	if n.Kind == yaml.AliasNode {
		return r.bounded(n.Alias, depth-1)
	}
	for _, c := range n.Content {
		if !r.bounded(c, depth-1) {
			return false
		}
	}
	return true
}

var errorLine = regexp.MustCompile(`line (\d+)`)

// lineOf finds the line that a syntax error speaks of. The library counts from
// 0 in some of them, so the line after counts too.
func lineOf(text []byte, err error) (string, bool) {
	m := errorLine.FindStringSubmatch(err.Error())
	if m == nil {
		return "", false
	}
	n, _ := strconv.Atoi(m[1])
	lines := strings.Split(string(text), "\n")
	if n < 1 || n > len(lines) {
		return "", false
	}
	return strings.Join(lines[n-1:min(n+1, len(lines))], "\n"), true
}

func (r *reader) follow(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// A field is one entry of a mapping.
type field struct {
	name string
	key  *yaml.Node
	node *yaml.Node
}

// fields returns the entries of a mapping in their order, with those of <<
// merged in: an entry that is written out wins over a merged one.
func (r *reader) fields(n *yaml.Node, what string) []field {
	if isNull(n) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		r.fail(n, "%s must be a mapping of names to values, not %s", what, kindOf(n))
		return nil
	}
	var own, merged []field
	at := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := r.follow(n.Content[i]), r.follow(n.Content[i+1])
		switch {
		case key.Kind != yaml.ScalarNode:
			r.fail(key, "a name in %s must be a word, not %s", what, kindOf(key))
		case key.Tag == "!!merge":
			bases := []*yaml.Node{value}
			if value.Kind == yaml.SequenceNode {
				bases = value.Content
			}
			for _, b := range bases {
				merged = append(merged, r.fields(r.follow(b), what+"'s <<")...)
			}
		case at[key.Value] > 0:
			r.fail(key, "%s has %s twice; the first is in line %d", what, key.Value, at[key.Value])
		default:
			at[key.Value] = key.Line
			own = append(own, field{key.Value, key, value})
		}
	}
	for _, f := range merged {
		if at[f.name] == 0 {
			at[f.name] = f.key.Line
			own = append(own, f)
		}
	}
	return own
}

// A table maps the names of fields to what reads them.
type table map[string]func(n *yaml.Node)

// object reads a mapping whose fields are known.
func (r *reader) object(n *yaml.Node, what string, known table) {
	for _, f := range r.fields(n, what) {
		if read := known[f.name]; read != nil {
			if !isNull(f.node) {
				read(f.node)
			}
			continue
		}
		names := make([]string, 0, len(known))
		for name := range known {
			names = append(names, name)
		}
		r.fail(f.key, "%s has no field %q; %s", what, f.name, suggest(f.name, names))
	}
}

// items returns the elements of a sequence.
func (r *reader) items(n *yaml.Node, what string) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		r.fail(n, "%s must be a list, not %s", what, kindOf(n))
		return nil
	}
	list := make([]*yaml.Node, len(n.Content))
	for i, c := range n.Content {
		list[i] = r.follow(c)
	}
	return list
}

// scalar returns the text of a single value. Numbers and booleans are taken as
// they were written: 1.10 stays 1.10.
func (r *reader) scalar(n *yaml.Node, what string) string {
	if n.Kind != yaml.ScalarNode || isNull(n) {
		r.fail(n, "%s must be a single value, not %s", what, kindOf(n))
		return ""
	}
	if strings.ContainsRune(n.Value, 0) {
		r.fail(n, "%s has a NUL character", what)
		return ""
	}
	return n.Value
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func kindOf(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case isNull(n):
		return "nothing"
	}
	return strconv.Quote(shorten(n.Value, 40))
}

func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

const maxNamed = 30

// suggest names the known name that is nearest to one that is not, or all.
func suggest(name string, known []string) string {
	slices.Sort(known)
	best, distance := "", 3
	for _, k := range known {
		if len(name) > 64 || len(k) > 64 {
			continue
		}
		if d := levenshtein.ComputeDistance(name, k); d < distance {
			best, distance = k, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	switch {
	case len(known) == 0:
		return "there are none"
	case len(known) > maxNamed:
		return fmt.Sprintf("there are %s and %d more", strings.Join(known[:maxNamed], ", "), len(known)-maxNamed)
	}
	return "there are " + strings.Join(known, ", ")
}

// number reads a JSON number out of a plain YAML scalar.
func number(n *yaml.Node) (any, error) {
	var v any
	if err := n.Decode(&v); err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	switch x := v.(type) {
	case float64:
		if math.IsInf(x, 0) || math.IsNaN(x) {
			return nil, fmt.Errorf("%s has no counterpart in JSON", n.Value)
		}
	case int, int64, uint64:
	default:
		return nil, fmt.Errorf("%s is no number", n.Value)
	}
	return v, nil
}

// compact is the JSON of a value that was read here, which always has one.
func compact(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("graph: %T from YAML has no JSON: %v", v, err))
	}
	return b
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
