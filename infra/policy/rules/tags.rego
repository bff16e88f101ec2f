# METADATA
# title: Resources say whose they are
# description: >-
#   What a bill names, what an audit finds and what is left over after a deployment is told apart by the tags Deployment and
#   ManagedBy. The provider gives them to everything by default_tags.
# custom: {severity: error}
package taskfleet.policy.tags

import data.taskfleet.plan

required := {"Deployment", "ManagedBy"}

deny contains plan.finding(
	r, "tags", sprintf("it lacks tags: %s", [concat(", ", sort(missing))]),
	"give the provider default_tags { tags = { Deployment = ..., ManagedBy = \"terraform\" } }",
) if {
	some r in plan.managed
	all := plan.value(r, ["tags_all"])
	is_object(all)
	missing := {tag |
		some tag in required
		object.get(all, tag, "") in {null, ""}
		not plan.unknown(r, ["tags_all", tag])
	}
	count(missing) > 0
}

# Where the tags are not known, those that the resource itself names may do.
unknown contains plan.undecided(r, "tags_all") if {
	some r in plan.managed
	plan.unknown(r, ["tags_all"])
	some tag in required
	object.get(r.change.after, ["tags", tag], "") in {null, ""}
}
