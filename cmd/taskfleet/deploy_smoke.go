//go:build !agent && !server

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/deploy"
	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

// smokeTest is deploy.Smoke: a task on a task queue.
type smokeTest struct {
	connect func(context.Context) (*client.Client, error)
	queue   string
	limit   time.Duration // of the task, with the start of a worker
	source  string        // URL; "" for the root URL
}

// Test implements deploy.Smoke. Each is a task of its own: one that was there before an interrupt may have ended since,
// because nobody waited for it.
func (s *smokeTest) Test(ctx context.Context, progress func(string)) (taskID string, err error) {
	core, err := s.connect(ctx)
	if err != nil {
		return "", &deploy.UntestedError{Err: err}
	}
	q := queue.New(core)
	taskID = slugid.New()
	if _, err := q.CreateTask(ctx, taskID, s.definition(core)); err != nil {
		return taskID, blame(fmt.Errorf("create a task on %s as %s: %w", s.queue, cmp.Or(core.Credentials().ClientID, "anonymous"), err))
	}
	progress("task " + taskID + " on " + s.queue)
	return taskID, s.watch(ctx, q, taskID, progress)
}

// blame tells what says something against a release from what does not: a server that refuses what it was asked for works.
func blame(err error) error {
	if refusal, ok := errors.AsType[*client.Error](err); ok && refusal.StatusCode/100 == 4 && refusal.StatusCode != http.StatusNotFound {
		return &deploy.UntestedError{Err: err}
	}
	return err
}

// watch waits until a task has completed.
func (s *smokeTest) watch(ctx context.Context, q *queue.Client, taskID string, progress func(string)) error {
	begun := time.Now()
	within, cancel := context.WithTimeoutCause(ctx, s.limit, errTooLong)
	defer cancel()
	status, err := s.await(within, q, taskID, progress)
	switch {
	case ctx.Err() != nil:
		// Nobody waits for it any more, so no machine need be bought for it.
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelLimit)
		defer cancel()
		if _, err := q.CancelTask(late, taskID); err != nil {
			progress(fmt.Sprintf("task %s goes on, as it cannot be canceled: %v", taskID, err))
		}
		return context.Cause(ctx)
	case errors.Is(err, errTooLong):
		return s.giveUp(ctx, q, taskID, status)
	case err != nil:
		return blame(fmt.Errorf("wait for task %s: %w", taskID, err))
	case task.State(status.State) == task.Completed:
		if run := graph.LatestRun(status); run != nil {
			progress(fmt.Sprintf("the task has completed on %s after %s", run.WorkerID, took(time.Since(begun))))
		}
		return nil
	}
	return fmt.Errorf("task %s on %s has ended as %s%s", taskID, s.queue, outcome(status), s.log(ctx, q, taskID))
}

// builtIn is whether no machine runs the task.
func (s *smokeTest) builtIn() bool { return strings.HasPrefix(s.queue, "built-in/") }

// definition is the task.
func (s *smokeTest) definition(core *client.Client) *queue.CreateTaskRequest {
	payload := map[string]any{}
	if !s.builtIn() {
		payload["command"] = [][]string{{"sh", "-c", "echo a task of taskfleet deploy runs on $(uname -n)"}}
		payload["maxRunTime"] = 300
	}
	text, _ := json.Marshal(payload) // strings and numbers
	now := timestamp.Now()
	d := &queue.CreateTaskRequest{
		TaskQueueID: s.queue, Payload: text,
		Metadata: queue.TaskMetadata{
			Name: "smoke test of a deploy", Description: "Created by taskfleet deploy. The release is rolled back if it does not complete.",
			Owner: cmp.Or(core.Credentials().ClientID, "anonymous"), Source: cmp.Or(s.source, core.RootURL()),
		},
	}
	d.Created = now
	d.Deadline = now.Add(s.limit + time.Hour)
	d.Expires = d.Deadline.Add(30 * 24 * time.Hour)
	return d
}

// cancelLimit is how long an interrupted test tries to take its task with it. It is longer in tests alone.
var cancelLimit = 3 * time.Second

var errTooLong = errors.New("it took too long")

// await waits until the task has ended, and tells whenever something changes, and once a minute.
func (s *smokeTest) await(ctx context.Context, q *queue.Client, taskID string, progress func(string)) (*queue.TaskStatus, error) {
	var last *queue.TaskStatus
	said, begun, told := "", time.Now(), time.Now()
	for {
		reply, err := q.Status(ctx, taskID)
		switch {
		case err != nil && ctx.Err() != nil:
			return last, context.Cause(ctx)
		case err != nil:
			return last, err
		}
		last = &reply.Status
		if task.State(last.State).Resolved() {
			return last, nil
		}
		now := "the task is " + last.State
		if run := graph.LatestRun(last); run != nil && run.WorkerID != "" {
			now += " on " + run.WorkerID
		}
		if now != said {
			said, told = now, time.Now()
			progress(now)
		} else if time.Since(told) >= time.Minute {
			told = time.Now()
			progress(fmt.Sprintf("%s, since %s", now, took(time.Since(begun))))
		}
		select {
		case <-time.After(logPoll):
		case <-ctx.Done():
			return last, context.Cause(ctx)
		}
	}
}

// giveUp cancels a task that took too long.
func (s *smokeTest) giveUp(ctx context.Context, q *queue.Client, taskID string, last *queue.TaskStatus) error {
	if last == nil { // the first answer took as long
		if reply, err := q.Status(ctx, taskID); err == nil {
			last = &reply.Status
		}
	}
	state := "not known"
	if last != nil {
		state = last.State
	}
	text, why := fmt.Sprintf("task %s on %s was still %s after %s", taskID, s.queue, state, s.limit), ""
	switch state {
	case string(task.Pending):
		why = fmt.Sprintf(": no worker has taken it. taskfleet provisioner explain %s says why", s.queue)
	case string(task.Running):
		why = s.log(ctx, q, taskID)
	}
	if _, err := q.CancelTask(ctx, taskID); err != nil {
		return fmt.Errorf("%s, and cannot be canceled (%w)%s", text, err, why)
	}
	return errors.New(text + ", and was canceled" + why)
}

// logLimit is how much of the end of a log is shown.
const logLimit = 8 << 10

// log is the end of the task's log, as lines under an error.
func (s *smokeTest) log(ctx context.Context, q *queue.Client, taskID string) string {
	const none = ". It has no log"
	if s.builtIn() {
		return none // and is not to be waited for
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var end tail
	follow := &logFollower{queue: q, taskID: taskID, only: latestRun, out: &end, note: io.Discard}
	if _, err := follow.follow(ctx); err != nil && end.text.Len() == 0 {
		return fmt.Sprintf(". Its log cannot be read: %v", err)
	}
	if end.text.Len() == 0 {
		return none
	}
	return ". Its log ends with:\n" + strings.TrimRight(end.text.String(), "\n")
}

// A tail keeps the end of what is written to it. It is no bytes.Buffer to others: io.Copy would read all of a log into that.
type tail struct{ text bytes.Buffer }

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	t.text.Write(p)
	if over := t.text.Len() - logLimit; over > 0 {
		t.text.Next(over)
	}
	return n, nil
}
