package queue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A record is a task's row.
type record struct {
	task.Status
	retries    int
	takenUntil timestamp.Time
	worker     string         // that has the running run
	started    timestamp.Time // of the running run
	kind       string         // what its duration is told by
	routes     []string
	tags       json.RawMessage
	definition json.RawMessage
}

// columns are a whole record; lean is one without its definition, which can be
// as large as a request.
const (
	lean = `task_id, task_queue_id, scheduler_id, project_id, task_group_id, priority, state, retries,
	retries_left, deadline, expires, taken_until, worker, started, kind, runs, routes, tags`
	columns = lean + `, definition`
)

type scanner interface{ Scan(...any) error }

func scanRecord(row scanner) (*record, error) {
	var r record
	return scanInto(&r, row, &r.definition)
}

func scanLean(row scanner) (*record, error) { return scanInto(new(record), row) }

func scanInto(r *record, row scanner, more ...any) (*record, error) {
	var rank int
	var runs json.RawMessage
	if err := row.Scan(append([]any{&r.TaskID, &r.TaskQueueID, &r.SchedulerID, &r.ProjectID, &r.TaskGroupID, &rank, &r.State, &r.retries,
		&r.RetriesLeft, &r.Deadline, &r.Expires, &r.takenUntil, &r.worker, &r.started, &r.kind, &runs, &r.routes, &r.tags}, more...)...); err != nil {
		return nil, err
	}
	r.Priority = task.PriorityOf(rank)
	r.ProvisionerID, r.WorkerType = task.SplitQueueID(r.TaskQueueID)
	if err := json.Unmarshal(runs, &r.Runs); err != nil {
		return nil, fmt.Errorf("queue: runs of task %s: %w", r.TaskID, err)
	}
	return r, nil
}

func noTask(taskID string) error {
	return api.Errorf(api.ResourceNotFound, "There is no task %s. It was never created, or it has expired.", taskID)
}

// load reads a task; missing, it is a ResourceNotFound error.
func load(tx *store.Tx, taskID string) (*record, error) {
	return found(taskID)(scanRecord(tx.QueryRow(`SELECT `+columns+` FROM task WHERE task_id = $1`, taskID)))
}

// lock reads a task and keeps others from changing it until the transaction
// ends.
func lock(tx *store.Tx, taskID string) (*record, error) {
	return found(taskID)(scanRecord(tx.QueryRow(`SELECT `+columns+` FROM task WHERE task_id = $1 /*for update*/`, taskID)))
}

// lockAll locks those of a list of tasks that exist, in the order of their ids,
// and returns them by id.
func lockAll(tx *store.Tx, ids []string, whole bool) (map[string]*record, error) {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	statement, scan := `SELECT `+lean+` FROM task WHERE task_id = $1 /*for update*/`, scanLean
	if whole {
		statement, scan = `SELECT `+columns+` FROM task WHERE task_id = $1 /*for update*/`, scanRecord
	}
	out := map[string]*record{}
	err := tx.QueryEach(statement, keys(slices.Compact(ids)), func(_ int, row store.Scanner) error {
		r, err := scan(row)
		if err == nil {
			out[r.TaskID] = r
		}
		return err
	})
	return out, err
}

// keys are ids as the arguments of a statement for each.
func keys(ids []string) [][]any {
	rows := make([][]any, len(ids))
	for i, id := range ids {
		rows[i] = []any{id}
	}
	return rows
}

func found(taskID string) func(*record, error) (*record, error) {
	return func(r *record, err error) (*record, error) {
		if errors.Is(err, store.ErrNotFound) {
			return nil, noTask(taskID)
		}
		return r, err
	}
}

// query reads the tasks that a SELECT of columns returns.
func query(tx *store.Tx, statement string, args ...any) (list []*record, err error) {
	rows, err := tx.Query(statement, args...)
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		r, err := scanRecord(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, r)
	}
	return list, rows.Err()
}

// maxPage bounds the definitions in one page of a listing, in bytes: a task can
// be almost as large as a request.
const maxPage = 8 << 20

// queryPage reads the page of a listing by task id. The statement's last
// parameter is its limit. The page ends early where its tasks are large.
func queryPage(tx *store.Tx, p api.Page, statement string, args ...any) (list []*record, token string, err error) {
	rows, err := tx.Query(statement, append(args, p.Limit+1)...)
	if err != nil {
		return nil, "", err
	}
	size := 0
	for rows.Next() {
		if len(list) == p.Limit || size > maxPage {
			return list, p.Token(list[len(list)-1].TaskID), rows.Close()
		}
		r, err := scanRecord(rows)
		if err != nil {
			return nil, "", err
		}
		list = append(list, r)
		size += len(r.definition)
	}
	return list, "", rows.Err()
}

// shown is the definition as callers see it: with the priority that the task has
// now, whatever it was created with.
func (r *record) shown() json.RawMessage { return withPriority(r.definition, r.Priority) }

// withPriority replaces the first member of that name. It is the definition's
// own: before it come only ids and routes, in which a quote would be escaped.
func withPriority(definition json.RawMessage, p task.Priority) json.RawMessage {
	before, rest, ok := bytes.Cut(definition, []byte(`"priority":"`))
	old, after, ended := bytes.Cut(rest, []byte(`"`))
	if !ok || !ended || string(old) == string(p) {
		return definition
	}
	return slices.Concat(before, []byte(`"priority":"`+string(p)+`"`), after)
}

// The transitions, in memory. Type changes writes them down.

// maxRuns bounds a task's runs, as run ids are at most 1000.
const maxRuns = 1001

// addRun makes a new pending run.
func (r *record) addRun(why task.Reason) *task.Run {
	r.Runs = append(r.Runs, task.Run{RunID: len(r.Runs), State: task.Pending, ReasonCreated: why, Scheduled: now()})
	r.State = task.Pending
	r.free()
	return r.Latest()
}

// free takes the task from the worker that has it, if one does.
func (r *record) free() { r.takenUntil, r.worker, r.started = 0, "", 0 }

func (r *record) claim(group, id string) *task.Run {
	run := r.Latest()
	run.State, run.WorkerGroup, run.WorkerID = task.Running, group, id
	run.Started, run.TakenUntil = now(), now().Add(claimTimeout)
	r.State, r.takenUntil, r.started = task.Running, run.TakenUntil, run.Started
	r.worker = Worker{group, id}.String()
	return run
}

// resolve ends the latest run. A task that never ran gets a run for the
// purpose.
func (r *record) resolve(state task.State, why task.Reason) *task.Run {
	run := r.Latest()
	if run == nil {
		run = r.addRun(task.ByException)
	}
	run.State, run.ReasonResolved, run.Resolved = state, why, now()
	r.State = state
	r.free()
	return run
}

// lockWithRun locks a task after the row of its pending run, if it has one: that
// is the order of locks. Statement is what is done about that row, $1 being the
// task's id.
func lockWithRun(tx *store.Tx, statement, taskID string, more ...any) (*record, error) {
	n, err := tx.Exec(statement, append([]any{taskID}, more...)...)
	if err != nil {
		return nil, err
	}
	r, err := lock(tx, taskID)
	if err == nil && r.State == task.Pending && n == 0 { // pending only since we waited for the lock
		return nil, fmt.Errorf("task %s: %w", taskID, store.ErrAgain)
	}
	return r, err
}

// run returns the run with an id, or a ResourceNotFound error.
func (r *record) run(id int) (*task.Run, error) {
	if id < 0 || id >= len(r.Runs) {
		return nil, api.Errorf(api.ResourceNotFound, "Task %s has no run %d; it has %d.", r.TaskID, id, len(r.Runs))
	}
	return &r.Runs[id], nil
}
