// Package plain makes text of strangers fit to be shown: names and messages on a platform are anybody's, and what services of
// others answer is theirs. In what it returns there is nothing that a terminal obeys instead of showing it (control
// characters, and with them escape sequences) or that turns a line round (the marks of Unicode's bidirectional algorithm),
// and nothing that is no UTF-8.
package plain

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Line is s as one line. What is not shown is a replacement character, so that nobody takes two names for the same.
func Line(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || reorders(r) {
			return utf8.RuneError
		}
		return r // of bytes that are no UTF-8, too, it is utf8.RuneError
	}, s)
}

// Text is Line for what may have several lines, and tabs in them.
func Text(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' || reorders(r) {
			return utf8.RuneError
		}
		return r
	}, s)
}

// Words is s for an error, as one line of at most most bytes and a sign for what was cut off. What is not shown is a blank.
func Words(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}

// reorders tells of separators of lines, and of marks, embeddings, overrides and isolates.
func reorders(r rune) bool {
	return r == '\u061c' || r == '\u200e' || r == '\u200f' || r >= '\u2028' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069'
}
