package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/credentials"
	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/timestamp"
)

// newCredentialsCommand is what those use who answer for credentials.
func newCredentialsCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "credentials", Short: "Look after credentials that are rotated",
		Long: `Looks after the credentials that the configuration says are to be rotated. No secret is printed but by show --reveal.

What is wrong, and what to do about it:            taskfleet credentials list, show
What was done, step by step:                       taskfleet credentials history
Whether one works, and what is left of old ones:   taskfleet credentials verify
A new version, with nobody noticing:               taskfleet credentials rotate
One that a person has made:                        taskfleet credentials supply
One that has leaked:                               taskfleet credentials revoke
What nobody has noticed:                           taskfleet credentials audit`,
		Example: `  taskfleet credentials list
  taskfleet credentials rotate build-database --wait
  taskfleet credentials revoke deploy-key`,
	},
		newCredentialsListCommand(), newCredentialsShowCommand(), newCredentialsHistoryCommand(), newCredentialsVerifyCommand(),
		newCredentialsRotateCommand(), newCredentialsRevokeCommand(), newCredentialsSupplyCommand(), newCredentialsConsumedCommand(), newCredentialsAuditCommand(),
		newCredentialsRetireCommand(), newCredentialsBootstrapCommand(),
	)
}

// wantsAttention tells that a state is one in which somebody should do something.
func wantsAttention(state string) bool {
	switch state {
	case "new", "good", "rotating", "undefined":
		return false
	}
	return true
}

// aboutCredentials says what to do where there are none.
func aboutCredentials(err error) error {
	e, ok := errors.AsType[*client.Error](err)
	if ok && e.StatusCode == 404 && e.Code == "" {
		return errors.New("this deployment does not rotate credentials: it is older than this program, or the root URL is not that of a deployment (see taskfleet creds show)")
	}
	return err
}

func newCredentialsListCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "Show how the credentials are, and what is wrong",
		Long: `Shows each credential with its state, for how long its version has been in use, and when it is rotated next. Below stands what
is wrong, and what to do about it. The exit code is 1 if anything is.`,
		Example: "  taskfleet credentials list\n  taskfleet credentials list --json | jq '.credentials[] | select(.state != \"good\")'",
		Args:    cobra.NoArgs,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error {
			list, err := credentials.New(s.core).ListCredentials(ctx)
			if err != nil {
				return aboutCredentials(err)
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), list)
			} else {
				err = printCredentials(cmd.OutOrStdout(), list.Credentials)
			}
			wrong := 0
			for _, c := range list.Credentials {
				if wantsAttention(c.State) {
					wrong++
				}
			}
			if err == nil && wrong > 0 {
				err = silentError{fmt.Errorf("%s: something is to be done", plural(wrong, "credential"))}
			}
			return err
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func printCredentials(out io.Writer, list []credentials.Credential) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(out, "There are no credentials. They are in the section credentials of the configuration: taskfleet config --help")
		return err
	}
	now := timestamp.Now()
	t := table{head: []string{"CREDENTIAL", "KIND", "STATE", "AGE", "NEXT"}}
	for _, c := range list {
		t.add(c.Name, c.Kind, c.State, age(c.Since, now), until(c.Next, now))
	}
	if err := t.print(out); err != nil {
		return err
	}
	for _, c := range list {
		if c.Why == "" || c.State == "rotating" {
			continue
		}
		if _, err := fmt.Fprintf(out, "\n%s: %s\n", c.Name, plain.Line(c.Why)); err != nil {
			return err
		}
		if c.ToDo != "" {
			fmt.Fprintf(out, "  To do: %s\n", plain.Line(c.ToDo))
		}
	}
	return nil
}

// until words how far in the future t is.
func until(t, now timestamp.Time) string {
	switch {
	case t.IsZero():
		return "-"
	case t <= now:
		return "now"
	}
	return "in " + took(t.Sub(now))
}

func newCredentialsShowCommand() *cobra.Command {
	var asJSON, reveal bool
	cmd := &cobra.Command{
		Use: "show NAME", Short: "Show a credential: its versions, who has which, and the rotation under way",
		Long: `Shows how a credential is: the versions that there are, which of them each consumer has, and how far the rotation is that is under
way. With --reveal it prints the secret of the current version instead, as JSON, for which a scope of its own is needed.`,
		Example: "  taskfleet credentials show build-database\n  taskfleet credentials show build-database --reveal | jq -r .secret.password",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeCredentials,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			if reveal {
				secret, err := credentials.New(s.core).Secret(ctx, args[0])
				if err != nil {
					return aboutCredentials(err)
				}
				return printJSON(cmd.OutOrStdout(), secret)
			}
			c, err := credentials.New(s.core).Credential(ctx, args[0])
			switch {
			case err != nil:
				return aboutCredentials(err)
			case asJSON:
				return printJSON(cmd.OutOrStdout(), c)
			}
			return printCredential(cmd.OutOrStdout(), c)
		}),
	}
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&reveal, "reveal", false, "print the secret")
	cmd.MarkFlagsMutuallyExclusive("json", "reveal")
	return cmd
}

func printCredential(out io.Writer, c *credentials.Credential) error {
	now := timestamp.Now()
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(out, "%-10s %s\n", name, plain.Line(text))
		}
	}
	line("name", c.Name)
	line("kind", c.Kind)
	line("place", c.Place)
	line("state", c.State)
	line("why", c.Why)
	line("to do", c.ToDo)
	line("plan", cmp.Or(c.Plan, "when somebody asks"))
	line("next", when(c.Next, now))
	line("checked", when(c.Checked, now))
	versions := table{head: []string{"VERSION", "STATE", "CREATED", "LAST USE SEEN"}}
	for _, v := range c.Versions {
		state := v.State
		if v.ID == c.Current {
			state = "current"
		}
		versions.add(v.ID, state, ago(v.Created), ago(v.Used))
	}
	consumers := table{head: []string{"CONSUMER", "KIND", "HAS", "USES", "SINCE", "REPLICA"}}
	for _, u := range c.Consumers {
		consumers.add(u.Name, u.Kind, which(c, u.Version), which(c, u.Confirmed), ago(u.At), cmp.Or(u.Replica, "-"))
	}
	for _, t := range []*table{&versions, &consumers} {
		if len(t.rows) == 0 {
			continue
		}
		fmt.Fprintln(out)
		if err := t.print(out); err != nil {
			return err
		}
	}
	for _, u := range c.Consumers {
		if u.Error != "" {
			fmt.Fprintf(out, "%s: %s\n", u.Name, plain.Line(u.Error))
		}
	}
	if c.Rotation != nil {
		fmt.Fprintf(out, "\nA rotation is under way (%s):\n", c.Rotation.Reason)
		return printSteps(out, *c.Rotation)
	}
	return nil
}

// which says in a word which version a consumer has.
func which(c *credentials.Credential, id string) string {
	switch {
	case id == "":
		return "-"
	case id == c.Current:
		return "current"
	}
	for _, v := range c.Versions {
		if v.ID == id {
			return "old"
		}
	}
	return "gone"
}

func printSteps(out io.Writer, r credentials.CredentialRotation) error {
	t := table{head: []string{"STEP", "OUTCOME", "ATTEMPT", "TOOK", "ERROR"}}
	for _, s := range r.Steps {
		end := s.Ended
		if end.IsZero() {
			end = timestamp.Now()
		}
		t.add(s.Step, s.Outcome, strconv.FormatInt(s.Attempt, 10), took(end.Sub(s.Started)), cmp.Or(s.Error, "-"))
	}
	return t.print(out)
}

func newCredentialsHistoryCommand() *cobra.Command {
	var asJSON, withSteps bool
	var limit int
	cmd := &cobra.Command{
		Use: "history NAME", Short: "Show the rotations of a credential, the latest first",
		Example: "  taskfleet credentials history build-database --steps",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeCredentials,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			list, err := credentials.New(s.core).History(ctx, args[0], credentials.HistoryOptions{Limit: limit})
			switch {
			case err != nil:
				return aboutCredentials(err)
			case asJSON:
				return printJSON(cmd.OutOrStdout(), list)
			}
			t := table{head: []string{"STARTED", "REASON", "STATE", "STEP", "TOOK", "NOTE"}}
			for _, r := range list.Rotations {
				end := r.Ended
				if end.IsZero() {
					end = timestamp.Now()
				}
				t.add(ago(r.Started), r.Reason, r.State, r.Step, took(end.Sub(r.Started)), cmp.Or(r.Note, "-"))
			}
			if !withSteps {
				return t.print(cmd.OutOrStdout())
			}
			for i, r := range list.Rotations {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s, %s, %s, version %s\n", r.Started, r.Reason, r.State, r.Version)
				if err := printSteps(cmd.OutOrStdout(), r); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&withSteps, "steps", false, "show the steps of each")
	cmd.Flags().IntVar(&limit, "limit", 20, "how many")
	return cmd
}

func newCredentialsVerifyCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "verify NAME...", Short: "Use credentials against their providers, and look for what is left of old ones",
		Long: `Uses the current version of each credential as a consumer would, and asks its provider what else it has. The exit code is 1 if one
does not work, or if there is something that nobody knows.`,
		Example: "  taskfleet credentials verify build-database",
		Args:    cobra.MinimumNArgs(1), ValidArgsFunction: completeCredentials,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			type verdict struct {
				Name string `json:"name"`
				*credentials.CredentialVerification
				*credentials.CredentialLeftovers
			}
			var all []verdict
			wrong := 0
			for _, name := range args {
				v, err := credentials.New(s.core).Verify(ctx, name)
				if err != nil {
					return aboutCredentials(err)
				}
				left, err := credentials.New(s.core).Leftovers(ctx, name)
				if err != nil {
					return err
				}
				all = append(all, verdict{name, v, left})
				if !v.Works || len(left.Leftovers) > 0 {
					wrong++
				}
			}
			out := cmd.OutOrStdout()
			if asJSON {
				if err := printJSON(out, all); err != nil {
					return err
				}
			} else {
				for _, v := range all {
					text := "works"
					if !v.Works {
						text = "does not work: " + plain.Line(v.Why)
					}
					fmt.Fprintf(out, "%s %s\n", v.Name, text)
					for _, l := range v.Leftovers {
						if l.State == "unknown" {
							fmt.Fprintf(out, "  %s is there, and is none of its versions; if nobody needs it: taskfleet credentials retire %s %[1]s\n", plain.Line(l.ID), v.Name)
						} else {
							fmt.Fprintf(out, "  %s is left of a version that is %s: it is removed within a day\n", plain.Line(l.ID), l.State)
						}
					}
				}
			}
			if wrong > 0 {
				return silentError{fmt.Errorf("%s: not as it should be", plural(wrong, "credential"))}
			}
			return nil
		}),
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func newCredentialsRotateCommand() *cobra.Command {
	var asJSON, wait bool
	cmd := &cobra.Command{
		Use: "rotate NAME", Short: "Replace a credential with nobody noticing",
		Long: `Has a new version made and handed out. The old one goes on working until every consumer has the new one or the overlap ends, and
nobody uses it any more. With --wait the command returns when the new version is in use, which it says.`,
		Example: "  taskfleet credentials rotate build-database --wait",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeCredentials,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			c, err := credentials.New(s.core).Rotate(ctx, args[0])
			if err != nil {
				return aboutCredentials(err)
			}
			return follow(ctx, s, cmd, c, wait, asJSON)
		}),
	}
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&wait, "wait", false, "until the new version is in use")
	return cmd
}

func newCredentialsRevokeCommand() *cobra.Command {
	var asJSON, wait, yes bool
	cmd := &cobra.Command{
		Use: "revoke NAME", Short: "Replace a credential that has leaked, and end the old one at once",
		Long: `Has a new version made and handed out, and then ends all that there were before, whoever uses them: consumers that do not have the
new one by then fail. Which ones, the command says before, and on a terminal asks. Until the new version works the old one
stays.`,
		Example: "  taskfleet credentials revoke deploy-key --wait",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeCredentials,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			before, err := credentials.New(s.core).Credential(ctx, args[0])
			if err != nil {
				return aboutCredentials(err)
			}
			if behind := leftBehind(before); len(behind) > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "These do not pick up a new version by themselves, and lose what they use: %s\n", strings.Join(behind, ", "))
			}
			if err := confirm(cmd, yes, fmt.Sprintf("End all versions of %s at once?", args[0])); err != nil {
				return err
			}
			c, err := credentials.New(s.core).Revoke(ctx, args[0])
			if err != nil {
				return err
			}
			return follow(ctx, s, cmd, c, wait, asJSON)
		}),
	}
	jsonFlag(cmd, &asJSON)
	yesFlag(cmd, &yes)
	cmd.Flags().BoolVar(&wait, "wait", false, "until the rotation has ended")
	return cmd
}

// leftBehind are the consumers that have to be told of a new version, or to read it
// again.
func leftBehind(c *credentials.Credential) (list []string) {
	seen := map[string]bool{}
	for _, u := range c.Consumers {
		if u.Kind != "command" && u.Kind != "platform" && !seen[u.Name] {
			list = append(list, u.Name)
		}
		seen[u.Name] = true
	}
	return list
}

// An attending tells what a request has come to from what was there before.
type attending struct {
	before  *credentials.Credential // as it was when the rotation was asked for
	changed bool                    // since then
}

// gaveUp tells that somebody has to do something because of what has happened after
// the request.
func (w *attending) gaveUp(c *credentials.Credential) bool {
	if w.before == nil {
		w.before = c
	}
	a, b := w.before.Rotation, c.Rotation
	w.changed = w.changed || c.State != w.before.State || c.State == "failing" && (a.RotationID != b.RotationID || a.Step != b.Step || a.Attempt != b.Attempt)
	return w.changed && wantsAttention(c.State)
}

// followEvery is how often a command looks how far a rotation is.
const followEvery = time.Second

// follow reports a rotation that was asked for, once it has come far enough.
func follow(ctx context.Context, s *session, cmd *cobra.Command, c *credentials.Credential, wait, asJSON bool) error {
	// One that is forced may be followed by another.
	var w attending
	for asked := c.Rotation; wait && c.Rotation != nil && (c.Rotation.Forced || c.Rotation.RotationID == asked.RotationID); {
		if c.Current == asked.Version && !c.Rotation.Forced || w.gaveUp(c) {
			break
		}
		select {
		case <-time.After(followEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
		var err error
		if c, err = credentials.New(s.core).Credential(ctx, c.Name); err != nil {
			return err
		}
	}
	out := cmd.OutOrStdout()
	switch {
	case asJSON:
		if err := printJSON(out, c); err != nil {
			return err
		}
	case !wait:
		fmt.Fprintf(out, "%s is being rotated; taskfleet credentials show %s tells how far it is\n", c.Name, c.Name)
	case c.Why != "" && c.State != "rotating":
		fmt.Fprintf(out, "%s is %s: %s\n", c.Name, c.State, plain.Line(c.Why))
		if c.ToDo != "" {
			fmt.Fprintf(out, "  To do: %s\n", plain.Line(c.ToDo))
		}
	default:
		fmt.Fprintf(out, "%s has the version %s in use\n", c.Name, c.Current)
	}
	if wait && wantsAttention(c.State) {
		return silentError{fmt.Errorf("%s is %s", c.Name, c.State)}
	}
	return nil
}

func newCredentialsConsumedCommand() *cobra.Command {
	var version string
	cmd := &cobra.Command{
		Use: "consumed NAME CONSUMER", Short: "Report that a consumer uses a version",
		Long: `Reports which version a consumer uses, so that a rotation does not wait for it any more. The id of the version stands in the
secret of the platform (credentialVersion), beside the file (FILE.version, to be read before FILE), and in what show --reveal prints.
Without it, it is the current version, if there is no other that the consumer may use.`,
		Example: "  taskfleet credentials consumed build-database grafana --version \"$(cat /etc/grafana/password.version)\"",
		Args:    cobra.ExactArgs(2), ValidArgsFunction: completeCredentials,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			return aboutCredentials(credentials.New(s.core).Consumed(ctx, args[0], args[1], &credentials.CredentialConsumedRequest{Version: version}))
		}),
	}
	cmd.Flags().StringVar(&version, "version", "", "the id of the version (default: the current one, if there is no other)")
	return cmd
}

// mostSupplied is how much is read of what somebody supplies.
const mostSupplied = 256 << 10

func newCredentialsSupplyCommand() *cobra.Command {
	var asJSON, wait bool
	var member string
	cmd := &cobra.Command{
		Use: "supply NAME", Short: "Bring the new version of a credential that people make",
		Long: `Reads a version from stdin and has the credential's rotation go on with it: it is tried, handed out, and takes the place of the one
before. It is a JSON object; with --member it is the text of that member instead, without the end of its last line. Nothing secret is
an argument, where other users of the machine could see it.`,
		Example: "  taskfleet credentials supply slack-token --member token --wait < token.txt\n  taskfleet credentials supply mail < password.json",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeCredentials,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			secret, err := readSupplied(cmd.InOrStdin(), member)
			if err != nil {
				return err
			}
			c, err := credentials.New(s.core).Supply(ctx, args[0], &credentials.CredentialSupplyRequest{Secret: secret})
			if err != nil {
				return aboutCredentials(err)
			}
			return follow(ctx, s, cmd, c, wait, asJSON)
		}),
	}
	jsonFlag(cmd, &asJSON)
	cmd.Flags().BoolVar(&wait, "wait", false, "until the new version is in use")
	cmd.Flags().StringVar(&member, "member", "", "the member that the text is (default: it is JSON)")
	return cmd
}

func readSupplied(from io.Reader, member string) (json.RawMessage, error) {
	text, err := io.ReadAll(io.LimitReader(from, mostSupplied+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the version from stdin: %w", err)
	case len(text) > mostSupplied:
		return nil, fmt.Errorf("what stands on stdin has more than %d bytes", mostSupplied)
	case len(strings.TrimSpace(string(text))) == 0:
		return nil, errors.New("there is nothing on stdin; give the version there, as in taskfleet credentials supply NAME < FILE")
	case member != "":
		return json.Marshal(map[string]string{member: strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")})
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(text, &object) != nil {
		return nil, errors.New("what stands on stdin is no JSON object; if it is the text of one member, name that, as in --member password")
	}
	return text, nil
}

func newCredentialsRetireCommand() *cobra.Command {
	var forced, removed, yes bool
	cmd := &cobra.Command{
		Use: "retire NAME ID", Short: "Remove what is left of a credential where it was minted",
		Long: `Removes where it was minted what is no version of the credential: what verify has told of, and somebody else has made. What was seen
in use lately is only removed with --force.

With --removed it notes instead that an old version was removed there by hand, so that nothing waits for it any more.`,
		Example: "  taskfleet credentials retire deploy-key AKIAIOSFODNN7EXAMPLE\n  taskfleet credentials retire deploy-key fN1SbArXTPSVFNUvaOlinQ --removed",
		Args:    cobra.ExactArgs(2), ValidArgsFunction: completeCredentials,
		RunE: withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, args []string) error {
			what := fmt.Sprintf("Remove %s, whoever uses it?", args[1])
			if removed {
				what = fmt.Sprintf("Was %s removed where it was minted?", args[1])
			}
			if err := confirm(cmd, yes, what); err != nil {
				return err
			}
			return aboutCredentials(credentials.New(s.core).Retire(ctx, args[0], &credentials.CredentialRetireRequest{ID: args[1], Forced: forced, Removed: removed}))
		}),
	}
	yesFlag(cmd, &yes)
	cmd.Flags().BoolVar(&forced, "force", false, "though it was seen in use lately")
	cmd.Flags().BoolVar(&removed, "removed", false, "it is a version that was removed by hand")
	cmd.MarkFlagsMutuallyExclusive("force", "removed")
	return cmd
}

// completeCredentials offers the names of credentials, if a platform answers.
func completeCredentials(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	s, err := connect(cmd, client.Retry{For: -1})
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list, err := credentials.New(s.core).ListCredentials(cmd.Context())
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, c := range list.Credentials {
		names = append(names, c.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
