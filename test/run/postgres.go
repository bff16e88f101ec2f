package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// A postgres is a private PostgreSQL server on loopback. It is set up like one in production where that can show a
// defect: it syncs to disk, and it sorts text by the rules of a language, so that a query which relies on the order of
// bytes must say so.
type postgres struct {
	url       string
	directory string
	daemon    *daemon
}

func startPostgres(ctx context.Context, programs string) (_ *postgres, err error) {
	directory, err := os.MkdirTemp("", "taskfleet-postgres-")
	if err != nil {
		return nil, err
	}
	p := &postgres{directory: directory}
	defer func() {
		if err != nil {
			p.stop()
		}
	}()

	// PostgreSQL refuses to run as root, so for root it runs as nobody, who gets the directory.
	// Others on this machine must not reach the server, hence the password.
	password := rand.Text()
	passwordFile := filepath.Join(directory, "password")
	if err := os.WriteFile(passwordFile, []byte(password), 0o600); err != nil {
		return nil, err
	}

	// PostgreSQL refuses to run as root, so for root it runs as nobody, who gets the directory.
	var account *syscall.Credential
	if os.Geteuid() == 0 {
		if account, err = nobody(); err != nil {
			return nil, err
		}
		for _, path := range []string{directory, passwordFile} {
			if err := os.Chown(path, int(account.Uid), int(account.Gid)); err != nil {
				return nil, err
			}
		}
	}
	command := func(ctx context.Context, name string, args ...string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, filepath.Join(programs, name), args...)
		cmd.Dir = directory
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: account}
		return cmd
	}

	data := filepath.Join(directory, "data")
	if _, err := output(command(ctx, "initdb", "--pgdata", data, "--username", "taskfleet", "--auth", "scram-sha-256", "--pwfile", passwordFile,
		"--encoding", "UTF8", "--locale", "C", "--locale-provider", "icu", "--icu-locale", "en-US")); err != nil {
		return nil, fmt.Errorf("PostgreSQL's data could not be set up in %s: %w", directory, err)
	}

	err = onFreePort(ctx, func(port int) (err error) {
		// It outlives ctx, until the tests that use it have ended.
		process := command(context.WithoutCancel(ctx), "postgres", "-D", data, "-p", strconv.Itoa(port),
			"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=300")
		p.daemon, err = startDaemon(ctx, "PostgreSQL", filepath.Join(directory, "log"), process, func() error {
			_, err := output(command(ctx, "pg_isready", "-q", "-h", "127.0.0.1", "-p", strconv.Itoa(port)))
			return err
		})
		p.url = fmt.Sprintf("postgres://taskfleet:%s@127.0.0.1:%d/postgres?sslmode=disable", password, port)
		return err
	})
	return p, err
}

// stop asks the server to end without waiting for its clients, then makes it, and removes all it has written.
func (p *postgres) stop() {
	if p.daemon != nil {
		p.daemon.stop()
	}
	if err := os.RemoveAll(p.directory); err != nil {
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
