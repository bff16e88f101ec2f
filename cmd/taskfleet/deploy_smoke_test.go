//go:build !agent && !server

package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/deploy"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/stacks"
)

// TestSmokeTestOfADeploy is on a real platform, with a worker of its own.
func TestSmokeTestOfADeploy(t *testing.T) {
	defer func(before time.Duration) { cancelLimit = before }(cancelLimit)
	cancelLimit = soon
	p := startReal(t)
	expect(t, exitOK, "created local/test", "pool", "apply", "-f", writeFile(t, "pool.yml", testPool))
	core, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	smoke := func(queueID string, limit time.Duration, c *client.Client) *smokeTest {
		return &smokeTest{connect: func(context.Context) (*client.Client, error) { return c, nil }, queue: queueID, limit: limit}
	}
	test := func(queueID string, limit time.Duration) (id, notes string, err error) {
		id, err = smoke(queueID, limit, core).Test(t.Context(), func(text string) { notes += text + "\n" })
		return id, notes, err
	}
	state := func(id string) string {
		reply, err := queue.New(core).Status(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return reply.Status.State
	}

	id, notes, err := test("built-in/succeed", soon)
	if err != nil || state(id) != "completed" {
		t.Errorf("on built-in/succeed: %v\n%s", err, notes)
	}
	if _, notes, err := test("built-in/fail", soon); err == nil || !strings.Contains(err.Error(), "has ended as failed") {
		t.Errorf("on built-in/fail: %v\n%s", err, notes)
	}

	id, notes, err = test("local/test", soon)
	if err != nil || !strings.Contains(notes, "the task has completed on ") {
		t.Errorf("on a worker: %v\n%s", err, notes)
	}
	if out := expect(t, exitOK, "", "task", "log", id); !strings.Contains(out, "a task of taskfleet deploy runs on ") {
		t.Errorf("the task has logged %q", out)
	}

	// One whose command fails, as a worker without sh would have it: the log says why, and of a log without an end that.
	id = slugid.New()
	if _, _, code := command(t, "task", "create", "--id", id, "--queue", "local/test", "--", "sh", "-c", "yes | head -c 1000000; echo no such file; exit 3"); code != exitOK {
		t.Fatal("no task was created")
	}
	err = smoke("local/test", soon, core).watch(t.Context(), queue.New(core), id, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "has ended as failed. Its log ends with:\n") || !strings.Contains(err.Error(), "no such file") || len(err.Error()) > 2*logLimit {
		t.Errorf("a task that fails was told as %.9000v", err)
	}

	wrong, err := client.New(client.Options{RootURL: p.RootURL, Credentials: cred.Credentials{ClientID: rootClient, AccessToken: "not-the-token-of-anybody"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := smoke("built-in/succeed", soon, wrong).Test(t.Context(), func(string) {}); !errors.As(err, new(*deploy.UntestedError)) {
		t.Errorf("with wrong credentials: %v", err)
	}
	if _, _, err := test("no-queue", soon); !errors.As(err, new(*deploy.UntestedError)) {
		t.Errorf("what the server refuses says nothing against it: %v", err)
	}

	id, _, err = test("nobody/there", 700*time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "still pending after 700ms, and was canceled: no worker has taken it. taskfleet provisioner explain nobody/there") {
		t.Errorf("a task that nobody takes was told as %v", err)
	}
	if state(id) != "exception" {
		t.Errorf("the task that nobody takes is %s", state(id))
	}

	// Interrupted, it leaves none behind that a machine would be bought for.
	ctx, cancel := context.WithCancel(t.Context())
	id, err = smoke("nobody/there", soon, core).Test(ctx, func(string) { cancel() })
	if !errors.Is(err, context.Canceled) || state(id) != "exception" {
		t.Errorf("interrupted, the task is %s, and the error %v", state(id), err)
	}
}

// TestFirstDeployGoesOnAsTheRootClient looks that who has no credentials gets those that this deploy has made, and nobody else.
func TestFirstDeployGoesOnAsTheRootClient(t *testing.T) {
	p := startReal(t)
	for _, name := range []string{"TASKCLUSTER_ROOT_URL", "TASKCLUSTER_CLIENT_ID", "TASKCLUSTER_ACCESS_TOKEN", "TASKCLUSTER_CERTIFICATE"} {
		t.Setenv(name, "")
	}
	t.Setenv("TASKFLEET_DATA", t.TempDir())
	s := &deployStacks{cmd: newDeployCommand(), flags: &deployFlags{}, environment: &stacks.Environment{RootURL: p.RootURL}}
	if _, err := s.client(t.Context()); err == nil || !strings.Contains(err.Error(), "there are no credentials for "+p.RootURL) {
		t.Errorf("without any, it was %v", err)
	}
	var told bytes.Buffer
	s.cmd.SetErr(&told)
	s.root.Store(p.Root.AccessToken)
	core, err := s.client(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (&smokeTest{connect: s.client, queue: "built-in/succeed", limit: soon}).Test(t.Context(), func(string) {}); err != nil || core.Credentials().ClientID != rootClient {
		t.Errorf("as %s: %v", core.Credentials().ClientID, err)
	}
	if strings.Count(told.String(), "as "+rootClient) != 1 || strings.Contains(told.String(), p.Root.AccessToken) {
		t.Errorf("it told %q", told.String())
	}
	t.Setenv("TASKCLUSTER_CLIENT_ID", "somebody")
	if core, err = s.client(t.Context()); err != nil || core.Credentials().ClientID != "somebody" {
		t.Errorf("with credentials of one's own it is %v, %v", core, err)
	}
}

func TestCommandThatGoesOnLeavesAloneWhatTheFirstDid(t *testing.T) {
	f := deployFlags{skipInfra: true, varFiles: []string{"secrets.tfvars"}, yes: true}
	if got, want := f.resumed("environments/prod"), "taskfleet deploy --environment environments/prod --resume --skip-infra --var-file secrets.tfvars"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
