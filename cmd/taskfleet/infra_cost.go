//go:build !agent

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/infra/cost"
)

func infraCostCommand() *cobra.Command {
	var asJSON bool
	var deployment string
	cmd := &cobra.Command{
		Use: "cost PLAN.json|DIR", Short: "Estimate what a deployment costs a month, before and after a plan",
		Long: `Estimates what a deployment costs a month, before and after a plan: the JSON that terraform show -json prints, or a
directory with it: that of a plan, or a deployment, of which the latest plan is taken.

What is paid by the hour follows from the plan and from a table of list prices, whose date is told. What is paid by use is assumed; what
a deployment knows better is in its file cost.yml. What is not in the estimate is told, such as workers. It asks nobody and needs no account.
docs/infra-policies.md has the assumptions and what cost.yml may say.`,
		Example: `  taskfleet infra cost deployments/production
  terraform show -json plan.tfplan > plan.json && taskfleet infra cost plan.json --dir .
  taskfleet infra cost plan.json --json | jq '.resources | sort_by(-.after) | .[:5]'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, of, err := findPlan(args[0], deployment)
			if err != nil {
				return err
			}
			text, err := readPlan(file, cost.MaxPlan)
			if err != nil {
				return err
			}
			var a cost.Assumptions
			if of != "" {
				if a, err = cost.Load(of); err != nil {
					return err
				}
			}
			bill, err := cost.Estimate(text, a)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), bill)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), linesShown(bill.Text()))
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	deploymentFlag(cmd, &deployment)
	return cmd
}
