package stub

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"

	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// account is what there is, as AWS would have it.
type account struct {
	schemas *schemas

	mu      sync.Mutex
	objects map[string]*object // by key
	seeds   map[string]bool    // of objects, so that no two get the same identifiers
	gone    map[string]bool    // keys of what is not there any more
	last    int
	before  func(context.Context, Operation) error
}

// object is a resource. Its key is known to terraform as private data, since not every type has an identifier.
type object struct {
	key, kind, seed string
	value           tftypes.Value
}

func newAccount(s *schemas) *account {
	return &account{schemas: s, objects: map[string]*object{}, seeds: map[string]bool{}, gone: map[string]bool{}}
}

// An Object is a resource as the account has it.
type Object struct {
	Type       string         // aws_s3_bucket
	ID         string         // its attribute id; empty if the type has none
	Attributes map[string]any // as encoding/json would have them
}

// An Operation is what terraform is about to have done.
type Operation struct {
	Type   string // aws_s3_bucket
	Action string // create, update or delete
	// Attributes are those planned; when deleting, those that there are.
	Attributes map[string]any
}

// Before has f called before anything is created, updated or deleted. If f fails, it is not done, and terraform gets the
// error. f may wait: for ctx, which ends when terraform is killed, or for the test.
func (p *Provider) Before(f func(ctx context.Context, o Operation) error) {
	p.account.mu.Lock()
	defer p.account.mu.Unlock()
	p.account.before = f
}

// Objects are the resources of a type; of all types if it is empty.
func (p *Provider) Objects(kind string) []Object {
	p.account.mu.Lock()
	defer p.account.mu.Unlock()
	var result []Object
	for _, key := range slices.Sorted(maps.Keys(p.account.objects)) {
		if o := p.account.objects[key]; kind == "" || o.kind == kind {
			attributes, _ := plain(o.value).(map[string]any)
			id, _ := attributes["id"].(string)
			result = append(result, Object{Type: o.kind, ID: id, Attributes: attributes})
		}
	}
	return result
}

// Change changes attributes of a resource behind terraform's back.
func (p *Provider) Change(kind, id string, attributes map[string]any) error {
	p.account.mu.Lock()
	defer p.account.mu.Unlock()
	o, err := p.account.find(kind, id)
	if err != nil {
		return err
	}
	values := fields(o.value)
	for name, v := range attributes {
		old, ok := values[name]
		if !ok {
			return fmt.Errorf("stub: %s has no attribute %q", kind, name)
		}
		if values[name], err = typed(old.Type(), v); err != nil {
			return fmt.Errorf("stub: %s.%s: %w", kind, name, err)
		}
	}
	o.value = tftypes.NewValue(o.value.Type(), values)
	return nil
}

// Delete removes a resource behind terraform's back.
func (p *Provider) Delete(kind, id string) error {
	p.account.mu.Lock()
	defer p.account.mu.Unlock()
	o, err := p.account.find(kind, id)
	if err != nil {
		return err
	}
	p.account.remove(o)
	return nil
}

// Add makes a resource that terraform does not know, and returns its id, by which it can be imported. Of the attributes
// those are invented that are not given and that AWS would compute.
func (p *Provider) Add(kind, region string, attributes map[string]any) (id string, err error) {
	schema, ok := p.account.schemas.resources[kind]
	if !ok {
		return "", fmt.Errorf("stub: there is no resource %q in types.txt", kind)
	}
	value, err := typed(schema.ValueType(), attributes)
	if err != nil {
		return "", fmt.Errorf("stub: %s: %w", kind, err)
	}
	planned := unknowns(schema.Block, kind, value, configuration{region: region})
	o, err := p.account.create(kind, planned, configuration{region: region})
	if err != nil {
		return "", err
	}
	return text(fields(o.value)["id"]), nil
}

// find gives the object with an id. The account is locked.
func (a *account) find(kind, id string) (*object, error) {
	for _, key := range slices.Sorted(maps.Keys(a.objects)) {
		if o := a.objects[key]; o.kind == kind && text(fields(o.value)["id"]) == id {
			return o, nil
		}
	}
	return nil, fmt.Errorf("stub: there is no %s with the id %q", kind, id)
}

// remove forgets an object. The account is locked.
func (a *account) remove(o *object) {
	delete(a.objects, o.key)
	delete(a.seeds, o.seed)
	a.gone[o.key] = true
}

// create gives the planned resource its values that were not known.
func (a *account) create(kind string, planned tftypes.Value, c configuration) (*object, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	seed := fingerprint(kind, c.region, planned)
	for n := 2; a.seeds[seed]; n++ {
		seed = fingerprint(kind, c.region, planned) + "/" + strconv.Itoa(n)
	}
	o := &object{kind: kind, seed: seed}
	o.value = invent(a.schemas.resources[kind].Block, kind, seed, planned, c)
	// Names are unique, as they are with AWS. Without this, two modules that collide would be found out there.
	values := fields(o.value)
	if named[kind] {
		for _, other := range a.objects {
			theirs := fields(other.value)
			if other.kind == kind && text(theirs["id"]) == text(values["id"]) && text(theirs["region"]) == text(values["region"]) {
				return nil, fmt.Errorf("%s %q already exists", kind, text(values["id"]))
			}
		}
	}
	a.last++
	o.key = fmt.Sprintf("%s#%06d", kind, a.last)
	a.objects[o.key], a.seeds[seed] = o, true
	return o, nil
}

// about tells the test what is to be done, and whether it may be.
func (a *account) about(ctx context.Context, kind, action string, v tftypes.Value) error {
	a.mu.Lock()
	before := a.before
	a.mu.Unlock()
	if before == nil {
		return nil
	}
	attributes, _ := plain(v).(map[string]any)
	return before(ctx, Operation{Type: kind, Action: action, Attributes: attributes})
}
