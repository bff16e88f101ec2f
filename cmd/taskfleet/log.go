package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/task"
)

func newTaskLogCommand() *cobra.Command {
	run := latestRun
	cmd := &cobra.Command{
		Use: "log TASK", Short: "Print a task's log, following it until the task has ended",
		Long: `Prints the log of a task. While the task runs, it follows the log; where a run is lost and the task tries again, it
goes on with the next run. Remarks go to standard error.`,
		Example: "  taskfleet task log fN1SbArXTPSVFNUvaOlinQ\n  taskfleet task log --run 0 fN1SbArXTPSVFNUvaOlinQ",
		Args:    oneTask,
		RunE: withSession(client.Retry{}, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			f := &logFollower{queue: queue.New(s.core), taskID: args[0], only: run, out: cmd.OutOrStdout(), note: cmd.ErrOrStderr()}
			status, err := f.follow(ctx)
			if err != nil {
				return noSuchTask(err, args[0])
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "the task is %s\n", outcome(status))
			return nil
		}),
	}
	runFlag(cmd, &run)
	return cmd
}

const latestRun = -1

func runFlag(cmd *cobra.Command, run *int) {
	cmd.Flags().IntVar(run, "run", latestRun, "number of the run, counted from 0 (default: the latest)")
	cmd.Flags().Lookup("run").DefValue = ""
}

// logFollower prints the log of a task as it grows.
type logFollower struct {
	queue  *queue.Client
	taskID string
	only   int // the one run to print; latestRun: the latest and those that follow
	out    io.Writer
	note   io.Writer

	name    string // of the log's artifact
	run     int    // that is being printed
	printed int64  // bytes of it so far
	noted   string
}

const (
	// How often a task that does not run yet, or has no log yet, is looked at.
	logPoll = 500 * time.Millisecond
	// How long a run that has ended may lack its log.
	logGrace = 10 * time.Second
)

// follow prints until the task, or the one run, has ended.
func (f *logFollower) follow(ctx context.Context) (*queue.TaskStatus, error) {
	definition, err := f.queue.Task(ctx, f.taskID)
	if err != nil {
		return nil, err
	}
	f.name = logName(definition.Payload)
	f.run = f.only
	for {
		reply, err := f.queue.Status(ctx, f.taskID)
		if err != nil {
			return nil, err
		}
		s := &reply.Status
		over, err := f.step(ctx, s)
		if over || err != nil {
			return s, err
		}
		select {
		case <-time.After(logPoll):
		case <-ctx.Done():
			return s, context.Cause(ctx)
		}
	}
}

// step prints what can be printed now.
func (f *logFollower) step(ctx context.Context, s *queue.TaskStatus) (over bool, err error) {
	if f.run == latestRun && len(s.Runs) > 0 {
		f.run = len(s.Runs) - 1
	}
	switch {
	case f.only >= len(s.Runs) && task.State(s.State).Resolved():
		return true, fmt.Errorf("the task has no run %d; it has %s", f.only, plural(len(s.Runs), "run"))
	case f.run == latestRun || f.run >= len(s.Runs):
		f.remark("the task is " + s.State)
		return false, nil
	}
	r := s.Runs[f.run]
	switch task.State(r.State) {
	case task.Pending:
		f.remark(fmt.Sprintf("run %d is pending in %s", r.RunID, s.TaskQueueID))
	case task.Running:
		f.remark(fmt.Sprintf("run %d is running on %s", r.RunID, r.WorkerID))
		return false, f.print(ctx, false)
	default:
		if !r.Started.IsZero() {
			err := f.print(ctx, true)
			switch {
			case client.IsNotFound(err) && time.Since(r.Resolved.Time()) < logGrace:
				return false, nil
			case client.IsNotFound(err):
				f.remark(fmt.Sprintf("run %d has no log", r.RunID))
			case err != nil:
				return true, err
			}
		} else {
			f.remark(fmt.Sprintf("run %d ended before a worker started it: %s", r.RunID, cmp.Or(r.ReasonResolved, r.State)))
		}
		if f.only == latestRun && f.run+1 < len(s.Runs) {
			f.run++
			f.printed = 0
			return f.step(ctx, s)
		}
		return f.only != latestRun || task.State(s.State).Resolved(), nil
	}
	return false, nil
}

// print prints what the log has beyond what was printed, to its end.
func (f *logFollower) print(ctx context.Context, ended bool) error {
	where, err := f.queue.GetArtifact(ctx, f.taskID, f.run, f.name)
	if client.IsNotFound(err) && !ended {
		return nil // the worker has not said yet where it is
	} else if err != nil {
		return err
	}
	c, err := openContent(ctx, where.StorageType, where.URL)
	if err == nil {
		defer c.Close()
		_, err = io.CopyN(io.Discard, c, f.printed)
	}
	if err == nil {
		var n int64
		n, err = io.Copy(f.out, c)
		f.printed += n
	}
	switch {
	case err == io.EOF, err == nil:
		return nil // shorter than before: a live log ends when its worker does
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case !ended:
		return nil // the connection to the worker; what is missing comes with the next one
	}
	return fmt.Errorf("reading the log: %w", err)
}

// remark notes something that is not the log, once.
func (f *logFollower) remark(s string) {
	if s != f.noted {
		f.noted = s
		fmt.Fprintln(f.note, s)
	}
}

// logName is where the worker puts the log, which the payload can change.
func logName(payload json.RawMessage) string {
	var p struct {
		Logs struct {
			Live string `json:"live"`
		} `json:"logs"`
	}
	// Of another kind of payload nothing is known, and the usual name is as good as any.
	if err := json.Unmarshal(payload, &p); err != nil {
		p.Logs.Live = ""
	}
	return cmp.Or(p.Logs.Live, "public/logs/live.log")
}
