# METADATA
# title: Whom to ask
# description: |
#   A library: who approves is a label of the resource, so that one rule serves them all. In the gateway's configuration:
#
#     labels: {approvers: "payments-oncall, payments-leads, subject:u-7"}
package countersign.people

import future.keywords.not

# The groups, and the people (subject:ID), that the resource's label names, or "approvers" where there is no such label.
default approvers := ["approvers"]

approvers := named if {
	count(named) > 0
}

named := [name |
	some part in {trim_space(part) | some part in split(input.resource.labels.approvers, ",")}
	name := part
	name != ""
]

# Whether the principal has one of the groups or roles.
is_in(names) if {
	some name in names
	name in input.principal.groups
}

is_in(names) if {
	some name in names
	name in input.principal.roles
}
