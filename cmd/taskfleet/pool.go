package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/graph"
)

func newPoolCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "pool", Short: "Show worker pools and define them",
	}, newPoolListCommand(), newPoolShowCommand(), newPoolApplyCommand())
}

func newPoolListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the worker pools", Aliases: []string{"ls"},
		Example: "  taskfleet pool list",
		Args:    cobra.NoArgs,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			pools := []workermanager.WorkerPoolFull{}
			for p, err := range workermanager.New(s.core).ListWorkerPoolsAll(ctx, workermanager.ListWorkerPoolsOptions{}) {
				if err != nil {
					return err
				}
				pools = append(pools, p)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), pools)
			}
			t := table{head: []string{"POOL", "PROVIDER", "CAPACITY", "STARTING", "RUNNING", "STOPPING"}}
			for _, p := range pools {
				t.add(p.WorkerPoolID, p.ProviderID, number(p.CurrentCapacity), number(p.RequestedCount), number(p.RunningCount), number(p.StoppingCount))
			}
			return t.print(cmd.OutOrStdout())
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// recentErrors is how many errors of a pool are shown.
const recentErrors = 5

func newPoolShowCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show POOL", Short: "Show a worker pool, its workers and its latest errors",
		Long:    "Shows a worker pool, its workers and its latest errors. With --json it prints the pool alone, in a form that taskfleet pool apply takes.",
		Example: "  taskfleet pool show local/build\n  taskfleet pool show local/build --json > pool.json",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completePools,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			wm := workermanager.New(s.core)
			p, err := wm.WorkerPool(ctx, args[0])
			if client.IsNotFound(err) {
				return fmt.Errorf("there is no worker pool %s; taskfleet pool list shows those there are: %w", args[0], err)
			} else if err != nil {
				return err
			}
			p.WorkerPoolID = args[0]
			if asJSON {
				return printJSON(cmd.OutOrStdout(), p)
			}
			return showPool(ctx, s, cmd.OutOrStdout(), p)
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func showPool(ctx context.Context, s *session, w io.Writer, p *workermanager.WorkerPoolFull) error {
	wm := workermanager.New(s.core)
	fmt.Fprintf(w, "pool      %s\nprovider  %s\nowner     %s\n", p.WorkerPoolID, p.ProviderID, p.Owner)
	if p.Description != "" {
		fmt.Fprintf(w, "about     %s\n", strings.TrimSpace(p.Description))
	}
	fmt.Fprintf(w, "workers   %s\n", workersInWords(p))
	// A pool whose queue the caller may not look at is shown all the same.
	if c, err := queue.New(s.core).TaskQueueCounts(ctx, p.WorkerPoolID); err == nil {
		fmt.Fprintf(w, "tasks     %d pending, %d claimed\n", c.PendingTasks, c.ClaimedTasks)
	}
	fmt.Fprintf(w, "config    %s\n", p.Config)
	t := table{head: []string{"WORKER", "GROUP", "STATE", "CAPACITY", "CREATED"}}
	for worker, err := range wm.ListWorkersForWorkerPoolAll(ctx, p.WorkerPoolID, workermanager.ListWorkersForWorkerPoolOptions{}) {
		if err != nil {
			return err
		}
		if worker.State != "stopped" {
			t.add(worker.WorkerID, worker.WorkerGroup, worker.State, number(worker.Capacity), ago(worker.Created))
		}
	}
	if len(t.rows) > 0 {
		fmt.Fprintln(w)
		if err := t.print(w); err != nil {
			return err
		}
	}
	errs, err := wm.ListWorkerPoolErrors(ctx, p.WorkerPoolID, workermanager.ListWorkerPoolErrorsOptions{Limit: recentErrors})
	if err != nil {
		return err
	}
	for i, e := range errs.WorkerPoolErrors {
		if i == 0 {
			fmt.Fprintln(w, "\nlatest errors")
		}
		fmt.Fprintf(w, "  %s  %s: %s\n", ago(e.Reported), e.Title, strings.TrimSpace(e.Description))
	}
	return nil
}

func workersInWords(p *workermanager.WorkerPoolFull) string {
	return fmt.Sprintf("%d running, %d starting, %d stopping; %d stopped", p.RunningCount, p.RequestedCount, p.StoppingCount, p.StoppedCount)
}

func newPoolApplyCommand() *cobra.Command {
	var file string
	var parameters []string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Create a worker pool, or change it to what a file says",
		Long: `Creates a worker pool, or changes the one of that name, so that it is as the file says: workerPoolId, providerId,
description, owner, emailOnError and config, in YAML or JSON, and parameters as a graph file has them.`,
		Example: "  taskfleet pool apply -f examples/pool.yml\n  taskfleet pool apply -f examples/pool.yml --param workers=8",
		Args:    cobra.NoArgs,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			values, err := parseParameters(parameters)
			if err != nil {
				return err
			}
			p, err := graph.LoadPool(file, graph.Options{Parameters: values})
			if err != nil {
				return err
			}
			full, created, err := applyPool(ctx, s.core, p)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), full)
			}
			what := "changed"
			if created {
				what = "created"
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", what, p.ID)
			return err
		}),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the file with the definition")
	cobra.CheckErr(cmd.MarkFlagRequired("file"))
	parameterFlag(cmd, &parameters)
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

func parameterFlag(cmd *cobra.Command, values *[]string) {
	cmd.Flags().StringArrayVarP(values, "param", "p", nil, "NAME=VALUE of one of the file's parameters; may be repeated")
}

func parseParameters(list []string) (map[string]string, error) {
	values := map[string]string{}
	for _, p := range list {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return nil, usagef("--param is %q; it must be NAME=VALUE", p)
		}
		values[name] = value
	}
	return values, nil
}

// completePools offers the pools of the platform, if one answers.
func completePools(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	s, err := connect(cmd, client.Retry{For: -1})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for p, err := range workermanager.New(s.core).ListWorkerPoolsAll(cmd.Context(), workermanager.ListWorkerPoolsOptions{}) {
		if err != nil {
			break
		}
		names = append(names, p.WorkerPoolID)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
