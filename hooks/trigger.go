package hooks

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A triggerResponse is empty where there is no task.
type triggerResponse struct {
	TaskID string         `json:"taskId,omitempty"`
	Status *triggerStatus `json:"status,omitempty"`
}

type triggerStatus struct {
	TaskID string `json:"taskId"`
}

func triggered(taskID string) triggerResponse {
	return triggerResponse{taskID, &triggerStatus{taskID}}
}

const triggerDoc = `

The body has to fit the hook's ` + "`triggerSchema`" + `; what that has defaults for may be missing. The template sees it as
` + "`payload`" + `. If the body has a ` + "`taskId`" + `, the task gets that id; then the call can be repeated safely, with the same body.`

var triggerHook = api.Declare(api.Spec{
	Name: "triggerHook", Route: "POST /hooks/<hookGroupId>/<hookId>/trigger",
	Scopes: scope.Scope("hooks:trigger-hook:<hookGroupId>/<hookId>"),
	Input:  "v1/trigger-hook.json#", Output: "v1/trigger-hook-response.json#",
	Stability: api.Stable, Category: "Hooks", Title: "Fire a hook",
	Doc: `Creates the hook's task and returns its id, or an empty object if the template renders to null.` + triggerDoc,
}, func(ctx context.Context, h *Hooks, c api.Call[hookPath, json.RawMessage]) (r triggerResponse, err error) {
	k, err := h.find(ctx, c.Path)
	if err != nil {
		return r, err
	}
	variables := map[string]any{}
	if id := c.Caller().ClientID; id != "" {
		variables["clientId"] = id
	}
	return h.trigger(ctx, k, byCall, c.Body, variables)
})

type tokenPath struct {
	HookGroupID string `path:"hookGroupId"`
	HookID      string `path:"hookId"`
	Token       string `path:"token"`
}

var triggerHookWithToken = api.Declare(api.Spec{
	Name: "triggerHookWithToken", Route: "POST /hooks/<hookGroupId>/<hookId>/trigger/<token>",
	Input: "v1/trigger-hook.json#", Output: "v1/trigger-hook-response.json#",
	Stability: api.Stable, Category: "Hooks", Title: "Fire a hook with its token", Hidden: []string{"token"},
	Doc: `Does what ` + "`triggerHook`" + ` does, for those who have no credentials but know the hook's trigger token. With another token
it fails with 401.` + triggerDoc,
}, func(ctx context.Context, h *Hooks, c api.Call[tokenPath, json.RawMessage]) (r triggerResponse, err error) {
	p := hookPath{c.Path.HookGroupID, c.Path.HookID}
	k, err := h.find(ctx, p)
	if err != nil {
		return r, err
	}
	token, err := h.openToken(p, k.token)
	if err != nil {
		return r, err
	}
	if !sameToken(c.Path.Token, token) {
		return r, api.Errorf(api.AuthenticationFailed, "This is not the trigger token of the hook %s. It may have been reset; getTriggerToken tells the present one.", p)
	}
	return h.trigger(ctx, k, byToken, c.Body, map[string]any{})
})

// trigger fires a hook at somebody's request and tells them what came of it.
func (h *Hooks) trigger(ctx context.Context, k *hook, firedBy string, body json.RawMessage, variables map[string]any) (r triggerResponse, err error) {
	if len(body) > largestPayload {
		return r, api.Errorf(api.InputTooLarge, "The payload has %d bytes, and %d are the most.", len(body), largestPayload)
	}
	var payload map[string]any
	if err := json.Unmarshal(body, &payload); err != nil {
		return r, api.Errorf(api.InputError, "The payload cannot be read: %v.", err)
	}
	schema, err := h.schemas.of(k.TriggerSchema)
	if err != nil {
		return r, api.Errorf(api.InputError, "The hook's triggerSchema cannot be used:\n%v", err)
	}
	if err := schema.check(payload); err != nil {
		return r, api.Errorf(api.InputError, "The payload does not fit the hook's triggerSchema:\n%v", err)
	}
	variables["payload"] = payload
	taskID, request := "", ""
	if v := payload["taskId"]; !empty(v) {
		id, ok := v.(string)
		if !ok || !slugid.Valid(id) {
			return r, api.Errorf(api.InputError, "The payload's taskId is %s, which is no slugid. Leave it out, or give 22 characters such as %s.", shorten(string(mustEncode(v)), 100), slugid.New())
		}
		taskID, request = id, requestHash(firedBy, variables)
	}
	now := timestamp.Now()
	f := newFire(k, firedBy, taskID, now, now.Add(persistence), variables)
	if f == nil {
		return r, nil
	}
	f.request = request
	done := false
	if err := h.db.Do(ctx, func(tx *store.Tx) error {
		if request != "" {
			var err error
			if done, err = f.resume(tx); done || err != nil {
				return err
			}
			if f.id != 0 {
				return nil
			}
		}
		// If this process stops before the task is created, it is done later: when
		// finish must have given up, if it still runs.
		return f.insert(tx, now.Add(time.Duration(len(pauses)+2)*patience))
	}); isNotFound(err) {
		return r, f.path.notFound()
	} else if err != nil {
		return r, err
	}
	if done {
		return triggered(f.taskID), nil
	}
	if f.err != nil {
		return r, api.Errorf(api.InputError, "While firing the hook:\n\n%v", f.err)
	}
	return h.finish(ctx, f)
}

// resume finds the fire of a request that is made once more. If there is one
// under way, f becomes that one; it may be done already. Where the hook was
// deleted meanwhile, the error is store.ErrNotFound.
func (f *fire) resume(tx *store.Tx) (done bool, err error) {
	var key int64
	if err := tx.QueryRow(`SELECT id FROM hook WHERE id = $1 /*for update*/`, f.hook).Scan(&key); err != nil {
		return false, err
	}
	f.id = 0
	var id int64
	var result string
	var definition json.RawMessage
	err = tx.QueryRow(`
		SELECT id, result, definition FROM hook_fire WHERE hook = $1 AND task_id = $2 AND request = $3 AND result <> 'error'
		 ORDER BY id DESC LIMIT 1`, f.hook, f.taskID, f.request).Scan(&id, &result, &definition)
	switch {
	case isNotFound(err):
		return false, nil
	case err != nil:
		return false, err
	case result == "success":
		return true, nil
	}
	f.id, f.definition, f.err = id, definition, nil
	return false, nil
}

// Pauses between attempts while a caller waits.
var pauses = []time.Duration{100 * time.Millisecond, time.Second}

// finish creates the task of a fire while the caller waits.
func (h *Hooks) finish(ctx context.Context, f *fire) (r triggerResponse, err error) {
	err = h.create(ctx, f)
	for _, pause := range pauses {
		if err == nil || forGood(err) {
			break
		}
		h.log.Error("the task of a hook could not be created", "hook", f.path.String(), "taskId", f.taskID, "err", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return r, context.Cause(ctx) // nobody waits; the loop goes on
		}
		f.attempts++
		err = h.create(ctx, f)
	}
	if ctx.Err() != nil {
		return r, context.Cause(ctx)
	}
	if e := h.conclude(ctx, f, err); e != nil {
		return r, e
	}
	if err == nil {
		return triggered(f.taskID), nil
	}
	e, ok := errors.AsType[*api.Error](err)
	switch {
	case !forGood(err):
		return r, api.Errorf(api.ServiceUnavailable, "%s Call again.", f.text(err))
	case ok && e.Code == api.InsufficientScopes:
		return r, api.Errorf(api.InsufficientScopes, "The role `hook-id:%s` does not have sufficient scopes to create the task:\n\n%s", f.path, e.Message)
	}
	return r, api.Errorf(api.InputError, "While calling createTask: %s\n\n%s", e.Code, e.Message)
}

func requestHash(firedBy string, variables map[string]any) string {
	h := sha256.New()
	h.Write([]byte(firedBy + "\n"))
	h.Write(mustEncode(variables)) // with sorted keys
	return hex.EncodeToString(h.Sum(nil))
}

func mustEncode(v any) json.RawMessage {
	text, err := encode(v)
	if err != nil {
		panic(err) // it was decoded from JSON
	}
	return text
}
