package cost

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// textWidth is how long lines are at most.
const textWidth = 100

// Text is the estimate for people: a table by modules, what it assumes, and what it leaves out.
func (b *Bill) Text() string {
	var out strings.Builder
	const amounts = "%12s%12s%13s\n"
	name := len("MODULE")
	for _, m := range b.Modules {
		name = max(name, utf8.RuneCountInString(label(m.Address)))
	}
	name = min(name, textWidth-12-12-13)
	row := func(module, before, after, difference string) {
		if r := []rune(module); len(r) > name {
			module = "…" + string(r[len(r)-name+1:])
		}
		out.WriteString(module + strings.Repeat(" ", name-utf8.RuneCountInString(module)))
		fmt.Fprintf(&out, amounts, before, after, difference)
	}
	row("MODULE", "BEFORE", "AFTER", "DIFFERENCE")
	for _, m := range b.Modules {
		row(label(m.Address), dollars(m.Before), dollars(m.After), signed(m.Difference))
	}
	row("total", dollars(b.Before), dollars(b.After), signed(b.Difference))
	fmt.Fprintf(&out, "\n%s a month, at list prices of %s.\n", b.Currency, b.PricesAsOf)
	if len(b.Assumptions) > 0 {
		out.WriteString("\nAssumed, unless " + File + " says otherwise of a resource:\n")
		for _, a := range b.Assumptions {
			text := strconv.FormatFloat(a.Value, 'f', -1, 64) + " " + a.Meaning
			if a.Own {
				text += " (" + File + ")"
			}
			out.WriteString(wrap(fmt.Sprintf("%-18s%s", a.Name, text)))
		}
	}
	out.WriteString("\nNot in it:\n")
	for _, s := range b.LeftOut {
		out.WriteString(wrap(s))
	}
	out.WriteString("\n" + wrap("The prices: "+b.PriceNote))
	return out.String()
}

// Line is the estimate in one line.
func (b *Bill) Line() string {
	return fmt.Sprintf("about %s a month after the apply, %s before (%s)", dollars(b.After), dollars(b.Before), signed(b.Difference))
}

func label(address string) string {
	if address == "" {
		return "(root)"
	}
	return address
}

func dollars(x float64) string { return fmt.Sprintf("$%.2f", x) }

func signed(x float64) string {
	switch {
	case x < 0:
		return fmt.Sprintf("-$%.2f", -x)
	case x > 0:
		return fmt.Sprintf("+$%.2f", x)
	}
	return "$0.00"
}

// wrap breaks a text into lines with an indent; those after the first have more of it. Spaces at its begin and in a
// label stay.
func wrap(text string) string {
	const indent, hanging = "  ", "    "
	var b strings.Builder
	line := indent
	for i, word := range strings.Split(text, " ") {
		if i > 0 && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > textWidth {
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			line = hanging + word
			continue
		}
		if i > 0 {
			line += " "
		}
		line += word
	}
	b.WriteString(strings.TrimRight(line, " ") + "\n")
	return b.String()
}
