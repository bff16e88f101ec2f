# METADATA
# title: Databases refuse connections without TLS
# description: PostgreSQL takes whatever a client offers, unless rds.force_ssl is 1 in its parameter group.
# custom: {severity: error}
package taskfleet.policy.database_tls

import data.taskfleet.plan

postgres := [r |
	some type, _ in names
	some r in plan.resources(type)
	contains(lower(plan.value(r, ["engine"])), "postgres")
	not of_cluster(r)
]

# of_cluster says that an instance belongs to a cluster, whose group counts.
of_cluster(r) if {
	r.type == "aws_db_instance"
	startswith(lower(plan.value(r, ["engine"])), "aurora")
}

# names are the attributes that name parameter groups.
names := {"aws_db_instance": "parameter_group_name", "aws_rds_cluster": "db_cluster_parameter_group_name"}

groups := array.concat(plan.resources("aws_db_parameter_group"), plan.resources("aws_rds_cluster_parameter_group"))

parameter(group) := p if {
	some p in plan.as_array(plan.value(group, ["parameter"]))
	p.name == "rds.force_ssl"
}

forced(r) if {
	some group in groups
	plan.linked(r, names[r.type], group)
	parameter(group).value == "1"
}

known_group(r) if {
	some group in groups
	plan.linked(r, names[r.type], group)
}

undecided(r) if {
	not known_group(r)
	plan.open(r, names[r.type])
}

undecided(r) if {
	some group in groups
	plan.linked(r, names[r.type], group)
	plan.unknown(group, ["parameter"])
}

deny contains plan.finding(
	r, names[r.type], "the parameter group of the database does not say that TLS is forced",
	`give it an aws_db_parameter_group of this deployment with parameter { name = "rds.force_ssl", value = "1" }`,
) if {
	some r in postgres
	not forced(r)
	not undecided(r)
}

unknown contains plan.undecided(r, names[r.type]) if {
	some r in postgres
	not forced(r)
	undecided(r)
}
