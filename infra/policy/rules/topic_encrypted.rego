# METADATA
# title: Topics are encrypted
# description: SNS keeps what it cannot deliver, in plain text unless a topic has a key.
# custom: {severity: error}
package taskfleet.policy.topic_encrypted

import data.taskfleet.plan

deny contains plan.finding(
	r, "kms_master_key_id", "the topic is not encrypted",
	"set kms_master_key_id to a key whose policy lets the services that publish use it",
) if {
	some r in plan.resources("aws_sns_topic")
	not plan.set(r, "kms_master_key_id")
}
