package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/schedules"
	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/timestamp"
)

func newScheduleCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "schedule", Short: "Show what the platform does at certain times, and what came of it",
		Long: `Shows what the platform does at certain times, and what came of it. A job is due at the dates of a cron expression in a
time zone; each date is run once, on any of the replicas. Hooks with a schedule are shown beside the jobs:
their fires are those of the hooks.`,
		Example: "  taskfleet schedule list\n  taskfleet schedule next --expression '30 2 * * *' --zone Europe/Berlin",
	}, newScheduleListCommand(), newScheduleNextCommand(), newScheduleRunCommand(), newSchedulePauseCommand(), newScheduleResumeCommand(), newScheduleHistoryCommand())
}

// completeJobs offers the names of jobs.
func completeJobs(cmd *cobra.Command, args []string, _ string) (names []string, _ cobra.ShellCompDirective) {
	s, err := connect(cmd, client.Retry{For: -1})
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	for j, err := range schedules.New(s.core).ListJobsAll(cmd.Context(), schedules.ListJobsOptions{}) {
		if err != nil {
			break // as many as there are
		}
		names = append(names, j.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// aboutJob says where the names of jobs are to be had.
func aboutJob(err error) error {
	if e, ok := errors.AsType[*client.Error](err); ok && e.StatusCode == 404 && strings.HasPrefix(e.Message, "There is no job") {
		return fmt.Errorf("%w\ntaskfleet schedule list shows the jobs", err)
	}
	return err
}

func newScheduleListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List jobs, and what else has a schedule",
		Long: `Lists jobs with their state, when they are due, the date that comes next, and what became of the last run; below them
hooks with a schedule, and loops that run at times of the day. Times are those of this machine.
The exit code is 1 if the last run of a job failed.`,
		Example: "  taskfleet schedule list\n  taskfleet schedule list --json | jq '.jobs[] | select(.state == \"failed\")'",
		Args:    cobra.NoArgs,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			c := schedules.New(s.core)
			list := struct {
				Jobs   []schedules.Job            `json:"jobs"`
				Others []schedules.OtherListOther `json:"others"`
			}{[]schedules.Job{}, []schedules.OtherListOther{}}
			for j, err := range c.ListJobsAll(ctx, schedules.ListJobsOptions{}) {
				if err != nil {
					return err
				}
				list.Jobs = append(list.Jobs, j)
			}
			others, err := c.ListOthers(ctx)
			if err != nil {
				return err
			}
			list.Others = append(list.Others, others.Others...)
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), list)
			} else {
				err = printSchedules(cmd.OutOrStdout(), list.Jobs, list.Others, timestamp.Now())
			}
			failed := 0
			for _, j := range list.Jobs {
				if j.Last != nil && j.Last.State == "failed" {
					failed++
				}
			}
			if err == nil && failed > 0 {
				err = silentError{fmt.Errorf("%s failed last time", plural(failed, "job"))}
			}
			return err
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printSchedules(w io.Writer, jobs []schedules.Job, others []schedules.OtherListOther, now timestamp.Time) error {
	t := table{head: []string{"SCHEDULE", "STATE", "WHEN", "NEXT", "LAST"}}
	var failing []string
	for _, j := range jobs {
		last := "-"
		if r := j.Last; r != nil {
			last = r.State + " " + took(now.Sub(r.Ended)) + " ago"
			if r.State == "failed" {
				failing = append(failing, fmt.Sprintf("%s failed: %s", j.Name, firstLine(r.Error)))
			}
		}
		if r := j.Open; r != nil && r.Error != "" {
			failing = append(failing, fmt.Sprintf("%s is run again at %s: %s", j.Name, clock(r.Starts, now), firstLine(r.Error)))
		}
		t.add(j.Name, j.State, times([]string{j.Expression}, j.Zone), ahead(j.Next, now), last)
	}
	for _, o := range others {
		t.add(o.Name, o.Source, times(o.Expressions, o.Zone), ahead(o.Next, now), "-")
	}
	if err := t.print(w); err != nil {
		return err
	}
	for i, text := range failing {
		if i == 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprint(w, bullet(plain.Line(text), lineWidth(w)))
	}
	return nil
}

// times are expressions, with their zone where that is not UTC, as far as there is
// room.
func times(expressions []string, zone string) string {
	text := strings.Join(expressions, ", ")
	if zone != "UTC" {
		text += " " + zone
	}
	return clip(plain.Line(text), 28)
}

// ahead words for how long a time is ahead.
func ahead(t, now timestamp.Time) string {
	if t.IsZero() {
		return "never"
	}
	return "in " + took(t.Sub(now))
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

func newScheduleNextCommand() *cobra.Command {
	var asJSON bool
	var count int
	var expression, zone string
	cmd := &cobra.Command{
		Use: "next JOB | next --expression CRON [--zone ZONE]", Short: "Show the dates that come next",
		Long: `Shows the dates of a job that come next, or those of an expression, as a clock in its time zone shows them. STARTS is when
the run begins, which is later where the job has a jitter. What happens when clocks change can be seen beforehand.`,
		Example: "  taskfleet schedule next schedule.tidy\n  taskfleet schedule next --expression '30 2 * * SUN' --zone Europe/Berlin --count 60",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: completeJobs,
		PreRunE: func(_ *cobra.Command, args []string) error {
			switch {
			case len(args) == 0 && expression == "":
				return usagef("give the name of a job, or --expression")
			case len(args) == 1 && (expression != "" || zone != ""):
				return usagef("give either the name of a job, or --expression and --zone")
			case count < 1 || count > 1000:
				return usagef("--count is %d; it must be a number from 1 to 1000", count)
			}
			return nil
		},
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) (err error) {
			c, n := schedules.New(s.core), strconv.Itoa(count)
			var list *schedules.DateList
			if len(args) == 1 {
				list, err = c.NextDates(ctx, args[0], schedules.NextDatesOptions{Count: n})
			} else {
				list, err = c.ExplainExpression(ctx, schedules.ExplainExpressionOptions{Expression: expression, Zone: zone, Count: n})
			}
			switch {
			case err != nil:
				return aboutJob(err)
			case asJSON:
				return printJSON(cmd.OutOrStdout(), list)
			}
			now := timestamp.Now()
			t := table{head: []string{"DATE IN " + list.Zone, "UTC", "STARTS"}}
			for _, d := range list.Dates {
				t.add(d.Local, d.Due.Time().Format("2006-01-02 15:04:05"), ahead(d.Starts, now))
			}
			return t.print(cmd.OutOrStdout())
		}),
	}
	f := cmd.Flags()
	f.StringVar(&expression, "expression", "", "a cron expression, instead of a job")
	f.StringVar(&zone, "zone", "", "the time zone of --expression, as Europe/Berlin (default: UTC)")
	f.IntVar(&count, "count", 10, "how many dates to show")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newScheduleRunCommand() *cobra.Command {
	var asJSON, wait bool
	cmd := &cobra.Command{
		Use: "run JOB", Short: "Run a job now",
		Long: `Has a job run as soon as no run of it is under way, also while it is paused. With --wait it waits for the end, and the exit
code is 1 if the run failed.`,
		Example: "  taskfleet schedule run schedule.tidy --wait",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeJobs,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			c := schedules.New(s.core)
			r, err := c.RunJob(ctx, args[0])
			if err != nil {
				return aboutJob(err)
			}
			if wait {
				if err := waitFor(cmd, func() (left string, err error) {
					if r, err = c.GetRun(ctx, args[0], r.Due.String()); err != nil || !r.Ended.IsZero() {
						return "", err
					}
					return "it is " + r.State, nil
				}); err != nil {
					return err
				}
			}
			switch out := cmd.OutOrStdout(); {
			case asJSON:
				err = printJSON(out, r)
			case !wait:
				_, err = fmt.Fprintf(out, "%s will run; taskfleet schedule history %s shows what comes of it\n", args[0], args[0])
			default:
				_, err = fmt.Fprint(out, wrap(plain.Line(fmt.Sprintf("%s after %s: %s", r.State, took(r.Ended.Sub(r.Started)), cmp.Or(firstLine(r.Error), r.Outcome, "nothing was said"))), lineWidth(out), ""))
			}
			if err == nil && r.State == "failed" {
				err = silentError{errors.New("the run failed")}
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the run is over")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newSchedulePauseCommand() *cobra.Command {
	return newScheduleVerbCommand(&cobra.Command{
		Use: "pause JOB", Short: "Have a job not run until it is resumed",
		Long: "Has no run of a job begin until it is resumed, but for those that somebody asks for. A run that is under way goes on.",
	}, (*schedules.Client).PauseJob, "paused")
}

func newScheduleResumeCommand() *cobra.Command {
	return newScheduleVerbCommand(&cobra.Command{
		Use: "resume JOB", Short: "Let a paused job go on",
		Long: "Lets a job go on that was paused. Dates that have passed are made up for, or missed, as the job says.",
	}, (*schedules.Client).ResumeJob, "resumed")
}

// newScheduleVerbCommand completes a command that changes one job.
func newScheduleVerbCommand(cmd *cobra.Command, call func(*schedules.Client, context.Context, string) (*schedules.Job, error), done string) *cobra.Command {
	var asJSON bool
	cmd.Args, cmd.ValidArgsFunction = cobra.ExactArgs(1), completeJobs
	cmd.Example = "  taskfleet schedule " + cmd.Name() + " schedule.tidy"
	cmd.RunE = withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
		j, err := call(schedules.New(s.core), ctx, args[0])
		switch {
		case err != nil:
			return aboutJob(err)
		case asJSON:
			return printJSON(cmd.OutOrStdout(), j)
		}
		text := j.Name + " is " + done
		if !j.Next.IsZero() {
			text += "; its next date is " + when(j.Next, timestamp.Now())
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
		return err
	})
	jsonFlag(cmd, &asJSON)
	return cmd
}

// runStates are what runs can be in.
var runStates = []string{"due", "running", "done", "failed", "missed"}

func newScheduleHistoryCommand() *cobra.Command {
	var asJSON bool
	var state string
	var limit int
	cmd := &cobra.Command{
		Use: "history JOB", Short: "Show the runs of a job",
		Long: `Shows the runs of a job, the latest first: when each was due, how it ended, how long it took, how often it was begun, and
what was said of it. BY is the client that asked for it, or the schedule. Runs are kept for 90 days.`,
		Example: "  taskfleet schedule history schedule.tidy\n  taskfleet schedule history schedule.tidy --state failed --json",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeJobs,
		PreRunE: func(*cobra.Command, []string) error {
			switch {
			case state != "" && !slices.Contains(runStates, state):
				return usagef("--state is %q; it must be one of %s", state, strings.Join(runStates, ", "))
			case limit < 1:
				return usagef("--limit is %d; it must be a number of runs", limit)
			}
			return nil
		},
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			runs := []schedules.Run{}
			for r, err := range schedules.New(s.core).ListRunsAll(ctx, args[0], schedules.ListRunsOptions{State: state, Limit: min(limit, 1000)}) {
				if err != nil {
					return aboutJob(err)
				}
				if runs = append(runs, r); len(runs) == limit {
					break
				}
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), runs)
			}
			now := timestamp.Now()
			t := table{head: []string{"DUE", "STATE", "TOOK", "TRIES", "BY", "OUTCOME"}}
			for _, r := range runs {
				duration := "-"
				if !r.Ended.IsZero() && !r.Started.IsZero() {
					duration = took(r.Ended.Sub(r.Started))
				}
				t.add(clock(r.Due, now), r.State, duration, strconv.FormatInt(r.Attempt, 10), clip(plain.Line(cmp.Or(r.Caller, "schedule")), 24), orDash(cmp.Or(firstLine(r.Error), r.Outcome)))
			}
			return t.print(cmd.OutOrStdout())
		}),
	}
	f := cmd.Flags()
	f.StringVar(&state, "state", "", "only those that are "+strings.Join(runStates, ", "))
	cobra.CheckErr(cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions(runStates, cobra.ShellCompDirectiveNoFileComp)))
	f.IntVar(&limit, "limit", 50, "how many to show")
	jsonFlag(cmd, &asJSON)
	return cmd
}
