package resource

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/credentials"
)

// An Elsewhere is what a project needs at a service elsewhere that the platform knows,
// such as Sentry. The platform compares and makes it: only it may act there.
type Elsewhere struct {
	Service string // sentry or signalfx
	Project string
	Spec    json.RawMessage

	changes []credentials.BootstrapReplyChange
}

// Kind implements Resource.
func (e *Elsewhere) Kind() string { return e.Service }

// Name implements Resource.
func (e *Elsewhere) Name() string { return e.Project }

// Want implements Resource: it tells only what is not as it should be.
func (e *Elsewhere) Want() any {
	return e.document(func(c credentials.BootstrapReplyChange) (json.RawMessage, string) {
		if c.Action == "disable" {
			return c.After, "disabled"
		}
		return c.After, "there"
	})
}

// Is implements Resource.
func (e *Elsewhere) Is(ctx context.Context, c *client.Client) (any, error) {
	out, err := e.call(ctx, c, true)
	if err != nil {
		return nil, err
	}
	e.changes = out
	if len(out) > 0 && out[0].Action == "create" && !slices.ContainsFunc(out, func(c credentials.BootstrapReplyChange) bool { return c.Action == "update" }) {
		return nil, nil // nothing that was there is changed
	}
	return e.document(func(c credentials.BootstrapReplyChange) (json.RawMessage, string) {
		switch c.Action {
		case "create":
			return c.Before, "not there"
		case "disable":
			return c.Before, "enabled"
		}
		return c.Before, "nothing"
	}), nil
}

// document names what is to be changed, with what one side says of it, or a word
// where it says nothing.
func (e *Elsewhere) document(side func(credentials.BootstrapReplyChange) (json.RawMessage, string)) any {
	out := map[string]any{}
	for _, c := range e.changes {
		is, word := side(c)
		out[c.What+" "+c.Name] = is
		if len(is) == 0 {
			out[c.What+" "+c.Name] = word
		}
	}
	return out
}

// Make implements Resource.
func (e *Elsewhere) Make(ctx context.Context, c *client.Client, _ bool) error {
	_, err := e.call(ctx, c, false)
	return err
}

func (e *Elsewhere) call(ctx context.Context, c *client.Client, dryRun bool) ([]credentials.BootstrapReplyChange, error) {
	out, err := credentials.New(c).Bootstrap(ctx, e.Service, e.Project, &credentials.BootstrapRequest{Spec: e.Spec, DryRun: dryRun})
	switch {
	case err != nil:
		return nil, err
	case out.Error != "" && len(out.Changes) > 0 && !dryRun:
		return nil, fmt.Errorf("after %d changes: %s", len(out.Changes), out.Error)
	case out.Error != "":
		return nil, errors.New(out.Error)
	}
	return out.Changes, nil
}
