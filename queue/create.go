package queue

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
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

// maxScopes is how many bytes of JSON a task's scopes may take: those that go
// with each request of its worker, in a header.
const maxScopes = 40 << 10

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
	room := maxScopes
	for _, s := range d.Scopes {
		room -= len(s) + len(`"",`)
		switch {
		case room < 0:
			return api.Errorf(api.InputError, "scopes has more than %d KiB of scopes, which do not fit into the credentials of a run. Use a role: assume:<roleId> stands for all of its scopes.", maxScopes>>10)
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

// A creation is a task to be created.
type creation struct {
	taskID string
	*task.Definition
	text, tags []byte // JSON, of the definition and its tags
}

// create records a task. Creations that come at the same time share a
// transaction.
func (q *Queue) create(ctx context.Context, taskID string, d *task.Definition) (s task.Status, err error) {
	c := creation{taskID: taskID, Definition: d}
	if c.text, err = json.Marshal(d); err != nil {
		return s, err
	}
	if c.tags, err = json.Marshal(d.Tags); err != nil {
		return s, err
	}
	return q.creations.Do(ctx, c)
}

// A newTask is a task on its way into the database.
type newTask struct {
	*store.Item[creation, task.Status]
	edges edges
	*record
}

func (q *Queue) createAll(tx *store.Tx, items []*store.Item[creation, task.Status]) error {
	var list []*newTask
	var again []*store.Item[creation, task.Status] // of the same id at the same time
	ids := map[string]bool{}
	for _, it := range items {
		if ids[it.In.taskID] {
			again = append(again, it)
			continue
		}
		ids[it.In.taskID] = true
		list = append(list, &newTask{Item: it})
	}
	err := q.changeIn(tx, func(c *changes) error { return c.createAll(list) })
	if err == nil && len(again) > 0 {
		err = q.createAll(tx, again)
	}
	return err
}

func (c *changes) createAll(list []*newTask) error {
	if err := findDependencies(c.tx, list); err != nil {
		return err
	}
	list, refused := split(list)
	inserted, err := insertTasks(c.tx, list)
	if err != nil {
		return err
	}
	groups, err := readGroups(c.tx, groupsOf(list)) // which has the tasks inserted
	if err != nil {
		return err
	}
	var fresh, there []*newTask
	for _, t := range list {
		if inserted[t.TaskID] {
			fresh = append(fresh, t)
		} else {
			there = append(there, t)
		}
	}
	list = fresh
	for _, t := range append(refused, there...) {
		// What exists is not refused, whatever the reason, if it is the same.
		if s, err := repeated(c.tx, t.In.taskID, t.In.Definition); !isMissing(err) {
			t.Out, t.Err = s, err
		} else if t.Err == nil {
			t.Err = fmt.Errorf("queue: create task %s: an older one of this id has expired this very moment", t.In.taskID)
		}
	}
	if err := joinGroups(c.tx, list, groups); err != nil {
		return err
	}
	list, refused = split(list)
	if err := dropTasks(c.tx, refused); err != nil {
		return err
	}
	if err := insertEdges(c.tx, list); err != nil {
		return err
	}
	for _, t := range list {
		c.create(t)
		t.Out = t.Status
	}
	return nil
}

// split takes those apart that have failed.
func split(list []*newTask) (good, failed []*newTask) {
	for _, t := range list {
		if t.Err != nil {
			failed = append(failed, t)
		} else {
			good = append(good, t)
		}
	}
	return good, failed
}

// create announces a new task, whose row is there.
func (c *changes) create(t *newTask) {
	if t.State != task.Pending {
		c.announce(TaskDefined, t.record, nil)
		return
	}
	run := t.Runs[0]
	t.State, t.Runs = task.Unscheduled, t.Runs[:0]
	c.announce(TaskDefined, t.record, nil)
	t.State, t.Runs = task.Pending, append(t.Runs, run)
	c.enqueue(t.record)
}

// insertTasks writes tasks down, pending where nothing stands in their way. Once
// the next statement has run, inserted has those whose id was free.
func insertTasks(tx *store.Tx, list []*newTask) (inserted map[string]bool, err error) {
	rows := make([][]any, 0, len(list))
	for _, t := range list {
		d := t.In.Definition
		t.record = &record{
			Status: task.Status{
				TaskID: t.In.taskID, ProvisionerID: d.ProvisionerID, WorkerType: d.WorkerType, TaskQueueID: d.TaskQueueID,
				SchedulerID: d.SchedulerID, ProjectID: d.ProjectID, TaskGroupID: d.TaskGroupID, Deadline: d.Deadline,
				Expires: d.Expires, RetriesLeft: d.Retries, State: task.Unscheduled, Priority: d.Priority, Runs: []task.Run{},
			},
			retries: d.Retries, kind: Kind(d.Tags), routes: d.Routes, tags: t.In.tags, definition: t.In.text,
		}
		if len(t.edges.open) == 0 {
			t.addRun(task.Scheduled)
		}
		runs, err := json.Marshal(t.Runs)
		if err != nil {
			return nil, err
		}
		rows = append(rows, []any{
			t.TaskID, d.TaskQueueID, d.SchedulerID, d.ProjectID, d.TaskGroupID, d.Priority.Rank(), t.State, d.Retries,
			d.Deadline, d.Expires, t.kind, runs, d.Routes, t.tags, t.definition,
		})
	}
	inserted = map[string]bool{}
	return inserted, tx.LaterRows(`
		INSERT INTO task (`+columns+`)
		VALUES /*row*/($1, $2, $3, $4, $5, $6, $7, $8, $8, $9, $10, 0, '', 0, $11, $12, $13, $14, $15)/*row*/
		ON CONFLICT DO NOTHING RETURNING task_id`, rows, func(r store.Scanner) error {
		var id string
		err := r.Scan(&id)
		inserted[id] = true
		return err
	})
}

// dropTasks takes back what was inserted in this transaction.
func dropTasks(tx *store.Tx, list []*newTask) error {
	ids := make([]string, len(list))
	for i, t := range list {
		ids[i] = t.In.taskID
	}
	return tx.LaterEach(`DELETE FROM task WHERE task_id = $1`, keys(ids), nil)
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

// edges are a task's dependencies, by whether they stand in its way.
type edges struct{ open, satisfied []string }

// findDependencies reads what tasks depend on, and locks it against resolution
// until the transaction ends. A task of which a dependency does not exist fails.
func findDependencies(tx *store.Tx, list []*newTask) error {
	var ids []string
	for _, t := range list {
		ids = append(ids, t.In.Dependencies...)
	}
	if len(ids) == 0 {
		return nil
	}
	slices.Sort(ids)
	ids = slices.Compact(ids)
	states := map[string]task.State{}
	if err := tx.QueryEach(`SELECT state FROM task WHERE task_id = $1 /*for share*/`, keys(ids), func(i int, row store.Scanner) error {
		var s task.State
		err := row.Scan(&s)
		states[ids[i]] = s
		return err
	}); err != nil {
		return err
	}
	for _, t := range list {
		var missing []string
		for _, id := range t.In.Dependencies {
			s, ok := states[id]
			switch {
			case id == t.In.taskID: // it waits to be scheduled by hand
				t.edges.open = append(t.edges.open, id)
			case !ok:
				missing = append(missing, id)
			case s == task.Completed || t.In.Requires == task.AllResolved && s.Resolved():
				t.edges.satisfied = append(t.edges.satisfied, id)
			default:
				t.edges.open = append(t.edges.open, id)
			}
		}
		if len(missing) > 0 {
			t.Err = api.Errorf(api.InputError, "dependencies names tasks that do not exist: %s. Create them first.", strings.Join(missing[:min(len(missing), 20)], ", "))
		}
	}
	return nil
}

func insertEdges(tx *store.Tx, list []*newTask) error {
	var rows [][]any
	for _, t := range list {
		for _, id := range t.edges.open {
			rows = append(rows, []any{t.TaskID, id, onAny(t.In.Requires), 0, t.TaskQueueID, min(len(t.edges.open), waitsBesides)})
		}
		for _, id := range t.edges.satisfied {
			rows = append(rows, []any{t.TaskID, id, onAny(t.In.Requires), 1, t.TaskQueueID, waitsNot})
		}
	}
	return tx.LaterRows(`
		INSERT INTO dependency (task_id, required, on_any, satisfied, task_queue_id, waits)
		VALUES /*row*/($1, $2, $3, $4, $5, $6)/*row*/`, rows, nil)
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

// groupsOf are the ids of the groups of tasks, in the order in which they are
// locked.
func groupsOf(list []*newTask) []string {
	var ids []string
	for _, t := range list {
		ids = append(ids, t.TaskGroupID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// readGroups reads those of the groups that exist. The lock keeps a group from
// being sealed until the tasks are there, and does not stand against lengthening
// the group's life: two that have it and both want that would wait for each
// other.
func readGroups(tx *store.Tx, ids []string) (map[string]*group, error) {
	groups := map[string]*group{}
	err := tx.QueryEach(groupQuery+` /*for key share*/`, keys(ids), func(_ int, row store.Scanner) error {
		g, err := scanGroup(row)
		if err == nil {
			groups[g.TaskGroupID] = g
		}
		return err
	})
	return groups, err
}

// joinGroups makes the groups of tasks, or checks that they take them; a task
// that its group refuses fails. A group that will do is not inserted even in
// vain, as that would lock the row and have the tasks of a graph created one
// after the other.
func joinGroups(tx *store.Tx, list []*newTask, groups map[string]*group) error {
	byID := map[string][]*newTask{}
	for _, t := range list {
		byID[t.TaskGroupID] = append(byID[t.TaskGroupID], t)
	}
	var short []string
	var rows [][]any
	for _, id := range groupsOf(list) {
		g, owner, expires := groups[id], byID[id][0].SchedulerID, timestamp.Time(0)
		if g != nil {
			owner = g.SchedulerID
		}
		for _, t := range byID[id] {
			if t.SchedulerID == owner { // others are refused
				expires = max(expires, t.Expires)
			}
		}
		if g == nil || g.Expires < expires {
			short = append(short, id)
			rows = append(rows, []any{id, owner, expires, min(expires.Add(groupSlack), timestamp.Max)})
		}
	}
	if len(short) > 0 {
		if err := tx.LaterEach(`
			INSERT INTO task_group (task_group_id, scheduler_id, expires) VALUES ($1, $2, $3)
			ON CONFLICT (task_group_id) DO UPDATE SET expires = $4
			  WHERE task_group.expires < $3 AND task_group.scheduler_id = $2 AND task_group.sealed = 0`, rows, nil); err != nil {
			return err
		}
		made, err := readGroups(tx, short)
		if err != nil {
			return err
		}
		maps.Copy(groups, made)
	}
	for id, tasks := range byID {
		g := groups[id]
		for _, t := range tasks {
			switch {
			case g.SchedulerID != t.SchedulerID:
				t.Err = api.Errorf(api.RequestConflict, "Task group %s belongs to schedulerId %s; the task has %s. All tasks of a group have the same.", id, g.SchedulerID, t.SchedulerID)
			case !g.Sealed.IsZero():
				t.Err = api.Errorf(api.RequestConflict, "Task group %s was sealed at %s and takes no more tasks.", id, g.Sealed)
			}
		}
	}
	return nil
}
