package hooks

import (
	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store"
)

var (
	hookCreated = exchange("hook-created", "hookCreated", "Hook created", "There is a new hook.")
	hookUpdated = exchange("hook-updated", "hookUpdated", "Hook updated", "A hook's definition was changed.")
	hookDeleted = exchange("hook-deleted", "hookDeleted", "Hook deleted", "A hook is gone.")
)

func exchange(topic, name, title, doc string) api.Exchange {
	return api.Exchange{
		Exchange: topic, Name: name, Title: title, Doc: doc, Schema: "v1/pulse-hook-changed-message.json#",
		RoutingKey: []api.RoutingKey{
			{Name: "reserved", Summary: "Room for later additions; match it with #.", MultipleWords: true},
		},
	}
}

func (h *Hooks) publish(tx *store.Tx, x api.Exchange, p hookPath) error {
	return h.events.Publish(tx, event.Topic("hooks", "v1", x), "_", nil, map[string]string{
		"hookGroupId": p.HookGroupID, "hookId": p.HookID,
	})
}
