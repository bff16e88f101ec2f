package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client/provisioner"
	"github.com/taskfleet/taskfleet/timestamp"
)

func newExplainCommand() *cobra.Command {
	var asJSON bool
	var since moment
	cmd := &cobra.Command{
		Use: "explain POOL", Short: "Say why a pool has as many workers as it has",
		Long: `Says why a pool has as many workers as it has: what there is to do, what was decided about it and from which numbers,
what keeps the pool from having as many workers as it wants, which requests are not answered yet, and what comes next.
Tasks count one each, workers by capacity: the number of tasks that they can run at once.

With --since it lists the decisions since then. They are kept for a day; those that change nothing only now and then.`,
		Example: `  taskfleet provisioner explain aws/build
  taskfleet provisioner explain aws/build --since 2h`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: completePools,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			p, out := provisioner.New(s.core), cmd.OutOrStdout()
			if since.set() {
				list, err := decisionsSince(ctx, p, args[0], since.timestamp())
				switch {
				case err != nil:
					return aboutPool(err, args[0])
				case asJSON:
					return printJSON(out, list)
				}
				return printDecisions(out, list, timestamp.Now())
			}
			x, err := p.ExplainWorkerPool(ctx, args[0])
			switch {
			case err != nil:
				return aboutPool(err, args[0])
			case asJSON:
				return printJSON(out, x)
			}
			markets, err := p.ListMarkets(ctx, args[0])
			if err != nil {
				markets = &provisioner.MarketList{} // the explanation says so
			}
			e := explained{x, markets.Markets}
			return e.print(out)
		}),
	}
	sinceFlag(cmd, &since, "", "list the decisions after that")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func decisionsSince(ctx context.Context, p *provisioner.Client, pool string, since timestamp.Time) ([]provisioner.Decision, error) {
	list := []provisioner.Decision{}
	for d, err := range p.ListDecisionsAll(ctx, pool, provisioner.ListDecisionsOptions{Limit: most}) {
		if err != nil {
			return nil, err
		}
		if d.At < since {
			break
		}
		list = append(list, d)
	}
	return list, nil
}

// An explained pool is shown.
type explained struct {
	*provisioner.Explanation
	markets []market
}

// How much is shown of what there may be a lot of.
const (
	shownNext   = 6
	shownBefore = 3
)

func (x *explained) print(w io.Writer) error {
	b, width := brushFor(w), lineWidth(w)
	for i, s := range x.Summary {
		if i == 0 {
			s = b.paint(bold, s)
		}
		fmt.Fprint(w, wrap(s, width, ""))
	}
	head := func(text string) { fmt.Fprintf(w, "\n%s\n", b.paint(bold, text)) }
	if len(x.Decisions) > 0 {
		head("What that was decided from, " + age(x.Decisions[0].At, x.At) + " ago")
		if err := printTerms(w, &x.Decisions[0]); err != nil {
			return err
		}
	}
	for i, h := range x.hindrances() {
		if i == 0 {
			head("What stands in the way")
		}
		fmt.Fprint(w, bullet(h, width))
	}
	if len(x.Intents) > 0 {
		head("Requests without an answer")
		t := table{head: []string{"REQUEST", "WORKERS", "CAPACITY", "MADE", "CALLS", "REPEATED"}}
		for _, i := range x.Intents {
			again := "-"
			if i.NextAttempt > x.At {
				again = "in " + took(i.NextAttempt.Sub(x.At))
			}
			t.add(i.IntentID, number(i.Workers), number(i.Capacity), age(i.Created, x.At)+" ago", number(i.Attempts), again)
		}
		if err := t.print(w); err != nil {
			return err
		}
	}
	if next := x.next(); len(next) > 0 {
		head("What comes next")
		for _, n := range next[:min(len(next), shownNext)] {
			fmt.Fprint(w, bullet(n.text+": "+when(n.at, x.At)+".", width))
		}
	}
	if err := x.printConfigs(w, head); err != nil {
		return err
	}
	if len(x.Decisions) > 1 {
		head("Decided before")
		if err := printDecisions(w, x.Decisions[1:min(len(x.Decisions), 1+shownBefore)], x.At); err != nil {
			return err
		}
	}
	if len(x.Errors) > 0 {
		head("What went wrong lately")
		for _, e := range x.Errors[:min(len(x.Errors), 3)] {
			fmt.Fprint(w, bullet(fmt.Sprintf("%s ago: %s. %s", age(e.Reported, x.At), e.Title, e.Description), width))
		}
	}
	return nil
}

// hindrances are what stands in the way of more workers, markets that are closed
// for one reason taken together.
func (x *explained) hindrances() (list []string) {
	for _, h := range x.Hindrances {
		if !slices.ContainsFunc(x.markets, func(m market) bool { return strings.HasPrefix(h, "The market "+m.Market+" is ") }) {
			list = append(list, h)
		}
	}
	for _, c := range closures(x.markets) {
		text := fmt.Sprintf("%d of %s %s not open (%s)", len(c.markets), count(len(x.markets), "market"), isAre(int64(len(c.markets))), some(c.markets, 2))
		if c.reason != "" {
			text += ": " + c.reason
		}
		list = append(list, sentence(text))
	}
	return list
}

// printConfigs prints what workers are made from, where there is more to say
// than that it works.
func (x *explained) printConfigs(w io.Writer, head func(string)) error {
	if len(x.LaunchConfigs) < 2 && !slices.ContainsFunc(x.LaunchConfigs, func(c provisioner.ExplanationLaunchConfig) bool { return c.State != "proven" }) {
		return nil
	}
	head("What workers are made from")
	t := table{head: []string{"LAUNCH CONFIGURATION", "STATE", "EXISTING", "FAILURES", "NO START BEFORE"}}
	for _, c := range x.LaunchConfigs {
		before := "-"
		if c.StartAfter > x.At {
			before = when(c.StartAfter, x.At)
		}
		t.add(c.LaunchConfigID, c.State, number(c.Existing), number(c.Failures), before)
	}
	return t.print(w)
}

// printTerms prints what a decision was made from beside what was computed.
func printTerms(w io.Writer, d *provisioner.Decision) error {
	in := d.Inputs
	type row struct{ name, value string }
	seen := []row{
		{"tasks pending", number(in.Pending)}, {"tasks running", number(in.Claimed)}, {"tasks expected soon", number(in.Known)},
		{"working", number(in.Working)}, {"of it unused", number(in.Spare)}, {"idle", number(in.Idle)},
		{"booting", number(in.Booting)}, {"leaving", number(in.Stopping)}, {"at least", number(in.Min)}, {"at most", number(in.Max)},
	}
	if d.Policy == "forecast" {
		seen = append(seen, row{"wait price", amount(in.WaitPrice)})
	}
	if in.ScalingRatio != 1 {
		seen = append(seen, row{"scaling ratio", amount(in.ScalingRatio)})
	}
	if in.IdleTimeout > 0 {
		seen = append(seen, row{"idle timeout", amount(in.IdleTimeout) + "s"})
	}
	var computed []row
	for _, t := range d.Terms {
		r := row{spaced(t.Name), amount(t.Value)}
		if t.Value == 0 || r.name == "start" || slices.ContainsFunc(seen, func(s row) bool { return strings.TrimPrefix(s.name, "tasks ") == r.name && s.value == r.value }) {
			continue // says nothing, or is said elsewhere
		}
		computed = append(computed, r)
	}
	computed = append(computed, row{"start", number(d.Start)}, row{"asked for", number(d.Started)}, row{"idle workers to end", number(d.Drain)})
	if d.Excess > 0 {
		computed = append(computed, row{"too many", number(d.Excess)})
	}
	t := table{head: []string{"SEEN", "", "COMPUTED", ""}}
	for i := range max(len(seen), len(computed)) {
		var a, b row
		if i < len(seen) {
			a = seen[i]
		}
		if i < len(computed) {
			b = computed[i]
		}
		t.add(a.name, a.value, b.name, b.value)
	}
	return t.print(w)
}

// spaced is a name of several words with spaces between them.
func spaced(name string) string {
	var b strings.Builder
	for _, r := range name {
		if unicode.IsUpper(r) {
			b.WriteByte(' ')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// A due is something that happens at a time.
type due struct {
	at   timestamp.Time
	text string
}

// next is what happens by itself, in the order of time.
func (x *explained) next() (list []due) {
	add := func(at timestamp.Time, format string, args ...any) {
		if at > x.At {
			list = append(list, due{at, fmt.Sprintf(format, args...)})
		}
	}
	if len(x.Decisions) > 0 {
		add(x.Decisions[0].Wake, "It is decided anew even if nothing happens")
	}
	for _, c := range x.LaunchConfigs {
		add(c.StartAfter, "One worker of %s is tried", c.LaunchConfigID)
	}
	for _, i := range x.Intents {
		add(i.NextAttempt, "The request %s is repeated", i.IntentID)
	}
	closed, first := int64(0), timestamp.Time(0)
	for _, m := range x.markets {
		if m.Until > x.At {
			closed++
			if first.IsZero() || m.Until < first {
				first = m.Until
			}
		}
	}
	add(first, "The first of %s is probed", numbered(closed, "closed market", "closed markets"))
	slices.SortFunc(list, func(a, b due) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.text, b.text)) })
	return list
}

func printDecisions(w io.Writer, list []provisioner.Decision, now timestamp.Time) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "nothing was decided")
		return err
	}
	width := lineWidth(w)
	for _, d := range list {
		did := ""
		if d.Started > 0 || d.Start > 0 {
			did += fmt.Sprintf(", start %d", d.Start)
			if d.Started < d.Start {
				did += fmt.Sprintf(" (asked for %d)", d.Started)
			}
		}
		if d.Drain > 0 {
			did += fmt.Sprintf(", end %s", numbered(d.Drain, "worker", "workers"))
		}
		text := fmt.Sprintf("%s%s: %s", when(d.At, now), did, cmp.Or(d.Reason, d.Policy))
		if _, err := fmt.Fprint(w, bullet(text, width)); err != nil {
			return err
		}
	}
	return nil
}
