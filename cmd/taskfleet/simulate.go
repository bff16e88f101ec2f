//go:build !agent

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/provisioner/simulate"
	"github.com/taskfleet/taskfleet/provisioner/sizing"
)

// A simulation is a command line of provisioner simulate.
type simulation struct {
	simulate.Options
	policies  []string
	waitPrice float64
	pool      string
	plot      string
	sweep     bool
	quick     bool
	json      bool
}

func newSimulateCommand() *cobra.Command {
	var s simulation
	cmd := &cobra.Command{
		Use: "simulate TRACE...", Short: "Show what ways of sizing a pool cost, and how long tasks wait",
		Long: `Runs the provisioner on virtual time, with the tasks of a trace and an imitation of EC2, once for each policy, and
shows how long tasks waited and what was paid for. Each trace is a pool, side by side with the others. A trace is CSV
with the header arrival_ms,duration_ms, or JSON lines {"taskId", "dependencies", "arrival_ms", "duration_ms"};
taskfleet provisioner trace invents one.

What was paid is compared with what somebody would pay who knows the future and has no task wait: the bound. With
--sweep forecast runs with many wait prices, and other policies with many idle times; what no other setting beats in
both waiting and cost is marked.`,
		Example: `  taskfleet provisioner simulate week.csv
  taskfleet provisioner simulate build.csv test.csv --policy forecast,ratio --boot 120s --plot week.svg
  taskfleet provisioner simulate week.csv --pool pool.yml --sweep --plot front.svg`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("name a trace; taskfleet provisioner trace diurnal > week.csv invents one")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("wait-price") {
				s.WaitPrice = &s.waitPrice
			}
			return s.run(cmd, args)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&s.policies, "policy", nil, "sizing policies, one run for each: "+strings.Join(policyNames(), ", ")+" (default: the pool's, or the first)")
	f.Float64Var(&s.waitPrice, "wait-price", sizing.DefaultWaitPrice, "minutes of machine that a minute of waiting is worth")
	f.DurationVar(&s.Boot, "boot", 75*time.Second, "median boot time, which is log-normal with sigma 0.25")
	f.DurationVar(&s.Idle, "idle", 0, "most that a worker may be idle (default: as the policy thinks right)")
	f.Var((*share)(&s.Dead), "dead", "share of machines that never register, such as 5%")
	f.Var((*share)(&s.Interruptions), "interruptions", "interruptions of a spot machine in an hour, such as 0.05 or 5%")
	f.Var((*share)(&s.SoldOut), "sold-out", "share of the time in which a market has none to sell")
	f.BoolVar(&s.Chaos, "chaos", false, "late, doubled and lost events, lists that lag, lost answers, prices that walk")
	f.Var((*share)(&s.Known), "known", "share of the tasks that are announced one boot time ahead")
	f.Uint64Var(&s.Seed, "seed", 1, "of all that is drawn")
	f.Int64Var(&s.Max, "max", 0, "most capacity of a pool (default: the pool's, or 10000)")
	f.Int64Var(&s.Capacity, "capacity", 0, "tasks that a machine runs at once (default: the pool's, or 1)")
	f.StringVar(&s.pool, "pool", "", "file with the definition of the pools, as taskfleet pool apply takes it")
	f.BoolVar(&s.sweep, "sweep", false, "try many settings, and show which are best")
	f.StringVar(&s.plot, "plot", "", "file to draw the queue, capacity and cost into, as SVG")
	f.BoolVar(&s.quick, "quick", false, "only the first day of the traces")
	jsonFlag(cmd, &s.json)
	_ = cmd.RegisterFlagCompletionFunc("policy", cobra.FixedCompletions(policyNames(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func policyNames() (names []string) {
	for _, p := range sizing.Policies() {
		names = append(names, p.Name())
	}
	return names
}

// A share is a flag that is a number or a percentage.
type share float64

func (s *share) String() string { return strconv.FormatFloat(float64(*s), 'g', -1, 64) }
func (s *share) Type() string   { return "share" }

func (s *share) Set(text string) error {
	number, percent := strings.CutSuffix(strings.TrimSpace(text), "%")
	x, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !(x >= 0) {
		return fmt.Errorf("%q must be a number such as 0.05, or 5%%", text)
	}
	if percent {
		x /= 100
	}
	*s = share(x)
	return nil
}

// A setting is one run of the simulator.
type setting struct {
	simulate.Options
	label string // what is special about it among others
}

func (s *simulation) run(cmd *cobra.Command, files []string) error {
	if s.plot != "" && !strings.EqualFold(filepath.Ext(s.plot), ".svg") {
		return usagef("--plot is %s; plots are SVG, so give a name such as plot.svg", s.plot)
	}
	settings, err := s.settings()
	if err != nil {
		return err
	}
	if s.pool != "" {
		p, err := graph.LoadPool(s.pool, graph.Options{})
		if err != nil {
			return err
		}
		for i := range settings {
			settings[i].Pool = p.Definition.Config
		}
	}
	traces, err := s.read(files)
	if err != nil {
		return err
	}
	// Most memory is short-lived, and there is little of it at a time.
	defer debug.SetGCPercent(debug.SetGCPercent(300))
	points, err := s.simulate(cmd, traces, settings)
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if s.json {
		for _, p := range points {
			if err := printLine(out, p.Result); err != nil {
				return err
			}
		}
	} else if err := s.show(out, traces, points); err != nil {
		return err
	}
	return s.draw(traces, points)
}

// settings are the runs that are to be made.
func (s *simulation) settings() (list []setting, err error) {
	policies := s.policies
	for _, name := range policies {
		if _, err := sizing.ByName(name); err != nil {
			return nil, usagef("%v", err)
		}
	}
	if len(policies) == 0 {
		policies = []string{""}
		if s.sweep {
			policies = policyNames()
		}
	}
	for _, name := range policies {
		o := s.Options
		o.Policy = name
		switch {
		case !s.sweep:
			list = append(list, setting{o, ""})
		case name == sizing.Forecast{}.Name():
			for _, price := range []float64{0, 0.25, 0.5, 1, 2, 4, 8, 16} {
				o.WaitPrice = &price
				list = append(list, setting{o, fmt.Sprintf("wait price %g", price)})
			}
		default:
			list = append(list, setting{o, "idle as it thinks"})
			for _, idle := range []time.Duration{time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 30 * time.Minute} {
				o.Idle = idle
				list = append(list, setting{o, "idle " + strings.TrimSuffix(took(idle), "00s")})
			}
		}
	}
	return list, nil
}

func (s *simulation) read(files []string) (traces []simulate.Trace, err error) {
	for _, file := range files {
		t, err := simulate.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if s.quick {
			t.Tasks = slices.DeleteFunc(t.Tasks, func(k simulate.Task) bool { return k.Arrival >= (24 * time.Hour).Milliseconds() })
			if len(t.Tasks) == 0 {
				continue
			}
		}
		traces = append(traces, t)
	}
	if len(traces) == 0 {
		return nil, errors.New("no task of the traces is of the first day; leave --quick out")
	}
	return traces, nil
}

// simulate makes the runs, as many at once as there are processors.
func (s *simulation) simulate(cmd *cobra.Command, traces []simulate.Trace, settings []setting) ([]simulate.Point, error) {
	ctx, cancel := context.WithCancel(cmd.Context())
	defer cancel()
	progress := newProgress(cmd.ErrOrStderr(), len(settings))
	defer progress.end()
	points, errs := make([]simulate.Point, len(settings)), make([]error, len(settings))
	places := make(chan struct{}, runtime.GOMAXPROCS(0))
	var all sync.WaitGroup
	for i, one := range settings {
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			one.Progress = func(share float64) { progress.set(i, share) }
			r, err := simulate.Run(ctx, traces, one.Options)
			if err != nil {
				errs[i] = err
				cancel()
				return
			}
			progress.set(i, 1)
			points[i] = simulate.Point{Result: r, Label: one.label}
		})
	}
	all.Wait()
	for _, err := range errs { // the one that cancelled the others comes first
		if err != nil && !errors.Is(err, context.Canceled) {
			return nil, err
		}
	}
	return points, cmd.Context().Err()
}

func (s *simulation) draw(traces []simulate.Trace, points []simulate.Point) error {
	if s.plot == "" {
		return nil
	}
	f, err := os.Create(s.plot)
	if err != nil {
		return err
	}
	if s.sweep {
		err = simulate.PlotFront(f, "Waiting against cost: "+namesOf(traces), points)
	} else {
		var results []*simulate.Result
		for _, p := range points {
			results = append(results, p.Result)
		}
		title := namesOf(traces)
		if len(results) == 1 {
			title = results[0].Policy + ": " + title
		}
		err = simulate.Plot(f, title, results)
	}
	return errors.Join(err, f.Close())
}

func namesOf(traces []simulate.Trace) string {
	var names []string
	for _, t := range traces {
		names = append(names, t.Name)
	}
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d others", names[0], len(names)-1)
	}
	return strings.Join(names, ", ")
}

func (s *simulation) show(out io.Writer, traces []simulate.Trace, points []simulate.Point) error {
	first := points[0].Result
	fmt.Fprintf(out, "%s: %s, %.0f machine-hours of work; boot %v\n", namesOf(traces), plural(first.Tasks, "task"), first.WorkHours, s.Boot)
	fmt.Fprintf(out, "knowing the future, without waiting: overhead %.2f %%\n\n", 100*first.BoundOverhead)
	seconds := func(x float64) string { return strconv.FormatFloat(x, 'f', 1, 64) }
	if s.sweep {
		t := table{head: []string{"", "POLICY", "SETTING", "MEAN", "P95", "MAX", "PAID", "OVERHEAD", "BOUND", "LAUNCHED"}}
		for _, p := range simulate.Front(points) {
			best := ""
			if p.Best {
				best = "*"
			}
			t.add(best, p.Policy, p.Label, seconds(p.Wait.Mean), seconds(p.Wait.P95), seconds(p.Wait.Max), fmt.Sprintf("%.0fh", p.PaidHours),
				fmt.Sprintf("%.2f%%", 100*p.Overhead), fmt.Sprintf("x%.3f", p.BoundRatio), number(int64(p.Launched)))
		}
		if err := t.print(out); err != nil {
			return err
		}
		_, err := fmt.Fprintln(out, "\nWaits in seconds. * no other setting has both less mean wait and less cost.")
		return err
	}
	t := table{head: []string{"POLICY", "MEAN", "P50", "P90", "P95", "P99", "MAX", "PAID", "OVERHEAD", "BOUND", "LAUNCHED", "IDLE"}}
	for _, p := range points {
		w := p.Wait
		t.add(p.Policy, seconds(w.Mean), seconds(w.P50), seconds(w.P90), seconds(w.P95), seconds(w.P99), seconds(w.Max), fmt.Sprintf("%.0fh", p.PaidHours),
			fmt.Sprintf("%.2f%%", 100*p.Overhead), fmt.Sprintf("x%.3f", p.BoundRatio), number(int64(p.Launched)), number(int64(p.LaunchedIdle)))
	}
	if err := t.print(out); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nWaits in seconds. BOUND: paid, by the least without waiting. IDLE: machines that ran nothing.")
	for _, p := range points {
		fmt.Fprintln(out)
		for _, line := range aftermath(p.Result) {
			fmt.Fprintf(out, "%-16s%s\n", p.Policy, line)
		}
	}
	return nil
}

// aftermath is what a table has no room for.
func aftermath(r *simulate.Result) (lines []string) {
	var calls []string
	for _, name := range slices.SortedFunc(maps.Keys(r.APICallsByAction), func(a, b string) int {
		if d := r.APICallsByAction[b] - r.APICallsByAction[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	}) {
		_, action, _ := strings.Cut(name, ":")
		calls = append(calls, fmt.Sprintf("%s %d", action, r.APICallsByAction[name]))
	}
	more := ""
	if len(calls) > 2 {
		more = ", others"
		calls = calls[:2]
	}
	lines = append(lines,
		fmt.Sprintf("%d API calls: %s%s; %d throttled", r.APICalls, strings.Join(calls, ", "), more, r.Throttled),
		fmt.Sprintf("%d orphans, %d killed at work, %d interrupted, %d runs lost; about $%.0f", r.Orphans, r.BusyKilled, r.Interrupted, r.Retries, r.Dollars))
	for _, kind := range slices.Sorted(maps.Keys(r.Complaints)) {
		why, _, _ := strings.Cut(r.Why[kind], "\n")
		lines = append(lines, clip(fmt.Sprintf("%d complaints %s: %s", r.Complaints[kind], kind, why), 84))
	}
	return lines
}

// A progress is shown on a terminal.
type progress struct {
	file *os.File // nil: nobody looks
	mu   sync.Mutex
	done []float64
	last time.Time
}

func newProgress(w io.Writer, runs int) *progress {
	p := &progress{done: make([]float64, runs)}
	if file, ok := terminal(w); ok {
		p.file = file
	}
	return p
}

func (p *progress) set(i int, share float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done[i] = share
	if p.file == nil || time.Since(p.last) < 100*time.Millisecond {
		return
	}
	p.last = time.Now()
	sum := 0.0
	for _, x := range p.done {
		sum += x
	}
	fmt.Fprintf(p.file, "\rsimulating %3.0f %%", 100*sum/float64(len(p.done)))
}

func (p *progress) end() {
	if p.file != nil {
		fmt.Fprint(p.file, "\r\033[K")
	}
}

func newTraceCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "trace", Short: "Invent a trace of tasks for the simulator",
		Long: "Invents a trace of tasks and prints it, for taskfleet provisioner simulate. The same flags print the same trace.",
	})
	for _, k := range simulate.Shapes {
		shape := simulate.Shape{}
		sub := &cobra.Command{
			Use: k.Name, Short: strings.ToUpper(k.About[:1]) + k.About[1:], Args: cobra.NoArgs,
			Example: "  taskfleet provisioner trace " + k.Name + " > trace" + map[bool]string{true: ".jsonl", false: ".csv"}[k.Name == "graphs"],
			RunE: func(cmd *cobra.Command, _ []string) error {
				tasks, err := simulate.Generate(k.Name, shape)
				if err != nil {
					return usagef("%v", err)
				}
				return simulate.Write(cmd.OutOrStdout(), tasks)
			},
		}
		f, d := sub.Flags(), k.Default
		f.Uint64Var(&shape.Seed, "seed", 1, "of all that is drawn")
		f.DurationVar(&shape.Length, "length", d.Length, "in which tasks arrive")
		f.DurationVar(&shape.Run, "run", d.Run, "of a task, on the average")
		if d.Rate > 0 {
			f.Float64Var(&shape.Rate, "rate", d.Rate, "arrivals an hour, on the average")
		}
		if d.Size > 0 {
			f.IntVar(&shape.Size, "size", d.Size, "tasks that come together")
		}
		if d.Every > 0 {
			f.DurationVar(&shape.Every, "every", d.Every, "how often")
		}
		if k.Name == "graphs" {
			f.StringSliceVar(&shape.Kinds, "kind", nil, "tasks to print: decision, build, test (default: all), to have them in pools of their own")
		}
		cmd.AddCommand(sub)
	}
	return cmd
}
