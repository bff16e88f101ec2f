package credentials

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// Whoever reads a secret has to know of which version it is, to say that it uses it. In a
// secret of the platform that is a member; a file has another one beside it, which is
// written after it: who reads that first never takes an older secret for a newer one.
const (
	labelMember = "credentialVersion"
	labelSuffix = ".version"
)

// labelled is a secret with the id of its version.
func labelled(v Version) json.RawMessage {
	if bytes.Contains(v.Secret, []byte(`"`+labelMember+`"`)) { // it has one of its own
		return v.Secret
	}
	rest, ok := bytes.CutSuffix(bytes.TrimSpace(v.Secret), []byte("}"))
	if !ok || len(bytes.TrimSpace(rest)) < 2 {
		return v.Secret
	}
	return append(slices.Clone(rest), fmt.Sprintf(",%q:%q}", labelMember, v.ID)...)
}

// content is what a file holds.
func (u Use) content(v Version) ([]byte, error) {
	if u.Member == "" {
		return append(slices.Clone([]byte(v.Secret)), '\n'), nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(v.Secret, &all); err != nil {
		return nil, errors.New("the secret is no JSON object")
	}
	value, ok := all[u.Member]
	if !ok {
		return nil, fmt.Errorf("the secret has no member %q; it has %v", u.Member, sortedKeys(all))
	}
	var text string
	if json.Unmarshal(value, &text) == nil {
		return []byte(text), nil
	}
	return value, nil
}

// A target is where the file of a consumer is written by this replica.
type target struct {
	name string      // with symbolic links followed
	temp string      // which is renamed to it
	have os.FileInfo // nil: it is not there
}

// target finds where a file is. One that is a symbolic link is written where that leads.
func (c *Credentials) target(name string) (t target, err error) {
	for range 40 {
		info, err := os.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return c.temp(target{name: name}), nil
		case err != nil:
			return t, err
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(name)
			if err != nil {
				return t, err
			}
			if !filepath.IsAbs(to) {
				to = filepath.Join(filepath.Dir(name), to)
			}
			name = to
		case !info.Mode().IsRegular():
			return t, fmt.Errorf("%s is no file, but a %s; it is not replaced", name, info.Mode().Type())
		default:
			return c.temp(target{name: name, have: info}), nil
		}
	}
	return t, fmt.Errorf("%s is a symbolic link that leads in a circle", name)
}

// temp names the file that becomes the one: always the same on a replica, so that what a
// crash has left is found again.
func (c *Credentials) temp(t target) target {
	sum := sha256.Sum256([]byte(c.config.Replica))
	t.temp = filepath.Join(filepath.Dir(t.name), "."+filepath.Base(t.name)+".taskfleet-"+hex.EncodeToString(sum[:6]))
	return t
}

// lacking tells that the file is not as it should be. What a crash has left beside it goes.
func (c *Credentials) lacking(u Use, v Version) bool {
	text, err := u.content(v)
	if err != nil {
		return true
	}
	for _, f := range u.files(text, v) {
		t, err := c.target(f.name)
		if err != nil || t.have == nil {
			return true
		}
		os.Remove(t.temp)
		there, err := os.ReadFile(t.name)
		if err != nil || !bytes.Equal(f.text, there) || f.given && canChmod && t.have.Mode().Perm() != f.mode {
			return true
		}
	}
	return false
}

// A file is one that a consumer gets.
type file struct {
	name  string
	text  []byte
	mode  fs.FileMode
	given bool // whatever mode there is
	label bool // which need not survive a crash: it is made anew
}

// files are those of a consumer, in the order in which they are written.
func (u Use) files(text []byte, v Version) []file {
	mode, given := u.mode()
	label := file{name: u.File + labelSuffix, text: []byte(v.ID + "\n"), mode: 0o644, label: true}
	return []file{{name: u.File, text: text, mode: mode, given: given}, label}
}

func (c *Credentials) writeFiles(u Use, v Version) error {
	text, err := u.content(v)
	if err != nil {
		return err
	}
	for _, f := range u.files(text, v) {
		if err := c.writeFile(f); err != nil {
			return err
		}
	}
	return nil
}

// writeFile replaces a file in one moment, and returns when that will be so after a
// crash, too. It keeps whose the file is, and its mode where none is said.
func (c *Credentials) writeFile(w file) (err error) {
	t, err := c.target(w.name)
	if err != nil {
		return err
	}
	if err := os.Remove(t.temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(t.temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(t.temp)
		}
	}()
	if t.have != nil {
		if err = keepOwner(f, t.have); err != nil {
			return errors.Join(err, f.Close())
		}
		if !w.given {
			w.mode = t.have.Mode().Perm()
		}
	}
	err = f.Chmod(w.mode)
	if err == nil || !canChmod {
		_, err = f.Write(w.text)
	}
	if !w.label {
		err = errors.Join(err, f.Sync())
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(t.temp, t.name); err != nil {
		return err
	}
	if w.label {
		return nil
	}
	return syncFolder(filepath.Dir(t.name))
}
