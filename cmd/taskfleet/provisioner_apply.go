package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/provisioner"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/graph"
)

func newPoolApplyCommand(path string) *cobra.Command {
	var source poolSource
	var asJSON, dryRun, yes bool
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Create a worker pool, or change it to what a file says",
		Long: `Creates a worker pool, or changes the one of that name, so that it is as the file says: workerPoolId, providerId,
description, owner, emailOnError and config, in YAML or JSON, and parameters as a graph file has them.

Before that it shows what changes and what becomes of the workers there are. On a terminal it asks first if workers
are to go.`,
		Example: commandLines(path, "apply -f examples/pool.yml", "apply -f examples/pool.yml --param workers=8", "apply -f pool.yml --dry-run"),
		Args:    cobra.NoArgs,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			p, err := source.load()
			if err != nil {
				return err
			}
			c, err := compare(ctx, s, p)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			switch {
			case asJSON && dryRun:
				return printJSON(out, c.report(source.file))
			case !asJSON:
				if err := c.print(out, source.file); err != nil {
					return err
				}
			}
			if dryRun {
				_, err := fmt.Fprintln(out, "nothing was changed: this was a dry run")
				return err
			}
			full, what := c.stored, "unchanged"
			if !c.same() {
				if c.disturbs {
					if err := confirm(cmd, yes, "Change "+p.ID+"?"); err != nil {
						return err
					}
				}
				var created bool
				if full, created, err = applyPool(ctx, s.core, p); err != nil {
					return err
				}
				if what = "changed"; created {
					what = "created"
				}
			}
			if asJSON {
				return printJSON(out, full)
			}
			_, err = fmt.Fprintf(out, "%s %s\n", what, p.ID)
			return err
		}),
	}
	source.add(cmd)
	cobra.CheckErr(cmd.MarkFlagRequired("file"))
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would change, and change nothing")
	yesFlag(cmd, &yes)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// applyPool creates the pool or, where it exists, updates it.
func applyPool(ctx context.Context, core *client.Client, p *graph.Pool) (full *workermanager.WorkerPoolFull, created bool, err error) {
	wm := workermanager.New(core)
	d := p.Definition
	_, err = wm.WorkerPool(ctx, p.ID)
	switch {
	case client.IsNotFound(err):
		full, err = wm.CreateWorkerPool(ctx, p.ID, &d)
		created = true
	case err == nil:
		full, err = wm.UpdateWorkerPool(ctx, p.ID, &workermanager.UpdateWorkerPoolRequest{
			ProviderID: d.ProviderID, Description: d.Description, Config: d.Config, Owner: d.Owner, EmailOnError: d.EmailOnError,
		})
	}
	if err != nil {
		return nil, false, fmt.Errorf("apply worker pool %s: %w", p.ID, err)
	}
	return full, created, nil
}

// exitDifferent is the exit code of a diff that found differences; one that
// failed has exitTrouble.
const (
	exitDifferent = 1
	exitTrouble   = 2
)

func newPoolDiffCommand(path string) *cobra.Command {
	var source poolSource
	var asJSON bool
	compareAll := withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
		p, err := source.load()
		if err != nil {
			return err
		}
		c, err := compare(ctx, s, p)
		if err != nil {
			return err
		}
		if asJSON {
			err = printJSON(cmd.OutOrStdout(), c.report(source.file))
		} else {
			err = c.print(cmd.OutOrStdout(), source.file)
		}
		if err == nil && !c.same() {
			err = silentError{fmt.Errorf("%s differs", p.ID)}
		}
		return err
	})
	cmd := &cobra.Command{
		Use: "diff -f FILE", Short: "Show how a worker pool differs from what a file says",
		Long: `Shows what applying a file would change, and what would become of the workers there are. Order and spelling make no
difference. The exit code is 0 if nothing would change, 1 if something would, 2 if that could not be found out.`,
		Example: commandLines(path, "diff -f pool.yml", "diff -f pool.yml --json | jq .effects"),
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := compareAll(cmd, args)
			if err == nil || errors.As(err, new(silentError)) {
				return err // which has exitDifferent
			}
			return &codedError{err, exitTrouble}
		},
	}
	source.add(cmd)
	cobra.CheckErr(cmd.MarkFlagRequired("file"))
	jsonFlag(cmd, &asJSON)
	return cmd
}

// A poolChange is what applying a definition would do.
type poolChange struct {
	id       string
	stored   *workermanager.WorkerPoolFull // nil: there is none
	edits    []edit
	effects  []string // in words
	disturbs bool     // workers are to go
}

// A changeReport is a poolChange for programs.
type changeReport struct {
	WorkerPoolID string   `json:"workerPoolId"`
	Exists       bool     `json:"exists"`
	Same         bool     `json:"same"`
	Diff         string   `json:"diff"`
	Effects      []string `json:"effects"`
}

// compare finds out what applying p would do.
func compare(ctx context.Context, s *session, p *graph.Pool) (*poolChange, error) {
	c := &poolChange{id: p.ID}
	stored, err := workermanager.New(s.core).WorkerPool(ctx, p.ID)
	var before []string
	switch {
	case client.IsNotFound(err):
	case err != nil:
		return nil, err
	default:
		c.stored = stored
		if before, err = definitionLines(stored.ProviderID, stored.Description, stored.Owner, stored.EmailOnError, stored.Config); err != nil {
			return nil, err
		}
	}
	d := &p.Definition
	after, err := definitionLines(d.ProviderID, d.Description, d.Owner, d.EmailOnError, d.Config)
	if err != nil {
		return nil, err
	}
	if c.edits = compareLines(before, after); c.same() {
		return c, nil
	}
	return c, c.foresee(ctx, s, d)
}

// definitionLines is a definition in a form that is the same for the same.
func definitionLines(provider, description, owner string, emailOnError bool, config json.RawMessage) ([]string, error) {
	var content any
	if err := json.Unmarshal(config, &content); err != nil {
		return nil, fmt.Errorf("the pool's configuration is not JSON: %w", err)
	}
	text, err := json.MarshalIndent(struct {
		ProviderID   string `json:"providerId"`
		Description  string `json:"description"`
		Owner        string `json:"owner"`
		EmailOnError bool   `json:"emailOnError"`
		Config       any    `json:"config"`
	}{provider, description, owner, emailOnError, content}, "", "  ")
	return strings.Split(string(text), "\n"), err
}

func (c *poolChange) same() bool {
	return !slices.ContainsFunc(c.edits, func(e edit) bool { return e.kind != ' ' })
}

func (c *poolChange) say(format string, args ...any) {
	c.effects = append(c.effects, fmt.Sprintf(format, args...))
}

// foresee says what becomes of the workers that there are.
func (c *poolChange) foresee(ctx context.Context, s *session, d *workermanager.CreateWorkerPoolRequest) error {
	settings := settingsOf(d.Config)
	if c.stored == nil {
		c.say("The pool is new. It gets workers as its queue needs them%s.", bounds(settings))
		return nil
	}
	if c.stored.ProviderID == nullProvider {
		c.say("The pool is being deleted. It is not any more.")
	}
	if d.ProviderID == nullProvider {
		c.disturbs = true
		c.say("The pool is deleted: its workers finish their tasks and go, and it disappears with the last of them.")
		return nil
	}
	workers, err := poolWorkers(ctx, s, c.id, "")
	if forbidden(err) {
		c.say("What becomes of its %s cannot be told: %s", count(c.stored.RunningCount+c.stored.RequestedCount, "worker"), sentence(err.Error()))
		return nil
	} else if err != nil {
		return err
	}
	kept, err := c.made(ctx, s, d)
	if e, ok := errors.AsType[*client.Error](err); ok && e.StatusCode == 400 {
		c.say("The platform will refuse it: %s", sentence(e.Message))
		return nil
	} else if forbidden(err) {
		c.say("Which workers are replaced cannot be told: %v", sentence(err.Error()))
		return nil
	} else if err != nil {
		return err
	}
	var stay, capacity int64
	var replaced []provisioner.WorkerState
	for _, w := range workers {
		switch {
		case w.State == "stopping" || w.Activity == "draining":
		case w.ProviderID != d.ProviderID || !kept[w.LaunchConfigID]:
			replaced = append(replaced, w)
		default:
			stay++
			capacity += w.Capacity
		}
	}
	c.replace(replaced)
	if stay > 0 {
		c.say("%s.", numbered(stay, "worker stays as it is", "workers stay as they are"))
	}
	if most := settings.MaxCapacity; most != nil && capacity > *most {
		c.disturbs = true
		c.say("The pool has workers for %s, and may have some for %d then: the oldest go when they have no task, until there are no more.", count(capacity, "task"), *most)
	}
	if least := settings.MinCapacity; least > capacity {
		c.say("Workers for %s more are started at once, because minCapacity is %d.", count(least-capacity, "task"), least)
	}
	return nil
}

// replace says what becomes of workers that the definition has no place for.
func (c *poolChange) replace(workers []provisioner.WorkerState) {
	if len(workers) == 0 {
		return
	}
	c.disturbs = true
	working, tasks := 0, int64(0)
	for _, w := range workers {
		if w.Claims > 0 {
			working++
			tasks += w.Claims
		}
	}
	what := numbered(int64(len(workers)), "worker is replaced", "workers are replaced")
	switch idle := len(workers) - working; {
	case working == 0:
		c.say("%s at once: none of them runs a task.", what)
	case idle == 0:
		c.say("%s when done with what they run, %s; they get no more.", what, count(tasks, "task"))
	default:
		c.say("%s: %d without a task at once, %d when done with what they run, %s.", what, idle, working, count(tasks, "task"))
	}
}

// made are the launch configurations that a definition comes to, by id.
func (c *poolChange) made(ctx context.Context, s *session, d *workermanager.CreateWorkerPoolRequest) (map[string]bool, error) {
	x, err := provisioner.New(s.core).PreviewWorkerPool(ctx, c.id, trial(d))
	if err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	for _, spec := range x.Specs {
		ids[spec.LaunchConfigID] = true
	}
	return ids, nil
}

// bounds words how many workers a pool may have.
func bounds(s poolSettings) string {
	switch {
	case s.MaxCapacity == nil:
		return ""
	case s.MinCapacity > 0:
		return fmt.Sprintf(", for %d to %s at once", s.MinCapacity, plural(int(*s.MaxCapacity), "task"))
	}
	return fmt.Sprintf(", for up to %s at once", plural(int(*s.MaxCapacity), "task"))
}

func numbered(n int64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return number(n) + " " + many
}

func (c *poolChange) print(w io.Writer, file string) error {
	b := brushFor(w)
	if c.stored == nil {
		// All of it is new; the file shows it as well.
		_, err := fmt.Fprint(w, wrap(strings.Join(c.effects, " "), lineWidth(w), ""))
		return err
	}
	if _, err := io.WriteString(w, unified(c.edits, c.id, file, b)); err != nil {
		return err
	}
	for _, e := range c.effects {
		if _, err := fmt.Fprint(w, bullet(e, lineWidth(w))); err != nil {
			return err
		}
	}
	return nil
}

func (c *poolChange) report(file string) changeReport {
	return changeReport{c.id, c.stored != nil, c.same(), unified(c.edits, c.id, file, false), append([]string{}, c.effects...)}
}

func newPoolDeleteCommand(path string) *cobra.Command {
	var asJSON, wait, yes bool
	cmd := &cobra.Command{
		Use: "delete POOL", Short: "Delete a worker pool",
		Long: `Deletes a worker pool: nothing is started any more, its workers finish the tasks that they have and end, and the pool
disappears with the last of them. On a terminal it asks first. To have the workers end at once, terminate them.`,
		Example: commandLines(path, "delete aws/build", "delete aws/build --wait"),
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completePools,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			wm := workermanager.New(s.core)
			p, err := wm.WorkerPool(ctx, args[0])
			if err != nil {
				return aboutPool(err, args[0])
			}
			if err := confirm(cmd, yes, goodbye(ctx, s, p)+" Delete it?"); err != nil {
				return err
			}
			if p, err = wm.DeleteWorkerPool(ctx, args[0]); err != nil {
				return aboutPool(err, args[0])
			}
			if wait {
				err := waitFor(cmd, func() (string, error) { return remains(ctx, wm, args[0]) })
				switch {
				case err != nil && ctx.Err() != nil:
					return fmt.Errorf("it goes on being deleted without us: %w", err)
				case err != nil:
					return err
				}
				if asJSON {
					return printJSON(cmd.OutOrStdout(), p)
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "deleted %s\n", args[0])
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), p)
			}
			left := ""
			if n := p.RunningCount + p.RequestedCount + p.StoppingCount; n > 0 {
				left = " It disappears with the last of " + count(n, "worker") + "."
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s is being deleted.%s\n", args[0], left)
			return err
		}),
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the last worker and the pool are gone")
	yesFlag(cmd, &yes)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// goodbye says what is lost with a pool.
func goodbye(ctx context.Context, s *session, p *workermanager.WorkerPoolFull) string {
	text := fmt.Sprintf("%s has %s.", p.WorkerPoolID, count(p.RunningCount+p.RequestedCount+p.StoppingCount, "worker"))
	if c, err := queue.New(s.core).TaskQueueCounts(ctx, p.WorkerPoolID); err == nil {
		if c.ClaimedTasks > 0 {
			text += fmt.Sprintf(" They finish %s first.", count(c.ClaimedTasks, "task"))
		}
		if c.PendingTasks > 0 {
			text += fmt.Sprintf(" %s in its queue; nobody will run them.", numbered(c.PendingTasks, "task waits", "tasks wait"))
		}
	}
	return text
}

// remains says what there still is of a pool that is being deleted.
func remains(ctx context.Context, wm *workermanager.Client, id string) (string, error) {
	p, err := wm.WorkerPool(ctx, id)
	switch {
	case client.IsNotFound(err):
		return "", nil
	case err != nil:
		return "", err
	case p.ProviderID != nullProvider:
		return "", fmt.Errorf("the worker pool %s has been defined anew meanwhile, so that it is not deleted any more", id)
	}
	return fmt.Sprintf("%s left: %d running, %d starting, %d stopping", count(p.RunningCount+p.RequestedCount+p.StoppingCount, "worker"), p.RunningCount, p.RequestedCount, p.StoppingCount), nil
}
