package audit

import (
	"encoding/json"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// States of audits.
const (
	waiting = "waiting"
	running = "running"
	done    = "done"
	failed  = "failed"
)

// A row is an audit.
type row struct {
	id, state, by, options        string
	attempt                       int64
	created, started, ended       timestamp.Time
	progress, err, counts, report string
}

const (
	columns = lean + `, report`
	lean    = `id, state, by_client, options, attempt, created, started, ended, progress, error, counts`
)

func (r *row) scan(from store.Scanner) error { return r.scanInto(from, &r.report) }

func (r *row) scanInto(from store.Scanner, more ...any) error {
	return from.Scan(append([]any{&r.id, &r.state, &r.by, &r.options, &r.attempt, &r.created, &r.started, &r.ended, &r.progress, &r.err, &r.counts}, more...)...)
}

// A view is what callers are told of an audit.
type view struct {
	ID       string         `json:"auditId"`
	State    string         `json:"state"`
	By       string         `json:"requestedBy,omitempty"`
	Options  Options        `json:"options"`
	Created  timestamp.Time `json:"created"`
	Started  timestamp.Time `json:"started,omitzero"`
	Ended    timestamp.Time `json:"ended,omitzero"`
	Progress Progress       `json:"progress"`
	Error    string         `json:"error,omitempty"`
	Counts   map[string]int `json:"counts"` // findings by rule, without accepted ones
	Report   *report        `json:"report,omitempty"`
}

func (r *row) view() (*view, error) {
	v := &view{ID: r.id, State: r.state, By: r.by, Created: r.created, Started: r.started, Ended: r.ended, Error: r.err}
	for text, to := range map[string]any{r.options: &v.Options, r.progress: &v.Progress, r.counts: &v.Counts} {
		if err := json.Unmarshal([]byte(text), to); err != nil {
			return nil, err
		}
	}
	if r.report != "" {
		if err := json.Unmarshal([]byte(r.report), &v.Report); err != nil {
			return nil, err
		}
	}
	return v, nil
}
