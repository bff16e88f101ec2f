package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/timestamp"
)

func newErrorsCommand() *cobra.Command {
	var asJSON, full bool
	var kind, id string
	var since moment
	cmd := &cobra.Command{
		Use: "errors [POOL...]", Short: "Show what went wrong, the latest first",
		Long: `Shows what went wrong in some pools, or in all, the latest first. Errors that are alike are shown once, with how often
they occurred and the latest description. --full shows each, with all that is known of it: the end of the worker's log
where the worker reported it. Errors are kept for a week.`,
		Example: `  taskfleet provisioner errors
  taskfleet provisioner errors aws/build --since 1h --full
  taskfleet provisioner errors aws/build --id fN1SbArXTPSVFNUvaOlinQ
  taskfleet provisioner errors --kind quota-exceeded --json`,
		ValidArgsFunction: completeAnyPools,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			ids, err := poolsOrAll(ctx, s, args)
			if err != nil {
				return err
			}
			list := []workermanager.WorkerPoolError{}
			for _, pool := range ids {
				found, err := poolErrors(ctx, s, pool, id, since.timestamp())
				if err != nil {
					return err
				}
				list = append(list, found...)
			}
			list = slices.DeleteFunc(list, func(e workermanager.WorkerPoolError) bool { return kind != "" && e.Kind != kind })
			slices.SortStableFunc(list, func(a, b workermanager.WorkerPoolError) int { return cmp.Compare(b.Reported, a.Reported) })
			out, now := cmd.OutOrStdout(), timestamp.Now()
			switch {
			case asJSON:
				return printJSON(out, list)
			case id != "" && len(list) == 0:
				return fmt.Errorf("there is no error %s; taskfleet provisioner errors shows those there are", id)
			case len(list) == 0 && len(args) > 0:
				return silentUnless(ctx, s, out, args, since.text)
			case len(list) == 0:
				_, err := fmt.Fprintf(out, "no errors since %s\n", clock(since.timestamp(), now))
				return err
			case full || id != "":
				return printErrors(out, list, now)
			}
			return printAlike(out, list, now)
		}),
	}
	f := cmd.Flags()
	f.BoolVar(&full, "full", false, "show each error, with all that is known of it")
	f.StringVar(&kind, "kind", "", "only those of this kind, such as capacity-exhausted")
	f.StringVar(&id, "id", "", "only the error with this id")
	sinceFlag(cmd, &since, "1d", "only those after that")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// silentUnless says that pools have no errors, or that one is not there.
func silentUnless(ctx context.Context, s *session, w io.Writer, ids []string, since string) error {
	for _, id := range ids {
		if _, err := workermanager.New(s.core).WorkerPool(ctx, id); err != nil {
			return aboutPool(err, id)
		}
	}
	_, err := fmt.Fprintf(w, "no errors of %s (--since %s)\n", strings.Join(ids, ", "), since)
	return err
}

// poolErrors are a pool's errors since a time, the latest first; with an id
// that one.
func poolErrors(ctx context.Context, s *session, pool, id string, since timestamp.Time) (list []workermanager.WorkerPoolError, err error) {
	o := workermanager.ListWorkerPoolErrorsOptions{Limit: most, ErrorID: id}
	for e, err := range workermanager.New(s.core).ListWorkerPoolErrorsAll(ctx, pool, o) {
		if err != nil {
			return nil, err
		}
		if e.Reported < since && id == "" {
			break
		}
		e.WorkerPoolID = pool
		list = append(list, e)
	}
	return list, nil
}

// printAlike prints errors that are alike once.
func printAlike(w io.Writer, list []workermanager.WorkerPoolError, now timestamp.Time) error {
	type key struct{ pool, kind, title, config string }
	alike := map[key][]workermanager.WorkerPoolError{}
	var order []key
	for _, e := range list {
		k := key{e.WorkerPoolID, e.Kind, e.Title, e.LaunchConfigID}
		if alike[k] == nil {
			order = append(order, k)
		}
		alike[k] = append(alike[k], e)
	}
	b, width := brushFor(w), lineWidth(w)
	for _, k := range order {
		same := alike[k]
		e, times := same[0], ""
		if n := len(same); n > 1 {
			times = fmt.Sprintf(" (%d times since %s)", n, clock(same[n-1].Reported, now))
		}
		fmt.Fprintf(w, "%s\n  %s: %s%s\n%s", b.paint(bold, fmt.Sprintf("%s  %s", when(e.Reported, now), k.pool)), b.paint(red, k.kind), k.title, times,
			wrap(e.Description, width, "    "))
		about := "id " + e.ErrorID
		if k.config != "" {
			about += ", launch configuration " + k.config
		}
		if worker := aboutWhom(e.Extra); worker != "" {
			about += ", worker " + worker
		}
		fmt.Fprint(w, b.paint(dim, strings.TrimRight(wrap(about, width, "    "), "\n"))+"\n")
	}
	return nil
}

// aboutWhom is the worker that an error is about, if it is about one.
func aboutWhom(extra json.RawMessage) string {
	var x struct{ WorkerID string }
	if err := json.Unmarshal(extra, &x); err != nil {
		return ""
	}
	return x.WorkerID
}

// printErrors prints errors with all that is known of them.
func printErrors(w io.Writer, list []workermanager.WorkerPoolError, now timestamp.Time) error {
	b := brushFor(w)
	for i, e := range list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s\n  %s: %s\n%s", b.paint(bold, fmt.Sprintf("%s  %s", when(e.Reported, now), e.WorkerPoolID)), b.paint(red, e.Kind), e.Title,
			wrap(e.Description, lineWidth(w), "    "))
		fmt.Fprintf(w, "  id %s\n", e.ErrorID)
		if e.LaunchConfigID != "" {
			fmt.Fprintf(w, "  launch configuration %s\n", e.LaunchConfigID)
		}
		if err := printExtra(w, e.Extra); err != nil {
			return err
		}
	}
	return nil
}

// printExtra prints what else is known of an error: texts as they are, the rest
// as JSON.
func printExtra(w io.Writer, extra json.RawMessage) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(extra, &fields); err != nil {
		_, err := fmt.Fprintf(w, "  %s\n", extra)
		return err
	}
	for _, name := range sortedNames(fields) {
		var text string
		if json.Unmarshal(fields[name], &text) == nil {
			if strings.Contains(text, "\n") {
				fmt.Fprintf(w, "  %s\n%s\n", name, indent(strings.TrimRight(text, "\n"), "    | "))
			} else {
				fmt.Fprintf(w, "  %s %s\n", name, text)
			}
			continue
		}
		var value bytes.Buffer
		if err := json.Indent(&value, fields[name], "  ", "  "); err != nil {
			return err
		}
		fmt.Fprintf(w, "  %s %s\n", name, value.String())
	}
	return nil
}
