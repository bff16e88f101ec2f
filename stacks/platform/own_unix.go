//go:build unix

package platform

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// own gives a new file the owner of the first of the others that there is, if that is another than we are.
func own(f *os.File, others ...string) error {
	for _, other := range others {
		info, err := os.Stat(other)
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
		return f.Chown(int(s.Uid), int(s.Gid))
	}
	return nil
}
