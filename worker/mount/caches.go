package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/taskfleet/taskfleet/worker/tree"
)

// Caches are the writable caches of a worker that no task has at the moment.
// They live as long as the worker does. Tasks that want the same cache at the
// same time each have one of their own, and all of them are kept.
type Caches struct {
	dir string

	mu   sync.Mutex
	next int
	free map[string][]string // directories by cache name
}

// NewCaches begins without any; what is in the directory is removed.
func NewCaches(dir string) (*Caches, error) {
	if err := tree.Remove(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return &Caches{dir: dir, free: map[string][]string{}}, nil
}

// take hands out the cache that was used last, or "".
func (c *Caches) take(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	dirs := c.free[name]
	if len(dirs) == 0 {
		return ""
	}
	last := dirs[len(dirs)-1]
	c.free[name] = dirs[:len(dirs)-1]
	return last
}

// put takes a directory over. Moving it takes write permission on it, which the
// task may have taken away.
func (c *Caches) put(name, dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o700 != 0o700 {
		if err := os.Chmod(dir, info.Mode().Perm()|0o700); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	kept := filepath.Join(c.dir, strconv.Itoa(c.next))
	if err := os.Rename(dir, kept); err != nil {
		return err
	}
	c.free[name] = append(c.free[name], kept)
	return nil
}

// Purge removes a cache of which a task said that it is of no use.
func (c *Caches) Purge(name string) error {
	c.mu.Lock()
	dirs := c.free[name]
	delete(c.free, name)
	c.mu.Unlock()
	var failed error
	for _, dir := range dirs {
		failed = errors.Join(failed, tree.Remove(dir))
	}
	if failed != nil {
		return fmt.Errorf("purging the cache %q: %w", name, failed)
	}
	return nil
}

// isMachines tells failures of the machine from those that a payload can cause.
func isMachines(err error) bool {
	for _, machine := range []error{syscall.ENOSPC, syscall.EIO, syscall.EMFILE, syscall.ENFILE, syscall.EROFS} {
		if errors.Is(err, machine) {
			return true
		}
	}
	return false
}
