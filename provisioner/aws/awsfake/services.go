package awsfake

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	iamtypes "github.com/aws/aws-sdk-go-v2/service/iam/types"
	"github.com/aws/aws-sdk-go-v2/service/servicequotas"
	quotatypes "github.com/aws/aws-sdk-go-v2/service/servicequotas/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"
)

// SSM is the Go face of Systems Manager's parameters in one region.
type SSM struct{ scope }

// SSM of an account's own user in a region; it panics when the cloud has no
// such account or region.
func (c *Cloud) SSM(account, region string) *SSM { return &SSM{c.scope(account, region, "")} }

func (r *region) parameter(name string) (ssmtypes.Parameter, bool) {
	value, ok := r.parameters[name]
	return ssmtypes.Parameter{
		Name: &name, Value: &value, Type: ssmtypes.ParameterTypeString, DataType: aws.String("text"), Version: 1, LastModifiedDate: aws.Time(r.cloud.epoch),
		ARN: aws.String(fmt.Sprintf("arn:aws:ssm:%s:%s:parameter/%s", r.name, r.account.id, strings.TrimPrefix(name, "/"))),
	}, ok
}

// GetParameter reads a parameter.
func (e *SSM) GetParameter(ctx context.Context, in *ssm.GetParameterInput, _ ...func(*ssm.Options)) (*ssm.GetParameterOutput, error) {
	return call(ctx, e.scope, "ssm", "GetParameter", in, func(s scope, in *ssm.GetParameterInput) (*ssm.GetParameterOutput, error) {
		p, ok := s.region.parameter(aws.ToString(in.Name))
		if !ok {
			return nil, &ssmtypes.ParameterNotFound{Message: aws.String("Parameter " + aws.ToString(in.Name) + " not found.")}
		}
		return &ssm.GetParameterOutput{Parameter: &p}, nil
	})
}

// GetParameters reads up to ten parameters, and says which do not exist.
func (e *SSM) GetParameters(ctx context.Context, in *ssm.GetParametersInput, _ ...func(*ssm.Options)) (*ssm.GetParametersOutput, error) {
	return call(ctx, e.scope, "ssm", "GetParameters", in, func(s scope, in *ssm.GetParametersInput) (*ssm.GetParametersOutput, error) {
		if n := len(in.Names); n < 1 || n > 10 {
			return nil, &Error{Code: "ValidationException", Message: fmt.Sprintf("1 validation error detected: Value at 'names' has %d members: it must have between 1 and 10", n)}
		}
		out := &ssm.GetParametersOutput{Parameters: []ssmtypes.Parameter{}, InvalidParameters: []string{}}
		for _, name := range in.Names {
			if p, ok := s.region.parameter(name); ok {
				out.Parameters = append(out.Parameters, p)
			} else {
				out.InvalidParameters = append(out.InvalidParameters, name)
			}
		}
		return out, nil
	})
}

// STS is the Go face of the security token service.
type STS struct{ scope }

// STS of an account's own user; it panics when the cloud has no such account or
// region.
func (c *Cloud) STS(account, region string) *STS { return &STS{c.scope(account, region, "")} }

// session is what an access key of an assumed role stands for.
type session struct {
	role    string
	expires time.Time
}

// AssumeRole gives credentials for a role of any account of the cloud, unless
// that is denied. Roles need not be made.
func (e *STS) AssumeRole(ctx context.Context, in *sts.AssumeRoleInput, _ ...func(*sts.Options)) (*sts.AssumeRoleOutput, error) {
	return call(ctx, e.scope, "sts", "AssumeRole", in, func(s scope, in *sts.AssumeRoleInput) (*sts.AssumeRoleOutput, error) {
		arn := aws.ToString(in.RoleArn)
		parts := strings.SplitN(arn, ":", 6)
		if len(parts) != 6 || parts[2] != "iam" || !strings.HasPrefix(parts[5], "role/") {
			return nil, &Error{Code: "ValidationError", Message: arn + " is invalid"}
		}
		role := parts[5][strings.LastIndex(parts[5], "/")+1:]
		target := s.cloud.accounts[parts[4]]
		if target == nil || (scope{region: &region{account: target}}).denied("sts:AssumeRole", role) {
			return nil, &Error{Code: "AccessDenied", Status: 403, Message: fmt.Sprintf("User: %s is not authorized to perform: sts:AssumeRole on resource: %s", s.principal(), arn)}
		}
		lasts := time.Hour
		if in.DurationSeconds != nil {
			lasts = time.Duration(*in.DurationSeconds) * time.Second
		}
		// Keys are of AWS's form and name their account.
		key := fmt.Sprintf("ASIA%04X%s", len(target.sessions)&0xffff, target.id)
		expires := s.cloud.now.Add(lasts)
		target.sessions[key] = session{role, expires}
		name := aws.ToString(in.RoleSessionName)
		return &sts.AssumeRoleOutput{
			AssumedRoleUser: &ststypes.AssumedRoleUser{Arn: aws.String("arn:aws:sts::" + target.id + ":assumed-role/" + role + "/" + name), AssumedRoleId: aws.String("AROA" + strings.ToUpper(fixedID("", target.id, role)) + ":" + name)},
			Credentials:     &ststypes.Credentials{AccessKeyId: &key, SecretAccessKey: aws.String(s.cloud.draws.id("")), SessionToken: aws.String("session-" + key), Expiration: &expires},
		}, nil
	})
}

// Key is an access key of an account's own user, for the HTTP face. Signatures
// are not checked: any secret works.
func Key(account string) (id, secret string) { return "AKIAFAKE" + account, "secret" }

// GetCallerIdentity says who calls.
func (e *STS) GetCallerIdentity(ctx context.Context, in *sts.GetCallerIdentityInput, _ ...func(*sts.Options)) (*sts.GetCallerIdentityOutput, error) {
	return call(ctx, e.scope, "sts", "GetCallerIdentity", in, func(s scope, in *sts.GetCallerIdentityInput) (*sts.GetCallerIdentityOutput, error) {
		return &sts.GetCallerIdentityOutput{Account: &s.region.account.id, Arn: aws.String(s.principal()), UserId: aws.String("AIDA" + strings.ToUpper(fixedID("", s.principal())))}, nil
	})
}

// ServiceQuotas is the Go face of Service Quotas in one region.
type ServiceQuotas struct{ scope }

// ServiceQuotas of an account in a region; it panics when the cloud has no such
// account or region.
func (c *Cloud) ServiceQuotas(account, region string) *ServiceQuotas {
	return &ServiceQuotas{c.scope(account, region, "")}
}

// Codes of the quotas that the cloud has.
const (
	quotaOnDemand = "L-1216C47A" // Running On-Demand Standard instances, vCPUs
	quotaSpot     = "L-34B43A08" // All Standard Spot Instance Requests, vCPUs
)

// unlimited is the value of a quota that Config leaves out.
const unlimited = 1000000

func (s scope) quotas() []quotatypes.ServiceQuota {
	one := func(code, name string, value int) quotatypes.ServiceQuota {
		if value == 0 {
			value = unlimited
		}
		return quotatypes.ServiceQuota{
			ServiceCode: aws.String("ec2"), ServiceName: aws.String("Amazon Elastic Compute Cloud (Amazon EC2)"), QuotaCode: &code, QuotaName: &name,
			QuotaArn: aws.String(fmt.Sprintf("arn:aws:servicequotas:%s:%s:ec2/%s", s.region.name, s.region.account.id, code)), Value: aws.Float64(float64(value)), Unit: aws.String("None"), Adjustable: true,
		}
	}
	q := s.cloud.config.Quotas
	return []quotatypes.ServiceQuota{
		one(quotaOnDemand, "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", q.OnDemand),
		one(quotaSpot, "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests", q.Spot),
	}
}

// GetServiceQuota reads one of the two vCPU quotas.
func (e *ServiceQuotas) GetServiceQuota(ctx context.Context, in *servicequotas.GetServiceQuotaInput, _ ...func(*servicequotas.Options)) (*servicequotas.GetServiceQuotaOutput, error) {
	return call(ctx, e.scope, "servicequotas", "GetServiceQuota", in, func(s scope, in *servicequotas.GetServiceQuotaInput) (*servicequotas.GetServiceQuotaOutput, error) {
		for _, q := range s.quotas() {
			if aws.ToString(in.ServiceCode) == *q.ServiceCode && aws.ToString(in.QuotaCode) == *q.QuotaCode {
				return &servicequotas.GetServiceQuotaOutput{Quota: &q}, nil
			}
		}
		return nil, &quotatypes.NoSuchResourceException{Message: aws.String("The request failed because the specified quota does not exist.")}
	})
}

// ListServiceQuotas lists the two vCPU quotas.
func (e *ServiceQuotas) ListServiceQuotas(ctx context.Context, in *servicequotas.ListServiceQuotasInput, _ ...func(*servicequotas.Options)) (*servicequotas.ListServiceQuotasOutput, error) {
	return call(ctx, e.scope, "servicequotas", "ListServiceQuotas", in, func(s scope, in *servicequotas.ListServiceQuotasInput) (*servicequotas.ListServiceQuotasOutput, error) {
		if aws.ToString(in.ServiceCode) != "ec2" {
			return nil, &quotatypes.NoSuchResourceException{Message: aws.String("The request failed because the specified service does not exist.")}
		}
		return &servicequotas.ListServiceQuotasOutput{Quotas: s.quotas()}, nil
	})
}

// IAM is the Go face of IAM, which has no regions.
type IAM struct{ scope }

// IAM of an account's own user; it panics when the cloud has no such account.
func (c *Cloud) IAM(account string) *IAM {
	return &IAM{c.scope(account, c.config.Regions[0], "")}
}

// GetInstanceProfile finds an instance profile.
func (e *IAM) GetInstanceProfile(ctx context.Context, in *iam.GetInstanceProfileInput, _ ...func(*iam.Options)) (*iam.GetInstanceProfileOutput, error) {
	return call(ctx, e.scope, "iam", "GetInstanceProfile", in, func(s scope, in *iam.GetInstanceProfileInput) (*iam.GetInstanceProfileOutput, error) {
		account, name := s.region.account, aws.ToString(in.InstanceProfileName)
		if !account.profiles[name] {
			return nil, &iamtypes.NoSuchEntityException{Message: aws.String("Instance Profile " + name + " cannot be found."), ErrorCodeOverride: aws.String("NoSuchEntity")}
		}
		id := strings.ToUpper(fixedID("", account.id, name))
		return &iam.GetInstanceProfileOutput{InstanceProfile: &iamtypes.InstanceProfile{
			Arn: aws.String(account.profileARN(name)), InstanceProfileName: &name, InstanceProfileId: aws.String("AIPA" + id), Path: aws.String("/"), CreateDate: aws.Time(s.cloud.epoch),
			Roles: []iamtypes.Role{{Arn: aws.String("arn:aws:iam::" + account.id + ":role/" + name), RoleName: &name, RoleId: aws.String("AROA" + id), Path: aws.String("/"), CreateDate: aws.Time(s.cloud.epoch)}},
		}}, nil
	})
}
