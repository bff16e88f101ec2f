package hooks

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestPayloadsAreCheckedAndCompleted(t *testing.T) {
	for _, c := range []struct{ schema, payload, want string }{
		{`{}`, `{"a":1}`, `{"a":1}`},
		{`{"type":"object","additionalProperties":false}`, `{"a":1}`, "payload: additional properties 'a' not allowed"},
		{`{"properties":{"a":{"type":"string","default":"x"},"b":{"properties":{"c":{"default":[1]}}}}}`, `{"b":{}}`, `{"a":"x","b":{"c":[1]}}`},
		{`{"properties":{"a":{"default":1}},"required":["a"]}`, `{}`, `{"a":1}`},
		{`{"properties":{"a":{"type":"integer","default":"12"}}}`, `{}`, `{}`}, // a default that is not valid itself
		{`{"properties":{"a":{"$ref":"#/definitions/d"}},"definitions":{"d":{"default":true}}}`, `{}`, `{"a":true}`},
		{`{"allOf":[{"properties":{"a":{"default":1}}}],"anyOf":[{"properties":{"b":{"default":1}}}]}`, `{}`, `{"a":1}`},
		{`{"properties":{"l":{"items":{"properties":{"a":{"default":1}}}},"p":{"items":[{"properties":{"b":{"default":2}}}]}}}`, `{"l":[{},{"a":3}],"p":[{},{}]}`, `{"l":[{"a":1},{"a":3}],"p":[{"b":2},{}]}`},
		{`{"$schema":"http://json-schema.org/draft-04/schema#","properties":{"a":{"minimum":1,"exclusiveMinimum":true}}}`, `{"a":1}`, "payload/a"},
		{`{"$schema":"http://json-schema.org/draft-06/schema#","properties":{"a":{"const":2}}}`, `{"a":1}`, "payload/a"},
		{`{"$schema":"http://json-schema.org/draft-07/schema#","if":{"required":["a"]},"then":{"required":["b"]}}`, `{"a":1}`, "missing property 'b'"},
		{`{"properties":{"a":{"type":"string","format":"email"}}}`, `{"a":"nobody"}`, "payload/a"},
		{`{"properties":{"a":{"pattern":"^x+$"}}}`, `{"a":"xxy"}`, "payload/a"},
		{`{"properties":{"a":{"uniqueItems":true,"contains":{"const":1}}}}`, `{"a":[1,2,2]}`, "payload/a"},
		{`{"properties":{"t":{"$ref":"#"}},"additionalProperties":false}`, `{"t":{"t":{"u":1}}}`, "payload/t/t"},
	} {
		s, err := compileSchema(json.RawMessage(c.schema))
		if err != nil {
			t.Errorf("%s: %v", c.schema, err)
			continue
		}
		for range 2 { // a schema is used again and again
			var payload any
			if err := json.Unmarshal([]byte(c.payload), &payload); err != nil {
				t.Fatal(err)
			}
			got := ""
			if err := s.check(payload); err != nil {
				got = err.Error()
			} else {
				got = string(mustEncode(payload))
			}
			if c.want[0] == '{' && got != c.want || !strings.Contains(got, c.want) {
				t.Errorf("%s of %s: %s, want %s", c.schema, c.payload, got, c.want)
			}
		}
	}
}

func TestSchemasThatAreRefused(t *testing.T) {
	nested := func(n int) string { return strings.Repeat(`{"not":`, n) + "{}" + strings.Repeat("}", n) }
	for schema, say := range map[string]string{
		`{"type":"beer"}`:                                        "must be one of",
		`{"type":["string",7]}`:                                  "triggerSchema/type",
		`{"properties":{"a":{"minimum":"x"}}}`:                   "triggerSchema/properties/a/minimum",
		`{"$ref":"http://169.254.169.254/latest/meta-data"}`:     "stay within the schema",
		`{"properties":{"a":{"$ref":"file:///etc/passwd"}}}`:     "stay within the schema",
		`{"$schema":"http://127.0.0.1/schema"}`:                  "is not fetched",
		`{"$schema":"file:///etc/passwd"}`:                       "is not fetched",
		`{"$ref":"#/definitions/missing"}`:                       "missing",
		`{"pattern":"(?=a)b"}`:                                   "RE2",
		`{"pattern":"(a)\\1"}`:                                   "RE2",
		`{"patternProperties":{"(":{}}}`:                         "RE2",
		`{"pattern":"` + strings.Repeat("a", 1001) + `"}`:        "1000 are the most",
		`{"pattern":"` + strings.Repeat("[a-z]{900}", 50) + `"}`: "repeats too much",
		`{"enum":["` + strings.Repeat("x", 300_000) + `"]}`:      "bytes",
		`{"enum":[` + strings.Repeat("1,", 20_000) + `1]}`:       "more than 20000 values",
		nested(120): "levels deep",
		`{"allOf":[` + strings.Repeat(`{"$ref":"#/definitions/a"},`, 101) + `{}],"definitions":{"a":{}}}`: "more than 100 references",
	} {
		_, err := compileSchema(json.RawMessage(schema))
		if err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%.100s: %v, which does not say %q", schema, err, say)
		}
	}
}

// What takes for ever is given up, at once.
func TestHostileSchemas(t *testing.T) {
	var doubling strings.Builder // each definition applies the next one twice
	for i := range 40 {
		fmt.Fprintf(&doubling, `"d%d":{"allOf":[{"$ref":"#/definitions/d%d"},{"$ref":"#/definitions/d%d"}]},`, i, i+1, i+1)
	}
	nest := func(n int) string { return strings.Repeat(`{"a":`, n) + "{}" + strings.Repeat("}", n) }
	deep := nest(99)
	for name, c := range map[string]struct{ schema, payload string }{
		"doubling":     {`{"definitions":{` + doubling.String() + `"d40":{}},"$ref":"#/definitions/d0"}`, `{}`},
		"by depth":     {`{"properties":{"a":{"allOf":[{"$ref":"#"},{"$ref":"#"}]}}}`, deep},
		"nesting":      {`{}`, nest(5000)},
		"in itself":    {`{"$ref":"#"}`, `{}`},
		"alternatives": {`{"properties":{"a":{"anyOf":[{"$ref":"#"},{"$ref":"#"},{"$ref":"#"}],"required":["b"]}}}`, deep},
		"regexp":       {`{"additionalProperties":{"pattern":"^(` + strings.Repeat("(x|y)?", 150) + `)*z$"}}`, `{"a":"` + strings.Repeat("x", 900_000) + `"}`},
		"many regexps": {`{"patternProperties":{` + many(2000, `"^%d(x+x+)+y":{}`) + `}}`, `{` + many(20_000, `"%dxxxxxxxxxxxxxx":1`) + `}`},
		"items":        {`{"properties":{"a":{"items":{"allOf":[` + many(90, `{"properties":{"p%d":{}}}`) + `]}}}}`, `{"a":[` + many(100_000, "%d") + `]}`},
	} {
		s, err := compileSchema(json.RawMessage(c.schema))
		if err != nil {
			t.Logf("%s: refused: %v", name, err)
			continue
		}
		var payload any
		if err := json.Unmarshal([]byte(c.payload), &payload); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		err = s.check(payload)
		took := time.Since(began)
		t.Logf("%s: %v, %.200v", name, took, err)
		if err == nil {
			t.Errorf("%s: is valid", name)
		}
		if took > 3*time.Minute { // seconds at the worst, ten times as long where others are at work, too
			t.Errorf("%s took %v", name, took)
		}
	}
}

func many(n int, format string) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf(format, i)
	}
	return strings.Join(list, ",")
}
