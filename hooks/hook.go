package hooks

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A hook is a row.
type hook struct {
	key int64
	definition
	token   string // sealed
	next    timestamp.Time
	created timestamp.Time
}

// definition is what a hook is, as callers read it.
type definition struct {
	HookGroupID   string          `json:"hookGroupId"`
	HookID        string          `json:"hookId"`
	Bindings      []event.Binding `json:"bindings"`
	Metadata      json.RawMessage `json:"metadata"`
	Task          json.RawMessage `json:"task"`
	Schedule      []string        `json:"schedule"`
	TriggerSchema json.RawMessage `json:"triggerSchema"`
}

func (d *definition) path() hookPath { return hookPath{d.HookGroupID, d.HookID} }

// Limits of a definition.
const (
	mostBindings     = 100
	mostPatterns     = 100
	largestTemplate  = 512 << 10
	mostHooks        = 5000     // of a group
	largestHookGroup = 64 << 20 // bytes, since a group is listed in one reply
)

// denied are beginnings of the names of exchanges that no hook is bound to: those
// that the platform denies which we are compatible with. The second is none of
// our queue's. Nothing keeps a hook from being bound to events of the tasks that
// it creates itself; mostWaiting bounds what waits then.
var denied = []string{"exchange/taskcluster-hooks/", "exchange/taskcluster-queue/v1/task-created"}

// check refuses what the request's schema does not, and returns when the
// schedule is due after t.
func (d *definition) check(t timestamp.Time) (next timestamp.Time, err error) {
	if n := len(d.Task); n > largestTemplate {
		return 0, api.Errorf(api.InputError, "task has %d bytes of JSON, and %d are the most.", n, largestTemplate)
	}
	var template any
	if err := json.Unmarshal(d.Task, &template); err != nil {
		return 0, api.Errorf(api.InputError, "task cannot be rendered: %v.", err)
	}
	if n := len(d.Bindings); n > mostBindings {
		return 0, api.Errorf(api.InputError, "bindings has %d entries, and %d are the most.", n, mostBindings)
	}
	for i, b := range d.Bindings {
		if err := b.Check(); err != nil {
			return 0, api.Errorf(api.InputError, "bindings/%d: %v.", i, err)
		}
		for _, prefix := range denied {
			if strings.HasPrefix(b.Exchange, prefix) {
				return 0, api.Errorf(api.InputError, "bindings/%d names the exchange %s, and those whose names begin with %s have been denied access to hooks: they would fire without end.", i, b.Exchange, prefix)
			}
		}
	}
	if n := len(d.Schedule); n > mostPatterns {
		return 0, api.Errorf(api.InputError, "schedule has %d entries, and %d are the most.", n, mostPatterns)
	}
	if next, err = nextDate(d.Schedule, d.path().String(), t); err != nil {
		return 0, api.Errorf(api.InputError, "%v.", err)
	}
	if _, err := compileSchema(d.TriggerSchema); err != nil {
		return 0, api.Errorf(api.InputError, "triggerSchema is not a valid JSON schema, or not one that is taken:\n%v", err)
	}
	return next, nil
}

func (d *definition) size() int {
	n := len(d.HookGroupID) + len(d.HookID) + len(d.Metadata) + len(d.Task) + len(d.TriggerSchema)
	for _, b := range d.Bindings {
		n += len(b.Exchange) + len(b.RoutingKeyPattern)
	}
	for _, s := range d.Schedule {
		n += len(s)
	}
	return n
}

// difference names the first property in which two definitions differ.
func (d *definition) difference(e *definition) string {
	switch {
	case !slices.Equal(d.Bindings, e.Bindings):
		return "bindings"
	case !slices.Equal(d.Schedule, e.Schedule):
		return "schedule"
	case !sameJSON(d.Metadata, e.Metadata):
		return "metadata"
	case !sameJSON(d.Task, e.Task):
		return "task"
	case !sameJSON(d.TriggerSchema, e.TriggerSchema):
		return "triggerSchema"
	}
	return ""
}

func sameJSON(a, b json.RawMessage) bool {
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// newKey is the number of a new hook. One that SQLite handed out could be that of a hook
// which was deleted, for which a fire is being written down at that moment. It says
// nothing of an order.
func newKey() int64 { return rand.Int64() }

const columns = `id, hook_group_id, hook_id, metadata, task, bindings, schedule, trigger_schema, trigger_token, coalesce(next, 0), created`

func scanHook(row interface{ Scan(...any) error }) (*hook, error) {
	k := &hook{}
	var bindings string
	err := row.Scan(&k.key, &k.HookGroupID, &k.HookID, &k.Metadata, &k.Task, &bindings, &k.Schedule, &k.TriggerSchema, &k.token, &k.next, &k.created)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal([]byte(bindings), &k.Bindings); err != nil {
		return nil, fmt.Errorf("bindings of hook %s: %w", k.path(), err)
	}
	return k, nil
}

// loadHook returns a hook, or store.ErrNotFound.
func loadHook(tx *store.Tx, p hookPath, lock string) (*hook, error) {
	return scanHook(tx.QueryRow(`SELECT `+columns+` FROM hook WHERE hook_group_id = $1 AND hook_id = $2 `+lock, p.HookGroupID, p.HookID))
}

const (
	forUpdate = `/*for update*/`
	noLock    = ``
)

// queryHooks returns the hooks that the rest of a statement selects.
func queryHooks(tx *store.Tx, rest string, args ...any) (list []*hook, err error) {
	rows, err := tx.Query(`SELECT `+columns+` FROM hook `+rest, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		k, err := scanHook(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, k)
	}
	return list, rows.Err()
}
