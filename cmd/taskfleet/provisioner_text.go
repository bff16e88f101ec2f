package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/timestamp"
)

// clock words a time of day, with the date where that is not today's.
func clock(t, now timestamp.Time) string {
	if t.IsZero() {
		return "-"
	}
	at, today := t.Time().Local(), now.Time().Local()
	if at.Year() == today.Year() && at.YearDay() == today.YearDay() {
		return at.Format(time.TimeOnly)
	}
	return at.Format("Jan _2 15:04:05")
}

// when words a time as the clock shows it and as it is from now.
func when(t, now timestamp.Time) string {
	switch {
	case t.IsZero():
		return "-"
	case t > now:
		return clock(t, now) + ", in " + took(t.Sub(now))
	}
	return clock(t, now) + ", " + took(now.Sub(t)) + " ago"
}

// age words how long t is past, or - where there is no t.
func age(t, now timestamp.Time) string {
	if t.IsZero() {
		return "-"
	}
	return took(now.Sub(t))
}

// money words an amount of dollars, small ones with more digits.
func money(d float64) string {
	switch a := math.Abs(d); {
	case a == 0:
		return "$0"
	case a < 0.0001:
		return "<$0.0001"
	case a < 1:
		return fmt.Sprintf("$%.4f", d)
	case a < 1000:
		return fmt.Sprintf("$%.2f", d)
	}
	return fmt.Sprintf("$%.0f", d)
}

// moneyOr words an amount that may not be known.
func moneyOr(d *float64) string {
	if d == nil {
		return "-"
	}
	return money(*d)
}

// amount words a number with as many digits as it is worth.
func amount(x float64) string {
	switch {
	case x == math.Trunc(x) && math.Abs(x) < 1e9:
		return fmt.Sprintf("%.0f", x)
	case math.Abs(x) >= 1000:
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.3g", x)
}

// lineWidth is how long lines of text should be.
func lineWidth(w io.Writer) int {
	const comfortable = 100
	if width := widthOf(w); width > 0 {
		return min(width, comfortable)
	}
	return comfortable
}

// wrap breaks text into lines of at most width characters, each with an
// indent. The lines that it has stay apart; words that are too long stay whole.
func wrap(text string, width int, indent string) string {
	var b strings.Builder
	room := max(width-utf8.RuneCountInString(indent), 20)
	for part := range strings.Lines(strings.TrimSpace(text)) {
		used := 0
		for word := range strings.FieldsSeq(part) {
			n := utf8.RuneCountInString(word)
			switch {
			case used == 0:
				b.WriteString(indent)
			case used+1+n > room:
				b.WriteString("\n" + indent)
				used = 0
			default:
				b.WriteByte(' ')
				used++
			}
			b.WriteString(word)
			used += n
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// A brush colours text for a terminal, and leaves it alone elsewhere.
type brush bool

func brushFor(w io.Writer) brush {
	_, is := terminal(w)
	return brush(is && os.Getenv("NO_COLOR") == "")
}

func (b brush) paint(c color, s string) string { return line{{s, c}}.text(bool(b)) }

// A moment is the value of a flag that names a time: one of RFC 3339, or how
// long ago it was.
type moment struct {
	text string
	at   time.Time
}

func (m *moment) Set(s string) error {
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		ago, err := graph.ParseDuration(s)
		if err != nil {
			return errors.New("give a time such as 2016-05-11T12:00:00Z, or how long ago it was, such as 2h or 3d")
		}
		at = time.Now().Add(-ago)
	}
	m.text, m.at = s, at
	return nil
}

func (m *moment) String() string { return m.text }
func (m *moment) Type() string   { return "time" }

// set reports whether the flag was given.
func (m *moment) set() bool { return m.text != "" }

// timestamp is the time, as services have it.
func (m *moment) timestamp() timestamp.Time { return timestamp.Of(m.at) }

// sinceFlag adds a flag for the begin of what is shown.
func sinceFlag(cmd *cobra.Command, m *moment, otherwise, usage string) {
	if otherwise != "" {
		cobra.CheckErr(m.Set(otherwise))
	}
	cmd.Flags().Var(m, "since", usage+": a time, or how long ago it was")
}

func yesFlag(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVarP(yes, "yes", "y", false, "do not ask")
}

// confirm asks somebody at a terminal whether to go on. Scripts are not asked.
func confirm(cmd *cobra.Command, yes bool, question string) error {
	in, ok := cmd.InOrStdin().(*os.File)
	if yes || !ok || !term.IsTerminal(int(in.Fd())) {
		return nil
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s [y/N] ", question)
	answer, err := bufio.NewReader(in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
		return errors.New("nothing was done")
	}
	return nil
}

// pollEvery is how often what is waited for is looked at.
const pollEvery = time.Second

// waitFor looks until there is nothing left to wait for, and says what is left
// when that has changed.
func waitFor(cmd *cobra.Command, look func() (left string, err error)) error {
	before := ""
	for {
		left, err := look()
		if err != nil || left == "" {
			return err
		}
		if left != before {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s  %s\n", time.Now().Format(time.TimeOnly), left)
			before = left
		}
		select {
		case <-time.After(pollEvery):
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		}
	}
}

// count words a number of things.
func count[N int | int64](n N, word string) string { return plural(int(n), word) }

// orDash is s, or - where that is empty.
func orDash(s string) string { return cmp.Or(s, "-") }

// sortedNames are the names of fields, in order.
func sortedNames[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
