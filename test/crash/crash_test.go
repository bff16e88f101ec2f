// Package crash kills the platform at random moments, while workers run a
// graph on it, and checks that nothing is lost: each task resolves exactly
// once, each artifact is there whole, and no process is left behind.
package crash

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/test/daemon"
	"github.com/taskfleet/taskfleet/test/server"
)

const (
	kills    = 10
	fan      = 100 // tasks in the middle of a graph, of which some ten are done between two kills
	examples = "../../examples"

	// patience is for machines that are slow beyond reason. A claim whose worker is lost is good for longer: it has to be
	// noticed.
	patience = 10 * time.Minute
)

// A fleet is a platform under test that can be killed and started again.
type fleet struct {
	t       *testing.T
	options server.Options
	server  *server.Server
	core    *client.Client
	queue   *queue.Client
	groups  []string
}

func start(t *testing.T, binary, database string) *fleet {
	f := &fleet{t: t, options: server.Options{Binary: binary, Data: t.TempDir(), Listen: freeAddress(t), CheckOutput: true}}
	keepAddress(t, f.options.Data)
	if strings.HasPrefix(database, "postgres:") {
		f.options.Database = database
	}
	f.restart()
	var err error
	f.core, err = client.New(client.Options{
		RootURL: f.server.RootURL, Retry: client.Patient,
		Credentials: cred.Credentials{ClientID: f.server.ClientID, AccessToken: f.server.AccessToken},
	})
	if err != nil {
		t.Fatal(err)
	}
	f.queue = queue.New(f.core)
	pool, err := graph.LoadPool(filepath.Join(examples, "pool.yml"), graph.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := workermanager.New(f.core).CreateWorkerPool(t.Context(), pool.ID, &pool.Definition); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the servers' log:\n%s", tail(f.server.Log(), 20_000))
		}
		if err := f.server.Kill(); err != nil {
			t.Error(err)
		}
		for _, pid := range f.workers() { // of a failed test
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return f
}

// freeAddress is one on which nothing listens, and that nobody takes while a server is down: workers find it there again.
func freeAddress(t *testing.T) string {
	t.Helper()
	port, err := daemon.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// keepAddress has a server's S3 gateway be at such an address as well, from its first start on: URLs that workers have been
// given are good after the next.
func keepAddress(t *testing.T, data string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(data, "s3-address"), []byte(freeAddress(t)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }

func (f *fleet) restart() {
	f.t.Helper()
	s, err := server.Start(context.Background(), f.options)
	if err != nil {
		f.t.Fatal(err)
	}
	f.server = s
}

// submit adds another fan of tasks. They may be run again as often as there are kills: where only one of them can run, each
// kill may be that of its worker.
func (f *fleet) submit() {
	f.t.Helper()
	g, err := graph.Load(filepath.Join(examples, "fan"), graph.Options{Parameters: map[string]string{"count": strconv.Itoa(fan)}})
	if err != nil {
		f.t.Fatal(err)
	}
	retries := kills
	for i := range g.Tasks {
		g.Tasks[i].Definition.Retries = &retries
	}
	if err := graph.Submit(f.t.Context(), f.core, g, nil); err != nil {
		f.t.Fatal(err)
	}
	f.groups = append(f.groups, g.GroupID)
}

// unresolved counts the tasks of the last fan that have not ended.
func (f *fleet) unresolved() (n int) {
	for t, err := range f.queue.ListTaskGroupAll(f.t.Context(), f.groups[len(f.groups)-1], queue.ListTaskGroupOptions{}) {
		if err != nil {
			f.t.Fatal(err)
		}
		if s := t.Status.State; s != "completed" && s != "failed" && s != "exception" {
			n++
		}
	}
	return n
}

// workers lists the processes of this platform's workers and of their tasks:
// what was started from its data directory, or says so in its environment.
func (f *fleet) workers() (pids []int) {
	f.t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		argv, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		env, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		isServer := strings.Contains(string(argv), "\x00serve\x00")
		if !isServer && (strings.Contains(string(argv), f.options.Data) || strings.Contains(string(env), f.options.Data)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// processes lists the workers proper: those whose locks say so. A process that
// a worker has forked for a task still has its name for a moment.
func (f *fleet) processes() (pids []int) {
	locks, err := filepath.Glob(filepath.Join(f.options.Data, "workers", "*", "lock"))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, name := range locks {
		text, err := os.ReadFile(name)
		if err != nil {
			continue // it has just gone
		}
		var pid, ticks int
		if n, _ := fmt.Sscan(string(text), &pid, &ticks); n == 2 && syscall.Kill(pid, 0) == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestKillingTheServerLosesNothing(t *testing.T) {
	each(t, func(t *testing.T, f *fleet) {
		for k := range kills {
			if f.unresolved() == 0 {
				f.submit()
			}
			time.Sleep(time.Duration(50+rand.IntN(1200)) * time.Millisecond) // any moment
			if err := f.server.Kill(); err != nil {
				t.Fatal(err)
			}
			f.restart()
			t.Logf("kill %d: %d tasks to go, %d workers", k+1, f.unresolved(), len(f.processes()))
		}
		f.check()
	})
}

func TestKillingWorkersLosesNothing(t *testing.T) {
	each(t, func(t *testing.T, f *fleet) {
		for killed, end := 0, time.Now().Add(patience); killed < kills; {
			if time.Now().After(end) {
				t.Fatalf("there were only %d workers to kill in %v", killed, patience)
			}
			if f.unresolved() == 0 {
				f.submit()
			}
			time.Sleep(time.Duration(50+rand.IntN(500)) * time.Millisecond)
			// One is left: where all end that have just begun, others are started later and later, until one lives.
			if list := f.processes(); len(list) > 1 {
				if err := syscall.Kill(list[rand.IntN(len(list))], syscall.SIGKILL); err == nil {
					killed++
				}
			}
		}
		f.check()
	})
}

func each(t *testing.T, test func(*testing.T, *fleet)) {
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	storetest.EachURL(t, func(t *testing.T, url string) {
		f := start(t, binary, url)
		f.submit()
		test(t, f)
	})
}

// check waits for the end and looks at everything that was to be done.
func (f *fleet) check() {
	t := f.t
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tasks := map[string]bool{}
	for _, g := range f.groups {
		p, err := graph.Watch(ctx, f.core, g, func(*graph.Progress, graph.Change) {})
		if err != nil {
			t.Fatalf("waiting for group %s: %v; %+v", g, err, p.Counts())
		}
		for _, task := range p.Tasks() {
			tasks[task.Status.TaskID] = true
			f.checkTask(ctx, task.Status)
		}
	}
	if len(tasks) != (fan+2)*len(f.groups) {
		t.Errorf("%d tasks in %d groups", len(tasks), len(f.groups))
	}
	for id, n := range f.resolutions(ctx, tasks) {
		if tasks[id] && n != 1 {
			t.Errorf("task %s was announced as resolved %d times", id, n)
		}
	}
	// Workers leave when there is nothing to do; then nothing of them is left.
	for end := time.Now().Add(patience); len(f.workers()) > 0; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			for _, pid := range f.workers() {
				argv, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				t.Errorf("process %d is left: %q", pid, argv)
			}
			break
		}
	}
}

func (f *fleet) checkTask(ctx context.Context, s queue.TaskStatus) {
	t := f.t
	completed := 0
	for _, r := range s.Runs {
		if r.State == "completed" {
			completed++
		}
	}
	if s.State != "completed" || completed != 1 {
		t.Errorf("task %s is %s with %d completed runs: %+v", s.TaskID, s.State, completed, s.Runs)
		return
	}
	names := 0
	for a, err := range f.queue.ListLatestArtifactsAll(ctx, s.TaskID, queue.ListLatestArtifactsOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		names++
		f.checkArtifact(ctx, s.TaskID, a.Name)
	}
	if names == 0 {
		t.Errorf("task %s has no artifacts", s.TaskID)
	}
}

// checkArtifact downloads an artifact as any client would.
func (f *fleet) checkArtifact(ctx context.Context, taskID, name string) {
	t := f.t
	r, err := http.NewRequestWithContext(ctx, "GET", fmt.Sprintf("%s/api/queue/v1/task/%s/artifacts/%s", f.server.RootURL, taskID, url.PathEscape(name)), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Errorf("artifact %s of %s: %v", name, taskID, err)
		return
	}
	defer resp.Body.Close()
	n, err := io.Copy(io.Discard, resp.Body)
	if err != nil || resp.StatusCode != 200 || n == 0 {
		t.Errorf("artifact %s of %s: %s, %d bytes, %v", name, taskID, resp.Status, n, err)
	}
}

// resolutions counts, from the very first message, how often each task was
// announced as resolved, until all of some were.
func (f *fleet) resolutions(ctx context.Context, tasks map[string]bool) map[string]int {
	t := f.t
	var bindings []map[string]string
	for _, x := range []string{"task-completed", "task-failed", "task-exception"} {
		bindings = append(bindings, map[string]string{"exchange": "exchange/taskcluster-queue/v1/" + x, "routingKeyPattern": "#"})
	}
	text, err := json.Marshal(map[string]any{"bindings": bindings})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", f.server.RootURL+"/api/events/v1/connect/?lastEventId=0&bindings="+url.QueryEscape(string(text)), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	count, seen, missing := map[string]int{}, map[string]bool{}, len(tasks)
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	event, id := "", ""
	for lines.Scan() {
		k, v, _ := strings.Cut(lines.Text(), ": ")
		switch k {
		case "event":
			event = v
		case "id":
			id = v
		case "data":
			switch event {
			case "message":
				if seen[id] {
					t.Errorf("position %s was sent twice", id)
				}
				seen[id] = true
				var m struct {
					Payload struct{ Status struct{ TaskID string } }
				}
				if err := json.Unmarshal([]byte(v), &m); err != nil {
					t.Fatal(err)
				}
				id := m.Payload.Status.TaskID
				if count[id]++; count[id] == 1 && tasks[id] {
					missing--
				}
			case "gap":
				t.Errorf("a gap in the log: %s", v)
			case "ping": // by which all has been sent that was there
				if missing == 0 {
					return count
				}
			}
		}
	}
	t.Errorf("the stream ended when %d tasks had not been announced as resolved: %v", missing, lines.Err())
	return count
}
