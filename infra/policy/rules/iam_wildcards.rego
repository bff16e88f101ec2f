# METADATA
# title: Policies name what they allow
# description: >-
#   A policy that allows all actions, all of a service, or actions that change something on every resource gives whoever gets hold
#   of it the account. A permissions boundary, a policy whose name ends with -boundary, gives nothing by itself, and may be for every
#   resource. Policies of keys, queues and buckets, whose Resource * is the resource itself, are judged by iam_principals.
# custom: {severity: error}
package taskfleet.policy.iam_wildcards

import data.taskfleet.iam
import data.taskfleet.plan

identity := [s | some s in iam.allowed; s.kind == "identity"]

deny contains plan.finding(s.resource, s.attribute, "all actions are allowed", "name the actions that are needed") if {
	some s in identity
	some action in s.actions
	action in {"*", "*:*"}
}

deny contains plan.finding(s.resource, s.attribute, sprintf("%s allows all of a service", [action]), "name the actions that are needed") if {
	some s in identity
	some action in s.actions
	regex.match(`^[A-Za-z0-9-]+:\*+$`, action)
}

deny contains plan.finding(
	s.resource, s.attribute, "all actions but some are allowed (NotAction)",
	"name with Action the actions that are needed; NotAction is for statements that deny",
) if {
	some s in identity
	count(s.not_actions) > 0
}

deny contains plan.finding(
	s.resource, s.attribute, sprintf("%s is allowed on every resource", [changing[0]]),
	"name the resources, or add a Condition, such as one on aws:ResourceTag/Deployment",
) if {
	some s in identity
	"*" in s.resources
	count(s.conditions) == 0
	not iam.boundary(s.resource)
	changing := [a | some a in s.actions; changes(a)]
	count(changing) > 0
}

deny contains plan.finding(
	s.resource, s.attribute, "all resources but some are allowed (NotResource)",
	"name with Resource the resources that are meant",
) if {
	some s in identity
	count(s.not_resources) > 0
	count(s.conditions) == 0
	some a in s.actions
	changes(a)
}

# changes says that an action does more than look, or lets one look at what is secret, and could be allowed for some
# resources alone. All of a service has a finding of its own.
changes(action) if {
	not regex.match(`(?i)^[A-Za-z0-9-]+:(Describe|Get|List|View|Read|Lookup|Search|BatchGet|Head|Check|Simulate|Verify|Decode)`, action)
	not regex.match(`^(\*|[A-Za-z0-9-]+:\*+)$`, action)
	not action in resourceless
}

changes(action) if regex.match(`(?i)^(secretsmanager:(Get|BatchGet)SecretValue|ssm:GetParameter|s3:GetObject|secretsmanager:Get\*|ssm:Get\*|s3:Get\*)`, action)

# Actions for which AWS knows no resources (Service Authorization Reference).
resourceless := {
	"cloudwatch:PutMetricData", "kms:GenerateRandom", "logs:PutQueryDefinition",
	"ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
	"xray:PutTelemetryRecords", "xray:PutTraceSegments",
}

deny contains plan.finding(place.resource, place.attribute, "the policy is not JSON", "write it with jsonencode or aws_iam_policy_document") if {
	some place in iam.malformed
	place.kind == "identity"
}

unknown contains plan.undecided(p.resource, p.attribute) if {
	some p in iam.unjudged
	p.kind == "identity"
}
