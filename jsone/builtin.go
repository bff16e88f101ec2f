package jsone

import (
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

// A builtin is a function of the language.
type builtin struct {
	name string
	// takes has the types that each argument may have. The last of them goes for
	// all further arguments.
	takes []kind
	// least and most are how many arguments there may be; without most, as many
	// as takes has.
	least, most int
	function    func(r *renderer, s *scope, arguments []any) (any, error)
}

const anyNumber = math.MaxInt

var builtins = func() map[string]any {
	const scalar = isNull | isBoolean | isNumber | isString
	all := map[string]any{}
	for _, b := range []builtin{
		{name: "min", takes: []kind{isNumber}, least: 1, most: anyNumber, function: extreme(math.Min)},
		{name: "max", takes: []kind{isNumber}, least: 1, most: anyNumber, function: extreme(math.Max)},
		{name: "sqrt", takes: []kind{isNumber}, function: sqrtFunction},
		{name: "ceil", takes: []kind{isNumber}, function: numeric(math.Ceil)},
		{name: "floor", takes: []kind{isNumber}, function: numeric(math.Floor)},
		{name: "abs", takes: []kind{isNumber}, function: numeric(math.Abs)},
		{name: "range", takes: []kind{isNumber}, least: 2, most: 3, function: rangeFunction},
		{name: "lowercase", takes: []kind{isString}, function: textual(lowercase)},
		{name: "uppercase", takes: []kind{isString}, function: textual(uppercase)},
		{name: "strip", takes: []kind{isString}, function: textual(func(s string) string { return strings.TrimFunc(s, isSpace) })},
		{name: "lstrip", takes: []kind{isString}, function: textual(func(s string) string { return strings.TrimLeftFunc(s, isSpace) })},
		{name: "rstrip", takes: []kind{isString}, function: textual(func(s string) string { return strings.TrimRightFunc(s, isSpace) })},
		{name: "str", takes: []kind{scalar}, function: strFunction},
		{name: "number", takes: []kind{isString}, function: numberFunction},
		{name: "len", takes: []kind{isString | isArray}, function: lenFunction},
		{name: "split", takes: []kind{isString, isString | isNumber}, function: splitFunction},
		{name: "join", takes: []kind{isArray, isString | isNumber}, function: joinFunction},
		{name: "fromNow", takes: []kind{isString}, least: 1, most: 2, function: fromNowFunction},
		{name: "typeof", takes: []kind{scalar | isArray | isObject | isFunction}, function: typeofFunction},
		{name: "defined", takes: []kind{isString}, function: definedFunction},
	} {
		all[b.name] = &b
	}
	return all
}()

func (b *builtin) invoke(r *renderer, s *scope, arguments []any) (any, error) {
	if b.most > 0 && len(arguments) < b.least {
		return nil, b.invalid(": expected at least " + strconv.Itoa(b.least) + " arguments")
	}
	if b.most > 0 && len(arguments) > b.most || b.most == 0 && len(arguments) != len(b.takes) {
		return nil, b.invalid("")
	}
	for i, argument := range arguments {
		if kindOf(argument)&b.takes[min(i, len(b.takes)-1)] == 0 {
			return nil, b.invalid("")
		}
		// Functions go through their strings.
		s, _ := argument.(string)
		if err := r.bytes(len(s)); err != nil {
			return nil, err
		}
	}
	return b.function(r, s, arguments)
}

func (b *builtin) invalid(why string) error { return invalidArguments(b.name + why) }

func invalidArguments(function string) error {
	return errorf(BuiltinError, "invalid arguments to builtin: %s", function)
}

func extreme(of func(a, b float64) float64) func(*renderer, *scope, []any) (any, error) {
	return func(_ *renderer, _ *scope, arguments []any) (any, error) {
		result := arguments[0].(float64)
		for _, other := range arguments[1:] {
			result = of(result, other.(float64))
		}
		return result, nil
	}
}

func numeric(f func(float64) float64) func(*renderer, *scope, []any) (any, error) {
	return func(_ *renderer, _ *scope, arguments []any) (any, error) {
		return f(arguments[0].(float64)) + 0, nil // never -0
	}
}

func sqrtFunction(_ *renderer, _ *scope, arguments []any) (any, error) {
	number := arguments[0].(float64)
	if number < 0 {
		return nil, invalidArguments("sqrt: expected a number that is not negative")
	}
	return math.Sqrt(number), nil
}

func textual(f func(string) string) func(*renderer, *scope, []any) (any, error) {
	return func(_ *renderer, _ *scope, arguments []any) (any, error) {
		return f(arguments[0].(string)), nil
	}
}

// Casers may not be shared by goroutines, but cost little.
func lowercase(s string) string { return cases.Lower(language.Und).String(s) }
func uppercase(s string) string { return cases.Upper(language.Und).String(s) }

func rangeFunction(r *renderer, _ *scope, arguments []any) (any, error) {
	step := 1.0
	if len(arguments) == 3 {
		step = arguments[2].(float64)
	}
	start, end := arguments[0].(float64), arguments[1].(float64)
	for _, argument := range arguments {
		if _, whole := integer(argument); !whole || step == 0 {
			return nil, invalidArguments("range: expected integers, and a step that is not 0")
		}
	}
	length := max(0, math.Ceil((end-start)/step))
	if err := r.work(int(min(length, math.MaxInt32))); err != nil {
		return nil, err
	}
	numbers := make([]any, int(length))
	for i := range numbers {
		numbers[i] = start + float64(i)*step
	}
	return numbers, nil
}

func strFunction(_ *renderer, _ *scope, arguments []any) (any, error) {
	if arguments[0] == nil {
		return "null", nil
	}
	return plain(arguments[0]), nil
}

func numberFunction(_ *renderer, _ *scope, arguments []any) (any, error) {
	s := strings.TrimFunc(arguments[0].(string), isSpace)
	number, err := strconv.ParseFloat(s, 64)
	// ParseFloat also reads hexadecimal numbers, infinity and NaN.
	if err != nil || strings.ContainsAny(s, "xXiInN_") {
		return nil, invalidArguments("number: '" + clip(s) + "' is not a number")
	}
	return number + 0, nil
}

func lenFunction(_ *renderer, _ *scope, arguments []any) (any, error) {
	if s, ok := arguments[0].(string); ok {
		return float64(utf8.RuneCountInString(s)), nil
	}
	return float64(len(arguments[0].([]any))), nil
}

func splitFunction(r *renderer, _ *scope, arguments []any) (any, error) {
	s, delimiter := arguments[0].(string), plain(arguments[1])
	if err := r.work(1 + strings.Count(s, delimiter)); err != nil {
		return nil, err
	}
	pieces := strings.Split(s, delimiter)
	values := make([]any, len(pieces))
	for i, piece := range pieces {
		values[i] = piece
	}
	return values, nil
}

func joinFunction(r *renderer, _ *scope, arguments []any) (any, error) {
	var b strings.Builder
	separator := plain(arguments[1])
	for i, member := range arguments[0].([]any) {
		if kindOf(member)&(isArray|isObject|isFunction) != 0 {
			return nil, invalidArguments("join")
		}
		piece := plain(member)
		if i > 0 {
			piece = separator + piece
		}
		if err := r.work(1 + len(piece)/16); err != nil {
			return nil, err
		}
		b.WriteString(piece)
	}
	return b.String(), nil
}

func fromNowFunction(_ *renderer, s *scope, arguments []any) (any, error) {
	from, _ := s.lookup("now")
	if len(arguments) == 2 && arguments[1] != "" {
		from = arguments[1]
	}
	then, err := fromNow(arguments[0].(string), from)
	if err != nil {
		return nil, invalidArguments("fromNow: " + err.Error())
	}
	return then, nil
}

func typeofFunction(_ *renderer, _ *scope, arguments []any) (any, error) {
	return kindOf(arguments[0]).String(), nil
}

func definedFunction(_ *renderer, s *scope, arguments []any) (any, error) {
	_, ok := s.lookup(arguments[0].(string))
	return ok, nil
}
