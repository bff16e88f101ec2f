# METADATA
# title: Load balancers speak TLS 1.2 or later, and nothing else
# description: >-
#   Hawk signs calls and does not hide them: what is called, and answered, is only as secret as the connection. A listener for plain
#   HTTP may redirect.
# custom: {severity: error}
package taskfleet.policy.load_balancer_tls

import data.taskfleet.plan

listeners := array.concat(plan.resources("aws_lb_listener"), plan.resources("aws_alb_listener"))

protocol(r) := plan.value(r, ["protocol"])

strong(policy) if {
	regex.match(`^ELBSecurityPolicy-(TLS13-1-[23]-|FS-1-2-Res-)`, policy)
	not contains(policy, "Ext")
}

deny contains plan.finding(
	r, "ssl_policy", sprintf("the TLS policy is %v, which allows old versions or ciphers", [object.get({null: "the default"}, policy, policy)]),
	`set ssl_policy = "ELBSecurityPolicy-TLS13-1-2-Res-2021-06", or a later one`,
) if {
	some r in listeners
	protocol(r) in {"HTTPS", "TLS"}
	policy := plan.value(r, ["ssl_policy"])
	not strong(policy)
	not plan.open(r, "ssl_policy")
}

unknown contains plan.undecided(r, "ssl_policy") if {
	some r in listeners
	plan.open(r, "ssl_policy")
}

redirects(r) if {
	some action in plan.as_array(plan.value(r, ["default_action"]))
	action.type == "redirect"
	object.get(action, ["redirect", 0, "protocol"], "") == "HTTPS"
}

deny contains plan.finding(
	r, "protocol", "the listener answers to plain HTTP",
	"set protocol = \"HTTPS\" with a certificate_arn, or redirect to HTTPS",
) if {
	some r in listeners
	protocol(r) == "HTTP"
	not redirects(r)
}

deny contains plan.finding(
	rule, "action", "the rule answers to plain HTTP, on a listener that only redirects otherwise",
	"give the rule to the listener for HTTPS, or redirect to HTTPS",
) if {
	some r in listeners
	protocol(r) == "HTTP"
	some rule in array.concat(plan.resources("aws_lb_listener_rule"), plan.resources("aws_alb_listener_rule"))
	plan.linked(rule, "listener_arn", r)
	some action in plan.as_array(plan.value(rule, ["action"]))
	action.type == "forward"
}
