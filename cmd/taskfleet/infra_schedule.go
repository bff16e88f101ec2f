//go:build !agent

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/mail"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/infra"
	"github.com/taskfleet/taskfleet/infra/plan"
	"github.com/taskfleet/taskfleet/infra/verify"
	"github.com/taskfleet/taskfleet/plain"
	"github.com/taskfleet/taskfleet/schedule"
	"github.com/taskfleet/taskfleet/schedule/cron"
)

// InfraConfig says which deployments are looked at when nobody asks, and who is told of what is found.
type InfraConfig struct {
	Deployments []InfraDeployment `yaml:"deployments"`
	Email       []string          `yaml:"email"`
}

// An InfraDeployment is a directory of HCL on every replica.
type InfraDeployment struct {
	Name      string   `yaml:"name"`
	Directory string   `yaml:"directory"`
	Terraform string   `yaml:"terraform"`
	VarFiles  []string `yaml:"varFiles"`

	Drift  string `yaml:"drift"` // cron expressions
	Verify string `yaml:"verify"`
	Zone   string `yaml:"zone"`
}

var infraName = regexp.MustCompile(`^[a-z][a-z0-9-]{1,30}$`)

// check reads the section infra. email says whether the platform can send any.
func (c InfraConfig) check(email bool, bad func(path, format string, args ...any)) {
	seen := map[string]bool{}
	for i, d := range c.Deployments {
		place := fmt.Sprintf("infra.deployments[%d]", i)
		switch {
		case !infraName.MatchString(d.Name):
			bad(place+".name", "infra: the name of a deployment is %q; it must be 2 to 31 small letters, digits and hyphens, and begin with a letter", d.Name)
		case seen[d.Name]:
			bad(place+".name", "infra: there are two deployments %s; give each a name of its own", d.Name)
		}
		seen[d.Name] = true
		if !filepath.IsAbs(d.Directory) {
			bad(place+".directory", "infra: the directory of %s is %q; it must be an absolute path of a deployment, on every replica", d.Name, d.Directory)
		}
		for _, f := range d.VarFiles {
			if !filepath.IsAbs(f) {
				bad(place+".varFiles", "infra: varFiles of %s has %q; it must be an absolute path", d.Name, f)
			}
		}
		if d.Drift == "" && d.Verify == "" {
			bad(place, "infra: %s has neither drift nor verify; give it one of them, a cron expression such as 0 6 * * *", d.Name)
		}
		for _, j := range d.jobs() {
			if j.Expression == "" {
				continue
			}
			if _, err := cron.Parse(j.Expression, j.Zone, j.Name); err != nil {
				bad(place+"."+strings.TrimPrefix(j.Kind, "infra."), "infra: %s: %v", d.Name, err)
			}
		}
	}
	for i, a := range c.Email {
		if x, err := mail.ParseAddress(a); err != nil || x.Address != a {
			bad(fmt.Sprintf("infra.email[%d]", i), "infra: email has %q; it must be an address, such as ops@example.com", a)
		}
	}
	if len(c.Email) > 0 && !email {
		bad("infra.email", "infra: email is of no use without notify.smtp or notify.ses, which send it")
	}
}

const (
	driftKind  = "infra.drift"
	verifyKind = "infra.verify"

	infraRetries = 2
	infraLimit   = time.Hour // of a look at everything there is
)

// jobs are what is to be done at times, also where there is none, with no expression.
func (d InfraDeployment) jobs() []schedule.Job {
	job := func(kind, doc, expression string) schedule.Job {
		return schedule.Job{
			Name: "infra/" + d.Name + "/" + strings.TrimPrefix(kind, "infra."), Kind: kind, Doc: doc, Expression: expression, Zone: d.Zone,
			CatchUp: schedule.Latest, Limit: infraLimit, Retries: infraRetries,
		}
	}
	return []schedule.Job{
		job(driftKind, "Looks for what has changed at AWS by other hands, and tells people of it.", d.Drift),
		job(verifyKind, "Reads the AWS account back, and tells people of what is not as it should be.", d.Verify),
	}
}

// An infraWatch looks at deployments when their time has come.
type infraWatch struct {
	config InfraConfig
	mail   mailer
	log    *slog.Logger

	drift  func(context.Context, InfraDeployment) (*plan.Plan, error)
	verify func(context.Context, InfraDeployment) (*verify.Report, error)

	busy chan struct{} // whoever looks holds the place: terraform works in a directory once at a time
}

// A mailer sends emails, as notify does.
type mailer interface {
	Email(ctx context.Context, address, subject, markdown string) error
}

// openInfra has deployments looked at when the configuration says.
func (c InfraConfig) openInfra(ctx context.Context, times *schedule.Schedule, w *infraWatch) error {
	w.config, w.busy = c, make(chan struct{}, 1)
	times.Handle(driftKind, w.runner(times, w.lookForDrift))
	times.Handle(verifyKind, w.runner(times, w.lookAtAccount))
	for _, d := range c.Deployments {
		for _, j := range d.jobs() {
			do := times.Put
			if j.Expression == "" {
				do = func(ctx context.Context, j schedule.Job) error { return times.Remove(ctx, j.Name) }
			}
			if err := do(ctx, j); err != nil {
				return fmt.Errorf("scheduling looks at the deployment %s: %w", d.Name, err)
			}
		}
	}
	return nil
}

// newInfraWatch is one that looks with terraform and at AWS.
func newInfraWatch(mail mailer, log *slog.Logger) *infraWatch {
	options := func(d InfraDeployment) infra.Options {
		return infra.Options{Terraform: d.Terraform, Notice: func(line string) { log.Info("infra", "deployment", d.Name, "notice", line) }}
	}
	return &infraWatch{
		mail: mail, log: log,
		drift: func(ctx context.Context, d InfraDeployment) (*plan.Plan, error) {
			x, err := infra.Open(ctx, d.Directory, options(d))
			if err != nil {
				return nil, err
			}
			return x.Drift(ctx, d.VarFiles)
		},
		verify: func(ctx context.Context, d InfraDeployment) (*verify.Report, error) {
			o, err := verifyOptions(ctx, d.Directory, options(d))
			if err != nil {
				return nil, err
			}
			return verify.Account(ctx, o)
		},
	}
}

// runner runs a job. What cannot be found out is told like what is found, once it was tried as often as it may be: nobody
// may take silence for good news.
func (w *infraWatch) runner(times *schedule.Schedule, look func(context.Context, InfraDeployment) (string, error)) schedule.Runner {
	return schedule.RunnerFunc(func(ctx context.Context, o schedule.Occasion) (string, error) {
		name := strings.Split(o.Job.Name, "/")[1]
		for _, d := range w.config.Deployments {
			if d.Name != name {
				continue
			}
			outcome, err := w.alone(ctx, func() (string, error) { return look(ctx, d) })
			if err != nil && ctx.Err() == nil && o.Attempt > infraRetries {
				err = errors.Join(err, w.tell(ctx, fmt.Sprintf("The deployment %s could not be looked at", name), fmt.Sprintf("`%s` has failed %d times:\n\n%s\n", o.Job.Name, o.Attempt, quoted(err.Error()))))
			}
			return outcome, err
		}
		// Nothing lists the jobs of deployments that have gone from the configuration, so they go when they are due.
		return "no such deployment is configured any more", times.Remove(ctx, o.Job.Name)
	})
}

// alone has f done while nothing else is, and gives the place free whatever becomes of f: else nobody would ever look again.
func (w *infraWatch) alone(ctx context.Context, f func() (string, error)) (string, error) {
	select {
	case w.busy <- struct{}{}:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	defer func() { <-w.busy }()
	return f()
}

func (w *infraWatch) lookForDrift(ctx context.Context, d InfraDeployment) (string, error) {
	p, err := w.drift(ctx, d)
	if err != nil {
		return "", err
	}
	if len(p.Drift) == 0 {
		return "no drift", nil
	}
	var list strings.Builder
	for i, c := range p.Drift {
		if i == mostTold {
			fmt.Fprintf(&list, "    and %d more\n", len(p.Drift)-i)
			break
		}
		fmt.Fprintf(&list, "    %s (%s)\n", plain.Line(c.Address), c.Action)
	}
	what := plural(len(p.Drift), "resource") + " changed by other hands"
	w.log.Error("a deployment has drifted", "deployment", d.Name, "resources", len(p.Drift))
	return what, w.tell(ctx, fmt.Sprintf("Drift in %s: %s", d.Name, what), fmt.Sprintf(
		"Since the last apply of the deployment %s these have changed:\n\n%s\nTo see how: `taskfleet infra drift --dir %s`. Put it back with plan and apply, or write it into the configuration.\n",
		d.Name, list.String(), d.Directory))
}

func (w *infraWatch) lookAtAccount(ctx context.Context, d InfraDeployment) (string, error) {
	r, err := w.verify(ctx, d)
	if err != nil {
		return "", err
	}
	if len(r.Findings) == 0 {
		return "nothing was found", nil
	}
	var list strings.Builder
	for i, f := range r.Findings {
		if i == mostTold {
			fmt.Fprintf(&list, "    and %d more\n", len(r.Findings)-i)
			break
		}
		fmt.Fprintf(&list, "    %s %s: %s\n        %s\n", f.Severity, f.Check, plain.Line(f.Resource), plain.Line(f.Message))
	}
	what := verifyCounts(r)
	w.log.Error("an account is not as a deployment should be", "deployment", d.Name, "account", r.Account, "findings", len(r.Findings))
	return what, w.tell(ctx, fmt.Sprintf("The account of %s: %s", d.Name, what), fmt.Sprintf(
		"What belongs to the deployment %s in the account %s is not as it should be:\n\n%s\nWhat to do: `taskfleet infra verify --dir %s`.\n",
		d.Name, r.Account, list.String(), d.Directory))
}

// mostTold is how many findings an email has.
const mostTold = 50

// quoted is a text as a block of code in Markdown.
func quoted(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ")
}

// tell sends people an email. That something was logged as an error has told Sentry.
func (w *infraWatch) tell(ctx context.Context, subject, markdown string) (err error) {
	for _, to := range w.config.Email {
		err = errors.Join(err, w.mail.Email(ctx, to, subject, markdown))
	}
	return err
}
