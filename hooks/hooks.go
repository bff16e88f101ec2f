// Package hooks creates tasks by templates: on schedules, on messages and on
// request.
//
// A fire is one such creation. Whatever causes it, it goes the same way: the
// template is rendered once; the resulting definition is written down with the
// task's id, before anything is created; the task is created; what came of it
// is written down. Creating a task twice by the same id and definition is
// creating it once, so a fire that was interrupted is repeated as it was. What
// causes fires moves on in the transaction that writes them down: a schedule
// to its next date, the log of messages to its next position. So each due date
// and each message is a fire, and one only, whatever stops in between and
// however many replicas there are.
//
// Where creating fails for good (4xx), the fire is over and its error is what
// people see; where it may succeed later (5xx), it is tried again, later and
// later, until the schedule is due the next time, or for an hour.
//
// Schedules that were missed are made up for once, not as often as they were
// missed. Nothing looks at hooks that are not due: passes read from an index
// of next dates, and an alarm wakes them for the earliest.
//
// Hooks act with the scopes of a role of their own, hook-id:<group>/<hook>, and
// whoever writes a hook must have that role. Templates and schemas are written
// by people who may mean ill to others: what rendering, checking and matching
// can cost is bounded, and so is what is kept of each hook.
package hooks

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/loop"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

//go:embed migrations/*.sql
var migrations embed.FS

//go:embed schemas/*.yml
var schemaFiles embed.FS

// Config is what Hooks needs.
type Config struct {
	DB     *store.DB
	Events *event.Bus
	Keys   *seal.Keys // for trigger tokens at rest
	Tasks  Tasks
	States States  // nil: nobody knows the states of tasks
	Mail   Mailer  // nil: nobody is told by email
	Audit  Auditor // nil: there is no history of changes
	Log    *slog.Logger
}

// An Auditor keeps the history: who did what to an entity, written in the
// transaction that does it.
type Auditor interface {
	Audit(tx *store.Tx, entityType, entityID, clientID, action string) error
}

// Tasks creates tasks.
type Tasks interface {
	// CreateTask creates a task with the scopes of the role
	// hook-id:<hookGroupID>/<hookID> and nothing else. Creating it again with
	// the same definition changes nothing. An *api.Error below 500 says that it
	// will never work; it is shown to users. Any other error may pass.
	CreateTask(ctx context.Context, hookGroupID, hookID, taskID string, definition json.RawMessage) (status json.RawMessage, err error)
}

// States tells the states of tasks, "pending" and so on, leaving out those
// that do not exist.
type States interface {
	TaskStates(ctx context.Context, taskIDs []string) (map[string]string, error)
}

// A Mailer sends email.
type Mailer interface {
	Email(ctx context.Context, address, subject, markdown string) error
}

// Hooks is the service.
type Hooks struct {
	db     *store.DB
	events *event.Bus
	keys   *seal.Keys
	tasks  Tasks
	states States
	mail   Mailer
	audit  Auditor
	log    *slog.Logger

	schemas schemas
	bound   boundHooks

	scheduleAlarm, fireAlarm alarm
}

// Topics of wakes.
const (
	topicSchedule = "hooks.schedule" // a next date was set
	topicFire     = "hooks.fire"     // a fire was written down
)

// New opens the hooks, creating the tables where they do not exist. It
// subscribes to the events, so it comes before their loops.
func New(ctx context.Context, c Config) (*Hooks, error) {
	h := &Hooks{db: c.DB, events: c.Events, keys: c.Keys, tasks: c.Tasks, states: c.States, mail: c.Mail, audit: c.Audit, log: c.Log}
	if err := h.db.Migrate(ctx, "hooks", migrations); err != nil {
		return nil, fmt.Errorf("hooks: migrate: %w", err)
	}
	h.events.Subscribe("hooks", nil, h.follow)
	return h, nil
}

// Loops are the work that goes on beside the calls.
func (h *Hooks) Loops() []loop.Loop {
	return []loop.Loop{
		{
			Name: "hooks.schedule", Doc: "Fires the hooks whose schedules are due.",
			When: loop.Every(time.Minute), Wake: h.db.Waits().Signal(topicSchedule), Pass: h.followSchedules,
		},
		{
			Name: "hooks.fire", Doc: "Creates the tasks of fires.",
			When: loop.Every(time.Minute), Wake: h.db.Waits().Signal(topicFire), Pass: h.createTasks,
		},
		{
			Name: "hooks.expire", Doc: "Forgets fires that were a year ago.",
			When: loop.Every(time.Hour), Pass: h.forget,
		},
		{
			Name: "hooks.reseal", Doc: "Seals trigger tokens anew that are sealed with an old key.",
			When: loop.Every(time.Hour), Pass: h.reseal,
		},
	}
}

// An alarm wakes a loop at a time. Each pass sets it to when it is needed next.
type alarm struct {
	mu    sync.Mutex
	timer *time.Timer
}

func (a *alarm) set(at timestamp.Time, wake func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
	if at > 0 {
		a.timer = time.AfterFunc(max(0, time.Until(at.Time())), wake)
	}
}

// earliest has the alarm wake a loop at the time that query finds, if any.
func (h *Hooks) earliest(ctx context.Context, a *alarm, topic, query string) error {
	var at *int64
	if err := h.db.View(ctx, func(tx *store.Tx) error {
		return tx.QueryRow(query).Scan(&at)
	}); err != nil {
		return err
	}
	if at == nil {
		a.set(0, nil)
	} else {
		a.set(timestamp.Time(*at), func() { h.db.Waits().Wake(topic, store.Everybody) })
	}
	return nil
}
