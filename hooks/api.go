package hooks

import (
	"errors"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/store"
)

// API is the service as served under /api/hooks/v1/.
var API = api.Service[*Hooks]{
	Name: "hooks", Version: "v1", Title: "Hooks",
	Doc: `Creates tasks by templates: on schedules, on messages, and when it is asked to.

A hook has a JSON-e template of a task. Whenever it is *fired*, the template is rendered, with a context that says by
what: ` + "`firedBy`" + ` is *schedule*, *pulseMessage*, *triggerHook* or *triggerHookWithToken*; ` + "`taskId`" + ` is the task's
future id; ` + "`now`" + ` is the time that ` + "`$fromNow`" + ` counts from; ` + "`payload`" + ` is the message or what the caller sent;
` + "`clientId`" + ` is who called *triggerHook*. What comes of it is created as a task, with the scopes of the role
` + "`hook-id:<hookGroupId>/<hookId>`" + `. If the template renders to null there is no task.

A task without ` + "`created`" + `, ` + "`deadline`" + ` or ` + "`expires`" + ` gets now, a day later, and 30 days later. One without
` + "`taskGroupId`" + ` founds a group of its own.`,
	Schemas: api.Folder(schemaFiles, "schemas"),
	Params: map[string]string{
		"hookGroupId": `^[a-zA-Z0-9-_]{1,1000}$`,
		"hookId":      `^[a-zA-Z0-9-_/]{1,1000}$`,
	},
	Methods: []api.Method[*Hooks]{
		listHookGroups, listHooks, getHook, getHookStatus, createHook, updateHook, removeHook,
		triggerHook, getTriggerToken, resetTriggerToken, triggerHookWithToken, listLastFires,
	},
	Exchanges: []api.Exchange{hookCreated, hookUpdated, hookDeleted},
}

type hookPath struct {
	HookGroupID string `path:"hookGroupId"`
	HookID      string `path:"hookId"`
}

func (p hookPath) String() string { return p.HookGroupID + "/" + p.HookID }

func (p hookPath) notFound() error {
	return api.Errorf(api.ResourceNotFound, "There is no hook %s.", p)
}

func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }
