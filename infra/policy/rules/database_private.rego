# METADATA
# title: Databases are not reached from the Internet
# description: Only the platform talks to its database.
# custom: {severity: error}
package taskfleet.policy.database_private

import data.taskfleet.plan

databases := array.concat(plan.resources("aws_db_instance"), plan.resources("aws_rds_cluster_instance"))

deny contains plan.finding(r, "publicly_accessible", "the database has a public address", "set publicly_accessible = false") if {
	some r in databases
	plan.value(r, ["publicly_accessible"]) == true
}

unknown contains plan.undecided(r, "publicly_accessible") if {
	some r in databases
	plan.open(r, "publicly_accessible")
}
