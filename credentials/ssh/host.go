package ssh

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

const (
	maxFile = 1 << 20 // bytes of authorized_keys

	lockSuffix = ".taskfleet"
	lockTries  = 6 // while another one has it, which takes no second
	lockPause  = time.Second

	// staleLock is when a lock is taken for one whose holder is gone: longer than anybody
	// may hold it.
	staleLock = 2 * time.Minute
)

// errNotAccepted is that a host knows the user or the key not.
var errNotAccepted = errors.New("the host does not accept the key")

// known is how to tell whether a host is the one that it should be.
func (s Settings) known() (ssh.HostKeyCallback, error) {
	if s.KnownHosts != "" {
		check, err := knownhosts.New(s.KnownHosts)
		if err != nil {
			return nil, fmt.Errorf("knownHosts cannot be read on this machine: %w", err)
		}
		return check, nil
	}
	f, err := os.CreateTemp("", "known-hosts-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = io.WriteString(f, strings.Join(s.HostKeys, "\n")+"\n")
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	check, err := knownhosts.New(f.Name())
	if err != nil {
		return nil, errors.New("hostKeys must be lines as in a file known_hosts, such as ssh-keyscan prints: " + strings.ReplaceAll(err.Error(), f.Name(), "line"))
	}
	return check, nil
}

// login logs in on a host, whose key must be known.
func (k Kind) login(ctx context.Context, s Settings, h host, user string, key ssh.Signer) (*ssh.Client, error) {
	check, err := s.known()
	if err != nil {
		return nil, err
	}
	dial := k.Dial
	if dial == nil {
		dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	limited, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	conn, err := dial(limited, h.address)
	if err != nil {
		return nil, fmt.Errorf("connecting: %w", err)
	}
	var unknown error
	stop := context.AfterFunc(limited, func() { conn.Close() })
	c, channels, requests, err := ssh.NewClientConn(conn, h.address, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, ClientVersion: "SSH-2.0-taskfleet",
		HostKeyAlgorithms: algorithms(check, h.address),
		HostKeyCallback: func(name string, remote net.Addr, key ssh.PublicKey) error {
			err := check(name, remote, key)
			if wrong, ok := errors.AsType[*knownhosts.KeyError](err); ok {
				unknown = fmt.Errorf("its key (%s) is not among the known ones; add it, once it was compared with what the host itself says", ssh.FingerprintSHA256(key))
				if len(wrong.Want) > 0 {
					unknown = fmt.Errorf("its key (%s) is another one than is known: somebody may be in between, or the host was set up anew", ssh.FingerprintSHA256(key))
				}
				return unknown
			} else if err != nil {
				unknown = err
			}
			return err
		},
	})
	if !stop() && err == nil {
		err = limited.Err()
	}
	if err != nil {
		conn.Close()
		switch {
		case limited.Err() != nil:
			return nil, fmt.Errorf("connecting: it took too long: %w", context.Cause(limited))
		case unknown != nil:
			return nil, unknown
		case strings.Contains(err.Error(), "unable to authenticate"):
			return nil, fmt.Errorf("logging in as %s: %w", user, errNotAccepted)
		}
		return nil, fmt.Errorf("logging in as %s: %w", user, err)
	}
	context.AfterFunc(ctx, func() { conn.Close() }) // what is under way ends with the context
	return ssh.NewClient(c, channels, requests), nil
}

// algorithms are those of the keys that are known of a host: it is to show one of
// these, not another one that it has as well.
func algorithms(check ssh.HostKeyCallback, address string) (list []string) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(example))
	if err != nil {
		return nil
	}
	wrong, ok := errors.AsType[*knownhosts.KeyError](check(address, &net.TCPAddr{IP: net.IPv4zero}, key))
	if !ok {
		return nil
	}
	for _, k := range wrong.Want {
		if k.Key.Type() == ssh.KeyAlgoRSA {
			list = append(list, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		} else {
			list = append(list, k.Key.Type())
		}
	}
	return list
}

// files logs the administrator in where files are changed.
func (k Kind) files(ctx context.Context, s Settings, h host) (_ *sftp.Client, end func(), err error) {
	text, err := os.ReadFile(s.Administrator.KeyFile)
	if err != nil {
		return nil, nil, fmt.Errorf("administrator.keyFile cannot be read on this machine: %w", err)
	}
	key, err := ssh.ParsePrivateKey(text)
	if _, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok {
		return nil, nil, errors.New("administrator.keyFile has a passphrase; make it a key without one, that only the server can read")
	} else if err != nil {
		return nil, nil, errors.New("administrator.keyFile is no private key as OpenSSH writes them")
	}
	c, err := k.login(ctx, s, h, h.writer, key)
	if errors.Is(err, errNotAccepted) {
		return nil, nil, fmt.Errorf("%w of the administrator", err)
	} else if err != nil {
		return nil, nil, err
	}
	to, err := sftp.NewClient(c)
	if err != nil {
		c.Close()
		return nil, nil, fmt.Errorf("there is no SFTP for %s: %w", h.writer, err)
	}
	return to, func() {
		to.Close()
		c.Close()
	}, nil
}

// read are the lines of the file of a host.
func (k Kind) read(ctx context.Context, s Settings, h host) ([]string, error) {
	to, end, err := k.files(ctx, s, h)
	if err != nil {
		return nil, err
	}
	defer end()
	name, err := resolved(to, h)
	if err != nil {
		return nil, fmt.Errorf("looking at %s: %w", h.file, err)
	}
	is, err := look(to, h, name)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", h.file, err)
	}
	return split(is.text), nil
}

// split and join keep what is between lines as it is, but for an end that is missing.
func split(text []byte) []string {
	if len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
}

func join(lines []string) []byte {
	if len(lines) == 0 {
		return nil
	}
	return []byte(strings.Join(lines, "\n") + "\n")
}

// edit changes the lines of a host, for a version. What comes next is written to a file
// beside it, which the lock is then linked to: so the lock is whole from the beginning, and
// who moves it over the file, however late that arrives, moves no half of one.
func (k Kind) edit(ctx context.Context, s Settings, h host, id string, f func(lines []string) []string) error {
	to, end, err := k.files(ctx, s, h)
	if err != nil {
		return err
	}
	defer end()
	for _, needed := range []string{"posix-rename@openssh.com", "hardlink@openssh.com"} {
		if _, ok := to.HasExtension(needed); !ok {
			return fmt.Errorf("its SFTP server does not have the extension %s, which that of OpenSSH has", needed)
		}
	}
	name, err := resolved(to, h)
	if err != nil {
		return fmt.Errorf("looking at %s: %w", h.file, err)
	}
	// Hosts can be names of one machine, and users have one file.
	sum := sha256.Sum256([]byte(h.String()))
	next := fmt.Sprintf("%s%s-%s-%x", name, lockSuffix, id, sum[:8])
	to.Remove(next) // of an attempt that was cut off
	for n := 1; ; n++ {
		err := replace(ctx, to, h, name, next, f)
		if !errors.Is(err, errBusy) || n == lockTries {
			return err
		}
		select {
		case <-time.After(lockPause/2 + rand.N(lockPause)):
		case <-ctx.Done():
			return err
		}
	}
}

func replace(ctx context.Context, to *sftp.Client, h host, name, next string, f func(lines []string) []string) error {
	before, err := look(to, h, name)
	if err != nil {
		return fmt.Errorf("reading %s: %w", h.file, err)
	}
	lines := split(before.text)
	after := f(lines)
	if slices.Equal(lines, after) {
		return nil
	}
	if !before.there {
		if before, err = begin(to, h, path.Dir(name)); err != nil {
			return fmt.Errorf("making %s: %w", h.file, err)
		}
	}
	if err := write(to, next, join(after), before); err != nil {
		to.Remove(next)
		return fmt.Errorf("writing %s: %w", next, err)
	}
	lock := name + lockSuffix
	err = hold(to, next, lock)
	to.Remove(next)
	if err != nil {
		return err
	}
	now, err := look(to, h, name)
	switch {
	case err != nil:
		err = fmt.Errorf("reading %s: %w", h.file, err)
	case !bytes.Equal(now.text, before.text):
		err = errBusy // it was changed before we had the lock
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	default:
		if err = to.PosixRename(lock, name); err == nil {
			return nil
		}
		err = fmt.Errorf("replacing %s: %w", h.file, err)
	}
	to.Remove(lock)
	return err
}

// A state is what a file is.
type state struct {
	there bool
	text  []byte
	owner sftp.FileStat
	mode  fs.FileMode
}

// look is how the file is. Where the administrator is another user than its own, who can
// have names lead where that user has no right to be, it is looked at twice.
func look(to *sftp.Client, h host, name string) (s state, err error) {
	f, err := to.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return state{}, nil
	} else if err != nil {
		return s, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return s, err
	}
	s = state{there: true, owner: owner(info), mode: info.Mode().Perm()}
	if !info.Mode().IsRegular() || s.mode == 0 {
		return s, errors.New("it is no file, or one whose mode the host does not tell")
	}
	if h.writer != h.user {
		dir, err := to.Lstat(path.Dir(name))
		if err != nil {
			return s, err
		}
		if by := owner(dir); !dir.IsDir() || by.UID != 0 && by.UID != s.owner.UID {
			return s, fmt.Errorf("it does not belong to whom its directory belongs to, who could have it lead anywhere; %s changes it only if they are the same, or if the directory is root's", h.writer)
		}
	}
	s.text, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(s.text) > maxFile {
		err = fmt.Errorf("it has more than %d bytes", maxFile)
	}
	return s, err
}

func owner(info fs.FileInfo) sftp.FileStat {
	if s, ok := info.Sys().(*sftp.FileStat); ok {
		return *s
	}
	return sftp.FileStat{}
}

// begin is how a file is to be that is not there yet. Its directory is made, as sshd wants
// it, by the user alone whose it will be: by a name another one cannot give it away safely.
func begin(to *sftp.Client, h host, dir string) (state, error) {
	info, err := to.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) && h.writer == h.user {
		making := dir + lockSuffix
		to.Mkdir(making) // it may be there
		failed := to.Chmod(making, 0o700)
		if failed == nil {
			failed = to.PosixRename(making, dir)
		}
		if info, err = to.Stat(dir); err != nil {
			return state{}, cmp.Or(failed, err)
		} else if failed != nil { // somebody else was faster
			to.RemoveDirectory(making)
		}
	}
	if err != nil {
		return state{}, fmt.Errorf("its directory %s: %w", dir, err)
	}
	return state{owner: owner(info), mode: 0o600}, nil
}

// write makes a file with the owner and mode of another one. These are changed by its
// handle, as its name can be led elsewhere meanwhile.
func write(to *sftp.Client, name string, text []byte, as state) error {
	file, err := to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(text); err != nil {
		return err
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if is := owner(info); is.UID != as.owner.UID || is.GID != as.owner.GID {
		if err := file.Chown(int(as.owner.UID), int(as.owner.GID)); err != nil {
			return fmt.Errorf("giving it the owner of what it replaces: %w", err)
		}
	}
	if err := file.Chmod(as.mode); err != nil {
		return fmt.Errorf("giving it the mode of what it replaces: %w", err)
	}
	if err := file.Sync(); err != nil && !unsupported(err) {
		return err
	}
	return file.Close()
}

// resolved is the file that a name leads to, which need not be there. Links are followed
// by their own user, and by nobody who has more rights.
func resolved(to *sftp.Client, h host) (string, error) {
	name := h.file
	for range 8 {
		info, err := to.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode()&fs.ModeSymlink == 0 {
			return name, nil
		} else if err != nil {
			return "", err
		}
		if h.writer != h.user {
			return "", fmt.Errorf("it is a link, which %s does not follow for %s; name what it leads to in file", h.writer, h.user)
		}
		target, err := to.ReadLink(name)
		if err != nil {
			return "", err
		}
		if !path.IsAbs(target) {
			target = path.Join(path.Dir(name), target)
		}
		name = target
	}
	return "", errors.New("there are too many links")
}

// errBusy is that the file changes, or is being changed, by another one.
var errBusy = errors.New("another rotation changes the file")

// hold has the lock be what comes next. One that has been there for long is of somebody
// who is gone; how long that is the clock of the host says.
func hold(to *sftp.Client, next, lock string) error {
	err := to.Link(next, lock)
	if err == nil {
		return nil
	}
	failed := fmt.Errorf("making %s: %w", lock, err)
	now, err := to.Stat(next)
	if err != nil {
		return failed
	}
	held, err := to.Lstat(lock)
	if err != nil {
		return fmt.Errorf("%w, unless %w", failed, errBusy) // and is done by now
	}
	fresh := func(held fs.FileInfo) bool { return now.ModTime().Sub(held.ModTime()).Abs() < staleLock }
	if fresh(held) {
		return fmt.Errorf("%w: %s is there", errBusy, lock)
	}
	old := next + "-old"
	if err := to.PosixRename(lock, old); err != nil {
		return fmt.Errorf("removing %s, whose owner is gone: %w", lock, err)
	}
	defer to.Remove(old)
	// Somebody else may have found that out, too, and been faster: then this was his.
	if held, err = to.Lstat(old); err == nil && fresh(held) {
		to.Link(old, lock)
		return errBusy
	}
	if err := to.Link(next, lock); err != nil {
		return errBusy
	}
	return nil
}

// unsupported tells that a host does not know how to do something.
func unsupported(err error) bool {
	e, ok := errors.AsType[*sftp.StatusError](err)
	return ok && e.FxCode() == sftp.ErrSSHFxOpUnsupported
}
