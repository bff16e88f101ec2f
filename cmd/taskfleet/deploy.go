//go:build !agent && !server

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/deploy"
	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/stacks"
)

// Exit codes of taskfleet deploy, beside exitViolated.
const (
	exitRolledBack  = 4
	exitBroken      = 5
	exitInterrupted = 6
)

// smokeLongest is how long the task of the smoke test may take. Queues take deadlines of five days at most.
const smokeLongest = 4 * 24 * time.Hour

// environments is where environments are that are named without a path.
const environments = "environments"

// deployFlags are those of taskfleet deploy.
type deployFlags struct {
	environment string
	planOnly    bool
	resume      bool
	anew        bool
	yes         bool
	image       string
	skipInfra   bool
	varFiles    []string
	terraform   string
	pulumi      string
	install     bool
	smokeLimit  time.Duration
	json        bool
}

func newDeployCommand() *cobra.Command {
	var f deployFlags
	cmd := &cobra.Command{
		Use: "deploy --environment NAME", Short: "Bring a whole environment to what its files say: infra, stacks, a test with a real task",
		Long: `Does all of a deployment, in order:

  infra     what it stands on is planned, judged by policy, and applied
  manifest  what was made is handed over to the stacks
  platform  generated secrets, the servers' configuration, the release, which migrates the database first
  stacks    the others: mirror, access, pools, schedules, monitoring
  smoke     a real task is created on the task queue that environment.yml names, and has to complete

NAME is a directory, or one in ./environments: a deployment of taskfleet infra with an environment in stacks/, or an environment
alone. Before anything is changed it is shown, and asked for; --yes answers. Data is not destroyed here: for that, taskfleet infra apply
wants the deployment's name. Stacks and the test need credentials, from TASKCLUSTER_CLIENT_ID and TASKCLUSTER_ACCESS_TOKEN. Nobody has any
for a new platform: without them, a deploy that has made the servers' secret goes on as the root client that is in it.

When the release fails, or the task does not complete on it, the image before is put back, and tested. Nothing else is: what
was changed beside it stays, and a database that was migrated.

Each step is written down, in .deploy of the environment, before and after. After Ctrl-C, a crash or a failure that was mended, --resume
goes on with the step that was under way. It puts an image back only if you agree, and only if the files are as they were.
--plan-only shows what would be done, and changes nothing.

Exit codes: 0 done; 1 failed, and the text says at which step, what is done and how to go on; 2 the command line is wrong; 3 policy
forbids what infra plans; 4 the release has failed and was rolled back: the one before is at work; 5 it could not be rolled back:
look at once; 6 interrupted.`,
		Example: `  taskfleet deploy --environment prod --plan-only
  taskfleet deploy --environment prod
  taskfleet deploy --environment prod --resume
  taskfleet deploy --environment prod --skip-infra --yes --image registry.example.com/taskfleet@sha256:…`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	flags := cmd.Flags()
	flags.StringVarP(&f.environment, "environment", "e", "", "`name` of the environment: a directory, or one in ./environments")
	flags.BoolVar(&f.planOnly, "plan-only", false, "show what would be done, and change nothing")
	flags.BoolVar(&f.resume, "resume", false, "go on with the deploy that has not come to its end")
	flags.BoolVar(&f.anew, "anew", false, "give up the deploy that has not come to its end, and begin another one")
	flags.BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	flags.StringVar(&f.image, "image", "", "`image` of the release, by its digest, instead of the one in environment.yml")
	flags.BoolVar(&f.skipInfra, "skip-infra", false, "leave what it stands on as it is")
	varFileFlag(cmd, &f.varFiles)
	flags.StringVar(&f.terraform, "terraform", "", "`path` of terraform or tofu, instead of the one on PATH")
	flags.StringVar(&f.pulumi, "pulumi", "", "`path` of pulumi, instead of the one on PATH")
	flags.BoolVar(&f.install, "install", false, "where there is no terraform or pulumi, download it")
	flags.DurationVar(&f.smokeLimit, "smoke-timeout", 20*time.Minute, "how `long` the task may take, with the start of a worker")
	jsonFlag(cmd, &f.json)
	cmd.MarkFlagsMutuallyExclusive("plan-only", "resume", "anew")
	if err := cmd.RegisterFlagCompletionFunc("environment", completeEnvironments); err != nil {
		panic(err) // there is no such flag
	}
	return cmd
}

// completeEnvironments offers those in ./environments, beside directories.
func completeEnvironments(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	entries, _ := os.ReadDir(environments) // none is none to offer
	var names []cobra.Completion
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, cobra.ShellCompDirectiveFilterDirs
}

// findEnvironment finds the directory that a name means, and in it the one with environment.yml.
func findEnvironment(name string) (directory, inner string, err error) {
	if name == "" {
		return "", "", usagef("--environment is missing: a directory, or the name of one in ./%s", environments)
	}
	looked := []string{name}
	if filepath.Base(name) == name {
		looked = append(looked, filepath.Join(environments, name))
	}
	for _, d := range looked {
		for _, inner := range []string{filepath.Join(d, "stacks"), d} {
			if _, err := os.Stat(filepath.Join(inner, stacks.EnvironmentFile)); err == nil {
				return d, inner, nil
			}
		}
	}
	return "", "", fmt.Errorf("there is no environment %s: no %s in %s/stacks, nor in %s itself. Nothing was done", name, stacks.EnvironmentFile, strings.Join(looked, "/stacks, "), strings.Join(looked, ", "))
}

func (f *deployFlags) run(cmd *cobra.Command) error {
	directory, inner, err := findEnvironment(f.environment)
	if err != nil {
		return err
	}
	e, err := stacks.Load(inner)
	if err != nil {
		return err
	}
	switch {
	case f.image == "":
	case e.Platform == nil || e.Platform.Files != "":
		return usagef("--image: %s has no release at AWS, so there is no image to replace", f.environment)
	case !stacks.ByDigest(f.image):
		return usagef("--image is %q; it ends with a digest, @sha256:…, so that what runs is what was looked at", f.image)
	}
	if f.smokeLimit <= 0 || f.smokeLimit > smokeLongest {
		return usagef("--smoke-timeout is %s; a task may take up to %s", f.smokeLimit, smokeLongest)
	}
	// A terminal that goes away is an interrupt, and not a kill. Nor is a reader of the output that does: Ctrl-C ends tee at once,
	// and us when what is under way has ended.
	signal.Ignore(syscall.SIGPIPE)
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGHUP)
	defer stop()
	cmd.SetContext(ctx)

	t := &deployTeller{out: cmd.OutOrStdout(), errOut: cmd.ErrOrStderr(), json: f.json}
	d := &deploy.Deploy{Environment: directory, Name: e.Name, Image: f.image, Resume: f.resumed(directory), Tell: t.tell}
	if e.Platform != nil {
		d.Files = e.Platform.Image
	}
	d.Agree = func(_ context.Context, question string) error {
		if f.yes {
			return nil
		}
		if err := sure(cmd, question, "yes", "--yes"); err != nil {
			return fmt.Errorf("%w at this step", err)
		}
		return nil
	}
	above := &deployStacks{cmd: cmd, flags: f, environment: e, progress: t.progress(), width: widthOf(t.out), colour: colourful(t.out)}
	defer above.close()
	d.Stacks = above
	if e.Smoke != nil {
		d.Smoke = &smokeTest{connect: above.client, queue: e.Smoke.TaskQueueID, limit: f.smokeLimit, source: e.RootURL}
	}
	if !f.skipInfra {
		if d.Infra, err = f.infra(cmd, directory, e, t); err != nil {
			return err
		}
	}
	if f.planOnly {
		return f.told(cmd, t, d.PlanOnly(ctx))
	}
	mode := deploy.New
	switch {
	case f.resume:
		mode = deploy.Resume
	case f.anew:
		mode = deploy.Anew
	}
	return f.told(cmd, t, d.Run(ctx, mode))
}

// resumed is the command line that goes on with this deploy. What it is not to touch, and what it is done with, it names again.
func (f *deployFlags) resumed(directory string) string {
	line := "taskfleet deploy --environment " + stacks.ShellWord(directory) + " --resume"
	if f.skipInfra {
		line += " --skip-infra"
	}
	for _, v := range f.varFiles {
		line += " --var-file " + stacks.ShellWord(v)
	}
	if f.terraform != "" {
		line += " --terraform " + stacks.ShellWord(f.terraform)
	}
	if f.pulumi != "" {
		line += " --pulumi " + stacks.ShellWord(f.pulumi)
	}
	if f.install {
		line += " --install"
	}
	return line
}

// told tells what a deploy has come to, and makes an exit code of it.
func (f *deployFlags) told(cmd *cobra.Command, t *deployTeller, err error) error {
	var o *deploy.Outcome
	if err != nil && !errors.As(err, &o) {
		if f.planOnly && cmd.Context().Err() != nil {
			return &codedError{errors.New("interrupted; nothing was changed"), exitInterrupted}
		}
		return &codedError{errors.New(indented(err.Error())), exitFailed}
	}
	if t.json {
		report := map[string]any{"result": deploy.Done}
		if o != nil {
			report = map[string]any{"result": o.Result, "outcome": o, "error": o.Error()}
		}
		if f.planOnly && o == nil {
			report = map[string]any{"result": "planned"}
		}
		if err := printLine(t.out, report); err != nil && o == nil {
			return err
		}
	} else if o != nil {
		_ = printOutcome(t.errOut, o) // the exit code says what matters, even if nobody reads
	}
	if o == nil {
		return nil
	}
	code := exitFailed
	switch o.Result {
	case deploy.Forbidden:
		code = exitViolated
	case deploy.RolledBack:
		code = exitRolledBack
	case deploy.Broken:
		code = exitBroken
	case deploy.Interrupted:
		code = exitInterrupted
	}
	return &codedError{errors.New(indented(headline(o.Error()))), code} // all of it was told, and it must not be taken for a Ctrl-C
}

// printOutcome tells what the state is. Why it is so was told when it happened.
func printOutcome(w io.Writer, o *deploy.Outcome) error {
	fmt.Fprintln(w)
	if len(o.Steps) > 0 {
		t := &table{head: []string{"STEP", "STATE", "WHAT"}}
		for _, s := range o.Steps {
			t.add(string(s.Step), s.State, s.Text)
		}
		if err := t.print(w); err != nil {
			return err
		}
	}
	fmt.Fprintln(w, "\nHow to go on")
	for i, n := range o.Next {
		fmt.Fprintf(w, "  %d. %s\n", i+1, plain.Line(n))
	}
	fmt.Fprintln(w)
	return nil
}

// A deployTeller shows how a deploy goes.
type deployTeller struct {
	out, errOut io.Writer
	json        bool

	step deploy.Step // whose heading was printed
}

// progress is where what happens to single things is shown.
func (t *deployTeller) progress() io.Writer {
	if t.json {
		return t.errOut
	}
	return t.out
}

func (t *deployTeller) tell(e deploy.Event) {
	if t.json {
		if e.Detail != nil {
			e.Text = "" // the detail says it, for programs
		}
		printLine(t.out, e)
		return
	}
	if e.Step != t.step {
		t.step = e.Step
		fmt.Fprintf(t.out, "\n== %s\n", e.Step)
	}
	switch e.What {
	case deploy.EventBegin:
		if e.Text != "" {
			fmt.Fprintln(t.out, plain.Line(e.Text))
		}
	case deploy.EventDone:
		fmt.Fprintf(t.out, "%s is done: %s\n", e.Step, plain.Line(e.Text))
	case deploy.EventSkipped:
		fmt.Fprintf(t.out, "%s was done before: %s\n", e.Step, plain.Line(e.Text))
	case deploy.EventFailed:
		fmt.Fprintf(t.out, "%s has FAILED: %s\n", e.Step, indented(e.Text))
	case deploy.EventPlan:
		fmt.Fprintln(t.out, strings.TrimRight(e.Text, "\n"))
	case deploy.EventNote:
		fmt.Fprintf(t.out, "%s  %s\n", e.Time.Format(time.TimeOnly), indented(e.Text))
	}
}
