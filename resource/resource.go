// Package resource is what a platform is told to have: roles, clients, secrets, worker pools,
// hooks. Each knows what there is, by the API, and how to make it what it should
// be; the rest, comparing, showing, doing, is the same for all.
//
// There are two ways to use it. A Resource is one of a list that somebody composes, as package
// project does: what is not in the list is left alone. A Kind has everything for one sort of thing,
// by name, in JSON: to create, read, update, delete and list. A Set is definitions of such things, read
// from files or written from a platform, together with patterns that say what is managed: what
// matches one and is not defined is deleted, what matches none is never touched.
package resource

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"golang.org/x/sync/errgroup"

	"github.com/taskfleet/taskfleet/client"
)

// A Resource is one thing that a platform should have.
type Resource interface {
	// Kind and Name tell which, such as "role" and "project:nightly:admin".
	Kind() string
	Name() string

	// Want is how it should be, as JSON in which nothing is secret. Is is how it is,
	// in the same form; nil if it is not there.
	Want() any
	Is(ctx context.Context, c *client.Client) (any, error)

	// Make makes it as it should be. Is has been called before, with the same
	// resource, and exists is what that has found.
	Make(ctx context.Context, c *client.Client, exists bool) error
}

// A Change is what has to become of a resource.
type Change struct {
	Resource Resource        `json:"-"`            // none in a Diff
	ID       string          `json:"id,omitempty"` // in a Diff: KIND=NAME
	Kind     string          `json:"kind"`
	Name     string          `json:"name"`
	Action   Action          `json:"action"`
	Before   json.RawMessage `json:"before,omitempty"` // nothing if it is not there; by Plan: indented
	After    json.RawMessage `json:"after,omitempty"`  // nothing if it is to go

	// In a Diff, secrets included: what there was, what the definition says, the same with what that leaves out
	// as it was, and where it is said.
	kind           Kind
	is, said, want json.RawMessage
	at             string
}

// An Action is what is to be done.
type Action string

// Actions.
const (
	Create Action = "create"
	Update Action = "update"
	Keep   Action = "keep"
	Delete Action = "delete" // in a Diff alone
)

// atATime is how many resources are asked for at the same time.
const atATime = 8

// Plan compares what there should be with what there is. The changes are in the
// order of the resources; those that are as they should be are among them, to be
// kept.
func Plan(ctx context.Context, c *client.Client, all []Resource) ([]Change, error) {
	names := map[[2]string]bool{}
	for _, r := range all {
		id := [2]string{r.Kind(), r.Name()}
		if names[id] {
			return nil, fmt.Errorf("there are two %ss %s", id[0], id[1])
		}
		names[id] = true
	}
	changes := make([]Change, len(all))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atATime)
	for i, r := range all {
		group.Go(func() (err error) {
			changes[i], err = compare(ctx, c, r)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return changes, nil
}

func compare(ctx context.Context, c *client.Client, r Resource) (Change, error) {
	change := Change{Resource: r, Kind: r.Kind(), Name: r.Name(), Action: Keep}
	is, err := r.Is(ctx, c)
	if err != nil {
		return change, fmt.Errorf("the %s %s cannot be read: %w", r.Kind(), r.Name(), err)
	}
	if change.After, err = document(r.Want()); err != nil {
		return change, fmt.Errorf("the %s %s: %w", r.Kind(), r.Name(), err)
	}
	if is == nil {
		change.Action = Create
		return change, nil
	}
	if change.Before, err = document(is); err != nil {
		return change, fmt.Errorf("the %s %s, as it is: %w", r.Kind(), r.Name(), err)
	}
	if !bytes.Equal(change.Before, change.After) {
		change.Action = Update
	}
	return change, nil
}

// document is v in a form that is the same for the same: members in order, indented.
func document(v any) (json.RawMessage, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	any, err := decode(text)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(any); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(out.Bytes()), nil
}

// An Interrupted is the error of Apply when it did not come to the end: some is done.
type Interrupted struct {
	Err  error
	At   Change   // what could not be done
	Left []Change // what was not tried
}

// Error implements error.
func (e *Interrupted) Error() string {
	text := fmt.Sprintf("the %s %s cannot be made as it should be: %v", e.At.Kind, e.At.Name, e.Err)
	if n := len(e.Left); n > 0 {
		text += fmt.Sprintf("; %d more were not tried", n)
	}
	return text + ". What was done before is kept: once the cause is mended, the same again does the rest"
}

// Unwrap is the cause.
func (e *Interrupted) Unwrap() error { return e.Err }

// Apply carries changes out, in their order, and tells each that is done. It can be
// repeated. The error is an *Interrupted.
func Apply(ctx context.Context, c *client.Client, changes []Change, done func(Change)) error {
	var todo []Change
	for _, x := range changes {
		if x.Action != Keep {
			todo = append(todo, x)
		}
	}
	for i, x := range todo {
		if err := x.Resource.Make(ctx, c, x.Action == Update); err != nil {
			return &Interrupted{err, x, todo[i+1:]}
		}
		if done != nil {
			done(x)
		}
	}
	return nil
}

// missing makes "not there" of the answer that says so. A 404 that is not the API's says nothing of the kind: it comes from a proxy,
// or from another server, and what is believed to be gone would be forgotten, or made again.
func missing[T any](v *T, err error) (*T, error) {
	if e, ok := errors.AsType[*client.Error](err); ok && e.StatusCode == http.StatusNotFound && e.Code != "" {
		return nil, nil
	}
	return v, err
}

var errGone = errors.New("it has been deleted meanwhile: do the same again")
