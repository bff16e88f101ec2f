package main

import "github.com/spf13/cobra"

// newPoolCommand is the short form of taskfleet provisioner pools.
func newPoolCommand() *cobra.Command { return newPoolsCommand("pool", "taskfleet pool") }
