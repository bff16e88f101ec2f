# METADATA
# title: Databases are encrypted
# description: Storage, backups and snapshots of a database are encrypted only if it is from the beginning.
# custom: {severity: error}
package taskfleet.policy.database_encrypted

import data.taskfleet.plan

databases := array.concat(plan.resources("aws_db_instance"), plan.resources("aws_rds_cluster"))

deny contains plan.finding(
	r, "storage_encrypted", "the storage of the database is not encrypted",
	"set storage_encrypted = true and kms_key_id; an existing database has to be restored from an encrypted copy of a snapshot",
) if {
	some r in databases
	not plan.truth(plan.value(r, ["storage_encrypted"]))
	not plan.open(r, "storage_encrypted")
}

unknown contains plan.undecided(r, "storage_encrypted") if {
	some r in databases
	plan.open(r, "storage_encrypted")
}
