package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client/provisioner"
	"github.com/taskfleet/taskfleet/timestamp"
)

// When something is wrong.
const (
	lateAfter    = 2 * time.Minute  // without a pass over all pools
	longWait     = 10 * time.Minute // of a task for a worker, while its pool may have more
	mostExamined = 20               // pools that are asked why
	shownPools   = 20               // of those that nothing is wrong with
)

func newStatusCommand() *cobra.Command {
	var asJSON, all bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show what is wrong with the fleet, and how it is",
		Long: fmt.Sprintf(`Shows what is wrong, with what to do about it, then what is worth knowing, and then the providers and pools with their
figures, in capacity: the number of tasks that can run at once. It is wrong if no server looks after workers, a provider
does not answer, workers cannot be started, tasks wait and nothing can be bought, or tasks wait for more than %s
while their pool may have more workers. The exit code is 1 if anything is wrong.`, took(longWait)),
		Example: "  taskfleet provisioner status\n  taskfleet provisioner status --json | jq '.wrong[].text'",
		Args:    cobra.NoArgs,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			f, err := examine(ctx, s)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), f)
			} else {
				err = f.print(cmd.OutOrStdout(), all)
			}
			if err == nil && len(f.Wrong) > 0 {
				err = silentError{errors.New("something is wrong")}
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&all, "all", false, "show all pools, also those in which nothing happens")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// A fleetState is a fleet and what there is to say about it.
type fleetState struct {
	At        timestamp.Time                       `json:"at"`
	LastPass  timestamp.Time                       `json:"lastPass,omitzero"`
	Wrong     []finding                            `json:"wrong"`
	Notes     []finding                            `json:"notes"`
	Providers []provisioner.ProviderStatusProvider `json:"providers"`
	Pools     []provisioner.PoolStatus             `json:"pools"`
}

// A finding is something to be said, and what to do about it.
type finding struct {
	WorkerPoolID string `json:"workerPoolId,omitempty"`
	ProviderID   string `json:"providerId,omitempty"`
	Text         string `json:"text"`
	Next         string `json:"next"` // a command line, or what else to do
}

// examine looks at the fleet, and closer where something may be wrong.
func examine(ctx context.Context, s *session) (*fleetState, error) {
	f := &fleetState{Wrong: []finding{}, Notes: []finding{}, Pools: []provisioner.PoolStatus{}}
	p := provisioner.New(s.core)
	health, err := p.ProviderStatus(ctx)
	if err != nil {
		return nil, err
	}
	f.At, f.LastPass, f.Providers = health.At, health.LastPass, health.Providers
	for x, err := range p.FleetStatusAll(ctx, provisioner.FleetStatusOptions{Limit: most}) {
		if err != nil {
			return nil, err
		}
		f.Pools = append(f.Pools, x)
	}
	f.judgeServers()
	for _, x := range f.Providers {
		f.judgeProvider(&x)
	}
	// Those that wait longest first.
	slices.SortStableFunc(f.Pools, func(a, b provisioner.PoolStatus) int {
		return cmp.Or(cmp.Compare(f.waited(&b), f.waited(&a)), cmp.Compare(b.Errors, a.Errors), cmp.Compare(b.Running+b.Requested, a.Running+a.Requested), cmp.Compare(a.WorkerPoolID, b.WorkerPoolID))
	})
	examined := 0
	for i := range f.Pools {
		x := examination{PoolStatus: &f.Pools[i]}
		if (x.Errors > 0 || f.waited(x.PoolStatus) > longWait) && examined < mostExamined {
			examined++
			// What may not be seen, or goes away meanwhile, is judged from outside.
			x.why, _ = p.ExplainWorkerPool(ctx, x.WorkerPoolID)
			if l, err := p.ListMarkets(ctx, x.WorkerPoolID); err == nil {
				x.markets = l.Markets
			}
		}
		f.judgePool(&x)
	}
	return f, ctx.Err()
}

// An examination is a pool, and where something may be wrong what there is to
// know about it.
type examination struct {
	*provisioner.PoolStatus
	why     *provisioner.Explanation // nil: nobody asked
	markets []market
}

// waited is how long the task has waited that waits longest in a pool.
func (f *fleetState) waited(x *provisioner.PoolStatus) time.Duration {
	if x.OldestPending.IsZero() {
		return 0
	}
	return f.At.Sub(x.OldestPending)
}

func (f *fleetState) wrong(x finding) { f.Wrong = append(f.Wrong, x) }
func (f *fleetState) note(x finding)  { f.Notes = append(f.Notes, x) }

func (f *fleetState) judgeServers() {
	next := "taskfleet loops"
	switch {
	case f.LastPass.IsZero() && len(f.Pools) > 0:
		f.note(finding{Text: "No server has looked after the workers yet. One does within seconds of its start.", Next: next})
	case !f.LastPass.IsZero() && f.At.Sub(f.LastPass) > lateAfter:
		f.wrong(finding{Text: fmt.Sprintf("No server has looked after the workers since %s: nothing is started or ended.", when(f.LastPass, f.At)), Next: next})
	}
}

func (f *fleetState) judgeProvider(x *provisioner.ProviderStatusProvider) {
	if !x.Ok && x.Error != "" {
		f.wrong(finding{
			ProviderID: x.ProviderID,
			Text:       fmt.Sprintf("The provider %s cannot tell which workers it has since %s: %s Meanwhile nothing is started in its pools.", x.ProviderID, when(x.FailingSince, f.At), sentence(x.Error)),
			Next:       "put it right; it is tried again every few seconds",
		})
	}
}

func isAre(n int64) string {
	if n == 1 {
		return "is"
	}
	return "are"
}

// sentence ends a text with a full stop.
func sentence(s string) string {
	s = strings.TrimSpace(s)
	if s == "" || strings.ContainsAny(s[len(s)-1:], ".!?") {
		return s
	}
	return s + "."
}

// judgePool says what is wrong with a pool.
func (f *fleetState) judgePool(x *examination) {
	id, capacity := x.WorkerPoolID, x.Running+x.Requested+x.Draining
	explain := "taskfleet provisioner explain " + id
	say := func(to func(finding), next, format string, args ...any) {
		to(finding{WorkerPoolID: id, Text: id + ": " + fmt.Sprintf(format, args...), Next: next})
	}
	wait, why := f.waited(x.PoolStatus), x.why
	waiting := fmt.Sprintf("%s, the oldest for %s", numbered(x.Pending, "task waits", "tasks wait"), took(wait))
	if x.ProviderID == nullProvider {
		if x.Pending > 0 {
			say(f.wrong, "taskfleet pool apply -f FILE", "%s, and the pool is being deleted, so that nobody will run them.", waiting)
		} else {
			say(f.note, explain, "it is being deleted; %s left.", numbered(x.Workers, "worker is", "workers are"))
		}
		return
	}
	if !slices.ContainsFunc(f.Providers, func(p provisioner.ProviderStatusProvider) bool { return p.ProviderID == x.ProviderID }) {
		say(f.wrong, "configure the provider, or change the pool", "its provider %s is not configured on the server.", x.ProviderID)
		return
	}
	stuck := false
	if why != nil {
		for _, c := range why.LaunchConfigs {
			if c.State == "waiting" {
				stuck = true
				what := ""
				if i := slices.IndexFunc(why.Errors, func(e provisioner.ExplanationError) bool { return e.LaunchConfigID == c.LaunchConfigID }); i >= 0 {
					what = ": " + strings.TrimRight(why.Errors[i].Title, ".")
				}
				say(f.wrong, "taskfleet provisioner errors "+id, "workers of %s cannot be started%s. It failed %s in a row; the next try is at %s.",
					c.LaunchConfigID, what, numbered(c.Failures, "time", "times"), when(c.StartAfter, f.At))
			}
		}
	}
	closed := 0
	for _, m := range x.markets {
		if m.State != "open" {
			closed++
		}
	}
	markets := "taskfleet provisioner markets " + id + " --closed"
	if closed > 0 && closed == len(x.markets) && x.Pending > 0 && !stuck {
		stuck = true
		say(f.wrong, markets, "%s, and none of its %s is open: %s", waiting, count(closed, "market"), sentence(closures(x.markets)[0].reason))
	} else if closed > 0 {
		say(f.note, markets, "%d of its %s %s not open.", closed, count(len(x.markets), "market"), isAre(int64(closed)))
	}
	full := x.Max != nil && capacity >= *x.Max
	switch {
	case stuck || wait <= longWait:
	case full:
		say(f.note, "raise config.maxCapacity, or wait", "%s, and it has all the capacity that it may have, %d.", waiting, *x.Max)
	case x.Max == nil:
		say(f.wrong, "make workers known with createWorker", "%s; nobody starts workers of this pool.", waiting)
	case why != nil && len(why.Hindrances) > 0:
		say(f.wrong, explain, "%s. %s", waiting, why.Hindrances[0])
	default:
		say(f.wrong, explain, "%s, although it may have more workers.", waiting)
	}
	if x.Errors > 0 && !stuck {
		latest := ""
		if why != nil && len(why.Errors) > 0 {
			latest = fmt.Sprintf(", the latest %s ago: %s", age(why.Errors[0].Reported, f.At), sentence(why.Errors[0].Title))
		}
		say(f.note, "taskfleet provisioner errors "+id, "%s in the last hour%s", numbered(x.Errors, "error", "errors"), cmp.Or(latest, "."))
	}
	if x.Quarantined > 0 {
		say(f.note, "taskfleet provisioner workers list "+id+" --activity quarantined", "workers for %s are in quarantine.", numbered(x.Quarantined, "task", "tasks"))
	}
}

func (f *fleetState) print(w io.Writer, all bool) error {
	b, width := brushFor(w), lineWidth(w)
	list := func(c color, head string, findings []finding) {
		if len(findings) == 0 {
			return
		}
		fmt.Fprintln(w, b.paint(c, head))
		for _, x := range findings {
			fmt.Fprintf(w, "%s    %s\n", bullet(x.Text, width), b.paint(dim, "→ "+x.Next))
		}
		fmt.Fprintln(w)
	}
	if len(f.Wrong) == 0 {
		fmt.Fprintf(w, "%s\n\n", b.paint(green, "Nothing is wrong."))
	}
	list(red, "WRONG", f.Wrong)
	list(yellow, "WORTH KNOWING", f.Notes)
	t := table{head: []string{"PROVIDER", "TYPE", "STATE", "LOOKED AT", "WORKERS"}}
	for _, x := range f.Providers {
		state, looked := "ok", "never"
		if !x.Ok {
			state = "failing"
		}
		if x.LookedAt.IsZero() {
			state = "-"
		} else {
			looked = age(x.LookedAt, f.At) + " ago"
		}
		t.add(x.ProviderID, x.ProviderType, state, looked, number(x.Workers))
	}
	if err := t.print(w); err != nil {
		return err
	}
	return f.printPools(w, all)
}

func (f *fleetState) printPools(w io.Writer, all bool) error {
	if len(f.Pools) == 0 {
		_, err := fmt.Fprintln(w, "\nThere are no worker pools.")
		return err
	}
	fmt.Fprintln(w)
	t := table{head: []string{"POOL", "PENDING", "OLDEST", "TASKS", "IDLE", "BOOTING", "LEAVING", "MAX", "ERRORS", "$/HOUR"}}
	var pending, claimed, idle, booting, leaving, errors int64
	var cost float64
	hidden := 0
	for i := range f.Pools {
		x := &f.Pools[i]
		pending, claimed, idle, booting, leaving = pending+x.Pending, claimed+x.Claimed, idle+x.Idle, booting+x.Requested, leaving+x.Draining
		errors, cost = errors+x.Errors, cost+x.CostPerHour
		if !all && len(t.rows) >= shownPools && x.Errors == 0 && f.waited(x) < longWait {
			hidden++
			continue
		}
		limit := "-"
		if x.Max != nil {
			limit = number(*x.Max)
		}
		t.add(x.WorkerPoolID, number(x.Pending), age(x.OldestPending, f.At), number(x.Claimed), number(x.Idle), number(x.Requested), number(x.Draining), limit, number(x.Errors), hourly(x.CostPerHour))
	}
	if len(f.Pools) > 1 {
		t.add("all", number(pending), "", number(claimed), number(idle), number(booting), number(leaving), "", number(errors), hourly(cost))
	}
	if err := t.print(w); err != nil {
		return err
	}
	if hidden > 0 {
		_, err := fmt.Fprintf(w, "%d more pools are not shown; --all shows them\n", hidden)
		return err
	}
	return nil
}

// hourly words what something costs by the hour; nothing may as well be not
// known.
func hourly(d float64) string {
	if d == 0 {
		return "-"
	}
	return money(d)
}
