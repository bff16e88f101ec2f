package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/provisioner"
	"github.com/taskfleet/taskfleet/client/workermanager"
)

// newProvisionerCommand is what operators of a fleet use. The commands about
// pools are those of taskfleet pool.
func newProvisionerCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "provisioner", Short: "Look after worker pools and workers, and find out what they cost",
		Long: `Looks after worker pools and workers, and finds out what they cost, or would cost.

What is wrong right now:                           taskfleet provisioner status, errors, markets
Why a pool has as many workers as it has:          taskfleet provisioner explain
What a definition would do before it does it:      taskfleet provisioner pools diff, pools validate, preview, simulate
To interfere:                                      taskfleet provisioner pools apply, workers drain, terminate, quarantine`,
		Example: `  taskfleet provisioner status
  taskfleet provisioner explain aws/build
  taskfleet provisioner pools apply -f pool.yml --dry-run`,
	}, append([]*cobra.Command{
		newStatusCommand(), newExplainCommand(), newPoolsCommand("pools", "taskfleet provisioner pools"), newPreviewCommand(),
		newWorkersCommand(), newErrorsCommand(), newMarketsCommand(), newPricesCommand(), newCostCommand(),
	}, planningCommands()...)...)
}

// most is how much is asked for at a time where there may be more.
const most = 1000

// nullProvider is the provider of a pool that is being deleted.
const nullProvider = "null-provider"

// aboutPool says what to do where a pool is not there.
func aboutPool(err error, id string) error {
	if client.IsNotFound(err) {
		return fmt.Errorf("there is no worker pool %s; taskfleet pool list shows those there are: %w", id, err)
	}
	if e, ok := errors.AsType[*client.Error](err); ok && e.Code == "InvalidRequestArguments" && !strings.Contains(id, "/") {
		return fmt.Errorf("%q is not the id of a worker pool, which has two parts, such as aws/build; taskfleet pool list shows those there are: %w", id, err)
	}
	return err
}

// allPools are the pools that there are, in the order of their ids.
func allPools(ctx context.Context, s *session) ([]workermanager.WorkerPoolFull, error) {
	pools := []workermanager.WorkerPoolFull{}
	for p, err := range workermanager.New(s.core).ListWorkerPoolsAll(ctx, workermanager.ListWorkerPoolsOptions{Limit: most}) {
		if err != nil {
			return nil, err
		}
		pools = append(pools, p)
	}
	return pools, nil
}

// poolsOrAll are the ids that a command line names, or those of all pools.
func poolsOrAll(ctx context.Context, s *session, args []string) (ids []string, err error) {
	if len(args) > 0 {
		return args, nil
	}
	pools, err := allPools(ctx, s)
	for _, p := range pools {
		ids = append(ids, p.WorkerPoolID)
	}
	return ids, err
}

// poolWorkers are a pool's workers of one state, of all but stopped if it is
// "".
func poolWorkers(ctx context.Context, s *session, id, state string) (workers []provisioner.WorkerState, err error) {
	for w, err := range provisioner.New(s.core).WorkerPoolStateAll(ctx, id, provisioner.WorkerPoolStateOptions{Limit: most, State: state}) {
		if err != nil {
			return nil, aboutPool(err, id)
		}
		workers = append(workers, w)
	}
	return workers, nil
}

// findWorkers finds workers of a pool by their ids, or by GROUP/ID where one
// id is in several groups. Stopped ones are looked for after the others.
func findWorkers(ctx context.Context, s *session, pool string, names []string) ([]provisioner.WorkerState, error) {
	found := make([]provisioner.WorkerState, len(names))
	missing := map[string]int{}
	for i, name := range names {
		group, id, ok := strings.Cut(name, "/")
		if !ok {
			missing[name] = i
			continue
		}
		w, err := provisioner.New(s.core).WorkerState(ctx, pool, group, id)
		if err != nil {
			return nil, aboutWorker(err, pool, name)
		}
		found[i] = *w
	}
	for _, state := range []string{"", "stopped"} {
		if len(missing) == 0 {
			break
		}
		list, err := poolWorkers(ctx, s, pool, state)
		if err != nil {
			return nil, err
		}
		groups := map[string][]string{}
		for _, w := range list {
			if i, wanted := missing[w.WorkerID]; wanted {
				found[i] = w
				groups[w.WorkerID] = append(groups[w.WorkerID], w.WorkerGroup+"/"+w.WorkerID)
			}
		}
		for id, same := range groups {
			if len(same) > 1 {
				return nil, usagef("there are %d workers %s; name one of them: %s", len(same), id, strings.Join(same, ", "))
			}
			delete(missing, id)
		}
	}
	for _, name := range names {
		if _, unknown := missing[name]; unknown {
			return nil, fmt.Errorf("there is no worker %s in the pool %s; taskfleet provisioner workers list %s shows those there are", name, pool, pool)
		}
	}
	return found, nil
}

func aboutWorker(err error, pool, name string) error {
	if client.IsNotFound(err) {
		return fmt.Errorf("there is no worker %s in the pool %s; taskfleet provisioner workers list %s shows those there are: %w", name, pool, pool, err)
	}
	return err
}

// completePools offers the pools of the platform, if one answers, for the first
// argument.
func completePools(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return completeAnyPools(cmd, args, prefix)
}

// completeAnyPools offers the pools that are not named yet.
func completeAnyPools(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	s, err := connect(cmd, client.Retry{For: -1})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	pools, _ := allPools(cmd.Context(), s) // as many as there are
	var names []string
	for _, p := range pools {
		if !slices.Contains(args, p.WorkerPoolID) {
			names = append(names, p.WorkerPoolID)
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeWorkers offers a pool, and then its workers.
func completeWorkers(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return completePools(cmd, args, prefix)
	}
	s, err := connect(cmd, client.Retry{For: -1})
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	workers, _ := poolWorkers(cmd.Context(), s, args[0], "")
	var names []string
	for _, w := range workers {
		if !slices.Contains(args, w.WorkerID) {
			names = append(names, fmt.Sprintf("%s\t%s, %s", w.WorkerID, w.Activity, cmp.Or(w.Market, w.WorkerGroup)))
		}
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
