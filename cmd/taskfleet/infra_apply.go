//go:build !agent

package main

import (
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/infra"
	"github.com/taskfleet/taskfleet/plain"
)

func newInfraApplyCommand() *cobra.Command {
	var flags infraFlags
	var o infra.ApplyOptions
	var yes bool
	cmd := &cobra.Command{
		Use: "apply NAME --digest DIGEST", Short: "Do what a saved plan says",
		Long: `Does what a saved plan says. The digest is that of the plan that was looked at. It is refused if its files were altered,
if the configuration or the state has changed since, or if policy forbids it.

Before anything is destroyed it asks, or wants --yes. Databases, buckets and keys are destroyed only if the deployment's
name is given as well, with --destroy-protected.

Each step is written down before it is shown. Ctrl-C ends in good order: what is under way is waited for. Whatever ends
it, this and taskfleet infra show tell what was done, what was not, and how to go on.`,
		Example: `  taskfleet infra apply --dir prod 20270131-101500 --digest sha256:…
  taskfleet infra apply --dir prod smaller --digest sha256:… --yes --destroy-protected taskfleet-prod`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Digest == "" {
				return usagef("--digest is missing: it says which plan was looked at, and taskfleet infra show %s tells it", args[0])
			}
			d, err := flags.open(cmd)
			if err != nil {
				return err
			}
			o.Confirm = func(s *infra.Saved) error {
				if yes {
					return nil
				}
				errOut := cmd.ErrOrStderr()
				fmt.Fprintln(errOut, s.Plan.DestroyedText(widthOf(errOut), colourful(errOut)))
				return sure(cmd, fmt.Sprintf("Destroy %s?", plural(len(s.Plan.Destroys(false)), "resource")), "yes", "--yes")
			}
			return flags.apply(cmd, d, args[0], o)
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&o.Digest, "digest", "", "`digest` of the plan that was looked at")
	cmd.Flags().StringVar(&o.Word, "destroy-protected", "", "`name` of the deployment, to destroy databases, buckets and keys too")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask before destroying")
	return cmd
}

// apply applies a saved plan and tells how that goes.
func (f *infraFlags) apply(cmd *cobra.Command, d *infra.Deployment, name string, o infra.ApplyOptions) error {
	out := cmd.OutOrStdout()
	progress := out
	if f.json {
		progress = cmd.ErrOrStderr()
	}
	o.Progress = progressTo(progress)
	// A terminal that goes away is an interrupt: without that it would kill, and leave what is under way unknown.
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP)
	defer stop()
	r, err := d.Apply(ctx, name, o)
	if f.json && r != nil {
		if printErr := printJSON(out, r); printErr != nil {
			err = errors.Join(err, printErr)
		}
	}
	var failed *infra.ApplyError
	var violated *infra.ViolatedError
	switch {
	case errors.As(err, &violated):
		return &codedError{err, exitViolated}
	case errors.As(err, &failed) && r != nil:
		if !f.json {
			fmt.Fprintln(out)
			if err := printReport(out, r); err != nil {
				return err
			}
			fmt.Fprintln(out)
		}
		return fmt.Errorf("%s; plan %s is not applied to its end", headline(err.Error()), name)
	case err != nil || f.json:
		return err
	}
	_, err = fmt.Fprintf(out, "applied plan %s: %s in %s\n", name, plural(r.Total, "step"), took(r.Last.Sub(r.Began)))
	return err
}

func headline(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return strings.TrimSuffix(line, ":")
}

// indented is a text of several lines whose later ones go further in.
func indented(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = plain.Line(lines[i])
	}
	return strings.Join(lines, "\n  ")
}

// progressTo prints what happens to resources, and once a minute what takes its time.
func progressTo(w io.Writer) func(infra.Progress) {
	words := map[string]string{"create": "creating", "update": "changing", "delete": "destroying", "read": "reading"}
	done := map[string]string{"create": "created", "update": "changed", "delete": "destroyed", "read": "read"}
	told := map[string]time.Duration{}
	return func(p infra.Progress) {
		word, more := words[p.Action], ""
		switch p.What {
		case "still":
			if p.Took-told[p.Address] < time.Minute {
				return
			}
			told[p.Address] = p.Took
			word, more = "still "+word, "  "+took(p.Took)
		case "done":
			word, more = done[p.Action], "  "+took(p.Took)
			if p.ID != "" {
				more = "  " + p.ID + more
			}
		case "failed":
			word, more = "FAILED", "  "+took(p.Took)
		}
		fmt.Fprintf(w, "%s  %*d/%d  %-11s %s%s\n", p.Time.UTC().Format(time.TimeOnly), len(fmt.Sprint(p.Total)), p.Done, p.Total, word, plain.Line(p.Address), plain.Line(more))
	}
}
