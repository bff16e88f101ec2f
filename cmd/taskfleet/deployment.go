//go:build !agent && !server

package main

import "github.com/spf13/cobra"

// deploymentCommands are those that run Pulumi. A program that only serves, as in the image, is built without them: beside it there
// is no pulumi, and with Pulumi's packages the linker keeps twice as much.
func deploymentCommands() []*cobra.Command {
	return []*cobra.Command{stacksCommand(), newDeployCommand()}
}
