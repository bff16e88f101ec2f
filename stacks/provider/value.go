package provider

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"

	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

// Pulumi's values are nearly JSON, but not quite: its numbers are floats, some texts and one name of a member mean
// something to it, values may be unknown or secret. What cannot be carried over as it is is a Problem, never
// changed in silence.

// reserved are texts that Pulumi takes for a value that is not known yet, wherever they stand.
var reserved = []string{
	plugin.UnknownBoolValue, plugin.UnknownNumberValue, plugin.UnknownStringValue, plugin.UnknownArrayValue,
	plugin.UnknownAssetValue, plugin.UnknownArchiveValue, plugin.UnknownObjectValue,
}

// A path leads to a value: names of members, and indexes of elements.
type path = presource.PropertyPath

// at is a path one step longer, of its own memory.
func at(where path, step any) path { return append(slices.Clip(where), step) }

// fromJSON is a JSON value as Pulumi's. where is what problems say.
func fromJSON(where path, text json.RawMessage) (property.Value, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	err := d.Decode(&v)
	if err == nil {
		if _, after := d.Token(); !errors.Is(after, io.EOF) {
			err = errors.New("there is something after it")
		}
	}
	if err != nil {
		return property.Value{}, &Problem{where.String(), "is no JSON: " + err.Error()}
	}
	return fromAny(where, v)
}

func fromAny(where path, v any) (property.Value, error) {
	switch x := v.(type) {
	case nil:
		return property.Value{}, nil
	case bool:
		return property.New(x), nil
	case json.Number:
		f, err := float(x.String())
		if err != nil {
			return property.Value{}, &Problem{where.String(), err.Error()}
		}
		return property.New(f), nil
	case string:
		if slices.Contains(reserved, x) {
			return property.Value{}, &Problem{where.String(), "is a text that means to Pulumi that a value is not known"}
		}
		return property.New(x), nil
	case []any:
		list := make([]property.Value, len(x))
		for i, of := range x {
			var err error
			if list[i], err = fromAny(at(where, i), of); err != nil {
				return property.Value{}, err
			}
		}
		return property.New(list), nil
	case map[string]any:
		members := make(map[string]property.Value, len(x))
		for name, of := range x {
			if name == presource.SigKey {
				return property.Value{}, &Problem{where.String(), "has the member " + name + ", which means something else to Pulumi"}
			}
			var err error
			if members[name], err = fromAny(at(where, name), of); err != nil {
				return property.Value{}, err
			}
		}
		return property.New(members), nil
	}
	return property.Value{}, fmt.Errorf("%s: %T is no JSON", where, v)
}

// cannotKeep ends what stands for what Pulumi cannot keep.
const cannotKeep = " (Pulumi cannot keep it as it is)"

// keepable is JSON that Pulumi can keep, with texts in place of what it cannot. So what somebody has put into a thing does not
// hinder that it is refreshed: it differs from what there should be, and is put right.
func keepable(text json.RawMessage) json.RawMessage {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return text
	}
	out, err := json.Marshal(keepableAny(v))
	if err != nil {
		return text
	}
	return out
}

func keepableAny(v any) any {
	switch x := v.(type) {
	case json.Number:
		if _, err := float(x.String()); err != nil {
			return x.String() + cannotKeep
		}
	case string:
		if slices.Contains(reserved, x) {
			return x + cannotKeep
		}
	case []any:
		for i, of := range x {
			x[i] = keepableAny(of)
		}
	case map[string]any:
		for name, of := range x {
			x[name] = keepableAny(of)
		}
		if of, ok := x[presource.SigKey]; ok {
			delete(x, presource.SigKey)
			x[presource.SigKey+cannotKeep] = of
		}
	}
	return v
}

// float is a number of JSON as Pulumi keeps it, if that is the same number. Errors do not repeat it: it may be secret.
func float(text string) (float64, error) {
	f, err := strconv.ParseFloat(text, 64)
	digits, _, _ := strings.Cut(strings.ToLower(text), "e")
	if err != nil || f == 0 && strings.ContainsAny(digits, "123456789") {
		return 0, errors.New("is a number beyond what Pulumi can keep; write it as a text")
	}
	// What the shortest decimal that means f is, is what is written again.
	is, ok := new(big.Rat).SetString(text)
	kept, _ := new(big.Rat).SetString(spell(f))
	if !ok || is.Cmp(kept) != 0 {
		return 0, errors.New("is a number that Pulumi, whose numbers have 53 bits, would change; write it as a text, or round it")
	}
	return f, nil
}

// spell is a number in JSON. Integers have no exponent where they are of a size that anybody reads as integers.
func spell(f float64) string {
	switch {
	case f == 0:
		return "0" // and not -0
	case f == math.Trunc(f) && math.Abs(f) < 1<<63:
		return strconv.FormatFloat(f, 'f', -1, 64)
	}
	return strconv.FormatFloat(f, 'g', -1, 64)
}

// toJSON is Pulumi's value as JSON. What is unknown is written as what unknown has for it; where there is no unknown
// it is a problem.
func toJSON(where path, v property.Value, unknown *placeholders) (json.RawMessage, error) {
	x, err := toAny(where, v, unknown)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(x); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

func toAny(where path, v property.Value, unknown *placeholders) (any, error) {
	switch {
	case v.IsNull():
		return nil, nil
	case v.IsBool():
		return v.AsBool(), nil
	case v.IsString():
		return v.AsString(), nil
	case v.IsNumber():
		if f := v.AsNumber(); math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, &Problem{where.String(), "is no number of JSON"}
		}
		return json.Number(spell(v.AsNumber())), nil
	case v.IsArray():
		list := make([]any, v.AsArray().Len())
		for i, of := range v.AsArray().All {
			var err error
			if list[i], err = toAny(at(where, i), of, unknown); err != nil {
				return nil, err
			}
		}
		return list, nil
	case v.IsMap():
		members := make(map[string]any, v.AsMap().Len())
		for name, of := range v.AsMap().All {
			var err error
			if members[name], err = toAny(at(where, name), of, unknown); err != nil {
				return nil, err
			}
		}
		return members, nil
	case v.IsComputed() && unknown != nil:
		return unknown.add(where), nil
	case v.IsComputed():
		return nil, &Problem{where.String(), "is not known yet"}
	}
	return nil, &Problem{where.String(), "is an asset, an archive or a resource; it must be a value of JSON"}
}

// Placeholders stand in a document for what is not known in a preview, so that the rest of it is checked and completed
// as if it were. They are texts that pass for an address, as owners and recipients have to be.
type placeholders struct{ paths []path }

// placeholder is in all of them, and in nothing that anybody writes.
const placeholder = "pulumi-does-not-know-this-value-yet-"

func (u *placeholders) add(where path) string {
	u.paths = append(u.paths, where)
	return fmt.Sprintf("%s%d@taskfleet.invalid", placeholder, len(u.paths))
}

// concern tells whether what is wrong at a path may be so because of what is not known.
func (u *placeholders) concern(where path) bool {
	return slices.ContainsFunc(u.paths, func(p path) bool { return p.Contains(where) || where.Contains(p) })
}

// lift puts unknown values back where their placeholders are.
func lift(v property.Value) property.Value {
	return replace(v, func(v property.Value) property.Value {
		if v.IsString() && strings.Contains(v.AsString(), placeholder) {
			return property.WithGoValue(v, property.Computed)
		}
		return v
	})
}

// plain is v without what resources it depends on, which Pulumi keeps elsewhere, and with nulls that are just that: a
// secret null is how Register gets one past Pulumi's SDK.
func plain(v property.Value) property.Value {
	return replace(v, func(v property.Value) property.Value {
		if v.IsNull() {
			return property.Value{}
		}
		return v.WithDependencies(nil)
	})
}

// replace has f replace all values in v, from the inside.
func replace(v property.Value, f func(property.Value) property.Value) property.Value {
	switch {
	case v.IsArray():
		list := make([]property.Value, v.AsArray().Len())
		for i, of := range v.AsArray().All {
			list[i] = replace(of, f)
		}
		v = property.WithGoValue(v, list)
	case v.IsMap():
		members := v.AsMap().AsMap()
		for name := range members {
			members[name] = replace(members[name], f)
		}
		v = property.WithGoValue(v, members)
	}
	return f(v)
}

// hide marks members of v as secret, with all that is in them. In a list it is the list that is marked.
func hide(v property.Value, members []string) property.Value {
	for _, member := range members {
		v = hideAt(v, strings.Split(member, "."))
	}
	return v
}

func hideAt(v property.Value, member []string) property.Value {
	switch {
	case len(member) == 0 && v.IsNull():
		return v
	case len(member) == 0 || v.IsArray():
		return v.WithSecret(true)
	case !v.IsMap():
		return v
	}
	if of, ok := v.AsMap().GetOk(member[0]); ok {
		return property.WithGoValue(v, v.AsMap().Set(member[0], hideAt(of, member[1:])))
	}
	return v
}

// hideLike marks in v what is secret in other: what a program says is secret stays it. Lists may have another order, so
// that one with something secret in it is so as a whole.
func hideLike(v, other property.Value) property.Value {
	switch {
	case v.IsNull():
		return v
	case other.Secret(), other.IsArray() && other.HasSecrets():
		return v.WithSecret(true)
	case v.IsMap() && other.IsMap():
		members := v.AsMap().AsMap()
		for name := range members {
			members[name] = hideLike(members[name], other.AsMap().Get(name))
		}
		return property.WithGoValue(v, members)
	}
	return v
}

// object is v, or an empty object if it is none.
func object(v property.Value) property.Map {
	if v.IsMap() {
		return v.AsMap()
	}
	return property.Map{}
}

// shortestSecret is the length of texts below which one is not looked for in errors: it would be found in words.
const shortestSecret = 4

// scrub is an error without the secrets in values.
func scrub(err error, values ...property.Value) error {
	if err == nil {
		return nil
	}
	var secrets []string
	for _, v := range values {
		secrets = append(secrets, secretTexts(v, false)...)
	}
	text := err.Error()
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) }) // one may be a part of another
	for _, secret := range secrets {
		quoted, _ := json.Marshal(secret)
		for _, spelling := range []string{secret, strings.Trim(string(quoted), `"`), strings.Trim(strconv.Quote(secret), `"`)} {
			if len(spelling) >= shortestSecret {
				text = strings.ReplaceAll(text, spelling, "(hidden)")
			}
		}
	}
	return errors.New(text)
}

func secretTexts(v property.Value, secret bool) (all []string) {
	secret = secret || v.Secret()
	switch {
	case v.IsMap():
		for _, of := range v.AsMap().All {
			all = append(all, secretTexts(of, secret)...)
		}
	case v.IsArray():
		for _, of := range v.AsArray().All {
			all = append(all, secretTexts(of, secret)...)
		}
	case secret && v.IsString():
		all = append(all, v.AsString())
	case secret && v.IsNumber():
		all = append(all, spell(v.AsNumber()))
	}
	return all
}
