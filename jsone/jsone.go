// Package jsone renders JSON-e: templates that are themselves JSON values.
//
// Hooks keep a task as such a template and render it each time they fire, with
// what fired them as context. Whoever may edit a hook writes templates, and
// whoever may trigger it supplies a part of the context, so a render is bounded
// in time, depth and output (Limits) and reaches nothing but its two arguments
// and the clock. Equal arguments, "now" among them, give equal results: object
// keys are visited in the order of their bytes.
//
// # The language in brief
//
// A template is rendered from the outside in. Numbers, booleans and null stand
// for themselves; arrays and objects are rendered member by member. In strings,
// and in the keys of objects, ${expression} is replaced by the expression's
// value, which is a string, number, boolean or null (nothing); $${ is a plain
// ${. An object with one of these keys is an operator and is replaced by what
// it makes:
//
//	{$eval: EXPR}                                the expression's value, whatever its type
//	{$if: EXPR, then: T, else: T}                one of two templates; a missing one is nothing
//	{$switch: {EXPR: T, $default: T}}            the one template whose expression holds, or the default, or nothing
//	{$match: {EXPR: T}}                          an array of all templates whose expressions hold
//	{$let: {NAME: T}, in: T}                     a template with more variables
//	{$map: T, each(value,index): T}              an array anew; of an object (value,key), whose objects are merged
//	{$reduce: T, initial: V, each(sum,value,index): T}  an array folded into one value; V is taken as it stands
//	{$find: T, each(value,index): EXPR}          the first member for which the expression holds, or nothing
//	{$sort: T, by(value): EXPR}                  sorted by numbers or by strings, equal ones in the old order
//	{$reverse: T} {$flatten: T} {$flattenDeep: T}
//	{$merge: T} {$mergeDeep: T}                  an array of objects as one; later members win, or merge in their turn
//	{$json: T}                                   JSON text, keys sorted
//	{$fromNow: '2 days 3 hours', from: T}        a time, from now or from another one
//
// Nothing, where it is a member of an array or an object, is left out; where it
// is the whole result, it is null. A key $name that is none of the above is an
// error; $$name is a plain $name.
//
// Expressions have numbers, 'strings' and "strings" without escapes, true,
// false, null, [arrays], {objects}, names of variables, and, weakest first:
//
//	a || b   a && b   a in b   a == b  a != b   a < b  a <= b  a > b  a >= b
//	a + b  a - b   a * b  a / b   a ** b   -a  +a  !a   a.name  a[b]  a[b:c]  a(b, c)
//
// False are false, null, 0 and what is empty. Logical operators answer true or
// false and look at the right side only where the left one has not decided.
// Equality is deep and never an error; the other comparisons take two numbers
// or two strings. Strings are sequences of code points, negative indexes count
// from the end, a.name needs the property where a["name"] is null without it.
//
// The functions are min, max, sqrt, ceil, floor, abs, range, lowercase,
// uppercase, str, number, len, strip, lstrip, rstrip, split, join, fromNow,
// typeof and defined; the variable now is the time the render began. The
// context is the next scope and may redefine any of them. Functions are values
// that may be kept in variables, but not be a part of a result.
//
// # Where the specification is silent
//
// The texts of errors are those of the published specification. What it leaves
// open is decided so that no valid template changes its meaning and that no
// mistake passes for a value: unknown properties of operators are errors even
// if they resemble known ones; an index before the beginning is out of bounds;
// a number that is infinite or none (2 ** 9999, number("x")) is an error;
// !a.b, -a[0] and !f(x) mean !(a.b), -(a[0]) and !(f(x)).
package jsone

import "time"

// Limits bound a render. A field that is zero has its default. The defaults
// have room for templates far larger than a task: what they allow at the worst
// is some tenths of a second and some tens of megabytes on the way.
type Limits struct {
	// Steps is how much may be done: a step is a value of the context looked at or
	// of the template rendered, a token read, an operation evaluated, a member
	// copied or compared, 16 bytes of a string or a key copied or searched. By
	// default a million.
	Steps int
	// Depth is how deep templates, expressions and values may nest. By default 250.
	Depth int
	// Output is how large the result may be as JSON, in bytes. By default 1 MiB.
	Output int
}

func (l Limits) withDefaults() Limits {
	if l.Steps == 0 {
		l.Steps = 1_000_000
	}
	if l.Depth == 0 {
		l.Depth = 250
	}
	if l.Output == 0 {
		l.Output = 1 << 20
	}
	return l
}

// Render renders template with the variables of context, within the default
// Limits. Both consist of values as encoding/json decodes them into an any:
// map[string]any, []any, string, float64, bool and nil. Neither is changed, and
// the result may share parts with both. An error is an *Error.
//
// The context can hold "now", a time in RFC 3339, to render as of that time.
func Render(template any, context map[string]any) (any, error) {
	return RenderWith(Limits{}, template, context)
}

// RenderWith is Render with other limits.
func RenderWith(limits Limits, template any, context map[string]any) (any, error) {
	r := &renderer{limits: limits.withDefaults(), expressions: map[string]node{}, texts: map[string]text{}}
	r.steps = r.limits.Steps
	for key, value := range context {
		if !isIdentifier(key) {
			return nil, errorf(TemplateError, "top level keys of context must follow /[a-zA-Z_][a-zA-Z0-9_]*/")
		}
		if err := r.acceptable(value, 1); err != nil {
			return nil, err
		}
	}
	now := map[string]any{"now": formatTime(time.Now())}
	var outermost *scope
	value, err := r.render(template, outermost.with(builtins).with(now).with(context))
	if err != nil {
		return nil, err
	}
	if value == nothing {
		value = nil
	}
	if err := r.presentable(value); err != nil {
		return nil, err
	}
	return value, nil
}

// A scope is a set of variables within a wider scope.
type scope struct {
	variables map[string]any
	parent    *scope
	depth     int
}

func (s *scope) with(variables map[string]any) *scope {
	if s == nil {
		return &scope{variables: variables}
	}
	return &scope{variables, s, s.depth + 1}
}

func (s *scope) lookup(name string) (value any, ok bool) {
	for ; s != nil && !ok; s = s.parent {
		value, ok = s.variables[name]
	}
	return value, ok
}
