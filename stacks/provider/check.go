package provider

import (
	"context"
	"errors"
	"slices"

	p "github.com/pulumi/pulumi-go-provider"
	presource "github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

var (
	atName = path{"name"}
	atSpec = path{"spec"}
)

// check brings inputs into their form. With values that are not known yet it checks what it can, and leaves
// the spec as it is if that is not enough for its form.
func (v *provider) check(_ context.Context, r p.CheckRequest) (p.CheckResponse, error) {
	k, err := v.kind(r.Urn.Type())
	if err != nil {
		return p.CheckResponse{}, err
	}
	var failures []p.CheckFailure
	fail := func(where, reason string) {
		failures = append(failures, p.CheckFailure{Property: where, Reason: reason})
	}
	for name := range r.Inputs.AllStable {
		if name != "name" && name != "spec" {
			fail(name, "is unknown; a resource has name and spec")
		}
	}
	name := plain(r.Inputs.Get("name"))
	if !name.IsComputed() && (!name.IsString() || name.AsString() == "") {
		fail("name", "must be a text: what the thing is called")
	}
	spec := plain(r.Inputs.Get("spec"))
	if spec.IsNull() {
		spec = property.New(property.Map{})
	}
	if !spec.IsComputed() && !spec.IsMap() {
		fail("spec", "must be an object")
	}
	spec = hide(spec, k.Secrets())
	if len(failures) == 0 && spec.IsMap() {
		normal, problems := normal(k, name, spec)
		for _, x := range problems {
			fail(x.Member, scrub(errors.New(x.Reason), spec).Error())
		}
		if problems == nil && !normal.IsNull() {
			spec = normal
		}
	}
	inputs := property.NewMap(map[string]property.Value{"name": name, "spec": spec})
	return p.CheckResponse{Inputs: inputs, Failures: failures}, nil
}

// normal is spec in its form, with what is secret marked; null if that is not known yet. Problems have whole paths.
func normal(k Kind, name, spec property.Value) (property.Value, []Problem) {
	unknown := &placeholders{}
	document, err := toJSON(atSpec, spec, unknown)
	if err != nil {
		return property.Value{}, problemsOf(err, nil)
	}
	called := placeholder + "0"
	if name.IsString() {
		called = name.AsString()
	} else {
		unknown.paths = append(unknown.paths, atName)
	}
	document, err = k.Normal(called, document)
	if err != nil {
		var problems []Problem
		for _, x := range problemsOf(err, atSpec) {
			// What has no member may be about one that is not known.
			where, err := path(nil), error(nil)
			if x.Member != "" {
				where, err = presource.ParsePropertyPath(x.Member)
			}
			if len(unknown.paths) == 0 || err == nil && where != nil && !unknown.concern(where) {
				problems = append(problems, x)
			}
		}
		return property.Value{}, problems
	}
	out, err := fromJSON(atSpec, document)
	if err != nil {
		return property.Value{}, problemsOf(err, nil)
	}
	return hide(hideLike(lift(out), spec), k.Secrets()), nil
}

// problemsOf are those in an error, by their whole paths; under is where members of it are.
func problemsOf(err error, under path) (all []Problem) {
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range several.Unwrap() {
			all = append(all, problemsOf(one, under)...)
		}
		return all
	}
	x, ok := errors.AsType[*Problem](err)
	switch {
	case !ok:
		return []Problem{{Reason: err.Error()}}
	case under == nil || x.Member == "":
		return []Problem{*x}
	}
	where := under.String() + "." + x.Member
	if members, err := presource.ParsePropertyPath(x.Member); err == nil {
		where = append(slices.Clip(under), members...).String()
	}
	return []Problem{{Member: where, Reason: x.Reason}}
}
