//go:build !agent

package main

import (
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
)

// TestSmokeTestOfADeploy is on a real platform, with a worker of its own.
func TestSmokeTestOfADeploy(t *testing.T) {
	p := startReal(t)
	expect(t, exitOK, "created local/test", "pool", "apply", "-f", writeFile(t, "pool.yml", testPool))
	core, err := client.New(client.Options{RootURL: p.RootURL, Credentials: p.Root, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	test := func(queueID string, limit time.Duration, id string) (string, error) {
		var notes []string
		s := &smokeTest{connect: func(context.Context) (*client.Client, error) { return core, nil }, queue: queueID, limit: limit}
		err := s.Test(t.Context(), id, func(text string) { notes = append(notes, text) })
		return strings.Join(notes, "\n"), err
	}
	state := func(id string) string {
		reply, err := queue.New(core).Status(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return reply.Status.State
	}

	id := slugid.New()
	notes, err := test("built-in/succeed", time.Minute, id)
	if err != nil || state(id) != "completed" {
		t.Errorf("on built-in/succeed: %v\n%s", err, notes)
	}
	// Resumed, it is the same task.
	if notes, err := test("built-in/succeed", time.Minute, id); err != nil {
		t.Errorf("again: %v\n%s", err, notes)
	}
	if notes, err := test("built-in/fail", time.Minute, slugid.New()); err == nil || !strings.Contains(err.Error(), "has ended as failed") {
		t.Errorf("on built-in/fail: %v\n%s", err, notes)
	}

	id = slugid.New()
	if notes, err := test("local/test", time.Minute, id); err != nil || !strings.Contains(notes, "the task has completed on ") {
		t.Errorf("on a worker: %v\n%s", err, notes)
	}
	if out := expect(t, exitOK, "", "task", "log", id); !strings.Contains(out, "a task of taskfleet deploy runs on ") {
		t.Errorf("the task has logged %q", out)
	}

	// One whose command fails, as a worker without sh would have it: the log says why.
	id = slugid.New()
	if _, _, code := command(t, "task", "create", "--id", id, "--queue", "local/test", "--", "sh", "-c", "echo no such file; exit 3"); code != exitOK {
		t.Fatal("no task was created")
	}
	if _, err := test("local/test", time.Minute, id); err == nil || !strings.Contains(err.Error(), "has ended as failed. Its log ends with:\n") || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a task that fails was told as %v", err)
	}

	wrong, err := client.New(client.Options{RootURL: p.RootURL, Credentials: cred.Credentials{ClientID: rootClient, AccessToken: "not-the-token-of-anybody"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s := &smokeTest{connect: func(context.Context) (*client.Client, error) { return wrong, nil }, queue: "built-in/succeed", limit: time.Minute}
	if err := s.Test(t.Context(), slugid.New(), func(string) {}); !errors.As(err, new(*deploy.UntestedError)) {
		t.Errorf("with wrong credentials: %v", err)
	}

	id = slugid.New()
	if _, err := test("nobody/there", 700*time.Millisecond, id); err == nil || !strings.Contains(err.Error(), "still pending after 700ms, and was canceled: no worker has taken it. taskfleet provisioner explain nobody/there") {
		t.Errorf("a task that nobody takes was told as %v", err)
	}
	if state(id) != "exception" {
		t.Errorf("the task that nobody takes is %s", state(id))
	}
}
