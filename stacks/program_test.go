package stacks

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/pulumi"

	"github.com/taskfleet/taskfleet/infra"
	resources "github.com/taskfleet/taskfleet/resource"
	"github.com/taskfleet/taskfleet/stacks/monitoring"
)

// registered is what a program has registered.
type registered struct {
	mu    sync.Mutex
	order []string // TYPE NAME
	specs map[string]resource.PropertyMap
	after map[string][]string // on what each depends, of ours
}

func (r *registered) NewResource(a pulumi.MockResourceArgs) (string, resource.PropertyMap, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := a.Inputs.Copy()
	if !a.Custom {
		return "", out, nil
	}
	name := out["name"].StringValue()
	id := idOf(a.TypeToken, name)
	r.order = append(r.order, id)
	r.specs[id] = a.Inputs["spec"].ObjectValue()
	r.after[id] = a.RegisterRPC.GetDependencies()
	// What is known only once it is made.
	out["computed"] = resource.NewObjectProperty(resource.PropertyMap{"version": resource.NewStringProperty("version of " + a.Name), "taskDefinition": resource.NewStringProperty("arn")})
	return name, out, nil
}

func (r *registered) Call(pulumi.MockCallArgs) (resource.PropertyMap, error) { return nil, nil }

// runProgram runs the program of a stack with Pulumi's mocks.
func runProgram(t *testing.T, stack string, in *inputs) *registered {
	t.Helper()
	r := &registered{specs: map[string]resource.PropertyMap{}, after: map[string][]string{}}
	program := stackNamed(stack).program
	err := pulumi.RunErr(func(ctx *pulumi.Context) error { return program(ctx, in) }, pulumi.WithMocks(project(stack), "prod", r))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func setOf(t *testing.T, text string) *resources.Set {
	t.Helper()
	s := &resources.Set{}
	if err := s.Parse("definitions.yml", []byte(text)); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAccessMakesRolesBeforeClients(t *testing.T) {
	in := &inputs{environment: &Environment{Name: "prod"}, sets: map[string]*resources.Set{"access": setOf(t, `
roles: {a: {scopes: [b, a]}, "project::odd": {}}
clients: {x/y: {scopes: ["assume:a"]}}
denylist: {email/a@example.com: }
`)}}
	r := runProgram(t, "access", in)
	if got := slices.Sorted(slices.Values(r.order)); !slices.Equal(got, []string{"Client=x/y", "DenylistAddress=email/a@example.com", "Role=a", "Role=project::odd"}) {
		t.Errorf("registered are %v", got)
	}
	if got := r.specs["Role=a"]["scopes"].ArrayValue(); len(got) != 2 || got[0].StringValue() != "a" {
		t.Errorf("the scopes are %v", got)
	}
	for _, role := range []string{"::a", "::project::odd"} {
		if !slices.ContainsFunc(r.after["Client=x/y"], func(urn string) bool { return strings.HasSuffix(urn, "taskfleet:index:Role"+role) }) {
			t.Errorf("the client comes after %v, and not after %s", r.after["Client=x/y"], role)
		}
	}
	if n := len(r.after["Role=a"]); n != 0 {
		t.Errorf("the role comes after %v", r.after["Role=a"])
	}
}

func TestSchedulesMakeSecretsBeforeHooks(t *testing.T) {
	in := &inputs{environment: &Environment{Name: "prod", Platform: &Platform{Files: "conf.d"}}, sets: map[string]*resources.Set{"schedules": setOf(t, `
secrets: {s: {}}
hooks: {a/b: {name: n, owner: a@example.com, task: {x: y}}}
`)}}
	r := runProgram(t, "schedules", in)
	if !slices.ContainsFunc(r.after["Hook=a/b"], func(urn string) bool { return strings.HasSuffix(urn, "Secret::s") }) {
		t.Errorf("the hook comes after %v", r.after["Hook=a/b"])
	}
	pools := runProgram(t, "pools", &inputs{environment: in.environment, sets: map[string]*resources.Set{"pools": setOf(t, `
workerPools: {a/b: {providerId: local, owner: a@example.com, config: {maxCapacity: 1}}}
`)}})
	if !slices.Equal(pools.order, []string{"WorkerPool=a/b"}) {
		t.Errorf("registered are %v", pools.order)
	}
}

// Each stack writes a file of its own, which the others may have no sections of, and restarts by it.
func TestConfigurationInFiles(t *testing.T) {
	directory := t.TempDir()
	in := &inputs{
		environment: &Environment{Name: "prod", Directory: directory, Platform: &Platform{Files: "conf.d", Restart: []string{"systemctl", "restart", "taskfleet"}}},
		rootURL:     "https://t.example.com",
		documents:   map[string]string{"platform": "notify: {emailLimit: 1}\n", "mirror": "mirror: {home: us-west-2}\n"},
	}
	for stack, other := range map[string]string{"platform": "mirror", "mirror": "notify"} {
		r := runProgram(t, stack, in)
		c, restart := r.specs["Configuration="+filepath.Join(directory, "conf.d", stack+".yml")], r.specs["Restart=https://t.example.com"]
		if got := c["document"].StringValue(); got != in.documents[stack] {
			t.Errorf("%s: the document is %q", stack, got)
		}
		if got := c["reserved"].ArrayValue(); len(got) != 1 || got[0].StringValue() != other {
			t.Errorf("%s: reserved are %v", stack, got)
		}
		if got := restart["versions"].ObjectValue()[resource.PropertyKey(stack)].StringValue(); got != "version of "+stack {
			t.Errorf("%s: it restarts by the version %q", stack, got)
		}
		if len(restart["command"].ArrayValue()) != 3 {
			t.Errorf("%s: the command is %v", stack, restart["command"])
		}
	}
	if r := runProgram(t, "schedules", in); len(r.order) != 0 {
		t.Errorf("schedules without anything registers %v", r.order)
	}
}

func TestPlatformAtAWS(t *testing.T) {
	in := &inputs{
		environment: &Environment{Name: "prod", Platform: &Platform{Image: "r/i@sha256:" + strings.Repeat("a", 64), Replicas: &Replicas{2, 6}}},
		documents:   map[string]string{"platform": "notify: {emailLimit: 1}\n", "mirror": "mirror: {}\n"},
		manifest: &infra.Manifest{
			ServiceRegion: "eu-central-1", ClusterName: "c", ServiceName: "s", TaskDefinitionARN: "arn:task", ServerSecretARN: "arn:server", MetricsSecretARN: "arn:metrics",
			ConfigurationSecretARNs: map[string]string{"platform": "arn:conf", "mirror": "arn:mirror"}, ConfigurationSections: []string{"database"},
		},
	}
	r := runProgram(t, "platform", in)
	release := r.specs["Release=eu-central-1/c/s"]
	versions := map[string]string{}
	for name, v := range release["versions"].ObjectValue() {
		versions[string(name)] = v.StringValue()
	}
	if want := map[string]string{"arn:conf": "version of platform", "arn:server": "version of server", "arn:metrics": "version of token"}; !maps.Equal(versions, want) {
		t.Errorf("the release is of %v", versions)
	}
	if !release["migrate"].BoolValue() || release["template"].StringValue() != "arn:task" || release["image"].StringValue() != in.environment.Platform.Image {
		t.Errorf("the release is %v", release)
	}
	if got := r.specs["Replicas=eu-central-1/c/s"]; got["min"].NumberValue() != 2 || got["max"].NumberValue() != 6 {
		t.Errorf("replicas are %v", got)
	}
	if got := r.specs["Configuration=arn:conf"]["reserved"].ArrayValue(); len(got) != 2 || got[0].StringValue() != "database" {
		t.Errorf("reserved are %v", got)
	}
	r = runProgram(t, "mirror", in)
	if release := r.specs["Release=eu-central-1/c/s"]; len(release["versions"].ObjectValue()) != 1 || release["migrate"].BoolValue() {
		t.Errorf("the mirror's release is %v", release)
	}
	if got := slices.Sorted(slices.Values(r.order)); !slices.Equal(got, []string{"Configuration=arn:mirror", "Release=eu-central-1/c/s"}) {
		t.Errorf("the mirror registers %v", got)
	}
	in.environment.Platform.Image = "" // nothing is rolled out
	if r := runProgram(t, "platform", in); r.specs["Release=eu-central-1/c/s"] != nil {
		t.Errorf("without an image there is a release")
	}
}

func TestAManifestThatLacksSomething(t *testing.T) {
	in := &inputs{
		environment: &Environment{Platform: &Platform{}},
		documents:   map[string]string{"mirror": "mirror: {}\n"},
		manifest:    &infra.Manifest{Deployment: "d", ServiceRegion: "r", ClusterName: "c", ServiceName: "s", TaskDefinitionARN: "t", ServerSecretARN: "a"},
	}
	err := in.checkManifest([]string{"platform", "mirror"})
	if err == nil || !strings.Contains(err.Error(), "lacks configuration_secret_arns.mirror, metrics_secret_arn, which") {
		t.Error(err)
	}
	if err := in.checkManifest([]string{"access"}); err != nil {
		t.Error(err)
	}
}

func TestMonitoringKeepsTheOrder(t *testing.T) {
	in := &inputs{environment: &Environment{Name: "prod"}, things: []monitoring.Thing{
		{Token: monitoring.TokenGroup, Name: "g", Spec: []byte(`{}`)},
		{Token: monitoring.TokenChart, Name: "c", Spec: []byte(`{}`), After: []monitoring.Ref{{Token: monitoring.TokenGroup, Name: "g"}}},
	}}
	r := runProgram(t, "monitoring", in)
	if got := r.after["Chart=c"]; !slices.ContainsFunc(got, func(urn string) bool { return strings.HasSuffix(urn, "DashboardGroup::g") }) {
		t.Errorf("the chart comes after %v", got)
	}
}
