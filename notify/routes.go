package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
)

// The exchanges of the queue, and what their messages are called in routes.
const queueExchange = "exchange/taskcluster-queue/v1/task-"

var transitions = []string{"defined", "pending", "running", "completed", "failed", "exception"}

// routePrefix begins the routes of tasks that are meant here.
const routePrefix = "notify."

// bindings select the events that a route may ask for.
func bindings() (list []event.Binding) {
	for _, t := range transitions {
		for _, on := range decidersOf(t) {
			list = append(list, event.Binding{Exchange: queueExchange + t, RoutingKeyPattern: "route." + routePrefix + "#." + on + ".#"})
		}
	}
	return list
}

// decidersOf are the last words of routes that ask for a transition.
func decidersOf(transition string) []string {
	on := []string{"on-" + transition, "on-transition"}
	switch transition {
	case "completed", "failed", "exception":
		on = append(on, "on-resolved", "on-any") // on-any is the older name
	}
	return on
}

// A target is whom a route names.
type target struct {
	kind    kind
	address string
}

// targetsOf are those whom a task's routes want to be told of a transition.
func targetsOf(keys []string, transition string) (list []target) {
	deciders := decidersOf(transition)
	for _, key := range keys {
		route, ours := strings.CutPrefix(key, "route."+routePrefix)
		k, rest, _ := strings.Cut(route, ".")
		dot := strings.LastIndexByte(rest, '.')
		if !ours || dot < 1 || !slices.Contains(deciders, rest[dot+1:]) {
			continue
		}
		switch t := (target{kind(k), rest[:dot]}); t.kind {
		case byEmail, byPulse, byMatrix, bySlack:
			if !slices.Contains(list, t) {
				list = append(list, t)
			}
		}
	}
	return list
}

// follow is told of the queue's events, at least once each and in order. It keeps
// a position of its own, so it is as if it had never acted.
func (n *Notify) follow(ctx context.Context, events []event.Message) (acted bool, err error) {
	for _, e := range events {
		if err := n.followOne(ctx, e); err != nil {
			return false, err
		}
	}
	return false, nil
}

func (n *Notify) followOne(ctx context.Context, e event.Message) error {
	transition := strings.TrimPrefix(e.Exchange, queueExchange)
	targets := slices.DeleteFunc(targetsOf(e.CC, transition), func(t target) bool { return n.cannotSend(t.kind) })
	if len(targets) == 0 {
		return nil
	}
	var payload struct {
		Status json.RawMessage `json:"status"`
	}
	var status task.Status
	if err := errors.Join(json.Unmarshal(e.Payload, &payload), json.Unmarshal(payload.Status, &status)); err != nil {
		n.log.Error("an event of the queue cannot be read", "position", e.Position, "exchange", e.Exchange, "err", err)
		return nil // nor could it later
	}
	if run := status.Latest(); run != nil && status.State == task.Exception && slices.Contains(n.ignore, run.ReasonResolved) {
		return nil
	}
	definition, err := n.tasks.Definition(ctx, status.TaskID)
	if a, ok := errors.AsType[*api.Error](err); ok && a.Code == api.ResourceNotFound {
		n.log.Warn("nobody is notified of a task that has expired", "task", status.TaskID, "transition", transition)
		return nil
	} else if err != nil {
		return fmt.Errorf("notify: definition of task %s: %w", status.TaskID, err)
	}
	news, err := newNews(n.rootURL, transition, status, payload.Status, definition)
	if err != nil {
		n.log.Error("the definition of a task cannot be read", "task", status.TaskID, "err", err)
		return nil
	}
	var messages []message
	for _, t := range targets {
		m := news.message(t)
		if err := m.check(); err != nil {
			n.counts.WithLabelValues(string(t.kind), refusal).Inc()
			n.log.Warn("a task's route asks for a notification that cannot be sent", "task", status.TaskID, "type", t.kind, "address", t.address, "err", err)
			continue
		}
		messages = append(messages, m)
	}
	return n.db.Do(ctx, func(tx *store.Tx) error {
		first, err := tx.Exec(`UPDATE notify_progress SET position = $1 WHERE position < $1`, e.Position)
		if err != nil || first == 0 {
			return err // done before
		}
		for _, m := range messages {
			if _, _, err := n.accept(tx, m, now()); err != nil {
				return err
			}
		}
		return nil
	})
}

// cannotSend tells, and once also the log, that there is no sender for a kind.
func (n *Notify) cannotSend(k kind) bool {
	if k == byPulse || n.senders[k] != nil {
		return false
	}
	if _, told := n.unsent.LoadOrStore(k, true); !told {
		n.log.Warn("tasks' routes ask for notifications that are not sent, which is not said again", "type", k, "why", k.unconfigured())
	}
	return true
}
