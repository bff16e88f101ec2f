# METADATA
# title: Only load balancers are open to the world, and only at 443
# description: Workers and databases are reached from inside; people and clients reach the platform through its load balancer.
# custom: {severity: error}
package taskfleet.policy.ingress_open

import data.taskfleet.plan

# world says that a range has a sixteenth of all addresses, or more: half the world in two rules is the world too.
world(cidr) if {
	is_string(cidr)
	regex.match(`^[0-9.]+/[0-4]$`, cidr)
}

world(cidr) if {
	is_string(cidr)
	contains(cidr, ":")
	regex.match(`/[0-9]$`, cidr)
}

groups := array.concat(plan.resources("aws_security_group"), plan.resources("aws_default_security_group"))

openings := array.concat(by_list, array.concat(
	array.concat(
		[o |
			some r in groups
			some i, rule in plan.as_array(plan.value(r, ["ingress"]))
			some cidr in array.concat(plan.as_array(object.get(rule, "cidr_blocks", null)), plan.as_array(object.get(rule, "ipv6_cidr_blocks", null)))
			world(cidr)
			o := {"resource": r, "groups": [r], "attribute": sprintf("ingress[%d]", [i]), "cidr": cidr, "from": object.get(rule, "from_port", null), "to": object.get(rule, "to_port", null), "protocol": object.get(rule, "protocol", null)}
		],
		[o |
			some r in plan.resources("aws_security_group_rule")
			plan.value(r, ["type"]) == "ingress"
			some attribute in ["cidr_blocks", "ipv6_cidr_blocks"]
			some cidr in plan.as_array(plan.value(r, [attribute]))
			world(cidr)
			o := {
				"resource": r, "groups": [g | some g in groups; plan.linked(r, "security_group_id", g)], "attribute": attribute, "cidr": cidr,
				"from": plan.value(r, ["from_port"]), "to": plan.value(r, ["to_port"]), "protocol": plan.value(r, ["protocol"]),
			}
		],
	),
	[o |
		some r in plan.resources("aws_vpc_security_group_ingress_rule")
		some attribute in ["cidr_ipv4", "cidr_ipv6"]
		cidr := plan.value(r, [attribute])
		world(cidr)
		o := {
			"resource": r, "groups": [g | some g in groups; plan.linked(r, "security_group_id", g)], "attribute": attribute, "cidr": cidr,
			"from": plan.value(r, ["from_port"]), "to": plan.value(r, ["to_port"]), "protocol": plan.value(r, ["ip_protocol"]),
		}
	],
))

# wide are prefix lists with the world in them.
wide := [l |
	some l in plan.resources("aws_ec2_managed_prefix_list")
	some entry in plan.as_array(plan.value(l, ["entry"]))
	world(object.get(entry, "cidr", null))
]

by_list := [o |
	some type, attribute in {"aws_security_group_rule": "prefix_list_ids", "aws_vpc_security_group_ingress_rule": "prefix_list_id"}
	some r in plan.resources(type)
	plan.value(r, ["type"]) != "egress"
	some l in wide
	plan.linked(r, attribute, l)
	o := {
		"resource": r, "groups": [g | some g in groups; plan.linked(r, "security_group_id", g)], "attribute": attribute, "cidr": l.address,
		"from": plan.value(r, ["from_port"]), "to": plan.value(r, ["to_port"]),
		"protocol": plan.value(r, [{"aws_security_group_rule": "protocol", "aws_vpc_security_group_ingress_rule": "ip_protocol"}[type]]),
	}
]

https(o) if {
	o.from == 443
	o.to == 443
	o.protocol in {"tcp", "6", "udp", "17"}
}

balancers := array.concat(plan.resources("aws_lb"), plan.resources("aws_alb"))

of_balancer(o) if {
	some g in o.groups
	some lb in balancers
	plan.linked(lb, "security_groups", g)
}

# undecided says that it is not known yet which groups a load balancer has, or to which group a rule belongs.
undecided(o) if {
	https(o)
	not of_balancer(o)
	some lb in balancers
	plan.loose(lb, "security_groups")
}

undecided(o) if {
	https(o)
	count(o.groups) == 0
	plan.loose(o.resource, "security_group_id")
}

deny contains plan.finding(
	o.resource, o.attribute, sprintf("port %s is open to the world (%s), and this is no load balancer at 443", [ports(o), o.cidr]),
	"name the ranges or the security groups that need it",
) if {
	some o in openings
	not of_balancer(o)
	not undecided(o)
}

deny contains plan.finding(
	o.resource, o.attribute, sprintf("port %s of the load balancer is open to the world (%s)", [ports(o), o.cidr]),
	"open 443 only: whoever comes to the platform comes by TLS",
) if {
	some o in openings
	of_balancer(o)
	not https(o)
}

unknown contains plan.undecided(o.resource, o.attribute) if {
	some o in openings
	undecided(o)
}

ports(o) := "0-65535" if {
	o.protocol in {"-1", "all"}
} else := "(that only the apply tells)" if {
	null in {o.from, o.to}
} else := sprintf("%v", [o.from]) if {
	o.from == o.to
} else := sprintf("%v-%v", [o.from, o.to])

ranges := {
	"aws_security_group": ["ingress"], "aws_default_security_group": ["ingress"],
	"aws_security_group_rule": ["cidr_blocks", "ipv6_cidr_blocks"],
	"aws_vpc_security_group_ingress_rule": ["cidr_ipv4", "cidr_ipv6"],
}

unknown contains plan.undecided(r, attribute) if {
	some type, attributes in ranges
	some r in plan.resources(type)
	some attribute in attributes
	plan.value(r, ["type"]) != "egress"
	plan.open(r, attribute)
}

unknown contains plan.undecided(r, attribute) if {
	some r in plan.resources("aws_security_group_rule")
	plan.value(r, ["type"]) != "egress"
	some attribute in ["cidr_blocks", "ipv6_cidr_blocks"]
	true in object.get(r.change, ["after_unknown", attribute], [])
}

unknown contains plan.undecided(r, sprintf("ingress[%d]", [i])) if {
	some r in groups
	some i, rule in object.get(r.change, ["after_unknown", "ingress"], [])
	some attribute in ["cidr_blocks", "ipv6_cidr_blocks"]
	partly(object.get(rule, attribute, false))
}

partly(x) if x == true

partly(x) if true in x
