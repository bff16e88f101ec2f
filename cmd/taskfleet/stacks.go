//go:build !agent && !server

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/stacks"
)

// stacksCommand is taskfleet stacks.
func stacksCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use: "stacks", Short: "What a platform has above its foundation: previewed, brought up and watched with Pulumi",
		Long: `Makes what a platform has above its foundation: the servers' configuration and release, roles and clients, worker pools,
hooks, dashboards. An environment is a directory with environment.yml and files of definitions; each part is a stack of
Pulumi. The programs and the provider are in this program: of Pulumi only its engine is needed, the program pulumi.

A change goes in two steps. preview shows what would be done, and saves it under a digest. up does what was previewed, if
files, states and program are still the same.

What is deleted from the platform is what a managed pattern matches and nothing defines any more; what none matches stays on the platform.

Exit codes: 0 done; 1 failed, and also a wrong command line; drift: 2 if it has found something; preview: 3 if it cannot be done.`,
		Example: `  taskfleet stacks init prod/stacks --from-infra prod
  taskfleet stacks preview --dir prod/stacks
  taskfleet stacks up --dir prod/stacks 20270131-101500 --digest sha256:…
  taskfleet stacks drift --dir prod/stacks`,
	},
		newStacksInitCommand(), newStacksPreviewCommand(), newStacksUpCommand(), newStacksDriftCommand(), newStacksRefreshCommand(),
		newStacksImportCommand(), newStacksExportCommand(), newStacksOutputsCommand(), newStacksHistoryCommand(), newStacksCancelCommand(),
		newStacksDestroyCommand(),
	)
	plainUsage(cmd)
	return cmd
}

// stacksFlags are those of every command that works on an environment.
type stacksFlags struct {
	directory string
	stacks    []string
	options   stacks.Options
	json      bool

	session *session // with the platform, if it was needed

	connect func(rootURL string) (*session, error) // nil: with the credentials of the environment
	made    func(secretsFile)                      // is given the servers' secrets if they are made, and taken; may be nil
}

func (f *stacksFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.directory, "dir", "d", ".", "`directory` of the environment")
	cmd.Flags().StringArrayVar(&f.stacks, "stack", nil, "`name` of a stack; may be repeated (default: all)")
	cmd.Flags().StringVar(&f.options.Pulumi, "pulumi", "", "`path` of pulumi, instead of the one on PATH")
	cmd.Flags().BoolVar(&f.options.Install, "install", false, "where there is no pulumi, download it from get.pulumi.com; and terraform, where a deployment of taskfleet infra needs it")
	cmd.Flags().StringVar(&f.options.Terraform, "terraform", "", "`path` of terraform or tofu, for an environment on a deployment of taskfleet infra")
	_ = cmd.RegisterFlagCompletionFunc("stack", cobra.FixedCompletions(stacks.Names(), cobra.ShellCompDirectiveNoFileComp))
	jsonFlag(cmd, &f.json)
}

// open opens the environment. What people should know, and progress where the output is for programs, goes to the
// command's error output.
func (f *stacksFlags) open(cmd *cobra.Command) (*stacks.Driver, error) {
	o := f.options
	v := buildVersion()
	o.Version = strings.TrimSpace(v.Version + " " + v.Commit)
	o.Client = func(rootURL string) (*client.Client, error) {
		connect := f.connect
		if connect == nil {
			connect = func(url string) (*session, error) { return connectTo(cmd, url) }
		}
		s, err := connect(rootURL)
		if err != nil {
			return nil, err
		}
		f.session = s
		return s.core, nil
	}
	o.Check = checkConfiguration
	o.Secrets = func() ([]byte, func(), error) {
		s := newSecrets()
		text, err := json.MarshalIndent(s, "", "  ")
		return text, func() {
			if f.made != nil {
				f.made(s)
			}
		}, err
	}
	o.Notice = func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), plain.Line(line)) }
	o.Progress = stacksProgress(cmd.OutOrStdout())
	if f.json {
		o.Progress = stacksProgress(cmd.ErrOrStderr())
	}
	return stacks.Open(cmd.Context(), f.directory, f.stacks, o)
}

// run is the RunE of a command that works on an environment.
func (f *stacksFlags) run(do func(cmd *cobra.Command, d *stacks.Driver, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		d, err := f.open(cmd)
		if err != nil {
			return err
		}
		defer d.Close()
		return do(cmd, d, args)
	}
}

// each is the RunE of a command that does something for each stack that was ever brought up, and then is done.
func (f *stacksFlags) each(do func(context.Context, *stacks.Driver, string) error, done func(io.Writer) error) func(*cobra.Command, []string) error {
	return f.run(func(cmd *cobra.Command, d *stacks.Driver, _ []string) error {
		for _, name := range d.Names() {
			if err := do(cmd.Context(), d, name); err != nil && (!stacks.IsNoStack(err) || slices.Contains(f.stacks, name)) {
				return err
			}
		}
		return done(cmd.OutOrStdout())
	})
}

// told adds to an error of the platform's which credentials were used.
func (f *stacksFlags) told(err error) error {
	if _, ok := errors.AsType[*client.Error](err); ok && f.session != nil {
		return &sessionError{f.session, err}
	}
	return err
}

// dirFlag repeats, in a command that is proposed, which environment it is for; dirFlags which stacks, too.
func (f *stacksFlags) dirFlag() string {
	if f.directory == "." {
		return ""
	}
	return " --dir " + stacks.ShellWord(f.directory)
}

func (f *stacksFlags) dirFlags() string {
	out := f.dirFlag()
	for _, s := range f.stacks {
		out += " --stack " + s
	}
	return out
}

// checkConfiguration judges a part of a server's configuration.
func checkConfiguration(document []byte) error {
	c := defaultConfig()
	c.file, c.text = "the document", document
	if err := yaml.NewDecoder(bytes.NewReader(document), yaml.Strict()).Decode(&c); err != nil {
		return fmt.Errorf("%s", yaml.FormatError(err, false, false))
	}
	return c.check()
}

// stacksProgress prints what happens to things.
func stacksProgress(w io.Writer) func(stacks.Progress) {
	begun := map[stacks.Action]string{stacks.Create: "creating", stacks.Update: "changing", stacks.Replace: "replacing", stacks.Delete: "deleting", stacks.Adopt: "adopting", stacks.Keep: "forgetting"}
	done := map[stacks.Action]string{stacks.Create: "created", stacks.Update: "changed", stacks.Replace: "replaced", stacks.Delete: "deleted", stacks.Adopt: "adopted", stacks.Keep: "forgotten"}
	return func(p stacks.Progress) {
		word, more := begun[p.Action], ""
		switch p.What {
		case "done":
			word, more = done[p.Action], "  "+took(p.Took)
		case "failed":
			word, more = "FAILED", "  "+took(p.Took)
		case "note":
			word, more = "...", "  "+p.Text
		}
		count := "   " // as wide as 1/9
		if p.Total > 0 {
			count = fmt.Sprintf("%*d/%d", len(fmt.Sprint(p.Total)), p.Done, p.Total)
		}
		fmt.Fprintf(w, "%s  %-10s  %s  %-10s  %s%s\n", p.Time.UTC().Format(time.TimeOnly), p.Stack, count, word, plain.Line(p.ID), plain.Line(more))
	}
}

func newStacksInitCommand() *cobra.Command {
	var from string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "init DIR", Short: "Write a new environment: an example, to be changed",
		Long: `Writes a new environment into a directory that is new or empty: environment.yml and an example of definitions. Without
--from-infra it is for a platform on this machine; with it, for one on that deployment of taskfleet infra.`,
		Example: `  taskfleet stacks init local
  taskfleet stacks init prod/stacks --from-infra prod`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := stacks.Write(args[0], from); err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]string{"directory": args[0]})
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), `wrote an example into %s

1. Change %s/environment.yml, and the definitions beside it.
2. Make up a passphrase that secrets in states are encrypted with, keep it, and export it as %s.
3. taskfleet stacks preview --dir %s   shows what would be made.
`, args[0], args[0], stacks.PassphraseVariable, stacks.ShellWord(args[0]))
			return err
		},
	}
	cmd.Flags().StringVar(&from, "from-infra", "", "`directory` of the deployment of taskfleet infra that it is to stand on")
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newStacksOutputsCommand() *cobra.Command {
	var flags stacksFlags
	all := map[string]map[string]json.RawMessage{}
	cmd := &cobra.Command{
		Use: "outputs", Short: "Print what the stacks hand on",
		Long:    `Prints the outputs of the stacks, as their last up has left them. Secret ones are hidden.`,
		Example: "  taskfleet stacks outputs --dir prod/stacks --stack access\n  taskfleet stacks outputs --dir prod/stacks --json | jq .access.roles",
		Args:    cobra.NoArgs,
		RunE: flags.each(func(ctx context.Context, d *stacks.Driver, name string) (err error) {
			all[name], err = d.Outputs(ctx, name)
			return err
		}, func(out io.Writer) error {
			if flags.json {
				return printJSON(out, all)
			}
			for _, name := range stacks.Names() {
				for _, key := range sortedNames(all[name]) {
					var value bytes.Buffer
					if err := json.Compact(&value, all[name][key]); err != nil {
						return err
					}
					fmt.Fprintf(out, "%s.%s = %s\n", name, key, plain.Line(value.String()))
				}
			}
			return nil
		}),
	}
	flags.add(cmd)
	return cmd
}

func newStacksHistoryCommand() *cobra.Command {
	var flags stacksFlags
	n, all := 10, []stacks.Event{}
	cmd := &cobra.Command{
		Use: "history", Short: "List what was done with the stacks, the latest first",
		Long:    `Lists what was done with each stack, when, from which preview, and what came of it.`,
		Example: "  taskfleet stacks history --dir prod/stacks --stack access -n 3",
		Args:    cobra.NoArgs,
		RunE: flags.each(func(ctx context.Context, d *stacks.Driver, name string) error {
			list, err := d.History(ctx, name, n)
			all = append(all, list...)
			return err
		}, func(out io.Writer) error {
			if flags.json {
				return printJSON(out, all)
			}
			t := &table{head: []string{"STACK", "WHAT", "BEGAN", "TOOK", "RESULT", "STEPS", "MESSAGE"}}
			for _, e := range all {
				var changes []string
				for _, op := range sortedNames(e.Changes) {
					if op != "same" {
						changes = append(changes, fmt.Sprintf("%d %s", e.Changes[op], op))
					}
				}
				t.add(e.Stack, e.Kind, e.Began.UTC().Format("2006-01-02 15:04:05"), took(e.Ended.Sub(e.Began)), e.Result, strings.Join(changes, ", "), e.Message)
			}
			return t.print(out)
		}),
	}
	flags.add(cmd)
	cmd.Flags().IntVarP(&n, "number", "n", n, "how many for each stack, at most")
	return cmd
}

func newStacksExportCommand() *cobra.Command {
	var flags stacksFlags
	all := map[string]json.RawMessage{}
	cmd := &cobra.Command{
		Use: "export", Short: "Print the states of the stacks, as a backup",
		Long: `Prints the states of the stacks as JSON, by stack, with secrets encrypted as they are. import --state takes it back.

For what a platform has, as definitions, see taskfleet resources export.`,
		Example: "  taskfleet stacks export --dir prod/stacks > states.json",
		Args:    cobra.NoArgs,
		RunE: flags.each(func(ctx context.Context, d *stacks.Driver, name string) (err error) {
			all[name], err = d.Export(ctx, name)
			return err
		}, func(out io.Writer) error { return printJSON(out, all) }),
	}
	flags.add(cmd)
	return cmd
}
