//go:build unix

package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// acquire locks the file until it is closed, or the process has ended.
func acquire(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("gateway: open the lock: %w", err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, fmt.Errorf("gateway: %s is locked: another gateway uses the directory; stop it, or use another directory", name)
	}
	return nil, fmt.Errorf("gateway: lock %s: %w", name, err)
}

// inode tells a file from one that takes its name later.
func inode(info fs.FileInfo) uint64 {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}
