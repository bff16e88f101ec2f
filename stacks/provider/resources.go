package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/resource"
)

// Resources are the kinds of package resource, on the platform of c: taskfleet:index:Role, Client, Secret, WorkerPool,
// Hook, DenylistAddress. They create, change and delete by the code that `taskfleet apply` does it by.
func Resources(c *client.Client) []Kind {
	var all []Kind
	for _, k := range resource.Kinds() {
		all = append(all, &onPlatform{kind: k, c: c})
	}
	return all
}

// onPlatform is a kind of package resource. Access tokens of clients are no part of it, so that none is in a state.
type onPlatform struct {
	kind resource.Kind
	c    *client.Client

	mu     sync.Mutex
	listed map[string]json.RawMessage // see list
	at     time.Time
}

// Token implements Kind.
func (k *onPlatform) Token() string { return TokenOf(k.kind) }

// TokenOf is the type of resources of a kind, such as taskfleet:index:Role.
func TokenOf(k resource.Kind) string { return Name + ":index:" + k.Name() }

// Normal implements Kind.
func (k *onPlatform) Normal(name string, spec json.RawMessage) (json.RawMessage, error) {
	if k.kind == resource.Secrets {
		// A program reads files itself, and a state is no place to say where a value was.
		var d struct{ ValueFrom json.RawMessage }
		if json.Unmarshal(spec, &d) == nil && d.ValueFrom != nil {
			return nil, &Problem{"valueFrom", "is for files; give the value itself"}
		}
	}
	var one resource.Set
	if err := one.Add(k.kind, name, spec, ""); err != nil {
		return nil, k.problems(name, err)
	}
	d := one.Definitions[0]
	if d.Name != name {
		// To Pulumi it would be another thing, and to remove the one would remove the other.
		return nil, &Problem{Reason: fmt.Sprintf("the name must be written %s", d.Name)}
	}
	return d.Document, nil
}

var (
	unknownMember = regexp.MustCompile(`^unknown field "(.*)"$`)
	wrongType     = regexp.MustCompile(`cannot unmarshal (\w+).* into Go struct field \w+\.([\w.]+) of type (.+)$`)
	firstWord     = regexp.MustCompile(`^[a-zA-Z]+(\[[0-9]+\])?`)
)

// members are those that messages of package resource begin with.
var members = map[string]bool{
	"scopes": true, "description": true, "expires": true, "providerId": true, "owner": true, "config": true,
	"task": true, "triggerSchema": true, "schedule": true, "bindings": true,
}

// problems are what package resource says of a document, by the members that it is about.
func (k *onPlatform) problems(name string, err error) error {
	inner := errors.Unwrap(err)
	if inner == nil {
		inner = errors.New(strings.TrimPrefix(err.Error(), resource.ID(k.kind, name)+": "))
	}
	list := []error{inner}
	if several, ok := inner.(interface{ Unwrap() []error }); ok {
		list = several.Unwrap()
	}
	var all []error
	for _, one := range list {
		text := one.Error()
		problem := &Problem{Reason: text}
		if m := unknownMember.FindStringSubmatch(text); m != nil {
			problem = &Problem{m[1], "is unknown; leave it out, or look how it is written"}
		} else if m := wrongType.FindStringSubmatch(text); m != nil {
			problem = &Problem{m[2], fmt.Sprintf("is a %s; it must be of type %s", m[1], m[3])}
		} else if word := firstWord.FindString(text); members[strings.Split(word, "[")[0]] {
			problem = &Problem{word, strings.TrimLeft(strings.TrimPrefix(text, word), ": ")}
		}
		all = append(all, problem)
	}
	return errors.Join(all...)
}

// Read implements Kind.
func (k *onPlatform) Read(ctx context.Context, name string, state json.RawMessage) (json.RawMessage, error) {
	if k.nameAlone(state) {
		return k.list(ctx, name)
	}
	document, err := k.kind.Read(ctx, k.c, name)
	if k.kind != resource.Secrets || state == nil || document == nil || err != nil {
		return document, err
	}
	return only(document, state)
}

// nameAlone tells whether there is nothing to read of a thing but that it is there. Of a secret that nothing is said of
// nothing is read, and so gets into no state: values are for those who may have them.
func (k *onPlatform) nameAlone(state json.RawMessage) bool {
	return (k.kind == resource.Denylist || k.kind == resource.Secrets) && string(state) == "{}"
}

// listLife is how long a list is taken for what there is.
const listLife = 2 * time.Second

// list is a thing of which only the name is known: the platform tells it only by a list of all. So many who ask at once share
// one, or each preview would ask for as many lists as there are things.
func (k *onPlatform) list(ctx context.Context, name string) (json.RawMessage, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.listed == nil || time.Since(k.at) > listLife {
		all, err := k.kind.List(ctx, k.c)
		if err != nil {
			return nil, err
		}
		k.listed, k.at = all, time.Now()
	}
	return k.listed[name], nil
}

// forget has the next one list anew: we have changed something, or are about to change what somebody else may have.
func (k *onPlatform) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.listed = nil
}

// add adds to the list what was made just now.
func (k *onPlatform) add(name string, document json.RawMessage) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.listed != nil {
		k.listed[name] = document
	}
}

// only is a document without what another one leaves out.
func only(document, other json.RawMessage) (json.RawMessage, error) {
	var is, said map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(document, &is), json.Unmarshal(other, &said)); err != nil {
		return nil, err
	}
	for member := range is {
		if _, ok := said[member]; !ok {
			delete(is, member)
		}
	}
	return json.Marshal(is)
}

// lookAgain is how long it may take to see what an interrupted change has done.
const lookAgain = 30 * time.Second

// Create implements Kind.
func (k *onPlatform) Create(ctx context.Context, name string, spec json.RawMessage) (json.RawMessage, error) {
	if k.nameAlone(spec) && k.kind == resource.Secrets {
		// What was read may be an old list, and to make a secret that somebody has made meanwhile would empty it.
		k.forget()
		if is, err := k.Read(ctx, name, spec); is != nil || err != nil {
			return is, err
		}
	}
	err := k.kind.Create(ctx, k.c, name, spec)
	switch {
	case client.IsConflict(err):
		return nil, fmt.Errorf("somebody else has made it at this moment: %w", err)
	case err != nil:
		k.forget()
	case k.nameAlone(spec):
		k.add(name, spec)
		return spec, nil
	}
	// As it is now, even if it failed: a client may be there, but not disabled yet.
	return k.after(ctx, name, spec, err)
}

// after is the state that a change has led to, which may have failed.
func (k *onPlatform) after(ctx context.Context, name string, spec json.RawMessage, failed error) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookAgain)
	defer cancel()
	state, err := k.Read(ctx, name, spec)
	switch {
	case err == nil && (state != nil || failed != nil):
		return state, failed
	case failed != nil:
		return nil, failed
	case err == nil:
		return nil, errors.New("it is made, and gone again: somebody else deletes it")
	}
	// It is as it should be, though what the platform has added is not known.
	return spec, fmt.Errorf("it is made, but cannot be read: %w", err)
}

// Update implements Kind. What somebody else has changed since the state was written is left alone: nobody was shown
// what would become of it.
func (k *onPlatform) Update(ctx context.Context, name string, state, spec json.RawMessage) (json.RawMessage, error) {
	k.forget()
	is, err := k.Read(ctx, name, state)
	if err != nil {
		return nil, err
	}
	if is == nil {
		return nil, errors.New("somebody else has deleted it: refresh (taskfleet stacks refresh), and then do the same again")
	}
	want, err := k.kind.Complete(spec, is)
	switch {
	case err != nil:
		return nil, err
	case same(is, want):
		return is, nil // done before, by an attempt that was interrupted
	case !same(is, state):
		return nil, errChanged
	}
	err = k.kind.Update(ctx, k.c, name, spec)
	now, err := k.after(ctx, name, spec, err)
	if err != nil && same(now, state) {
		return nil, err // nothing was changed
	}
	return now, err
}

var errChanged = errors.New("somebody else has changed it, so it was left as it is: refresh (taskfleet stacks refresh), " +
	"look at the difference, and then do the same again")

// same tells whether two documents are, whatever the order of their members, and as far as Pulumi keeps them.
func same(a, b json.RawMessage) bool {
	x, errX := fromJSON(nil, keepable(a))
	y, errY := fromJSON(nil, keepable(b))
	return errX == nil && errY == nil && equal(x, y)
}

// Delete implements Kind.
func (k *onPlatform) Delete(ctx context.Context, name string, _ json.RawMessage) error {
	defer k.forget()
	return k.kind.Delete(ctx, k.c, name)
}

// Complete implements Kind.
func (k *onPlatform) Complete(spec, state json.RawMessage) (json.RawMessage, error) {
	return k.kind.Complete(spec, state)
}

// Secrets implements Kind.
func (k *onPlatform) Secrets() []string {
	if k.kind == resource.Secrets {
		return []string{"value"}
	}
	return nil
}

// Replaces implements Kind.
func (*onPlatform) Replaces() []string { return nil }

// Computed implements Kind.
func (*onPlatform) Computed() []string { return nil }
