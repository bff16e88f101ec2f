//go:build unix

package worker

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/worker/ec2/imdstest"
)

// newDocument is that of another instance each time. They are all on this machine,
// where a worker ends what one of the same name has left.
func newDocument() string {
	return fmt.Sprintf(document, rand.Uint64())
}

const document = `{
  "instanceId" : "i-%016x",
  "instanceType" : "m7g.large",
  "imageId" : "ami-1",
  "region" : "eu-west-1",
  "availabilityZone" : "eu-west-1b",
  "privateIp" : "10.0.0.7"
}`

// An instance is a worker under test that has an instance to itself.
type instance struct {
	*subject
	metadata *imdstest.Server
	document string
	env      []string
}

// launch starts a worker on an instance of which the platform knows. more are
// members of the user data.
func launch(t *testing.T, p *platform, more string, env ...string) instance {
	t.Helper()
	document := newDocument()
	p.expectInstance(document, "strong-secret")
	userData := fmt.Sprintf(`{"rootUrl": %q, "workerPoolId": "local/test", "providerId": "aws-1", "workerGroup": "eu-west-1", "workerConfig": {"x": 1} %s}`, p.url(), more)
	metadata, err := imdstest.Start(imdstest.Instance{
		UserData: userData, Document: document, Signature: "weak-secret", RSA2048: "strong-secret",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { metadata.Close() })
	i := instance{newSubject(t, p, t.TempDir()), metadata, document, append(metadata.Environment(), env...)}
	i.start()
	return i
}

func (i instance) start() {
	i.t.Helper()
	i.run([]string{i.dir, "/bin/sh", "-c", `echo off >"$SHARED/off"`}, append([]string{"PLAY=instance", "SHARED=" + i.shared}, i.env...))
}

func (i instance) id() string { return strings.Split(i.document, `"`)[3] }

// off reports whether the machine was powered off.
func (i instance) off() bool {
	_, err := os.Stat(filepath.Join(i.shared, "off"))
	return err == nil
}

func TestAnInstanceFromBootToPowerOff(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, usual)
	id := p.add(`{"command": [["sh", "-c", "env"]], "maxRunTime": 600}`)
	i := launch(t, p, "")
	i.expect(id, "completed", "on worker eu-west-1/"+i.id()+" of local/test", "TASKCLUSTER_INSTANCE_TYPE=m7g.large\n",
		`TASKCLUSTER_WORKER_LOCATION={"availabilityZone":"eu-west-1b","cloud":"aws","region":"eu-west-1"}`+"\n")
	if strings.Contains(p.log(id), "AWS_") {
		t.Error("the task has the worker's environment")
	}
	p.mu.Lock()
	p.unwanted = "too many workers"
	p.mu.Unlock()
	if status := i.exit(); status != 0 || !p.gone() || !i.off() {
		t.Errorf("it ended with status %d, removed: %v, powered off: %v", status, p.gone(), i.off())
	}
	if refused := p.refused(); len(refused) > 0 {
		t.Errorf("the platform refused %q", refused)
	}
}

func TestAnInterruptedInstanceHandsItsTasksBack(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ config, trap, log string }{
		"two that listen":       {`{"capacity": 2, "shutdownGraceSecs": 600, "interruptionGraceSecs": 90}`, `trap "echo tidying up; exit 0" TERM`, "tidying up\n"},
		"two that are stubborn": {`{"capacity": 2, "shutdownGraceSecs": 600, "interruptionGraceSecs": 0.2}`, `trap "" TERM`, "has 200ms to end by itself"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t, test.config)
			i := launch(t, p, "")
			var ids []string
			for _, started := range []string{"started", "too"} {
				ids = append(ids, p.add(i.sh(test.trap+`; echo half >half; touch "$0/`+started+`"; while :; do sleep 0.02; done`, `"artifacts": [{"type": "file", "path": "half"}]`)))
				i.awaitFile(started)
			}
			i.metadata.Interrupt(time.Now().Add(2 * time.Minute))
			for _, id := range ids {
				i.expect(id, "exception/worker-shutdown", test.log, "will be tried again elsewhere")
				if got, want := p.artifacts(id), []string{"public/logs/live.log", "public/logs/live_backing.log"}; !slices.Equal(got, want) {
					t.Errorf("the artifacts are %q, want %q", got, want)
				}
			}
			if status := i.exit(); status != 0 || !p.gone() || !i.off() {
				t.Errorf("it ended with status %d, removed: %v, powered off: %v", status, p.gone(), i.off())
			}
			if !strings.Contains(i.output.String(), "EC2 interrupts the instance (terminate) at ") {
				t.Error("the log does not say why")
			}
		})
	}
}

func TestAnInterruptionDuringTheUpload(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, usual)
	p.stalled = make(chan struct{})
	i := launch(t, p, "")
	id := p.add(i.sh(`echo all >all`, `"artifacts": [{"type": "file", "path": "all"}]`))
	p.await("the artifact is being uploaded", func() bool { return p.puts > 0 })
	i.metadata.Interrupt(time.Now().Add(2 * time.Minute))
	i.becomes("the worker has the notice", func() bool { return strings.Contains(i.output.String(), "gives its tasks back") })
	close(p.stalled)
	i.expect(id, "completed")
	if got := p.read(id, "all"); got != "all\n" {
		t.Errorf("the artifact is %q", got)
	}
	if status := i.exit(); status != 0 || !p.gone() {
		t.Errorf("it ended with status %d, removed: %v", status, p.gone())
	}
}

func TestAnUploadThatTakesTooLong(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, usual)
	p.stalled = make(chan struct{})
	defer close(p.stalled)
	i := launch(t, p, "")
	id := p.add(i.sh(`echo all >all`, `"artifacts": [{"type": "file", "path": "all"}]`))
	p.await("the artifact is being uploaded", func() bool { return p.puts > 0 })
	i.metadata.Interrupt(time.Now()) // so that the least time is left
	i.expect(id, "exception/worker-shutdown", "will be tried again elsewhere")
	if status := i.exit(); status != 0 || !p.gone() || !i.off() {
		t.Errorf("it ended with status %d, removed: %v, powered off: %v", status, p.gone(), i.off())
	}
}

func TestAnInterruptionAfterARecommendation(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, usual)
	i := launch(t, p, "")
	id := p.add(i.sh(`trap "exit 0" TERM; touch "$0/started"; while :; do sleep 0.02; done`))
	i.awaitFile("started")
	i.metadata.Recommend()
	i.becomes("the worker has the first notice", func() bool { return strings.Contains(i.output.String(), "will finish what it has and end") })
	i.metadata.Interrupt(time.Now().Add(2 * time.Minute))
	i.expect(id, "exception/worker-shutdown")
	if status := i.exit(); status != 0 || !p.gone() || !i.off() {
		t.Errorf("it ended with status %d, removed: %v, powered off: %v", status, p.gone(), i.off())
	}
}

func TestFinishing(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for in, want := range map[time.Duration]time.Duration{
		2 * time.Minute: time.Minute, 90 * time.Second: 45 * time.Second, time.Second: 5 * time.Second,
		-time.Hour: 5 * time.Second, 24 * time.Hour: time.Minute, // by a clock that is wrong
	} {
		if got := finishing(now.Add(in), now); got != want {
			t.Errorf("%v after the notice: %v, want %v", in, got, want)
		}
	}
	if got := finishing(time.Time{}, now); got != time.Minute {
		t.Errorf("at a time that is not known: %v", got)
	}
}

func TestAfterARecommendationTasksAreFinished(t *testing.T) {
	t.Parallel()
	for name, give := range map[string]func(*imdstest.Server){
		"to replace the instance": (*imdstest.Server).Recommend,
		"by way of maintenance": func(s *imdstest.Server) {
			s.Schedule("instance-retirement", time.Now().Add(time.Hour), time.Now().Add(2*time.Hour))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlatform(t, usual)
			i := launch(t, p, "")
			id := p.add(i.sh(`touch "$0/started"; ` + wait("go") + `echo through`))
			i.awaitFile("started")
			give(i.metadata)
			i.becomes("the worker has the notice", func() bool { return strings.Contains(i.output.String(), "will finish what it has and end") })
			next := p.add(i.sh("true"))
			i.makeFile("go")
			i.expect(id, "completed", "through\n")
			if status := i.exit(); status != 0 || !p.gone() || !i.off() {
				t.Errorf("it ended with status %d, removed: %v, powered off: %v", status, p.gone(), i.off())
			}
			if got := p.result(next); got != "pending" {
				t.Errorf("the next task is %s", got)
			}
		})
	}
}

func TestAKilledWorkerIsStartedAgain(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, usual)
	i := launch(t, p, "")
	p.add(i.sh(`setsid -f sh -c 'while :; do sleep 0.02; done' "$0"; touch "$0/started"; while :; do sleep 0.02; done`))
	i.awaitFile("started")
	i.signal(syscall.SIGKILL)
	i.exit()
	info, err := os.Stat(filepath.Join(i.dir, "registration.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the registration that is kept is %v, %v", info, err)
	}
	i.start()
	i.expect(p.add(i.sh("true")), "completed")
	p.await("it has registered again", func() bool { return p.renewals == 1 })
	if left := i.leftovers(); len(left) > 0 {
		t.Errorf("processes %v of the first worker's are left", left)
	}

	// Once more, while it is removed.
	i.signal(syscall.SIGKILL)
	i.exit()
	p.mu.Lock()
	p.secret = "another"
	p.mu.Unlock()
	i.start()
	if status := i.exit(); status == 0 || !i.off() {
		t.Errorf("it ended with status %d, powered off: %v", status, i.off())
	}
	p.await("that is reported", func() bool {
		return len(p.reports) == 1 && strings.Contains(p.reports[0].Description, "going on with the registration")
	})
}

func TestAnImageMadeOfAWorkerDoesNoHarm(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, `{"idleTimeoutSecs": 0.1}`)
	i := launch(t, p, "")
	i.exit()
	other := newDocument()
	i.metadata.Update(func(m *imdstest.Instance) { m.Document = other })
	p.expectInstance(other, "strong-secret")
	i.start()
	if status := i.exit(); status != 0 || len(p.refused()) > 0 {
		t.Errorf("it ended with status %d; refused was %q", status, p.refused())
	}
}

func TestAPlatformThatTakesOnlyTheOtherSignature(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, `{"idleTimeoutSecs": 0.1}`)
	i := launch(t, p, "")
	i.exit()
	os.Remove(filepath.Join(i.dir, "registration.json"))
	p.expectInstance(i.document, "weak-secret")
	i.start()
	if status := i.exit(); status != 0 {
		t.Errorf("it ended with status %d", status)
	}
}

func TestAPlatformThatDoesNotKnowTheInstanceYet(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, `{"idleTimeoutSecs": 0.1}`)
	p.after = 1
	i := launch(t, p, "", "RECOGNITION=10m")
	if status := i.exit(); status != 0 || !i.off() {
		t.Errorf("it ended with status %d, powered off: %v", status, i.off())
	}
}

func TestARefusedInstanceIsPoweredOff(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, usual)
	p.after = 1000
	i := launch(t, p, "")
	if status := i.exit(); status == 0 || !i.off() || !strings.Contains(i.output.String(), "registering as eu-west-1/"+i.id()) {
		t.Errorf("it ended with status %d, powered off: %v", status, i.off())
	}
}

func TestAMachineWithAnotherPurposeStaysOn(t *testing.T) {
	t.Parallel()
	t.Run("as its user data says", func(t *testing.T) {
		t.Parallel()
		i := launch(t, newPlatform(t, `{"idleTimeoutSecs": 0.1}`), `, "shutdown": false`)
		if status := i.exit(); status != 0 || i.off() {
			t.Errorf("it ended with status %d, powered off: %v", status, i.off())
		}
	})
	t.Run("as somebody wants the worker to end", func(t *testing.T) {
		t.Parallel()
		p := newPlatform(t, usual)
		i := launch(t, p, "")
		p.await("it asks for work", func() bool { return p.polls > 0 })
		i.signal(syscall.SIGTERM)
		if status := i.exit(); status != 0 || i.off() || !p.gone() {
			t.Errorf("it ended with status %d, powered off: %v, removed: %v", status, i.off(), p.gone())
		}
	})
	t.Run("as there is a worker already", func(t *testing.T) {
		t.Parallel()
		p := newPlatform(t, usual)
		i := launch(t, p, "")
		p.await("it asks for work", func() bool { return p.polls > 0 })
		second := instance{&subject{t: t, p: p, dir: i.dir, shared: i.shared, output: &output{}}, i.metadata, i.document, i.env}
		second.start()
		if status := second.exit(); status == 0 || i.off() || p.gone() {
			t.Errorf("it ended with status %d, powered off: %v, removed: %v", status, i.off(), p.gone())
		}
	})
	t.Run("as it is no worker's", func(t *testing.T) {
		t.Parallel()
		i := launch(t, newPlatform(t, usual), `, "workerPoolId": ""`)
		if status := i.exit(); status == 0 || i.off() || !strings.Contains(i.output.String(), "it lacks workerPoolId") {
			t.Errorf("it ended with status %d, powered off: %v", status, i.off())
		}
	})
	t.Run("as it is no instance", func(t *testing.T) {
		t.Parallel()
		p := newPlatform(t, usual)
		i := instance{newSubject(t, p, t.TempDir()), nil, "", []string{"AWS_EC2_METADATA_SERVICE_ENDPOINT=http://127.0.0.1:1", "BOOT=1s"}}
		i.start()
		if status := i.exit(); status == 0 || i.off() || !strings.Contains(i.output.String(), "Is this an instance of EC2") {
			t.Errorf("it ended with status %d, powered off: %v", status, i.off())
		}
	})
}

func TestTroubleOfTheWorkersIsReported(t *testing.T) {
	t.Parallel()
	p := newPlatform(t, usual)
	i := launch(t, p, "")
	p.await("it asks for work", func() bool { return p.polls > 0 })
	// So that a task cannot have a directory.
	tasks := filepath.Join(i.dir, "tasks")
	os.Remove(tasks)
	if err := os.WriteFile(tasks, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	first, second := p.add(i.sh("true")), p.add(i.sh("true"))
	p.awaitResolved(first)
	p.awaitResolved(second)
	if got := p.result(first); got != "exception/internal-error" {
		t.Errorf("the task is %s", got)
	}
	p.await("that is reported", func() bool { return len(p.reports) > 0 })
	// The runtime ends a program that is sent this as it does one that panics.
	i.signal(syscall.SIGABRT)
	i.exit()
	i.start()
	p.await("the crash is reported too", func() bool { return len(p.reports) > 1 })
	p.mu.Lock()
	defer p.mu.Unlock()
	if r := p.reports[0]; r.Kind != "task-not-run" || !strings.Contains(r.Description, first) || !strings.Contains(r.Extra.Log, "the run failed for a reason of the worker's") {
		t.Errorf("the first report is %+v", r)
	}
	if r := p.reports[1]; r.Kind != "worker-crashed" || !strings.Contains(r.Description, "SIGABRT") || !strings.Contains(r.Extra.Log, "going on after a worker that was killed") {
		t.Errorf("the second report is %+v", r)
	}
	if len(p.reports) != 2 || strings.Contains(fmt.Sprint(p.reports), "secret") {
		t.Errorf("the reports are %+v", p.reports)
	}
}
