package provider

import (
	"encoding/json"
	"strings"
	"testing"

	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource/plugin"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

func TestJSONIsTheSameAfterPulumiHadIt(t *testing.T) {
	for _, x := range []struct{ in, want string }{
		{`{}`, `{}`}, {`[]`, `[]`}, {`null`, `null`}, {`""`, `""`}, {`"é<>&\u0000\n"`, `"é<>&\u0000\n"`},
		{`{"b": [1, {"a": null}, [], {}], "a": true}`, `{"a":true,"b":[1,{"a":null},[],{}]}`},
		{`[0, -0, 0.0, 1.0, 1e0, 1.50, -2, 1e3, 100e-2]`, `[0,0,0,1,1,1.5,-2,1000,1]`},
		{`[0.1, 3.141592653589793, 1e-7, 5e-324, 1.7976931348623157e308]`, `[0.1,3.141592653589793,1e-07,5e-324,1.7976931348623157e+308]`},
		{`[9007199254740992, -9007199254740992, 1000000000000000000, 1e300]`, `[9007199254740992,-9007199254740992,1000000000000000000,1e+300]`},
	} {
		v, err := fromJSON(nil, json.RawMessage(x.in))
		if err != nil {
			t.Errorf("%s: %v", x.in, err)
			continue
		}
		got, err := toJSON(nil, overTheWire(t, v), nil)
		if err != nil || string(got) != x.want {
			t.Errorf("%s becomes %s, %v; it should be %s", x.in, got, err, x.want)
		}
	}
}

// overTheWire is a value after it was sent from the engine to a provider.
func overTheWire(t testing.TB, v property.Value) property.Value {
	t.Helper()
	options := plugin.MarshalOptions{KeepUnknowns: true, KeepSecrets: true, KeepResources: true, KeepOutputValues: true}
	sent, err := plugin.MarshalProperties(presource.ToResourcePropertyMap(property.NewMap(map[string]property.Value{"it": v})), options)
	if err != nil {
		t.Fatal(err)
	}
	got, err := plugin.UnmarshalProperties(sent, options)
	if err != nil {
		t.Fatal(err)
	}
	return presource.FromResourcePropertyMap(got).Get("it")
}

func TestWhatPulumiWouldChangeIsRefusedByName(t *testing.T) {
	const number = "is a number"
	for _, x := range []struct{ in, where, why string }{
		{`{"config": {"big": 9007199254740993}}`, "spec.config.big", number},
		{`{"a": [1, 18446744073709551615]}`, "spec.a[1]", number},
		{`{"a": -9223372036854775807}`, "spec.a", number},
		{`{"a": 0.1234567890123456789}`, "spec.a", number},
		{`{"a": 1e309}`, "spec.a", number},
		{`{"a": 1e-999999999}`, "spec.a", number},
		{`{"a.b": {"c": 1e-400}}`, `spec["a.b"].c`, number},
		{`{"a": "04da6b54-80e4-46f7-96ec-b56ff0331ba9"}`, "spec.a", "means to Pulumi that a value is not known"},
		{`{"a": {"4dabf18193072939515e22adb298388d": "x"}}`, "spec.a", "means something else to Pulumi"},
		{`{"a": 1} {}`, "spec", "is no JSON"},
		{`{"a": `, "spec", "is no JSON"},
	} {
		v, err := fromJSON(atSpec, json.RawMessage(x.in))
		if err == nil {
			t.Errorf("%s is taken, as %s", x.in, text(t, v))
			continue
		}
		if !strings.HasPrefix(err.Error(), x.where+": ") || !strings.Contains(err.Error(), x.why) {
			t.Errorf("the error of %s is %v", x.in, err)
		}
		if strings.Contains(err.Error(), "993") || strings.Contains(err.Error(), "551615") {
			t.Errorf("the error tells the value: %v", err)
		}
	}
}

func TestSecretsAreMarkedWhoeverSentThem(t *testing.T) {
	for _, x := range []struct{ in, members, want string }{
		{`{"value": {"a": 1}, "b": 2}`, "value", `{"b":2,"value":"<{\"a\":1}>"}`},
		{`{"config": {"token": "x", "b": 1}}`, "config.token", `{"config":{"b":1,"token":"<\"x\">"}}`},
		{`{"list": [{"token": "x"}, {"token": "y"}]}`, "list.token", `{"list":"<[{\"token\":\"x\"},{\"token\":\"y\"}]>"}`},
		{`{"value": null, "config": "text"}`, "value config.token missing", `{"config":"text","value":null}`},
	} {
		v := hide(value(t, x.in), strings.Fields(x.members))
		expect(t, x.in, text(t, v), x.want)
		expect(t, x.in+" sent", text(t, overTheWire(t, v)), x.want)
	}
	said := property.New(map[string]property.Value{
		"list": property.New([]property.Value{property.New("b"), property.New("a").WithSecret(true)}),
		"map":  property.New(map[string]property.Value{"x": property.New("1").WithSecret(true), "y": property.New("2")}),
		"none": property.Value{}.WithSecret(true),
	})
	expect(t, "what a program says is secret", text(t, hideLike(value(t, `{"list": ["a", "b"], "map": {"x": "3", "y": "2", "z": 1}, "none": null}`), said)),
		`{"list":"<[\"a\",\"b\"]>","map":{"x":"<\"3\">","y":"2","z":1},"none":null}`)
}

// FuzzJSON looks for JSON that is another one after Pulumi had it, and for what makes the conversion fail otherwise.
func FuzzJSON(f *testing.F) {
	for _, text := range []string{`{"a": [1, 2.5, "x", null, true, {}]}`, `9007199254740993`, `1e400`, `-0.0`, `"\ud800"`, `{"": {"4dabf18193072939515e22adb298388d": 1}}`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := fromJSON(atSpec, keepable(text)); err != nil && json.Valid(text) {
			t.Errorf("%q is not kept, whatever it is: %v", text, err)
		}
		v, err := fromJSON(atSpec, text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "spec") {
				t.Errorf("the error names nothing: %v", err)
			}
			return
		}
		once, err := toJSON(nil, overTheWire(t, v), nil)
		if err != nil {
			t.Fatalf("%q cannot be written again: %v", text, err)
		}
		again, err := fromJSON(nil, once)
		if err != nil {
			t.Fatalf("%q cannot be read again: %v", once, err)
		}
		if twice, err := toJSON(nil, again, nil); err != nil || string(twice) != string(once) || !equal(v, again) {
			t.Errorf("%q is %q and then %q, %v", text, once, twice, err)
		}
		for where := range changes(atSpec, v, again) {
			t.Errorf("%q differs from itself at %s", text, where)
		}
	})
}
