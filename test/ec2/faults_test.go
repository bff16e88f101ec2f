package ec2

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/taskfleet/taskfleet/client/workermanager"
	"github.com/taskfleet/taskfleet/graph"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/test/server"
)

// What is wrong with a pool is said to whoever defines it, if it can be known by then, and otherwise found out when the
// pool needs a worker. Either way it is recorded as an error of the pool and announced, and other pools go on.
func TestWhatIsWrongWithAPoolIsSaidAndStopsNoOther(t *testing.T) {
	d := newDatacenter(t, awsfake.Config{
		Boot:   awsfake.Boot{Median: 500 * time.Millisecond, Shutdown: 500 * time.Millisecond},
		Quotas: awsfake.Quotas{OnDemand: 16},
		Events: awsfake.Events{Queue: "events"},
	})
	d.Deny(shut, awsfake.Denial{Action: "sts:AssumeRole"})
	image := d.Surroundings(account, home).Images["x86_64"]
	passing := d.AddImage(account, home, "passing", "x86_64")
	p := startPlatform(t, "sqlite:", d)

	expected := map[string]string{} // kinds of errors by pool
	refused := func(name string, change func(*graph.Pool), say string, parameters ...string) {
		t.Helper()
		pool := plain(t, name, image, parameters...)
		if change != nil {
			change(pool)
		}
		switch err := p.create(pool); {
		case err == nil:
			t.Errorf("the definition of %s is accepted, though something is wrong with it: %s", name, say)
		case !strings.Contains(err.Error(), say):
			t.Errorf("the definition of %s is refused without saying %q: %v", name, say, err)
		}
		p.hasError(pool.ID, "configuration-wrong", say)
		expected[pool.ID] = "configuration-wrong"
	}
	refused("moon", nil, "us-moon-1", "region", "us-moon-1")
	refused("malformed", func(o *graph.Pool) {
		o.Definition.Config = json.RawMessage(strings.Replace(string(o.Definition.Config), `"InstanceType"`, `"InstanceTypes": 1, "InstanceType"`, 1))
	}, "InstanceTypes")
	refused("no-image", nil, "ami-00000000000000000", "image", "ami-00000000000000000")
	refused("no-role", nil, "sts:AssumeRole", "account", shut)

	// These are found good, and then the world changes.
	accepted := func(name string, parameters ...string) {
		t.Helper()
		if err := p.create(plain(t, name, image, parameters...)); err != nil {
			t.Fatal(err)
		}
	}
	accepted("good")
	accepted("image-gone", "image", passing)
	accepted("role-denied", "account", other)
	accepted("no-quota", "region", west, "image", d.Surroundings(account, west).Images["x86_64"])
	d.RemoveImage(account, home, passing)
	d.Deny(other, awsfake.Denial{Action: "ec2:RunInstances", Role: "taskfleet"})
	if _, err := d.EC2(account, west).RunInstances(t.Context(), &sdk.RunInstancesInput{ // somebody else's, who leaves nothing
		ImageId: aws.String(d.Surroundings(account, west).Images["x86_64"]), InstanceType: types.InstanceTypeC7iXlarge, MinCount: aws.Int32(4), MaxCount: aws.Int32(4),
	}); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct{ kind, say string }{
		"image-gone": {"configuration-wrong", passing}, "role-denied": {"not-authorized", "ec2:RunInstances"}, "no-quota": {"quota-exceeded", "quota"},
	} {
		p.submit("three.yml", map[string]string{"queue": "aws/" + name})
		p.hasError("aws/"+name, x.kind, x.say)
		expected["aws/"+name] = x.kind
	}
	g := p.submit("three.yml", map[string]string{"queue": "aws/good"})
	p.becomes("the tasks of a pool that nothing is wrong with are done", func() bool {
		done := 0
		for _, s := range p.statuses(g.GroupID) {
			if s.State == "completed" {
				done++
			}
		}
		return done == 3
	})
	if list := p.errors("aws/good"); len(list) > 0 {
		t.Errorf("errors of a pool that nothing is wrong with: %+v", list)
	}

	var lines strings.Builder
	show := exec.CommandContext(t.Context(), binary, append([]string{"provisioner", "errors"}, slices.Sorted(maps.Keys(expected))...)...)
	show.Env = append(os.Environ(), p.server.Environment()...)
	show.Stdout, show.Stderr = &lines, t.Output()
	if err := show.Run(); err != nil {
		t.Error(err)
	}
	t.Logf("taskfleet provisioner errors:\n%s", &lines)
	for pool, kind := range expected {
		if !strings.Contains(lines.String(), pool) || !strings.Contains(lines.String(), kind) {
			t.Errorf("the command line shows no error %s of %s", kind, pool)
		}
	}
	err := p.server.Messages(t.Context(), func(m server.Message) bool {
		var e workermanager.PulseWorkerPoolErrorMessage
		if err := json.Unmarshal(m.Payload, &e); err != nil {
			t.Error(err)
			return false
		}
		if expected[e.WorkerPoolID] == e.Kind {
			delete(expected, e.WorkerPoolID)
		}
		return len(expected) > 0
	}, "exchange/taskcluster-worker-manager/v1/worker-pool-error")
	if err != nil {
		t.Errorf("errors of %v have not been announced: %v", expected, err)
	}
}

// plain is a pool of one kind of machine.
func plain(t *testing.T, name, image string, parameters ...string) *graph.Pool {
	t.Helper()
	all := map[string]string{"name": name, "image": image}
	for i := 0; i+1 < len(parameters); i += 2 {
		all[parameters[i]] = parameters[i+1]
	}
	return definition(t, "plain.yml", all)
}

// hasError waits until an error of a pool is recorded.
func (p *platform) hasError(pool, kind, say string) {
	p.t.Helper()
	p.becomes("an error "+kind+" of "+pool+" is recorded that says "+say, func() bool {
		for _, e := range p.errors(pool) {
			if e.Kind == kind && strings.Contains(e.Description, say) && e.Title != "" {
				p.t.Logf("%s: %s: %s", pool, e.Title, e.Description)
				return true
			}
		}
		return false
	})
}
