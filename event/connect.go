package event

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
)

// API serves the log as server-sent events under /api/events/v1/.
var API = api.Service[*Bus]{
	Name: "events", Version: "v1", Title: "Events",
	Doc: "Streams the messages of all exchanges over plain HTTP, for those without a message broker.",
	Params: map[string]string{
		"bindings":    `^[\s\S]+$`,
		"lastEventId": `^[0-9]{1,18}$`,
	},
	Methods: []api.Method[*Bus]{connect},
}

const (
	pingInterval = 20 * time.Second
	maxBindings  = 100
	maxStreams   = 2000 // of one process; each looks at every message
)

var connect = api.Declare(api.Spec{
	Name: "connect", Route: "GET /connect/", Query: []string{"bindings", "lastEventId"},
	Scopes: scope.Scope("events:connect"), Stability: api.Experimental, Category: "Streams",
	Title: "Follow messages",
	Doc: `Answers with a stream of server-sent events that ends when the caller closes it.

The parameter ` + "`bindings`" + ` is JSON, ` + "`{\"bindings\": [{\"exchange\": …, \"routingKeyPattern\": …}]}`" + `.
The stream begins with an event *ready*; each message is an event *message* whose id is its position in the log;
*ping* comes every 20 seconds. A client that sends the last id it saw, as the header Last-Event-ID or as
` + "`lastEventId`" + `, gets everything since. Messages are kept for a day: if some of those asked for are
gone, an event *gap* says which positions are missing.`,
}, func(ctx context.Context, b *Bus, c api.Call[api.None, api.None]) (api.Stream, error) {
	var q struct {
		Bindings []Binding `json:"bindings"`
	}
	if err := json.Unmarshal([]byte(c.Query("bindings")), &q); err != nil {
		return nil, api.Errorf(api.InvalidRequestArguments, `The parameter bindings must be JSON such as {"bindings":[{"exchange":"exchange/taskcluster-queue/v1/task-completed","routingKeyPattern":"#"}]}: %v`, err)
	}
	if len(q.Bindings) == 0 || len(q.Bindings) > maxBindings {
		return nil, api.Errorf(api.InvalidRequestArguments, "The parameter bindings has %d bindings; it needs 1 to %d.", len(q.Bindings), maxBindings)
	}
	for _, x := range q.Bindings {
		if x.Exchange == "" || x.RoutingKeyPattern == "" || len(x.RoutingKeyPattern) > 1000 {
			return nil, api.Errorf(api.InvalidRequestArguments, "Each binding needs an exchange and a routingKeyPattern of at most 1000 characters.")
		}
	}
	oldest, at, err := b.span(ctx)
	if err != nil {
		return nil, err
	}
	last := c.HTTP.Header.Get("Last-Event-ID")
	if last == "" {
		last = c.Query("lastEventId")
	}
	if last != "" {
		seen, err := strconv.ParseInt(last, 10, 64)
		if err != nil || seen < 0 || seen > at {
			return nil, api.Errorf(api.InvalidRequestArguments, "Last-Event-ID is %q; it must be an id that this stream has sent", last)
		}
		at = seen
	}
	if b.streams.Add(1) > maxStreams {
		b.streams.Add(-1)
		return nil, api.Errorf(api.TooManyRequests, "There are %d streams open, and no more are served. Try again in a minute.", maxStreams)
	}
	return (&stream{b, q.Bindings, at, oldest}).run, nil
})

type stream struct {
	bus      *Bus
	bindings []Binding
	at       int64 // the last position sent or passed over
	oldest   int64 // kept at the time of the request
}

func (s *stream) run(w http.ResponseWriter, r *http.Request) error {
	ctl := http.NewResponseController(w)
	defer s.bus.streams.Add(-1)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	send := func(event string, id int64, data any) error {
		body, err := json.Marshal(data)
		if err != nil {
			return err
		}
		// A reader that takes nothing for a while is cut off; it can resume.
		if err := ctl.SetWriteDeadline(time.Now().Add(2 * pingInterval)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if _, err = fmt.Fprintf(w, "event: %s\nid: %d\ndata: %s\n\n", event, id, body); err != nil {
			return err
		}
		return ctl.Flush()
	}
	if err := send("ready", s.at, struct{}{}); err != nil {
		return err
	}
	if s.at < s.oldest-1 {
		if err := send("gap", s.oldest-1, map[string]int64{"from": s.at + 1, "to": s.oldest - 1}); err != nil {
			return err
		}
		s.at = s.oldest - 1
	}
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	for {
		wait := s.bus.db.Waits().Wait(topicPlaced)
		err := s.forward(r.Context(), send)
		if err != nil {
			wait.Close()
			return err
		}
		select {
		case <-r.Context().Done():
			err = r.Context().Err()
		case <-wait.C:
		case <-ping.C:
			err = send("ping", s.at, map[string]time.Time{"time": time.Now().UTC()})
		}
		wait.Close()
		if err != nil {
			return err
		}
	}
}

func (s *stream) forward(ctx context.Context, send func(string, int64, any) error) error {
	for {
		messages, err := s.bus.Read(ctx, s.at, batch)
		if err != nil {
			return err
		}
		for _, m := range messages {
			if matches(s.bindings, m) {
				if err := send("message", m.Position, m); err != nil {
					return err
				}
			}
			s.at = m.Position
		}
		if len(messages) < batch {
			return nil
		}
	}
}
