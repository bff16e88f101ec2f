// Package task holds what a task is: its definition, its status, its runs and
// their states, in the form they have on the wire.
package task

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/timestamp"
)

// A Definition is what somebody asks to get done. It never changes once the
// task is created.
type Definition struct {
	ProvisionerID string            `json:"provisionerId"`
	WorkerType    string            `json:"workerType"`
	TaskQueueID   string            `json:"taskQueueId"` // <provisionerId>/<workerType>
	SchedulerID   string            `json:"schedulerId"`
	ProjectID     string            `json:"projectId"`
	TaskGroupID   string            `json:"taskGroupId"`
	Dependencies  []string          `json:"dependencies"`
	Requires      Requires          `json:"requires"`
	Routes        []string          `json:"routes"`
	Priority      Priority          `json:"priority"`
	Retries       int               `json:"retries"`
	Created       timestamp.Time    `json:"created"`
	Deadline      timestamp.Time    `json:"deadline"`
	Expires       timestamp.Time    `json:"expires"`
	Scopes        []string          `json:"scopes"`
	Payload       json.RawMessage   `json:"payload"`
	Metadata      Metadata          `json:"metadata"`
	Tags          map[string]string `json:"tags"`
	Extra         json.RawMessage   `json:"extra"`
}

// Metadata is what a human needs to recognize a task.
type Metadata struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	Owner       string `json:"owner"`
	Source      string `json:"source"`
}

// Requires says what has to become of a task's dependencies before it runs.
type Requires string

// A task waits until its dependencies have completed, or until they have ended
// in whatever way.
const (
	AllCompleted Requires = "all-completed"
	AllResolved  Requires = "all-resolved"
)

// A Priority orders the tasks that wait in one queue.
type Priority string

// Priorities, the most urgent first.
var Priorities = []Priority{"highest", "very-high", "high", "medium", "low", "very-low", "lowest"}

// Rank is 6 for "highest" down to 0 for "lowest" and what is no priority.
func (p Priority) Rank() int {
	if i := slices.Index(Priorities, p); i >= 0 {
		return len(Priorities) - 1 - i
	}
	return 0
}

// PriorityOf is the inverse of Rank.
func PriorityOf(rank int) Priority { return Priorities[len(Priorities)-1-rank] }

// AtLeast lists p and every more urgent priority, for scopes: who may create
// tasks at a priority may do so at any lower one.
func (p Priority) AtLeast() []string {
	list := make([]string, 0, len(Priorities))
	for _, q := range Priorities {
		list = append(list, string(q))
		if q == p {
			break
		}
	}
	return list
}

// MaxLife is the longest time from creation to deadline.
const MaxLife = 5 * 24 * time.Hour

// A State is where a task or a run stands.
type State string

// A task is unscheduled until its dependencies allow a run; its state is then
// that of its latest run.
const (
	Unscheduled State = "unscheduled"
	Pending     State = "pending"
	Running     State = "running"
	Completed   State = "completed"
	Failed      State = "failed"
	Exception   State = "exception"
)

// Resolved reports whether s is final.
func (s State) Resolved() bool { return s == Completed || s == Failed || s == Exception }

// A Reason says why a run was created or how it ended.
type Reason string

// Reasons of creation, then of resolution.
const (
	Scheduled        Reason = "scheduled"
	Retry            Reason = "retry"
	TaskRetry        Reason = "task-retry"
	Rerun            Reason = "rerun"
	ByException      Reason = "exception" // a run made only to carry a resolution
	DidComplete      Reason = "completed"
	DidFail          Reason = "failed"
	DeadlineExceeded Reason = "deadline-exceeded"
	Canceled         Reason = "canceled"
	ClaimExpired     Reason = "claim-expired"
	WorkerShutdown   Reason = "worker-shutdown"
	IntermittentTask Reason = "intermittent-task"
	MalformedPayload Reason = "malformed-payload"
)

// Status is how far a task has come.
type Status struct {
	TaskID        string         `json:"taskId"`
	ProvisionerID string         `json:"provisionerId"`
	WorkerType    string         `json:"workerType"`
	TaskQueueID   string         `json:"taskQueueId"`
	SchedulerID   string         `json:"schedulerId"`
	ProjectID     string         `json:"projectId"`
	TaskGroupID   string         `json:"taskGroupId"`
	Deadline      timestamp.Time `json:"deadline"`
	Expires       timestamp.Time `json:"expires"`
	RetriesLeft   int            `json:"retriesLeft"`
	State         State          `json:"state"`
	Priority      Priority       `json:"priority"`
	Runs          []Run          `json:"runs"`
}

// A Run is one attempt to execute a task.
type Run struct {
	RunID          int            `json:"runId"`
	State          State          `json:"state"`
	ReasonCreated  Reason         `json:"reasonCreated"`
	ReasonResolved Reason         `json:"reasonResolved,omitempty"`
	WorkerGroup    string         `json:"workerGroup,omitempty"`
	WorkerID       string         `json:"workerId,omitempty"`
	TakenUntil     timestamp.Time `json:"takenUntil,omitzero"`
	Scheduled      timestamp.Time `json:"scheduled"`
	Started        timestamp.Time `json:"started,omitzero"`
	Resolved       timestamp.Time `json:"resolved,omitzero"`
}

// Latest is the newest run, nil while the task is unscheduled.
func (s *Status) Latest() *Run {
	if len(s.Runs) == 0 {
		return nil
	}
	return &s.Runs[len(s.Runs)-1]
}

// SplitQueueID divides "provisioner/type".
func SplitQueueID(id string) (provisionerID, workerType string) {
	provisionerID, workerType, _ = strings.Cut(id, "/")
	return provisionerID, workerType
}

// Same reports whether two definitions mean the same, whatever the order of
// members and the spelling of white space in their payloads.
func (d *Definition) Same(e *Definition) (same bool, difference string) {
	a, b := reflect.ValueOf(*d), reflect.ValueOf(*e)
	for i := range a.NumField() {
		x, y := a.Field(i).Interface(), b.Field(i).Interface()
		if raw, ok := x.(json.RawMessage); ok {
			cx, err1 := canonical(raw)
			cy, err2 := canonical(y.(json.RawMessage))
			if err1 != nil || err2 != nil || !bytes.Equal(cx, cy) {
				return false, a.Type().Field(i).Tag.Get("json")
			}
		} else if !reflect.DeepEqual(x, y) {
			return false, a.Type().Field(i).Tag.Get("json")
		}
	}
	return true, ""
}

func canonical(raw json.RawMessage) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("task: %w", err)
	}
	return json.Marshal(v) // sorts members
}
