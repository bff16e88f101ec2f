package platform_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/applicationautoscaling"
	scaling "github.com/aws/aws-sdk-go-v2/service/applicationautoscaling/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"github.com/taskfleet/taskfleet/ownbody"
	"github.com/taskfleet/taskfleet/stacks/platform"
)

// moto has AWS be moto, and is how others get at it.
func moto(t *testing.T) aws.Config {
	t.Helper()
	url := os.Getenv("TASKFLEET_TEST_MOTO")
	if url == "" {
		t.Fatal("TASKFLEET_TEST_MOTO is not set: run `make test`, which installs moto, starts it and says where it is")
	}
	t.Setenv("AWS_ENDPOINT_URL", url)
	// moto closes connections that are kept now and then.
	once := awshttp.NewBuildableClient().WithTransportOptions(func(to *http.Transport) { to.DisableKeepAlives = true })
	return aws.Config{HTTPClient: ownbody.Client(once), Region: region, BaseEndpoint: &url, Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")}
}

func unique(name string) string { return fmt.Sprintf("%s-%d", name, time.Now().UnixNano()) } // moto remembers earlier runs

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func fails(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v\nwant %s", err, want)
	}
}

func TestConfigurationIsTheValueOfASecret(t *testing.T) {
	vault := secretsmanager.NewFromConfig(moto(t))
	arn := *must(vault.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String(unique("prod/configuration-platform"))}))(t).ARN
	value := func() string {
		t.Helper()
		return *must(vault.GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &arn}))(t).SecretString
	}
	o := platform.Options{Check: func([]byte) error { return nil }}
	c := newThing(o, "Configuration", arn)
	const first, second = "notify: {slack: {token: hunter2}}\n", "notify: {emailLimit: 5}\n"
	if _, err := c.up(t.Context(), platform.ConfigurationSpec{Document: first}); err != nil || value() != first {
		t.Fatal(err)
	}
	version := c.member(t, "version")
	if c.refresh(t) {
		t.Error("it has changed at once")
	}
	if differs, err := c.up(t.Context(), platform.ConfigurationSpec{Document: first, Reserved: []string{"s3"}}); err != nil || !differs || c.member(t, "version") != version {
		t.Errorf("with another section that is reserved: %t, %v, version %s", differs, err, c.member(t, "version"))
	}
	if _, err := c.up(t.Context(), platform.ConfigurationSpec{Document: second}); err != nil || value() != second || c.member(t, "version") == version {
		t.Errorf("%v, %s", err, c.state)
	}
	must(vault.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &arn, SecretString: aws.String("notify: {emailLimit: 500}\n")}))(t)
	if !c.refresh(t) || c.member(t, "document") != "notify: {emailLimit: 500}\n" {
		t.Error("what somebody else has written is not seen")
	}
	if _, err := c.up(t.Context(), platform.ConfigurationSpec{Document: second}); err != nil || value() != second {
		t.Errorf("it is not put back: %v", err)
	}
	// Another process, which was killed before it could say what it has done, adopts what is the same, and nothing else.
	again := newThing(o, "Configuration", arn)
	if _, err := again.up(t.Context(), platform.ConfigurationSpec{Document: second}); err != nil || again.member(t, "version") != c.member(t, "version") {
		t.Errorf("%v, %s", err, again.state)
	}
	_, err := newThing(o, "Configuration", arn).up(t.Context(), platform.ConfigurationSpec{Document: first})
	fails(t, err, "is there already")
	if err := c.Delete(t.Context(), arn, c.state); err != nil || !strings.HasPrefix(value(), "#") {
		t.Errorf("%v, %s is left", err, value())
	}
	if c.refresh(t); c.state != nil {
		t.Errorf("after it was deleted: %s", c.state)
	}
	if _, err := c.up(t.Context(), platform.ConfigurationSpec{Document: first}); err != nil || value() != first {
		t.Errorf("made anew: %v", err)
	}
	nowhere := newThing(o, "Configuration", arn[:len(arn)-10]+"x-AbCdEf")
	_, err = nowhere.up(t.Context(), platform.ConfigurationSpec{Document: first})
	fails(t, err, "taskfleet infra apply makes it")
}

func TestASecretIsMadeUpOnce(t *testing.T) {
	vault := secretsmanager.NewFromConfig(moto(t))
	create := func(value *string) string {
		return *must(vault.CreateSecret(t.Context(), &secretsmanager.CreateSecretInput{Name: aws.String(unique("prod/server")), SecretString: value}))(t).ARN
	}
	value := func(arn string) string {
		t.Helper()
		return *must(vault.GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &arn}))(t).SecretString
	}
	made := 0
	var took []string // by the servers
	o := platform.Options{Secrets: func() ([]byte, func(), error) {
		made++
		text := fmt.Sprint("hunter2 ", made)
		return []byte(text), func() { took = append(took, text) }, nil
	}}
	for content, want := range map[string]func(string) bool{
		"server": func(s string) bool { return strings.HasPrefix(s, "hunter2 ") },
		"token":  func(s string) bool { return len(s) == 44 },
	} {
		arn := create(nil)
		// Two at the same time make up one: between the look of the first and what it writes, a second does all of it.
		second, late := newThing(o, "GeneratedSecret", arn), o
		late.Transport = &between{operation: "PutSecretValue", do: func() {
			if _, err := second.up(t.Context(), platform.GeneratedSecretSpec{Content: content}); err != nil {
				t.Error(err)
			}
		}}
		x := newThing(late, "GeneratedSecret", arn)
		if _, err := x.up(t.Context(), platform.GeneratedSecretSpec{Content: content}); err != nil {
			t.Error(err)
		}
		first := value(arn)
		if !want(first) || second.member(t, "version") != x.member(t, "version") || strings.Contains(string(x.state), first) {
			t.Errorf("%s: %q, %s, %s", content, first, x.state, second.state)
		}
		if content == "server" && (made != 2 || !slices.Equal(took, []string{first})) {
			t.Errorf("%d files were made, %q were told to be taken, and the servers have %q", made, took, first)
		}
		if differs, err := x.up(t.Context(), platform.GeneratedSecretSpec{Content: content}); err != nil || differs || x.refresh(t) {
			t.Errorf("%s again: %t, %v", content, differs, err)
		}
		// Somebody has replaced it: that is what counts, and whoever depends on the version is told.
		must(vault.PutSecretValue(t.Context(), &secretsmanager.PutSecretValueInput{SecretId: &arn, SecretString: aws.String("by hand")}))(t)
		before := x.member(t, "version")
		if x.refresh(t); x.member(t, "version") == before {
			t.Errorf("%s: the version is still %s", content, before)
		}
		if differs, err := x.up(t.Context(), platform.GeneratedSecretSpec{Content: content}); err != nil || differs || value(arn) != "by hand" {
			t.Errorf("%s: %t, %v, %s", content, differs, err, value(arn))
		}
		if err := x.Delete(t.Context(), arn, x.state); err != nil || value(arn) != "by hand" {
			t.Errorf("%s: %v, %s", content, err, value(arn))
		}
	}
	arn := create(aws.String("there before"))
	x := newThing(o, "GeneratedSecret", arn)
	if _, err := x.up(t.Context(), platform.GeneratedSecretSpec{Content: "server"}); err != nil || value(arn) != "there before" || x.member(t, "version") == "" {
		t.Errorf("%v, %s, %s", err, value(arn), x.state)
	}
	must(vault.DeleteSecret(t.Context(), &secretsmanager.DeleteSecretInput{SecretId: &arn}))(t)
	_, err := x.Read(t.Context(), arn, x.state)
	fails(t, err, "is to be deleted")
}

// between does something before the first call of an operation, and then makes it.
type between struct {
	operation string
	do        func()
}

func (b *between) RoundTrip(r *http.Request) (*http.Response, error) {
	if do := b.do; strings.HasSuffix(r.Header.Get("X-Amz-Target"), "."+b.operation) && do != nil {
		b.do = nil
		do()
	}
	return http.DefaultTransport.RoundTrip(r)
}

// A rollout has a service of moto run what it was told to, which moto leaves out.
type rollout struct{}

func (rollout) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil || !strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".DescribeServices") {
		return response, err
	}
	defer response.Body.Close()
	var out struct {
		Failures []any            `json:"failures"`
		Services []map[string]any `json:"services"`
	}
	if err := json.NewDecoder(response.Body).Decode(&out); err != nil {
		return nil, err
	}
	for _, s := range out.Services {
		s["deployments"].([]any)[0].(map[string]any)["taskDefinition"] = s["taskDefinition"]
	}
	text, err := json.Marshal(out)
	response.Body = io.NopCloser(bytes.NewReader(text))
	response.ContentLength = int64(len(text))
	return response, err
}

// estate is a cluster with a service, as the foundation makes it.
func estate(t *testing.T, conf aws.Config) (name, template string, client *ecs.Client) {
	t.Helper()
	client = ecs.NewFromConfig(conf)
	n := unique("prod")
	made := must(client.RegisterTaskDefinition(t.Context(), &ecs.RegisterTaskDefinitionInput{
		Family: &n, Cpu: aws.String("512"), Memory: aws.String("1024"), NetworkMode: ecstypes.NetworkModeAwsvpc, RequiresCompatibilities: []ecstypes.Compatibility{ecstypes.CompatibilityFargate},
		Tags: []ecstypes.Tag{{Key: aws.String("Name"), Value: &n}},
		ContainerDefinitions: []ecstypes.ContainerDefinition{
			{Name: aws.String("files"), Image: aws.String("aws-cli:2"), Environment: []ecstypes.KeyValuePair{{Name: aws.String("MORE_CONFIGURATION"), Value: aws.String(platformSecret)}}},
			{Name: aws.String("taskfleet"), Image: aws.String("taskfleet:0"), ReadonlyRootFilesystem: aws.Bool(true), StopTimeout: aws.Int32(90)},
		},
	}))(t)
	must(client.CreateCluster(t.Context(), &ecs.CreateClusterInput{ClusterName: &n}))(t)
	must(client.CreateService(t.Context(), &ecs.CreateServiceInput{Cluster: &n, ServiceName: &n, TaskDefinition: made.TaskDefinition.TaskDefinitionArn, DesiredCount: aws.Int32(0), LaunchType: ecstypes.LaunchTypeFargate}))(t)
	return platform.Service(region, n, n), *made.TaskDefinition.TaskDefinitionArn, client
}

func TestAReleaseOnAnotherImitation(t *testing.T) {
	conf := moto(t)
	name, template, client := estate(t, conf)
	x := newThing(platform.Options{Transport: rollout{}}, "Release", name)
	if _, err := x.up(t.Context(), platform.ReleaseSpec{Image: "taskfleet:1", Template: template, Versions: map[string]string{platformSecret: "v1"}}); err != nil {
		t.Fatal(err)
	}
	cluster := strings.Split(name, "/")[1]
	s := must(client.DescribeServices(t.Context(), &ecs.DescribeServicesInput{Cluster: &cluster, Services: []string{cluster}}))(t).Services[0]
	if *s.TaskDefinition == template || *s.TaskDefinition != x.member(t, "taskDefinition") {
		t.Errorf("the service runs %s: %s", *s.TaskDefinition, x.state)
	}
	d := must(client.DescribeTaskDefinition(t.Context(), &ecs.DescribeTaskDefinitionInput{TaskDefinition: s.TaskDefinition, Include: []ecstypes.TaskDefinitionField{ecstypes.TaskDefinitionFieldTags}}))(t)
	files, server := d.TaskDefinition.ContainerDefinitions[0], d.TaskDefinition.ContainerDefinitions[1]
	if *server.Image != "taskfleet:1" || *server.StopTimeout != 90 || !*server.ReadonlyRootFilesystem || *files.Environment[0].Value != platformSecret+"#v1" || len(d.Tags) != 1 {
		t.Errorf("%+v %+v %+v", files, server, d.Tags)
	}
	if x.refresh(t) {
		t.Errorf("it has changed at once: %s", x.state)
	}
}

func TestReplicas(t *testing.T) {
	conf := moto(t)
	name, _, _ := estate(t, conf)
	client := applicationautoscaling.NewFromConfig(conf)
	resource := "service/" + strings.TrimPrefix(name, region+"/")
	x := newThing(platform.Options{}, "Replicas", name)
	_, err := x.up(t.Context(), platform.ReplicasSpec{Min: 2, Max: 6})
	fails(t, err, "autoscaling does not know the service "+name)
	set := func(least, most int32) {
		t.Helper()
		must(client.RegisterScalableTarget(t.Context(), &applicationautoscaling.RegisterScalableTargetInput{
			ServiceNamespace: scaling.ServiceNamespaceEcs, ScalableDimension: scaling.ScalableDimensionECSServiceDesiredCount, ResourceId: &resource, MinCapacity: &least, MaxCapacity: &most,
		}))(t)
	}
	are := func(least, most int32) {
		t.Helper()
		found := must(client.DescribeScalableTargets(t.Context(), &applicationautoscaling.DescribeScalableTargetsInput{ServiceNamespace: scaling.ServiceNamespaceEcs, ResourceIds: []string{resource}}))(t)
		if len(found.ScalableTargets) != 1 || *found.ScalableTargets[0].MinCapacity != least || *found.ScalableTargets[0].MaxCapacity != most {
			t.Errorf("there are %+v", found.ScalableTargets)
		}
	}
	set(1, 2) // by the foundation
	if _, err := x.up(t.Context(), platform.ReplicasSpec{Min: 2, Max: 6}); err != nil {
		t.Fatal(err)
	}
	are(2, 6)
	if x.refresh(t) {
		t.Errorf("it has changed at once: %s", x.state)
	}
	set(2, 20) // by somebody else
	if !x.refresh(t) || x.member(t, "max") != "20" {
		t.Errorf("it has not changed: %s", x.state)
	}
	if _, err := x.up(t.Context(), platform.ReplicasSpec{Min: 3, Max: 6}); err != nil {
		t.Fatal(err)
	}
	are(3, 6)
	if err := x.Delete(t.Context(), name, x.state); err != nil {
		t.Fatal(err)
	}
	are(3, 6)
}
