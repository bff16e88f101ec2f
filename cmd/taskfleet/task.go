package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

func newTaskCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "task", Short: "Create tasks and look after them",
	},
		newTaskCreateCommand(), newTaskStatusCommand(), newTaskLogCommand(),
		newTaskCancelCommand(), newTaskRerunCommand(), newTaskArtifactsCommand(), newTaskDownloadCommand(),
	)
}

// newTask is a task as flags describe it.
type newTask struct {
	file, id, queue, name, description, owner, source, priority string
	runTime, deadline                                           string
	env, artifacts, dependencies, scopes                        []string
	follow, asJSON                                              bool
}

func newTaskCreateCommand() *cobra.Command {
	var n newTask
	cmd := &cobra.Command{
		Use: "create --queue QUEUE [flags] -- COMMAND [ARGUMENT]...", Short: "Create a task",
		Long: `Creates a task that runs one command, and prints its id. --follow goes on to print its log; the exit code is then 0
only if the task completed. With -f the definition comes from a file instead, in the form of the queue's createTask
(YAML or JSON); created and deadline may be left out.`,
		Example: `  taskfleet task create --queue local/build --follow -- sh -c 'echo hello'
  taskfleet task create --queue local/build --artifact public/date.txt=date.txt -- sh -c 'date > date.txt'
  taskfleet task create -f task.yml`,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			return n.create(ctx, s, cmd, args)
		}),
	}
	f := cmd.Flags()
	f.StringVarP(&n.file, "file", "f", "", "a file with the definition, instead of a command")
	f.StringVar(&n.id, "id", "", "the task's id; creating the same task twice does no harm (default: a new one)")
	f.StringVarP(&n.queue, "queue", "q", "", "the task queue, which is the id of a worker pool")
	f.StringVar(&n.name, "name", "", "what lists call it (default: the command)")
	f.StringVar(&n.description, "description", "", "what it does and why")
	f.StringVar(&n.owner, "owner", "", "whom to ask about it (default: the client id)")
	f.StringVar(&n.source, "source", "", "URL of where its recipe is kept (default: the root URL)")
	f.StringVar(&n.priority, "priority", "", "lowest to highest")
	f.StringVar(&n.runTime, "max-run-time", "1 hour", "how long the command may run")
	f.StringVar(&n.deadline, "deadline", "1 day", "when the task must have ended")
	f.StringArrayVarP(&n.env, "env", "e", nil, "NAME=VALUE of an environment variable; may be repeated")
	f.StringArrayVarP(&n.artifacts, "artifact", "a", nil, "NAME=PATH of a file to keep, PATH/ of a directory; may be repeated")
	f.StringArrayVar(&n.dependencies, "dependency", nil, "id of a task that has to complete first; may be repeated")
	f.StringArrayVar(&n.scopes, "scope", nil, "a scope that the task has; may be repeated")
	f.BoolVar(&n.follow, "follow", false, "print the log until the task has ended")
	jsonFlag(cmd, &n.asJSON)
	cmd.MarkFlagsMutuallyExclusive("json", "follow")
	return cmd
}

func (n *newTask) create(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
	var d queue.CreateTaskRequest
	var err error
	switch {
	case n.file != "" && len(args) > 0:
		return usagef("the definition comes from %s, so a command makes no sense: %s", n.file, strings.Join(args, " "))
	case n.file != "":
		d, err = readDefinition(n.file, cmd.InOrStdin())
	default:
		d, err = n.definition(args, s)
	}
	if err != nil {
		return err
	}
	id := cmp.Or(n.id, slugid.New())
	if !slugid.Valid(id) {
		return usagef("--id is %q; it must be a slug of 22 characters, such as %s", id, slugid.New())
	}
	q := queue.New(s.core)
	reply, err := q.CreateTask(ctx, id, &d)
	if err != nil {
		return err
	}
	if n.asJSON {
		return printJSON(cmd.OutOrStdout(), reply.Status)
	}
	if !n.follow {
		_, err = fmt.Fprintln(cmd.OutOrStdout(), id)
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "task %s\n", id)
	status, err := (&logFollower{queue: q, taskID: id, out: cmd.OutOrStdout(), note: cmd.ErrOrStderr()}).follow(ctx)
	if err != nil {
		return err
	}
	if task.State(status.State) != task.Completed {
		return fmt.Errorf("the task ended as %s", outcome(status))
	}
	return nil
}

// definition makes a definition out of the flags.
func (n *newTask) definition(args []string, s *session) (d queue.CreateTaskRequest, err error) {
	switch {
	case len(args) == 0:
		return d, usagef("a task needs a command: write it after --, such as -- sh -c 'echo hello'")
	case n.queue == "":
		return d, usagef("which workers are to run it? Name a queue with --queue; taskfleet pool list shows the pools, whose ids are queues")
	}
	payload := map[string]any{"command": [][]string{args}}
	runTime, err := graph.ParseDuration(n.runTime)
	if err != nil {
		return d, usagef("--max-run-time: %v", err)
	}
	payload["maxRunTime"] = int(runTime.Seconds())
	deadline, err := graph.ParseDuration(n.deadline)
	if err != nil {
		return d, usagef("--deadline: %v", err)
	}
	if len(n.env) > 0 {
		env := map[string]string{}
		for _, v := range n.env {
			name, value, ok := strings.Cut(v, "=")
			if !ok {
				return d, usagef("--env is %q; it must be NAME=VALUE", v)
			}
			env[name] = value
		}
		payload["env"] = env
	}
	var artifacts []map[string]string
	for _, a := range n.artifacts {
		name, path, ok := strings.Cut(a, "=")
		if !ok || name == "" || path == "" {
			return d, usagef("--artifact is %q; it must be NAME=PATH", a)
		}
		kind := "file"
		if strings.HasSuffix(path, "/") {
			kind = "directory"
		}
		artifacts = append(artifacts, map[string]string{"type": kind, "name": name, "path": path})
	}
	if artifacts != nil {
		payload["artifacts"] = artifacts
	}
	d = queue.CreateTaskRequest{
		TaskQueueID: n.queue, Priority: n.priority, Dependencies: n.dependencies, Scopes: n.scopes,
		Metadata: queue.TaskMetadata{
			Name:        cmp.Or(n.name, clip(strings.Join(args, " "), 100)),
			Description: cmp.Or(n.description, "Created with taskfleet task create."),
			Owner:       cmp.Or(n.owner, s.core.Credentials().ClientID, "anonymous"),
			Source:      cmp.Or(n.source, s.core.RootURL()),
		},
	}
	d.Created = timestamp.Now()
	d.Deadline = d.Created.Add(deadline)
	d.Payload, err = json.Marshal(payload)
	return d, err
}

// readDefinition reads a definition in the API's form from a file, or from in
// where the file is "-".
func readDefinition(file string, in io.Reader) (d queue.CreateTaskRequest, err error) {
	var text []byte
	if file == "-" {
		text, err = io.ReadAll(in)
	} else {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return d, fmt.Errorf("reading the definition: %w", err)
	}
	if err := yaml.UnmarshalStrict(text, &d); err != nil {
		return d, fmt.Errorf("%s is no task definition: %w", file, err)
	}
	if d.Created.IsZero() {
		d.Created = timestamp.Now()
	}
	if d.Deadline.IsZero() {
		d.Deadline = d.Created.Add(24 * time.Hour)
	}
	return d, nil
}

// outcome words how far a task has come: "failed", "exception (canceled)".
func outcome(s *queue.TaskStatus) string {
	run := graph.LatestRun(s)
	if run == nil || run.ReasonResolved == "" || run.ReasonResolved == s.State {
		return s.State
	}
	return fmt.Sprintf("%s (%s)", s.State, run.ReasonResolved)
}

func newTaskStatusCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status TASK", Short: "Show how far a task has come, and its runs",
		Example: "  taskfleet task status fN1SbArXTPSVFNUvaOlinQ",
		Args:    oneTask,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			q := queue.New(s.core)
			reply, err := q.Status(ctx, args[0])
			if err != nil {
				return noSuchTask(err, args[0])
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), reply.Status)
			}
			definition, err := q.Task(ctx, args[0])
			if err != nil {
				return err
			}
			return printStatus(cmd.OutOrStdout(), definition, &reply.Status)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printStatus(w io.Writer, d *queue.Task, s *queue.TaskStatus) error {
	fmt.Fprintf(w, "task      %s\nname      %s\nstate     %s\nqueue     %s\ngroup     %s\ndeadline  %s (%s)\n",
		s.TaskID, plain.Line(d.Metadata.Name), outcome(s), s.TaskQueueID, s.TaskGroupID, s.Deadline, distance(s.Deadline))
	if s.State == string(task.Unscheduled) {
		fmt.Fprintf(w, "waits     for %s (%s)\n", plural(len(d.Dependencies), "other task"), d.Requires)
	}
	if len(s.Runs) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := table{head: []string{"RUN", "STATE", "WHY", "STARTED", "TOOK", "WORKER"}}
	for _, r := range s.Runs {
		started, duration := "-", "-"
		if !r.Started.IsZero() {
			started = ago(r.Started)
			end := r.Resolved
			if end.IsZero() {
				end = timestamp.Now()
			}
			duration = took(end.Sub(r.Started))
		}
		state := r.State
		if r.ReasonResolved != "" && r.ReasonResolved != r.State {
			state += " (" + r.ReasonResolved + ")"
		}
		t.add(strconv.Itoa(r.RunID), state, r.ReasonCreated, started, duration, cmp.Or(r.WorkerID, "-"))
	}
	return t.print(w)
}

func distance(t timestamp.Time) string {
	if d := time.Until(t.Time()); d >= 0 {
		return "in " + took(d)
	}
	return ago(t)
}

func newTaskCancelCommand() *cobra.Command {
	return newTaskVerbCommand("cancel", "Cancel a task: it ends as an exception, and its worker stops working on it",
		func(ctx context.Context, q *queue.Client, id string) (*queue.TaskStatusResponse, error) {
			return q.CancelTask(ctx, id)
		})
}

func newTaskRerunCommand() *cobra.Command {
	return newTaskVerbCommand("rerun", "Run a task again that has ended",
		func(ctx context.Context, q *queue.Client, id string) (*queue.TaskStatusResponse, error) {
			return q.RerunTask(ctx, id)
		})
}

func newTaskVerbCommand(verb, short string, call func(context.Context, *queue.Client, string) (*queue.TaskStatusResponse, error)) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: verb + " TASK", Short: short, Args: oneTask,
		Example: "  taskfleet task " + verb + " fN1SbArXTPSVFNUvaOlinQ",
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			reply, err := call(ctx, queue.New(s.core), args[0])
			if err != nil {
				return noSuchTask(err, args[0])
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), reply.Status)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is %s\n", args[0], outcome(&reply.Status))
			return err
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// oneTask accepts one task id.
func oneTask(cmd *cobra.Command, args []string) error {
	if err := cobra.ExactArgs(1)(cmd, args); err != nil {
		return err
	}
	return validTask(args[0])
}

func validTask(id string) error {
	if !slugid.Valid(id) {
		return usagef("%q is no task id: those are slugs of 22 characters, such as %s", id, slugid.New())
	}
	return nil
}

// noSuchTask puts a 404 about a task into plain words.
func noSuchTask(err error, id string) error {
	var refusal *client.Error
	if errors.As(err, &refusal) && refusal.StatusCode == 404 {
		return fmt.Errorf("there is no task %s here, or it has expired: %w", id, err)
	}
	return err
}
