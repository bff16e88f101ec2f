package awsfake

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// This file reads and writes the three protocols by reflection over the SDK's
// types. Names are those of the fields, but for EC2's exceptions in names.go.

// node is a part of a decoded form: "Filter.1.Name=x" is the node Name in 1 in
// Filter.
type node struct {
	value    string
	children map[string]*node
}

func (n *node) child(name string) *node {
	if n.children == nil {
		n.children = map[string]*node{}
	}
	c := n.children[name]
	if c == nil {
		c = &node{}
		n.children[name] = c
	}
	return c
}

func (n *node) text(name string) string {
	if c := n.children[name]; c != nil {
		return c.value
	}
	return ""
}

// items are the children of a list, in the order of their numbers.
func (n *node) items() []*node {
	type item struct {
		number int
		node   *node
	}
	var all []item
	for name, c := range n.children {
		if number, err := strconv.Atoi(name); err == nil && number > 0 {
			all = append(all, item{number, c})
		}
	}
	slices.SortFunc(all, func(a, b item) int { return a.number - b.number })
	nodes := make([]*node, len(all))
	for i := range all {
		nodes[i] = all[i].node
	}
	return nodes
}

// maxDepth of names in a form; the SDK's types go down to about ten.
const maxDepth = 32

func parseForm(body string) (*node, error) {
	values, err := url.ParseQuery(body)
	if err != nil {
		return nil, failure("MalformedQueryString", "The query string cannot be read: %v", err)
	}
	root := &node{}
	for name, v := range values {
		parts := strings.Split(name, ".")
		if len(parts) > maxDepth {
			return nil, failure("MalformedQueryString", "The parameter name %.100q has too many parts", name)
		}
		at := root
		for _, p := range parts {
			at = at.child(p)
		}
		at.value = v[len(v)-1]
	}
	return root, nil
}

// decodeForm reads a form into an input; a parameter that it does not have is an
// error, as it is for EC2.
func decodeForm(form *node, in reflect.Value, ec2 bool) error {
	known := map[string]bool{"Action": true, "Version": true}
	for i := range in.NumField() {
		if f := in.Type().Field(i); f.IsExported() {
			known[requestName(in.Type(), f.Name, ec2)] = true
		}
	}
	for name := range form.children {
		if !known[name] {
			return failure("UnknownParameter", "The parameter %s is not recognized", name)
		}
	}
	return decodeNode(form, in, ec2)
}

func requestName(t reflect.Type, field string, ec2 bool) string {
	if ec2 {
		if name := requestNames[t.Name()+"."+field]; name != "" {
			return name
		}
	}
	return field
}

func decodeNode(n *node, v reflect.Value, ec2 bool) error {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return decodeNode(n, v.Elem(), ec2)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			raw, err := base64.StdEncoding.DecodeString(n.value)
			if err != nil {
				return unreadable(n.value, "base64")
			}
			v.SetBytes(raw)
			return nil
		}
		if m := n.children["member"]; m != nil && !ec2 {
			n = m
		}
		items := n.items()
		v.Set(reflect.MakeSlice(v.Type(), len(items), len(items)))
		for i, item := range items {
			if err := decodeNode(item, v.Index(i), ec2); err != nil {
				return err
			}
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			t, err := time.Parse(time.RFC3339Nano, n.value)
			if err != nil {
				return unreadable(n.value, "a time")
			}
			v.Set(reflect.ValueOf(t))
			return nil
		}
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() || f.Anonymous {
				continue
			}
			name := requestName(v.Type(), f.Name, ec2)
			c := n.children[name]
			if c == nil && !ec2 {
				c = n.children[lowerFirst(name)] // a few members of STS
			}
			if c != nil {
				if err := decodeNode(c, v.Field(i), ec2); err != nil {
					return err
				}
			}
		}
	case reflect.String:
		v.SetString(n.value)
	case reflect.Bool:
		b, err := strconv.ParseBool(n.value)
		if err != nil {
			return unreadable(n.value, "true or false")
		}
		v.SetBool(b)
	case reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(n.value, 10, v.Type().Bits())
		if err != nil {
			return unreadable(n.value, "a whole number")
		}
		v.SetInt(i)
	case reflect.Float64:
		f, err := strconv.ParseFloat(n.value, 64)
		if err != nil {
			return unreadable(n.value, "a number")
		}
		v.SetFloat(f)
	}
	return nil
}

func unreadable(value, kind string) error {
	return failure("InvalidParameterValue", "The value %.100q is not %s", value, kind)
}

// encodeXML writes an answer: EC2 has its members beside the request's
// identifier, the query protocol has them in a result.
func encodeXML(wire, action string, out reflect.Value) []byte {
	const id = "00000000-0000-0000-0000-000000000000"
	var b bytes.Buffer
	b.WriteString(xml.Header)
	if wire == "ec2" {
		b.WriteString("<" + action + `Response xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>` + id + "</requestId>")
		writeMembers(&b, out, true)
		b.WriteString("</" + action + "Response>")
	} else {
		b.WriteString("<" + action + "Response><" + action + "Result>")
		writeMembers(&b, out, false)
		b.WriteString("</" + action + "Result><ResponseMetadata><RequestId>" + id + "</RequestId></ResponseMetadata></" + action + "Response>")
	}
	return b.Bytes()
}

// itemNames are the names of the elements of EC2's lists where they are not "item".
var itemNames = map[string]string{
	"LaunchTemplateInstanceNetworkInterfaceSpecification.Groups": "groupId",
	"InferenceAcceleratorInfo.Accelerators":                      "member",
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

func writeMembers(b *bytes.Buffer, v reflect.Value, ec2 bool) {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() || f.Anonymous || f.Name == "ResultMetadata" {
			continue
		}
		name := f.Name
		if ec2 {
			if name = responseNames[t.Name()+"."+f.Name]; name == "" {
				name = lowerFirst(f.Name)
			}
		}
		item := "member"
		if ec2 {
			item = cmp.Or(itemNames[t.Name()+"."+f.Name], "item")
		}
		writeElement(b, name, item, v.Field(i), ec2)
	}
}

// writeElement writes an element unless it is absent: a nil pointer or list, or
// an empty enumeration. item is the name of a list's elements.
func writeElement(b *bytes.Buffer, name, item string, v reflect.Value, ec2 bool) {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	if v.Kind() == reflect.Slice && v.IsNil() || v.Kind() == reflect.String && v.Type() != reflect.TypeFor[string]() && v.Len() == 0 {
		return
	}
	b.WriteString("<" + name + ">")
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		b.WriteString(v.Interface().(time.Time).UTC().Format("2006-01-02T15:04:05.999Z"))
	case v.Kind() == reflect.Struct:
		writeMembers(b, v, ec2)
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
		b.WriteString(base64.StdEncoding.EncodeToString(v.Bytes()))
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			writeElement(b, item, item, v.Index(i), ec2)
		}
	case v.Kind() == reflect.String:
		xml.EscapeText(b, []byte(v.String())) // a Buffer takes everything
	case v.Kind() == reflect.Bool:
		b.WriteString(strconv.FormatBool(v.Bool()))
	case v.CanInt():
		b.WriteString(strconv.FormatInt(v.Int(), 10))
	case v.CanFloat():
		b.WriteString(strconv.FormatFloat(v.Float(), 'g', -1, 64))
	}
	b.WriteString("</" + name + ">")
}

func xmlError(wire, code, message string) []byte {
	var text bytes.Buffer
	xml.EscapeText(&text, []byte(message)) // a Buffer takes everything
	const id = "00000000-0000-0000-0000-000000000000"
	if wire == "ec2" {
		return []byte(xml.Header + "<Response><Errors><Error><Code>" + code + "</Code><Message>" + text.String() + "</Message></Error></Errors><RequestID>" + id + "</RequestID></Response>")
	}
	return []byte(xml.Header + "<ErrorResponse><Error><Type>Sender</Type><Code>" + code + "</Code><Message>" + text.String() + "</Message></Error><RequestId>" + id + "</RequestId></ErrorResponse>")
}

func decodeJSON(body []byte, in any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if err := json.Unmarshal(body, in); err != nil {
		return &Error{Code: "SerializationException", Message: err.Error()}
	}
	return nil
}

func encodeJSON(out reflect.Value) []byte { return mustJSON(jsonOf(out)) }

// mustJSON encodes strings, numbers, lists and maps of them.
func mustJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

// jsonOf is a value as the JSON protocols have it: absent members left out,
// times in seconds.
func jsonOf(v reflect.Value) any {
	switch {
	case v.Kind() == reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return jsonOf(v.Elem())
	case v.Type() == reflect.TypeFor[time.Time]():
		return float64(v.Interface().(time.Time).UnixMilli()) / 1000
	case v.Kind() == reflect.Struct:
		members := map[string]any{}
		for i := range v.NumField() {
			f := v.Type().Field(i)
			if !f.IsExported() || f.Anonymous || f.Name == "ResultMetadata" {
				continue
			}
			if member := v.Field(i); !member.IsZero() {
				members[f.Name] = jsonOf(member)
			}
		}
		return members
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() != reflect.Uint8:
		items := make([]any, v.Len())
		for i := range items {
			items[i] = jsonOf(v.Index(i))
		}
		return items
	}
	return v.Interface()
}

func jsonError(code, message string) []byte {
	return mustJSON(map[string]string{"__type": code, "message": message})
}
