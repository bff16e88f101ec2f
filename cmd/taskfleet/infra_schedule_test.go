//go:build !agent

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/infra/plan"
	"github.com/taskfleet/taskfleet/infra/verify"
	"github.com/taskfleet/taskfleet/schedule"
	"github.com/taskfleet/taskfleet/store"
)

func TestTheSectionInfraIsChecked(t *testing.T) {
	t.Parallel()
	good := InfraDeployment{Name: "prod", Directory: "/srv/prod", Drift: "0 6 * * *", Verify: "30 6 * * *", Zone: "Europe/Berlin"}
	check := func(c InfraConfig, email bool) (wrong []string) {
		c.check(email, func(path, format string, args ...any) { wrong = append(wrong, path+" "+fmt.Sprintf(format, args...)) })
		return wrong
	}
	if wrong := check(InfraConfig{Deployments: []InfraDeployment{good}, Email: []string{"ops@example.com"}}, true); len(wrong) > 0 {
		t.Errorf("a good one: %q", wrong)
	}
	for want, spoil := range map[string]func(*InfraConfig){
		"infra.deployments[0].name infra: the name":           func(c *InfraConfig) { c.Deployments[0].Name = "../prod" },
		"infra.deployments[1].name infra: there are two":      func(c *InfraConfig) { c.Deployments = append(c.Deployments, good) },
		"infra.deployments[0].directory infra: the directory": func(c *InfraConfig) { c.Deployments[0].Directory = "prod" },
		"infra.deployments[0].varFiles infra: varFiles":       func(c *InfraConfig) { c.Deployments[0].VarFiles = []string{"secret.tfvars"} },
		"infra.deployments[0] infra: prod has neither":        func(c *InfraConfig) { c.Deployments[0].Drift, c.Deployments[0].Verify = "", "" },
		"infra.deployments[0].drift infra: prod":              func(c *InfraConfig) { c.Deployments[0].Drift = "0 25 * * *" },
		"infra.deployments[0].verify infra: prod":             func(c *InfraConfig) { c.Deployments[0].Verify = "daily" },
		"infra.email[0] infra: email has":                     func(c *InfraConfig) { c.Email = []string{"Ops <ops@example.com>"} },
	} {
		c := InfraConfig{Deployments: []InfraDeployment{good}, Email: []string{"ops@example.com"}}
		spoil(&c)
		if wrong := check(c, true); len(wrong) != 1 || !strings.HasPrefix(wrong[0], want) {
			t.Errorf("%q, want %s", wrong, want)
		}
	}
	if wrong := check(InfraConfig{Email: []string{"ops@example.com"}}, false); len(wrong) != 1 || !strings.Contains(wrong[0], "notify.smtp") {
		t.Errorf("nothing sends email: %q", wrong)
	}
}

type letters []string

func (l *letters) Email(_ context.Context, address, subject, markdown string) error {
	*l = append(*l, address+"\n"+subject+"\n"+markdown)
	return nil
}

// A watched deployment, with what is found of it, and a schedule that runs its jobs when it is told to.
type watchedInfra struct {
	*infraWatch
	times *schedule.Schedule
	mails letters
	log   bytes.Buffer

	changed  []plan.Change
	findings []verify.Finding
	err      error
}

func emptyDatabase(t *testing.T) *store.DB {
	t.Helper()
	db, err := store.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func watchInfra(t *testing.T, db *store.DB, c InfraConfig) *watchedInfra {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	bus, err := event.New(t.Context(), db, log)
	if err != nil {
		t.Fatal(err)
	}
	w := &watchedInfra{}
	if w.times, err = schedule.New(t.Context(), schedule.Config{DB: db, Events: bus, Log: log, Metrics: prometheus.NewRegistry()}); err != nil {
		t.Fatal(err)
	}
	w.infraWatch = &infraWatch{
		mail: &w.mails, log: slog.New(slog.NewTextHandler(&w.log, nil)),
		drift: func(_ context.Context, d InfraDeployment) (*plan.Plan, error) {
			return &plan.Plan{Drift: w.changed}, w.err
		},
		verify: func(context.Context, InfraDeployment) (*verify.Report, error) {
			return &verify.Report{Deployment: "taskfleet-prod", Account: "123456789012", Findings: w.findings}, w.err
		},
	}
	if err := c.openInfra(t.Context(), w.times, w.infraWatch); err != nil {
		t.Fatal(err)
	}
	return w
}

// run does what the schedule does when a date has come.
func (w *watchedInfra) run(t *testing.T, name string, attempt int) (string, error) {
	t.Helper()
	look := map[string]func(context.Context, InfraDeployment) (string, error){"drift": w.lookForDrift, "verify": w.lookAtAccount}[filepath.Base(name)]
	return w.runner(w.times, look).Run(t.Context(), schedule.Occasion{Job: schedule.Job{Name: name}, Attempt: attempt})
}

func TestPeopleAreToldOfDriftAndFindings(t *testing.T) {
	t.Parallel()
	c := InfraConfig{Deployments: []InfraDeployment{{Name: "prod", Directory: "/srv/prod", Drift: "0 6 * * *", Verify: "30 6 * * *", Zone: "Europe/Berlin"}}, Email: []string{"ops@example.com", "boss@example.com"}}
	w := watchInfra(t, emptyDatabase(t), c)
	for name, want := range map[string]string{"infra/prod/drift": "0 6 * * *", "infra/prod/verify": "30 6 * * *"} {
		j, err := w.times.Job(t.Context(), name)
		if err != nil || j.Expression != want || j.Zone != "Europe/Berlin" {
			t.Errorf("%s: %+v, %v", name, j, err)
		}
		if outcome, err := w.run(t, name, 1); err != nil || outcome == "" || len(w.mails) > 0 || w.log.Len() > 0 {
			t.Errorf("%s has found nothing: %q, %v; told %q, logged %s", name, outcome, err, w.mails, &w.log)
		}
	}

	for i := range mostTold + 3 {
		w.changed = append(w.changed, plan.Change{Address: fmt.Sprintf("aws_sqs_queue.events[%d]", i), Action: "update", Before: "hunter2"})
	}
	outcome, err := w.run(t, "infra/prod/drift", 1)
	if err != nil || outcome != "53 resources changed by other hands" {
		t.Errorf("drift: %q, %v", outcome, err)
	}
	w.findings = []verify.Finding{{Check: "bucket-tls", Severity: verify.Error, Resource: "arn:aws:s3:::artifacts", Region: "us-east-1", Message: "the bucket answers without TLS", Fix: "deny it"}}
	outcome, err = w.run(t, "infra/prod/verify", 1)
	if err != nil || outcome != "1 error" {
		t.Errorf("verify: %q, %v", outcome, err)
	}
	if len(w.mails) != 4 {
		t.Fatalf("%d emails: %q", len(w.mails), w.mails)
	}
	for i, wants := range [][]string{
		{"ops@example.com\nDrift in prod: 53 resources", "aws_sqs_queue.events[0] (update)", "and 3 more", "taskfleet infra drift --dir /srv/prod"},
		{"boss@example.com\n"},
		{"ops@example.com\nThe account of prod: 1 error", "error bucket-tls: arn:aws:s3:::artifacts", "without TLS", "taskfleet infra verify --dir /srv/prod"},
		{"boss@example.com\n"},
	} {
		for _, want := range wants {
			if !strings.Contains(w.mails[i], want) || strings.Contains(w.mails[i], "hunter2") {
				t.Errorf("email %d:\n%s\nwant %q in it, and no value", i, w.mails[i], want)
			}
		}
	}
	// What is logged as an error goes to Sentry.
	if n := strings.Count(w.log.String(), "level=ERROR"); n != 2 {
		t.Errorf("%d errors are logged:\n%s", n, &w.log)
	}
}

// That nothing could be found out is told, too, but not before it was tried again.
func TestPeopleAreToldThatNobodyLooks(t *testing.T) {
	t.Parallel()
	w := watchInfra(t, emptyDatabase(t), InfraConfig{Deployments: []InfraDeployment{{Name: "prod", Directory: "/srv/prod", Drift: "0 6 * * *"}}, Email: []string{"ops@example.com"}})
	w.err = errors.New("the state is locked")
	for attempt := 1; attempt <= infraRetries; attempt++ {
		if _, err := w.run(t, "infra/prod/drift", attempt); !errors.Is(err, w.err) || len(w.mails) > 0 {
			t.Errorf("attempt %d: %v, told %q", attempt, err, w.mails)
		}
	}
	if _, err := w.run(t, "infra/prod/drift", infraRetries+1); !errors.Is(err, w.err) || len(w.mails) != 1 || !strings.Contains(w.mails[0], "    the state is locked") {
		t.Errorf("the last attempt: %v, told %q", err, w.mails)
	}
}

// A job goes when it has no expression any more, and when its deployment has gone.
func TestJobsOfDeploymentsGo(t *testing.T) {
	t.Parallel()
	c := InfraConfig{Deployments: []InfraDeployment{{Name: "prod", Directory: "/srv/prod", Drift: "0 6 * * *", Verify: "0 7 * * *"}}}
	db := emptyDatabase(t)
	watchInfra(t, db, c)
	c.Deployments[0].Verify = ""
	w := watchInfra(t, db, c) // at the next start
	if _, err := w.times.Job(t.Context(), "infra/prod/verify"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a job without an expression: %v", err)
	}
	w.config = InfraConfig{}
	if _, err := w.run(t, "infra/prod/drift", 1); err != nil {
		t.Error(err)
	}
	if _, err := w.times.Job(t.Context(), "infra/prod/drift"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the job of a deployment that has gone: %v", err)
	}
}

// The schedule survives a look that panics, and so do the looks after it.
func TestALookThatPanicsKeepsNobodyFromLooking(t *testing.T) {
	t.Parallel()
	w := watchInfra(t, emptyDatabase(t), InfraConfig{Deployments: []InfraDeployment{{Name: "prod", Directory: "/srv/prod", Verify: "0 7 * * *"}}})
	look := w.verify
	w.verify = func(context.Context, InfraDeployment) (*verify.Report, error) { panic("a bug") }
	func() {
		defer func() {
			if recover() == nil {
				t.Error("it did not panic")
			}
		}()
		_, err := w.run(t, "infra/prod/verify", 1)
		t.Error(err)
	}()
	w.verify = look
	if len(w.busy) != 0 {
		t.Fatal("the place of who looks is taken for ever")
	}
	if _, err := w.run(t, "infra/prod/verify", 2); err != nil {
		t.Error(err)
	}
}
