package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
)

// The priority of a task is where it stands in its task queue. Callers see it in
// the definition, too; what is stored there is what was asked for first, by which
// a repeated createTask is recognized. It stands in two rows:
// the task's, and that of its pending run if there is one. Who changes them
// takes the pending row first, as everybody does; claims pass over it meanwhile,
// and so are woken when it is free again.

type priorityRequest struct {
	New task.Priority `json:"newPriority"`
}

type priorityMessage struct {
	Version int           `json:"version"`
	Status  task.Status   `json:"status"`
	Old     task.Priority `json:"oldPriority"`
	New     task.Priority `json:"newPriority"`
}

var changeTaskPriority = api.Declare(api.Spec{
	Name: "changeTaskPriority", Route: "POST /task/<taskId>/priority",
	Scopes: scope.AnyOf{scope.Scope("queue:change-task-priority:<taskId>"), scope.Scope("queue:change-task-priority-in-queue:<taskQueueId>")},
	Input:  "v1/change-task-priority-request.json#", Output: "v1/task-status-response.json#",
	Stability: api.Experimental, Category: "Tasks", Title: "Change a task's priority",
	Doc: `Moves a task that is not resolved to another place among those that wait. A run that a worker has already is not
interrupted; a further run of the task has the new priority.

A task that has the priority already stays as it is, and nothing is announced. A task that is resolved, or past its
deadline, is a conflict (409).`,
}, func(ctx context.Context, q *Queue, c api.Call[taskPath, priorityRequest]) (out statusResponse, err error) {
	r, err := q.read(ctx, c.Path.TaskID)
	if err != nil {
		return out, err
	}
	if err := c.Authorize(scope.Vars{"taskQueueId": r.TaskQueueID}); err != nil {
		return out, err
	}
	err = q.db.Do(ctx, func(tx *store.Tx) error {
		r, err := q.reprioritize(tx, c.Path.TaskID, c.Body.New)
		if err != nil {
			return err
		}
		out.Status = r.Status
		return nil
	})
	return out, err
})

// reprioritize gives a task that is not resolved another priority.
func (q *Queue) reprioritize(tx *store.Tx, taskID string, p task.Priority) (*record, error) {
	r, err := lockForPriority(tx, taskID, p)
	switch {
	case err != nil:
		return nil, err
	case r.State.Resolved():
		return nil, api.Errorf(api.RequestConflict, "Task %s is resolved (%s); its priority makes no difference any more.", r.TaskID, r.State)
	}
	if err := pastDeadline(r, "given another priority"); err != nil {
		return nil, err
	}
	m := priorityMessage{Version: 1, Old: r.Priority, New: p}
	if err := q.set(tx, r, p); err != nil || m.Old == p {
		return r, err
	}
	m.Status = r.Status
	return r, q.send(tx, taskPriorityChanged, r, r.Latest(), m)
}

// lockForPriority locks a task whose pending run, if it has one, has the priority
// already.
func lockForPriority(tx *store.Tx, taskID string, p task.Priority) (*record, error) {
	return lockWithRun(tx, `UPDATE pending SET priority = $2 WHERE task_id = $1`, taskID, p.Rank())
}

// set changes the row of a task that is locked.
func (q *Queue) set(tx *store.Tx, r *record, p task.Priority) error {
	if r.State == task.Pending {
		tx.Wake(topicPending(r.TaskQueueID), 1)
	}
	r.Priority = p
	_, err := tx.Exec(`UPDATE task SET priority = $2 WHERE task_id = $1`, r.TaskID, p.Rank())
	return err
}

type groupPriorityResponse struct {
	groupPriority
	TaskIDs []string `json:"taskIds"`
}

type groupPriority struct {
	TaskGroupID   string        `json:"taskGroupId"`
	SchedulerID   string        `json:"schedulerId"`
	New           task.Priority `json:"newPriority"`
	TasksAffected int64         `json:"tasksAffected"`
}

const (
	// A call changes this many tasks of a group itself, for as long as this. The
	// loop queue.priorities does the rest; it also takes over, after a while,
	// from a call that was lost with its process.
	priorityInline = 10_000
	priorityCall   = 10 * time.Second
	priorityLease  = 30 * time.Second

	priorityBatch = 500 // tasks in one transaction
)

const topicPriority = "queue.priority"

var changeTaskGroupPriority = api.Declare(api.Spec{
	Name: "changeTaskGroupPriority", Route: "POST /task-group/<taskGroupId>/priority",
	Scopes: scope.Scope("queue:change-task-group-priority:<schedulerId>/<taskGroupId>"),
	Input:  "v1/change-task-priority-request.json#", Output: "v1/task-group-priority-change-response.json#",
	Stability: api.Experimental, Category: "Task Groups", Title: "Change the priority of a task group",
	Doc: `Gives every unresolved task of a group another priority, as changeTaskPriority does for one. That it is to be done
is recorded before anything else, and it is done in batches, so that neither a restart nor the size of the group matters.

The reply lists the tasks that were changed by then: all of them, except in groups of more than ten thousand, where
the rest follows. When no unresolved task has another priority any more, one message tells how many were changed.
Tasks that are added before that get the new priority, too; those that are added later have the one they are created
with. Another call takes the place of one whose work is not done.`,
}, func(ctx context.Context, q *Queue, c api.Call[groupPath, priorityRequest]) (out groupPriorityResponse, err error) {
	g, err := q.group(ctx, c.Path.TaskGroupID)
	if err != nil {
		return out, err
	}
	if err := c.Authorize(scope.Vars{"schedulerId": g.SchedulerID}); err != nil {
		return out, err
	}
	out = groupPriorityResponse{groupPriority{TaskGroupID: g.TaskGroupID, SchedulerID: g.SchedulerID, New: c.Body.New}, []string{}}
	if err := q.db.Do(ctx, func(tx *store.Tx) error { return q.beginPriority(tx, g, c.Body.New) }); err != nil {
		return out, err
	}
	done, end := false, time.Now().Add(priorityCall)
	for !done && len(out.TaskIDs) < priorityInline && time.Now().Before(end) {
		var ids []string
		if ids, done, err = q.changeSome(ctx, g.TaskGroupID, c.Body.New, priorityLease); err != nil {
			break // it is recorded: the loop will do it
		}
		out.TaskIDs = append(out.TaskIDs, ids...)
	}
	slices.Sort(out.TaskIDs)
	out.TaskIDs = slices.Compact(out.TaskIDs) // some may have been given a third priority in between
	out.TasksAffected = int64(len(out.TaskIDs))
	if done {
		return out, nil
	}
	return out, q.db.Do(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		n, err := tx.Exec(`UPDATE priority_change SET due = $2 WHERE task_group_id = $1 AND due > $2`, g.TaskGroupID, now())
		if n > 0 {
			tx.Wake(topicPriority, 1)
		}
		return err
	})
})

// beginPriority records what is to be done. What another call began and did not
// finish is announced as far as it got, unless this one goes on with it.
func (q *Queue) beginPriority(tx *store.Tx, g *group, p task.Priority) error {
	due := now().Add(priorityLease)
	if n, err := tx.Exec(`
		INSERT INTO priority_change (task_group_id, priority, due) VALUES ($1, $2, $3)
		ON CONFLICT DO NOTHING`, g.TaskGroupID, p.Rank(), due); err != nil || n == 1 {
		return err
	}
	old, err := lockPriority(tx, g.TaskGroupID)
	if isNotFound(err) {
		return q.beginPriority(tx, g, p) // it was finished this very moment
	}
	if err != nil {
		return err
	}
	if old.New != p {
		if err := q.announcePriority(tx, g, old); err != nil {
			return err
		}
		old.TasksAffected = 0
	}
	_, err = tx.Exec(`UPDATE priority_change SET priority = $2, affected = $3, due = $4 WHERE task_group_id = $1`,
		g.TaskGroupID, p.Rank(), old.TasksAffected, due)
	return err
}

// lockPriority reads what is being done to a group, for this transaction alone.
func lockPriority(tx *store.Tx, groupID string) (p groupPriority, err error) {
	var rank int
	err = tx.QueryRow(`SELECT priority, affected FROM priority_change WHERE task_group_id = $1 /*for update*/`, groupID).Scan(&rank, &p.TasksAffected)
	p.New = task.PriorityOf(rank)
	return p, err
}

func (q *Queue) announcePriority(tx *store.Tx, g *group, p groupPriority) error {
	p.TaskGroupID, p.SchedulerID = g.TaskGroupID, g.SchedulerID
	return q.sendGroup(tx, taskGroupPriorityChanged, g, struct {
		Version int `json:"version"`
		groupPriority
	}{1, p})
}

// changeSome changes a batch of a group's tasks and returns them; done says that
// the group needs no more, or that it is getting another priority than p. Others
// may go on with it after a while.
func (q *Queue) changeSome(ctx context.Context, groupID string, p task.Priority, after time.Duration) (ids []string, done bool, err error) {
	var left []string
	change := func(move func(*store.Tx, []string, task.Priority) ([]string, error)) error {
		return q.db.Do(ctx, func(tx *store.Tx) error {
			ids, done = nil, false
			job, err := lockPriority(tx, groupID)
			if isNotFound(err) || err == nil && job.New != p {
				done = true
				return nil
			}
			if err != nil {
				return err
			}
			if left, err = withOtherPriority(tx, groupID, p); err != nil {
				return err
			}
			if len(left) == 0 {
				done = true
				return q.endPriority(tx, groupID, job)
			}
			if ids, err = move(tx, left, p); err != nil {
				return err
			}
			_, err = tx.Exec(`UPDATE priority_change SET affected = affected + $2, due = $3 WHERE task_group_id = $1`,
				groupID, len(ids), now().Add(after))
			return err
		})
	}
	if err = change(q.moveFree); err == nil && !done && len(ids) == 0 {
		err = change(q.moveFirst)
	}
	return ids, done, err
}

func (q *Queue) endPriority(tx *store.Tx, groupID string, job groupPriority) error {
	if _, err := tx.Exec(`DELETE FROM priority_change WHERE task_group_id = $1`, groupID); err != nil {
		return err
	}
	g, err := loadGroup(tx, groupID)
	if err != nil {
		return ignoreMissing(err) // it has expired, and nobody asks any more
	}
	return q.announcePriority(tx, g, job)
}

// withOtherPriority lists a batch of a group's unresolved tasks that have
// another priority than p.
func withOtherPriority(tx *store.Tx, groupID string, p task.Priority) (list []string, err error) {
	for _, range_ := range []string{`priority < $2`, `priority > $2`} {
		some, err := tx.Column(`SELECT task_id FROM task
			 WHERE task_group_id = $1 AND state IN ('unscheduled', 'pending', 'running') AND `+range_+` LIMIT $3`,
			groupID, p.Rank(), priorityBatch-len(list))
		if err != nil {
			return nil, err
		}
		if list = append(list, some...); len(list) == priorityBatch {
			break
		}
	}
	slices.Sort(list)
	return list, nil
}

// moveFree gives tasks another priority and returns those that got it. It waits
// for nobody, and so stands in no order of locks: a task that somebody else is
// about to change, or is claiming, is left for the next time.
func (q *Queue) moveFree(tx *store.Tx, ids []string, p task.Priority) (changed []string, err error) {
	queues := map[string]int{}
	pending := []string{}
	rows, err := tx.Query(`
		WITH free AS MATERIALIZED (SELECT task_id FROM pending WHERE task_id IN (SELECT value FROM json_each($1)) /*skip locked*/)
		UPDATE pending SET priority = $2 WHERE task_id IN (SELECT task_id FROM free)
		RETURNING task_id, task_queue_id`, ids, p.Rank())
	if err != nil {
		return nil, err
	}
	for rows.Next() {
		var id, queueID string
		if err := rows.Scan(&id, &queueID); err != nil {
			return nil, err
		}
		pending = append(pending, id)
		queues[queueID]++
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	for queueID, n := range queues {
		tx.Wake(topicPending(queueID), n)
	}
	return tx.Column(`
		WITH free AS MATERIALIZED (
		  SELECT task_id FROM task WHERE task_id IN (SELECT value FROM json_each($1)) AND priority <> $2
		     AND (state IN ('unscheduled', 'running') OR state = 'pending' AND task_id IN (SELECT value FROM json_each($3))) /*skip locked*/)
		UPDATE task SET priority = $2 WHERE task_id IN (SELECT task_id FROM free)
		RETURNING task_id`, ids, p.Rank(), pending)
}

// moveFirst is for when none is free: it waits for the first.
func (q *Queue) moveFirst(tx *store.Tx, ids []string, p task.Priority) (changed []string, err error) {
	r, err := lockForPriority(tx, ids[0], p)
	if err != nil || r.State.Resolved() || r.Priority == p {
		return nil, ignoreMissing(err)
	}
	return ids[:1], q.set(tx, r, p)
}

// changePriorities is one pass of the loop queue.priorities.
func (q *Queue) changePriorities(ctx context.Context) (more bool, err error) {
	var groupID string
	var rank int
	err = q.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT task_group_id, priority FROM priority_change WHERE due <= $1 ORDER BY due LIMIT 1`, now()).Scan(&groupID, &rank)
	})
	if isNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, _, err = q.changeSome(ctx, groupID, task.PriorityOf(rank), 0)
	if err != nil {
		// Other groups do not wait for it.
		later := q.db.Do(ctx, func(tx *store.Tx) error {
			_, err := tx.Exec(`UPDATE priority_change SET due = $2 WHERE task_group_id = $1`, groupID, now().Add(time.Minute))
			return err
		})
		return false, errors.Join(fmt.Errorf("changing the priority of task group %s: %w", groupID, err), later)
	}
	return true, nil
}
