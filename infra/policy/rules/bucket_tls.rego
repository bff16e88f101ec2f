# METADATA
# title: Buckets are reached by TLS only
# description: S3 also answers to plain HTTP, where signatures and contents can be read on the way, unless the policy denies it.
# custom: {severity: error}
package taskfleet.policy.bucket_tls

import data.taskfleet.iam
import data.taskfleet.plan

policies := plan.resources("aws_s3_bucket_policy")

# secure says that a policy, known or made of a document in the same module, denies all that does not come by TLS.
secure(policy) if {
	some s in iam.statements
	s.resource.address == policy.address
	denies_plain(s)
}

secure(policy) if {
	some s in iam.deferred
	object.get(s.resource, "module_address", "") == object.get(policy, "module_address", "")
	sprintf("data.aws_iam_policy_document.%s", [s.resource.name]) in plan.references(policy, "policy")
	plan.same_index(policy, s.resource)
	denies_plain(s)
}

denies_plain(s) if {
	s.effect == "Deny"
	some action in s.actions
	action in {"*", "s3:*"}
	some p in s.principals
	p.id == "*"
	count(s.conditions) == 1
	some c in s.conditions
	lower(c.variable) == "aws:securetransport"
	lower(c.test) in {"bool", "boolifexists"}
	"false" in c.values
	contents(s)
}

# contents says that a statement is for all that is in a bucket. In a deferred one the name of the bucket may not be known.
contents(s) if {
	some resource in s.resources
	regex.match(`^(\*|arn:[^:]*:s3:::[^/]*(/\*|\*))$`, resource)
}

contents(s) if {
	s.place == "statement"
	count(s.resources) == 0
	count(s.not_resources) == 0
}

has_policy(bucket) if {
	some p in policies
	plan.linked(p, "bucket", bucket)
}

elsewhere if {
	some p in policies
	plan.loose(p, "bucket")
}

fix := "deny s3:* to the principal * where aws:SecureTransport is false, in the aws_s3_bucket_policy of the bucket"

deny contains plan.finding(bucket, "aws_s3_bucket_policy", "the bucket has no policy, and answers to plain HTTP", fix) if {
	some bucket in plan.resources("aws_s3_bucket")
	not has_policy(bucket)
	not elsewhere
}

unknown contains plan.undecided(bucket, "aws_s3_bucket_policy") if {
	some bucket in plan.resources("aws_s3_bucket")
	not has_policy(bucket)
	elsewhere
}

deny contains plan.finding(policy, "policy", "the policy of the bucket does not deny plain HTTP", fix) if {
	some policy in policies
	not secure(policy)
	not plan.open(policy, "policy")
}

unknown contains plan.undecided(policy, "policy") if {
	some policy in policies
	not secure(policy)
	plan.open(policy, "policy")
}
