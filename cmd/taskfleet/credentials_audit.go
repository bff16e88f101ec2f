package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/client/credentialsaudit"
	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/timestamp"
)

// auditLevels are how bad findings are, the worst first.
var auditLevels = []string{"error", "warning", "note"}

// An auditCommand is a command line of credentials audit.
type auditCommand struct {
	only                     []string
	failOn                   string
	tokenDays, unused, hours int
	maxMiB                   int64
	last, asJSON, asSARIF    bool
}

func newCredentialsAuditCommand() *cobra.Command {
	var c auditCommand
	cmd := &cobra.Command{
		Use: "audit", Short: "Find what is too old, not used, allowed too much or leaked",
		Long: `Has the server look for
  age     access tokens and credentials that are older than they should be, clients that do not expire
  unused  clients and credentials that nobody uses
  scopes  scopes that clients have and do not use
  leaks   live secrets, and what looks like some, in logs of tasks that were resolved lately
and prints what it finds, never a secret. The command waits until the audit is done; with --last it prints the latest one that is, such
as that of the schedule, and asks for none.

The exit code is 1 if there is a finding that is an error or a warning (--fail-on says from which level on), 2 if there was no audit, else 0.

What is known and accepted is in the configuration of the server, in credentialsAudit.exceptions (taskfleet config --help). It is shown
and does not count.`,
		Example: `  taskfleet credentials audit
  taskfleet credentials audit --only age,unused
  taskfleet credentials audit --only leaks --hours 2 --sarif > leaks.sarif
  taskfleet credentials audit --json | jq -r '.report.findings[].id'`,
		Args: cobra.NoArgs,
	}
	do := withSession(brief, func(ctx context.Context, s *session, cmd *cobra.Command, _ []string) error { return c.run(ctx, s, cmd) })
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := do(cmd, args)
		if err == nil || errors.As(err, new(silentError)) {
			return err // which has found something
		}
		return &codedError{err, exitTrouble}
	}
	jsonFlag(cmd, &c.asJSON)
	f := cmd.Flags()
	f.BoolVar(&c.asSARIF, "sarif", false, "print SARIF 2.1.0, for tools that show findings")
	f.StringSliceVar(&c.only, "only", nil, "these checks: age, unused, scopes, leaks")
	f.StringVar(&c.failOn, "fail-on", "warning", "the level from which on a finding counts: error, warning or note")
	f.IntVar(&c.tokenDays, "token-days", 0, "how old access tokens may get (default: the server's, 90)")
	f.IntVar(&c.unused, "unused-days", 0, "for how long something may not be used (default: the server's, 90)")
	f.IntVar(&c.hours, "hours", 0, "how far logs go back (default: the server's, 24)")
	f.Int64Var(&c.maxMiB, "max-mib", 0, "how many MiB of logs are searched, the latest first (default: the server's, 10240)")
	f.BoolVar(&c.last, "last", false, "print the latest audit instead of asking for one")
	cmd.MarkFlagsMutuallyExclusive("json", "sarif")
	for _, name := range []string{"only", "token-days", "unused-days", "hours", "max-mib"} {
		cmd.MarkFlagsMutuallyExclusive("last", name)
	}
	return cmd
}

func (c *auditCommand) run(ctx context.Context, s *session, cmd *cobra.Command) error {
	if !slices.Contains(auditLevels, c.failOn) {
		return usagef("--fail-on is %q; it must be one of %s", c.failOn, strings.Join(auditLevels, ", "))
	}
	audit, err := c.audit(ctx, s, cmd)
	if err != nil {
		return err
	}
	if audit.Report == nil {
		return fmt.Errorf("the audit %s is %s: %s", audit.AuditID, audit.State, cmp.Or(audit.Error, "it has no report"))
	}
	found := sortFindings(audit)
	out := cmd.OutOrStdout()
	switch {
	case c.asJSON:
		err = printJSON(out, audit)
	case c.asSARIF:
		err = printJSON(out, sarifOf(audit, found, func(p credentialsaudit.AuditPlace) string {
			return artifactURL(s, p.TaskID, int(p.RunID), p.Name)
		}))
	default:
		_, err = io.WriteString(out, auditText(audit, found))
	}
	if n := found.from(c.failOn); err == nil && n > 0 {
		err = silentError{fmt.Errorf("%s", plural(n, "finding"))}
	}
	return err
}

// audit is the one that is asked for, once it is done.
func (c *auditCommand) audit(ctx context.Context, s *session, cmd *cobra.Command) (*credentialsaudit.Audit, error) {
	api := credentialsaudit.New(s.core)
	if c.last {
		for a, err := range api.ListAuditsAll(ctx, credentialsaudit.ListAuditsOptions{}) {
			if err != nil {
				return nil, aboutCredentials(err)
			}
			if a.State == "done" {
				return api.Audit(ctx, a.AuditID)
			}
		}
		return nil, errors.New("there is no audit yet; leave out --last to have one done")
	}
	number := func(n int) *int {
		if n == 0 {
			return nil
		}
		return &n
	}
	in := &credentialsaudit.AuditRequest{Only: c.only, TokenDays: number(c.tokenDays), UnusedDays: number(c.unused), Hours: number(c.hours)}
	if n := c.maxMiB << 20; n != 0 {
		in.MaxBytes = &n
	}
	a, err := api.BeginAudit(ctx, in)
	if err != nil {
		return nil, aboutCredentials(err)
	}
	told, pause := time.Now(), 100*time.Millisecond
	for a.State == "waiting" || a.State == "running" {
		if now := time.Now(); now.Sub(told) >= patienceInterval {
			told = now
			fmt.Fprintf(cmd.ErrOrStderr(), "taskfleet: %s\n", progressOf(a))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		pause = min(2*pause, 2*time.Second)
		if a, err = api.Audit(ctx, a.AuditID); err != nil {
			return nil, err
		}
	}
	return a, nil
}

func progressOf(a *credentialsaudit.Audit) string {
	p := a.Progress
	switch {
	case p.Step == "":
		return "the audit is " + a.State
	case p.Logs == 0:
		return "the audit is " + plain.Line(p.Step)
	}
	return fmt.Sprintf("the audit is %s: %d of %d, %s; %s so far", plain.Line(p.Step), p.LogsDone, p.Logs, bytesOf(p.Bytes), plural(int(p.Findings), "finding"))
}

// sortedFindings are those that count, and those that an exception accepts.
type sortedFindings struct {
	counted, accepted []credentialsaudit.AuditFinding
}

func sortFindings(a *credentialsaudit.Audit) (out sortedFindings) {
	for _, f := range a.Report.Findings {
		if f.Exception == nil {
			out.counted = append(out.counted, f)
		} else {
			out.accepted = append(out.accepted, f)
		}
	}
	return out
}

// from is how many findings are as bad as a level or worse.
func (s *sortedFindings) from(level string) (n int) {
	for _, f := range s.counted {
		if slices.Index(auditLevels, f.Level) <= slices.Index(auditLevels, level) {
			n++
		}
	}
	return n
}

const auditWidth = 80

// auditText is an audit for people, on lines of 80 columns.
func auditText(a *credentialsaudit.Audit, found sortedFindings) string {
	var b strings.Builder
	const indent = "         "
	ruleWidth := len("RULE")
	for _, f := range found.counted {
		ruleWidth = max(ruleWidth, len(f.Rule))
	}
	row := func(level, rule, subject string) {
		fmt.Fprintf(&b, "%s%s%s\n", pad(level, len(indent)), pad(rule, ruleWidth+2), clip(plain.Line(subject), auditWidth-len(indent)-ruleWidth-2))
	}
	if len(found.counted) > 0 {
		row("LEVEL", "RULE", "SUBJECT")
	}
	for _, f := range found.counted {
		row(f.Level, f.Rule, f.Subject)
		b.WriteString(wrapped(f.Message, indent))
		for _, p := range f.Places {
			text := fmt.Sprintf("%s run %d line %d", p.TaskID, p.RunID, p.Line)
			if p.Count > 1 {
				text += fmt.Sprintf(", %d times", p.Count)
			}
			if p.Form != "" {
				text += ", " + p.Form
			}
			b.WriteString(wrapped(text+": "+p.Name, indent))
		}
		if f.More != nil {
			b.WriteString(wrapped(fmt.Sprintf("and %s more", plural(int(*f.More), "log")), indent))
		}
	}
	for _, r := range a.Report.Rules {
		if slices.ContainsFunc(found.counted, func(f credentialsaudit.AuditFinding) bool { return f.Rule == r.ID }) {
			b.WriteString("\n" + wrapped(r.ID+": "+r.Help, ""))
		}
	}
	if len(found.accepted) > 0 {
		b.WriteString("\n" + wrapped("Accepted:", ""))
		for _, f := range found.accepted {
			b.WriteString(wrapped(fmt.Sprintf("%s, until %s: %s", f.ID, f.Exception.Until, f.Exception.Reason), "  "))
		}
	}
	b.WriteString("\n")
	for _, note := range a.Report.Notes {
		b.WriteString(wrapped(note, ""))
	}
	var counts []string
	for _, level := range auditLevels {
		n := 0
		for _, f := range found.counted {
			if f.Level == level {
				n++
			}
		}
		if n > 0 {
			counts = append(counts, plural(n, level))
		}
	}
	summary := cmp.Or(strings.Join(counts, ", "), "Nothing was found")
	if n := len(found.accepted); n > 0 {
		summary += fmt.Sprintf(" and %d accepted", n)
	}
	b.WriteString(wrapped(fmt.Sprintf("%s. The audit %s, of %s, was done %s.", summary, a.AuditID, strings.Join(a.Options.Only, ", "), ended(a)), ""))
	return strings.TrimLeft(b.String(), "\n")
}

func ended(a *credentialsaudit.Audit) string {
	if since := timestamp.Now().Sub(a.Ended); since < time.Minute {
		return "just now"
	}
	return ago(a.Ended)
}

// wrapped breaks a text into lines of 80 columns, all with an indent.
func wrapped(text, indent string) string {
	var b strings.Builder
	line := ""
	room := auditWidth - len(indent)
	flush := func() {
		if line != "" {
			b.WriteString(indent + line + "\n")
		}
		line = ""
	}
	for _, word := range strings.Fields(plain.Line(text)) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > room {
			flush()
		}
		for utf8.RuneCountInString(word) > room { // a scope, or the name of an artifact
			r := []rune(word)
			b.WriteString(indent + string(r[:room]) + "\n")
			word = string(r[room:])
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	flush()
	return b.String()
}
