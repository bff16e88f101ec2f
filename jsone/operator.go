package jsone

import (
	"slices"
	"strings"
)

// An operation is an object of the template that is an operator.
type operation struct {
	operator string
	template map[string]any
}

type operator func(*renderer, operation, *scope) (any, error)

// operators is a function, not a variable, because operators render templates
// and templates have operators.
func operators(key string) operator {
	switch key {
	case "$eval":
		return evalOperator
	case "$if":
		return ifOperator
	case "$switch":
		return switchOperator
	case "$match":
		return matchOperator
	case "$let":
		return letOperator
	case "$map":
		return mapOperator
	case "$reduce":
		return reduceOperator
	case "$find":
		return findOperator
	case "$sort":
		return sortOperator
	case "$reverse":
		return reverseOperator
	case "$flatten":
		return flattenOperator
	case "$flattenDeep":
		return flattenDeepOperator
	case "$merge":
		return mergeOperator
	case "$mergeDeep":
		return mergeDeepOperator
	case "$json":
		return jsonOperator
	case "$fromNow":
		return fromNowOperator
	}
	return nil
}

// operatorOf is the operator that template is, if it is one.
func operatorOf(template map[string]any) (name string, found operator, err error) {
	for key := range template {
		if !strings.HasPrefix(key, "$") {
			continue
		}
		if o := operators(key); o != nil {
			if found != nil {
				return "", nil, errorf(TemplateError, "only one operator allowed")
			}
			name, found = key, o
		}
	}
	return name, found, nil
}

// argument is what the operator's key holds.
func (o operation) argument() any { return o.template[o.operator] }

func (o operation) errorf(format string, args ...any) error {
	return errorf(TemplateError, o.operator+" "+format, args...)
}

// only complains about properties but the operator and those allowed.
func (o operation) only(allowed func(key string) bool) error {
	var unknown []string
	for key := range o.template {
		if key != o.operator && !allowed(key) {
			unknown = append(unknown, key)
		}
	}
	if unknown == nil {
		return nil
	}
	slices.Sort(unknown)
	return o.errorf("has undefined properties: %s", clip(strings.Join(unknown, " ")))
}

func (o operation) alone() error { return o.only(func(string) bool { return false }) }

// parameters are the names in a key like each(value,index), nil if key is not
// that of function or does not have between least and most of them.
func parameters(key, function string, least, most int) []string {
	inner, ok1 := strings.CutPrefix(key, function+"(")
	inner, ok2 := strings.CutSuffix(inner, ")")
	if !ok1 || !ok2 {
		return nil
	}
	names := strings.Split(inner, ",")
	if len(names) < least || len(names) > most {
		return nil
	}
	for i := range names {
		if i > 0 {
			names[i] = strings.TrimLeftFunc(names[i], isSpace)
		}
		if !isIdentifier(names[i]) {
			return nil
		}
	}
	return names
}

// A loop is the each(…) or by(…) of an operator. Its variables are set anew for
// each member, in the same scope: values do not refer to scopes.
type loop struct {
	names []string
	body  any
	scope *scope
}

// loop finds the body of o among the properties that only has let pass.
func (o operation) loop(function string, least, most int, s *scope) *loop {
	for key, body := range o.template {
		if names := parameters(key, function, least, most); names != nil {
			return &loop{names, body, s.with(make(map[string]any, most))}
		}
	}
	return nil
}

func (l *loop) set(values ...any) *scope {
	for i, name := range l.names {
		l.scope.variables[name] = values[i]
	}
	return l.scope
}
