//go:build !agent

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/infra/policy"
	"github.com/taskfleet/taskfleet/plain"
)

// exitViolated is the exit code of a plan that policy refuses.
const exitViolated = 3

func infraPolicyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "policy", Short: "Judge plans before they are applied",
		Long: `Judges plans of Terraform by rules: what has to be encrypted, who may do what, what is open to the world, what must
not be deleted. A deployment adds rules of its own in its folder policies, and accepts what a rule finds in its file policy.yml.
docs/infra-policies.md has the rules and how to write some.`,
	}
	group(cmd, infraPolicyCheckCommand(), infraPolicyListCommand())
	return cmd
}

func infraPolicyCheckCommand() *cobra.Command {
	var asJSON bool
	var deployment string
	cmd := &cobra.Command{
		Use: "check PLAN.json|DIR", Short: "Judge a plan",
		Long: `Judges a plan: the JSON that terraform show -json prints, or a directory with it: that of a plan, or a deployment, of which
the latest plan is judged. policy.yml and policies are read from the deployment that the plan is of; for a plan from elsewhere, name
one with --dir, or its rules and exceptions are not applied.

The exit code is 3 if a rule is violated that no exception accepts, 1 if the plan could not be judged, else 0. Warnings, and what only
the apply will tell, are shown and do not count.`,
		Example: `  taskfleet infra policy check deployments/production
  taskfleet infra policy check deployments/production/.plans/tuesday
  terraform show -json plan.tfplan > plan.json && taskfleet infra policy check plan.json --dir .
  taskfleet infra policy check plan.json --json | jq '.violations[] | select(.severity == "error")'`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, of, err := findPlan(args[0], deployment)
			if err != nil {
				return err
			}
			text, err := readPlan(file, policy.MaxPlan)
			if err != nil {
				return err
			}
			var o policy.Options
			if of != "" {
				if o, err = policy.Load(of); err != nil {
					return err
				}
			}
			verdict, err := policy.Judge(cmd.Context(), text, o)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			out := cmd.OutOrStdout()
			if asJSON {
				err = printJSON(out, verdict)
			} else {
				_, err = io.WriteString(out, linesShown(verdict.Text(lineWidth(out))))
			}
			if n := len(verdict.Errors()); err == nil && n > 0 {
				err = &codedError{fmt.Errorf("%s: %s; mend them, or accept them in %s", file, plural(n, "violation"), policy.File), exitViolated}
			}
			return err
		},
	}
	jsonFlag(cmd, &asJSON)
	deploymentFlag(cmd, &deployment)
	return cmd
}

func infraPolicyListCommand() *cobra.Command {
	var asJSON bool
	var deployment string
	cmd := &cobra.Command{
		Use: "list", Short: "Show the rules",
		Long: `Shows the rules that plans are judged by. With --dir, also those that it has in its folder policies: they are
compiled, so this is a check of them too.`,
		Example: `  taskfleet infra policy list
  taskfleet infra policy list --dir deployments/production
  taskfleet infra policy list --json | jq -r '.[] | .id + ": " + .description'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var o policy.Options
			if deployment != "" {
				var err error
				if o, err = policy.Load(deployment); err != nil {
					return err
				}
			}
			list, err := policy.List(cmd.Context(), o.Rules)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), list)
			}
			t := table{head: []string{"RULE", "SEVERITY", "TITLE"}}
			for _, r := range list {
				title := r.Title
				if r.Own {
					title += " (" + r.File + ")"
				}
				t.add(r.ID, r.Severity, title)
			}
			return t.print(cmd.OutOrStdout())
		},
	}
	jsonFlag(cmd, &asJSON)
	deploymentFlag(cmd, &deployment)
	return cmd
}

func deploymentFlag(cmd *cobra.Command, deployment *string) {
	cmd.Flags().StringVarP(deployment, "dir", "d", "", "`directory` of the deployment, with policy.yml, policies and cost.yml")
}

// findPlan finds the JSON of a plan, and the deployment that it is of, "" if that is not known. A deployment keeps its plans in
// .plans/NAME/plan.json.
func findPlan(path, deployment string) (file, of string, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", "", err
	}
	file = path
	if info.IsDir() {
		if file = filepath.Join(path, "plan.json"); !exists(file) {
			if file, err = latestPlan(path); err != nil {
				return "", "", err
			}
		}
	}
	if of = deployment; of == "" {
		whole, err := filepath.Abs(file)
		if err != nil {
			return "", "", err
		}
		if plans := filepath.Dir(filepath.Dir(whole)); filepath.Base(plans) == ".plans" {
			of = filepath.Dir(plans)
		}
	} else if info, err := os.Stat(of); err != nil {
		return "", "", err
	} else if !info.IsDir() {
		return "", "", fmt.Errorf("--dir %s is no directory", of)
	}
	return file, of, nil
}

// latestPlan is the plan of a deployment that was written last.
func latestPlan(directory string) (file string, err error) {
	found, err := filepath.Glob(filepath.Join(globbed(directory), ".plans", "*", "plan.json"))
	if err != nil {
		return "", err
	}
	var last time.Time
	for _, f := range found {
		if info, err := os.Stat(f); err == nil && info.ModTime().After(last) {
			file, last = f, info.ModTime()
		}
	}
	if file == "" {
		return "", fmt.Errorf("%s has neither plan.json nor .plans/NAME/plan.json; make a plan with taskfleet infra plan", directory)
	}
	return file, nil
}

// globbed is a path as a pattern that matches it alone.
func globbed(path string) string {
	var b []rune
	for _, r := range path {
		if r == '*' || r == '?' || r == '[' || r == '\\' && filepath.Separator != '\\' {
			b = append(b, '\\')
		}
		b = append(b, r)
	}
	return string(b)
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// readPlan reads a file of a limited size.
func readPlan(file string, most int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	err = errors.Join(err, f.Close())
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s has more than %s; split the deployment", file, bytesOf(most))
	}
	return text, err
}

// linesShown is a text of several lines without what a terminal obeys: names in plans are whoever's.
func linesShown(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = plain.Line(lines[i])
	}
	return strings.Join(lines, "\n")
}
