package graph

import (
	"context"
	"fmt"
	"sync"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
)

// parallel is how many tasks are created at a time: enough to hide the way to
// the server, few enough not to crowd others out.
const parallel = 8

// Submit creates the tasks of g, each once those it depends on exist. After
// each, report, if there is one, is told how many exist. Submitting the same
// Graph again, after an error, does no harm to those that exist.
func Submit(ctx context.Context, core *client.Client, g *Graph, report func(created, total int)) error {
	// After a failure no more tasks are begun, but calls that are under way are
	// not cut off: it should be known which tasks exist.
	going, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	q := queue.New(core)
	created := make(map[string]chan struct{}, len(g.Tasks))
	for _, t := range g.Tasks {
		created[t.Label] = make(chan struct{})
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		done int
		slot = make(chan struct{}, parallel)
	)
	create := func(t *Task) error {
		// Those it needs stand before it in the list, so they have their slot already.
		for _, need := range t.Dependencies {
			select {
			case <-created[need]:
			case <-going.Done():
				return context.Cause(going)
			}
		}
		if _, err := q.CreateTask(ctx, t.ID, &t.Definition); err != nil {
			return fmt.Errorf("create task %s (%s): %w", t.Label, t.ID, err)
		}
		close(created[t.Label])
		mu.Lock()
		defer mu.Unlock()
		if done++; report != nil {
			report(done, len(g.Tasks))
		}
		return nil
	}
	for i := range g.Tasks {
		select {
		case slot <- struct{}{}:
		case <-going.Done():
		}
		if going.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slot }()
			if err := create(&g.Tasks[i]); err != nil {
				stop(err)
			}
		})
	}
	wg.Wait()
	if done < len(g.Tasks) {
		return &PartlySubmitted{GroupID: g.GroupID, Created: done, Total: len(g.Tasks), Err: context.Cause(going)}
	}
	return nil
}

// PartlySubmitted reports that some tasks of a graph could not be created. Those
// that were may be running.
type PartlySubmitted struct {
	GroupID        string
	Created, Total int
	Err            error
}

func (e *PartlySubmitted) Error() string {
	if e.Created == 0 {
		return fmt.Sprintf("none of the graph's %d tasks could be created: %v", e.Total, e.Err)
	}
	return fmt.Sprintf("%d of the graph's %d tasks were created, as group %s, then: %v", e.Created, e.Total, e.GroupID, e.Err)
}

func (e *PartlySubmitted) Unwrap() error { return e.Err }
