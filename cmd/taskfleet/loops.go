package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client/loops"
)

func newLoopsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "loops", Short: "Show the platform's background work and how it fares",
		Long: `Shows every loop: the work that the platform does by itself, such as resolving dependencies and provisioning
workers. With replicas, a loop runs on one of them; the one that answers calls the others' loops "held elsewhere".
The exit code is 1 if a loop's last pass failed.`,
		Example: "  taskfleet loops\n  taskfleet loops --json | jq '.loops[] | select(.failures > 0)'",
		Args:    cobra.NoArgs,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			list, err := loops.New(s.core).ListLoops(ctx)
			if err != nil {
				return err
			}
			var failing []string
			t := table{head: []string{"LOOP", "STATE", "EVERY", "LAST", "TOOK", "PASSES", "FAILED"}}
			for _, l := range list.Loops {
				last, duration := "never", "-"
				if !l.LastStart.IsZero() {
					last = ago(l.LastStart)
				}
				if l.LastDuration != nil {
					duration = took(time.Duration(*l.LastDuration))
				}
				t.add(l.Name, l.State, l.Schedule, last, duration, strconv.FormatInt(l.Passes, 10), strconv.FormatInt(l.Failures, 10))
				if l.LastError != "" {
					failing = append(failing, fmt.Sprintf("%s: %s", l.Name, l.LastError))
				}
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), list)
			} else {
				err = t.print(cmd.OutOrStdout())
				for _, f := range failing {
					fmt.Fprintln(cmd.ErrOrStderr(), f)
				}
			}
			if err == nil && len(failing) > 0 {
				err = silentError{fmt.Errorf("%s failed last time", plural(len(failing), "loop"))}
			}
			return err
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
