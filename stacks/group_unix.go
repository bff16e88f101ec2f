//go:build unix

package stacks

import (
	"errors"
	"os/exec"
	"syscall"
)

// apart has a process be in a group of its own.
func apart(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// alive tells whether there is a process.
func alive(pid int) bool { return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }
