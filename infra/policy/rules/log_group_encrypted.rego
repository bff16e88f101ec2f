# METADATA
# title: Log groups are encrypted with a key of their own
# description: CloudWatch encrypts with its own key. Logs name clients, tasks and addresses; a key of one's own says who reads them.
# custom: {severity: error}
package taskfleet.policy.log_group_encrypted

import data.taskfleet.plan

deny contains plan.finding(
	r, "kms_key_id", "the log group has no key",
	"set kms_key_id to the ARN of a key whose policy lets logs.REGION.amazonaws.com use it",
) if {
	some r in plan.resources("aws_cloudwatch_log_group")
	not plan.set(r, "kms_key_id")
}
