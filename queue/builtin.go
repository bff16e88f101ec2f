package queue

import (
	"context"
	"encoding/json"
	"time"

	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/task"
)

// The tasks of two task queues need no machine: built-in/succeed, whose tasks
// complete, and built-in/fail, whose tasks fail. They mark points in a graph.
// The queue is their worker, in one transaction from pending to resolved, with
// the messages of an ordinary run. Their payload is empty; one that is not is an
// exception, malformed-payload.
var builtIns = map[string]struct {
	state task.State
	why   task.Reason
}{
	"succeed": {task.Completed, task.DidComplete},
	"fail":    {task.Failed, task.DidFail},
}

// builtInGroup is the group of the workers that the queue itself is, and the
// first part of their task queues' names.
const builtInGroup = "built-in"

func (q *Queue) builtInLoops() (list []loop.Loop) {
	for _, name := range []string{"succeed", "fail"} {
		queueID := builtInGroup + "/" + name
		list = append(list, loop.Loop{
			Name: "queue.built-in-" + name, Doc: "Resolves the tasks of " + queueID + " as soon as they are pending.",
			When: loop.Every(30 * time.Second), Wake: q.db.Waits().Signal(topicPending(queueID)),
			Pass: func(ctx context.Context) (bool, error) { return q.resolveBuiltIn(ctx, name) },
		})
	}
	return list
}

// builtInBatch is how many tasks one transaction resolves.
const builtInBatch = 50

func (q *Queue) resolveBuiltIn(ctx context.Context, name string) (more bool, err error) {
	w := Worker{builtInGroup, name}
	k := workerKey{builtInGroup + "/" + name, w.String()}
	q.crew.seen(k)
	if pending, _, err := q.Pending(ctx, k.queueID); err != nil || pending == 0 {
		return false, err
	}
	var claims []claim
	err = q.change(ctx, func(c *changes) error {
		claims = nil
		taken, err := takeFrom(c.tx, k.queueID, builtInBatch)
		if err != nil {
			return err
		}
		records, err := q.lockTaken(c.tx, taken)
		if err != nil {
			return err
		}
		for _, p := range taken {
			r := records[p.taskID]
			if r == nil {
				continue
			}
			claims = append(claims, newClaim(r, c.claim(r, w)))
			end := builtIns[name]
			if !r.emptyPayload() {
				end.state, end.why = task.Exception, task.MalformedPayload
			}
			c.settle(r, end.state, end.why)
		}
		return nil
	})
	if err == nil && len(claims) > 0 {
		q.crew.claimed(k, claims)
	}
	return len(claims) == builtInBatch, err
}

func (r *record) emptyPayload() bool {
	var d struct {
		Payload map[string]json.RawMessage `json:"payload"`
	}
	return json.Unmarshal(r.definition, &d) == nil && len(d.Payload) == 0
}
