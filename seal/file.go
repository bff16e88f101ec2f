package seal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
)

// maxFile is more than any number of keys that makes sense.
const maxFile = 1 << 20

// ReadFile reads a file of keys, in the form of ParseKeys. Nobody but its owner
// may be able to read or write it.
func ReadFile(name string) (*Keys, error) { return ReadFileWith(name, ParseKey) }

// ReadFileWith is ReadFile where parse reads the lines; see ParseKeysWith.
func ReadFileWith(name string, parse func(line string) (Key, error)) (*Keys, error) {
	text, err := readPrivate(name)
	if err != nil {
		return nil, fmt.Errorf("seal: read the keys that secrets are sealed with: %w", err)
	}
	keys, err := ParseKeysWith(text, parse)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return keys, nil
}

func readPrivate(name string) (string, error) {
	f, err := os.Open(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("there is no file %s. If the database has been used, restore the file from a backup, since a new key opens nothing that an old one has sealed", name)
	case err != nil:
		return "", err
	}
	defer f.Close()
	info, err := f.Stat() // of the file that is read, whatever has its name by now
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a file", name)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0: // where modes say little
		return "", fmt.Errorf("%s has mode %04o: others than its owner can get at the keys. Run chmod 0600 on it, and consider the keys known to whoever could read it", name, info.Mode().Perm())
	case info.Size() > maxFile:
		return "", fmt.Errorf("%s has %d bytes: that is not a file of keys", name, info.Size())
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
	return string(text), err
}
