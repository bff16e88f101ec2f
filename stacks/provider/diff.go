package provider

import (
	"bytes"
	"context"
	"slices"
	"strings"

	p "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

// diff compares a state with what it would be after the inputs were applied, by the kind's Complete.
func (v *provider) diff(_ context.Context, r p.DiffRequest) (out p.DiffResponse, err error) {
	defer func() { err = v.scrub(err, r.Urn.Type(), r.State, r.Inputs) }()
	k, err := v.kind(r.Urn.Type())
	if err != nil {
		return out, err
	}
	state, err := stateOf(k, r.State)
	if err != nil {
		return out, err
	}
	want, err := complete(k, r.Inputs, state)
	if err != nil {
		return out, err
	}
	is := hide(plain(r.State.Get("spec")), k.Secrets())
	out.DetailedDiff = map[string]p.PropertyDiff{}
	if name := want.Get("name"); !name.IsString() || name.AsString() != r.ID {
		out.DetailedDiff["name"] = p.PropertyDiff{Kind: p.UpdateReplace}
	}
	replaced := false
	for where, kind := range changes(atSpec, is, want.Get("spec")) {
		if within(where, k.Replaces()) {
			kind, replaced = kind+"&replace", true // as AddReplace is Add
		}
		out.DetailedDiff[where] = p.PropertyDiff{Kind: kind}
	}
	out.HasChanges = len(out.DetailedDiff) > 0
	// Two things of one name cannot be there at the same time.
	_, renamed := out.DetailedDiff["name"]
	out.DeleteBeforeReplace = replaced && !renamed
	v.mu.Lock()
	defer v.mu.Unlock()
	v.replaced[r.Urn] = out.DeleteBeforeReplace
	return out, nil
}

// changes tells what differs between two values, member by member and element by element. Of what is secret, and of what is
// not known yet, it is told only that it does.
func changes(where path, is, want property.Value) map[string]p.DiffKind {
	all := map[string]p.DiffKind{}
	compare(where, is, want, all)
	return all
}

func compare(where path, is, want property.Value, all map[string]p.DiffKind) {
	whole := is.Secret() || want.Secret() // and not what is in it
	switch {
	case is.IsMap() && want.IsMap() && !whole:
		a, b := is.AsMap(), want.AsMap()
		for name, of := range a.All {
			if other, ok := b.GetOk(name); ok {
				compare(at(where, name), of, other, all)
			} else {
				all[at(where, name).String()] = p.Delete
			}
		}
		for name := range b.All {
			if _, ok := a.GetOk(name); !ok {
				all[at(where, name).String()] = p.Add
			}
		}
	case is.IsArray() && want.IsArray() && !whole:
		a, b := is.AsArray(), want.AsArray()
		for i := range max(a.Len(), b.Len()) {
			switch {
			case i >= b.Len():
				all[at(where, i).String()] = p.Delete
			case i >= a.Len():
				all[at(where, i).String()] = p.Add
			default:
				compare(at(where, i), a.Get(i), b.Get(i), all)
			}
		}
	case !equal(is, want):
		all[where.String()] = p.Update
	}
}

// equal tells whether two values are the same JSON, secret or not.
func equal(a, b property.Value) bool {
	x, errX := toJSON(nil, a, nil)
	y, errY := toJSON(nil, b, nil)
	return errX == nil && errY == nil && bytes.Equal(x, y) // what is not known is an error
}

// within tells whether a path of changes is that of one of the members of a spec, or of something in one, or has one in it.
func within(where string, members []string) bool {
	return slices.ContainsFunc(members, func(member string) bool {
		member = "spec." + member
		return where == member || strings.HasPrefix(where, member+".") || strings.HasPrefix(where, member+"[") ||
			strings.HasPrefix(member, where+".")
	})
}
