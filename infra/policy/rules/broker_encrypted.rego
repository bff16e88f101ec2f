# METADATA
# title: Brokers are encrypted
# description: >-
#   Amazon MQ encrypts brokers for RabbitMQ with a key of AWS, and takes no other one. A broker for ActiveMQ should have a
#   key of one's own.
# custom: {severity: error}
package taskfleet.policy.broker_encrypted

import data.taskfleet.plan

deny contains plan.finding(
	r, "encryption_options.kms_key_id", "the broker has no key of its own",
	"set encryption_options { use_aws_owned_key = false, kms_key_id = ... }; an existing broker has to be replaced",
) if {
	some r in plan.resources("aws_mq_broker")
	lower(plan.value(r, ["engine_type"])) != "rabbitmq"
	plan.value(r, ["encryption_options", 0, "use_aws_owned_key"]) != false
}
