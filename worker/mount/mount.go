// Package mount puts files, directories and caches into a task's directory
// before its first command runs.
//
// Everything happens inside an os.Root on that directory, while no process of
// the task runs. What a download is to hash to is checked before anybody can see
// it. An archive is unpacked by package archive, which takes it to be hostile.
//
// A writable cache is a directory that is moved into the task's directory and,
// afterwards, out of it: nothing is copied, and a cache is only ever with one
// task. What an earlier task left in it may be hostile too, so a path that leads
// over a symbolic link is refused where something is to be moved.
package mount

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/taskfleet/taskfleet/worker/archive"
	"github.com/taskfleet/taskfleet/worker/livelog"
	"github.com/taskfleet/taskfleet/worker/payload"
	"github.com/taskfleet/taskfleet/worker/transfer"
)

// A Failure is a mount that cannot be made for a reason that is not the
// machine's.
type Failure struct {
	Unavailable bool // rather than wrong: another time it may be there
	Message     string
}

func (f *Failure) Error() string { return f.Message }

// Mounter mounts for one task.
type Mounter struct {
	Dir     string // the task's directory
	Scratch string // for downloads, outside of it
	Caches  *Caches
	Fetcher *Fetcher
	Limits  archive.Limits
	Log     *livelog.Log

	root   *os.Root
	caches []lent
}

type lent struct {
	name, path string
}

// Mount makes all mounts, in order. Return is to be called whether or not that
// succeeds.
func (m *Mounter) Mount(ctx context.Context, mounts []payload.Mount) error {
	root, err := os.OpenRoot(m.Dir)
	if err != nil {
		return err
	}
	m.root = root
	for i, mount := range mounts {
		if err := m.mount(ctx, mount); err != nil {
			var bad *archive.Error
			var failure *Failure
			switch {
			case errors.As(err, &bad):
				return &Failure{Message: fmt.Sprintf("mount %d, %s: %v", i, mount.Path(), bad)}
			case errors.As(err, &failure):
				return &Failure{failure.Unavailable, fmt.Sprintf("mount %d, %s: %s", i, mount.Path(), failure.Message)}
			}
			return fmt.Errorf("mount %d, %s: %w", i, mount.Path(), err)
		}
	}
	return nil
}

func (m *Mounter) mount(ctx context.Context, mount payload.Mount) error {
	switch {
	case mount.File != "":
		return m.file(ctx, mount)
	case mount.CacheName != "":
		return m.cache(ctx, mount)
	}
	if err := m.root.MkdirAll(mount.Directory, 0o755); err != nil {
		return wrongPlace(mount.Directory, err)
	}
	return m.unpack(ctx, mount)
}

// file writes beside the place first, so that the file is never there in part.
func (m *Mounter) file(ctx context.Context, mount payload.Mount) error {
	parent := filepath.Dir(mount.File)
	if err := m.root.MkdirAll(parent, 0o755); err != nil {
		return wrongPlace(parent, err)
	}
	if info, err := m.root.Lstat(mount.File); err == nil && info.IsDir() {
		return &Failure{Message: "there is a directory of that name already"}
	}
	partial := mount.File + ".partial"
	if err := m.root.Remove(partial); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return wrongPlace(partial, err)
	}
	f, err := m.root.OpenFile(partial, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return wrongPlace(partial, err)
	}
	defer f.Close()
	if mount.Format == "" {
		err = m.content(ctx, mount, f)
	} else {
		err = m.decompress(ctx, mount, f)
	}
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return m.root.Rename(partial, mount.File)
}

func (m *Mounter) decompress(ctx context.Context, mount payload.Mount, to *os.File) error {
	compressed, err := m.download(ctx, mount)
	if err != nil {
		return err
	}
	defer discard(compressed)
	n, err := archive.Decompress(ctx, compressed, mount.Format, to, m.Limits.Bytes)
	if err == nil {
		m.Log.Note("Decompressed to %d bytes", n)
	}
	return err
}

func (m *Mounter) unpack(ctx context.Context, mount payload.Mount) error {
	file, err := m.download(ctx, mount)
	if err != nil {
		return err
	}
	defer discard(file)
	into, err := m.root.OpenRoot(mount.Directory)
	if err != nil {
		return wrongPlace(mount.Directory, err)
	}
	defer into.Close()
	summary, err := archive.Unpack(ctx, file, mount.Format, into, m.Limits)
	if err != nil {
		return err
	}
	m.Log.Note("Unpacked %d entries with %d bytes into %s", summary.Entries, summary.Bytes, mount.Directory)
	return nil
}

// download puts the content into a file that is read from its beginning.
func (m *Mounter) download(ctx context.Context, mount payload.Mount) (*os.File, error) {
	f, err := os.CreateTemp(m.Scratch, "download-")
	if err != nil {
		return nil, err
	}
	if err := m.content(ctx, mount, f); err != nil {
		discard(f)
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		discard(f)
		return nil, err
	}
	return f, nil
}

func discard(f *os.File) {
	f.Close()
	os.Remove(f.Name())
}

// content writes the content to an empty file and checks its digest.
func (m *Mounter) content(ctx context.Context, mount payload.Mount, to *os.File) error {
	c := mount.Content
	switch {
	case c.Raw != nil:
		m.Log.Note("Writing %s, which the payload contains", mount.Path())
		_, err := io.WriteString(to, *c.Raw)
		return err
	case c.Base64 != nil:
		m.Log.Note("Writing %s, which the payload contains", mount.Path())
		bytes, err := base64.StdEncoding.DecodeString(*c.Base64)
		if err != nil {
			return &Failure{Message: "the content is not valid base64: " + err.Error()}
		}
		_, err = to.Write(bytes)
		return err
	}
	what := "artifact " + c.Artifact + " of task " + c.TaskID
	if c.URL != "" {
		what = transfer.Bare(c.URL)
	}
	m.Log.Note("Downloading %s to %s", what, mount.Path())
	digest := sha256.New()
	n, err := m.Fetcher.Fetch(ctx, c, to, digest, m.Limits.Bytes)
	if err != nil {
		return err
	}
	sum := hex.EncodeToString(digest.Sum(nil))
	if c.SHA256 != "" && c.SHA256 != sum {
		return &Failure{Unavailable: true, Message: fmt.Sprintf("%s has the SHA-256 %s, and not %s as the payload says", what, sum, c.SHA256)}
	}
	m.Log.Note("Downloaded %d bytes with the SHA-256 %s", n, sum)
	return nil
}

// cache moves a cache in, or begins one.
func (m *Mounter) cache(ctx context.Context, mount payload.Mount) error {
	if err := m.makePlain(filepath.Dir(mount.Directory)); err != nil {
		return err
	}
	if _, err := m.root.Lstat(mount.Directory); err == nil {
		return &Failure{Message: "there is something of that name already"}
	}
	place := filepath.Join(m.Dir, mount.Directory)
	if kept := m.Caches.take(mount.CacheName); kept != "" {
		if err := os.Rename(kept, place); err != nil {
			return err
		}
		m.caches = append(m.caches, lent{mount.CacheName, mount.Directory})
		m.Log.Note("Mounted the cache %q at %s", mount.CacheName, mount.Directory)
		return nil
	}
	if err := m.root.Mkdir(mount.Directory, 0o755); err != nil {
		return wrongPlace(mount.Directory, err)
	}
	m.Log.Note("Beginning the cache %q at %s", mount.CacheName, mount.Directory)
	if mount.Content != nil {
		if err := m.unpack(ctx, mount); err != nil {
			return err // and the half-filled cache goes with the task's directory
		}
	}
	m.caches = append(m.caches, lent{mount.CacheName, mount.Directory})
	return nil
}

// makePlain makes a directory and those above it, none of which may be a link.
func (m *Mounter) makePlain(dir string) error {
	if dir == "." {
		return nil
	}
	if err := m.makePlain(filepath.Dir(dir)); err != nil {
		return err
	}
	info, err := m.root.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := m.root.Mkdir(dir, 0o755); err != nil {
			return wrongPlace(dir, err)
		}
		return nil
	case err != nil:
		return wrongPlace(dir, err)
	case !info.IsDir():
		return &Failure{Message: dir + " is no directory; a cache cannot be mounted below it"}
	}
	return nil
}

// Return takes the caches out of the task's directory, all of whose processes
// are dead, and keeps or purges them.
func (m *Mounter) Return(purge bool) {
	if m.root == nil {
		return
	}
	defer m.root.Close()
	for i := len(m.caches) - 1; i >= 0; i-- { // one may be mounted inside an earlier one
		c := m.caches[i]
		if purge {
			m.Log.Note("Purging the cache %q", c.name)
			if err := m.Caches.Purge(c.name); err != nil {
				m.Log.Note("Nobody will get it, but something of it is left: %v", err)
			}
			continue // this copy goes with the task's directory
		}
		if !m.isPlain(c.path) {
			m.Log.Note("Not keeping the cache %q: %s is no longer a directory of the task", c.name, c.path)
			continue
		}
		if err := m.Caches.put(c.name, filepath.Join(m.Dir, c.path)); err != nil {
			m.Log.Note("Not keeping the cache %q: %v", c.name, err)
			continue
		}
		m.Log.Note("Keeping the cache %q", c.name)
	}
}

// isPlain reports whether path is a directory and so is each one above it, none
// of them a link.
func (m *Mounter) isPlain(path string) bool {
	for ; path != "."; path = filepath.Dir(path) {
		if info, err := m.root.Lstat(path); err != nil || !info.IsDir() {
			return false
		}
	}
	return true
}

// wrongPlace is a failure to create something at a place that the payload names.
func wrongPlace(place string, err error) error {
	var onPath *fs.PathError
	if errors.As(err, &onPath) && !isMachines(err) {
		return &Failure{Message: strings.Join([]string{place, onPath.Err.Error()}, ": ")}
	}
	return err
}
