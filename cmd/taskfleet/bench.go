package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/bench"
	"github.com/taskfleet/taskfleet/client"
)

func newBenchCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "bench", Short: "Measure a platform",
	}, append(mirrorBench(), newBenchQueueCommand(), newBenchWakeCommand(), newBenchCrowdCommand(), newBenchGroupCommand())...)
}

func newBenchQueueCommand() *cobra.Command {
	var rootURL string
	var o bench.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use: "queue", Short: "Measure rates and latencies of the queue's busiest calls",
		Long: `Measures createTask, claimWork, the life of a task (create, claim, report completed: one call in the figures) and
status, with each number of clients in turn. Any server that speaks the API can be measured; the credentials need to
create, claim and cancel tasks on queues called bench/*. With --pid, the CPU time that the server's processes spend
per call is measured too (Linux).`,
		Example: `  taskfleet bench queue --clients 1,8,32
  taskfleet bench queue --root-url http://127.0.0.1:8080 --duration 10s --pid "$(pgrep -f 'taskfleet serve')" --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Duration <= 0 {
				return usagef("--duration must be more than nothing")
			}
			for _, n := range o.Clients {
				if n < 1 || n > 10_000 {
					return usagef("--clients has %d; give numbers from 1 to 10000", n)
				}
			}
			s, err := benchSession(cmd, rootURL)
			if err != nil {
				return err
			}
			if err := runBench(cmd.Context(), s, cmd, o, asJSON); err != nil {
				return &sessionError{s, err}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&rootURL, "root-url", "", "the server (default: that of the credentials)")
	cmd.Flags().IntSliceVar(&o.Clients, "clients", []int{1, 8, 32}, "numbers of clients, one round for each")
	cmd.Flags().DurationVar(&o.Duration, "duration", 5*time.Second, "length of each measure")
	cmd.Flags().IntSliceVar(&o.PIDs, "pid", nil, "process ids of the server and its database, for their CPU time")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// benchSession is the usual one, on another root URL where that was asked for.
// Nothing is repeated: a call that fails would count as a slow one.
func benchSession(cmd *cobra.Command, rootURL string) (*session, error) {
	s, err := connect(cmd, client.Retry{For: -1})
	if err != nil || rootURL == "" || rootURL == s.core.RootURL() {
		return s, err
	}
	core, err := client.New(client.Options{RootURL: rootURL, Credentials: s.core.Credentials(), Retry: client.Retry{For: -1}})
	if err != nil {
		return nil, err
	}
	return &session{core, "--root-url, with the credentials from " + s.from}, nil
}

func runBench(ctx context.Context, s *session, cmd *cobra.Command, o bench.Options, asJSON bool) error {
	out := cmd.OutOrStdout()
	o.Client = s.core
	const layout = "%-11s %7s %8s %9s %9s %9s %9s %9s\n"
	if !asJSON {
		fmt.Fprintf(out, layout, "CALL", "CLIENTS", "CALLS", "PER SEC", "P50", "P99", "MAX", "CPU/CALL")
		o.Report = func(r bench.Result) {
			cpu := "-"
			if r.CPU > 0 {
				cpu = milliseconds(r.CPU)
			}
			fmt.Fprintf(out, layout, r.Call, fmt.Sprint(r.Clients), fmt.Sprint(r.Calls), fmt.Sprintf("%.1f", r.Rate),
				milliseconds(r.P50), milliseconds(r.P99), milliseconds(r.Max), cpu)
		}
	}
	results, err := bench.Queue(ctx, o)
	if asJSON && len(results) > 0 {
		err = errors.Join(err, printJSON(out, results))
	}
	return err
}

func milliseconds(d time.Duration) string { return fmt.Sprintf("%.2fms", float64(d)/1e6) }
