package event

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/scope"
)

// API serves the log as streams under /api/events/v1/.
var API = api.Service[*Bus]{
	Name: "events", Version: "v1", Title: "Events",
	Doc: "Streams the messages of all exchanges over plain HTTP or WebSocket, for those without a message broker.",
	Params: map[string]string{
		"bindings":    `^[\s\S]+$`,
		"lastEventId": `^[0-9]{1,18}$`,
	},
	Methods: []api.Method[*Bus]{connect},
}

var connect = api.Declare(api.Spec{
	Name: "connect", Route: "GET /connect/", Query: []string{"bindings", "lastEventId"},
	Scopes: scope.Scope("events:connect"), Stability: api.Experimental, Category: "Streams",
	Title: "Follow messages",
	Doc: `Answers with a stream of events, which goes on until the caller closes it or for some hours. It is one of server-sent
events or, if the caller asks for an upgrade, a WebSocket. The final slash may be left out.

The parameter ` + "`bindings`" + ` is JSON, ` + "`{\"bindings\": [{\"exchange\": …, \"routingKeyPattern\": …}]}`" + `, with up to
100 bindings. A message comes once if its routing key or one of its CC keys fits one of them.

These are the events:

* *ready*: the stream has begun.
* *message*: ` + "`{exchange, routingKey, cc, payload, created}`" + `. Its id is its position in the log.
* *gap*: ` + "`{from, to}`" + `, positions that the stream would have come to and that are not kept any more.
* *ping*: ` + "`{time}`" + `, every 20 seconds.
* *error*: ` + "`{message}`" + `, what is wrong with something that came over the WebSocket.

Each has an id. A client that sends the last id it saw, as the header Last-Event-ID or as ` + "`lastEventId`" + `, gets
everything since. Browsers do so by themselves where a server-sent stream breaks off. Messages are kept for a day. A client may
be as slow as it likes within that day: nothing is dropped on its account. One that takes nothing for 40 seconds is cut off.

Over a WebSocket each event is a JSON text ` + "`{\"event\": …, \"id\": …, \"payload\": …}`" + `. Bindings may be
given later, by sending ` + "`{\"method\": \"bind\", \"id\": …, \"options\": {\"exchange\": …, \"routingKeyPattern\": …}}`" + `, and
taken back with the method *unbind*. The answer is an event *bound*, *unbound* or *error* with the id that was sent. A binding counts
from where the stream is. A stream that is opened with a last id and without bindings begins with the first binding; one that
resumes with several has them in the URL.

A browser cannot sign a WebSocket or an EventSource with a header. It uses a URL that carries a bewit, made for this URL with its
query as for any GET; it has to be valid only when the stream begins.`,
}, func(ctx context.Context, b *Bus, c api.Call[api.None, api.None]) (api.Stream, error) {
	var q struct {
		Bindings []Binding `json:"bindings"`
	}
	socket := wantsSocket(c.HTTP)
	if text := c.Query("bindings"); text != "" || !socket {
		if err := json.Unmarshal([]byte(text), &q); err != nil {
			return nil, api.Errorf(api.InvalidRequestArguments, `The parameter bindings must be JSON such as {"bindings":[{"exchange":"exchange/taskcluster-queue/v1/task-completed","routingKeyPattern":"#"}]}: %v`, err)
		}
		if len(q.Bindings) == 0 && !socket || len(q.Bindings) > maxBindings {
			return nil, api.Errorf(api.InvalidRequestArguments, "The parameter bindings has %d bindings; it needs 1 to %d.", len(q.Bindings), maxBindings)
		}
	}
	for _, x := range q.Bindings {
		if err := x.Check(); err != nil {
			return nil, api.Errorf(api.InvalidRequestArguments, "The parameter bindings: %v.", err)
		}
	}
	last := c.HTTP.Header.Get("Last-Event-ID")
	if last == "" {
		last = c.Query("lastEventId")
	}
	s, err := b.open(ctx, q.Bindings, last)
	if err != nil {
		return nil, err
	}
	return func(w http.ResponseWriter, r *http.Request) error {
		defer b.hub.leave(s)
		switch {
		case socket:
			return s.serveSocket(w, r)
		case r.Method == http.MethodHead:
			w.Header().Set("Content-Type", eventStream)
			return nil
		}
		return s.serveSSE(w, r)
	}, nil
})

// open makes a stream that begins after the id last, or now if that is "". It
// has to leave the hub.
func (b *Bus) open(ctx context.Context, bindings []Binding, last string) (_ *stream, err error) {
	known, ok := b.hub.enter()
	if !ok {
		return nil, api.Errorf(api.TooManyRequests, "There are %d streams open, and no more are served. Try again in a minute.", maxStreams)
	}
	s := &stream{hub: b.hub, wake: make(chan struct{}, 1), bindings: bindings, matcher: Compile(bindings)}
	defer func() {
		if err != nil {
			b.hub.leave(s)
		}
	}()
	seen := int64(unknown)
	if last != "" {
		if seen, err = strconv.ParseInt(last, 10, 64); err != nil || seen < 0 {
			return nil, foreignID(last)
		}
	}
	if known == unknown || seen > known {
		if _, known, err = b.span(ctx); err != nil {
			return nil, err
		}
		if seen > known {
			return nil, foreignID(last)
		}
		b.hub.start(known)
	}
	s.at = known
	if seen != unknown {
		s.at, s.hold = seen, len(bindings) == 0
	}
	return s, nil
}

func foreignID(last string) error {
	return api.Errorf(api.InvalidRequestArguments, "The last event id is %.50q; it must be an id that this stream has sent. Leave it out to begin with what happens from now on.", last)
}

func wantsSocket(r *http.Request) bool {
	return headerHas(r.Header, "Connection", "upgrade") && headerHas(r.Header, "Upgrade", "websocket")
}

func headerHas(h http.Header, name, token string) bool {
	for _, value := range h.Values(name) {
		for part := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(part), token) {
				return true
			}
		}
	}
	return false
}
