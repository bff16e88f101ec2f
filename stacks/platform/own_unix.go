//go:build unix

package platform

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// own gives a new file the owner of the first of the others that there is, if that is another than we are.
func own(f *os.File, others ...string) error {
	for _, other := range others {
		info, err := os.Lstat(other)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		s, ok := info.Sys().(*syscall.Stat_t)
		if !ok || int(s.Uid) == os.Geteuid() {
			return nil
		}
		if err := f.Chown(int(s.Uid), int(s.Gid)); err != nil {
			return fmt.Errorf("%s belongs to another user, who has to be able to read what is written: be that user, or root: %w", other, err)
		}
		return nil
	}
	return nil
}
