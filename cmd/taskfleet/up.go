//go:build !agent

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/examples"
	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/task"
)

// up starts a platform and shows it at work on a graph. Once the platform
// answers, it is a client like any other.
type up struct {
	config     configFlags
	graph      string
	pool       string
	parameters []string
	exit       bool

	out, errOut io.Writer
	log         string // the platform's own
}

const (
	selfGraph = "examples/self"
	selfPool  = "examples/pool.yml"
)

func newUpCommand() *cobra.Command {
	u := &up{}
	cmd := &cobra.Command{
		Use: "up", Short: "Start a platform on this machine and show it at work",
		Long: `Starts a whole platform in this process, defines a worker pool, submits a graph and shows how it goes. The platform
stays up until Ctrl-C; what it knows is kept in its data directory.

The graph is ` + selfGraph + ` if the working directory has that, so that in a checkout of Taskfleet it builds and tests
itself; otherwise a tiny one that is part of this program. Likewise the pool is ` + selfPool + `.

With --exit it stops when the graph has ended and the workers are gone; the exit code is 0 only if every task completed.`,
		Example: `  taskfleet up
  taskfleet up --exit --data ./try --listen 127.0.0.1:0
  taskfleet up --graph examples/fan --param count=50`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			u.out, u.errOut = cmd.OutOrStdout(), cmd.ErrOrStderr()
			return u.run(cmd.Context())
		},
	}
	u.config.add(cmd.Flags())
	cmd.Flags().StringVar(&u.graph, "graph", "", "graph to submit, a file or a directory with a "+graph.FileName)
	cmd.Flags().StringVar(&u.pool, "pool", "", "definition of a worker pool to apply before")
	cmd.Flags().BoolVar(&u.exit, "exit", false, "stop when the graph has ended")
	parameterFlag(cmd, &u.parameters)
	return cmd
}

func (u *up) run(ctx context.Context) error {
	c, err := u.config.load()
	if err != nil {
		return err
	}
	// What may be wrong with the files is said before anything starts.
	g, p, err := u.load()
	if err != nil {
		return err
	}
	logFile, err := u.openLog(c.Data)
	if err != nil {
		return err
	}
	defer logFile.Close()
	started := time.Now()
	log := c.logger(logFile)
	takeStandardLog(log)
	platform, err := startPlatform(ctx, c, log)
	if err != nil {
		return err
	}
	fmt.Fprintf(u.out, "The platform is up after %s, on %s; its log is %s\n\n", took(time.Since(started)), platform.RootURL, u.log)

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case err := <-platform.Done():
			cancel(fmt.Errorf("the platform stopped by itself: %w; see %s", err, u.log))
		case <-ctx.Done():
		}
	}()
	err = u.show(ctx, platform, g, p)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	if ctx.Err() != nil && !u.exit && errors.Is(err, context.Canceled) {
		err = nil // Ctrl-C is how this ends
	}
	if !u.exit {
		fmt.Fprintln(u.errOut, "Stopping the platform; another Ctrl-C ends it at once.")
	}
	end, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer stop()
	stopErr := platform.Stop(end)
	if silent := (silentError{}); stopErr != nil && errors.As(err, &silent) {
		return stopErr // the other one was told already
	}
	return errors.Join(err, stopErr)
}

// load reads the graph and the pool: those that were asked for, those of the
// checkout, or those that are built in.
func (u *up) load() (*graph.Graph, *graph.Pool, error) {
	values, err := parseParameters(u.parameters)
	if err != nil {
		return nil, nil, err
	}
	g, err := either(u.graph, selfGraph, "hello/graph.yml", graph.Options{Parameters: values}, graph.Load, graph.Parse)
	if err != nil {
		return nil, nil, err
	}
	p, err := either(u.pool, selfPool, "pool.yml", graph.Options{}, graph.LoadPool, graph.ParsePool)
	return g, p, err
}

// either loads what was asked for, else the file of the working directory if it
// is there, else the one that is part of the program.
func either[T any](asked, usual, builtIn string, o graph.Options,
	load func(string, graph.Options) (T, error), parse func(string, []byte, graph.Options) (T, error)) (T, error) {
	if asked != "" {
		return load(asked, o)
	}
	if _, err := os.Stat(filepath.FromSlash(usual)); err == nil {
		return load(filepath.FromSlash(usual), o)
	}
	text, err := fs.ReadFile(examples.FS, builtIn)
	if err != nil {
		var none T
		return none, err
	}
	return parse("built-in "+builtIn, text, o)
}

// openLog opens the file that the platform logs to, as the terminal is taken.
func (u *up) openLog(data string) (*os.File, error) {
	dir := filepath.Join(data, "logs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("creating the directory for logs: %w", err)
	}
	u.log = filepath.Join(dir, "taskfleet.log")
	f, err := os.OpenFile(u.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the platform's log: %w", err)
	}
	return f, nil
}

// show has the platform work on the graph, and returns when it is to stop.
func (u *up) show(ctx context.Context, p *platform, g *graph.Graph, pool *graph.Pool) error {
	core, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if _, _, err := applyPool(ctx, core, pool); err != nil {
		return err
	}
	screen := newScreen(u.out, view{name: g.Name, rootURL: p.RootURL, total: len(g.Tasks)})
	fleet := &lookout{core: core, screen: screen, queues: g.Queues()}
	progress, err := u.work(ctx, core, g, screen, fleet)
	if err == nil && u.exit {
		screen.event(noColor, "waiting until the workers have gone, which they do when they have been idle for a while")
		err = fleet.wait(ctx)
	}
	fleet.stop()
	screen.close()
	if err != nil {
		return err
	}
	fmt.Fprintf(u.out, "\n%s", summary(progress))
	if most := fleet.most(); most > 0 {
		now := ""
		if u.exit {
			now = " → 0"
		}
		fmt.Fprintf(u.out, "Workers: 0 → %d%s.\n", most, now)
	}
	if err := u.advise(ctx, core, p, g, progress); err != nil {
		return err
	}
	if u.exit {
		if !progress.Completed() {
			return silentError{errors.New("not every task completed")}
		}
		return nil
	}
	fmt.Fprintln(u.out, "The platform stays up until Ctrl-C.")
	<-ctx.Done()
	return context.Cause(ctx)
}

// work submits the graph and watches it to its end.
func (u *up) work(ctx context.Context, core *client.Client, g *graph.Graph, screen *screen, fleet *lookout) (*graph.Progress, error) {
	fleet.start(ctx)
	screen.event(noColor, "submitting %s as group %s", plural(len(g.Tasks), "task"), g.GroupID)
	err := graph.Submit(ctx, core, g, func(created, _ int) {
		screen.change(func(v *view) { v.tasks = graph.Counts{Unscheduled: created} })
	})
	if err != nil {
		return nil, err
	}
	return graph.Watch(ctx, core, g.GroupID, screen.step)
}

// A result is an artifact that the graph was run for.
type result struct {
	taskID string
	queue.ArtifactResponse
}

// results are the artifacts of the tasks that no other depends on and, where
// such a task leaves none, of those it depends on itself: what it has checked or
// announced. Logs are none.
func results(ctx context.Context, core *client.Client, g *graph.Graph) (list []result, err error) {
	needed := map[string]bool{}
	for _, t := range g.Tasks {
		for _, d := range t.Dependencies {
			needed[d] = true
		}
	}
	q := queue.New(core)
	seen := map[string]bool{}
	of := func(t *graph.Task) (n int, err error) {
		if seen[t.ID] {
			return 1, nil
		}
		seen[t.ID] = true
		for a, err := range q.ListLatestArtifactsAll(ctx, t.ID, queue.ListLatestArtifactsOptions{}) {
			if client.IsNotFound(err) {
				return -1, nil // it never ran
			} else if err != nil {
				return n, err
			}
			if a.StorageType == "s3" && !strings.HasPrefix(a.Name, "public/logs/") {
				list = append(list, result{t.ID, a})
				n++
			}
		}
		return n, nil
	}
	for i := range g.Tasks {
		t := &g.Tasks[i]
		if needed[t.Label] {
			continue
		}
		n, err := of(t)
		if err != nil {
			return nil, err
		}
		if n != 0 {
			continue
		}
		for _, d := range t.Dependencies {
			if _, err := of(g.Task(d)); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

const shownResults = 20

// advise tells where the results are and how to go on.
func (u *up) advise(ctx context.Context, core *client.Client, p *platform, g *graph.Graph, progress *graph.Progress) error {
	w := u.out
	list, err := results(ctx, core, g)
	if err != nil {
		return err
	}
	var largest result
	for i, r := range list {
		if i == 0 {
			fmt.Fprintln(w, "\nResults:")
		}
		if i < shownResults {
			fmt.Fprintf(w, "  %s%s\n    %s/api/queue/v1/task/%s/artifacts/%s\n", r.Name, r.size(), p.RootURL, r.taskID, r.Name)
		}
		if i == 0 || r.bytes() > largest.bytes() {
			largest = r
		}
	}
	if more := len(list) - shownResults; more > 0 {
		fmt.Fprintf(w, "  and %d more\n", more)
	}
	program := programName()
	fmt.Fprintln(w)
	if u.exit {
		fmt.Fprintf(w, "The platform stops now and keeps what it knows in %s. Start it again, then go on:\n  %s serve%s\n", p.Data, program, u.flagsInUse())
	} else {
		fmt.Fprintln(w, "Go on, in another terminal:")
	}
	if filepath.Clean(p.Data) != filepath.Clean(defaultConfig().Data) {
		fmt.Fprintf(w, "  export TASKFLEET_DATA='%s'\n", p.Data)
	}
	id := interesting(g, progress)
	fmt.Fprintf(w, "  %s task status %s\n  %s task log %s\n", program, id, program, id)
	if largest.taskID != "" {
		fmt.Fprintf(w, "  %s task download %s %s\n", program, largest.taskID, largest.Name)
	}
	fmt.Fprintf(w, "  %s task create --queue %s --follow -- sh -c 'echo hello'\n", program, g.Tasks[0].Definition.TaskQueueID)
	if _, err := os.Stat(filepath.Join("examples", "fan", graph.FileName)); err == nil {
		fmt.Fprintf(w, "  %s graph submit examples/fan --watch\n", program)
	}
	fmt.Fprintf(w, "  %s pool list\n  %s --help\n", program, program)
	_, err = fmt.Fprintf(w, "The API is at %s, described in /references/manifest.json.\n", p.RootURL)
	return err
}

// interesting is the task that somebody may want to look at: one that failed,
// or else the last one.
func interesting(g *graph.Graph, p *graph.Progress) string {
	for _, t := range p.Tasks() {
		if r := graph.LatestRun(&t.Status); t.Status.State != string(task.Completed) && r != nil && !r.Started.IsZero() {
			return t.ID
		}
	}
	return g.Tasks[len(g.Tasks)-1].ID
}

func (r result) bytes() int64 {
	if r.ContentLength == nil {
		return 0
	}
	return *r.ContentLength
}

func (r result) size() string {
	if r.ContentLength == nil {
		return ""
	}
	return "  " + bytesOf(*r.ContentLength)
}

// programName is what to type to run this program again.
func programName() string {
	name := os.Args[0]
	if found, err := exec.LookPath(filepath.Base(name)); err == nil && found == name || !strings.ContainsRune(name, filepath.Separator) {
		return filepath.Base(name)
	}
	return name
}

// flagsInUse are the flags that the platform was started with.
func (u *up) flagsInUse() (flags string) {
	for _, name := range []string{"config", "data", "listen", "root-url", "database"} {
		if f := u.config.set.Lookup(name); f != nil && f.Changed {
			flags += " --" + name + " " + f.Value.String()
		}
	}
	return flags
}
