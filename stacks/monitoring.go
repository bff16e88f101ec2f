package stacks

import (
	"fmt"

	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/taskfleet/taskfleet/stacks/monitoring"
	"github.com/taskfleet/taskfleet/stacks/provider"
)

// monitoringProgram is what people see the platform by.
func monitoringProgram(ctx *pulumi.Context, in *inputs) error {
	top, err := newComponent(ctx, "Monitoring", in.environment.Name)
	if err != nil {
		return err
	}
	made := map[monitoring.Ref]pulumi.Resource{}
	for _, t := range in.things {
		opts := []pulumi.ResourceOption{pulumi.Parent(top)}
		for _, ref := range t.After {
			if made[ref] == nil {
				return fmt.Errorf("%s %s comes after %s %s, which is not before it", t.Token, t.Name, ref.Token, ref.Name)
			}
			opts = append(opts, pulumi.DependsOn([]pulumi.Resource{made[ref]}))
		}
		r, err := provider.Register(ctx, t.Token, t.Name, t.Name, t.Spec, opts...)
		if err != nil {
			return err
		}
		made[monitoring.Ref{Token: t.Token, Name: t.Name}] = r
	}
	ctx.Export("things", pulumi.Int(len(in.things)))
	return nil
}
