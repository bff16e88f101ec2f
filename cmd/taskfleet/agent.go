//go:build agent

package main

import "github.com/spf13/cobra"

// platformCommands are none: an agent has no platform in it.
func platformCommands() []*cobra.Command { return nil }

// planningCommands are none: an agent has no provisioner in it.
func planningCommands() []*cobra.Command { return nil }

// mirrorBench is nothing: an agent has no mirror in it.
func mirrorBench() []*cobra.Command { return nil }
