// Package api declares, serves and describes HTTP methods.
//
// A method is one value: route, scopes, schemas, stability, documentation and
// handler (Declare). A Service is a list of methods and exchanges under one
// name. All else is derived: the router's patterns, the checks made before a
// handler runs, the published reference, the schemas, the generated client.
//
// A request passes, in this order: body size and JSON syntax, authentication,
// scopes (where the URL alone decides them), URL parameters, query parameters,
// content type and schema, handler. The order is visible to callers and is
// that of the platform we are compatible with. A handler whose scopes depend
// on the body or the database calls Call.Authorize itself; one that returns
// success without having done so is a bug, reported as such, and its result is
// not sent.
//
// Only an *Error reaches the caller. Any other error becomes a 500 with an
// incident id that also stands in the log.
package api

import (
	"context"
	"encoding"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strconv"

	"github.com/taskfleet/taskfleet/scope"
)

// A Stability says what callers may rely on.
type Stability string

// The three promises of a reference.
const (
	Experimental Stability = "experimental"
	Stable       Stability = "stable"
	Deprecated   Stability = "deprecated"
)

// A Spec is everything about a method except what it does.
type Spec struct {
	Name      string           // as clients call it: claimWork
	Route     string           // "GET /task/<taskId>/status"; a <name...> may span slashes, a last <name...?> may be empty too
	Query     []string         // query parameters, each with a pattern in Service.Params
	AnyQuery  bool             // the handler judges the query, whatever is in it
	Scopes    scope.Expression // nil: open to everybody, not even authenticated
	Input     string           // "v1/create-task-request.json#", or ""
	Output    string           // likewise
	Stability Stability
	Category  string
	Title     string
	Doc       string // Markdown

	// Private keeps the request body, and what is wrong of it, out of error
	// messages, and the reply from having an ETag, which is a digest of it: for
	// methods with secrets.
	Private bool

	// Hidden are URL parameters that are secrets: error messages leave them out.
	Hidden []string

	// Unpublished leaves the method out of the reference: a form of another one
	// that clients of old use.
	Unpublished bool
}

// None is the type of an absent path, body or result.
type None struct{}

// A Call is one request to a method that has passed all checks.
type Call[Path, Body any] struct {
	Path  Path
	Body  Body
	HTTP  *http.Request
	query map[string]string
	who   *caller
}

// Authorize checks the method's scopes with the parameters that the URL could
// not fill in, and returns an InsufficientScopes error where the caller lacks
// some. URL parameters need not be repeated in vars.
func (c Call[P, B]) Authorize(vars scope.Vars) error { return c.who.check(vars) }

// Caller is who makes the call; its scopes are already expanded.
func (c Call[P, B]) Caller() Identity { return c.who.Identity }

// Credential is the evidence that came with the call, for a method that judges
// it by rules of its own.
func (c Call[P, B]) Credential() Credential { return c.who.credential }

// Query returns a query parameter, "" where it was not given.
func (c Call[P, B]) Query(name string) string { return c.query[name] }

// Undelivered registers undo to run when the reply could not be written to the
// caller, so that what was handed out (a claim) is not lost with it.
func (c Call[P, B]) Undelivered(undo func()) { c.who.undo = append(c.who.undo, undo) }

// A Method is a declared method of a service implemented by S.
type Method[S any] struct {
	Spec
	route  route
	invoke func(context.Context, S, *http.Request, *request) (any, error)
}

// request is what the checks found out for the handler.
type request struct {
	path  map[string]string
	query map[string]string
	who   *caller

	raw     []byte // the body as it was sent
	payload any    // parsed, with defaults
	passed  bool   // to the handler, and therefore dropped: its text takes less memory, for a call that waits
}

// shown is the body as an error shows it.
func (q *request) shown(input *schema) any {
	if !q.passed {
		return q.payload
	}
	var doc any = map[string]any{}
	if len(q.raw) > 0 {
		doc, _ = decodeJSON(q.raw) // as before
	}
	input.defaults.fill(doc)
	return doc
}

// Declare joins a Spec to the function that implements it. The fields of P
// carry the tag path:"taskId"; they are strings, ints or TextUnmarshalers.
// Declare panics where Spec and types disagree, so that a wrong declaration
// never starts.
func Declare[S, P, B, R any](spec Spec, do func(context.Context, S, Call[P, B]) (R, error)) Method[S] {
	rt := parseRoute(spec.Route)
	fields := pathFields(reflect.TypeFor[P]())
	if !slices.Equal(slices.Sorted(slices.Values(rt.params())), slices.Sorted(slices.Values(fields))) {
		panic(fmt.Sprintf("api: %s: the route has %v, the path type has %v", spec.Name, rt.params(), fields))
	}
	if spec.Title == "" || spec.Doc == "" || spec.Stability == "" || spec.Category == "" {
		panic(fmt.Sprintf("api: %s lacks a title, doc, stability or category", spec.Name))
	}
	if (spec.Input == "") != (reflect.TypeFor[B]() == reflect.TypeFor[None]()) {
		panic(fmt.Sprintf("api: %s: body type and input schema disagree", spec.Name))
	}
	fill := fillerOf(reflect.TypeFor[B]())
	return Method[S]{spec, rt, func(ctx context.Context, s S, r *http.Request, q *request) (any, error) {
		c := Call[P, B]{HTTP: r, query: q.query, who: q.who}
		if err := decodePath(q.path, fields, &c.Path); err != nil {
			return nil, err
		}
		if spec.Input != "" {
			if err := decodeBody(q, fill, &c.Body); err != nil {
				return nil, err
			}
		}
		out, err := do(ctx, s, c)
		if err != nil {
			return nil, err
		}
		if !q.who.checked {
			return nil, fmt.Errorf("api: %s returned without authorizing its caller", spec.Name)
		}
		return out, nil
	}}
}

// A Service is a named, versioned set of methods and exchanges.
type Service[S any] struct {
	Name, Version, Title, Doc string
	Schemas                   fs.FS             // YAML files <name>.yml
	Params                    map[string]string // regular expressions of URL and query parameters
	Methods                   []Method[S]
	Exchanges                 []Exchange
}

// An Exchange describes the messages of one kind that a service publishes.
// Package event sends them.
type Exchange struct {
	Exchange    string // "task-pending": the topic's last element
	Name        string // as clients call it: taskPending
	Title, Doc  string
	Schema      string // "v1/task-pending-message.json#"
	RoutingKey  []RoutingKey
	HasCCRoutes bool // messages also go to the task's routes
}

// A RoutingKey is one element of the dotted key of an exchange's messages.
type RoutingKey struct {
	Name, Summary string
	Constant      string // fixed value, or ""
	Required      bool   // never "_"
	MultipleWords bool   // may contain dots
}

func pathFields(t reflect.Type) (names []string) {
	for f := range t.Fields() {
		names = append(names, f.Tag.Get("path"))
	}
	return names
}

func decodePath[P any](vars map[string]string, names []string, p *P) error {
	if len(names) == 0 {
		return nil
	}
	v := reflect.ValueOf(p).Elem()
	for i, name := range names {
		switch f := v.Field(i).Addr().Interface().(type) {
		case *string:
			*f = vars[name]
		case encoding.TextUnmarshaler:
			if err := f.UnmarshalText([]byte(vars[name])); err != nil {
				return Errorf(InvalidRequestArguments, "The URL parameter %s is wrong: %v", name, err)
			}
		case *int:
			n, err := strconv.Atoi(vars[name])
			if err != nil {
				return Errorf(InvalidRequestArguments, "The URL parameter %s is not a number that fits: %q", name, vars[name])
			}
			*f = n
		default:
			v.Field(i).SetString(vars[name])
		}
	}
	return nil
}

// decodeBody gives the handler what was validated: not the text, which may name a
// member twice, but the document.
func decodeBody[B any](q *request, fill filler, body *B) error {
	defer func() { q.payload, q.passed = nil, true }()
	if fill(reflect.ValueOf(body).Elem(), q.payload) {
		return nil
	}
	*body = *new(B)
	text, err := encodeJSON(q.payload)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, body); err != nil {
		return Errorf(InputValidationError, "The request body has the wrong shape: %v", err)
	}
	return nil
}

// compileParams turns a service's parameter patterns into regular expressions
// and adds those that every service shares.
func compileParams(patterns map[string]string) (map[string]*regexp.Regexp, error) {
	out := map[string]*regexp.Regexp{
		"limit":             regexp.MustCompile(`^[0-9]{1,9}$`),
		"continuationToken": regexp.MustCompile(`^[A-Za-z0-9_-]*$`),
	}
	for name, p := range patterns {
		re, err := regexp.Compile(p)
		if err != nil {
			return nil, fmt.Errorf("pattern of parameter %s: %w", name, err)
		}
		out[name] = re
	}
	return out, nil
}
