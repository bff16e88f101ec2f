# METADATA
# title: Nobody gets a policy of AWS that allows nearly everything
# description: AdministratorAccess and its kin allow what nobody has thought of, and grow with every service of AWS. A boundary is a limit, not a gift.
# custom: {severity: error}
package taskfleet.policy.iam_admin

import data.taskfleet.iam
import data.taskfleet.plan

# wide says that a policy of AWS allows all, or all of a service, by how AWS names those.
wide(arn) if {
	regex.match(`^arn:[a-z-]+:iam::aws:policy/`, arn)
	regex.match(`(Administrator|AdministratorAccess(-[A-Za-z0-9]+)?|Full_?Access(_?[vV][0-9]+)?|PowerUser(Access)?|ReadWrite)$`, arn)
}

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
	wide(arn)
}

# lists are attributes that attach several policies at once.
lists := {
	"aws_iam_role": "managed_policy_arns", "aws_iam_role_policy_attachments_exclusive": "policy_arns",
	"aws_iam_user_policy_attachments_exclusive": "policy_arns", "aws_iam_group_policy_attachments_exclusive": "policy_arns",
}

deny contains plan.finding(r, attribute, sprintf("%s is attached", [name(arn)]), fix) if {
	some type, attribute in lists
	some r in plan.resources(type)
	some arn in plan.as_array(plan.value(r, [attribute]))
	is_string(arn)
	wide(arn)
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
	r, attribute, "a permissions boundary is attached, which gives all that it should only limit",
	"name it in permissions_boundary of the role, and attach a policy of its own",
) if {
	some type, attribute in lists
	some r in plan.resources(type)
	some arn in plan.as_array(plan.value(r, [attribute]))
	endswith(arn, "-boundary")
}
