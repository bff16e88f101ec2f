# METADATA
# title: Databases refuse connections without TLS
# description: PostgreSQL takes whatever a client offers, unless rds.force_ssl is 1 in its parameter group.
# custom: {severity: error}
package taskfleet.policy.database_tls

import data.taskfleet.plan

postgres := [r |
	some r in plan.resources("aws_db_instance")
	startswith(lower(plan.value(r, ["engine"])), "postgres")
]

groups := plan.resources("aws_db_parameter_group")

parameter(group) := p if {
	some p in plan.as_array(plan.value(group, ["parameter"]))
	p.name == "rds.force_ssl"
}

forced(r) if {
	some group in groups
	plan.linked(r, "parameter_group_name", group)
	parameter(group).value == "1"
}

known_group(r) if {
	some group in groups
	plan.linked(r, "parameter_group_name", group)
}

undecided(r) if {
	not known_group(r)
	plan.open(r, "parameter_group_name")
}

undecided(r) if {
	some group in groups
	plan.linked(r, "parameter_group_name", group)
	plan.unknown(group, ["parameter"])
}

deny contains plan.finding(
	r, "parameter_group_name", "the parameter group of the database does not say that TLS is forced",
	`give it an aws_db_parameter_group of this deployment with parameter { name = "rds.force_ssl", value = "1" }`,
) if {
	some r in postgres
	not forced(r)
	not undecided(r)
}

unknown contains plan.undecided(r, "parameter_group_name") if {
	some r in postgres
	not forced(r)
	undecided(r)
}
