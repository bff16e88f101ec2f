# METADATA
# title: Secrets are not written into definitions
# description: >-
#   Environments of containers, user data and passwords of databases can be read by whoever may describe them, and are in
#   the state of Terraform. They belong into Secrets Manager. What is found is never shown.
# custom: {severity: error}
package taskfleet.policy.plaintext_secrets

import data.taskfleet.plan

fix := "put it into Secrets Manager, and name it in secrets { valueFrom = ARN }, or have the program fetch it"

# telling says that a variable has a name of those that secrets have.
telling(name) if regex.match(`(?i)(password|passwd|secret|(^|_)token$|access_?token|api_?key|private_?key|access_?key|credential|encryption_?keys?$)`, name)

# reference says that a value only tells where a secret is, or how one is dealt with.
reference(value) if regex.match(`^(arn:|/|https?://[^@]*$|file:|[0-9]+$|(true|false)$)`, value)

# Forms of secrets: of AWS, GitHub, Slack and Google, private keys, and passwords in URLs.
secret(text) if regex.match(`(AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[0-9A-Za-z]{36}|github_pat_[0-9A-Za-z_]{22,}|xox[abprs]-[0-9A-Za-z-]{10,}|AIza[0-9A-Za-z_-]{35}|-----BEGIN [A-Z ]*PRIVATE KEY-----`, text)

secret(text) if regex.match(`[a-z][a-z0-9+]*://[^/:@\s"$]+:[^/@\s"$]+@`, text)

looks(name, value) if {
	telling(name)
	value != ""
	not reference(value)
}

looks(_, value) if secret(value)

containers(r) := json.unmarshal(text) if {
	text := plan.value(r, ["container_definitions"])
	is_string(text)
	json.is_valid(text)
}

deny contains plan.finding(
	r, sprintf("container_definitions, environment %s of container %v", [variable.name, object.get(container, "name", "?")]),
	"a secret is in the environment of a container in plain text", fix,
) if {
	some r in plan.resources("aws_ecs_task_definition")
	some container in plan.as_array(containers(r))
	some variable in plan.as_array(object.get(container, "environment", null))
	is_string(variable.value)
	looks(variable.name, variable.value)
}

deny contains plan.finding(
	r, sprintf("container_definitions, command of container %v", [object.get(container, "name", "?")]),
	"a secret is in the command of a container in plain text", fix,
) if {
	some r in plan.resources("aws_ecs_task_definition")
	some container in plan.as_array(containers(r))
	some key in ["command", "entryPoint"]
	some word in plan.as_array(object.get(container, key, null))
	is_string(word)
	secret(word)
}

unknown contains plan.undecided(r, "container_definitions") if {
	some r in plan.resources("aws_ecs_task_definition")
	plan.open(r, "container_definitions")
}

deny contains plan.finding(r, sprintf("environment %s", [name]), "a secret is in the environment of a function in plain text", fix) if {
	some r in plan.resources("aws_lambda_function")
	some name, value in plan.value(r, ["environment", 0, "variables"])
	is_string(value)
	looks(name, value)
}

user_data := [[r, attribute, text] |
	some type in ["aws_instance", "aws_launch_template", "aws_launch_configuration"]
	some r in plan.resources(type)
	some attribute in ["user_data", "user_data_base64"]
	raw := plan.value(r, [attribute])
	is_string(raw)
	text := decoded(raw)
]

decoded(raw) := base64.decode(raw) if base64.is_valid(raw)

decoded(raw) := raw if not base64.is_valid(raw)

deny contains plan.finding(r, attribute, "there is a secret in the user data", fix) if {
	some [r, attribute, text] in user_data
	secret(text)
}

deny contains plan.finding(r, attribute, sprintf("%s is set in the user data", [upper(assignments[0])]), fix) if {
	some [r, attribute, text] in user_data
	not secret(text)
	assignments := [found[1] |
		some found in regex.find_all_string_submatch_n(`(?m)^\s*(?:export\s+)?["']?([A-Za-z_]+)["']?\s*[=:]\s*["']?([^\s"'$\x60(][^\s"']*)`, text, -1)
		looks(found[1], found[2])
	]
	count(assignments) > 0
}

deny contains plan.finding(
	r, "password", "the password of the database is in the plan and in the state",
	"set manage_master_user_password = true, which keeps it in Secrets Manager",
) if {
	some type in ["aws_db_instance", "aws_rds_cluster"]
	some r in plan.resources(type)
	attribute := {"aws_db_instance": "password", "aws_rds_cluster": "master_password"}[type]
	plan.set(r, attribute)
}

deny contains plan.finding(
	r, "pgp_key", "the secret of the access key is in the state",
	"use a role, which needs none; where nothing else will do, set pgp_key",
) if {
	some r in plan.resources("aws_iam_access_key")
	not plan.set(r, "pgp_key")
}

deny contains plan.finding(r, "type", "a secret is in a parameter that is not encrypted", "set type = \"SecureString\", or put it into Secrets Manager") if {
	some r in plan.resources("aws_ssm_parameter")
	plan.value(r, ["type"]) in {"String", "StringList"}
	some attribute in ["value", "insecure_value"]
	value := plan.value(r, [attribute])
	is_string(value)
	looks(plan.value(r, ["name"]), value)
}
