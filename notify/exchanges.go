package notify

import (
	"encoding/json"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store"
)

// notification is published for whoever asks for it.
var notification = api.Exchange{
	Exchange: "notification", Name: "notify", Title: "Notification",
	Doc: `A message that somebody with the scope to do so asked to publish. By a task's route
` + "`notify.pulse.<topic>.on-<event>`" + ` it is the task's status at the event.`,
	Schema: "v1/notification-message.json#", HasCCRoutes: true,
	RoutingKey: []api.RoutingKey{
		{Name: "routingKeyKind", Summary: "Always primary; the same topic also comes after route.", Constant: "primary", Required: true},
		{Name: "topic", Summary: "What was asked for.", Required: true, MultipleWords: true},
	},
}

// primary begins the routing keys, and makes them longer than those that
// begin with "route.".
const primary = "primary."

func (n *Notify) publish(tx *store.Tx, p publication) error {
	return n.events.Publish(tx, event.Topic("notify", "v1", notification), primary+p.RoutingKey, []string{"route." + p.RoutingKey}, struct {
		Version int             `json:"version"`
		Message json.RawMessage `json:"message"`
	}{1, p.Message})
}
