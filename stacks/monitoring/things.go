package monitoring

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/signalfx/signalfx-go"

	"github.com/taskfleet/taskfleet/stacks/provider"
)

// things are a kind of things at SignalFx: T is one of them as the client has it, S one as it is
// written by people.
type things[T, S any] struct {
	*site
	token, noun string

	alone    bool // SignalFx has but one of a name
	replaces []string
	computed []string // besides id
	secrets  []string

	check func(s *S) []error // also fills in what is left out
	text  func(s *S) *string // the description
	head  func(t *T) head

	search func(ctx context.Context, c *signalfx.Client, name string, offset int) (all int, list []*T, err error)
	get    func(ctx context.Context, c *signalfx.Client, id string) (*T, error)
	create func(ctx context.Context, c *signalfx.Client, t *T) (*T, error)
	update func(ctx context.Context, c *signalfx.Client, id string, t *T) (*T, error)
	remove func(ctx context.Context, c *signalfx.Client, id string) error

	// write has t be as s says, but for what the head has.
	write func(ctx context.Context, c *signalfx.Client, t *T, s S) error

	// read is how t is, with what is computed besides the id. state is what it was, nil at an import.
	read func(ctx context.Context, c *signalfx.Client, t *T, state *stateOf[S]) (s S, computed map[string]any, err error)

	// keeps tells that a change to s leaves what is computed as it is; nil: every change does.
	keeps func(state *stateOf[S], s S) bool
}

// A head is what all things have.
type head struct {
	id                *string
	name, description *string
	created           int64
}

// A stateOf is a state, read.
type stateOf[S any] struct {
	spec     S
	id       string // "": it was not made yet
	computed map[string]json.RawMessage
}

var _ provider.Kind = (*things[struct{}, struct{}])(nil)

// Token implements provider.Kind.
func (k *things[T, S]) Token() string { return k.token }

// Secrets implements provider.Kind.
func (k *things[T, S]) Secrets() []string { return k.secrets }

// Replaces implements provider.Kind.
func (k *things[T, S]) Replaces() []string { return k.replaces }

// Computed implements provider.Kind.
func (k *things[T, S]) Computed() []string { return append([]string{"id"}, k.computed...) }

// Normal implements provider.Kind.
func (k *things[T, S]) Normal(name string, text json.RawMessage) (json.RawMessage, error) {
	s, err := normal(text, func(s *S) []error {
		d := k.text(s)
		*d = strings.TrimSpace(*d)
		problems := append(k.check(s), checkName(name, k.alone))
		if strings.Contains(*d, "managed by taskfleet stacks") {
			problems = append(problems, problem("description", "must not say by whom it is managed: that is added"))
		}
		return problems
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(s)
}

// Complete implements provider.Kind.
func (k *things[T, S]) Complete(text, was json.RawMessage) (json.RawMessage, error) {
	var s S
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, err
	}
	if was == nil {
		return text, nil
	}
	state, err := k.parse(was)
	if err != nil {
		return nil, err
	}
	computed := map[string]any{}
	for _, member := range k.Computed() {
		if value, ok := state.computed[member]; ok && (member == "id" || k.keeps == nil || k.keeps(state, s)) {
			computed[member] = value
		}
	}
	return document(s, computed)
}

// Read implements provider.Kind. What somebody has renamed, or taken the marker from, says so in
// its description, so that it differs.
func (k *things[T, S]) Read(ctx context.Context, name string, was json.RawMessage) (out json.RawMessage, err error) {
	state, err := k.parse(was)
	if err != nil {
		return nil, err
	}
	err = k.do(fmt.Sprintf("reading the %s %q", k.noun, name), func(c *signalfx.Client) error {
		t, err := k.find(ctx, c, name, state)
		if err != nil || t == nil {
			return err
		}
		out, err = k.state(ctx, c, name, t, state)
		return err
	})
	return out, err
}

// Create implements provider.Kind. Read has found nothing that an attempt before has made. After an answer that
// tells nothing it is looked for.
func (k *things[T, S]) Create(ctx context.Context, name string, text json.RawMessage) (out json.RawMessage, err error) {
	state, err := k.parse(text)
	if err != nil {
		return nil, err
	}
	lost := false
	err = k.do(fmt.Sprintf("making the %s %q", k.noun, name), func(c *signalfx.Client) error {
		t := new(T)
		if err := k.write(ctx, c, t, state.spec); err != nil {
			return err
		}
		h := k.head(t)
		*h.name, *h.description = name, k.mark(*k.text(&state.spec))
		t, err := k.create(ctx, c, t)
		if err != nil {
			if !uncertain(err) {
				return err
			}
			found, again := k.find(ctx, c, name, state)
			if lost = again != nil || found == nil; lost {
				return err
			}
			t = found
		}
		out, err = k.state(ctx, c, name, t, state)
		if err != nil { // it is there, so it must not be forgotten
			var again error
			if out, again = document(state.spec, map[string]any{"id": *k.head(t).id}); again != nil {
				return errors.Join(err, again)
			}
		}
		return err
	})
	if lost {
		err = fmt.Errorf("%w. Whether it was made is not known: run it again, which looks first", err)
	}
	return out, err
}

// Update implements provider.Kind.
func (k *things[T, S]) Update(ctx context.Context, name string, was, text json.RawMessage) (out json.RawMessage, err error) {
	state, err := k.parse(was)
	if err != nil {
		return nil, err
	}
	var s S
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, err
	}
	err = k.do(fmt.Sprintf("changing the %s %q", k.noun, name), func(c *signalfx.Client) error {
		t, err := k.find(ctx, c, name, state)
		switch {
		case err != nil:
			return err
		case t == nil:
			return errors.New("it is not at SignalFx any more: run taskfleet stacks refresh, and then up")
		}
		if t, err = k.put(ctx, c, name, t, s); err != nil {
			return err
		}
		out, err = k.state(ctx, c, name, t, &stateOf[S]{spec: s, id: state.id, computed: state.computed})
		return err
	})
	return out, err
}

// Delete implements provider.Kind.
func (k *things[T, S]) Delete(ctx context.Context, name string, was json.RawMessage) error {
	state, err := k.parse(was)
	if err != nil {
		return err
	}
	err = k.do(fmt.Sprintf("deleting the %s %q", k.noun, name), func(c *signalfx.Client) error {
		id := state.id
		if id == "" {
			t, err := k.find(ctx, c, name, state)
			if err != nil || t == nil {
				return err
			}
			id = *k.head(t).id
		}
		return k.remove(ctx, c, id)
	})
	if errors.Is(err, errNotThere) {
		return nil
	}
	return err
}

// put has what there is be as s says. What s does not tell stays.
func (k *things[T, S]) put(ctx context.Context, c *signalfx.Client, name string, t *T, s S) (*T, error) {
	h := k.head(t)
	id := *h.id
	if err := k.write(ctx, c, t, s); err != nil {
		return nil, err
	}
	*h.name, *h.description = name, k.mark(*k.text(&s))
	return k.update(ctx, c, id, t)
}

// find is the thing of a state, or where that has no id that of lookup; nil: there is none.
func (k *things[T, S]) find(ctx context.Context, c *signalfx.Client, name string, state *stateOf[S]) (*T, error) {
	id := ""
	if state != nil {
		id = state.id
	}
	if id == "" {
		var err error
		if id, err = k.lookup(ctx, c, name, state == nil); err != nil || id == "" {
			return nil, err
		}
	}
	return k.there(k.get(ctx, c, id)) // as a list need not show all
}

// lookup is the id of the thing of a name that has the marker: of several, as one was copied, the oldest. It is also that
// of one without a marker where SignalFx has but one of a name, and at an import if there is one. "": there is none.
func (k *things[T, S]) lookup(ctx context.Context, c *signalfx.Client, name string, importing bool) (string, error) {
	all, err := named(ctx, name, func(ctx context.Context, offset int) (int, []*T, error) { return k.search(ctx, c, name, offset) },
		func(t *T) string { return *k.head(t).name })
	if err != nil {
		return "", err
	}
	slices.SortFunc(all, func(a, b *T) int {
		x, y := k.head(a), k.head(b)
		return cmp.Or(cmp.Compare(x.created, y.created), cmp.Compare(*x.id, *y.id))
	})
	ours := slices.IndexFunc(all, func(t *T) bool { _, marked := k.unmark(*k.head(t).description); return marked })
	switch {
	case ours >= 0:
		return *k.head(all[ours]).id, nil
	case len(all) == 0 || !importing && !k.alone:
		return "", nil
	case len(all) > 1:
		return "", fmt.Errorf("%d have this name: end the description of the one that you mean with %q at SignalFx", len(all), k.marker())
	}
	return *k.head(all[0]).id, nil
}

// there makes nil of what is not there.
func (k *things[T, S]) there(t *T, err error) (*T, error) {
	if answer, ok := signalfx.AsResponseError(err); ok && answer.Code() == 404 {
		return nil, nil
	}
	if err == nil && *k.head(t).id == "" {
		return nil, errors.New("SignalFx does not tell its id")
	}
	return t, err
}

// id is that of the thing of a name with the marker.
func (k *things[T, S]) id(ctx context.Context, c *signalfx.Client, name string) (string, error) {
	id, err := k.lookup(ctx, c, name, false)
	if err == nil && id == "" {
		err = fmt.Errorf("there is no %s %q of this environment", k.noun, name)
	}
	return id, err
}

// state is how t is.
func (k *things[T, S]) state(ctx context.Context, c *signalfx.Client, name string, t *T, was *stateOf[S]) (json.RawMessage, error) {
	s, computed, err := k.read(ctx, c, t, was)
	if err != nil {
		return nil, err
	}
	h := k.head(t)
	d, marked := k.unmark(*h.description)
	if !marked {
		d = strings.TrimSpace(d + " [at SignalFx without the words by whom it is managed]")
	}
	if *h.name != name {
		d = strings.TrimSpace(fmt.Sprintf("%s [called %q at SignalFx]", d, *h.name))
	}
	*k.text(&s) = d
	if computed == nil {
		computed = map[string]any{}
	}
	computed["id"] = *h.id
	return document(s, computed)
}

// parse reads a state, or a spec; nil of nil.
func (k *things[T, S]) parse(text json.RawMessage) (*stateOf[S], error) {
	if text == nil {
		return nil, nil
	}
	out := &stateOf[S]{}
	err := json.Unmarshal(text, &out.spec)
	if err == nil {
		err = json.Unmarshal(text, &out.computed)
	}
	if id, ok := out.computed["id"]; ok && err == nil {
		err = json.Unmarshal(id, &out.id)
	}
	if err != nil { // which may show what is secret
		return nil, fmt.Errorf("the state of a %s cannot be read", k.noun)
	}
	return out, nil
}

// document is a spec with what is computed.
func document(spec any, computed map[string]any) (json.RawMessage, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	all := map[string]json.RawMessage{}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, err
	}
	for member, value := range computed {
		if all[member], err = json.Marshal(value); err != nil {
			return nil, err
		}
	}
	return json.Marshal(all)
}

// as is what is sent for something that was read: members that only answers have are left out.
func as[R any](t any) (*R, error) {
	text, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	out := new(R)
	return out, json.Unmarshal(text, out)
}
