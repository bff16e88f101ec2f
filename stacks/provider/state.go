package provider

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

// plainSpec is the document of inputs that are known, in its form.
func plainSpec(k Kind, name string, inputs property.Map) (json.RawMessage, error) {
	document, err := toJSON(atSpec, plain(inputs.Get("spec")), nil)
	if err != nil {
		return nil, err
	}
	return k.Normal(name, document)
}

// stateOf is the state of outputs; nil if there is none.
func stateOf(k Kind, outputs property.Map) (json.RawMessage, error) {
	spec := plain(outputs.Get("spec"))
	if !spec.IsMap() {
		return nil, nil
	}
	all := spec.AsMap().AsMap()
	for name, of := range object(plain(outputs.Get("computed"))).All {
		if slices.Contains(k.Computed(), name) {
			all[name] = of
		}
	}
	return toJSON(nil, property.New(all), nil)
}

// outputs are those of a state. What like has secret, such as the inputs, stays it. Computed members that
// are not in a state are unknown in a preview.
func outputs(k Kind, name property.Value, state json.RawMessage, like property.Value, preview bool) (property.Map, error) {
	all, err := fromJSON(atSpec, state)
	if err != nil {
		return property.Map{}, err
	}
	if !all.IsMap() {
		return property.Map{}, fmt.Errorf("the state of a %s is no object", k.Token())
	}
	spec, computed := all.AsMap().AsMap(), map[string]property.Value{}
	for _, member := range k.Computed() {
		if of, ok := spec[member]; ok {
			computed[member] = of
			delete(spec, member)
		} else if preview {
			computed[member] = property.New(property.Computed)
		}
	}
	return property.NewMap(map[string]property.Value{
		"name":     name.WithSecret(false),
		"spec":     hide(hideLike(lift(property.New(spec)), like), k.Secrets()),
		"computed": hide(lift(property.New(computed)), k.Secrets()),
	}), nil
}

// complete is what the outputs would be after inputs were applied to what state has; nil: to nothing.
func complete(k Kind, inputs property.Map, state json.RawMessage) (property.Map, error) {
	name, spec := plain(inputs.Get("name")), plain(inputs.Get("spec"))
	unknown := &placeholders{}
	document, err := toJSON(atSpec, spec, unknown)
	if err != nil {
		return property.Map{}, err
	}
	if !name.IsString() {
		unknown.add(atName)
	} else if normal, wrong := k.Normal(name.AsString(), document); wrong == nil {
		document = normal
	} else if len(unknown.paths) > 0 {
		err = wrong
	} // else it is what a refresh has found, which need not be what may be written
	if err == nil {
		document, err = k.Complete(document, state)
	}
	switch {
	case err != nil && len(unknown.paths) > 0:
		// It is for what is not known that it has no form yet. What it leaves out may be a default, and so as it is.
		if document = json.RawMessage("{}"); state != nil {
			document = state
		}
		is, err := outputs(k, name, document, spec, true)
		if err != nil || !spec.IsMap() {
			return is.Set("spec", spec), err
		}
		all := object(is.Get("spec"))
		for member, of := range spec.AsMap().All {
			all = all.Set(member, of)
		}
		return is.Set("spec", hide(property.New(all), k.Secrets())), nil
	case err != nil:
		return property.Map{}, err
	}
	return outputs(k, name, document, spec, true)
}

// kept is what is remembered of a change that has done something: the state that it led to. If that cannot be, it is
// what was wanted, together with an error, so that nothing is made that is not remembered.
func kept(k Kind, inputs property.Map, state json.RawMessage, failed error) (property.Map, error) {
	name, spec := plain(inputs.Get("name")), plain(inputs.Get("spec"))
	out, err := outputs(k, name, state, spec, false)
	if err == nil {
		return out, failed
	}
	nothing := property.New(property.Map{})
	out = property.NewMap(map[string]property.Value{"name": name, "spec": hide(spec, k.Secrets()), "computed": nothing})
	return out, errors.Join(failed, fmt.Errorf("it is done, but what there is now cannot be kept: %w", err))
}
