package stacks

import (
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/taskfleet/taskfleet/resource"
	"github.com/taskfleet/taskfleet/stacks/provider"
)

// accessProgram is who may do what: roles, then clients, and which addresses get no mail.
func accessProgram(ctx *pulumi.Context, in *inputs) error {
	top, err := newComponent(ctx, "Access", in.environment.Name)
	if err != nil {
		return err
	}
	roles, err := group(ctx, top, "Roles", in.sets["access"], resource.Roles)
	if err != nil {
		return err
	}
	if _, err := group(ctx, top, "Clients", in.sets["access"], resource.Clients, pulumi.DependsOn(roles)); err != nil {
		return err
	}
	_, err = group(ctx, top, "Denylist", in.sets["access"], resource.Denylist)
	return err
}

// group registers what a set has of a kind, as a component, and exports the names.
func group(ctx *pulumi.Context, parent pulumi.Resource, name string, set *resource.Set, kind resource.Kind, opts ...pulumi.ResourceOption) ([]pulumi.Resource, error) {
	c, err := newComponent(ctx, name, ctx.Stack(), pulumi.Parent(parent))
	if err != nil {
		return nil, err
	}
	made, names := []pulumi.Resource{}, pulumi.StringArray{}
	for _, d := range set.Only(kind).Definitions {
		r, err := provider.Register(ctx, indexPrefix+kind.Name(), d.Name, d.Name, d.Document, append([]pulumi.ResourceOption{pulumi.Parent(c)}, opts...)...)
		if err != nil {
			return nil, err
		}
		made, names = append(made, r), append(names, pulumi.String(d.Name))
	}
	ctx.Export(kind.Section(), names)
	return made, nil
}
