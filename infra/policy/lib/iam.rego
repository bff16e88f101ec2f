# The statements of all policies of a plan in one form, wherever they are written down.
package taskfleet.iam

import data.taskfleet.plan

# attributes that hold policies, with what kind each is: what an identity may do, who may take a role, or what others may do
# with the resource.
attributes := {
	"aws_iam_policy": {"policy": "identity"},
	"aws_iam_role_policy": {"policy": "identity"},
	"aws_iam_user_policy": {"policy": "identity"},
	"aws_iam_group_policy": {"policy": "identity"},
	"aws_iam_role": {"assume_role_policy": "trust"},
	"aws_sqs_queue": {"policy": "resource"},
	"aws_sqs_queue_policy": {"policy": "resource"},
	"aws_sns_topic": {"policy": "resource"},
	"aws_sns_topic_policy": {"policy": "resource"},
	"aws_s3_bucket": {"policy": "resource"},
	"aws_s3_bucket_policy": {"policy": "resource"},
	"aws_s3control_bucket_policy": {"policy": "resource"},
	"aws_dynamodb_resource_policy": {"policy": "resource"},
	"aws_efs_file_system_policy": {"policy": "resource"},
	"aws_cloudwatch_event_bus_policy": {"policy": "resource"},
	"aws_backup_vault_policy": {"policy": "resource"},
	"aws_ecr_registry_policy": {"policy": "resource"},
	"aws_kms_replica_key": {"policy": "resource"},
	"aws_kms_external_key": {"policy": "resource"},
	"aws_kms_key": {"policy": "resource"},
	"aws_kms_key_policy": {"policy": "resource"},
	"aws_secretsmanager_secret": {"policy": "resource"},
	"aws_secretsmanager_secret_policy": {"policy": "resource"},
	"aws_ecr_repository_policy": {"policy": "resource"},
	"aws_cloudwatch_log_resource_policy": {"policy_document": "resource"},
}

places := array.concat(
	[{"resource": r, "attribute": attribute, "kind": kind, "text": text} |
		some r in plan.managed
		some attribute, kind in attributes[r.type]
		text := plan.value(r, [attribute])
		is_string(text)
		text != ""
	],
	[{"resource": r, "attribute": sprintf("inline_policy[%d].policy", [i]), "kind": "identity", "text": inline.policy} |
		some r in plan.resources("aws_iam_role")
		some i, inline in plan.as_array(plan.value(r, ["inline_policy"]))
		is_string(inline.policy)
		inline.policy != ""
	],
)

written := [s |
	some place in places
	json.is_valid(place.text)
	document := json.unmarshal(place.text)
	is_object(document)
	some i, raw in plan.as_array(object.get(document, "Statement", null))
	s := {
		"resource": place.resource,
		"attribute": sprintf("%s, statement %v", [place.attribute, object.get(raw, "Sid", i + 1)]),
		"place": place.attribute,
		"kind": place.kind,
		"effect": object.get(raw, "Effect", "Allow"),
		"actions": strings_of(object.get(raw, "Action", null)),
		"not_actions": strings_of(object.get(raw, "NotAction", null)),
		"resources": strings_of(object.get(raw, "Resource", null)),
		"not_resources": strings_of(object.get(raw, "NotResource", null)),
		"principals": principals(object.get(raw, "Principal", null)),
		"not_principals": object.get(raw, "NotPrincipal", null) != null,
		"conditions": [{"test": test, "variable": variable, "values": strings_of(values)} |
			some test, pairs in object.get(raw, "Condition", {})
			some variable, values in pairs
		],
	}
]

# deferred are statements of policy documents that are read only during the apply, since something in them is not known. What
# is known of them is judged.
deferred := [s |
	some r in input.resource_changes
	r.mode == "data"
	r.type == "aws_iam_policy_document"
	is_object(r.change.after)
	some i, raw in plan.as_array(object.get(r.change.after, "statement", null))
	given := plan.as_array(object.get(raw, "principals", null))
	principals_known := [p |
		some block in given
		some id in strings_of(object.get(block, "identifiers", null))
		p := {"type": object.get(block, "type", ""), "id": id}
	]
	sid := object.get(raw, "sid", null)
	label := {true: sid, false: i + 1}[is_string(sid)]
	s := {
		"resource": r,
		"attribute": sprintf("statement %v", [label]),
		"place": "statement",
		"kind": {true: "resource", false: "identity"}[count(given) > 0],
		"effect": {true: "Deny", false: "Allow"}[object.get(raw, "effect", null) == "Deny"],
		"actions": strings_of(object.get(raw, "actions", null)),
		"not_actions": strings_of(object.get(raw, "not_actions", null)),
		"resources": strings_of(object.get(raw, "resources", null)),
		"not_resources": strings_of(object.get(raw, "not_resources", null)),
		"principals": principals_known,
		"not_principals": count(plan.as_array(object.get(raw, "not_principals", null))) > 0,
		"conditions": [{"test": c.test, "variable": c.variable, "values": strings_of(object.get(c, "values", null))} |
			some c in plan.as_array(object.get(raw, "condition", null))
		],
	}
]

statements := array.concat(written, deferred)

allowed := [s | some s in statements; s.effect == "Allow"]

strings_of(x) := [s | some s in plan.as_array(x); is_string(s)]

principals(p) := [{"type": "*", "id": p}] if is_string(p)

principals(p) := [{"type": type, "id": id} | some type, ids in p; some id in strings_of(ids)] if is_object(p)

principals(p) := [] if is_null(p)

# documents that a policy is made of are judged by themselves.
by_document(r, attribute) if {
	some reference in plan.references(r, attribute)
	startswith(reference, "data.aws_iam_policy_document.")
}

# unjudged are policies of which nothing is known before the apply.
unjudged := [{"resource": r, "attribute": attribute, "kind": kind} |
	some r in plan.managed
	some attribute, kind in attributes[r.type]
	plan.open(r, attribute)
	not by_document(r, attribute)
]

malformed := [place |
	some place in places
	not json.is_valid(place.text)
]

# boundary says that a policy is a permissions boundary, which limits and gives nothing; iam_admin sees that it is not attached.
boundary(r) if {
	r.type == "aws_iam_policy"
	endswith(plan.value(r, ["name"]), "-boundary")
}
