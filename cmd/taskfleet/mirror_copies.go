package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client/mirror"
	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/timestamp"
)

func newMirrorCopiesCommand() *cobra.Command {
	var asJSON, ids bool
	var region, state, prefix string
	var limit int
	cmd := &cobra.Command{
		Use: "copies", Short: "List copies",
		Long: `Lists copies, of one region or all, of one state or all, and only those of what begins like --prefix. SINCE is for how
long one has been there or, if it is not, has been wanted; READ is when somebody was last sent to it. P is for pinned.
--ids shows by what id purge, pin, unpin and verify know each: a URL's query is not shown, as a signature may be in it.
--json prints one copy per line, all of them unless there is a --limit.

` + originDoc,
		Example: `  taskfleet mirror copies --region eu-central-1 --state failed
  taskfleet mirror copies --prefix https://archive.example.com/pub/
  taskfleet mirror copies find fN1SbArXTPSVFNUvaOlinQ/0/public/build/target.tar.gz`,
		Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			switch {
			case state != "" && !slices.Contains(copyStates, state):
				return usagef("--state is %q; it must be one of %s", state, strings.Join(copyStates, ", "))
			case limit < 0:
				return usagef("--limit is %d; it must be a number of copies", limit)
			}
			return nil
		},
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			o := mirror.ListCopiesOptions{Region: region, State: state, Prefix: prefix, Limit: most}
			if limit == 0 && !asJSON {
				limit = shownCopies
			}
			l := copyLister{out: cmd.OutOrStdout(), now: timestamp.Now(), regions: region == "", states: state == "", ids: ids}
			for c, err := range mirror.New(s.core).ListCopiesAll(ctx, o) {
				switch {
				case err != nil:
					return aboutMirror(err)
				case limit > 0 && l.n == limit:
					if asJSON {
						return nil
					}
					if err := l.flush(); err != nil {
						return err
					}
					_, err := fmt.Fprintf(cmd.OutOrStdout(), "There are more than these %d; --limit shows more, --region, --state and --prefix choose.\n", limit)
					return err
				}
				if l.n++; asJSON {
					err = printLine(l.out, c)
				} else {
					err = l.add(&c)
				}
				if err != nil {
					return err
				}
			}
			if l.n == 0 && !asJSON {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "no copies")
				return err
			}
			return l.flush()
		}),
	}
	regionFlag(cmd, &region, "only those in this region")
	f := cmd.Flags()
	f.StringVar(&state, "state", "", "only those that are "+strings.Join(copyStates, ", "))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(copyStates, cobra.ShellCompDirectiveNoFileComp)))
	f.StringVar(&prefix, "prefix", "", "only those of what begins like this: a URL, or s3://BUCKET/TASK for artifacts")
	f.BoolVar(&ids, "ids", false, "show the ids of copies, too")
	f.IntVar(&limit, "limit", 0, fmt.Sprintf("how many to list (default: %d, with --json all)", shownCopies))
	jsonFlag(cmd, &asJSON)
	cmd.AddCommand(newMirrorFindCommand())
	return cmd
}

// shownCopies is how many are shown to people.
const shownCopies = 200

// A copyLister prints copies as a table.
type copyLister struct {
	out                  io.Writer
	now                  timestamp.Time
	n                    int
	regions, states, ids bool // are columns
	table                table
}

func (l *copyLister) add(c *mirror.Copy) error {
	if l.table.head == nil {
		l.table.head = []string{"SIZE", "SINCE", "READ", "P", "COPY OF"}
		if l.states {
			l.table.head = slices.Insert(l.table.head, 0, "STATE")
		}
		if l.regions {
			l.table.head = slices.Insert(l.table.head, 0, "REGION")
		}
		if l.ids {
			l.table.head = slices.Insert(l.table.head, len(l.table.head)-1, "ID")
		}
	}
	pinned := ""
	if c.Pinned {
		pinned = "P"
	}
	row := []string{sizeOr(c.Size), age(c.Requested, l.now), age(lastRead(c), l.now), pinned, shownOrigin(c.Origin)}
	if l.states {
		row = slices.Insert(row, 0, c.State)
	}
	if l.regions {
		row = slices.Insert(row, 0, c.Region)
	}
	if l.ids {
		row = slices.Insert(row, len(row)-1, c.ID)
	}
	l.table.add(row...)
	if len(l.table.rows) < most {
		return nil
	}
	err := l.flush()
	l.table.head = nil
	return err
}

// flush prints what has been added. What is too wide for a terminal loses the
// middle of what it is a copy of.
func (l *copyLister) flush() error {
	if len(l.table.rows) == 0 {
		return nil
	}
	if width := widthOf(l.out); width > 0 {
		narrowLast(&l.table, width)
	}
	err := l.table.print(l.out)
	l.table.rows = nil
	return err
}

// narrowLast shortens the last column so that the table is as wide as there is
// room.
func narrowLast(t *table, width int) {
	const gap, least = 2, 20
	last := len(t.head) - 1
	for i := range last {
		column := 0
		for _, row := range append(t.rows, t.head) {
			column = max(column, len([]rune(row[i])))
		}
		width -= column + gap
	}
	for _, row := range t.rows {
		row[last] = clipMiddle(plain.Line(row[last]), max(width, least))
	}
}

func newMirrorFindCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "find URL|ID", Short: "Show where there are copies of something",
		Long: `Shows in which regions there is a copy of something, and how it is. The exit code is 1 if it is in none.

` + copyDoc,
		Example: "  taskfleet mirror copies find fN1SbArXTPSVFNUvaOlinQ/0/public/build/target.tar.gz",
		Args:    cobra.ExactArgs(1),
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			found, err := findCopies(ctx, s, args, "")
			if err != nil {
				return err
			}
			copies := []mirror.Copy{}
			for _, f := range found {
				if f.copy != nil {
					copies = append(copies, *f.copy)
				}
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), copies)
			} else {
				err = printFound(cmd.OutOrStdout(), found, timestamp.Now())
			}
			if err != nil || len(copies) > 0 {
				return err
			}
			if others := sameButQuery(ctx, s, found[0].origin, found[0].id, ""); len(others) > 0 {
				return fmt.Errorf("there is no copy of it, but of it with another query, which is not shown:\n%s", strings.Join(idsOf(others), "\n"))
			}
			if copyID.MatchString(args[0]) {
				return fmt.Errorf("there is no copy %s", args[0])
			}
			return fmt.Errorf("there is no copy of it; taskfleet mirror explain %s --region REGION says what who asks for it gets", found[0].argument)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printFound(w io.Writer, found []namedCopy, now timestamp.Time) error {
	if origin := found[0].origin; origin != "" {
		fmt.Fprintln(w, shownOrigin(origin))
	}
	fmt.Fprintf(w, "id %s\n\n", found[0].id)
	t := table{head: []string{"REGION", "STATE", "SIZE", "SINCE", "READ", "VERIFIED", "EXPIRES", "P"}}
	var failing []string
	for _, f := range found {
		c := f.copy
		if c == nil {
			t.add(f.region, "-")
			continue
		}
		pinned := ""
		if c.Pinned {
			pinned = "P"
		}
		t.add(f.region, c.State, sizeOr(c.Size), age(c.Requested, now), age(lastRead(c), now), age(c.Verified, now), distance(c.Expires), pinned)
		if c.Error != "" && c.Attempts > 0 {
			failed := "it failed"
			if c.State == "leaving" {
				failed = "it could not be deleted"
			}
			failing = append(failing, fmt.Sprintf("%s: %s %s: %s", f.region, failed, numbered(c.Attempts, "time", "times"), reason(c.Error)))
		}
	}
	if err := t.print(w); err != nil {
		return err
	}
	for i, text := range failing {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprint(w, bullet(text, lineWidth(w)))
	}
	return nil
}

func newMirrorExplainCommand() *cobra.Command {
	var asJSON bool
	var region string
	cmd := &cobra.Command{
		Use: "explain URL [--region REGION]", Short: "Say what a download is answered with, and why",
		Long: `Says what who asks for a URL in a region is answered with, and why: what the URL means and whether it may be copied, on
which route it is and why not on others, how the copy is, what went wrong, and what comes next. Without --region it is
the region that the server takes this machine to be in. Nothing is copied for it. The exit code is 1 if the URL is
refused.

` + originDoc,
		Example: `  taskfleet mirror explain fN1SbArXTPSVFNUvaOlinQ/0/public/build/target.tar.gz --region eu-central-1
  taskfleet mirror explain https://archive.example.com/pub/toolchain.tar.xz`,
		Args: cobra.ExactArgs(1),
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			u, err := originURL(ctx, s, args[0])
			if err != nil {
				return err
			}
			m := mirror.New(s.core)
			where := region
			if where == "" {
				where = "caller"
			}
			x, err := m.Explain(ctx, where, u)
			if err != nil {
				return aboutMirror(err)
			}
			if x.Copy == nil && x.ID != "" && region != "" {
				// One that no route leads to. In home there is none, and without the scope
				// to look the rest is worth showing.
				x.Copy, _ = findCopy(ctx, s, region, x.ID)
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), x)
			} else {
				routes, e := m.Routes(ctx)
				if e != nil { // the rest is worth showing without
					routes = &mirror.RouteList{}
				}
				err = printExplanation(cmd.OutOrStdout(), x, routes, timestamp.Now())
			}
			if err == nil && x.Answer == "refused" {
				err = silentError{fmt.Errorf("the URL is refused")}
			}
			return err
		}),
	}
	regionFlag(cmd, &region, "the region of who asks (default: that of this machine)")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printExplanation(w io.Writer, x *mirror.Explanation, routes *mirror.RouteList, now timestamp.Time) error {
	b, width := brushFor(w), lineWidth(w)
	// The last sentence is the answer, and the others are why.
	why := slices.Clone(x.Summary)
	if n := len(why); n > 0 {
		fmt.Fprint(w, b.paint(bold, strings.TrimRight(wrap(why[n-1], width, ""), "\n"))+"\n")
		why = why[:n-1]
	}
	for _, text := range why {
		fmt.Fprint(w, bullet(text, width))
	}
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-10s %s", name, strings.TrimLeft(wrap(fmt.Sprintf(format, args...), width, strings.Repeat(" ", 11)), " "))
	}
	at := func(name string, t timestamp.Time) {
		if !t.IsZero() {
			line(name, "%s", when(t, now))
		}
	}
	if x.Origin != "" {
		fmt.Fprintln(w)
		line("origin", "%s", x.Origin)
		line("id", "%s", x.ID)
	}
	if a := x.Artifact; a != nil {
		line("artifact", "%s of run %d of %s, %s, made in %s", a.Name, a.RunID, a.TaskID, sizeInWords(a.Size), a.TaskQueueID)
		at("expires", a.Expires)
	}
	if c := x.Copy; c != nil {
		fmt.Fprintf(w, "\n%s\n", b.paint(bold, "The copy in "+c.Region))
		state := c.State
		if c.State == "copying" && c.Size != nil && *c.Size > 0 {
			state += fmt.Sprintf(", %s of %s", volume(c.Done), volume(*c.Size))
		}
		if c.Pinned {
			state += ", pinned"
		}
		line("state", "%s", state)
		line("size", "%s", sizeInWords(c.Size))
		if c.State == "present" {
			at("there", c.Requested)
		} else {
			at("wanted", c.Requested)
		}
		if c.Attempts > 0 {
			line("failed", "%s in a row: %s", numbered(c.Attempts, "time", "times"), reason(c.Error))
			at("next", c.Due)
		}
		at("read", lastRead(c))
		at("verified", c.Verified)
		at("expires", c.Expires)
	}
	if x.Route == nil || len(routes.Routes) == 0 {
		return nil
	}
	fmt.Fprintf(w, "\n%s\n", b.paint(bold, "Routes, the first that fits counts"))
	for _, r := range routes.Routes {
		if r.Name == x.Route.Name {
			fits := "it fits"
			if (r.MinSize != nil || r.MaxSize != nil) && (x.Artifact == nil || x.Artifact.Size == nil) {
				fits += ", as the size is not known"
			}
			if x.Region != "" && x.Region != routes.Home && !within(&r, x.Region) {
				fits += ", and makes no copies in " + x.Region
			}
			fmt.Fprint(w, bullet(b.paint(green, r.Name)+": "+fits, width))
			break
		}
		if text := whyNot(&r, x); text != "" {
			fmt.Fprint(w, bullet(r.Name+": no, "+text, width))
		}
	}
	return nil
}

func sizeInWords(n *int64) string {
	if n == nil {
		return "of unknown size"
	}
	return volume(*n)
}

// printRoutes shows routes, regions and what is allowed.
func printRoutes(w io.Writer, list *mirror.RouteList, status *mirror.StatusResponse) error {
	b := brushFor(w)
	t := table{head: []string{"ROUTE", "POLICY", "AHEAD", "REGIONS", "FOR"}}
	for _, r := range list.Routes {
		policy := r.Policy
		if r.MaxWait != nil {
			policy += fmt.Sprintf(" %gs", *r.MaxWait)
		}
		var ahead []string
		if r.Ahead {
			ahead = append(ahead, "made")
		}
		if r.Prefetch {
			ahead = append(ahead, "needed")
		}
		regions := strings.Join(r.Regions, ", ")
		switch {
		case r.Policy == "off":
			regions = "-"
		case len(r.Regions) == len(list.Regions) && len(r.Regions) != 1:
			regions = "all"
		}
		t.add(r.Name, policy, orDash(strings.Join(ahead, ", ")), regions, routeFor(&r))
	}
	if err := t.print(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	t = table{head: []string{"REGION", "BUCKET", "BUDGET", "TRANSFERS"}}
	t.add(list.Home, "of artifacts", "-", "-")
	for _, name := range list.Regions {
		row := []string{name, "-", "-", "-"}
		if status != nil {
			if i := slices.IndexFunc(status.Regions, func(x mirror.StatusResponseRegion) bool { return x.Region == name }); i >= 0 {
				x := &status.Regions[i]
				row = []string{name, x.Bucket, budget(x.Limit), number(x.Transfers)}
			}
		}
		t.add(row...)
	}
	if err := t.print(w); err != nil {
		return err
	}
	for i, rule := range list.Allowed {
		if i == 0 {
			fmt.Fprintf(w, "\n%s\n", b.paint(bold, "URLs that may be copied"))
		}
		fmt.Fprintf(w, "  %s\n", rule)
	}
	return nil
}

func budget(n *int64) string {
	if n == nil {
		return "none"
	}
	return volume(*n)
}
