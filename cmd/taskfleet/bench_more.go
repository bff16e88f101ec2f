package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/bench"
)

func newBenchWakeCommand() *cobra.Command {
	var rootURL string
	var asJSON bool
	o := bench.WakeOptions{}
	cmd := &cobra.Command{
		Use: "wake", Short: "Measure how soon a task finds a worker that waits",
		Long: `Has workers wait for work, creates tasks one at a time at a steady rate, and measures the time from the acknowledgement
of each creation until a worker has the task: negative where the worker was faster.`,
		Example: "  taskfleet bench wake --workers 100 --tasks 2000 --rate 100",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Workers < 1 || o.Tasks < 1 || o.Rate <= 0 {
				return usagef("--workers, --tasks and --rate must be above 0")
			}
			s, err := benchSession(cmd, rootURL)
			if err != nil {
				return err
			}
			o.Client = s.core
			r, err := bench.Wake(cmd.Context(), o)
			if err != nil {
				return &sessionError{s, err}
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			fmt.Fprintf(cmd.OutOrStdout(), `%d workers, %d tasks
after the acknowledgement   p50 %s  p99 %s  max %s
after createTask was sent   p50 %s  p99 %s
`, r.Workers, r.Tasks, milliseconds(r.P50), milliseconds(r.P99), milliseconds(r.Max), milliseconds(r.SentP50), milliseconds(r.SentP99))
			if r.NotFound > 0 {
				return fmt.Errorf("%d tasks reached no worker within a minute", r.NotFound)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&rootURL, "root-url", "", "the server (default: that of the credentials)")
	cmd.Flags().IntVar(&o.Workers, "workers", 100, "workers that wait at the same time")
	cmd.Flags().IntVar(&o.Tasks, "tasks", 1000, "tasks to create")
	cmd.Flags().Float64Var(&o.Rate, "rate", 50, "tasks to create per second")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newBenchCrowdCommand() *cobra.Command {
	var rootURL string
	var workers, pid int
	var settle time.Duration
	cmd := &cobra.Command{
		Use: "crowd", Short: "Measure what workers that wait for work cost the server",
		Long: `Has many workers wait for work that does not come, each on a connection of its own, and shows the memory that the
server's process has before and while they wait (Linux). Each worker takes a file descriptor here and one at the server:
see ulimit -n.`,
		Example: `  taskfleet bench crowd --workers 10000 --pid "$(pgrep -f 'taskfleet serve')"`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if workers < 1 || pid < 1 {
				return usagef("--workers must be above 0, and --pid is needed")
			}
			s, err := benchSession(cmd, rootURL)
			if err != nil {
				return err
			}
			before, err := residentMemory(pid)
			if err != nil {
				return err
			}
			crowd, err := bench.Gather(cmd.Context(), s.core, workers, settle)
			if err != nil {
				return &sessionError{s, err}
			}
			during, err := residentMemory(pid)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d workers wait: %d MiB, %d MiB before\n", workers, during>>20, before>>20)
			return crowd.Leave()
		},
	}
	cmd.Flags().StringVar(&rootURL, "root-url", "", "the server (default: that of the credentials)")
	cmd.Flags().IntVar(&workers, "workers", 10_000, "workers that wait")
	cmd.Flags().IntVar(&pid, "pid", 0, "process id of the server")
	cmd.Flags().DurationVar(&settle, "settle", 45*time.Second, "how long they wait before the memory is read: two polls or more")
	return cmd
}

func newBenchGroupCommand() *cobra.Command {
	var rootURL string
	var asJSON bool
	var pid int
	o := bench.GroupOptions{}
	cmd := &cobra.Command{
		Use: "group", Short: "Measure how the queue bears a large task group",
		Long: `Creates one group of many tasks: one with very many dependents, and levels of tasks that depend on several of the level
above. Compares the speed of the first
and the last creations, resolves the task with the dependents and looks whom that holds up, and lists the group. The
tasks stay: use a deployment that was set up for it.`,
		Example: `  taskfleet bench group --tasks 1000000 --wide 100000 --pid "$(pgrep -f 'taskfleet serve')"`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := benchSession(cmd, rootURL)
			if err != nil {
				return err
			}
			o.Client = s.core
			var most int64
			var memoryErr error
			next := 0
			o.Progress = func(done int) {
				if pid > 0 {
					var now int64
					if now, memoryErr = residentMemory(pid); now > most {
						most = now
					}
				}
				if done >= next {
					fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d tasks\n", done, o.Tasks)
					next = done + max(o.Tasks/20, 1)
				}
			}
			r, err := bench.Group(cmd.Context(), o)
			if err != nil {
				return &sessionError{s, err}
			}
			if memoryErr != nil {
				return memoryErr
			}
			if pid > 0 {
				now, err := residentMemory(pid)
				if err != nil {
					return err
				}
				most = max(most, now)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r)
			}
			out := cmd.OutOrStdout()
			fmt.Fprintf(out, "%d tasks created in %s; the first at %.0f per second, the last at %.0f (%.0f %%)\n",
				r.Tasks, r.Took.Round(time.Second), r.First, r.Last, 100*r.Last/r.First)
			fmt.Fprintf(out, "%d dependents pending %s after what they waited for; meanwhile %d statuses, p99 %s, max %s; createTask max %s\n",
				o.Wide, r.Released.Round(time.Millisecond), r.Statuses, milliseconds(r.StatusP99), milliseconds(r.StatusMax), milliseconds(r.CreateMax))
			fmt.Fprintf(out, "%d pages of 1000, p50 %s, p99 %s, max %s\n", r.Pages, milliseconds(r.PageP50), milliseconds(r.PageP99), milliseconds(r.PageMax))
			if pid > 0 {
				fmt.Fprintf(out, "the server had at most %d MiB\n", most>>20)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&rootURL, "root-url", "", "the server (default: that of the credentials)")
	f.IntVar(&o.Tasks, "tasks", 100_000, "tasks of the group")
	f.IntVar(&o.Levels, "levels", 10, "levels of tasks")
	f.IntVar(&o.FanOut, "fan-out", 10, "tasks of the next level that depend on each")
	f.IntVar(&o.Wide, "wide", 10_000, "dependents of one task")
	f.IntVar(&o.Clients, "clients", 32, "clients that create tasks")
	f.IntVar(&pid, "pid", 0, "process id of the server, for its memory")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// residentMemory is what a process has in memory, in bytes.
func residentMemory(pid int) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("the memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(text)) {
		if kib, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(kib), " kB"), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("the memory of process %d: /proc does not tell", pid)
}
