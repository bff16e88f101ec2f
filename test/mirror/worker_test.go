package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/cred"
	copies "github.com/taskfleet/taskfleet/mirror"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An artifact is one that a task made, with what is in it.
type artifact struct {
	taskID  string
	name    string
	content []byte
}

func (a *artifact) key() string { return a.taskID + "/0/" + a.name }

// origin is what the mirror copies.
func (s *site) originOf(a *artifact) copies.Origin {
	return copies.Origin{Bucket: s.buckets[home].Name(), Key: a.key()}
}

// noise is content that tells whose it is.
func noise(size int) []byte {
	b := make([]byte, size)
	random := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16)})
	random.Read(b) // never fails
	return b
}

func queueOf(region string) string { return "test-pool/" + region }

// task creates a task that runs in a region after others. It may read private artifacts.
func (s *site) task(region string, after ...string) string {
	s.t.Helper()
	id, now := slugid.New(), timestamp.Now()
	_, err := queue.New(s.operator()).CreateTask(s.t.Context(), id, &queue.CreateTaskRequest{
		TaskQueueID: queueOf(region), Created: now, Deadline: now.Add(2 * time.Hour), Expires: now.Add(4 * time.Hour),
		Dependencies: after, Payload: json.RawMessage(`{}`), Scopes: []string{"queue:get-artifact:private/*"},
		Metadata: queue.TaskMetadata{Name: "story", Description: "In " + region, Owner: "test@example.com", Source: "https://example.com"},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return id
}

// claim has a worker in a region claim a task, and returns what the task does its calls with.
func (s *site) claim(ctx context.Context, region, worker string) (taskID string, calls *queue.Client, err error) {
	core := s.operator()
	for {
		// A worker group is a region or one of its zones.
		reply, err := queue.New(core).ClaimWork(ctx, queueOf(region), &queue.ClaimWorkRequest{WorkerGroup: region + "a", WorkerID: worker, Tasks: 1})
		if err != nil {
			return "", nil, err
		}
		for _, c := range reply.Tasks {
			return c.Status.TaskID, queue.New(core.WithCredentials(cred.Credentials(c.Credentials), nil)), nil
		}
	}
}

// build has a task at home make artifacts.
func (s *site) build(list ...*artifact) {
	s.t.Helper()
	s.buildWith(func(string, *queue.Client) error { return nil }, list...)
}

// buildWith is build with something else that the task does.
func (s *site) buildWith(f func(taskID string, calls *queue.Client) error, list ...*artifact) {
	s.t.Helper()
	ctx := s.t.Context()
	s.task(home)
	id, calls, err := s.claim(ctx, home, "builder")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, a := range list {
		a.taskID = id
		if err := keep(ctx, calls, a); err != nil {
			s.t.Fatalf("storing %s: %v", a.name, err)
		}
	}
	if err := f(id, calls); err != nil {
		s.t.Fatal(err)
	}
	if _, err := calls.ReportCompleted(ctx, id, 0); err != nil {
		s.t.Fatal(err)
	}
}

// keep uploads an artifact.
func keep(ctx context.Context, calls *queue.Client, a *artifact) error {
	length := int64(len(a.content))
	made, err := calls.CreateArtifact(ctx, a.taskID, 0, a.name, &queue.PostArtifactRequest{
		StorageType: "s3", ContentType: "application/octet-stream", ContentLength: &length, Expires: timestamp.Now().Add(3 * time.Hour),
	})
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, made.PutURL, bytes.NewReader(a.content))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/octet-stream")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("PUT: %s", resp.Status)
	}
	return nil
}

// fetch downloads an artifact as a task does, compares it, and returns in which region it was.
func (s *site) fetch(ctx context.Context, calls *queue.Client, a *artifact) (region string, err error) {
	to, err := calls.GetArtifact(ctx, a.taskID, 0, a.name)
	if err != nil {
		return "", err
	}
	content, where, err := get(ctx, to.URL, nil)
	switch {
	case err != nil:
		return s.region(to.URL), fmt.Errorf("%s of task %s: %w", a.name, a.taskID, err)
	case !bytes.Equal(content, a.content):
		return "", fmt.Errorf("%s of task %s has %d other bytes than the %d that it should have", a.name, a.taskID, len(content), len(a.content))
	}
	return s.region(where), nil
}

// expect fetches artifacts, which have to be in a region.
func (s *site) expect(t *testing.T, calls *queue.Client, region string, list ...*artifact) {
	t.Helper()
	for _, a := range list {
		s.comesFrom(t, a.name, region, func() (string, error) { return s.fetch(t.Context(), calls, a) })
	}
}

// comesFrom checks from where a download comes. It may come from elsewhere for a while if the platform has said that it
// cannot reach the region's bucket, which it says of all on a machine that is slow beyond reason.
func (s *site) comesFrom(t *testing.T, what, region string, download func() (where string, err error)) {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		where, err := download()
		excused := bytes.Contains(s.replicas[0].Log(), []byte("does not answer")) && time.Since(begun) < patience
		switch {
		case err != nil:
			t.Error(err)
		case where == region:
		case excused:
			continue
		default:
			t.Errorf("%s came from %q instead of %s", what, where, region)
		}
		return
	}
}

// near is a client of the queue whose requests say that they are from a region.
func (s *site) near(region string) *queue.Client {
	return queue.New(s.as(s.replicas[0], s.root, map[string]string{"X-Taskfleet-Region": region}))
}
