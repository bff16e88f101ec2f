package schedule

import (
	"strings"

	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A State is what a run is in.
type State string

const (
	Due     State = "due"
	Running State = "running"
	Done    State = "done"
	Failed  State = "failed"
	Missed  State = "missed"
)

// A run is a row: a date of a job that has come, or a run that somebody asked for.
type run struct {
	Job         string         `json:"job"`
	Due         timestamp.Time `json:"due"`
	Caller      string         `json:"caller,omitempty"`
	State       State          `json:"state"`
	Starts      timestamp.Time `json:"starts"`
	Attempt     int            `json:"attempt"`
	Failures    int            `json:"-"`
	Interrupted int            `json:"interrupted"`
	Replica     string         `json:"replica,omitempty"`
	Started     timestamp.Time `json:"started,omitempty"`
	Ended       timestamp.Time `json:"ended,omitempty"`
	Outcome     string         `json:"outcome,omitempty"`
	Error       string         `json:"error,omitempty"`

	claim   string
	expires timestamp.Time
	was     runState // in the table
	fresh   bool     // it is not in the table yet
}

// runState is what changes of a run.
type runState struct {
	state                          State
	starts                         timestamp.Time
	attempt, failures, interrupted int
	claim, replica                 string
	expires, started, ended        timestamp.Time
	outcome, err                   string
}

func (r *run) is() runState {
	return runState{r.State, r.Starts, r.Attempt, r.Failures, r.Interrupted, r.claim, r.Replica, r.expires, r.Started, r.Ended, r.Outcome, r.Error}
}

const runColumns = `job, due, caller, state, starts, attempt, failures, interrupted, claim, replica, expires, started, ended, outcome, error`

func scanRun(row store.Scanner) (*run, error) {
	r := &run{}
	err := row.Scan(&r.Job, &r.Due, &r.Caller, &r.State, &r.Starts, &r.Attempt, &r.Failures, &r.Interrupted, &r.claim, &r.Replica, &r.expires, &r.Started, &r.Ended, &r.Outcome, &r.Error)
	r.was = r.is()
	return r, err
}

// queryRuns returns the runs that the rest of a statement selects.
func queryRuns(tx *store.Tx, rest string, args ...any) (list []*run, err error) {
	rows, err := tx.Query(`SELECT `+runColumns+` FROM schedule_run `+rest, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		r, err := scanRun(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

// write puts a run down as it is now.
func (r *run) write(tx *store.Tx) error {
	if r.fresh {
		return tx.Later(`INSERT INTO schedule_run (`+runColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
			[]any{r.Job, r.Due, r.Caller, r.State, r.Starts, r.Attempt, r.Failures, r.Interrupted, r.claim, r.Replica, r.expires, r.Started, r.Ended, r.Outcome, r.Error}, nil)
	}
	if r.is() == r.was {
		return nil
	}
	return tx.Later(`
		UPDATE schedule_run
		   SET state = $3, starts = $4, attempt = $5, failures = $6, interrupted = $7, claim = $8, replica = $9, expires = $10, started = $11, ended = $12,
		       outcome = $13, error = $14
		 WHERE job = $1 AND due = $2`,
		[]any{r.Job, r.Due, r.State, r.Starts, r.Attempt, r.Failures, r.Interrupted, r.claim, r.Replica, r.expires, r.Started, r.Ended, r.Outcome, r.Error}, nil)
}

// end ends a run for good.
func (r *run) end(s State, now timestamp.Time) {
	r.State, r.Ended, r.expires = s, now, 0
}

// told is what a runner said, as much as is kept of it.
func told(text string) string {
	const most = 2000
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
