//go:build !agent && !server

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/stacks"
)

func newStacksPreviewCommand() *cobra.Command {
	var flags stacksFlags
	var o stacks.PreviewOptions
	cmd := &cobra.Command{
		Use: "preview", Short: "Show what would change, and save it",
		Long: `Works out what would have to be done so that everything is as the environment says, and shows it: what would be deleted
first, then all changes by stack; secrets are hidden. It looks at the things themselves, so what others have changed is put
back, too. The preview is saved in .stacks/previews/NAME of the environment, readable by you alone. Nothing is changed.

+ is created, ~ is changed, ! is deleted and made anew, - is deleted, = is there already as it is defined and comes into the
state, o leaves the state and stays on the platform.

The exit code is 3 if it could not be done: something that is to be made is there already, and is not as it is defined.
--adopt has it changed.`,
		Example: `  taskfleet stacks preview --dir prod/stacks
  taskfleet stacks preview --dir prod/stacks --stack pools --json | jq .digest`,
		Args: cobra.NoArgs,
		RunE: flags.run(func(cmd *cobra.Command, d *stacks.Driver, _ []string) error {
			s, err := d.Preview(cmd.Context(), o)
			if err != nil {
				return flags.told(err)
			}
			return flags.tell(cmd, s)
		}),
	}
	flags.add(cmd)
	previewFlags(cmd, &o)
	return cmd
}

func previewFlags(cmd *cobra.Command, o *stacks.PreviewOptions) {
	cmd.Flags().BoolVar(&o.Adopt, "adopt", false, "change what is on the platform already and differs from its definition, instead of refusing it")
	cmd.Flags().BoolVar(&o.Prune, "prune", false, "delete strays: what a managed pattern matches and nobody has defined")
}

// tell prints a preview. One that is refused is an error.
func (f *stacksFlags) tell(cmd *cobra.Command, s *stacks.Saved) error {
	out := cmd.OutOrStdout()
	if f.json {
		shown := *s
		shown.Files = nil // whoever has the digest of a file with a secret can try what it is
		if err := printJSON(out, shown); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(out, "Preview %s of %s\n\n", s.Name, s.Environment)
		if err := s.Text(out, widthOf(out), colourful(out)); err != nil {
			return err
		}
		fmt.Fprintf(out, "\nDigest  %s\n", s.Digest)
	}
	switch {
	case len(s.Refused) > 0:
		return &codedError{fmt.Errorf("preview %s cannot be done: %s refused, see above", s.Name, plural(len(s.Refused), "change")), exitViolated}
	case f.json:
	case s.Empty():
		fmt.Fprintln(out, "Nothing is to be done.")
	default:
		fmt.Fprintf(out, "Next    taskfleet stacks up%s %s --digest %s\n", f.dirFlag(), s.Name, s.Digest)
	}
	return nil
}

func newStacksUpCommand() *cobra.Command {
	var flags stacksFlags
	var o stacks.PreviewOptions
	var digest string
	var yes bool
	cmd := &cobra.Command{
		Use: "up [PREVIEW --digest DIGEST]", Short: "Do what was previewed; without a preview, preview, ask, and do it",
		Long: `Does what a saved preview says, in the order of the stacks. The digest is that of the preview that was looked at. It is
refused if files, states, the manifest or the programs have changed since; the engine refuses whatever it did not plan.

Without a preview it makes one, shows it, asks, and does that. Where nobody can be asked, --yes is needed.

Ctrl-C ends in good order: what is under way is waited for. Whatever ends it, what was done is in the states, and another
up does the rest.`,
		Example: `  taskfleet stacks up --dir prod/stacks 20270131-101500 --digest sha256:…
  taskfleet stacks up --dir local
  taskfleet stacks up --dir local --yes --json`,
		Args: cobra.MaximumNArgs(1),
		PreRunE: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) > 0 && digest == "":
				return usagef("--digest is missing: it says which preview was looked at, and taskfleet stacks preview has printed it")
			case len(args) > 0 && (o.Adopt || o.Prune || len(flags.stacks) > 0):
				return usagef("--adopt, --prune and --stack are said when it is previewed")
			case len(args) == 0 && digest != "":
				return usagef("--digest is that of a preview: name the preview too")
			}
			return nil
		},
		RunE: flags.run(func(cmd *cobra.Command, d *stacks.Driver, args []string) error {
			if len(args) > 0 {
				return flags.up(cmd, d, args[0], digest)
			}
			return flags.previewAndUp(cmd, d, o, yes)
		}),
	}
	flags.add(cmd)
	previewFlags(cmd, &o)
	cmd.Flags().StringVar(&digest, "digest", "", "`digest` of the preview that was looked at")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// previewAndUp previews, asks, and does it.
func (f *stacksFlags) previewAndUp(cmd *cobra.Command, d *stacks.Driver, o stacks.PreviewOptions, yes bool) error {
	s, err := d.Preview(cmd.Context(), o)
	if err != nil {
		return f.told(err)
	}
	errOut := cmd.ErrOrStderr()
	if err := s.Text(errOut, widthOf(errOut), colourful(errOut)); err != nil {
		return err
	}
	fmt.Fprintln(errOut)
	switch {
	case len(s.Refused) > 0:
		return &codedError{fmt.Errorf("%s refused, see above. Nothing was done", plural(len(s.Refused), "change")), exitViolated}
	case s.Empty():
		if f.json {
			return printJSON(cmd.OutOrStdout(), stacks.Report{Preview: s.Name, Result: "done", Stacks: []stacks.StackReport{}})
		}
		_, err := fmt.Fprintln(cmd.OutOrStdout(), "Nothing is to be done.")
		return err
	}
	if !yes {
		question := fmt.Sprintf("Make %s in %s?", plural(s.Count(), "change"), s.Environment)
		if n := len(s.Deletes()); n > 0 {
			question = fmt.Sprintf("Make %s in %s, %d of them to delete?", plural(s.Count(), "change"), s.Environment, n)
		}
		if err := sure(cmd, question, "yes", "--yes"); err != nil {
			return err
		}
	}
	return f.up(cmd, d, s.Name, s.Digest)
}

func (f *stacksFlags) up(cmd *cobra.Command, d *stacks.Driver, name, digest string) error {
	return f.work(cmd, d, func(ctx context.Context) (*stacks.Report, error) { return d.Up(ctx, name, digest) })
}

// work does what changes things, and tells what came of it.
func (f *stacksFlags) work(cmd *cobra.Command, d *stacks.Driver, do func(context.Context) (*stacks.Report, error)) error {
	// A terminal that goes away is an interrupt: without that it would kill, and leave what is under way unknown.
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP)
	defer stop()
	r, err := do(ctx)
	out := cmd.OutOrStdout()
	if r == nil {
		if _, ok := errors.AsType[*stacks.RefusedError](err); ok {
			return &codedError{err, exitViolated}
		}
		return f.told(err)
	}
	if f.json {
		return errors.Join(printJSON(out, r), f.howToGoOn(err))
	}
	if err := printStacksReport(out, r); err != nil {
		return err
	}
	return f.howToGoOn(err)
}

// howToGoOn adds to the error of something that did not come to its end what to do.
func (f *stacksFlags) howToGoOn(err error) error {
	u, ok := errors.AsType[*stacks.UnfinishedError](err)
	if !ok {
		return err
	}
	why := err.Error()
	if u.Report.Result == "interrupted" {
		why = "interrupted" // in other words it would be told as such, and no more
	}
	again := "taskfleet stacks up" + f.dirFlags() + " does the rest, once the cause is mended"
	if u.Report.Preview == "" {
		again = "taskfleet stacks destroy" + f.dirFlags() + " does the rest, once the cause is mended"
	}
	return fmt.Errorf("%s\n%d of %d done, and in the states. %s", why, u.Report.Done(), u.Report.Total, again)
}

// printStacksReport tells what came of it, by stack.
func printStacksReport(out io.Writer, r *stacks.Report) error {
	fmt.Fprintln(out)
	for _, s := range r.Stacks {
		line := fmt.Sprintf("%-10s  %s", s.Name, s.Result)
		if len(s.Done) > 0 {
			line += ", " + plural(len(s.Done), "change")
		}
		fmt.Fprintln(out, line)
	}
	if len(r.Pruned) > 0 {
		fmt.Fprintf(out, "%-10s  deleted, %d\n", "strays", len(r.Pruned))
	}
	for _, id := range r.Kept {
		fmt.Fprintf(out, "kept on the platform, as no managed pattern matches it: %s\n", plain.Line(id))
	}
	_, err := fmt.Fprintf(out, "%s after %s, %d of %s\n", r.Result, took(r.Ended.Sub(r.Began)), r.Done(), plural(r.Total, "change"))
	return err
}

func newStacksDestroyCommand() *cobra.Command {
	var flags stacksFlags
	var word string
	cmd := &cobra.Command{
		Use: "destroy", Short: "Delete everything of the stacks that is managed",
		Long: `Shows what would be deleted, asks for the environment's name, and deletes it: stacks in the reverse of their order. Of what is on
the platform it is only what a managed pattern matches; the rest stays there, and leaves the states. Configuration, releases and what is
at SignalFx need no pattern. Secrets are gone for good, and the workers of pools are ended.`,
		Example: `  taskfleet stacks destroy --dir staging/stacks
  taskfleet stacks destroy --dir staging/stacks --stack schedules --destroy staging`,
		Args: cobra.NoArgs,
		RunE: flags.run(func(cmd *cobra.Command, d *stacks.Driver, _ []string) error {
			p, err := d.PlanDestroy(cmd.Context())
			if err != nil {
				return flags.told(err)
			}
			errOut := cmd.ErrOrStderr()
			if len(p.Changes) == 0 {
				fmt.Fprintln(errOut, "there is nothing to destroy: the states have no things")
				if flags.json {
					return printJSON(cmd.OutOrStdout(), stacks.Report{Result: "done", Stacks: []stacks.StackReport{}})
				}
				return nil
			}
			if err := p.Text(errOut, widthOf(errOut), colourful(errOut)); err != nil {
				return err
			}
			fmt.Fprintln(errOut)
			name := d.Environment.Name
			if word == "" {
				if err := sure(cmd, "Delete all of that, for ever?", name, "--destroy "+name); err != nil {
					return err
				}
			} else if word != name {
				return fmt.Errorf("--destroy %s is not the name of the environment: it is %s. Nothing was done", word, name)
			}
			return flags.work(cmd, d, func(ctx context.Context) (*stacks.Report, error) { return d.Destroy(ctx, p) })
		}),
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&word, "destroy", "", "`name` of the environment; does not ask")
	return cmd
}
