package queue

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

var (
	TaskDefined       = taskExchange("task-defined", "taskDefined", "Task defined", "A task was created. It may have to wait for others before it becomes pending.", runNever)
	TaskPending       = taskExchange("task-pending", "taskPending", "Task pending", "A run of a task waits for a worker.", runAlways)
	taskRunning       = taskExchange("task-running", "taskRunning", "Task running", "A worker claimed a run of a task.", runByWorker)
	TaskCompleted     = taskExchange("task-completed", "taskCompleted", "Task completed", "A task's run succeeded.", runByWorker)
	TaskFailed        = taskExchange("task-failed", "taskFailed", "Task failed", "A task's run did its work and failed.", runNever)
	taskException     = taskExchange("task-exception", "taskException", "Task exception", "A task ended without success or failure of its own: canceled, past its deadline, out of retries, malformed.", runNever)
	artifactCreated   = taskExchange("artifact-created", "artifactCreated", "Artifact created", "An artifact was recorded for a run. Artifacts in S3 are announced neither here nor by the platform we are compatible with, as they are uploaded after they are recorded.", runByWorker)
	taskGroupResolved = groupExchange("task-group-resolved", "taskGroupResolved", "Task group resolved", "Every task that the group has at the moment is resolved. Adding tasks or running some again can bring this message again.")
	taskGroupSealed   = groupExchange("task-group-sealed", "taskGroupSealed", "Task group sealed", "No task can be added to the group any more.")

	taskPriorityChanged      = taskExchange("task-priority-changed", "taskPriorityChanged", "Task priority changed", "A task got another priority, by changeTaskPriority.", runNever)
	taskGroupPriorityChanged = groupPriorityExchange()
)

// Which elements of a task's routing key are always there.
type runKnown int

const (
	runNever    runKnown = iota // run and worker may be "_"
	runAlways                   // the worker may be "_"
	runByWorker                 // all are there
)

func taskExchange(exchange, name, title, doc string, known runKnown) api.Exchange {
	schema := "v1/" + exchange + "-message.json#"
	return api.Exchange{
		Exchange: exchange, Name: name, Title: title, Doc: doc, Schema: schema, HasCCRoutes: true,
		RoutingKey: []api.RoutingKey{
			{Name: "routingKeyKind", Summary: "Always primary; the task's own routes begin with route.", Constant: "primary", Required: true},
			{Name: "taskId", Summary: "The task.", Required: true},
			{Name: "runId", Summary: "The run the message is about, or _", Required: known >= runAlways},
			{Name: "workerGroup", Summary: "Group of the worker that has or had the run, or _", Required: known == runByWorker},
			{Name: "workerId", Summary: "The worker that has or had the run, or _", Required: known == runByWorker},
			{Name: "provisionerId", Summary: "First half of the task queue's id.", Required: true},
			{Name: "workerType", Summary: "Second half of the task queue's id.", Required: true},
			{Name: "schedulerId", Summary: "The scheduler of the task.", Required: true},
			{Name: "taskGroupId", Summary: "The group of the task.", Required: true},
			{Name: "reserved", Summary: "Room for later additions; match it with #.", MultipleWords: true},
		},
	}
}

func groupExchange(exchange, name, title, doc string) api.Exchange {
	return api.Exchange{
		Exchange: exchange, Name: name, Title: title, Doc: doc, Schema: "v1/task-group-changed-message.json#",
		RoutingKey: []api.RoutingKey{
			{Name: "routingKeyKind", Summary: "Always primary.", Constant: "primary", Required: true},
			{Name: "taskGroupId", Summary: "The group.", Required: true},
			{Name: "schedulerId", Summary: "The scheduler of the group.", Required: true},
			{Name: "reserved", Summary: "Room for later additions; match it with #.", MultipleWords: true},
		},
	}
}

func groupPriorityExchange() api.Exchange {
	x := groupExchange("task-group-priority-changed", "taskGroupPriorityChanged", "Task group priority changed",
		"All unresolved tasks of a group have the priority now that changeTaskGroupPriority gave them. There is no message about each of them.")
	x.Schema = "v1/task-group-priority-changed-message.json#"
	return x
}

// message is the payload of most exchanges about tasks.
type message struct {
	Version     int               `json:"version"`
	Status      task.Status       `json:"status"`
	Task        *messageTask      `json:"task,omitempty"`
	RunID       *int              `json:"runId,omitempty"`
	WorkerGroup string            `json:"workerGroup,omitempty"`
	WorkerID    string            `json:"workerId,omitempty"`
	TakenUntil  timestamp.Time    `json:"takenUntil,omitzero"`
	Artifact    *artifactResponse `json:"artifact,omitempty"`
}

type messageTask struct {
	Tags json.RawMessage `json:"tags"`
}

// newMessage tells of r as it is; run is the run it is about, if any.
func newMessage(r *record, run *task.Run) message {
	m := message{Version: 1, Status: r.Status, Task: &messageTask{r.tags}}
	if run != nil {
		m.RunID, m.WorkerGroup, m.WorkerID = &run.RunID, run.WorkerGroup, run.WorkerID
		if run.State == task.Running {
			m.TakenUntil = run.TakenUntil
		}
	}
	return m
}

// outgoing is a message about a task, under the key that is made of it.
func outgoing(x api.Exchange, r *record, run *task.Run, payload any) event.Outgoing {
	key := []string{"primary", r.TaskID, "_", "_", "_", r.ProvisionerID, r.WorkerType, r.SchedulerID, r.TaskGroupID, "_"}
	if run != nil {
		key[2] = strconv.Itoa(run.RunID)
		if run.WorkerID != "" {
			key[3], key[4] = run.WorkerGroup, run.WorkerID
		}
	}
	cc := make([]string, 0, len(r.routes))
	for _, route := range r.routes {
		cc = append(cc, "route."+route)
	}
	return event.Outgoing{Exchange: event.Topic("queue", "v1", x), RoutingKey: strings.Join(key, "."), CC: cc, Payload: payload}
}

func (q *Queue) send(tx *store.Tx, x api.Exchange, r *record, run *task.Run, payload any) error {
	return q.events.PublishAll(tx, []event.Outgoing{outgoing(x, r, run, payload)})
}

func (q *Queue) publishGroup(tx *store.Tx, x api.Exchange, g *group) error {
	return q.sendGroup(tx, x, g, struct {
		Version int `json:"version"`
		*group
	}{1, g})
}

func (q *Queue) sendGroup(tx *store.Tx, x api.Exchange, g *group, payload any) error {
	key := fmt.Sprintf("primary.%s.%s._", g.TaskGroupID, g.SchedulerID)
	return q.events.Publish(tx, event.Topic("queue", "v1", x), key, nil, payload)
}
