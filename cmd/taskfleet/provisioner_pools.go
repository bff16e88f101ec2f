package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/provisioner"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/timestamp"
)

// newPoolsCommand is the commands about pools. They are there under two names,
// and path is that of this one.
func newPoolsCommand(name, path string) *cobra.Command {
	return group(&cobra.Command{
		Use: name, Short: "Show worker pools and define them",
	}, newPoolListCommand(path), newPoolShowCommand(path), newPoolApplyCommand(path), newPoolDiffCommand(path),
		newPoolValidateCommand(path), newPoolDeleteCommand(path), newPoolRetryCommand(path))
}

// commandLines are examples of a command that is there under several names.
func commandLines(path string, lines ...string) string {
	return "  " + path + " " + strings.Join(lines, "\n  "+path+" ")
}

func newPoolListCommand(path string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List the worker pools", Aliases: []string{"ls"},
		Example: commandLines(path, "list"),
		Args:    cobra.NoArgs,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			pools, err := allPools(ctx, s)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), pools)
			}
			if len(pools) == 0 {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "There are no worker pools. Create one with %s apply -f FILE.\n", path)
				return err
			}
			t := table{head: []string{"POOL", "PROVIDER", "CAPACITY", "MAX", "STARTING", "RUNNING", "STOPPING"}}
			for _, p := range pools {
				provider, limit := p.ProviderID, "-"
				if n := settingsOf(p.Config).MaxCapacity; n != nil {
					limit = number(*n)
				}
				if provider == nullProvider {
					provider, limit = "being deleted", "-"
				}
				t.add(p.WorkerPoolID, provider, number(p.CurrentCapacity), limit, number(p.RequestedCount), number(p.RunningCount), number(p.StoppingCount))
			}
			return t.print(cmd.OutOrStdout())
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

// poolSettings are what commands want to know of a pool's configuration.
type poolSettings struct {
	MinCapacity int64  `json:"minCapacity"`
	MaxCapacity *int64 `json:"maxCapacity"`
}

// settingsOf reads a configuration. That of a provider which counts in another
// way has none.
func settingsOf(config json.RawMessage) (s poolSettings) {
	if err := json.Unmarshal(config, &s); err != nil {
		return poolSettings{}
	}
	return s
}

// recentErrors is how many errors of a pool are shown.
const recentErrors = 5

func newPoolShowCommand(path string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "show POOL", Short: "Show a worker pool, its workers and its latest errors",
		Long:    "Shows a worker pool, its workers and its latest errors. With --json it prints the pool alone, in a form that " + path + " apply takes.",
		Example: commandLines(path, "show local/build", "show local/build --json > pool.json"),
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completePools,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			p, err := workermanager.New(s.core).WorkerPool(ctx, args[0])
			if err != nil {
				return aboutPool(err, args[0])
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
	now := timestamp.Now()
	provider := p.ProviderID
	if provider == nullProvider {
		provider = "none: it is being deleted, and disappears with its last worker"
	}
	fmt.Fprintf(w, "pool      %s\nprovider  %s\nowner     %s\n", p.WorkerPoolID, provider, p.Owner)
	if p.Description != "" {
		fmt.Fprintf(w, "about     %s", strings.TrimLeft(wrap(p.Description, lineWidth(w), "          "), " "))
	}
	fmt.Fprintf(w, "changed   %s\nworkers   %s\n", when(p.LastModified, now), workersInWords(p))
	// A pool whose queue the caller may not look at is shown all the same.
	if c, err := queue.New(s.core).TaskQueueCounts(ctx, p.WorkerPoolID); err == nil {
		fmt.Fprintf(w, "tasks     %d pending, %d claimed\n", c.PendingTasks, c.ClaimedTasks)
	}
	text, err := yaml.JSONToYAML(p.Config)
	if err != nil {
		return fmt.Errorf("showing the pool's configuration: %w", err)
	}
	fmt.Fprintf(w, "config\n%s", indent(string(text), "  "))
	if err := showWorkersOf(ctx, s, w, p.WorkerPoolID, now); err != nil {
		return err
	}
	errs, err := workermanager.New(s.core).ListWorkerPoolErrors(ctx, p.WorkerPoolID, workermanager.ListWorkerPoolErrorsOptions{Limit: recentErrors})
	if err != nil {
		return err
	}
	for i, e := range errs.WorkerPoolErrors {
		if i == 0 {
			fmt.Fprintln(w, "\nlatest errors")
		}
		fmt.Fprintf(w, "  %s ago  %s\n%s", age(e.Reported, now), e.Title, wrap(e.Description, lineWidth(w), "    "))
	}
	return nil
}

// showWorkersOf lists a pool's workers. Who may not see what they do and cost
// sees that they are there.
func showWorkersOf(ctx context.Context, s *session, w io.Writer, id string, now timestamp.Time) error {
	list, err := poolWorkers(ctx, s, id, "")
	var t table
	if forbidden(err) {
		t.head = []string{"WORKER", "GROUP", "STATE", "CAPACITY", "AGE"}
		for worker, err := range workermanager.New(s.core).ListWorkersForWorkerPoolAll(ctx, id, workermanager.ListWorkersForWorkerPoolOptions{Limit: most}) {
			if err != nil {
				return err
			}
			if worker.State != "stopped" {
				t.add(worker.WorkerID, worker.WorkerGroup, worker.State, number(worker.Capacity), age(worker.Created, now))
			}
		}
	} else if err != nil {
		return err
	} else {
		t = workerTable(list, now)
	}
	if len(t.rows) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	return t.print(w)
}

// forbidden reports whether err is that the caller lacks scopes.
func forbidden(err error) bool {
	e, ok := errors.AsType[*client.Error](err)
	return ok && e.StatusCode == 403
}

func indent(text, by string) string {
	var b strings.Builder
	for l := range strings.Lines(text) {
		b.WriteString(by + l)
	}
	return b.String()
}

func workersInWords(p *workermanager.WorkerPoolFull) string {
	return fmt.Sprintf("%d running, %d starting, %d stopping; %d stopped", p.RunningCount, p.RequestedCount, p.StoppingCount, p.StoppedCount)
}

// A poolSource is where a definition comes from: a file, or a pool that there
// is.
type poolSource struct {
	file       string
	parameters []string
}

func (f *poolSource) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.file, "file", "f", "", "the file with the definition")
	parameterFlag(cmd, &f.parameters)
}

// load reads the definition from the file.
func (f *poolSource) load() (*graph.Pool, error) {
	values, err := parseParameters(f.parameters)
	if err != nil {
		return nil, err
	}
	return graph.LoadPool(f.file, graph.Options{Parameters: values})
}

// either checks that a command line names a file or a pool.
func (f *poolSource) either(_ *cobra.Command, args []string) error {
	switch {
	case len(args) > 1:
		return usagef("name one pool, not %s", strings.Join(args, " and "))
	case len(args) == 0 && f.file == "":
		return usagef("name a pool, or a file with --file")
	case len(args) == 1 && f.file != "":
		return usagef("the definition comes from %s, so naming the pool %s makes no sense", f.file, args[0])
	}
	return nil
}

// find reads the definition from the file or, where args name one, of a pool.
func (f *poolSource) find(ctx context.Context, s *session, args []string) (*graph.Pool, error) {
	if f.file != "" {
		return f.load()
	}
	p, err := workermanager.New(s.core).WorkerPool(ctx, args[0])
	if err != nil {
		return nil, aboutPool(err, args[0])
	}
	if p.ProviderID == nullProvider {
		return nil, fmt.Errorf("the worker pool %s is being deleted, so that nothing is made of its definition any more", args[0])
	}
	return &graph.Pool{ID: args[0], Definition: workermanager.CreateWorkerPoolRequest{
		ProviderID: p.ProviderID, Description: p.Description, Owner: p.Owner, EmailOnError: p.EmailOnError, Config: p.Config,
	}}, nil
}

// trial is a definition as it is tried.
func trial(d *workermanager.CreateWorkerPoolRequest) *provisioner.WorkerPoolDefinition {
	return &provisioner.WorkerPoolDefinition{
		ProviderID: d.ProviderID, Description: d.Description, Owner: d.Owner, EmailOnError: &d.EmailOnError, Config: d.Config,
	}
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

func newPoolValidateCommand(path string) *cobra.Command {
	var source poolSource
	var asJSON bool
	cmd := &cobra.Command{
		Use: "validate [POOL]", Short: "Say what is wrong with the definition of a worker pool",
		Long: `Says what is wrong with the definition of a worker pool, that of a file or that of a pool there is: its form, and
whether what it names is there and may be used, such as images, networks, roles and quotas. Nothing is stored or
started. The exit code is 1 if anything is wrong or could not be looked at.`,
		Example: commandLines(path, "validate -f pool.yml", "validate aws/build"),
		Args:    source.either, ValidArgsFunction: completePools,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			p, err := source.find(ctx, s, args)
			if err != nil {
				return err
			}
			v, err := provisioner.New(s.core).ValidateWorkerPool(ctx, p.ID, trial(&p.Definition))
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				err = printJSON(out, v)
			} else {
				v := verdict(*v)
				err = v.print(out, p)
			}
			if err == nil && !v.Valid {
				err = silentError{fmt.Errorf("the definition of %s is not good", p.ID)}
			}
			return err
		}),
	}
	source.add(cmd)
	jsonFlag(cmd, &asJSON)
	return cmd
}

// A verdict is what is said of a definition.
type verdict provisioner.Validation

func (v verdict) print(w io.Writer, p *graph.Pool) (err error) {
	for _, f := range v.Findings {
		fmt.Fprint(w, bullet(f, lineWidth(w)))
	}
	if v.Incomplete != "" {
		fmt.Fprint(w, bullet("Not all could be looked at: "+v.Incomplete, lineWidth(w)))
	}
	switch n := len(v.Findings); {
	case v.Valid:
		_, err = fmt.Fprintf(w, "%s is good: %s of the provider %s.\n", p.ID, count(len(v.LaunchConfigIDs), "launch configuration"), p.Definition.ProviderID)
	case n == 0:
		_, err = fmt.Fprintf(w, "%s may be good: nothing wrong was found. Try again later.\n", p.ID)
	default:
		_, err = fmt.Fprintf(w, "%s is not good: %s wrong.\n", p.ID, map[bool]string{true: "one thing is", false: fmt.Sprintf("%d things are", n)}[n == 1])
	}
	return err
}

// bullet is a wrapped item of a list.
func bullet(text string, width int) string {
	return "  * " + strings.TrimLeft(wrap(text, width, "    "), " ")
}

func newPoolRetryCommand(path string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "retry POOL", Short: "Have what waits after failures tried again at once",
		Long: `Has launch configurations that wait after failed starts try again at once, and requests to the provider that were not
answered repeated. Use it when what made them fail has been put right elsewhere, such as a quota or a policy. What is
wrong with the definition is put right with ` + path + ` apply, which tries again by itself.`,
		Example: commandLines(path, "retry aws/build"),
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completePools,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			x, err := provisioner.New(s.core).RetryWorkerPool(ctx, args[0])
			if err != nil {
				return aboutPool(err, args[0])
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), x)
			}
			waiting, unanswered := 0, 0
			for _, c := range x.LaunchConfigs {
				if c.State == "waiting" {
					waiting++
				}
			}
			for _, i := range x.Intents {
				if i.NextAttempt > x.At {
					unanswered++
				}
			}
			var again []string
			if waiting > 0 {
				again = append(again, count(waiting, "launch configuration"))
			}
			if unanswered > 0 {
				again = append(again, count(unanswered, "request"))
			}
			text := args[0] + ": nothing waits to be tried again."
			if len(again) > 0 {
				text = fmt.Sprintf("%s: tries %s again. taskfleet provisioner explain %s shows how it goes.", args[0], strings.Join(again, " and "), args[0])
			}
			_, err = io.WriteString(cmd.OutOrStdout(), wrap(text, lineWidth(cmd.OutOrStdout()), ""))
			return err
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
