package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
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
			t := table{head: []string{"LOOP", "STATE", "WHEN", "LAST", "TOOK", "PASSES", "FAILED"}}
			for _, l := range list.Loops {
				last, duration := "never", "-"
				if !l.LastStart.IsZero() {
					last = ago(l.LastStart)
				}
				if l.LastDuration != nil {
					duration = took(time.Duration(*l.LastDuration))
				}
				t.add(l.Name, l.State, shortSchedule(l.Schedule), last, duration, strconv.FormatInt(l.Passes, 10), strconv.FormatInt(l.Failures, 10))
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

// shortSchedule leaves out of "every 1h0m0s" what says nothing.
func shortSchedule(s string) string {
	for _, nothing := range []string{"0s", "0m"} {
		if short, ok := strings.CutSuffix(s, nothing); ok && strings.ContainsAny(short[max(len(short)-1, 0):], "mh") {
			s = short
		}
	}
	return s
}
