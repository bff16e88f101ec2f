package stacks

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/resource"
)

// Colours, as terminals know them.
const (
	bold   = "1"
	red    = "31"
	green  = "32"
	yellow = "33"
	faint  = "2"
)

// A writer lays text out in lines of a width.
type writer struct {
	b      strings.Builder
	width  int // 0: unlimited
	colour bool
}

func (t *writer) line(indent int, colour, text string) {
	text = strings.Repeat(" ", indent) + plain.Line(text)
	if t.width > 0 && utf8.RuneCountInString(text) > t.width {
		text = string([]rune(text)[:t.width-1]) + "…"
	}
	if t.colour && colour != "" && text != "" {
		text = "\x1b[" + colour + "m" + text + "\x1b[0m"
	}
	t.b.WriteString(text + "\n")
}

// whole is line for what has to be read to its end, however wide it is.
func (t *writer) whole(indent int, colour, text string) {
	width := t.width
	t.width = 0
	t.line(indent, colour, text)
	t.width = width
}

// ShellWord is s as one word of a command that somebody may copy into a shell.
func ShellWord(s string) string {
	s = plain.Line(s)
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:+@%,=") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// signs are how an action is shown.
var signs = map[Action]struct{ sign, colour, word string }{
	Create:  {"+", green, "create"},
	Adopt:   {"=", green, "adopt"},
	Update:  {"~", yellow, "change"},
	Replace: {"!", red, "replace"},
	Delete:  {"-", red, "delete"},
	Keep:    {"o", yellow, "forget"},
}

// Text tells people what a preview does: what is lost first, then the changes by stack. width is that of lines, at most; 0 is
// unlimited.
func (s *Saved) Text(w io.Writer, width int, colour bool) error {
	t := &writer{width: width, colour: colour}
	t.line(0, bold, s.Counts())
	t.lost(s.Deletes())
	for _, stack := range s.Stacks {
		if len(stack.Changes) == 0 {
			continue
		}
		t.line(0, "", "")
		t.line(0, bold, stack.Name)
		t.changes(stack.Changes)
	}
	var drift []*Change
	for _, stack := range s.Stacks {
		drift = append(drift, stack.Drift...)
	}
	if len(drift) > 0 {
		t.line(0, "", "")
		t.line(0, yellow, fmt.Sprintf("Changed by others since the last up (%d); the changes above go from what there is now", len(drift)))
		for _, c := range drift {
			t.line(2, "", c.Stack+"  "+c.ID+gone(c))
		}
	}
	t.strays(s.Strays, s.Prune)
	if len(s.Refused) > 0 {
		t.line(0, "", "")
		t.line(0, red, fmt.Sprintf("REFUSED (%d)", len(s.Refused)))
		for _, f := range s.Refused {
			t.whole(2, red, f.ID)
			t.whole(6, "", f.Reason)
		}
	}
	for _, n := range s.Notices {
		t.line(0, "", "")
		t.whole(0, yellow, n)
	}
	_, err := io.WriteString(w, t.b.String())
	return err
}

// Counts words how many things have what become of them.
func (s *Saved) Counts() string {
	n, unchanged := map[Action]int{}, 0
	for _, stack := range s.Stacks {
		unchanged += stack.Unchanged
		for _, c := range stack.Changes {
			n[c.Action]++
		}
	}
	if s.Prune {
		n[Delete] += len(s.Strays)
	}
	var parts []string
	for _, a := range []Action{Create, Adopt, Update, Replace, Delete, Keep} {
		if n[a] > 0 {
			parts = append(parts, fmt.Sprintf("%d to %s", n[a], signs[a].word))
		}
	}
	return fmt.Sprintf("%s; %d unchanged", cmp.Or(strings.Join(parts, ", "), "No changes"), unchanged)
}

// lost tells what is deleted or replaced, what cannot be had again first.
func (t *writer) lost(list []*Change) {
	if len(list) == 0 {
		return
	}
	t.line(0, "", "")
	var rest []*Change
	for _, c := range list {
		if holds := c.Holds(); holds != "" {
			t.whole(0, red, fmt.Sprintf("!!! %sS %s  %s", strings.ToUpper(signs[c.Action].word), c.ID, holds))
		} else {
			rest = append(rest, c)
		}
	}
	for _, c := range rest {
		t.whole(0, red, fmt.Sprintf("!! %ss %s", signs[c.Action].word, c.ID))
	}
}

func (t *writer) changes(list []*Change) {
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b *Change) int { return cmp.Compare(a.ID, b.ID) })
	for _, c := range list {
		sign := signs[c.Action]
		more := ""
		switch {
		case c.Action == Keep && c.stays():
			more = "  (stays as it is: such a thing is never deleted)"
		case c.Action == Keep:
			more = "  (stays on the platform, as no managed pattern matches it; add one to have it deleted)"
		case c.Action == Adopt:
			more = "  (is on the platform already, as defined)"
		case c.Taken:
			more = "  (is on the platform already, and is changed)"
		}
		t.line(2, sign.colour, sign.sign+" "+c.ID+more)
		switch c.Action {
		case Create:
			if len(c.Before) > 0 { // refused
				t.differences(c)
				continue
			}
			for _, line := range documentLines(c.After) {
				t.line(6, "", line)
			}
		case Update, Replace:
			t.differences(c)
		}
	}
}

func documentLines(document json.RawMessage) []string {
	text := strings.NewReplacer(`"`+secretWord+`"`, `"(hidden)"`, `"`+unknownWord+`"`, `"(known when it is done)"`).Replace(string(document))
	lines, err := resource.YAML(json.RawMessage(text))
	if err != nil {
		return []string{string(document)}
	}
	return lines
}

// differences shows each member that differs.
func (t *writer) differences(c *Change) {
	list := differences(c.Before, c.After)
	for _, h := range c.Hidden {
		if !slices.ContainsFunc(list, func(d difference) bool { return d.path == h }) {
			list = append(list, difference{path: h, before: "(hidden)", after: "(hidden, another value)"})
		}
	}
	wide := 0
	for _, d := range list {
		wide = max(wide, utf8.RuneCountInString(d.path))
	}
	wide = min(wide, 40)
	for _, d := range list {
		label := d.path + strings.Repeat(" ", max(0, wide-utf8.RuneCountInString(d.path)))
		if len(d.gone)+len(d.new) == 0 {
			t.line(6, "", fmt.Sprintf("%s  %s -> %s", label, cmp.Or(d.before, "(nothing)"), cmp.Or(d.after, "(nothing)")))
			continue
		}
		for _, gone := range d.gone {
			t.line(6, red, label+"  - "+gone)
			label = strings.Repeat(" ", utf8.RuneCountInString(label))
		}
		for _, new := range d.new {
			t.line(6, green, label+"  + "+new)
			label = strings.Repeat(" ", utf8.RuneCountInString(label))
		}
	}
}

// gone says of a drift that nothing is left of it.
func gone(c *Change) string {
	if c.Action == Delete {
		return "  (gone)"
	}
	return ""
}

func (t *writer) strays(list []*Change, prune bool) {
	if len(list) == 0 {
		return
	}
	t.line(0, "", "")
	if prune {
		t.line(0, red, fmt.Sprintf("Strays (%d): on the platform, managed by a pattern, and defined nowhere. They are deleted", len(list)))
	} else {
		t.line(0, yellow, fmt.Sprintf("Strays (%d): on the platform, managed by a pattern, and defined nowhere. They stay; preview with --prune to have them deleted", len(list)))
	}
	for _, c := range list {
		t.line(2, "", c.Stack+"  "+c.ID)
	}
}

// Text tells people what has drifted.
func (r *DriftReport) Text(w io.Writer, width int, colour bool) error {
	t := &writer{width: width, colour: colour}
	stack := ""
	for _, c := range r.Drift {
		if c.Stack != stack {
			stack = c.Stack
			t.line(0, bold, stack)
		}
		if c.Action == Delete {
			t.line(2, red, "gone     "+c.ID)
			continue
		}
		t.line(2, yellow, "changed  "+c.ID)
		t.differences(c)
	}
	if len(r.Strays) > 0 {
		t.line(0, "", "")
		t.line(0, yellow, fmt.Sprintf("Strays (%d): on the platform, managed by a pattern, and defined nowhere", len(r.Strays)))
		for _, c := range r.Strays {
			t.line(2, "", c.Stack+"  "+c.ID)
		}
	}
	_, err := io.WriteString(w, t.b.String())
	return err
}

// Text tells people what is to be destroyed.
func (p *Destruction) Text(w io.Writer, width int, colour bool) error {
	t := &writer{width: width, colour: colour}
	var going, stay []*Change
	for _, c := range p.Changes {
		if c.Action == Keep {
			stay = append(stay, c)
		} else {
			going = append(going, c)
		}
	}
	t.line(0, bold, fmt.Sprintf("%d to delete, %d to stay on the platform, of the stacks %s", len(going), len(stay), strings.Join(p.Stacks, ", ")))
	t.lost(going)
	if len(stay) > 0 {
		t.line(0, "", "")
		t.line(0, bold, "Stays, as no managed pattern matches it, or as such a thing is never deleted")
		for _, c := range stay {
			t.line(2, "", c.ID)
		}
	}
	_, err := io.WriteString(w, t.b.String())
	return err
}
