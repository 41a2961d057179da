# METADATA
# title: What holds for every resource
# description: |
#   data.rules.global is evaluated for every operation, beside the resource's own package. It should deny, ask and redact,
#   and allow nothing: an allow here opens every resource. Other files may add to the package.
package rules.global

import future.keywords.not

import data.countersign.http

deny contains {
	"id": "global.method-override",
	"reason": "the request names a second method; send the one that is meant",
} if {
	some _ in http.overrides
}

deny contains {
	"id": "global.method",
	"reason": "the method is not one that policies here know",
} if {
	input.http.method
	not http.known_method
}

# A kind of principal that did not exist when these rules were written has to be thought about first.
deny contains {
	"id": "global.principal-kind",
	"reason": "no rule here speaks of this kind of principal",
} if {
	not input.principal.kind in {"agent", "workload", "person"}
}
