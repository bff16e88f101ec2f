package resource

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/agnivade/levenshtein"
	yaml "go.yaml.in/yaml/v3"

	"github.com/taskfleet/taskfleet/timestamp"
)

// Limits of what is read.
const (
	mostFiles   = 10_000
	largestFile = 16 << 20
	largestAll  = 64 << 20
	mostNodes   = 1 << 20 // values in a file, with aliases written out
	deepest     = 100
)

// Load reads a set from files, and from the files *.yml and *.yaml in directories and those below; - is stdin.
// Errors name file and line, and have no values of secrets in them.
func Load(stdin io.Reader, paths ...string) (*Set, error) {
	s := &Set{}
	var wrong []error
	size := 0
	for _, path := range paths {
		files, err := filesAt(path)
		if err != nil {
			return nil, err
		}
		if len(files) == 0 {
			// Beside other paths, too: what was meant to be here would be taken for undefined, and deleted.
			return nil, fmt.Errorf("there is no file *.yml or *.yaml in %s", path)
		}
		for _, file := range files {
			if s.Files++; s.Files > mostFiles {
				return nil, fmt.Errorf("there are more than %d files", mostFiles)
			}
			text, open, err := readFile(stdin, file)
			if err != nil {
				return nil, err
			}
			if size += len(text); size > largestAll {
				return nil, fmt.Errorf("the files have more than %d MiB together", largestAll>>20)
			}
			if err := s.read(file, text, open); err != nil {
				wrong = append(wrong, err)
			}
		}
	}
	if len(wrong) == 0 {
		return s, s.Check()
	}
	return nil, limited(wrong)
}

func filesAt(path string) ([]string, error) {
	if path == "-" {
		return []string{path}, nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no file or directory %s", path)
	} else if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	root := path + string(filepath.Separator) // else a link to a directory would not be walked
	var files []string
	err = filepath.WalkDir(root, func(file string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch name := e.Name(); {
		case strings.HasPrefix(name, ".") && file != root:
			if e.IsDir() {
				return fs.SkipDir
			}
		case e.Type()&fs.ModeSymlink != 0 && leadsToDirectory(file):
			return fmt.Errorf("%s is a link to a directory, which is not followed: give it as a PATH of its own, or remove it", file)
		case !e.IsDir() && (strings.HasSuffix(name, ".yml") || strings.HasSuffix(name, ".yaml")):
			files = append(files, file)
		}
		return nil
	})
	return files, err
}

func leadsToDirectory(link string) bool {
	info, err := os.Stat(link)
	return err == nil && info.IsDir()
}

// readFile also tells whether others than its owner may read the file.
func readFile(stdin io.Reader, file string) (text []byte, open bool, err error) {
	in, name := stdin, "stdin"
	if file != "-" {
		// Before it is opened: for a pipe that would wait until somebody writes.
		info, err := os.Stat(file)
		if err != nil {
			return nil, false, err
		}
		if !info.Mode().IsRegular() {
			return nil, false, fmt.Errorf("%s is no regular file; - is stdin", file)
		}
		f, err := os.Open(file)
		if err != nil {
			return nil, false, err
		}
		defer f.Close()
		if info, err = f.Stat(); err != nil {
			return nil, false, err
		}
		in, name, open = f, file, runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0
	}
	text, err = io.ReadAll(io.LimitReader(in, largestFile+1))
	if err != nil {
		return nil, false, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(text) > largestFile {
		return nil, false, fmt.Errorf("%s has more than %d MiB", name, largestFile>>20)
	}
	return text, open, nil
}

// Parse adds what a text defines. file is its name, for messages and as what files in it are relative to.
func (s *Set) Parse(file string, text []byte) error {
	s.Files++
	return s.read(file, text, false)
}

func (s *Set) read(file string, text []byte, open bool) error {
	r := &reader{file: file, set: s, budget: mostNodes, open: open}
	if file == "-" {
		r.file = "stdin"
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var n yaml.Node
		err := d.Decode(&n)
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			r.errs = append(r.errs, fmt.Errorf("%s is not YAML: %s", r.file, strings.TrimPrefix(err.Error(), "yaml: ")))
			break
		}
		if n.Kind != yaml.DocumentNode || len(n.Content) != 1 || !r.bounded(n.Content[0], deepest) {
			break
		}
		r.document(n.Content[0])
	}
	return limited(r.errs)
}

// A reader turns the nodes of a file into definitions, and collects what is wrong with them.
type reader struct {
	file   string
	set    *Set
	errs   []error
	budget int
	open   bool // others may read the file
}

func (r *reader) at(n *yaml.Node) string { return fmt.Sprintf("%s:%d", r.file, n.Line) }

func (r *reader) fail(n *yaml.Node, format string, args ...any) {
	r.errs = append(r.errs, fmt.Errorf(r.at(n)+": "+format, args...))
}

// bounded refuses documents that are too deep, or that aliases blow up, before anything walks them.
func (r *reader) bounded(n *yaml.Node, depth int) bool {
	r.budget--
	if depth == 0 || r.budget < 0 {
		r.fail(n, "the document is too deep, or too large with its aliases written out: %d levels and %d values are the most", deepest, mostNodes)
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

func (r *reader) document(n *yaml.Node) {
	sections := []string{"managed"}
	for _, k := range Kinds() {
		sections = append(sections, k.Section())
	}
	for _, f := range r.fields(n, "the file") {
		i := slices.Index(sections, f.name)
		switch {
		case i < 0:
			r.fail(f.key, "the file has no section %.100q; %s", f.name, Suggest(f.name, sections))
		case i == 0:
			r.managed(f.node)
		default:
			k := Kinds()[i-1]
			for _, one := range r.fields(f.node, f.name) {
				r.definition(k, one)
			}
		}
	}
}

func (r *reader) managed(n *yaml.Node) {
	var texts []string
	if !r.decode(n, reflect.ValueOf(&texts).Elem(), "managed") {
		return
	}
	if r.set.Managed == nil {
		r.set.Managed = []*Pattern{}
	}
	for _, text := range texts {
		if p, err := ParsePattern(text); err != nil {
			r.fail(n, "managed: %w", err)
		} else {
			r.set.Managed = append(r.set.Managed, p)
		}
	}
}

func (r *reader) definition(k Kind, f field) {
	document := k.blank()
	if !r.decode(f.node, document.Elem(), ID(k, f.name)) {
		return
	}
	if s, ok := document.Interface().(*secretDocument); ok {
		if len(s.Value) > 0 && r.open {
			r.fail(f.key, "%s: the value of a secret is here, and others may read the file: chmod 600 it, or give valueFrom", ID(k, f.name))
			return
		}
		if s.From != nil && s.From.File != "" && !filepath.IsAbs(s.From.File) {
			s.From.File = filepath.Join(filepath.Dir(r.file), s.From.File)
		}
	}
	text, err := marshal(document.Interface())
	if err == nil {
		err = r.set.Add(k, f.name, text, r.at(f.key))
	}
	if err != nil {
		r.fail(f.key, "%w", err)
	}
}

// A field is one entry of a mapping.
type field struct {
	name      string
	key, node *yaml.Node
}

func follow(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

// fields returns the entries of a mapping, those of << merged in: what is written out wins.
func (r *reader) fields(n *yaml.Node, what string) []field {
	n = follow(n)
	if isNull(n) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		r.fail(n, "%s must be a mapping of names to values, not %s", what, sort(n))
		return nil
	}
	var own, merged []field
	at := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := follow(n.Content[i]), follow(n.Content[i+1])
		switch {
		case key.Kind != yaml.ScalarNode:
			r.fail(key, "a name in %s must be a word, not %s", what, sort(key))
		case key.Tag == "!!merge":
			bases := []*yaml.Node{value}
			if value.Kind == yaml.SequenceNode {
				bases = value.Content
			}
			for _, b := range bases {
				merged = append(merged, r.fields(b, what+"'s <<")...)
			}
		case at[key.Value] > 0:
			r.fail(key, "%s has %.100q twice; the first is in line %d", what, key.Value, at[key.Value])
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

var (
	treeType = reflect.TypeFor[tree]()
	timeType = reflect.TypeFor[timestamp.Time]()
)

// decode reads a node into v, of which the type says what there may be. What is null is left out. It
// tells whether nothing was wrong.
func (r *reader) decode(n *yaml.Node, v reflect.Value, what string) bool {
	n = follow(n)
	if isNull(n) {
		return true
	}
	before := len(r.errs)
	switch {
	case v.Type() == treeType:
		// What is in here may be a secret: it is not repeated.
		if text, err := marshal(r.tree(n, what)); err == nil && len(r.errs) == before {
			v.SetBytes(text)
		}
	case v.Type() == timeType:
		t, err := moment(n.Value)
		if n.Kind != yaml.ScalarNode || err != nil {
			r.fail(n, "%s must be a date such as 2027-12-31, or a time such as 2027-12-31T12:00:00Z, not %s", what, sort(n))
		} else if t <= 0 { // 0 stands for none, which may mean never
			r.fail(n, "%s must be later than 1970", what)
		}
		v.Set(reflect.ValueOf(t))
	case v.Kind() == reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		r.decode(n, v.Elem(), what)
	case v.Kind() == reflect.Struct:
		r.members(n, v, what)
	case v.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			r.fail(n, "%s must be a list, not %s", what, sort(n))
			break
		}
		v.Set(reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content)))
		for i, of := range n.Content {
			r.decode(of, v.Index(i), fmt.Sprintf("%s[%d]", what, i))
		}
	case v.Kind() == reflect.Bool:
		is, ok := truth(n)
		if !ok {
			r.fail(n, "%s must be true or false, not %s", what, sort(n))
			break
		}
		v.SetBool(is)
	case n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str":
		r.fail(n, "%s must be text, not %s: put it in quotes if it is meant as such", what, sort(n))
	default:
		v.SetString(n.Value)
	}
	return len(r.errs) == before
}

// members reads a mapping into a struct, whose fields are known by their JSON names.
func (r *reader) members(n *yaml.Node, v reflect.Value, what string) {
	known := map[string]int{}
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
		known[name] = i
	}
	for _, f := range r.fields(n, what) {
		i, ok := known[f.name]
		if !ok {
			r.fail(f.key, "%s has no field %.100q; %s", what, f.name, Suggest(f.name, slices.Collect(maps.Keys(known))))
			continue
		}
		r.decode(f.node, v.Field(i), what+": "+f.name)
	}
}

// tree is any value, as JSON has it.
func (r *reader) tree(n *yaml.Node, what string) any {
	n = follow(n)
	switch n.Kind {
	case yaml.MappingNode:
		m := map[string]any{}
		for _, f := range r.fields(n, what) {
			m[f.name] = r.tree(f.node, what)
		}
		return m
	case yaml.SequenceNode:
		list := make([]any, len(n.Content))
		for i, of := range n.Content {
			list[i] = r.tree(of, what)
		}
		return list
	}
	switch n.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		if is, ok := truth(n); ok {
			return is
		}
	case "!!int":
		var i int64
		var u uint64
		if n.Decode(&i) == nil {
			return i
		} else if n.Decode(&u) == nil {
			return u
		}
		fallthrough
	case "!!float":
		var f float64
		if n.Decode(&f) != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			r.fail(n, "%s has a number here that JSON cannot say", what)
			return nil
		}
		return spelled(json.Number(strconv.FormatFloat(f, 'g', -1, 64)))
	case "!!str", "!!timestamp":
		return n.Value
	}
	r.fail(n, "%s has a value here with the tag %.40s, which has no counterpart in JSON", what, n.Tag)
	return nil
}

// moment reads a day, or a time.
func moment(text string) (t timestamp.Time, err error) {
	if len(text) == len("2006-01-02") {
		text += "T00:00:00Z"
	}
	err = t.UnmarshalText([]byte(text))
	return t, err
}

// truth reads true and false; ok tells whether it is one. The tag !!bool can be written before any word.
func truth(n *yaml.Node) (is, ok bool) {
	is = strings.EqualFold(n.Value, "true")
	return is, n.Kind == yaml.ScalarNode && n.ShortTag() == "!!bool" && (is || strings.EqualFold(n.Value, "false"))
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// sort says what a node is, without its value.
func sort(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	}
	switch n.ShortTag() {
	case "!!null":
		return "nothing"
	case "!!int", "!!float":
		return "a number"
	case "!!bool":
		if _, ok := truth(n); ok {
			return "true or false"
		}
	}
	return "a word"
}

// Suggest names the one of the known names that is nearest to one that is not, or all.
func Suggest(name string, known []string) string {
	slices.Sort(known)
	best, distance := "", 3
	for _, k := range known {
		if len(name) > 64 {
			break
		}
		if d := levenshtein.ComputeDistance(strings.ToLower(name), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	return "there are " + strings.Join(known, ", ")
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// ReadValues reads the values of secrets from where the definitions say they are. env is os.LookupEnv. Errors
// have no values in them.
func (s *Set) ReadValues(env func(string) (string, bool)) error {
	var wrong []error
	for _, d := range s.Definitions {
		if d.Kind != Secrets {
			continue
		}
		doc, err := parse[secretDocument](d.Document)
		if err == nil && doc.From != nil {
			if doc.Value, err = doc.From.value(env); err == nil {
				doc.From = nil
				var text json.RawMessage
				if text, err = marshal(doc); err == nil {
					d.Document, err = Secrets.Normal(d.Name, text)
				}
			} else {
				err = fmt.Errorf("%s: %w", d.ID(), err)
			}
		}
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", d.At, err))
		}
	}
	return limited(wrong)
}

func (f *source) value(env func(string) (string, bool)) (v tree, err error) {
	where := "the environment variable " + f.Env
	var text []byte
	if f.File != "" {
		where = f.File
		if text, _, err = readFile(nil, f.File); err != nil {
			return nil, fmt.Errorf("valueFrom: %w", err)
		}
	} else {
		said, ok := env(f.Env)
		if !ok || said == "" {
			return nil, fmt.Errorf("valueFrom: %s is not set", where)
		}
		text = []byte(said)
	}
	if v.UnmarshalJSON(text) != nil || !v.object() {
		return nil, fmt.Errorf(`valueFrom: what is in %s is no JSON object, such as {"key": "..."}`, where)
	}
	return v, nil
}
