// Command taskfleet runs graphs of tasks on fleets of machines that it
// provisions itself. This is its one binary: the platform, its worker, and the command
// line for both.
//
// # Files
//
// main.go assembles the commands and maps errors to messages and exit codes;
// every other file is one group of commands. config.go and serve.go start a
// platform, up.go starts one and shows it at work, worker.go is what the
// provisioner starts; all others, and up.go but for the start, talk to a
// platform as any client would, with the session that connect.go opens.
//
// Built with -tags agent it has everything but the platform (config, serve and
// up): the worker and the command line, for machines that only use one. It is a
// third of the size, and quick to build for other systems.
//
// # Exit codes
//
// 0 is success; 1 means that the thing asked for failed, including a graph or
// task that did not complete where a command waits for it; 2 means that the
// command line is wrong, and that nothing was done. A diff exits with 1 where
// there are differences, and with 2 where it failed.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// run runs a command line and returns its exit code. A first interrupt ends
// the context of the command, which then ends in good order; a second one
// kills, as without us.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	started := false
	markStart(root, &started)
	cmd, err := root.ExecuteContextC(ctx)
	var silent silentError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &silent):
		return exitFailed
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		fmt.Fprintln(errOut, "taskfleet: interrupted")
		return exitFailed
	}
	var usage *usageError
	if !started || errors.As(err, &usage) {
		fmt.Fprintf(errOut, "taskfleet: %v\nSee %s --help.\n", err, cmd.CommandPath())
		return exitUsage
	}
	fmt.Fprintf(errOut, "taskfleet: %s\n", explain(err))
	var coded *codedError
	if errors.As(err, &coded) {
		return coded.code
	}
	return exitFailed
}

// markStart notes when a command begins to run: an error before that is the
// command line's.
func markStart(cmd *cobra.Command, started *bool) {
	if runE := cmd.RunE; runE != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			*started = true
			return runE(cmd, args)
		}
	}
	for _, c := range cmd.Commands() {
		markStart(c, started)
	}
}

// A usageError is a command line that makes no sense.
type usageError struct{ message string }

func (e *usageError) Error() string { return e.message }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

// A silentError is a failure that the command has told already.
type silentError struct{ error }

// A codedError is a failure with an exit code of its own.
type codedError struct {
	error
	code int
}

func (e *codedError) Unwrap() error { return e.error }

// explain adds to an error what its reader may not know: which credentials were
// used, and what to do next.
func explain(err error) string {
	text := strings.ReplaceAll(err.Error(), "client: ", "")
	var from *sessionError
	if !errors.As(err, &from) {
		return text
	}
	s := from.session
	var refusal *client.Error
	var dial *net.OpError
	switch {
	case errors.As(err, &refusal) && refusal.StatusCode == 401:
		return fmt.Sprintf("%s\nThe credentials are %s, for %s. taskfleet creds show tells about them.", text, s.from, s.core.RootURL())
	case errors.As(err, &refusal) && refusal.StatusCode == 403:
		return fmt.Sprintf("%s\nThe call was made with %s. taskfleet creds show lists their scopes; ask an administrator for those that are missing.", text, s.identity())
	case errors.As(err, &refusal) && refusal.Code == "":
		return fmt.Sprintf("%s\nIs %s the root URL of a deployment? It comes from %s.", text, s.core.RootURL(), s.from)
	case errors.As(err, &dial) && dial.Op == "dial":
		return fmt.Sprintf("%s\nNothing answers at %s, the root URL from %s. Start a platform with taskfleet up or taskfleet serve, or set TASKCLUSTER_ROOT_URL.", text, s.core.RootURL(), s.from)
	}
	return text
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "taskfleet",
		Short: "Runs graphs of tasks on fleets of machines that it provisions itself",
		Long: `Taskfleet runs graphs of tasks on fleets of machines that it provisions itself.

A whole platform on this machine, at work:         taskfleet up
The same as a service:                             taskfleet serve
What a platform is asked to do:                    taskfleet graph, task, pool, creds, loops
How its workers are, and what they cost:           taskfleet provisioner
Copies of artifacts near the workers:              taskfleet mirror
What it does at certain times:                     taskfleet schedule
Credentials that are rotated:                      taskfleet credentials
What a platform is to have, as files:              taskfleet resources
What it runs on at AWS, as Terraform:              taskfleet infra
What it has above that, with Pulumi:               taskfleet stacks
All of it in order, tried with a real task:        taskfleet deploy

` + credentialsDoc,
		Example: `  taskfleet up
  taskfleet graph submit examples/fan --watch
  taskfleet task create --queue local/build --follow -- sh -c 'echo hello'`,
		SilenceErrors: true, SilenceUsage: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	group(root)
	root.AddCommand(platformCommands()...)
	root.AddCommand(
		newWorkerCommand(), newGraphCommand(), newTaskCommand(), newPoolCommand(), newProvisionerCommand(), newMirrorCommand(), newCredentialsCommand(), newCredsCommand(), newLoopsCommand(), newScheduleCommand(), resourcesCommand(),
		newBenchCommand(), newVersionCommand(),
	)
	return root
}

// group makes cmd a command that only has subcommands: without one it shows
// its help, and a wrong one is an error.
func group(cmd *cobra.Command, subcommands ...*cobra.Command) *cobra.Command {
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	cmd.AddCommand(subcommands...)
	return cmd
}

func newVersionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "version", Short: "Tell which build this is", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := buildVersion()
			if asJSON {
				return printJSON(cmd.OutOrStdout(), v)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "taskfleet %s", v.Version)
			if v.Commit != "" {
				fmt.Fprintf(cmd.OutOrStdout(), ", commit %s", v.Commit)
			}
			fmt.Fprintf(cmd.OutOrStdout(), ", built with %s\n", v.Build)
			return nil
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}
