package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/taskfleet/taskfleet/client/loops"
	"github.com/taskfleet/taskfleet/client/mirror"
)

// When something is wrong.
const (
	stuckAfter = time.Minute      // while copies wait, fail and none is made
	slowAfter  = 10 * time.Minute // that the oldest has been waiting for
	nearlyFull = 0.95             // of a budget
)

const watchInterval = 2 * time.Second

func newMirrorStatusCommand() *cobra.Command {
	var asJSON, watch bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show what is wrong with the mirror, and how it is",
		Long: fmt.Sprintf(`Shows what is wrong, with what to do about it, then what is worth knowing, and then for each region what is still to be
copied and what there is. RATE is that of the last minutes; OLDEST is for how long the copy has waited that waits longest.
It is wrong if copies wait and all that is tried fails, if one has waited for more than %[1]s, if one cannot be deleted or
has been leaving for more than %[1]s, if a bucket does not answer or is another than before, or if the background work of
the mirror fails. The exit code is 1 if anything is wrong. --watch goes on until it is interrupted.`, took(slowAfter)),
		Example: "  taskfleet mirror status\n  taskfleet mirror status --watch\n  taskfleet mirror status --json | jq '.regions[] | {region, backlog}'",
		Args:    cobra.NoArgs,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			if watch {
				return watchMirror(ctx, s, out, asJSON)
			}
			m, err := examineMirror(ctx, s)
			switch {
			case err != nil:
				return err
			case asJSON:
				err = printJSON(out, m)
			default:
				err = m.print(out, brushFor(out), lineWidth(out))
			}
			if err == nil && len(m.Wrong) > 0 {
				err = silentError{errors.New("something is wrong")}
			}
			return err
		}),
	}
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "show it again and again, until it is interrupted; with --json one line each time")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// watchMirror shows the state again and again. A call that fails meanwhile is
// shown, too, as what is watched may be a server that has trouble.
func watchMirror(ctx context.Context, s *session, out io.Writer, asJSON bool) error {
	file, live := terminal(out)
	for first := true; ; first = false {
		m, err := examineMirror(ctx, s)
		if ctx.Err() != nil {
			return nil
		} else if err != nil && first {
			return err
		}
		var b strings.Builder
		switch {
		case err != nil && !asJSON:
			fmt.Fprintf(&b, "%s  %s\n", time.Now().Format(time.TimeOnly), explain(err))
		case err == nil && asJSON:
			err = printLine(&b, m)
		case err == nil:
			fmt.Fprintf(&b, "%s\n", time.Now().Format(time.TimeOnly))
			if err = m.print(&b, brushFor(out), lineWidth(out)); !live {
				b.WriteByte('\n')
			}
		}
		text := b.String()
		if live && !asJSON {
			text = redrawn(text, file, first)
		}
		if _, err := io.WriteString(out, text); err != nil {
			return err
		}
		select {
		case <-time.After(watchInterval):
		case <-ctx.Done():
			return nil
		}
	}
}

// redrawn is text as it is written over what a terminal shows, as much of it as
// there is room for.
func redrawn(text string, file *os.File, first bool) string {
	lines := strings.SplitAfter(text, "\n")
	if _, height, err := term.GetSize(int(file.Fd())); err == nil && height > 1 && len(lines) > height {
		lines = lines[:height-1]
	}
	text = "\x1b[H" + strings.ReplaceAll(strings.Join(lines, ""), "\n", "\x1b[K\n") + "\x1b[J"
	if first {
		text = "\x1b[2J" + text
	}
	return text
}

// A mirrorState is a mirror and what there is to say about it.
type mirrorState struct {
	Wrong []mirrorFinding `json:"wrong"`
	Notes []mirrorFinding `json:"notes"`
	*mirror.StatusResponse
}

// A mirrorFinding is something to be said, and what to do about it.
type mirrorFinding struct {
	Region string `json:"region,omitempty"`
	Text   string `json:"text"`
	Next   string `json:"next"` // a command line, or what else to do
}

func examineMirror(ctx context.Context, s *session) (*mirrorState, error) {
	status, err := mirror.New(s.core).Status(ctx)
	if err != nil {
		return nil, aboutMirror(err)
	}
	m := &mirrorState{Wrong: []mirrorFinding{}, Notes: []mirrorFinding{}, StatusResponse: status}
	for i := range m.Regions {
		m.judge(&m.Regions[i])
	}
	// Without the scope to see loops the rest is worth showing.
	list, err := loops.New(s.core).ListLoops(ctx)
	if err == nil {
		for _, l := range list.Loops {
			m.judgeLoop(&l)
		}
	} else if !forbidden(err) {
		return nil, err
	}
	return m, nil
}

func (m *mirrorState) judgeLoop(l *loops.ListLoopsResponseLoop) {
	if strings.HasPrefix(l.Name, "mirror.") && l.LastError != "" {
		m.Wrong = append(m.Wrong, mirrorFinding{Text: fmt.Sprintf("The loop %s fails: %s", l.Name, sentence(reason(l.LastError))), Next: "taskfleet loops"})
	}
}

// judge says what is wrong with a region.
func (m *mirrorState) judge(r *mirror.StatusResponseRegion) {
	say := func(to *[]mirrorFinding, next, format string, args ...any) {
		*to = append(*to, mirrorFinding{Region: r.Region, Text: r.Region + ": " + fmt.Sprintf(format, args...), Next: next})
	}
	list := "taskfleet mirror copies --region " + r.Region
	waited := time.Duration(r.WaitingFor * float64(time.Second))
	waiting := r.States.Waiting
	backlog := fmt.Sprintf("%s (%s), the oldest for %s", numbered(waiting.Objects, "copy waits", "copies wait"), volume(waiting.Bytes), took(waited))
	copying, deleting := m.failures(r)
	trouble, latest := commonest(copying)
	switch {
	case r.Away:
		say(&m.Wrong, "see whether S3 and the credentials for it are well; it is tried again by itself",
			"readers get the artifacts themselves, as %s", sentence(reason(cmp.Or(r.Reason, "the bucket "+r.Bucket+" does not answer"))))
		trouble = ""
	case r.Reason != "" && !r.Unsure:
		say(&m.Wrong, "let the server write to the bucket "+r.Bucket+" (s3:PutObject); it is tried again by itself",
			"nobody waits for copies that are not there yet, as %s", sentence(strings.TrimSuffix(reason(r.Reason)+": "+reason(trouble), ": ")))
		trouble = ""
	case waiting.Objects > 0 && waited > stuckAfter && r.Rate.Objects == 0 && latest != nil:
		say(&m.Wrong, "taskfleet mirror explain "+shownOrigin(latest.Origin)+" --region "+r.Region,
			"%s, and none was made in the last %s. What is tried fails: %s", backlog, took(seconds(r.Rate.Seconds)), sentence(trouble))
		trouble = ""
	case waiting.Objects > 0 && waited > slowAfter && r.Rate.Objects == 0:
		say(&m.Wrong, "taskfleet loops", "%s, and none was made in the last %s: nobody copies.", backlog, took(seconds(r.Rate.Seconds)))
	case waiting.Objects > 0 && waited > slowAfter:
		say(&m.Wrong, list+" --state waiting", "%s: more comes than is copied. More transfers, or routes that copy less, would help.", backlog)
	}
	if r.Unsure && !r.Away {
		say(&m.Wrong, "taskfleet loops, for whether mirror.sweep gets on, which compares it",
			"readers get the artifacts themselves, as %s", sentence(cmp.Or(r.Reason, "the bucket "+r.Bucket+" is another than before")))
	}
	if n, age := r.States.Leaving.Objects, seconds(r.LeavingFor); n > 0 && !r.Away && (len(deleting) > 0 || age > slowAfter) {
		text := numbered(n, "copy is", "copies are") + " being deleted, the oldest for " + took(age)
		if why, _ := commonest(deleting); why != "" {
			say(&m.Wrong, "let the server list and delete what is in the bucket "+r.Bucket+" (s3:ListBucket, s3:DeleteObject); it is tried again by itself",
				"%s. What is tried fails: %s", text, sentence(why))
		} else {
			say(&m.Wrong, "taskfleet loops, for whether mirror.leaving gets on, which deletes them", "%s.", text)
		}
	}
	if n := r.States.Failed.Objects; n > 0 {
		text := ""
		if trouble != "" {
			text = ", most for this: " + sentence(trouble)
		}
		say(&m.Notes, list+" --state failed", "%s given up%s", numbered(n, "copy was", "copies were"), cmp.Or(text, "."))
	} else if trouble != "" {
		say(&m.Notes, list+" --state waiting", "%s tried again: %s", numbered(int64(len(copying)), "copy is", "copies or more are"), sentence(trouble))
	}
	if held := r.States.Present.Bytes; r.Limit != nil && float64(held) > nearlyFull*float64(*r.Limit) {
		say(&m.Notes, "raise maxBytes of the region, or copy less by the routes",
			"it holds %s of %s; what was not read for longest goes.", volume(held), volume(*r.Limit))
	}
}

// failures are the copies that fail to be made, and those that fail to be deleted.
func (m *mirrorState) failures(r *mirror.StatusResponseRegion) (copying, deleting []mirror.StatusResponseRegionError) {
	for _, e := range r.Errors {
		if e.State == "leaving" {
			deleting = append(deleting, e)
		} else {
			copying = append(copying, e)
		}
	}
	return copying, deleting
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// commonest is the reason that most of those have that fail, and one of them.
func commonest(list []mirror.StatusResponseRegionError) (text string, one *mirror.StatusResponseRegionError) {
	times := map[string]int{}
	for i := range list {
		times[reason(list[i].Error)]++
	}
	for i := range list {
		if r := reason(list[i].Error); one == nil || times[r] > times[text] {
			text, one = r, &list[i]
		}
	}
	return text, one
}

func (m *mirrorState) print(w io.Writer, b brush, width int) error {
	list := func(c color, head string, findings []mirrorFinding) {
		if len(findings) == 0 {
			return
		}
		fmt.Fprintln(w, b.paint(c, head))
		for _, x := range findings {
			fmt.Fprintf(w, "%s    %s\n", bullet(x.Text, width), b.paint(dim, "→ "+x.Next))
		}
		fmt.Fprintln(w)
	}
	if len(m.Wrong) == 0 {
		fmt.Fprintf(w, "%s\n\n", b.paint(green, "Nothing is wrong."))
	}
	list(red, "WRONG", m.Wrong)
	list(yellow, "WORTH KNOWING", m.Notes)
	if len(m.Regions) == 0 {
		_, err := fmt.Fprintln(w, "There are no regions with copies.")
		return err
	}
	backlog := table{head: []string{"REGION", "TO COPY", "BYTES", "OLDEST", "COPYING", "RATE", "COPIES/S"}}
	there := table{head: []string{"REGION", "PRESENT", "BYTES", "BUDGET", "USED", "LEAVING", "FAILED"}}
	for _, r := range m.Regions {
		used := "-"
		if r.Limit != nil {
			used = fmt.Sprintf("%.0f%%", 100*float64(r.States.Present.Bytes)/float64(*r.Limit))
		}
		oldest := "-"
		if !r.OldestWaiting.IsZero() {
			oldest = took(seconds(r.WaitingFor))
		}
		backlog.add(r.Region, number(r.Backlog.Objects), volume(r.Backlog.Bytes), oldest, number(r.States.Copying.Objects),
			volume(int64(r.Rate.BytesPerSecond))+"/s", amount(r.Rate.ObjectsPerSecond))
		there.add(r.Region, number(r.States.Present.Objects), volume(r.States.Present.Bytes), budget(r.Limit), used, number(r.States.Leaving.Objects), number(r.States.Failed.Objects))
	}
	if err := backlog.print(w); err != nil {
		return err
	}
	fmt.Fprintln(w)
	if err := there.print(w); err != nil {
		return err
	}
	return m.printErrors(w, b, width)
}

// A failing is what failed lately in a region for one reason.
type failing struct {
	region, reason string
	copies         []mirror.StatusResponseRegionError
}

// failings are those that failed lately, that first which is tried last.
func (m *mirrorState) failings() (list []*failing) {
	for _, r := range m.Regions {
		for _, e := range r.Errors {
			why := reason(e.Error)
			i := slices.IndexFunc(list, func(f *failing) bool {
				return f.region == r.Region && f.reason == why && (f.copies[0].State == "leaving") == (e.State == "leaving")
			})
			if i < 0 {
				i, list = len(list), append(list, &failing{region: r.Region, reason: why})
			}
			list[i].copies = append(list[i].copies, e)
		}
	}
	slices.SortStableFunc(list, func(a, b *failing) int { return cmp.Compare(b.copies[0].Due, a.copies[0].Due) })
	return list
}

func (m *mirrorState) printErrors(w io.Writer, b brush, width int) error {
	for i, f := range m.failings() {
		switch i {
		case 0:
			fmt.Fprintf(w, "\n%s\n", b.paint(bold, "What failed lately"))
		case shownErrors:
			return nil
		}
		e := f.copies[0]
		next := fmt.Sprintf("It failed %s, and is tried again at %s.", numbered(e.Attempts, "time", "times"), when(e.Due, m.At))
		switch e.State {
		case "leaving":
			next = fmt.Sprintf("It could not be deleted %s, and is tried again by itself.", numbered(e.Attempts, "time", "times"))
		case "failed":
			next = fmt.Sprintf("It was given up after %s; who asks has it tried again from %s.", numbered(e.Attempts, "attempt", "attempts"), when(e.Due, m.At))
		}
		what := shownOrigin(e.Origin)
		if n := len(f.copies); n > 1 {
			what = fmt.Sprintf("%d copies or more, among them %s", n, what)
		}
		if _, err := fmt.Fprint(w, bullet(fmt.Sprintf("%s, %s: %s %s", f.region, what, sentence(f.reason), next), width)); err != nil {
			return err
		}
	}
	return nil
}

// shownErrors is how many of those that fail are shown.
const shownErrors = 5
