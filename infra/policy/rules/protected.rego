# METADATA
# title: Databases, buckets and keys stay
# description: >-
#   What is in them is gone with them. Deleting or replacing one takes an exception that says why, beside the word that
#   taskfleet infra apply asks for.
# custom: {severity: error}
package taskfleet.policy.protected

import data.taskfleet.plan

kinds := {
	"aws_db_instance": "database", "aws_rds_cluster": "database", "aws_s3_bucket": "bucket", "aws_kms_key": "key",
	"aws_kms_replica_key": "key", "aws_kms_external_key": "key", "aws_kms_replica_external_key": "key", "aws_dynamodb_table": "database", "aws_docdb_cluster": "database",
	"aws_neptune_cluster": "database", "aws_rds_global_cluster": "database", "aws_s3_directory_bucket": "bucket", "aws_efs_file_system": "file system",
}

lost := {
	"database": "with all that is in it",
	"bucket": "with all that is in it",
	"file system": "with all that is in it",
	"key": "and what it has encrypted cannot be read any more",
}

deny contains plan.finding(
	r, "", sprintf("the %s is %s, %s", [kind, done, lost[kind]]),
	"undo what causes it (taskfleet infra show tells what), or write an exception for this rule and resource into policy.yml",
) if {
	some r in input.resource_changes
	r.mode == "managed"
	kind := kinds[r.type]
	"delete" in r.change.actions
	done := {true: "replaced", false: "deleted"}["create" in r.change.actions]
}
