package seal

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestKeysAreReadFromAFileThatIsPrivate(t *testing.T) {
	old, newest := NewKey(), NewKey()
	file := filepath.Join(t.TempDir(), "keys")
	text := "# of the test\n" + old.Text() + "\n" + newest.Text() + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ks, err := ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if ks.Newest() != newest.ID() || !ks.Has(old.ID()) || ks.Has("another") {
		t.Error("the keys are not those of the file")
	}
	if sealed := ks.Seal(nil, place); !ks.Current(sealed) || ks.Current("hunter2") {
		t.Error("what is sealed is not told by its key")
	}
	if runtime.GOOS != "windows" {
		for _, mode := range []os.FileMode{0o640, 0o604, 0o620, 0o777} {
			if err := os.Chmod(file, mode); err != nil {
				t.Fatal(err)
			}
			if _, err := ReadFile(file); err == nil || !strings.Contains(err.Error(), "chmod 0600") || !strings.Contains(err.Error(), file) {
				t.Errorf("mode %o: %v", mode, err)
			}
		}
	}
}

// Whoever runs the tests is one user, so others are numbers here.
func TestWhoMayGetAtAPrivateFile(t *testing.T) {
	const root, us, somebody = 0, 10001, 1000
	for _, c := range []struct {
		mode       os.FileMode
		owner, who int
		private    bool
	}{
		{0o600, us, us, true},
		{0o400, us, us, true},
		{0o640, us, us, false},
		{0o440, us, us, false},
		{0o440, root, us, true}, // LoadCredential=, and a secret with fsGroup
		{0o640, root, us, true},
		{0o640, somebody, us, true},
		{0o660, root, us, false},
		{0o450, root, us, false},
		{0o444, root, us, false},
		{0o604, root, us, false},
		{0o642, root, us, false},
		{0o600, root, root, true},
		{0o640, root, root, false},
		{0o600, somebody, root, true},
		{0o640, somebody, root, false},
	} {
		if got := private(c.mode, c.owner, c.who); got != c.private {
			t.Errorf("%o of user %d is private for user %d: %t", c.mode, c.owner, c.who, got)
		}
	}
}

func TestAFileThatHoldsNoKeysIsExplained(t *testing.T) {
	directory := t.TempDir()
	file := filepath.Join(directory, "keys")
	for text, want := range map[string]string{
		"":                           "there is no key",
		"hunter2\n":                  "line 1",
		strings.Repeat("#", 1<<20+1): "not a file of keys",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := ReadFile(file)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%.10q: %v", text, err)
		}
	}
	if _, err := ReadFile(filepath.Join(directory, "missing")); err == nil || !strings.Contains(err.Error(), "restore the file from a backup") {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := ReadFile(directory); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Errorf("a directory: %v", err)
	}
}

func TestAKeyCanComeFromElsewhere(t *testing.T) {
	secret := []byte(strings.Repeat("k", 32))
	k, err := KeyFrom(secret)
	if err != nil {
		t.Fatal(err)
	}
	id := k.ID()
	clear(secret) // as its owner may do
	again, err := ParseKey(k.Text())
	if err != nil || again.ID() != id {
		t.Errorf("the key is %s, and then %s, %v", id, again.ID(), err)
	}
	for _, n := range []int{0, 16, 31, 33} {
		if _, err := KeyFrom(make([]byte, n)); err == nil {
			t.Errorf("a key of %d bytes is accepted", n)
		}
	}
}
