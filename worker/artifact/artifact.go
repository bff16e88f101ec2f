// Package artifact uploads what a task promised to leave.
//
// It works when all processes of the task are dead, and takes the directory they
// left to be hostile: every file is opened through an os.Root, so that neither a
// path nor a link leads out of it, and only regular files are opened at all. What
// cannot be uploaded is recorded in the artifact's place, so that whoever looks
// for it learns why it is not there.
//
// A file is read twice, once to learn its digest and once to send it, and what
// was sent is compared: a file that somebody still writes to is not passed off as
// whole. Large files go in parts, several at a time; each part is tried again by
// itself, and when the URLs have expired, new ones are asked for.
package artifact

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/timestamp"
	"github.com/taskfleet/taskfleet/worker/livelog"
	"github.com/taskfleet/taskfleet/worker/payload"
)

// Parallel is how many requests are under way at once for one task.
const Parallel = 8

// A Run is where the artifacts are recorded: a run of a task in the queue.
type Run interface {
	CreateArtifact(ctx context.Context, name string, in *queue.PostArtifactRequest) (*queue.PostArtifactResponse, error)
	FinishArtifact(ctx context.Context, name string, in *queue.FinishArtifactRequest) error
}

// An Uploader uploads the artifacts of one run.
type Uploader struct {
	Run     Run
	Client  *http.Client // for the uploads themselves
	Scratch string       // directory for compressed copies
	Log     *livelog.Log

	For   time.Duration // how long to keep trying to send a part
	Stall time.Duration // how long sending may stand still

	once  sync.Once
	slots chan struct{}
}

// A file to upload, or the reason why there is none.
type found struct {
	Item
	path   string
	root   *os.Root
	reason string // of an error artifact; empty for a file
	words  string
}

// Reasons of error artifacts.
const (
	missing     = "file-missing-on-worker"
	invalid     = "invalid-resource-on-worker"
	notReadable = "file-not-readable-on-worker"
)

// Upload uploads the artifacts from a task's directory. It is complete if
// everything that was promised is there; the log says what is not. An error is
// one of the platform, not of the task.
func (u *Uploader) Upload(ctx context.Context, dir string, artifacts []payload.Artifact) (complete bool, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false, err
	}
	defer root.Close()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	var mu sync.Mutex
	complete = true
	files := make(chan found)
	var workers sync.WaitGroup
	for range Parallel {
		workers.Go(func() {
			for f := range files {
				ok, err := u.handle(ctx, f)
				if err != nil {
					stop(err)
				}
				if !ok {
					mu.Lock()
					complete = false
					mu.Unlock()
				}
			}
		})
	}
	for _, a := range artifacts {
		u.find(root, a, func(f found) bool {
			f.root = root
			select {
			case files <- f:
				return true
			case <-ctx.Done():
				return false
			}
		})
	}
	close(files)
	workers.Wait()
	return complete && ctx.Err() == nil, context.Cause(ctx)
}

// handle uploads a file or records why there is none; it reports whether the
// promise was kept.
func (u *Uploader) handle(ctx context.Context, f found) (bool, error) {
	if ctx.Err() != nil {
		return false, nil
	}
	if f.reason == "" {
		file, info, problem := open(f.root, f.path)
		if problem == nil {
			defer file.Close()
			err := u.Put(ctx, f.Item, file, info)
			var changed *changedError
			switch {
			case err == nil:
				return true, nil
			case errors.As(err, &changed):
				u.Log.Error("The artifact %s is not whole: %s %v", f.Name, f.path, changed)
				return false, nil
			case client.IsRefusal(err):
				u.Log.Error("The artifact %s cannot be uploaded: %v", f.Name, err)
				return false, nil
			}
			return false, fmt.Errorf("uploading the artifact %s: %w", f.Name, err)
		}
		f.reason, f.words = problem.reason, problem.words
	}
	u.Log.Error("The artifact %s is not there: %s: %s (%s)", f.Name, f.path, f.words, f.reason)
	_, err := u.Run.CreateArtifact(ctx, f.Name, &queue.PostArtifactRequest{
		StorageType: "error", Expires: timestamp.Of(f.Expires), Reason: f.reason, Message: cut(f.path+": "+f.words, 4096),
	})
	if err != nil && client.IsRefusal(err) {
		u.Log.Error("The artifact %s cannot be recorded: %v", f.Name, err)
		err = nil
	}
	return false, err
}

func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "?")
}

// find yields what an entry of the payload's stands for, until yield says no.
func (u *Uploader) find(root *os.Root, a payload.Artifact, yield func(found) bool) {
	f := found{path: a.Path, Item: Item{Name: a.Name, Expires: a.Expires, ContentType: a.ContentType, Encoding: a.ContentEncoding}}
	if f.Name == "" {
		f.Name = "." // of a directory; should it not be there
	}
	refuse := func(p *problem) {
		if p.reason == missing && a.Optional {
			u.Log.Note("There is no %s; the artifact %s is optional", a.Path, a.Name)
			return
		}
		f.reason, f.words = p.reason, p.words
		yield(f)
	}
	local, p := within(a.Path)
	if p != nil {
		refuse(p)
		return
	}
	info, err := root.Stat(local)
	switch {
	case err != nil:
		refuse(problemOf(err))
	case a.Type == "file" && info.IsDir():
		refuse(&problem{invalid, "it is a directory, not a file"})
	case a.Type == "directory" && !info.IsDir():
		refuse(&problem{invalid, "it is a file, not a directory"})
	case a.Type == "file":
		f.path = local
		yield(f)
	default:
		u.walk(root, local, a.Name, f, yield)
	}
}

// walk yields the files in and below a directory.
func (u *Uploader) walk(root *os.Root, dir, prefix string, f found, yield func(found) bool) {
	start := filepath.ToSlash(dir)
	none := true
	fs.WalkDir(root.FS(), start, func(at string, entry fs.DirEntry, err error) error {
		f := f
		f.path = filepath.FromSlash(at)
		relative := strings.TrimPrefix(strings.TrimPrefix(at, start), "/")
		if start == "." {
			relative = at
		}
		f.Name = path.Join(prefix, relative)
		switch {
		case err != nil:
			p := problemOf(err)
			f.reason, f.words = p.reason, p.words
		case entry.Type()&fs.ModeSymlink != 0:
			if info, err := root.Stat(f.path); errors.Is(err, fs.ErrNotExist) {
				u.Log.Note("Leaving out %s, a link that leads nowhere", f.path)
				return nil
			} else if err == nil && info.IsDir() {
				u.Log.Note("Leaving out %s, a link to a directory", f.path)
				return nil
			}
		case entry.IsDir():
			return nil
		}
		none = false
		if len(f.Name) > 1024 || strings.ContainsFunc(f.Name, func(r rune) bool { return r < ' ' || r > '~' }) {
			// The queue would not take it; in this form it will take the error.
			f.reason, f.words = invalid, "its name cannot be that of an artifact, which is printable ASCII of at most 1024 characters"
			f.Name = path.Join(prefix, "unnamable-"+digestOf(relative)[:16])
		}
		if !yield(f) {
			return fs.SkipAll
		}
		if err != nil && entry != nil && entry.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if none {
		u.Log.Note("There are no files in %s", dir)
	}
}

// A problem is why a file cannot be uploaded.
type problem struct {
	reason, words string
}

func within(p string) (string, *problem) {
	local := filepath.FromSlash(path.Clean(p))
	if strings.ContainsRune(p, 0) || !filepath.IsLocal(local) {
		return "", &problem{invalid, "it is not inside the task's directory"}
	}
	return local, nil
}

func problemOf(err error) *problem {
	var onPath *fs.PathError
	if errors.As(err, &onPath) {
		err = onPath.Err
	}
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return &problem{missing, "there is no such file"}
	case errors.Is(err, fs.ErrPermission):
		return &problem{notReadable, "it cannot be read: " + err.Error()}
	}
	return &problem{invalid, err.Error()}
}

// open opens a regular file. Of others not even that much is done, as opening a
// device may do something and opening a pipe may take for ever.
func open(root *os.Root, name string) (*os.File, fs.FileInfo, *problem) {
	before, err := root.Stat(name)
	if err != nil {
		return nil, nil, problemOf(err)
	}
	if !before.Mode().IsRegular() {
		return nil, nil, &problem{invalid, "it is no regular file but " + before.Mode().Type().String()}
	}
	f, err := root.OpenFile(name, os.O_RDONLY|nonblocking, 0)
	if err != nil {
		return nil, nil, problemOf(err)
	}
	info, err := f.Stat()
	if err != nil || !os.SameFile(before, info) {
		f.Close()
		return nil, nil, &problem{invalid, "it was replaced while it was being opened"}
	}
	return f, info, nil
}
