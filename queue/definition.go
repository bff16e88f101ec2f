package queue

import (
	"context"
	"encoding/json"
)

// Definition returns a task as it was created, with the priority that it has
// now. Of one that does not exist, or not any more, the error is an *api.Error
// with the code ResourceNotFound.
func (q *Queue) Definition(ctx context.Context, taskID string) (json.RawMessage, error) {
	r, err := q.read(ctx, taskID)
	if err != nil {
		return nil, err
	}
	return r.shown(), nil
}
