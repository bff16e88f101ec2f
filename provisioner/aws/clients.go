package aws

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/taskfleet/taskfleet/ownbody"
)

// Clients are the services of one account in one region. Only EC2 is needed.
type Clients struct {
	EC2    EC2
	SQS    SQS    // nil: no events, instances are swept for
	Quotas Quotas // nil: quotas are learnt by running into them
}

// EC2 is what the provider uses of *ec2.Client.
type EC2 interface {
	RunInstances(context.Context, *ec2.RunInstancesInput, ...func(*ec2.Options)) (*ec2.RunInstancesOutput, error)
	CreateFleet(context.Context, *ec2.CreateFleetInput, ...func(*ec2.Options)) (*ec2.CreateFleetOutput, error)
	TerminateInstances(context.Context, *ec2.TerminateInstancesInput, ...func(*ec2.Options)) (*ec2.TerminateInstancesOutput, error)
	DescribeInstances(context.Context, *ec2.DescribeInstancesInput, ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error)

	CreateLaunchTemplate(context.Context, *ec2.CreateLaunchTemplateInput, ...func(*ec2.Options)) (*ec2.CreateLaunchTemplateOutput, error)
	DescribeLaunchTemplates(context.Context, *ec2.DescribeLaunchTemplatesInput, ...func(*ec2.Options)) (*ec2.DescribeLaunchTemplatesOutput, error)
	DeleteLaunchTemplate(context.Context, *ec2.DeleteLaunchTemplateInput, ...func(*ec2.Options)) (*ec2.DeleteLaunchTemplateOutput, error)

	DescribeSpotPriceHistory(context.Context, *ec2.DescribeSpotPriceHistoryInput, ...func(*ec2.Options)) (*ec2.DescribeSpotPriceHistoryOutput, error)
	DescribeInstanceTypeOfferings(context.Context, *ec2.DescribeInstanceTypeOfferingsInput, ...func(*ec2.Options)) (*ec2.DescribeInstanceTypeOfferingsOutput, error)
	GetSpotPlacementScores(context.Context, *ec2.GetSpotPlacementScoresInput, ...func(*ec2.Options)) (*ec2.GetSpotPlacementScoresOutput, error)

	// For validation only.
	DescribeImages(context.Context, *ec2.DescribeImagesInput, ...func(*ec2.Options)) (*ec2.DescribeImagesOutput, error)
	DescribeSecurityGroups(context.Context, *ec2.DescribeSecurityGroupsInput, ...func(*ec2.Options)) (*ec2.DescribeSecurityGroupsOutput, error)
	DescribeSubnets(context.Context, *ec2.DescribeSubnetsInput, ...func(*ec2.Options)) (*ec2.DescribeSubnetsOutput, error)
	DescribeKeyPairs(context.Context, *ec2.DescribeKeyPairsInput, ...func(*ec2.Options)) (*ec2.DescribeKeyPairsOutput, error)
	DescribeInstanceTypes(context.Context, *ec2.DescribeInstanceTypesInput, ...func(*ec2.Options)) (*ec2.DescribeInstanceTypesOutput, error)

	DescribeVolumes(context.Context, *ec2.DescribeVolumesInput, ...func(*ec2.Options)) (*ec2.DescribeVolumesOutput, error)
	DeleteVolume(context.Context, *ec2.DeleteVolumeInput, ...func(*ec2.Options)) (*ec2.DeleteVolumeOutput, error)
	DescribeNetworkInterfaces(context.Context, *ec2.DescribeNetworkInterfacesInput, ...func(*ec2.Options)) (*ec2.DescribeNetworkInterfacesOutput, error)
	DeleteNetworkInterface(context.Context, *ec2.DeleteNetworkInterfaceInput, ...func(*ec2.Options)) (*ec2.DeleteNetworkInterfaceOutput, error)
}

// SQS is what the provider uses of *sqs.Client.
type SQS interface {
	ReceiveMessage(context.Context, *sqs.ReceiveMessageInput, ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error)
	DeleteMessageBatch(context.Context, *sqs.DeleteMessageBatchInput, ...func(*sqs.Options)) (*sqs.DeleteMessageBatchOutput, error)
}

// Quotas is what the provider uses of *servicequotas.Client.
type Quotas interface {
	GetServiceQuota(context.Context, *servicequotas.GetServiceQuotaInput, ...func(*servicequotas.Options)) (*servicequotas.GetServiceQuotaOutput, error)
}

// callTimeout bounds a call of EC2. What is not answered by then is repeated
// with the same token.
const callTimeout = 30 * time.Second

// renewBefore is how long before they end the credentials of a role, which are
// good for 15 minutes, are renewed.
const renewBefore = 5 * time.Minute

// SDK makes clients of the real services, with the credentials of the
// environment: variables, files of ~/.aws, the role of the container or the
// machine. endpoint replaces the addresses of all services, for tests; "" are
// AWS's own. The SDK repeats no call of EC2: a repetition takes from the same
// limits as a first call, and the provider keeps account of these. Credentials
// are renewed before they end, so that no call is refused for a clock that is
// slow. keys, if they are not nil, replace the credentials of the environment once
// there are any.
func SDK(ctx context.Context, endpoint string, keys *Keys) (func(Account, string) Clients, error) {
	base, err := config.LoadDefaultConfig(ctx,
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(callTimeout)))
	if err != nil {
		return nil, err
	}
	base.HTTPClient = ownbody.Client(base.HTTPClient)
	if endpoint != "" {
		base.BaseEndpoint = &endpoint
	}
	if keys != nil {
		base.Credentials = keys.over(base)
	}
	roles := map[string]aws.CredentialsProvider{}
	return func(a Account, region string) Clients {
		c := base.Copy()
		c.Region = region
		if a.Role != "" {
			if roles[a.ID] == nil {
				roles[a.ID] = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(sts.NewFromConfig(c), a.Role, func(o *stscreds.AssumeRoleOptions) {
					o.RoleSessionName = "taskfleet"
					if a.ExternalID != "" {
						o.ExternalID = &a.ExternalID
					}
				}), func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = renewBefore })
			}
			c.Credentials = roles[a.ID]
		}
		once := func(o *ec2.Options) { o.Retryer = aws.NopRetryer{} }
		return Clients{EC2: ec2.NewFromConfig(c, once), SQS: sqs.NewFromConfig(c), Quotas: servicequotas.NewFromConfig(c)}
	}, nil
}

// Actions are what the role or user that the provisioner acts as has to be
// allowed, by IAM's names. sqs is for the queues of EC2's events, iam:PassRole
// for instance profiles, sts for accounts with a role, and ssm for images by
// parameter.
var Actions = []string{
	"ec2:RunInstances", "ec2:CreateFleet", "ec2:CreateTags", "ec2:TerminateInstances", "ec2:DescribeInstances",
	"ec2:CreateLaunchTemplate", "ec2:DescribeLaunchTemplates", "ec2:DeleteLaunchTemplate",
	"ec2:DescribeSpotPriceHistory", "ec2:DescribeInstanceTypeOfferings", "ec2:GetSpotPlacementScores", "servicequotas:GetServiceQuota",
	"ec2:DescribeVolumes", "ec2:DeleteVolume", "ec2:DescribeNetworkInterfaces", "ec2:DeleteNetworkInterface",
	"ec2:DescribeImages", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeKeyPairs", "ec2:DescribeInstanceTypes",
	"sqs:ReceiveMessage", "sqs:DeleteMessage", "iam:PassRole", "sts:AssumeRole", "ssm:GetParameters",
}
