package process

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/windows"
)

var executableExtensions = []string{"", ".exe", ".com", ".bat", ".cmd"}

func executable(info fs.FileInfo) bool { return info.Mode().IsRegular() }

func absolute(path, dir string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// readNow is not called: nobody can ask for what is in a pipe here.
func readNow(*os.File, []byte) (n int, empty bool, err error) { return 0, true, nil }

func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
}

// Adopt has nothing to do: there are no orphans to adopt.
func Adopt(context.Context, *slog.Logger) error { return nil }

func endedBy(*os.ProcessState) (string, int) { return "", 0 }

func maxRSS(*os.ProcessState) int64 { return 0 }

func yielding(int) {}

func (g *Group) terminate() { g.kill(context.Background()) }

// kill ends the commands, but not what they started.
func (g *Group) kill(context.Context) error {
	family.mu.Lock()
	defer family.mu.Unlock()
	for pid, owner := range family.sessions {
		if owner != g || !family.children[pid] {
			continue
		}
		if p, err := os.FindProcess(pid); err == nil {
			p.Kill()
			p.Release()
		}
	}
	return nil
}
