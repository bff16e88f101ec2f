//go:build !agent

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth"
	"github.com/taskfleet/taskfleet/blob"
	"github.com/taskfleet/taskfleet/credentials/audit"
	"github.com/taskfleet/taskfleet/object"
	"github.com/taskfleet/taskfleet/queue"
	"github.com/taskfleet/taskfleet/schedule"
	"github.com/taskfleet/taskfleet/schedule/cron"
	"github.com/taskfleet/taskfleet/timestamp"
)

// CredentialsAuditConfig is what audits of credentials look for, and when there is
// one that nobody has asked for.
type CredentialsAuditConfig struct {
	Cron     string `yaml:"cron"`
	Zone     string `yaml:"zone"`
	TokenAge string `yaml:"tokenAge"`
	Unused   string `yaml:"unused"`
	Hours    int64  `yaml:"hours"`
	MaxBytes string `yaml:"maxBytes"`

	Exceptions []audit.Exception `yaml:"exceptions"`
}

// policy reads the section credentialsAudit.
func (c CredentialsAuditConfig) policy(bad func(path, format string, args ...any)) (o audit.Options) {
	for _, span := range []struct {
		name, text string
		most       int64
		to         *int64
	}{{"tokenAge", c.TokenAge, 3650, &o.TokenDays}, {"unused", c.Unused, 400, &o.UnusedDays}} {
		d, err := parseSpan(span.text)
		*span.to = int64(d / (24 * time.Hour))
		if err != nil || span.text != "" && (*span.to < 1 || *span.to > span.most) {
			bad("credentialsAudit."+span.name, "credentialsAudit: %s is %q; it must be a time such as 90d, up to %dd", span.name, span.text, span.most)
		}
	}
	if o.Hours = c.Hours; o.Hours < 0 || o.Hours > 8784 {
		bad("credentialsAudit.hours", "credentialsAudit: hours is %d; it must be 1 to 8784", o.Hours)
	}
	if c.MaxBytes != "" {
		var err error
		if o.MaxBytes, err = parseBytes(c.MaxBytes); err != nil || o.MaxBytes < 1 {
			bad("credentialsAudit.maxBytes", "credentialsAudit: maxBytes is %q; it must be a size such as 10 GiB", c.MaxBytes)
		}
	}
	if err := audit.CheckExceptions(c.Exceptions); err != nil {
		bad("credentialsAudit.exceptions", "credentialsAudit: exceptions: %v", err)
	}
	if c.Cron == "" {
		if c.Zone != "" {
			bad("credentialsAudit.zone", "credentialsAudit: zone is of no use without cron")
		}
	} else if _, err := cron.Parse(c.Cron, c.Zone, auditJob); err != nil {
		bad("credentialsAudit.cron", "credentialsAudit: %v", err)
	}
	return o
}

const (
	auditJob  = "credentials/audit"
	auditKind = "credentials.audit"
)

// openAudit opens the audits, and has them done when the configuration says.
func (c CredentialsAuditConfig) openAudit(ctx context.Context, times *schedule.Schedule, conf audit.Config) (*audit.Audit, error) {
	conf.Policy, conf.Exceptions = c.policy(func(string, string, ...any) {}), c.Exceptions
	a, err := audit.New(ctx, conf)
	if err != nil {
		return nil, err
	}
	times.Handle(auditKind, schedule.RunnerFunc(func(ctx context.Context, _ schedule.Occasion) (string, error) {
		id, err := a.Begin(ctx, "", audit.Options{})
		return "began the audit " + id, err
	}))
	if c.Cron == "" {
		err = times.Remove(ctx, auditJob)
	} else {
		err = times.Put(ctx, schedule.Job{
			Name: auditJob, Kind: auditKind, Doc: "Looks for credentials, tokens and scopes that are too old or not used, and for secrets in logs.",
			Expression: c.Cron, Zone: c.Zone, CatchUp: schedule.Latest, Retries: 3,
		})
	}
	if err != nil {
		err = fmt.Errorf("scheduling audits of credentials: %w", err)
	}
	return a, err
}

// auditedClients are the platform's clients, for audits.
type auditedClients struct{ *auth.Auth }

func (c auditedClients) Use(ctx context.Context, recent timestamp.Time) (list []audit.Client, since timestamp.Time, err error) {
	all, since, err := c.Auth.Use(ctx, recent)
	for _, u := range all {
		x := audit.Client{
			ClientID: u.ClientID, Static: u.Static, Disabled: u.Disabled, Expires: u.Expires, Created: u.Created, Modified: u.Modified,
			LastUsed: u.LastUsed, Uncountable: u.Uncountable,
		}
		for _, t := range u.Tokens {
			x.Tokens = append(x.Tokens, audit.Token{ID: t.ID, Created: t.Created})
		}
		for _, s := range u.Scopes {
			x.Scopes = append(x.Scopes, audit.ScopeUse{Scope: s.Scope, LastUsed: s.LastUsed})
		}
		list = append(list, x)
	}
	return list, since, err
}

// taskLogs are the logs that the queue knows of, in the artifact bucket.
type taskLogs struct {
	queue     *queue.Queue
	objects   *object.Objects
	artifacts *blob.Bucket
}

func (t taskLogs) Logs(ctx context.Context, since timestamp.Time, after string, limit int) (list []audit.Log, next string, err error) {
	all, next, err := t.queue.Logs(ctx, since, after, limit)
	for _, l := range all {
		list = append(list, audit.Log(l))
	}
	return list, next, err
}

func (t taskLogs) Open(ctx context.Context, l audit.Log) (io.ReadCloser, error) {
	key := l.Key
	if key == "" {
		var err error
		if key, err = t.keyOf(ctx, l.Object); err != nil {
			return nil, err
		}
	}
	r, err := t.artifacts.Get(ctx, key, blob.Range{})
	if errors.Is(err, blob.ErrNotFound) {
		err = audit.ErrGone
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

// keyOf is where the bytes of an object are.
func (t taskLogs) keyOf(ctx context.Context, name string) (key string, err error) {
	location, err := t.objects.DownloadURL(ctx, name)
	if e, ok := errors.AsType[*api.Error](err); ok && (e.Code == api.ResourceNotFound || e.Code == api.ResourceExpired) {
		return "", audit.ErrGone
	} else if err != nil {
		return "", err
	}
	u, err := url.Parse(location)
	if err != nil {
		return "", err
	}
	key, ok := t.artifacts.ParseURL(u)
	if !ok {
		err = fmt.Errorf("the object %s is not in the artifact bucket", name)
	}
	return key, err
}
