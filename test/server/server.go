// Package server runs the built `taskfleet serve` from outside, as an operator would: a process, a data directory, a
// database, and the credentials that it leaves there. The tests of the whole system stand on it, and so does `make bench`.
package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Options say what to run.
type Options struct {
	Binary      string   // made by Build
	Data        string   // directory for all that the server keeps; it may be one that an earlier server has left
	Database    string   // postgres://...; empty means SQLite in Data
	Listen      string   // host:port; empty means a free port, another one each time
	Config      string   // text of a configuration file, for what is not said here; may be empty
	Environment []string // NAME=value, beside ours
	CheckOutput bool     // whether the server checks what it answers against its schemas
}

// A Server is a running `taskfleet serve`.
type Server struct {
	RootURL     string `json:"rootUrl"`
	ClientID    string `json:"clientId"`
	AccessToken string `json:"accessToken"`

	// Address is the URL of this very process. RootURL may be that of a balancer in front of several.
	Address string `json:"-"`

	process *exec.Cmd
	log     string
	ended   chan struct{}
	err     error // how it ended
}

// Build compiles the binary into directory. `make test` has compiled it once, for all tests, and says where it is.
func Build(ctx context.Context, directory string) (binary string, err error) {
	if binary := os.Getenv("TASKFLEET_TEST_BINARY"); binary != "" {
		return binary, nil
	}
	binary = filepath.Join(directory, "taskfleet")
	build := exec.CommandContext(ctx, "go", "build", "-ldflags=-s -w", "-o", binary, "github.com/taskfleet/taskfleet/cmd/taskfleet")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", build, err, out)
	}
	return binary, nil
}

// Start starts a server and returns when it answers. It runs until Stop or Kill.
func Start(ctx context.Context, o Options) (*Server, error) {
	if err := os.MkdirAll(o.Data, 0o700); err != nil {
		return nil, err
	}
	// The server writes it at each start, once it listens: so that which is there then is its own.
	credentials := filepath.Join(o.Data, "credentials.json")
	if err := os.Remove(credentials); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	s := &Server{log: filepath.Join(o.Data, "server.log"), ended: make(chan struct{})}
	if o.Listen != "" {
		s.Address = "http://" + o.Listen
	}
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	args := []string{"serve", "--data", o.Data, "--listen", cmp.Or(o.Listen, "127.0.0.1:0")}
	if o.Config != "" {
		config := filepath.Join(o.Data, "config.yml")
		if err := os.WriteFile(config, []byte(o.Config), 0o600); err != nil {
			return nil, err
		}
		args = append(args, "--config", config)
	}
	s.process = exec.Command(o.Binary, args...)
	s.process.Env = o.environment()
	s.process.Stdout, s.process.Stderr = log, log
	if err := s.process.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.err = s.process.Wait()
		close(s.ended)
	}()
	if err := s.waitUntilReady(ctx, credentials); err != nil {
		return nil, fmt.Errorf("%w\nIts log:\n%s", errors.Join(err, s.Kill()), s.Log())
	}
	return s, nil
}

// environment is ours without what is meant for another server. The database's URL has a password, which an argument
// would show to everybody on the machine.
func (o Options) environment() []string {
	environment := slices.DeleteFunc(os.Environ(), func(entry string) bool {
		return strings.HasPrefix(entry, "TASKFLEET_") || strings.HasPrefix(entry, "TASKCLUSTER_")
	})
	if o.Database != "" {
		environment = append(environment, "TASKFLEET_DATABASE="+o.Database)
	}
	environment = append(environment, fmt.Sprintf("TASKFLEET_CHECK_OUTPUT=%t", o.CheckOutput))
	return append(environment, o.Environment...)
}

// patience is for machines that are slow beyond reason. It is more than the minute that the server gives its own end.
const patience = 3 * time.Minute

// waitUntilReady polls: there is nothing to wait on in another process that does not listen yet.
func (s *Server) waitUntilReady(ctx context.Context, credentials string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := s.ready(ctx, credentials)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("taskfleet serve was not ready when the time for it was over: %w", err)
		case <-s.ended:
			return fmt.Errorf("taskfleet serve ended as it started: %w", s.err)
		}
	}
}

func (s *Server) ready(ctx context.Context, credentials string) error {
	content, err := os.ReadFile(credentials)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(content, s); err != nil {
		return fmt.Errorf("%s: %w", credentials, err)
	}
	s.Address = cmp.Or(s.Address, s.RootURL)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Address+"/api/queue/v1/__heartbeat__", nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", request.URL, response.Status)
	}
	return nil
}

// Environment tells a client, as all clients understand it, where the server is and that it may do everything.
func (s *Server) Environment() []string {
	return []string{
		"TASKCLUSTER_ROOT_URL=" + s.RootURL,
		"TASKCLUSTER_CLIENT_ID=" + s.ClientID,
		"TASKCLUSTER_ACCESS_TOKEN=" + s.AccessToken,
	}
}

// PID is the server's process id.
func (s *Server) PID() int { return s.process.Process.Pid }

// Stop ends the server in an orderly way, as a service manager does, and fails when it does not end or ends with an error.
func (s *Server) Stop() error {
	if err := s.process.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-s.ended:
		return s.err
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("taskfleet serve did not end within %v of being told to, and was killed", patience), s.Kill())
	}
}

// Kill ends the server with no chance to do anything more.
func (s *Server) Kill() error {
	if err := s.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.ended
	return nil
}

// Log is what the servers of this data directory have written.
func (s *Server) Log() []byte {
	log, err := os.ReadFile(s.log)
	if err != nil {
		return []byte(err.Error())
	}
	return log
}
