package awsfake

import (
	"context"
	"errors"
	"net/http/httptest"
	"reflect"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	sqstypes "github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"

	"github.com/taskfleet/taskfleet/ownbody"
)

// step is one call of a story: an action of a service with an input that may
// depend on what an earlier step answered.
type step struct {
	service, action string
	in              func(tale) any
}

// tale is what a story's steps answered so far.
type tale struct {
	here    Surroundings
	answers []any
}

// last finds the last answer of a type.
func last[T any](t tale) T {
	for i := len(t.answers) - 1; i >= 0; i-- {
		if a, ok := t.answers[i].(T); ok {
			return a
		}
	}
	panic("no answer of this type yet")
}

func always(in any) func(tale) any { return func(tale) any { return in } }

var story = []step{
	{"sts", "GetCallerIdentity", always(&sts.GetCallerIdentityInput{})},
	{"iam", "GetInstanceProfile", always(&iam.GetInstanceProfileInput{InstanceProfileName: aws.String("worker")})},
	{"iam", "GetInstanceProfile", always(&iam.GetInstanceProfileInput{InstanceProfileName: aws.String("nobody")})},
	{"ssm", "GetParameter", always(&ssm.GetParameterInput{Name: aws.String("/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64")})},
	{"ssm", "GetParameter", always(&ssm.GetParameterInput{Name: aws.String("/nothing")})},
	{"ssm", "GetParameters", always(&ssm.GetParametersInput{Names: []string{"/nothing", "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-arm64"}})},
	{"servicequotas", "GetServiceQuota", always(&servicequotas.GetServiceQuotaInput{ServiceCode: aws.String("ec2"), QuotaCode: aws.String("L-34B43A08")})},
	{"servicequotas", "GetServiceQuota", always(&servicequotas.GetServiceQuotaInput{ServiceCode: aws.String("ec2"), QuotaCode: aws.String("L-0")})},
	{"servicequotas", "ListServiceQuotas", always(&servicequotas.ListServiceQuotasInput{ServiceCode: aws.String("ec2")})},
	{"ec2", "DescribeRegions", always(&ec2.DescribeRegionsInput{})},
	{"ec2", "DescribeAvailabilityZones", always(&ec2.DescribeAvailabilityZonesInput{Filters: []ec2types.Filter{{Name: aws.String("state"), Values: []string{"available"}}}})},
	{"ec2", "DescribeSubnets", always(&ec2.DescribeSubnetsInput{})},
	{"ec2", "DescribeSecurityGroups", always(&ec2.DescribeSecurityGroupsInput{GroupNames: []string{"default"}})},
	{"ec2", "DescribeSecurityGroups", always(&ec2.DescribeSecurityGroupsInput{GroupIds: []string{"sg-0"}})},
	{"ec2", "DescribeKeyPairs", always(&ec2.DescribeKeyPairsInput{})},
	{"ec2", "DescribeImages", always(&ec2.DescribeImagesInput{Owners: []string{"amazon"}, Filters: []ec2types.Filter{{Name: aws.String("architecture"), Values: []string{"arm64"}}}})},
	{"ec2", "DescribeImages", always(&ec2.DescribeImagesInput{ImageIds: []string{"ami-00000000000000000"}})},
	{"ec2", "DescribeInstanceTypes", always(&ec2.DescribeInstanceTypesInput{InstanceTypes: []ec2types.InstanceType{"m5.large", "c7g.xlarge"}})},
	{"ec2", "DescribeInstanceTypes", always(&ec2.DescribeInstanceTypesInput{MaxResults: aws.Int32(100)})},
	{"ec2", "DescribeInstanceTypeOfferings", always(&ec2.DescribeInstanceTypeOfferingsInput{LocationType: "availability-zone", Filters: []ec2types.Filter{{Name: aws.String("instance-type"), Values: []string{"m5.*"}}}})},
	{"ec2", "DescribeSpotPriceHistory", always(&ec2.DescribeSpotPriceHistoryInput{InstanceTypes: []ec2types.InstanceType{"m5.large"}, ProductDescriptions: []string{"Linux/UNIX"}})},
	{"ec2", "GetSpotPlacementScores", always(&ec2.GetSpotPlacementScoresInput{TargetCapacity: aws.Int32(10), InstanceTypes: []string{"m5.large"}, SingleAvailabilityZone: aws.Bool(true), RegionNames: []string{"us-west-1"}})},
	{"ec2", "CreateLaunchTemplate", func(t tale) any {
		return &ec2.CreateLaunchTemplateInput{LaunchTemplateName: aws.String("linux"), ClientToken: aws.String("t"), LaunchTemplateData: &ec2types.RequestLaunchTemplateData{
			ImageId: aws.String(t.here.Images["x86_64"]), UserData: aws.String("aGVsbG8="), IamInstanceProfile: &ec2types.LaunchTemplateIamInstanceProfileSpecificationRequest{Name: aws.String("worker")},
			MetadataOptions:     &ec2types.LaunchTemplateInstanceMetadataOptionsRequest{HttpTokens: "required", HttpPutResponseHopLimit: aws.Int32(2)},
			BlockDeviceMappings: []ec2types.LaunchTemplateBlockDeviceMappingRequest{{DeviceName: aws.String("/dev/xvda"), Ebs: &ec2types.LaunchTemplateEbsBlockDeviceRequest{VolumeSize: aws.Int32(50), DeleteOnTermination: aws.Bool(false)}}},
			NetworkInterfaces:   []ec2types.LaunchTemplateInstanceNetworkInterfaceSpecificationRequest{{DeviceIndex: aws.Int32(0), Groups: []string{t.here.SecurityGroup}, DeleteOnTermination: aws.Bool(false)}},
			TagSpecifications:   []ec2types.LaunchTemplateTagSpecificationRequest{{ResourceType: "instance", Tags: []ec2types.Tag{{Key: aws.String("pool"), Value: aws.String("a/b & <c>")}}}},
		}}
	}},
	{"ec2", "CreateLaunchTemplate", func(t tale) any {
		return &ec2.CreateLaunchTemplateInput{LaunchTemplateName: aws.String("linux"), ClientToken: aws.String("u"), LaunchTemplateData: &ec2types.RequestLaunchTemplateData{KeyName: aws.String("default")}}
	}},
	{"ec2", "CreateLaunchTemplateVersion", always(&ec2.CreateLaunchTemplateVersionInput{LaunchTemplateName: aws.String("linux"), SourceVersion: aws.String("1"), ClientToken: aws.String("v"), LaunchTemplateData: &ec2types.RequestLaunchTemplateData{InstanceType: "c6i.large"}})},
	{"ec2", "ModifyLaunchTemplate", always(&ec2.ModifyLaunchTemplateInput{LaunchTemplateName: aws.String("linux"), DefaultVersion: aws.String("2")})},
	{"ec2", "DescribeLaunchTemplates", always(&ec2.DescribeLaunchTemplatesInput{LaunchTemplateNames: []string{"linux"}})},
	{"ec2", "DescribeLaunchTemplateVersions", always(&ec2.DescribeLaunchTemplateVersionsInput{LaunchTemplateName: aws.String("linux"), Versions: []string{"$Latest", "1"}})},
	{"ec2", "CreateFleet", func(t tale) any {
		return &ec2.CreateFleetInput{
			Type: "instant", ClientToken: aws.String("fleet"), TargetCapacitySpecification: &ec2types.TargetCapacitySpecificationRequest{TotalTargetCapacity: aws.Int32(5), OnDemandTargetCapacity: aws.Int32(2), DefaultTargetCapacityType: "spot"},
			SpotOptions:       &ec2types.SpotOptionsRequest{AllocationStrategy: "price-capacity-optimized"},
			TagSpecifications: []ec2types.TagSpecification{{ResourceType: "instance", Tags: []ec2types.Tag{{Key: aws.String("intent"), Value: aws.String("fleet")}}}},
			LaunchTemplateConfigs: []ec2types.FleetLaunchTemplateConfigRequest{{
				LaunchTemplateSpecification: &ec2types.FleetLaunchTemplateSpecificationRequest{LaunchTemplateName: aws.String("linux"), Version: aws.String("$Latest")},
				Overrides: []ec2types.FleetLaunchTemplateOverridesRequest{
					{InstanceType: "m5.large", AvailabilityZone: aws.String("us-east-1a"), MaxPrice: aws.String("0.0001")}, {InstanceType: "c5.xlarge", AvailabilityZone: aws.String("us-east-1b"), WeightedCapacity: aws.Float64(2)},
					{InstanceType: "m7g.large"}, {InstanceType: "none.large"}},
			}},
		}
	}},
	{"ec2", "RunInstances", func(t tale) any {
		return &ec2.RunInstancesInput{MinCount: aws.Int32(1), MaxCount: aws.Int32(2), ClientToken: aws.String("run"), LaunchTemplate: &ec2types.LaunchTemplateSpecification{LaunchTemplateName: aws.String("linux")}, Placement: &ec2types.Placement{AvailabilityZone: aws.String("us-east-1c")},
			InstanceMarketOptions: &ec2types.InstanceMarketOptionsRequest{MarketType: "spot"}}
	}},
	{"ec2", "RunInstances", always(&ec2.RunInstancesInput{MinCount: aws.Int32(1), MaxCount: aws.Int32(1), ClientToken: aws.String("w"), ImageId: aws.String("ami-00000000000000000"), DryRun: aws.Bool(true)})},
	{"ec2", "DescribeInstances", always(&ec2.DescribeInstancesInput{MaxResults: aws.Int32(5), Filters: []ec2types.Filter{{Name: aws.String("tag:pool"), Values: []string{"a/b & <c>"}}}})},
	{"ec2", "DescribeInstances", func(t tale) any {
		return &ec2.DescribeInstancesInput{MaxResults: aws.Int32(5), NextToken: last[*ec2.DescribeInstancesOutput](t).NextToken}
	}},
	{"ec2", "DescribeInstanceStatus", always(&ec2.DescribeInstanceStatusInput{IncludeAllInstances: aws.Bool(true)})},
	{"ec2", "CreateTags", func(t tale) any {
		return &ec2.CreateTagsInput{Resources: []string{*last[*ec2.RunInstancesOutput](t).Instances[0].InstanceId}, Tags: []ec2types.Tag{{Key: aws.String("note"), Value: aws.String("")}}}
	}},
	{"ec2", "DescribeVolumes", always(&ec2.DescribeVolumesInput{})},
	{"ec2", "DescribeNetworkInterfaces", always(&ec2.DescribeNetworkInterfacesInput{})},
	{"ec2", "GetConsoleOutput", func(t tale) any {
		return &ec2.GetConsoleOutputInput{InstanceId: last[*ec2.RunInstancesOutput](t).Instances[0].InstanceId}
	}},
	{"ec2", "TerminateInstances", func(t tale) any {
		return &ec2.TerminateInstancesInput{InstanceIds: []string{*last[*ec2.RunInstancesOutput](t).Instances[0].InstanceId}}
	}},
	{"ec2", "TerminateInstances", always(&ec2.TerminateInstancesInput{InstanceIds: []string{"i-00000000000000000"}})},
	{"ec2", "DescribeVolumes", always(&ec2.DescribeVolumesInput{Filters: []ec2types.Filter{{Name: aws.String("status"), Values: []string{"available"}}}})},
	{"ec2", "DeleteVolume", func(t tale) any {
		return &ec2.DeleteVolumeInput{VolumeId: last[*ec2.DescribeVolumesOutput](t).Volumes[0].VolumeId}
	}},
	{"ec2", "DescribeNetworkInterfaces", always(&ec2.DescribeNetworkInterfacesInput{Filters: []ec2types.Filter{{Name: aws.String("status"), Values: []string{"available"}}}})},
	{"ec2", "DeleteNetworkInterface", func(t tale) any {
		return &ec2.DeleteNetworkInterfaceInput{NetworkInterfaceId: last[*ec2.DescribeNetworkInterfacesOutput](t).NetworkInterfaces[0].NetworkInterfaceId}
	}},
	{"sqs", "GetQueueUrl", always(&sqs.GetQueueUrlInput{QueueName: aws.String("events")})},
	{"sqs", "GetQueueUrl", always(&sqs.GetQueueUrlInput{QueueName: aws.String("nothing")})},
	{"sqs", "ReceiveMessage", func(t tale) any {
		return &sqs.ReceiveMessageInput{QueueUrl: last[*sqs.GetQueueUrlOutput](t).QueueUrl, MaxNumberOfMessages: 10, WaitTimeSeconds: 1}
	}},
	{"sqs", "DeleteMessageBatch", func(t tale) any {
		return &sqs.DeleteMessageBatchInput{QueueUrl: last[*sqs.GetQueueUrlOutput](t).QueueUrl, Entries: []sqstypes.DeleteMessageBatchRequestEntry{{Id: aws.String("0"), ReceiptHandle: last[*sqs.ReceiveMessageOutput](t).Messages[0].ReceiptHandle}}}
	}},
	{"sqs", "GetQueueAttributes", func(t tale) any {
		return &sqs.GetQueueAttributesInput{QueueUrl: last[*sqs.GetQueueUrlOutput](t).QueueUrl, AttributeNames: []sqstypes.QueueAttributeName{"All"}}
	}},
	{"ec2", "DeleteLaunchTemplateVersions", always(&ec2.DeleteLaunchTemplateVersionsInput{LaunchTemplateName: aws.String("linux"), Versions: []string{"1", "2", "3"}})},
	{"ec2", "DeleteLaunchTemplate", always(&ec2.DeleteLaunchTemplateInput{LaunchTemplateName: aws.String("linux")})},
	{"ec2", "DeleteLaunchTemplate", always(&ec2.DeleteLaunchTemplateInput{LaunchTemplateName: aws.String("linux")})},
	{"sts", "AssumeRole", always(&sts.AssumeRoleInput{RoleArn: aws.String("arn:aws:iam::123456789012:role/provisioner"), RoleSessionName: aws.String("s")})},
}

func TestAStoryIsTheSameOnTheGoFaceAndOverHTTP(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	config := Config{Now: func() time.Time { return now }, Seed: 7, Events: Events{Queue: "events"}, Quotas: Quotas{Spot: 640}}
	direct, remote := New(config), New(config)
	server := httptest.NewServer(remote.Handler())
	defer server.Close()
	over := clientConfig(nil)
	over.HTTPClient, over.BaseEndpoint = ownbody.Client(server.Client()), &server.URL

	faces, clients := pairs(direct, clientConfig(nil)), pairs(remote, over)
	ours, theirs := tale{here: direct.Surroundings("123456789012", "us-east-1")}, tale{here: remote.Surroundings("123456789012", "us-east-1")}
	seen := map[string]bool{}
	for n, s := range story {
		seen[s.service+"."+s.action] = true
		a, errA := perform(t.Context(), faces[s.service].face, s.action, s.in(ours))
		b, errB := perform(t.Context(), clients[s.service].client, s.action, s.in(theirs))
		if codeOf(errA) != codeOf(errB) {
			t.Fatalf("step %d, %s: %v and over HTTP %v", n, s.action, errA, errB)
		}
		if errA != nil {
			continue
		}
		ours.answers, theirs.answers = append(ours.answers, a), append(theirs.answers, b)
		if d := difference(reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem(), s.action); d != "" {
			t.Errorf("step %d: %s", n, d)
		}
	}
	for service, p := range faces {
		face := reflect.TypeOf(p.face)
		for i := range face.NumMethod() {
			switch name := service + "." + face.Method(i).Name; name {
			case "sqs.CreateQueue", "sqs.SendMessage", "sqs.DeleteMessage", "sqs.PurgeQueue": // told elsewhere
			default:
				if !seen[name] {
					t.Errorf("the story lacks %s", name)
				}
			}
		}
	}
}

func perform(ctx context.Context, api any, action string, in any) (any, error) {
	out := reflect.ValueOf(api).MethodByName(action).Call([]reflect.Value{reflect.ValueOf(ctx), reflect.ValueOf(in)})
	err, _ := out[1].Interface().(error)
	return out[0].Interface(), err
}

func codeOf(err error) string {
	if err == nil {
		return ""
	}
	return errorCode(err)
}

func TestErrorsThatTheSDKHasTypesForHaveThemOnBothFaces(t *testing.T) {
	c := New(Config{})
	server := httptest.NewServer(c.Handler())
	defer server.Close()
	over := clientConfig(nil)
	over.HTTPClient, over.BaseEndpoint = ownbody.Client(server.Client()), &server.URL
	for where, p := range map[string]map[string]struct{ face, client any }{"Go": pairs(c, over), "HTTP": pairs(c, over)} {
		side := func(service string) any {
			if where == "Go" {
				return p[service].face
			}
			return p[service].client
		}
		_, err := perform(t.Context(), side("ssm"), "GetParameter", &ssm.GetParameterInput{Name: aws.String("/x")})
		if _, ok := errors.AsType[*ssmtypes.ParameterNotFound](err); !ok {
			t.Errorf("%s: %v", where, err)
		}
		_, err = perform(t.Context(), side("sqs"), "GetQueueUrl", &sqs.GetQueueUrlInput{QueueName: aws.String("x")})
		if _, ok := errors.AsType[*sqstypes.QueueDoesNotExist](err); !ok {
			t.Errorf("%s: %v", where, err)
		}
	}
}

func TestAnAssumedRoleActsInItsAccountUntilItExpires(t *testing.T) {
	now := time.Now()
	c := New(Config{Now: func() time.Time { return now }, Accounts: []string{"123456789012", "210987654321"}})
	server := httptest.NewServer(c.Handler())
	defer server.Close()
	over := clientConfig(nil)
	over.HTTPClient, over.BaseEndpoint = ownbody.Client(server.Client()), &server.URL
	role := "arn:aws:iam::210987654321:role/provisioner"
	got, err := sts.NewFromConfig(over).AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: &role, RoleSessionName: aws.String("test")})
	if err != nil {
		t.Fatal(err)
	}
	as := over
	as.Credentials = credentials.NewStaticCredentialsProvider(*got.Credentials.AccessKeyId, *got.Credentials.SecretAccessKey, *got.Credentials.SessionToken)
	who, err := sts.NewFromConfig(as).GetCallerIdentity(t.Context(), nil)
	if err != nil || *who.Arn != "arn:aws:sts::210987654321:assumed-role/provisioner/session" {
		t.Errorf("%v, %v", who, err)
	}
	c.Deny("210987654321", Denial{Action: "ec2:*", Role: "provisioner"})
	_, err = ec2.NewFromConfig(as).DescribeRegions(t.Context(), nil)
	if codeOf(err) != "UnauthorizedOperation" {
		t.Errorf("a denied action: %v", err)
	}
	now = now.Add(time.Hour)
	if _, err = sts.NewFromConfig(as).GetCallerIdentity(t.Context(), nil); codeOf(err) != "ExpiredToken" {
		t.Errorf("after an hour: %v", err)
	}
	c.Deny("210987654321", Denial{Action: "sts:AssumeRole", Role: "provisioner"})
	if _, err = sts.NewFromConfig(over).AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: &role, RoleSessionName: aws.String("test")}); codeOf(err) != "AccessDenied" {
		t.Errorf("a denied role: %v", err)
	}
}

func TestWhoIsUnknownOrElsewhereIsTurnedAway(t *testing.T) {
	c := New(Config{Regions: []string{"us-east-1"}})
	server := httptest.NewServer(c.Handler())
	defer server.Close()
	over := clientConfig(nil)
	over.HTTPClient, over.BaseEndpoint = ownbody.Client(server.Client()), &server.URL
	other := over
	other.Region = "eu-west-1"
	stranger := over
	stranger.Credentials = credentials.NewStaticCredentialsProvider("AKIAIOSFODNN7EXAMPLE", "x", "")
	for _, config := range []aws.Config{other, stranger} {
		if _, err := ec2.NewFromConfig(config).DescribeInstances(t.Context(), nil); codeOf(err) != "AuthFailure" {
			t.Errorf("got %v", err)
		}
	}
}

func TestALostAnswerIsACutConnectionAndTheWorkIsDone(t *testing.T) {
	c := New(Config{})
	server := httptest.NewServer(c.Handler())
	defer server.Close()
	over := clientConfig(nil)
	over.HTTPClient, over.BaseEndpoint = ownbody.Client(server.Client()), &server.URL
	c.Fail(func(call Call) error {
		if call.Action == "RunInstances" && call.After {
			return ErrAnswerLost
		}
		return nil
	})
	run := &ec2.RunInstancesInput{ImageId: aws.String(c.Surroundings("123456789012", "us-east-1").Images["x86_64"]), MinCount: aws.Int32(1), MaxCount: aws.Int32(1)}
	_, err := ec2.NewFromConfig(over).RunInstances(t.Context(), run)
	if err == nil {
		t.Fatal("an answer came")
	}
	if e, ok := errors.AsType[smithy.APIError](err); ok {
		t.Errorf("a service answered: %v", e)
	}
	if c.Alive() != 1 {
		t.Errorf("%d instances", c.Alive())
	}
}
