package provider

import (
	"context"
	"fmt"
	"maps"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

// read is for refreshes, and for imports, of which nothing is known but the ID.
func (v *provider) read(ctx context.Context, r p.ReadRequest) (out p.ReadResponse, err error) {
	defer func() { err = v.scrub(err, r.Urn.Type(), r.Properties, r.Inputs) }()
	ctx, end := v.begin(ctx, 0)
	defer end()
	k, err := v.kind(r.Urn.Type())
	if err != nil {
		return out, err
	}
	was, err := stateOf(k, r.Properties)
	if err != nil {
		return out, err
	}
	state, err := k.Read(ctx, r.ID, was)
	if state == nil || err != nil {
		return out, err // without an ID: it is gone
	}
	if was != nil { // an import tells what cannot be kept
		state = keepable(state)
	}
	said := plain(r.Inputs.Get("spec"))
	name := property.New(r.ID)
	if out.Properties, err = outputs(k, name, state, said, false); err != nil {
		return p.ReadResponse{}, fmt.Errorf("it has what cannot be kept: %w", err)
	}
	spec := out.Properties.Get("spec")
	if said.IsMap() {
		// What the program leaves out on purpose stays left out.
		of := spec.AsMap().AsMap()
		maps.DeleteFunc(of, func(member string, _ property.Value) bool { _, ok := said.AsMap().GetOk(member); return !ok })
		spec = property.WithGoValue(spec, of)
	}
	out.ID, out.Inputs = r.ID, property.NewMap(map[string]property.Value{"name": name, "spec": spec})
	return out, nil
}

// update changes it, or says what it would be. What a half update has led to is kept.
func (v *provider) update(ctx context.Context, r p.UpdateRequest) (out p.UpdateResponse, err error) {
	defer func() { err = v.scrub(err, r.Urn.Type(), r.State, r.Inputs) }()
	ctx, end := v.begin(ctx, r.Timeout)
	defer end()
	k, err := v.kind(r.Urn.Type())
	if err != nil {
		return out, err
	}
	state, err := stateOf(k, r.State)
	if err != nil {
		return out, err
	}
	if r.DryRun {
		out.Properties, err = complete(k, r.Inputs, state)
		return out, err
	}
	spec, err := plainSpec(k, r.ID, r.Inputs)
	if err != nil {
		return out, err
	}
	if state, err = k.Update(ctx, r.ID, state, spec); err != nil && state == nil {
		return out, err
	}
	if out.Properties, err = kept(k, r.Inputs, state, err); err != nil {
		out.PartialState = &p.InitializationFailed{Reasons: []string{v.scrub(err, r.Urn.Type(), r.State, r.Inputs).Error()}}
	}
	return out, err
}

// delete removes it.
func (v *provider) delete(ctx context.Context, r p.DeleteRequest) (err error) {
	defer func() { err = v.scrub(err, r.Urn.Type(), r.Properties) }()
	ctx, end := v.begin(ctx, r.Timeout)
	defer end()
	k, err := v.kind(r.Urn.Type())
	if err != nil {
		return err
	}
	state, err := stateOf(k, r.Properties)
	if err != nil {
		return err
	}
	return k.Delete(ctx, r.ID, state)
}
