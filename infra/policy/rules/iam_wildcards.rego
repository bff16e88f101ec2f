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
	everything(action)
}

everything(action) if regex.match(`^[*?]*\*[*?]*(:[*?]+)?$`, action)

deny contains plan.finding(s.resource, s.attribute, sprintf("%s allows all of a service", [action]), "name the actions that are needed") if {
	some s in identity
	some action in s.actions
	whole(action)
}

# whole says that an action is all, or nearly all, of a service: there is no other one of a letter or two.
whole(action) if regex.match(`^[A-Za-z0-9-]+:[*?]*\*[*?]*$`, action)

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
	some resource in s.resources
	every_resource(resource)
	not narrowed(s)
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
	not narrowed(s)
	some a in s.actions
	changes(a)
}

# every_resource says that a resource is all there are, all of a service, or all roles, secrets or keys.
every_resource(resource) if regex.match(`^(arn:([^:]*:){0,4})?[*?/:]*\*[*?/:]*$`, resource)

every_resource(resource) if regex.match(`^arn:[^:]*:(iam|secretsmanager|kms|sts):[^:]*:[^:]*:[a-z-]+[/:][*?]*\*[*?]*$`, resource)

# narrowed says that a condition makes a difference between resources, requests or callers. All conditions must hold, so one will do.
narrowed(s) if {
	some c in s.conditions
	not lower(c.variable) in indifferent
	every v in c.values { not regex.match(`^[*?]*\*[*?]*$`, v) }
}

# Condition keys that say something of the connection or the time alone.
indifferent := {
	"aws:securetransport", "aws:currenttime", "aws:epochtime", "aws:tokenissuetime", "aws:useragent", "aws:referer",
	"aws:multifactorauthpresent", "aws:multifactorauthage",
}

# changes says that an action does more than look, or lets one look at what is secret, and could be allowed for some
# resources alone. All of a service has a finding of its own.
changes(action) if {
	not regex.match(`(?i)^[A-Za-z0-9-]+:(Describe|Get|List|View|Read|Lookup|Search|BatchGet|Head|Check|Simulate|Verify|Decode)`, action)
	not everything(action)
	not whole(action)
	not action in resourceless
}

changes(action) if {
	not everything(action)
	not whole(action)
	some s in revealing
	glob.match(lower(action), null, s)
}

# Actions that are named like looking, and hand out contents or credentials. In lower case: to IAM case makes no difference.
revealing := {
	"secretsmanager:getsecretvalue", "secretsmanager:batchgetsecretvalue", "ssm:getparameter", "ssm:getparameters", "ssm:getparametersbypath",
	"ssm:getparameterhistory", "s3:getobject", "s3:getobjectversion", "dynamodb:getitem", "dynamodb:batchgetitem", "dynamodb:getrecords",
	"kinesis:getrecords", "ec2:getpassworddata", "sts:getfederationtoken", "redshift:getclustercredentials", "lambda:getfunction",
	"cognito-identity:getcredentialsforidentity", "codeartifact:getauthorizationtoken",
}

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
