# METADATA
# title: Log groups end
# description: Without a retention, logs are kept, and paid, for ever. A day is too short to find out what has happened.
# custom: {severity: warning}
package taskfleet.policy.log_group_retention

import data.taskfleet.plan

fix := "set retention_in_days to 30 or more, such as 365"

days(r) := plan.value(r, ["retention_in_days"])

deny contains plan.finding(r, "retention_in_days", "the log group keeps its logs for ever", fix) if {
	some r in plan.resources("aws_cloudwatch_log_group")
	days(r) in {null, 0}
	not plan.open(r, "retention_in_days")
}

deny contains plan.finding(r, "retention_in_days", sprintf("the log group keeps its logs for %v days only", [days(r)]), fix) if {
	some r in plan.resources("aws_cloudwatch_log_group")
	days(r) > 0
	days(r) < 7
}
