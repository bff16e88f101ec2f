# METADATA
# title: Queues are encrypted
# description: Messages wait in queues for days, in dead-letter queues for weeks.
# custom: {severity: error}
package taskfleet.policy.queue_encrypted

import data.taskfleet.plan

deny contains plan.finding(
	r, "sqs_managed_sse_enabled", "the queue does not say that it is encrypted",
	"set sqs_managed_sse_enabled = true, or kms_master_key_id",
) if {
	some r in plan.resources("aws_sqs_queue")
	not plan.set(r, "kms_master_key_id")
	not plan.truth(plan.value(r, ["sqs_managed_sse_enabled"]))
	not plan.open(r, "sqs_managed_sse_enabled")
}

unknown contains plan.undecided(r, "sqs_managed_sse_enabled") if {
	some r in plan.resources("aws_sqs_queue")
	not plan.set(r, "kms_master_key_id")
	plan.open(r, "sqs_managed_sse_enabled")
}
