package main

import (
	"errors"
	"os/exec"
	"syscall"
	"time"
)

// grace is how long a process is given to end after it was asked to.
const grace = 20 * time.Second

// runGroup runs a command as the leader of a process group. When its context ends the group is interrupted, as Ctrl-C
// in a terminal would, and after a grace it is killed.
func runGroup(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = grace
	if err := cmd.Start(); err != nil {
		return err
	}
	err := cmd.Wait()
	if killed := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); killed != nil && !errors.Is(killed, syscall.ESRCH) {
		return errors.Join(err, killed)
	}
	return err
}
