//go:build !agent

package main

import "github.com/spf13/cobra"

func newProvisionerCommand() *cobra.Command {
	return group(&cobra.Command{
		Use: "provisioner", Short: "Look after worker pools, and find out what they would cost",
	}, newSimulateCommand(), newTraceCommand())
}
