# What rules ask of a plan. input is the JSON of the plan, as terraform show -json prints it, with one key more,
# input.taskfleet, which policy.Judge adds: production (whether the rules for production apply) and configuration (what
# the files say of each resource, by its address without indices).
package taskfleet.plan

# managed are the resources that are there after an apply, whether they change or not.
managed := [r |
	some r in input.resource_changes
	r.mode == "managed"
	is_object(r.change.after)
]

resources(type) := [r | some r in managed; r.type == type]

production if input.taskfleet.production

# value is what an attribute has after the apply, or null: it is not set, or not known yet.
value(r, path) := object.get(r.change.after, path, null)

# unknown says that a value, or what it is in, is not known before the apply. Computed attributes that nobody has set are
# unknown too: what matters there is whether they are configured.
unknown(r, path) if {
	some n in numbers.range(1, count(path))
	object.get(r.change, array.concat(["after_unknown"], array.slice(path, 0, n)), false) == true
}

# configured says that the files set an attribute of a resource.
configured(r, attribute) if object.get(configuration(r), ["expressions", attribute], null) != null

# set says that an attribute has a value, or will have the one that the files give it.
set(r, attribute) if not value(r, [attribute]) in {null, ""}

set(r, attribute) if {
	unknown(r, [attribute])
	configured(r, attribute)
}

# open says that only the apply tells the value that the files give an attribute.
open(r, attribute) if {
	unknown(r, [attribute])
	configured(r, attribute)
}

configuration(r) := object.get(input, ["taskfleet", "configuration", static(r.address)], {})

static(address) := regex.replace(address, `\[("([^"\\]|\\.)*"|[0-9]+)\]`, "")

# references are what the expression of an attribute names. What it has by each is what for_each names.
references(r, attribute) := array.concat(named, each) if {
	named := object.get(configuration(r), ["expressions", attribute, "references"], [])
	each := [reference |
		some n in named
		startswith(n, "each.")
		some reference in object.get(configuration(r), ["for_each_expression", "references"], [])
	]
}

# linked says that an attribute of r names the resource target: by its value, or by a reference to it in the same module.
linked(r, attribute, target) if {
	some name in as_array(value(r, [attribute]))
	is_string(name)
	name in {value(target, [k]) | some k in ["id", "arn", "bucket", "name", "identifier"]}
}

linked(r, attribute, target) if {
	object.get(r, "module_address", "") == object.get(target, "module_address", "")
	sprintf("%s.%s", [target.type, target.name]) in references(r, attribute)
	same_index(r, target)
}

same_index(r, target) if r.index == target.index

same_index(_, target) if not target.index

same_index(r, target) if not r.index

# loose says that an attribute names something in another module that is not known yet.
loose(r, attribute) if {
	open(r, attribute)
	every reference in references(r, attribute) { regex.match(`^(var|local|module|each|count)\.`, reference) }
}

as_array(x) := x if is_array(x)

as_array(x) := [] if is_null(x)

as_array(x) := [x] if {
	not is_array(x)
	not is_null(x)
}

# truth reads booleans, which some attributes have as text.
truth(x) if x in {true, "true"}

finding(r, attribute, message, fix) := {"address": r.address, "attribute": attribute, "message": message, "fix": fix}

undecided(r, attribute) := {"address": r.address, "attribute": attribute}
