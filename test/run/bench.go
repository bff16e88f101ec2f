package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/taskfleet/taskfleet/test/postgres"
	"github.com/taskfleet/taskfleet/test/server"
)

// bench measures the queue of a fresh server on each database, one after the other.
func bench(ctx context.Context, c *checkout) error {
	tools, err := install(ctx, c.root)
	if err != nil {
		return err
	}
	database, err := postgres.Start(ctx, tools.postgres)
	if err != nil {
		return err
	}
	defer database.Stop()
	directory, err := os.MkdirTemp("", "taskfleet-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(directory)
	binary, err := server.Build(ctx, directory)
	if err != nil {
		return err
	}
	return runSteps(ctx,
		step{name: "SQLite", do: func(ctx context.Context, out io.Writer) error {
			return benchOn(ctx, out, server.Options{Binary: binary, Data: filepath.Join(directory, "sqlite")}, 0)
		}},
		step{name: "PostgreSQL", do: func(ctx context.Context, out io.Writer) error {
			return benchOn(ctx, out, server.Options{Binary: binary, Data: filepath.Join(directory, "postgres"), Database: database.URL}, database.PID())
		}},
	)
}

// benchOn measures a server. Besides its CPU time, that of its database counts,
// if that is a process of its own.
func benchOn(ctx context.Context, out io.Writer, options server.Options, database int) (err error) {
	s, err := server.Start(ctx, options)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	pids := strconv.Itoa(s.PID())
	if database != 0 {
		pids += "," + strconv.Itoa(database)
	}
	cmd := exec.CommandContext(ctx, options.Binary, "bench", "queue", "--clients", "1,8,32", "--pid", pids)
	cmd.Env = append(os.Environ(), s.Environment()...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := runGroup(cmd); err != nil {
		return fmt.Errorf("taskfleet bench queue: %w\nThe server's log:\n%s", err, s.Log())
	}
	return nil
}
