//go:build linux

package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/slugid"
)

// The test binary also plays the programs that the provider is about: a worker,
// a task's process, and a server that is killed.
func TestMain(m *testing.M) {
	switch os.Getenv("PLAY") {
	case "":
		os.Exit(m.Run())
	case "worker":
		play(os.Args[len(os.Args)-1], os.Getenv("CHARACTER"))
	case "task":
		if len(os.Args) > 1 && os.Args[1] == "parent" {
			task(nil, false, "child").Wait() // its parent waits, as a shell does
		}
		sleep()
	case "server":
		serve(os.Getenv("DIR"))
	}
}

func sleep() { time.Sleep(time.Hour) }

// play is a worker. It writes down its pid, does what its character is, and ends on
// SIGTERM unless it is stubborn.
func play(file, character string) {
	fail := func(err error) {
		fmt.Println("worker:", err)
		os.Exit(9)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		fail(err)
	}
	var c workerConfig
	if err := json.Unmarshal(text, &c); err != nil {
		fail(err)
	}
	fmt.Println("the token is", c.Proof.Token)
	if character == "broken" {
		fmt.Println("cannot find the thing")
		os.Exit(3)
	}
	if character == "done" {
		os.Exit(0)
	}
	if character == "slow" {
		sleep() // and does not come up
	}
	lock, err := os.OpenFile(filepath.Join(c.Directory, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		fail(err)
	}
	fmt.Fprintf(lock, "%d 0\n", os.Getpid())
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	if character == "with tasks" {
		task(&syscall.SysProcAttr{Setpgid: true}, false, "parent")
		task(&syscall.SysProcAttr{Setsid: true}, false, "child") // escapes its group and session
		task(nil, true, "child")                                 // escapes its environment
		// A directory that RemoveAll cannot empty, as Go's module cache has them.
		if err := os.MkdirAll(filepath.Join(c.Directory, "read", "only"), 0o755); err != nil {
			fail(err)
		}
		if err := os.Chmod(filepath.Join(c.Directory, "read"), 0o555); err != nil {
			fail(err)
		}
	}
	if err := os.WriteFile(filepath.Join(c.Directory, "ready"), nil, 0o600); err != nil {
		fail(err)
	}
	for range term {
		if character != "stubborn" {
			os.Exit(0)
		}
	}
}

func task(attr *syscall.SysProcAttr, bare bool, role string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], role)
	cmd.Env = append(os.Environ(), "PLAY=task")
	if bare {
		cmd.Env = []string{"PLAY=task", "MARK=" + os.Getenv("MARK")}
	}
	cmd.SysProcAttr = attr
	if err := cmd.Start(); err != nil {
		fmt.Println("task:", err)
		os.Exit(9)
	}
	return cmd
}

// serve is a server that starts workers until it is killed.
func serve(dir string) {
	p, err := New(settings(dir, os.Getenv("MARK"), os.Getenv("CHARACTER")))
	if err != nil {
		fmt.Println("server:", err)
		os.Exit(9)
	}
	fmt.Println("serving")
	for {
		if err := p.start(context.Background(), newOrder()); err != nil {
			fmt.Println("server:", err)
			os.Exit(9)
		}
	}
}

// A stage is a provider's directory and a mark by which the test finds every
// process that was started on its behalf.
type stage struct {
	dir, mark, character string
}

func newStage(t *testing.T, character string) *stage {
	s := &stage{t.TempDir(), slugid.New(), character}
	t.Cleanup(func() { // whatever went wrong, nothing is left of it
		for _, pid := range s.processes() {
			t.Errorf("process %d was left over", pid)
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return s
}

func settings(dir, mark, character string) Config {
	return Config{
		RootURL: "http://127.0.0.1:1", Dir: dir, Executable: os.Args[0], Args: []string{"--config"},
		Env: []string{"PLAY=worker", "CHARACTER=" + character, "MARK=" + mark},
		Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func (s *stage) open(t *testing.T) *Provider {
	t.Helper()
	p, err := New(settings(s.dir, s.mark, s.character))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func (s *stage) processes() []int {
	pids, err := marked([]byte("MARK="+s.mark), 0)
	if err != nil {
		panic(err)
	}
	return pids
}

// ready waits until a worker has come up.
func (s *stage) ready(t *testing.T, r fleet.Ref) {
	t.Helper()
	s.becomes(t, "worker "+r.WorkerID+" is ready", func() bool {
		_, err := os.Stat(filepath.Join(s.dir, "workers", r.WorkerID, "ready"))
		return err == nil
	})
}

func (s *stage) becomes(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it never came to be that %s", what)
		}
	}
}

func newOrder() order {
	return order{
		Ref:        fleet.Ref{WorkerPoolID: "local/build", WorkerGroup: "local", WorkerID: nameOf(slugid.New(), 0)},
		providerID: "local", token: slugid.Token(),
	}
}

func start(t *testing.T, p *Provider) fleet.Ref {
	t.Helper()
	o := newOrder()
	if err := p.start(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.end(context.Background(), o.Ref, fleet.Now); err != nil {
			t.Error(err)
		}
	})
	return o.Ref
}

func sight(t *testing.T, p *Provider, r fleet.Ref) (fleet.Sighting, bool) {
	t.Helper()
	list, err := p.workers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Ref == r {
			return s, true
		}
	}
	return fleet.Sighting{}, false
}

func pidOf(t *testing.T, dir string) int {
	t.Helper()
	held, pid, err := holder(dir)
	if err != nil || !held {
		t.Fatalf("no worker holds the lock in %s: %v", dir, errors.Join(err, errors.New("not held")))
	}
	return pid
}
