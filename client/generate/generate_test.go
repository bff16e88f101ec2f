package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const references = "../../references"

func TestCommittedCodeIsWhatTheReferencesGive(t *testing.T) {
	services, err := load(references)
	if err != nil {
		t.Fatalf("%v; the references are generated from the declarations of the services, see ARCHITECTURE.md", err)
	}
	for _, s := range services {
		files, err := generate(s)
		if err != nil {
			t.Fatalf("%s: %v", s.API.ServiceName, err)
		}
		for name, want := range files {
			path := filepath.Join("..", s.packageName(), name)
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s is not what the references give (%v); run go generate ./client", path, err)
			}
		}
	}
}

func TestNames(t *testing.T) {
	for in, want := range map[string]string{
		"taskId": "TaskID", "taskIds": "TaskIDs", "putUrl": "PutURL", "urls": "URLs", "url": "URL", "sourceIp": "SourceIP",
		"create-task-request": "CreateTaskRequest", "list-roles2-response": "ListRoles2Response", "listRoleIds": "ListRoleIDs",
		"sentryDSN": "SentryDSN", "awsS3Credentials": "AWSS3Credentials", "identity": "Identity",
	} {
		if got := goName(in); got != want {
			t.Errorf("goName(%q) = %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{"taskId": "taskID", "name": "name", "type": "typeArg", "in": "inArg", "workerPoolId": "workerPoolID"} {
		if got := argName(in); got != want {
			t.Errorf("argName(%q) = %s, want %s", in, got, want)
		}
	}
	for in, want := range map[string]string{"Tasks": "Task", "Statuses": "Status", "Queries": "Query", "LaunchConfigStats": "LaunchConfigStats", "Access": "Access", "Data": "Data"} {
		if got := singular(in); got != want {
			t.Errorf("singular(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestTypes(t *testing.T) {
	for name, tc := range map[string]struct{ schemas, want string }{
		"required members come first, in their order": {`{"thing.json": {"type": "object", "required": ["b", "a"], "properties": {
			"c": {"type": "string"}, "a": {"type": "string"}, "b": {"type": "integer"}}}}`, `
type Thing struct {
	B int64  ‹json:"b"›
	A string ‹json:"a"›
	C string ‹json:"c,omitzero"›
}`},
		"a small integer is an int": {`{"thing.json": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "maximum": 1000}}}}`, `
	N int ‹json:"n"›`},
		"optional values whose zero is not their absence are pointers": {`{"thing.json": {"type": "object", "properties": {
			"a": {"type": "integer"}, "b": {"type": "integer", "default": 0}, "c": {"type": "boolean", "default": true},
			"d": {"type": "boolean", "default": false}, "e": {"type": "number"}, "f": {"type": "object", "properties": {"x": {"type": "string"}}}}}}`, `
type Thing struct {
	A *int64   ‹json:"a,omitzero"›
	B int64    ‹json:"b,omitzero"›
	C *bool    ‹json:"c,omitzero"›
	D bool     ‹json:"d,omitzero"›
	E *float64 ‹json:"e,omitzero"›
	F *ThingF  ‹json:"f,omitzero"›
}`},
		"a default beside a $ref is the one that counts": {`{"other.json": {"type": "object", "properties": {"n": {"type": "integer", "maximum": 49, "default": 5}}},
			"thing.json": {"type": "object", "properties": {"n": {"$ref": "other.json#/properties/n", "default": 0}}}}`, `
type Thing struct {
	N int ‹json:"n,omitzero"›
}`},
		"a required list is never null, an optional one is left out": {`{"thing.json": {"type": "object", "required": ["a"], "properties": {
			"a": {"type": "array", "items": {"type": "string"}}, "b": {"type": "array", "items": {"$ref": "./item.json#"}}}},
			"item.json": {"type": "object", "properties": {"x": {"type": "string"}}}}`, `
type Thing struct {
	A client.List[string] ‹json:"a"›
	B []Item              ‹json:"b,omitzero"›
}`},
		"lists of lists": {`{"thing.json": {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}}}}`, `
	A []client.List[string] ‹json:"a,omitzero"›`},
		"an object within a list gets a type": {`{"thing.json": {"type": "object", "required": ["runs"], "properties": {"runs": {"type": "array", "items": {
			"type": "object", "description": "One attempt.", "properties": {"x": {"type": "string"}}}}}}}`, `
type Thing struct {
	Runs client.List[ThingRun] ‹json:"runs"›
}

// ThingRun: one attempt.
type ThingRun struct {`},
		"times": {`{"thing.json": {"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "format": "date-time"}, "b": {"type": "string", "format": "date-time"}}}}`, `
	A timestamp.Time ‹json:"a"›
	B timestamp.Time ‹json:"b,omitzero"›`},
		"free-form values stay JSON": {`{"thing.json": {"type": "object", "required": ["a", "b", "c"], "properties": {
			"a": {"type": "object"}, "b": {}, "c": {"oneOf": [{"type": "object", "properties": {"x": {}}}, {"type": "object", "properties": {"y": {}}}]},
			"d": {"type": "object", "additionalProperties": true}}}}`, `
type Thing struct {
	A json.RawMessage ‹json:"a"›
	B json.RawMessage ‹json:"b"›
	C json.RawMessage ‹json:"c"›
	D json.RawMessage ‹json:"d,omitzero"›
}`},
		"maps": {`{"thing.json": {"type": "object", "properties": {"tags": {"type": "object", "additionalProperties": {"type": "string"}}}}}`, `
	Tags map[string]string ‹json:"tags,omitzero"›`},
		"enumerations without a type have that of their values": {`{"thing.json": {"type": "object", "required": ["a", "b"], "properties": {"a": {"enum": [1]}, "b": {"enum": ["x", "y"]}}}}`, `
	A int    ‹json:"a"›
	B string ‹json:"b"›`},
		"forms that one member tells apart are merged": {`{"thing.json": {"description": "A thing.", "oneOf": [
			{"type": "object", "required": ["kind", "url", "size"], "properties": {"kind": {"enum": ["web"]}, "url": {"type": "string", "description": "Where it is."}, "size": {"type": "integer", "description": "Bytes."}}},
			{"type": "object", "required": ["kind", "text", "size"], "properties": {"kind": {"const": "note"}, "text": {"type": "string"}, "size": {"type": "integer", "description": "Letters."}}}]}}`, `
// Thing: a thing.
type Thing struct {
	// Which form it has: ‹web› or ‹note›.
	Kind string ‹json:"kind"›

	// With ‹web›: bytes.
	//
	// With ‹note›: letters.
	Size int64 ‹json:"size"›

	// With ‹note›: see its type.
	Text string ‹json:"text,omitzero"›

	// With ‹web›: where it is.
	URL string ‹json:"url,omitzero"›
}`},
		"a schema that is a list": {`{"things.json": {"type": "array", "description": "All of them.", "items": {"$ref": "item.json#"}},
			"item.json": {"type": "object", "properties": {"x": {"type": "string"}}}}`, `
// Things: all of them.
type Things client.List[Item]`},
	} {
		t.Run(name, func(t *testing.T) {
			s := &service{API: reference{ServiceName: "test-things"}}
			parse(t, tc.schemas, &s.Schemas)
			got, err := typesFile(s)
			if err != nil {
				t.Fatal(err)
			}
			contains(t, got, tc.want)
		})
	}
}

const widget = `{"widget.json": {"type": "object", "properties": {"x": {"type": "string"}}},
	"widgets.json": {"type": "array", "items": {"$ref": "widget.json#"}},
	"widget-page.json": {"type": "object", "required": ["widgets"], "properties": {"continuationToken": {"type": "string"}, "widgets": {"type": "array", "items": {"$ref": "widget.json#"}}}}}`

func TestMethods(t *testing.T) {
	for name, tc := range map[string]struct{ entry, want string }{
		"a method is documented from the reference": {`{"name": "makeWidget", "method": "put", "route": "/widgets/<widgetId>", "args": ["widgetId"],
			"input": "v1/widget.json#", "output": "v1/widget.json#", "title": "Make a widget", "description": "Makes it.\n\nOr not.", "stability": "experimental",
			"scopes": {"AllOf": ["make:<widgetId>", {"AnyOf": ["a", "b"]}, {"for": "s", "in": "scopes", "each": "<s>"}, {"if": "private", "then": "c"}]}}`, `
// MakeWidget calls test-things.makeWidget: Make a widget.
//
// Makes it.
//
// Or not.
//
// Scopes: ‹make:<widgetId>› and (‹a› or ‹b›) and ‹<s>› for each s in ‹scopes› and if
// ‹private›: ‹c›.
//
// The method is experimental and may change.
func (c *Client) MakeWidget(ctx context.Context, widgetID string, in *Widget) (*Widget, error) {
	r := client.Request{
		Name:       "test-things.makeWidget",
		Verb:       "PUT",
		Route:      "/api/test-things/v1/widgets/<widgetId>",
		Args:       []string{widgetID},
		In:         in,
		Repeatable: true,
	}
	out := new(Widget)
	if err := c.core.Do(ctx, r, out); err != nil {
		return nil, err
	}
	return out, nil
}`},
		"an unknown POST is not repeated": {`{"name": "turn", "method": "post", "route": "/turn/<runId>", "args": ["runId"], "stability": "deprecated"}`, `
// Turn calls test-things.turn.
//
// Deprecated: the service keeps the method for old clients only.
func (c *Client) Turn(ctx context.Context, runID int) error {
	r := client.Request{
		Name:  "test-things.turn",
		Verb:  "POST",
		Route: "/api/test-things/v1/turn/<runId>",
		Args:  []string{strconv.Itoa(runID)},
	}
	return c.core.Do(ctx, r, nil)
}`},
		"a list is returned as it is": {`{"name": "all", "method": "get", "route": "/all", "output": "v1/widgets.json#"}`, `
func (c *Client) All(ctx context.Context) (out Widgets, err error) {
	r := client.Request{
		Name:       "test-things.all",
		Verb:       "GET",
		Route:      "/api/test-things/v1/all",
		Repeatable: true,
	}
	err = c.core.Do(ctx, r, &out)
	return out, err
}`},
		"pages get a sequence": {`{"name": "list", "method": "get", "route": "/list/<kind>", "args": ["kind"], "query": ["continuationToken", "limit"], "output": "v1/widget-page.json#"}`, `
// ListAll is the sequence of what List returns page by page. It ends with the first
// error.
func (c *Client) ListAll(ctx context.Context, kind string, opts ListOptions) iter.Seq2[Widget, error] {
	return client.Pages(opts.ContinuationToken, func(token string) ([]Widget, string, error) {
		opts := opts
		opts.ContinuationToken = token
		page, err := c.List(ctx, kind, opts)
		if err != nil {
			return nil, "", err
		}
		return page.Widgets, page.ContinuationToken, nil
	})
}`},
		"query parameters are a struct": {`{"name": "list", "method": "get", "route": "/list", "query": ["limit", "workerState"], "output": "v1/widget-page.json#"}`, `
type ListOptions struct {
	Limit       int
	WorkerState string
}

func (o ListOptions) values() url.Values {
	q := url.Values{}
	if o.Limit != 0 {
		q.Set("limit", strconv.Itoa(o.Limit))
	}
	if o.WorkerState != "" {
		q.Set("workerState", o.WorkerState)
	}
	return q
}`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := methodsFile(oneMethod(t, tc.entry))
			if err != nil {
				t.Fatal(err)
			}
			contains(t, got, tc.want)
		})
	}
}

func TestBadReferencesAreRefused(t *testing.T) {
	for want, s := range map[string]*service{
		"$ref to gone.json#, which does not exist":                   schemas(t, `{"a.json": {"type": "object", "properties": {"x": {"$ref": "gone.json#"}}}}`),
		"$ref to a.json#/properties/y, which does not exist":         schemas(t, `{"a.json": {"type": "object", "properties": {"x": {"$ref": "a.json#/properties/y"}}}}`),
		"$ref to a.json#/properties/x, which does not exist":         schemas(t, `{"a.json": {"type": "object", "properties": {"x": {"$ref": "a.json#/properties/x"}}}}`),
		"$ref to a.json#/definitions/y, which does not exist":        schemas(t, `{"a.json": {"type": "object", "properties": {"x": {"$ref": "a.json#/definitions/y"}}}}`),
		"$ref to a.json#/items/y: only whole schemas":                schemas(t, `{"a.json": {"type": "object", "properties": {"x": {"$ref": "a.json#/items/y"}}}}`),
		"would be called AB":                                         schemas(t, `{"a.json": {"type": "object", "properties": {"b": {"type": "object", "properties": {"x": {}}}}}, "a-b.json": {"type": "string"}}`),
		"there is no schema v1/gone.json#":                           oneMethod(t, `{"name": "x", "method": "get", "route": "/x", "output": "v1/gone.json#"}`),
		"a parameter b that is not among the arguments":              oneMethod(t, `{"name": "x", "method": "get", "route": "/x/<b>"}`),
		"does not have each of the arguments [a] once":               oneMethod(t, `{"name": "x", "method": "get", "route": "/x", "args": ["a"]}`),
		"lists updateWorkerPool as a POST that may be repeated, but": {API: reference{ServiceName: "worker-manager"}},
	} {
		if _, err := generate(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
}

func oneMethod(t *testing.T, text string) *service {
	s := schemas(t, widget)
	var e entry
	parse(t, text, &e)
	s.API.Entries = []entry{e}
	return s
}

func schemas(t *testing.T, text string) *service {
	s := &service{API: reference{ServiceName: "test-things", APIVersion: "v1"}}
	parse(t, text, &s.Schemas)
	return s
}

func parse(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatal(err)
	}
}

// contains compares with ‹ and › standing for the backquote.
func contains(t *testing.T, got []byte, want string) {
	t.Helper()
	want = strings.TrimPrefix(strings.NewReplacer("‹", "`", "›", "`").Replace(want), "\n")
	if !strings.Contains(string(got), want) {
		t.Errorf("got\n%s\nwithout\n%s", got, want)
	}
}
