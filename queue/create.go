package queue

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

type taskPath struct {
	TaskID string `path:"taskId"`
}

type statusResponse struct {
	Status task.Status `json:"status"`
}

var createTask = api.Declare(api.Spec{
	Name: "createTask", Route: "PUT /task/<taskId>",
	Scopes: scope.AllOf{
		scope.ForEach{For: "scope", In: "scopes", Each: "<scope>"},
		scope.ForEach{For: "route", In: "routes", Each: "queue:route:<route>"},
		scope.Scope("queue:create-task:project:<projectId>"),
		scope.Scope("queue:scheduler-id:<schedulerId>"),
		scope.AnyOf{scope.ForEach{For: "priority", In: "priorities", Each: "queue:create-task:<priority>:<provisionerId>/<workerType>"}},
	},
	Input: "v1/create-task-request.json#", Output: "v1/task-status-response.json#",
	Stability: api.Stable, Category: "Tasks", Title: "Create a task",
	Doc: `Records a task. It becomes pending at once, or when its dependencies allow.

Repeating the call with the same body is harmless and returns the task's current status; a different body for
an id that is taken is a conflict (409). So a client that lost the reply simply calls again.

The deadline lies at most five days ahead. Without ` + "`expires`" + ` the task is kept for a year after it.
Every dependency must exist already; a task that names itself as a dependency waits until it is scheduled by
hand. The caller needs the scopes the task is given, one scope for each route, and leave to create tasks at this
priority or a higher one.`,
}, func(ctx context.Context, q *Queue, c api.Call[taskPath, task.Definition]) (r statusResponse, err error) {
	d := &c.Body
	if err := complete(c.Path.TaskID, d); err != nil {
		return r, err
	}
	if err := c.Authorize(scope.Vars{
		"scopes": d.Scopes, "routes": d.Routes, "projectId": d.ProjectID, "schedulerId": d.SchedulerID,
		"priorities": d.Priority.AtLeast(), "provisionerId": d.ProvisionerID, "workerType": d.WorkerType,
	}); err != nil {
		return r, err
	}
	r.Status, err = q.create(ctx, c.Path.TaskID, d)
	return r, err
})

// complete fills in what a definition derives from its other parts, and checks
// what a schema cannot.
func complete(taskID string, d *task.Definition) error {
	ours := d.ProvisionerID + "/" + d.WorkerType
	switch {
	case d.TaskQueueID == "" && (d.ProvisionerID == "" || d.WorkerType == ""):
		return api.Errorf(api.InputError, "The task names no queue. Give taskQueueId, or provisionerId and workerType.")
	case d.TaskQueueID == "":
		d.TaskQueueID = ours
	case ours == "/":
		d.ProvisionerID, d.WorkerType = task.SplitQueueID(d.TaskQueueID)
	case ours != d.TaskQueueID:
		return api.Errorf(api.InputError, "taskQueueId is %s, but provisionerId and workerType say %s. Give one of the two, or make them agree.", d.TaskQueueID, ours)
	}
	if d.TaskGroupID == "" {
		d.TaskGroupID = taskID
	}
	t := now()
	switch {
	case d.Created.Sub(t) > clockSkew:
		return api.Errorf(api.InputError, "created is %s, which lies in the future; it is %s now. Is the clock right?", d.Created, t)
	case t.Sub(d.Deadline) > clockSkew:
		return api.Errorf(api.InputError, "deadline is %s, which is past; it is %s now.", d.Deadline, t)
	case d.Deadline < d.Created:
		return api.Errorf(api.InputError, "deadline %s is before created %s.", d.Deadline, d.Created)
	case d.Deadline.Sub(t) > task.MaxLife+clockSkew:
		return api.Errorf(api.InputError, "deadline is %s; it may be at most five days from now.", d.Deadline)
	}
	if d.Expires.IsZero() {
		d.Expires = timestamp.Of(d.Deadline.Time().AddDate(1, 0, 0))
	}
	if d.Expires < d.Deadline {
		return api.Errorf(api.InputError, "expires %s is before deadline %s.", d.Expires, d.Deadline)
	}
	for _, s := range d.Scopes {
		switch {
		case !scope.Valid(s): // no claim could have credentials for it
			return api.Errorf(api.InputError, "scopes contains %.100q…: a scope is printable ASCII, at most 16 KiB.", s)
		case strings.HasSuffix(s, "**"): // would be read as a star that grants stars
			return api.Errorf(api.InputError, "scopes contains %q: a scope ends in at most one star.", s)
		}
	}
	for name, value := range d.Tags {
		if len(name) > 255 {
			return api.Errorf(api.InputError, "tags has a name of %d characters (value %.20q); at most 255 are allowed.", len(name), value)
		}
	}
	return nil
}

func (q *Queue) create(ctx context.Context, taskID string, d *task.Definition) (status task.Status, err error) {
	definition, err := json.Marshal(d)
	if err != nil {
		return status, err
	}
	tags, err := json.Marshal(d.Tags)
	if err != nil {
		return status, err
	}
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		r := &record{
			Status: task.Status{
				TaskID: taskID, ProvisionerID: d.ProvisionerID, WorkerType: d.WorkerType, TaskQueueID: d.TaskQueueID,
				SchedulerID: d.SchedulerID, ProjectID: d.ProjectID, TaskGroupID: d.TaskGroupID, Deadline: d.Deadline,
				Expires: d.Expires, RetriesLeft: d.Retries, State: task.Unscheduled, Priority: d.Priority, Runs: []task.Run{},
			},
			retries: d.Retries, kind: Kind(d.Tags), routes: d.Routes, tags: tags, definition: definition,
		}
		n, err := tx.Exec(`
			INSERT INTO task (`+columns+`)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9, $10, 0, '', 0, $11, '[]', $12, $13, $14)
			ON CONFLICT DO NOTHING`,
			taskID, d.TaskQueueID, d.SchedulerID, d.ProjectID, d.TaskGroupID, d.Priority.Rank(), r.State, d.Retries,
			d.Deadline, d.Expires, Kind(d.Tags), d.Routes, tags, definition)
		if err != nil {
			return err
		}
		if n == 0 {
			status, err = repeated(tx, taskID, d)
			return err
		}
		ready, err := linkDependencies(tx, taskID, d)
		if err != nil {
			return err
		}
		if err := joinGroup(tx, d); err != nil {
			return err
		}
		if err := q.publish(tx, TaskDefined, r, nil); err != nil {
			return err
		}
		if ready {
			run := r.addRun(task.Scheduled)
			if err := r.save(tx); err != nil {
				return err
			}
			if err := q.enqueue(tx, r); err != nil {
				return err
			}
			if err := q.publish(tx, TaskPending, r, run); err != nil {
				return err
			}
		}
		status = r.Status
		return nil
	})
	return status, err
}

// Kind is what tells tasks of a queue apart that take different time, by their
// tags. It is bounded since indexes hold it.
func Kind(tags map[string]string) string {
	label := []rune(tags["label"])
	return string(label[:min(len(label), 200)])
}

// repeated answers a createTask for a task that exists.
func repeated(tx *store.Tx, taskID string, d *task.Definition) (task.Status, error) {
	r, err := load(tx, taskID)
	if err != nil {
		return task.Status{}, err
	}
	var have task.Definition
	if err := json.Unmarshal(r.definition, &have); err != nil {
		return task.Status{}, err
	}
	if same, difference := have.Same(d); !same {
		return task.Status{}, api.Errorf(api.RequestConflict, "Task %s exists already with another definition; they differ in %s. Use a new taskId, or repeat the call with the same body.", taskID, difference)
	}
	return r.Status, nil
}

// linkDependencies records the task's edges and reports whether it may run.
// The tasks it depends on are locked against resolution meanwhile.
func linkDependencies(tx *store.Tx, taskID string, d *task.Definition) (ready bool, err error) {
	if len(d.Dependencies) == 0 {
		return true, nil
	}
	states := map[string]task.State{}
	rows, err := tx.Query(`
		SELECT task_id, state FROM task WHERE task_id IN (SELECT value FROM json_each($1))
		 ORDER BY task_id /*for share*/`, d.Dependencies)
	if err != nil {
		return false, err
	}
	for rows.Next() {
		var id string
		var s task.State
		if err := rows.Scan(&id, &s); err != nil {
			return false, err
		}
		states[id] = s
	}
	if err := rows.Err(); err != nil {
		return false, err
	}
	var missing, satisfied, open []string
	for _, id := range d.Dependencies {
		s, ok := states[id]
		switch {
		case !ok:
			missing = append(missing, id)
		case s == task.Completed || d.Requires == task.AllResolved && s.Resolved():
			satisfied = append(satisfied, id)
		default:
			open = append(open, id)
		}
	}
	if len(missing) > 0 {
		return false, api.Errorf(api.InputError, "dependencies names tasks that do not exist: %s. Create them first.", strings.Join(missing[:min(len(missing), 20)], ", "))
	}
	for _, edge := range []struct {
		satisfied, waits int
		to               []string
	}{{0, min(len(open), waitsBesides), open}, {1, waitsNot, satisfied}} {
		if len(edge.to) == 0 {
			continue
		}
		if _, err := tx.Exec(`
			INSERT INTO dependency (task_id, required, on_any, satisfied, task_queue_id, waits)
			SELECT $1, value, $2, $3, $4, $5 FROM json_each($6)`,
			taskID, onAny(d.Requires), edge.satisfied, d.TaskQueueID, edge.waits, edge.to); err != nil {
			return false, err
		}
	}
	return len(open) == 0, nil
}

func onAny(r task.Requires) int {
	if r == task.AllResolved {
		return 1
	}
	return 0
}

// groupSlack is how much longer than its tasks a group is kept, at most. It
// spares most creations the update of a row that all of a graph share.
const groupSlack = time.Hour

// joinGroup makes the task's group, or checks that it takes the task. The
// shared lock keeps the group from being sealed until the task is there. A
// group that will do is not inserted even in vain, as that would lock the row
// and have the tasks of a graph created one after the other.
func joinGroup(tx *store.Tx, d *task.Definition) error {
	if _, err := tx.Exec(`
		INSERT INTO task_group (task_group_id, scheduler_id, expires)
		SELECT $1, $2, $3 WHERE NOT EXISTS (SELECT 1 FROM task_group WHERE task_group_id = $1 AND expires >= $3)
		ON CONFLICT (task_group_id) DO UPDATE SET expires = $4
		  WHERE task_group.expires < $3 AND task_group.scheduler_id = $2 AND task_group.sealed = 0`,
		d.TaskGroupID, d.SchedulerID, d.Expires, min(d.Expires.Add(groupSlack), timestamp.Max)); err != nil {
		return err
	}
	g, err := scanGroup(tx.QueryRow(groupQuery+` /*for share*/`, d.TaskGroupID))
	switch {
	case err != nil:
		return err
	case g.SchedulerID != d.SchedulerID:
		return api.Errorf(api.RequestConflict, "Task group %s belongs to schedulerId %s; the task has %s. All tasks of a group have the same.", d.TaskGroupID, g.SchedulerID, d.SchedulerID)
	case !g.Sealed.IsZero():
		return api.Errorf(api.RequestConflict, "Task group %s was sealed at %s and takes no more tasks.", d.TaskGroupID, g.Sealed)
	}
	return nil
}
