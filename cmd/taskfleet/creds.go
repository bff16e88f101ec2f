package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client/auth"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/timestamp"
)

func newCredsCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "creds", Short: "Show credentials and make new ones", Long: credentialsDoc,
	}, newCredsShowCommand(), newCredsNewCommand())
}

func newCredsShowCommand() *cobra.Command {
	var asJSON, export bool
	cmd := &cobra.Command{
		Use: "show", Short: "Tell which credentials are in use and what they may do",
		Long: "Tells which credentials are in use, where they are from, until when they hold and what they may do. " +
			"Secrets are printed only with --export, for eval.",
		Example: "  taskfleet creds show\n  eval \"$(taskfleet creds show --export)\"",
		Args:    cobra.NoArgs,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			c := s.core.Credentials()
			if export {
				return printExports(cmd.OutOrStdout(), s.core.RootURL(), c)
			}
			scopes, err := auth.New(s.core).CurrentScopes(ctx)
			if err != nil {
				return err
			}
			info := credentialsInfo{RootURL: s.core.RootURL(), ClientID: c.ClientID, From: s.from, Scopes: scopes.Scopes}
			if c.Certificate != "" {
				var certificate cred.Certificate
				if err := json.Unmarshal([]byte(c.Certificate), &certificate); err != nil {
					return fmt.Errorf("the certificate of the credentials is not valid JSON: %w", err)
				}
				info.Issuer, info.Expires = certificate.Issuer, timestamp.Time(certificate.Expiry)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), info)
			}
			return info.print(cmd.OutOrStdout())
		}),
	}
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&export, "export", false, "print the credentials, secrets included, as export lines for a shell")
	cmd.MarkFlagsMutuallyExclusive("json", "export")
	return cmd
}

type credentialsInfo struct {
	RootURL  string         `json:"rootUrl"`
	ClientID string         `json:"clientId"`
	From     string         `json:"from"`
	Issuer   string         `json:"issuer,omitempty"`
	Expires  timestamp.Time `json:"expires,omitzero"`
	Scopes   []string       `json:"scopes"`
}

func (i credentialsInfo) print(w io.Writer) error {
	client := i.ClientID
	if client == "" {
		client = "none: calls are anonymous"
	}
	fmt.Fprintf(w, "root URL  %s\nclient    %s\nfrom      %s\n", i.RootURL, client, i.From)
	if i.Issuer != "" {
		fmt.Fprintf(w, "issuer    %s\n", i.Issuer)
	}
	if !i.Expires.IsZero() {
		fmt.Fprintf(w, "expires   %s (in %s)\n", i.Expires, took(time.Until(i.Expires.Time())))
	}
	_, err := fmt.Fprintf(w, "scopes    %s\n", strings.Join(i.Scopes, "\n          "))
	return err
}

func newCredsNewCommand() *cobra.Command {
	var scopes []string
	var lasting, description string
	var permanent, asJSON bool
	cmd := &cobra.Command{
		Use: "new NAME", Short: "Make credentials with fewer scopes, and print them for a shell",
		Long: `Makes temporary credentials of the given name, signed with the ones in use: nothing is stored and the platform is not
asked. The ones in use must have the scopes themselves, and auth:create-client:NAME.

With --permanent it creates a client instead, which lives on the platform and can be disabled or deleted there.
The output has secrets; it is meant for eval.`,
		Example: `  eval "$(taskfleet creds new ci/nightly --scope 'queue:create-task:*' --expires '2 hours')"
  taskfleet creds new bots/deploy --permanent --expires '1 year' --scope 'assume:project:deploy' --json`,
		Args: cobra.ExactArgs(1),
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			name := args[0]
			duration, err := graph.ParseDuration(lasting)
			if err != nil {
				return usagef("--expires: %v", err)
			}
			if !cred.ValidClientID(name) {
				return usagef("%q cannot be a client id: it must match %s", name, cred.ClientIDPattern)
			}
			expires := time.Now().Add(duration)
			var made cred.Credentials
			if permanent {
				reply, err := auth.New(s.core).CreateClient(ctx, name, &auth.CreateClientRequest{
					Expires: timestamp.Of(expires), Description: description, Scopes: scopes,
				})
				if err != nil {
					return err
				}
				made = cred.Credentials{ClientID: reply.ClientID, AccessToken: reply.AccessToken}
			} else {
				if s.core.Credentials().ClientID == "" {
					return fmt.Errorf("there are no credentials to issue others from (%s)", s.from)
				}
				if duration > cred.MaxValidity {
					return usagef("--expires is %s; temporary credentials last 31 days at most. --permanent makes a client that can last longer", lasting)
				}
				if made, err = cred.Temporary(s.core.Credentials(), cred.Options{ClientID: name, Scopes: scopes, Expiry: expires}); err != nil {
					return err
				}
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), struct {
					RootURL string `json:"rootUrl"`
					cred.Credentials
				}{s.core.RootURL(), made})
			}
			return printExports(cmd.OutOrStdout(), s.core.RootURL(), made)
		}),
	}
	cmd.Flags().StringArrayVar(&scopes, "scope", nil, "a scope to give them; may be repeated")
	cmd.Flags().StringVar(&lasting, "expires", "1 hour", "how long they last, such as '30 minutes' or '2 weeks'")
	cmd.Flags().BoolVar(&permanent, "permanent", false, "create a client on the platform instead of temporary credentials")
	cmd.Flags().StringVar(&description, "description", "Made by taskfleet creds new.", "what the client is for, with --permanent")
	jsonFlag(cmd, &asJSON)
	return cmd
}

// printExports prints credentials in the form that sets a shell up for all tools.
func printExports(w io.Writer, rootURL string, c cred.Credentials) error {
	for _, v := range [][2]string{
		{"TASKCLUSTER_ROOT_URL", rootURL}, {"TASKCLUSTER_CLIENT_ID", c.ClientID},
		{"TASKCLUSTER_ACCESS_TOKEN", c.AccessToken}, {"TASKCLUSTER_CERTIFICATE", c.Certificate},
	} {
		var err error
		switch {
		case v[1] == "" && runtime.GOOS == "windows":
			_, err = fmt.Fprintf(w, "Remove-Item Env:%s -ErrorAction Ignore\n", v[0])
		case v[1] == "":
			_, err = fmt.Fprintf(w, "unset %s\n", v[0])
		case runtime.GOOS == "windows":
			_, err = fmt.Fprintf(w, "$env:%s = '%s'\n", v[0], strings.ReplaceAll(v[1], "'", "''"))
		default:
			_, err = fmt.Fprintf(w, "export %s='%s'\n", v[0], strings.ReplaceAll(v[1], "'", `'\''`))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
