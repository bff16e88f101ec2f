package graph

import (
	"cmp"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/task"
)

// Progress is how far the tasks of a group have come. What is known of a task
// only moves forward: a status that is older than the known one changes nothing.
type Progress struct {
	GroupID string
	tasks   map[string]*TaskProgress
	counts  Counts
}

// TaskProgress is how far one task has come.
type TaskProgress struct {
	ID           string
	Name         string // of the metadata: the label, for a task of a graph file
	Requires     string
	Dependencies []string // ids
	Status       queue.TaskStatus
}

// NewProgress is that of a group of which nothing is known.
func NewProgress(groupID string) *Progress {
	return &Progress{GroupID: groupID, tasks: map[string]*TaskProgress{}}
}

// A Change is one step of a task.
type Change struct {
	Task   TaskProgress // after the change
	Before string       // state; empty if the task was not known
}

// Run is the run that the change is about, nil if there is none.
func (c Change) Run() *queue.TaskStatusRun { return LatestRun(&c.Task.Status) }

// LatestRun is the newest run of a task, nil while it is unscheduled.
func LatestRun(s *queue.TaskStatus) *queue.TaskStatusRun {
	if len(s.Runs) == 0 {
		return nil
	}
	return &s.Runs[len(s.Runs)-1]
}

// add takes in a task and its status.
func (p *Progress) add(t queue.TaskDefinitionAndStatus) (Change, bool) {
	if p.tasks[t.Status.TaskID] == nil {
		task := &TaskProgress{
			ID: t.Status.TaskID, Name: cmp.Or(t.Task.Metadata.Name, t.Status.TaskID), Requires: t.Task.Requires, Dependencies: t.Task.Dependencies, Status: t.Status,
		}
		p.tasks[task.ID] = task
		*p.counts.of(t.Status.State)++
		return Change{Task: *task}, true
	}
	c, _, changed := p.update(t.Status)
	return c, changed
}

// update takes in the status of a task, if the task is known.
func (p *Progress) update(s queue.TaskStatus) (c Change, known, changed bool) {
	t := p.tasks[s.TaskID]
	if t == nil {
		return c, false, false
	}
	if compareStatus(s, t.Status) <= 0 {
		return c, true, false
	}
	c.Before = t.Status.State
	*p.counts.of(t.Status.State)--
	*p.counts.of(s.State)++
	t.Status = s
	c.Task = *t
	return c, true, true
}

// compareStatus orders the statuses that one task can have: runs are only ever
// added, and each goes from pending to running to resolved.
func compareStatus(a, b queue.TaskStatus) int {
	if len(a.Runs) != len(b.Runs) {
		return len(a.Runs) - len(b.Runs)
	}
	return rank(a.State) - rank(b.State)
}

func rank(state string) int {
	switch s := task.State(state); {
	case s == task.Pending:
		return 1
	case s == task.Running:
		return 2
	case s.Resolved():
		return 3
	}
	return 0
}

// Tasks are all tasks by name.
func (p *Progress) Tasks() []TaskProgress {
	list := make([]TaskProgress, 0, len(p.tasks))
	for _, t := range p.tasks {
		list = append(list, *t)
	}
	slices.SortFunc(list, func(a, b TaskProgress) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// Counts are the tasks by state.
type Counts struct {
	Unscheduled int `json:"unscheduled"`
	Pending     int `json:"pending"`
	Running     int `json:"running"`
	Completed   int `json:"completed"`
	Failed      int `json:"failed"`
	Exception   int `json:"exception"`
}

// Total is the number of tasks.
func (c Counts) Total() int {
	return c.Unscheduled + c.Pending + c.Running + c.Completed + c.Failed + c.Exception
}

// Resolved is the number of those that have ended.
func (c Counts) Resolved() int { return c.Completed + c.Failed + c.Exception }

// of is the counter of a state.
func (c *Counts) of(state string) *int {
	switch task.State(state) {
	case task.Pending:
		return &c.Pending
	case task.Running:
		return &c.Running
	case task.Completed:
		return &c.Completed
	case task.Failed:
		return &c.Failed
	case task.Exception:
		return &c.Exception
	}
	return &c.Unscheduled
}

// Counts are the tasks by state.
func (p *Progress) Counts() Counts { return p.counts }

// Completed reports whether every task completed.
func (p *Progress) Completed() bool {
	return len(p.tasks) > 0 && p.counts.Completed == len(p.tasks)
}

// Ended reports whether nothing more will happen soon: each task is resolved, or
// waits for one that ended in another way than it requires. Such a task stays
// unscheduled until its deadline, unless somebody intervenes.
func (p *Progress) Ended() bool {
	if len(p.tasks) == 0 || p.counts.Pending+p.counts.Running > 0 {
		return false
	}
	blocked := p.Blocked()
	for _, t := range p.tasks {
		if !task.State(t.Status.State).Resolved() && blocked[t.ID] == "" {
			return false
		}
	}
	return true
}

// Blocked are the tasks that cannot run before a deadline passes, each with the
// name of the task that keeps it: one that failed or was canceled, or one that
// is blocked itself.
func (p *Progress) Blocked() map[string]string {
	blocked := map[string]string{}
	dependents := map[string][]*TaskProgress{}
	for _, t := range p.tasks {
		for _, d := range t.Dependencies {
			dependents[d] = append(dependents[d], t)
		}
	}
	var next []*TaskProgress
	for _, t := range p.tasks {
		if s := task.State(t.Status.State); s == task.Failed || s == task.Exception {
			next = append(next, t)
		}
	}
	// By id, so that of several that keep a task always the same is named.
	slices.SortFunc(next, func(a, b *TaskProgress) int { return strings.Compare(a.ID, b.ID) })
	for len(next) > 0 {
		t := next[0]
		next = next[1:]
		_, itself := blocked[t.ID]
		for _, d := range dependents[t.ID] {
			switch {
			case task.State(d.Status.State) != task.Unscheduled, blocked[d.ID] != "":
			case itself, task.Requires(d.Requires) == task.AllCompleted:
				blocked[d.ID] = t.Name
				next = append(next, d)
			}
		}
	}
	return blocked
}
