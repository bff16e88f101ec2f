# METADATA
# title: Buckets are not public
# description: Artifacts are handed out by the queue, which checks scopes, never by a bucket that answers to everybody.
# custom: {severity: error}
package taskfleet.policy.bucket_private

import data.taskfleet.plan

blocks := plan.resources("aws_s3_bucket_public_access_block")

blocked(bucket) if {
	some b in blocks
	plan.linked(b, "bucket", bucket)
}

elsewhere if {
	some b in blocks
	plan.loose(b, "bucket")
}

deny contains plan.finding(
	bucket, "aws_s3_bucket_public_access_block", "nothing keeps the bucket from becoming public",
	"add an aws_s3_bucket_public_access_block for it, with all four arguments true",
) if {
	some bucket in plan.resources("aws_s3_bucket")
	not blocked(bucket)
	not elsewhere
}

unknown contains plan.undecided(bucket, "aws_s3_bucket_public_access_block") if {
	some bucket in plan.resources("aws_s3_bucket")
	not blocked(bucket)
	elsewhere
}

arguments := {"block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets"}

deny contains plan.finding(b, argument, sprintf("%s is not true, so the bucket can become public", [argument]), sprintf("set %s = true", [argument])) if {
	some b in blocks
	some argument in arguments
	plan.value(b, [argument]) != true
	not plan.open(b, argument)
}

unknown contains plan.undecided(b, argument) if {
	some b in blocks
	some argument in arguments
	plan.open(b, argument)
}

deny contains plan.finding(r, "acl", sprintf("the bucket's ACL is %s", [acl]), "remove the ACL: the owner of a bucket needs none") if {
	some r in array.concat(plan.resources("aws_s3_bucket_acl"), plan.resources("aws_s3_bucket"))
	acl := plan.value(r, ["acl"])
	acl in {"public-read", "public-read-write", "authenticated-read"}
}

deny contains plan.finding(r, "access_control_policy", "the bucket's ACL grants something to everybody", "remove the ACL: the owner of a bucket needs none") if {
	some r in plan.resources("aws_s3_bucket_acl")
	some policy in plan.as_array(plan.value(r, ["access_control_policy"]))
	some grant in plan.as_array(object.get(policy, "grant", null))
	some grantee in plan.as_array(object.get(grant, "grantee", null))
	contains(object.get(grantee, "uri", ""), "/groups/global/")
}
