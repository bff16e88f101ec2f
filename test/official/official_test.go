// Package official runs the suites of js/ and py/: the clients that others publish for this API, unmodified, against the
// platform on every database. They are the proof that tools which were written for the API work here. What the suites
// look at is said in their files; this test gives each a fresh platform and its credentials, shows what they print when
// one fails, and sees to it that they leave out no method that the clients know.
package official

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/test/server"
)

func TestOfficialClients(t *testing.T) {
	node, python := installed(t, "TASKFLEET_TEST_NODE"), installed(t, "TASKFLEET_TEST_PYTHON")
	moto := installed(t, "TASKFLEET_TEST_MOTO")
	scripts, err := filepath.Glob("js/*.test.mjs")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no tests in js/: %v", err)
	}
	binary, err := server.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	storetest.EachURL(t, func(t *testing.T, url string) {
		outside := startOutside(t)
		options := server.Options{Binary: binary, Data: t.TempDir(), CheckOutput: true, Config: outside.config(t, moto)}
		if strings.HasPrefix(url, "postgres:") {
			options.Database = url // SQLite is where the server puts it by itself
		}
		s, err := server.Start(t.Context(), options)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Stop(); err != nil {
				t.Errorf("taskfleet serve did not stop as it should: %v", err)
			}
			if t.Failed() {
				t.Logf("the server's log:\n%s", s.Log())
			}
		})
		record := t.TempDir()
		environment := append(s.Environment(), "OFFICIAL_CALLS="+record, "OFFICIAL_OUTSIDE="+outside.web.URL)
		// Both at once: two kinds of clients on one platform.
		t.Run("clients", func(t *testing.T) {
			t.Run("javascript", func(t *testing.T) {
				t.Parallel()
				// All files in one process: loading the client anew for each would take most of the time.
				run(t, environment, ".", append([]string{node, "--test", "--experimental-test-isolation=none", "--test-reporter=spec"}, scripts...)...)
			})
			t.Run("python", func(t *testing.T) {
				t.Parallel()
				run(t, environment, "py", python, "-B", "-W", "error::SyntaxWarning", "-m", "unittest", "discover", "--verbose")
			})
		})
		checkComplete(t, record)
	})
}

// run runs a suite in a process group of its own, all of which ends with the test.
func run(t *testing.T, environment []string, directory string, command ...string) {
	cmd := exec.CommandContext(t.Context(), command[0], command[1:]...)
	cmd.Dir = directory
	cmd.Env = append(os.Environ(), environment...)
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		t.Errorf("%s failed: %v", filepath.Base(command[0]), err)
	}
}

func installed(t *testing.T, variable string) string {
	path := os.Getenv(variable)
	if path == "" {
		t.Fatalf("%s is not set: run `make test`, which installs the official clients and starts moto, and says where they are", variable)
	}
	return path
}
