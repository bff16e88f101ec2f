package provider

import (
	"encoding/json"
	"fmt"

	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"
)

// A Resource is one that a program has registered.
type Resource struct {
	pulumi.CustomResourceState

	Name     pulumi.StringOutput `pulumi:"name"`
	Spec     pulumi.MapOutput    `pulumi:"spec"`     // completed
	Computed pulumi.MapOutput    `pulumi:"computed"` // what is known only after it was made
}

// Register says in a program that there is to be a thing. token is its kind's; logicalName is what Pulumi calls the
// resource, name what the platform calls it. spec is its document: json.RawMessage, what becomes a JSON object by
// json.Marshal, or pulumi.MapInput where values in it come from other resources. (Pulumi's SDK leaves members out of
// maps that are nil; those of JSON it does not.)
//
// Members that are secret for the kind need not be marked: the provider does that before the engine keeps or
// shows any of it. Others can be, by pulumi.ToSecret.
func Register(ctx *pulumi.Context, token, logicalName, name string, spec any, opts ...pulumi.ResourceOption) (*Resource, error) {
	input, ok := spec.(pulumi.MapInput)
	if !ok {
		document, err := json.Marshal(spec)
		if err != nil {
			return nil, fmt.Errorf("%s %s: its spec is no JSON: %w", token, logicalName, err)
		}
		v, err := fromJSON(atSpec, document)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", token, logicalName, err)
		}
		if !v.IsMap() {
			return nil, fmt.Errorf("%s %s: its spec must be an object", token, logicalName)
		}
		input = inputOf(v).(pulumi.Map)
	}
	r := &Resource{}
	err := ctx.RegisterResource(token, logicalName, pulumi.Map{"name": pulumi.String(name), "spec": input}, r, opts...)
	return r, err
}

// inputOf is a value as the SDK's programs have it.
func inputOf(v property.Value) pulumi.Input {
	switch {
	case v.IsBool():
		return pulumi.Bool(v.AsBool())
	case v.IsNumber():
		return pulumi.Float64(v.AsNumber())
	case v.IsString():
		return pulumi.String(v.AsString())
	case v.IsArray():
		list := pulumi.Array{}
		for _, of := range v.AsArray().All {
			list = append(list, inputOf(of))
		}
		return list
	case v.IsMap():
		members := pulumi.Map{}
		for name, of := range v.AsMap().All {
			members[name] = inputOf(of)
		}
		return members
	}
	// A null, which the SDK would leave out of a map, were it not secret. The provider makes it one that is not.
	return pulumi.ToSecret(pulumi.Any(nil))
}
