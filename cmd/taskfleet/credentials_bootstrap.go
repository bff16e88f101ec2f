package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/project"
	"github.com/taskfleet/taskfleet/resource"
)

// maxProjectFile is how much of a file is read.
const maxProjectFile = 1 << 20

func newCredentialsBootstrapCommand() *cobra.Command {
	var asJSON, dryRun, yes bool
	cmd := &cobra.Command{
		Use: "bootstrap FILE", Short: "Make what a project needs: roles, clients, secrets, worker pools",
		Long: `Makes what a project needs of the platform, so that it is as a file says: a role that may do everything in the project's
namespaces, other roles, clients and the secrets in which those who act as them find their credentials, empty secrets to be set,
worker pools, and scopes for roles of others. FILE may be -, for what comes on stdin. docs/projects.md has all entries.

It shows first what would change, and on a terminal it asks. The second time nothing does. What the file does not name is left
alone; no access token is printed.`,
		Example: `  taskfleet credentials bootstrap examples/project.yml --dry-run
  taskfleet credentials bootstrap examples/project.yml`,
		Args: cobra.ExactArgs(1),
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			p, err := readProject(cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			all, err := p.Resources()
			if err != nil {
				return fmt.Errorf("%s: %w", args[0], err)
			}
			changes, err := resource.Plan(ctx, s.core, all)
			if err != nil {
				return err
			}
			return applyChanges(ctx, cmd, s, "the project "+p.Project, changes, changeOptions{asJSON, dryRun, yes})
		}),
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change, and change nothing")
	yesFlag(cmd, &yes)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func readProject(stdin io.Reader, file string) (*project.Project, error) {
	in, name := stdin, "stdin"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in, name = f, file
	}
	text, err := io.ReadAll(io.LimitReader(in, maxProjectFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(text) > maxProjectFile {
		return nil, fmt.Errorf("%s has more than %d bytes", name, maxProjectFile)
	}
	return project.Parse(name, text)
}

// changeOptions are the flags of commands that change resources.
type changeOptions struct{ asJSON, dryRun, yes bool }

// A changeResult is what such a command prints for programs.
type changeResult struct {
	Changes []resource.Change `json:"changes"`
	Applied int               `json:"applied"`
	DryRun  bool              `json:"dryRun"`
	Error   string            `json:"error,omitempty"`
}

// applyChanges shows changes and, unless it is a dry run, carries them out.
func applyChanges(ctx context.Context, cmd *cobra.Command, s *session, what string, changes []resource.Change, o changeOptions) error {
	out := cmd.OutOrStdout()
	todo := slices.DeleteFunc(slices.Clone(changes), func(c resource.Change) bool { return c.Action == resource.Keep })
	result := changeResult{Changes: changes, DryRun: o.dryRun}
	if !o.asJSON {
		if err := printChanges(out, what, todo, len(changes)-len(todo)); err != nil {
			return err
		}
	}
	if o.dryRun || len(todo) == 0 {
		if o.asJSON {
			return printJSON(out, result)
		}
		if o.dryRun && len(todo) > 0 {
			_, err := fmt.Fprintln(out, "\nnothing was changed: this was a dry run")
			return err
		}
		return nil
	}
	if err := confirm(cmd, o.yes, fmt.Sprintf("Make %s?", plural(len(todo), "change"))); err != nil {
		return err
	}
	if !o.asJSON {
		fmt.Fprintln(out)
	}
	err := resource.Apply(ctx, s.core, changes, func(c resource.Change) {
		result.Applied++
		if !o.asJSON {
			fmt.Fprintf(out, "%sd %s %s\n", c.Action, c.Kind, plain.Line(c.Name))
		}
	})
	if o.asJSON {
		if err != nil {
			result.Error = err.Error()
		}
		return errors.Join(printJSON(out, result), err)
	}
	return err
}

// printableLines are those of a document. What a platform says of what is there may have
// been written by anybody.
func printableLines(doc []byte) []string {
	lines := strings.Split(string(doc), "\n")
	for i, line := range lines {
		lines[i] = plain.Line(line)
	}
	return lines
}

// printChanges lays changes out: what is new as a whole, what differs as a diff.
func printChanges(out io.Writer, what string, todo []resource.Change, same int) error {
	if len(todo) == 0 {
		_, err := fmt.Fprintf(out, "%s is as it should be: nothing to change in %s\n", what, plural(same, "resource"))
		return err
	}
	b := brushFor(out)
	var text strings.Builder
	for _, c := range todo {
		after, name := printableLines(c.After), c.Kind+" "+plain.Line(c.Name)
		if c.Action == resource.Create {
			text.WriteString(b.paint(bold, "+ "+name) + "\n")
			for _, line := range after {
				text.WriteString("  " + b.paint(green, "+"+line) + "\n")
			}
			continue
		}
		text.WriteString(b.paint(bold, "~ "+name) + "\n")
		edits := compareLines(printableLines(c.Before), after)
		lines := strings.SplitAfter(unified(edits, "as it is", "as it should be", b), "\n")
		text.WriteString(strings.Join(lines[min(2, len(lines)):], "")) // the names are above
	}
	created := 0
	for _, c := range todo {
		if c.Action == resource.Create {
			created++
		}
	}
	fmt.Fprintf(&text, "\n%s: %d to create, %d to change, %d as they should be\n", what, created, len(todo)-created, same)
	_, err := io.WriteString(out, text.String())
	return err
}
