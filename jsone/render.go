package jsone

import (
	"fmt"
	"strings"
)

// A renderer renders one template once.
type renderer struct {
	limits Limits
	steps  int // left
	depth  int // of the template

	// What is parsed is parsed once: operators that iterate render the same
	// strings again and again. Both hold strings of the template only, so they
	// are no larger than it.
	expressions map[string]node
	texts       map[string]text
}

// Nothing is what an operator is replaced by that has no result, and what is to
// be left out of arrays and objects. It never is a part of a value.
var nothing any = struct{ nothing struct{} }{}

// objectCost is the steps that a new object costs before its members. A map of
// one member takes more memory than any other value of one step.
const objectCost = 8

// work counts n steps before they are taken.
func (r *renderer) work(n int) error {
	if n > r.steps {
		r.steps = 0
		return errorf(LimitError, "rendering takes more than %d steps", r.limits.Steps)
	}
	r.steps -= n
	return nil
}

// bytes counts the steps that it takes to copy or to search a string.
func (r *renderer) bytes(n int) error { return r.work(n / 16) }

func (r *renderer) tooDeep(what string) error {
	return errorf(LimitError, "%s nests deeper than %d levels", what, r.limits.Depth)
}

func (r *renderer) render(template any, s *scope) (any, error) {
	if err := r.work(1); err != nil {
		return nil, err
	}
	if r.depth >= r.limits.Depth {
		return nil, r.tooDeep("the template")
	}
	r.depth++
	defer func() { r.depth-- }()
	switch template := template.(type) {
	case nil, bool, float64:
		return template, nil
	case string:
		return r.interpolate(template, s)
	case []any:
		return r.renderArray(template, s)
	case map[string]any:
		name, operate, err := operatorOf(template)
		switch {
		case err != nil:
			return nil, err
		case operate != nil:
			return operate(r, operation{name, template}, s)
		}
		return r.renderObject(template, s)
	}
	return nil, foreign(template)
}

func (r *renderer) renderArray(template []any, s *scope) (any, error) {
	items := make([]any, 0, len(template))
	for i, t := range template {
		item, err := r.render(t, s)
		if err != nil {
			return nil, within(fmt.Sprintf("[%d]", i), err)
		}
		if item != nothing {
			items = append(items, item)
		}
	}
	return items, nil
}

func (r *renderer) renderObject(template map[string]any, s *scope) (any, error) {
	if err := r.work(objectCost + len(template)); err != nil {
		return nil, err
	}
	properties := make(map[string]any, len(template))
	for _, key := range sortedKeys(template) {
		if err := r.bytes(len(key)); err != nil {
			return nil, err
		}
		value, err := r.render(template[key], s)
		if err != nil {
			return nil, within(place(key), err)
		}
		if value == nothing {
			continue
		}
		switch {
		case strings.HasPrefix(key, "$$"):
			key = key[1:]
		case key != "" && key[0] == '$' && isPlainName(key[1:]):
			return nil, errorf(TemplateError, "$<identifier> is reserved; use $$<identifier>")
		default:
			if key, err = r.interpolate(key, s); err != nil {
				return nil, err
			}
		}
		properties[key] = value
	}
	return properties, nil
}

// isPlainName reports whether s is made of letters and, after the first, digits.
// The names of operators are, after their $.
func isPlainName(s string) bool { return isIdentifier(s) && !strings.Contains(s, "_") }

// place is how an error's path names a member of an object.
func place(key string) string {
	if isPlainName(key) {
		return "." + key
	}
	return "[" + string(appendQuoted(nil, clip(key))) + "]"
}

// A text is a string with its ${…} parsed.
type text []segment

// A segment is plain text and what follows it: an expression, except in the
// last one.
type segment struct {
	plain      string
	expression node
	source     string
}

func (r *renderer) interpolate(s string, in *scope) (string, error) {
	if err := r.bytes(len(s)); err != nil {
		return "", err
	}
	if !strings.Contains(s, "${") {
		return s, nil
	}
	t, ok := r.texts[s]
	if !ok {
		var err error
		if t, err = r.parseText(s); err != nil {
			return "", err
		}
		r.texts[s] = t
	}
	var b strings.Builder
	for _, part := range t {
		b.WriteString(part.plain)
		if part.expression == nil {
			continue
		}
		value, err := r.evaluate(part.expression, in)
		if err != nil {
			return "", err
		}
		switch kindOf(value) {
		case isArray, isObject:
			return "", errorf(TemplateError, "interpolation of '%s' produced an array or object", clip(part.source))
		case isFunction:
			return "", uncalledFunction()
		}
		more := plain(value)
		if err := r.bytes(len(more)); err != nil {
			return "", err
		}
		b.WriteString(more)
	}
	return b.String(), nil
}

func (r *renderer) parseText(s string) (text, error) {
	var t text
	for {
		before, after, found := strings.Cut(s, "${")
		if !found {
			return append(t, segment{plain: s}), nil
		}
		if escaped, ok := strings.CutSuffix(before, "$"); ok {
			t = append(t, segment{plain: escaped + "${"})
			s = after
			continue
		}
		expression, end, err := r.parsePrefix(after)
		switch {
		case err != nil:
			return nil, err
		case end.kind == "":
			return nil, errorf(SyntaxError, "unterminated ${..} expression")
		case end.kind != "}":
			return nil, unexpected(end, continuations)
		}
		t = append(t, segment{before, expression, after[:end.start]})
		s = after[end.end:]
	}
}

// evaluateSource is the value of an expression that is a string of the template.
func (r *renderer) evaluateSource(source string, s *scope) (any, error) {
	if err := r.bytes(len(source)); err != nil {
		return nil, err
	}
	n, ok := r.expressions[source]
	if !ok {
		var err error
		if n, err = r.parseExpression(source); err != nil {
			return nil, err
		}
		r.expressions[source] = n
	}
	return r.evaluate(n, s)
}
