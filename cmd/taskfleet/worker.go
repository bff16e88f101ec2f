package main

import (
	"log/slog"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/taskfleet/taskfleet/worker"
)

func newWorkerCommand() *cobra.Command {
	var file, directory, powerOff string
	var aws bool
	cmd := &cobra.Command{
		Use: "worker (--config FILE | --aws)", Short: "Run tasks; the platform starts this for its pools",
		Long: `Runs a worker: it registers with the platform, claims tasks and runs them until it is not needed any more.

With --config a file says who the worker is. The local provider of a platform starts workers by itself, and writes their
files.

With --aws the instance of EC2 that this runs on says so: its user data names the platform and the pool, its identity
document proves which instance it is. The worker heeds the notices that EC2 gives: when the instance is interrupted its
tasks are given back to the queue within seconds; when it is to be replaced or maintained they are finished and no more
are claimed. In the end the machine is powered off, unless its user data has "shutdown": false.

SIGTERM has the worker end in good order: tasks are asked to stop and are given back to the queue. A second one ends it
at once. Neither powers the machine off.`,
		Example: `  taskfleet worker --aws --directory /mnt/taskfleet
  taskfleet worker --aws --power-off ""`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			if aws {
				return worker.RunOnEC2(cmd.Context(), worker.OnEC2{Directory: directory, PowerOff: strings.Fields(powerOff)}, log)
			}
			config, err := worker.LoadConfig(file)
			if err != nil {
				return err
			}
			return worker.Run(cmd.Context(), config, log)
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "file that says who the worker is and where the platform is")
	cmd.Flags().BoolVar(&aws, "aws", false, "have the EC2 instance that this runs on say so")
	cmd.Flags().StringVar(&directory, "directory", "/var/lib/taskfleet/worker", "with --aws: where to keep the worker's files")
	cmd.Flags().StringVar(&powerOff, "power-off", powerOffCommand(), "with --aws: the command that powers the machine off, in words; empty for none")
	cmd.MarkFlagsOneRequired("config", "aws")
	cmd.MarkFlagsMutuallyExclusive("config", "aws")
	cmd.MarkFlagsMutuallyExclusive("config", "directory")
	cmd.MarkFlagsMutuallyExclusive("config", "power-off")
	return cmd
}

func powerOffCommand() string {
	if runtime.GOOS == "windows" {
		return "shutdown /s /t 0"
	}
	return "shutdown -h now"
}
