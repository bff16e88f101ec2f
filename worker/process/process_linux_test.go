package process

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The test binary also plays a worker that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("PLAY_WORKER"); dir != "" {
		playWorker(dir)
	}
	// Inherited by the commands, were it not for Adopt.
	if _, err := syscall.Open("/dev/zero", syscall.O_RDONLY, 0); err != nil {
		panic(err)
	}
	if err := Adopt(context.Background(), slog.Default()); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// A stage is a group, its output and a word by which its processes are found.
type stage struct {
	*Group
	word   string
	output *buffer
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

var stages int

func newStage(t *testing.T) *stage {
	t.Helper()
	stages++
	dir := t.TempDir()
	s := &stage{output: &buffer{}, word: fmt.Sprintf("task-%d-%d", os.Getpid(), stages)}
	cookie := []string{"TASK_ID=" + s.word, "RUN_ID=0"}
	s.Group = NewGroup(Options{
		Dir: dir, Within: dir, Cookie: cookie, Output: s.output,
		Env: append([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "WORD=" + s.word}, cookie...),
	})
	t.Cleanup(func() {
		if err := s.Kill(context.Background()); err != nil {
			t.Error(err)
		}
		if left := s.left(t); len(left) > 0 {
			t.Errorf("processes %v are left", left)
		}
	})
	return s
}

func (s *stage) run(t *testing.T, argv ...string) Result {
	t.Helper()
	p, err := s.Start(argv)
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done
	return p.Result
}

// left are the processes that have the stage's word on their command line.
func (s *stage) left(t *testing.T) (pids []int) {
	t.Helper()
	_, err := eachProcess(func(p proc) {
		line, _ := os.ReadFile(inProc(p.pid, "cmdline"))
		if bytes.Contains(line, []byte(s.word)) && !p.dead {
			pids = append(pids, p.pid)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

// becomes waits for what only other processes bring about.
func becomes(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("it never came to be that %s", what)
}

func TestACommandHasNothingOfTheWorkers(t *testing.T) {
	t.Setenv("WORKERS_SECRET", "x")
	s := newStage(t)
	s.run(t, "env")
	got := strings.Split(strings.TrimSpace(s.output.String()), "\n")
	slices.Sort(got)
	want := slices.Sorted(slices.Values(s.opts.Env))
	if !slices.Equal(got, want) {
		t.Errorf("the environment is %q, want %q", got, want)
	}

	s = newStage(t)
	s.run(t, "sh", "-c", `readlink /proc/self/fd/0; ls /proc/$$/fd; umask; ps -o sid= -p $$; echo $$; pwd`)
	lines := strings.Fields(s.output.String())
	if len(lines) < 5 || lines[0] != "/dev/null" || !slices.Equal(lines[1:4], []string{"0", "1", "2"}) || lines[4] != "0022" {
		t.Errorf("standard input, files and umask are %q", lines)
	}
	if n := len(lines); lines[n-1] != s.opts.Dir {
		t.Errorf("it runs in %s", lines[n-1])
	}
}

func TestHowACommandEnds(t *testing.T) {
	s := newStage(t)
	script := filepath.Join(s.opts.Dir, "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho \"$1\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		argv   []string
		status int
		signal string
	}{
		{[]string{"true"}, 0, ""},
		{[]string{"sh", "-c", "exit 3"}, 3, ""},
		{[]string{"sh", "-c", "kill -9 $$"}, 137, "SIGKILL"},
		{[]string{"sh", "-c", "kill -TERM $$"}, 143, "SIGTERM"},
		{[]string{"./script", "relative"}, 0, ""},
		{[]string{script, "absolute"}, 0, ""},
	} {
		r := s.run(t, test.argv...)
		if r.Status != test.status || r.Signal != test.signal {
			t.Errorf("%q ended with %+v", test.argv, r)
		}
	}
	if got := s.output.String(); got != "relative\nabsolute\n" {
		t.Errorf("the output is %q", got)
	}
	if r := s.run(t, "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"); r.Wall <= 0 || r.User+r.System <= 0 || r.MaxRSS < 100<<10 {
		t.Errorf("resources are %+v", r)
	}
}

func TestWhatCannotBeRunSaysWhy(t *testing.T) {
	s := newStage(t)
	if err := os.WriteFile(filepath.Join(s.opts.Dir, "data"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.opts.Dir, "wrong"), []byte("#!/no/such/interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for program, want := range map[string]string{
		"":              "without a name",
		"no-such-thing": `cannot run "no-such-thing": no such program in PATH, which is "/usr/local/bin:/usr/bin:/bin"`,
		"./absent":      `cannot run "./absent": no such file or directory`,
		"./data":        `cannot run "./data": permission denied`,
		"./wrong":       `cannot run "./wrong": no such file or directory`,
		"/":             `permission denied`,
	} {
		if _, err := s.Start([]string{program}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: err is %v, want %q in it", program, err, want)
		}
	}
}

func TestOutputIsThereWhenTheCommandHasEnded(t *testing.T) {
	s := newStage(t)
	for i := range 20 {
		s.run(t, "sh", "-c", "echo out; echo err >&2")
		if got := strings.Count(s.output.String(), "\n"); got != 2*(i+1) {
			t.Fatalf("%d lines after %d commands", got, i+1)
		}
	}
}

// slowly is an output that takes longer than anything that holds the pipe is waited for.
type slowly struct{ *buffer }

func (s slowly) Write(p []byte) (int, error) {
	time.Sleep(2 * quiet)
	return s.buffer.Write(p)
}

func TestTheEndDoesNotOvertakeTheOutput(t *testing.T) {
	s := newStage(t)
	s.opts.Output = slowly{s.output}
	s.run(t, "sh", "-c", "sleep 1000 & echo out")
	if got := s.output.String(); got != "out\n" {
		t.Errorf("when the command has ended, the output is %q", got)
	}
	s.run(t, "sh", "-c", "sleep 1000 & head -c 70000 /dev/zero")
	if err := s.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := len(s.output.String()); got != 70004 {
		t.Errorf("when all are dead, the output has %d bytes", got)
	}
}

// survivors are the ways to leave something behind. Each is a script of sh in
// which $WORD is the stage's word.
var survivors = map[string]string{
	"in the background":        `sh -c 'sleep 1000; : $0' $WORD &`,
	"that ignores SIGTERM":     `sh -c 'trap "" TERM HUP INT; while :; do sleep 1000; done' $WORD &`,
	"in a session of its own":  `setsid -f sh -c 'sleep 1000; : $0' $WORD`,
	"without environment":      `env -i /usr/bin/setsid -f sh -c 'sleep 1000; : $0' $WORD`,
	"that works elsewhere":     `cd /; setsid -f sh -c 'sleep 1000; : $0' $WORD`,
	"with nothing that tells":  `cd /; env -i /usr/bin/setsid -f sh -c 'sleep 1000; : $0' $WORD`,
	"whose parent is a daemon": `cd /; env -i /usr/bin/setsid -f /usr/bin/setsid -f sh -c '/usr/bin/setsid -f sleep 1000; sleep 1000; : $0' $WORD`,
	"that closed its output":   `setsid -f sh -c 'exec >/dev/null 2>&1; sleep 1000; : $0' $WORD`,
	"that is stopped":          `setsid -f sh -c 'kill -STOP $$; : $0' $WORD`,
	"that begets another and another": `cat >hydra <<'X'
#!/bin/sh
: "$0" "$1"
setsid -f ./hydra "$1"
X
chmod +x hydra; ./hydra $WORD >/dev/null 2>&1`,
}

func TestKillLeavesNoProcess(t *testing.T) {
	for name, script := range survivors {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			s.run(t, "sh", "-c", script)
			becomes(t, "the task left a process", func() bool { return len(s.left(t)) > 0 })
			if err := s.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left := s.left(t); len(left) > 0 {
				t.Errorf("%v are left", left)
			}
		})
	}
}

func TestKillOfOneTaskSparesTheOther(t *testing.T) {
	for name, script := range survivors {
		if name == "with nothing that tells" || name == "whose parent is a daemon" {
			continue // whose it is can be told once the other task is over
		}
		t.Run(name, func(t *testing.T) {
			one, other := newStage(t), newStage(t)
			for _, s := range []*stage{one, other} {
				s.run(t, "sh", "-c", script)
				becomes(t, "the task left a process", func() bool { return len(s.left(t)) > 0 })
			}
			if err := one.Kill(t.Context()); err != nil {
				t.Fatal(err)
			}
			if left := one.left(t); len(left) > 0 {
				t.Errorf("%v are left of the one", left)
			}
			becomes(t, "the other task's process is there", func() bool { return len(other.left(t)) > 0 })
		})
	}
}

func TestKillEndsACommandUnderWay(t *testing.T) {
	s := newStage(t)
	p, err := s.Start([]string{"sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1000; done", s.word})
	if err != nil {
		t.Fatal(err)
	}
	becomes(t, "it runs", func() bool { return s.output.String() == "ready\n" })
	s.Terminate()
	if err := s.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-p.Done
	if p.Result.Signal != "SIGKILL" || p.Result.Status != 137 {
		t.Errorf("it ended with %+v", p.Result)
	}
}

func TestTerminateLetsACommandCleanUp(t *testing.T) {
	s := newStage(t)
	p, err := s.Start([]string{"sh", "-c", "trap 'echo cleaned up; exit 5' TERM; echo ready; while :; do sleep 0.01; done", s.word})
	if err != nil {
		t.Fatal(err)
	}
	becomes(t, "it runs", func() bool { return s.output.String() == "ready\n" })
	s.Terminate()
	<-p.Done
	if got := s.output.String(); !strings.Contains(got, "cleaned up\n") || p.Result.Status != 5 {
		t.Errorf("it ended with %+v, having printed %q", p.Result, got)
	}
}

func TestAdoptedProcessesDoNotPileUp(t *testing.T) {
	s := newStage(t)
	s.run(t, "sh", "-c", "i=0; while [ $i -lt 50 ]; do setsid -f true; i=$((i+1)); done")
	becomes(t, "no dead child is left", func() bool {
		dead := 0
		_, err := eachProcess(func(p proc) {
			if p.dead && p.parent == os.Getpid() {
				dead++
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		return dead == 0
	})
}

// TestCommandsDieWithTheWorker kills a worker that has a command running.
func TestCommandsDieWithTheWorker(t *testing.T) {
	dir := t.TempDir()
	worker := exec.Command("/proc/self/exe")
	worker.Env = []string{"PLAY_WORKER=" + dir}
	worker.Stderr = os.Stderr
	// Not by family.start, whose lock keeps reap from taking it for an adopted
	// one, so it is noted here.
	family.mu.Lock()
	err := worker.Start()
	if err == nil {
		family.children[worker.Process.Pid] = true
	}
	family.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	var command int
	becomes(t, "the worker runs a command", func() bool {
		text, _ := os.ReadFile(filepath.Join(dir, "pid"))
		command, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		return strings.HasSuffix(string(text), "\n")
	})
	if err := worker.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	worker.Wait()
	becomes(t, "the command is dead", func() bool {
		p, err := readProc(command)
		return err != nil || p.dead
	})
	unix.Wait4(command, nil, 0, nil) // it may be ours now, as we adopt orphans
}

func playWorker(dir string) {
	if err := Adopt(context.Background(), slog.Default()); err != nil {
		panic(err)
	}
	g := NewGroup(Options{Dir: dir, Output: os.Stderr})
	if _, err := g.Start([]string{"/bin/sh", "-c", "echo $$ >pid; exec sleep 1000"}); err != nil {
		panic(err)
	}
	select {}
}
