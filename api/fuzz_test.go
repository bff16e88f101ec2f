package api

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An odd body has a field of every kind.
type odd struct {
	Text      string
	Named     task.State                 `json:"named"`
	Yes       bool                       `json:"yes,omitempty"`
	Int       int                        `json:"int"`
	Long      int64                      `json:"long"`
	Small     int8                       `json:"small"`
	Float     float64                    `json:"float"`
	Number    json.Number                `json:"number"`
	Quoted    int                        `json:"quoted,string"`
	Time      timestamp.Time             `json:"time"`
	Times     []timestamp.Time           `json:"times"`
	Raw       json.RawMessage            `json:"raw"`
	Any       any                        `json:"any"`
	List      []string                   `json:"list"`
	Lists     [][]int                    `json:"lists"`
	Bytes     []byte                     `json:"bytes"`
	Map       map[string]string          `json:"map"`
	Raws      map[string]json.RawMessage `json:"raws"`
	Numbered  map[int]string             `json:"numbered"`
	Pointer   *string                    `json:"pointer"`
	Within    struct{ A, B string }      `json:"within"`
	Children  []odd                      `json:"children"`
	Hidden    string                     `json:"-"`
	Dash      string                     `json:"-,"`
	unnamed   string
	CaseTest  string `json:"caseTest"`
	CaseTest2 string `json:"casetest"`
}

// Whatever a handler is given is what json.Unmarshal would give it.
func FuzzBodies(f *testing.F) {
	for _, text := range []string{
		`{"Text":"a","text":"b","TEXT":"c"}`, `{"caseTest":"a","casetest":"b","CASETEST":"c"}`, `{"CaseTest":"x"}`, `{"te\u017ft":1,"Te\u017ft":"x"}`, `{"named":"pending","yes":true,"int":1,"long":-9223372036854775808,"small":127}`,
		`{"small":128}`, `{"int":1.0}`, `{"int":1e2}`, `{"int":"1"}`, `{"int":-0}`, `{"long":9223372036854775808}`, `{"float":1e999}`, `{"float":0.1,"number":1e5,"quoted":"7"}`, `{"number":"12"}`, `{"number":"x"}`,
		`{"time":"2016-05-11T09:30:00.000Z","times":["2016-05-11T09:30:00.123456+01:00"]}`, `{"time":null}`, `{"time":"x"}`, `{"times":[null]}`,
		`{"raw":{"b":1,"a":[1,2,{"x":"<&>"}]},"any":{"n":1,"l":[1.5,null]},"raws":{"a":null,"b":"x"}}`, `{"raw":null,"any":null,"list":null,"map":null,"pointer":null,"within":null}`,
		`{"list":["a","b"],"lists":[[1],[],[2,3]],"bytes":"aGk=","map":{"a":"b"},"numbered":{"1":"x"},"pointer":"p","within":{"A":"x","b":"y"}}`,
		`{"list":[1],"map":{"a":1}}`, `{"list":{}}`, `{"map":[]}`, `{"children":[{"int":1,"children":[{"Text":"deep"}]}]}`, `{"Hidden":"x","-":"y","unnamed":"z"}`, `[]`, `null`, `"x"`, `1`, `{"unknown":{"a":1}}`,
		`{"provisionerId":"p","workerType":"w","dependencies":["x"],"retries":5,"created":"2016-05-11T09:30:00.000Z","payload":{"z":1,"a":2},"metadata":{"name":"n","owner":"o"},"tags":{"k":"v"}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, err := decodeJSON(text)
		if err != nil {
			return
		}
		sameBody[odd](t, doc)
		sameBody[*odd](t, doc)
		sameBody[task.Definition](t, doc)
		sameBody[json.RawMessage](t, doc)
		sameBody[map[string]any](t, doc)
	})
}

func sameBody[B any](t *testing.T, doc any) {
	text, err := encodeJSON(doc)
	if err != nil {
		t.Fatal(err)
	}
	var got, want B
	err = decodeBody(&request{payload: doc}, fillerOf(reflect.TypeFor[B]()), &got)
	wantErr := json.Unmarshal(text, &want)
	switch {
	case (err == nil) != (wantErr == nil):
		t.Fatalf("%s into %T: %v, want %v", text, got, err, wantErr)
	case err == nil && !reflect.DeepEqual(got, want):
		t.Fatalf("%s is read as %+v, want %+v", text, got, want)
	}
}

// everything is a schema with what a glance knows and what it does not.
const everything = `
type: object
properties:
  kind: {enum: [a, b]}
  mixed: {enum: [a, 1, null]}
  const: {const: 1}
  short: {type: string, minLength: 2, maxLength: 3}
  pattern: {type: string, pattern: "^[a-z]+$"}
  time: {type: string, format: date-time}
  when: {format: date-time}
  either: {anyOf: [{format: uri}, {format: regex}], maxLength: 20}
  one: {oneOf: [{type: integer}, {minimum: 3}]}
  both: {allOf: [{type: string}, {minLength: 1}]}
  not: {not: {type: string}}
  count: {type: integer, minimum: 1, maximum: 32}
  number: {type: number, maximum: 1.5}
  large: {type: integer, maximum: 100000000000000000000}
  several: {type: [string, "null", integer]}
  set: {type: array, uniqueItems: true, minItems: 1, maxItems: 3, items: {type: string}}
  loose: {type: array, uniqueItems: true}
  pair: {type: array, items: [{type: string}, {type: integer}], additionalItems: false}
  map: {type: object, additionalProperties: {type: string}}
  closed: {type: object, properties: {a: {$ref: "#/properties/short"}}, required: [a], additionalProperties: false}
  open: {type: object, properties: {a: true, b: false}}
  patterns: {type: object, patternProperties: {"^x": {type: string}}, additionalProperties: false}
  beside: {$ref: "#/properties/short", pattern: "^a"}
  self: {$ref: "#"}
  circle: {$ref: "#/$defs/circle"}
  whole: {type: object, allOf: [{properties: {a: true}}], unevaluatedProperties: false}
$defs:
  circle: {allOf: [{$ref: "#/$defs/back"}], properties: {again: {$ref: "#/$defs/circle"}}}
  back: {anyOf: [{$ref: "#/$defs/circle"}]}
minProperties: 1
`

// A glance at a document likes what the validator likes, and nothing else.
func FuzzGlance(f *testing.F) {
	all := map[string]*schema{}
	add := func(name string, dir fs.FS) {
		s, err := loadSchemas(name, "v1", dir)
		if err != nil {
			f.Fatal(err)
		}
		for ref, sch := range s.compiled {
			all[name+"/"+ref] = sch
		}
	}
	add("everything", fstest.MapFS{"everything.yml": {Data: []byte(everything)}})
	folders, err := filepath.Glob("../*/schemas")
	if err != nil || len(folders) < 5 {
		f.Fatal(folders, err)
	}
	for _, dir := range folders {
		if dir != "../references/schemas" {
			add(filepath.Base(filepath.Dir(dir)), os.DirFS(dir))
		}
	}
	for _, text := range []string{
		`{}`, `{"kind":"a"}`, `{"kind":"c"}`, `{"kind":1}`, `{"mixed":1.0}`, `{"mixed":null}`, `{"mixed":2}`, `{"const":1}`, `{"const":2}`, `{"short":"ab"}`, `{"short":"éé"}`, `{"short":"a"}`, `{"short":"abcd"}`, `{"short":1}`,
		`{"pattern":"a1"}`, `{"time":"2016-05-11T09:30:00.000Z"}`, `{"time":"x"}`, `{"when":1}`, `{"either":"("}`, `{"either":"http://a/"}`, `{"either":"a+"}`, `{"one":1}`, `{"one":3}`, `{"one":2.5}`, `{"both":""}`, `{"not":"x"}`, `{"not":1}`,
		`{"count":1}`, `{"count":0}`, `{"count":33}`, `{"count":1.0}`, `{"count":1e1}`, `{"count":1.5}`, `{"count":-0}`, `{"number":1}`, `{"number":2}`, `{"large":99999999999999999999}`, `{"large":1}`, `{"several":null}`, `{"several":1.5}`, `{"several":true}`,
		`{"set":["a","b"]}`, `{"set":["a","a"]}`, `{"set":[]}`, `{"set":["a","b","c","d"]}`, `{"set":[1]}`, `{"loose":[1,1.0]}`, `{"loose":[{"a":1},{"a":1}]}`, `{"loose":["a",1]}`, `{"pair":["a",1]}`, `{"pair":["a",1,2]}`, `{"pair":[1]}`,
		`{"map":{"a":"b"}}`, `{"map":{"a":1}}`, `{"closed":{"a":"ab"}}`, `{"closed":{"a":"ab","b":1}}`, `{"closed":{}}`, `{"open":{"a":1}}`, `{"open":{"b":1}}`, `{"open":{"c":1}}`, `{"patterns":{"x":"a"}}`, `{"patterns":{"y":"a"}}`,
		`{"beside":"ab"}`, `{"beside":"ba"}`, `{"beside":"a"}`, `{"self":{"count":1}}`, `{"self":{"count":0}}`, `{"self":{}}`, `{"circle":{"again":1}}`, `{"whole":{"a":1}}`, `{"whole":{"b":1}}`, `[]`, `1`, `null`, `"a"`, `true`,
		`{"taskQueueId":"a/b","created":"2016-05-11T09:30:00.000Z","deadline":"2016-05-11T09:30:00.000Z","payload":{},"metadata":{"name":"n","description":"d","owner":"o","source":"https://example.com/"},"dependencies":["VMxKlcVxTDyPoOYBxIhZ5A"],"retries":5}`,
		`{"workerGroup":"g","workerId":"w","tasks":1,"holding":["VMxKlcVxTDyPoOYBxIhZ5A/0"]}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, err := decodeJSON(text)
		if err != nil {
			return
		}
		for name, sch := range all {
			if err := sch.Schema.Validate(doc); sch.glance.fits(doc) != (err == nil) {
				t.Fatalf("%s fits %s: %t, but the validator says %v", text, name, err != nil, err)
			}
		}
	})
}

// The calls that are made most are checked without asking the validator.
func TestMostBodiesTakeAGlance(t *testing.T) {
	s, err := loadSchemas("queue", "v1", os.DirFS("../queue/schemas"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"v1/create-task-request.json#", "v1/claim-work-request.json#", "v1/task-exception-request.json#"} {
		var asks func(g *glance) bool
		asks = func(g *glance) bool {
			if g == nil {
				return false
			}
			return g.asks || asks(g.items) || asks(g.more) || slices.ContainsFunc(slices.Concat(g.all, g.any, slices.Collect(maps.Values(g.properties))), asks)
		}
		if asks(s.compiled[name].glance) {
			t.Errorf("%s: the validator is asked", name)
		}
	}
}
