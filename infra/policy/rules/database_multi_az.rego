# METADATA
# title: Databases of production survive the loss of a zone
# description: Without a standby, the platform is away for as long as a zone is, or as restoring a backup takes.
# custom: {severity: error}
package taskfleet.policy.database_multi_az

import data.taskfleet.plan

deny contains plan.finding(
	r, "multi_az", "the database is in one zone",
	"set multi_az = true; where it is not for production, say production: false in policy.yml",
) if {
	plan.production
	some r in plan.resources("aws_db_instance")
	plan.value(r, ["multi_az"]) != true
	not plan.open(r, "multi_az")
	plan.value(r, ["replicate_source_db"]) == null
}

unknown contains plan.undecided(r, "multi_az") if {
	plan.production
	some r in plan.resources("aws_db_instance")
	plan.open(r, "multi_az")
}
