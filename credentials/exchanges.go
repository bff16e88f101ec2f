package credentials

import (
	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store"
)

var (
	rotationDoneExchange = rotationExchange("rotated", "rotated", "Credential rotated",
		"A credential was rotated: its new version is in use, and no older one is left.")
	rotationFailedExchange = rotationExchange("rotation-failed", "rotationFailed", "Rotation failed",
		"A new version of a credential could not be made, or did not work. The version before stays in use, and another rotation is tried later.")
	attentionExchange = rotationExchange("attention", "attention", "Credential needs attention",
		"A rotation has been waiting or failing for longer than it should, a consumer cannot be given the current version of a credential, or that version does not work any more.")
)

func rotationExchange(topic, method, title, doc string) api.Exchange {
	return api.Exchange{
		Exchange: topic, Name: method, Title: title, Doc: doc, Schema: "v1/credential-message.json#",
		RoutingKey: []api.RoutingKey{
			{Name: "routingKeyKind", Summary: "Always primary.", Constant: "primary", Required: true},
			{Name: "name", Summary: "The credential.", Required: true},
			{Name: "kind", Summary: "Its kind.", Required: true},
			{Name: "reserved", Summary: "Room for later additions; match it with #.", MultipleWords: true},
		},
	}
}

// A message is the payload of the exchanges. What went wrong is for those who may
// look at the credential: it names addresses and programs.
type message struct {
	Version    int    `json:"version"`
	Name       string `json:"name"`
	Kind       string `json:"kind"`
	ID         string `json:"id,omitempty"` // of the version
	RotationID string `json:"rotationId,omitempty"`
	Reason     string `json:"reason,omitempty"`
	Step       Step   `json:"step,omitempty"`
}

// tell publishes what has become of a rotation.
func (c *Credentials) tell(tx *store.Tx, x *api.Exchange, d *defined, r *rotation) error {
	m := message{Version: 1, Name: d.Name, Kind: d.Kind}
	if r != nil {
		m.ID, m.RotationID, m.Reason, m.Step = r.version, r.id, r.reason, r.step
	}
	return c.config.Events.Publish(tx, event.Topic("credentials", "v1", *x), "primary."+d.Name+"."+d.Kind+"._", nil, m)
}

// alert says that somebody has to look.
func (c *Credentials) alert(tx *store.Tx, d *defined, r *rotation, why string) error {
	tx.AfterCommit(func() { c.log.Error("a credential needs attention", "credential", d.Name, "why", why) })
	return c.tell(tx, &attentionExchange, d, r)
}
