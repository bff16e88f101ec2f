//go:build unix

package credentials

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

const canChmod = true

// keepOwner gives a file to whom another one belongs.
func keepOwner(f *os.File, other os.FileInfo) error {
	is, err := f.Stat()
	if err != nil {
		return err
	}
	a, ok := is.Sys().(*syscall.Stat_t)
	b, too := other.Sys().(*syscall.Stat_t)
	if !ok || !too || a.Uid == b.Uid && a.Gid == b.Gid {
		return nil
	}
	if err := f.Chown(int(b.Uid), int(b.Gid)); err != nil {
		return fmt.Errorf("the file belongs to user %d and group %d, and this server may not make another one that does: chown it to the server's user, give that the group, or remove it", b.Uid, b.Gid)
	}
	return nil
}

// syncFolder has what was renamed in a folder survive a crash. Some file systems do not
// know of that.
func syncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return nil // it can be written to and not read
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOTSUP) {
		return err
	}
	return nil
}
