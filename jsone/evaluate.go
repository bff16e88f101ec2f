package jsone

import (
	"cmp"
	"math"
	"strings"
	"unicode/utf8"
)

// evaluate is the value of n. The links of a chain are collected, then applied
// one after the other from the innermost operand outwards.
func (r *renderer) evaluate(n node, s *scope) (any, error) {
	var room [8]link
	chain := room[:0]
	for {
		l, ok := n.(link)
		if !ok {
			break
		}
		chain = append(chain, l)
		n = l.operand()
	}
	if err := r.work(1 + len(chain)); err != nil {
		return nil, err
	}
	value, err := n.eval(r, s)
	for i := len(chain) - 1; i >= 0 && err == nil; i-- {
		value, err = chain[i].apply(r, s, value)
	}
	return value, err
}

// eval and operand are the same for every link.
func (n *binary) operand() node { return n.left }
func (n *member) operand() node { return n.of }
func (n *index) operand() node  { return n.of }
func (n *slice) operand() node  { return n.of }
func (n *call) operand() node   { return n.of }

func (n *binary) eval(r *renderer, s *scope) (any, error) { return r.evaluate(n, s) }
func (n *member) eval(r *renderer, s *scope) (any, error) { return r.evaluate(n, s) }
func (n *index) eval(r *renderer, s *scope) (any, error)  { return r.evaluate(n, s) }
func (n *slice) eval(r *renderer, s *scope) (any, error)  { return r.evaluate(n, s) }
func (n *call) eval(r *renderer, s *scope) (any, error)   { return r.evaluate(n, s) }

func (n literal) eval(*renderer, *scope) (any, error) { return n.value, nil }

func (n variable) eval(r *renderer, s *scope) (any, error) {
	if err := r.work(s.depth/16 + len(n)/16); err != nil {
		return nil, err
	}
	if value, ok := s.lookup(string(n)); ok {
		return value, nil
	}
	return nil, errorf(InterpreterError, "unknown context value %s", clip(string(n)))
}

func (n list) eval(r *renderer, s *scope) (any, error) {
	return r.evaluateAll(n, s)
}

func (r *renderer) evaluateAll(nodes []node, s *scope) ([]any, error) {
	values := make([]any, len(nodes))
	for i, n := range nodes {
		var err error
		if values[i], err = r.evaluate(n, s); err != nil {
			return nil, err
		}
	}
	return values, nil
}

func (n object) eval(r *renderer, s *scope) (any, error) {
	if err := r.work(objectCost); err != nil {
		return nil, err
	}
	values := make(map[string]any, len(n))
	for _, p := range n {
		value, err := r.evaluate(p.value, s)
		if err != nil {
			return nil, err
		}
		values[p.key] = value
	}
	return values, nil
}

func (n *unary) eval(r *renderer, s *scope) (any, error) {
	value, err := r.evaluate(n.of, s)
	if err != nil {
		return nil, err
	}
	if n.operator == "!" {
		return !truthy(value), nil
	}
	number, ok := value.(float64)
	if !ok {
		return nil, errorf(InterpreterError, "unary %s expects number", n.operator)
	}
	if n.operator == "-" {
		number = 0 - number // never -0
	}
	return number, nil
}

func (n *binary) apply(r *renderer, s *scope, left any) (any, error) {
	switch n.operator {
	case "||":
		if truthy(left) {
			return true, nil
		}
	case "&&":
		if !truthy(left) {
			return false, nil
		}
	}
	right, err := r.evaluate(n.right, s)
	if err != nil {
		return nil, err
	}
	switch n.operator {
	case "||", "&&":
		return truthy(right), nil
	case "==":
		return r.equal(left, right, 1)
	case "!=":
		same, err := r.equal(left, right, 1)
		return !same, err
	case "in":
		return r.contains(right, left)
	case "<", "<=", ">", ">=":
		return r.ordered(n.operator, left, right)
	case "+":
		a, ok1 := left.(string)
		b, ok2 := right.(string)
		if ok1 && ok2 {
			return a + b, r.bytes(len(a) + len(b))
		}
	}
	return arithmetic(n.operator, left, right)
}

func arithmetic(operator string, left, right any) (any, error) {
	a, ok1 := left.(float64)
	b, ok2 := right.(float64)
	switch {
	case ok1 && ok2:
	case operator == "+":
		return nil, errorf(InterpreterError, "infix: + expects numbers/strings + numbers/strings")
	default:
		return nil, errorf(InterpreterError, "infix: %s expects number %s number", operator, operator)
	}
	var result float64
	switch operator {
	case "+":
		result = a + b
	case "-":
		result = a - b
	case "*":
		result = a * b
	case "/":
		if b == 0 {
			return nil, errorf(InterpreterError, "division by zero")
		}
		result = a / b
	case "**":
		result = math.Pow(a, b)
	}
	if !finite(result) {
		return nil, errorf(InterpreterError, "infix: the result of %s %s %s is not a finite number", formatNumber(a), operator, formatNumber(b))
	}
	return result + 0, nil // + 0 makes 0 of -0, which JSON could tell from it
}

func (r *renderer) ordered(operator string, left, right any) (any, error) {
	k := kindOf(left)
	if k != kindOf(right) || k&(isNumber|isString) == 0 {
		return nil, errorf(InterpreterError, "infix: %s expects numbers/strings %s numbers/strings", operator, operator)
	}
	order, err := r.compare(left, right)
	switch operator {
	case "<":
		return order < 0, err
	case "<=":
		return order <= 0, err
	case ">":
		return order > 0, err
	default:
		return order >= 0, err
	}
}

// compare orders two numbers or two strings.
func (r *renderer) compare(a, b any) (int, error) {
	if a, ok := a.(float64); ok {
		return cmp.Compare(a, b.(float64)), nil
	}
	s, t := a.(string), b.(string)
	return strings.Compare(s, t), r.bytes(min(len(s), len(t)))
}

// contains is the operator in.
func (r *renderer) contains(whole, part any) (any, error) {
	switch whole := whole.(type) {
	case []any:
		for _, item := range whole {
			if same, err := r.equal(item, part, 1); same || err != nil {
				return same, err
			}
		}
		return false, nil
	case map[string]any:
		key, ok := part.(string)
		if !ok {
			return nil, errorf(InterpreterError, "infix: in-object expects string on left side")
		}
		_, ok = whole[key]
		return ok, r.bytes(len(key))
	case string:
		piece, ok := part.(string)
		if !ok {
			return nil, errorf(InterpreterError, "infix: in-string expects string on left side")
		}
		return strings.Contains(whole, piece), r.bytes(len(whole))
	default:
		return nil, errorf(InterpreterError, "infix: in expects array, string, or object on right side")
	}
}

func (n *member) apply(r *renderer, _ *scope, of any) (any, error) {
	if err := r.bytes(len(n.name)); err != nil {
		return nil, err
	}
	properties, ok := of.(map[string]any)
	if !ok {
		return nil, errorf(InterpreterError, "infix: . expects objects")
	}
	value, ok := properties[n.name]
	if !ok {
		return nil, errorf(InterpreterError, `object has no property "%s"`, clip(n.name))
	}
	return value, nil
}

func (n *index) apply(r *renderer, s *scope, of any) (any, error) {
	at, err := r.evaluate(n.at, s)
	if err != nil {
		return nil, err
	}
	switch of := of.(type) {
	case map[string]any:
		key, ok := at.(string)
		if !ok {
			return nil, errorf(InterpreterError, "object keys must be strings")
		}
		return of[key], r.bytes(len(key)) // null if there is none
	case []any:
		i, err := position(at, len(of))
		if err != nil {
			return nil, err
		}
		return of[i], nil
	case string:
		if err := r.bytes(len(of)); err != nil {
			return nil, err
		}
		i, err := position(at, utf8.RuneCountInString(of))
		if err != nil {
			return nil, err
		}
		return points(of, i, i+1), nil
	default:
		return nil, notIndexed()
	}
}

func notIndexed() error {
	return errorf(InterpreterError, `infix: "[..]" expects object, array, or string`)
}

// position is the index that at means in something of length members.
func position(at any, length int) (int, error) {
	i, ok := integer(at)
	if !ok {
		return 0, errorf(InterpreterError, "should only use integers to access arrays or strings")
	}
	if i < 0 {
		i += float64(length)
	}
	if i < 0 || i >= float64(length) {
		return 0, errorf(InterpreterError, "index out of bounds")
	}
	return int(i), nil
}

func (n *slice) apply(r *renderer, s *scope, of any) (any, error) {
	var from, to any
	var err error
	if n.from != nil {
		if from, err = r.evaluate(n.from, s); err != nil {
			return nil, err
		}
	}
	if n.to != nil {
		if to, err = r.evaluate(n.to, s); err != nil {
			return nil, err
		}
	}
	// bounds are the positions that from and to mean among length members.
	bounds := func(length int) (first, end int, err error) {
		first, end = 0, length
		if n.from != nil {
			first, err = border(from, length)
		}
		if to != nil && err == nil { // null is as good as none here
			end, err = border(to, length)
		}
		return min(first, end), end, err
	}
	switch of := of.(type) {
	case []any:
		first, end, err := bounds(len(of))
		if err != nil {
			return nil, err
		}
		return of[first:end:end], nil
	case string:
		if err := r.bytes(len(of)); err != nil {
			return nil, err
		}
		first, end, err := bounds(utf8.RuneCountInString(of))
		if err != nil {
			return nil, err
		}
		return points(of, first, end), nil
	case map[string]any:
		return nil, errorf(InterpreterError, "object keys must be strings")
	default:
		return nil, notIndexed()
	}
}

// border is the position between 0 and length that one side of a slice means.
func border(side any, length int) (int, error) {
	i, ok := integer(side)
	if !ok {
		return 0, errorf(InterpreterError, "cannot perform interval access with non-integers")
	}
	if i < 0 {
		i += float64(length)
	}
	return int(max(0, min(i, float64(length)))), nil
}

// points are the code points of s from first up to end, which s has.
func points(s string, first, end int) string {
	if len(s) == utf8.RuneCountInString(s) {
		return s[first:end]
	}
	from := len(s)
	i := 0
	for at := range s {
		if i == first {
			from = at
		}
		if i == end {
			return s[from:at]
		}
		i++
	}
	return s[from:]
}

func (n *call) apply(r *renderer, s *scope, of any) (any, error) {
	function, ok := of.(*builtin)
	if !ok {
		return nil, errorf(InterpreterError, "%s is not callable", describe(of))
	}
	arguments, err := r.evaluateAll(n.arguments, s)
	if err != nil {
		return nil, err
	}
	return function.invoke(r, s, arguments)
}
