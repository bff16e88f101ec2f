// Package archive unpacks archives that somebody else made into a directory of
// the task, and nowhere else.
//
// The archive is taken to be hostile. Three things hold whatever it contains:
//
//   - Nothing is created, changed or linked outside the directory. All file
//     system calls go through an os.Root, so that even a link that the archive
//     itself put there leads nowhere else; names and link targets that point out
//     are refused by name rather than silently bent.
//   - Only directories, regular files and links come out of it, without set-id
//     bits; owners and extended attributes are ignored.
//   - Work is bounded: by the number of entries, by the bytes written and by the
//     bytes the decompressor puts out.
//
// The first bad entry ends the unpacking with an *Error that names it. What was
// unpacked until then stays: it is inside the directory, and goes with it.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Limits bound what one archive may cost.
type Limits struct {
	Bytes   int64 // written to files, and put out by the decompressor
	Entries int   // files, directories and links
}

// Summary says what came out of an archive.
type Summary struct {
	Entries int
	Bytes   int64
}

// Error says what is wrong with an archive. Errors of the machine, such as a
// full disk, are returned as they are.
type Error struct {
	Entry  string // as written in the archive; empty if the archive as a whole is meant
	Reason string
}

func (e *Error) Error() string {
	if e.Entry == "" {
		return "archive: " + e.Reason
	}
	return fmt.Sprintf("archive entry %q: %s", e.Entry, e.Reason)
}

// Unpack unpacks the archive of one of the Formats into the root.
func Unpack(ctx context.Context, file *os.File, format string, into *os.Root, limits Limits) (Summary, error) {
	u := &unpacker{ctx: ctx, root: into, limits: limits}
	var err error
	if format == "zip" {
		err = u.zip(file)
	} else if stream, found := strings.CutPrefix(format, "tar"); found {
		err = u.compressedTar(file, strings.TrimPrefix(stream, "."))
	} else {
		err = &Error{Reason: fmt.Sprintf("format %q is none of %s", format, strings.Join(Formats, ", "))}
	}
	if escape := u.checkLinks(); err == nil {
		err = escape
	}
	if err == nil {
		err = u.stampDirectories()
	}
	return u.done, err
}

type unpacker struct {
	ctx    context.Context
	root   *os.Root
	limits Limits
	done   Summary

	links []string // checked again at the end, when what they lead over is there
	dirs  []dirTime
}

type dirTime struct {
	name string
	time time.Time
}

// admit checks an entry's name and counts it. It returns the name as the root
// wants it.
func (u *unpacker) admit(entry string) (string, error) {
	if err := u.ctx.Err(); err != nil {
		return "", err
	}
	u.done.Entries++
	if u.done.Entries > u.limits.Entries {
		return "", &Error{Reason: fmt.Sprintf("more than %d entries", u.limits.Entries)}
	}
	switch {
	case entry == "":
		return "", &Error{Reason: "an entry without a name"}
	case len(entry) > 4096:
		return "", &Error{Entry: entry[:64] + "…", Reason: "the name is longer than 4096 bytes"}
	case strings.ContainsRune(entry, 0):
		return "", &Error{entry, "the name contains a NUL byte"}
	case strings.HasPrefix(entry, "/"):
		return "", &Error{entry, "the name is absolute"}
	}
	for element := range strings.SplitSeq(entry, "/") {
		if element == ".." {
			return "", &Error{entry, "the name contains .."}
		}
	}
	name := filepath.FromSlash(path.Clean(entry))
	if !filepath.IsLocal(name) {
		return "", &Error{entry, "the name does not stay inside the directory"}
	}
	return name, nil
}

func (u *unpacker) directory(entry, name string, modified time.Time) error {
	if err := u.root.MkdirAll(name, 0o755); err != nil {
		return blame(entry, err)
	}
	if name != "." {
		u.dirs = append(u.dirs, dirTime{name, modified})
	}
	return nil
}

// clear makes room for a file or link: directories above it exist, and an
// earlier entry of its name is gone. Replacing rather than rewriting means that
// an earlier link of that name is not followed, and that a hard link's other
// names keep their content.
func (u *unpacker) clear(entry, name string) error {
	if name == "." {
		return &Error{entry, "the name is that of the directory itself"}
	}
	if err := u.root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return blame(entry, err)
	}
	info, err := u.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return blame(entry, err)
	case info.IsDir():
		return &Error{entry, "there is a directory of that name already"}
	}
	return blame(entry, u.root.Remove(name))
}

func (u *unpacker) file(entry, name string, mode fs.FileMode, modified time.Time, content io.Reader) error {
	if err := u.clear(entry, name); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return blame(entry, err)
	}
	defer f.Close()
	if err := u.copy(entry, f, content); err != nil {
		return err
	}
	if err := f.Chmod(mode.Perm() | 0o400); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return u.stamp(name, modified)
}

func (u *unpacker) copy(entry string, to io.Writer, from io.Reader) error {
	buffer := make([]byte, 64<<10)
	for {
		if err := u.ctx.Err(); err != nil {
			return err
		}
		n, readErr := from.Read(buffer)
		u.done.Bytes += int64(n)
		if u.done.Bytes > u.limits.Bytes {
			return &Error{entry, fmt.Sprintf("the archive's files exceed %d bytes together", u.limits.Bytes)}
		}
		if _, err := to.Write(buffer[:n]); err != nil {
			return err
		}
		if readErr == io.EOF {
			return nil
		}
		if readErr != nil {
			return blame(entry, readErr)
		}
	}
}

// symlink refuses targets that are absolute or climb out when read as text.
// Targets that climb out by way of another link pass here and are caught by
// checkLinks.
func (u *unpacker) symlink(entry, name, target string) error {
	local := filepath.FromSlash(target)
	switch {
	case target == "":
		return &Error{entry, "a link without a target"}
	case len(target) > 4096 || strings.ContainsRune(target, 0):
		return &Error{entry, "the link's target is no possible name"}
	case path.IsAbs(target) || filepath.IsAbs(local) || filepath.VolumeName(local) != "":
		return &Error{entry, fmt.Sprintf("the link's target %q is absolute", target)}
	case !filepath.IsLocal(filepath.Join(filepath.Dir(name), local)):
		return &Error{entry, fmt.Sprintf("the link's target %q is outside the directory", target)}
	}
	if err := u.clear(entry, name); err != nil {
		return err
	}
	if err := u.root.Symlink(local, name); err != nil {
		return blame(entry, err)
	}
	u.links = append(u.links, name)
	return nil
}

// hardlink gives a second name to a regular file that is already there.
func (u *unpacker) hardlink(entry, name, target string) error {
	local := filepath.FromSlash(path.Clean(target))
	if target == "" || !filepath.IsLocal(local) {
		return &Error{entry, fmt.Sprintf("the hard link's target %q is outside the directory", target)}
	}
	info, err := u.root.Lstat(local)
	if err != nil {
		return blame(entry, err)
	}
	if !info.Mode().IsRegular() {
		return &Error{entry, fmt.Sprintf("the hard link's target %q is no regular file", target)}
	}
	if local == name {
		return nil
	}
	if err := u.clear(entry, name); err != nil {
		return err
	}
	return blame(entry, u.root.Link(local, name))
}

// checkLinks removes the links that lead out, now that everything they lead
// over is there.
func (u *unpacker) checkLinks() error {
	var first error
	for _, name := range u.links {
		_, err := u.root.Stat(name)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if first == nil {
			first = &Error{filepath.ToSlash(name), fmt.Sprintf("the link cannot be followed inside the directory: %v", cause(err))}
		}
		if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return first
}

// stampDirectories comes last, because creating files in them changed their times.
func (u *unpacker) stampDirectories() error {
	for _, dir := range u.dirs {
		if err := u.stamp(dir.name, dir.time); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// stamp keeps the modification time, by which build tools tell what is new.
func (u *unpacker) stamp(name string, modified time.Time) error {
	if modified.Unix() <= 0 || modified.Year() > 9999 {
		return nil
	}
	return u.root.Chtimes(name, modified, modified)
}

// blame turns a failure into the archive's, unless it is one that no archive
// causes.
func blame(entry string, err error) error {
	if err == nil {
		return nil
	}
	for _, machine := range []error{syscall.ENOSPC, syscall.EIO, syscall.EMFILE, syscall.ENFILE, syscall.EROFS, syscall.ENOMEM,
		context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, machine) {
			return err
		}
	}
	var already *Error
	if errors.As(err, &already) {
		return err
	}
	return &Error{entry, cause(err).Error()}
}

// cause leaves out the machine's path, which says nothing to whoever made the
// archive.
func cause(err error) error {
	var onPath *fs.PathError
	if errors.As(err, &onPath) {
		return onPath.Err
	}
	var onLink *os.LinkError
	if errors.As(err, &onLink) {
		return onLink.Err
	}
	return err
}
