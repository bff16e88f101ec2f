// Package daemon runs the servers of others that tests need: a database, a broker, an imitation of a cloud.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// A Daemon is a process that serves tests.
type Daemon struct {
	Process *exec.Cmd
	Ended   chan struct{} // closed when the process has ended
}

const (
	// grace is how long a process is given to end after it was asked to.
	grace    = 20 * time.Second
	patience = 2 * time.Minute
)

// Start starts a process and returns when answers does without an error. Log is a file that gets what the process prints.
// It ends with us, or by Stop.
func Start(ctx context.Context, name, log string, process *exec.Cmd, answers func() error) (_ *Daemon, err error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	process.Stdout, process.Stderr = file, file
	if process.SysProcAttr == nil {
		process.SysProcAttr = &syscall.SysProcAttr{}
	}
	withParent(process.SysProcAttr)
	if err := process.Start(); err != nil {
		return nil, err
	}
	d := &Daemon{process, make(chan struct{})}
	go func() {
		process.Wait()
		close(d.Ended)
	}()
	defer func() {
		if err != nil {
			d.Stop()
		}
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	over := time.After(patience)
	for {
		if answers() == nil {
			return d, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-d.Ended:
			return nil, fmt.Errorf("%s ended as it started, saying:\n%s", name, contentOf(log))
		case <-over:
			return nil, fmt.Errorf("%s did not answer within %v, saying:\n%s", name, patience, contentOf(log))
		}
	}
}

func contentOf(log string) []byte {
	text, err := os.ReadFile(log)
	if err != nil {
		return []byte(err.Error())
	}
	return text
}

// Stop asks the process to end, then urges it, then makes it.
func (d *Daemon) Stop() {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		d.Process.Process.Signal(signal)
		select {
		case <-d.Ended:
			return
		case <-time.After(grace):
		}
	}
}

// OnFreePort calls start with a port of 127.0.0.1 on which nothing listens. Between the choice of a port and its use
// another process may take it: then start fails, and is called with another.
func OnFreePort(ctx context.Context, start func(port int) error) error {
	for attempt := 1; ; attempt++ {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		port := listener.Addr().(*net.TCPAddr).Port
		err = errors.Join(listener.Close(), start(port))
		if err == nil || attempt == 3 || ctx.Err() != nil {
			return err
		}
	}
}
