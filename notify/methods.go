package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/store"
)

// callTimeout bounds the attempt that a call makes: its caller waits.
const callTimeout = 10 * time.Second

const docAccepted = `

The call returns 200 when the message was sent, or could not be sent yet for a reason that may pass: it is then tried
again, for a day. It returns 204, and nothing is sent, where the same content went to the same address within the last
hour, or where the address has had too many messages: `

var email = api.Declare(api.Spec{
	Name: "email", Route: "POST /email", Scopes: scope.Scope("notify:email:<address>"), Input: "v1/email-request.json#",
	Stability: api.Experimental, Category: "Notifications", Title: "Send an email",
	Doc: `Sends an email whose text is Markdown.` + docAccepted + fmt.Sprintf(`%d emails in ten minutes unless the deployment is configured otherwise. An address on the
denylist is refused with 400 and the code `, emailLimit) + "`DenylistedAddress`.",
}, func(ctx context.Context, n *Notify, c api.Call[api.None, *letter]) (api.Reply, error) {
	if err := c.Authorize(scope.Vars{"address": c.Body.Address}); err != nil {
		return nil, err
	}
	return n.request(ctx, "email", c.Body)
})

var pulse = api.Declare(api.Spec{
	Name: "pulse", Route: "POST /pulse", Scopes: scope.Scope("notify:pulse:<routingKey>"), Input: "v1/pulse-request.json#",
	Stability: api.Experimental, Category: "Notifications", Title: "Publish a message",
	Doc: `Publishes a message on the exchange ` + "`notification`" + `. The call returns 204, and nothing is published, where the same
message was published with the same routing key within the last hour. A routing key on the denylist is refused with 400
and the code ` + "`DenylistedAddress`.",
}, func(ctx context.Context, n *Notify, c api.Call[api.None, publication]) (api.Reply, error) {
	if err := c.Authorize(scope.Vars{"routingKey": c.Body.RoutingKey}); err != nil {
		return nil, err
	}
	return n.request(ctx, "pulse", c.Body)
})

var matrix = api.Declare(api.Spec{
	Name: "matrix", Route: "POST /matrix", Scopes: scope.Scope("notify:matrix-room:<roomId>"), Input: "v1/matrix-request.json#",
	Stability: api.Experimental, Category: "Notifications", Title: "Send a message to a room of Matrix",
	Doc: `Sends a message to a room, joining it where the platform's user was invited or anybody may. Where that is
not so, or the room does not exist, the call fails with 400.` + docAccepted + fmt.Sprintf(`%d messages in ten minutes. A room on the denylist is refused with 400 and the code `, roomLimit) + "`DenylistedAddress`.",
}, func(ctx context.Context, n *Notify, c api.Call[api.None, RoomMessage]) (api.Reply, error) {
	if err := c.Authorize(scope.Vars{"roomId": c.Body.RoomID}); err != nil {
		return nil, err
	}
	return n.request(ctx, "matrix", c.Body)
})

var slack = api.Declare(api.Spec{
	Name: "slack", Route: "POST /slack", Scopes: scope.Scope("notify:slack-channel:<channelId>"), Input: "v1/slack-request.json#",
	Stability: api.Experimental, Category: "Notifications", Title: "Send a message to a channel of Slack",
	Doc: `Sends a message to a channel. The platform's app may have to be added to the channel first. What Slack refuses
for good (an unknown channel, blocks that it does not understand) makes the call fail with 400.` + docAccepted + fmt.Sprintf(`%d messages in ten minutes. A channel on the denylist is refused with 400 and the code `, roomLimit) + "`DenylistedAddress`.",
}, func(ctx context.Context, n *Notify, c api.Call[api.None, ChannelMessage]) (api.Reply, error) {
	if err := c.Authorize(scope.Vars{"channelId": c.Body.ChannelID}); err != nil {
		return nil, err
	}
	return n.request(ctx, "slack", c.Body)
})

// request does what a call asks for: writes the message into the outbox, makes
// the first attempt, and tells how it went.
func (n *Notify) request(ctx context.Context, method string, m message) (api.Reply, error) {
	k := m.kind()
	if k != byPulse && n.senders[k] == nil {
		return nil, api.Errorf(api.InputError, "%s", k.unconfigured())
	}
	if err := m.check(); err != nil {
		return nil, err
	}
	var w *waiting
	var v verdict
	err := n.db.Do(ctx, func(tx *store.Tx) (err error) {
		// Not due for the loop before the attempt below counts as lost.
		w, v, err = n.accept(tx, m, now().Add(reservation))
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case v == denylisted:
		return denied{method, m}, nil
	case v != accepted:
		return done(http.StatusNoContent), nil
	case w == nil: // published
		return done(http.StatusOK), nil
	}
	// A caller who hangs up does not break the attempt off: it may have
	// succeeded.
	problem := n.attempt(context.WithoutCancel(ctx), w, callTimeout)
	if err := n.conclude(ctx, w, problem); err != nil {
		n.log.Error("the message may be sent twice", "message", w.id, "err", err)
	}
	if r := refused(problem); r != nil {
		return nil, api.Errorf(api.InputError, "The message for %s was refused: %s", m.address(), r.Reason)
	}
	return done(http.StatusOK), nil
}

// done is a reply that is nothing but its status.
type done int

func (d done) Status() int                { return int(d) }
func (done) Header() map[string]string    { return nil }
func (done) MarshalJSON() ([]byte, error) { return []byte("{}"), nil }

// denied is the reply for an address on the denylist: an error of this service
// alone, so its code is not among those of package api.
type denied struct {
	method string
	message
}

const denylistedAddress = "DenylistedAddress"

func (denied) Status() int               { return http.StatusBadRequest }
func (denied) Header() map[string]string { return nil }

func (d denied) MarshalJSON() ([]byte, error) {
	t := now()
	text := fmt.Sprintf("%s %s is on the denylist, so nothing is sent to it. Who may manage the denylist can take it off.", d.kind(), d.address())
	return json.Marshal(map[string]any{
		"code": denylistedAddress,
		"message": fmt.Sprintf("%s\n\n---\n\n* method:     %s\n* errorCode:  %s\n* statusCode: %d\n* time:       %s",
			text, d.method, denylistedAddress, d.Status(), t),
		"requestInfo": map[string]any{"method": d.method, "params": struct{}{}, "payload": d.message, "time": t},
	})
}
