//go:build !agent

package main

import "github.com/spf13/cobra"

// planningCommands need the provisioner in the binary, and no platform.
func planningCommands() []*cobra.Command {
	return []*cobra.Command{newSimulateCommand(), newTraceCommand()}
}
