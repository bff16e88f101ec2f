//go:build !agent && !server

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/resource"
	"github.com/taskfleet/taskfleet/stacks"
)

func newStacksDriftCommand() *cobra.Command {
	var flags stacksFlags
	cmd := &cobra.Command{
		Use: "drift", Short: "Show what others have changed since the last up",
		Long: `Looks at everything that the stacks have and compares it with what the last up has left; and it looks for strays: what a
managed pattern matches and nobody has defined. Nothing is changed, not even the states. What the files say and was not
brought up yet is no drift: preview shows that. A stack that has things and no section any more is told, too.

The exit code is 0 if nothing has changed, 2 if something has or if something else is told, 1 if that could not be found out.`,
		Example: `  taskfleet stacks drift --dir prod/stacks
  taskfleet stacks drift --dir prod/stacks --json | jq '.drift[].id'`,
		Args: cobra.NoArgs,
		RunE: flags.run(func(cmd *cobra.Command, d *stacks.Driver, _ []string) error {
			r, err := d.Drift(cmd.Context())
			if err != nil {
				return flags.told(err)
			}
			out := cmd.OutOrStdout()
			n := len(r.Drift) + len(r.Strays) + len(r.Left)
			switch {
			case flags.json:
				err = printJSON(out, r)
			case n == 0:
				_, err = fmt.Fprintf(out, "no drift: %s as the last up has left them\n", plural(r.Looked, "thing"))
			case n == len(r.Left):
			default:
				fmt.Fprintf(out, "%s of %d changed by others since the last up, %s\n\n", plural(len(r.Drift), "thing"), r.Looked, plural(len(r.Strays), "stray"))
				if err := r.Text(out, widthOf(out), colourful(out)); err != nil {
					return err
				}
				_, err = fmt.Fprintf(out, `
To put back what the files say: taskfleet stacks up%s
To keep what was done: write it into the files, until preview has nothing to do.
`, flags.dirFlags())
			}
			if !flags.json {
				for _, line := range r.Left {
					fmt.Fprintln(out, plain.Line(line))
				}
			}
			if len(r.Pending) > 0 && !flags.json {
				fmt.Fprintf(out, "\n%s cut off by the end of an up; the next up does the rest:\n", plural(len(r.Pending), "operation"))
				for _, p := range r.Pending {
					fmt.Fprintln(out, "  "+plain.Line(p))
				}
			}
			if err == nil && n > 0 {
				what := fmt.Sprintf("%s drifted, %s", plural(len(r.Drift), "thing"), plural(len(r.Strays), "stray"))
				if len(r.Left) > 0 {
					what += ", " + plural(len(r.Left), "stack") + " without a section"
				}
				err = &codedError{errors.New(what), exitDrift}
			}
			return err
		}),
	}
	flags.add(cmd)
	return cmd
}

func newStacksRefreshCommand() *cobra.Command {
	var flags stacksFlags
	cmd := &cobra.Command{
		Use: "refresh", Short: "Take what there is into the states",
		Long: `Looks at everything that the stacks have, and writes into the states how it is. Nothing but the states is changed. preview
and up do the same by themselves; it is of use after a repair by hand, so that drift is quiet.`,
		Example: "  taskfleet stacks refresh --dir prod/stacks --stack access",
		Args:    cobra.NoArgs,
		RunE: flags.run(func(cmd *cobra.Command, d *stacks.Driver, _ []string) error {
			found, err := d.Refresh(cmd.Context())
			if err != nil {
				return flags.told(err)
			}
			out := cmd.OutOrStdout()
			if flags.json {
				return printJSON(out, map[string]any{"changed": found})
			}
			if err := (&stacks.DriftReport{Drift: found}).Text(out, widthOf(out), colourful(out)); err != nil {
				return err
			}
			_, err = fmt.Fprintf(out, "the states are refreshed: %s had changed\n", plural(len(found), "thing"))
			return err
		}),
	}
	flags.add(cmd)
	return cmd
}

func newStacksCancelCommand() *cobra.Command {
	var flags stacksFlags
	var yes bool
	cmd := &cobra.Command{
		Use: "cancel", Short: "Take away the locks of stacks whose holders are dead",
		Long: `Shows who holds the locks of the stacks, and takes them away if you say so. If whoever holds one is still at work, both
spoil the state: be sure that it is dead. To end an up that is at work, press Ctrl-C there.

Where states are in S3 it is not known who holds a lock until an up is refused, which tells.`,
		Example: "  taskfleet stacks cancel --dir prod/stacks --stack access\n  taskfleet stacks cancel --dir prod/stacks --yes",
		Args:    cobra.NoArgs,
		RunE: flags.run(func(cmd *cobra.Command, d *stacks.Driver, _ []string) error {
			locked, taken := []string{}, []stacks.Lock{}
			errOut := cmd.ErrOrStderr()
			for _, name := range d.Names() {
				locks, known, err := d.Locks(name)
				if err != nil {
					return err
				}
				for _, l := range locks {
					state := ""
					if l.Gone() {
						state = "; no such process is on this machine any more"
					}
					fmt.Fprintf(errOut, "stack %s is locked by %s@%s (pid %d) since %s%s\n", name, plain.Line(l.User), plain.Line(l.Host), l.PID, l.Since.UTC().Format(time.DateTime+" UTC"), state)
				}
				if !known {
					fmt.Fprintf(errOut, "stack %s: who holds its lock, if anybody does, cannot be told where states are in S3; an up that is refused tells\n", name)
				}
				if len(locks) > 0 || !known {
					locked, taken = append(locked, name), append(taken, locks...)
				}
			}
			out := cmd.OutOrStdout()
			if len(locked) > 0 {
				if !yes {
					if err := sure(cmd, "Is that certainly dead?", "yes", "--yes"); err != nil {
						return err
					}
				}
				for _, name := range locked {
					if err := d.Cancel(cmd.Context(), name); err != nil && !stacks.IsNoStack(err) {
						return err
					}
				}
			}
			if flags.json {
				return printJSON(out, map[string]any{"stacks": locked, "locks": taken})
			}
			said := fmt.Sprintf("unlocked. If an up was cut off, taskfleet stacks up%s does the rest", flags.dirFlags())
			if len(locked) == 0 {
				said = "no stack is locked"
			}
			_, err := fmt.Fprintln(out, said)
			return err
		}),
	}
	flags.add(cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask: the holders are certainly dead")
	return cmd
}

func newStacksImportCommand() *cobra.Command {
	var flags stacksFlags
	var from, file string
	var only []string
	var patterns []*resource.Pattern
	var yes bool
	cmd := &cobra.Command{
		Use: "import", Short: "Write definitions of what a platform has, and take it into the states; or take a state back",
		Long: `Shows what a platform has and the environment does not define, asks, writes definitions of it into new files beside the
others, and takes it into the states. Nothing on the platform is changed, and the next preview has nothing to do. Secrets are
named alone: what is in them stays where it is.

With --only, it is what matches the patterns, and these become managed: what is no longer defined then is deleted. The
platform is that of the environment; --from another one, whose things are then defined here and made by the next up.

With --state, a file of taskfleet stacks export is made the state of the stack that --stack names.`,
		Example: `  taskfleet stacks import --dir prod/stacks --only 'Role=project:nightly:.*' --only 'Hook=project-nightly/.*'
  taskfleet stacks import --dir prod/stacks --from https://old.example.com
  taskfleet stacks import --dir prod/stacks --state states.json --stack access`,
		Args: cobra.NoArgs,
		PreRunE: func(*cobra.Command, []string) error {
			if file != "" && (len(flags.stacks) != 1 || from != "" || only != nil) {
				return usagef("--state goes with one --stack, and neither with --from nor with --only")
			}
			if file == "" && len(flags.stacks) > 0 {
				return usagef("--stack goes with --state; --only says what is imported")
			}
			for _, text := range only {
				p, err := resource.ParsePattern(text)
				if err != nil {
					return usagef("--only: %v", err)
				}
				patterns = append(patterns, p)
			}
			return nil
		},
		RunE: flags.run(func(cmd *cobra.Command, d *stacks.Driver, _ []string) error {
			if file != "" {
				return flags.restore(cmd, d, file, yes)
			}
			rootURL, err := d.RootURL(cmd.Context())
			if err != nil {
				return err
			}
			other := from != "" && from != rootURL
			if from == "" {
				from = rootURL
			}
			s, err := connectTo(cmd, from)
			if err != nil {
				return err
			}
			a, err := d.Environment.PlanAdoption(cmd.Context(), s.core, patterns)
			if err != nil {
				return &sessionError{s, err}
			}
			errOut := cmd.ErrOrStderr()
			n := 0
			for _, f := range a.Files {
				fmt.Fprintf(errOut, "%s would define\n", f.Path)
				for _, id := range f.IDs {
					fmt.Fprintln(errOut, "  = "+plain.Line(id))
				}
				n += len(f.IDs)
			}
			fmt.Fprintf(errOut, "%s of %s to import; %d are defined already\n", plural(n, "thing"), from, a.Defined)
			if len(a.Without) > 0 {
				fmt.Fprintf(errOut, "%s left out, as the environment has no directory of definitions for their stack; the first is %s\n", plural(len(a.Without), "thing"), plain.Line(a.Without[0]))
			}
			if len(a.Unmanaged) > 0 {
				fmt.Fprintf(errOut, "%s left out, as no managed pattern of the environment matches them; the first is %s. --only imports what a pattern matches, as managed\n", plural(len(a.Unmanaged), "thing"), plain.Line(a.Unmanaged[0]))
			}
			if n == 0 {
				if flags.json {
					return printJSON(cmd.OutOrStdout(), a)
				}
				return nil
			}
			if !yes {
				if err := sure(cmd, fmt.Sprintf("Write %s?", plural(len(a.Files), "file")), "yes", "--yes"); err != nil {
					return err
				}
			}
			if err := d.Environment.WriteFiles(a); err != nil {
				return err
			}
			if other {
				if flags.json {
					return printJSON(cmd.OutOrStdout(), a)
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "written. taskfleet stacks preview%s shows what %s gets of it\n", flags.dirFlags(), rootURL)
				return err
			}
			return flags.takeIn(cmd, a)
		}),
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&from, "from", "", "root `URL` of the platform, if it is not that of the environment")
	cmd.Flags().StringArrayVar(&only, "only", nil, "import what matches this `pattern`, as managed; may be repeated")
	cmd.Flags().StringVar(&file, "state", "", "`file` with a state, as export prints it")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

// takeIn takes what was defined just now into the states, by an up that does nothing else.
func (f *stacksFlags) takeIn(cmd *cobra.Command, a *stacks.Adoption) error {
	f.stacks = nil
	for _, file := range a.Files {
		f.stacks = append(f.stacks, file.Stack)
	}
	return f.run(func(cmd *cobra.Command, again *stacks.Driver, _ []string) error {
		s, err := again.Preview(cmd.Context(), stacks.PreviewOptions{})
		if err != nil {
			return f.told(err)
		}
		if !s.OnlyAdopts() {
			if err := f.tell(cmd, s); err != nil {
				return err
			}
			_, err := fmt.Fprintln(cmd.ErrOrStderr(), "\nThe files are written. As more than that is to be done, it was not taken into the states: look at the preview, and do it.")
			return err
		}
		return f.up(cmd, again, s.Name, s.Digest)
	})(cmd, nil)
}

// restore takes a state back.
func (f *stacksFlags) restore(cmd *cobra.Command, d *stacks.Driver, file string, yes bool) error {
	name := f.stacks[0]
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	text, err := io.ReadAll(in)
	if err != nil {
		return err
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(text, &all); err != nil || all[name] == nil {
		return fmt.Errorf("%s has no state of stack %s: it is to be what taskfleet stacks export has printed", file, name)
	}
	if !yes {
		if err := sure(cmd, fmt.Sprintf("Replace the state of stack %s by the one in %s?", name, file), "yes", "--yes"); err != nil {
			return err
		}
	}
	if err := d.Restore(cmd.Context(), name, all[name]); err != nil {
		return err
	}
	if f.json {
		return printJSON(cmd.OutOrStdout(), map[string]string{"stack": name, "state": file})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "the state of stack %s is the one in %s. taskfleet stacks drift%s tells how it differs from what there is\n", name, file, f.dirFlags())
	return err
}
