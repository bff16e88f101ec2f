//go:build !agent

package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/infra"
	"github.com/taskfleet/taskfleet/infra/policy"
	"github.com/taskfleet/taskfleet/infra/verify"
	"github.com/taskfleet/taskfleet/plain"
)

func infraVerifyCommand() *cobra.Command {
	var flags infraFlags
	var manifest string
	var development bool
	cmd := &cobra.Command{
		Use: "verify", Short: "Look at the AWS account itself: is everything encrypted, private, backed up and up?",
		Long: `Asks AWS, and not Terraform's state, how what belongs to a deployment is: whether buckets are private, encrypted with the
deployment's key, versioned and answer by TLS alone; databases encrypted, backed up, with a standby and not public; keys
rotated; security groups closed; launch templates, load balancers, queues, brokers, services and IAM roles as they should be.
Nothing is changed.

What belongs to it is what has the tag Deployment, and what its manifest names: the output of that name, of the deployment in
--dir or in a file. Credentials are those that the AWS SDK finds (AWS_PROFILE, the environment, the instance). They need
nothing but to read; what they may not read is a finding that names the permission.

Where policy.yml says production: false, a standby, protection against deletion and a week of backups are not asked for.

The exit code is 0 if nothing was found, 2 if something was, 1 if that could not be found out.`,
		Example: `  taskfleet infra verify --dir prod
  taskfleet infra verify --manifest manifest.json
  taskfleet infra verify --dir prod --json | jq -r '.findings[] | select(.severity == "error") | .resource'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, other := range []string{"dir", "terraform", "install"} { // cobra's own check exits with 2, which means findings here
				if manifest != "" && cmd.Flags().Changed(other) {
					return usagef("--manifest is instead of --%s; give one of them", other)
				}
			}
			o := verify.Options{Development: development}
			var err error
			if manifest != "" {
				o.Manifest, err = readManifest(cmd, manifest)
			} else if o, err = verifyOptions(cmd.Context(), flags.directory, flags.with(cmd)); err == nil && cmd.Flags().Changed("development") {
				o.Development = development
			}
			if err != nil {
				return err
			}
			report, err := verify.Account(cmd.Context(), o)
			if report == nil {
				return err
			}
			out := cmd.OutOrStdout()
			var wrong error
			if flags.json {
				wrong = printJSON(out, report)
			} else if err == nil || len(report.Findings) > 0 {
				_, wrong = io.WriteString(out, verifyText(report))
			}
			switch {
			case err != nil:
				return err // some of it may have been looked at, and was told
			case wrong == nil && len(report.Findings) > 0:
				return &codedError{fmt.Errorf("%s in the account", plural(len(report.Findings), "finding")), exitDrift}
			}
			return wrong
		},
	}
	flags.add(cmd)
	cmd.Flags().StringVar(&manifest, "manifest", "", "`file` with the deployment's manifest, instead of --dir; - is the standard input")
	cmd.Flags().BoolVar(&development, "development", false, "it is not for production (default: what policy.yml says)")
	return cmd
}

func readManifest(cmd *cobra.Command, file string) (verify.Manifest, error) {
	if file == "-" {
		return verify.ReadManifest(cmd.InOrStdin())
	}
	f, err := os.Open(file)
	if err != nil {
		return verify.Manifest{}, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	m, err := verify.ReadManifest(f)
	if err != nil {
		err = fmt.Errorf("%s: %w", file, err)
	}
	return m, err
}

// verifyOptions are what a deployment's directory says of how it is to be.
func verifyOptions(ctx context.Context, directory string, o infra.Options) (v verify.Options, err error) {
	rules, err := policy.Load(directory)
	if err != nil {
		return v, err
	}
	v.Development = rules.Development
	d, err := infra.Open(ctx, directory, o)
	if err != nil {
		return v, err
	}
	outputs, err := d.Outputs(ctx)
	if err != nil {
		return v, err
	}
	i := slices.IndexFunc(outputs, func(o infra.Output) bool { return o.Name == "manifest" })
	if i < 0 || outputs[i].Secret {
		return v, fmt.Errorf("the state of %s has no output manifest that can be read: apply the deployment first, or give the manifest of another one with --manifest FILE", directory)
	}
	v.Manifest, err = verify.ReadManifest(bytes.NewReader(outputs[i].Value))
	return v, err
}

// verifyWidth is the number of columns of a report.
const verifyWidth = 100

func verifyText(r *verify.Report) string {
	var b strings.Builder
	what := 0
	for _, f := range r.Findings {
		what = max(what, utf8.RuneCountInString(f.Check))
	}
	indent := strings.Repeat(" ", 10)
	for _, f := range r.Findings {
		head := pad(string(f.Severity), 10) + pad(f.Check, what+2) + f.Region
		b.WriteString(head + "\n")
		for _, line := range []string{f.Resource, f.Message, "To mend it: " + f.Fix} {
			b.WriteString(wrappedAt(line, indent, verifyWidth))
		}
	}
	if len(r.Findings) > 0 {
		b.WriteString("\n")
	}
	var looked []string
	for _, kind := range slices.Sorted(maps.Keys(r.Resources)) {
		looked = append(looked, plural(r.Resources[kind], kind)) // none ends in a way that has another plural
	}
	found := cmp.Or(verifyCounts(r), "Nothing was found")
	b.WriteString(wrappedAt(fmt.Sprintf("%s. Looked at, of %s in the account %s, in %s: %s.", found, r.Deployment, r.Account, strings.Join(r.Regions, ", "),
		cmp.Or(strings.Join(looked, ", "), "nothing, since nothing is tagged as its own")), "", verifyWidth))
	return b.String()
}

// verifyCounts says how many findings there are: "2 errors, 1 warning". It is "" if there are none.
func verifyCounts(r *verify.Report) string {
	var parts []string
	for _, s := range []verify.Severity{verify.Error, verify.Warning} {
		n := 0
		for _, f := range r.Findings {
			if f.Severity == s {
				n++
			}
		}
		if n > 0 {
			parts = append(parts, plural(n, string(s)))
		}
	}
	return strings.Join(parts, ", ")
}

// wrappedAt breaks a text into lines of a width, all with an indent. A word that is too long is broken.
func wrappedAt(text, indent string, width int) string {
	var b strings.Builder
	room := width - utf8.RuneCountInString(indent)
	line := ""
	for _, word := range strings.Fields(plain.Line(text)) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > room {
			b.WriteString(indent + line + "\n")
			line = ""
		}
		for r := []rune(word); len(r) > room; r = []rune(word) {
			b.WriteString(indent + string(r[:room]) + "\n")
			word = string(r[room:])
		}
		line = strings.TrimPrefix(line+" "+word, " ")
	}
	return b.String() + indent + line + "\n"
}
