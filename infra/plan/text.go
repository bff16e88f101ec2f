package plan

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/taskfleet/taskfleet/plain"
)

// Colours of a terminal.
const (
	red    = "31;1"
	yellow = "33"
	green  = "32"
	bold   = "1"
)

// signs mark what becomes of a resource.
var signs = map[Action]struct{ sign, word, colour string }{
	Create:   {"+", "create", green},
	Update:   {"~", "change", yellow},
	Replace:  {"!", "replace", red},
	Delete:   {"!", "destroy", red},
	ReadData: {"<", "read", ""},
	Import:   {">", "import", green},
	Forget:   {".", "forget", yellow},
	Move:     {">", "move", ""},
}

// Text tells people what a plan does, in lines of at most width columns (100 if that is 0): what it destroys first,
// then all changes by module, and of what changes or is replaced each attribute that differs.
func (p *Plan) Text(w io.Writer, width int, colour bool) error {
	if width <= 0 {
		width = 100
	}
	t := &writer{width: max(width, 40), colour: colour}
	t.line(0, bold, p.Count())
	t.destroyed(p)
	t.changes(p.Changes)
	if len(p.Outputs) > 0 {
		t.line(0, "", "")
		t.line(0, bold, "outputs")
		for _, o := range p.Outputs {
			s := signs[o.Action]
			t.line(2, s.colour, s.sign+" "+o.Name)
			if o.Action == Update {
				t.attributes(o.Attributes)
			}
		}
	}
	if len(p.Drift) > 0 {
		t.line(0, "", "")
		t.line(0, bold, fmt.Sprintf("Changed by other hands since the last apply (%d); this plan puts back what the configuration says:", len(p.Drift)))
		p.drift(t)
	}
	_, err := io.WriteString(w, t.b.String())
	return err
}

// DriftText tells people what has changed by other hands.
func (p *Plan) DriftText(w io.Writer, width int, colour bool) error {
	if width <= 0 {
		width = 100
	}
	t := &writer{width: max(width, 40), colour: colour}
	p.drift(t)
	_, err := io.WriteString(w, t.b.String())
	return err
}

func (p *Plan) drift(t *writer) {
	for _, c := range p.Drift {
		word, colour := "changed", yellow
		if c.Action == Delete {
			word, colour = "gone", red
		}
		t.line(2, colour, pad(word, 8)+c.Address+labelled(c))
		if c.Action == Update {
			t.attributes(c.Attributes)
		}
	}
}

// Count words how many resources have what become of them.
func (p *Plan) Count() string {
	n := map[Action]int{}
	for _, c := range p.Changes {
		n[c.Action]++
	}
	var parts []string
	for _, a := range []Action{Create, Update, Replace, Delete, Import, Move, Forget} {
		if n[a] > 0 {
			parts = append(parts, fmt.Sprintf("%d to %s", n[a], signs[a].word))
		}
	}
	text := strings.Join(parts, ", ")
	if text == "" {
		text = "No resource changes"
		if len(p.Outputs) > 0 {
			text += ", only outputs"
		}
	}
	return fmt.Sprintf("%s; %d unchanged", text, p.Unchanged)
}

// DestroyedText tells people what a plan destroys, data first; "" if nothing.
func (p *Plan) DestroyedText(width int, colour bool) string {
	if width <= 0 {
		width = 100
	}
	t := &writer{width: max(width, 40), colour: colour}
	t.destroyed(p)
	return strings.TrimPrefix(t.b.String(), "\n")
}

// manyDestroyed is how many resources without data are listed twice: here, and among the changes of their modules.
const manyDestroyed = 20

func (t *writer) destroyed(p *Plan) {
	all, data := p.Destroys(false), p.Destroys(true)
	if len(all) == 0 {
		return
	}
	t.line(0, "", "")
	if len(data) > 0 {
		t.line(0, red, fmt.Sprintf("!!! DESTROYS DATA: what %s cannot be made again", those(len(data))))
		for _, c := range data {
			t.line(2, red, fmt.Sprintf("!!! %s %s %s%s", signs[c.Action].word, c.Holds, c.Address, labelled(c)))
			t.why(c)
		}
	}
	switch rest := len(all) - len(data); {
	case rest > manyDestroyed:
		t.line(0, red, fmt.Sprintf("!! Destroys %d more, all resources with a ! below", rest))
	case rest > 0:
		t.line(0, red, "!! Destroys")
		for _, c := range all {
			if !c.Protected {
				t.line(2, red, fmt.Sprintf("!! %s %s%s", signs[c.Action].word, c.Address, labelled(c)))
				t.why(c)
			}
		}
	}
}

func those(n int) string {
	if n == 1 {
		return "this holds"
	}
	return fmt.Sprintf("these %d hold", n)
}

// why says for what reason something is destroyed, and which attributes force it.
func (t *writer) why(c Change) {
	reason := c.Reason
	var forced []string
	for _, a := range c.Attributes {
		if a.ForcesReplacement {
			forced = append(forced, a.Path)
		}
	}
	if len(forced) > 0 {
		reason = strings.Join(forced, ", ") + " cannot be changed in place"
	}
	if reason != "" {
		t.line(6, "", "because "+reason)
	}
}

func (t *writer) changes(changes []Change) {
	module := "-"
	for _, c := range changes {
		if c.Module != module {
			module = c.Module
			t.line(0, "", "")
			name := module
			if name == "" {
				name = "root module"
			}
			t.line(0, bold, name)
		}
		s := signs[c.Action]
		line := s.sign + " " + pad(s.word, 8) + strings.TrimPrefix(c.Address, c.Module+".") + labelled(c)
		switch {
		case c.ImportID != "":
			line += "  imported from " + c.ImportID
		case c.Previous != "":
			line += "  moved from " + c.Previous
		case c.Action == Forget:
			line += "  stays in AWS, unmanaged"
		}
		t.line(2, s.colour, line)
		if c.Action == Update || c.Action == Replace {
			t.attributes(c.Attributes)
		}
	}
}

func labelled(c Change) string {
	if c.Label == "" {
		return ""
	}
	return fmt.Sprintf(" %q", c.Label)
}

// attributes prints what differs, with paths that are aligned as far as they are short.
func (t *writer) attributes(list []Attribute) {
	widest := 0
	for _, a := range list {
		if n := utf8.RuneCountInString(a.Path); n <= 32 {
			widest = max(widest, n)
		}
	}
	for _, a := range list {
		mark, colour := "", ""
		if a.ForcesReplacement {
			mark, colour = "  <- forces replacement", red
		}
		head := pad(plain.Line(a.Path), widest) + "  "
		room := t.width - 8 - utf8.RuneCountInString(head) - utf8.RuneCountInString(mark)
		t.line(8, colour, head+between(a, max(room, 24))+mark)
	}
}

// between words the two values of an attribute in at most room columns.
func between(a Attribute, room int) string {
	const arrow, later = " -> ", "(known after apply)"
	switch {
	case a.Secret && a.Unknown:
		return hidden + arrow + later
	case a.Secret:
		return hidden + ", changes"
	}
	after := later
	if !a.Unknown {
		after = value(a.After)
	}
	before := value(a.Before)
	if a.Unknown && a.Before == nil {
		return later
	}
	room -= len(arrow)
	if half := room / 2; utf8.RuneCountInString(before)+utf8.RuneCountInString(after) > room {
		switch {
		case utf8.RuneCountInString(after) < half:
			before = clip(before, room-utf8.RuneCountInString(after))
		case utf8.RuneCountInString(before) < half:
			after = clip(after, room-utf8.RuneCountInString(before))
		default:
			before, after = clip(before, half), clip(after, room-half)
		}
	}
	return before + arrow + after
}

func value(v any) string {
	if v == nil {
		return "(none)"
	}
	if s, ok := v.(string); ok && s == hidden {
		return s
	}
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "(cannot be shown)"
	}
	return strings.TrimSuffix(b.String(), "\n")
}

type writer struct {
	b      strings.Builder
	width  int
	colour bool
}

// line prints one line; what does not fit into it goes on in the next, further in.
func (t *writer) line(indent int, colour, text string) {
	text = plain.Line(text)
	for first := true; first || text != ""; first = false {
		lead := indent
		if !first {
			lead += 4
		}
		part := text
		if room := t.width - lead; utf8.RuneCountInString(text) > room {
			runes := []rune(text)
			cut := room
			if i := strings.LastIndexByte(string(runes[:room]), ' '); i > len(string(runes[:room/2])) {
				cut = utf8.RuneCountInString(string(runes[:room])[:i])
			}
			part, text = string(runes[:cut]), strings.TrimLeft(string(runes[cut:]), " ")
		} else {
			text = ""
		}
		part = strings.TrimRight(part, " ")
		if t.colour && colour != "" && part != "" {
			part = "\x1b[" + colour + "m" + part + "\x1b[0m"
		}
		if part != "" {
			t.b.WriteString(strings.Repeat(" ", lead))
		}
		t.b.WriteString(part + "\n")
	}
}

func clip(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:max(n-1, 0)]) + "…"
}

func pad(s string, n int) string {
	return s + strings.Repeat(" ", max(0, n-utf8.RuneCountInString(s)))
}
