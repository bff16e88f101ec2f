//go:build !agent

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/taskfleet/taskfleet/infra"
	"github.com/taskfleet/taskfleet/plain"
)

// exitDrift is the exit code of drift, and of verify, when they have found something. Therefore a wrong command line
// has 1 within infra.
const exitDrift = 2

// infraCommand is taskfleet infra.
func infraCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "infra", Short: "What a platform has at AWS: made, changed and watched with Terraform or OpenTofu",
		Long: `Makes what a platform has at AWS, from modules of HCL that come with this program: network, database, load
balancer, queues, buckets, keys, alarms. A deployment is a directory; terraform or tofu (1.10 or later) does the work.

A change goes in two steps. plan shows what would be done, what that costs and what policy says, and saves it under a
digest. apply does what was saved, if digest, state and configuration are still the same, and writes down each step,
so that after any interruption it is known what was done.

Exit codes: 0 done; 1 failed, and also a wrong command line; drift and verify: 2 if they have found something;
plan and apply: 3 if policy forbids it.`,
		Example: `  taskfleet infra init prod --example small
  taskfleet infra bootstrap --dir prod
  taskfleet infra plan --dir prod
  taskfleet infra apply --dir prod 20270131-101500 --digest sha256:…
  taskfleet infra drift --dir prod`,
	},
		newInfraInitCommand(), newInfraBootstrapCommand(), newInfraPlanCommand(), newInfraShowCommand(), newInfraApplyCommand(),
		newInfraDriftCommand(), newInfraImportCommand(), newInfraOutputCommand(), newInfraUnlockCommand(), newInfraDestroyCommand(),
		infraVerifyCommand(), infraCostCommand(), infraPolicyCommand(),
	)
	plainUsage(cmd)
	return cmd
}

// plainUsage makes a wrong command line exit with 1 instead of 2.
func plainUsage(cmd *cobra.Command) {
	told := func(c *cobra.Command, err error) error {
		if err == nil {
			return nil
		}
		fmt.Fprintf(c.ErrOrStderr(), "taskfleet: %v\nSee %s --help.\n", err, c.CommandPath())
		return silentError{err}
	}
	cmd.SetFlagErrorFunc(told)
	if args := cmd.Args; args != nil {
		cmd.Args = func(c *cobra.Command, a []string) error { return told(c, args(c, a)) }
	}
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(c *cobra.Command, a []string) error {
			err := run(c, a)
			var usage *usageError
			if errors.As(err, &usage) {
				return told(c, err)
			}
			return err
		}
	}
	for _, c := range cmd.Commands() {
		plainUsage(c)
	}
}

// infraFlags are those of every command that works on a deployment.
type infraFlags struct {
	directory string
	options   infra.Options
	json      bool
}

func (f *infraFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.directory, "dir", "d", ".", "`directory` of the deployment")
	cmd.Flags().StringVar(&f.options.Terraform, "terraform", "", "`path` of terraform or tofu, instead of the one on PATH")
	cmd.Flags().BoolVar(&f.options.Install, "install", false, "where there is none, download terraform from HashiCorp, by its signature")
	jsonFlag(cmd, &f.json)
}

// open opens the deployment; what people should know goes to the command's error output.
func (f *infraFlags) open(cmd *cobra.Command) (*infra.Deployment, error) {
	return infra.Open(cmd.Context(), f.directory, f.with(cmd))
}

func (f *infraFlags) with(cmd *cobra.Command) infra.Options {
	signal.Ignore(syscall.SIGPIPE) // Ctrl-C ends the tee that reads our output at once, and us when what is under way has ended
	infra.PrivateFiles()
	o := f.options
	o.Notice = func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), plain.Line(line)) }
	return o
}

func varFileFlag(cmd *cobra.Command, files *[]string) {
	cmd.Flags().StringArrayVar(files, "var-file", nil, "`file` with values of variables, beside terraform.tfvars; may be repeated")
}

// sure asks a question that is to be answered with a certain word. Where nobody can be asked, flag is what says it.
func sure(cmd *cobra.Command, question, word, flag string) error {
	in, ok := cmd.InOrStdin().(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return fmt.Errorf("nobody can be asked here, and %s is not given. Nothing was done", flag)
	}
	answer, err := ask(cmd, in, fmt.Sprintf("%s Type %q to go on: ", question, word))
	if err != nil {
		return err
	}
	if answer != word {
		return errors.New("nothing was done")
	}
	return nil
}

func ask(cmd *cobra.Command, in io.Reader, question string) (string, error) {
	fmt.Fprint(cmd.ErrOrStderr(), question)
	type line struct {
		text string
		err  error
	}
	read := make(chan line, 1)
	go func() {
		var text []byte
		b := make([]byte, 1)
		for {
			n, err := in.Read(b)
			if n > 0 && b[0] != '\n' {
				text = append(text, b[0])
			}
			if err != nil && !errors.Is(err, io.EOF) || n > 0 && b[0] == '\n' || errors.Is(err, io.EOF) || len(text) > 1000 {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				read <- line{strings.TrimSpace(string(text)), err}
				return
			}
		}
	}()
	select {
	case l := <-read:
		return l.text, l.err
	case <-cmd.Context().Done():
		return "", context.Cause(cmd.Context())
	}
}

// colourful tells whether a writer shows colours.
func colourful(w io.Writer) bool {
	_, ok := terminal(w)
	return ok && os.Getenv("NO_COLOR") == ""
}

func newInfraInitCommand() *cobra.Command {
	var example string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "init DIR", Short: "Write a new deployment: an example, and the modules it uses",
		Long: `Writes a new deployment into a directory that is new or empty: the files of an example, to be changed, and in modules/
the modules of this version of taskfleet. Keep the directory in a repository; .gitignore leaves out what has secrets.

small is one region. large is three: workers, networks and mirrors of artifacts in each, and a broker.`,
		Example: `  taskfleet infra init prod --example small`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if example == "" {
				return usagef("say which example with --example: %s", strings.Join(infra.Examples(), " or "))
			}
			if err := infra.Write(args[0], example); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]string{"directory": args[0], "example": example})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), `wrote the %s example into %s

1. Change %s/terraform.tfvars: names, account, domain.
2. taskfleet infra bootstrap --dir %s   makes the bucket where the state is kept.
3. taskfleet infra plan --dir %s        shows what would be made, and what it costs.
`, example, args[0], args[0], args[0], args[0])
			return err
		},
	}
	cmd.Flags().StringVar(&example, "example", "", "which `example`: "+strings.Join(infra.Examples(), ", "))
	jsonFlag(cmd, &asJSON)
	return cmd
}
