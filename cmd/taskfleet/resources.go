package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/resource"
)

func resourcesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "resources", Short: "Roles, clients, secrets, pools and hooks as files: export, diff, apply",
		Long: `Files say which roles, clients, secrets, worker pools, hooks and denylist addresses a platform is to have; these commands write such files from a platform, tell how it differs from them, and make it so.

Patterns in the files say what they manage: what matches one and is not in the files is deleted, what matches none is never
touched; without any, nothing is deleted. docs/resources.md has the form of the files.`,
		Example: `  taskfleet resources export -o config.yml
  taskfleet resources diff config.yml
  taskfleet resources apply config.yml`,
	}
	return group(cmd, newResourcesExportCommand(), newResourcesDiffCommand(), newResourcesApplyCommand(), newResourcesCheckCommand())
}

// loadResources reads files. Problems with them are told one a line.
func loadResources(cmd *cobra.Command, paths []string) (*resource.Set, error) {
	set, err := resource.Load(cmd.InOrStdin(), paths...)
	if err != nil {
		return nil, fmt.Errorf("nothing was compared or changed:\n%w", err)
	}
	return set, nil
}

// diffResources compares files with a platform.
func diffResources(ctx context.Context, cmd *cobra.Command, s *session, paths []string) (*resource.Diff, error) {
	set, err := loadResources(cmd, paths)
	if err != nil {
		return nil, err
	}
	if err := set.ReadValues(os.LookupEnv); err != nil {
		return nil, err
	}
	return set.Diff(ctx, s.core)
}

func newResourcesCheckCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "check PATH...", Short: "Tell what is wrong with files, without a platform",
		Long: `Reads the files, or those named *.yml and *.yaml in directories and below, and tells all that is wrong with them, by
file and line. It asks no platform, and reads no values of secrets. - is stdin.`,
		Example: "  taskfleet resources check config.yml\n  taskfleet resources check config/",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := resource.Load(cmd.InOrStdin(), args...)
			if err != nil {
				return err
			}
			if asJSON {
				counts := map[string]int{}
				for _, d := range set.Definitions {
					counts[d.Kind.Name()]++
				}
				return printJSON(cmd.OutOrStdout(), map[string]any{"files": set.Files, "definitions": counts, "managed": len(set.Managed)})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s in %s: nothing is wrong with them\n", inventory(set), plural(set.Files, "file"))
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newResourcesDiffCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "diff PATH...", Short: "Show how a platform differs from what files say",
		Long: `Shows what apply would do: + is created, ~ is changed, - is deleted. Values of secrets are compared and never shown.

The exit code is 0 if there is no difference, 1 if there are some, and 2 if that could not be found out.`,
		Example: "  taskfleet resources diff config.yml\n  taskfleet resources diff config/ --json | jq .changes[].id",
		Args:    cobra.MinimumNArgs(1),
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			d, err := diffResources(ctx, cmd, s, args)
			if err == nil {
				if asJSON {
					err = printJSON(cmd.OutOrStdout(), newResourcesResult(d))
				} else {
					err = printResources(cmd.OutOrStdout(), s.core.RootURL(), d)
				}
			}
			switch {
			case err != nil:
				return &codedError{err, exitTrouble}
			case len(d.Changes) > 0:
				return &codedError{fmt.Errorf("there are differences; taskfleet resources apply %s takes them away", strings.Join(args, " ")), exitDifferent}
			}
			return nil
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newResourcesApplyCommand() *cobra.Command {
	var asJSON, yes bool
	cmd := &cobra.Command{
		Use: "apply PATH...", Short: "Make a platform as files say",
		Long: `Shows what differs, asks, and makes it so: what others need first, and last what is to be deleted, which is only what
a pattern manages and no file defines. Without --yes it deletes nothing unless somebody at a terminal has agreed.

Each thing is looked at again before it is changed, and left as it is if somebody else has changed it meanwhile. What has
failed or was interrupted can be repeated: what is done is kept, and the same again does the rest.`,
		Example: "  taskfleet resources apply config.yml\n  taskfleet resources apply config/ --yes --json",
		Args:    cobra.MinimumNArgs(1),
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			d, err := diffResources(ctx, cmd, s, args)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			result := newResourcesResult(d)
			if !asJSON {
				if err := printResources(out, s.core.RootURL(), d); err != nil {
					return err
				}
			}
			if len(d.Changes) > 0 {
				if err := agree(cmd, yes, s, d); err != nil {
					return err
				}
			}
			if !asJSON && len(d.Changes) > 0 {
				fmt.Fprintln(out)
			}
			err = d.Apply(ctx, s.core, func(x resource.Change) {
				result.Done = append(result.Done, x.ID)
				if !asJSON {
					fmt.Fprintf(out, "%s %s\n", x.Action.Past(), plain.Line(x.ID))
				}
			})
			return finish(cmd, asJSON, s, result, err)
		}),
	}
	yesFlag(cmd, &yes)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// agree asks whether to go on. What is deleted nobody gets back, so scripts have to say so.
func agree(cmd *cobra.Command, yes bool, s *session, d *resource.Diff) error {
	n := d.Count(resource.Delete)
	if in, ok := cmd.InOrStdin().(*os.File); n > 0 && !yes && (!ok || !term.IsTerminal(int(in.Fd()))) {
		return fmt.Errorf("nothing was done: %s would be deleted, and there is nobody to ask; add --yes if that is meant", plural(n, "resource"))
	}
	question := fmt.Sprintf("Make %s at %s?", plural(len(d.Changes), "change"), s.core.RootURL())
	if n > 0 {
		question = fmt.Sprintf("Make %s at %s, %d of them to delete?", plural(len(d.Changes), "change"), s.core.RootURL(), n)
	}
	return confirm(cmd, yes, question)
}

// mostLeft is how many changes are named that were not tried.
const mostLeft = 20

// finish tells what came of an apply.
func finish(cmd *cobra.Command, asJSON bool, s *session, result resourcesResult, err error) error {
	unfinished, ok := errors.AsType[*resource.Unfinished](err)
	if ok {
		for _, f := range unfinished.Failed {
			result.Failed = append(result.Failed, resourcesFailure{f.Change.ID, strings.ReplaceAll(f.Err.Error(), "client: ", "")})
		}
		for _, x := range unfinished.Left {
			result.Left = append(result.Left, x.ID)
		}
	}
	out := cmd.OutOrStdout()
	switch {
	case asJSON:
		if err := printJSON(out, result); err != nil {
			return err
		}
	case ok && len(unfinished.Left) > 0:
		for i, x := range unfinished.Left {
			if i == mostLeft {
				fmt.Fprintf(out, "not tried: %d more\n", len(unfinished.Left)-i)
				break
			}
			fmt.Fprintf(out, "not tried: %s %s\n", x.Action, plain.Line(x.ID))
		}
	case err == nil && len(result.Done) > 0:
		fmt.Fprintf(out, "\n%s is as the files say: %s made\n", s.core.RootURL(), plural(len(result.Done), "change"))
	}
	if ok && len(unfinished.Failed) == 0 {
		// Else it would be told as interrupted, and no more.
		return fmt.Errorf("interrupted: %s", unfinished)
	}
	return err
}

func newResourcesExportCommand() *cobra.Command {
	var from, output, values string
	var only []string
	cmd := &cobra.Command{
		Use: "export", Short: "Write what a platform has as files",
		Long: `Writes the roles, clients, secrets, worker pools, hooks and denylist addresses of a platform as YAML, with which diff then
finds no difference: to stdout, to a new file, or, if --output is a directory, to a new file for each kind. No file that is
there already is overwritten.

Of secrets it writes the names. With --secrets-to, their values and expiries go to a new file that only its owner can read.
With --only, it writes what matches the patterns alone, and that these are managed: whatever is no longer in the files then
is deleted by apply. Clients of the platform's configuration (static/...) and worker pools that are being deleted are left
out.`,
		Example: `  taskfleet resources export --from https://taskfleet.example.com -o config.yml
  taskfleet resources export --only 'Role=project:nightly:.*' --only 'Hook=project-nightly/.*'
  taskfleet resources export -o config/ --secrets-to secrets.yml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			var patterns []*resource.Pattern
			for _, text := range only {
				p, err := resource.ParsePattern(text)
				if err != nil {
					return usagef("--only: %v", err)
				}
				patterns = append(patterns, p)
			}
			s, err := connectTo(cmd, from)
			if err != nil {
				return err
			}
			if err := exportResources(cmd, s, patterns, output, values); err != nil {
				return &sessionError{s, err}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "root URL of the platform, if it is not that of the environment")
	cmd.Flags().StringVarP(&output, "output", "o", "", "new file, or directory, to write to; stdout if not given")
	cmd.Flags().StringVar(&values, "secrets-to", "", "new file for secrets with their values")
	cmd.Flags().StringArrayVar(&only, "only", nil, "write what matches this pattern, as managed; may be repeated")
	return cmd
}

// connectTo opens a session with a platform at a URL; that of the environment if it is empty. Credentials in a file
// are for the platform that the file names alone.
func connectTo(cmd *cobra.Command, rootURL string) (*session, error) {
	if rootURL == "" {
		return connect(cmd, brief)
	}
	opts, from, err := findCredentials()
	switch {
	case err == nil && strings.TrimSuffix(opts.RootURL, "/") == strings.TrimSuffix(rootURL, "/"):
	case os.Getenv("TASKCLUSTER_CLIENT_ID") != "":
		opts.Credentials = cred.Credentials{
			ClientID: os.Getenv("TASKCLUSTER_CLIENT_ID"), AccessToken: os.Getenv("TASKCLUSTER_ACCESS_TOKEN"), Certificate: os.Getenv("TASKCLUSTER_CERTIFICATE"),
		}
		from = "--from and the TASKCLUSTER_* environment variables"
	default:
		opts.Credentials = cred.Credentials{}
		from = "--from"
	}
	opts.RootURL, opts.Retry, opts.Log = rootURL, brief, patience(cmd.ErrOrStderr())
	core, err := client.New(opts)
	if err != nil {
		return nil, err
	}
	return &session{core, from}, nil
}

func exportResources(cmd *cobra.Command, s *session, patterns []*resource.Pattern, output, values string) error {
	ctx := cmd.Context()
	set, err := resource.List(ctx, s.core, patterns)
	if err != nil {
		return err
	}
	var secrets *resource.Set
	if values != "" {
		if secrets, err = set.WithValues(ctx, s.core); err != nil {
			return err
		}
		set = set.Without(resource.Secrets)
	}
	what := "# What " + s.core.RootURL() + " has, by taskfleet resources export.\n"
	if patterns == nil {
		what += "# Nothing is deleted by apply until managed says what may be, such as managed: [\"Role=project:nightly:.*\"].\n"
	}
	var files []string
	write := func(name string, mode fs.FileMode, set *resource.Set) error {
		files = append(files, name)
		return writeNew(name, mode, func(w io.Writer) error {
			if _, err := io.WriteString(w, what); err != nil {
				return err
			}
			return set.Write(w)
		})
	}
	info, err := os.Stat(output)
	switch {
	case output == "":
		if _, err := io.WriteString(cmd.OutOrStdout(), what); err != nil {
			return err
		}
		if err := set.Write(cmd.OutOrStdout()); err != nil {
			return err
		}
	case strings.HasSuffix(output, "/"), err == nil && info.IsDir():
		if err := os.MkdirAll(output, 0o755); err != nil {
			return err
		}
		if patterns != nil {
			if err := write(filepath.Join(output, "managed.yml"), 0o644, &resource.Set{Managed: patterns}); err != nil {
				return err
			}
		}
		for _, k := range resource.Kinds() {
			one := set.Only(k)
			if len(one.Definitions) == 0 {
				continue
			}
			if err := write(filepath.Join(output, k.Section()+".yml"), 0o644, one); err != nil {
				return err
			}
		}
	default:
		if err := write(output, 0o644, set); err != nil {
			return err
		}
	}
	if secrets != nil {
		if err := write(values, 0o600, secrets); err != nil {
			return err
		}
		set.Definitions = append(set.Definitions, secrets.Definitions...)
	}
	_, err = fmt.Fprintf(cmd.ErrOrStderr(), "%s of %s in %s\n", inventory(set), s.core.RootURL(), cmp.Or(strings.Join(files, ", "), "stdout"))
	return err
}

// writeNew writes a file that is not there yet, whole or not at all.
func writeNew(name string, mode fs.FileMode, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: write to another one, or remove it", name)
	} else if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(name)
		}
	}()
	return write(f)
}
