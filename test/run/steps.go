package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// raced are the packages in which goroutines share memory: they are tested under the race detector too, on SQLite
// alone, since a race is in our code, not in the database's.
var raced = []string{
	"./api/...",
	"./auth/...",
	"./blob/...",
	"./event/...",
	"./hooks/...",
	"./index/...",
	"./loop/...",
	"./notify/...",
	"./object/...",
	"./provisioner/...",
	"./purgecache/...",
	"./queue/...",
	"./secrets/...",
	"./store/...",
	"./worker/...",
}

// A checkout is the source tree under test, and what its tests are told through the environment.
type checkout struct {
	root    string
	env     []string
	without []string // packages that are not tested
}

// formatting fails with the files that gofmt would write otherwise.
func (c *checkout) formatting(ctx context.Context) error {
	files, err := c.goFiles()
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "gofmt", append([]string{"-l"}, files...)...).CombinedOutput()
	os.Stdout.Write(out)
	if err != nil {
		return fmt.Errorf("gofmt: %w", err)
	}
	if len(out) > 0 {
		return errors.New("these files are not formatted: run gofmt -w on them")
	}
	fmt.Printf("%d files are formatted\n", len(files))
	return nil
}

// goFiles lists the checkout's own Go files: not those of what was installed into it.
func (c *checkout) goFiles() (files []string, err error) {
	err = filepath.WalkDir(c.root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != c.root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "node_modules"):
			return fs.SkipDir
		case entry.Type().IsRegular() && strings.HasSuffix(path, ".go"):
			files = append(files, path)
		}
		return nil
	})
	return files, err
}

func (c *checkout) vet(ctx context.Context) error {
	return c.goCommand(ctx, "vet", "./...")
}

// unitTests are all but those under test/, which run the built binary.
func (c *checkout) unitTests(ctx context.Context) error {
	packages, err := c.packages(ctx)
	if err != nil {
		return err
	}
	return c.goCommand(ctx, append([]string{"test", "-timeout", "15m"}, packages...)...)
}

func (c *checkout) packages(ctx context.Context) ([]string, error) {
	list := exec.CommandContext(ctx, "go", "list", "./...")
	list.Dir, list.Stderr = c.root, os.Stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list ./...: %w", err)
	}
	var packages []string
	for name := range strings.FieldsSeq(string(out)) {
		if !strings.Contains(name, "/taskfleet/test/") && !slices.Contains(c.without, name) {
			packages = append(packages, name)
		}
	}
	return packages, nil
}

func (c *checkout) raceTests(ctx context.Context) error {
	sqlite := &checkout{root: c.root, env: append([]string{"TASKFLEET_TEST_DATABASES=sqlite", "CGO_ENABLED=1"}, c.env...)}
	return sqlite.goCommand(ctx, append([]string{"test", "-race", "-timeout", "15m"}, raced...)...)
}

// systemTests drive the built binary from outside: the official clients, and what a crash leaves. They are not cached,
// since Go does not see what they depend on.
func (c *checkout) systemTests(ctx context.Context) error {
	return c.goCommand(ctx, "test", "-count=1", "-timeout", "30m", "./test/...")
}

// goCommand runs the go command in a process group of its own, so that an interrupt ends all it started, and only once
// it has ended is the database stopped under it.
func (c *checkout) goCommand(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = c.root
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	err := runGroup(cmd)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("go %s ended with %v", args[0], exit)
	}
	return err
}

// output runs a command to its end and returns what it printed, or an error that has it.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, bytes.TrimSpace(out))
	}
	return strings.TrimSpace(string(out)), nil
}
