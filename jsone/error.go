package jsone

import (
	"fmt"
	"unicode/utf8"
)

// An Error says what is wrong with a template, and where.
type Error struct {
	Kind Kind
	// Path leads to the innermost array member or object member that the error
	// is in, ".payload.command[2]". Operators and what they are made of do not
	// appear in it. It is empty for the template as a whole.
	Path    string
	Message string
}

// Kind is the class of an Error.
type Kind string

const (
	TemplateError    Kind = "TemplateError"    // an operator is misused, or the context is not fit for use
	SyntaxError      Kind = "SyntaxError"      // an expression cannot be read
	InterpreterError Kind = "InterpreterError" // an expression cannot be evaluated
	BuiltinError     Kind = "BuiltinError"     // a function cannot take its arguments
	LimitError       Kind = "LimitError"       // one of the Limits is reached
)

func (e *Error) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("%s: %s", e.Kind, e.Message)
	}
	return fmt.Sprintf("%s at template%s: %s", e.Kind, e.Path, e.Message)
}

func errorf(kind Kind, format string, args ...any) error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}

// within adds the member that err was met in.
func within(member string, err error) error {
	if e, ok := err.(*Error); ok {
		e.Path = clip(member + e.Path)
	}
	return err
}

// clip shortens a piece of a template that an error quotes: a template may be
// one string of a megabyte, and the error ends in a mail.
func clip(s string) string {
	const most = 200
	if len(s) <= most {
		return s
	}
	end := most
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}
