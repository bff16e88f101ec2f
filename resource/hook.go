package resource

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/hooks"
	"github.com/taskfleet/taskfleet/schedule/cron"
)

type hookDocument struct {
	Name          string    `json:"name"`
	Description   string    `json:"description"`
	Owner         string    `json:"owner"`
	EmailOnError  *bool     `json:"emailOnError"` // true if it is not said
	Schedule      []string  `json:"schedule"`
	Bindings      []binding `json:"bindings"`
	Task          tree      `json:"task"`
	TriggerSchema tree      `json:"triggerSchema"`
}

type binding struct {
	Exchange          string `json:"exchange"`
	RoutingKeyPattern string `json:"routingKeyPattern"`
}

// hookName does not count: bounds in the expression would cost each start of the program a megabyte.
var hookName = regexp.MustCompile(`^[a-zA-Z0-9_-]+/[a-zA-Z0-9/_-]+$`)

const longestHookID = 1000 // of its group, too

func validHookName(name string) bool {
	group, id, _ := strings.Cut(name, "/")
	return len(group) <= longestHookID && len(id) <= longestHookID && hookName.MatchString(name)
}

// nothing is what a hook without a triggerSchema has.
var nothing = tree(`{"additionalProperties":false,"type":"object"}`)

// Hooks have names of the form GROUP/HOOK.
var Hooks Kind = &kind[hookDocument]{
	name: "Hook", noun: "hook", section: "hooks",
	check: func(name string, d *hookDocument) error {
		d.fill()
		switch {
		case !validHookName(name):
			return fmt.Errorf("the name of a hook is GROUP/HOOK, each of 1 to %d letters, digits, - and _; HOOK may have / in it", longestHookID)
		case d.Name == "":
			return errors.New("it has no name, which is what people call the hook")
		case !strings.Contains(d.Owner, "@"):
			return fmt.Errorf("owner is %q; it must be a mail address", d.Owner)
		case !d.Task.object():
			return errors.New("task must be a mapping: the template of the definition of a task")
		case !d.TriggerSchema.object():
			return errors.New("triggerSchema must be a mapping: a JSON schema")
		}
		for i, text := range d.Schedule {
			if _, err := cron.Parse(text, "UTC", name); err != nil {
				return fmt.Errorf("schedule[%d]: %.100q: %w", i, text, err)
			}
		}
		for i, b := range d.Bindings {
			if b.Exchange == "" || b.RoutingKeyPattern == "" {
				return fmt.Errorf("bindings[%d] needs both: exchange and routingKeyPattern, such as #", i)
			}
			if slices.Contains(d.Bindings[:i], b) {
				return fmt.Errorf("bindings[%d] is there twice; leave one out", i)
			}
		}
		return nil
	},
	read: func(ctx context.Context, c *client.Client, name string) (*hookDocument, error) {
		group, id, _ := strings.Cut(name, "/")
		h, err := hooks.New(c).Hook(ctx, group, id)
		if err != nil {
			return nil, err
		}
		return describeHook(h)
	},
	list: listHooks,
	write: func(ctx context.Context, c *client.Client, name string, d *hookDocument, exists bool) (err error) {
		group, id, _ := strings.Cut(name, "/")
		in := &hooks.CreateHookRequest{
			Metadata: hooks.HookMetadata{Name: d.Name, Description: d.Description, Owner: d.Owner, EmailOnError: d.EmailOnError},
			Task:     json.RawMessage(d.Task), Schedule: d.Schedule, TriggerSchema: json.RawMessage(d.TriggerSchema), Bindings: hooks.Bindings{},
		}
		for _, b := range d.Bindings {
			in.Bindings = append(in.Bindings, hooks.BindingsItem(b))
		}
		if exists {
			_, err = hooks.New(c).UpdateHook(ctx, group, id, in)
		} else {
			_, err = hooks.New(c).CreateHook(ctx, group, id, in)
		}
		return err
	},
	remove: func(ctx context.Context, c *client.Client, name string) error {
		group, id, _ := strings.Cut(name, "/")
		return hooks.New(c).RemoveHook(ctx, group, id)
	},
	usual: func(d *hookDocument) {
		if string(d.TriggerSchema) == string(nothing) {
			d.TriggerSchema = nil
		}
		if *d.EmailOnError {
			d.EmailOnError = nil
		}
	},
}

// fill gives what is left out its default.
func (d *hookDocument) fill() {
	yes := true
	d.EmailOnError = cmp.Or(d.EmailOnError, &yes)
	if d.Schedule == nil {
		d.Schedule = []string{}
	}
	if d.Bindings == nil {
		d.Bindings = []binding{}
	}
	if len(d.TriggerSchema) == 0 {
		d.TriggerSchema = nothing
	}
}

func describeHook(h *hooks.HookDefinition) (*hookDocument, error) {
	m := &h.Metadata
	d := &hookDocument{Name: m.Name, Description: m.Description, Owner: m.Owner, EmailOnError: m.EmailOnError, Schedule: h.Schedule}
	for _, b := range h.Bindings {
		d.Bindings = append(d.Bindings, binding(b))
	}
	if err := d.Task.UnmarshalJSON(h.Task); err != nil {
		return nil, fmt.Errorf("the task of the hook %s/%s is not JSON: %w", h.HookGroupID, h.HookID, err)
	}
	if len(h.TriggerSchema) > 0 {
		if err := d.TriggerSchema.UnmarshalJSON(h.TriggerSchema); err != nil {
			return nil, fmt.Errorf("the triggerSchema of the hook %s/%s is not JSON: %w", h.HookGroupID, h.HookID, err)
		}
	}
	d.fill()
	return d, nil
}

func listHooks(ctx context.Context, c *client.Client) (map[string]*hookDocument, error) {
	groups, err := hooks.New(c).ListHookGroups(ctx)
	if err != nil {
		return nil, err
	}
	lists := make([]*hooks.ListHooksResponse, len(groups.Groups))
	calls, ctx := errgroup.WithContext(ctx)
	calls.SetLimit(atATime)
	for i, group := range groups.Groups {
		calls.Go(func() (err error) {
			lists[i], err = missing(hooks.New(c).ListHooks(ctx, group))
			return err
		})
	}
	if err := calls.Wait(); err != nil {
		return nil, err
	}
	all := map[string]*hookDocument{}
	for i, list := range lists {
		if list == nil { // the last of the group went this moment
			continue
		}
		for _, h := range list.Hooks {
			if all[groups.Groups[i]+"/"+h.HookID], err = describeHook(&h); err != nil {
				return nil, err
			}
		}
	}
	return all, nil
}
