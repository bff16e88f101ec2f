package tree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestRemoveTakesAwayWhatATaskCanLeave(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "kept")
	write(t, outside, "kept")

	for name, build := range map[string]func(t *testing.T, dir string){
		"nothing at all":        func(t *testing.T, dir string) { mkdir(t, dir) },
		"files and directories": func(t *testing.T, dir string) { write(t, filepath.Join(dir, "a", "b", "c.txt"), "x") },
		"unwritable directories": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "mod", "pkg", "go.mod"), "x")
			chmod(t, filepath.Join(dir, "mod", "pkg"), 0o555)
			chmod(t, filepath.Join(dir, "mod"), 0o111)
			chmod(t, dir, 0)
		},
		"more names than one batch": func(t *testing.T, dir string) {
			for i := range 2*batch + 1 {
				write(t, filepath.Join(dir, "many", fmt.Sprint(i)), "")
			}
		},
		"links that point elsewhere": func(t *testing.T, dir string) {
			mkdir(t, dir)
			for link, target := range map[string]string{"file": outside, "dir": filepath.Dir(outside), "up": "../..", "self": "self"} {
				if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
					t.Fatal(err)
				}
			}
		},
		"names of the remover's own": func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, ".removing-1", "a", "b", "c"), "x")
			write(t, filepath.Join(dir, ".removing-2", "a", "b", "c"), "x")
			write(t, filepath.Join(dir, ".removing-3"), "a file")
		},
		"a very deep tree": func(t *testing.T, dir string) {
			mkdir(t, dir)
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			for range 1500 {
				if err := root.Mkdir("d", 0o700); err != nil {
					t.Fatal(err)
				}
				below, err := root.OpenRoot("d")
				if err != nil {
					t.Fatal(err)
				}
				root.Close()
				root = below
			}
			root.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			for way, remove := range map[string]func(string) error{"Remove": Remove, "removeFlat": removeFlat} {
				dir := filepath.Join(t.TempDir(), "tree")
				build(t, dir)
				if err := remove(dir); err != nil {
					t.Fatalf("%s: %v", way, err)
				}
				if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
					t.Fatalf("still there after %s: %v", way, err)
				}
				if _, err := os.Stat(outside); err != nil {
					t.Fatalf("%s touched a file outside: %v", way, err)
				}
			}
		})
	}
}

func TestRemoveOfWhatIsNoDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := Remove(filepath.Join(dir, "absent")); err != nil {
		t.Errorf("an absent directory: %v", err)
	}
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	write(t, filepath.Join(target, "file"), "x")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	if err := Remove(link); err != nil {
		t.Errorf("a link: %v", err)
	}
	if _, err := os.Stat(filepath.Join(target, "file")); err != nil {
		t.Errorf("the link was followed: %v", err)
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, file, content string) {
	t.Helper()
	mkdir(t, filepath.Dir(file))
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func chmod(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}
