// Package ec2 runs the platform with its provider aws from end to end: a server, an imitation of EC2 that it reaches over
// HTTP, and instances that are real workers (machines_test.go). account_test.go does the same on a real account, if
// there is one to use; see README.md.
package ec2

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/taskfleet/taskfleet/client/queue"
	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/store/storetest"
	"github.com/taskfleet/taskfleet/test/server"
)

// binary is the one under test.
var binary string

func TestMain(m *testing.M) {
	os.Exit(withBinary(m.Run))
}

func withBinary(f func() int) int {
	directory, err := os.MkdirTemp("", "taskfleet-ec2-")
	if err == nil {
		defer os.RemoveAll(directory)
		binary, err = server.Build(context.Background(), directory)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return f()
}

// A graph of 100 tasks has instances launched, which go again. Meanwhile the server is killed, an instance interrupted, and
// another one lost.
func TestFromNothingToNothing(t *testing.T) { storetest.EachURL(t, fromNothingToNothing) }

func fromNothingToNothing(t *testing.T, database string) {
	d := newDatacenter(t, awsfake.Config{
		Boot:        awsfake.Boot{Median: time.Second, Sigma: 0.2, Shutdown: time.Second},
		Consistency: awsfake.Consistency{Delay: 500 * time.Millisecond, States: 300 * time.Millisecond},
		Limits:      awsfake.Limits{Documented: true},
		Events:      awsfake.Events{Queue: "events", Delay: 300 * time.Millisecond, Duplicated: 0.1},
	})
	p := startPlatform(t, database, d)
	if p.options.Database != "" {
		p.replicate()
	}
	if err := p.create(definition(t, "pool.yml", nil)); err != nil {
		t.Fatal(err)
	}

	// The server dies when EC2 has launched instances for the many tasks that come at once, and has not heard of it.
	killed := make(chan *sdk.CreateFleetInput, 1)
	var armed atomic.Bool
	armed.Store(true)
	victim := p.server
	d.Fail(func(c awsfake.Call) error {
		in, is := c.Input.(*sdk.CreateFleetInput)
		if is && c.After && *in.TargetCapacitySpecification.TotalTargetCapacity > 1 && armed.CompareAndSwap(true, false) {
			if err := victim.Kill(); err != nil {
				t.Error(err)
			}
			killed <- in
		}
		return nil
	})
	begin, open := filepath.Join(d.directory, "begin"), filepath.Join(d.directory, "open")
	g := p.submit(graph.FileName, map[string]string{"begin": begin, "open": open})
	if len(g.Tasks) != 100 {
		t.Fatalf("the graph has %d tasks", len(g.Tasks))
	}
	if err := os.WriteFile(begin, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var fleet *sdk.CreateFleetInput
	select {
	case fleet = <-killed:
	case <-time.After(patience):
		t.Fatal("the server has not asked for several instances")
	}
	p.start()

	// All but the gates run on what there is, and what is not needed for the gates goes.
	p.becomes("only the gates run", func() bool {
		done := 0
		for name, s := range p.statuses(g.GroupID) {
			if strings.HasPrefix(name, "first-") && s.State == "completed" || strings.HasPrefix(name, "gate-") && s.State == "running" {
				done++
			}
		}
		return done == 48
	})
	onlyGates(p, d)
	if n := len(launchedBy(d, *fleet.ClientToken)); n != int(*fleet.TargetCapacitySpecification.TotalTargetCapacity) {
		t.Errorf("a request for %d instances, which was not answered and repeated, has launched %d", *fleet.TargetCapacitySpecification.TotalTargetCapacity, n)
	}

	lose(p, d, g, "gate-1", d.Interrupt) // EC2 takes it back, with notice
	lose(p, d, g, "gate-2", d.crash)
	if err := os.WriteFile(open, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	checkTasks(p, g)
	checkNothingIsLeft(p, d)
	t.Logf("%d instances for %d tasks, %d errors recorded", len(d.Instances()), len(g.Tasks), len(p.errors("aws/build")))
}

// launchedBy are the instances that an intent has launched.
func launchedBy(d *datacenter, token string) (list []awsfake.Instance) {
	for _, i := range d.Instances() {
		if i.Tag("taskfleet-intent") == token {
			list = append(list, i)
		}
	}
	return list
}

// onlyGates waits until there are no more instances than gates, and none is asked for: another one, which the pool may have
// for a moment, would run what is lost, and nothing would be launched.
func onlyGates(p *platform, d *datacenter) {
	p.t.Helper()
	p.becomes("there are no more instances than gates", func() bool {
		x, err := p.fleet.ExplainWorkerPool(p.t.Context(), "aws/build")
		if err != nil {
			p.t.Fatal(err)
		}
		return len(x.Intents) == 0 && d.Alive() == 3 && len(p.open("aws/build")) == 3
	})
}

// lose has the instance end on which a gate runs, and waits until the gate runs on another one that was launched for that.
func lose(p *platform, d *datacenter, g *graph.Graph, gate string, end func(id string) error) {
	t := p.t
	onlyGates(p, d)
	before := len(d.Instances())
	n := len(p.statuses(g.GroupID)[gate].Runs) // more than one if the server lost the first as it was killed
	first := p.statuses(g.GroupID)[gate].Runs[n-1]
	began := time.Now()
	if err := end(first.WorkerID); err != nil {
		t.Fatal(err)
	}
	var second queue.TaskStatusRun
	p.becomes("a task whose instance was lost runs elsewhere", func() bool {
		runs := p.statuses(g.GroupID)[gate].Runs
		if len(runs) <= n || runs[n].State != "running" {
			return false
		}
		first, second = runs[n-1], runs[n]
		return true
	})
	if first.State != "exception" || first.ReasonResolved != "worker-shutdown" || second.WorkerID == first.WorkerID {
		t.Errorf("the run that was lost: %+v, the next: %+v", first, second)
	}
	later := d.Instances()[before:]
	if len(later) == 0 {
		t.Fatal("nothing was launched in place of the instance that was lost")
	}
	wait := later[0].Requested.Sub(began)
	t.Logf("%s: a replacement was asked for after %v, the task was back after %v and ran again after %v", gate, wait,
		first.Resolved.Time().Sub(began), second.Started.Time().Sub(began))
	if wait > 30*time.Second { // it does not take a sweep, nor two minutes after a notice
		t.Errorf("a replacement was asked for only after %v", wait)
	}
}

// checkTasks waits for the end of the graph, and makes sure that each task was done once.
func checkTasks(p *platform, g *graph.Graph) {
	t := p.t
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if progress, err := graph.Watch(ctx, p.core, g.GroupID, func(*graph.Progress, graph.Change) {}); err != nil {
		t.Fatalf("waiting for the graph: %v; %+v", err, progress.Counts())
	}
	ids := map[string]string{}
	for name, s := range p.statuses(g.GroupID) {
		completed := 0
		for _, r := range s.Runs {
			if r.State == "completed" {
				completed++
			}
		}
		if s.State != "completed" || completed != 1 {
			t.Errorf("task %s is %s, with %d completed runs: %+v", name, s.State, completed, s.Runs)
		}
		if len(s.Runs) > 1 && name != "gate-1" && name != "gate-2" {
			t.Logf("task %s was run again: %+v", name, s.Runs)
		}
		ids[s.TaskID] = name
	}
	announced := map[string]int{}
	err := p.server.Messages(ctx, func(m server.Message) bool {
		var payload struct{ Status struct{ TaskID string } }
		if err := json.Unmarshal(m.Payload, &payload); err != nil {
			t.Error(err)
			return false
		}
		name := ids[payload.Status.TaskID]
		announced[name]++
		return name != "join" // which is the last
	}, "exchange/taskcluster-queue/v1/task-completed", "exchange/taskcluster-queue/v1/task-failed", "exchange/taskcluster-queue/v1/task-exception")
	if err != nil {
		t.Error(err)
	}
	for _, name := range ids {
		if announced[name] != 1 {
			t.Errorf("task %s was announced as resolved %d times", name, announced[name])
		}
	}
}

// checkNothingIsLeft waits until the pool is empty, and makes sure that nothing is left of it anywhere.
func checkNothingIsLeft(p *platform, d *datacenter) {
	t := p.t
	p.becomes("all workers are gone", func() bool { return len(p.open("aws/build")) == 0 && d.Alive() == 0 })
	p.becomes("their processes have ended", func() bool { return len(d.processes()) == 0 })
	p.becomes("all instances are terminated", func() bool {
		return !slices.ContainsFunc(d.Instances(), func(i awsfake.Instance) bool { return i.Terminated.IsZero() })
	})
	x, err := p.fleet.ExplainWorkerPool(t.Context(), "aws/build")
	if err != nil {
		t.Fatal(err)
	}
	if len(x.Intents) > 0 {
		t.Errorf("these requests are still open: %+v", x.Intents)
	}
	before := d.Bill()
	time.Sleep(1100 * time.Millisecond) // long enough for the bill of a running instance to rise
	if after := d.Bill(); after != before || before.Hours == 0 {
		t.Errorf("the bill was %+v and rises to %+v", before, after)
	}
	for _, region := range []string{home, west} {
		api := d.EC2(account, region)
		volumes, err := api.DescribeVolumes(t.Context(), &sdk.DescribeVolumesInput{})
		if err != nil {
			t.Fatal(err)
		}
		interfaces, err := api.DescribeNetworkInterfaces(t.Context(), &sdk.DescribeNetworkInterfacesInput{})
		if err != nil {
			t.Fatal(err)
		}
		if n, m := len(volumes.Volumes), len(interfaces.NetworkInterfaces); n+m > 0 {
			t.Errorf("%d volumes and %d network interfaces are left in %s", n, m, region)
		}
	}
	if n := d.Stats().Throttled; len(n) > 0 {
		t.Errorf("AWS has throttled calls: %v", n)
	}
	// Each instance was written down, and nothing else.
	var launched, written []string
	for _, i := range d.Instances() {
		launched = append(launched, i.ID)
		if i.Tag("taskfleet-cluster") != "under-test" || i.Tag("taskfleet-pool") != "aws/build" || i.Tag("taskfleet-intent") == "" {
			t.Errorf("instance %s does not have the tags that say whose it is", i.ID)
		}
	}
	for w, err := range p.pools.ListWorkersForWorkerPoolAll(t.Context(), "aws/build", workermanager.ListWorkersForWorkerPoolOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		written = append(written, w.WorkerID)
	}
	slices.Sort(launched)
	slices.Sort(written)
	if !slices.Equal(launched, written) {
		t.Errorf("launched were %q, and written down %q", launched, written)
	}
}
