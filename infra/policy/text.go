package policy

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Text is the verdict for people, on lines of at most width characters where words allow it.
func (v Verdict) Text(width int) string {
	var b strings.Builder
	list := func(head string, found []Violation) {
		if len(found) > 0 {
			b.WriteString(head + "\n" + alike(found, width) + "\n")
		}
	}
	list("Violations, which refuse the plan:", v.Errors())
	list("Warnings:", v.Warnings())
	list("Not judged:", v.Unjudged())
	list("Accepted by exceptions:", v.Excepted())
	exceptions := func(head string, list []Exception) {
		for _, e := range list {
			b.WriteString(wrap(fmt.Sprintf("%s: rule %s, %s, until %s", head, e.Rule, e.Resource, e.Until), width, ""))
		}
	}
	exceptions("An exception is over", v.Expired)
	exceptions("An exception accepts nothing any more, and can go", v.Unused)
	summary := "no violations"
	if n := len(v.Errors()); n > 0 {
		summary = count(n, "violation")
	}
	fmt.Fprintf(&b, "%s by %s: %s, %s, %d not judged, %d accepted\n",
		count(v.Resources, "resource"), count(v.Rules, "rule"), summary, count(len(v.Warnings()), "warning"), len(v.Unjudged()), len(v.Excepted()))
	return b.String()
}

// alike lists violations. Of those that say the same by the same rule, it tells once what they say.
func alike(found []Violation, width int) string {
	const most = 20 // places of violations that are alike
	type saying struct{ rule, message, fix, reason string }
	var order []saying
	places := map[saying][]string{}
	for _, x := range found {
		s := saying{rule: x.Rule, message: x.Message, fix: "mend: " + x.Fix}
		switch {
		case x.Excepted != nil:
			s.fix, s.reason = "", "until "+x.Excepted.Until+": "+x.Excepted.Reason
		case x.Unknown || x.Fix == "":
			s.fix = ""
		}
		if places[s] == nil {
			order = append(order, s)
		}
		place := x.Address
		if x.Attribute != "" {
			place += ", " + x.Attribute
		}
		places[s] = append(places[s], place)
	}
	var b strings.Builder
	for _, s := range order {
		b.WriteString(wrap(s.rule+": "+s.message, width, "  "))
		for _, more := range []string{s.fix, s.reason} {
			if more != "" {
				b.WriteString(wrap(more, width, "    "))
			}
		}
		list := places[s]
		for _, place := range list[:min(len(list), most)] {
			b.WriteString(wrap(place, width, "      "))
		}
		if n := len(list) - most; n > 0 {
			fmt.Fprintf(&b, "      and %d more, which --json has\n", n)
		}
	}
	return b.String()
}

func count(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}

func wrap(text string, width int, indent string) string {
	var b strings.Builder
	line := indent
	for _, word := range strings.Fields(text) {
		if line != indent && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			b.WriteString(line + "\n")
			line = indent
		}
		if line != indent {
			line += " "
		}
		line += word
	}
	b.WriteString(line + "\n")
	return b.String()
}
