package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/versity/versitygw/backend/meta"
)

// sidecar keeps the attributes of files in files of their own. Each has records
// for the last few files that had the name, and what belongs to the present one
// is told by what that looks like. So an object and its attributes change at one
// moment, when the name gets another file, though the attributes were written
// before. (versitygw has a store of this kind too, in which they change one by
// one, and those that the new object has not are left.)
type sidecar struct {
	root  string // of the buckets
	dir   string
	sync  func(*os.File) error
	files locks
}

// A record is the attributes of one file.
type record struct {
	Of         look              `json:"of"`
	Attributes map[string][]byte `json:"attributes"`
}

// A look is how a file can be told from others. A copy of the directory has
// other inodes. Directories all look the same.
type look struct {
	Inode    uint64 `json:"inode,omitempty"`
	Size     int64  `json:"size,omitempty"`
	Modified int64  `json:"modified,omitempty"`
}

func lookOf(info fs.FileInfo) look {
	if info.IsDir() {
		return look{}
	}
	return look{Inode: inode(info), Size: info.Size(), Modified: info.ModTime().UnixNano()}
}

// records is how many files of one name can be in the making at a time.
const records = 4

const suffix = ".attributes" // which no directory's name has

// paths of the object, which may be a directory, and of its attributes.
func (s *sidecar) paths(bucket, object string) (path, attributes string, err error) {
	path = filepath.Join(bucket, object)
	relative, err := filepath.Rel(s.root, path)
	if err != nil || !filepath.IsLocal(relative) {
		return "", "", fmt.Errorf("%s is not in %s", path, s.root)
	}
	return path, filepath.Join(s.dir, relative+suffix), nil
}

func (s *sidecar) read(name string) ([]record, error) {
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []record
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return all, nil
}

// write replaces the file as a whole.
func (s *sidecar) write(name string, all []record) error {
	b, err := json.Marshal(all)
	if err != nil {
		return err
	}
	f, err := os.Create(name + ".new")
	for range 10 { // somebody may find the directory empty, and remove it
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		f, err = os.Create(name + ".new")
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = s.sync(f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// present is the record of f or else of the file at path.
func (s *sidecar) present(f *os.File, path string, all []record) (found int, l look, err error) {
	var info fs.FileInfo
	if f != nil {
		info, err = f.Stat()
	} else {
		info, err = os.Stat(path)
	}
	if err != nil {
		return -1, l, err
	}
	l = lookOf(info)
	found = slices.IndexFunc(all, func(r record) bool { return r.Of == l })
	if found < 0 && f == nil {
		found = slices.IndexFunc(all, func(r record) bool { return r.Of.Size == l.Size && r.Of.Modified == l.Modified })
	}
	return found, l, nil
}

func (s *sidecar) RetrieveAttribute(f *os.File, bucket, object, attribute string) ([]byte, error) {
	path, name, err := s.paths(bucket, object)
	if err != nil {
		return nil, err
	}
	all, err := s.read(name)
	if err != nil {
		return nil, err
	}
	i, _, err := s.present(f, path, all)
	if err != nil {
		return nil, err
	}
	if i >= 0 {
		if value, ok := all[i].Attributes[attribute]; ok {
			return value, nil
		}
	}
	return nil, meta.ErrNoSuchKey
}

// change does something with the record of f or else of the file at path,
// which need not exist.
func (s *sidecar) change(f *os.File, bucket, object string, change func(attributes map[string][]byte)) error {
	path, name, err := s.paths(bucket, object)
	if err != nil {
		return err
	}
	defer s.files.lock(name)()
	all, err := s.read(name)
	if err != nil {
		return err
	}
	i, l, err := s.present(f, path, all)
	if err != nil {
		return err
	}
	r := record{Of: l, Attributes: map[string][]byte{}}
	if i >= 0 {
		r.Attributes = all[i].Attributes
		all = slices.Delete(all, i, i+1)
	}
	change(r.Attributes)
	all = slices.Insert(all, 0, r)
	return s.write(name, all[:min(len(all), records)])
}

func (s *sidecar) StoreAttribute(f *os.File, bucket, object, attribute string, value []byte) error {
	return s.change(f, bucket, object, func(a map[string][]byte) { a[attribute] = value })
}

func (s *sidecar) DeleteAttribute(bucket, object, attribute string) error {
	if _, err := s.RetrieveAttribute(nil, bucket, object, attribute); err != nil {
		return err
	}
	return s.change(nil, bucket, object, func(a map[string][]byte) { delete(a, attribute) })
}

func (s *sidecar) ListAttributes(bucket, object string) ([]string, error) {
	path, name, err := s.paths(bucket, object)
	if err != nil {
		return nil, err
	}
	all, err := s.read(name)
	if err != nil {
		return nil, err
	}
	i, _, err := s.present(nil, path, all)
	if err != nil || i < 0 {
		return nil, err
	}
	return slices.Collect(maps.Keys(all[i].Attributes)), nil
}

// DeleteAttributes is called for what was removed, with all that was in it.
func (s *sidecar) DeleteAttributes(bucket, object string) error {
	_, name, err := s.paths(bucket, object)
	if err != nil {
		return err
	}
	defer s.files.lock(name)()
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.RemoveAll(name[:len(name)-len(suffix)]); err != nil {
		return err
	}
	s.removeEmpty(name)
	return nil
}

// removeEmpty removes the directories that something was removed from, as far
// as there is nothing else in them.
func (s *sidecar) removeEmpty(name string) {
	for dir := filepath.Dir(name); dir != s.dir && os.Remove(dir) == nil; dir = filepath.Dir(dir) {
	}
}

func (s *sidecar) RenameObject(bucket, from, to string) error {
	_, old, err := s.paths(bucket, from)
	if err != nil {
		return err
	}
	_, name, err := s.paths(bucket, to)
	if err != nil {
		return err
	}
	// The attributes of the directory last: as long as they have the old name
	// it can be done again.
	for _, n := range []int{len(suffix), 0} {
		err := os.Rename(old[:len(old)-n], name[:len(name)-n])
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// prune removes the attributes of what a killed process had removed, or not yet
// made, in the directory. They are a trace of uploads that are over.
func (s *sidecar) prune(bucket, directory string) error {
	_, name, err := s.paths(bucket, directory)
	if err != nil {
		return err
	}
	top := name[:len(name)-len(suffix)]
	var stale []string
	err = filepath.WalkDir(top, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || path == top {
			return nil
		}
		if err != nil {
			return err
		}
		of, _ := filepath.Rel(s.dir, path)
		if filepath.Ext(path) == suffix {
			of = of[:len(of)-len(suffix)]
		}
		if _, err := os.Lstat(filepath.Join(s.root, of)); errors.Is(err, fs.ErrNotExist) {
			stale = append(stale, path)
		}
		return nil
	})
	for _, path := range stale {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}
