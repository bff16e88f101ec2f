//go:build !agent

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/taskfleet/taskfleet/bench"
	"github.com/taskfleet/taskfleet/slugid"
)

// startReal starts a platform and sets the environment up for it.
func startReal(t *testing.T, changes ...func(*Config)) *platform {
	t.Helper()
	c := defaultConfig()
	c.Data, c.Listen = filepath.Join(t.TempDir(), "data"), "127.0.0.1:0"
	for _, f := range changes {
		f(&c)
	}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	p, err := startPlatform(t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Setenv("TASKFLEET_DATA", c.Data)
	return p
}

const testPool = `
workerPoolId: local/test
providerId: local
owner: nobody@example.com
config: {maxCapacity: 3, workerConfig: {idleTimeoutSecs: 5}}
`

const testGraph = `
name: test
defaults:
  queue: local/test
  owner: nobody@example.com
  source: https://example.com/graph.yml
  deadline: 10 minutes
tasks:
  make:
    command: [[sh, -c, 'echo making; echo content > file']]
    artifacts: {public/file: file}
  use:
    dependencies: [make]
    mounts: [{file: in, content: {artifact: public/file, taskId: "${task:make}"}}]
    command: [[grep, content, in]]
`

func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// expect runs a command that has to end with code, and print want.
func expect(t *testing.T, code int, want string, args ...string) (out string) {
	t.Helper()
	out, errOut, got := command(t, args...)
	if got != code || !regexp.MustCompile(want).MatchString(out+errOut) {
		t.Errorf("taskfleet %s ended with %d:\n%s%swant %d and %s", strings.Join(args, " "), got, out, errOut, code, want)
	}
	return out
}

func TestTheCommandsWorkOnARealPlatform(t *testing.T) {
	startReal(t)
	t.Chdir(t.TempDir())
	expect(t, exitOK, "created local/test", "pool", "apply", "-f", writeFile(t, "pool.yml", testPool))
	expect(t, exitOK, "changed local/test", "pool", "apply", "-f", writeFile(t, "pool.yml", testPool))
	expect(t, exitOK, `local/test  local`, "pool", "list")
	expect(t, exitOK, `"maxCapacity": ?3`, "pool", "show", "local/test", "--json")
	again := writeFile(t, "pool.json", expect(t, exitOK, "", "pool", "show", "local/test", "--json"))
	expect(t, exitOK, "changed local/test", "pool", "apply", "-f", again)

	out := expect(t, exitOK, "All 2 tasks completed", "graph", "submit", writeFile(t, "graph.yml", testGraph), "--watch")
	if !regexp.MustCompile(`use +completed in`).MatchString(out) {
		t.Errorf("the graph was shown as\n%s", out)
	}
	failing := strings.Replace(testGraph, "echo making;", "exit 3;", 1)
	out = expect(t, exitFailed, `use .* waits for make`, "graph", "submit", writeFile(t, "graph.yml", failing), "--watch")
	if !regexp.MustCompile(`make .* failed in`).MatchString(out) {
		t.Errorf("the graph was shown as\n%s", out)
	}

	out = expect(t, exitOK, "", "graph", "submit", writeFile(t, "graph.yml", testGraph), "--json")
	var g submittedGraph
	if err := json.Unmarshal([]byte(out), &g); err != nil || len(g.Tasks) != 2 {
		t.Fatalf("%v: %s", err, out)
	}
	expect(t, exitOK, `"completed":true`, "graph", "watch", g.TaskGroupID, "--json")
	expect(t, exitOK, "canceled 0 of 2 tasks", "graph", "cancel", g.TaskGroupID)

	id := g.Tasks[0].TaskID
	expect(t, exitOK, `(?s)state     completed.*0    completed  scheduled`, "task", "status", id)
	expect(t, exitOK, `"state": "completed"`, "task", "status", id, "--json")
	expect(t, exitOK, `making`, "task", "log", id)
	expect(t, exitOK, `making`, "task", "log", id, "--run", "0")
	expect(t, exitFailed, `has no run 4; it has 1 run`, "task", "log", id, "--run", "4")
	expect(t, exitOK, `public/file .* s3`, "task", "artifacts", id)
	expect(t, exitOK, `file \(8 B\)`, "task", "download", id, "public/file")
	if text, err := os.ReadFile("file"); string(text) != "content\n" {
		t.Errorf("downloaded %q, %v", text, err)
	}
	expect(t, exitOK, "^content\n$", "task", "download", id, "public/file", "-o", "-", "--run", "0")
	expect(t, exitFailed, "there is no such artifact", "task", "download", id, "public/nothing")
	expect(t, exitFailed, "there is no task", "task", "status", slugid.New())
	expect(t, exitOK, id+" is pending", "task", "rerun", id)

	out = expect(t, exitOK, "^[^ ]{22}\n$", "task", "create", "-q", "nobody/serves-this", "--", "true")
	expect(t, exitOK, `is exception \(canceled\)`, "task", "cancel", strings.TrimSpace(out))
	expect(t, exitOK, "run 0 ended before a worker started it: canceled", "task", "log", strings.TrimSpace(out))
	out = expect(t, exitOK, "task ", "task", "create", "-q", "local/test", "--follow", "-e", "WORD=hello", "--", "sh", "-c", "echo $WORD")
	if !regexp.MustCompile(`(?m)^hello$`).MatchString(out) {
		t.Errorf("the log is %q", out)
	}
	expect(t, exitFailed, "the task ended as failed", "task", "create", "-q", "local/test", "--follow", "--", "false")

	expect(t, exitOK, `(?s)client    static/taskcluster/root.*scopes    \*`, "creds", "show")
	expect(t, exitOK, `TASKCLUSTER_ACCESS_TOKEN='.{44}'`, "creds", "new", "bots/x", "--permanent", "--scope", "a:b")
	expect(t, exitOK, `queue.deadlines +`, "loops")
}

// The log of a task is to be had as it is written, and goes on over a retry.
func TestALogIsFollowedThroughRetries(t *testing.T) {
	startReal(t)
	expect(t, exitOK, "created", "pool", "apply", "-f", writeFile(t, "pool.yml", testPool))
	out := expect(t, exitOK, "", "task", "create", "-f", writeFile(t, "task.yml", `
taskQueueId: local/test
metadata: {name: flaky, description: fails once, owner: nobody@example.com, source: "https://example.com"}
payload:
  command: [[sh, -c, 'echo "this is run $RUN_ID"; test "$RUN_ID" = 1']]
  maxRunTime: 60
  onExitStatus: {retry: [1]}
`))
	id := strings.TrimSpace(out)
	out = expect(t, exitOK, "the task is completed", "task", "log", id)
	if !strings.Contains(out, "this is run 0") && !strings.Contains(out, "this is run 1") {
		t.Errorf("the log is\n%s", out)
	}
	expect(t, exitOK, `(?s)0    exception \(intermittent-task\).*1    completed +task-retry`, "task", "status", id)
}

func TestUpRunsAGraphAndLeavesNothingBehind(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	pool := writeFile(t, "pool.yml", strings.Replace(testPool, "idleTimeoutSecs: 5", "idleTimeoutSecs: 3", 1)) // which is waited for
	args := []string{"up", "--exit", "--data", data, "--listen", "127.0.0.1:0", "--pool", pool, "--graph"}
	out := expect(t, exitOK, "All 2 tasks completed", append(args, writeFile(t, "graph.yml", testGraph))...)
	for _, part := range []string{"Workers: 0 → [1-3] → 0\\.", " task log ", " serve --data " + regexp.QuoteMeta(data), "/references/manifest.json"} {
		if !regexp.MustCompile(part).MatchString(out) {
			t.Errorf("the output lacks %q:\n%s", part, out)
		}
	}
	left, err := os.ReadDir(filepath.Join(data, "workers"))
	if err != nil || len(left) > 0 {
		t.Errorf("there are %v left, %v", left, err)
	}
	if text, err := os.ReadFile(filepath.Join(data, "logs", "taskfleet.log")); err != nil || !bytes.Contains(text, []byte("taskfleet is up")) {
		t.Errorf("the platform's log has %d bytes, %v", len(text), err)
	}
	// Mistakes are told before anything starts.
	expect(t, exitFailed, `the file has no field "nonsense"`, append(args, writeFile(t, "graph.yml", "nonsense: 1"))...)
	// The same data directory serves again.
	expect(t, exitFailed, "(?s)0 of 2 tasks completed.*make .*failed", append(args, writeFile(t, "graph.yml", strings.Replace(testGraph, "echo making;", "exit 1;", 1)))...)
}

func TestTheBenchMeasuresEveryCall(t *testing.T) {
	p := startReal(t)
	out := expect(t, exitOK, "", "bench", "queue", "--root-url", p.RootURL, "--clients", "1,4", "--duration", "200ms", "--json", "--pid", fmt.Sprint(os.Getpid()))
	var results []bench.Result
	if err := json.Unmarshal([]byte(out), &results); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var calls []string
	for _, r := range results {
		calls = append(calls, fmt.Sprintf("%s/%d", r.Call, r.Clients))
		if r.Calls < 1 || r.Rate <= 0 || r.P50 <= 0 || r.P99 < r.P50 || r.Max < r.P99 {
			t.Errorf("%+v makes no sense", r)
		}
	}
	if got := strings.Join(calls, " "); got != "createTask/1 claimWork/1 lifecycle/1 status/1 createTask/4 claimWork/4 lifecycle/4 status/4" {
		t.Errorf("measured %s", got)
	}
	expect(t, exitOK, `CALL +CLIENTS(?s:.*)status +1 `, "bench", "queue", "--clients", "1", "--duration", "50ms")
}
