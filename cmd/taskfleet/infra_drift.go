//go:build !agent

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/infra/plan"
)

func newInfraDriftCommand() *cobra.Command {
	var flags infraFlags
	var varFiles []string
	cmd := &cobra.Command{
		Use: "drift", Short: "Show what has changed at AWS by other hands since the last apply",
		Long: `Looks at everything of the deployment at AWS and compares it with what the last apply has left. Nothing is changed, not
even the state. What the configuration asks for and was not applied yet is no drift: plan shows that.

The exit code is 0 if nothing has changed, 2 if something has, 1 if that could not be found out.`,
		Example: `  taskfleet infra drift --dir prod
  taskfleet infra drift --dir prod --json | jq '.drift[].address'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := flags.open(cmd)
			if err != nil {
				return err
			}
			p, err := d.Drift(cmd.Context(), varFiles)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if p.Drift == nil {
				p.Drift = []plan.Change{}
			}
			switch {
			case flags.json:
				err = printJSON(out, map[string]any{"drift": p.Drift})
			case len(p.Drift) == 0:
				_, err = fmt.Fprintln(out, "no drift: everything is as the last apply has left it")
			default:
				fmt.Fprintf(out, "%s changed by other hands since the last apply\n\n", plural(len(p.Drift), "resource"))
				if err := p.DriftText(out, widthOf(out), colourful(out)); err != nil {
					return err
				}
				_, err = fmt.Fprintf(out, `
To put back what the configuration says: taskfleet infra plan --dir %s, and apply that.
To keep what was done: write it into the configuration until plan has nothing to do.
`, flags.directory)
			}
			if err == nil && len(p.Drift) > 0 {
				err = &codedError{fmt.Errorf("%s drifted", plural(len(p.Drift), "resource")), exitDrift}
			}
			return err
		},
	}
	flags.add(cmd)
	varFileFlag(cmd, &varFiles)
	return cmd
}
