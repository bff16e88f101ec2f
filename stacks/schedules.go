package stacks

import (
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/taskfleet/taskfleet/resource"
)

// schedulesProgram is what happens by the clock: rotations, by the server's configuration, then the secrets of hooks, then hooks.
func schedulesProgram(ctx *pulumi.Context, in *inputs) error {
	top, err := newComponent(ctx, "Schedules", in.environment.Name)
	if err != nil {
		return err
	}
	if _, err := in.configure(ctx, top, "schedules"); err != nil {
		return err
	}
	set := in.sets["schedules"]
	if set == nil {
		return nil
	}
	secrets, err := group(ctx, top, "Secrets", set, resource.Secrets)
	if err != nil {
		return err
	}
	_, err = group(ctx, top, "Hooks", set, resource.Hooks, pulumi.DependsOn(secrets))
	return err
}
