//go:build !agent

package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/infra"
	"github.com/taskfleet/taskfleet/infra/plan"
	"github.com/taskfleet/taskfleet/plain"
)

func newInfraPlanCommand() *cobra.Command {
	var flags infraFlags
	var o infra.PlanOptions
	cmd := &cobra.Command{
		Use: "plan [NAME]", Short: "Show what would change, what it costs and what policy says, and save it",
		Long: `Works out what would have to be done so that AWS has what the configuration says, and shows it: what would be destroyed
first, then all changes by module; secrets are hidden. The plan is saved in .plans/NAME (the time, without a name) of
the deployment, readable by you alone, with its JSON, this summary, and what policy and prices say.

Nothing is changed. The exit code is 3 if policy forbids the plan: it can be looked at, and is not applied.`,
		Example: `  taskfleet infra plan --dir prod
  taskfleet infra plan --dir prod more-workers --var-file secrets.tfvars
  taskfleet infra plan --dir prod --json | jq .digest`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.Name = args[0]
			}
			d, err := flags.open(cmd)
			if err != nil {
				return err
			}
			s, err := d.Plan(cmd.Context(), o)
			if err != nil {
				return err
			}
			if err := flags.tell(cmd, s, nil); err != nil {
				return err
			}
			if s.Policy.Refused() {
				return &codedError{&infra.ViolatedError{Plan: s.Name, Judgement: s.Judgement}, exitViolated}
			}
			return nil
		},
	}
	flags.add(cmd)
	varFileFlag(cmd, &o.VarFiles)
	cmd.Flags().StringArrayVar(&o.Replace, "replace", nil, "`address` of a resource to destroy and make anew; may be repeated")
	return cmd
}

// planReport is a saved plan for programs.
type planReport struct {
	*infra.Saved
	Plan   *plan.Plan    `json:"plan"`
	Report *infra.Report `json:"report,omitempty"` // of its last apply
}

// tell prints a saved plan, and what has become of it.
func (f *infraFlags) tell(cmd *cobra.Command, s *infra.Saved, r *infra.Report) error {
	out := cmd.OutOrStdout()
	if f.json {
		shown := *s
		shown.Files = nil // whoever has the digest of a file with a secret can try what it is
		return printJSON(out, planReport{&shown, s.Plan, r})
	}
	fmt.Fprintf(out, "Plan %s of %s, %s, by %s %s\n\n", s.Name, s.Deployment, s.Created.Format("2006-01-02 15:04 UTC"), s.Program, s.Version)
	if err := s.Text(out, widthOf(out), colourful(out)); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nDigest  %s\n", s.Digest)
	if r != nil {
		fmt.Fprintln(out)
		return printReport(out, r)
	}
	switch {
	case s.Policy.Refused():
	case s.Plan.Empty():
		fmt.Fprintln(out, "Nothing is to be done.")
	case s.Destroy:
		fmt.Fprintf(out, "Next    taskfleet infra destroy --dir %s plans that anew, and does it\n", f.directory)
	default:
		word := ""
		if len(s.Plan.Destroys(true)) > 0 {
			word = " --destroy-protected " + s.Deployment
		}
		fmt.Fprintf(out, "Next    taskfleet infra apply --dir %s %s --digest %s%s\n", f.directory, s.Name, s.Digest, word)
	}
	return nil
}

func newInfraShowCommand() *cobra.Command {
	var flags infraFlags
	cmd := &cobra.Command{
		Use: "show [NAME]", Short: "Show a saved plan and what has become of it; without a name, list them",
		Long: `Shows a saved plan again, after having checked that its files are what its digest says. If it was applied, it also tells
what was done, what failed, what is not recorded in the state, and how to go on. Without a name it lists what is saved.`,
		Example: `  taskfleet infra show --dir prod
  taskfleet infra show --dir prod 20270131-101500`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := flags.open(cmd)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return flags.list(cmd, d)
			}
			s, err := d.Saved(args[0])
			if err != nil {
				return err
			}
			r, err := d.Report(cmd.Context(), s)
			if err != nil {
				return err
			}
			return flags.tell(cmd, s, r)
		},
	}
	flags.add(cmd)
	return cmd
}

func (f *infraFlags) list(cmd *cobra.Command, d *infra.Deployment) error {
	plans, err := d.Plans()
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if f.json {
		if plans == nil {
			plans = []*infra.Saved{}
		}
		for _, p := range plans {
			p.Files = nil
		}
		return printJSON(out, plans)
	}
	if len(plans) == 0 {
		_, err := fmt.Fprintf(out, "no plan is saved: taskfleet infra plan --dir %s makes one\n", f.directory)
		return err
	}
	t := &table{head: []string{"PLAN", "CREATED", "POLICY", "APPLY", "CHANGES"}}
	for _, p := range plans {
		policy := "passed"
		if p.Policy.Refused() {
			policy = "refused"
		}
		t.add(p.Name, p.Created.Format("2006-01-02 15:04")+" ("+took(time.Since(p.Created))+")", policy, p.LastApply(), p.Counts)
	}
	return t.print(out)
}

// printReport tells what has become of an apply.
func printReport(out io.Writer, r *infra.Report) error {
	took := took(r.Last.Sub(r.Began))
	fmt.Fprintf(out, "Apply of plan %s, begun %s: %s after %s, %d of %d steps done\n", r.Plan, r.Began.UTC().Format("2006-01-02 15:04:05 UTC"), r.Result, took,
		len(r.Done)+len(r.Unrecorded), r.Total)
	for _, part := range []struct {
		title string
		steps []infra.Step
	}{
		{"done", r.Done},
		{"DONE, BUT NOT IN THE STATE", r.Unrecorded},
		{"FAILED", r.Failed},
		{"UNDER WAY WHEN IT WAS KILLED, so not known", r.Unknown},
		{"not begun", r.Left},
	} {
		if len(part.steps) == 0 {
			continue
		}
		fmt.Fprintf(out, "\n%s (%d)\n", part.title, len(part.steps))
		for _, s := range part.steps {
			id := ""
			if s.ID != "" {
				id = "  " + s.ID
			}
			fmt.Fprintf(out, "  %-8s%s%s\n", s.Action, plain.Line(s.Address), plain.Line(id))
		}
	}
	if len(r.Errors) > 0 {
		fmt.Fprintln(out, "\nErrors")
		for _, e := range r.Errors {
			fmt.Fprintln(out, "  "+indented(e))
		}
	}
	if len(r.Next) > 0 {
		fmt.Fprintln(out, "\nHow to go on")
		for i, n := range r.Next {
			fmt.Fprintf(out, "  %d. %s\n", i+1, plain.Line(n))
		}
	}
	return nil
}
