package stub

import (
	"fmt"
	"math/big"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// plain is a value as encoding/json would have it. What is unknown becomes nil, as what is null does.
func plain(v tftypes.Value) any {
	if v.IsNull() || !v.IsKnown() {
		return nil
	}
	t := v.Type()
	switch {
	case t.Is(tftypes.String):
		var s string
		must(v.As(&s))
		return s
	case t.Is(tftypes.Number):
		var n *big.Float
		must(v.As(&n))
		f, _ := n.Float64()
		return f
	case t.Is(tftypes.Bool):
		var b bool
		must(v.As(&b))
		return b
	case t.Is(tftypes.Object{}), t.Is(tftypes.Map{}):
		result := map[string]any{}
		for name, e := range fields(v) {
			result[name] = plain(e)
		}
		return result
	default:
		var elements []tftypes.Value
		must(v.As(&elements))
		result := make([]any, len(elements))
		for i, e := range elements {
			result[i] = plain(e)
		}
		return result
	}
}

// typed is the opposite of plain. Attributes of objects that are not named are null; others' names are errors.
func typed(t tftypes.Type, v any) (tftypes.Value, error) {
	if v == nil {
		return tftypes.NewValue(t, nil), nil
	}
	mismatch := fmt.Errorf("%T is not %s", v, t)
	switch {
	case t.Is(tftypes.String), t.Is(tftypes.Bool):
		if err := tftypes.ValidateValue(t, v); err != nil {
			return tftypes.Value{}, mismatch
		}
		return tftypes.NewValue(t, v), nil
	case t.Is(tftypes.Number):
		if err := tftypes.ValidateValue(t, v); err != nil {
			return tftypes.Value{}, mismatch
		}
		return tftypes.NewValue(t, v), nil
	case t.Is(tftypes.Object{}):
		given, ok := v.(map[string]any)
		if !ok {
			return tftypes.Value{}, mismatch
		}
		types := t.(tftypes.Object).AttributeTypes
		for name := range given {
			if _, ok := types[name]; !ok {
				return tftypes.Value{}, fmt.Errorf("there is no attribute %q", name)
			}
		}
		result := map[string]tftypes.Value{}
		for name, a := range types {
			value, err := typed(a, given[name])
			if err != nil {
				return tftypes.Value{}, fmt.Errorf("%s: %w", name, err)
			}
			result[name] = value
		}
		return tftypes.NewValue(t, result), nil
	case t.Is(tftypes.Map{}):
		given, ok := v.(map[string]any)
		if !ok {
			return tftypes.Value{}, mismatch
		}
		result := map[string]tftypes.Value{}
		for name, e := range given {
			value, err := typed(t.(tftypes.Map).ElementType, e)
			if err != nil {
				return tftypes.Value{}, fmt.Errorf("%s: %w", name, err)
			}
			result[name] = value
		}
		return tftypes.NewValue(t, result), nil
	default:
		given, ok := v.([]any)
		if !ok {
			return tftypes.Value{}, mismatch
		}
		result := make([]tftypes.Value, len(given))
		for i, e := range given {
			value, err := typed(element(t), e)
			if err != nil {
				return tftypes.Value{}, fmt.Errorf("%d: %w", i, err)
			}
			result[i] = value
		}
		return tftypes.NewValue(t, result), nil
	}
}

// element is the type of a list's or a set's elements.
func element(t tftypes.Type) tftypes.Type {
	switch t := t.(type) {
	case tftypes.List:
		return t.ElementType
	case tftypes.Set:
		return t.ElementType
	}
	panic(fmt.Sprintf("stub: %s has no elements", t))
}

// fields are the attributes of an object, or the elements of a map.
func fields(v tftypes.Value) map[string]tftypes.Value {
	result := map[string]tftypes.Value{}
	if v.IsNull() || !v.IsKnown() {
		return result
	}
	must(v.As(&result))
	return result
}

// text is the value of a string; empty if it is null or not known.
func text(v tftypes.Value) string {
	s, _ := plain(v).(string)
	return s
}

func str(s string) tftypes.Value { return tftypes.NewValue(tftypes.String, s) }

// tags makes a map of strings.
func tags(m map[string]string) tftypes.Value {
	result := map[string]tftypes.Value{}
	for k, v := range m {
		result[k] = str(v)
	}
	return tftypes.NewValue(tftypes.Map{ElementType: tftypes.String}, result)
}

// fill gives a value back in which f was asked for every attribute of a block and of the blocks within.
func fill(b *tfprotov5.SchemaBlock, path string, v tftypes.Value, f func(path string, a *tfprotov5.SchemaAttribute, v tftypes.Value) tftypes.Value) tftypes.Value {
	if v.IsNull() || !v.IsKnown() {
		return v
	}
	values := fields(v)
	for _, a := range b.Attributes {
		values[a.Name] = f(path+"."+a.Name, a, values[a.Name])
	}
	for _, n := range b.BlockTypes {
		inner := values[n.TypeName]
		if inner.IsNull() || !inner.IsKnown() {
			continue
		}
		if n.Nesting == tfprotov5.SchemaNestedBlockNestingModeSingle {
			values[n.TypeName] = fill(n.Block, path+"."+n.TypeName, inner, f)
			continue
		}
		var elements []tftypes.Value
		must(inner.As(&elements))
		for i := range elements {
			elements[i] = fill(n.Block, path+"."+n.TypeName, elements[i], f)
		}
		values[n.TypeName] = tftypes.NewValue(inner.Type(), elements)
	}
	return tftypes.NewValue(v.Type(), values)
}

// must is for what cannot fail, since the type has been looked at.
func must(err error) {
	if err != nil {
		panic("stub: " + err.Error())
	}
}
