//go:build unix

package worker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary also plays the worker, as the command line does it, and a
// command of a task.
func TestMain(m *testing.M) {
	lastWords = time.Minute
	switch os.Getenv("PLAY") {
	case "worker":
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop)
		config, err := LoadConfig(os.Args[1])
		if err == nil {
			config.patience, _ = time.ParseDuration(os.Getenv("PATIENCE"))
			config.glance, _ = time.ParseDuration(os.Getenv("GLANCE"))
			err = Run(ctx, config, slog.New(slog.NewTextHandler(os.Stderr, nil)))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "ended:", err)
			os.Exit(1)
		}
		os.Exit(0)
	case "instance":
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		context.AfterFunc(ctx, stop)
		on := OnEC2{Directory: os.Args[1], PowerOff: os.Args[2:], notices: 20 * time.Millisecond, recognition: time.Nanosecond}
		if long := os.Getenv("RECOGNITION"); long != "" {
			on.recognition, _ = time.ParseDuration(long)
		}
		on.boot, _ = time.ParseDuration(os.Getenv("BOOT"))
		if err := RunOnEC2(ctx, on, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
			fmt.Fprintln(os.Stderr, "ended:", err)
			os.Exit(1)
		}
		os.Exit(0)
	case "get":
		resp, err := http.Get(os.Getenv("TASKCLUSTER_PROXY_URL") + os.Args[1])
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		io.Copy(os.Stdout, resp.Body)
		fmt.Println("\nstatus", resp.StatusCode)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A subject is a worker under test: a process.
type subject struct {
	t      *testing.T
	p      *platform
	cmd    *exec.Cmd
	dir    string // its own
	shared string // for tasks and tests to leave things in
	output *output
	ended  chan struct{}
}

type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// start starts a worker on a platform.
func start(t *testing.T, p *platform, env ...string) *subject {
	t.Helper()
	base := t.TempDir()
	w := newSubject(t, p, base)
	file := filepath.Join(base, "worker.json")
	if err := os.WriteFile(file, configuration(p, w.dir), 0o600); err != nil {
		t.Fatal(err)
	}
	w.run([]string{file}, append([]string{"PLAY=worker"}, env...))
	return w
}

func newSubject(t *testing.T, p *platform, base string) *subject {
	t.Helper()
	w := &subject{t: t, p: p, dir: filepath.Join(base, "worker"), shared: filepath.Join(base, "shared"), output: &output{}}
	if err := os.Mkdir(w.shared, 0o700); err != nil {
		t.Fatal(err)
	}
	return w
}

// run starts the test binary as the worker; it is killed when the test ends, if
// it has not ended by then.
func (w *subject) run(args, env []string) {
	t := w.t
	t.Helper()
	cmd, ended := exec.Command(self(t), args...), make(chan struct{})
	w.cmd, w.ended = cmd, ended
	w.cmd.Env = append([]string{"WORKERS_SECRET=environment-secret", "PATH=/nowhere"}, env...)
	w.cmd.Stdout, w.cmd.Stderr = w.output, w.output
	if err := w.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("the worker printed:\n%s", w.output)
		}
		if text := w.output.String(); strings.Contains(text, "secret") {
			t.Errorf("the worker printed a secret:\n%s", text)
		}
		for _, pid := range w.leftovers() {
			t.Errorf("process %d is left", pid)
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

// self is the test binary.
func self(t *testing.T) string {
	t.Helper()
	file, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func configuration(p *platform, dir string) []byte {
	text, err := json.Marshal(map[string]any{
		"rootUrl": p.url(), "providerId": "local", "workerPoolId": "local/test", "workerGroup": "local", "workerId": "w-1",
		"workerIdentityProof": map[string]string{"token": p.proof}, "directory": dir,
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return text
}

// leftovers are the processes that have the shared directory on their command
// lines: tasks put it there.
func (w *subject) leftovers() (pids []int) {
	names, err := os.ReadDir("/proc")
	if err != nil {
		w.t.Fatal(err)
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", name.Name(), "cmdline"))
		if bytes.Contains(line, []byte(w.shared)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// exit waits for the worker's end and returns its status.
func (w *subject) exit() int {
	w.t.Helper()
	select {
	case <-w.ended:
	case <-time.After(patience):
		w.t.Fatal("the worker does not end")
	}
	return w.cmd.ProcessState.ExitCode()
}

func (w *subject) signal(s os.Signal) {
	w.t.Helper()
	if err := w.cmd.Process.Signal(s); err != nil {
		w.t.Fatal(err)
	}
}

// becomes waits for what only other processes bring about.
func (w *subject) becomes(what string, f func() bool) {
	w.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if f() {
			return
		}
	}
	w.t.Fatalf("it never came to be that %s", what)
}

// awaitFile waits until a task has made a file in the shared directory.
func (w *subject) awaitFile(name string) {
	w.t.Helper()
	w.becomes("a task makes the file "+name, func() bool {
		_, err := os.Stat(filepath.Join(w.shared, name))
		return err == nil
	})
}

func (w *subject) makeFile(name string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.shared, name), nil, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// sh is a payload of shell commands, with more members if there are any. The
// shared directory is $0.
func (w *subject) sh(script string, members ...string) string {
	command, err := json.Marshal([][]string{{"sh", "-c", script, w.shared}})
	if err != nil {
		w.t.Fatal(err)
	}
	return fmt.Sprintf(`{"command": %s, "maxRunTime": 600 %s}`, command, strings.Join(append([]string{""}, members...), ", "))
}

// wait is a line of shell that waits for a file in the shared directory.
func wait(name string) string {
	return `until [ -e "$0/` + name + `" ]; do sleep 0.02; done; `
}

func (w *subject) expect(id, result string, inLog ...string) {
	w.t.Helper()
	w.p.awaitResolved(id)
	if got := w.p.result(id); got != result {
		w.t.Errorf("the task is %s, want %s", got, result)
	}
	log := w.p.log(id)
	for _, want := range inLog {
		if !strings.Contains(log, want) {
			w.t.Errorf("the log lacks %q", want)
		}
	}
	if strings.Contains(log, "secret") {
		w.t.Error("the log tells a secret")
	}
	if w.t.Failed() {
		w.t.Logf("the log is\n%s", log)
	}
}

const usual = `{"env": {"PATH": "/usr/local/bin:/usr/bin:/bin", "FROM_POOL": "pool", "BOTH": "pool"}}`
