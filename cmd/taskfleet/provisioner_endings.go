package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client/provisioner"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An endedWorker is what came of the wish to have a worker end.
type endedWorker struct {
	WorkerPoolID string `json:"workerPoolId"`
	WorkerGroup  string `json:"workerGroup"`
	WorkerID     string `json:"workerId"`
	provisioner.WorkerEnding
}

// A workerCall drains or terminates one worker.
type workerCall func(ctx context.Context, p *provisioner.Client, w *provisioner.WorkerState) (*provisioner.WorkerEnding, error)

func newDrainCommand() *cobra.Command {
	return newEndingCommand(&cobra.Command{
		Use: "drain POOL WORKER...", Short: "Have workers end when they are done",
		Long: `Has workers end when they are done: they get no more tasks from this moment on, finish those that they have, and end.
This cannot be taken back. To keep a worker for looking at it, quarantine it.`,
		Example: "  taskfleet provisioner workers drain aws/build i-0123456789abcdef0 --wait",
	}, func(ctx context.Context, p *provisioner.Client, w *provisioner.WorkerState) (*provisioner.WorkerEnding, error) {
		return p.DrainWorker(ctx, w.WorkerPoolID, w.WorkerGroup, w.WorkerID)
	}, false)
}

func newTerminateCommand() *cobra.Command {
	return newEndingCommand(&cobra.Command{
		Use: "terminate POOL WORKER...", Short: "End workers at once",
		Long: `Ends workers at once, without asking them. Their tasks run again elsewhere. On a terminal it asks first if they have
some. To let them finish their tasks, drain them.`,
		Example: "  taskfleet provisioner workers terminate aws/build i-0123456789abcdef0",
	}, func(ctx context.Context, p *provisioner.Client, w *provisioner.WorkerState) (*provisioner.WorkerEnding, error) {
		return p.TerminateWorker(ctx, w.WorkerPoolID, w.WorkerGroup, w.WorkerID)
	}, true)
}

// newEndingCommand completes a command that has workers end.
func newEndingCommand(cmd *cobra.Command, call workerCall, loses bool) *cobra.Command {
	var asJSON, wait, yes bool
	cmd.Args, cmd.ValidArgsFunction = cobra.MinimumNArgs(2), completeWorkers
	cmd.RunE = withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
		workers, err := findWorkers(ctx, s, args[0], args[1:])
		if err != nil {
			return err
		}
		claims := int64(0)
		for _, w := range workers {
			claims += w.Claims
		}
		if loses && claims > 0 {
			if err := confirm(cmd, yes, fmt.Sprintf("%s will run again elsewhere. End %s?", count(claims, "task"), count(len(workers), "worker"))); err != nil {
				return err
			}
		}
		out, p := cmd.OutOrStdout(), provisioner.New(s.core)
		ended := make([]endedWorker, 0, len(workers))
		for _, w := range workers {
			e, err := call(ctx, p, &w)
			if err != nil {
				return aboutWorker(err, w.WorkerPoolID, w.WorkerID)
			}
			ended = append(ended, endedWorker{w.WorkerPoolID, w.WorkerGroup, w.WorkerID, *e})
			if !asJSON {
				fmt.Fprint(out, wrap(w.WorkerID+": "+e.Message, lineWidth(out), ""))
			}
		}
		if wait {
			if err := waitForEnd(ctx, cmd, p, ended, asJSON); err != nil {
				return err
			}
		}
		if asJSON {
			return printJSON(out, ended)
		}
		return nil
	})
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until they have ended")
	if loses {
		yesFlag(cmd, &yes)
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// waitForEnd waits for workers to have ended, and brings what is known of them
// up to date.
func waitForEnd(ctx context.Context, cmd *cobra.Command, p *provisioner.Client, ended []endedWorker, quiet bool) error {
	out := cmd.OutOrStdout()
	if quiet {
		out = io.Discard
	}
	return waitFor(cmd, func() (string, error) {
		var left, tasks int64
		for i := range ended {
			e := &ended[i]
			if e.State == "stopped" {
				continue
			}
			w, err := p.WorkerState(ctx, e.WorkerPoolID, e.WorkerGroup, e.WorkerID)
			if err != nil {
				return "", aboutWorker(err, e.WorkerPoolID, e.WorkerID)
			}
			e.State, e.Claims = w.State, w.Claims
			if w.State == "stopped" {
				e.Message = "It has ended: " + w.Reason + "."
				fmt.Fprint(out, wrap(e.WorkerID+": "+e.Message, lineWidth(out), ""))
				continue
			}
			left++
			tasks += w.Claims
		}
		if left == 0 {
			return "", nil
		}
		return fmt.Sprintf("%s left, with %s", numbered(left, "worker", "workers"), numbered(tasks, "task", "tasks")), nil
	})
}

func newQuarantineCommand() *cobra.Command {
	var asJSON, end bool
	var length, reason string
	var until timestamp.Time
	cmd := &cobra.Command{
		Use: "quarantine POOL WORKER...", Short: "Keep workers from getting tasks, to look at them",
		Long: `Keeps workers from getting tasks for a time, without ending them, so that somebody can look at them. They finish the
tasks that they have. A worker in quarantine takes room in its pool, and costs money; it ends with its pool, and when
it is as old as workers of the pool may get. --end ends a quarantine early.`,
		Example: `  taskfleet provisioner workers quarantine aws/build i-0123456789abcdef0 --for 4h --reason "disk is slow"
  taskfleet provisioner workers quarantine aws/build i-0123456789abcdef0 --end`,
		Args: cobra.MinimumNArgs(2), ValidArgsFunction: completeWorkers,
		PreRunE: func(*cobra.Command, []string) error {
			d, err := graph.ParseDuration(length)
			if err != nil {
				return usagef("--for: %v", err)
			}
			if until = timestamp.Now(); !end {
				until = until.Add(d)
			}
			return nil
		},
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			workers, err := findWorkers(ctx, s, args[0], args[1:])
			if err != nil {
				return err
			}
			provisionerID, workerType, _ := strings.Cut(args[0], "/")
			q, out := queue.New(s.core), cmd.OutOrStdout()
			records := []*queue.WorkerResponse{}
			for _, w := range workers {
				r, err := q.QuarantineWorker(ctx, provisionerID, workerType, w.WorkerGroup, w.WorkerID, &queue.QuarantineWorkerRequest{
					QuarantineUntil: until, QuarantineInfo: reason,
				})
				if err != nil {
					return aboutQuarantine(err, &w)
				}
				records = append(records, r)
				if asJSON {
					continue
				}
				text := "is not in quarantine any more"
				if !end {
					text = "is in quarantine until " + when(until, timestamp.Now())
					if w.Claims > 0 {
						text += fmt.Sprintf("; it finishes %s first", numbered(w.Claims, "task", "tasks"))
					}
				}
				fmt.Fprintf(out, "%s %s\n", w.WorkerID, text)
			}
			if asJSON {
				return printJSON(out, records)
			}
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringVar(&length, "for", "1 day", "how long the quarantine lasts")
	f.BoolVar(&end, "end", false, "end the quarantine")
	f.StringVar(&reason, "reason", "", "why, for others who look at the worker")
	cmd.MarkFlagsMutuallyExclusive("for", "end")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// aboutQuarantine says what to do about a worker that the queue does not know.
func aboutQuarantine(err error, w *provisioner.WorkerState) error {
	if w.Registered.IsZero() {
		return fmt.Errorf("the worker %s has not registered yet, so that the queue does not know it. Wait until it has, or terminate it: %w", w.WorkerID, err)
	}
	if !w.LastActive.IsZero() && time.Since(w.LastActive.Time()) > 24*time.Hour {
		return fmt.Errorf("the worker %s has not asked for work for a day, and the queue may have forgotten it; terminate it: %w", w.WorkerID, err)
	}
	return err
}
