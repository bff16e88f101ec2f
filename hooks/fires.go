package hooks

import (
	"context"
	"strconv"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

type lastFire struct {
	HookGroupID    string         `json:"hookGroupId"`
	HookID         string         `json:"hookId"`
	FiredBy        string         `json:"firedBy"`
	TaskID         string         `json:"taskId"`
	TaskCreateTime timestamp.Time `json:"taskCreateTime"`
	Result         string         `json:"result"`
	Error          string         `json:"error"`
	TaskState      string         `json:"taskState"`
}

type lastFireList struct {
	LastFires         []lastFire `json:"lastFires"`
	ContinuationToken string     `json:"continuationToken,omitempty"`
}

var listLastFires = api.Declare(api.Spec{
	Name: "listLastFires", Route: "GET /hooks/<hookGroupId>/<hookId>/last-fires", Query: []string{"continuationToken", "limit"},
	Scopes: scope.Scope("hooks:list-last-fires:<hookGroupId>/<hookId>"), Output: "v1/list-lastFires-response.json#",
	Stability: api.Stable, Category: "Hook Status", Title: "List the fires of a hook",
	Doc: `Lists what came of the hook's fires, the latest first. The last 1000 are kept, for a year. Fires that did without a task,
since the template rendered to null, are not among them, nor are those that are still under way. Fails with 404 where
there is nothing to list.`,
}, func(ctx context.Context, h *Hooks, c api.Call[hookPath, api.None]) (r lastFireList, err error) {
	page, err := c.Page(1)
	if err != nil {
		return r, err
	}
	before := int64(1) << 62
	if page.After != nil {
		if before, err = page.Int(0); err != nil {
			return r, err
		}
	}
	var ids []int64
	err = h.db.View(ctx, func(tx *store.Tx) error {
		r.LastFires, ids = []lastFire{}, nil
		rows, err := tx.Query(`
			SELECT f.id, f.fired_by, f.task_id, f.finished, f.result, f.error FROM hook_fire AS f
			 WHERE f.hook = (SELECT id FROM hook WHERE hook_group_id = $1 AND hook_id = $2) AND f.due IS NULL AND f.id < $3
			 ORDER BY f.id DESC LIMIT $4`, c.Path.HookGroupID, c.Path.HookID, before, page.Limit+1)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id int64
			f := lastFire{HookGroupID: c.Path.HookGroupID, HookID: c.Path.HookID, TaskState: "unknown"}
			if err := rows.Scan(&id, &f.FiredBy, &f.TaskID, &f.TaskCreateTime, &f.Result, &f.Error); err != nil {
				return err
			}
			r.LastFires, ids = append(r.LastFires, f), append(ids, id)
		}
		return rows.Err()
	})
	if err != nil {
		return r, err
	}
	if len(ids) == 0 && page.After == nil {
		return r, api.Errorf(api.ResourceNotFound, "There is no hook %s, or it was never fired.", c.Path)
	}
	if len(ids) > page.Limit {
		r.LastFires = r.LastFires[:page.Limit]
		r.ContinuationToken = page.Token(strconv.FormatInt(ids[page.Limit-1], 10))
	}
	return r, h.addStates(ctx, r.LastFires)
})

func (h *Hooks) addStates(ctx context.Context, list []lastFire) error {
	if h.states == nil {
		return nil
	}
	var ids []string
	for _, f := range list {
		if f.Result == "success" {
			ids = append(ids, f.TaskID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	states, err := h.states.TaskStates(ctx, ids)
	if err != nil {
		return err
	}
	for i := range list {
		if state := states[list[i].TaskID]; state != "" && list[i].Result == "success" {
			list[i].TaskState = state
		}
	}
	return nil
}

type hookStatus struct {
	LastFire          statusFire     `json:"lastFire"`
	NextScheduledDate timestamp.Time `json:"nextScheduledDate,omitzero"`
}

type statusFire struct {
	Result string         `json:"result"`
	TaskID string         `json:"taskId,omitempty"`
	Error  *statusError   `json:"error,omitempty"`
	Time   timestamp.Time `json:"time,omitzero"`
}

type statusError struct {
	Message string `json:"message"`
}

var getHookStatus = api.Declare(api.Spec{
	Name: "getHookStatus", Route: "GET /hooks/<hookGroupId>/<hookId>/status",
	Scopes: scope.Scope("hooks:status:<hookGroupId>/<hookId>"), Output: "v1/hook-status.json#",
	Stability: api.Deprecated, Category: "Hook Status", Title: "Show how a hook does",
	Doc: `Tells how the hook's latest fire went and when its schedule is due next. A fire that has failed and is going to be tried
again counts as failed. Use ` + "`listLastFires`" + ` instead.`,
}, func(ctx context.Context, h *Hooks, c api.Call[hookPath, api.None]) (r hookStatus, err error) {
	err = h.db.View(ctx, func(tx *store.Tx) error {
		k, err := loadHook(tx, c.Path, noLock)
		if isNotFound(err) {
			return c.Path.notFound()
		}
		if err != nil {
			return err
		}
		r = hookStatus{statusFire{Result: "no-fire"}, k.next}
		var taskID, result, text string
		var fired, finished timestamp.Time
		// The id of a task that is not there yet is a secret: who knew it could
		// create a task of that id first.
		err = tx.QueryRow(`
			SELECT task_id, result, error, fired, finished FROM hook_fire
			 WHERE hook = $1 AND (due IS NULL OR attempts > 0) ORDER BY id DESC LIMIT 1`, k.key).Scan(&taskID, &result, &text, &fired, &finished)
		switch {
		case isNotFound(err):
			return nil
		case err != nil:
			return err
		case result == "success":
			r.LastFire = statusFire{Result: result, TaskID: taskID, Time: finished}
		default:
			if finished.IsZero() {
				finished = fired
			}
			r.LastFire = statusFire{Result: "error", Error: &statusError{text}, Time: finished}
		}
		return nil
	})
	return r, err
})
