package verify

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iam/types"
)

// What a policy allows can be spelled in many ways, and a condition may name nobody.
func TestWhatPoliciesAllowInOtherSpellings(t *testing.T) {
	t.Parallel()
	const github = `"Principal": {"Federated": "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"}`
	for _, c := range []struct {
		statement     string
		open, anybody bool
		excess        string
	}{
		{`"Action": "**"`, false, false, "all actions"},
		{`"Action": ["sqs:SendMessage", "s3:?*"]`, false, false, "s3:?*"},
		{`"Action": ["s3:Get*", "s3:PutObject"]`, false, false, ""},
		{`"Action": "sts:*", ` + github, false, true, "sts:*"},
		{`"Action": "sts:AssumeRole*", ` + github, false, true, ""},
		{`"Action": ["sts:tagSession", "sts:assumeRoleWithWebIdentity"], ` + github, false, true, ""},
		{`"Action": "sts:AssumeRoleWithWebIdentity", ` + github + `, "Condition": {"StringNotEquals": {"token.actions.githubusercontent.com:sub": "repo:a/b:x"}}`, false, true, ""},
		{`"Action": "sts:AssumeRoleWithWebIdentity", ` + github + `, "Condition": {"StringLike": {"token.actions.githubusercontent.com:Sub": "repo:a/b:*"}}`, false, false, ""},
		{`"Action": "sqs:SendMessage", "Principal": "*", "Condition": {"ArnLike": {"aws:SourceArn": "arn:aws:sns:*:*:alarms"}}`, true, false, ""},
		{`"Action": "sqs:SendMessage", "Principal": "*", "Condition": {"StringLike": {"aws:PrincipalOrgID": "o-*"}}`, true, false, ""},
		{`"Action": "sqs:SendMessage", "Principal": "*", "Condition": {"ArnLike": {"aws:SourceArn": "arn:*"}}`, true, false, ""},
		{`"Action": "sqs:SendMessage", "Principal": "*", "Condition": {"ArnLike": {"aws:SourceArn": "arn:aws:sns:*:123456789012:*"}}`, false, false, ""},
		{`"Action": "sqs:SendMessage", "Principal": "*", "Condition": {"ArnLike": {"aws:SourceArn": "arn:aws:s3:::uploads-*"}}`, false, false, ""},
	} {
		d, err := readDocument(`{"Statement": {"Effect": "Allow", "Resource": "*", ` + c.statement + `}}`)
		if err != nil {
			t.Fatal(err)
		}
		if d.open() != c.open || d.anyIdentity() != c.anybody || d.excess() != c.excess {
			t.Errorf("%s: open %v, anybody %v, excess %q", c.statement, d.open(), d.anyIdentity(), d.excess())
		}
	}
}

func TestPoliciesOfAWSThatAllowTooMuchAreFoundByTheirNames(t *testing.T) {
	t.Parallel()
	for name, wide := range map[string]bool{
		"AmazonS3FullAccess": true, "AmazonECS_FullAccess": true, "job-function/SystemAdministrator": true, "AdministratorAccess-Amplify": true,
		"service-role/AmazonECSTaskExecutionRolePolicy": false, "AmazonSSMManagedInstanceCore": false, "SecurityAudit": false,
	} {
		v := &verification{report: &Report{}}
		short := name[strings.LastIndex(name, "/")+1:]
		err := v.checkRole(place{Global, "r"}, types.RoleDetail{
			AssumeRolePolicyDocument: aws.String(`{"Statement": {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}}`),
			PermissionsBoundary:      &types.AttachedPermissionsBoundary{PermissionsBoundaryArn: aws.String("b")},
			AttachedManagedPolicies:  []types.AttachedPolicy{{PolicyName: &short, PolicyArn: aws.String("arn:aws:iam::aws:policy/" + name)}},
		}, nil)
		if err != nil || len(v.report.Findings) > 0 != wide {
			t.Errorf("%s: %+v, %v", name, v.report.Findings, err)
		}
	}
}
