package local

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endAll kills the members of a worker's session. macOS does not show other
// processes' environments, so the cookie is of no use here: what is left by a
// worker that died while no server watched is not found.
func endAll(ctx context.Context, _ string, session int) error {
	for session != 0 {
		all, err := unix.SysctlKinfoProcSlice("kern.proc.all")
		if err != nil {
			return fmt.Errorf("looking for the processes of a worker: %w", err)
		}
		var left []int
		for _, p := range all {
			pid := int(p.Proc.P_pid)
			const zombie = 5
			if sid, err := unix.Getsid(pid); err != nil || sid != session || p.Proc.P_stat == zombie {
				continue
			}
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("killing pid %d: %w", pid, err)
			}
			left = append(left, pid)
		}
		if len(left) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v are still there after they were killed: %w", left, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}
