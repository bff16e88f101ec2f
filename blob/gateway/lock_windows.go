package gateway

import (
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

// acquire locks the file until it is closed, or the process has ended.
func acquire(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("gateway: open the lock: %w", err)
	}
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	if err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, &windows.Overlapped{}); err != nil {
		f.Close()
		return nil, fmt.Errorf("gateway: lock %s: %w; if another gateway uses the directory, stop it, or use another directory", name, err)
	}
	return f, nil
}

// inode has no counterpart in what Windows says of a file without opening it:
// size and time have to do.
func inode(fs.FileInfo) uint64 { return 0 }
