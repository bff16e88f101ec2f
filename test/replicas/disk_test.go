package replicas

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A disk is a directory that can be filled up. Where we may mount one it is a small file system of its own. Elsewhere it
// is a limit on the size of the server's files, which has its writes fail as well, with another error.
type disk struct {
	t         *testing.T
	directory string
	kind      string
	limited   bool
}

const (
	diskSize = "size=48m"
	leftover = 512 << 10
)

func newDisk(t *testing.T) *disk {
	t.Helper()
	d := &disk{t: t, directory: t.TempDir(), kind: "a file system of its own"}
	err := syscall.Mount("taskfleet-test", d.directory, "tmpfs", 0, diskSize)
	switch {
	case errors.Is(err, syscall.EPERM):
		d.kind, d.limited = "a limit on the size of files", true
	case err != nil:
		t.Fatal(err)
	default:
		t.Cleanup(func() {
			if err := syscall.Unmount(d.directory, 0); err != nil {
				t.Error(err)
			}
		})
	}
	return d
}

// fill leaves the server room for little more.
func (d *disk) fill(pid int) {
	d.t.Helper()
	if d.limited {
		d.limit(pid, d.largest()+leftover)
		return
	}
	f, err := os.Create(d.ballast())
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 64<<10); err == nil; {
		_, err = f.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		d.t.Fatal(err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		err = f.Truncate(size - leftover)
	}
	if err != nil {
		d.t.Fatal(err)
	}
}

// empty gives the server its room back.
func (d *disk) empty(pid int) {
	d.t.Helper()
	if d.limited {
		d.limit(pid, unix.RLIM_INFINITY)
	} else if err := os.Remove(d.ballast()); err != nil {
		d.t.Fatal(err)
	}
}

func (d *disk) ballast() string { return filepath.Join(d.directory, "ballast") }

func (d *disk) limit(pid int, bytes uint64) {
	d.t.Helper()
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: bytes, Max: unix.RLIM_INFINITY}, nil); err != nil {
		d.t.Fatal(err)
	}
}

// largest is the size of the largest file there.
func (d *disk) largest() (size uint64) {
	d.t.Helper()
	if err := filepath.Walk(d.directory, func(_ string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			size = max(size, uint64(info.Size()))
		}
		return err
	}); err != nil {
		d.t.Fatal(err)
	}
	return size
}
