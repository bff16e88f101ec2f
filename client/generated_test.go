package client_test

import (
	"encoding/json"
	"testing"

	"github.com/taskfleet/taskfleet/client/auth"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/timestamp"
)

// Absent, empty and zero are different things to a server.
func TestWhatRequestsSay(t *testing.T) {
	size := int64(0)
	for want, in := range map[string]any{
		`{"workerGroup":"","workerId":"","tasks":0}`: queue.ClaimWorkRequest{},
		`{"scopes":[]}`:                  auth.Scopeset{},
		`{"scopes":[],"description":""}`: auth.CreateRoleRequest{},
		`{"expires":"2026-01-02T03:04:05.006Z","description":""}`:             auth.CreateClientRequest{Expires: 1767323045006},
		`{"expires":"2026-01-02T03:04:05.006Z","description":"","scopes":[]}`: auth.CreateClientRequest{Expires: 1767323045006, Scopes: []string{}},
		`{"storageType":"s3","expires":"1970-01-01T00:00:00.001Z","contentLength":0,"contentType":"text/plain"}`: queue.PostArtifactRequest{
			StorageType: "s3", Expires: 1, ContentType: "text/plain", ContentLength: &size,
		},
		`{"workerPoolId":"a/b","providerId":"local","workerGroup":"g","workerId":"i","workerIdentityProof":{"token":"x"}}`: workermanager.RegisterWorkerRequest{
			WorkerPoolID: "a/b", ProviderID: "local", WorkerGroup: "g", WorkerID: "i", WorkerIdentityProof: json.RawMessage(`{"token":"x"}`),
		},
	} {
		got, err := json.Marshal(in)
		if err != nil || string(got) != want {
			t.Errorf("%T: got %s, %v; want %s", in, got, err, want)
		}
	}
	none := 0
	b, err := json.Marshal(queue.CreateTaskRequest{Payload: json.RawMessage(`{}`), Retries: &none})
	want := `{"created":"1970-01-01T00:00:00.000Z","deadline":"1970-01-01T00:00:00.000Z","payload":{},` +
		`"metadata":{"name":"","description":"","owner":"","source":""},"retries":0}`
	if err != nil || string(b) != want {
		t.Errorf("got  %s, %v\nwant %s", b, err, want)
	}
}

func TestWhatAnswersSay(t *testing.T) {
	var status queue.TaskStatus
	const text = `{"taskId":"x","state":"running","runs":[{"runId":0,"state":"running","scheduled":"2026-01-02T03:04:05Z","somethingNew":1}],"deadline":"2026-01-02T03:04:05.678+01:00"}`
	if err := json.Unmarshal([]byte(text), &status); err != nil {
		t.Fatal(err)
	}
	run := status.Runs[0]
	if status.Deadline != timestamp.Time(1767319445678) || run.Scheduled.IsZero() || !run.Started.IsZero() || run.WorkerID != "" {
		t.Errorf("got %+v", status)
	}
}

// Both conversions hold only while the fields are the same, in this order.
func TestCredentialsInAnswersCanBeUsed(t *testing.T) {
	want := cred.Credentials{ClientID: "c", AccessToken: "a", Certificate: "{}"}
	if got := cred.Credentials(queue.TaskCredentials{ClientID: "c", AccessToken: "a", Certificate: "{}"}); got != want {
		t.Error(got)
	}
	if got := cred.Credentials(workermanager.RegisterWorkerResponseCredentials{ClientID: "c", AccessToken: "a", Certificate: "{}"}); got != want {
		t.Error(got)
	}
}
