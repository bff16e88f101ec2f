// Package tree removes directory trees that a task left behind.
//
// A task may leave directories without write permission, a hundred thousand
// levels of them, or names that no shell would print. os.RemoveAll is fast, but
// gives up at the first kind and needs an open file for every level of the
// second. What it leaves, Remove takes away on two levels only: a directory that
// is found inside another is moved up to the top and emptied there, so memory,
// open files and path lengths stay constant whatever the depth.
//
// The caller sees to it that nothing else works in the tree meanwhile. Symbolic
// links are removed, never followed.
package tree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
)

// batch bounds how many names of one directory are held in memory.
const batch = 1024

// Remove deletes the directory and all that is in it. A directory that does not
// exist is no error.
func Remove(directory string) error {
	if info, err := os.Lstat(directory); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err == nil && !info.IsDir() {
		return os.Remove(directory)
	}
	if os.RemoveAll(directory) == nil {
		return nil
	}
	if err := removeFlat(directory); err != nil {
		return fmt.Errorf("remove %s: %w", directory, err)
	}
	return nil
}

func removeFlat(directory string) error {
	if err := os.Chmod(directory, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(directory)
	if err != nil {
		return err
	}
	defer root.Close()
	r := remover{root: root}
	if err := r.empty("."); err != nil {
		return err
	}
	return os.Remove(directory)
}

type remover struct {
	root  *os.Root
	moved int
}

// empty removes what is in a directory, which is the top or directly below it.
func (r *remover) empty(directory string) error {
	for {
		names, err := r.names(directory)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return nil
		}
		for _, name := range names {
			if err := r.remove(directory, name); err != nil {
				return err
			}
		}
	}
}

func (r *remover) names(directory string) ([]string, error) {
	d, err := r.root.Open(directory)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(batch)
	if err == io.EOF {
		err = nil
	}
	return names, err
}

func (r *remover) remove(directory, name string) error {
	path := name
	if directory != "." {
		path = directory + string(os.PathSeparator) + name
	}
	info, err := r.root.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return r.root.Remove(path)
	}
	// Both emptying a directory and moving it elsewhere need write permission on it.
	if info.Mode().Perm()&0o700 != 0o700 {
		if err := r.root.Chmod(path, 0o700); err != nil {
			return err
		}
	}
	if directory == "." {
		if err := r.empty(path); err != nil {
			return err
		}
		return r.root.Remove(path)
	}
	return r.lift(path)
}

// lift moves a directory to the top, under a name that nothing there has.
func (r *remover) lift(path string) error {
	for {
		r.moved++
		top := ".removing-" + strconv.Itoa(r.moved)
		if _, err := r.root.Lstat(top); err == nil {
			continue
		}
		return r.root.Rename(path, top)
	}
}
