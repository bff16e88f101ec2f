//go:build !agent

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/infra"
	"github.com/taskfleet/taskfleet/plain"
)

func newInfraBootstrapCommand() *cobra.Command {
	var flags infraFlags
	var b infra.BootstrapOptions
	var yes bool
	cmd := &cobra.Command{
		Use: "bootstrap", Short: "Make the bucket where the state is kept, and move the state into it",
		Long: `Makes a bucket for Terraform's states, encrypted with a key of its own and with versions, moves its own state into it,
and writes backend.tf, so that the deployment's state is kept there too, with a lock.

The bucket is a small deployment of its own, in state/. Each step looks first whether it was done: after an interruption
run it again with the same values. No state is ever overwritten.`,
		Example: `  taskfleet infra bootstrap --dir prod
  taskfleet infra bootstrap --dir prod --name taskfleet-prod --region eu-central-1 --account 123456789012`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			values, err := infra.Values(flags.directory, "name", "deployment", "region", "account_id", "bucket_prefix")
			if err != nil {
				return err
			}
			home, err := infra.Region(flags.directory)
			if err != nil {
				return err
			}
			for _, v := range []struct {
				to    *string
				found string
				flag  string
			}{
				{&b.Name, cmp.Or(values["deployment"], values["name"]), "--name"}, {&b.Region, cmp.Or(values["region"], home), "--region"}, {&b.Account, values["account_id"], "--account"},
			} {
				if *v.to = cmp.Or(*v.to, v.found); *v.to == "" {
					return usagef("%s is missing, and %s does not say it", v.flag, filepath.Join(flags.directory, "terraform.tfvars"))
				}
			}
			b.Bucket = cmp.Or(b.Bucket, cmp.Or(values["bucket_prefix"], b.Name+"-"+b.Account)+"-state")
			b.Progress = progressTo(cmd.ErrOrStderr())
			b.Confirm = func(s *infra.Saved) error {
				errOut := cmd.ErrOrStderr()
				if err := s.Text(errOut, widthOf(errOut), colourful(errOut)); err != nil {
					return err
				}
				if yes {
					return nil
				}
				return sure(cmd, "Make that?", "yes", "--yes")
			}
			if err := infra.Bootstrap(cmd.Context(), flags.directory, flags.with(cmd), b); err != nil {
				return err
			}
			if flags.json {
				return printJSON(cmd.OutOrStdout(), map[string]string{"name": b.Name, "account": b.Account, "region": b.Region, "bucket": b.Bucket, "backend": filepath.Join(flags.directory, "backend.tf")})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "the state is kept in S3, as %s says; commit it together with state/\n", filepath.Join(flags.directory, "backend.tf"))
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&b.Name, "name", "", "`name` of the deployment (default: what terraform.tfvars says)")
	cmd.Flags().StringVar(&b.Region, "region", "", "AWS `region` of the bucket (default: what terraform.tfvars says, or the region of provider \"aws\" in providers.tf)")
	cmd.Flags().StringVar(&b.Account, "account", "", "`id` of the AWS account (default: what terraform.tfvars says)")
	cmd.Flags().StringVar(&b.Bucket, "bucket", "", "`name` of the bucket (default: bucket_prefix of terraform.tfvars, with -state)")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask before making the bucket")
	return cmd
}

func newInfraOutputCommand() *cobra.Command {
	var flags infraFlags
	var manifest bool
	var file string
	cmd := &cobra.Command{
		Use: "output [NAME]", Short: "Print what the deployment hands on: its outputs, and the manifest",
		Long: `Prints the outputs of the state, as JSON: all by name, or the value of one. Those that are marked as sensitive are left out,
and refused by name.

With --manifest it prints the manifest, which is what taskfleet stacks reads: the output of that name, checked, with the
version of the state that it is of. Secrets are named in it, never shown. Write it anew after each apply.`,
		Example: `  taskfleet infra output --dir prod
  taskfleet infra output --dir prod deploy_role_arn
  taskfleet infra output --dir prod --manifest -o prod/manifest.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case manifest && len(args) > 0:
				return usagef("--manifest is one output by itself: leave %s out", args[0])
			case file != "" && !manifest:
				return usagef("-o is for --manifest; other outputs are printed")
			}
			d, err := flags.open(cmd)
			if err != nil {
				return err
			}
			if manifest {
				return printManifest(cmd, d, file, flags.json)
			}
			outputs, err := d.Outputs(cmd.Context())
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if len(args) == 0 && flags.json {
				if outputs == nil {
					outputs = []infra.Output{}
				}
				return printJSON(out, outputs)
			}
			for _, o := range outputs {
				switch {
				case len(args) > 0 && o.Name != args[0]:
				case len(args) > 0 && o.Secret:
					return fmt.Errorf("output %s is secret and is not shown. terraform -chdir=%s output %s prints it", o.Name, flags.directory, o.Name)
				case len(args) > 0:
					return printJSON(out, o.Value)
				case o.Secret:
					fmt.Fprintf(out, "%s = (secret)\n", o.Name)
				default:
					var value bytes.Buffer
					if err := json.Indent(&value, o.Value, "", "  "); err != nil {
						return err
					}
					fmt.Fprintf(out, "%s = %s\n", o.Name, value.String())
				}
			}
			if len(args) > 0 {
				return fmt.Errorf("there is no output %s in the state. taskfleet infra output --dir %s lists them; one that is new comes with the next apply", args[0], flags.directory)
			}
			if len(outputs) == 0 {
				fmt.Fprintln(out, "no outputs: nothing was applied yet")
			}
			return nil
		},
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&manifest, "manifest", false, "the manifest, for taskfleet stacks")
	cmd.Flags().StringVarP(&file, "output", "o", "", "`file` to write the manifest into, instead of printing it")
	return cmd
}

// printManifest prints the manifest of a deployment, or writes it into a file and says so.
func printManifest(cmd *cobra.Command, d *infra.Deployment, file string, asJSON bool) error {
	out := cmd.OutOrStdout()
	if file == "" {
		text, err := d.ManifestText(cmd.Context())
		if err != nil {
			return err
		}
		_, err = out.Write(text)
		return err
	}
	m, err := d.WriteManifest(cmd.Context(), file)
	if err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, map[string]any{"file": file, "deployment": m.Deployment, "state": m.State})
	}
	_, err = fmt.Fprintf(out, "wrote %s: %s, version %d of its state\n", file, plain.Line(m.Deployment), m.State.Serial)
	return err
}

func newInfraImportCommand() *cobra.Command {
	var flags infraFlags
	var varFiles []string
	cmd := &cobra.Command{
		Use: "import ADDRESS ID", Short: "Take a resource that is there at AWS into the state",
		Long: `Takes a resource that is there at AWS into the state, at an address for which the configuration has a block. Nothing is
changed at AWS. It is how what was made by hand, or by an apply that was cut off, comes under the deployment's care.`,
		Example: `  taskfleet infra import --dir prod module.network.aws_vpc.this vpc-0123456789abcdef0`,
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := flags.open(cmd)
			if err != nil {
				return err
			}
			if err := d.Import(cmd.Context(), args[0], args[1], varFiles); err != nil {
				return err
			}
			if flags.json {
				return printJSON(cmd.OutOrStdout(), map[string]string{"address": args[0], "id": args[1]})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "imported %s (%s). taskfleet infra plan --dir %s shows how it differs from the configuration\n", args[0], args[1], flags.directory)
			return err
		},
	}
	flags.add(cmd)
	varFileFlag(cmd, &varFiles)
	return cmd
}

func newInfraUnlockCommand() *cobra.Command {
	var flags infraFlags
	var yes string
	cmd := &cobra.Command{
		Use: "unlock", Short: "Take away a lock of the state whose holder is dead",
		Long: `Shows who holds the lock of the state, for what and since when, and takes it away if you say so. If whoever holds it is
still at work, both spoil the state: be sure that it is dead. Where nobody can be asked, the lock's id says that you are.`,
		Example: `  taskfleet infra unlock --dir prod
  taskfleet infra unlock --dir prod --id 0b0a3f6e-4b52-4b77-a2cd-f0ab2ba1d1d0`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := flags.open(cmd)
			if err != nil {
				return err
			}
			held, err := d.Unlock(cmd.Context(), func(l *infra.LockedError) error {
				fmt.Fprintf(cmd.ErrOrStderr(), "locked by %s\n", plain.Line(l.Holder()))
				if yes == l.ID && l.ID != "" {
					return nil
				}
				if yes != "" {
					return fmt.Errorf("that is another lock than %s, somebody else has taken it since. Nothing was done", yes)
				}
				return sure(cmd, "Is that certainly dead?", "yes", "--id "+l.ID)
			})
			if err != nil {
				return err
			}
			if flags.json {
				return printJSON(cmd.OutOrStdout(), map[string]any{"unlocked": held})
			}
			if held == nil {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), "the state is not locked")
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "unlocked. If an apply was cut off, taskfleet infra show --dir %s tells which, and what it has done\n", flags.directory)
			return err
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&yes, "id", "", "`id` of the lock whose holder is certainly dead; does not ask")
	return cmd
}

func newInfraDestroyCommand() *cobra.Command {
	var flags infraFlags
	var o infra.PlanOptions
	var word string
	cmd := &cobra.Command{
		Use: "destroy", Short: "Destroy everything of the deployment at AWS",
		Long: `Plans to destroy everything that the state has, shows it, asks for the deployment's name, and does it. What AWS would
refuse is told before: databases that are protected against deletion, and buckets that are not empty. The bucket of
the states stays; it is a deployment of its own, in state/.`,
		Example: `  taskfleet infra destroy --dir staging
  taskfleet infra destroy --dir staging --destroy-protected taskfleet-staging`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := flags.open(cmd)
			if err != nil {
				return err
			}
			o.Destroy = true
			s, err := d.Plan(cmd.Context(), o)
			if err != nil {
				return err
			}
			errOut := cmd.ErrOrStderr()
			if s.Plan.Empty() {
				fmt.Fprintln(errOut, "there is nothing to destroy: the state has no resources")
				if flags.json {
					return printJSON(cmd.OutOrStdout(), map[string]any{"plan": s.Name, "result": infra.Applied, "total": 0})
				}
				return nil
			}
			if err := s.Plan.Text(errOut, widthOf(errOut), colourful(errOut)); err != nil {
				return err
			}
			certain, possible := s.Obstacles()
			for _, line := range append(certain, possible...) {
				fmt.Fprintln(errOut, "\n"+plain.Line(line))
			}
			if len(certain) > 0 {
				return fmt.Errorf("AWS would refuse to destroy %s, half-way. Nothing was done", plural(len(certain), "resource"))
			}
			fmt.Fprintln(errOut)
			if word == "" {
				if err := sure(cmd, "Destroy all of that, for ever?", s.Deployment, "--destroy-protected "+s.Deployment); err != nil {
					return err
				}
				word = s.Deployment
			}
			if word != s.Deployment {
				return fmt.Errorf("--destroy-protected %s is not the name of the deployment: it is %s. Nothing was done", word, s.Deployment)
			}
			return flags.apply(cmd, d, s.Name, infra.ApplyOptions{Digest: s.Digest, Word: word, Destroy: true, Confirm: func(*infra.Saved) error { return nil }})
		},
	}
	flags.add(cmd)
	varFileFlag(cmd, &o.VarFiles)
	cmd.Flags().StringVar(&word, "destroy-protected", "", "`name` of the deployment; does not ask")
	return cmd
}
