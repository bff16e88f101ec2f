package hooks

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"
)

// A payloadSchema is the triggerSchema of a hook, which anybody may have
// written who may write hooks. What it can cost is bounded: it fetches nothing,
// it is of limited size, and each validation has a budget of steps, which the
// application of a subschema and the matching of regular expressions use up.
type payloadSchema struct {
	schema *jsonschema.Schema

	mu   sync.Mutex // of the budget
	left int
}

const (
	largestSchema = 256 << 10
	mostNodes     = 20_000 // values in a schema
	deepest       = 100    // of a schema, and of a payload
	mostRefs      = 100
	longestRegexp = 1000
	largestRegexp = 20_000 // instructions

	budget = 200_000

	// A regular expression of n instructions on a text of m bytes costs as much
	// as n*m/regexpStep subschemas.
	regexpStep = 500
)

var errCostly = errors.New("checking the payload against the hook's triggerSchema takes too long; make the schema simpler or the payload smaller")

// compileSchema reads a triggerSchema.
func compileSchema(text json.RawMessage) (s *payloadSchema, err error) {
	if len(text) > largestSchema {
		return nil, fmt.Errorf("it has %d bytes, and %d are the most", len(text), largestSchema)
	}
	var doc any
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	if err := new(census).count(doc, 0); err != nil {
		return nil, err
	}
	s = &payloadSchema{left: budget}
	defer func() {
		if r := recover(); r == errCostly {
			s, err = nil, errors.New("checking it takes too long")
		} else if r != nil {
			s, err = nil, fmt.Errorf("it cannot be understood: %v", r)
		}
	}()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft7)
	c.AssertFormat()
	c.UseLoader(noLoader{})
	c.UseRegexpEngine(s.compileRegexp)
	c.RegisterVocabulary(&jsonschema.Vocabulary{
		URL: "taskfleet:budget",
		Compile: func(*jsonschema.CompilerContext, map[string]any) (jsonschema.SchemaExt, error) {
			return step{s}, nil
		},
	})
	c.AssertVocabs()
	const url = "taskfleet:///triggerSchema"
	if err := c.AddResource(url, doc); err != nil {
		return nil, err
	}
	if s.schema, err = c.Compile(url); err != nil {
		if invalid, ok := errors.AsType[*jsonschema.SchemaValidationError](err); ok {
			err = errors.New(explain("triggerSchema", invalid.Err))
		}
		return nil, err
	}
	return s, nil
}

// census counts what a schema consists of.
type census struct{ nodes, refs int }

func (c *census) count(v any, depth int) error {
	if c.nodes++; c.nodes > mostNodes {
		return fmt.Errorf("it has more than %d values", mostNodes)
	}
	if depth > deepest {
		return fmt.Errorf("it is nested more than %d levels deep", deepest)
	}
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			if err := c.count(x, depth+1); err != nil {
				return err
			}
		}
	case map[string]any:
		for k, x := range v {
			if ref, ok := x.(string); ok && (k == "$ref" || k == "$dynamicRef" || k == "$recursiveRef") {
				// Following a reference costs as much as there are references on
				// the way, which no budget sees.
				if c.refs++; c.refs > mostRefs {
					return fmt.Errorf("it has more than %d references", mostRefs)
				}
				if !strings.HasPrefix(ref, "#") {
					return fmt.Errorf("%s is %.100q; references stay within the schema and begin with #", k, ref)
				}
			}
			if err := c.count(x, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// noLoader is what fetches schemas that others refer to.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("%.100q is not fetched; $schema names one of the published drafts, and references stay within the schema", url)
}

// step is called for each subschema that is applied to a value.
type step struct{ of *payloadSchema }

func (s step) Validate(ctx *jsonschema.ValidatorContext, v any) {
	cost := 1 + len(ctx.ValueLocation())/16 // which an error has a copy of
	switch v := v.(type) {
	case map[string]any:
		cost += len(v) / 16
	case []any:
		cost += len(v) / 16
	}
	s.of.spend(cost)
}

func (s *payloadSchema) spend(cost int) {
	if s.left -= cost; s.left < 0 {
		panic(errCostly)
	}
}

// A boundRegexp matches at the expense of the budget.
type boundRegexp struct {
	*regexp.Regexp
	of   *payloadSchema
	size int
}

func (r boundRegexp) MatchString(text string) bool {
	r.of.spend(1 + len(text)*r.size/regexpStep)
	return r.Regexp.MatchString(text)
}

func (s *payloadSchema) compileRegexp(text string) (jsonschema.Regexp, error) {
	if len(text) > longestRegexp {
		return nil, fmt.Errorf("a regular expression has %d characters, and %d are the most", len(text), longestRegexp)
	}
	s.spend(1 + len(text)/8)
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("%w; regular expressions have the syntax of RE2, without look-around and back-references", err)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil {
		return nil, err
	}
	if len(program.Inst) > largestRegexp {
		return nil, fmt.Errorf("the regular expression %.100q repeats too much", text)
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, err
	}
	return boundRegexp{re, s, len(program.Inst)}, nil
}

// check validates a payload, having filled in defaults that the schema has for
// what is missing, in place.
func (s *payloadSchema) check(payload any) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = budget
	defer func() {
		if r := recover(); r == errCostly {
			err = errCostly
		} else if r != nil {
			err = fmt.Errorf("the hook's triggerSchema cannot be applied: %v", r)
		}
	}()
	if tooDeep(payload, deepest) {
		return fmt.Errorf("the payload is nested more than %d levels deep", deepest)
	}
	s.fill(s.schema, payload, 0)
	if err := s.schema.Validate(payload); err != nil {
		return errors.New(explain("payload", err))
	}
	return nil
}

func tooDeep(v any, left int) bool {
	if left < 0 {
		return true
	}
	switch v := v.(type) {
	case map[string]any:
		for _, x := range v {
			if tooDeep(x, left-1) {
				return true
			}
		}
	case []any:
		for _, x := range v {
			if tooDeep(x, left-1) {
				return true
			}
		}
	}
	return false
}

// fill follows properties and items through $ref and allOf. Which alternatives
// of anyOf and the like apply is not known, so their defaults do not count; nor
// does one that would not be valid itself.
func (s *payloadSchema) fill(sch *jsonschema.Schema, v any, chain int) {
	s.spend(1)
	if chain > deepest {
		return
	}
	if sch.Ref != nil {
		s.fill(sch.Ref, v, chain+1)
	}
	for _, part := range sch.AllOf {
		s.fill(part, v, chain+1)
	}
	switch v := v.(type) {
	case map[string]any:
		for name, p := range sch.Properties {
			if x, ok := v[name]; ok {
				s.fill(p, x, 0)
			} else if d := defaultOf(p); d != nil && p.Validate(*d) == nil {
				v[name] = clone(*d)
			}
		}
	case []any:
		switch items := sch.Items.(type) {
		case *jsonschema.Schema:
			for _, x := range v {
				s.fill(items, x, 0)
			}
		case []*jsonschema.Schema:
			for i := range min(len(items), len(v)) {
				s.fill(items[i], v[i], 0)
			}
		}
	}
}

func defaultOf(sch *jsonschema.Schema) *any {
	for range deepest {
		if sch == nil || sch.Default != nil {
			break
		}
		sch = sch.Ref
	}
	if sch == nil {
		return nil
	}
	return sch.Default
}

func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for k, x := range v {
			m[k] = clone(x)
		}
		return m
	case []any:
		l := make([]any, len(v))
		for i, x := range v {
			l[i] = clone(x)
		}
		return l
	}
	return v
}

var printer = message.NewPrinter(language.English)

const mostReasons = 20

// explain says what is wrong, a fault a line, each with its place.
func explain(root string, err error) string {
	invalid, ok := errors.AsType[*jsonschema.ValidationError](err)
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
		place := strings.Join(append([]string{root}, e.InstanceLocation...), "/")
		what := e.ErrorKind.LocalizedString(printer)
		switch k := e.ErrorKind.(type) {
		case *kind.FalseSchema:
			what = "is not allowed here"
		case *kind.Format:
			what = fmt.Sprintf("is no %s: %v", k.Want, k.Err)
		}
		lines = append(lines, fmt.Sprintf("  * %s: %s", shorten(place, 200), shorten(what, 400)))
	}
	walk(invalid)
	slices.Sort(lines)
	lines = slices.Compact(lines)
	if n := len(lines); n > mostReasons {
		lines = append(lines[:mostReasons], fmt.Sprintf("  and %d more", n-mostReasons))
	}
	return strings.Join(lines, "\n")
}

// shorten cuts a text to what fits, and makes it one that can be stored.
func shorten(s string, n int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// schemas are the compiled schemas of hooks that are fired again and again.
type schemas struct {
	mu     sync.Mutex
	byText map[string]*payloadSchema
	size   int // of the texts
}

const mostSchemas = 8 << 20 // bytes of text

func (c *schemas) of(text json.RawMessage) (*payloadSchema, error) {
	c.mu.Lock()
	s := c.byText[string(text)]
	c.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := compileSchema(text)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.size += len(text); c.byText == nil || c.size > mostSchemas {
		c.byText, c.size = map[string]*payloadSchema{}, len(text)
	}
	c.byText[string(text)] = s
	return s, nil
}
