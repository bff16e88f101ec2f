package program

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// leastScrubbed is the length from which on a text is taken out: of shorter ones
	// there are too many that mean nothing.
	leastScrubbed = 6

	growth     = 8       // by which a text gets longer at most when it is escaped
	maxPrinted = 2 << 20 // bytes of the longest secret there may be, escaped
)

// Scrub takes every text and number of a secret out of a message: as it is, as
// programs print it in JSON or in a URL, and in Base64, also where that is of more than
// the text. A secret that is no JSON is one text.
func Scrub(message string, secret []byte) string {
	return scrubbed(message, textsOf(secret), 0)
}

// scrubbed is what of the message begins at from, without the texts.
func scrubbed(message string, texts []string, from int) string {
	hidden := make([]bool, len(message))
	plain := plainOf(message)
	for _, t := range texts {
		if len(t) < leastScrubbed || len(t) > len(message) {
			continue
		}
		each(message, t, func(at int) { hide(hidden, at, at+len(t)) })
		for _, form := range append(inBase64(t), t) {
			form := string(plainOf(form).text)
			if len(form) < leastScrubbed {
				continue
			}
			each(string(plain.text), form, func(at int) {
				end := plain.ends[at+len(form)-1]
				for strings.HasSuffix(t, `\`) && end < len(message) && message[end] == '\\' { // which plain ones do not have
					end++
				}
				hide(hidden, plain.begins[at], end)
			})
		}
	}
	var to strings.Builder
	for i := from; i < len(message); i++ {
		switch {
		case !hidden[i]:
			to.WriteByte(message[i])
		case i == from || !hidden[i-1]:
			to.WriteString("(secret)")
		}
	}
	return to.String()
}

func hide(hidden []bool, from, to int) {
	for i := from; i < to; i++ {
		hidden[i] = true
	}
}

// each finds a text wherever it is, also where that overlaps.
func each(message, text string, f func(at int)) {
	for from := 0; ; from++ {
		i := strings.Index(message[from:], text)
		if i < 0 {
			return
		}
		from += i
		f(from)
	}
}

// A plain text is one without what URLs, JSON and programming languages escape in a
// text, as often as that was done. Two texts can have the same plain one; then more is
// hidden than need be.
type plain struct {
	text         []byte
	begins, ends []int // of each byte, in the text as it was
}

func plainOf(s string) plain {
	p := plain{}
	for i := 0; i < len(s); {
		what, length := percent(s[i:])
		p.add(what, i, i+length)
		i += length
	}
	q := plain{}
	for i := 0; i < len(p.text); {
		if p.text[i] != '\\' {
			q.add(p.text[i:i+1], p.begins[i], p.ends[i])
			i++
			continue
		}
		what, length := escaped(string(p.text[i:min(len(p.text), i+longestEscape)]))
		q.add(what, p.begins[i], p.ends[i+length-1])
		i += length
	}
	return q
}

func (p *plain) add(what []byte, from, to int) {
	for _, b := range what {
		if b == '+' { // which is a space in a query
			b = ' '
		}
		p.text, p.begins, p.ends = append(p.text, b), append(p.begins, from), append(p.ends, to)
	}
}

// longestEscape is how many bytes one is looked for in; of more backslashes the rest is
// read as another one.
const longestEscape = 64

// escaped reads backslashes and what they escape.
func escaped(s string) (what []byte, length int) {
	rest := strings.TrimLeft(s, `\`)
	length = len(s) - len(rest)
	if rest == "" {
		return nil, length
	}
	if i := strings.IndexByte("ntrbfv", rest[0]); i >= 0 {
		return []byte{"\n\t\r\b\f\v"[i]}, length + 1
	}
	digits := map[byte]int{'x': 2, 'u': 4, 'U': 8}[rest[0]]
	n, ok := hex(rest[1:], digits)
	switch {
	case !ok:
		return []byte{rest[0]}, length + 1
	case digits == 2:
		return []byte{byte(n)}, length + 3
	}
	length += 1 + digits
	if utf16.IsSurrogate(n) {
		second := strings.TrimLeft(s[length:], `\`)
		if low, ok := hex(strings.TrimPrefix(second, "u"), 4); ok && strings.HasPrefix(second, "u") {
			return utf8.AppendRune(nil, utf16.DecodeRune(n, low)), len(s) - len(second) + 5
		}
	}
	return utf8.AppendRune(nil, n), length
}

// percent reads a byte, or one that is escaped with a percent sign.
func percent(s string) (what []byte, length int) {
	n, ok := rune(s[0]), s[0] == '%'
	for length = 1; ok && n == '%'; {
		var more rune
		if more, ok = hex(s[length:], 2); ok {
			n, length = more, length+2
		}
	}
	return []byte{byte(n)}, length
}

func hex(s string, digits int) (rune, bool) {
	if digits == 0 || len(s) < digits {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:digits], 16, 32)
	return rune(n), err == nil
}

// inBase64 is how a text looks in Base64, wherever in what was encoded it was.
func inBase64(text string) (list []string) {
	for _, form := range []string{text, quoted(text, true), quoted(text, false)} {
		for before := range 3 {
			for _, e := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				code := e.EncodeToString(append(make([]byte, before), form...))
				code = code[(before*8+5)/6:] // a digit has 6 bits, so it can be of two bytes
				if (before+len(form))%3 != 0 {
					code = code[:len(code)-1]
				}
				list = append(list, code)
			}
		}
	}
	return list
}

// quoted is a text as it is within the quotes of JSON.
func quoted(text string, html bool) string {
	var to bytes.Buffer
	e := json.NewEncoder(&to)
	e.SetEscapeHTML(html)
	if e.Encode(text) != nil {
		return text
	}
	return strings.TrimSuffix(to.String()[1:], "\"\n")
}

// textsOf are the texts and numbers in a secret.
func textsOf(secret []byte) (texts []string) {
	d := json.NewDecoder(bytes.NewReader(secret))
	d.UseNumber() // as it is written
	var v any
	if !json.Valid(secret) || d.Decode(&v) != nil {
		return []string{strings.TrimSpace(string(secret))}
	}
	return leaves(v, nil)
}

func leaves(v any, to []string) []string {
	switch v := v.(type) {
	case string:
		to = append(to, v)
		for line := range strings.Lines(v) {
			if line = strings.TrimSpace(line); line != v {
				to = append(to, line)
			}
		}
	case json.Number:
		to = append(to, v.String())
		if f, err := v.Float64(); err == nil { // as those print it that read a float
			to = append(to, strconv.FormatFloat(f, 'g', -1, 64), strconv.FormatFloat(f, 'f', -1, 64))
		}
	case []any:
		for _, x := range v {
			to = leaves(x, to)
		}
	case map[string]any:
		for _, x := range v {
			to = leaves(x, to)
		}
	}
	return to
}
