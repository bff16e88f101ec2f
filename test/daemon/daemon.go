// Package daemon runs the servers of others that tests need: a database, a broker, an imitation of a cloud.
package daemon

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// A Daemon is a process that serves tests.
type Daemon struct {
	Process *exec.Cmd
	Ended   chan struct{} // closed when the process has ended

	name, log string
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
	d := &Daemon{process, make(chan struct{}), name, log}
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

// Fallen is an error if the process has ended by itself, with the end of what it printed: all that failed after that
// failed for want of it. It is for before Stop.
func (d *Daemon) Fallen() error {
	select {
	case <-d.Ended:
		text := contentOf(d.log)
		return fmt.Errorf("%s ended (%v) while it was needed. Its last words:\n%s", d.name, d.Process.ProcessState, text[max(0, len(text)-4000):])
	default:
		return nil
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
		port, err := FreePort()
		if err != nil {
			return err
		}
		if err := start(port); err == nil || attempt == 3 || ctx.Err() != nil {
			return err
		}
	}
}

// given are the ports that this process has chosen: whoever got one may not listen on it yet.
var given sync.Map

// FreePort is a port of 127.0.0.1 on which nothing listens. It is none of those that the system gives to whoever
// connects to somewhere: a server that is killed and started again finds it still free.
func FreePort() (int, error) {
	const lowest = 10_000
	end := firstGiven()
	for range 100 {
		port := 0 // any, where there are none to choose from
		if end > lowest {
			port = lowest + rand.IntN(end-lowest)
		}
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		port = listener.Addr().(*net.TCPAddr).Port
		if _, before := given.LoadOrStore(port, true); !before || end <= lowest {
			return port, listener.Close()
		}
		listener.Close()
	}
	return 0, fmt.Errorf("a hundred ports of 127.0.0.1 from %d to %d were tried, and none can be listened on", lowest, end-1)
}

// firstGiven is the first of the ports that the system gives to whoever connects: where it does not tell, what IANA
// has set aside for that.
func firstGiven() int {
	first := 49152
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		fmt.Sscan(string(text), &first)
	}
	return first
}
