# METADATA
# title: Databases refuse to be deleted
# description: Deletion protection is a second hand at the switch, whoever pulls the first, in the console too.
# custom: {severity: error}
package taskfleet.policy.database_deletion_protection

import data.taskfleet.plan

databases := array.concat(plan.resources("aws_db_instance"), plan.resources("aws_rds_cluster"))

deny contains plan.finding(r, "deletion_protection", "the database can be deleted by a single call", "set deletion_protection = true") if {
	some r in databases
	plan.value(r, ["deletion_protection"]) != true
	not plan.open(r, "deletion_protection")
}

unknown contains plan.undecided(r, "deletion_protection") if {
	some r in databases
	plan.open(r, "deletion_protection")
}
