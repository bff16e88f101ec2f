# METADATA
# title: Instances answer to IMDSv2 only
# description: >-
#   With version 1 of the metadata service, whatever makes an instance fetch a URL for it, such as a task, gets the
#   credentials of its role. Version 2 wants a token that cannot be had this way.
# custom: {severity: error}
package taskfleet.policy.imdsv2

import data.taskfleet.plan

instances := [r |
	some r in plan.managed
	r.type in {"aws_instance", "aws_launch_template", "aws_launch_configuration", "aws_spot_instance_request"}
]

tokens(r) := plan.value(r, ["metadata_options", 0, "http_tokens"])

undecided(r) if {
	plan.unknown(r, ["metadata_options", 0, "http_tokens"])
	is_array(object.get(plan.configuration(r), ["expressions", "metadata_options"], null))
	object.get(plan.configuration(r), ["expressions", "metadata_options", 0, "http_tokens"], null) != null
}

deny contains plan.finding(
	r, "metadata_options.http_tokens",
	"the instance answers to version 1 of the metadata service",
	`set metadata_options { http_tokens = "required" }`,
) if {
	some r in instances
	tokens(r) != "required"
	not undecided(r)
}

unknown contains plan.undecided(r, "metadata_options.http_tokens") if {
	some r in instances
	undecided(r)
}
