package api

import (
	"encoding/json"
	"math/big"
	"reflect"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// A glance is a first look at a document, which tells whether it fits a schema.
// It takes a third of the time of the validator and next to no memory, as it
// need not know what is wrong, and where: that the validator is asked, of all
// that does not fit. It knows the usual keywords; of a schema that has others it
// is the validator that decides, there and in what is below.
type glance struct {
	schema     *jsonschema.Schema
	asks       bool // the validator
	types      []string
	enum       []string
	min, max   *int64
	all, any   []*glance // that the same value has to fit
	properties map[string]*glance
	more       *glance // of an object that has more; nil: anything
	items      *glance // likewise
}

// Fields of a schema: those that a glance knows, and those that have no say.
var (
	known = []string{
		"Bool", "Ref", "AllOf", "AnyOf", "Types", "Enum", "Format", "Properties", "Required", "AdditionalProperties",
		"Items", "MinItems", "MaxItems", "UniqueItems", "MinLength", "MaxLength", "Pattern", "Minimum", "Maximum",
	}
	silent = []string{
		"DraftVersion", "Location", "ID", "Anchor", "Title", "Description", "Default", "Comment", "ReadOnly", "WriteOnly", "Examples", "Deprecated",
	}
)

// glances are made once for each schema, which may be part of others and of
// itself.
type glances map[*jsonschema.Schema]*glance

func (made glances) of(s *jsonschema.Schema) *glance {
	if s == nil {
		return nil
	}
	if g := made[s]; g != nil {
		return g
	}
	g := &glance{schema: s}
	made[s] = g
	g.asks = !g.takes(s)
	if s.Ref != nil {
		g.all = append(g.all, made.of(s.Ref))
	}
	for _, o := range s.AllOf {
		g.all = append(g.all, made.of(o))
	}
	for _, o := range s.AnyOf {
		g.any = append(g.any, made.of(o))
	}
	g.properties = make(map[string]*glance, len(s.Properties))
	for name, p := range s.Properties {
		g.properties[name] = made.of(p)
	}
	if more, ok := s.AdditionalProperties.(*jsonschema.Schema); ok {
		g.more = made.of(more)
	}
	if items, ok := s.Items.(*jsonschema.Schema); ok {
		g.items = made.of(items)
	}
	return g
}

// takes reports whether all that s says is among what a glance knows.
func (g *glance) takes(s *jsonschema.Schema) bool {
	v := reflect.ValueOf(s).Elem()
	for f := range v.Type().Fields() {
		if f.IsExported() && !slices.Contains(known, f.Name) && !slices.Contains(silent, f.Name) && !v.FieldByIndex(f.Index).IsZero() {
			return false
		}
	}
	if s.Types != nil {
		g.types = s.Types.ToStrings()
	}
	if s.Enum != nil {
		for _, x := range s.Enum.Values {
			text, ok := x.(string)
			if !ok {
				return false
			}
			g.enum = append(g.enum, text)
		}
	}
	ok1, ok2 := whole(s.Minimum, &g.min), whole(s.Maximum, &g.max)
	_, several := s.Items.([]*jsonschema.Schema)
	return ok1 && ok2 && !several && s.DraftVersion >= 2019
}

func whole(r *big.Rat, n **int64) bool {
	if r == nil {
		return true
	}
	if !r.IsInt() || !r.Num().IsInt64() {
		return false
	}
	x := r.Num().Int64()
	*n = &x
	return true
}

// straighten has the validator decide where schemas refer to each other in a
// circle for the same value.
func (made glances) straighten() {
	for _, g := range made {
		g.asks = g.asks || g.leadsTo(g, map[*glance]bool{})
	}
}

func (g *glance) leadsTo(end *glance, seen map[*glance]bool) bool {
	if seen[g] {
		return false
	}
	seen[g] = true
	return slices.ContainsFunc(slices.Concat(g.all, g.any), func(o *glance) bool { return o == end || o.leadsTo(end, seen) })
}

// fits reports whether v fits; a glance that is nil lets all pass.
func (g *glance) fits(v any) bool {
	switch {
	case g == nil:
		return true
	case g.asks:
		return g.schema.Validate(v) == nil
	case g.schema.Bool != nil:
		return *g.schema.Bool
	case g.schema.Format != nil && g.schema.Format.Validate(v) != nil:
		return false
	}
	for _, o := range g.all {
		if !o.fits(v) {
			return false
		}
	}
	if len(g.any) > 0 && !slices.ContainsFunc(g.any, func(o *glance) bool { return o.fits(v) }) {
		return false
	}
	text, isText := v.(string)
	if g.schema.Enum != nil && (!isText || !slices.Contains(g.enum, text)) {
		return false
	}
	switch v := v.(type) {
	case string:
		return g.is("string") && g.text(v)
	case map[string]any:
		return g.is("object") && g.object(v)
	case []any:
		return g.is("array") && g.array(v)
	case json.Number:
		return g.number(v)
	case bool:
		return g.is("boolean")
	case nil:
		return g.is("null")
	}
	return false
}

func (g *glance) is(kind string) bool { return len(g.types) == 0 || slices.Contains(g.types, kind) }

func (g *glance) text(v string) bool {
	s := g.schema
	if s.MinLength != nil || s.MaxLength != nil {
		n := utf8.RuneCountInString(v)
		if s.MinLength != nil && n < *s.MinLength || s.MaxLength != nil && n > *s.MaxLength {
			return false
		}
	}
	return s.Pattern == nil || s.Pattern.MatchString(v)
}

func (g *glance) object(v map[string]any) bool {
	for _, name := range g.schema.Required {
		if _, ok := v[name]; !ok {
			return false
		}
	}
	if len(g.properties) == 0 && g.schema.AdditionalProperties == nil {
		return true
	}
	for name, x := range v {
		if p, ok := g.properties[name]; ok {
			if !p.fits(x) {
				return false
			}
		} else if g.schema.AdditionalProperties == false || !g.more.fits(x) {
			return false
		}
	}
	return true
}

func (g *glance) array(v []any) bool {
	s := g.schema
	if s.MinItems != nil && len(v) < *s.MinItems || s.MaxItems != nil && len(v) > *s.MaxItems {
		return false
	}
	if s.UniqueItems && len(v) > 1 && !distinct(v) {
		return false
	}
	for _, x := range v {
		if !g.items.fits(x) {
			return false
		}
	}
	return true
}

// distinct reports whether v is strings of which no two are the same.
func distinct(v []any) bool {
	seen := make(map[string]struct{}, len(v))
	for _, x := range v {
		s, ok := x.(string)
		if !ok {
			return false
		}
		seen[s] = struct{}{}
	}
	return len(seen) == len(v)
}

// number looks at whole numbers that are written without a point or exponent.
func (g *glance) number(v json.Number) bool {
	n, err := strconv.ParseInt(string(v), 10, 64)
	if err != nil {
		return g.schema.Validate(v) == nil
	}
	return (g.is("number") || g.is("integer")) && (g.min == nil || n >= *g.min) && (g.max == nil || n <= *g.max)
}
