package jsone

import "strings"

// A token of an expression. Its kind is "number", "identifier" or "string", or
// the token itself for operators, punctuation and keywords, or "" at the end.
type token struct {
	kind       string
	text       string
	start, end int
}

// symbols, each before its own beginnings.
var symbols = []string{
	"**", "+", "-", "*", "/", "[", "]", ".", "(", ")", "{", "}", ":", ",",
	">=", "<=", "<", ">", "==", "!=", "!", "&&", "||",
}

// scan reads the token of source that begins at offset or after white space
// from there.
func scan(source string, offset int) (token, error) {
	rest := strings.TrimLeftFunc(source[offset:], isSpace)
	offset = len(source) - len(rest)
	if rest == "" {
		return token{start: offset, end: offset}, nil
	}
	found := func(kind string, length int) (token, error) {
		return token{kind, rest[:length], offset, offset + length}, nil
	}
	switch c := rest[0]; {
	case isDigit(c):
		n := span(rest, isDigit)
		if fraction := rest[n:]; len(fraction) > 1 && fraction[0] == '.' && isDigit(fraction[1]) {
			n += 1 + span(fraction[1:], isDigit)
		}
		return found("number", n)
	case isWord(c):
		n := span(rest, isWord)
		switch word := rest[:n]; word {
		case "true", "false", "null", "in":
			return found(word, n)
		}
		return found("identifier", n)
	case c == '"' || c == '\'':
		if n := strings.IndexByte(rest[1:], c); n >= 0 {
			return found("string", n+2)
		}
	default:
		for _, symbol := range symbols {
			if strings.HasPrefix(rest, symbol) {
				return found(symbol, len(symbol))
			}
		}
	}
	return token{}, errorf(SyntaxError, "Unexpected input for '%s' at '%s'", clip(source), clip(rest))
}

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c|0x20 && c|0x20 <= 'z' }

func isIdentifier(s string) bool {
	return s != "" && !isDigit(s[0]) && span(s, isWord) == len(s)
}

// isWord reports whether c can be in an identifier. That it does not begin one
// if it is a digit is for the caller to see to.
func isWord(c byte) bool {
	return c == '_' || isDigit(c) || isLetter(c)
}

// span is the length of the longest beginning of s whose bytes are all like it.
func span(s string, like func(byte) bool) int {
	n := 0
	for n < len(s) && like(s[n]) {
		n++
	}
	return n
}

// isSpace reports what the language takes for white space: that of Unicode, and
// the byte order mark, but not "next line".
func isSpace(c rune) bool {
	switch {
	case c == ' ' || '\t' <= c && c <= '\r':
		return true
	case c < 0xA0:
		return false
	}
	return c == 0xA0 || c == 0x1680 || 0x2000 <= c && c <= 0x200A || c == 0x2028 || c == 0x2029 ||
		c == 0x202F || c == 0x205F || c == 0x3000 || c == 0xFEFF
}
