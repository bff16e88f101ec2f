package index

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	topicCompleted = "exchange/taskcluster-queue/v1/task-completed"
	routePrefix    = "route.index."
)

// maxText bounds what one transaction writes, about, in bytes. Tasks with long
// data and many deep routes can come to more than fits into memory.
const maxText = 4 << 20

// told is what a message says.
type told struct {
	position int64
	entries  []entry
}

// follow indexes tasks that have completed: those of a call with one
// transaction, unless they are very large. It keeps a position of its own, so it is
// as if it had never acted.
func (x *Index) follow(ctx context.Context, messages []event.Message) (acted bool, err error) {
	var list []told
	size := 0
	for i, m := range messages {
		entries, err := x.read(ctx, m)
		if err != nil {
			return false, err
		}
		list = append(list, told{m.Position, entries})
		for _, e := range entries {
			size += len(e.Data) + len(e.Path)*(2+strings.Count(e.Path, ".")) // with its namespaces
		}
		if size < maxText && i < len(messages)-1 {
			continue
		}
		if err := x.takeIn(ctx, list); err != nil {
			return false, err
		}
		list, size = nil, 0
	}
	return false, nil
}

// takeIn writes what messages say, those that were taken in before excepted.
func (x *Index) takeIn(ctx context.Context, list []told) error {
	return x.db.Do(ctx, func(tx *store.Tx) error {
		var done int64
		if err := tx.QueryRow(`SELECT position FROM index_progress /*for update*/`).Scan(&done); err != nil {
			return err
		}
		list := slices.DeleteFunc(slices.Clone(list), func(t told) bool { return t.position <= done })
		if len(list) == 0 {
			return nil
		}
		if _, err := tx.Exec(`UPDATE index_progress SET position = $1`, list[len(list)-1].position); err != nil {
			return err
		}
		var entries []entry
		for _, t := range list {
			entries = append(entries, t.entries...)
		}
		return insert(tx, entries)
	})
}

// read makes entries of a message. What is wrong with a task is logged and
// costs that task alone: an error, which has the message come again, is only
// what may go better the next time.
func (x *Index) read(ctx context.Context, m event.Message) ([]entry, error) {
	var paths []string
	for _, key := range m.CC {
		path, ok := strings.CutPrefix(key, routePrefix)
		if ok && len(path) <= maxPath && validPath.MatchString(path) {
			paths = append(paths, path)
		}
	}
	var payload struct {
		Status struct {
			TaskID string `json:"taskId"`
		} `json:"status"`
	}
	if err := json.Unmarshal(m.Payload, &payload); err != nil || payload.Status.TaskID == "" {
		x.log.Warn("a message about a completed task cannot be read", "position", m.Position, "err", err)
		return nil, nil
	}
	id := payload.Status.TaskID
	if len(paths) == 0 {
		x.log.Info("a task has index routes, but none that is a path of the index", "taskId", id, "routes", m.CC)
		return nil, nil
	}
	definition, err := x.tasks.Definition(ctx, id)
	if e, ok := errors.AsType[*api.Error](err); ok && e.Code == api.ResourceNotFound {
		x.log.Info("a completed task is gone before it could be indexed", "taskId", id)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("index: the definition of task %s: %w", id, err)
	}
	e := how(definition, x.log.With("taskId", id))
	e.TaskID = id
	var entries []entry
	for _, path := range paths {
		e.Path = path
		entries = append(entries, e)
	}
	return entries, nil
}

// how tells how a task wants to be indexed. Whatever of it is missing or makes
// no sense is as if it were left out.
func how(definition json.RawMessage, log *slog.Logger) entry {
	var task struct {
		Created timestamp.Time  `json:"created"`
		Expires timestamp.Time  `json:"expires"`
		Extra   json.RawMessage `json:"extra"`
	}
	var wish struct {
		Index json.RawMessage `json:"index"`
	}
	var index struct {
		Rank    json.RawMessage `json:"rank"`
		Data    json.RawMessage `json:"data"`
		Expires json.RawMessage `json:"expires"`
	}
	read := func(text json.RawMessage, into any, what, instead string) bool {
		if len(text) == 0 || string(text) == "null" {
			return false
		}
		err := json.Unmarshal(text, into)
		if err != nil {
			log.Warn("what a task says about its indexing makes no sense: "+instead, "member", what, "err", err)
		}
		return err == nil
	}
	read(definition, &task, "task", "it counts as not said")
	read(task.Extra, &wish, "extra", "it counts as not said")
	read(wish.Index, &index, "extra.index", "it counts as not said")

	e := entry{Data: json.RawMessage(`{}`), Expires: task.Expires}
	if e.Expires.IsZero() {
		e.Expires = cmp.Or(task.Created, timestamp.Now()).Add(365 * 24 * time.Hour)
	}
	var rank float64
	if read(index.Rank, &rank, "extra.index.rank", "its rank is 0") {
		e.Rank = rank
	}
	var expires timestamp.Time
	if read(index.Expires, &expires, "extra.index.expires", "it expires with the task") {
		e.Expires = expires
	}
	var data map[string]json.RawMessage
	if read(index.Data, &data, "extra.index.data", "none is kept") {
		e.Data = index.Data
	}
	if n := len(e.Data); n > maxData {
		log.Warn("what a task says about its indexing is too long: none is kept", "member", "extra.index.data", "bytes", n, "allowed", maxData)
		e.Data = json.RawMessage(`{}`)
	}
	return e
}
