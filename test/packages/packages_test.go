// Package packages tests what operators are given beside the program: guides, whose commands are run as they are written;
// units of systemd, and the chart for Kubernetes, which are held against the program that they start.
package packages

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/test/server"
)

// binary is the program, built once.
var binary string

// root is the checkout.
const root = "../.."

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "systemctl" {
		os.Exit(askUnit(os.Args[1:]))
	}
	folder, err := os.MkdirTemp("", "taskfleet-packages-")
	if err == nil {
		binary, err = server.Build(context.Background(), folder)
	}
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	os.RemoveAll(folder)
	os.Exit(code)
}

// help is what the program says of a command, such as "serve".
func help(t *testing.T, command ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, append(command, "--help")...).CombinedOutput()
	if err != nil {
		t.Fatalf("taskfleet %s --help: %v\n%s", strings.Join(command, " "), err, out)
	}
	return string(out)
}

// checkCommandLine tells whether the program has a command and its flags. Words that are no flags but their values are passed over.
func checkCommandLine(t *testing.T, words []string) {
	t.Helper()
	text := help(t, words[0])
	if !strings.Contains(text, "taskfleet "+words[0]) {
		t.Errorf("there is no command taskfleet %s", words[0])
	}
	for _, w := range words[1:] {
		if flag, _, _ := strings.Cut(w, "="); strings.HasPrefix(flag, "--") && !strings.Contains(text, " "+flag+" ") {
			t.Errorf("taskfleet %s has no flag %s", words[0], flag)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
