// Package moto holds the provider aws to its contract on moto, an imitation of AWS that is not ours, over HTTP: a second
// opinion on the requests that the provider makes and the answers that it understands. What EC2 does and moto does not is
// listed in differences, each with a test that proves it, so that the list cannot grow old in silence.
package moto

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/aws/identity"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/provisioner/providertest"
	"github.com/taskfleet/taskfleet/timestamp"
)

const (
	account = "123456789012" // moto's
	home    = "us-east-1"
	image   = "ami-03cf127a" // one that moto has
)

// plain is a pool in the form of worker-manager, and wide one of instance types times zones: the first is launched by
// RunInstances, the second by CreateFleet.
const (
	plain = `{"maxCapacity": 100, "launchConfigs": [{"region": "us-east-1", "launchConfig": {"ImageId": "ami-03cf127a", "InstanceType": "c7i.xlarge"}}]}`
	wide  = `{"maxCapacity": 100, "regions": [{"region": "us-east-1"}], "launchConfig": {"ImageId": "ami-03cf127a"},
		"availabilityZones": [{"availabilityZone": "us-east-1a"}, {"availabilityZone": "us-east-1b"}],
		"instanceTypes": [{"instanceType": "c7i.xlarge"}, {"instanceType": "m7i.xlarge"}]}`
)

// differences are what EC2 does and moto does not, where a test of the suite is about it.
func (m *moto) differences(config string) []providertest.Difference {
	const tokens = "a client token does not make a request idempotent, so that what is asked for twice is launched twice"
	again := func(t *testing.T) {
		if n := m.launch(t, config, 1, 2); n != 2 {
			t.Errorf("a request for one instance that was made twice has launched %d", n)
		}
	}
	list := []providertest.Difference{
		{Test: "a repeated intent starts nothing", Why: tokens, Show: again},
		{Test: "a repeated intent is answered by the next server", Why: tokens, Show: again},
		{Test: "many intents at once start one worker each", Why: tokens + "; this test does that, too", Show: again},
	}
	if config == plain {
		list = append(list, providertest.Difference{
			Test: "an intent for several workers starts as many", Why: "RunInstances launches MinCount instances, though there is room for MaxCount",
			Show: func(t *testing.T) {
				if n := m.launch(t, config, 3, 1); n != 1 {
					t.Errorf("a request for one to three instances has launched %d", n)
				}
			},
		})
	}
	return list
}

func TestRunInstances(t *testing.T) { suite(t, plain) }
func TestCreateFleet(t *testing.T)  { suite(t, wide) }

// moto is the imitation, and a clock that tests turn: there is nothing to wait for, since all it does it does at once.
type moto struct {
	clients  func(provider.Account, string) provider.Clients
	ec2      provider.EC2
	sqs      *sqs.Client
	queue    string         // of EC2's events, that a test has to send itself
	keys     *awsfake.Cloud // signs identity documents, which moto does not have
	trust    identity.Certificates
	cluster  string
	clusters int
	clock    time.Time
}

func open(t *testing.T) *moto {
	url := os.Getenv("TASKFLEET_TEST_MOTO")
	if url == "" {
		t.Fatal("TASKFLEET_TEST_MOTO is not set: run `make test`, which installs moto, starts it and says where it is")
	}
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
	} {
		t.Setenv(name, value)
	}
	clients, err := provider.SDK(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := clients(provider.Account{ID: account}, home)
	m := &moto{clients: clients, ec2: all.EC2, sqs: all.SQS.(*sqs.Client), clock: time.Now()}
	made, err := m.sqs.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: aws.String(fmt.Sprintf("events-%d", time.Now().UnixNano()))})
	if err != nil {
		t.Fatal(err)
	}
	m.queue = *made.QueueUrl
	m.keys = awsfake.New(awsfake.Config{Accounts: []string{account}, Regions: []string{home}})
	certificate, err := m.keys.Certificate(home)
	if err != nil {
		t.Fatal(err)
	}
	m.trust = identity.Certificates{home: []*x509.Certificate{certificate}}
	return m
}

func (m *moto) pass(d time.Duration) { m.clock = m.clock.Add(d) }

// provider opens one that remembers nothing.
func (m *moto) provider(t *testing.T) *provider.Provider {
	t.Helper()
	p, err := provider.New(provider.Config{
		Cluster: m.cluster, RootURL: "https://taskfleet.example.com", Regions: []string{home}, Certificates: m.trust,
		Accounts: []provider.Account{{ID: account, Queues: map[string]string{home: m.queue}}}, Clients: m.clients,
		Now: func() time.Time { return m.clock }, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// obedient has workers that hear at once that they are to end. An instance that shuts itself down is, for moto, one that
// somebody has terminated.
type obedient struct {
	*provider.Provider
	terminate func(fleet.Ref)
}

func (o obedient) Stop(ctx context.Context, now timestamp.Time, list []fleet.Target, how fleet.Manner) ([]fleet.Ref, error) {
	gone, err := o.Provider.Stop(ctx, now, list, how)
	if how == fleet.Gracefully {
		for _, t := range list {
			if strings.Trim(strings.TrimPrefix(t.WorkerID, "i-"), "0123456789abcdef") == "" {
				o.terminate(t.Ref)
			}
		}
	}
	return gone, err
}

func suite(t *testing.T, config string) {
	m := open(t)
	var current *provider.Provider
	terminate := func(t *testing.T, r fleet.Ref) {
		t.Helper()
		if _, err := m.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{r.WorkerID}}); err != nil {
			t.Fatal(err)
		}
		m.tell(t, r.WorkerID, "terminated")
	}
	providertest.Run(t, func(t *testing.T) providertest.World {
		m.clusters++
		m.cluster = fmt.Sprintf("cluster-%d-%d", time.Now().UnixNano(), m.clusters)
		return providertest.World{
			Open: func(t *testing.T) fleet.Provider {
				current = m.provider(t)
				return obedient{current, func(r fleet.Ref) { terminate(t, r) }}
			},
			Kill:   terminate,
			Proof:  m.proof,
			Config: json.RawMessage(config),
			Other:  json.RawMessage(strings.Replace(config, `{"ImageId"`, `{"EbsOptimized": true, "ImageId"`, 1)),
			Wrong:  map[string]json.RawMessage{"us-moon-1": json.RawMessage(strings.ReplaceAll(config, home, "us-moon-1"))},
			Now:    func() timestamp.Time { return timestamp.Of(m.clock) },
			Sleep: func(d time.Duration) {
				m.pass(d)
				if err := current.Poll(t.Context(), timestamp.Of(m.clock)); err != nil {
					t.Error(err)
				}
				if _, err := current.Look(t.Context(), timestamp.Of(m.clock)); err != nil { // as each pass does; there are no events of what the provider ends
					t.Error(err)
				}
			},
			Patience: 10 * time.Minute,
		}
	}, m.differences(config)...)
}

// tell sends an event about an instance, as EventBridge would.
func (m *moto) tell(t *testing.T, id, state string) {
	t.Helper()
	body := fmt.Sprintf(`{"detail-type": "EC2 Instance State-change Notification", "source": "aws.ec2", "time": %q, "detail": {"instance-id": %q, "state": %q}}`,
		m.clock.UTC().Format(time.RFC3339), id, state)
	if _, err := m.sqs.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &m.queue, MessageBody: &body}); err != nil {
		t.Fatal(err)
	}
}

// proof is a signed identity document, made of what moto says about an instance.
func (m *moto) proof(t *testing.T, r fleet.Ref) json.RawMessage {
	t.Helper()
	i := m.instance(t, r.WorkerID)
	document, err := json.Marshal(map[string]any{
		"accountId": account, "architecture": i.Architecture, "availabilityZone": i.Placement.AvailabilityZone, "imageId": i.ImageId,
		"instanceId": i.InstanceId, "instanceType": i.InstanceType, "privateIp": i.PrivateIpAddress, "region": home,
		"pendingTime": i.LaunchTime.UTC().Format(time.RFC3339), "version": "2017-09-30",
	})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := m.keys.Sign(home, document)
	if err != nil {
		t.Fatal(err)
	}
	proof, err := json.Marshal(map[string]string{"document": string(signed.Document), "signature": signed.Signature})
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

func (m *moto) instance(t *testing.T, id string) types.Instance {
	t.Helper()
	out, err := m.ec2.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	if err != nil {
		t.Fatal(err)
	}
	return out.Reservations[0].Instances[0]
}

// launch launches an intent for some workers, again and again, and says how many instances there are then.
func (m *moto) launch(t *testing.T, config string, workers int64, times int) int {
	m.cluster = fmt.Sprintf("cluster-%d", time.Now().UnixNano())
	p := m.provider(t)
	list, err := p.Parse(json.RawMessage(config))
	if err != nil {
		t.Fatal(err)
	}
	now := timestamp.Of(m.clock)
	pool := &fleet.Pool{ID: "test/pool", ProviderID: "aws", Owner: "o@example.com", Config: json.RawMessage(config), LaunchConfigs: list}
	plan, err := p.Plan(t.Context(), now, fleet.Need{Pool: pool, Capacity: workers, Room: workers, From: []fleet.Candidate{{LaunchConfig: list[0], Workers: workers}}})
	if err != nil || len(plan.Intents) != 1 {
		t.Fatalf("%+v, %v", plan, err)
	}
	i := plan.Intents[0]
	i.PoolID, i.ProviderID, i.Created = pool.ID, pool.ProviderID, now
	launched := map[string]bool{}
	for range times {
		for _, s := range p.Launch(t.Context(), now, i).Started {
			launched[s.WorkerID] = true
		}
	}
	if _, err := m.ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: slices.Collect(maps.Keys(launched))}); err != nil {
		t.Error(err)
	}
	return len(launched)
}
