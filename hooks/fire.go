package hooks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/jsone"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Causes of fires, as templates see them.
const (
	bySchedule = "schedule"
	byMessage  = "pulseMessage"
	byCall     = "triggerHook"
	byToken    = "triggerHookWithToken"
)

const (
	mostFires    = 1000 // that are kept of a hook
	longestError = 8 << 10

	batch       = 100
	parallel    = 8                // tasks created at the same time
	patience    = 30 * time.Second // with one creation
	persistence = time.Hour        // how long a fire without next date is tried
	stale       = 10 * time.Minute // after which a definition is rendered anew
	mailPause   = time.Hour        // between emails about a hook
)

// A fire is the creation of a task, intended or done.
type fire struct {
	id         int64
	hook       int64
	path       hookPath
	taskID     string
	firedBy    string
	fired      timestamp.Time
	request    string
	context    json.RawMessage
	definition json.RawMessage
	attempts   int
	giveUp     timestamp.Time

	err error // of rendering: there is nothing to be created
}

// newFire renders a hook's template as of a time. It returns nil where the
// template wants no task. variables are those of the cause.
func newFire(k *hook, firedBy, taskID string, at, giveUp timestamp.Time, variables map[string]any) *fire {
	if taskID == "" {
		taskID = slugid.New()
	}
	f := &fire{hook: k.key, path: k.path(), taskID: taskID, firedBy: firedBy, fired: at, giveUp: giveUp}
	all := map[string]any{"firedBy": firedBy, "taskId": taskID}
	for name, v := range variables {
		all[name] = v
	}
	if f.definition, f.err = render(k.Task, all, taskID, at); f.err != nil {
		return f
	}
	if f.definition == nil {
		return nil
	}
	f.context, f.err = encode(all)
	return f
}

// render makes the definition of a task from a template, or nil if it wants
// none.
func render(template json.RawMessage, variables map[string]any, taskID string, at timestamp.Time) (definition json.RawMessage, err error) {
	defer func() {
		if r := recover(); r != nil { // one template does not stop the others
			definition, err = nil, fmt.Errorf("the template cannot be rendered: %v", r)
		}
	}()
	var t any
	if err := json.Unmarshal(template, &t); err != nil {
		return nil, fmt.Errorf("the template is not what it was: %w", err)
	}
	variables["now"] = at.String()
	result, err := jsone.Render(t, variables)
	if err != nil {
		return nil, fmt.Errorf("the template cannot be rendered: %w", err)
	}
	if empty(result) {
		return nil, nil
	}
	task, ok := result.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("the template renders to %T, not to the definition of a task; render to null for no task", result)
	}
	for name, value := range map[string]string{
		"created": at.String(), "deadline": at.Add(24 * time.Hour).String(), "expires": at.Add(30 * 24 * time.Hour).String(), "taskGroupId": taskID,
	} {
		if empty(task[name]) {
			task[name] = value
		}
	}
	return encode(task)
}

// empty is what counts as nothing: null, false, 0 and "".
func empty(v any) bool { return v == nil || v == false || v == 0.0 || v == "" }

func encode(v any) (json.RawMessage, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// insert writes a fire down: as one to be done at a time or, if it could not be
// rendered, as one that has failed. Where the hook was deleted meanwhile, the
// error is store.ErrNotFound. It is not deleted before the transaction ends.
func (f *fire) insert(tx *store.Tx, due timestamp.Time) error {
	if f.err != nil {
		return f.insertFailed(tx)
	}
	err := tx.QueryRow(`
		INSERT INTO hook_fire (hook, task_id, fired_by, fired, request, context, definition, attempts, due, give_up, finished, result, error)
		SELECT id, $2, $3, $4, $5, $6, $7, 0, $8, $9, 0, '', '' FROM hook WHERE id = $1 /*for key share*/ RETURNING id`,
		f.hook, f.taskID, f.firedBy, f.fired, f.request, f.context, f.definition, due, f.giveUp).Scan(&f.id)
	if err == nil {
		tx.Wake(topicFire, store.Everybody)
	}
	return err
}

func (f *fire) insertFailed(tx *store.Tx) error {
	n, err := tx.Exec(`
		INSERT INTO hook_fire (hook, task_id, fired_by, fired, request, attempts, give_up, finished, result, error)
		SELECT id, $2, $3, $4, '', 0, 0, $5, 'error', $6 FROM hook WHERE id = $1 /*for key share*/`,
		f.hook, f.taskID, f.firedBy, f.fired, timestamp.Now(), shorten(f.err.Error(), longestError))
	if err == nil && n == 0 {
		err = store.ErrNotFound
	}
	if err != nil {
		return err
	}
	return trim(tx, f.hook)
}

// trim forgets the oldest fires of a hook.
func trim(tx *store.Tx, hook int64) error {
	_, err := tx.Exec(`
		DELETE FROM hook_fire WHERE hook = $1 AND due IS NULL AND id <= (
		  SELECT id FROM hook_fire WHERE hook = $1 AND due IS NULL ORDER BY id DESC LIMIT 1 OFFSET $2)`, hook, mostFires)
	return err
}

// createTasks is a pass over the fires that are due.
func (h *Hooks) createTasks(ctx context.Context) (more bool, err error) {
	var list []*fire
	if err := h.db.View(ctx, func(tx *store.Tx) error {
		list = nil
		rows, err := tx.Query(`
			SELECT f.id, f.hook, h.hook_group_id, h.hook_id, f.task_id, f.fired_by, f.fired, f.request, f.context, f.definition, f.attempts, f.give_up
			  FROM hook_fire AS f JOIN hook AS h ON h.id = f.hook
			 WHERE f.due <= $1 ORDER BY f.due, f.id LIMIT $2`, timestamp.Now(), batch)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			f := &fire{}
			if err := rows.Scan(&f.id, &f.hook, &f.path.HookGroupID, &f.path.HookID, &f.taskID, &f.firedBy, &f.fired, &f.request, &f.context, &f.definition, &f.attempts, &f.giveUp); err != nil {
				return err
			}
			list = append(list, f)
		}
		return rows.Err()
	}); err != nil {
		return false, err
	}
	var wg sync.WaitGroup
	room := make(chan struct{}, parallel)
	failures := make([]error, len(list))
	for i, f := range list {
		room <- struct{}{}
		wg.Go(func() {
			failures[i] = h.attempt(ctx, f)
			<-room
		})
	}
	wg.Wait()
	if err := errors.Join(failures...); err != nil {
		return false, err
	}
	if len(list) == batch {
		return true, nil
	}
	return false, h.earliest(ctx, &h.fireAlarm, topicFire, `SELECT min(due) FROM hook_fire WHERE due IS NOT NULL`)
}

// attempt tries to create a fire's task and writes down what came of it.
func (h *Hooks) attempt(ctx context.Context, f *fire) error {
	if timestamp.Now().Sub(f.fired) > stale {
		if over, err := h.refresh(ctx, f); over || err != nil {
			return err
		}
	}
	err := h.create(ctx, f)
	if ctx.Err() != nil {
		return context.Cause(ctx) // it stays to be done
	}
	if err == nil || forGood(err) {
		return h.conclude(ctx, f, err)
	}
	pause := min(5*time.Second<<min(f.attempts, 10), 5*time.Minute)
	due := timestamp.Now().Add(pause/2 + rand.N(pause/2))
	h.log.Error("the task of a hook could not be created", "hook", f.path.String(), "taskId", f.taskID, "attempt", f.attempts+1, "retry", due, "err", err)
	if due > f.giveUp {
		return h.conclude(ctx, f, err)
	}
	return h.db.Do(ctx, func(tx *store.Tx) error {
		_, err := tx.Exec(`UPDATE hook_fire SET attempts = attempts + 1, due = $3, error = $4 WHERE id = $1 AND task_id = $2 AND due IS NOT NULL`,
			f.id, f.taskID, due, f.text(err))
		return err
	})
}

// create creates a fire's task. That there is a task of its id already, when
// nobody else can know the id, is our own doing.
func (h *Hooks) create(ctx context.Context, f *fire) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err = h.tasks.CreateTask(ctx, f.path.HookGroupID, f.path.HookID, f.taskID, f.definition)
	if e, ok := errors.AsType[*api.Error](err); ok && e.Code == api.RequestConflict && f.attempts > 0 && f.request == "" {
		return nil
	}
	return err
}

// forGood tells whether it makes no sense to try again.
func forGood(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Status() < 500 && e.Code != api.TooManyRequests
}

// text is how people read an error: what is not meant for them is in the log.
func (f *fire) text(err error) string {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return shorten(e.Error(), longestError)
	}
	return fmt.Sprintf("The task could not be created, at attempt %d, for reasons inside the platform; they are in the log of the server, under the taskId %s.", f.attempts+1, f.taskID)
}

// refresh renders a fire anew that has waited for so long that its definition
// is of the past.
func (h *Hooks) refresh(ctx context.Context, f *fire) (over bool, err error) {
	var template json.RawMessage
	err = h.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(`SELECT task FROM hook WHERE id = $1`, f.hook).Scan(&template)
	})
	if isNotFound(err) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	now := timestamp.Now()
	var variables map[string]any
	if err := json.Unmarshal(f.context, &variables); err != nil {
		return false, fmt.Errorf("context of fire %d: %w", f.id, err)
	}
	definition, err := render(template, variables, f.taskID, now)
	if err != nil {
		return true, h.conclude(ctx, f, api.Errorf(api.InputError, "%v", err))
	}
	return definition == nil, h.db.Do(ctx, func(tx *store.Tx) error {
		if definition == nil {
			_, err := tx.Exec(`DELETE FROM hook_fire WHERE id = $1 AND task_id = $2`, f.id, f.taskID)
			return err
		}
		f.definition, f.fired, f.attempts = definition, now, max(f.attempts, 1)
		_, err := tx.Exec(`UPDATE hook_fire SET definition = $3, fired = $4, attempts = $5 WHERE id = $1 AND task_id = $2 AND due IS NOT NULL`,
			f.id, f.taskID, definition, now, f.attempts)
		return err
	})
}

// conclude writes down that a fire is over, with success if cause is nil.
func (h *Hooks) conclude(ctx context.Context, f *fire, cause error) error {
	result, text := "success", ""
	if cause != nil {
		result, text = "error", f.text(cause)
	}
	var n int64
	err := h.db.Do(ctx, func(tx *store.Tx) (err error) {
		n, err = tx.Exec(`
			UPDATE hook_fire SET attempts = attempts + 1, due = NULL, context = NULL, definition = NULL, finished = $3, result = $4, error = $5
			 WHERE id = $1 AND task_id = $2 AND due IS NOT NULL`, f.id, f.taskID, timestamp.Now(), result, text)
		if err != nil || n == 0 {
			return err
		}
		return trim(tx, f.hook)
	})
	if err == nil && n > 0 && cause != nil && f.firedBy == bySchedule {
		h.tell(ctx, f, text)
	}
	return err
}

// tell sends an email about a failure to a hook's owner, unless they got one
// not long ago. That it cannot be sent changes nothing.
func (h *Hooks) tell(ctx context.Context, f *fire, text string) {
	if h.mail == nil {
		return
	}
	var metadata struct {
		Owner        string `json:"owner"`
		EmailOnError bool   `json:"emailOnError"`
	}
	mine := false
	err := h.db.Do(ctx, func(tx *store.Tx) error {
		var raw json.RawMessage
		if err := tx.QueryRow(`SELECT metadata FROM hook WHERE id = $1`, f.hook).Scan(&raw); err != nil {
			return err
		}
		if err := json.Unmarshal(raw, &metadata); err != nil || !metadata.EmailOnError {
			return err
		}
		now := timestamp.Now()
		n, err := tx.Exec(`UPDATE hook SET mailed = $2 WHERE id = $1 AND mailed <= $3`, f.hook, now, now.Add(-mailPause))
		mine = n == 1
		return err
	})
	if err == nil && mine {
		err = h.mail.Email(ctx, metadata.Owner, fmt.Sprintf("Hook %s could not create its task", f.path), fmt.Sprintf(`The schedule of the hook `+"`%s`"+`, whose owner you are, was due at %s, but its task could not be created:

%s

The hook goes on with its schedule. About further failures within an hour there is no email; all of them are in the
list of the hook's fires.
`, f.path, f.fired, indent(text)))
	}
	if err != nil && !isNotFound(err) {
		h.log.Warn("the owner of a hook could not be told of a failure", "hook", f.path.String(), "err", err)
	}
}

// indent makes a text one that Markdown leaves alone.
func indent(text string) string { return "    " + strings.ReplaceAll(text, "\n", "\n    ") }

// forget deletes fires that were a year ago.
func (h *Hooks) forget(ctx context.Context) (more bool, err error) {
	const limit = 1000
	err = h.db.Do(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`
			DELETE FROM hook_fire WHERE id IN (
			  SELECT id FROM hook_fire WHERE due IS NULL AND finished < $1 ORDER BY finished LIMIT $2)`,
			timestamp.Of(time.Now().AddDate(-1, 0, 0)), limit)
		more = n == limit
		return err
	})
	return more, err
}
