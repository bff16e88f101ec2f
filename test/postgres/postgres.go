// Package postgres runs private PostgreSQL servers: the one of `make test`, and those of tests that have to break theirs.
package postgres

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/taskfleet/taskfleet/test/daemon"
)

// Oldest is the first major version that can sort by ICU rules alone, which Start asks for.
const Oldest = 15

// A Server is a private PostgreSQL server on loopback. It is set up like one in production where that can show a
// defect: it sorts text by the rules of a language, so that a query which relies on the order of bytes must say so.
type Server struct {
	URL string

	programs  string
	settings  []string
	directory string
	account   *syscall.Credential // that it runs as, or nil for ours
	port      int
	daemon    *daemon.Daemon
}

// NoSync has a server leave it to the system when what it writes reaches the disk, and keep nothing for pages of which half
// did, nor for others. It then survives its own end, however sudden, but not the machine's; and tests, which commit all the
// time, do not wait for the disk.
var NoSync = []string{"fsync=off", "full_page_writes=off", "wal_level=minimal", "max_wal_senders=0"}

// Disposable are the settings of a server that is not started again once it has ended.
var Disposable = append(slices.Clone(NoSync), "synchronous_commit=off")

// Start makes a server on a free port, with further settings. Programs is a directory such as Find returns.
func Start(ctx context.Context, programs string, settings ...string) (_ *Server, err error) {
	directory, err := os.MkdirTemp("", "taskfleet-postgres-")
	if err != nil {
		return nil, err
	}
	s := &Server{programs: programs, settings: settings, directory: directory}
	defer func() {
		if err != nil {
			s.Stop()
		}
	}()

	// Others on this machine must not reach the server, hence the password.
	password := rand.Text()
	passwordFile := filepath.Join(directory, "password")
	if err := os.WriteFile(passwordFile, []byte(password), 0o600); err != nil {
		return nil, err
	}

	// PostgreSQL refuses to run as root, so for root it runs as nobody, who gets the directory.
	if os.Geteuid() == 0 {
		if s.account, err = nobody(); err != nil {
			return nil, err
		}
		for _, path := range []string{directory, passwordFile} {
			if err := os.Chown(path, int(s.account.Uid), int(s.account.Gid)); err != nil {
				return nil, err
			}
		}
	}

	if _, err := output(s.command(ctx, "initdb", "--pgdata", s.data(), "--username", "taskfleet", "--auth", "scram-sha-256", "--pwfile", passwordFile,
		"--encoding", "UTF8", "--locale", "C", "--locale-provider", "icu", "--icu-locale", "en-US")); err != nil {
		return nil, fmt.Errorf("PostgreSQL's data could not be set up in %s: %w", directory, err)
	}
	return s, daemon.OnFreePort(ctx, func(port int) (err error) {
		s.port = port
		s.URL = fmt.Sprintf("postgres://taskfleet:%s@127.0.0.1:%d/postgres?sslmode=disable", password, port)
		return s.start(ctx)
	})
}

func (s *Server) data() string { return filepath.Join(s.directory, "data") }

func (s *Server) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.programs, name), args...)
	cmd.Dir = s.directory
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: s.account}
	return cmd
}

func (s *Server) start(ctx context.Context) (err error) {
	// It outlives ctx, until the tests that use it have ended.
	args := []string{"-D", s.data(), "-p", strconv.Itoa(s.port)}
	for _, setting := range append([]string{"listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=300"}, s.settings...) {
		args = append(args, "-c", setting)
	}
	process := s.command(context.WithoutCancel(ctx), "postgres", args...)
	d, err := daemon.Start(ctx, "PostgreSQL", filepath.Join(s.directory, "log"), process, func() error {
		_, err := output(s.command(ctx, "pg_isready", "-q", "-h", "127.0.0.1", "-p", strconv.Itoa(s.port)))
		return err
	})
	if err == nil {
		s.daemon = d
	}
	return err
}

// PID is the id of the server's first process.
func (s *Server) PID() int { return s.daemon.Process.Process.Pid }

// Fallen is an error if the server has ended by itself, with the end of its log.
func (s *Server) Fallen() error { return s.daemon.Fallen() }

// Restart has the server end without waiting for its clients, and starts it again.
func (s *Server) Restart(ctx context.Context) error { return s.again(ctx, syscall.SIGINT) }

// Crash has the server end without writing anything more, as a power failure would, and starts it again: it then recovers
// from its log.
func (s *Server) Crash(ctx context.Context) error { return s.again(ctx, syscall.SIGQUIT) }

func (s *Server) again(ctx context.Context, signal syscall.Signal) error {
	if err := s.daemon.Process.Process.Signal(signal); err != nil {
		return err
	}
	select {
	case <-s.daemon.Ended:
		return s.start(ctx)
	case <-time.After(time.Minute):
		return fmt.Errorf("PostgreSQL did not end within a minute of the signal %v", signal)
	}
}

// Stop asks the server to end without waiting for its clients, then makes it, and removes all it has written.
func (s *Server) Stop() {
	if s.daemon != nil {
		s.daemon.Stop()
	}
	if err := os.RemoveAll(s.directory); err != nil {
		fmt.Fprintf(os.Stderr, "PostgreSQL is stopped, and its data is still there: %v\n", err)
	}
}

func nobody() (*syscall.Credential, error) {
	account, err := user.Lookup("nobody")
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL refuses to run as root, and there is no other account to run it as: %w", err)
	}
	uid, uidErr := strconv.ParseUint(account.Uid, 10, 32)
	gid, gidErr := strconv.ParseUint(account.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(uidErr, gidErr)
}

// Find returns the directory of the newest PostgreSQL on this machine that will do, on PATH or where Debian puts it, or
// "" if there is none.
func Find(ctx context.Context) (programs string) {
	directories, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	slices.SortFunc(directories, func(a, b string) int { return major(ctx, b) - major(ctx, a) })
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			directories = append(directories, filepath.Dir(path))
		}
	}
	for _, directory := range directories {
		if major(ctx, directory) >= Oldest && isExecutable(directory, "initdb") && isExecutable(directory, "pg_isready") {
			return directory
		}
	}
	return ""
}

// major is 0 where there is no server. It prints, for example, "postgres (PostgreSQL) 15.7 (Debian 15.7-1)".
func major(ctx context.Context, directory string) int {
	out, err := output(exec.CommandContext(ctx, filepath.Join(directory, "postgres"), "--version"))
	if err != nil {
		return 0
	}
	_, version, _ := strings.Cut(out, "(PostgreSQL) ")
	digits := strings.IndexFunc(version+" ", func(r rune) bool { return r < '0' || r > '9' })
	n, _ := strconv.Atoi(version[:digits])
	return n
}

func isExecutable(directory, name string) bool {
	_, err := exec.LookPath(filepath.Join(directory, name))
	return err == nil
}

// output runs a command to its end and returns what it printed, or an error that has it.
func output(cmd *exec.Cmd) (string, error) {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, bytes.TrimSpace(out))
	}
	return strings.TrimSpace(string(out)), nil
}
