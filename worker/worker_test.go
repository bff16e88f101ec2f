//go:build unix

package worker

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestATaskFromClaimToReport(t *testing.T) {
	p := newPlatform(t, usual)
	w := start(t, p)
	id := p.add(w.sh(`env; echo on stderr >&2; mkdir -p out/sub; echo one >out/one.txt; printf '\000\001' >out/sub/two.bin; ls -A "$HOME" "$TMPDIR"; pwd`,
		`"env": {"FROM_TASK": "task", "BOTH": "task", "HOME": "/root"}`,
		`"artifacts": [{"type": "file", "path": "out/one.txt", "name": "public/one.txt"}, {"type": "directory", "path": "out", "name": "public/out"}]`))
	w.expect(id, "completed", "on stderr\n", "Task "+id+", run 0, on worker local/w-1 of local/test", "Command 1 of 1 ended with status 0", "The run is completed")
	log := p.log(id)
	task := filepath.Join(w.dir, "tasks", "1")
	want := []string{
		"BOTH=task", "FROM_POOL=pool", "FROM_TASK=task", "HOME=" + task + "/home", "PATH=/usr/local/bin:/usr/bin:/bin", "RUN_ID=0",
		"TASKCLUSTER_ROOT_URL=" + p.url(), "TASKCLUSTER_WORKER_DIRECTORY=" + w.dir, `TASKCLUSTER_WORKER_LOCATION={"cloud":"local","region":"local"}`,
		"TASKFLEET_WORKER_ID=w-1", "TASK_ID=" + id, "TMPDIR=" + task + "/tmp",
	}
	var env []string
	for line := range strings.Lines(log) {
		if name, _, found := strings.Cut(strings.TrimSpace(line), "="); found && strings.ToUpper(name) == name && name != "PWD" { // which sh adds
			env = append(env, strings.TrimSpace(line))
		}
	}
	slices.Sort(env)
	if !slices.Equal(env, want) {
		t.Errorf("the environment is\n%q, want\n%q", env, want)
	}
	if !strings.Contains(log, "\n"+task+"/home:\n\n"+task+"/tmp:\n") {
		t.Error("HOME and TMPDIR are not empty directories of the task's")
	}
	if got, want := p.artifacts(id), []string{"public/logs/live.log", "public/logs/live_backing.log", "public/one.txt", "public/out/one.txt", "public/out/sub/two.bin"}; !slices.Equal(got, want) {
		t.Errorf("the artifacts are %q, want %q", got, want)
	}
	if p.read(id, "public/one.txt") != "one\n" || p.read(id, "public/out/sub/two.bin") != "\x00\x01" {
		t.Errorf("the artifacts contain %q and %q", p.read(id, "public/one.txt"), p.read(id, "public/out/sub/two.bin"))
	}
	w.becomes("the task's directory is gone", func() bool {
		_, err := os.Stat(task)
		return os.IsNotExist(err)
	})
	if len(p.refusals) > 0 {
		t.Errorf("the platform refused %q", p.refusals)
	}
}

func TestHowTasksEnd(t *testing.T) {
	p := newPlatform(t, usual)
	w := start(t, p)
	two := func(first, second string) string {
		return fmt.Sprintf(`{"command": [["sh", "-c", %q], ["sh", "-c", %q]], "maxRunTime": 600,
			"onExitStatus": {"retry": [75, 143]}, "artifacts": [{"type": "file", "path": "a"}]}`, first, second)
	}
	for name, test := range map[string]struct {
		payload, result string
		log             []string
		a               string // the content of the artifact
	}{
		"all succeed":           {two("echo 1 >a", "echo 2 >>a"), "completed", nil, "1\n2\n"},
		"the first fails":       {two("echo 1 >a; exit 3", "echo 2 >>a"), "failed", []string{"Command 1 of 2 ended with status 3"}, "1\n"},
		"the last fails":        {two("echo 1 >a", "exit 4"), "failed", []string{"Command 2 of 2 ended with status 4"}, "1\n"},
		"killed":                {two("echo 1 >a", "kill -9 $$"), "failed", []string{"Command 2 of 2 was ended by SIGKILL"}, "1\n"},
		"to be tried again":     {two("echo 1 >a", "exit 75"), "exception/intermittent-task", []string{"is to be tried again"}, "1\n"},
		"a signal to try again": {two("echo 1 >a", "kill -TERM $$"), "exception/intermittent-task", []string{"SIGTERM"}, "1\n"},
		"no artifact":           {two("true", "true"), "failed", []string{"[taskcluster:error] The artifact a is not there: a: there is no such file", "not everything that the task promised"}, "(file-missing-on-worker)"},
		"a link out":            {two("ln -s /etc/passwd a", "true"), "failed", []string{"(invalid-resource-on-worker)"}, "(invalid-resource-on-worker)"},
		"failed, no artifact":   {two("exit 5", "true"), "failed", []string{"status 5"}, "(file-missing-on-worker)"},
		"no program":            {`{"command": [["no-such-program"]], "maxRunTime": 1}`, "failed", []string{`cannot run "no-such-program"`}, "(absent)"},
		"too slow":              {`{"command": [["sh", "-c", "echo 1 >a; while :; do sleep 100; done"]], "maxRunTime": 1, "artifacts": [{"type": "file", "path": "a"}]}`, "failed", []string{"longer than maxRunTime, which is 1s, and were killed"}, "1\n"},
		"malformed":             {`{"commands": "make"}`, "exception/malformed-payload", []string{"[taskcluster:error] the payload is not valid:", "missing properties 'command', 'maxRunTime'"}, "(absent)"},
		"an unknown feature":    {`{"command": [["true"]], "maxRunTime": 1, "features": {"teleport": true}}`, "exception/malformed-payload", []string{"'teleport' not allowed"}, "(absent)"},
		"no object":             {`"make all"`, "exception/malformed-payload", []string{"got string, want object"}, "(absent)"},
		"groups":                {`{"command": [["true"]], "maxRunTime": 1, "osGroups": ["docker"]}`, "exception/malformed-payload", []string{"osGroups: this worker runs tasks as the user"}, "(absent)"},
		"mount out of reach":    {`{"command": [["true"]], "maxRunTime": 1, "mounts": [{"file": "a", "content": {"url": "` + p.url() + `/absent"}}]}`, "exception/resource-unavailable", []string{"the answer is 404"}, "(absent)"},
		"mount that is no zip":  {`{"command": [["true"]], "maxRunTime": 1, "mounts": [{"directory": "a", "format": "zip", "content": {"raw": "x"}}]}`, "exception/malformed-payload", []string{"not a valid zip"}, "(absent)"},
		"quiet":                 {`{"command": [["true"]], "maxRunTime": 1, "features": {"resourceMonitor": false}}`, "completed", []string{"ended with status 0 after "}, "(absent)"},
		"other logs":            {`{"command": [["true"]], "maxRunTime": 1, "logs": {"live": "public/logs/live.log", "backing": "private/log"}}`, "completed", nil, "(absent)"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			id := p.add(test.payload)
			w.expect(id, test.result, test.log...)
			if got := p.read(id, "a"); got != test.a {
				t.Errorf("the artifact is %q, want %q", got, test.a)
			}
		})
	}
	w.t = t
}

func TestNothingOfATaskIsLeft(t *testing.T) {
	p := newPlatform(t, usual)
	w := start(t, p)
	id := p.add(w.sh(`
		setsid -f sh -c 'trap "" TERM; while :; do sleep 1000; done' "$0"
		(cd /; env -i /usr/bin/setsid -f sh -c 'while :; do sleep 1000; done' "$0")
		mkdir -p deep/down; touch deep/down/file; chmod 0 deep/down deep; echo "$$" >"$0/done"`))
	w.expect(id, "completed")
	if left := w.leftovers(); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	next := p.add(w.sh(`ls -A; ls "$TASKCLUSTER_WORKER_DIRECTORY/tasks"`))
	w.expect(next, "completed", "]\n2\n[taskcluster ") // between lines of the worker's: only the next task's directory
}

func TestTheLogCanBeWatchedWhileTheTaskRuns(t *testing.T) {
	p := newPlatform(t, usual)
	w := start(t, p)
	id := p.add(w.sh(`echo early; ` + wait("go") + `echo late`))
	p.await("there is a live log", func() bool { return len(p.tasks[id].artifacts) > 0 })
	url := p.log(id)
	if !strings.HasPrefix(url, "http://127.0.0.1:") {
		t.Fatalf("the live log is at %s", url)
	}
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	seen, buffer := "", make([]byte, 1000)
	for !strings.Contains(seen, "early\n") {
		n, err := resp.Body.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		seen += string(buffer[:n])
	}
	w.makeFile("go")
	rest, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	w.expect(id, "completed")
	if p.tasks[id].artifacts["public/logs/live.log"].StorageType != "link" {
		t.Error("the live log does not become a link")
	}
	if got := seen + string(rest); got != p.log(id) {
		t.Errorf("the reader saw\n%s\nthe log that is kept is\n%s", got, p.log(id))
	}
}

func TestTheFeaturesOfTheLog(t *testing.T) {
	p := newPlatform(t, usual)
	w := start(t, p)
	off := p.add(w.sh("true", `"features": {"liveLog": false, "backingLog": false}`))
	p.awaitResolved(off)
	if got := p.artifacts(off); len(got) > 0 {
		t.Errorf("without logs there is %q", got)
	}
	stamped := p.add(w.sh("echo a; echo b", `"features": {"lineTimestamps": true, "liveLog": false}`))
	w.expect(stamped, "completed", "Z] a\n[", "Z] b\n")
}

func TestMountsAndCaches(t *testing.T) {
	p := newPlatform(t, usual)
	w := start(t, p)
	source := p.add(w.sh(`echo from another task >file.txt; mkdir d; echo packed >d/f; tar -czf a.tgz d`,
		`"artifacts": [{"type": "file", "path": "file.txt", "name": "public/file.txt"}, {"type": "file", "path": "a.tgz", "name": "private/a.tgz"}]`))
	w.expect(source, "completed")
	mounts := func(script, more string) string {
		return w.sh(script, fmt.Sprintf(`"mounts": [
			{"file": "in/file", "content": {"taskId": %q, "artifact": "public/file.txt"}},
			{"directory": "in/dir", "format": "tar.gz", "content": {"taskId": %[1]q, "artifact": "private/a.tgz"}},
			{"directory": "cache", "cacheName": "c"}]`, source), more)
	}
	scopes := []string{"generic-worker:cache:c", "queue:get-artifact:private/*"}
	first := p.add(mounts("cat in/file in/dir/d/f; echo kept >cache/x", `"env": {}`), scopes...)
	w.expect(first, "completed", "from another task\npacked\n", `Keeping the cache "c"`)
	second := p.add(mounts("cat cache/x; exit 9", `"onExitStatus": {"purgeCaches": [9]}`), scopes...)
	w.expect(second, "failed", "kept\n", `Purging the cache "c"`)
	third := p.add(mounts("ls -A cache", `"env": {}`), scopes...)
	w.expect(third, "completed", `Beginning the cache "c"`)
	w.expect(p.add(mounts("true", `"env": {}`)), "exception/malformed-payload", "needs the scope generic-worker:cache:c")
	w.expect(p.add(mounts("true", `"env": {}`), scopes[0]), "exception/resource-unavailable", "403 InsufficientScopes: queue:get-artifact:private/a.tgz")
}

func TestTheProxySpeaksForTheTask(t *testing.T) {
	p := newPlatform(t, usual)
	start(t, p)
	payload, err := json.Marshal(map[string]any{
		"command":    [][]string{{self(t), "/api/queue/v1/task/TASK"}, {"sh", "-c", `echo "$TASKCLUSTER_PROXY_URL"`}},
		"maxRunTime": 60, "env": map[string]string{"PLAY": "get"}, "features": map[string]bool{"taskclusterProxy": true},
	})
	if err != nil {
		t.Fatal(err)
	}
	other := p.add(`{}`) // to have something to ask for
	id := p.add(strings.Replace(string(payload), "TASK", other, 1), "some:scope:*")
	p.awaitResolved(id)
	if log := p.log(id); !strings.Contains(log, "status 200") || !strings.Contains(log, "http://127.0.0.1:") {
		t.Errorf("the log is\n%s", log)
	}
	if want := []string{"queue:create-artifact:" + id + "/0", "some:scope:*"}; !slices.Equal(p.proxied, want) {
		t.Errorf("the request had the scopes %q, want %q", p.proxied, want)
	}
}

func TestTheClaimIsKeptAndItsCredentialsRenewed(t *testing.T) {
	p := newPlatform(t, usual)
	p.claimLife = 2 * time.Second
	w := start(t, p)
	id := p.add(w.sh(wait("go") + "true"))
	p.await("the claim is renewed twice", func() bool { return p.tasks[id].reclaims >= 2 })
	w.makeFile("go")
	w.expect(id, "completed") // which the platform does not take with the first credentials any more
}

func TestACanceledTaskIsKilledAndNotReported(t *testing.T) {
	for name, test := range map[string]struct {
		claimLife time.Duration
		glance    string
	}{
		"when its claim is to be renewed":   {time.Second, "1h"},
		"when somebody looks at its status": {time.Hour, "50ms"},
	} {
		t.Run(name, func(t *testing.T) { cancelOne(t, test.claimLife, test.glance) })
	}
}

func cancelOne(t *testing.T, claimLife time.Duration, glance string) {
	p := newPlatform(t, usual)
	p.claimLife = claimLife
	w := start(t, p, "GLANCE="+glance)
	id := p.add(w.sh(`touch "$0/started"; trap '' TERM; while :; do sleep 1000; done`, `"artifacts": [{"type": "file", "path": "x"}]`))
	w.awaitFile("started")
	p.cancel(id)
	next := p.add(w.sh("true")) // waits for the slot
	w.expect(next, "completed")
	if left := w.leftovers(); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	if p.tasks[id].resolved > 0 {
		t.Error("the canceled task was reported")
	}
	if log := p.log(id); !strings.Contains(log, "no longer this worker's") {
		t.Errorf("the log that is kept is %q", log)
	}
	if got := p.artifacts(id); slices.Contains(got, "x") {
		t.Errorf("its artifacts are %q", got)
	}
}

func TestRegistrationIsRenewed(t *testing.T) {
	p := newPlatform(t, usual)
	p.workerLife = 2 * time.Second
	start(t, p)
	p.await("it registers again twice and goes on with the new credentials", func() bool { return p.renewals >= 2 && p.freshPolls >= 2 })
}

func TestAsManyTasksAtOnceAsTheCapacity(t *testing.T) {
	p := newPlatform(t, `{"capacity": 2}`)
	w := start(t, p)
	// Each waits for the other.
	a := p.add(w.sh(`touch "$0/a"; ` + wait("b") + `echo done`))
	b := p.add(w.sh(`touch "$0/b"; ` + wait("a") + `echo done`))
	c := p.add(w.sh(`echo done`))
	for _, id := range []string{a, b, c} {
		w.expect(id, "completed", "done\n")
	}
}

func TestAnIdleWorkerRemovesItselfAndEnds(t *testing.T) {
	p := newPlatform(t, `{"idleTimeoutSecs": 0.1}`)
	w := start(t, p)
	if status := w.exit(); status != 0 || !p.gone() {
		t.Errorf("it ended with status %d, removed: %v", status, p.gone())
	}
}

func TestAnUnwantedWorkerEndsBetweenTasks(t *testing.T) {
	p := newPlatform(t, usual)
	w := start(t, p)
	id := p.add(w.sh(`touch "$0/started"; ` + wait("go") + `true`))
	w.awaitFile("started")
	p.mu.Lock()
	p.unwanted = "too many workers"
	p.mu.Unlock()
	next := p.add(w.sh("true"))
	w.makeFile("go")
	w.expect(id, "completed")
	if status := w.exit(); status != 0 || !p.gone() {
		t.Errorf("it ended with status %d, removed: %v", status, p.gone())
	}
	if got := p.result(next); got != "pending" {
		t.Errorf("the next task is %s", got)
	}
}

func TestSIGTERMMakesTasksMakeRoom(t *testing.T) {
	for name, test := range map[string]struct{ config, trap, log string }{
		"for one that listens":  {`{"shutdownGraceSecs": 600, "shutdownUploadSecs": 600}`, `trap "echo tidying up; exit 0" TERM`, "tidying up\n"},
		"for one that does not": {`{"shutdownGraceSecs": 0.2, "shutdownUploadSecs": 600}`, `trap "" TERM`, "has 200ms to end by itself"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlatform(t, test.config)
			w := start(t, p)
			id := p.add(w.sh(test.trap+`; echo half >half; touch "$0/started"; while :; do sleep 0.02; done`, `"artifacts": [{"type": "file", "path": "half"}]`))
			w.awaitFile("started")
			w.signal(syscall.SIGTERM)
			if status := w.exit(); status != 0 || !p.gone() {
				t.Errorf("it ended with status %d, removed: %v", status, p.gone())
			}
			w.expect(id, "exception/worker-shutdown", test.log, "will be tried again elsewhere")
			if got := p.read(id, "half"); got != "half\n" {
				t.Errorf("the artifact is %q", got)
			}
			if left, err := os.ReadDir(filepath.Join(w.dir, "tasks")); err != nil || len(left) > 0 {
				t.Errorf("the tasks' directory has %v, %v", left, err)
			}
		})
	}
}

func TestASecondSIGTERMEndsAtOnce(t *testing.T) {
	p := newPlatform(t, `{"shutdownGraceSecs": 600}`)
	w := start(t, p)
	id := p.add(w.sh(`trap 'touch "$0/told"' TERM; touch "$0/started"; while :; do sleep 0.02; done`))
	w.awaitFile("started")
	w.signal(syscall.SIGTERM)
	w.awaitFile("told")
	w.signal(syscall.SIGTERM)
	if status := w.exit(); status == 0 {
		t.Error("it ended with status 0")
	}
	if p.tasks[id].resolved > 0 {
		t.Error("the task was reported")
	}
}

func TestTheBoundOfAShutdown(t *testing.T) {
	p := newPlatform(t, `{"shutdownGraceSecs": 0.1, "shutdownUploadSecs": 0.5}`)
	w := start(t, p)
	p.add(w.sh(`touch "$0/started"; while :; do sleep 0.02; done`))
	w.awaitFile("started")
	p.down() // so that nothing can be uploaded
	w.signal(syscall.SIGTERM)
	if status := w.exit(); status == 0 || !strings.Contains(w.output.String(), "did not end in time") {
		t.Errorf("it ended with status %d", status)
	}
}

func TestTasksDieWithTheWorker(t *testing.T) {
	p := newPlatform(t, usual)
	w := start(t, p)
	p.add(w.sh(`touch "$0/started"; while :; do sleep 0.02; done`))
	w.awaitFile("started")
	w.signal(syscall.SIGKILL)
	w.exit()
	w.becomes("the command is dead", func() bool { return len(w.leftovers()) == 0 })
	again, err := lock(w.dir, lockPatience) // as a provider looks
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestATaskOutlivesTheServer(t *testing.T) {
	p := newPlatform(t, usual)
	p.claimLife = time.Second
	w := start(t, p)
	id := p.add(w.sh(`touch "$0/started"; `+wait("go")+`echo through >x`, `"artifacts": [{"type": "file", "path": "x"}]`))
	w.awaitFile("started")
	p.down()
	w.becomes("the worker notices", func() bool { return strings.Contains(w.output.String(), "call failed, will be repeated") })
	w.makeFile("go") // ends while there is no server
	p.up()
	w.expect(id, "completed")
	if got := p.read(id, "x"); got != "through\n" {
		t.Errorf("the artifact is %q", got)
	}
	w.expect(p.add(w.sh("true")), "completed") // and goes on
}

func TestWithoutAServerForTooLongAllEnds(t *testing.T) {
	p := newPlatform(t, usual)
	p.claimLife = time.Second
	w := start(t, p, "PATIENCE=1s")
	p.add(w.sh(`touch "$0/started"; while :; do sleep 0.02; done`))
	w.awaitFile("started")
	p.down()
	if status := w.exit(); status == 0 {
		t.Error("it ended with status 0")
	}
	if left := w.leftovers(); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestAFloodOfOutputTakesNoMemory(t *testing.T) {
	p := newPlatform(t, usual)
	w := start(t, p)
	const length = 64 << 20
	id := p.add(w.sh(fmt.Sprintf(`yes 0123456789 | head -c %d; touch "$0/flooded"; `, length) + wait("go") + `true`))
	w.awaitFile("flooded")
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", w.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	if kib, err := strconv.Atoi(strings.Fields(rest)[0]); err != nil || kib > 72<<10 { // the race detector takes 30 MiB
		t.Errorf("the worker took up to %d KiB, %v", kib, err)
	}
	w.makeFile("go")
	w.expect(id, "completed")
	if got := len(p.log(id)); got < length {
		t.Errorf("the log has %d bytes", got)
	}
}

func TestAConfigurationThatCannotBeUsedIsReported(t *testing.T) {
	p := newPlatform(t, `{"capacity": 1000}`)
	w := start(t, p)
	if status := w.exit(); status == 0 {
		t.Error("it ended with status 0")
	}
	if len(p.errors) != 1 || !strings.Contains(p.errors[0], "workerConfig.capacity of the pool is 1000; it has to be from 1 to 32") {
		t.Errorf("reported were %q", p.errors)
	}
}

func TestAWorkerThatIsNotExpectedEnds(t *testing.T) {
	p := newPlatform(t, usual)
	right := p.proof
	p.proof = "another"
	w := start(t, p)
	p.mu.Lock()
	p.proof = right + "x"
	p.mu.Unlock()
	if status := w.exit(); status == 0 || !strings.Contains(w.output.String(), "registering as local/w-1 of the pool local/test") {
		t.Errorf("it ended with status %d", status)
	}
}

func TestEachWorkerNeedsADirectoryOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	held, err := lock(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	text, err := os.ReadFile(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	var began uint64
	if _, err := fmt.Sscan(string(text), &pid, &began); err != nil || pid != os.Getpid() || began == 0 {
		t.Errorf("the lock says %q", text)
	}
	if _, err := lock(dir, 0); err == nil || !strings.Contains(err.Error(), "locked by another worker") {
		t.Errorf("err is %v", err)
	}
}
