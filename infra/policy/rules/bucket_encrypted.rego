# METADATA
# title: Buckets say how they encrypt
# description: S3 encrypts with a key of its own unless a bucket says otherwise; which key it is should be written down.
# custom: {severity: error}
package taskfleet.policy.bucket_encrypted

import data.taskfleet.plan

configurations := plan.resources("aws_s3_bucket_server_side_encryption_configuration")

encrypted(bucket) if {
	some c in configurations
	plan.linked(c, "bucket", bucket)
}

deny contains plan.finding(
	bucket, "aws_s3_bucket_server_side_encryption_configuration", "the bucket does not say how it encrypts",
	"add an aws_s3_bucket_server_side_encryption_configuration for it, with sse_algorithm = \"aws:kms\"",
) if {
	some bucket in plan.resources("aws_s3_bucket")
	not encrypted(bucket)
	not elsewhere
}

unknown contains plan.undecided(bucket, "aws_s3_bucket_server_side_encryption_configuration") if {
	some bucket in plan.resources("aws_s3_bucket")
	not encrypted(bucket)
	elsewhere
}

elsewhere if {
	some c in configurations
	plan.loose(c, "bucket")
}

deny contains plan.finding(
	c, "rule.apply_server_side_encryption_by_default.sse_algorithm", "the bucket's encryption names no algorithm",
	"set sse_algorithm to \"aws:kms\" or \"AES256\"",
) if {
	some c in configurations
	count([a |
		some rule in plan.as_array(plan.value(c, ["rule"]))
		a := object.get(rule, ["apply_server_side_encryption_by_default", 0, "sse_algorithm"], null)
		a in {"AES256", "aws:kms", "aws:kms:dsse"}
	]) == 0
	not plan.unknown(c, ["rule"])
}
