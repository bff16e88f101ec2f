package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// installCheckov puts checkov into a Python environment in .tools/checkov, as installMoto does.
func installCheckov(ctx context.Context, root, systemPython string) (program string, err error) {
	return installPythonProgram(ctx, root, "checkov", filepath.Join(root, "test", "run", "checkov.txt"), systemPython)
}

// checkov is another opinion on infra's modules: what it finds is mended, or the place says why not.
func (c *checkout) checkov(program string) func(context.Context, io.Writer) error {
	return func(ctx context.Context, out io.Writer) error {
		cmd := exec.CommandContext(ctx, program, "--framework", "terraform", "--compact", "--quiet", "--skip-download",
			"--directory", "infra/modules", "--directory", "infra/live")
		cmd.Dir = c.root
		cmd.Env = append(os.Environ(), "LOG_LEVEL=ERROR")
		cmd.Stdout, cmd.Stderr = out, out
		if err := runGroup(cmd); err != nil {
			return fmt.Errorf("checkov: %w", err)
		}
		return nil
	}
}
