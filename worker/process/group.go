// Package process runs a task's commands and, when the task is over, leaves no
// process of it behind.
//
// A Group is all processes of one task. Every command starts in a session of
// its own, with /dev/null as its input, one pipe as its output and nothing else
// that the worker has: no file, no variable. What it starts may leave its
// process group, its session and its parent, as daemons do, so that no single
// mark tells a task's processes. Kill therefore goes by all of them:
//
//   - the session of a command;
//   - the group's cookie, environment entries that a process passes on unless it
//     takes care not to;
//   - a working directory inside the task's;
//   - descent from any of these. The worker is a subreaper (see Adopt), so that
//     processes whose parents have died become its children and do not get lost.
//     Such a child that nothing else tells about belongs to the only task that
//     runs.
//
// It repeats that until it finds nothing. All this is for Linux; elsewhere a
// command's process group is what there is to go by.
//
// If the worker itself dies, the kernel kills the commands (Linux), and the
// provider, by the cookie, the rest.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// quiet is how long something that a command started and that still holds its
	// end of the pipe may go on writing, such as a tee that has not come to its end.
	quiet = 250 * time.Millisecond
	// drain is how long output may take to arrive once all processes are dead, where
	// a pipe does not tell what is in it.
	drain = 5 * time.Second
)

// Options say how the processes of a group run.
type Options struct {
	Dir    string   // working directory
	Within string   // directory of the task; a process that works in it is the task's
	Env    []string // the whole environment; includes the cookie
	Cookie []string // the entries of Env that tell the group's processes
	Output io.Writer
}

// A Group is the processes of one task.
type Group struct {
	opts   Options
	copies sync.WaitGroup // of output

	mu       sync.Mutex
	copyings []*copying
}

// NewGroup returns a group without processes.
func NewGroup(opts Options) *Group {
	g := &Group{opts: opts}
	family.join(g)
	return g
}

// A Process is a command under way.
type Process struct {
	Done   chan struct{} // closed when it has ended and Result is there
	Result Result
}

// Result is how a command ended.
type Result struct {
	Status int    // as a shell gives it: 128 plus the signal if a signal ended the command
	Signal string // that ended it, if one did
	Wall   time.Duration
	User   time.Duration // processor time of it and those it waited for
	System time.Duration
	MaxRSS int64 // bytes of the largest of them; 0 where the system does not tell
}

// Start starts a command. The program is looked for in the task's PATH.
func (g *Group) Start(argv []string) (*Process, error) {
	path, err := lookPath(argv[0], g.opts.Dir, g.opts.Env)
	if err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{
		Path: path, Args: argv, Dir: g.opts.Dir,
		Env:    append([]string{}, g.opts.Env...), // not nil, which would mean the worker's
		Stdout: write, Stderr: write,
		SysProcAttr: attributes(),
	}
	p := &Process{Done: make(chan struct{})}
	started := make(chan error)
	output := g.copy(read)
	go func() {
		// The kernel kills the command when the thread that started it ends, so
		// that thread has to live as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		begin := time.Now()
		err := family.start(g, cmd)
		write.Close() // the command has its own
		started <- err
		if err != nil {
			return
		}
		err = cmd.Wait()
		family.ended(cmd.Process.Pid)
		p.Result = resultOf(cmd, err)
		p.Result.Wall = time.Since(begin)
		select {
		case <-output.end:
		case <-time.After(quiet):
			if output.ask() {
				<-output.took
			}
		}
		close(p.Done)
	}()
	if err := <-started; err != nil {
		return nil, startError(argv[0], err)
	}
	return p, nil
}

// A copying takes a command's output from its pipe. However slow this process is,
// what was in the pipe when it was asked for is in the output afterwards.
type copying struct {
	read *os.File
	last atomic.Bool   // nothing comes after what is in the pipe
	took chan struct{} // closed when what was asked for is in the output
	end  chan struct{} // closed when nothing comes any more
}

// copy copies from the pipe to the output, until all who had its other end have
// closed it or the last was asked for.
func (g *Group) copy(read *os.File) *copying {
	c := &copying{read: read, took: make(chan struct{}), end: make(chan struct{})}
	g.mu.Lock()
	g.copyings = append(g.copyings, c)
	g.mu.Unlock()
	g.copies.Go(func() {
		took := sync.OnceFunc(func() { close(c.took) })
		defer took()
		defer close(c.end)
		defer read.Close()
		// Not io.Copy, which would hand the pipe to the writer to splice.
		buffer := make([]byte, 64<<10)
		for {
			n, err := read.Read(buffer)
			g.opts.Output.Write(buffer[:n])
			for errors.Is(err, os.ErrDeadlineExceeded) {
				// In this order, so that who asks again meanwhile is not overlooked.
				read.SetReadDeadline(time.Time{})
				last := c.last.Load()
				if err = c.take(g.opts.Output, buffer); err == nil {
					took()
					if last {
						return
					}
				}
			}
			if err != nil {
				return
			}
		}
	})
	return c
}

// ask has what is in the pipe be taken. It reports whether that can be asked for.
func (c *copying) ask() bool {
	return !errors.Is(c.read.SetReadDeadline(time.Unix(1, 0)), os.ErrNoDeadline)
}

// largestPipe is what a pipe holds at most, unless root has allowed more.
const largestPipe = 1 << 20

// take copies what is in the pipe.
func (c *copying) take(output io.Writer, buffer []byte) error {
	for taken := 0; taken < largestPipe; { // who writes all the while is not waited for
		n, empty, err := readNow(c.read, buffer)
		output.Write(buffer[:n])
		if empty || err != nil {
			return err
		}
		taken += n
	}
	return nil
}

func resultOf(cmd *exec.Cmd, err error) Result {
	state := cmd.ProcessState
	if state == nil { // it cannot be waited for, which takes a fault of ours
		return Result{Status: 255, Signal: "unknown: " + err.Error()}
	}
	r := Result{Status: state.ExitCode(), User: state.UserTime(), System: state.SystemTime(), MaxRSS: maxRSS(state)}
	if signal, number := endedBy(state); number != 0 {
		r.Signal, r.Status = signal, 128+number
	}
	return r
}

// startError leaves out what exec repeats.
func startError(program string, err error) error {
	var at *os.PathError
	if errors.As(err, &at) {
		err = at.Err
	}
	return fmt.Errorf("cannot run %q: %w", program, err)
}

// lookPath finds a program as a shell in dir with that environment would. The
// worker's own PATH has no say.
func lookPath(program, dir string, env []string) (string, error) {
	if program == "" {
		return "", errors.New("cannot run a program without a name")
	}
	if strings.ContainsRune(program, '/') || strings.ContainsRune(program, os.PathSeparator) {
		return absolute(program, dir), nil
	}
	path := ""
	for _, entry := range env {
		if value, found := strings.CutPrefix(entry, "PATH="); found {
			path = value
		}
	}
	for _, d := range strings.Split(path, string(os.PathListSeparator)) {
		if d == "" {
			continue
		}
		for _, extension := range executableExtensions {
			candidate := absolute(d+string(os.PathSeparator)+program+extension, dir)
			if info, err := os.Stat(candidate); err == nil && executable(info) {
				return candidate, nil
			}
		}
	}
	return "", fmt.Errorf("cannot run %q: no such program in PATH, which is %q", program, path)
}

// Terminate asks all processes of the group to end.
func (g *Group) Terminate() { g.terminate() }

// Kill kills all processes of the group and returns when none is left and their
// output has been taken, or with an error that names them when ctx ends.
func (g *Group) Kill(ctx context.Context) error {
	err := g.kill(ctx)
	if err == nil {
		family.leave(g)
	}

	// Somebody who is not ours may have the other end, so its being closed is not
	// waited for.
	asked := true
	g.mu.Lock()
	copyings := g.copyings
	g.mu.Unlock()
	for _, c := range copyings {
		c.last.Store(true)
		asked = c.ask() && asked
	}
	if !asked {
		timer := time.AfterFunc(drain, func() {
			for _, c := range copyings {
				c.read.Close()
			}
		})
		defer timer.Stop()
	}
	g.copies.Wait()
	return err
}
