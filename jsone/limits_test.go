package jsone

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// nested is n brackets around a value.
func nested(n int) any {
	var v any = 1.0
	for range n {
		v = []any{v}
	}
	return v
}

// repeat is the template of a loop that goes on until the limits end it.
func repeat(initial, each any) any {
	return map[string]any{
		"$reduce":         map[string]any{"$eval": "range(0, 50000)"},
		"initial":         initial,
		"each(acc, x, i)": each,
	}
}

func eval(source string) any { return map[string]any{"$eval": source} }

// Templates that try to take what a server has.
var hostile = map[string]any{
	"a range of a billion":      eval("range(0, 1000000000)"),
	"a range of all numbers":    eval("range(0 - 10 ** 300, 10 ** 300)"),
	"ranges within ranges":      eval("[" + strings.Repeat("range(0, 99999), ", 50) + "1]"),
	"loops within loops":        map[string]any{"$map": eval("range(0, 9999)"), "each(x)": map[string]any{"$map": eval("range(0, 9999)"), "each(y)": 1.0}},
	"a string that doubles":     repeat("xxxxxxxxxxxxxxxx", eval("acc + acc")),
	"an interpolation":          repeat("xxxxxxxxxxxxxxxx", "${acc}${acc}"),
	"a join of itself":          repeat("xxxxxxxxxxxxxxxx", eval("join([acc, acc, acc], acc)")),
	"a split of much":           repeat(strings.Repeat("x", 1<<16), map[string]any{"$let": map[string]any{"unused": eval("split(acc, '')")}, "in": eval("acc")}),
	"cases of letters":          repeat(strings.Repeat("ß", 1<<16), map[string]any{"$if": "len(uppercase(acc)) < 0", "then": 1.0}),
	"a search in itself":        repeat(strings.Repeat("x", 1<<16), map[string]any{"$if": "(acc + 'y') in acc", "then": 1.0}),
	"code points from the end":  repeat(strings.Repeat("ż", 1<<16), map[string]any{"$if": "acc[-1] == 'x'", "then": 1.0}),
	"an array that doubles":     repeat([]any{1.0}, map[string]any{"$flatten": []any{eval("acc"), eval("acc")}}),
	"an array that is reversed": repeat(make([]any, 1<<16), map[string]any{"$reverse": eval("acc")}),
	"an array that is sorted":   map[string]any{"$map": eval("range(0, 9999)"), "each(x)": map[string]any{"$sort": eval("range(0, 9999)"), "by(v)": "-v"}},
	"long strings that are sorted": map[string]any{"$let": map[string]any{"s": strings.Repeat("x", 1<<16)}, "in": map[string]any{
		"$sort": map[string]any{"$map": eval("range(0, 9999)"), "each(x)": eval("s + str(x)")}}},
	"a value that is shared":     repeat("x", []any{eval("acc"), eval("acc")}),
	"shared values compared":     map[string]any{"$let": map[string]any{"v": map[string]any{"$reduce": eval("range(0, 100)"), "initial": 1.0, "each(a,x)": []any{eval("a"), eval("a")}}}, "in": eval("v == v")},
	"shared values flattened":    map[string]any{"$flattenDeep": map[string]any{"$reduce": eval("range(0, 100)"), "initial": []any{1.0}, "each(a,x)": []any{eval("a"), eval("a")}}},
	"shared values as JSON":      map[string]any{"$json": map[string]any{"$reduce": eval("range(0, 100)"), "initial": 1.0, "each(a,x)": []any{eval("a"), eval("a")}}},
	"shared values as a result":  map[string]any{"$reduce": eval("range(0, 100)"), "initial": 1.0, "each(a,x)": []any{eval("a"), eval("a")}},
	"objects that are merged":    repeat(map[string]any{}, map[string]any{"$merge": []any{eval("acc"), map[string]any{"k${i}": 1.0}}}),
	"objects that merge deep":    repeat(map[string]any{"a": []any{1.0}}, map[string]any{"$mergeDeep": []any{eval("acc"), eval("acc")}}),
	"objects that are mapped":    map[string]any{"$map": eval("range(0, 99999)"), "each(x)": map[string]any{"a": map[string]any{"b": 1.0}}},
	"objects that are evaluated": map[string]any{"$map": eval("range(0, 99999)"), "each(x)": eval("{a: {b: {c: {}}}}")},
	"a long result":              map[string]any{"$map": eval("range(0, 50000)"), "each(x)": "twenty-four letters here"},
	"a value that is deep":       repeat(1.0, []any{eval("acc")}),
	"a value that is deep in $json": map[string]any{"$json": map[string]any{
		"$reduce": eval("range(0, 9999)"), "initial": 1.0, "each(a,x)": []any{eval("a")}}},
	"a deep template":            nested(100_000),
	"deep parentheses":           eval(strings.Repeat("(", 100_000)),
	"deep brackets":              eval(strings.Repeat("[", 100_000)),
	"deep objects":               eval(strings.Repeat("{a:", 100_000)),
	"deep signs":                 eval(strings.Repeat("-", 100_000) + "1"),
	"deep powers":                eval(strings.Repeat("1**", 100_000) + "1"),
	"deep calls":                 eval(strings.Repeat("len(", 100_000)),
	"deep indexes":               eval(strings.Repeat("len[", 100_000)),
	"deep interpolation":         "${" + strings.Repeat("(", 100_000),
	"a sum of a million":         eval(strings.Repeat("1+", 1_000_000) + "1"),
	"an access of a million":     eval(strings.Repeat("len.a", 1_000_000)),
	"deep lets":                  manyLets(100_000, 1.0),
	"a match of many":            matchOfMany(),
	"a long name for a variable": map[string]any{"$let": map[string]any{longName: 1.0}, "in": map[string]any{"$map": eval("range(0, 200000)"), "each(x)": eval(longName)}},
	"long names in an object": map[string]any{"$let": map[string]any{"o": map[string]any{longName: 1.0}}, "in": map[string]any{
		"$map": eval("range(0, 200000)"), "each(x)": map[string]any{"$if": "o == o", "then": map[string]any{"$merge": []any{eval("o"), eval("o")}}}}},
	"a search for a long name": map[string]any{"$map": eval("range(0, 200000)"), "each(x)": eval("defined('" + longName + "') || '" + longName + "' in {a: 1} || {a: 1}['" + longName + "']")},
	"a long condition":         map[string]any{"$find": eval("range(0, 200000)"), "each(x)": "!'" + longName + "'"},
	"a long time span": map[string]any{"$let": map[string]any{"s": strings.Repeat(" ", 1<<20)}, "in": map[string]any{
		"$map": eval("range(0, 200000)"), "each(x)": map[string]any{"$fromNow": eval("s")}}},
	"a literal that is checked": map[string]any{"$map": eval("range(0, 200000)"), "each(x)": map[string]any{
		"$reduce": []any{}, "initial": make([]any, 1<<16), "each(a,b)": 1.0}},
	"many scopes":                  map[string]any{"$map": eval("range(0, 200000)"), "each(x)": manyLets(200, eval("len('')"))},
	"many of the same expressions": map[string]any{"$map": eval("range(0, 99999)"), "each(x)": "${x}" + strings.Repeat("x", 1<<16)},
}

var longName = strings.Repeat("x", 1<<20)

func manyLets(n int, t any) any {
	for range n {
		t = map[string]any{"$let": map[string]any{"a": 1.0}, "in": t}
	}
	return t
}

func matchOfMany() any {
	cases := map[string]any{}
	for i := range 100_000 {
		cases[fmt.Sprintf("x != %d", i)] = 1.0
	}
	return map[string]any{"$map": eval("range(0, 9999)"), "each(x)": map[string]any{"$match": cases}}
}

func TestHostileTemplatesEndInALimit(t *testing.T) {
	for name, template := range hostile {
		_, err := RenderWith(Limits{Steps: 200_000}, template, nil) // fewer than by default, for the test's own time
		if e, ok := err.(*Error); !ok || e.Kind != LimitError {
			t.Errorf("%s: %v, want a LimitError", name, err)
		}
	}
}

func TestALimitNamesItself(t *testing.T) {
	for _, c := range []struct {
		limits   Limits
		template any
		want     string
	}{
		{Limits{Steps: 100}, map[string]any{"a": []any{eval("range(0, 101)")}}, "LimitError at template.a[0]: rendering takes more than 100 steps"},
		{Limits{Depth: 10}, nested(20), "LimitError at template[0][0][0][0][0][0][0][0][0][0]: the template nests deeper than 10 levels"},
		{Limits{Depth: 10}, eval("((((((((((1))))))))))"), "LimitError: an expression nests deeper than 10 levels"},
		{Limits{Depth: 10}, map[string]any{"$reduce": eval("range(0, 10)"), "initial": 1.0, "each(a,x)": []any{eval("a")}}, "LimitError: the result nests deeper than 10 levels"},
		{Limits{Depth: 10}, map[string]any{"$json": map[string]any{"$reduce": eval("range(0, 10)"), "initial": 1.0, "each(a,x)": []any{eval("a")}}}, "LimitError: a value nests deeper than 10 levels"},
		{Limits{Output: 20}, "a text of 21 letters.", "LimitError: the result is larger than 20 bytes of JSON"},
	} {
		if _, err := RenderWith(c.limits, c.template, nil); err == nil || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

// What is exactly as large as allowed is allowed.
func TestLimitsAreReachable(t *testing.T) {
	for _, result := range []any{nil, true, -0.25, "a\"\n\u2028<é", []any{}, []any{1.0, nil}, map[string]any{}, map[string]any{"a": "b", "c\\": []any{"d"}}} {
		text, err := Render(map[string]any{"$json": map[string]any{"$eval": "v"}}, map[string]any{"v": result})
		if err != nil {
			t.Fatal(err)
		}
		size := len(text.(string))
		if _, err := RenderWith(Limits{Output: size}, eval("v"), map[string]any{"v": result}); err != nil {
			t.Errorf("%s has %d bytes: %v", text, size, err)
		}
		if _, err := RenderWith(Limits{Output: size - 1}, eval("v"), map[string]any{"v": result}); size > 1 && err == nil {
			t.Errorf("%s has more than %d bytes, and is accepted", text, size-1)
		}
	}
	if _, err := RenderWith(Limits{Depth: 10}, nested(9), nil); err != nil {
		t.Error(err)
	}
	if _, err := RenderWith(Limits{Depth: 10}, eval("(((((((((1)))))))))"), nil); err != nil {
		t.Error(err)
	}
}

// The length of a chain is no depth.
func TestLongChains(t *testing.T) {
	deep := map[string]any{}
	for range 200 {
		deep = map[string]any{"a": deep}
	}
	for _, c := range []struct {
		source string
		want   any
	}{
		{"0" + strings.Repeat(" + 1", 5000), 5000.0},
		{"false" + strings.Repeat(" || false", 5000), false},
		{"true" + strings.Repeat(" && true", 5000), true},
		{"deep" + strings.Repeat(".a", 200), map[string]any{}},
		{"'abc'" + strings.Repeat("[0:]", 5000), "abc"},
	} {
		got, err := Render(eval(c.source), map[string]any{"deep": deep})
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%.20s…: %v, %v", c.source, got, err)
		}
	}
}

func TestErrorsQuoteLittle(t *testing.T) {
	long := strings.Repeat("ż", 1<<16)
	for _, template := range []any{
		"${[]" + strings.Repeat(" ", 1<<16) + "}", eval("'" + long + "'()"), eval("'" + long + "' 'x'"), eval("1 '" + long + "'"), eval("x " + long),
		eval(strings.Repeat("x", 1<<16)), eval("{}." + strings.Repeat("x", 1<<16)), eval("number('" + long + "')"),
		eval("fromNow('" + long + "')"), eval(strings.Repeat("9", 1<<16)), map[string]any{"$eval": "1", long: 1.0},
		map[string]any{long: eval("x")}, map[string]any{strings.Repeat("x", 1<<16): eval("x")}, map[string]any{"$fromNow": "", "from": long},
	} {
		_, err := Render(template, nil)
		if err == nil || len(err.Error()) > 1000 {
			t.Errorf("%.100v…: %.300v", template, err)
		}
	}
}

func TestValuesOfGoAreRefused(t *testing.T) {
	const want = "TemplateError: a value of the Go type int is no JSON: use what encoding/json decodes into an any"
	for _, c := range []struct {
		template any
		context  map[string]any
	}{
		{1, nil},
		{eval("1"), map[string]any{"a": 1}},
		{eval("1"), map[string]any{"a": []any{map[string]any{"b": 1}}}},
		{map[string]any{"$reduce": []any{}, "initial": 1, "each(a,b)": nil}, nil},
	} {
		if _, err := Render(c.template, c.context); err == nil || err.Error() != want {
			t.Errorf("%v: %v", c.template, err)
		}
	}
	if _, err := Render(eval("f()"), map[string]any{"f": func() any { return nil }}); err == nil {
		t.Error("a function of the caller's is accepted")
	}
}

// Render neither changes its arguments nor hands out what a second render of
// them would then see changed.
func TestArgumentsAreLeftAlone(t *testing.T) {
	template := map[string]any{
		"reversed": map[string]any{"$reverse": eval("list")},
		"sorted":   map[string]any{"$sort": eval("list")},
		"merged":   map[string]any{"$mergeDeep": []any{eval("object"), map[string]any{"list": eval("list[1:]"), "o": map[string]any{"b": 2.0}}}},
		"flat":     map[string]any{"$flatten": []any{eval("list[:1]"), eval("list[1:]")}},
		"mapped":   map[string]any{"$map": eval("object"), "each(v,k)": map[string]any{"${k}": 1.0}},
	}
	context := map[string]any{"list": []any{3.0, 1.0, 2.0}, "object": map[string]any{"list": []any{0.0}, "o": map[string]any{"a": 1.0}}}
	before, _ := json.Marshal([]any{template, context})
	first, err := Render(template, context)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Render(template, context)
	if err != nil || !reflect.DeepEqual(first, second) {
		t.Errorf("%v, then %v, %v", first, second, err)
	}
	if after, _ := json.Marshal([]any{template, context}); string(after) != string(before) {
		t.Errorf("the arguments were\n%s and are\n%s", before, after)
	}
}

func TestTimeStandsStillInARender(t *testing.T) {
	template := []any{eval("now"), map[string]any{"$fromNow": ""}, map[string]any{"$map": eval("range(0, 20000)"), "each(x)": map[string]any{"$if": "now != fromNow('')", "then": "late"}}}
	got, err := Render(template, nil)
	if err != nil {
		t.Fatal(err)
	}
	parts := got.([]any)
	if parts[0] != parts[1] || len(parts[2].([]any)) > 0 {
		t.Errorf("%v", got)
	}
}
