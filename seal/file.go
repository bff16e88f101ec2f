package seal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// maxFile is more than any number of keys that makes sense.
const maxFile = 1 << 20

// ReadFile reads a file of keys, in the form of ParseKeys. Nobody but its reader
// may be able to read or write it; see ReadPrivate.
func ReadFile(name string) (*Keys, error) { return ReadFileWith(name, ParseKey) }

// ReadFileWith is ReadFile where parse reads the lines; see ParseKeysWith.
func ReadFileWith(name string, parse func(line string) (Key, error)) (*Keys, error) {
	text, err := ReadPrivate(name)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("there is no file %s. If the database has been used, restore the file from a backup, since a new key opens nothing that an old one has sealed", name)
	}
	if err != nil {
		return nil, fmt.Errorf("seal: read the keys that secrets are sealed with: %w", err)
	}
	keys, err := ParseKeysWith(string(text), parse)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return keys, nil
}

// ReadPrivate reads a file with secrets. It refuses one that others can get at:
// who owns the file may, and its group may read it if the file is somebody
// else's. A file of root's that is given to a process by its group is what
// systemd (LoadCredential=) and Kubernetes (secrets and fsGroup) hand over, and
// there is no other way to a file that is not one's own. Where it is one's own,
// a group that may read it is a mistake.
func ReadPrivate(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat() // of the file that is read, whatever has its name by now
	switch {
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", name)
	case info.Size() > maxFile:
		return nil, fmt.Errorf("%s has %d bytes: that is not a file of keys or secrets", name, info.Size())
	}
	if owner, ok := ownerOf(info); ok && !private(info.Mode().Perm(), owner, os.Geteuid()) {
		return nil, fmt.Errorf("%s has mode %04o: others can get at the secrets in it. Run chmod 0600 on it if it is the user's who runs this, or else chmod 0640, and consider what is in it known to whoever could read it", name, info.Mode().Perm())
	}
	return io.ReadAll(io.LimitReader(f, maxFile))
}

// private tells whether nobody but us, and the owner, can get at a file. Root needs no group to read what is somebody else's.
func private(mode fs.FileMode, owner, us int) bool {
	if us != 0 && owner != us {
		mode &^= 0o040
	}
	return mode&0o077 == 0
}
