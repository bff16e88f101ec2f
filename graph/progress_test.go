package graph

import (
	"maps"
	"testing"

	"github.com/taskfleet/taskfleet/client/queue"
)

// status is that of a task whose runs have these states, the last one being the
// task's own.
func status(id string, runs ...string) queue.TaskStatus {
	s := queue.TaskStatus{TaskID: id, State: "unscheduled"}
	for i, state := range runs {
		s.Runs = append(s.Runs, queue.TaskStatusRun{RunID: i, State: state})
		s.State = state
	}
	return s
}

func member(id, requires string, needs []string, runs ...string) queue.TaskDefinitionAndStatus {
	return queue.TaskDefinitionAndStatus{
		Task:   queue.Task{Metadata: queue.TaskMetadata{Name: "the " + id}, Requires: requires, Dependencies: needs},
		Status: status(id, runs...),
	}
}

func TestProgressOnlyMovesForward(t *testing.T) {
	p := NewProgress("g")
	p.add(member("a", "all-completed", nil, "exception", "running"))
	for _, old := range [][]string{{}, {"pending"}, {"exception"}, {"exception", "pending"}, {"exception", "running"}} {
		if _, known, changed := p.update(status("a", old...)); !known || changed {
			t.Errorf("%v came after a later status and changed it", old)
		}
	}
	c, _, changed := p.update(status("a", "exception", "completed"))
	if !changed || c.Before != "running" || c.Task.Status.State != "completed" || p.Counts() != (Counts{Completed: 1}) {
		t.Errorf("the next one changed %v, to %+v and %+v", changed, c, p.Counts())
	}
	// A rerun goes on from the end.
	if _, _, changed := p.update(status("a", "exception", "completed", "pending")); !changed || p.Counts() != (Counts{Pending: 1}) {
		t.Errorf("a rerun changed %v, to %+v", changed, p.Counts())
	}
	if _, known, _ := p.update(status("b", "pending")); known {
		t.Error("a task that nobody added is known")
	}
}

func TestWhatKeepsAGroupFromGoingOn(t *testing.T) {
	const completed, resolved = "all-completed", "all-resolved"
	for name, test := range map[string]struct {
		tasks   []queue.TaskDefinitionAndStatus
		ended   bool
		blocked map[string]string
	}{
		"nothing": {},
		"all is done": {
			tasks: []queue.TaskDefinitionAndStatus{member("a", completed, nil, "completed"), member("b", completed, []string{"a"}, "completed")},
			ended: true,
		},
		"one is running": {
			tasks:   []queue.TaskDefinitionAndStatus{member("a", completed, nil, "running"), member("b", completed, nil, "failed"), member("c", completed, []string{"b"})},
			blocked: map[string]string{"c": "the b"},
		},
		"a failure blocks those after it": {
			tasks: []queue.TaskDefinitionAndStatus{
				member("a", completed, nil, "failed"), member("b", completed, []string{"a"}), member("c", completed, []string{"b"}),
				member("d", resolved, []string{"c"}),
			},
			ended: true, blocked: map[string]string{"b": "the a", "c": "the b", "d": "the c"},
		},
		"a failure does not block who only needs the end": {
			tasks:   []queue.TaskDefinitionAndStatus{member("a", completed, nil, "exception"), member("b", resolved, []string{"a"})},
			blocked: map[string]string{},
		},
		"a task that waits for one elsewhere may go on": {
			tasks: []queue.TaskDefinitionAndStatus{member("a", completed, []string{"in another group"}), member("b", completed, nil, "failed")},
		},
		"one that waits for both is blocked": {
			tasks: []queue.TaskDefinitionAndStatus{member("a", completed, []string{"in another group", "b"}), member("b", completed, nil, "failed")},
			ended: true, blocked: map[string]string{"a": "the b"},
		},
		"a canceled task is not blocked": {
			tasks: []queue.TaskDefinitionAndStatus{member("a", completed, nil, "failed"), member("b", completed, []string{"a"}, "exception")},
			ended: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := NewProgress("g")
			for _, x := range test.tasks {
				p.add(x)
			}
			if got := p.Ended(); got != test.ended {
				t.Errorf("ended is %v", got)
			}
			if got := p.Blocked(); !maps.Equal(got, test.blocked) && len(got)+len(test.blocked) > 0 {
				t.Errorf("blocked are %v, want %v", got, test.blocked)
			}
		})
	}
}
