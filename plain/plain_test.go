package plain_test

import (
	"testing"

	"github.com/taskfleet/taskfleet/plain"
)

func TestPlain(t *testing.T) {
	words := func(s string) string { return plain.Words(s, 12) }
	for _, c := range []struct {
		name     string
		f        func(string) string
		in, want string
	}{
		{"Line", plain.Line, "grün/日本", "grün/日本"},
		{"Line", plain.Line, "a\x1b]0;title\ab\n\tc\u009bd", "a�]0;title�b��c�d"},
		{"Line", plain.Line, "a\u202eb\u2066c\u200dd\u2028\u200f", "a�b�c\u200dd��"},
		{"Line", plain.Line, "a\xffb\xed\xa0\x80", "a�b���"},
		{"Text", plain.Text, "one:\n\ttwo\r\x1b[2J\u202e\xff", "one:\n\ttwo��[2J��"},
		{"Words", words, "no\n\x1b[2Jyes\u202e\xff.", "no  [2Jyes  …"},
		{"Words", words, "zwölf Bytes", "zwölf Bytes"},
		{"Words", words, "abcdefghijkö", "abcdefghijk…"},
	} {
		if got := c.f(c.in); got != c.want {
			t.Errorf("%s(%q) is %q, want %q", c.name, c.in, got, c.want)
		}
	}
}
