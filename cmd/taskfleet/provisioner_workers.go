package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client/provisioner"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/timestamp"
)

func newWorkersCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "workers", Short: "Show workers, and end them",
	}, newWorkersListCommand(), newWorkerShowCommand(), newDrainCommand(), newTerminateCommand(), newQuarantineCommand())
}

func newWorkersListCommand() *cobra.Command {
	var asJSON, stopped bool
	var activity string
	var since moment
	cmd := &cobra.Command{
		Use: "list [POOL...]", Short: "List workers, what they do and where they were bought", Aliases: []string{"ls"},
		Long: `Lists the workers of some pools, or of all. Those that have stopped are listed with --stopped: when and why they did,
and what they cost. They are known for a week.`,
		Example: `  taskfleet provisioner workers list aws/build
  taskfleet provisioner workers list --activity quarantined
  taskfleet provisioner workers list aws/build --stopped --since 2h`,
		ValidArgsFunction: completeAnyPools,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			ids, err := poolsOrAll(ctx, s, args)
			if err != nil {
				return err
			}
			state := ""
			if stopped {
				state = "stopped"
			}
			workers := []provisioner.WorkerState{}
			for _, id := range ids {
				list, err := poolWorkers(ctx, s, id, state)
				if err != nil {
					return err
				}
				workers = append(workers, list...)
			}
			workers = slices.DeleteFunc(workers, func(w provisioner.WorkerState) bool {
				return activity != "" && w.Activity != activity || since.set() && lastEvent(&w) < since.timestamp()
			})
			if asJSON {
				return printJSON(cmd.OutOrStdout(), workers)
			}
			now := timestamp.Now()
			if stopped {
				slices.SortStableFunc(workers, func(a, b provisioner.WorkerState) int { return int(b.LastModified - a.LastModified) })
				return printStopped(cmd.OutOrStdout(), workers, len(ids) > 1, now)
			}
			return printWorkers(cmd.OutOrStdout(), workers, now)
		}),
	}
	cmd.Flags().BoolVar(&stopped, "stopped", false, "list those that have stopped instead of those that have not")
	cmd.Flags().StringVar(&activity, "activity", "", "only those that are "+strings.Join(activities, ", "))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("activity", cobra.FixedCompletions(activities, cobra.ShellCompDirectiveNoFileComp)))
	sinceFlag(cmd, &since, "", "only those that came, or stopped, after that")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if activity != "" && !slices.Contains(activities, activity) {
			return usagef("--activity is %q; it must be one of %s", activity, strings.Join(activities, ", "))
		}
		return nil
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// activities of workers, in the order of their lives.
var activities = []string{"booting", "working", "idle", "quarantined", "draining", "ending", "ended"}

// lastEvent is when a worker came, or stopped.
func lastEvent(w *provisioner.WorkerState) timestamp.Time {
	if w.State == "stopped" {
		return w.LastModified
	}
	return w.Created
}

// doing is since when a worker does what it does, as far as that is known.
func doing(w *provisioner.WorkerState) timestamp.Time {
	switch w.Activity {
	case "booting":
		return w.Created
	case "idle", "quarantined":
		return w.IdleSince
	case "ending", "ended":
		return w.LastModified
	}
	return 0
}

// printWorkers prints a table for each pool.
func printWorkers(w io.Writer, workers []provisioner.WorkerState, now timestamp.Time) error {
	pools := map[string][]provisioner.WorkerState{}
	var order []string
	for _, x := range workers {
		if pools[x.WorkerPoolID] == nil {
			order = append(order, x.WorkerPoolID)
		}
		pools[x.WorkerPoolID] = append(pools[x.WorkerPoolID], x)
	}
	for i, id := range order {
		if len(order) > 1 {
			if i > 0 {
				fmt.Fprintln(w)
			}
			fmt.Fprintln(w, brushFor(w).paint(bold, id))
		}
		t := workerTable(pools[id], now)
		if err := t.print(w); err != nil {
			return err
		}
	}
	if len(order) == 0 {
		_, err := fmt.Fprintln(w, "no workers")
		return err
	}
	return nil
}

// workerTable is workers of one pool.
func workerTable(workers []provisioner.WorkerState, now timestamp.Time) table {
	t := table{head: []string{"WORKER", "ACTIVITY", "TASKS", "AGE", "WHERE"}}
	for _, x := range workers {
		where := x.Market
		if where == "" {
			where = x.WorkerGroup
		}
		activity := x.Activity
		if !x.Current && x.State == "running" && activity != "draining" {
			activity += ", old"
		}
		if since := doing(&x); !since.IsZero() {
			activity += " " + age(since, now)
		}
		t.add(x.WorkerID, activity, fmt.Sprintf("%d/%d", x.Claims, x.Capacity), age(x.Created, now), where)
	}
	return t
}

// printStopped prints how workers ended.
func printStopped(w io.Writer, workers []provisioner.WorkerState, pools bool, now timestamp.Time) error {
	if len(workers) == 0 {
		_, err := fmt.Fprintln(w, "no workers")
		return err
	}
	t := table{head: []string{"STOPPED", "WORKER", "LIVED", "COST", "WHY"}}
	if pools {
		t.head = slices.Insert(t.head, 1, "POOL")
	}
	for _, x := range workers {
		cost := "-"
		if x.Price != nil {
			cost = money(x.Cost)
		}
		row := []string{clock(x.LastModified, now), x.WorkerID, took(x.LastModified.Sub(x.Created)), cost, orDash(x.Reason)}
		if pools {
			row = slices.Insert(row, 1, x.WorkerPoolID)
		}
		t.add(row...)
	}
	return t.print(w)
}

func newWorkerShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show POOL WORKER", Short: "Show all that is known of a worker",
		Long: `Shows all that is known of a worker, by the provisioner and by the queue: its life, its tasks, what it cost, its
quarantine, and errors about it. WORKER is its id, or GROUP/ID where one id is in several groups.`,
		Example: "  taskfleet provisioner workers show aws/build i-0123456789abcdef0",
		Args:    cobra.ExactArgs(2), ValidArgsFunction: completeWorkers,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			found, err := findWorkers(ctx, s, args[0], args[1:])
			if err != nil {
				return err
			}
			w := workerRecord{WorkerState: found[0]}
			if err := w.complete(ctx, s); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), w)
			}
			return w.print(cmd.OutOrStdout(), timestamp.Now())
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// A workerRecord is a worker with what others know of it.
type workerRecord struct {
	provisioner.WorkerState
	Queue  *queue.WorkerResponse           `json:"queue"` // null where it has not asked for work, or may not be seen
	Errors []workermanager.WorkerPoolError `json:"errors"`
}

// searchedErrors is how many of a pool's errors are searched for a worker's.
const searchedErrors = 1000

func (w *workerRecord) complete(ctx context.Context, s *session) (err error) {
	provisionerID, workerType, _ := strings.Cut(w.WorkerPoolID, "/")
	// A worker is shown without what the caller may not see.
	if w.Queue, err = queue.New(s.core).GetWorker(ctx, provisionerID, workerType, w.WorkerGroup, w.WorkerID); err != nil && ctx.Err() != nil {
		return err
	}
	w.Errors = []workermanager.WorkerPoolError{}
	list, err := workermanager.New(s.core).ListWorkerPoolErrors(ctx, w.WorkerPoolID, workermanager.ListWorkerPoolErrorsOptions{Limit: searchedErrors})
	if forbidden(err) {
		return nil
	} else if err != nil {
		return err
	}
	for _, e := range list.WorkerPoolErrors {
		var about struct{ WorkerGroup, WorkerID string }
		if json.Unmarshal(e.Extra, &about) == nil && about.WorkerGroup == w.WorkerGroup && about.WorkerID == w.WorkerID {
			w.Errors = append(w.Errors, e)
		}
	}
	return nil
}

const shownTasks = 5

func (w *workerRecord) print(out io.Writer, now timestamp.Time) error {
	width := lineWidth(out)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(out, "%-11s %s", name, strings.TrimLeft(wrap(fmt.Sprintf(format, args...), width, strings.Repeat(" ", 12)), " "))
	}
	at := func(name string, t timestamp.Time) {
		if !t.IsZero() {
			line(name, "%s", when(t, now))
		}
	}
	line("worker", "%s/%s of %s", w.WorkerGroup, w.WorkerID, w.WorkerPoolID)
	what := w.Activity
	if since := doing(&w.WorkerState); !since.IsZero() && w.State != "stopped" {
		what += " for " + age(since, now)
	}
	line("state", "%s: %s", w.State, what)
	if w.Reason != "" {
		line("because", "%s", w.Reason)
	}
	line("tasks", "%d of %d", w.Claims, w.Capacity)
	if w.Price != nil {
		line("bought", "%s at %s an hour", w.Market, money(*w.Price))
		line("cost", "%s%s", money(w.Cost), map[bool]string{true: "", false: " until now"}[w.State == "stopped"])
	}
	made := w.LaunchConfigID
	if !w.Current && w.State != "stopped" {
		made += ", which the pool does not use any more: it goes when it is idle"
	}
	line("made from", "%s", orDash(made))
	if w.IntentID != "" {
		line("request", "%s of the provider %s", w.IntentID, w.ProviderID)
	}
	at("created", w.Created)
	if !w.Registered.IsZero() {
		line("registered", "%s, after %s", when(w.Registered, now), took(w.Registered.Sub(w.Created)))
	}
	at("active", w.LastActive)
	if w.State == "stopped" {
		line("stopped", "%s, after %s", when(w.LastModified, now), took(w.LastModified.Sub(w.Created)))
	}
	at("ends by", w.Ends)
	if w.State == "running" {
		at("renews by", w.Expires)
	}
	w.printQueue(out, now)
	for i, e := range w.Errors {
		if i == 0 {
			fmt.Fprintln(out, "\nerrors")
		}
		fmt.Fprintf(out, "  %s  %s: %s\n%s", when(e.Reported, now), e.Kind, e.Title, wrap(e.Description, width, "    "))
	}
	return nil
}

func (w *workerRecord) printQueue(out io.Writer, now timestamp.Time) {
	if w.Queue == nil {
		return
	}
	for i, q := range w.Queue.QuarantineDetails {
		if i == 0 {
			fmt.Fprintln(out, "\nquarantine")
		}
		until := "ended"
		if q.QuarantineUntil > q.UpdatedAt {
			until = "until " + when(q.QuarantineUntil, now)
		}
		fmt.Fprint(out, wrap(fmt.Sprintf("%s, by %s: %s. %s", when(q.UpdatedAt, now), q.ClientID, until, q.QuarantineInfo), lineWidth(out), "  "))
	}
	tasks := w.Queue.RecentTasks
	if len(tasks) == 0 {
		return
	}
	fmt.Fprintln(out, "\nlatest tasks")
	for _, t := range slices.Backward(tasks[max(len(tasks)-shownTasks, 0):]) {
		fmt.Fprintf(out, "  %s, run %d\n", t.TaskID, t.RunID)
	}
}
