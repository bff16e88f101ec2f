package verify_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecs"
	ecstypes "github.com/aws/aws-sdk-go-v2/service/ecs/types"
	elb "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2"
	elbtypes "github.com/aws/aws-sdk-go-v2/service/elasticloadbalancingv2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/mq"
	mqtypes "github.com/aws/aws-sdk-go-v2/service/mq/types"
	"github.com/aws/aws-sdk-go-v2/service/rds"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	s3types "github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/taskfleet/taskfleet/infra/verify"
)

func asIs[T any](*T) {}

// A deployment with one of everything, in two regions.
func TestAGoodAccount(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "eu-north-1")
	far := newEstate(t, "eu-west-3")
	far.deployment = e.deployment
	far.key = far.newKey()
	// The load balancer's group is the one that lets the world in.
	e.balancer(asIs, e.group(443, "0.0.0.0/0"), e.group(443, "::/0"))
	e.broker(asIs)
	e.role(trust, modest, asIs)
	e.role(`{"Effect": "Allow", "Action": "sts:AssumeRoleWithWebIdentity", "Principal": {"Federated": "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"},
		"Condition": {"StringLike": {"token.actions.githubusercontent.com:sub": "repo:acme/builds:ref:*"}}}`, modest, func(in *iam.CreateRoleInput) { in.PermissionsBoundary = nil })
	must(e.ecs.CreateCluster(e.ctx, &ecs.CreateClusterInput{ClusterName: &e.deployment, Tags: tagList(e, func(k, v *string) ecstypes.Tag { return ecstypes.Tag{Key: k, Value: v} })}))(t)
	logs := e.bucket() // S3 can write its logs to no other kind
	e.encrypt(logs, s3types.ServerSideEncryptionAes256, "")
	must(e.s3.PutBucketPolicy(t.Context(), &s3.PutBucketPolicyInput{Bucket: &logs, Policy: tlsOnly(logs, `{"Effect": "Allow", "Principal": {"Service": "logging.s3.amazonaws.com"},
		"Action": "s3:PutObject", "Resource": "*", "Condition": {"StringEquals": {"aws:SourceAccount": "123456789012"}}}`)}))(t)
	e.version(logs, s3types.BucketVersioningStatusSuspended)
	mirror := far.bucket() // whose copies can be made again
	far.version(mirror, s3types.BucketVersioningStatusSuspended)
	database := e.database("1", asIs)
	queue, _ := e.queue(nil)
	farQueue, _ := far.queue(nil)
	m := verify.Manifest{
		Version: 1, Deployment: e.deployment, KMSKeyARN: e.key, ArtifactBucket: e.bucket(), Cluster: e.deployment,
		Database: &verify.Database{Endpoint: *database.Endpoint.Address + ":5432"},
		Regions: map[string]verify.Region{
			e.region:   {WorkerSecurityGroup: e.group(22, "10.0.0.0/8"), LaunchTemplate: e.template(asIs), EventQueue: queue},
			far.region: {WorkerSecurityGroup: far.group(22, "10.0.0.0/8"), LaunchTemplate: far.template(asIs), EventQueue: farQueue, MirrorBucket: mirror},
		},
	}
	r := e.verify(m)
	if len(r.Findings) > 0 {
		t.Errorf("a good account has findings:\n%s", shown(r.Findings))
	}
	want := map[string]int{"bucket": 3, "key": 2, "database": 1, "security group": 4, "launch template": 2, "load balancer": 1, "cluster": 1, "queue": 2, "broker": 1, "role": 2}
	if !maps.Equal(r.Resources, want) {
		t.Errorf("it has looked at %v, want %v", r.Resources, want)
	}
	if r.Account != account || !slices.Equal(r.Regions, []string{"eu-north-1", "eu-west-3"}) {
		t.Errorf("it has looked in %s, %s", r.Account, r.Regions)
	}
}

// Each fault is planted in a resource of its own, which is as it should be but for it.
func TestEachFaultIsFoundAndOnlyIt(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "ca-central-1")
	must(e.ec2.DisableEbsEncryptionByDefault(t.Context(), &ec2.DisableEbsEncryptionByDefaultInput{}))(t)
	other := newEstate(t, "ca-central-1") // another deployment, and its defaults
	must(e.ec2.DisableEbsEncryptionByDefault(t.Context(), &ec2.DisableEbsEncryptionByDefaultInput{}))(t)
	strange := other.key

	bucket := func(spoil func(name string)) func() string {
		return func() string {
			name := e.bucket()
			spoil(name)
			return "arn:aws:s3:::" + name
		}
	}
	database := func(force string, spoil func(*rds.CreateDBInstanceInput)) func() string {
		return func() string { return *e.database(force, spoil).DBInstanceArn }
	}
	key := func(spoil func(id string)) func() string {
		return func() string {
			key := e.newKey()
			_, id, _ := strings.Cut(key, ":key/") // moto knows no ARN where a key is disabled
			spoil(id)
			return key
		}
	}
	group := func(port int32, cidr string) func() string {
		return func() string { return e.arn("ec2", "security-group/"+e.group(port, cidr)) }
	}
	template := func(spoil func(*ec2types.RequestLaunchTemplateData)) func() string {
		return func() string { return e.arn("ec2", "launch-template/"+e.template(spoil)) }
	}
	listener := func(spoil func(*elb.CreateListenerInput)) func() string {
		return func() string {
			_, l := e.balancer(spoil)
			return l
		}
	}
	queue := func(attributes map[string]string) func() string {
		return func() string {
			_, arn := e.queue(attributes)
			return arn
		}
	}
	broker := func(spoil func(*mq.CreateBrokerInput)) func() string {
		return func() string { return e.broker(spoil) }
	}
	role := func(trust, policy string, spoil func(*iam.CreateRoleInput)) func() string {
		return func() string { return e.role(trust, policy, spoil) }
	}
	no := aws.Bool(false)
	type fault struct {
		what, check, message string
		plant                func() string // the resource's ARN
	}
	faults := []fault{
		{"a bucket without a public access block", "bucket-public-access-block", "RestrictPublicBuckets is off", bucket(func(b string) {
			must(e.s3.DeletePublicAccessBlock(e.ctx, &s3.DeletePublicAccessBlockInput{Bucket: &b}))(t)
		})},
		{"a public access block with a hole", "bucket-public-access-block", "made public: BlockPublicPolicy is off", bucket(func(b string) {
			yes := aws.Bool(true)
			must(e.s3.PutPublicAccessBlock(e.ctx, &s3.PutPublicAccessBlockInput{Bucket: &b, PublicAccessBlockConfiguration: &s3types.PublicAccessBlockConfiguration{
				BlockPublicAcls: yes, IgnorePublicAcls: yes, BlockPublicPolicy: no, RestrictPublicBuckets: yes,
			}}))(t)
		})},
		{"a public policy", "bucket-public-policy", "policy makes it public", bucket(func(b string) {
			// S3 refuses such a policy while there is a block.
			open := tlsOnly(b, `{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::`+b+`/*"}`)
			block := must(e.s3.GetPublicAccessBlock(e.ctx, &s3.GetPublicAccessBlockInput{Bucket: &b}))(t)
			must(e.s3.DeletePublicAccessBlock(e.ctx, &s3.DeletePublicAccessBlockInput{Bucket: &b}))(t)
			must(e.s3.PutBucketPolicy(e.ctx, &s3.PutBucketPolicyInput{Bucket: &b, Policy: open}))(t)
			must(e.s3.PutPublicAccessBlock(e.ctx, &s3.PutPublicAccessBlockInput{Bucket: &b, PublicAccessBlockConfiguration: block.PublicAccessBlockConfiguration}))(t)
		})},
		{"a public ACL", "bucket-public-acl", "READ to AllUsers", bucket(func(b string) {
			block := must(e.s3.GetPublicAccessBlock(e.ctx, &s3.GetPublicAccessBlockInput{Bucket: &b}))(t)
			must(e.s3.DeletePublicAccessBlock(e.ctx, &s3.DeletePublicAccessBlockInput{Bucket: &b}))(t)
			must(e.s3.PutBucketAcl(e.ctx, &s3.PutBucketAclInput{Bucket: &b, ACL: s3types.BucketCannedACLPublicRead}))(t)
			must(e.s3.PutPublicAccessBlock(e.ctx, &s3.PutPublicAccessBlockInput{Bucket: &b, PublicAccessBlockConfiguration: block.PublicAccessBlockConfiguration}))(t)
		})},
		{"no encryption", "bucket-encryption", "does not say how", bucket(func(b string) {
			must(e.s3.DeleteBucketEncryption(e.ctx, &s3.DeleteBucketEncryptionInput{Bucket: &b}))(t)
		})},
		{"S3's key", "bucket-encryption", "AES256", bucket(func(b string) { e.encrypt(b, s3types.ServerSideEncryptionAes256, "") })},
		{"the account's key", "bucket-encryption", "account's key", bucket(func(b string) { e.encrypt(b, s3types.ServerSideEncryptionAwsKms, "") })},
		{"another deployment's key", "bucket-encryption", strange, bucket(func(b string) { e.encrypt(b, s3types.ServerSideEncryptionAwsKms, strange) })},
		{"a bucket without a policy", "bucket-tls", "without TLS", bucket(func(b string) {
			must(e.s3.DeleteBucketPolicy(e.ctx, &s3.DeleteBucketPolicyInput{Bucket: &b}))(t)
		})},
		{"TLS for the bucket and not for what is in it", "bucket-tls", "without TLS", bucket(func(b string) {
			half := strings.Replace(*tlsOnly(b), `, "arn:aws:s3:::`+b+`/*"`, "", 1)
			must(e.s3.PutBucketPolicy(e.ctx, &s3.PutBucketPolicyInput{Bucket: &b, Policy: &half}))(t)
		})},
		{"TLS by a condition with a way out", "bucket-tls", "without TLS", bucket(func(b string) {
			half := strings.Replace(*tlsOnly(b), `"Bool"`, `"StringNotEquals": {"aws:PrincipalAccount": "210987654321"}, "Bool"`, 1)
			must(e.s3.PutBucketPolicy(e.ctx, &s3.PutBucketPolicyInput{Bucket: &b, Policy: &half}))(t)
		})},
		{"no versions", "bucket-versioning", "lost", bucket(func(b string) { e.version(b, s3types.BucketVersioningStatusSuspended) })},
		{"no life cycle", "bucket-lifecycle", "never finished", bucket(func(b string) {
			must(e.s3.DeleteBucketLifecycle(e.ctx, &s3.DeleteBucketLifecycleInput{Bucket: &b}))(t)
		})},
		{"a bucket without ManagedBy", "tags", "no tag ManagedBy", bucket(func(b string) {
			must(e.s3.PutBucketTagging(e.ctx, &s3.PutBucketTaggingInput{Bucket: &b, Tagging: &s3types.Tagging{TagSet: []s3types.Tag{{Key: aws.String("Deployment"), Value: &e.deployment}}}}))(t)
		})},

		{"a key that is not rotated", "key-rotation", "not rotated", key(func(id string) {
			must(e.kms.DisableKeyRotation(e.ctx, &kms.DisableKeyRotationInput{KeyId: &id}))(t)
		})},
		{"a key that is to be deleted", "key-state", "PendingDeletion", key(func(id string) {
			must(e.kms.ScheduleKeyDeletion(e.ctx, &kms.ScheduleKeyDeletionInput{KeyId: &id, PendingWindowInDays: aws.Int32(7)}))(t)
		})},
		{"a key that is disabled", "key-state", "Disabled", key(func(id string) {
			must(e.kms.DisableKey(e.ctx, &kms.DisableKeyInput{KeyId: &id}))(t)
		})},
		{"a key for anybody", "key-policy", "anybody", key(func(id string) {
			open := document(`{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "kms:*", "Resource": "*"}`)
			must(e.kms.PutKeyPolicy(e.ctx, &kms.PutKeyPolicyInput{KeyId: &id, PolicyName: aws.String("default"), Policy: &open}))(t)
		})},

		{"a database in plain", "database-encryption", "not encrypted", database("1", func(in *rds.CreateDBInstanceInput) { in.StorageEncrypted, in.KmsKeyId = no, nil })},
		{"a day of backups", "database-backups", "for 1 days", database("1", func(in *rds.CreateDBInstanceInput) { in.BackupRetentionPeriod = aws.Int32(1) })},
		{"one zone", "database-standby", "one zone", database("1", func(in *rds.CreateDBInstanceInput) { in.MultiAZ = no })},
		{"a public database", "database-public", "public address", database("1", func(in *rds.CreateDBInstanceInput) { in.PubliclyAccessible = aws.Bool(true) })},
		{"a database that can be deleted", "database-deletion-protection", "one call", database("1", func(in *rds.CreateDBInstanceInput) { in.DeletionProtection = no })},
		{"a database without TLS", "database-tls", "without TLS", database("0", asIs)},

		{"SSH for the world", "ingress-open", "port 22 (tcp) is open to the world (0.0.0.0/0)", group(22, "0.0.0.0/0")},
		{"443 for the world, and no load balancer", "ingress-open", "port 443", group(443, "0.0.0.0/0")},
		{"IPv6 for the world", "ingress-open", "::/0", group(8080, "::/0")},
		{"half the world", "ingress-open", "128.0.0.0/1", group(22, "128.0.0.0/1")},
		{"a load balancer's group open at another port", "ingress-open", "port 80 (tcp)", func() string {
			id := e.group(80, "0.0.0.0/0")
			e.balancer(asIs, id)
			return e.arn("ec2", "security-group/"+id)
		}},

		{"IMDSv1", "launch-template-metadata", "IMDSv1", template(func(d *ec2types.RequestLaunchTemplateData) {
			d.MetadataOptions.HttpTokens = ec2types.LaunchTemplateHttpTokensStateOptional
		})},
		{"nothing said of IMDS", "launch-template-metadata", "IMDSv1", template(func(d *ec2types.RequestLaunchTemplateData) { d.MetadataOptions = nil })},
		{"a volume in plain", "launch-template-encrypted", "/dev/xvda", template(func(d *ec2types.RequestLaunchTemplateData) { d.BlockDeviceMappings[0].Ebs.Encrypted = no })},
		{"a later version with IMDSv1", "launch-template-metadata", "version 2", func() string {
			id := e.template(asIs)
			must(e.ec2.CreateLaunchTemplateVersion(e.ctx, &ec2.CreateLaunchTemplateVersionInput{LaunchTemplateId: &id, LaunchTemplateData: &ec2types.RequestLaunchTemplateData{}}))(t)
			return e.arn("ec2", "launch-template/"+id)
		}},
		{"volumes in plain by default", "volume-encryption-default", "unless whoever makes one", func() string { return e.arn("ec2", "*") }},

		{"an old policy of TLS", "load-balancer-policy", "ELBSecurityPolicy-2016-08", listener(func(in *elb.CreateListenerInput) { in.SslPolicy = aws.String("ELBSecurityPolicy-2016-08") })},
		{"plain HTTP", "load-balancer-tls", "port 8080 answers", listener(func(in *elb.CreateListenerInput) {
			in.Port, in.Protocol, in.SslPolicy, in.Certificates = aws.Int32(8080), elbtypes.ProtocolEnumHttp, nil, nil
		})},
		{"a redirect with a rule that answers", "load-balancer-tls", "port 8081 answers", func() string {
			_, l := e.balancer(func(in *elb.CreateListenerInput) {
				in.Port, in.Protocol, in.SslPolicy, in.Certificates = aws.Int32(8081), elbtypes.ProtocolEnumHttp, nil, nil
				in.DefaultActions = []elbtypes.Action{{Type: elbtypes.ActionTypeEnumRedirect, RedirectConfig: &elbtypes.RedirectActionConfig{Protocol: aws.String("HTTPS"), StatusCode: elbtypes.RedirectActionStatusCodeEnumHttp301}}}
			})
			must(e.elb.CreateRule(e.ctx, &elb.CreateRuleInput{ListenerArn: &l, Priority: aws.Int32(1),
				Conditions: []elbtypes.RuleCondition{{Field: aws.String("path-pattern"), Values: []string{"/api/*"}}},
				Actions:    []elbtypes.Action{{Type: elbtypes.ActionTypeEnumFixedResponse, FixedResponseConfig: &elbtypes.FixedResponseActionConfig{StatusCode: aws.String("200")}}},
			}))(t)
			return l
		}},

		{"a queue in plain", "queue-encryption", "not encrypted", queue(map[string]string{"SqsManagedSseEnabled": "false"})},
		{"a queue for anybody", "queue-policy", "anybody", queue(map[string]string{"Policy": document(`{"Effect": "Allow", "Principal": "*", "Action": "sqs:SendMessage", "Resource": "*"}`)})},
		{"a queue for all rules of the world", "queue-policy", "any account", queue(map[string]string{"Policy": document(`{"Effect": "Allow", "Principal": {"Service": "events.amazonaws.com"}, "Action": "sqs:SendMessage", "Resource": "*"}`)})},

		{"a public broker", "broker-public", "public address", broker(func(in *mq.CreateBrokerInput) { in.PubliclyAccessible = aws.Bool(true) })},
		{"a broker with AWS's key", "broker-encryption", "not encrypted with a key", broker(func(in *mq.CreateBrokerInput) {
			in.EngineType, in.EngineVersion = mqtypes.EngineTypeActivemq, aws.String("5.18")
		})},

		{"a role without a boundary", "role-boundary", "no permissions boundary", role(trust, modest, func(in *iam.CreateRoleInput) { in.PermissionsBoundary = nil })},
		{"all actions", "role-actions", "own allows all actions", role(trust, `{"Effect": "Allow", "Action": "*", "Resource": "*"}`, asIs)},
		{"all of a service", "role-actions", "own allows s3:*", role(trust, `{"Effect": "Allow", "Action": ["sqs:SendMessage", "s3:*"], "Resource": "*"}`, asIs)},
		{"all actions but some", "role-actions", "NotAction", role(trust, `{"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}`, asIs)},
		{"all actions by a policy of the account", "role-actions", "allows ec2:*", func() string {
			name := e.name()
			p := must(e.iam.CreatePolicy(e.ctx, &iam.CreatePolicyInput{PolicyName: &name, PolicyDocument: aws.String(document(`{"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}`))}))(t)
			arn := e.role(trust, modest, asIs)
			must(e.iam.AttachRolePolicy(e.ctx, &iam.AttachRolePolicyInput{RoleName: aws.String(arn[strings.LastIndex(arn, "/")+1:]), PolicyArn: p.Policy.Arn}))(t)
			return arn
		}},
		{"a role for anybody", "role-trust", "anybody", role(`{"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}`, modest, asIs)},
		{"a role for all of GitHub", "role-trust", "anybody", role(`{"Effect": "Allow", "Action": "sts:AssumeRoleWithWebIdentity", "Principal": {"Federated": "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"},
			"Condition": {"StringLike": {"token.actions.githubusercontent.com:sub": "repo:*"}}}`, modest, asIs)},
	}
	resources := make([]string, len(faults))
	for i, f := range faults {
		resources[i] = f.plant()
	}
	r := e.account()
	for i, f := range faults {
		t.Run(f.what, func(t *testing.T) {
			if got := checksOf(r.Findings, resources[i]); !slices.Equal(got, []string{f.check}) {
				t.Errorf("%s of %s: found %v, want %s", f.what, resources[i], got, f.check)
			}
			if !slices.ContainsFunc(r.Findings, func(x verify.Finding) bool {
				return x.Resource == resources[i] && strings.Contains(x.Message, f.message) && x.Fix != ""
			}) {
				t.Errorf("no message has %q:\n%s", f.message, shown(r.Findings))
			}
		})
	}
	for _, c := range verify.Checks() {
		if !slices.ContainsFunc(faults, func(f fault) bool { return f.check == c }) && !slices.Contains([]string{"unchecked", "missing", "service-running", "service-circuit-breaker"}, c) {
			t.Errorf("no fault is planted for %s", c) // those of services, and what is missing or denied, have tests of their own
		}
	}
	for _, f := range r.Findings {
		if !slices.Contains(resources, f.Resource) {
			t.Errorf("a finding that nobody has planted: %+v", f)
		}
	}
	if !slices.IsSortedFunc(r.Findings, func(a, b verify.Finding) int { return strings.Compare(string(a.Severity), string(b.Severity)) }) {
		t.Error("the worst do not come first")
	}
}

// What the manifest names and AWS does not have is missing, what has no tags is looked at all the same, and what belongs to
// another deployment is said so.
func TestWhatTheManifestNames(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "ap-south-1")
	queue, arn := e.queue(nil)
	must(e.sqs.UntagQueue(t.Context(), &sqs.UntagQueueInput{QueueUrl: &queue, TagKeys: []string{"Deployment", "ManagedBy"}}))(t)
	other := e.group(22, "0.0.0.0/0")
	must(e.ec2.CreateTags(t.Context(), &ec2.CreateTagsInput{Resources: []string{other}, Tags: []ec2types.Tag{{Key: aws.String("Deployment"), Value: aws.String("another")}}}))(t)
	r := e.verify(verify.Manifest{
		Version: 1, Deployment: e.deployment, KMSKeyARN: e.key, ArtifactBucket: e.deployment + "-gone", Cluster: "gone", Database: &verify.Database{Endpoint: "gone.rds.amazonaws.com:5432"},
		Regions: map[string]verify.Region{e.region: {EventQueue: queue, WorkerSecurityGroup: other, LaunchTemplate: "lt-0123456789abcdef0", MirrorBucket: e.deployment + "-gone-too"}},
	})
	for resource, want := range map[string][]string{
		arn:                                      {"tags"},
		e.arn("ec2", "security-group/"+other):    {"ingress-open", "tags"},
		"arn:aws:s3:::" + e.deployment + "-gone": {"missing"},
		"arn:aws:s3:::" + e.deployment + "-gone-too":         {"missing"},
		"gone.rds.amazonaws.com":                             {"missing"},
		e.arn("ecs", "cluster/gone"):                         {"missing"},
		e.arn("ec2", "launch-template/lt-0123456789abcdef0"): {"missing"},
	} {
		if got := checksOf(r.Findings, resource); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", resource, got, want)
		}
	}
	if len(r.Findings) != 8 {
		t.Errorf("there are others:\n%s", shown(r.Findings))
	}
}

// What is not for production needs no standby.
func TestDevelopment(t *testing.T) {
	t.Parallel()
	e := newEstate(t, "ap-southeast-2")
	e.database("1", func(in *rds.CreateDBInstanceInput) {
		in.MultiAZ, in.DeletionProtection, in.BackupRetentionPeriod = aws.Bool(false), aws.Bool(false), aws.Int32(1)
	})
	r := must(verify.Account(t.Context(), verify.Options{Config: &e.conf, Development: true, Manifest: verify.Manifest{Version: 1, Deployment: e.deployment, KMSKeyARN: e.key}}))(t)
	if len(r.Findings) > 0 {
		t.Errorf("findings:\n%s", shown(r.Findings))
	}
	if r = e.account(); len(r.Findings) != 3 {
		t.Errorf("in production:\n%s", shown(r.Findings))
	}
}
