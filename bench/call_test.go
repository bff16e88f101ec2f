package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskfleet/taskfleet/api"
	"github.com/taskfleet/taskfleet/auth"
	"github.com/taskfleet/taskfleet/client"
	generated "github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/event"
	"github.com/taskfleet/taskfleet/queue"
	"github.com/taskfleet/taskfleet/scope"
	"github.com/taskfleet/taskfleet/seal"
	"github.com/taskfleet/taskfleet/slugid"
	"github.com/taskfleet/taskfleet/store"
	"github.com/taskfleet/taskfleet/task"
	"github.com/taskfleet/taskfleet/timestamp"
)

// A desk takes the calls of a queue, and does nothing about them: what is left
// is what every call costs, with the queue's own schemas and real signatures.
type desk struct {
	server *api.Server
	root   cred.Credentials
	mint   func(name string, scopes ...string) cred.Credentials
}

type (
	deskTask struct {
		TaskID string `path:"taskId"`
	}
	deskRun struct {
		TaskID string `path:"taskId"`
		RunID  int    `path:"runId"`
	}
	deskQueue struct {
		ID string `path:"taskQueueId"`
	}
	deskWorker struct {
		WorkerGroup string   `json:"workerGroup"`
		WorkerID    string   `json:"workerId"`
		Tasks       int      `json:"tasks"`
		Holding     []string `json:"holding"`
	}
	deskStatus struct {
		Status task.Status `json:"status"`
	}
)

func newDesk(b testing.TB) *desk {
	b.Helper()
	log := slog.New(slog.DiscardHandler)
	db, err := store.Open(b.Context(), "sqlite:"+filepath.Join(b.TempDir(), "db"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	bus, err := event.New(b.Context(), db, log)
	if err != nil {
		b.Fatal(err)
	}
	keys, err := seal.NewKeys(seal.NewKey())
	if err != nil {
		b.Fatal(err)
	}
	d := &desk{root: cred.Credentials{ClientID: "static/taskcluster/root", AccessToken: slugid.Token()}}
	a, err := auth.New(b.Context(), auth.Config{DB: db, Events: bus, Keys: keys, Log: log, Static: []auth.StaticClient{
		{ClientID: d.root.ClientID, AccessToken: d.root.AccessToken, Description: "Root", Scopes: []string{"*"}},
	}})
	if err != nil {
		b.Fatal(err)
	}
	d.mint = func(name string, scopes ...string) cred.Credentials {
		c, err := a.Mint(d.root.ClientID, name, scopes, time.Now(), time.Now().Add(20*time.Minute))
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	v := api.Service[*desk]{Name: "queue", Version: "v1", Title: "Desk", Doc: "A queue that does nothing.", Schemas: queue.API.Schemas, Params: queue.API.Params}
	for _, m := range queue.API.Methods {
		switch m.Name {
		case "createTask":
			v.Methods = append(v.Methods, api.Declare(m.Spec, func(_ context.Context, _ *desk, c api.Call[deskTask, task.Definition]) (r deskStatus, err error) {
				d := &c.Body
				d.ProvisionerID, d.WorkerType = task.SplitQueueID(d.TaskQueueID)
				r.Status = statusOf(c.Path.TaskID)
				return r, c.Authorize(scope.Vars{
					"scopes": d.Scopes, "routes": d.Routes, "projectId": d.ProjectID, "schedulerId": d.SchedulerID,
					"priorities": d.Priority.AtLeast(), "provisionerId": d.ProvisionerID, "workerType": d.WorkerType,
				})
			}))
		case "status":
			v.Methods = append(v.Methods, api.Declare(m.Spec, func(_ context.Context, _ *desk, c api.Call[deskTask, api.None]) (deskStatus, error) {
				return deskStatus{statusOf(c.Path.TaskID)}, nil
			}))
		case "reportCompleted":
			v.Methods = append(v.Methods, api.Declare(m.Spec, func(_ context.Context, _ *desk, c api.Call[deskRun, api.None]) (deskStatus, error) {
				return deskStatus{statusOf(c.Path.TaskID)}, nil
			}))
		case "claimWork":
			v.Methods = append(v.Methods, api.Declare(m.Spec, func(_ context.Context, _ *desk, c api.Call[deskQueue, deskWorker]) (map[string][]string, error) {
				c.Undelivered(func() {})
				return map[string][]string{"tasks": {}}, c.Authorize(scope.Vars{"workerGroup": c.Body.WorkerGroup, "workerId": c.Body.WorkerID})
			}))
		}
	}
	d.server = api.NewServer(api.Options{RootURL: "http://tasks.test", Auth: a, Log: log, Metrics: prometheus.NewRegistry()})
	if err := api.Mount(d.server, v, d); err != nil {
		b.Fatal(err)
	}
	return d
}

func statusOf(id string) task.Status {
	now := timestamp.Now()
	return task.Status{
		TaskID: id, ProvisionerID: "bench", WorkerType: "create", TaskQueueID: "bench/create", SchedulerID: "-", ProjectID: "none", TaskGroupID: id,
		Deadline: now.Add(time.Hour), Expires: now.Add(2 * time.Hour), RetriesLeft: 5, State: task.Pending, Priority: "lowest",
		Runs: []task.Run{{RunID: 0, State: task.Pending, ReasonCreated: task.Scheduled, Scheduled: now}},
	}
}

func createBody() *generated.CreateTaskRequest {
	now := timestamp.Now()
	return &generated.CreateTaskRequest{
		TaskQueueID: "bench/create", TaskGroupID: slugid.New(), Created: now, Deadline: now.Add(time.Hour), Expires: now.Add(2 * time.Hour),
		Payload: json.RawMessage(`{"command":[["true"]],"maxRunTime":60}`),
		Metadata: generated.TaskMetadata{
			Name: "bench", Description: "Measures how fast tasks are created.", Owner: "bench@example.com", Source: "http://127.0.0.1:8080",
		},
	}
}

// largeBody is like what a decision task of a large project creates.
func largeBody() *generated.CreateTaskRequest {
	t := createBody()
	t.Dependencies = []string{slugid.New(), slugid.New(), slugid.New()}
	t.Scopes = []string{"queue:get-artifact:project/x/*", "secrets:get:project/x/level-1"}
	t.Routes = []string{"index.project.x.revision.0123456789abcdef.build", "tc-treeherder.v2.x.0123456789abcdef"}
	t.Priority, t.ProjectID, t.SchedulerID = "low", "project-x", "x-level-1"
	t.Tags = map[string]string{"kind": "build", "os": "linux", "createdForUser": "someone@example.com"}
	t.Payload = json.RawMessage(`{"command":["/bin/bash","-lc","set -e\ncd checkout\nmake build && make \"check\"\n"],"env":{"MOZ_FETCHES":"[{\"artifact\": \"public/build/clang.tar.zst\"}]","REV":"0123456789abcdef","SCM_LEVEL":"1"},"features":{"chainOfTrust":true,"taskclusterProxy":true},"image":{"path":"public/image.tar.zst","taskId":"VMxKlcVxTDyPoOYBxIhZ5A","type":"task-image"},"maxRunTime":7200,"artifacts":[{"name":"public/build","path":"/builds/artifacts","type":"directory","expires":"2027-01-01T00:00:00.000Z"}],"onExitStatus":{"retry":[72,4]}}`)
	t.Extra = json.RawMessage(`{"treeherder":{"symbol":"B","tier":1,"platform":"linux64/opt"},"index":{"rank":1700000000},"parent":"VMxKlcVxTDyPoOYBxIhZ5A"}`)
	return t
}

// A wire takes replies, and deadlines as a connection does.
type wire struct {
	header http.Header
	status int
}

func (w *wire) Header() http.Header              { return w.header }
func (w *wire) WriteHeader(status int)           { w.status = status }
func (w *wire) Write(b []byte) (int, error)      { return len(b), nil }
func (w *wire) Flush()                           {}
func (w *wire) SetReadDeadline(time.Time) error  { return nil }
func (w *wire) SetWriteDeadline(time.Time) error { return nil }

// cpu has the benchmark report what the process used of processors, garbage
// collection included, which says more than the time where others work, too.
func cpu(b *testing.B) (stop func()) {
	used := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := used()
	return func() { b.ReportMetric(float64((used()-before).Nanoseconds())/float64(b.N), "cpu-ns/op") }
}

// What a call costs the server but for the network and the work itself.
func BenchmarkServe(b *testing.B) {
	d := newDesk(b)
	id := slugid.New()
	worker := d.mint("task-client/"+id+"/0/on/bench/client-0/until/1700000000", "queue:resolve-task:"+id+"/0", "queue:create-artifact:"+id+"/0", "queue:reclaim-task:"+id+"/0")
	for _, call := range []struct {
		name, verb, path string
		creds            cred.Credentials
		body             func() any
	}{
		{"createTask", "PUT", "/task/" + id, d.root, func() any { return createBody() }},
		{"createTask, large", "PUT", "/task/" + id, d.root, func() any { return largeBody() }},
		{"status", "GET", "/task/" + id + "/status", d.root, nil},
		{"reportCompleted", "POST", "/task/" + id + "/runs/0/completed", worker, nil},
		{"claimWork", "POST", "/claim-work/bench%2Fcreate", d.root, func() any {
			return &generated.ClaimWorkRequest{WorkerGroup: "bench", WorkerID: "client-0", Tasks: 1}
		}},
	} {
		b.Run(call.name, func(b *testing.B) {
			requests := make([]*http.Request, b.N)
			for i := range requests {
				var body []byte
				if call.body != nil {
					body, _ = json.Marshal(call.body())
				}
				r := httptest.NewRequest(call.verb, "http://tasks.test/api/queue/v1"+call.path, io.NopCloser(bytes.NewReader(body)))
				r.ContentLength = int64(len(body))
				if body != nil {
					r.Header.Set("Content-Type", "application/json")
				}
				r.Header.Set("Accept-Encoding", "gzip")
				if err := cred.Sign(r, call.creds, nil); err != nil {
					b.Fatal(err)
				}
				requests[i] = r
			}
			b.ReportAllocs()
			b.ResetTimer()
			defer cpu(b)()
			for _, r := range requests {
				w := &wire{header: http.Header{}}
				if d.server.ServeHTTP(w, r); w.status != http.StatusOK {
					b.Fatal(w.status)
				}
			}
		})
	}
}

// What a call costs client and server together, over a connection.
func BenchmarkRoundTrip(b *testing.B) {
	d := newDesk(b)
	s := httptest.NewServer(d.server)
	defer s.Close()
	c, err := client.New(client.Options{RootURL: s.URL, Credentials: d.root})
	if err != nil {
		b.Fatal(err)
	}
	q := generated.New(c)
	id := slugid.New()
	for name, call := range map[string]func(i int) error{
		"createTask": func(int) error { _, err := q.CreateTask(b.Context(), id, createBody()); return err },
		"status":     func(int) error { _, err := q.Status(b.Context(), id); return err },
		"claimWork": func(i int) error {
			_, err := q.ClaimWork(b.Context(), "bench/create", &generated.ClaimWorkRequest{WorkerGroup: "bench", WorkerID: "client-" + strconv.Itoa(i%8), Tasks: 1})
			return err
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			defer cpu(b)()
			for i := range b.N {
				if err := call(i); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// What a call costs the client but for the network.
func BenchmarkClient(b *testing.B) {
	reply, err := json.Marshal(deskStatus{statusOf(slugid.New())})
	if err != nil {
		b.Fatal(err)
	}
	c, err := client.New(client.Options{
		RootURL: "http://tasks.test", Credentials: cred.Credentials{ClientID: "static/taskcluster/root", AccessToken: slugid.Token()}, Transport: answer(reply),
	})
	if err != nil {
		b.Fatal(err)
	}
	q := generated.New(c)
	id := slugid.New()
	b.Run("createTask", func(b *testing.B) {
		b.ReportAllocs()
		defer cpu(b)()
		for range b.N {
			if _, err := q.CreateTask(b.Context(), id, createBody()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("status", func(b *testing.B) {
		b.ReportAllocs()
		defer cpu(b)()
		for range b.N {
			if _, err := q.Status(b.Context(), id); err != nil {
				b.Fatal(err)
			}
		}
	})
	temporary, err := cred.Temporary(c.Credentials(), cred.Options{ClientID: "a", Scopes: []string{"queue:resolve-task:" + id + "/0"}, Expiry: time.Now().Add(time.Hour)})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("reportCompleted", func(b *testing.B) {
		b.ReportAllocs()
		defer cpu(b)()
		for range b.N {
			if _, err := generated.New(c.WithCredentials(temporary, nil)).ReportCompleted(b.Context(), id, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// An answer is what a transport gets for every request.
type answer []byte

func (a answer) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: http.StatusOK, Status: "200 OK", Header: http.Header{"Content-Type": {"application/json"}},
		ContentLength: int64(len(a)), Body: io.NopCloser(bytes.NewReader(a)), Request: r,
	}, nil
}
