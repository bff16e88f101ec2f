package stacks

import (
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/taskfleet/taskfleet/resource"
)

// poolsProgram is where tasks run: worker pools, with their launch configurations.
func poolsProgram(ctx *pulumi.Context, in *inputs) error {
	top, err := newComponent(ctx, "Pools", in.environment.Name)
	if err != nil {
		return err
	}
	_, err = group(ctx, top, "WorkerPools", in.sets["pools"], resource.WorkerPools)
	return err
}
