package ec2

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	provider "github.com/taskfleet/taskfleet/provisioner/aws"
	"github.com/taskfleet/taskfleet/provisioner/aws/awsfake"
	"github.com/taskfleet/taskfleet/provisioner/fleet"
	"github.com/taskfleet/taskfleet/timestamp"
)

// An accountTest launches two small spot instances, asks for them again, loses its memory, finds them again and ends
// them. It is made for AWS itself.
type accountTest struct {
	account provider.Account
	region  string
	subnet  string   // "": any of the default network's
	kinds   []string // of instances, all with processors of Arm
	cluster string
	clients func(provider.Account, string) provider.Clients

	now   func() time.Time
	sleep func(time.Duration)
}

// Where somebody lends an account, it is used; README.md says how, and what it costs.
func TestOnAnAccountOfAWS(t *testing.T) {
	setting := os.Getenv("TASKFLEET_TEST_AWS")
	if setting == "" {
		t.Log("TASKFLEET_TEST_AWS names no account, so only the imitation of EC2 was used")
		return
	}
	a := &accountTest{kinds: []string{"t4g.nano", "t4g.micro"}, cluster: fmt.Sprintf("taskfleet-test-%d", time.Now().Unix()), now: time.Now, sleep: time.Sleep}
	for part := range strings.SplitSeq(setting, ",") {
		switch name, value, _ := strings.Cut(part, "="); name {
		case "account":
			a.account.ID = value
		case "role":
			a.account.Role = value
		case "region":
			a.region = value
		case "subnet":
			a.subnet = value
		default:
			t.Fatalf("TASKFLEET_TEST_AWS is %q; it must be account=ID,region=NAME and may have role=ARN and subnet=ID", setting)
		}
	}
	clients, err := provider.SDK(t.Context(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	a.clients = clients
	a.run(t)
}

// The test for accounts works: here it is on the imitation.
func TestOnAnAccountOfTheImitation(t *testing.T) {
	clock := time.Now()
	cloud := awsfake.New(awsfake.Config{
		Now: func() time.Time { return clock }, Boot: awsfake.Boot{Median: 30 * time.Second, Shutdown: 10 * time.Second},
		Consistency: awsfake.Consistency{Delay: 10 * time.Second}, Limits: awsfake.Limits{Documented: true},
	})
	id, secret := awsfake.Key(account)
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": id, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
	} {
		t.Setenv(name, value)
	}
	api := httptest.NewServer(cloud.Handler())
	t.Cleanup(api.Close)
	clients, err := provider.SDK(t.Context(), api.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if n := cloud.Alive(); n > 0 {
			t.Errorf("%d instances are left", n)
		}
	})
	a := &accountTest{
		account: provider.Account{ID: account}, region: home, subnet: cloud.Surroundings(account, home).Subnets["us-east-1b"],
		kinds: []string{"m7g.medium", "c7g.medium"}, cluster: "lane", clients: clients, now: func() time.Time { return clock }, sleep: func(d time.Duration) { clock = clock.Add(d) },
	}
	a.run(t)
}

func (a *accountTest) run(t *testing.T) {
	t.Cleanup(func() { a.clean(t) }) // whatever comes now
	pool := a.pool(t)
	p := a.open(t)
	findings, err := p.Validate(t.Context(), pool.Config)
	if err != nil || len(findings) > 0 {
		t.Fatalf("the pool's definition: %v %q", err, findings)
	}
	if pool.LaunchConfigs, err = p.Parse(pool.Config); err != nil {
		t.Fatal(err)
	}
	intent := a.plan(t, p, pool)
	first := a.launch(t, p, intent)
	t.Logf("launched %v", first)
	for _, again := range []*provider.Provider{p, a.open(t)} {
		if got := a.launch(t, again, intent); !slices.Equal(got, first) {
			t.Errorf("first there were %v, and the same request again gave %v", first, got)
		}
	}

	a.becomes(t, "a provider without memory finds the instances by their tags", func() bool {
		sight, err := a.open(t).Look(t.Context(), a.time())
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for s := range sight.All() {
			if !slices.Contains(first, s.Ref) || s.IntentID != intent.ID {
				t.Errorf("it finds %+v, too", s)
			}
			var f provider.Facts
			if err := json.Unmarshal(s.Facts, &f); err == nil && f.PrivateIP != "" && f.Lifecycle == "spot" && s.State == fleet.Alive {
				found++
			}
		}
		return found == len(first)
	})

	p = a.open(t)
	a.becomes(t, "the instances are ended", func() bool {
		if _, err := p.Look(t.Context(), a.time()); err != nil {
			t.Fatal(err)
		}
		left := []fleet.Target{}
		for _, r := range first {
			left = append(left, fleet.Target{Ref: r})
		}
		gone, err := p.Stop(t.Context(), a.time(), left, fleet.Now)
		if err != nil {
			t.Log(err) // what is not visible yet
		}
		first = slices.DeleteFunc(first, func(r fleet.Ref) bool { return slices.Contains(gone, r) })
		return len(first) == 0
	})
	if left := a.left(t); len(left) > 0 {
		t.Errorf("of the instances these are left: %q", left)
	}
}

func (a *accountTest) time() timestamp.Time { return timestamp.Of(a.now()) }

// pool is one of spot instances of some types.
func (a *accountTest) pool(t *testing.T) *fleet.Pool {
	var kinds []any
	for _, k := range a.kinds {
		kinds = append(kinds, map[string]any{"instanceType": k})
	}
	launch := map[string]any{}
	if a.subnet != "" {
		launch["SubnetId"] = a.subnet
	}
	config, err := json.Marshal(map[string]any{
		"maxCapacity": 2, "launchConfig": launch, "canUseOndemand": false, "maxPrice": 0.02, "instanceTypes": kinds,
		"regions": []any{map[string]any{"region": a.region, "imageParameter": "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &fleet.Pool{ID: "taskfleet/test", ProviderID: "aws", Owner: "nobody@example.com", Config: config}
}

// open opens a provider without memory.
func (a *accountTest) open(t *testing.T) *provider.Provider {
	t.Helper()
	p, err := provider.New(provider.Config{
		Cluster: a.cluster, RootURL: "https://taskfleet.example.com", Accounts: []provider.Account{a.account}, Regions: []string{a.region},
		Clients: a.clients, Now: a.now, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (a *accountTest) plan(t *testing.T, p *provider.Provider, pool *fleet.Pool) *fleet.Intent {
	t.Helper()
	need := fleet.Need{Pool: pool, Capacity: 2, Room: 2, From: []fleet.Candidate{{LaunchConfig: pool.LaunchConfigs[0], Workers: 2}}}
	plan, err := p.Plan(t.Context(), a.time(), need)
	if err != nil || len(plan.Intents) != 1 || plan.Intents[0].Workers != 2 {
		t.Fatalf("%+v, %v", plan, err)
	}
	i := plan.Intents[0]
	i.PoolID, i.ProviderID, i.Created = pool.ID, pool.ProviderID, a.time()
	return i
}

// launch launches what an intent says until that is clear, and returns the two instances.
func (a *accountTest) launch(t *testing.T, p *provider.Provider, i *fleet.Intent) (refs []fleet.Ref) {
	t.Helper()
	a.becomes(t, "it is clear what was launched", func() bool {
		answer := p.Launch(t.Context(), a.time(), i)
		for _, f := range answer.Faults {
			t.Fatalf("%s", f.Description)
		}
		refs = nil
		for _, s := range answer.Started {
			refs = append(refs, s.Ref)
		}
		return !answer.Again
	})
	if len(refs) != 2 {
		t.Fatalf("an intent for two instances has launched %v", refs)
	}
	slices.SortFunc(refs, func(a, b fleet.Ref) int { return strings.Compare(a.WorkerID, b.WorkerID) })
	return refs
}

func (a *accountTest) becomes(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := a.now().Add(10 * time.Minute); !is(); a.sleep(3 * time.Second) {
		if a.now().After(end) {
			t.Fatalf("it has not come to be that %s", what)
		}
	}
}

// left lists instances, volumes and network interfaces with the cluster's tag. What has been terminated is not left.
func (a *accountTest) left(t *testing.T) (ids []string) {
	t.Helper()
	ctx, api := context.Background(), a.clients(a.account, a.region).EC2
	tag := []types.Filter{{Name: aws.String("tag:taskfleet-cluster"), Values: []string{a.cluster}}}
	instances, err := api.DescribeInstances(ctx, &sdk.DescribeInstancesInput{Filters: append(slices.Clone(tag),
		types.Filter{Name: aws.String("instance-state-name"), Values: []string{"pending", "running", "shutting-down", "stopping", "stopped"}})})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range instances.Reservations {
		for _, i := range r.Instances {
			ids = append(ids, *i.InstanceId)
		}
	}
	volumes, err := api.DescribeVolumes(ctx, &sdk.DescribeVolumesInput{Filters: tag})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range volumes.Volumes {
		ids = append(ids, *v.VolumeId)
	}
	interfaces, err := api.DescribeNetworkInterfaces(ctx, &sdk.DescribeNetworkInterfacesInput{Filters: tag})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range interfaces.NetworkInterfaces {
		ids = append(ids, *n.NetworkInterfaceId)
	}
	return ids
}

// clean removes all that has the cluster's tag, by means of EC2 alone, until nothing is left.
func (a *accountTest) clean(t *testing.T) {
	ctx, api := context.Background(), a.clients(a.account, a.region).EC2
	tag := []types.Filter{{Name: aws.String("tag:taskfleet-cluster"), Values: []string{a.cluster}}}
	a.sleep(10 * time.Second) // what has just been launched may not be visible yet
	a.becomes(t, "nothing is left", func() bool {
		left := a.left(t)
		for _, id := range left {
			var err error
			switch {
			case strings.HasPrefix(id, "i-"):
				_, err = api.TerminateInstances(ctx, &sdk.TerminateInstancesInput{InstanceIds: []string{id}})
			case strings.HasPrefix(id, "vol-"):
				_, err = api.DeleteVolume(ctx, &sdk.DeleteVolumeInput{VolumeId: &id})
			case strings.HasPrefix(id, "eni-"):
				_, err = api.DeleteNetworkInterface(ctx, &sdk.DeleteNetworkInterfaceInput{NetworkInterfaceId: &id})
			}
			if err != nil {
				t.Log(err) // what is attached goes with its instance
			}
		}
		return len(left) == 0
	})
	templates, err := api.DescribeLaunchTemplates(ctx, &sdk.DescribeLaunchTemplatesInput{Filters: tag})
	if err != nil {
		t.Error(err)
		return
	}
	for _, l := range templates.LaunchTemplates {
		if _, err := api.DeleteLaunchTemplate(ctx, &sdk.DeleteLaunchTemplateInput{LaunchTemplateId: l.LaunchTemplateId}); err != nil {
			t.Error(err)
		}
	}
}
