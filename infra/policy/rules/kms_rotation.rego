# METADATA
# title: Keys rotate
# description: KMS makes new key material each year, and keeps the old for what it has encrypted, if it is told to.
# custom: {severity: error}
package taskfleet.policy.kms_rotation

import data.taskfleet.plan

symmetric(r) if {
	plan.value(r, ["customer_master_key_spec"]) in {null, "SYMMETRIC_DEFAULT"}
	plan.value(r, ["key_usage"]) in {null, "ENCRYPT_DECRYPT"}
}

deny contains plan.finding(r, "enable_key_rotation", "the key does not rotate", "set enable_key_rotation = true") if {
	some r in plan.resources("aws_kms_key")
	symmetric(r)
	plan.value(r, ["enable_key_rotation"]) != true
	not plan.open(r, "enable_key_rotation")
}

unknown contains plan.undecided(r, "enable_key_rotation") if {
	some r in plan.resources("aws_kms_key")
	plan.open(r, "enable_key_rotation")
}
