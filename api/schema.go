package api

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"sigs.k8s.io/yaml"
)

// schemas are the compiled JSON schemas of one service.
type schemas struct {
	compiled map[string]*schema        // by "v1/task.json#"
	source   map[string]map[string]any // by "task.json", for publishing
}

type schema struct {
	*jsonschema.Schema
	defaults *defaults
	glance   *glance
}

// Validate tells what is wrong with a document.
func (s *schema) Validate(doc any) error {
	if s.glance.fits(doc) {
		return nil
	}
	return s.Schema.Validate(doc)
}

// Folder is a folder of embedded files, for Service.Schemas.
func Folder(files embed.FS, name string) fs.FS {
	dir, err := fs.Sub(files, name)
	if err != nil {
		panic(err) // only for a malformed name
	}
	return &folder{dir}
}

type folder struct{ fs.FS }

// loaded are the schemas of services in such folders. A process that mounts a service again and again, as
// tests do, would spend a third of its time on compiling them.
var loaded sync.Map // by mountedFrom

type mountedFrom struct {
	service, version string
	dir              *folder
}

func loadSchemas(service, version string, dir fs.FS) (*schemas, error) {
	f, ok := dir.(*folder)
	if !ok { // its files may not stay what they are
		return compileSchemas(service, version, dir)
	}
	from := mountedFrom{service, version, f}
	if s, ok := loaded.Load(from); ok {
		return s.(*schemas), nil
	}
	s, err := compileSchemas(service, version, dir)
	if err == nil {
		loaded.Store(from, s)
	}
	return s, err
}

// compileSchemas compiles every <name>.yml of dir. A schema's $id is derived from
// service, version and file name, so that files refer to each other by
// "task-status.json#" and cannot disagree with where they are served.
func compileSchemas(service, version string, dir fs.FS) (*schemas, error) {
	s := &schemas{map[string]*schema{}, map[string]map[string]any{}}
	if dir == nil {
		return s, nil
	}
	files, err := fs.Glob(dir, "*.yml")
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2019) // in which what stands beside a $ref counts: defaults do
	c.AssertFormat()
	base := "taskfleet:///schemas/" + service + "/" + version + "/"
	for _, f := range files {
		text, err := fs.ReadFile(dir, f)
		if err != nil {
			return nil, err
		}
		asJSON, err := yaml.YAMLToJSONStrict(text)
		if err != nil {
			return nil, fmt.Errorf("schema %s/%s: %w", service, f, err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
		if err != nil {
			return nil, fmt.Errorf("schema %s/%s: %w", service, f, err)
		}
		obj, ok := doc.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("schema %s/%s is not an object", service, f)
		}
		name := strings.TrimSuffix(path.Base(f), ".yml") + ".json"
		s.source[name] = obj
		if err := c.AddResource(base+name, doc); err != nil {
			return nil, fmt.Errorf("schema %s/%s: %w", service, f, err)
		}
	}
	known, looks := map[*jsonschema.Schema]*defaults{}, glances{}
	for name := range s.source {
		sch, err := c.Compile(base + name)
		if err != nil {
			return nil, fmt.Errorf("schema %s/%s: %w", service, name, err)
		}
		s.compiled[version+"/"+name+"#"] = &schema{sch, defaultsOf(sch, known), looks.of(sch)}
	}
	looks.straighten()
	return s, nil
}

func (s *schemas) find(ref string) (*schema, error) {
	if ref == "" {
		return nil, nil
	}
	sch, ok := s.compiled[ref]
	if !ok {
		return nil, fmt.Errorf("there is no schema %q", ref)
	}
	return sch, nil
}

var printer = message.NewPrinter(language.English)

// maxReasons bounds how many faults a validation error names.
const maxReasons = 20

// explain turns a validation error into sentences, one fault a line, each with
// the place in the payload; with private, without the values there.
func explain(err error, private bool) string {
	ve, ok := errors.AsType[*jsonschema.ValidationError](err)
	if !ok {
		return err.Error()
	}
	var lines []string
	var walk func(*jsonschema.ValidationError)
	walk = func(e *jsonschema.ValidationError) {
		if len(e.Causes) > 0 {
			for _, c := range e.Causes {
				walk(c)
			}
			return
		}
		place := "data"
		if len(e.InstanceLocation) > 0 {
			place += "/" + strings.Join(e.InstanceLocation, "/")
		}
		what := e.ErrorKind.LocalizedString(printer)
		switch k := e.ErrorKind.(type) {
		case *kind.FalseSchema:
			what = "is not allowed here"
		case *kind.Pattern:
			if private {
				what = "does not match pattern '" + k.Want + "'"
			}
		case *kind.Format:
			if private {
				what = "is not valid " + k.Want
			}
		}
		lines = append(lines, shorten(place, 200)+": "+shorten(what, 400))
	}
	walk(ve)
	slices.Sort(lines)
	lines = slices.Compact(lines)
	if n := len(lines); n > maxReasons {
		lines = append(lines[:maxReasons], fmt.Sprintf("and %d more", n-maxReasons))
	}
	return "  * " + strings.Join(lines, "\n  * ")
}

func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// decodeJSON parses a document as the validator wants it (numbers kept exact)
// and refuses what databases cannot store: NUL characters and invalid UTF-8.
func decodeJSON(b []byte) (any, error) {
	if !utf8.Valid(b) {
		return nil, errors.New("it is not valid UTF-8")
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	if bytes.Contains(b, []byte(`\u0000`)) && hasNUL(v) {
		return nil, errors.New("a string contains the character U+0000, which cannot be stored")
	}
	return v, nil
}

func hasNUL(v any) bool {
	switch v := v.(type) {
	case string:
		return strings.Contains(v, "\x00")
	case []any:
		return slices.ContainsFunc(v, hasNUL)
	case map[string]any:
		for k, x := range v {
			if hasNUL(k) || hasNUL(x) {
				return true
			}
		}
	}
	return false
}

// An Appender is a result that writes its own JSON, which encoding/json would
// check and compact once more: for what is large and mostly stored as JSON.
type Appender interface {
	AppendJSON([]byte) ([]byte, error)
}

// encodeJSON writes v without escaping <, > and &, which scopes are full of.
func encodeJSON(v any) ([]byte, error) {
	if a, ok := v.(Appender); ok {
		return a.AppendJSON(nil)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
