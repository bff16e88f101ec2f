package graph

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/cred"
)

// An eventStream follows the messages about one group over server-sent events.
// After a broken connection it goes on where it was.
type eventStream struct {
	core    *client.Client
	groupID string
	last    string        // id of the last event seen
	retry   time.Duration // bound of the wait before the next attempt
}

// What the stream tells: one of these at a time.
type streamed struct {
	ready   bool            // connected: what happened before this is not going to be told, unless it resumed
	message json.RawMessage // payload of a message
	lost    error           // the connection; the stream tries again
	over    error           // the deployment has no such stream, or not for this caller
}

const (
	firstRetry = 200 * time.Millisecond
	lastRetry  = 10 * time.Second
	// The server sends at least a ping every 20 seconds.
	silence = time.Minute
	// A message has a task's status; with all its runs that is some kilobytes.
	maxEvent = 4 << 20
)

// run sends what happens to out until ctx ends or the stream is over.
func (s *eventStream) run(ctx context.Context, out chan<- streamed) {
	send := func(x streamed) bool {
		select {
		case out <- x:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for ctx.Err() == nil {
		err := s.connect(ctx, send)
		if refused, ok := err.(*refusal); ok {
			send(streamed{over: refused})
			return
		}
		if !send(streamed{lost: err}) {
			return
		}
		wait := time.NewTimer(rand.N(max(s.retry, firstRetry)) + time.Millisecond)
		s.retry = min(2*max(s.retry, firstRetry), lastRetry)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
		}
	}
}

// A refusal is an answer that another attempt will not change.
type refusal struct{ status string }

func (r *refusal) Error() string {
	return "the deployment has no event stream for this caller: " + r.status
}

var exchanges = []string{"task-defined", "task-pending", "task-running", "task-completed", "task-failed", "task-exception"}

// bindings select the messages about tasks of the group, by their routing keys.
func (s *eventStream) bindings() string {
	type binding struct {
		Exchange          string `json:"exchange"`
		RoutingKeyPattern string `json:"routingKeyPattern"`
	}
	var list []binding
	for _, x := range exchanges {
		// primary.<task>.<run>.<worker group>.<worker>.<provisioner>.<worker type>.<scheduler>.<group>
		list = append(list, binding{"exchange/taskcluster-queue/v1/" + x, "primary.*.*.*.*.*.*.*." + s.groupID + ".#"})
	}
	return string(compact(map[string]any{"bindings": list}))
}

// connect makes one connection and follows it to its end.
func (s *eventStream) connect(ctx context.Context, send func(streamed) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	alarm := time.AfterFunc(silence, func() { cancel(fmt.Errorf("the event stream was silent for %v", silence)) })
	defer alarm.Stop()
	u := s.core.RootURL() + "/api/events/v1/connect/?" + url.Values{"bindings": {s.bindings()}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	if s.last != "" {
		req.Header.Set("Last-Event-ID", s.last)
	}
	if err := cred.Sign(req, s.core.Credentials(), nil); err != nil {
		return err
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("event stream: %w", err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode/100 == 4 && resp.StatusCode != http.StatusTooManyRequests:
		if s.last != "" {
			s.last = "" // it may be the id that the server does not know any more
			return fmt.Errorf("event stream: %s", resp.Status)
		}
		return &refusal{resp.Status}
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("event stream: %s", resp.Status)
	case !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream"):
		return &refusal{"it answers with " + resp.Header.Get("Content-Type")}
	}
	return readEvents(resp.Body, func(name, id string, data []byte) error {
		alarm.Reset(silence)
		s.retry = 0
		if id != "" {
			s.last = id
		}
		x := streamed{}
		switch name {
		case "ready", "gap":
			x.ready = true
		case "message":
			var m struct {
				Payload json.RawMessage `json:"payload"`
			}
			if err := json.Unmarshal(data, &m); err != nil {
				return fmt.Errorf("event stream: a message is not JSON: %w", err)
			}
			x.message = m.Payload
		default: // ping, and what is yet to come
			return nil
		}
		if !send(x) {
			return ctx.Err()
		}
		return nil
	})
}

// readEvents reads server-sent events and calls f with each.
func readEvents(body io.Reader, f func(name, id string, data []byte) error) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxEvent)
	name, id := "", ""
	var data []byte
	for lines.Scan() {
		line := bytes.TrimSuffix(lines.Bytes(), []byte("\r"))
		if len(line) == 0 {
			if name != "" || len(data) > 0 {
				if err := f(name, id, data); err != nil {
					return err
				}
			}
			name, id, data = "", "", nil
			continue
		}
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			name = string(value)
		case "id":
			id = string(value)
		case "data":
			if data != nil {
				data = append(data, '\n')
			}
			if len(data)+len(value) > maxEvent {
				return fmt.Errorf("event stream: an event of more than %d bytes", maxEvent)
			}
			data = append(data, value...)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("event stream: %w", err)
	}
	return fmt.Errorf("event stream: the server ended it")
}
