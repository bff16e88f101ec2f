package api

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// A filler sets a variable that is zero to what a document says, as
// json.Unmarshal would by the document's text, which need not be made for it. It
// reports false where it does not know how, or the document is of another shape;
// then json.Unmarshal has to be asked, which has the rules and words for that.
type filler func(v reflect.Value, doc any) bool

// fillerOf returns the filler for a type. Types of kinds that bodies seldom have,
// or with a form of their own, are filled by way of the text.
func fillerOf(t reflect.Type, within ...reflect.Type) filler {
	switch {
	case t == reflect.TypeFor[json.Number]() || slices.Contains(within, t):
		return fillByText
	case t == reflect.TypeFor[json.RawMessage]():
		return func(v reflect.Value, doc any) bool {
			text, err := encodeJSON(doc)
			v.SetBytes(text)
			return err == nil
		}
	case reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()):
		return fillByText
	case reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return func(v reflect.Value, doc any) bool {
			s, ok := doc.(string)
			return ok && v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(s)) == nil
		}
	}
	within = append(within, t)
	switch t.Kind() {
	case reflect.String:
		return func(v reflect.Value, doc any) bool {
			s, ok := doc.(string)
			v.SetString(s)
			return ok
		}
	case reflect.Bool:
		return func(v reflect.Value, doc any) bool {
			b, ok := doc.(bool)
			v.SetBool(b)
			return ok
		}
	case reflect.Int, reflect.Int64:
		return func(v reflect.Value, doc any) bool {
			n, _ := doc.(json.Number)
			i, err := strconv.ParseInt(string(n), 10, t.Bits())
			v.SetInt(i)
			return err == nil
		}
	case reflect.Slice:
		if t.Elem().Kind() != reflect.Uint8 { // bytes are base64
			return sliceFiller(t, within)
		}
	case reflect.Map:
		if t.Key() == reflect.TypeFor[string]() {
			return mapFiller(t, within)
		}
	case reflect.Struct:
		return structFiller(t, within)
	}
	return fillByText
}

func fillByText(v reflect.Value, doc any) bool {
	text, err := encodeJSON(doc)
	return err == nil && json.Unmarshal(text, v.Addr().Interface()) == nil
}

func sliceFiller(t reflect.Type, within []reflect.Type) filler {
	element := fillerOf(t.Elem(), within...)
	return func(v reflect.Value, doc any) bool {
		list, ok := doc.([]any)
		if !ok {
			return false
		}
		v.Set(reflect.MakeSlice(t, len(list), len(list)))
		for i, x := range list {
			if !element(v.Index(i), x) {
				return false
			}
		}
		return true
	}
}

func mapFiller(t reflect.Type, within []reflect.Type) filler {
	element := fillerOf(t.Elem(), within...)
	return func(v reflect.Value, doc any) bool {
		m, ok := doc.(map[string]any)
		if !ok {
			return false
		}
		v.Set(reflect.MakeMapWithSize(t, len(m)))
		for name, x := range m {
			e := reflect.New(t.Elem()).Elem()
			if !element(e, x) {
				return false
			}
			v.SetMapIndex(reflect.ValueOf(name), e)
		}
		return true
	}
}

// A field is a member of objects that a struct is filled from.
type field struct {
	index int
	name  string
	fill  filler
}

func structFiller(t reflect.Type, within []reflect.Type) filler {
	var fields []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous || strings.Contains(options, "string"):
			return fillByText
		case !f.IsExported() || name == "-" && options == "":
			continue
		case name == "":
			name = f.Name
		}
		if slices.ContainsFunc(fields, func(f field) bool { return f.name == name }) {
			return fillByText
		}
		fields = append(fields, field{i, name, fillerOf(f.Type, within...)})
	}
	return func(v reflect.Value, doc any) bool {
		m, ok := doc.(map[string]any)
		if !ok {
			return false
		}
		found := 0
		for _, f := range fields {
			if x, ok := m[f.name]; ok {
				found++
				if !f.fill(v.Field(f.index), x) {
					return false
				}
			}
		}
		return found == len(m) // or else a name may be a field's in another case
	}
}
