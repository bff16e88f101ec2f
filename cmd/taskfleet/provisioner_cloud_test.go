//go:build !agent

package main

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
	"github.com/taskfleet/taskfleet/client/provisioner"
	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/cred"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
)

const (
	cloudAccount = "123456789012"
	cloudRegion  = "us-east-1"
)

// A cloudy platform has a provider aws whose cloud is imitated, behind HTTP.
// What its instances would run is imitated as well: they register, claim tasks,
// and complete those whose name is in done.
type cloudy struct {
	*platform
	t     *testing.T
	cloud *awsfake.Cloud
	image string

	mu   sync.Mutex
	done map[string]bool // names of tasks that are to be completed
}

func startCloudy(t *testing.T, boot time.Duration) *cloudy {
	t.Helper()
	x := &cloudy{t: t, done: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	var workers sync.WaitGroup
	x.cloud = awsfake.New(awsfake.Config{
		Seed: 1, Regions: []string{cloudRegion}, Boot: awsfake.Boot{Median: boot, Shutdown: boot / 2}, Events: awsfake.Events{Queue: "events"},
		Happened: func(h awsfake.Happening) {
			if h.Kind == awsfake.Booted && ctx.Err() == nil {
				workers.Go(func() { x.work(ctx, h.Instance) })
			}
		},
	})
	x.image = x.cloud.Surroundings(cloudAccount, cloudRegion).Images["x86_64"]
	workers.Go(func() { x.cloud.Run(ctx) })
	server := httptest.NewServer(x.cloud.Handler())
	certificate, err := x.cloud.Certificate(cloudRegion)
	if err != nil {
		t.Fatal(err)
	}
	key, secret := awsfake.Key(cloudAccount)
	t.Setenv("AWS_ACCESS_KEY_ID", key)
	t.Setenv("AWS_SECRET_ACCESS_KEY", secret)
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(t.TempDir(), "none"))

	c := defaultConfig()
	c.Data, c.Listen = filepath.Join(t.TempDir(), "data"), "127.0.0.1:0"
	c.Providers = map[string]ProviderConfig{"aws": {
		Type: "aws", Cluster: "test", Regions: []string{cloudRegion}, Endpoint: server.URL,
		Accounts:             []AccountConfig{{ID: cloudAccount, Queues: map[string]string{cloudRegion: "https://sqs." + cloudRegion + ".amazonaws.com/" + cloudAccount + "/events"}}},
		IdentityCertificates: map[string]string{cloudRegion: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))},
	}}
	if err := c.check(); err != nil {
		t.Fatal(err)
	}
	if x.platform, err = startPlatform(t.Context(), c, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		workers.Wait()
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		if err := x.Stop(ctx); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	t.Setenv("TASKFLEET_DATA", c.Data)
	return x
}

// complete lets the workers complete the tasks of a name.
func (x *cloudy) complete(name string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.done[name] = true
}

// work is what an instance does.
func (x *cloudy) work(ctx context.Context, i awsfake.Instance) {
	var user struct{ RootURL, WorkerPoolID, ProviderID, WorkerGroup string }
	if err := json.Unmarshal(i.UserData, &user); err != nil {
		x.t.Error(err)
		return
	}
	signed, err := x.cloud.Identity(i.ID)
	if err != nil {
		return // it has ended
	}
	proof, err := json.Marshal(map[string]string{"document": string(signed.Document), "signature": signed.Signature})
	if err != nil {
		x.t.Error(err)
		return
	}
	core, err := client.New(client.Options{RootURL: user.RootURL})
	if err != nil {
		x.t.Error(err)
		return
	}
	var r *workermanager.RegisterWorkerResponse
	for r == nil {
		r, _ = workermanager.New(core).RegisterWorker(ctx, &workermanager.RegisterWorkerRequest{
			WorkerPoolID: user.WorkerPoolID, ProviderID: user.ProviderID, WorkerGroup: user.WorkerGroup, WorkerID: i.ID, WorkerIdentityProof: proof,
		})
		if !pause(ctx, 100*time.Millisecond) { // it may not be known yet
			return
		}
	}
	if core, err = client.New(client.Options{RootURL: user.RootURL, Credentials: cred.Credentials(r.Credentials)}); err != nil {
		x.t.Error(err)
		return
	}
	q, claims := queue.New(core), map[string]queue.ClaimWorkResponseTask{}
	for pause(ctx, 100*time.Millisecond) {
		if now, known := x.cloud.Instance(i.ID); !known || !now.Stopping.IsZero() {
			return
		}
		for id, c := range claims {
			x.mu.Lock()
			done := x.done[c.Task.Metadata.Name]
			x.mu.Unlock()
			if done {
				if core, err := client.New(client.Options{RootURL: user.RootURL, Credentials: cred.Credentials(c.Credentials)}); err == nil {
					queue.New(core).ReportCompleted(ctx, id, c.RunID)
				}
				delete(claims, id)
			}
		}
		if len(claims) > 0 {
			continue
		}
		if d, err := workermanager.New(core).ShouldWorkerTerminate(ctx, user.WorkerPoolID, user.WorkerGroup, i.ID); err == nil && d.Terminate {
			return // and the provider ends the machine
		}
		brief, cancel := context.WithTimeout(ctx, time.Second)
		list, err := q.ClaimWork(brief, user.WorkerPoolID, &queue.ClaimWorkRequest{
			Tasks: 1, WorkerGroup: user.WorkerGroup, WorkerID: i.ID, Holding: []string{}, // an answer may come when nobody waits for it any more
		})
		cancel()
		if err != nil {
			continue
		}
		for _, c := range list.Tasks {
			claims[c.Status.TaskID] = c
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// cloudPool is the definition of a pool on the imitated cloud.
func (x *cloudy) cloudPool(limit int) string {
	return strings.NewReplacer("IMAGE", x.image, "LIMIT", fmt.Sprint(limit)).Replace(`
workerPoolId: aws/build
providerId: aws
owner: nobody@example.com
description: Builds, where they are cheap.
config:
  minCapacity: 0
  maxCapacity: LIMIT
  launchConfig: {ImageId: IMAGE}
  instanceTypes:
  - {instanceType: c7i.large, capacity: 1}
  - {instanceType: c7i.2xlarge, capacity: 1, utility: 1.1}
  - {instanceType: m7i.large, capacity: 1, utility: 0.9}
  regions: [{region: us-east-1}]
  availabilityZones: [{availabilityZone: us-east-1a}, {availabilityZone: us-east-1b}]
  maxPrice: 0.5
  ondemandAfter: 0
`)
}

// eventually has a command print what is wanted before long.
func eventually(t *testing.T, want string, args ...string) (out string) {
	t.Helper()
	pattern, until := regexp.MustCompile(want), time.Now().Add(soon)
	for {
		out, errOut, _ := command(t, args...)
		if pattern.MatchString(out + errOut) {
			return out
		}
		if time.Now().After(until) {
			t.Fatalf("taskfleet %s prints\n%s%s and not %s", strings.Join(args, " "), out, errOut, want)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

func createTask(t *testing.T, pool, name string) {
	t.Helper()
	expect(t, exitOK, "", "task", "create", "-q", pool, "--name", name, "--", "true")
}

// An operator's day: define, watch, interfere, count the cost, delete.
func TestAPoolInACloudIsLookedAfter(t *testing.T) {
	x := startCloudy(t, time.Second)
	file := writeFile(t, "pool.yml", x.cloudPool(4))
	expect(t, exitOK, "aws/build is good: 1 launch configuration of the provider aws", "provisioner", "pools", "validate", "-f", file)
	expect(t, exitOK, `(?s)us-east-1a/c7i.2xlarge/spot +1 +1.1 +- +-.*12 combinations; prices are read`, "provisioner", "preview", "-f", file)
	expect(t, exitDifferent, "The pool is new. It gets workers as its queue needs them, for up to 4 tasks at", "pool", "diff", "-f", file)
	expect(t, exitOK, "created aws/build", "provisioner", "pools", "apply", "-f", file)
	expect(t, exitOK, "^$", "pool", "diff", "-f", file)
	expect(t, exitOK, "^unchanged aws/build\n$", "pool", "apply", "-f", file)
	out := expect(t, exitOK, "", "provisioner", "preview", "aws/build", "--request", "--market", "us-east-1b/m7i.large/on-demand")
	if !strings.Contains(out, x.image) || strings.Contains(out, "us-east-1a/") {
		t.Errorf("the request is\n%s", out)
	}
	eventually(t, `us-east-1a/c7i.large/spot +\$0.0312 +\$0.0312 +65% +1 +1\n`, "provisioner", "prices", "aws/build")

	createTask(t, "aws/build", "one")
	createTask(t, "aws/build", "two")
	eventually(t, `(?s)i-[0-9a-f]{17} +working +1/1 .*i-[0-9a-f]{17} +working`, "provisioner", "workers", "list", "aws/build")
	expect(t, exitOK, `(?s)0 tasks pending, 2 running.*SEEN +COMPUTED\n.*asked for`, "provisioner", "explain", "aws/build")
	expect(t, exitOK, `start [1-4]`, "provisioner", "explain", "aws/build", "--since", "1h")
	expect(t, exitOK, `us-east-1./[cm]7i[^ ]+ +open +\$[0-9.]+ +[1-9]`, "provisioner", "markets", "aws/build")
	var workers []provisioner.WorkerState
	if err := json.Unmarshal([]byte(expect(t, exitOK, "", "provisioner", "workers", "list", "--activity", "working", "--json")), &workers); err != nil || len(workers) != 2 {
		t.Fatalf("%v: %+v", err, workers)
	}
	first, second := workers[0].WorkerID, workers[1].WorkerID

	other := writeFile(t, "other.yml", strings.ReplaceAll(x.cloudPool(1), "m7i.large", "m6i.large"))
	expect(t, exitOK, `(?s)\+ +"instanceType": "m6i.large".*[2-4] workers are replaced.* when done with what they run,\s+2 tasks.*nothing was changed`, "pool", "apply", "-f", other, "--dry-run")
	expect(t, exitDifferent, `(?s)[2-4] workers stay as they are.*some for 1\s+then: the oldest`, "pool", "diff", "-f", writeFile(t, "less.yml", x.cloudPool(1)))
	expect(t, exitDifferent, `"The platform will refuse it: The pool's configuration does not fit`, "pool", "diff", "--json", "-f", writeFile(t, "wrong.yml", strings.ReplaceAll(x.cloudPool(4), "us-east-1}", "us-east-9}")))
	expect(t, exitFailed, `(?s)ami-1.*is not good: [a-z0-9]+ things? (is|are) wrong`, "pool", "validate", "-f", writeFile(t, "image.yml", strings.ReplaceAll(x.cloudPool(4), x.image, "ami-1")))

	expect(t, exitOK, "is in quarantine until .*, in .*; it finishes 1 task first", "provisioner", "workers", "quarantine", "aws/build", first, "--for", "2h", "--reason", "it hums")
	expect(t, exitOK, "It has tasks. It finishes them, gets no more, and then ends.", "provisioner", "workers", "drain", "aws/build", second)
	expect(t, exitOK, second+" +draining", "provisioner", "workers", "list", "aws/build")
	x.complete("one")
	x.complete("two")
	expect(t, exitOK, "(?s)it was drained by static/taskcluster/root", "provisioner", "workers", "drain", "aws/build", second, "--wait")
	eventually(t, first+" +quarantined", "provisioner", "workers", "list", "aws/build")
	expect(t, exitOK, `(?s)state +running: quarantined.*by static/taskcluster/root: until.*it hums.*latest tasks`, "provisioner", "workers", "show", "aws/build", first)
	expect(t, exitOK, "workers for 1 task are in quarantine", "provisioner", "status")
	expect(t, exitOK, "is not in quarantine any more", "provisioner", "workers", "quarantine", "aws/build", first, "--end")
	expect(t, exitOK, "It has ended: it was terminated by", "provisioner", "workers", "terminate", "aws/build", first, "--wait")
	expect(t, exitOK, second+`.*it was drained by`, "provisioner", "workers", "list", "aws/build", "--stopped")
	expect(t, exitOK, `(?s)state +stopped.*cost +<?\$0`, "provisioner", "workers", "show", "aws/build", "us-east-1/"+first)
	expect(t, exitFailed, "there is no worker i-0 in the pool aws/build; taskfleet provisioner workers list", "provisioner", "workers", "show", "aws/build", "i-0")
	eventually(t, `aws/build +<?\$0.* 2 +<?\$0[^ ]* +[2-9]`, "provisioner", "cost", "--since", "7d")

	expect(t, exitOK, "deleted aws/build", "pool", "delete", "aws/build", "--wait")
	expect(t, exitFailed, "there is no worker pool aws/build; taskfleet pool list shows", "provisioner", "explain", "aws/build")
}

// A night: nothing can be bought, and then not even asked for.
func TestWhatACloudRefusesIsExplained(t *testing.T) {
	x := startCloudy(t, time.Second)
	expect(t, exitOK, "created", "pool", "apply", "-f", writeFile(t, "pool.yml", x.cloudPool(4)))
	for _, zone := range []string{"us-east-1a", "us-east-1b"} {
		for _, kind := range []string{"c7i.large", "c7i.2xlarge", "m7i.large"} {
			for _, spot := range []bool{true, false} {
				x.cloud.SellOut(awsfake.Market{Region: cloudRegion, Zone: zone, Type: kind, Spot: spot}, true)
			}
		}
	}
	expect(t, exitOK, "Nothing is wrong.", "provisioner", "status")
	createTask(t, "aws/build", "stuck")
	eventually(t, `aws/build: 1 task waits.*and none of its`, "provisioner", "status")
	expect(t, exitFailed, `(?s)WRONG.*taskfleet provisioner markets aws/build --closed`, "provisioner", "status")
	expect(t, exitOK, `(?s)closed [0-9]+[sm].*Not open:.*InsufficientInstanceCapacity`, "provisioner", "markets", "aws/build", "--closed")
	expect(t, exitOK, `(?s)What stands in the way.*markets are not open \(us-east-1a/.*of 12 closed markets is probed`, "provisioner", "explain", "aws/build")
	out := expect(t, exitOK, `capacity-exhausted: A market is sold out`, "provisioner", "errors")
	id := regexp.MustCompile(`\n +id ([\w-]{22})`).FindStringSubmatch(out)
	if id == nil {
		t.Fatalf("the errors are\n%s", out)
	}
	expect(t, exitOK, `(?s)code InsufficientInstanceCapacity.*region us-east-1`, "provisioner", "errors", "aws/build", "--id", id[1])
	expect(t, exitOK, `"kind": "capacity-exhausted"`, "provisioner", "errors", "--kind", "capacity-exhausted", "--json")
	expect(t, exitOK, `no errors since`, "provisioner", "errors", "--kind", "quota-exceeded")
	expect(t, exitOK, `aws/build: nothing waits to be tried again`, "pool", "retry", "aws/build")

	x.cloud.Deny(cloudAccount, awsfake.Denial{Action: "ec2:CreateFleet"})
	// Another definition has another launch configuration, with other markets.
	expect(t, exitOK, "changed", "pool", "apply", "-f", writeFile(t, "pool.yml", strings.NewReplacer("c7i.", "c6i.", "m7i.", "m6i.").Replace(x.cloudPool(4))))
	eventually(t, `cannot be started: The provider refuses the\s+account\. It failed`, "provisioner", "status")
	expect(t, exitOK, `not-authorized: The provider refuses the account`, "provisioner", "errors", "aws/build")
	x.cloud.Permit(cloudAccount)
	expect(t, exitOK, `tries 1 launch configuration again`, "provisioner", "pools", "retry", "aws/build")
	eventually(t, `working +1/`, "provisioner", "workers", "list")
}

func TestNamesAreCompleted(t *testing.T) {
	startReal(t)
	expect(t, exitOK, "created", "pool", "apply", "-f", writeFile(t, "pool.yml", testPool))
	expect(t, exitOK, "(?m)^local/test$", "__complete", "provisioner", "explain", "")
	expect(t, exitOK, "(?m)^local/test$", "__complete", "provisioner", "pools", "delete", "")
	createTask(t, "local/test", "one")
	eventually(t, `(?m)^w-.*\t(booting|working|idle), local$`, "__complete", "provisioner", "workers", "drain", "local/test", "")
	out := expect(t, exitOK, "", "__complete", "provisioner", "cost", "local/test", "")
	if strings.Contains(out, "local/test") {
		t.Errorf("what is named already is offered: %s", out)
	}
}
