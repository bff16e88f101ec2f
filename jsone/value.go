package jsone

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// kind is a type of the language's values, one bit each.
type kind uint8

const (
	isNull kind = 1 << iota
	isBoolean
	isNumber
	isString
	isArray
	isObject
	isFunction
)

// kindOf is 0 for what is no value of the language.
func kindOf(value any) kind {
	switch value.(type) {
	case nil:
		return isNull
	case bool:
		return isBoolean
	case float64:
		return isNumber
	case string:
		return isString
	case []any:
		return isArray
	case map[string]any:
		return isObject
	case *builtin:
		return isFunction
	}
	return 0
}

func (k kind) String() string {
	switch k {
	case isNull:
		return "null"
	case isBoolean:
		return "boolean"
	case isNumber:
		return "number"
	case isString:
		return "string"
	case isArray:
		return "array"
	case isObject:
		return "object"
	default:
		return "function"
	}
}

func truthy(value any) bool {
	switch value := value.(type) {
	case nil:
		return false
	case bool:
		return value
	case float64:
		return value != 0
	case string:
		return value != ""
	case []any:
		return len(value) > 0
	case map[string]any:
		return len(value) > 0
	}
	return true // a function
}

// describe is a value as an error mentions it.
func describe(value any) string {
	switch value.(type) {
	case []any, map[string]any:
		return "an " + kindOf(value).String()
	case nil:
		return "null"
	case *builtin:
		return "a function"
	}
	return clip(plain(value))
}

// plain is a string, number or boolean as text, and nothing of null.
func plain(value any) string {
	switch value := value.(type) {
	case string:
		return value
	case float64:
		return formatNumber(value)
	case bool:
		return strconv.FormatBool(value)
	}
	return ""
}

func finite(f float64) bool { return !math.IsInf(f, 0) && !math.IsNaN(f) }

// integer is value if that is a whole number.
func integer(value any) (float64, bool) {
	f, ok := value.(float64)
	return f, ok && f == math.Trunc(f)
}

func formatNumber(f float64) string { return string(appendNumber(nil, f)) }

// appendNumber writes whole numbers with all their digits and others as
// JavaScript does: the shortest text that reads as f, with an exponent where it
// begins with more than five zeros.
func appendNumber(to []byte, f float64) []byte {
	if f == 0 {
		return append(to, '0')
	}
	if f == math.Trunc(f) || math.Abs(f) >= 1e-6 {
		return strconv.AppendFloat(to, f, 'f', -1, 64)
	}
	to = strconv.AppendFloat(to, f, 'e', -1, 64)
	if n := len(to); to[n-2] == '0' { // 1e-07
		to = append(to[:n-2], to[n-1])
	}
	return to
}

// sortedKeys are the keys of m in the order of their bytes, which is that of
// their code points.
func sortedKeys(m map[string]any) []string {
	return slices.Sorted(maps.Keys(m))
}

func (r *renderer) equal(a, b any, depth int) (bool, error) {
	if depth > r.limits.Depth {
		return false, r.tooDeep("a value")
	}
	if err := r.work(1); err != nil {
		return false, err
	}
	switch a := a.(type) {
	case string:
		b, ok := b.(string)
		if !ok || len(a) != len(b) {
			return false, nil
		}
		return a == b, r.bytes(len(a))
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false, nil
		}
		for i := range a {
			if same, err := r.equal(a[i], b[i], depth+1); !same || err != nil {
				return false, err
			}
		}
		return true, nil
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false, nil
		}
		if err := r.properties(a); err != nil {
			return false, err
		}
		// In order, so that equal comparisons take equal steps.
		for _, key := range sortedKeys(a) {
			other, ok := b[key]
			if !ok {
				return false, nil
			}
			if same, err := r.equal(a[key], other, depth+1); !same || err != nil {
				return false, err
			}
		}
		return true, nil
	}
	return kindOf(a) == kindOf(b) && a == b, nil
}

// appendJSON appends value as compact JSON with sorted keys, like
// JSON.stringify: nothing is escaped that need not be.
func (r *renderer) appendJSON(to []byte, value any, depth int) ([]byte, error) {
	if depth > r.limits.Depth {
		return nil, r.tooDeep("a value")
	}
	if err := r.work(1); err != nil {
		return nil, err
	}
	var err error
	switch value := value.(type) {
	case nil:
		return append(to, "null"...), nil
	case bool:
		return strconv.AppendBool(to, value), nil
	case float64:
		return appendNumber(to, value), nil
	case string:
		return appendQuoted(to, value), r.bytes(len(value))
	case []any:
		to = append(to, '[')
		for i, item := range value {
			if i > 0 {
				to = append(to, ',')
			}
			if to, err = r.appendJSON(to, item, depth+1); err != nil {
				return nil, err
			}
		}
		return append(to, ']'), nil
	case map[string]any:
		to = append(to, '{')
		for i, key := range sortedKeys(value) {
			if i > 0 {
				to = append(to, ',')
			}
			if err = r.bytes(len(key)); err != nil {
				return nil, err
			}
			to = append(appendQuoted(to, key), ':')
			if to, err = r.appendJSON(to, value[key], depth+1); err != nil {
				return nil, err
			}
		}
		return append(to, '}'), nil
	}
	return nil, uncalledFunction()
}

func uncalledFunction() error {
	return errorf(TemplateError, "evaluated template contained uncalled functions")
}

func appendQuoted(to []byte, s string) []byte {
	const hex = "0123456789abcdef"
	to = append(to, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			point, size := utf8.DecodeRuneInString(s[i:])
			to = utf8.AppendRune(to, point) // U+FFFD for what is no UTF-8
			i += size
			continue
		}
		switch {
		case c == '"' || c == '\\':
			to = append(to, '\\', c)
		case c >= ' ':
			to = append(to, c)
		case strings.IndexByte("\b\t\n\f\r", c) >= 0:
			to = append(to, '\\', "btn.fr"[c-'\b'])
		default:
			to = append(to, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
	}
	return append(to, '"')
}

// acceptable reports what of value is not a JSON value as encoding/json decodes
// them.
func (r *renderer) acceptable(value any, depth int) error {
	if depth > r.limits.Depth {
		return r.tooDeep("the context")
	}
	if err := r.work(1); err != nil {
		return err
	}
	switch value := value.(type) {
	case nil, bool, float64, string:
		return nil
	case []any:
		for _, item := range value {
			if err := r.acceptable(item, depth+1); err != nil {
				return err
			}
		}
		return nil
	case map[string]any:
		for _, item := range value {
			if err := r.acceptable(item, depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return foreign(value)
}

func foreign(value any) error {
	return errorf(TemplateError, "a value of the Go type %s is no JSON: use what encoding/json decodes into an any", fmt.Sprintf("%T", value))
}

// presentable reports why value cannot be a result: it is too large, too deep or
// has a function in it.
func (r *renderer) presentable(value any) error {
	m := measure{r: r, left: r.limits.Output}
	return m.value(value, 1)
}

// A measure takes what a value's JSON is long from what is left. It looks at
// values as often as they appear: a value made of few parts that share others
// can be immense.
type measure struct {
	r    *renderer
	left int
	room []byte
}

func (m *measure) value(value any, depth int) error {
	if depth > m.r.limits.Depth {
		return m.r.tooDeep("the result")
	}
	switch value := value.(type) {
	case nil:
		return m.take(len("null"))
	case bool:
		return m.take(len(strconv.FormatBool(value)))
	case float64:
		m.room = appendNumber(m.room[:0], value)
		return m.take(len(m.room))
	case string:
		return m.string(value)
	case []any:
		if err := m.take(2 + max(0, len(value)-1)); err != nil {
			return err
		}
		for _, item := range value {
			if err := m.value(item, depth+1); err != nil {
				return err
			}
		}
		return nil
	case map[string]any:
		if err := m.take(2 + max(0, 2*len(value)-1)); err != nil {
			return err
		}
		for _, key := range sortedKeys(value) {
			if err := m.string(key); err != nil {
				return err
			}
			if err := m.value(value[key], depth+1); err != nil {
				return err
			}
		}
		return nil
	}
	return uncalledFunction()
}

func (m *measure) string(s string) error {
	if len(s) > m.left {
		return m.take(len(s))
	}
	m.room = appendQuoted(m.room[:0], s)
	return m.take(len(m.room))
}

func (m *measure) take(n int) error {
	if m.left -= n; m.left < 0 {
		return errorf(LimitError, "the result is larger than %d bytes of JSON", m.r.limits.Output)
	}
	return nil
}
