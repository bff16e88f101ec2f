package verify

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
)

// tooMuch says what a policy of AWS allows, whose text is not among the account's, by how AWS names those that allow too
// much. It is "" for others.
func tooMuch(name string) string {
	switch name {
	case "AdministratorAccess":
		return "all actions"
	case "PowerUserAccess":
		return "all actions but some"
	case "SystemAdministrator", "DatabaseAdministrator", "NetworkAdministrator":
		return "nearly all of many services"
	}
	if strings.Contains(name, "FullAccess") || strings.HasPrefix(name, "AdministratorAccess-") {
		return "all of a service"
	}
	return ""
}

// checkRoles looks at the account's IAM roles, and at the policies of those of the deployment. One call, page by page, has all
// of it: asking for each role would be throttled.
func (v *verification) checkRoles(ctx context.Context) error {
	conf := v.config.Copy()
	conf.Region = v.report.Regions[0]
	service := iam.NewFromConfig(conf)
	var roles []types.RoleDetail
	policies := map[string]types.ManagedPolicyDetail{}
	p := iam.NewGetAccountAuthorizationDetailsPaginator(service, &iam.GetAccountAuthorizationDetailsInput{Filter: []types.EntityType{types.EntityTypeRole, types.EntityTypeLocalManagedPolicy}})
	err := pages(ctx, v, place{Global, v.arn("iam", "", "role/*")}, "iam:GetAccountAuthorizationDetails", p, func(p *iam.GetAccountAuthorizationDetailsOutput) {
		roles = append(roles, p.RoleDetailList...)
		for _, x := range p.Policies {
			policies[aws.ToString(x.Arn)] = x
		}
	})
	if err != nil {
		return err
	}
	for _, r := range roles {
		at := place{Global, aws.ToString(r.Arn)}
		tags := tagMap(r.Tags, func(t types.Tag) (*string, *string) { return t.Key, t.Value })
		if !strings.HasPrefix(aws.ToString(r.Path), "/aws-service-role/") && v.belongs("role", at, tags, false) {
			if err := v.checkRole(at, r, policies); err != nil {
				return fmt.Errorf("%s: %w", at.resource, err)
			}
		}
	}
	return nil
}

func (v *verification) checkRole(at place, r types.RoleDetail, policies map[string]types.ManagedPolicyDetail) error {
	trust, err := unescape(aws.ToString(r.AssumeRolePolicyDocument))
	if err != nil {
		return fmt.Errorf("its trust policy: %w", err)
	}
	if trust.open() || trust.anyIdentity() {
		v.find(at, "role-trust", "anybody may take on the role", "name the principals in its trust policy; those of an identity provider by a condition on its claim sub")
	}
	// Who deploys makes the boundary, and other roles below it, so it cannot be below it itself.
	if (r.PermissionsBoundary == nil || aws.ToString(r.PermissionsBoundary.PermissionsBoundaryArn) == "") && !trust.federated() {
		v.find(at, "role-boundary", "the role has no permissions boundary, so a policy that is added to it counts in full", "set permissions_boundary; module iam has one")
	}
	excess := func(policy, text string) error {
		d, err := unescape(text)
		if err != nil {
			return fmt.Errorf("policy %s: %w", policy, err)
		}
		if too := d.excess(); too != "" {
			v.find(at, "role-actions", fmt.Sprintf("the policy %s allows %s", policy, too), "name the actions that are needed")
		}
		return nil
	}
	for _, p := range r.RolePolicyList {
		if err := excess(aws.ToString(p.PolicyName), aws.ToString(p.PolicyDocument)); err != nil {
			return err
		}
	}
	for _, a := range r.AttachedManagedPolicies {
		id, err := arn.Parse(aws.ToString(a.PolicyArn))
		if err != nil {
			return err
		}
		if id.AccountID == "aws" {
			if too := tooMuch(aws.ToString(a.PolicyName)); too != "" {
				v.find(at, "role-actions", fmt.Sprintf("AWS's policy %s allows %s", aws.ToString(a.PolicyName), too), "detach it, and name the actions that are needed")
			}
			continue
		}
		for _, version := range policies[aws.ToString(a.PolicyArn)].PolicyVersionList {
			if version.IsDefaultVersion {
				if err := excess(aws.ToString(a.PolicyName), aws.ToString(version.Document)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// unescape reads a policy as IAM gives it.
func unescape(text string) (document, error) {
	plain, err := url.PathUnescape(text)
	if err != nil {
		return document{}, fmt.Errorf("a policy is not escaped as it should be: %w", err)
	}
	return readDocument(plain)
}
