package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client/provisioner"
	"github.com/taskfleet/taskfleet/timestamp"
)

func newCostCommand() *cobra.Command {
	var asJSON bool
	var since, until moment
	cmd := &cobra.Command{
		Use: "cost [POOL...]", Short: "Show what pools have cost, by the hour and by the task",
		Long: `Shows what some pools, or all, have cost, and what for. A worker is paid from when it is asked for until it has ended,
for a minute at least, at the price at which it was bought; the bill of the provider has the last word. PAID is hours
of capacity: an hour of a worker that runs two tasks at once is two. RAN is hours in which tasks ran, IDLE how much more
was paid than ran. Workers are known for a week, and so is what they cost.`,
		Example: `  taskfleet provisioner cost
  taskfleet provisioner cost aws/build --since 7d
  taskfleet provisioner cost --since 2016-05-10T00:00:00Z --until 2016-05-11T00:00:00Z`,
		ValidArgsFunction: completeAnyPools,
		PreRunE: func(*cobra.Command, []string) error {
			if until.set() && !until.at.After(since.at) {
				return usagef("--until %s is not after --since %s", until.text, since.text)
			}
			return nil
		},
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			ids, err := poolsOrAll(ctx, s, args)
			if err != nil {
				return err
			}
			o := provisioner.WorkerPoolCostOptions{From: remembered(since.timestamp(), timestamp.Now()).String()}
			if until.set() {
				o.To = until.timestamp().String()
			}
			costs := []provisioner.WorkerPoolCost{}
			for _, id := range ids {
				c, err := provisioner.New(s.core).WorkerPoolCost(ctx, id, o)
				if err != nil {
					return aboutPool(err, id)
				}
				costs = append(costs, *c)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), costs)
			}
			return printCosts(cmd.OutOrStdout(), costs, timestamp.Now())
		}),
	}
	sinceFlag(cmd, &since, "1d", "what was paid after that")
	cmd.Flags().Var(&until, "until", "and before that: a time, or how long ago it was")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// remembered is a time, or a little later where it is all but the longest ago
// that services remember: 7d is not to be refused.
func remembered(t, now timestamp.Time) timestamp.Time {
	const kept, slack = 7 * 24 * time.Hour, time.Minute
	if oldest := now.Add(-kept); t >= oldest.Add(-slack) {
		return max(t, oldest.Add(slack))
	}
	return t
}

func printCosts(w io.Writer, costs []provisioner.WorkerPoolCost, now timestamp.Time) error {
	if len(costs) == 0 {
		_, err := fmt.Fprintln(w, "there are no worker pools")
		return err
	}
	t := table{head: []string{"POOL", "COST", "$/HOUR", "TASKS", "$/TASK", "WORKERS", "PAID", "RAN", "IDLE"}}
	total := provisioner.WorkerPoolCost{WorkerPoolID: "all"}
	for _, c := range costs {
		t.add(costRow(c)...)
		total.From, total.To = c.From, c.To
		total.Cost += c.Cost
		total.CostPerHour += c.CostPerHour
		total.Workers += c.Workers
		total.Unpriced += c.Unpriced
		total.Tasks += c.Tasks
		total.TaskHours += c.TaskHours
		total.CapacityHours += c.CapacityHours
	}
	if len(costs) > 1 {
		if total.Tasks > 0 {
			each := total.Cost / float64(total.Tasks)
			total.CostPerTask = &each
		}
		if total.TaskHours > 0 {
			overhead := total.CapacityHours/total.TaskHours - 1
			total.Overhead = &overhead
		}
		t.add(costRow(total)...)
	}
	if err := t.print(w); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\nfrom %s to %s\n", clock(total.From, now), clock(total.To, now))
	if total.Unpriced > 0 && total.Unpriced < total.Workers {
		fmt.Fprint(w, wrap(fmt.Sprintf("%s of unknown price %s not in it.", numbered(total.Unpriced, "worker", "workers"), map[bool]string{true: "is", false: "are"}[total.Unpriced == 1]), lineWidth(w), ""))
	}
	return err
}

func costRow(c provisioner.WorkerPoolCost) []string {
	cost, hourly, each := money(c.Cost), money(c.CostPerHour), moneyOr(c.CostPerTask)
	if c.Unpriced == c.Workers {
		cost, hourly, each = "-", "-", "-" // nothing was bought, or nothing is known of its price
	}
	idle := "-"
	if c.Overhead != nil {
		idle = fmt.Sprintf("%.0f%%", 100**c.Overhead)
	}
	return []string{c.WorkerPoolID, cost, hourly, number(c.Tasks), each, number(c.Workers), hours(c.CapacityHours), hours(c.TaskHours), idle}
}

// hours words a number of hours.
func hours(h float64) string {
	switch {
	case h < 1:
		return took(time.Duration(h * float64(time.Hour)))
	case h < 100:
		return fmt.Sprintf("%.1fh", h)
	}
	return fmt.Sprintf("%.0fh", h)
}
