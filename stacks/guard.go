package stacks

import (
	"context"
	"encoding/json"
	"slices"
	"sync"

	"github.com/taskfleet/taskfleet/resource"
	"github.com/taskfleet/taskfleet/stacks/provider"
)

// A guard stands between the engine and the platform: it deletes nothing that no managed pattern matches, whoever
// asks for it, and takes over what it was told to.
type guard struct {
	managed []*resource.Pattern

	mu    sync.Mutex
	adopt map[string]bool // by KIND=NAME: what is there, and differs, is changed instead of made
	kept  []string        // what was not deleted
}

func newGuard(sets map[string]*resource.Set) *guard {
	g := &guard{adopt: map[string]bool{}}
	for _, s := range sets {
		g.managed = append(g.managed, s.Managed...)
	}
	return g
}

// manages tells whether a thing may be deleted. Only things of a platform are asked about.
func (g *guard) manages(k resource.Kind, name string) bool {
	return slices.ContainsFunc(g.managed, func(p *resource.Pattern) bool { return p.Match(k, name) })
}

// take says what is to be taken over, by KIND=NAME, and nothing else is.
func (g *guard) take(ids []string) {
	if g == nil { // no stack has things of a platform
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.adopt = map[string]bool{}
	for _, id := range ids {
		g.adopt[id] = true
	}
}

// left is what was not deleted, sorted. A call of an engine that was killed may be still under way.
func (g *guard) left() []string {
	if g == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Sorted(slices.Values(g.kept))
}

const indexPrefix = "taskfleet:index:"

// kind is a kind of the provider under guard.
func (g *guard) kind(k provider.Kind) provider.Kind {
	return &guarded{k, g, resource.KindNamed(k.Token()[len(indexPrefix):])}
}

type guarded struct {
	provider.Kind
	guard *guard
	of    resource.Kind
}

func (k *guarded) taken(name string) bool {
	k.guard.mu.Lock()
	defer k.guard.mu.Unlock()
	return k.guard.adopt[resource.ID(k.of, name)]
}

// Read says of what is to be taken over that it is not there: else it could not be made other than it is.
func (k *guarded) Read(ctx context.Context, name string, state json.RawMessage) (json.RawMessage, error) {
	if k.taken(name) {
		return nil, nil
	}
	return k.Kind.Read(ctx, name, state)
}

// Create changes what is to be taken over.
func (k *guarded) Create(ctx context.Context, name string, spec json.RawMessage) (json.RawMessage, error) {
	if !k.taken(name) {
		return k.Kind.Create(ctx, name, spec)
	}
	is, err := k.Kind.Read(ctx, name, nil)
	if err != nil {
		return nil, err
	}
	k.guard.mu.Lock()
	delete(k.guard.adopt, resource.ID(k.of, name)) // from now on it is one like the others
	k.guard.mu.Unlock()
	if is == nil {
		return k.Kind.Create(ctx, name, spec)
	}
	return k.Kind.Update(ctx, name, is, spec)
}

// Delete leaves what nobody manages where it is.
func (k *guarded) Delete(ctx context.Context, name string, state json.RawMessage) error {
	if k.guard.manages(k.of, name) {
		return k.Kind.Delete(ctx, name, state)
	}
	k.guard.mu.Lock()
	defer k.guard.mu.Unlock()
	k.guard.kept = append(k.guard.kept, resource.ID(k.of, name))
	return nil
}
