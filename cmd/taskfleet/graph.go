package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

func newGraphCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "graph", Short: "Submit graphs of tasks and watch them",
	}, newGraphSubmitCommand(), newGraphWatchCommand(), newGraphCancelCommand())
}

func newGraphSubmitCommand() *cobra.Command {
	var parameters []string
	var watch, asJSON, dryRun bool
	cmd := &cobra.Command{
		Use: "submit FILE|DIR", Short: "Create the tasks of a graph file",
		Long: `Creates the tasks of a graph, each after those it depends on, and prints the id of their group. DIR is one with a
graph.yml. Creating starts work at once; with --watch the command stays until nothing more happens, and its exit code
is 0 only if every task completed.

--dry-run talks to nobody: it checks the file and shows what would be created, with --json each definition in full.`,
		Example: `  taskfleet graph submit examples/fan --watch
  taskfleet graph submit examples/self --param version=1.2.0 --json
  taskfleet graph submit examples/self --dry-run`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			values, err := parseParameters(parameters)
			if err != nil {
				return err
			}
			g, err := graph.Load(args[0], graph.Options{Parameters: values})
			if err != nil {
				return err
			}
			if dryRun {
				return printGraph(cmd.OutOrStdout(), g, asJSON)
			}
			return withSession(client.Patient, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
				return submitGraph(ctx, s, cmd, g, watch, asJSON)
			})(cmd, nil)
		},
	}
	parameterFlag(cmd, &parameters)
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "watch the tasks until nothing more happens")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "check the graph and show its tasks, without creating them")
	jsonFlag(cmd, &asJSON)
	cmd.MarkFlagsMutuallyExclusive("watch", "dry-run")
	return cmd
}

// submittedGraph is what submitting yields, for programs.
type submittedGraph struct {
	TaskGroupID string          `json:"taskGroupId"`
	Tasks       []submittedTask `json:"tasks"`
}

type submittedTask struct {
	Label      string                   `json:"label"`
	TaskID     string                   `json:"taskId"`
	Definition *queue.CreateTaskRequest `json:"definition,omitempty"`
}

func describeGraph(g *graph.Graph, definitions bool) submittedGraph {
	out := submittedGraph{TaskGroupID: g.GroupID}
	for i, t := range g.Tasks {
		s := submittedTask{Label: t.Label, TaskID: t.ID}
		if definitions {
			s.Definition = &g.Tasks[i].Definition
		}
		out.Tasks = append(out.Tasks, s)
	}
	return out
}

func printGraph(w io.Writer, g *graph.Graph, asJSON bool) error {
	if asJSON {
		return printJSON(w, describeGraph(g, true))
	}
	for _, p := range g.Parameters {
		fmt.Fprintf(w, "parameter %s = %s\n", p.Name, p.Value)
	}
	t := table{head: []string{"TASK", "QUEUE", "DEPENDS ON"}}
	for _, x := range g.Tasks {
		needs := strings.Join(x.Dependencies, " ")
		if n := len(x.Dependencies); n > 2 {
			needs = fmt.Sprintf("%s and %d more", x.Dependencies[0], n-1)
		}
		if x.Definition.Requires == string(task.AllResolved) {
			needs += " (resolved)"
		}
		t.add(x.Label, x.Definition.TaskQueueID, needs)
	}
	if err := t.print(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%s; nothing was created\n", plural(len(g.Tasks), "task"))
	return err
}

func submitGraph(ctx context.Context, s *session, cmd *cobra.Command, g *graph.Graph, watch, asJSON bool) error {
	if err := graph.Submit(ctx, s.core, g, nil); err != nil {
		var partly *graph.PartlySubmitted
		if errors.As(err, &partly) && partly.Created > 0 {
			return fmt.Errorf("%w\nThose that exist may be running; taskfleet graph cancel %s ends them", err, g.GroupID)
		}
		return err
	}
	switch {
	case watch && asJSON:
		if err := printLine(cmd.OutOrStdout(), describeGraph(g, false)); err != nil {
			return err
		}
	case asJSON:
		return printJSON(cmd.OutOrStdout(), describeGraph(g, false))
	case watch:
		fmt.Fprintf(cmd.ErrOrStderr(), "group %s\n", g.GroupID)
	default:
		_, err := fmt.Fprintln(cmd.OutOrStdout(), g.GroupID)
		return err
	}
	return watchGroup(ctx, s, cmd, g.GroupID, g.Name, asJSON)
}

func newGraphWatchCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "watch GROUP", Short: "Watch a task group until nothing more happens",
		Long: `Shows the tasks of a group as they go on, and ends when all are resolved, or those that are not wait for one that
failed. The exit code is 0 only if every task completed. With --json it prints one JSON object per line: each step of
a task, and at the end the counts.`,
		Example: "  taskfleet graph watch fN1SbArXTPSVFNUvaOlinQ",
		Args:    oneTask,
		RunE: withSession(client.Patient, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			return watchGroup(ctx, s, cmd, args[0], "group "+args[0], asJSON)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// stepJSON is a step of a task, for programs.
type stepJSON struct {
	Time   timestamp.Time `json:"time"` // when this command learned of it
	TaskID string         `json:"taskId"`
	Name   string         `json:"name"`
	State  string         `json:"state"`
	RunID  *int           `json:"runId,omitempty"`
	Reason string         `json:"reasonResolved,omitempty"`
	Worker string         `json:"workerId,omitempty"`
}

func newStepJSON(c graph.Change) stepJSON {
	out := stepJSON{Time: timestamp.Now(), TaskID: c.Task.ID, Name: c.Task.Name, State: c.Task.Status.State}
	if r := c.Run(); r != nil {
		out.RunID, out.Reason, out.Worker = &r.RunID, r.ReasonResolved, r.WorkerID
	}
	return out
}

func watchGroup(ctx context.Context, s *session, cmd *cobra.Command, groupID, name string, asJSON bool) error {
	out := cmd.OutOrStdout()
	if asJSON {
		p, err := graph.Watch(ctx, s.core, groupID, func(_ *graph.Progress, c graph.Change) { printLine(out, newStepJSON(c)) })
		if err != nil {
			return err
		}
		err = printLine(out, struct {
			TaskGroupID string       `json:"taskGroupId"`
			Completed   bool         `json:"completed"`
			Counts      graph.Counts `json:"counts"`
			Blocked     int          `json:"blocked"`
		}{groupID, p.Completed(), p.Counts(), len(p.Blocked())})
		if err == nil && !p.Completed() {
			err = silentError{errors.New("not every task completed")}
		}
		return err
	}
	screen := newScreen(out, view{name: name, rootURL: s.core.RootURL()})
	p, err := graph.Watch(ctx, s.core, groupID, screen.step)
	screen.close()
	if err != nil {
		return err
	}
	fmt.Fprint(out, "\n", summary(p))
	if !p.Completed() {
		return silentError{errors.New("not every task completed")}
	}
	return nil
}

// summary tells how a group ended, and names the tasks that did not complete.
func summary(p *graph.Progress) string {
	counts := p.Counts()
	if p.Completed() {
		return fmt.Sprintf("All %s completed.\n", plural(counts.Total(), "task"))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d of %s completed. These did not:\n", counts.Completed, plural(counts.Total(), "task"))
	t := table{head: []string{"TASK", "ID", "OUTCOME"}}
	blocked := p.Blocked()
	for _, x := range p.Tasks() {
		switch by := blocked[x.ID]; {
		case by != "":
			t.add(x.Name, x.ID, fmt.Sprintf("waits for %s, until its deadline %s", by, distance(x.Status.Deadline)))
		case task.State(x.Status.State) != task.Completed:
			t.add(x.Name, x.ID, outcome(&x.Status)+runTimeOf(&x.Status))
		}
	}
	b.WriteString(t.text(0))
	return b.String()
}

func runTimeOf(s *queue.TaskStatus) string {
	if r := graph.LatestRun(s); r != nil {
		return runTime(r)
	}
	return ""
}

func newGraphCancelCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "cancel GROUP", Short: "Cancel all tasks of a group that have not ended",
		Long:    "Closes a group to further tasks and cancels those of its tasks that have not ended.",
		Example: "  taskfleet graph cancel fN1SbArXTPSVFNUvaOlinQ",
		Args:    oneTask,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			q := queue.New(s.core)
			if _, err := q.SealTaskGroup(ctx, args[0]); err != nil {
				return err
			}
			reply, err := q.CancelTaskGroup(ctx, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), reply)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "canceled %d of %s\n", reply.CancelledCount, plural(int(reply.TaskGroupSize), "task"))
			return err
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
