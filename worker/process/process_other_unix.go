//go:build unix && !linux

package process

import (
	"context"
	"fmt"
	"log/slog"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// Adopt gives commands the usual umask; orphans cannot be adopted here.
func Adopt(context.Context, *slog.Logger) error {
	unix.Umask(0o022)
	return nil
}

func yielding(int) {}

func (g *Group) terminate() {
	for _, leader := range g.leaders() {
		unix.Kill(-leader, unix.SIGTERM)
	}
}

func (g *Group) kill(ctx context.Context) error {
	for {
		left := 0
		for _, leader := range g.leaders() {
			if unix.Kill(-leader, unix.SIGKILL) == nil {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes of %d commands survive SIGKILL", left)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (g *Group) leaders() (leaders []int) {
	family.mu.Lock()
	defer family.mu.Unlock()
	for leader, owner := range family.sessions {
		if owner == g {
			leaders = append(leaders, leader)
		}
	}
	return leaders
}
