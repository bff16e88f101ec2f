# METADATA
# title: Roles and resources are for somebody in particular
# description: >-
#   A trust policy, or the policy of a bucket, a queue or a key, that allows the principal * lets in every account of AWS. What
#   GitHub signs is for every repository there, unless the trust policy asks for a subject.
# custom: {severity: error}
package taskfleet.policy.iam_principals

import data.taskfleet.iam
import data.taskfleet.plan

guarded := [s | some s in iam.allowed; s.kind in {"trust", "resource"}]

deny contains plan.finding(s.resource, s.attribute, "every principal is allowed", "name the principals, or add a Condition on aws:PrincipalOrgID, aws:SourceArn or aws:SourceAccount") if {
	some s in guarded
	some p in s.principals
	p.id == "*"
	not narrowed(s)
}

deny contains plan.finding(s.resource, s.attribute, "all principals but some are allowed (NotPrincipal)", "name with Principal those that are meant") if {
	some s in guarded
	s.not_principals
}

narrowing := {
	"aws:principalorgid", "aws:principalorgpaths", "aws:principalaccount", "aws:principalarn", "aws:sourcearn", "aws:sourceaccount",
	"aws:sourceorgid", "aws:sourcevpc", "aws:sourcevpce", "kms:calleraccount", "sns:endpoint",
}

narrowed(s) if {
	some c in s.conditions
	lower(c.variable) in narrowing
	count(c.values) > 0
	every v in c.values { not anybody(v) }
	demanding(c)
}

# demanding says that a condition holds only where the key is there, and is one of the values.
demanding(c) if regex.match(`(?i)^(ForAnyValue:)?(string|arn)(equals|like|equalsignorecase)$`, c.test)

# anybody says that a value stands for what others have, too: for everything, or for an ARN of any service or account.
anybody(v) if regex.match(`^((o-)?[*?/]*\*[*?/]*|arn:[^:]*[*?].*|arn:[^:]*:[*?]+:.*|arn:[^:]*:[^:]*:[^:]*:[^:]*[*?][^:]*:.*|arn:[^:]*(:[^:]*){0,3})$`, v)

deny contains plan.finding(
	r, "principal", "every principal is allowed",
	"name the service or the account, or set source_account, source_arn or principal_org_id",
) if {
	some r in plan.resources("aws_lambda_permission")
	plan.value(r, ["principal"]) == "*"
	every attribute in ["source_account", "source_arn", "principal_org_id"] { not plan.set(r, attribute) }
}

deny contains plan.finding(
	s.resource, s.attribute, "everybody whom the identity provider knows may take the role",
	"add a Condition StringEquals on what it says of who it is, such as its sub or aud",
) if {
	some s in guarded
	some p in s.principals
	p.type == "Federated"
	not contains(p.id, "token.actions.githubusercontent.com")
	count([c | some c in s.conditions; demanding(c); count(c.values) > 0]) == 0
}

deny contains plan.finding(
	s.resource, s.attribute, "every repository at GitHub may take the role",
	`add a Condition StringEquals on token.actions.githubusercontent.com:sub, such as repo:OWNER/NAME:environment:production`,
) if {
	some s in guarded
	some p in s.principals
	p.type == "Federated"
	contains(p.id, "token.actions.githubusercontent.com")
	not of_repository(s)
}

# The identifier of the provider is often not known; the condition names it as well.
deny contains plan.finding(
	s.resource, s.attribute, "the subject that GitHub has to sign is a wildcard for every repository",
	"name the owner and the repository: repo:OWNER/NAME:*, or better an environment or a branch of it",
) if {
	some s in guarded
	some c in s.conditions
	lower(c.variable) == "token.actions.githubusercontent.com:sub"
	some v in c.values
	not precise(v)
}

of_repository(s) if {
	some c in s.conditions
	lower(c.variable) == "token.actions.githubusercontent.com:sub"
	demanding(c)
	count(c.values) > 0
}

precise(subject) if regex.match(`^repo:[^*?:/]+/[^*?:]+(:.*)?$`, subject)

deny contains plan.finding(place.resource, place.attribute, "the policy is not JSON", "write it with jsonencode or aws_iam_policy_document") if {
	some place in iam.malformed
	place.kind != "identity"
}

unknown contains plan.undecided(p.resource, p.attribute) if {
	some p in iam.unjudged
	p.kind != "identity"
}
