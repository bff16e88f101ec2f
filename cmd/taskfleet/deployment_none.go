//go:build !agent && server

package main

import "github.com/spf13/cobra"

func deploymentCommands() []*cobra.Command { return nil }
