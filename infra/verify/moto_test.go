package verify_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/mq"
	mqtypes "github.com/aws/aws-sdk-go-v2/service/mq/types"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	rdstypes "github.com/aws/aws-sdk-go-v2/service/rds/types"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/taskfleet/taskfleet/infra/verify"
	"github.com/taskfleet/taskfleet/ownbody"
)

const account = "123456789012" // moto's

// An estate is what a deployment has in one region of moto. All that its methods make is as it should be.
type estate struct {
	t          *testing.T
	ctx        context.Context
	conf       aws.Config
	deployment string
	region     string
	count      atomic.Int32
	key        string // ARN
	boundary   string // ARN
	vpc        string
	subnets    []string

	ec2 *ec2.Client
	ecs *ecs.Client
	elb *elb.Client
	iam *iam.Client
	kms *kms.Client
	mq  *mq.Client
	rds *rds.Client
	s3  *s3.Client
	sqs *sqs.Client
}

// newEstate has a key, a boundary, and volumes encrypted by default. The region is of the test alone.
func newEstate(t *testing.T, region string) *estate {
	url := os.Getenv("TASKFLEET_TEST_MOTO")
	if url == "" {
		t.Fatal("TASKFLEET_TEST_MOTO is not set: run `make test`, which installs moto, starts it and says where it is")
	}
	// Moto closes connections that are kept, also over the next call, which may be done by then.
	once := awshttp.NewBuildableClient().WithTransportOptions(func(to *http.Transport) { to.DisableKeepAlives = true })
	conf := aws.Config{HTTPClient: ownbody.Client(once), Region: region, Retryer: onceMore, BaseEndpoint: &url, Credentials: credentials.NewStaticCredentialsProvider("test", "test", "")}
	e := &estate{
		t: t, ctx: t.Context(), conf: conf, deployment: fmt.Sprintf("verify-%08x", rand.Uint32()), region: region, // moto remembers earlier runs
		ec2: ec2.NewFromConfig(conf), ecs: ecs.NewFromConfig(conf), elb: elb.NewFromConfig(conf), iam: iam.NewFromConfig(conf), kms: kms.NewFromConfig(conf),
		mq: mq.NewFromConfig(conf), rds: rds.NewFromConfig(conf), s3: s3.NewFromConfig(conf), sqs: sqs.NewFromConfig(conf),
	}
	e.key = e.newKey()
	policy := must(e.iam.CreatePolicy(e.ctx, &iam.CreatePolicyInput{PolicyName: aws.String(e.name()), PolicyDocument: aws.String(document(`{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}`))}))(t)
	e.boundary = *policy.Policy.Arn
	must(e.ec2.EnableEbsEncryptionByDefault(e.ctx, &ec2.EnableEbsEncryptionByDefaultInput{}))(t)
	e.vpc = *must(e.ec2.CreateVpc(e.ctx, &ec2.CreateVpcInput{CidrBlock: aws.String("10.0.0.0/16")}))(t).Vpc.VpcId
	for i, zone := range []string{"a", "b"} {
		s := must(e.ec2.CreateSubnet(e.ctx, &ec2.CreateSubnetInput{VpcId: &e.vpc, CidrBlock: aws.String(fmt.Sprintf("10.0.%d.0/24", i)), AvailabilityZone: aws.String(region + zone)}))(t)
		e.subnets = append(e.subnets, *s.Subnet.SubnetId)
	}
	return e
}

// onceMore has a call be made again if its connection broke, and for nothing else.
func onceMore() aws.Retryer {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.Retryables = []retry.IsErrorRetryable{retry.NoRetryCanceledError{}, retry.RetryableConnectionError{}}
	})
}

func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (e *estate) name() string { return fmt.Sprintf("%s-%d", e.deployment, e.count.Add(1)) }

func (e *estate) tags() map[string]string {
	return map[string]string{"Deployment": e.deployment, "ManagedBy": "terraform"}
}

// tagList is tags in the form that a service has.
func tagList[T any](e *estate, of func(k, v *string) T) (list []T) {
	for k, v := range e.tags() {
		list = append(list, of(&k, &v))
	}
	return list
}

func (e *estate) ec2Tags(kind ec2types.ResourceType) []ec2types.TagSpecification {
	return []ec2types.TagSpecification{{ResourceType: kind, Tags: tagList(e, func(k, v *string) ec2types.Tag { return ec2types.Tag{Key: k, Value: v} })}}
}

func document(statements ...string) string {
	return `{"Version": "2012-10-17", "Statement": [` + strings.Join(statements, ", ") + `]}`
}

func (e *estate) newKey() string {
	made := must(e.kms.CreateKey(e.ctx, &kms.CreateKeyInput{Tags: tagList(e, func(k, v *string) kmstypes.Tag { return kmstypes.Tag{TagKey: k, TagValue: v} })}))(e.t)
	must(e.kms.EnableKeyRotation(e.ctx, &kms.EnableKeyRotationInput{KeyId: made.KeyMetadata.KeyId}))(e.t)
	return *made.KeyMetadata.Arn
}

// tlsOnly is the policy of a bucket, with statements beside.
func tlsOnly(bucket string, more ...string) *string {
	return aws.String(document(append([]string{fmt.Sprintf(`{"Effect": "Deny", "Principal": "*", "Action": "s3:*",
		"Resource": ["arn:aws:s3:::%[1]s", "arn:aws:s3:::%[1]s/*"], "Condition": {"Bool": {"aws:SecureTransport": "false"}}}`, bucket)}, more...)...))
}

func (e *estate) bucket() string {
	name := e.name()
	b := &name
	must(e.s3.CreateBucket(e.ctx, &s3.CreateBucketInput{Bucket: b, CreateBucketConfiguration: &s3types.CreateBucketConfiguration{LocationConstraint: s3types.BucketLocationConstraint(e.region)}}))(e.t)
	must(e.s3.PutBucketTagging(e.ctx, &s3.PutBucketTaggingInput{Bucket: b, Tagging: &s3types.Tagging{TagSet: tagList(e, func(k, v *string) s3types.Tag { return s3types.Tag{Key: k, Value: v} })}}))(e.t)
	yes := aws.Bool(true)
	must(e.s3.PutPublicAccessBlock(e.ctx, &s3.PutPublicAccessBlockInput{Bucket: b, PublicAccessBlockConfiguration: &s3types.PublicAccessBlockConfiguration{
		BlockPublicAcls: yes, IgnorePublicAcls: yes, BlockPublicPolicy: yes, RestrictPublicBuckets: yes,
	}}))(e.t)
	e.encrypt(name, s3types.ServerSideEncryptionAwsKms, e.key)
	must(e.s3.PutBucketPolicy(e.ctx, &s3.PutBucketPolicyInput{Bucket: b, Policy: tlsOnly(name)}))(e.t)
	e.version(name, s3types.BucketVersioningStatusEnabled)
	must(e.s3.PutBucketLifecycleConfiguration(e.ctx, &s3.PutBucketLifecycleConfigurationInput{Bucket: b, LifecycleConfiguration: &s3types.BucketLifecycleConfiguration{Rules: []s3types.LifecycleRule{{
		ID: aws.String("unfinished"), Status: s3types.ExpirationStatusEnabled, Filter: &s3types.LifecycleRuleFilter{Prefix: aws.String("")},
		AbortIncompleteMultipartUpload: &s3types.AbortIncompleteMultipartUpload{DaysAfterInitiation: aws.Int32(3)},
	}}}}))(e.t)
	return name
}

func (e *estate) encrypt(bucket string, algorithm s3types.ServerSideEncryption, key string) {
	d := &s3types.ServerSideEncryptionByDefault{SSEAlgorithm: algorithm}
	if key != "" {
		d.KMSMasterKeyID = &key
	}
	must(e.s3.PutBucketEncryption(e.ctx, &s3.PutBucketEncryptionInput{Bucket: &bucket, ServerSideEncryptionConfiguration: &s3types.ServerSideEncryptionConfiguration{
		Rules: []s3types.ServerSideEncryptionRule{{ApplyServerSideEncryptionByDefault: d}},
	}}))(e.t)
}

func (e *estate) version(bucket string, status s3types.BucketVersioningStatus) {
	must(e.s3.PutBucketVersioning(e.ctx, &s3.PutBucketVersioningInput{Bucket: &bucket, VersioningConfiguration: &s3types.VersioningConfiguration{Status: status}}))(e.t)
}

// database makes one, which change may spoil before.
func (e *estate) database(force string, change func(*rds.CreateDBInstanceInput)) *rdstypes.DBInstance {
	name := e.name()
	tags := tagList(e, func(k, v *string) rdstypes.Tag { return rdstypes.Tag{Key: k, Value: v} })
	must(e.rds.CreateDBParameterGroup(e.ctx, &rds.CreateDBParameterGroupInput{DBParameterGroupName: &name, DBParameterGroupFamily: aws.String("postgres17"), Description: &name, Tags: tags}))(e.t)
	must(e.rds.ModifyDBParameterGroup(e.ctx, &rds.ModifyDBParameterGroupInput{DBParameterGroupName: &name, Parameters: []rdstypes.Parameter{
		{ParameterName: aws.String("rds.force_ssl"), ParameterValue: &force, ApplyMethod: rdstypes.ApplyMethodImmediate},
	}}))(e.t)
	yes := aws.Bool(true)
	in := &rds.CreateDBInstanceInput{
		DBInstanceIdentifier: &name, DBInstanceClass: aws.String("db.m7g.large"), Engine: aws.String("postgres"), MasterUsername: aws.String("taskfleet"),
		MasterUserPassword: aws.String("a-password-1"), AllocatedStorage: aws.Int32(20), DBParameterGroupName: &name, StorageEncrypted: yes, KmsKeyId: &e.key,
		MultiAZ: yes, DeletionProtection: yes, PubliclyAccessible: aws.Bool(false), BackupRetentionPeriod: aws.Int32(7), Tags: tags,
	}
	change(in)
	return must(e.rds.CreateDBInstance(e.ctx, in))(e.t).DBInstance
}

func (e *estate) arn(service, resource string) string {
	return "arn:aws:" + service + ":" + e.region + ":" + account + ":" + resource
}

// group makes a security group with an ingress rule.
func (e *estate) group(port int32, cidr string) string {
	name := e.name()
	id := *must(e.ec2.CreateSecurityGroup(e.ctx, &ec2.CreateSecurityGroupInput{GroupName: &name, Description: &name, VpcId: &e.vpc, TagSpecifications: e.ec2Tags(ec2types.ResourceTypeSecurityGroup)}))(e.t).GroupId
	p := ec2types.IpPermission{IpProtocol: aws.String("tcp"), FromPort: &port, ToPort: &port, IpRanges: []ec2types.IpRange{{CidrIp: &cidr}}}
	if strings.Contains(cidr, ":") {
		p.IpRanges, p.Ipv6Ranges = nil, []ec2types.Ipv6Range{{CidrIpv6: &cidr}}
	}
	must(e.ec2.AuthorizeSecurityGroupIngress(e.ctx, &ec2.AuthorizeSecurityGroupIngressInput{GroupId: &id, IpPermissions: []ec2types.IpPermission{p}}))(e.t)
	return id
}

func (e *estate) template(change func(*ec2types.RequestLaunchTemplateData)) string {
	d := &ec2types.RequestLaunchTemplateData{
		MetadataOptions:     &ec2types.LaunchTemplateInstanceMetadataOptionsRequest{HttpTokens: ec2types.LaunchTemplateHttpTokensStateRequired},
		BlockDeviceMappings: []ec2types.LaunchTemplateBlockDeviceMappingRequest{{DeviceName: aws.String("/dev/xvda"), Ebs: &ec2types.LaunchTemplateEbsBlockDeviceRequest{Encrypted: aws.Bool(true)}}},
	}
	change(d)
	return *must(e.ec2.CreateLaunchTemplate(e.ctx, &ec2.CreateLaunchTemplateInput{LaunchTemplateName: aws.String(e.name()), LaunchTemplateData: d, TagSpecifications: e.ec2Tags(ec2types.ResourceTypeLaunchTemplate)}))(e.t).LaunchTemplate.LaunchTemplateId
}

// balancer makes a load balancer that redirects from 80 and has a listener at 443. It returns its ARN and the listener's.
func (e *estate) balancer(change func(*elb.CreateListenerInput), groups ...string) (string, string) {
	name := fmt.Sprintf("v%08x", rand.Uint32()) // 32 characters at most
	tags := tagList(e, func(k, v *string) elbtypes.Tag { return elbtypes.Tag{Key: k, Value: v} })
	b := must(e.elb.CreateLoadBalancer(e.ctx, &elb.CreateLoadBalancerInput{Name: &name, Subnets: e.subnets, SecurityGroups: groups, Tags: tags}))(e.t).LoadBalancers[0].LoadBalancerArn
	redirect := elbtypes.Action{Type: elbtypes.ActionTypeEnumRedirect, RedirectConfig: &elbtypes.RedirectActionConfig{Protocol: aws.String("HTTPS"), Port: aws.String("443"), StatusCode: elbtypes.RedirectActionStatusCodeEnumHttp301}}
	must(e.elb.CreateListener(e.ctx, &elb.CreateListenerInput{LoadBalancerArn: b, Port: aws.Int32(80), Protocol: elbtypes.ProtocolEnumHttp, DefaultActions: []elbtypes.Action{redirect}}))(e.t)
	in := &elb.CreateListenerInput{
		LoadBalancerArn: b, Port: aws.Int32(443), Protocol: elbtypes.ProtocolEnumHttps, SslPolicy: aws.String("ELBSecurityPolicy-TLS13-1-2-Res-2021-06"),
		Certificates:   []elbtypes.Certificate{{CertificateArn: aws.String(e.certificate())}},
		DefaultActions: []elbtypes.Action{{Type: elbtypes.ActionTypeEnumFixedResponse, FixedResponseConfig: &elbtypes.FixedResponseActionConfig{StatusCode: aws.String("200")}}},
	}
	change(in)
	return *b, *must(e.elb.CreateListener(e.ctx, in))(e.t).Listeners[0].ListenerArn
}

// certificate uploads what moto takes for one.
func (e *estate) certificate() string {
	name := e.name()
	body := "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----"
	return *must(e.iam.UploadServerCertificate(e.ctx, &iam.UploadServerCertificateInput{ServerCertificateName: &name, CertificateBody: &body, PrivateKey: aws.String("none")}))(e.t).ServerCertificateMetadata.Arn
}

func (e *estate) queue(attributes map[string]string) (url, arn string) {
	name := e.name()
	all := map[string]string{"SqsManagedSseEnabled": "true", "Policy": document(fmt.Sprintf(`{"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"},
		"Action": "sqs:SendMessage", "Resource": "*", "Condition": {"ArnEquals": {"aws:SourceArn": "%s"}}}`, e.arn("events", "rule/changes")))}
	for k, v := range attributes {
		all[k] = v
	}
	url = *must(e.sqs.CreateQueue(e.ctx, &sqs.CreateQueueInput{QueueName: &name, Attributes: all, Tags: e.tags()}))(e.t).QueueUrl
	return url, e.arn("sqs", name)
}

func (e *estate) broker(change func(*mq.CreateBrokerInput)) string {
	in := &mq.CreateBrokerInput{
		BrokerName: aws.String(e.name()), DeploymentMode: mqtypes.DeploymentModeSingleInstance, EngineType: mqtypes.EngineTypeRabbitmq, HostInstanceType: aws.String("mq.m5.large"),
		EngineVersion: aws.String("3.13"), PubliclyAccessible: aws.Bool(false), AutoMinorVersionUpgrade: aws.Bool(true), Tags: e.tags(),
		Users: []mqtypes.User{{Username: aws.String("taskfleet"), Password: aws.String("a-password-12")}},
	}
	change(in)
	return *must(e.mq.CreateBroker(e.ctx, in))(e.t).BrokerArn
}

const trust = `{"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}`

func (e *estate) role(trust, policy string, change func(*iam.CreateRoleInput)) string {
	name := e.name()
	in := &iam.CreateRoleInput{
		RoleName: &name, AssumeRolePolicyDocument: aws.String(document(trust)), PermissionsBoundary: &e.boundary,
		Tags: tagList(e, func(k, v *string) iamtypes.Tag { return iamtypes.Tag{Key: k, Value: v} }),
	}
	change(in)
	r := must(e.iam.CreateRole(e.ctx, in))(e.t).Role
	must(e.iam.PutRolePolicy(e.ctx, &iam.PutRolePolicyInput{RoleName: &name, PolicyName: aws.String("own"), PolicyDocument: aws.String(document(policy))}))(e.t)
	return *r.Arn
}

const modest = `{"Effect": "Allow", "Action": ["s3:GetObject", "sqs:ReceiveMessage"], "Resource": "arn:aws:s3:::artifacts/*"}`

func (e *estate) account() *verify.Report {
	e.t.Helper()
	return e.verify(verify.Manifest{Version: 1, Deployment: e.deployment, KMSKeyARN: e.key})
}

func (e *estate) verify(m verify.Manifest) *verify.Report {
	e.t.Helper()
	return must(verify.Account(e.ctx, verify.Options{Config: &e.conf, Manifest: m}))(e.t)
}

func shown(list []verify.Finding) string {
	text, err := json.MarshalIndent(list, "", "  ")
	return string(text) + fmt.Sprint(errors.Join(err))
}

// checksOf are the checks that have found something of a resource.
func checksOf(list []verify.Finding, resource string) (checks []string) {
	for _, f := range list {
		if f.Resource == resource {
			checks = append(checks, f.Check)
		}
	}
	slices.Sort(checks)
	return checks
}
