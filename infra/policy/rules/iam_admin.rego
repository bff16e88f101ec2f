# METADATA
# title: Nobody gets a policy of AWS that allows nearly everything
# description: AdministratorAccess and its kin allow what nobody has thought of, and grow with every service of AWS. A boundary is a limit, not a gift.
# custom: {severity: error}
package taskfleet.policy.iam_admin

import data.taskfleet.iam
import data.taskfleet.plan

wide := {"AdministratorAccess", "PowerUserAccess", "IAMFullAccess", "AmazonEC2FullAccess", "AmazonS3FullAccess", "AmazonRDSFullAccess", "AmazonSQSFullAccess", "SecretsManagerReadWrite"}

name(arn) := regex.replace(arn, `^arn:[a-z-]+:iam::aws:policy/`, "")

fix := "attach a policy of your own that names actions and resources"

attachments := [r |
	some r in plan.managed
	r.type in {"aws_iam_role_policy_attachment", "aws_iam_user_policy_attachment", "aws_iam_group_policy_attachment", "aws_iam_policy_attachment"}
]

deny contains plan.finding(r, "policy_arn", sprintf("%s is attached", [name(arn)]), fix) if {
	some r in attachments
	arn := plan.value(r, ["policy_arn"])
	is_string(arn)
	name(arn) in wide
}

deny contains plan.finding(r, "managed_policy_arns", sprintf("%s is attached", [name(arn)]), fix) if {
	some r in plan.resources("aws_iam_role")
	some arn in plan.as_array(plan.value(r, ["managed_policy_arns"]))
	is_string(arn)
	name(arn) in wide
}

of_boundary(r) if endswith(plan.value(r, ["policy_arn"]), "-boundary")

of_boundary(r) if {
	some policy in plan.resources("aws_iam_policy")
	iam.boundary(policy)
	plan.linked(r, "policy_arn", policy)
}

deny contains plan.finding(
	r, "policy_arn", "a permissions boundary is attached, which gives all that it should only limit",
	"name it in permissions_boundary of the role, and attach a policy of its own",
) if {
	some r in attachments
	of_boundary(r)
}

deny contains plan.finding(
	r, "managed_policy_arns", "a permissions boundary is attached, which gives all that it should only limit",
	"name it in permissions_boundary of the role, and attach a policy of its own",
) if {
	some r in plan.resources("aws_iam_role")
	some arn in plan.as_array(plan.value(r, ["managed_policy_arns"]))
	endswith(arn, "-boundary")
}
