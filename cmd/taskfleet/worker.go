package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/worker"
)

func newWorkerCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "worker --config FILE", Short: "Run tasks; the platform starts this for its pools",
		Long: `Runs a worker: it registers with the platform, claims tasks and runs them until it is not needed any more. The local
provider of a platform starts workers by itself, and writes their configuration files.

SIGTERM has it end in good order: tasks are asked to stop and are given back to the queue. A second one ends it at once.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := worker.LoadConfig(file)
			if err != nil {
				return err
			}
			return worker.Run(cmd.Context(), config, slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "file that says who the worker is and where the platform is")
	cobra.CheckErr(cmd.MarkFlagRequired("config"))
	return cmd
}
