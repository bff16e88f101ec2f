// Package audit looks for what is wrong with credentials that nobody has noticed:
// clients, access tokens and credentials that are too old or not used, scopes that
// are not used, and secrets that stand in logs of tasks.
//
// It runs where the secrets are, so that none leaves the server: what is told of a
// secret is where it is from and where it was found. Secrets are not kept for it in
// memory either: see index.
//
// An audit is a row. The loop credentials.audit, on one replica at a time, does one
// after the other, and notes how far it is; one whose replica is lost begins anew.
package audit

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/credentials"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed schemas/*.yml
var schemaFiles embed.FS

// Config is what an Audit needs.
type Config struct {
	DB      *store.DB
	Events  *event.Bus
	Log     *slog.Logger
	Metrics prometheus.Registerer // nil: none

	Clients     Clients
	Credentials Credentials
	Secrets     Secrets
	Logs        Logs

	// Policy is what an audit looks for where whoever asks for it does not say.
	Policy Options

	// Exceptions are findings that are known and accepted.
	Exceptions []Exception
}

// Clients are the clients of the platform.
type Clients interface {
	// Use tells what use is made of them: of scopes since a time that it returns.
	// Roles count what was used of them since recent.
	Use(ctx context.Context, recent timestamp.Time) (list []Client, since timestamp.Time, err error)

	// EachToken calls f with every access token that lives.
	EachToken(f func(clientID, id, token string)) error
}

// A Client is what can be told of a client and the use that is made of it.
type Client struct {
	ClientID    string
	Static      bool // it is in the configuration
	Disabled    bool
	Expires     timestamp.Time
	Created     timestamp.Time
	Modified    timestamp.Time
	LastUsed    timestamp.Time
	Tokens      []Token // the newest first
	Scopes      []ScopeUse
	Uncountable bool // not all uses of its scopes are known
}

// A Token is an access token.
type Token struct {
	ID      string
	Created timestamp.Time
}

// A ScopeUse is a scope that a client has, and when it or what it implies was of use.
type ScopeUse struct {
	Scope    string
	LastUsed timestamp.Time
}

// Credentials are those that are rotated.
type Credentials interface {
	Audited(ctx context.Context) ([]credentials.Audited, error)
	EachSecret(ctx context.Context, f func(credential, version string, secret json.RawMessage)) error
}

// Secrets are those that the platform keeps.
type Secrets interface {
	Each(ctx context.Context, f func(name string, value json.RawMessage)) error
}

// Logs are those of tasks.
type Logs interface {
	// Logs lists logs of runs that were resolved since a time, of the tasks after
	// one; next is where to go on, "" at the end.
	Logs(ctx context.Context, since timestamp.Time, after string, limit int) (list []Log, next string, err error)

	// Open reads one, as it is stored. ErrGone if it is not there any more.
	Open(ctx context.Context, l Log) (io.ReadCloser, error)
}

// ErrGone is what opening a log returns that was deleted.
var ErrGone = errors.New("the log is not there any more")

// A Log is an artifact of a run.
type Log struct {
	TaskID   string
	RunID    int
	Name     string
	Resolved timestamp.Time
	Key      string // of the bytes; Object if it is none
	Object   string
}

// Options are what an audit is to look for.
type Options struct {
	Only       []string `json:"only"`       // checks; all where there are none
	TokenDays  int64    `json:"tokenDays"`  // that an access token may get old
	UnusedDays int64    `json:"unusedDays"` // that something may not be used
	Hours      int64    `json:"hours"`      // that the logs go back
	MaxBytes   int64    `json:"maxBytes"`   // of logs, as they are after decompression
}

const (
	defaultDays  = 90
	defaultHours = 24
	defaultBytes = 10 << 30
)

func (o Options) has(check string) bool { return slices.Contains(o.Only, check) }

// or fills in what is not said.
func (o Options) or(p Options) Options {
	fill := func(to *int64, from, otherwise int64) {
		if *to == 0 {
			*to = from
		}
		if *to == 0 {
			*to = otherwise
		}
	}
	fill(&o.TokenDays, p.TokenDays, defaultDays)
	fill(&o.UnusedDays, p.UnusedDays, defaultDays)
	fill(&o.Hours, p.Hours, defaultHours)
	fill(&o.MaxBytes, p.MaxBytes, defaultBytes)
	if len(o.Only) == 0 {
		o.Only = p.Only
	}
	if len(o.Only) == 0 {
		o.Only = Checks
	}
	// One order, so that the same audit is the same text.
	o.Only = slices.DeleteFunc(slices.Clone(Checks), func(c string) bool { return !slices.Contains(o.Only, c) })
	return o
}

// Progress is how far an audit is.
type Progress struct {
	Step     string `json:"step"`
	Logs     int    `json:"logs"`
	LogsDone int    `json:"logsDone"`
	Bytes    int64  `json:"bytes"`
	Findings int    `json:"findings"` // in logs
}

// Audit is the service.
type Audit struct {
	config Config
	db     *store.DB
	log    *slog.Logger
}

// New opens the audits, creating the table where it does not exist.
func New(ctx context.Context, c Config) (*Audit, error) {
	if err := c.DB.Migrate(ctx, "credentials-audit", migrations); err != nil {
		return nil, fmt.Errorf("audit: migrate: %w", err)
	}
	a := &Audit{config: c, db: c.DB, log: c.Log}
	if c.Metrics != nil {
		c.Metrics.MustRegister(latestFindings{a})
	}
	return a, nil
}

const (
	topicAudit = "credentials.audit"

	passLimit     = 30 * time.Minute
	progressEvery = 2 * time.Second
	mostAttempts  = 3
	mostWaiting   = 20
	mostFindings  = 1000
	keepAudits    = 90 * 24 * time.Hour
)

// Loops are the work that goes on beside the calls.
func (a *Audit) Loops() []loop.Loop {
	return []loop.Loop{{
		Name: "credentials.audit", Doc: "Does the audits of credentials that were asked for, and forgets old ones.",
		When: loop.Every(time.Minute), Wake: a.db.Waits().Signal(topicAudit), Pass: a.next, Limit: passLimit,
	}}
}

// Begin asks for an audit in the name of a client, "" for the schedule, and returns
// its id. One that waits or runs and was asked for with the same options is it; but the
// schedule, which tells of what is found, has its own.
func (a *Audit) Begin(ctx context.Context, clientID string, o Options) (id string, err error) {
	options, err := json.Marshal(o.or(a.config.Policy))
	if err != nil {
		return "", err
	}
	fresh := slugid.New()
	return id, a.db.Do(ctx, func(tx *store.Tx) error {
		id = fresh
		rows, err := tx.Query(`SELECT id, by_client, options FROM credential_audit WHERE state IN ('waiting', 'running') ORDER BY created`)
		if err != nil {
			return err
		}
		n := 0
		for rows.Next() {
			var other, by, same string
			if err := rows.Scan(&other, &by, &same); err != nil {
				return err
			}
			if same == string(options) && (clientID != "" || by == "") {
				id = other
			}
			n++
		}
		if err := rows.Err(); err != nil || id != fresh {
			return err
		}
		if n >= mostWaiting {
			return api.Errorf(api.RequestConflict, "%d audits wait to be done already. Call again later.", n)
		}
		tx.Wake(topicAudit, 1)
		_, err = tx.Exec(`INSERT INTO credential_audit (`+columns+`) VALUES ($1, 'waiting', $2, $3, 0, $4, 0, 0, '{}', '', '{}', '')`,
			id, clientID, string(options), timestamp.Now())
		return err
	})
}

// next does the audit that waits for longest.
func (a *Audit) next(ctx context.Context) (more bool, err error) {
	var r *row
	err = a.db.Do(ctx, func(tx *store.Tx) error {
		r = &row{}
		now := timestamp.Now()
		if _, err := tx.Exec(`DELETE FROM credential_audit WHERE created < $1 AND state IN ('done', 'failed')`, now.Add(-keepAudits)); err != nil {
			return err
		}
		if err := r.scan(tx.QueryRow(`SELECT ` + columns + ` FROM credential_audit WHERE state IN ('waiting', 'running') ORDER BY created, id LIMIT 1 /*for update*/`)); err != nil {
			if errors.Is(err, store.ErrNotFound) {
				r, err = nil, nil
			}
			return err
		}
		if r.attempt++; r.attempt > mostAttempts {
			r.state, r.ended, r.err = failed, now, fmt.Sprintf("it was begun %d times, and each time the server that did it ended", mostAttempts)
		} else {
			r.state, r.started = running, now
		}
		_, err := tx.Exec(`UPDATE credential_audit SET state = $2, attempt = $3, started = $4, ended = $5, error = $6 WHERE id = $1`,
			r.id, r.state, r.attempt, r.started, r.ended, r.err)
		return err
	})
	switch {
	case err != nil || r == nil:
		return false, err
	case r.state == failed:
		return true, nil
	}
	report, err := a.run(ctx, r)
	if ctx.Err() != nil {
		return false, ctx.Err() // it begins anew, here or elsewhere
	}
	return true, a.finish(ctx, r, report, err)
}

// A report is what an audit has come to.
type report struct {
	Recorded timestamp.Time `json:"scopesRecordedSince,omitzero"`
	Notes    []string       `json:"notes"`
	Findings []Finding      `json:"findings"`
	Rules    []Rule         `json:"rules"` // that were looked for
}

func (a *Audit) run(ctx context.Context, r *row) (out report, err error) {
	var far atomic.Pointer[Progress]
	done, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		a.noteProgress(ctx, r.id, &far, done)
	}()
	defer func() { close(done); <-stopped }()

	var o Options
	if err := json.Unmarshal([]byte(r.options), &o); err != nil {
		return out, err
	}
	now := timestamp.Now()
	out = report{Notes: []string{}, Findings: []Finding{}}
	for _, rule := range rules {
		if o.has(rule.Check) {
			out.Rules = append(out.Rules, rule)
		}
	}
	if o.has(Age) || o.has(Unused) || o.has(Scopes) {
		far.Store(&Progress{Step: "asking about clients"})
		clients, since, err := a.config.Clients.Use(ctx, now.Add(-daysOf(o.UnusedDays)))
		if err != nil {
			return out, err
		}
		if o.has(Scopes) {
			out.Recorded = since
		}
		found, notes := o.judgeClients(clients, since, now)
		out.Findings, out.Notes = append(out.Findings, found...), append(out.Notes, notes...)
	}
	if o.has(Age) || o.has(Unused) {
		far.Store(&Progress{Step: "asking about credentials"})
		list, err := a.config.Credentials.Audited(ctx)
		if err != nil {
			return out, err
		}
		out.Findings = append(out.Findings, o.judgeCredentials(list, now)...)
	}
	if o.has(Leaks) {
		found, notes, err := a.leaks(ctx, o, now, func(p Progress) { far.Store(&p) })
		if err != nil {
			return out, err
		}
		out.Findings, out.Notes = append(out.Findings, found...), append(out.Notes, notes...)
	}
	out.Notes = append(out.Notes, accept(out.Findings, a.config.Exceptions, out.Rules, now)...)
	sorted(out.Findings)
	if n := len(out.Findings) - mostFindings; n > 0 {
		out.Findings = out.Findings[:mostFindings]
		out.Notes = append(out.Notes, fmt.Sprintf("There are %d more findings than these.", n))
	}
	return out, nil
}

// noteProgress writes down how far an audit is, every now and then.
func (a *Audit) noteProgress(ctx context.Context, id string, far *atomic.Pointer[Progress], done <-chan struct{}) {
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p := far.Load()
		if p == nil {
			continue
		}
		text, err := json.Marshal(p)
		if err == nil {
			err = a.db.Do(ctx, func(tx *store.Tx) error {
				_, err := tx.Exec(`UPDATE credential_audit SET progress = $2 WHERE id = $1 AND state = 'running'`, id, string(text))
				return err
			})
		}
		if err != nil && ctx.Err() == nil {
			a.log.Warn("the progress of an audit cannot be written down", "audit", id, "err", err)
		}
	}
}

// finish writes down what an audit has come to, and tells of findings.
func (a *Audit) finish(ctx context.Context, r *row, out report, failure error) error {
	r.state, r.ended = done, timestamp.Now()
	counts := map[string]int{}
	for _, f := range out.Findings {
		if f.Exception == nil {
			counts[f.Rule]++
		}
	}
	text, err := json.Marshal(out)
	if failure != nil {
		// It may name what only operators should see.
		a.log.Error("an audit of credentials failed", "audit", r.id, "err", failure)
		r.state, r.err, text = failed, "it could not be done; the log of the server says why", nil
	}
	tally, err2 := json.Marshal(counts)
	if err = errors.Join(err, err2); err != nil {
		return err
	}
	r.report, r.counts = string(text), string(tally)
	return a.db.Do(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`UPDATE credential_audit SET state = $2, ended = $3, error = $4, counts = $5, report = $6 WHERE id = $1 AND state = 'running' AND attempt = $7`,
			r.id, r.state, r.ended, r.err, r.counts, r.report, r.attempt)
		if err != nil || n == 0 {
			return err // it was begun anew, by who took this process for dead
		}
		return a.tell(tx, r, out)
	})
}
