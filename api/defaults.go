package api

import "github.com/santhosh-tekuri/jsonschema/v6"

// defaults are what a schema gives defaults for, and where, so that filling
// them in need not look at all of the schema for each call. Properties are
// followed through $ref and allOf; alternatives (anyOf, oneOf) are left alone,
// as which of them applies is not known before validation.
type defaults struct {
	first   []*defaults // of schemas that this one includes
	members []member    // of an object
	items   *defaults   // of an array's elements; nil: none
}

// A member has a default, or has some within.
type member struct {
	name   string
	value  *any      // what it is if it is missing; nil: it stays missing
	within *defaults // nil: none
}

// defaultsOf returns the defaults of a schema, nil if there are none. Schemas
// can be part of themselves, hence known.
func defaultsOf(s *jsonschema.Schema, known map[*jsonschema.Schema]*defaults) *defaults {
	if s == nil {
		return nil
	}
	if d, ok := known[s]; ok {
		return d
	}
	d := &defaults{}
	known[s] = d
	for _, other := range append([]*jsonschema.Schema{s.Ref}, s.AllOf...) {
		if o := defaultsOf(other, known); o != nil {
			d.first = append(d.first, o)
		}
	}
	for name, p := range s.Properties {
		m := member{name, defaultOf(p), defaultsOf(p, known)}
		if m.value != nil || m.within != nil {
			d.members = append(d.members, m)
		}
	}
	if item, ok := s.Items.(*jsonschema.Schema); ok {
		d.items = defaultsOf(item, known)
	}
	if len(d.first)+len(d.members) == 0 && d.items == nil {
		known[s] = nil
	}
	return known[s]
}

func defaultOf(s *jsonschema.Schema) *any {
	for ; s != nil; s = s.Ref {
		if s.Default != nil {
			return s.Default
		}
	}
	return nil
}

// fill fills in what v lacks, in place.
func (d *defaults) fill(v any) {
	if d == nil {
		return
	}
	for _, o := range d.first {
		o.fill(v)
	}
	switch v := v.(type) {
	case map[string]any:
		for _, m := range d.members {
			if x, ok := v[m.name]; ok {
				m.within.fill(x)
			} else if m.value != nil {
				v[m.name] = *m.value
			}
		}
	case []any:
		if d.items != nil {
			for _, x := range v {
				d.items.fill(x)
			}
		}
	}
}
