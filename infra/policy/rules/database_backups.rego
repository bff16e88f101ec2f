# METADATA
# title: Databases are backed up
# description: >-
#   The database holds every task, client and secret. In production it can be put back to any second of a week, and leaves a
#   snapshot behind when it is deleted.
# custom: {severity: error}
package taskfleet.policy.database_backups

import data.taskfleet.plan

databases := array.concat(plan.resources("aws_db_instance"), plan.resources("aws_rds_cluster"))

least := 7 if plan.production

least := 1 if not plan.production

days(r) := plan.value(r, ["backup_retention_period"])

few(r) if {
	is_number(days(r)) # null is less than any number
	days(r) < least
}

few(r) if {
	days(r) == null
	not plan.open(r, "backup_retention_period")
}

deny contains plan.finding(
	r, "backup_retention_period", sprintf("backups are kept for %v days", [object.get({null: 0}, days(r), days(r))]),
	sprintf("set backup_retention_period to %d or more", [least]),
) if {
	some r in databases
	few(r)
}

deny contains plan.finding(
	r, "skip_final_snapshot", "the database leaves no snapshot behind when it is deleted",
	"set skip_final_snapshot = false, and final_snapshot_identifier",
) if {
	plan.production
	some r in databases
	plan.value(r, ["skip_final_snapshot"]) == true
}

unknown contains plan.undecided(r, "backup_retention_period") if {
	some r in databases
	plan.open(r, "backup_retention_period")
}
