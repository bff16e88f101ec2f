package jsone

import (
	"slices"
	"strconv"
	"strings"
)

// A node is an expression, parsed.
type node interface {
	// eval is the node's value. Callers want (*renderer).evaluate, which counts.
	eval(r *renderer, s *scope) (any, error)
}

// A link is a node that begins with another one, its operand, and does
// something with that one's value: an infix operator, a call, an access. Links
// form chains, a + b + c, x.y.z: their length costs no depth, neither here nor in
// evaluation.
type link interface {
	node
	operand() node
	apply(r *renderer, s *scope, operand any) (any, error)
}

type (
	literal  struct{ value any }
	variable string
	list     []node
	object   []property // later ones replace earlier ones of the same key
	unary    struct {
		operator string
		of       node
	}
	binary struct {
		operator    string
		left, right node
	}
	member struct {
		of   node
		name string
	}
	index struct{ of, at node }
	slice struct{ of, from, to node } // from and to may be nil
	call  struct {
		of        node
		arguments []node
	}
)

type property struct {
	key   string
	value node
}

// binding says how strongly infix operators bind. All but ** group to the left.
var binding = map[string]int{
	"||": 1,
	"&&": 2,
	"in": 3,
	"==": 4, "!=": 4,
	"<": 5, "<=": 5, ">": 5, ">=": 5,
	"+": 6, "-": 6,
	"*": 7, "/": 7,
	"**": 8,
	// Prefix operators are between these two.
	"[": 10, "(": 10, ".": 10,
}

const prefixBinding = 9

// What the specification's errors list where an expression, or what continues
// one, is missing.
var (
	beginnings    = []string{"!", "(", "+", "-", "[", "false", "identifier", "null", "number", "string", "true", "{"}
	continuations = []string{"!=", "&&", "(", "*", "**", "+", "-", ".", "/", "<", "<=", "==", ">", ">=", "[", "in", "||"}
)

// A parser reads one expression from the beginning of source. It is a Pratt
// parser: recursion only where the text nests.
type parser struct {
	r      *renderer
	source string
	token  token // the next one
	depth  int
}

// parseExpression reads an expression that is the whole of source.
func (r *renderer) parseExpression(source string) (node, error) {
	n, end, err := r.parsePrefix(source)
	if err == nil && end.kind != "" {
		err = unexpected(end, continuations)
	}
	return n, err
}

// parsePrefix reads an expression that source begins with, and returns the
// token that ends it.
func (r *renderer) parsePrefix(source string) (n node, end token, err error) {
	p := parser{r: r, source: source}
	if err := p.advance(); err != nil {
		return nil, token{}, err
	}
	n, err = p.expression(0)
	return n, p.token, err
}

func (p *parser) expression(least int) (node, error) {
	if p.depth++; p.depth > p.r.limits.Depth {
		return nil, p.r.tooDeep("an expression")
	}
	defer func() { p.depth-- }()
	left, err := p.unit()
	for err == nil {
		operator := p.token.kind
		strength := binding[operator]
		if strength == 0 || strength < least {
			return left, nil
		}
		if err = p.advance(); err != nil {
			break
		}
		switch operator {
		case ".":
			left, err = p.member(left)
		case "[":
			left, err = p.access(left)
		case "(":
			left, err = p.call(left)
		default:
			if operator != "**" {
				strength++
			}
			var right node
			right, err = p.expression(strength)
			left = &binary{operator, left, right}
		}
	}
	return nil, err
}

// unit reads what an expression begins with.
func (p *parser) unit() (node, error) {
	begin := p.token
	if begin.kind == "" {
		return nil, unexpected(begin, nil)
	}
	if !slices.Contains(beginnings, begin.kind) {
		return nil, unexpected(begin, beginnings)
	}
	if err := p.advance(); err != nil {
		return nil, err
	}
	switch begin.kind {
	case "!", "+", "-":
		of, err := p.expression(prefixBinding)
		return &unary{begin.kind, of}, err
	case "(":
		n, err := p.expression(0)
		if err != nil {
			return nil, err
		}
		return n, p.take(")")
	case "[":
		items, err := p.expressions("]")
		return list(items), err
	case "{":
		return p.object()
	case "identifier":
		return variable(begin.text), nil
	case "string":
		return literal{begin.text[1 : len(begin.text)-1]}, nil
	case "number":
		value, err := strconv.ParseFloat(begin.text, 64)
		if err != nil {
			return nil, errorf(SyntaxError, "number %s is too large", clip(begin.text))
		}
		return literal{value}, nil
	case "true", "false":
		return literal{begin.kind == "true"}, nil
	default: // "null"
		return literal{nil}, nil
	}
}

func (p *parser) member(of node) (node, error) {
	name := p.token.text
	return &member{of, name}, p.take("identifier")
}

func (p *parser) access(of node) (node, error) {
	var from, to node
	var err error
	if p.token.kind != ":" {
		if from, err = p.expression(0); err != nil {
			return nil, err
		}
		if p.token.kind != ":" {
			return &index{of, from}, p.take("]", ":")
		}
	}
	if err := p.take(":"); err != nil {
		return nil, err
	}
	if p.token.kind != "]" {
		if to, err = p.expression(0); err != nil {
			return nil, err
		}
	}
	return &slice{of, from, to}, p.take("]")
}

func (p *parser) call(of node) (node, error) {
	arguments, err := p.expressions(")")
	return &call{of, arguments}, err
}

// expressions reads what is left of a list of expressions with commas between
// them, and its end.
func (p *parser) expressions(end string) ([]node, error) {
	if p.token.kind == end {
		return nil, p.advance()
	}
	var all []node
	for {
		n, err := p.expression(0)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
		if p.token.kind != "," {
			return all, p.take(end, ",")
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
	}
}

// object reads what is left of an object after its brace. A comma may be before
// the closing one.
func (p *parser) object() (node, error) {
	var o object
	for p.token.kind == "string" || p.token.kind == "identifier" {
		key := p.token.text
		if p.token.kind == "string" {
			key = key[1 : len(key)-1]
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
		if err := p.take(":"); err != nil {
			return nil, err
		}
		value, err := p.expression(0)
		if err != nil {
			return nil, err
		}
		o = append(o, property{key, value})
		if p.token.kind != "," {
			return o, p.take("}", ",")
		}
		if err := p.advance(); err != nil {
			return nil, err
		}
	}
	return o, p.take("}", "identifier", "string")
}

// take passes the next token if it is of kind, and complains that none of kind
// and the others, which would also have done, is there if it is not.
func (p *parser) take(kind string, others ...string) error {
	if p.token.kind != kind {
		return unexpected(p.token, append(others, kind))
	}
	return p.advance()
}

func (p *parser) advance() error {
	if err := p.r.work(1); err != nil {
		return err
	}
	next, err := scan(p.source, p.token.end)
	p.token = next
	return err
}

func unexpected(found token, expected []string) error {
	if found.kind == "" {
		return errorf(SyntaxError, "Unexpected end of input")
	}
	sorted := slices.Sorted(slices.Values(expected))
	return errorf(SyntaxError, "Found: %s token, expected one of: %s", clip(found.text), strings.Join(sorted, ", "))
}
