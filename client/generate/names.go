package main

import (
	"go/doc/comment"
	"go/token"
	"slices"
	"strings"
	"unicode"
)

// Words that Go writes in one case.
var initialisms = []string{"id", "ids", "url", "urls", "ip", "api", "http", "aws", "dsn", "sas"}

// goName turns taskId, create-task-request or put_url into TaskID,
// CreateTaskRequest and PutURL.
func goName(s string) string {
	var b strings.Builder
	for _, w := range words(s) {
		lower := strings.ToLower(w)
		switch {
		case slices.Contains(initialisms, lower) && strings.HasSuffix(lower, "s") && slices.Contains(initialisms, lower[:len(lower)-1]):
			b.WriteString(strings.ToUpper(lower[:len(lower)-1]) + "s")
		case slices.Contains(initialisms, lower):
			b.WriteString(strings.ToUpper(w))
		default:
			b.WriteString(strings.ToUpper(w[:1]) + w[1:])
		}
	}
	return b.String()
}

// argName is goName for a parameter: taskID, name.
func argName(s string) string {
	w := words(s)
	name := strings.ToLower(w[0])
	if len(w) > 1 {
		name += goName(strings.Join(w[1:], "-"))
	}
	if token.IsKeyword(name) || name == "in" || name == "opts" || name == "ctx" {
		name += "Arg"
	}
	return name
}

// words splits at dashes and underscores, and before a capital that follows a
// small letter or digit.
func words(s string) (out []string) {
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == '-' || r == '_' || r == '.' }) {
		start := 0
		for i, r := range part {
			if i > start && unicode.IsUpper(r) && !unicode.IsUpper(rune(part[i-1])) {
				out = append(out, part[start:i])
				start = i
			}
		}
		out = append(out, part[start:])
	}
	return out
}

// singular names one item of a list.
func singular(s string) string {
	for _, end := range []struct{ plural, one string }{{"Statuses", "Status"}, {"Stats", "Stats"}, {"ies", "y"}, {"ss", "ss"}, {"s", ""}} {
		if stem, ok := strings.CutSuffix(s, end.plural); ok {
			return stem + end.one
		}
	}
	return s
}

// docComment lays text out as a Go comment, indented by depth tabs. Text is
// the little Markdown that descriptions have.
func docComment(depth int, text string) string {
	text = strings.TrimSpace(text)
	if text == "" {
		return ""
	}
	indent := strings.Repeat("\t", depth)
	var p comment.Parser
	pr := comment.Printer{TextPrefix: indent + "// ", TextWidth: 84, TextCodePrefix: indent + "//\t"}
	return string(pr.Text(p.Parse(text)))
}
