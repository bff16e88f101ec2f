package stacks

import "github.com/pulumi/pulumi/sdk/v3/go/pulumi"

// mirrorProgram is the mirror's routes and budgets.
func mirrorProgram(ctx *pulumi.Context, in *inputs) error {
	top, err := newComponent(ctx, "Mirror", in.environment.Name)
	if err != nil {
		return err
	}
	_, err = in.configure(ctx, top, "mirror")
	return err
}
