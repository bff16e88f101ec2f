package stacks

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pulumi/pulumi/sdk/v3/go/auto/optdestroy"
	"github.com/pulumi/pulumi/sdk/v3/go/auto/optrefresh"
	"golang.org/x/sync/errgroup"
)

// A DriftReport is how what there is differs from what the states say.
type DriftReport struct {
	Drift   []*Change `json:"drift"`
	Strays  []*Change `json:"strays"`
	Looked  int       `json:"looked"` // at how many things
	Pending []string  `json:"pending,omitempty"`
	Left    []string  `json:"left,omitempty"` // stacks with things that the environment does not describe, and what to do
}

// Drift compares states with what there is, and looks for strays. Nothing is changed.
func (d *Driver) Drift(ctx context.Context) (*DriftReport, error) {
	if err := d.start(ctx); err != nil {
		return nil, err
	}
	names := d.names
	out := &DriftReport{Drift: []*Change{}, Strays: []*Change{}}
	states, recorders := make([]*state, len(names)), make([]*recorder, len(names))
	work, workCtx := errgroup.WithContext(ctx)
	work.SetLimit(atATime)
	for i, name := range names {
		work.Go(func() (err error) {
			states[i], err = d.engine.state(workCtx, name)
			if errors.Is(err, errNoStack) {
				states[i], err = &state{}, nil
			}
			if err != nil || !states[i].hasThings() {
				return err
			}
			stack, err := d.engine.open(workCtx, name, states[i], d.program(name))
			if err != nil {
				return err
			}
			recorders[i] = newRecorder(name)
			_, err = stack.PreviewRefresh(workCtx, optrefresh.EventStreams(recorders[i].in), optrefresh.SuppressProgress(), optrefresh.Color("never"))
			recorders[i].wait()
			if err != nil {
				return d.failed(workCtx, name, recorders[i], err)
			}
			return nil
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	for i, r := range recorders {
		if r != nil {
			out.Drift = append(out.Drift, r.drift...)
		}
		for _, p := range states[i].Deployment.PendingOperations {
			out.Pending = append(out.Pending, p.Type+" "+idOf(p.Resource.Type, urnName(p.Resource.URN)))
		}
		out.Looked += states[i].things()
	}
	v, err := d.look(ctx, names, states)
	if err != nil {
		return nil, err
	}
	if v.blind {
		return nil, errors.New(v.notices[0])
	}
	out.Strays = append(out.Strays, v.strays...)
	out.Left, err = d.left(ctx)
	return out, err
}

// left tells the stacks that have things, and whose section is not in the environment any more: nobody watches those.
func (d *Driver) left(ctx context.Context) ([]string, error) {
	described := d.Environment.Stacks()
	var names []string
	for _, name := range Names() {
		if !slices.Contains(described, name) {
			names = append(names, name)
		}
	}
	told := make([]string, len(names))
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(atATime)
	for i, name := range names {
		work.Go(func() error {
			s, err := d.engine.state(ctx, name)
			if errors.Is(err, errNoStack) {
				return nil
			}
			if err == nil && s.hasThings() {
				told[i] = fmt.Sprintf("stack %s has things (%d), and %s has no section %s any more, so nobody looks after them. To have deleted what is managed: "+
					"put the section back, taskfleet stacks destroy --dir %s --stack %s, and take it out again", name, s.things(), EnvironmentFile, name, ShellWord(d.Environment.Directory), name)
			}
			return err
		})
	}
	err := work.Wait()
	return slices.DeleteFunc(told, func(s string) bool { return s == "" }), err
}

func (s *state) things() (n int) {
	for _, r := range s.Deployment.Resources {
		if ours(r.Type) {
			n++
		}
	}
	return n
}

func (s *state) hasThings() bool { return s.things() > 0 }

// isOnPlatform tells whether it has things that only the platform can tell of.
func (s *state) isOnPlatform() bool {
	return slices.ContainsFunc(s.Deployment.Resources, func(r stateResource) bool { return strings.HasPrefix(r.Type, indexPrefix) })
}

// Refresh takes what there is into the states. Nothing but the states is changed. It returns what differed.
func (d *Driver) Refresh(ctx context.Context) ([]*Change, error) {
	if err := d.start(ctx); err != nil {
		return nil, err
	}
	found := []*Change{}
	for _, name := range d.names {
		at, err := d.engine.state(ctx, name)
		if errors.Is(err, errNoStack) {
			continue
		} else if err != nil {
			return found, err
		}
		if err := d.engine.clearPending(ctx, name, at); err != nil {
			return found, err
		}
		if !at.hasThings() {
			continue
		}
		stack, err := d.engine.open(ctx, name, at, d.program(name))
		if err != nil {
			return found, err
		}
		r := newRecorder(name)
		_, err = stack.Refresh(ctx, optrefresh.EventStreams(r.in), optrefresh.SuppressProgress(), optrefresh.Color("never"))
		r.wait()
		found = append(found, r.drift...)
		if err != nil {
			return found, d.failed(ctx, name, r, err)
		}
	}
	return found, nil
}

// Destruction is what Destroy would do: stacks in the order in which they go.
type Destruction struct {
	Stacks  []string  `json:"stacks"`
	Changes []*Change `json:"changes"` // Delete, or Keep
	states  map[string]*state
}

// PlanDestroy says what Destroy would do.
func (d *Driver) PlanDestroy(ctx context.Context) (*Destruction, error) {
	if err := d.start(ctx); err != nil {
		return nil, err
	}
	out := &Destruction{Changes: []*Change{}, states: map[string]*state{}}
	for _, name := range slices.Backward(d.names) {
		at, err := d.engine.state(ctx, name)
		if errors.Is(err, errNoStack) {
			continue
		} else if err != nil {
			return nil, err
		}
		out.Stacks, out.states[name] = append(out.Stacks, name), at
		for _, r := range slices.Backward(at.Deployment.Resources) {
			if !ours(r.Type) {
				continue
			}
			c := &Change{Stack: name, ID: idOf(r.Type, r.ID), Action: Delete, Kind: r.Type, Name: r.ID}
			if kind := c.resourceKind(); c.stays() || kind != nil && !d.guard.manages(kind, r.ID) {
				c.Action = Keep
			}
			out.Changes = append(out.Changes, c)
		}
	}
	left, err := d.left(ctx)
	for _, line := range left {
		d.options.Notice(line)
	}
	return out, err
}

// Destroy takes everything away that stacks have and a pattern manages, in the reverse of their order.
func (d *Driver) Destroy(ctx context.Context, p *Destruction) (*Report, error) {
	r := &Report{Result: "done", Total: len(p.Changes), Began: time.Now(), Stacks: []StackReport{}}
	for _, name := range p.Stacks {
		r.Stacks = append(r.Stacks, StackReport{Name: name, Result: "not begun"})
	}
	var err error
	for i, name := range p.Stacks {
		if err = d.destroyStack(ctx, name, p, &r.Stacks[i]); err != nil {
			break
		}
	}
	return d.ended(ctx, r, err)
}

func (d *Driver) destroyStack(ctx context.Context, name string, p *Destruction, report *StackReport) error {
	at, err := d.engine.unchanged(ctx, name, p.states[name])
	if err != nil {
		report.Result = "failed"
		return err
	}
	if at.Deployment.Resources == nil && at.Deployment.PendingOperations == nil {
		report.Result = "unchanged"
		return nil
	}
	if err := d.engine.clearPending(ctx, name, at); err != nil {
		return err
	}
	stack, err := d.engine.open(ctx, name, at, d.program(name))
	if err != nil {
		return err
	}
	d.working.Store(name)
	rec := newRecorder(name)
	rec.total, rec.planned, rec.progress = at.things(), map[string]Action{}, d.options.Progress
	for _, c := range p.Changes {
		rec.planned[c.ID] = c.Action
	}
	_, err = stack.Destroy(ctx, optdestroy.Refresh(), optdestroy.EventStreams(rec.in), optdestroy.SuppressProgress(), optdestroy.Color("never"))
	rec.wait()
	return d.report(ctx, report, rec, err)
}
