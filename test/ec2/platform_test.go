package ec2

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/provisioner"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/test/daemon"
	"github.com/taskfleet/taskfleet/test/server"
)

// patience is for everything that is waited for. Nothing takes as long, even on a machine that is busy with other tests.
const patience = 10 * time.Minute

// A platform is a `taskfleet serve` with the provider aws, which may be killed and started again.
type platform struct {
	t       *testing.T
	options server.Options
	server  *server.Server
	core    *client.Client
	queue   *queue.Client
	pools   *workermanager.Client
	fleet   *provisioner.Client
}

// configuration is a server's, for a provider in all accounts of a datacenter, in all but the first by a role.
func (d *datacenter) configuration() string {
	return fmt.Sprintf(`providers:
  aws:
    type: aws
    endpoint: %s
    cluster: under-test
    regions: [%s, %s]
    accounts:
    - id: "%s"
      queues: {%s: "https://sqs.%[2]s.amazonaws.com/%[4]s/events"}
    - id: "%[6]s"
      role: arn:aws:iam::%[6]s:role/taskfleet
    - id: "%[7]s"
      role: arn:aws:iam::%[7]s:role/taskfleet
    instanceProfiles: [worker]
    identityCertificates:
%[8]s`, d.url, home, west, account, home, other, shut, d.certificates())
}

// environment is that of a server: it has the access key of the first account.
func environment() []string {
	id, secret := awsfake.Key(account)
	return []string{
		"AWS_ACCESS_KEY_ID=" + id, "AWS_SECRET_ACCESS_KEY=" + secret, "AWS_SESSION_TOKEN=", "AWS_PROFILE=",
		"AWS_CONFIG_FILE=/nonexistent", "AWS_SHARED_CREDENTIALS_FILE=/nonexistent",
	}
}

// startPlatform starts a platform on a datacenter for the time of the test.
func startPlatform(t *testing.T, database string, d *datacenter) *platform {
	port, err := daemon.FreePort() // that nobody takes while the server is down: workers find it there again
	if err != nil {
		t.Fatal(err)
	}
	p := &platform{t: t, options: server.Options{
		Binary: binary, Data: t.TempDir(), Listen: fmt.Sprintf("127.0.0.1:%d", port), CheckOutput: true, Config: d.configuration(), Environment: environment(),
	}}
	if strings.HasPrefix(database, "postgres:") {
		p.options.Database = database
	}
	p.start()
	p.core, err = client.New(client.Options{
		RootURL: p.server.RootURL, Retry: client.Patient,
		Credentials: cred.Credentials{ClientID: p.server.ClientID, AccessToken: p.server.AccessToken},
	})
	if err != nil {
		t.Fatal(err)
	}
	p.queue, p.pools, p.fleet = queue.New(p.core), workermanager.New(p.core), provisioner.New(p.core)
	t.Cleanup(func() {
		if err := p.server.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			log := p.server.Log()
			t.Logf("the servers' log:\n%s\nthe workers' logs:\n%s", log[max(0, len(log)-20_000):], d.logs())
		}
		for pid := range d.processes() { // of a failed test
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return p
}

// start starts the server, the first time or again.
func (p *platform) start() {
	p.t.Helper()
	s, err := server.Start(context.Background(), p.options)
	if err != nil {
		p.t.Fatal(err)
	}
	p.server = s
}

// replicate starts another replica of a server on the same database. Clients and workers go on using the first; what the
// second does is background work.
func (p *platform) replicate() {
	p.t.Helper()
	o := p.options
	o.Data, o.Listen = p.t.TempDir(), ""
	o.Config = "rootUrl: " + p.server.RootURL + "\n" + o.Config
	secrets, err := os.ReadFile(filepath.Join(p.options.Data, "secrets.json"))
	if err == nil {
		err = os.WriteFile(filepath.Join(o.Data, "secrets.json"), secrets, 0o600)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	s, err := server.Start(context.Background(), o)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			p.t.Error(err)
		}
		if p.t.Failed() {
			log := s.Log()
			p.t.Logf("the log of the second replica:\n%s", log[max(0, len(log)-20_000):])
		}
	})
}

// definition reads that of a pool.
func definition(t *testing.T, file string, parameters map[string]string) *graph.Pool {
	t.Helper()
	pool, err := graph.LoadPool(filepath.Join("testdata", file), graph.Options{Parameters: parameters})
	if err != nil {
		t.Fatal(err)
	}
	return pool
}

func (p *platform) create(pool *graph.Pool) error {
	_, err := p.pools.CreateWorkerPool(p.t.Context(), pool.ID, &pool.Definition)
	return err
}

// becomes waits until something has come to be. It looks the more seldom the longer it waits: looking, too, takes a machine's
// time.
func (p *platform) becomes(what string, is func() bool) {
	p.t.Helper()
	for begun := time.Now(); !is(); {
		took := time.Since(begun)
		if took > patience {
			p.t.Fatalf("it has not come to be that %s", what)
		}
		time.Sleep(min(50*time.Millisecond+took/20, time.Second))
	}
}

// open lists the workers of a pool that have not stopped.
func (p *platform) open(pool string) (list []workermanager.WorkerFull) {
	p.t.Helper()
	for w, err := range p.pools.ListWorkersForWorkerPoolAll(p.t.Context(), pool, workermanager.ListWorkersForWorkerPoolOptions{}) {
		if err != nil {
			p.t.Fatal(err)
		}
		if w.State != "stopped" {
			list = append(list, w)
		}
	}
	return list
}

// errors lists what is recorded of a pool.
func (p *platform) errors(pool string) (list []workermanager.WorkerPoolError) {
	p.t.Helper()
	for e, err := range p.pools.ListWorkerPoolErrorsAll(p.t.Context(), pool, workermanager.ListWorkerPoolErrorsOptions{}) {
		if err != nil {
			p.t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

// statuses are those of a group's tasks, by name.
func (p *platform) statuses(group string) map[string]queue.TaskStatus {
	p.t.Helper()
	all := map[string]queue.TaskStatus{}
	for t, err := range p.queue.ListTaskGroupAll(p.t.Context(), group, queue.ListTaskGroupOptions{}) {
		if err != nil {
			p.t.Fatal(err)
		}
		all[t.Task.Metadata.Name] = t.Status
	}
	return all
}

// submit creates the tasks of a graph.
func (p *platform) submit(file string, parameters map[string]string) *graph.Graph {
	p.t.Helper()
	g, err := graph.Load(filepath.Join("testdata", file), graph.Options{Parameters: parameters})
	if err != nil {
		p.t.Fatal(err)
	}
	if err := graph.Submit(p.t.Context(), p.core, g, nil); err != nil {
		p.t.Fatal(err)
	}
	return g
}
