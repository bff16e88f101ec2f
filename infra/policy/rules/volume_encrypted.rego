# METADATA
# title: Volumes are encrypted
# description: Disks of instances hold source code, caches and credentials of tasks, and outlive them as snapshots.
# custom: {severity: error}
package taskfleet.policy.volume_encrypted

import data.taskfleet.plan

fix := "set encrypted = true, and kms_key_id for a key of your own"

deny contains plan.finding(r, "encrypted", "the volume is not encrypted", fix) if {
	some r in plan.resources("aws_ebs_volume")
	not plan.truth(plan.value(r, ["encrypted"]))
	not plan.open(r, "encrypted")
}

unknown contains plan.undecided(r, "encrypted") if {
	some r in plan.resources("aws_ebs_volume")
	plan.open(r, "encrypted")
}

instances := [r | some r in plan.managed; r.type in {"aws_instance", "aws_launch_configuration", "aws_spot_instance_request"}]

# The root volume of an instance is that of its image, unless it is said otherwise.
deny contains plan.finding(r, "root_block_device.encrypted", "the root volume of the instance is not encrypted", fix) if {
	some r in instances
	not plan.truth(plan.value(r, ["root_block_device", 0, "encrypted"]))
}

deny contains plan.finding(r, sprintf("ebs_block_device[%d].encrypted", [i]), "a volume of the instance is not encrypted", fix) if {
	some r in instances
	some i, device in plan.as_array(plan.value(r, ["ebs_block_device"]))
	not plan.truth(object.get(device, "encrypted", null))
}

devices(r) := [d | some d in plan.as_array(plan.value(r, ["block_device_mappings"])); count(plan.as_array(object.get(d, "ebs", null))) > 0]

deny contains plan.finding(
	r, sprintf("block_device_mappings[%d].ebs.encrypted", [i]),
	"a volume of the launch template is not encrypted", fix,
) if {
	some r in plan.resources("aws_launch_template")
	some i, device in devices(r)
	not plan.truth(object.get(device, ["ebs", 0, "encrypted"], null))
}

deny contains plan.finding(
	r, "block_device_mappings",
	"the launch template says nothing of the root volume, which is as the image has it",
	"add block_device_mappings with the device of the image's root, and ebs { encrypted = true }",
) if {
	some r in plan.resources("aws_launch_template")
	count(devices(r)) == 0
}
