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
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/taskfleet/taskfleet/client"
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
	dead bool            // instances register no more
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
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
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

// kill has instances not register from now on.
func (x *cloudy) kill() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.dead = true
}

// work is what an instance does.
func (x *cloudy) work(ctx context.Context, i awsfake.Instance) {
	x.mu.Lock()
	dead := x.dead
	x.mu.Unlock()
	if dead {
		return
	}
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
		r, err = workermanager.New(core).RegisterWorker(ctx, &workermanager.RegisterWorkerRequest{
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
		list, err := q.ClaimWork(brief, user.WorkerPoolID, &queue.ClaimWorkRequest{Tasks: 1, WorkerGroup: user.WorkerGroup, WorkerID: i.ID})
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
  - {instanceType: c7i.2xlarge, capacity: 4, utility: 1.1}
  - {instanceType: m7i.large, capacity: 1, utility: 0.9}
  regions: [{region: us-east-1}]
  availabilityZones: [{availabilityZone: us-east-1a}, {availabilityZone: us-east-1b}]
  maxPrice: 0.5
`)
}
