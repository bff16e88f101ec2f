package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
)

// repair undoes what a process that was killed had begun. Nothing of it is
// visible to clients; it takes space, or is in the way of trying again.
func (d *disk) repair() error {
	entries, err := os.ReadDir(d.root)
	if err != nil {
		return fmt.Errorf("gateway: read the directory of the buckets: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(d.root, e.Name())
		if !e.IsDir() {
			os.Remove(path) // of the probe for attributes
			continue
		}
		if _, err := d.attributes.RetrieveAttribute(nil, path, "", bucketACL); errors.Is(err, meta.ErrNoSuchKey) {
			// A bucket without an owner cannot be used, nor created again.
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("gateway: bucket %s has lost its attributes (was the directory copied without them?): %w", e.Name(), err)
			}
			continue
		}
		if err := d.repairUploads(path); err != nil {
			return fmt.Errorf("gateway: put the unfinished uploads to bucket %s in order: %w", e.Name(), err)
		}
	}
	return nil
}

func (d *disk) repairUploads(bucket string) error {
	if err := removeFiles(filepath.Join(bucket, posix.MetaTmpDir)); err != nil {
		return err
	}
	keys, err := os.ReadDir(filepath.Join(bucket, uploads))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, key := range keys {
		dir := filepath.Join(uploads, key.Name())
		path := filepath.Join(bucket, dir)
		if _, err := d.attributes.RetrieveAttribute(nil, bucket, dir, uploadKey); errors.Is(err, meta.ErrNoSuchKey) {
			// Its first upload was not answered.
			if err := os.RemoveAll(path); err != nil {
				return err
			}
			continue
		}
		if err := removeFiles(path); err != nil {
			return err
		}
		ids, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range ids {
			// ID.ETAG.inprogress: it was being completed, and can be again.
			id, _, claimed := strings.Cut(e.Name(), ".")
			if !claimed {
				continue
			}
			if err := os.Rename(filepath.Join(path, e.Name()), filepath.Join(path, id)); err != nil {
				return err
			}
			if err := d.attributes.RenameObject(bucket, filepath.Join(dir, e.Name()), filepath.Join(dir, id)); err != nil {
				return err
			}
		}
		os.Remove(path) // where it is empty
	}
	if d.attributes.sidecar != nil {
		return d.attributes.sidecar.prune(bucket, posix.MetaTmpDir)
	}
	return nil
}

// removeFiles removes what was being written, where the file system has no
// unnamed files.
func removeFiles(directory string) error {
	entries, err := os.ReadDir(directory)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		if err := os.Remove(filepath.Join(directory, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// sweep removes the names that an object has while it replaces another: it is
// linked as .NAME.sgwtmp.TIME and then renamed. A process that is killed in
// between leaves it, complete but in the way of removing the directory. There
// are hardly ever any, and to find them takes a walk over everything, so it is
// done in the background.
func (d *disk) sweep(ctx context.Context, started time.Time) {
	err := filepath.WalkDir(d.root, func(path string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return fs.SkipAll
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // deleted meanwhile
		}
		if err != nil {
			return err
		}
		if e.IsDir() && e.Name() == posix.MetaTmpDir {
			return fs.SkipDir
		}
		if _, stamp, ok := strings.Cut(e.Name(), posix.MetaTmpDir+"."); ok && !e.IsDir() && e.Name()[0] == '.' {
			linked, err := strconv.ParseInt(stamp, 10, 64)
			if err == nil && time.Unix(0, linked).Before(started) {
				return os.Remove(path)
			}
		}
		return nil
	})
	if s := d.attributes.sidecar; s != nil && err == nil {
		err = d.sweepAttributes(ctx, s)
	}
	if err != nil {
		d.log.Warn("S3 gateway: look for what a killed process left behind", "error", err)
	}
}

// sweepAttributes removes those of objects that did not come to be. A process
// that lives has the key locked from before it writes them until the object is
// there.
func (d *disk) sweepAttributes(ctx context.Context, s *sidecar) error {
	return filepath.WalkDir(s.dir, func(path string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return fs.SkipAll
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.IsDir() && e.Name() == posix.MetaTmpDir {
			return fs.SkipDir
		}
		name := strings.TrimSuffix(path, ".new")
		if e.IsDir() || filepath.Dir(path) == s.dir || filepath.Ext(name) != suffix {
			return nil
		}
		object, err := filepath.Rel(s.dir, strings.TrimSuffix(name, suffix))
		if err != nil {
			return err
		}
		object = filepath.Join(d.root, object)
		defer d.keys.lock(object)()
		defer s.files.lock(name)()
		if _, err := os.Lstat(object); path == name && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.removeEmpty(path)
		return nil
	})
}
