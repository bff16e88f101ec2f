# METADATA
# title: Brokers are not reached from the Internet
# description: What is published is read from inside the network; a broker that anybody can talk to is guarded by a password alone.
# custom: {severity: error}
package taskfleet.policy.broker_private

import data.taskfleet.plan

deny contains plan.finding(
	r, "publicly_accessible", "the broker has a public address",
	"set publicly_accessible = false, with private subnet_ids; an existing broker has to be replaced",
) if {
	some r in plan.resources("aws_mq_broker")
	plan.value(r, ["publicly_accessible"]) == true
}

unknown contains plan.undecided(r, "publicly_accessible") if {
	some r in plan.resources("aws_mq_broker")
	plan.open(r, "publicly_accessible")
}
