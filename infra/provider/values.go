package provider

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/taskfleet/taskfleet/resource"
)

// A form is what sort of value an attribute has, and how documents have it.
type form int

const (
	text     form = iota // a string
	flag                 // a bool
	set                  // of strings
	list                 // of strings
	document             // a string, which is any JSON in documents
	bindings             // a list of objects
	number               // of no document
)

// bindingNames are the attributes of a binding of a hook, and the members that they stand for.
var bindingNames = map[string]string{"exchange": "exchange", "routing_key_pattern": "routingKeyPattern"}

var bindingType = tftypes.Object{AttributeTypes: map[string]tftypes.Type{"exchange": tftypes.String, "routing_key_pattern": tftypes.String}}

// attrType is the type of values of the form, as schemas have it.
func (f form) attrType() attr.Type {
	switch f {
	case flag:
		return types.BoolType
	case set:
		return types.SetType{ElemType: types.StringType}
	case list:
		return types.ListType{ElemType: types.StringType}
	case bindings:
		return types.ListType{ElemType: types.ObjectType{AttrTypes: map[string]attr.Type{"exchange": types.StringType, "routing_key_pattern": types.StringType}}}
	}
	return types.StringType
}

// encode is a value, which is known and not null, as documents have it. No error repeats it: it may be a secret.
func (f form) encode(v tftypes.Value) (json.RawMessage, error) {
	switch f {
	case text, document:
		var s string
		if err := v.As(&s); err != nil {
			return nil, err
		}
		if f == text {
			return json.Marshal(s)
		}
		var out json.RawMessage
		if err := json.Unmarshal([]byte(s), &out); err != nil {
			at := int64(0)
			if e, ok := errors.AsType[*json.SyntaxError](err); ok {
				at = e.Offset
			}
			return nil, fmt.Errorf("it is not JSON, as byte %d tells: jsonencode({...}) makes JSON of a value", at)
		}
		return out, nil
	case flag:
		var b bool
		if err := v.As(&b); err != nil {
			return nil, err
		}
		return json.Marshal(b)
	}
	var elements []tftypes.Value
	if err := v.As(&elements); err != nil {
		return nil, err
	}
	out := make([]any, len(elements))
	for i, e := range elements {
		if e.IsNull() {
			return nil, fmt.Errorf("element %d is null: leave it out, as [for x in [...] : x if x != null] does", i+1)
		}
		if f != bindings {
			var s string
			if err := e.As(&s); err != nil {
				return nil, err
			}
			out[i] = s
			continue
		}
		var object map[string]tftypes.Value
		if err := e.As(&object); err != nil {
			return nil, err
		}
		members := map[string]string{}
		for name, member := range bindingNames {
			var s string
			if err := object[name].As(&s); err != nil {
				return nil, err
			}
			members[member] = s
		}
		out[i] = members
	}
	return json.Marshal(out)
}

// decode is the value that encode makes raw of.
func (f form) decode(raw json.RawMessage) (v tftypes.Value, err error) {
	switch f {
	case text:
		var s string
		err = json.Unmarshal(raw, &s)
		return tftypes.NewValue(tftypes.String, s), err
	case document:
		return tftypes.NewValue(tftypes.String, string(raw)), nil
	case flag:
		var b bool
		err = json.Unmarshal(raw, &b)
		return tftypes.NewValue(tftypes.Bool, b), err
	case bindings:
		var all []map[string]string
		err = json.Unmarshal(raw, &all)
		values := []tftypes.Value{}
		for _, members := range all {
			object := map[string]tftypes.Value{}
			for name, member := range bindingNames {
				object[name] = tftypes.NewValue(tftypes.String, members[member])
			}
			values = append(values, tftypes.NewValue(bindingType, object))
		}
		return tftypes.NewValue(tftypes.List{ElementType: bindingType}, values), err
	}
	var all []string
	err = json.Unmarshal(raw, &all)
	values := []tftypes.Value{}
	for _, s := range all {
		values = append(values, tftypes.NewValue(tftypes.String, s))
	}
	if f == set {
		return tftypes.NewValue(tftypes.Set{ElementType: tftypes.String}, values), err
	}
	return tftypes.NewValue(tftypes.List{ElementType: tftypes.String}, values), err
}

// members are those of a JSON object.
func members(object json.RawMessage) (map[string]json.RawMessage, error) {
	var out map[string]json.RawMessage
	return out, json.Unmarshal(object, &out)
}

// judge has package resource check a document, and bring name and document into their form. The error has no name in it.
func (k *kind) judge(name string, document map[string]json.RawMessage) (canonical string, normal json.RawMessage, err error) {
	raw, err := json.Marshal(document)
	if err != nil {
		return "", nil, err
	}
	s := &resource.Set{}
	if err := s.Add(k.Kind, name, raw, ""); err != nil {
		if inner := errors.Unwrap(err); inner != nil {
			return "", nil, inner
		}
		return "", nil, errors.New(strings.TrimPrefix(err.Error(), resource.ID(k.Kind, name)+": "))
	}
	return s.Definitions[0].Name, s.Definitions[0].Document, nil
}

// judgeName is the one spelling of a name, or tells what is wrong with it.
func (k *kind) judgeName(name string) (canonical string, err error) {
	least, err := members(json.RawMessage(k.least))
	if err != nil {
		return "", err
	}
	canonical, _, err = k.judge(name, least)
	return canonical, err
}

// judgeMember is a member by itself: what is wrong with it, and otherwise its form, which is the same for what is the same. The
// rest of the thing may be unknown yet.
func (k *kind) judgeMember(a attribute, v tftypes.Value) (json.RawMessage, error) {
	raw, err := a.form.encode(v)
	if err != nil {
		return nil, err
	}
	with, err := members(json.RawMessage(k.least))
	if err != nil {
		return nil, err
	}
	with[a.member] = raw
	_, normal, err := k.judge(k.example, with)
	if err != nil {
		if rest, ok := strings.CutPrefix(err.Error(), a.member); ok && strings.IndexAny(rest, " [") == 0 {
			err = errors.New(a.name + strings.ReplaceAll(rest, "routingKeyPattern", "routing_key_pattern")) // as these are called here
		}
		return nil, err
	}
	if with, err = members(normal); err == nil && with[a.member] == nil {
		err = errors.New(a.name + " says nothing: leave it out")
	}
	return with[a.member], err
}

// defaults are the members that a document has if it says as little as can be. What is not there stays as it is where it
// is not said.
func (k *kind) defaults() (map[string]json.RawMessage, error) {
	least, err := members(json.RawMessage(k.least))
	if err != nil {
		return nil, err
	}
	_, normal, err := k.judge(k.example, least)
	if err != nil {
		return nil, err
	}
	return members(normal)
}

// same tells whether two values of an attribute mean the same. What is not known is not.
func (k *kind) same(a attribute, x, y tftypes.Value) bool {
	if !x.IsFullyKnown() || !y.IsFullyKnown() || x.IsNull() || y.IsNull() {
		return false
	}
	one, err := k.judgeMember(a, x)
	if err != nil {
		return false
	}
	other, err := k.judgeMember(a, y)
	return err == nil && bytes.Equal(one, other)
}
