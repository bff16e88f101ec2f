package main

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

// A daemon is a process that serves tests.
type daemon struct {
	process *exec.Cmd
	ended   chan struct{}
}

// startDaemon starts a process and returns when answers does without an error. Log is a file for what the process prints.
// It ends with us, or by stop.
func startDaemon(ctx context.Context, name, log string, process *exec.Cmd, answers func() error) (_ *daemon, err error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	process.Stdout, process.Stderr = file, file
	withParent(process.SysProcAttr)
	if err := process.Start(); err != nil {
		return nil, err
	}
	d := &daemon{process, make(chan struct{})}
	go func() {
		process.Wait()
		close(d.ended)
	}()
	defer func() {
		if err != nil {
			d.stop()
		}
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	patience := time.After(2 * time.Minute)
	for {
		if answers() == nil {
			return d, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-d.ended:
			return nil, fmt.Errorf("%s ended as it started, saying:\n%s", name, contentOf(log))
		case <-patience:
			return nil, fmt.Errorf("%s did not answer within two minutes, saying:\n%s", name, contentOf(log))
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

// stop asks the process to end, then urges it, then makes it.
func (d *daemon) stop() {
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT, syscall.SIGKILL} {
		d.process.Process.Signal(signal)
		select {
		case <-d.ended:
			return
		case <-time.After(grace):
		}
	}
}

// onFreePort calls start with a port of 127.0.0.1 on which nothing listens. Between the choice of a port and its use
// another process may take it: then start fails, and is called with another.
func onFreePort(ctx context.Context, start func(port int) error) error {
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
