package hooks

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

type groupList struct {
	Groups []string `json:"groups"`
}

var listHookGroups = api.Declare(api.Spec{
	Name: "listHookGroups", Route: "GET /hooks",
	Scopes: scope.Scope("hooks:list-hooks:"), Output: "v1/list-hook-groups-response.json#",
	Stability: api.Stable, Category: "Hooks", Title: "List groups of hooks",
	Doc: `Lists the ids of all groups that have hooks.`,
}, func(ctx context.Context, h *Hooks, _ api.Call[api.None, api.None]) (r groupList, err error) {
	err = h.db.View(ctx, func(tx *store.Tx) error {
		r.Groups = []string{}
		rows, err := tx.Query(`SELECT DISTINCT hook_group_id FROM hook ORDER BY hook_group_id`)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				return err
			}
			r.Groups = append(r.Groups, id)
		}
		return rows.Err()
	})
	return r, err
})

type groupPath struct {
	HookGroupID string `path:"hookGroupId"`
}

type hookList struct {
	Hooks []*definition `json:"hooks"`
}

var listHooks = api.Declare(api.Spec{
	Name: "listHooks", Route: "GET /hooks/<hookGroupId>",
	Scopes: scope.Scope("hooks:list-hooks:<hookGroupId>"), Output: "v1/list-hooks-response.json#",
	Stability: api.Stable, Category: "Hooks", Title: "List the hooks of a group",
	Doc: `Lists the definitions of all hooks of a group. Fails with 404 where there are none.`,
}, func(ctx context.Context, h *Hooks, c api.Call[groupPath, api.None]) (r hookList, err error) {
	var list []*hook
	err = h.db.View(ctx, func(tx *store.Tx) (err error) {
		list, err = queryHooks(tx, `WHERE hook_group_id = $1 ORDER BY hook_id`, c.Path.HookGroupID)
		return err
	})
	if err == nil && len(list) == 0 {
		err = api.Errorf(api.ResourceNotFound, "There is no hook in the group %s.", c.Path.HookGroupID)
	}
	for _, k := range list {
		r.Hooks = append(r.Hooks, &k.definition)
	}
	return r, err
})

var getHook = api.Declare(api.Spec{
	Name: "hook", Route: "GET /hooks/<hookGroupId>/<hookId>",
	Scopes: scope.Scope("hooks:get:<hookGroupId>:<hookId>"), Output: "v1/hook-definition.json#",
	Stability: api.Stable, Category: "Hooks", Title: "Show a hook",
	Doc: `Returns the definition of a hook.`,
}, func(ctx context.Context, h *Hooks, c api.Call[hookPath, api.None]) (*definition, error) {
	k, err := h.find(ctx, c.Path)
	if err != nil {
		return nil, err
	}
	return &k.definition, nil
})

// find returns a hook, or an error for the caller.
func (h *Hooks) find(ctx context.Context, p hookPath) (k *hook, err error) {
	err = h.db.View(ctx, func(tx *store.Tx) (err error) {
		k, err = loadHook(tx, p, noLock)
		return err
	})
	if isNotFound(err) {
		err = p.notFound()
	}
	return k, err
}

type hookRequest struct {
	HookGroupID   string           `json:"hookGroupId"`
	HookID        string           `json:"hookId"`
	Metadata      json.RawMessage  `json:"metadata"`
	Task          json.RawMessage  `json:"task"`
	Bindings      *[]event.Binding `json:"bindings"`
	Schedule      []string         `json:"schedule"`
	TriggerSchema json.RawMessage  `json:"triggerSchema"`
}

// definition is what the request wants a hook to be, with bindings where it
// does not mention any.
func (r *hookRequest) definition(p hookPath, bindings []event.Binding) (*definition, error) {
	if r.HookGroupID != "" && r.HookGroupID != p.HookGroupID {
		return nil, api.Errorf(api.InputError, "hookGroupId is %s in the body and %s in the URL. Leave it out of the body, or make them agree.", r.HookGroupID, p.HookGroupID)
	}
	if r.HookID != "" && r.HookID != p.HookID {
		return nil, api.Errorf(api.InputError, "hookId is %s in the body and %s in the URL. Leave it out of the body, or make them agree.", r.HookID, p.HookID)
	}
	if r.Bindings != nil {
		bindings = *r.Bindings
	}
	return &definition{p.HookGroupID, p.HookID, bindings, r.Metadata, r.Task, r.Schedule, r.TriggerSchema}, nil
}

var modifyScopes = scope.AllOf{
	scope.Scope("hooks:modify-hook:<hookGroupId>/<hookId>"),
	scope.Scope("assume:hook-id:<hookGroupId>/<hookId>"),
}

var createHook = api.Declare(api.Spec{
	Name: "createHook", Route: "PUT /hooks/<hookGroupId>/<hookId>",
	Scopes: modifyScopes, Input: "v1/create-hook-request.json#", Output: "v1/hook-definition.json#",
	Stability: api.Stable, Category: "Hooks", Title: "Create a hook",
	Doc: `Creates a hook. The caller must have the role that the hook's tasks are created with, and the role needs the
scopes that ` + "`createTask`" + ` demands for them.

The patterns of a schedule have six fields, from the second to the day of the week, or five without the second; a hook
is due once a minute at most. Repeating the call is harmless; if there is such a hook with another definition, it fails with 409. Schedules,
bindings and the triggerSchema are checked. What the template makes of a payload shows when the hook is fired.`,
}, func(ctx context.Context, h *Hooks, c api.Call[hookPath, hookRequest]) (*definition, error) {
	now := timestamp.Now()
	d, err := c.Body.definition(c.Path, []event.Binding{})
	if err != nil {
		return nil, err
	}
	next, err := d.check(now)
	if err != nil {
		return nil, err
	}
	bindings, err := json.Marshal(d.Bindings)
	if err != nil {
		return nil, err
	}
	token := h.sealToken(c.Path, slugid.New())
	err = h.db.Do(ctx, func(tx *store.Tx) error {
		n, err := tx.Exec(`
			INSERT INTO hook (id, hook_group_id, hook_id, metadata, task, bindings, schedule, trigger_schema, trigger_token, size, next, created, mailed)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0)
			ON CONFLICT (hook_group_id, hook_id) DO NOTHING`,
			newKey(), d.HookGroupID, d.HookID, d.Metadata, d.Task, bindings, d.Schedule, d.TriggerSchema, token, d.size(), orNull(next), now)
		if err != nil {
			return err
		}
		if n == 0 {
			old, err := loadHook(tx, c.Path, noLock)
			if isNotFound(err) {
				return api.Errorf(api.RequestConflict, "The hook %s was deleted this moment. Call again.", c.Path)
			}
			if err != nil {
				return err
			}
			if what := old.difference(d); what != "" {
				return api.Errorf(api.RequestConflict, "There is a hook %s already, with another %s. Use updateHook to change it.", c.Path, what)
			}
			return nil
		}
		if err := checkGroup(tx, d.HookGroupID); err != nil {
			return err
		}
		return h.changed(tx, change{hookCreated, "created", c.Caller().ClientID}, c.Path, len(d.Bindings) > 0)
	})
	return d, err
})

// checkGroup refuses a group that cannot be listed in one reply.
func checkGroup(tx *store.Tx, id string) error {
	var n, size int64
	if err := tx.QueryRow(`SELECT count(*), coalesce(sum(size), 0) FROM hook WHERE hook_group_id = $1`, id).Scan(&n, &size); err != nil {
		return err
	}
	if n > mostHooks || size > largestHookGroup {
		return api.Errorf(api.InputError, "The group %s would have %d hooks of %d bytes together; %d hooks and %d bytes are the most. Use another group.", id, n, size, mostHooks, largestHookGroup)
	}
	return nil
}

// A change is what is done to a hook, and by whom.
type change struct {
	exchange api.Exchange
	action   string
	clientID string
}

// changed announces a change to a hook and records it in the history; bound
// tells whether it concerns bindings.
func (h *Hooks) changed(tx *store.Tx, what change, p hookPath, bound bool) error {
	if bound {
		if _, err := tx.Exec(`UPDATE hook_state SET value = value + 1 WHERE name = 'bindings'`); err != nil {
			return err
		}
	}
	tx.Wake(topicSchedule, store.Everybody)
	if h.audit != nil {
		if err := h.audit.Audit(tx, "hook", p.String(), what.clientID, what.action); err != nil {
			return err
		}
	}
	return h.publish(tx, what.exchange, p)
}

var updateHook = api.Declare(api.Spec{
	Name: "updateHook", Route: "POST /hooks/<hookGroupId>/<hookId>",
	Scopes: modifyScopes, Input: "v1/create-hook-request.json#", Output: "v1/hook-definition.json#",
	Stability: api.Stable, Category: "Hooks", Title: "Change a hook",
	Doc: `Replaces the definition of a hook. Without ` + "`bindings`" + ` it keeps those that it has. What makes ` + "`createHook`" + ` refuse a
definition makes this call refuse it too. Fires that are under way end as they were begun.`,
}, func(ctx context.Context, h *Hooks, c api.Call[hookPath, hookRequest]) (d *definition, err error) {
	now := timestamp.Now()
	// Checking takes longer than a transaction should.
	if d, err = c.Body.definition(c.Path, []event.Binding{}); err != nil {
		return nil, err
	}
	next, err := d.check(now)
	if err != nil {
		return nil, err
	}
	err = h.db.Do(ctx, func(tx *store.Tx) error {
		old, err := loadHook(tx, c.Path, forUpdate)
		if isNotFound(err) {
			return c.Path.notFound()
		}
		if err != nil {
			return err
		}
		if d, err = c.Body.definition(c.Path, old.Bindings); err != nil {
			return err
		}
		at := next
		if slices.Equal(d.Schedule, old.Schedule) {
			at = old.next // which may be due this moment
		}
		bindings, err := json.Marshal(d.Bindings)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(`
			UPDATE hook SET metadata = $2, task = $3, bindings = $4, schedule = $5, trigger_schema = $6, size = $7, next = $8
			 WHERE id = $1`,
			old.key, d.Metadata, d.Task, bindings, d.Schedule, d.TriggerSchema, d.size(), orNull(at)); err != nil {
			return err
		}
		if err := checkGroup(tx, d.HookGroupID); err != nil {
			return err
		}
		return h.changed(tx, change{hookUpdated, "updated", c.Caller().ClientID}, c.Path, c.Body.Bindings != nil)
	})
	return d, err
})

var removeHook = api.Declare(api.Spec{
	Name: "removeHook", Route: "DELETE /hooks/<hookGroupId>/<hookId>",
	Scopes:    scope.Scope("hooks:modify-hook:<hookGroupId>/<hookId>"),
	Stability: api.Stable, Category: "Hooks", Title: "Delete a hook",
	Doc: `Deletes a hook, its trigger token and what is known of its fires. Does nothing if there is no such hook.`,
}, func(ctx context.Context, h *Hooks, c api.Call[hookPath, api.None]) (api.None, error) {
	return api.None{}, h.db.Do(ctx, func(tx *store.Tx) error {
		k, err := loadHook(tx, c.Path, forUpdate)
		if isNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, statement := range []string{`DELETE FROM hook_fire WHERE hook = $1`, `DELETE FROM hook WHERE id = $1`} {
			if _, err := tx.Exec(statement, k.key); err != nil {
				return err
			}
		}
		return h.changed(tx, change{hookDeleted, "deleted", c.Caller().ClientID}, c.Path, len(k.Bindings) > 0)
	})
})

// orNull is how the database writes no time.
func orNull(t timestamp.Time) any {
	if t.IsZero() {
		return nil
	}
	return t
}
