//go:build unix

package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const lockFile = "lock"

var terminateSignal os.Signal = syscall.SIGTERM

func supported() error { return nil }

func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// hold locks a file for as long as it is open, in this process or in one that
// has inherited it.
func hold(f *os.File) error {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	return nil
}

// holder reports whether a worker lives in dir, and its pid: 0 where it has not
// got as far as to write it down.
func holder(dir string) (held bool, pid int, err error) {
	f, err := os.Open(filepath.Join(dir, configFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, 0, nil
	}
	if err != nil {
		return false, 0, err
	}
	defer f.Close() // and with it our own lock, if we got it
	switch err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); {
	case err == nil:
		return false, 0, nil
	case !errors.Is(err, unix.EWOULDBLOCK):
		return false, 0, fmt.Errorf("locking %s: %w", f.Name(), err)
	}
	text, err := os.ReadFile(filepath.Join(dir, lockFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, 0, err
	}
	if fields := strings.Fields(string(text)); len(fields) > 0 {
		pid, _ = strconv.Atoi(fields[0])
	}
	return true, pid, nil
}

// sessionOf is the session that a worker leads, 0 where it leads none.
func sessionOf(pid int) int {
	if pid == 0 {
		return 0
	}
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		return 0
	}
	return pid
}
