//go:build unix

package process

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

var executableExtensions = []string{""}

func executable(info fs.FileInfo) bool { return info.Mode().IsRegular() && info.Mode()&0o111 != 0 }

func absolute(path, dir string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

func endedBy(state *os.ProcessState) (name string, number int) {
	status, ok := state.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return "", 0
	}
	return unix.SignalName(status.Signal()), int(status.Signal())
}

// readNow reads what is in a pipe, without waiting for more.
func readNow(pipe *os.File, buffer []byte) (n int, empty bool, err error) {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	outer := raw.Read(func(fd uintptr) bool {
		for {
			if n, err = unix.Read(int(fd), buffer); err != unix.EINTR {
				return true
			}
		}
	})
	switch {
	case outer != nil:
		return 0, false, outer
	case err == unix.EAGAIN:
		return 0, true, nil
	case err != nil:
		return 0, false, err
	case n == 0:
		return 0, false, io.EOF
	}
	return n, false, nil
}

func maxRSS(state *os.ProcessState) int64 {
	usage, ok := state.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	if runtime.GOOS == "darwin" || runtime.GOOS == "ios" {
		return usage.Maxrss
	}
	return usage.Maxrss << 10
}
